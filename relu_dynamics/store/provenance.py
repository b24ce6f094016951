"""Provenance: what made a result."""

import functools
import json
import pathlib
import platform
import subprocess
import sys
import time

from relu_dynamics.engine import native
from relu_dynamics.engine.outcomes import DEFINITIONS
from relu_dynamics.engine.tasks import data_facts
from relu_dynamics.grid import Grid
from relu_dynamics.settings import PACKAGES, cores, version
from relu_dynamics.store.canary import made_with_of


def provenance(grid: Grid, command: str | None = None) -> dict[str, str]:
    """What a reader needs to know of where a result came from, as strings."""
    import jax

    facts = data_facts(grid.config)
    versions = {name: version(name) for name in PACKAGES}
    kernel = native.made_by() if grid.config.implementation == "kernel" else {}
    return {
        "identity": json.dumps(grid.identity, sort_keys=True),
        "grid_hash": grid.hash,
        "command": command or " ".join([_program(), *map(_without_folder, sys.argv[1:])]),
        "git_commit": git_commit(),
        "versions": json.dumps(versions | kernel),
        "python": platform.python_version(),
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "machine": f"{platform.machine()}, {cores()} cores",
        "made_with": json.dumps(made_with_of(grid.config)),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "definition_of_dead": DEFINITIONS[grid.config.definition].rule,
        "seed_sharing": "all cells of a seed share data, initial weights and minibatches",
        **({"data": json.dumps(facts, default=str)} if facts else {}),
    }


def _program() -> str:
    """What was started, as a reader would type it, without its folder."""
    path = pathlib.Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def _without_folder(argument: str) -> str:
    """An argument, of an absolute path the name only: where files lie on a machine is its own."""
    option, equals, value = argument.rpartition("=")
    path = pathlib.Path(value)
    return f"{option}{equals}{path.name}" if path.is_absolute() else argument


@functools.cache
def git_commit() -> str:
    """The commit of the source tree, with "+changes" when it differs; "unknown" outside git."""
    here = pathlib.Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    try:
        run = lambda *args: subprocess.run(  # noqa: E731
            [*git, *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        commit = run("rev-parse", "HEAD")
        return commit + ("+changes" if run("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
