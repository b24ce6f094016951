"""Studies: several grids that answer one question, because their configs differ in static fields.

A study is a mapping from a name (the arm's) to a grid. All arms share the root seed, so that the
same seed is the same data, and the same weights where the shapes agree: arms are paired by seed.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import queue
import re
from collections.abc import Collection, Mapping
from typing import Any

import xarray as xr

from relu_dynamics import store
from relu_dynamics.checks import check_path
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps.blocks import block_devices
from relu_dynamics.sweeps.plan import Shard
from relu_dynamics.sweeps.sweep import sweep_grid


def question_hash(study: Mapping[str, Grid], *more: object) -> str:
    """Sha256 of what decides the numbers of a study: its grids, and more of plain values. That of
    one grid alone is the grid's own."""
    if len(study) == 1 and not more:
        return next(iter(study.values())).hash
    text = json.dumps([{name: grid.hash for name, grid in study.items()}, more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def folder_name(name: str) -> str:
    """The folder of an arm: its name with everything but letters, digits, - and . as _."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)


def sweep_study(
    study: Mapping[str, Grid], out: str | os.PathLike, *, shard: Shard = None
) -> dict[str, xr.Dataset]:
    """The labelled result of every arm, in memory; each is stored in its folder below `out`, so
    the same call resumes after a stop. All folders are checked before the first starts.

    Compiling an arm's program mostly takes longer than running it, so with many arms every core
    or device trains an arm of its own; with few arms all share each.
    """
    out = check_path("out", out)
    folders = {name: out / folder_name(name) for name in study}
    if len(set(folders.values())) < len(study):
        raise ValueError(
            f"the arms {', '.join(study)} need names that differ in letters or digits."
        )
    for name, grid in study.items():
        store.check_folder(folders[name], grid)
    together = block_devices()
    parts = [[device] for device in together] if len(study) > 2 * len(together) else [together]
    free: queue.SimpleQueue = queue.SimpleQueue()
    for part in parts:
        free.put(part)

    def work(number, name, grid):
        devices = free.get()
        try:
            print(
                f"{number}/{len(study)} {name}: {grid.runs:,} runs of {grid.config.steps:,} steps",
                flush=True,
            )
            return sweep_grid(
                grid, out=folders[name], progress=len(parts) == 1, shard=shard, devices=devices
            ).load()
        finally:
            free.put(devices)

    pool = concurrent.futures.ThreadPoolExecutor(len(parts))
    try:
        running = {
            name: pool.submit(work, number, name, grid)
            for number, (name, grid) in enumerate(study.items(), start=1)
        }
        return {name: future.result() for name, future in running.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def read_summary(out: pathlib.Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """The summary.json of a study; raises a `store.FolderError` when there is none, or when it is
    one without the `needed` parts."""
    path = out / store.SUMMARY_FILE
    try:
        summary = json.loads(path.read_text())
    except FileNotFoundError:
        raise store.FolderError(f"{str(path)!r} is not there; run the experiment first.") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise store.FolderError(
            f"{str(path)!r} cannot be read ({reason}); remove it and run the experiment again."
        ) from None
    lacking = set(needed) - set(summary) if isinstance(summary, dict) else {"an object"}
    if lacking:
        raise store.FolderError(
            f"{str(path)!r} lacks {', '.join(sorted(lacking))}; run the experiment again."
        )
    return summary
