"""The seeded bugs of mutations.py: each still has its line in the package."""

import mutations
import pytest


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.bug)
def test_the_line_that_a_bug_changes_is_there_once(mutation):
    text = (mutations.ROOT / "relu_dynamics" / mutation.file).read_text()
    assert text.count(mutation.old) == 1 and mutation.new != mutation.old
    file, _, name = mutation.tests.partition("::")
    assert f"def {name}" in (mutations.ROOT / "tests" / file).read_text()
