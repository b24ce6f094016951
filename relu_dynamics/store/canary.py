"""Canary: one block of a folder whose digest every process must find before it adds its own.

Compiler flags, the kind of processor, versions of what JAX is built on: no list of them is ever
whole, and each may change the last bits of a run. So a process that continues a folder trains one
of its blocks again by the very program that it is about to use, and compares every bit.
"""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import native
from relu_dynamics.grid import Grid, VersionError
from relu_dynamics.settings import made_with
from relu_dynamics.store.blocks import block_digest, flatten_result, read_block, stored_blocks
from relu_dynamics.store.files import (
    CANARY_FILE,
    BlockError,
    FolderError,
    FolderVersionError,
    read_json,
    write_new,
)

MOST_DIFFERENCES = 4  # that a message names


class Canary(NamedTuple):
    """A block's digest, and what made it."""

    block: int
    digest: str
    made_with: dict[str, str]  # of `made_with_of`; empty where nobody wrote it down


def made_with_of(config: Config) -> dict[str, str]:
    """What may decide the bits of a config's runs beside its identity: `settings.made_with`, and
    what the kernel was made from where it trains them."""
    return made_with() | (native.made_by() if config.implementation == "kernel" else {})


def canary_of(grid: Grid, block: int, result: Any) -> Canary:
    """The canary that a block is which this process has just trained."""
    return Canary(
        block, block_digest(grid, block, flatten_result(result)), made_with_of(grid.config)
    )


def read_canary(folder: pathlib.Path, grid: Grid) -> Canary | None:
    """The folder's canary: where none is written down (an older folder), its first block that
    validates. None: the folder has no block yet."""
    with contextlib.suppress(FolderError, TypeError, KeyError):
        found = read_json(folder / CANARY_FILE)
        canary = Canary(found["block"], found["digest"], found["made_with"])
        types = tuple(type(part) for part in canary)
        whole = types == (int, str, dict) and 0 <= canary.block < grid.blocks
        if whole and found["grid"] == grid.hash:
            return canary
    for block in stored_blocks(folder, grid):
        with contextlib.suppress(BlockError):
            return Canary(block, block_digest(grid, block, read_block(folder, grid, block)), {})
    return None


def claim_canary(folder: pathlib.Path, grid: Grid, own: Canary) -> Canary:
    """Writes down the canary of a process that is the first in a folder, or that found the same as
    an older folder's block; returns the one that counts, for another process may be faster."""
    known = read_canary(folder, grid)
    if known is None or (not known.made_with and known == own._replace(made_with={})):
        path = folder / CANARY_FILE
        if known is not None:
            path.unlink(missing_ok=True)  # damaged
        write_new(path, json.dumps({"grid": grid.hash, **own._asdict()}, indent=1).encode())
        known = read_canary(folder, grid)
    return known or own


def check_canary(folder: pathlib.Path | None, known: Canary, own: Canary) -> None:
    """Raises a `VersionError` when a process has found another digest for the same block; a
    `FolderVersionError` when the known one is a folder's."""
    if known.digest == own.digest:
        return
    differing = told_differences(known.made_with, own.made_with)
    if folder is None:
        raise VersionError(
            f"the workers do not compute the same bits: {differing}; start them in the same "
            "environment on the same kind of processor."
        )
    raise FolderVersionError(
        f"out={str(folder)!r} holds blocks with other bits than are computed now: {differing}; "
        "continue it as it was begun, or choose another folder (nothing was changed)."
    )


def told_differences(there: Mapping[str, str], here: Mapping[str, str] | None = None) -> str:
    """What two processes have that differs, for a message."""
    if here is None:
        facts = native.made_by() if "kernel" in there else {}
        here = made_with() | facts
    names = [n for n in sorted(there.keys() | here.keys()) if there.get(n) != here.get(n)]
    if not there or not names:
        return "made on another kind of processor, by other compiler flags or packages, or changed"
    found = [(n, *(short_repr(side.get(n, "")) for side in (there, here))) for n in names]
    told = [f"{name} {other} there, {own} here" for name, other, own in found]
    more = f" and {len(told) - MOST_DIFFERENCES} more" if len(told) > MOST_DIFFERENCES else ""
    return ", ".join(told[:MOST_DIFFERENCES]) + more


def result_differences(result: Any) -> str:
    """What made a labelled result (an xarray Dataset) and differs here, for a message."""
    found = None
    with contextlib.suppress(TypeError, ValueError, RecursionError):  # whoever wrote it
        found = json.loads(result.attrs.get("made_with"))
    return told_differences(found if isinstance(found, dict) else {})
