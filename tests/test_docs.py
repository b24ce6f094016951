"""The documentation does what it says: its Python runs, its commands and links exist.

In a page, `<!-- not run: REASON -->` before a block leaves it out (what needs other machines, say),
and `<!-- on a patched copy -->` runs it on a copy of the package, changed as the diff blocks say
that stand between it and the last such block.
"""

import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(```+)(\w*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
PATCHED = "<!-- on a patched copy -->"

DRIVER = """
import pathlib

if __name__ == "__main__":  # processes that a block starts import this file too
    names = {"__name__": "__main__"}
    for path in sorted(pathlib.Path("blocks").glob("*.py")):
        exec(compile(path.read_text(), str(path), "exec"), names)
"""


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    code: str
    mark: str  # the line before it, where that is a comment
    line: int  # of the page


def blocks_of(page: pathlib.Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip("\n").rsplit("\n", 1)[-1]
        mark = before if before.startswith("<!-- ") else ""
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(match[2], match[3], mark, line))
    return found


def python_blocks(page: pathlib.Path, patched: bool = False) -> list[Block]:
    """The blocks that run as they stand, or those that run on a patched copy."""
    return [
        block
        for block in blocks_of(page)
        if block.language == "python"
        and not NOT_RUN.fullmatch(block.mark)
        and (block.mark == PATCHED) == patched
    ]


def run_blocks(blocks: list[Block], folder: pathlib.Path, package: pathlib.Path = ROOT) -> str:
    """What the blocks print, run in order by one process in a folder of their own."""
    (folder / "blocks").mkdir(parents=True)
    for block in blocks:
        (folder / "blocks" / f"line_{block.line:05d}.py").write_text(block.code)
    (folder / "driver.py").write_text(DRIVER)
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "driver.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | settings,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pages_with(language: str, patched: bool = False) -> list:
    chosen = [page for page in PAGES if page.name != "README.md"]
    if language == "python":
        chosen = [page for page in chosen if python_blocks(page, patched)]
    else:
        chosen = [p for p in PAGES if any(b.language == language for b in blocks_of(p))]
    return [pytest.param(page, id=page.name) for page in chosen]


@pytest.mark.slow
def test_the_readme_examples_run(tmp_path):
    output = run_blocks(python_blocks(ROOT / "README.md"), tmp_path)
    assert "(100, 64)" in output and "estimate" in output
    assert "upstream_frozen" in output and "none" in output
    assert re.search(r"of 352 units dead; worst layer: .*\nby definition: .*\ncause: ", output)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python"))
def test_the_examples_of_a_page_run(page, tmp_path):
    output = run_blocks(python_blocks(page), tmp_path)
    counted = re.findall(r": (\d+) of \d+ units", output)  # examples show an effect, most of them
    assert 3 * counted.count("0") <= len(counted), output


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python", patched=True))
def test_the_changes_of_a_page_apply_and_run(page, tmp_path):
    diffs = []
    for number, block in enumerate(blocks_of(page)):
        if block.language == "diff":
            diffs.append(block.code)
        if block.mark == PATCHED and block.language == "python":
            copy = tmp_path / str(number)
            shutil.copytree(ROOT / "relu_dynamics", copy / "relu_dynamics")
            patch(copy, diffs)
            run_blocks([block], tmp_path / f"run-{number}", package=copy)
            diffs = []
    assert not diffs  # every change is shown to work


@pytest.mark.parametrize("page", pages_with("python", patched=True))
def test_the_changes_of_a_page_fit(page, tmp_path):
    for number, block in enumerate(blocks_of(page)):
        if block.language == "diff":
            shutil.copytree(ROOT / "relu_dynamics", tmp_path / str(number) / "relu_dynamics")
            patch(tmp_path / str(number), [block.code])


def patch(folder: pathlib.Path, diffs: list[str]):
    """Applies diffs whose line numbers may be off; every hunk must find its one place."""
    for diff in diffs:
        for part in re.split(r"^--- a/.*\n", diff, flags=re.MULTILINE)[1:]:
            header, *hunks = re.split(r"^@@.*\n", part, flags=re.MULTILINE)
            path = folder / header.removeprefix("+++ b/").strip()
            for hunk in hunks:
                lines = hunk.rstrip("\n").split("\n")
                old = "\n".join(line[1:] for line in lines if line[:1] != "+")
                new = "\n".join(line[1:] for line in lines if line[:1] != "-")
                text = path.read_text()
                assert text.count(old + "\n") == 1, f"{path.name} does not hold this once:\n{old}"
                path.write_text(text.replace(old + "\n", new + "\n"))


@pytest.mark.parametrize("page", pages_with("bash"))
def test_shell_blocks_parse(page):
    for block in blocks_of(page):
        if block.language == "bash":
            done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}:{block.line}: {done.stderr}"


@pytest.mark.parametrize("page", pages_with("bash"))
def test_shell_blocks_run_in_ci_or_say_why_not(page):
    ci = (ROOT / ".ci" / "run").read_text()
    for block in blocks_of(page):
        if block.language == "bash" and not NOT_RUN.fullmatch(block.mark):
            name = re.fullmatch(r"<!-- command: (\w+) -->", block.mark)
            assert name and f"$(command_of {name[1]})" in ci, (
                f"{page.name}:{block.line}: let .ci/run run it, or say why not"
            )


def commands_of(code: str) -> list[list[str]]:
    """The words of every command of a shell block, without those that cannot matter here."""
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                commands.append(command)
                command = []
            else:
                command.append(word)
    return [command for command in commands if command]


def entry_of(command: list[str]) -> tuple[list[str], list[str]] | None:
    """(how Python is to start it, its arguments) of a command that runs a script or module of this
    repository, else None."""
    words = command[1:] if command[0] == "srun" else command
    if not re.fullmatch(r"python3?", pathlib.PurePath(words[0]).name) or len(words) < 2:
        return None
    if words[1] == "-m":
        ours = words[2].split(".")[0] in ("relu_dynamics", "experiments", "tests")
        return (words[1:3], words[3:]) if ours else None
    return (words[1:2], words[2:]) if words[1].endswith(".py") else None


@functools.cache
def help_of(*start: str) -> str:
    whole = start[:2] == ("-m", "experiments") and len(start) > 2  # its config's fields too
    done = subprocess.run(
        [sys.executable, *start, "--help-all" if whole else "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": python_path()},
    )
    assert done.returncode == 0, f"{' '.join(start)} --help: {done.stderr}"
    return done.stdout


def python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("bash"))
def test_commands_name_scripts_and_options_that_exist(page):
    checked = 0
    for block in blocks_of(page):
        for command in commands_of(block.code) if block.language == "bash" else ():
            entry = entry_of(command)
            if entry is None:
                continue
            start, arguments = entry
            if start[0] != "-m":
                assert (ROOT / start[0]).is_file(), f"{page.name}:{block.line}: {start[0]}"
            options = [word.split("=")[0] for word in arguments if word.startswith("--")]
            first = next((w for w in arguments[:1] if re.fullmatch("[a-z_]+", w)), None)
            known = help_of(*start, *([first] if first else []))
            for option in options:
                wanted = option.replace("_", "-")
                assert re.search(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])", known), (
                    f"{page.name}:{block.line}: {start[-1]} has no {option}"
                )
            checked += 1
    assert checked or "python -m experiments" not in page.read_text()


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_to_files(page):
    text = FENCE.sub("", page.read_text())
    text = re.sub(r"<!-- on the site: .* -->", "", text)  # mkdocs checks these
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


VERDICT = re.compile(r"\b(confirmed|refuted|conditional|undecided)\b")
CLAIM_LINK = re.compile(r"\[([^\]]+)\]\((?:docs/)?claims\.md#([^)]+)\)")
CLAIM_ROW = re.compile(r"^\| \[.*\]\(#([^)]+)\) \| (\w+)", re.MULTILINE)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_a_claim_has_one_verdict_on_every_page(page):
    """A verdict on a page is a link to its claim, which says the same. Rows of reproductions.md ask
    whether a published number is ours, and are no claims."""
    verdicts = dict(CLAIM_ROW.findall((ROOT / "docs" / "claims.md").read_text()))
    assert len(verdicts) > 100
    if page.name == "claims.md":
        return
    text = page.read_text()
    for words, place in CLAIM_LINK.findall(text):
        assert place in verdicts, (page.name, place)
        said = VERDICT.search(words)
        assert not said or said[1] == verdicts[place], (page.name, words, place, verdicts[place])
    unlinked = CLAIM_LINK.sub("", text)
    assert not re.findall(rf"\*\*{VERDICT.pattern}\*\*", unlinked), page.name
    if page.name != "reproductions.md":
        assert not re.findall(rf"^\|.*\| {VERDICT.pattern}", unlinked, re.MULTILINE), page.name


def test_claims_are_words():
    """Names of options and functions stand in code, not in sentences or verdicts."""
    page = (ROOT / "docs" / "claims.md").read_text()
    rows = re.findall(r"^(?:\| \[.*|\*\*.*|Condition: .*)$", page, re.MULTILINE)
    assert len(rows) > 200
    for row in rows:
        text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", row)
        assert not re.search(r"[a-z]_[a-z]|\bnan\b|-\d\S* fewer", text), row


def test_blocks_are_found_with_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        textwrap.dedent("""\
        <!-- not run: needs a cluster -->
        ```python
        raise SystemExit
        ```

        ```python
        one = 1
        ```
        text
        ```python
        print(one + 1)
        ```
        """)
    )
    assert [block.line for block in blocks_of(page)] == [2, 6, 10]
    assert run_blocks(python_blocks(page), tmp_path / "run") == "2\n"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_blocks([Block("python", "1 / 0", "", 1)], tmp_path / "bad")


def test_commands_are_found_in_shell_blocks():
    code = "A=1 && .venv/bin/python -m tests.verify kills --trials 4  # how\n"
    code += "srun python x.py --out \\\n  d"
    entries = [entry_of(command) for command in commands_of(code)]
    assert entries == [
        None,
        (["-m", "tests.verify"], ["kills", "--trials", "4"]),
        (["x.py"], ["--out", "d"]),
    ]


def test_a_change_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("one\ntwo\nthree\n")
    diff = "--- a/a.py\n+++ b/a.py\n@@ -9,1 +9,2 @@\n two\n+more\n"
    patch(tmp_path, [diff])
    assert (tmp_path / "a.py").read_text() == "one\ntwo\nmore\nthree\n"
    with pytest.raises(AssertionError, match="does not hold this once"):
        patch(tmp_path, [diff.replace(" two", " four")])
