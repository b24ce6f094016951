"""Provenance: what made a result."""

import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from importlib import metadata

from relu_dynamics.engine.outcomes import DEFINITIONS
from relu_dynamics.grid import Grid

PACKAGES = ("relu-dynamics", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "zarr")


def provenance(grid: Grid, command: str | None = None) -> dict[str, str]:
    """What a reader needs to know of where a result came from, as strings."""
    import jax

    return {
        "identity": json.dumps(grid.identity, sort_keys=True),
        "grid_hash": grid.hash,
        "command": command or " ".join([_program(), *sys.argv[1:]]),
        "git_commit": git_commit(),
        "versions": json.dumps({name: _version(name) for name in PACKAGES}),
        "python": platform.python_version(),
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "definition_of_dead": DEFINITIONS[grid.config.definition].rule,
        "seed_sharing": "all cells of a seed share data, initial weights and minibatches",
    }


def _program() -> str:
    """What was started, as a reader would type it, without its folder."""
    path = pathlib.Path(sys.argv[0])
    return f"python -m {path.parent.name}" if path.name == "__main__.py" else path.name


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


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
