"""Blocks on disk: sealed, digested, validated before they count as done."""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from relu_dynamics.engine.outcomes import History
from relu_dynamics.engine.probes import LayerSummary
from relu_dynamics.grid import Grid
from relu_dynamics.store.files import BlockError, MissingBlockError, host_name, write_whole

MOST_SEAL_BYTES = 2**12

being_built: set[str] = set()
"""Names of the folders that a thread of this process is writing a result into."""


def stored_blocks(folder: pathlib.Path, grid: Grid) -> list[int]:
    """Numbers of the grid's blocks of which the folder has a file, valid or not."""
    try:
        names = os.listdir(folder / "blocks")
    except OSError:
        return []
    numbers = [int(name[:-4]) for name in names if re.fullmatch(r"[0-9]{8,}\.npz", name)]
    return sorted(b for b in numbers if b < grid.blocks and block_path(folder, b).name in names)


def is_leftover(path: pathlib.Path) -> bool:
    return re.fullmatch(r".+\.[\w-]+\.[0-9]+\.[0-9a-f]{8}\.tmp", path.name) is not None


def flatten_result(result: Any) -> dict[str, np.ndarray]:
    """A block's result as flat named arrays, each [lanes, ...]."""
    arrays = {f"history.{name}": value for name, value in result.history._asdict().items()}
    arrays |= {f"layers.{name}": value for name, value in result.probe_layers._asdict().items()}
    arrays |= {name: getattr(result, name) for name in ("loss", "held_loss", "held_error")}
    return arrays


def _digest(arrays: dict[str, np.ndarray], header: dict) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def block_digest(grid: Grid, block: int, arrays: dict[str, np.ndarray]) -> str:
    """Sha256 over a block's flat named arrays and what the block is."""
    return _digest(arrays, _header(grid, block))


def _header(grid: Grid, block: int) -> dict:
    cells = grid.block_cells(block)[: grid.block_size(block)]
    return {
        "grid": grid.hash,
        "block": block,
        "seed": grid.block_seed(block),
        "cells": [int(cells[0]), int(cells[-1])],
    }


def block_path(folder: pathlib.Path, block: int) -> pathlib.Path:
    """Where a block is stored."""
    return folder / "blocks" / f"{block:08d}.npz"


def write_block(folder: pathlib.Path, grid: Grid, block: int, result: Any) -> None:
    """Stores one block's result."""
    arrays = flatten_result(result)
    header = _header(grid, block)
    seal = json.dumps(header | {"digest": _digest(arrays, header)}).encode()
    buffer = io.BytesIO()
    named: dict[str, Any] = {"seal": np.frombuffer(seal, np.uint8), **arrays}
    np.savez(buffer, **named)
    write_whole(block_path(folder, block), buffer.getvalue())


def read_block(folder: pathlib.Path, grid: Grid, block: int) -> dict[str, np.ndarray]:
    """The flat named arrays of a stored block; raises a `BlockError` that says what is wrong when
    the block is damaged, another grid's or another block's."""
    path = block_path(folder, block)
    try:
        arrays = _read_arrays(path, expected_shapes(grid, block))
        seal = json.loads(arrays.pop("seal").tobytes())
        digest = seal.pop("digest")
    except FileNotFoundError:
        raise MissingBlockError(f"{path.name} is not there") from None
    except Exception as error:  # zipfile, npy header, CRC and JSON errors: all mean damage
        raise BlockError(f"{path.name} is damaged ({type(error).__name__}: {error})") from None
    header = _header(grid, block)
    if seal != header:
        raise BlockError(f"{path.name} is not block {block} of this grid (its seal says {seal})")
    if digest != _digest(arrays, header):
        raise BlockError(f"{path.name} is damaged (its digest differs)")
    return arrays


def expected_shapes(grid: Grid, block: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array in a block, so that nothing larger is ever allocated."""
    lanes, config = grid.block_size(block), grid.config
    shapes = {f"history.{name}": (lanes, config.units) for name in UNIT_FIELDS}
    evaluations = (lanes, config.probes + 1, len(config.hidden))
    shapes |= {f"layers.{name}": evaluations for name in LayerSummary._fields}
    return shapes | {
        "history.diverged_at": (lanes,),
        "loss": (lanes, config.probes),
        "held_loss": (lanes,),
        "held_error": (lanes,),
    }


def _read_arrays(path: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays of an npz file and its seal. Sizes and types are checked in the headers, before
    anything is allocated; nothing is unpickled, and a symbolic link is not followed."""
    most = MOST_SEAL_BYTES + sum(8 * math.prod(s) + 1024 for s in shapes.values())
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise ValueError(f"a regular file of at most {most} bytes is expected")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sorted(m.filename for m in members) != sorted(f"{n}.npy" for n in (*shapes, "seal")):
                raise ValueError("its arrays are not those of a block")
            return {m.filename[:-4]: _read_member(archive, m, shapes) for m in members}


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, shapes: dict[str, tuple[int, ...]]
) -> np.ndarray:
    name = member.filename[:-4]
    if member.compress_type != zipfile.ZIP_STORED:  # small files that unpack to large ones
        raise ValueError(f"{name} is compressed")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} has another npy version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        count = math.prod(shape)
        fits = shape == shapes[name] if name in shapes else count <= MOST_SEAL_BYTES
        if not fits or fortran or dtype.hasobject or dtype.kind not in "biuf":
            raise ValueError(f"{name} is {dtype.name} {list(shape)}")
        content = file.read()  # to the end: zipfile then checks its CRC
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"{name} holds {len(content)} bytes")
        return np.frombuffer(content, dtype).reshape(shape)


def is_done(folder: pathlib.Path, grid: Grid, block: int) -> bool:
    """Whether a block's stored result is there and validates; changes nothing."""
    try:
        read_block(folder, grid, block)
    except (OSError, ValueError):
        return False
    return True


def finished_blocks(
    folder: pathlib.Path, grid: Grid, report: Callable[[str], None] = lambda line: None
) -> list[int]:
    """Block numbers whose stored result validates. What does not is set aside under
    `quarantine/` and reported; leftovers of writes that never finished are removed."""
    _remove_leftovers(folder)
    done = []
    for block in stored_blocks(folder, grid):
        try:
            read_block(folder, grid, block)
            done.append(block)
        except MissingBlockError:
            continue  # another driver has just set it aside
        except ValueError as error:
            _set_aside(folder, block_path(folder, block))
            report(f"set aside and will recompute: {error}")
    return done


def _set_aside(folder: pathlib.Path, path: pathlib.Path) -> None:
    aside = folder / "quarantine"
    aside.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # another driver was faster
        os.replace(path, aside / f"{path.name}.{time.time_ns()}")


def _remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what killed writers left: temporary files and results of dead processes of this
    machine. (Whether a process of another machine lives is not known here.)

    A result that this process gave up goes too: a library's thread that was still writing when the
    folder was removed can have made it again."""
    for leftover in (*(folder / "blocks").glob("*.tmp"), *folder.glob("*.tmp")):
        if not is_leftover(leftover):
            continue
        host, pid = leftover.name.split(".")[-4:-2]
        given_up = (
            int(pid) == os.getpid() and leftover.is_dir() and leftover.name not in being_built
        )
        if host != host_name() or (_is_running(pid) and not given_up):
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


UNIT_FIELDS = [name for name in History._fields if name != "diverged_at"]
