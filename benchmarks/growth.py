"""How the engine's cost grows, one thing at a time: runs, steps, width, depth, batch, probe set,
cadence of evaluations, trace.

Every point is measured on both paths, the kernel and plain JAX. Rates are run-steps per second of
processor time, so that other work on the machine counts little; compiling is not in them. Some ten
minutes on two idle cores:

    python benchmarks/growth.py --json growth.json --figure docs/figures/growth.png
    python benchmarks/growth.py --draw growth.json --figure docs/figures/growth.png
"""

import argparse
import dataclasses
import itertools
import json
import math
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np
from engine_streams import make_config
from speed import describe_machine

from relu_dynamics import figures, make_grid
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import run_key
from relu_dynamics.sweeps.blocks import run_block
from relu_dynamics.sweeps.sweep import sweep_grid

SAMPLES = 3  # of a point at least
SAMPLE_S = 0.5  # they repeat for about so long
WIDTHS = (8, 16, 32, 64, 128, 256, 512)
PATHS = ("kernel", "plain")
RUNS = (100, 1_000, 10_000, 100_000, 1_000_000)


def points(quick: bool) -> list[dict]:
    """Every point to measure: its curve, the value on the horizontal axis, and what to run on
    which path."""
    unit, mlp = make_config("w1", 1000), make_config("w2", 200)
    unit = dataclasses.replace(unit, probe_every=25, steps=250, sustain=100)
    mlp = dataclasses.replace(mlp, probe_every=25, sustain=100)
    made, replace = [], dataclasses.replace

    def add(curve, values, change, **more):
        chosen = values[:: len(values) - 1] if quick else values
        for v, path in itertools.product(chosen, PATHS):
            if path == "plain" or not more.get("trace"):  # the kernel keeps no trace
                config = replace(change(v), implementation=path)
                made.append(dict(curve=curve, value=v, path=path, config=config, **more))

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
    while len(samples) < SAMPLES or (sum(samples) < SAMPLE_S and len(samples) < 100):
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
        path=point["path"],
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
        training._train(
            traced, key, data, None, None, step=training.train_step, trace_units=trace_units
        )
    )


def draw(measured: dict, path: Path) -> None:
    """One panel a quantity: run-steps/s against it, a colour a network, a line a path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = {}
    for row in measured["points"]:
        quantity, _, network = row["curve"].partition(", ")
        if "trace" not in quantity:
            key = network or "16-32-32-1", row["path"]
            curves.setdefault(quantity, {}).setdefault(key, []).append(row)
    plt.style.use(figures.STYLE)
    figure, axes = plt.subplots(
        2, 4, figsize=(figures.PAGE, 4.0), layout="constrained", sharey=True
    )
    names = {
        "width": "width of both layers",
        "depth": "hidden layers of 32",
        "batch": "examples in a batch",
        "probe set": "examples of an evaluation",
    }
    colors = {"one unit": "C0", "16-32-32-1": "C4"}
    lines = {"kernel": "o-", "plain": "o:"}
    titles = {"kernel": "the kernel", "plain": "plain JAX"}
    for axis, (quantity, found) in zip(axes.flat, curves.items(), strict=False):
        for (network, way), line in found.items():
            x, y = zip(*((r["value"], r["run_steps_per_s"]) for r in line), strict=True)
            label = f"{network}, {titles[way]}"
            axis.plot(x, y, lines[way], color=colors[network], label=label)
        axis.set(xscale="log", yscale="log", xlabel=names.get(quantity, quantity))
        if quantity in ("width", "depth"):  # less than two decades: the values themselves
            axis.set_xticks(x, [f"{value}" for value in x])
            axis.xaxis.minorticks_off()
    for axis in list(axes.flat)[len(curves) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("run-steps per core second")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center")
    machine = measured["machine"]
    figures.write_caption(
        figure,
        f"n = at least {SAMPLES} samples a point, the smallest counts. One core of "
        f"{machine['processor']} ({machine['cores']} cores, peak {machine['peak_gflops']:.0f} "
        "GFLOP/s); processor time without compiling, statistics of every unit at every step. Where "
        "nothing else is said: one unit, 4 inputs, batch 32, 250 steps; 16-32-32-1, batch 64, 200 "
        "steps; heavy-ball; 1,024 runs; an evaluation on 64 examples every 25 steps.",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


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
        measured = json.loads(options.draw.read_text())
    else:
        rows: list[dict] = []
        measured = dict(machine=describe_machine(), points=rows)
        for point in points(options.quick):
            rows.append(measure(point))
            row = rows[-1]
            print(
                f"{row['curve']:40s} {row['path']:6s} {row['value']:>9,} "
                f"{row['run_steps_per_s']:>14,.0f}/s {row['gflops']:6.1f} GFLOP/s  "
                f"lanes {row['lanes']:5d}  {row['peak_mb']:.0f} MB",
                flush=True,
            )
            jax.clear_caches()
            if options.json:
                options.json.write_text(json.dumps(measured, indent=1) + "\n")
    if options.figure:
        draw(measured, options.figure)


if __name__ == "__main__":
    sys.exit(main())
