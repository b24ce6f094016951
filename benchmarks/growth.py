"""How the engine's cost grows, one thing at a time: runs, steps, width, depth, batch, probe set,
cadence of evaluations, trace.

Rates are run-steps per second of processor time on one device, so that other work on the machine
hardly counts; compiling is not in them. Some ten minutes on an idle machine:

    python benchmarks/growth.py --json growth.json --figure docs/figures/growth.png
    python benchmarks/growth.py --draw growth.json --figure docs/figures/growth.png
"""

import argparse
import dataclasses
import json
import math
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np
from engine_streams import make_config

from relu_dynamics import figures, make_grid
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import run_key
from relu_dynamics.sweeps.blocks import run_block
from relu_dynamics.sweeps.sweep import sweep_grid

SAMPLE_S = 0.5  # samples of a point repeat for about so long, three times at least
WIDTHS = (8, 16, 32, 64, 128, 256, 512)
RUNS = (100, 1_000, 10_000, 100_000, 1_000_000)


def points(quick: bool) -> list[dict]:
    """Every point to measure: its curve, the value on the horizontal axis, and what to run."""
    unit, mlp = make_config("w1", 1000), make_config("w2", 200)
    unit = dataclasses.replace(unit, probe_every=25, steps=250, sustain=100)
    mlp = dataclasses.replace(mlp, probe_every=25, sustain=100)
    made = []

    def add(curve, values, change, **more):
        chosen = values[:: len(values) - 1] if quick else values
        made.extend(dict(curve=curve, value=v, config=change(v), **more) for v in chosen)

    replace = dataclasses.replace
    # Many cells and few seeds: a seed's block is never mostly padding.
    runs = RUNS[:3] if quick else RUNS
    add("runs, one unit", runs, lambda _: unit, runs=True)
    add("runs, 16-32-32-1", runs[:3], lambda _: mlp, runs=True)
    for name, base in (("one unit", unit), ("16-32-32-1", mlp)):
        steps = (50, 200, 1000, 4000)
        add(f"steps, {name}", steps, lambda v, base=base: replace(base, steps=v))
        batches = (8, 32, 128, 512)
        add(f"batch, {name}", batches, lambda v, base=base: replace(base, batch_size=v))
        probes = (16, 64, 256, 1024, 4096)
        add(f"probe set, {name}", probes, lambda v, base=base: replace(base, probe_size=v))
        every = (1, 5, 25, 100, 200)
        change = lambda v, base=base: replace(base, probe_every=v, steps=200)  # noqa: E731
        add(f"steps between evaluations, {name}", every, change)
        add(f"trace of a run alone, {name}", (0, 1), lambda _, base=base: base, trace=True)
    add("width", WIDTHS, lambda v: replace(mlp, hidden=(v, v), biased_units=4, steps=100))
    depths = (1, 2, 4, 8)
    add("depth", depths, lambda v: replace(mlp, hidden=(32,) * v, biased_layer=v))
    return made


def measure(point: dict) -> dict:
    """The point with run-steps per second, lanes, GFLOP/s of its matrix products and the
    process's peak memory so far."""
    config = point["config"]
    if point.get("trace"):
        run, count = _single(config, bool(point["value"])), 1
        lanes = 1
    elif point.get("runs"):
        side = round(math.sqrt(min(point["value"], 1024)))
        grid = _grid(config, side, max(1, round(point["value"] / side**2)))
        lanes, count = grid.lanes, grid.runs
        run = lambda: sweep_grid(grid)  # noqa: E731
    else:
        grid = _grid(config, 32, 1)
        lanes = grid.lanes
        block = run_block(grid, 0)
        count = block.held_loss.shape[0]
        run = lambda: run_block(grid, 0)  # noqa: E731
    run()
    samples = []
    while len(samples) < 3 or (sum(samples) < SAMPLE_S and len(samples) < 100):
        start = time.process_time()
        run()
        samples.append(time.process_time() - start)
        if samples[-1] > 10:
            break
    rate = count * config.steps / min(samples)
    widths = [config.dimension, *config.hidden, 1]
    products = sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    flop = 2 * config.batch_size * (3 * products - widths[0] * widths[1])
    return dict(
        curve=point["curve"],
        value=point["value"],
        run_steps_per_s=rate,
        gflops=rate * flop / 1e9,
        lanes=lanes,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    )


def _grid(config, side, seeds):
    axes = {
        "initial_bias": np.linspace(-4.0, 0.5, side).tolist(),
        "learning_rate": np.geomspace(1e-4, 1e-2, side).tolist(),
    }
    return make_grid(config, axes, seeds)


def _single(config, trace_units):
    data, key = tasks.load_data(config), run_key(0, 0)
    traced = training.as_arrays(config)
    return lambda: jax.block_until_ready(
        training._train(traced, key, data, None, trace_units=trace_units)
    )


def draw(rows: list[dict], path: Path) -> None:
    """One panel a quantity: run-steps/s against it, a line a network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = {}
    for row in rows:
        quantity, _, network = row["curve"].partition(", ")
        if "trace" not in quantity:
            curves.setdefault(quantity, {}).setdefault(network or "16-w-w-1", []).append(row)
    plt.style.use(figures.STYLE)
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), layout="constrained", sharey=True)
    names = {"width": "width w of both layers", "depth": "hidden layers of 32"}
    colors = {"one unit": "C0", "16-32-32-1": "C1", "16-w-w-1": "C1"}
    for axis, (quantity, lines) in zip(axes.flat, curves.items(), strict=False):
        for network, line in lines.items():
            x, y = zip(*((r["value"], r["run_steps_per_s"]) for r in line), strict=True)
            label = network.replace("16-w-w-1", "16-32-32-1")
            axis.plot(x, y, "o-", ms=3, color=colors[network], label=label)
        axis.set(xscale="log", yscale="log", xlabel=names.get(quantity, quantity))
        if quantity in names:  # less than two decades: the values themselves
            axis.set_xticks(x, [f"{value}" for value in x])
            axis.xaxis.minorticks_off()
    for axis in list(axes.flat)[len(curves) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel("run-steps / core second")
    axes[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the ends of every curve: a check")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the points to this file")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="draw these points; no measuring")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw into this file")
    options = parser.parse_args()
    if options.draw:
        rows = json.loads(options.draw.read_text())
    else:
        rows = []
        for point in points(options.quick):
            rows.append(measure(point))
            row = rows[-1]
            print(
                f"{row['curve']:40s} {row['value']:>9,} {row['run_steps_per_s']:>14,.0f}/s "
                f"{row['gflops']:6.1f} GFLOP/s  lanes {row['lanes']:5d}  {row['peak_mb']:.0f} MB",
                flush=True,
            )
            jax.clear_caches()
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    sys.exit(main())
