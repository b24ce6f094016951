"""Damage to the files of a finished sweep: seen, and made good."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import tempfile
from unittest import mock

from relu_dynamics import store
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps.blocks import run_block
from relu_dynamics.sweeps.sweep import sweep_grid
from tests.verify.grids import digest_of, small_grid


def _flip(path, chance):
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _truncate(path, chance):
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(1, len(content))])


def _zero(path, chance):
    content = bytearray(path.read_bytes())
    first = chance.randrange(len(content) - 64)
    last = chance.randrange(first + 1, len(content))
    content[first:last] = bytes(last - first)
    path.write_bytes(content)


def _empty(path, chance):
    path.write_bytes(b"")


def _delete(path, chance):
    path.unlink()


FILE_DAMAGES = {"flip": _flip, "truncate": _truncate, "zero": _zero, "empty": _empty}
BLOCK_DAMAGES = (*FILE_DAMAGES, "delete", "swap", "foreign", "old schema")
RESULT_DAMAGES = ("result flip", "result delete")
DAMAGES = (*BLOCK_DAMAGES, *RESULT_DAMAGES)


def check(trials: int, chance: random.Random) -> dict:
    """Every kind of damage in turn to a finished sweep: what is changed must be set aside or
    trained again, and the result must be the undamaged one. A change that leaves the numbers and
    their seal readable and equal (a time stamp in a zip header) is harmless and counted so."""
    grid = small_grid(seeds=2)
    kinds: dict[str, collections.Counter] = {kind: collections.Counter() for kind in DAMAGES}
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        place = pathlib.Path(name)
        for folder, source in (("right", grid), ("foreign", small_grid(1, seeds=2))):
            sweep_grid(source, out=place / folder)
        wanted = digest_of(place / "right", grid)
        for trial in range(trials):
            kind = DAMAGES[trial % len(DAMAGES)]
            out = place / "damaged"
            shutil.copytree(place / "right", out)
            _damage(kind, out, place / "foreign", grid, chance)
            with contextlib.redirect_stderr(open(os.devnull, "w")):
                seen = len(store.finished_blocks(out, grid)) < grid.blocks
                seen |= not store.result_is_whole(out, grid)
                sweep_grid(grid, out=out)
            right = digest_of(out, grid) == wanted
            kinds[kind]["silent" if not right else "detected" if seen else "harmless"] += 1
            shutil.rmtree(out)
    silent = sum(counts["silent"] for counts in kinds.values())
    return {
        "passed": trials - silent,
        "total": trials,
        "silent": silent,
        "kinds": {kind: dict(counts) for kind, counts in kinds.items() if counts},
    }


def _damage(kind, out, foreign, grid, chance) -> None:
    first, second = chance.sample(range(grid.blocks), 2)
    path, other = store.block_path(out, first), store.block_path(out, second)
    if kind in FILE_DAMAGES:
        FILE_DAMAGES[kind](path, chance)
    elif kind == "delete":
        path.unlink()
    elif kind == "swap":
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind == "foreign":
        shutil.copy(store.block_path(foreign, first), path)
    elif kind == "old schema":
        _write_with_old_schema(out, grid, first)
    else:
        files = [p for p in (out / store.RESULT_FOLDER).rglob("c/**/*") if p.is_file()]
        (_flip if kind == "result flip" else _delete)(chance.choice(sorted(files)), chance)


def _write_with_old_schema(out, grid, block) -> None:
    """The block as a program of another schema would have sealed it."""
    old = dataclasses.replace(grid)
    with mock.patch.object(Grid, "identity", {**grid.identity, "schema_version": 0}):
        store.write_block(out, old, block, run_block(grid, block))
