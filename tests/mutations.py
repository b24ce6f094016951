"""Seeded bugs that the suite must catch: `python tests/mutations.py` prints passed / total as JSON.

Each is one line of the package changed in a copy of the repository, in a way that still runs and
gives wrong science; it is caught when the tests named with it, which pass without it, fail. About
ten minutes on two cores. Not collected by pytest.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent


class Mutation(NamedTuple):
    """A bug: what it does, where, and which tests should see it."""

    bug: str
    file: str  # of the package
    old: str  # occurs exactly once
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "a unit at exactly 0 counts as alive",
        "engine/outcomes.py",
        "    dead = margin <= 0\n",
        "    dead = margin < 0\n",
        "test_outcomes.py",
    ),
    Mutation(
        "dust counts as a recovery",
        "engine/outcomes.py",
        "    revived = (margin > tolerance) & (bounds.lower > 0)\n",
        "    revived = margin > 0\n",
        "test_outcomes.py",
    ),
    Mutation(
        "a margin of exactly 0 is ambiguous",
        "engine/probes.py",
        "        upper=jnp.minimum(bounds.upper, halve(jnp.maximum, z + error)),\n",
        "        upper=bounds.upper,\n",
        "test_exact_signs.py",
    ),
    Mutation(
        "a certificate ignores the rounding that an evaluation allows for",
        "certificates/case.py",
        "    lower, upper = z - 2 * error, z + 2 * error\n",
        "    lower, upper = z + 0 * error, z + 0 * error\n",
        "test_exact_signs.py",
    ),
    Mutation(
        "a diverged run keeps its units' other outcomes",
        "engine/outcomes.py",
        "((h.diverged_at != NEVER)[..., None], Outcome.DIVERGED)",
        "((h.diverged_at == -2)[..., None], Outcome.DIVERGED)",
        "test_outcomes.py",
    ),
    Mutation(
        "ReLU has the derivative 1/2 at 0",
        "engine/activations.py",
        '    "relu": Activation(jax.nn.relu, ',
        '    "relu": Activation(lambda z: jnp.maximum(z, 0), ',
        "test_training.py",
    ),
    Mutation(
        "decoupled decay does not scale with the learning rate",
        "engine/optimizers.py",
        "lambda u, p, m: u - rate * decay * p if m else u",
        "lambda u, p, m: u - decay * p if m else u",
        "test_training.py",
    ),
    Mutation(
        "every step draws the same batch",
        "engine/step.py",
        'jax.random.fold_in(purpose_key(key, "batch"), step)',
        'jax.random.fold_in(purpose_key(key, "batch"), 0)',
        "test_training.py",
    ),
    Mutation(
        "deviations of z are those of a sample, 1/(n-1)",
        "engine/probes.py",
        "each=lambda z: (z - mean[None, :]) ** 2) / size)",
        "each=lambda z: (z - mean[None, :]) ** 2) / (size - 1))",
        "test_probes.py",
    ),
    Mutation(
        "exact intervals are one-sided",
        "statistics/intervals.py",
        "    tail = (1 - level) / 2\n",
        "    tail = 1 - level\n",
        "test_statistics.py",
    ),
    Mutation(
        "blocks of a seed are trained with another seed",
        "grid.py",
        "return self.seeds[block // self.chunks]",
        "return self.seeds[block % len(self.seeds)]",
        "test_grids.py",
    ),
    Mutation(
        "a damaged block passes",
        "store/blocks.py",
        "    if digest != _digest(arrays, header):\n",
        "    if False:\n",
        "test_reliability.py",
    ),
    Mutation(
        "the absorbing shift of a normalization is too shallow",
        "theory/activations.py",
        "np.sqrt(size - 1 if centred else size)",
        "np.sqrt(size - 2 if centred else size - 1)",
        "test_theory.py",
    ),
    Mutation(
        "heavy-ball's residue goes unaccounted",
        "channels/terms.py",
        "scaled(-rate * momentum)(memory)",
        "scaled(-rate * momentum**2)(memory)",
        "test_channels.py",
    ),
)


def fail(tests: str, bug: Mutation | None = None) -> bool:
    """Whether a file of tests fails on a copy of the repository, with a bug in it or none."""
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_mutation_") as name:
        copy = pathlib.Path(name) / "copy"
        ignored = shutil.ignore_patterns(".*", "runs", "docs", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=ignored)
        if bug is not None:
            path = copy / "relu_dynamics" / bug.file
            text = path.read_text()
            if text.count(bug.old) != 1:
                raise ValueError(f"{bug.bug}: its line is not in {bug.file} exactly once.")
            path.write_text(text.replace(bug.old, bug.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-n", "0"]
        environment = {**os.environ, "PYTHONPATH": str(copy)}  # also for what the tests start
        done = subprocess.run(
            [*command, f"tests/{tests}"],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1):  # 2 and more: it did not come to the tests
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return done.returncode == 1


def main() -> None:
    """Tries every mutation, or those whose file is named on the command line. Their tests must
    first pass without one: a test that always fails catches nothing."""
    chosen = [m for m in MUTATIONS if not sys.argv[1:] or m.file in sys.argv[1:]]
    for tests in sorted({mutation.tests for mutation in chosen}):
        if fail(tests):
            raise RuntimeError(f"{tests} fails without any bug.")
    missed = []
    for mutation in chosen:
        caught = fail(mutation.tests, mutation)
        print(f"{'caught' if caught else 'MISSED'}: {mutation.bug}", file=sys.stderr, flush=True)
        missed += [] if caught else [mutation.bug]
    found = {"passed": len(chosen) - len(missed), "total": len(chosen), "missed": missed}
    print(json.dumps(found))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
