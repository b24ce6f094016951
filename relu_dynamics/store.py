"""Store: a sweep's blocks on disk, the labelled result made from them, and provenance.

A block is one npz file, written whole under another name, flushed to disk and renamed. It
carries the identity of its grid, its block number and a digest of its content: a block is done
when it *validates*, never because a file is there. The labelled result (xarray on zarr) is made
from validated blocks and can be made again at any time.

Knows records, never training.
"""

import contextlib
import errno
import functools
import hashlib
import io
import json
import math
import os
import pathlib
import platform
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import xarray as xr

from relu_dynamics.axes import VERSION_FIELDS, Grid, VersionError
from relu_dynamics.config import check_path, told
from relu_dynamics.outcomes import NEVER, History, Outcome, classify
from relu_dynamics.probes import LayerSummary

IDENTITY_FILE = "identity.json"
RESULT_FOLDER = "results.zarr"
SUMMARY_FILE = "summary.json"
OWN_NAMES = (IDENTITY_FILE, RESULT_FOLDER, SUMMARY_FILE, "blocks", "quarantine")
SEAL = "files_sha256"
MOST_IDENTITY_BYTES = 2**28
MOST_SEAL_BYTES = 2**12
PART_BYTES = 2**27  # of a labelled result that is made at a time, unless one seed has more
PACKAGES = ("relu-dynamics", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "zarr")


class FolderError(ValueError):
    """An output folder that cannot be used, or that holds no result."""


class OtherGridError(FolderError):
    """A folder that holds the result of another grid, or something else."""


class FolderVersionError(FolderError, VersionError):
    """A folder whose result asks the same question, made by another version or platform."""


class NotWritableError(FolderError):
    """A folder that cannot be written: no permission, no room, or it has gone."""


class BlockError(ValueError):
    """A stored block that is missing or does not validate."""


class MissingBlockError(BlockError):
    """A block that is not stored."""


class UnfinishedError(Exception):
    """A shard is done and blocks of others are not there yet: no result to return so far."""


def check_folder(path: str | os.PathLike, grid: Grid) -> pathlib.Path:
    """The path of an output folder that this grid may use; writes nothing.

    Raises a `FolderError` when it holds the result of another grid or version (naming the fields
    that differ), something else, a symbolic link, or cannot be written.
    """
    folder = check_path("out", path)
    try:
        parent = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise NotWritableError(
            f"out={told(str(folder))} cannot be written ({error}); choose another folder."
        ) from None
    if not _is_writable(parent):
        raise NotWritableError(f"out={str(folder)!r} cannot be written; choose another folder.")
    for name in OWN_NAMES:
        if (folder / name).is_symlink():
            raise OtherGridError(
                f"out={str(folder)!r}: {name} is a symbolic link, which is never followed; "
                "choose another folder."
            )
    identity_file = folder / IDENTITY_FILE
    if identity_file.exists():
        _check_identity(folder, grid)
    elif folder.exists() and not _is_empty(folder) and not _has_block(folder, grid):
        raise OtherGridError(
            f"out={str(folder)!r} is not empty and holds no {IDENTITY_FILE}; choose another folder."
        )
    return folder


def _is_writable(folder: pathlib.Path) -> bool:
    """Whether files can be made in a folder: by its rights, and by what its disk says (rights do
    not stop root)."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return False
    disk = os.statvfs(folder)
    return not disk.f_flag & os.ST_RDONLY and disk.f_blocks > 0


def _check_identity(folder: pathlib.Path, grid: Grid) -> None:
    """Raises a `FolderError` unless the folder's identity is the grid's."""
    try:
        found = _read_json(folder / IDENTITY_FILE)
    except FolderError:
        if _has_block(folder, grid):  # a damaged identity; `open_folder` writes it again
            return
        raise
    differing = differences(found, grid.identity)
    if not differing:
        return
    text = f"{', '.join(differing)}; choose another folder (nothing was changed)."
    if isinstance(found, dict) and not differences(_question(found), _question(grid.identity)):
        raise FolderVersionError(
            f"out={str(folder)!r} holds the same grid made otherwise, which differs in {text}"
        )
    raise OtherGridError(
        f"out={str(folder)!r} holds the result of another grid, which differs in {text}"
    )


def _question(identity: dict) -> dict:
    return {name: value for name, value in identity.items() if name not in VERSION_FIELDS}


def _has_block(folder: pathlib.Path, grid: Grid) -> bool:
    """Whether the folder holds at least one valid block of the grid: then it is the grid's."""
    return any(is_done(folder, grid, block) for block in stored_blocks(folder, grid))


def stored_blocks(folder: pathlib.Path, grid: Grid) -> list[int]:
    """Numbers of the grid's blocks of which the folder has a file, valid or not."""
    try:
        names = os.listdir(folder / "blocks")
    except OSError:
        return []
    numbers = [int(name[:-4]) for name in names if re.fullmatch(r"[0-9]{8,}\.npz", name)]
    return sorted(b for b in numbers if b < grid.blocks and block_path(folder, b).name in names)


def _is_empty(folder: pathlib.Path) -> bool:
    """Whether a folder holds nothing but what a driver killed at its start leaves behind."""
    found = [path for path in folder.iterdir() if not _is_leftover(path)]
    inside = (folder / "blocks").iterdir() if (folder / "blocks").is_dir() else ()
    return found in ([], [folder / "blocks"]) and all(_is_leftover(path) for path in inside)


def _is_leftover(path: pathlib.Path) -> bool:
    return re.fullmatch(r".+\.[\w-]+\.[0-9]+\.[0-9a-f]{8}\.tmp", path.name) is not None


def open_folder(path: str | os.PathLike, grid: Grid) -> pathlib.Path:
    """The output folder of a grid, made if it is missing; nothing is ever overwritten.

    Raises a `FolderError` as `check_folder` does.
    """
    folder = check_folder(path, grid)
    try:
        (folder / "blocks").mkdir(parents=True, exist_ok=True)
        if not _identity_is(folder, grid):
            write_whole(folder / IDENTITY_FILE, json.dumps(grid.identity, indent=1).encode())
    except OSError as error:
        raise NotWritableError(
            f"out={str(folder)!r} cannot be written ({error.strerror}); choose another folder."
        ) from None
    return folder


def _identity_is(folder: pathlib.Path, grid: Grid) -> bool:
    try:
        return _read_json(folder / IDENTITY_FILE) == grid.identity
    except FolderError:
        return False


def read_identity(path: str | os.PathLike) -> Any:
    """The identity in an output folder, as plain JSON values; raises a `FolderError`."""
    return _read_json(pathlib.Path(path) / IDENTITY_FILE)


def check_room(folder: pathlib.Path, needed: int) -> None:
    """Raises a `NotWritableError` when a disk has less than `needed` bytes left."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise NotWritableError(
            f"out={str(folder)!r} needs {needed / 2**20:,.1f} MiB and its disk has "
            f"{free / 2**20:,.1f} MiB left; free some, choose another folder, or use fewer seeds."
        )


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Raises a `NotWritableError` for what goes wrong with the disk inside."""
    try:
        yield
    except Exception as error:
        explained = _explain_write_error(error, folder)
        if explained is None or isinstance(error, FolderError):
            raise
        raise explained from None


def _explain_write_error(error: Exception, folder: pathlib.Path) -> NotWritableError | None:
    """What a failed write means in one line; None when the exception is not about the disk.

    By errno and text, not by class: libraries raise different ones for a full disk.
    """
    number = getattr(error, "errno", None)
    go_on = "the finished blocks are kept and the same command continues."
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
        return NotWritableError(f"out={str(folder)!r}: the disk is full; free some: {go_on}")
    if not isinstance(error, OSError):
        return None
    if not (folder / "blocks").is_dir():
        return NotWritableError(f"out={str(folder)!r} has gone; the same command starts again.")
    return NotWritableError(
        f"out={str(folder)!r} cannot be written ({error.strerror or error}); {go_on}"
    )


def _read_json(path: pathlib.Path) -> Any:
    try:
        if path.stat().st_size > MOST_IDENTITY_BYTES:
            raise ValueError(f"larger than {MOST_IDENTITY_BYTES} bytes")
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise OtherGridError(
            f"{str(path)!r} cannot be read ({' '.join(str(error).split())}); choose another folder."
        ) from None


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Where two JSON values differ, one line for each place."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted(found.keys() | wanted.keys())
        return [
            line
            for name in names
            for line in differences(found.get(name), wanted.get(name), f"{prefix}{name}.")
        ]
    if found == wanted:
        return []
    text = [
        str(part) if len(str(part)) <= 40 else f"{str(part)[:37]}..." for part in (found, wanted)
    ]
    return [f"{prefix[:-1]} ({text[0]} there, {text[1]} asked)"]


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that after a kill or a power cut it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{_writer()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _writer() -> str:
    """host.pid.token: nobody else writes under this name, on whatever machine."""
    return f"{_host()}.{os.getpid()}.{secrets.token_hex(4)}"


def _host() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum() or c in "-_")[:40] or "host"


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
        arrays = _read_arrays(path, _expected_shapes(grid, block))
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


def _expected_shapes(grid: Grid, block: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array in a block, so that nothing larger is ever allocated."""
    lanes, config = grid.block_size(block), grid.config
    shapes = {f"history.{name}": (lanes, config.units) for name in _UNIT_FIELDS}
    looks = (lanes, config.probes + 1, len(config.hidden))
    shapes |= {f"layers.{name}": looks for name in LayerSummary._fields}
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
    machine. (Whether a process of another machine lives is not known here.)"""
    for leftover in (*(folder / "blocks").glob("*.tmp"), *folder.glob("*.tmp")):
        if not _is_leftover(leftover):
            continue
        host, pid = leftover.name.split(".")[-4:-2]
        if host != _host() or _is_running(pid):
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


# --- The labelled result -------------------------------------------------------------------------

_UNIT_FIELDS = [name for name in History._fields if name != "diverged_at"]


def provenance(grid: Grid, command: str | None = None) -> dict[str, str]:
    """What a reader needs to know of where a result came from, as strings."""
    import jax

    return {
        "identity": json.dumps(grid.identity, sort_keys=True),
        "grid_hash": grid.hash,
        "command": command or " ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_commit": git_commit(),
        "versions": json.dumps({name: _version(name) for name in PACKAGES}),
        "python": platform.python_version(),
        "device": f"{jax.local_device_count()} x {jax.devices()[0].device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "definition_of_dead": "largest pre-activation over the probe set <= 0",
        "seed_sharing": "all cells of a seed share data, initial weights and minibatches",
    }


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


def join(
    grid: Grid, blocks: Iterable[tuple[int, dict[str, np.ndarray]]], first_seed: int, seeds: int
) -> dict[str, np.ndarray]:
    """All cells of `seeds` seeds, from seed number `first_seed` on, joined from their (block, flat
    arrays): flat names -> [seeds * cells, ...], cells fastest. Holds one block at a time beside
    what it returns."""
    records: dict[str, np.ndarray] = {}
    for block, arrays in blocks:
        place = (block // grid.chunks - first_seed) * grid.cells
        place += block % grid.chunks * grid.lanes
        for name, array in arrays.items():
            if name not in records:
                shape = (seeds * grid.cells, *array.shape[1:])
                records[name] = np.empty(shape, array.dtype)
            records[name][place : place + len(array)] = array
    return records


def label(grid: Grid, records: dict[str, np.ndarray], seeds: tuple[int, ...]) -> xr.Dataset:
    """The labelled result of some seeds from flat records [seeds * cells, ...] (cells fastest)."""
    names = tuple(name for name, _ in grid.axes)
    config = grid.config

    def shaped(value, *rest):
        # [seeds, cells, ...] -> [axes..., seed, ...]
        value = np.moveaxis(value.reshape(len(seeds), grid.cells, *value.shape[1:]), 0, 1)
        return (*names, "seed", *rest), value.reshape(*grid.shape, len(seeds), *value.shape[2:])

    data = {name: shaped(records[f"history.{name}"], "unit") for name in _UNIT_FIELDS}
    history = History(**{n: records[f"history.{n}"] for n in History._fields})
    data["outcome"] = shaped(classify(history), "unit")
    data["diverged_at"] = shaped(records["history.diverged_at"])
    data["loss"] = shaped(records["loss"], "look")
    for name in ("held_loss", "held_error"):
        data[name] = shaped(records[name])
    for name in LayerSummary._fields:
        data[f"layer_{name}"] = shaped(records[f"layers.{name}"], "probe_step", "layer")
    widths = config.hidden
    layer_of_unit = np.repeat(np.arange(1, len(widths) + 1), widths)
    unit_in_layer = np.concatenate([np.arange(width) for width in widths])
    steps = np.arange(config.probes + 1) * config.probe_every
    coordinates = {name: list(values) for name, values in grid.axes}
    coordinates |= {
        f"{name}_float32": (name, np.asarray(values, np.float64).astype(np.float32))
        for name, values in grid.axes
    }
    coordinates |= {
        "seed": np.asarray(seeds, np.uint64),
        "probe_step": steps,
        "look": steps[1:],
        "layer": np.arange(1, len(widths) + 1),
        "unit_layer": ("unit", layer_of_unit),
        "unit_in_layer": ("unit", unit_in_layer),
        "biased": (
            "unit",
            (layer_of_unit == config.biased_layer) & (unit_in_layer < config.biased_units),
        ),
    }
    result = xr.Dataset(data, coordinates)
    result["outcome"].attrs["codes"] = json.dumps({o.name: int(o) for o in Outcome})
    for name in ("first_recovery", "first_sustained", "first_death", "diverged_at"):
        result[name].attrs |= {"units": "steps", "never": NEVER}
    return result


def cell_records(cell: xr.Dataset) -> dict[str, np.ndarray]:
    """The flat named arrays (as `flatten_result` names them) of one cell and seed of a labelled
    result."""
    names = {f"history.{name}": name for name in History._fields}
    names |= {f"layers.{name}": f"layer_{name}" for name in LayerSummary._fields}
    names |= {name: name for name in ("loss", "held_loss", "held_error")}
    return {flat: cell[name].values for flat, name in names.items()}


def build_result(folder: pathlib.Path, grid: Grid, attributes: dict[str, str]) -> pathlib.Path:
    """Writes the labelled zarr result of a finished grid, some seeds at a time, and returns its
    path.

    Memory does not grow with the number of seeds. The zarr is made under another name and
    renamed, so that a reader sees a whole one or none.
    """
    target = folder / RESULT_FOLDER
    temporary = folder / f"{RESULT_FOLDER}.{_writer()}.tmp"
    size = seeds_at_once(grid)
    for first in range(0, len(grid.seeds), size):  # zarr chunks are as large as such a part
        _append_seeds(temporary, folder, grid, first, grid.seeds[first : first + size], attributes)
    _seal_result(temporary)
    _swap(temporary, target)
    return target


def _append_seeds(
    target: pathlib.Path,
    folder: pathlib.Path,
    grid: Grid,
    first: int,
    seeds: tuple[int, ...],
    attributes: dict[str, str],
) -> None:
    """Adds to a labelled zarr result the `seeds` from seed number `first` on; 0 begins it. (What it
    holds is free again when it returns: a loop would keep one part while it joins the next.)"""
    blocks = range(first * grid.chunks, (first + len(seeds)) * grid.chunks)
    read = ((block, read_block(folder, grid, block)) for block in blocks)
    part = label(grid, join(grid, read, first, len(seeds)), seeds).assign_attrs(attributes)
    append_dim = "seed" if first else None
    part.to_zarr(target, append_dim=append_dim, zarr_format=3, consolidated=False)


def seeds_at_once(grid: Grid) -> int:
    """How many seeds of a labelled result are joined at a time: as many as fill PART_BYTES."""
    shapes = _expected_shapes(grid, 0).values()
    run_bytes = sum(4 * math.prod(shape[1:]) for shape in shapes)
    return max(1, min(len(grid.seeds), PART_BYTES // (grid.cells * run_bytes)))


def _swap(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Puts a folder in the place of another; when a second driver does the same, one wins."""
    old = target.with_name(f"{target.name}.{_writer()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.replace(target, old)
    try:
        os.replace(temporary, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _seal_result(target: pathlib.Path) -> None:
    """Writes a digest of all its files into a labelled result's attributes."""
    root = target / "zarr.json"
    group = json.loads(root.read_text())
    group["attributes"][SEAL] = _files_digest(target)
    write_whole(root, json.dumps(group, indent=2).encode())


def _files_digest(target: pathlib.Path) -> str:
    """Sha256 over names and contents of a zarr folder, its own seal left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in target.rglob("*") if p.is_file() and not p.is_symlink()):
        content = path.read_bytes()
        if path == target / "zarr.json":
            group = json.loads(content)
            group["attributes"].pop(SEAL, None)
            content = json.dumps(group, sort_keys=True).encode()
        digest.update(f"{path.relative_to(target).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def result_is_whole(folder: pathlib.Path, grid: Grid | None = None) -> bool:
    """Whether the labelled result is there, is the grid's (when one is given), and every file of
    it is as it was written."""
    target = folder if folder.name.endswith(".zarr") else folder / RESULT_FOLDER
    try:
        attributes = json.loads((target / "zarr.json").read_text())["attributes"]
        if SEAL not in attributes:
            return grid is None  # made by a script for itself
        same = grid is None or attributes.get("grid_hash") == grid.hash
        return same and attributes[SEAL] == _files_digest(target)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def open_result(path: str | os.PathLike) -> xr.Dataset:
    """The labelled result in a sweep's output folder (or the zarr itself), read lazily.

    Raises a `FolderError` when there is none, or when a file of it is missing or damaged.
    """
    folder = check_path("result", path)
    target = folder if folder.name.endswith(".zarr") else folder / RESULT_FOLDER
    if not target.is_dir():
        raise FolderError(f"{str(target)!r} is not there; run the experiment first.")
    if not result_is_whole(target):
        raise FolderError(f"{str(target)!r} is damaged; the same command makes it again.")
    return xr.open_zarr(target, consolidated=False, chunks=None)


def write_summary(folder: pathlib.Path, summary: dict) -> pathlib.Path:
    """Writes summary.json and returns its path."""
    path = folder / SUMMARY_FILE
    write_whole(path, json.dumps(summary, indent=1, default=_plain).encode())
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
