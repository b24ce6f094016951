"""Results: blocks joined, labelled and stored as zarr."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterable

import numpy as np
import xarray as xr

from relu_dynamics.checks import check_path
from relu_dynamics.engine.outcomes import NEVER, History, Outcome, classify
from relu_dynamics.engine.probes import LayerSummary
from relu_dynamics.grid import Grid
from relu_dynamics.store.blocks import UNIT_FIELDS, being_built, expected_shapes, read_block
from relu_dynamics.store.files import (
    RESULT_FOLDER,
    SEAL,
    SUMMARY_FILE,
    FolderError,
    as_plain,
    write_whole,
    writer,
)

PART_BYTES = 2**27  # of a labelled result that is made at a time, unless one seed has more


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

    data = {name: shaped(records[f"history.{name}"], "unit") for name in UNIT_FIELDS}
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
    renamed, so a reader sees a whole one or none.
    """
    target = folder / RESULT_FOLDER
    temporary = folder / f"{RESULT_FOLDER}.{writer()}.tmp"
    size = seeds_at_once(grid)
    being_built.add(temporary.name)
    try:
        for first in range(0, len(grid.seeds), size):  # zarr chunks are as large as such a part
            seeds = grid.seeds[first : first + size]
            _append_seeds(temporary, folder, grid, first, seeds, attributes)
        _seal_result(temporary)
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # of a disk that is full, say
        being_built.discard(temporary.name)
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
    shapes = expected_shapes(grid, 0).values()
    run_bytes = sum(4 * math.prod(shape[1:]) for shape in shapes)
    return max(1, min(len(grid.seeds), PART_BYTES // (grid.cells * run_bytes)))


def _swap(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Puts a folder in the place of another; when a second driver does the same, one wins."""
    old = target.with_name(f"{target.name}.{writer()}.tmp")
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

    Raises a `FolderError` when there is none, when it is something else, or when a file of it is
    missing or damaged.
    """
    folder = check_path("result", path)
    target = folder if folder.name.endswith(".zarr") else folder / RESULT_FOLDER
    if not target.is_dir():
        raise FolderError(f"{str(target)!r} is not there; run the experiment first.")
    if not result_is_whole(target):
        raise FolderError(f"{str(target)!r} is damaged; the same command makes it again.")
    try:
        return xr.open_zarr(target, consolidated=False, chunks=None)
    except ValueError as error:  # an array, say
        raise FolderError(
            f"{str(target)!r} is not a result; give the folder of a sweep or an experiment."
        ) from error


def write_summary(folder: pathlib.Path, summary: dict) -> pathlib.Path:
    """Writes summary.json and returns its path."""
    path = folder / SUMMARY_FILE
    write_whole(path, json.dumps(summary, indent=1, default=as_plain).encode())
    return path
