"""Store: a sweep's blocks on disk, the labelled result made from them, and provenance.

A block is one npz file, written whole under another name, flushed to disk and renamed. It
carries the identity of its grid, its block number and a digest of its content: a block is done
when it *validates*, never because a file is there. The labelled result (xarray on zarr) is made
from validated blocks and can be made again at any time.

Knows records, never training.
"""

import hashlib
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import xarray as xr

from relu_dynamics.axes import Grid
from relu_dynamics.outcomes import NEVER, History, Outcome, classify
from relu_dynamics.probes import LayerSummary

IDENTITY_FILE = "identity.json"
RESULT_FOLDER = "results.zarr"
SUMMARY_FILE = "summary.json"
PACKAGES = ("relu-dynamics", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "zarr")


class FolderError(ValueError):
    """An output folder that cannot be used: another grid's result, or not writable."""


def check_folder(path: str | os.PathLike, grid: Grid) -> pathlib.Path:
    """The path of an output folder that this grid may use; writes nothing.

    Raises a `FolderError` when it holds the result of another grid (naming the fields that
    differ), something else, or cannot be written.
    """
    folder = pathlib.Path(path)
    parent = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise FolderError(f"out={str(folder)!r} cannot be written; choose another folder.")
    identity_file = folder / IDENTITY_FILE
    if identity_file.exists():
        differing = _differences(_read_json(identity_file), grid.identity)
        if differing:
            raise FolderError(
                f"out={str(folder)!r} holds the result of another grid, which differs in "
                f"{', '.join(differing)}; choose another folder (nothing was changed)."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FolderError(
            f"out={str(folder)!r} is not empty and holds no {IDENTITY_FILE}; choose another folder."
        )
    return folder


def open_folder(path: str | os.PathLike, grid: Grid) -> pathlib.Path:
    """The output folder of a grid, made if it is missing; nothing is ever overwritten.

    Raises a `FolderError` as `check_folder` does.
    """
    folder = check_folder(path, grid)
    try:
        (folder / "blocks").mkdir(parents=True, exist_ok=True)
        if not (folder / IDENTITY_FILE).exists():
            write_whole(folder / IDENTITY_FILE, json.dumps(grid.identity, indent=1).encode())
    except OSError as error:
        raise FolderError(
            f"out={str(folder)!r} cannot be written ({error.strerror}); choose another folder."
        ) from None
    return folder


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FolderError(
            f"{str(path)!r} cannot be read ({error}); choose another folder."
        ) from None


def _differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted(found.keys() | wanted.keys())
        return [
            line
            for name in names
            for line in _differences(found.get(name), wanted.get(name), f"{prefix}{name}.")
        ]
    if found == wanted:
        return []
    text = [
        str(part) if len(str(part)) <= 40 else f"{str(part)[:37]}..." for part in (found, wanted)
    ]
    return [f"{prefix[:-1]} ({text[0]} there, {text[1]} asked)"]


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that after a kill or a power cut it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
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
    np.savez(buffer, seal=np.frombuffer(seal, np.uint8), **arrays)
    write_whole(block_path(folder, block), buffer.getvalue())


def read_block(folder: pathlib.Path, grid: Grid, block: int) -> dict[str, np.ndarray]:
    """The flat named arrays of a stored block; raises a ValueError that says what is wrong when
    the block is damaged, another grid's or another block's."""
    path = block_path(folder, block)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        seal = json.loads(arrays.pop("seal").tobytes())
        digest = seal.pop("digest")
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, npy header, CRC and JSON errors: all mean damage
        raise ValueError(f"{path.name} is damaged ({type(error).__name__}: {error})") from None
    header = _header(grid, block)
    if seal != header:
        raise ValueError(f"{path.name} is not block {block} of this grid (its seal says {seal})")
    if digest != _digest(arrays, header):
        raise ValueError(f"{path.name} is damaged (its digest differs)")
    return arrays


def finished_blocks(
    folder: pathlib.Path, grid: Grid, report: Callable[[str], None] = lambda line: None
) -> list[int]:
    """Block numbers whose stored result validates. What does not is set aside under
    `quarantine/` and reported; leftovers of writes that never finished are removed."""
    blocks = folder / "blocks"
    for leftover in blocks.glob("*.tmp"):
        if not _is_running(leftover.name.split(".")[-2]):
            leftover.unlink(missing_ok=True)
    done = []
    for block in range(grid.blocks):
        try:
            read_block(folder, grid, block)
            done.append(block)
        except FileNotFoundError:
            continue
        except ValueError as error:
            aside = folder / "quarantine"
            aside.mkdir(exist_ok=True)
            path = block_path(folder, block)
            os.replace(path, aside / f"{path.name}.{time.time_ns()}")
            report(f"set aside and will recompute: {error}")
    return done


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


def _seed_records(
    grid: Grid, read: Callable[[int], dict[str, np.ndarray]], number: int
) -> dict[str, np.ndarray]:
    """All cells of one seed, joined from its blocks: flat names -> [cells, ...]."""
    first = number * grid.chunks
    parts = [read(block) for block in range(first, first + grid.chunks)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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


def join(
    grid: Grid,
    read: Callable[[int], dict[str, np.ndarray]],
    attributes: dict[str, str],
) -> xr.Dataset:
    """The labelled result of a whole grid in memory."""
    parts = [_seed_records(grid, read, number) for number in range(len(grid.seeds))]
    records = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return label(grid, records, grid.seeds).assign_attrs(attributes)


def build_result(folder: pathlib.Path, grid: Grid, attributes: dict[str, str]) -> pathlib.Path:
    """Writes the labelled zarr result of a finished grid, a seed at a time, and returns its path.

    Memory does not grow with the number of seeds. The zarr is made under another name and
    renamed, so that a reader sees a whole one or none.
    """
    import shutil

    target = folder / RESULT_FOLDER
    temporary = folder / f"{RESULT_FOLDER}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    read = lambda block: read_block(folder, grid, block)  # noqa: E731
    for number, group in enumerate(_groups(grid)):
        parts = [_seed_records(grid, read, index) for index in group]
        records = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        seeds = tuple(grid.seeds[index] for index in group)
        part = label(grid, records, seeds).assign_attrs(attributes)
        if number == 0:
            part.to_zarr(temporary, zarr_format=3, consolidated=False)
        else:
            part.to_zarr(temporary, append_dim="seed", zarr_format=3, consolidated=False)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    return target


def _groups(grid: Grid, most_cells: int = 2**15) -> Iterator[list[int]]:
    """Seed numbers in groups of equal size (the last may be smaller): zarr chunks by group."""
    size = max(1, min(len(grid.seeds), most_cells // grid.cells))
    for first in range(0, len(grid.seeds), size):
        yield list(range(first, min(first + size, len(grid.seeds))))


def open_result(path: str | os.PathLike) -> xr.Dataset:
    """The labelled result in a sweep's output folder (or the zarr itself), read lazily.

    Raises a `FolderError` when there is none.
    """
    folder = pathlib.Path(path)
    target = folder if folder.name.endswith(".zarr") else folder / RESULT_FOLDER
    if not target.is_dir():
        raise FolderError(f"{str(target)!r} is not there; run the experiment first.")
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
