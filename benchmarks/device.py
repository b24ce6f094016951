"""This project's engine on the accelerator at hand, as a table that can be sent.

One command says what the device is, whether the same command gives the same bits twice, how its
outcomes compare with the CPU's, how fast blocks of several sizes train, what memory they take, and
how long the map of 64 x 64 cells x 256 seeds x 1,000 steps of one unit takes:

    python -m benchmarks.device --out device.json
    python -m benchmarks.device --quick

Each row is printed and stored when it is measured, so a run that is cut off keeps what it has. Some
seven minutes on a data-centre GPU, most of it compiling. Everything is the plain path, which is
what accelerators run.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # the neighbours import each other by bare names

from engine_streams import make_config

from relu_dynamics import Config, Grid, make_grid
from relu_dynamics.engine import outcomes
from relu_dynamics.sweeps.blocks import program_bytes, run_block, run_blocks

NETWORKS = {
    "W1": "one ReLU unit, 4 inputs, batch 32",
    "W2": "MLP 16-32-32-1, batch 64",
    "map": "the recovery map's: digits, 64-32-32-10, batch 64",
}
SAMPLES = 3  # of a timing; the median counts
MANY_SECONDS = 60  # a size of block that takes so long is not repeated
MAP_SIDE, MAP_SEEDS, MAP_STEPS = 64, 256, 1000


def config_of(name: str, steps: int) -> Config:
    """The config of a network of `NETWORKS`, on the plain path."""
    made = Config(steps=steps) if name == "map" else make_config(name.lower(), steps)
    return dataclasses.replace(made, implementation="plain")


def grid_of(name: str, cells: int, steps: int, lanes: int | None = None, seeds: int = 1) -> Grid:
    """`cells` runs a seed: learning rates x initial biases, as many of each as can be."""
    rates = 2 ** int(np.log2(cells) // 2)
    highest = {"W1": 1e-1, "W2": 3e-2, "map": 1.0}[name]
    axes = {
        "learning_rate": np.geomspace(1e-4, highest, rates).tolist(),
        "initial_bias": np.linspace(-4.0, 0.5, cells // rates).tolist(),
    }
    return make_grid(config_of(name, steps), axes, seeds, lanes=lanes)


def rows(quick: bool) -> Iterator[dict[str, Any]]:
    """What the table says, one row at a time: `about`, the row's own fields, and its seconds."""
    yield {"about": "machine", **machine()}
    few = 25 if quick else 200
    for name in NETWORKS:
        yield {"about": "bits", "network": name, **same_bits(name, few)}
    for name in NETWORKS:
        yield {"about": "CPU", "network": name, **against_cpu(name, few)}
    sizes = (16, 64) if quick else (256, 1024, 4096, 16384, 65536)
    for name in NETWORKS:
        default = grid_of(name, max(sizes), few).lanes
        for lanes in sorted({*sizes, default}):
            row = {"about": "speed", "network": name, "lanes": lanes, "default": lanes == default}
            row |= speed(name, lanes, few)
            yield row
            if row.get("seconds", np.inf) > MANY_SECONDS:
                break
    for every in (few // 25, few // 5, few):
        yield {
            "about": "evaluations",
            "network": "map",
            **cadence(every, few, 16 if quick else 4096),
        }
    side, seeds, steps = (4, 2, 20) if quick else (MAP_SIDE, MAP_SEEDS, MAP_STEPS)
    yield {"about": "whole map", "network": "W1", **whole_map(side, seeds, steps)}


def machine() -> dict[str, Any]:
    """Devices, their memory and the versions that take part."""
    devices = jax.local_devices()
    return {
        "devices": [f"{d.platform}: {d.device_kind}" for d in devices],
        "memory_gib": memory(devices[0], "bytes_limit"),
        "jax": jax.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def memory(device, what: str) -> float | None:
    """A count of bytes that a device keeps, in GiB; None where it keeps none."""
    found = (device.memory_stats() or {}).get(what)
    return None if found is None else round(found / 2**30, 3)


def same_bits(name: str, steps: int) -> dict[str, Any]:
    """Whether a block gives the same bits twice, its digest, and what a block of half as many lanes
    changes: bits of the units' history, and outcomes."""
    whole = grid_of(name, 256, steps)
    half = grid_of(name, 256, steps, lanes=whole.lanes // 2)
    first, again = run_block(whole, 0), run_block(whole, 0)
    parts = [run_block(half, block) for block in (0, 1)]  # the same cells
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return {
        "lanes": whole.lanes,
        "twice_equal": digest(first) == digest(again),
        "digest": digest(first)[:16],
        "half_block_equal": digest(first) == digest(joined),
        "half_block_flips": flips(first, joined),
    }


def against_cpu(name: str, steps: int) -> dict[str, Any]:
    """Outcomes of the same runs on the CPU, and the largest difference of the first losses."""
    grid = grid_of(name, 256, steps)
    here, there = run_block(grid, 0), run_block(grid, 0, device=jax.local_devices(backend="cpu")[0])
    ours, theirs = here.history.batch_peak, there.history.batch_peak
    calm = np.isfinite(ours) & np.isfinite(theirs)
    gap = np.abs(ours - theirs)[calm] / (1 + np.abs(theirs[calm]))
    return {
        "lanes": grid.lanes,
        "flips": flips(here, there),
        "median_difference_of_max_z": float(np.median(gap)),
        "diverged_at_same_step": bool(
            (here.history.diverged_at == there.history.diverged_at).all()
        ),
    }


def flips(one, other) -> str:
    """How many units have another outcome (dead at the end, recovered, died) in `other`."""
    seen = [np.asarray(outcomes.classify(r.history)) for r in (one, other)]
    return f"{int((seen[0] != seen[1]).sum())} of {seen[0].size}"


def digest(result) -> str:
    """Sha256 of every number of a block's result."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(result):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def speed(name: str, lanes: int, steps: int) -> dict[str, Any]:
    """Run-steps per second of one block of so many lanes, the median of a few; one that does not
    fit says so."""
    grid = grid_of(name, lanes, steps, lanes=lanes)
    try:
        began = time.perf_counter()
        run_block(grid, 0)
        first = time.perf_counter() - began
        seconds = [first]
        if first < MANY_SECONDS:
            seconds = [timed(grid) for _ in range(SAMPLES)]
    except ValueError as error:  # memory, with what to do about it
        return {"refused": str(error)}
    middle = statistics.median(seconds)
    return {
        "first_seconds": round(first, 2),
        "seconds": middle,
        "run_steps_per_second": lanes * steps / middle,
        "microseconds_per_step": 1e6 * middle / steps,
        "program_gib": round(program_bytes(grid, lanes) / 2**30, 3),
        "peak_gib": memory(jax.local_devices()[0], "peak_bytes_in_use"),
    }


def timed(grid: Grid) -> float:
    """Seconds of one block, from its call to host arrays."""
    began = time.perf_counter()
    run_block(grid, 0)
    return time.perf_counter() - began


def cadence(every: int, steps: int, lanes: int) -> dict[str, Any]:
    """What evaluations cost: steps between two of them are one scan on the device."""
    grid = grid_of("map", lanes, steps, lanes=lanes)
    config = dataclasses.replace(grid.config, probe_every=every, sustain=steps)
    grid = dataclasses.replace(grid, config=config)
    run_block(grid, 0)
    middle = statistics.median(timed(grid) for _ in range(SAMPLES))
    return {"steps_between": every, "lanes": lanes, "run_steps_per_second": lanes * steps / middle}


def whole_map(side: int, seeds: int, steps: int) -> dict[str, Any]:
    """Seconds of all blocks of side x side cells x seeds, with the default lanes, compiling too."""
    grid = grid_of("W1", side * side, steps, seeds=seeds)
    began = time.perf_counter()
    done = sum(1 for _ in run_blocks(grid, range(grid.blocks)))
    seconds = time.perf_counter() - began
    return {
        "cells": side * side,
        "seeds": seeds,
        "steps": steps,
        "lanes": grid.lanes,
        "blocks": done,
        "seconds": round(seconds, 1),
        "run_steps_per_second": side * side * seeds * steps / seconds,
    }


def render(found: list[dict[str, Any]]) -> str:
    """The rows as Markdown: one table for each thing that they are about."""
    parts = []
    for about in dict.fromkeys(row["about"] for row in found):
        own = [row for row in found if row["about"] == about]
        names = list(dict.fromkeys(name for row in own for name in row if name != "about"))
        lines = [" | ".join(names), " | ".join("---" for _ in names)]
        lines += [" | ".join(cell(row.get(name)) for name in names) for row in own]
        parts.append(f"### {about}\n\n" + "\n".join(f"| {line} |" for line in lines))
    return "\n\n".join(parts)


def cell(value: Any) -> str:
    """A value as a table's cell."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def main() -> None:
    """Measures, prints and stores row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: a check, not a result")
    parser.add_argument("--out", type=Path, default=Path("device.json"), help="JSON (device.json)")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for row in rows(given.quick):
        found.append(row)
        print(json.dumps(row), flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(render(found) + "\n")
    print(render(found))


if __name__ == "__main__":
    main()
