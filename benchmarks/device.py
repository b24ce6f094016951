"""What an accelerator does with the engine: one command for whoever has a card.

It prints as it goes: what JAX finds, whether bits repeat, run-steps per second (one run-step is one
step of one run) beside the CPU's, how the rate grows with the lanes of a block and with the steps
of a call, and memory. Everything measured so far is in device.json and device.md after every row,
so that a run that was cut keeps what it has. Rows that would begin after some four minutes are left
out and say so. It runs on a machine without a card too, and says that it did.

    python -m benchmarks.device --out runs/device
    python -m benchmarks.device --quick
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from relu_dynamics.config import Config
from relu_dynamics.grid import Grid, default_lanes, make_grid
from relu_dynamics.store import canary_of, flatten_result
from relu_dynamics.sweeps import blocks

sys.path.append(str(Path(__file__).parent))  # The other benchmarks are started by their files.
from engine_streams import make_config  # noqa: E402
from workloads import SIZES  # noqa: E402

BUDGET_S = 210.0  # No row begins later; the CPU's rows get at least CPU_S all the same.
CPU_S = 45.0
SAMPLE_S = 3.0  # Samples of a row repeat for about so long: one at least, five at most.
LARGE = dict(side=64, seeds=256, steps=1000)  # The map of W1 that is to be trained as a whole.
LARGE_S = 30.0  # So much of it is trained; the rest is extrapolated and the row says so.


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    work: dict[str, dict[str, int]]  # cells, seeds, steps of the workloads of benchmarks/speed.py
    map_seeds: int  # Of the 192 cells of the recovery map; the experiment itself takes 32.
    map_steps: int
    lanes: dict[str, tuple[int, ...]]
    steps: tuple[int, ...]
    large: dict[str, int]


FULL = Sizes(
    work=SIZES,
    map_seeds=4,
    map_steps=Config().steps,
    lanes=dict(w1=(2**8, 2**12, 2**15, 2**17), w2=(2**6, 2**10, 2**13), map=(2**8, 2**10, 2**12)),
    steps=(30, 300, 3000),
    large=LARGE,
)
QUICK = Sizes(
    work=dict(w1=dict(cells=16, seeds=2, steps=20), w2=dict(cells=4, seeds=1, steps=10)),
    map_seeds=1,
    map_steps=25,
    lanes=dict(w1=(2, 8)),
    steps=(10,),
    large=dict(side=4, seeds=3, steps=20),
)


def grid_of(name: str, cells: int, seeds: int, steps: int, lanes: int | None = None) -> Grid:
    """The grid of a workload ("w1", "w2" or "map", the recovery map's config) on as many cells as
    a nearly square grid of so many has. `lanes` as in `make_grid`."""
    config = make_config(name, steps) if name != "map" else _map_config(steps)
    rows = 2 ** (int(np.log2(cells)) // 2) if cells & (cells - 1) == 0 else 12
    low, high = (1e-3, 10.0) if name == "map" else (1e-4, 1e-1 if name == "w1" else 3e-2)
    axes = {
        "initial_bias": np.linspace(-13.0, -2.0, rows).tolist(),
        "learning_rate": np.geomspace(low, high, cells // rows).tolist(),
    }
    return make_grid(config, axes, seeds, lanes=lanes)


def _map_config(steps: int) -> Config:
    every = min(Config().probe_every, steps)
    return dataclasses.replace(Config(), steps=steps, probe_every=every)


# Sections: each yields a row as soon as it is measured ----------------------------------------


def card(sizes: Sizes) -> Iterator[dict]:
    """What JAX finds."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    yield dict(
        what="devices",
        devices=[str(d) for d in jax.devices()],
        kind=device.device_kind,
        platform=device.platform,
        memory_limit_mb=_mb(stats.get("bytes_limit")),
        python=platform.python_version(),
        system=platform.platform(),
        cores=os.cpu_count(),
        versions={n: metadata.version(n) for n in ("jax", "jaxlib", "flax", "optax", "numpy")},
        flags=os.environ.get("XLA_FLAGS", ""),
    )


def bits(sizes: Sizes) -> Iterator[dict]:
    """Whether one block gives the same bits again, compiled anew, and in blocks of half the size
    (which nobody promises)."""
    for name in ("w1", "map"):
        steps = min(300, sizes.work["w1"]["steps"])
        lanes = 64 if sizes is FULL else 4
        grid = grid_of(name, 64 if sizes is FULL else 4, 1, steps, lanes)
        halves = dataclasses.replace(grid, lanes=lanes // 2)
        first = _arrays(grid, 0)
        again = _arrays(grid, 0)
        jax.clear_caches()
        anew = _arrays(grid, 0)
        parts = [_arrays(halves, block) for block in range(2)]
        joined = {key: np.concatenate([part[key] for part in parts]) for key in first}
        yield dict(
            what=f"bits of {name}",
            digest=canary_of(grid, 0, blocks.run_block(grid, 0)).digest,
            again=_same_runs(first, again),
            compiled_anew=_same_runs(first, anew),
            half_the_lanes=_same_runs(first, joined),
            runs=lanes,
            steps=steps,
        )


def _arrays(grid: Grid, block: int) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in flatten_result(blocks.run_block(grid, block)).items()}


def _same_runs(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> int:
    """In how many runs every number of two results has the same bits."""
    count = len(next(iter(one.values())))
    same = [
        all(a[i].tobytes() == other[k][i].tobytes() for k, a in one.items()) for i in range(count)
    ]
    return sum(same)


def speed(sizes: Sizes) -> Iterator[dict]:
    """The workloads of benchmarks/speed.py and the recovery map, with the default lanes."""
    for name, size in sizes.work.items():
        yield measure(f"{name}, default lanes", grid_of(name, **size))
    yield measure("map, default lanes", grid_of("map", 192, sizes.map_seeds, sizes.map_steps))


def large(sizes: Sizes) -> Iterator[dict]:
    """The large map of W1 in the default blocks: its time, or that of a part extrapolated."""
    size = sizes.large
    grid = grid_of("w1", size["side"] ** 2, size["seeds"], size["steps"])
    blocks.run_block(grid, 0)
    start, done = time.perf_counter(), 0
    for done, _ in enumerate(blocks.run_blocks(grid, range(grid.blocks)), 1):  # noqa: B007
        if time.perf_counter() - start > LARGE_S:
            break
    seconds = time.perf_counter() - start
    yield dict(
        what=f"{size['side']} x {size['side']} x {size['seeds']} seeds x {size['steps']} steps, w1",
        lanes=grid.lanes,
        steps=size["steps"],
        trained_share=done / grid.blocks,
        seconds_whole=seconds * grid.blocks / done,
        extrapolated=done < grid.blocks,
        run_steps_per_s=grid.runs * done / grid.blocks * size["steps"] / seconds,
    )


def lanes(sizes: Sizes) -> Iterator[dict]:
    """The rate against the lanes of a block, one block at a time."""
    for name, values in sizes.lanes.items():
        steps = _steps(sizes, name)
        for value in values:
            grid = grid_of(name, value, 1, steps, value)
            default = default_lanes(grid.config, 2**20, jax.default_backend())
            yield measure(f"{name}, {value} lanes", grid) | dict(default_lanes=default)


def _steps(sizes: Sizes, name: str) -> int:
    return sizes.map_steps // 4 if name == "map" else sizes.work[name]["steps"]


def steps(sizes: Sizes) -> Iterator[dict]:
    """The rate against the steps that one compiled call makes."""
    for value in sizes.steps:
        yield measure(f"w1, {value} steps a call", grid_of("w1", 1024, 1, value, 1024))


def cpu(sizes: Sizes) -> Iterator[dict]:
    """The rows of `speed` on all cores of this machine, measured by a process without the card."""
    if jax.default_backend() == "cpu":
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.device", "--only", "speed", "--out", folder]
        command += ["--quick"] if sizes is QUICK else []
        limit = max(CPU_S, BUDGET_S - time.perf_counter() + STARTED)
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        cut = None
        try:
            done = subprocess.run(command, env=environment, timeout=limit, capture_output=True)
            cut = None if done.returncode == 0 else done.stderr.decode()[-300:]
        except subprocess.TimeoutExpired:
            cut = f"stopped after {limit:.0f} s"
        kept = Path(folder, "device.json")
        for row in json.loads(kept.read_text()) if kept.exists() else ():
            yield row | dict(section="cpu", what=f"{row['what']}, CPU")
    if cut:
        yield dict(what="the rest on the CPU", left_out=cut)


SECTIONS: dict[str, Callable[[Sizes], Iterator[dict]]] = dict(
    card=card, bits=bits, speed=speed, large=large, lanes=lanes, steps=steps, cpu=cpu
)
STARTED = time.perf_counter()


def measure(what: str, grid: Grid) -> dict[str, Any]:
    """A row: the rate of a grid's blocks on all devices, as a sweep trains them but not stored."""
    devices = blocks.block_devices()
    start = time.perf_counter()
    held = blocks.compile_program(grid, devices)
    blocks.run_block(grid, 0, devices[0])
    first = time.perf_counter() - start
    samples: list[float] = []
    while not samples or (sum(samples) < SAMPLE_S and len(samples) < 5):
        start = time.perf_counter()
        for _ in blocks.run_blocks(grid, range(grid.blocks), devices):
            pass
        samples.append(time.perf_counter() - start)
    seconds, steps = statistics.median(samples), grid.config.steps
    return dict(
        what=what,
        runs=grid.runs,
        lanes=grid.lanes,
        steps=steps,
        implementation=grid.config.implementation,
        first_s=first,
        samples_s=samples,
        run_steps_per_s=grid.runs * steps / seconds,
        block_step_us=1e6 * seconds / (steps * grid.blocks),
        program_mb=_mb(held),
        peak_mb=_mb((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")),
    )


def _mb(count: int | None) -> float | None:
    return None if count is None else round(count / 2**20, 1)


def render(rows: list[dict]) -> str:
    """The rows as markdown: what was found, then one table."""
    lines = ["# The engine on this device", ""]
    for row in (row for row in rows if row["section"] in ("card", "bits") or "left_out" in row):
        told = (f"{k} {v}" for k, v in row.items() if k not in ("what", "section", "at_s"))
        lines.append(f"* {row['what']}: {'; '.join(told)}")
    rates = [row for row in rows if "run_steps_per_s" in row]
    columns = {
        "lanes": "lanes", "steps": "steps", "run-steps/s": "run_steps_per_s",
        "µs a step of a block": "block_step_us", "first call s": "first_s",
        "program MB": "program_mb", "peak MB so far": "peak_mb",
    }  # fmt: skip
    lines += ["", f"| what | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rates:
        cells = (_cell(row.get(key)) for key in columns.values())
        lines.append(f"| {row['what']}{_whole(row)} | {' | '.join(cells)} |")
    beside = {row["what"]: row["run_steps_per_s"] for row in rates}
    for what, rate in beside.items():
        if f"{what}, CPU" in beside:
            ratio = rate / beside[f"{what}, CPU"]
            lines += ["", f"{what}: {ratio:.3g} times the rate of all cores of its CPU."]
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _whole(row: dict) -> str:
    if "seconds_whole" not in row:
        return ""
    how = (
        f"extrapolated from {row['trained_share']:.0%}" if row["extrapolated"] else "trained whole"
    )
    return f": {row['seconds_whole']:.1f} s, {how}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny grids: a check, not a result")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/device"), metavar="FOLDER", help="where the files go"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []

    def keep(row: dict) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        (options.out / "device.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "device.md").write_text(render(rows))

    sizes = QUICK if options.quick else FULL
    for name in options.only:
        found = SECTIONS[name](sizes)
        while True:
            at = time.perf_counter() - STARTED
            if at > BUDGET_S and name != "cpu":
                keep(
                    dict(section=name, what=f"the rest of {name}", left_out=f"{at:.0f} s are over")
                )
                break
            try:
                row = next(found)
            except StopIteration:
                break
            except (RuntimeError, ValueError) as error:  # What a card refuses is a finding too.
                keep(dict(section=name, what=f"the rest of {name}", left_out=str(error)[:300]))
                break
            keep(
                dict(section=name, **{"at_s": round(at, 1)}, **row) if "section" not in row else row
            )
    print(render(rows))


if __name__ == "__main__":
    main()
