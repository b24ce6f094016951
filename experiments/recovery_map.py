"""The recovery map: P(a dead ReLU unit recovers | learning rate, initial bias), on real data.

Claim under test: "a larger learning rate brings dead units back", against "a larger learning
rate kills them". A quarter of the second hidden layer of a 64-32-32-10 network on digits starts
at a negative bias; the layer below it learns. Plain SGD, so that the only way back is the drift
of the inputs that the layer below sends up.

Writes results.zarr, summary.json and recovery_map.png/.pdf to --out; `--draw` draws again from
the stored result, `--explore` also writes explorer.html, a page to click on the map's cells. About
two minutes on two cores; `--quick` under half a minute.
"""

import dataclasses
import pathlib
import time

import numpy as np
import xarray as xr

from relu_dynamics import explorer, figures, store
from relu_dynamics.config import Config
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.sweeps.plan import check_shard
from relu_dynamics.sweeps.sweep import sweep_grid


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    config: Config = Config()
    """The base config; the axes below override its learning_rate and initial_bias."""
    learning_rates: tuple[float, ...] = tuple(float(f"{r:.3g}") for r in np.geomspace(1e-3, 10, 16))
    """Learning rates of the map."""
    initial_biases: tuple[float, ...] = tuple(float(b) for b in range(-13, -1))
    """Initial biases of the map."""
    seeds: int = 32
    """Seeds a cell."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    lanes: int | None = None
    """Runs that one compiled call trains; part of the result's identity. None: by the config."""
    shard: str = "auto"
    """i/n: train only the blocks b with b % n == i into a shared --out. auto: by a SLURM array's
    variables or jax.distributed, else everything."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/recovery_map-<hash of the question>."""
    draw: bool = False
    """Only draw again from the stored result."""
    explore: bool = False
    """Also write explorer.html, a page to click on the map's cells (needs the extra `explorer`)."""


DEFAULTS = Options()
QUICK = Options(
    config=Config(steps=300, examples=512, probe_every=25),
    learning_rates=(0.003, 0.03, 0.3, 3.0),
    initial_biases=(-8.0, -6.0, -4.0, -2.0),
    seeds=8,
)


def run(options: Options) -> None:
    """Compute -> store -> draw."""
    if options.explore:
        explorer.check_bokeh()
    axes = {"learning_rate": options.learning_rates, "initial_bias": options.initial_biases}
    grid = make_grid(
        options.config, axes, options.seeds, root_seed=options.root_seed, lanes=options.lanes
    )
    out = options.out or pathlib.Path("runs") / f"recovery_map-{grid.hash[:12]}"
    if options.draw:
        result = store.open_result(out)
    else:
        started = time.monotonic()
        check_shard(options.shard)
        store.check_folder(out, grid)
        print(
            f"{grid.runs:,} runs of {grid.config.steps:,} steps; results in {out}",
            flush=True,
        )
        result = sweep_grid(grid, out=out, progress=True, shard=options.shard).load()
        summary = summarize(result)
        summary["wall_seconds"] = round(time.monotonic() - started, 2)
        summary["run_steps_per_second"] = round(
            grid.runs * grid.config.steps / float(result.attrs["seconds_training"])
        )
        store.write_summary(out, summary)
        print_summary(summary)
    paths = figures.save(figures.draw_recovery_map(result), out / "recovery_map", result.attrs)
    print("wrote", *paths)
    if options.explore:
        print("wrote", explorer.explore(result, out / "explorer.html"))


def summarize(result: xr.Dataset) -> dict:
    """The headline numbers, each with interval and counts."""
    counts = estimates.outcome_counts(result)
    window = {m: estimates.pooled(result, m, "learning_rate") for m in ("recovered", "died")}
    rates = result.learning_rate.values
    config = estimates.config_of(result)
    runs = int(np.prod([result.sizes[n] for n in (*estimates.axis_names(result), "seed")]))
    cells = estimates.cells(result, "recovered")
    return {
        "question": "P(a dead ReLU unit recovers | learning rate, initial bias)",
        "definition": estimates.MEASURES["recovered"].definition,
        "interval": cells.attrs["method"] + ", 95 %",
        "runs": runs,
        "steps": config["steps"],
        "run_steps": runs * config["steps"],
        "units": {name: int(counts[name].sum()) for name in counts},
        "cells_without_a_unit_at_risk": int((cells.trials == 0).sum()),
        "recovered_by_learning_rate": _rows(window["recovered"], rates),
        "died_by_learning_rate": _rows(window["died"], rates),
        "claims": [window_claim(window["recovered"]), rising_claim(window["died"])],
        "provenance": dict(result.attrs),
    }


def _rows(pooled: xr.Dataset, rates: np.ndarray) -> list[dict]:
    return [{"learning_rate": float(rate), **row(pooled, i)} for i, rate in enumerate(rates)]


def row(pooled: xr.Dataset, i: int) -> dict:
    """Estimate, interval and counts of one value of an axis."""
    at = pooled.isel({pooled.estimate.dims[0]: i})
    return {
        "estimate": float(at.estimate),
        "interval": [float(at.low), float(at.high)],
        "successes": int(at.successes),
        "trials": int(at.trials),
        "seeds": int(at.runs),
    }


def window_claim(recovered: xr.Dataset) -> dict:
    """Whether P(recover) rises with the learning rate and falls again, intervals apart."""
    best = int(np.argmax(recovered.estimate.fillna(-1).values))
    first, last = 0, recovered.sizes["learning_rate"] - 1
    apart = lambda i: float(recovered.high[i]) < float(recovered.low[best])  # noqa: E731
    rises, falls = apart(first), apart(last)
    at = {"lowest": first, "best": best, "highest": last}
    claim = claims.Claim(
        claim="a larger learning rate brings dead units back",
        source="learning rate",
        verdict="conditional" if rises and falls else "confirmed" if rises else "undecided",
        finding="P(recover) is "
        + "; ".join(_estimate_text(recovered, i) for i in at.values())
        + (": a window, intervals apart." if rises and falls else "."),
        estimate=float(recovered.estimate[best]),
        interval=(float(recovered.low[best]), float(recovered.high[best])),
        count=f"{int(recovered.trials[best]):,} units at risk, {int(recovered.runs[best])} seeds",
        definition=recovered.attrs["definition"],
        condition="below the rate at which it kills, and upstream layers learn" if falls else "",
        figure="recovery_map",
    )
    return claim.as_json() | {"at": _at(recovered, at)}


def _estimate_text(pooled: xr.Dataset, i: int) -> str:
    part = pooled.isel(learning_rate=i)
    return (
        f"{float(part.estimate):.3f} [{float(part.low):.3f}, {float(part.high):.3f}] at rate "
        f"{float(part.learning_rate):g} (n = {int(part.trials):,})"
    )


def _at(pooled: xr.Dataset, places: dict[str, int]) -> dict[str, dict]:
    return {
        name: {"learning_rate": float(pooled.learning_rate[i]), **row(pooled, i)}
        for name, i in places.items()
    }


def rising_claim(died: xr.Dataset) -> dict:
    """Whether units that began alive die more at the largest learning rate than at the least."""
    last = died.sizes["learning_rate"] - 1
    up = float(died.low[last]) > float(died.high[0])
    down = float(died.high[last]) < float(died.low[0])
    claim = claims.Claim(
        claim="a high learning rate kills living units",
        source="dying ReLU",
        verdict="confirmed" if up else "refuted" if down else "undecided",
        finding=f"P(die) is {_estimate_text(died, 0)}; {_estimate_text(died, last)}.",
        estimate=float(died.estimate[last]),
        interval=(float(died.low[last]), float(died.high[last])),
        count=f"{int(died.trials[last]):,} units alive at step 0, {int(died.runs[last])} seeds",
        definition=died.attrs["definition"],
        figure="recovery_map",
    )
    return claim.as_json() | {"at": _at(died, {"lowest": 0, "highest": last})}


def print_summary(summary: dict) -> None:
    """The headline as text."""
    total = sum(summary["units"].values())
    parts = ", ".join(f"{name.lower()} {n:,}" for name, n in summary["units"].items() if n)
    print(f"units with the initial bias: {total:,} = {parts}")
    print("learning rate   P(recover) [95 % interval]     n     P(die) [95 % interval]     n")
    rows = zip(summary["recovered_by_learning_rate"], summary["died_by_learning_rate"], strict=True)
    for recovered, died in rows:
        text = [
            f"{r['estimate']:.3f} [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}] {r['trials']:7d}"
            for r in (recovered, died)
        ]
        print(f"{recovered['learning_rate']:13.4g}   {text[0]}   {text[1]}")
    claims.print_claims(summary["claims"])
