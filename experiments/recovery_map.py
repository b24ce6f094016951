"""The recovery map: P(a dead ReLU unit recovers | learning rate, initial bias), on real data.

Claim under test: "a larger learning rate brings dead units back", against "a larger learning
rate kills them". A quarter of the second hidden layer of a 64-32-32-10 network on digits starts
at a negative bias; the layer below it learns. Plain SGD, so the only way back is the drift
of the inputs that the layer below sends up.

Writes results.zarr, summary.json and recovery_map.png/.pdf to --out; `--draw` draws again from
the stored result, `--explore` also writes explorer.html, an interactive page.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
import xarray as xr

from relu_dynamics import explorer, figures, store
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks
from relu_dynamics.engine.imported import from_checkpoint, widths
from relu_dynamics.engine.outcomes import DEFINITIONS
from relu_dynamics.experiment import DataOptions, Experiment, Figure
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps.plan import check_shard
from relu_dynamics.sweeps.sweep import sweep_grid


@dataclasses.dataclass(frozen=True)
class Options(DataOptions):
    """What to run and where to put it."""

    config: Config = Config()
    """The base config; the axes below override its learning_rate and initial_bias."""
    learning_rates: tuple[float, ...] = tuple(float(f"{r:.3g}") for r in np.geomspace(1e-3, 10, 16))
    """Learning rates of the map."""
    initial_biases: tuple[float, ...] = tuple(float(b) for b in range(-13, -1))
    """Initial biases of the map."""
    seeds: int = 32
    """Seeds per cell."""
    lanes: int | None = None
    """Runs that one compiled call trains; part of the result's identity. None: by the config."""
    shard: str = "auto"
    """i/n: train only the blocks b with b % n == i into a shared --out. auto: by a SLURM array's
    variables or jax.distributed, else everything."""
    state: pathlib.Path | None = None
    """Parameters that every run begins with: a checkpoint of somebody's MLP, whose widths replace
    --config.hidden. The initial biases are then added to those of the biased units."""
    explore: bool = False
    """Also write explorer.html, an interactive page of the map (needs the extra `explorer`)."""


DEFAULTS = Options()
QUICK = Options(
    config=Config(steps=300, examples=512, probe_every=25),
    learning_rates=(0.003, 0.03, 0.3, 3.0),
    initial_biases=(-8.0, -6.0, -4.0, -2.0),
    seeds=8,
)


def make_grids(options: Options) -> dict[str, Grid]:
    """The one grid of the map; raises a ValueError for options that cannot run."""
    if options.explore:
        explorer.check_bokeh()
    check_shard(options.shard)
    axes = {"learning_rate": options.learning_rates, "initial_bias": options.initial_biases}
    config, start = options.config, _start(options)
    if start is not None:
        config = dataclasses.replace(config, hidden=widths(start))
    grid = make_grid(
        config, axes, options.seeds, root_seed=options.root_seed, lanes=options.lanes, state=start
    )
    return {"map": grid}


def _start(options: Options) -> Mapping | None:
    return None if options.state is None else from_checkpoint(options.state)


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> xr.Dataset:
    """The result of the map, or of a shard of it."""
    return sweep_grid(grids["map"], out=out, progress=True, shard=options.shard).load()


def summarize(options: Options, result: xr.Dataset) -> dict:
    """The headline numbers, each with interval and counts."""
    counts = estimates.outcome_counts(result)
    window = {m: estimates.pooled(result, m, "learning_rate") for m in ("recovered", "died")}
    steps = estimates.config_of(result)["steps"]
    runs = int(np.prod([result.sizes[n] for n in (*estimates.axis_names(result), "seed")]))
    cells = estimates.cells(result, "recovered")
    return {
        "definition": cells.attrs["definition"],
        "interval": window["recovered"].attrs["method"] + ", 95 %",
        "runs": runs,
        "steps": steps,
        "run_steps": runs * steps,
        "run_steps_per_second": round(runs * steps / float(result.attrs["seconds_training"])),
        "units": {name: int(counts[name].sum()) for name in counts},
        "cells_without_a_unit_at_risk": int((cells.trials == 0).sum()),
        "recovered_by_learning_rate": _rows(window["recovered"]),
        "died_by_learning_rate": _rows(window["died"]),
        "claims": [
            window_claim(window["recovered"]),
            rising_claim(window["died"], tasks.label_of(estimates.config_of(result)["task"])),
        ],
    }


def _rows(pooled: xr.Dataset) -> list[dict]:
    return [_row(pooled, i) for i in range(pooled.sizes["learning_rate"])]


def _row(pooled: xr.Dataset, i: int) -> dict:
    at = pooled.isel(learning_rate=i)
    return {"learning_rate": float(at.learning_rate), **estimates.as_json(at)}


def window_claim(recovered: xr.Dataset) -> Claim:
    """Whether P(recover) rises with the learning rate and falls again, intervals apart."""
    best = int(np.argmax(recovered.estimate.fillna(-1).values))
    first, last = 0, recovered.sizes["learning_rate"] - 1
    apart = lambda i: float(recovered.high[i]) < float(recovered.low[best])  # noqa: E731
    rises, falls = apart(first), apart(last)
    at = {"lowest": first, "best": best, "highest": last}
    return Claim(
        claim=_said(recovered, "a larger learning rate brings dead units back"),
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
        more={"at": _at(recovered, at)},
    )


def _said(pooled: xr.Dataset, text: str) -> str:
    return DEFINITIONS[pooled.attrs["judged"]].say(text)


def _estimate_text(pooled: xr.Dataset, i: int) -> str:
    part = pooled.isel(learning_rate=i)
    return (
        f"{float(part.estimate):.3f} [{float(part.low):.3f}, {float(part.high):.3f}] at rate "
        f"{float(part.learning_rate):g} (n = {int(part.trials):,})"
    )


def _at(pooled: xr.Dataset, places: dict[str, int]) -> dict[str, dict]:
    return {name: _row(pooled, i) for name, i in places.items()}


def rising_claim(died: xr.Dataset, task: str) -> Claim:
    """Whether units that began alive die more at the largest learning rate than at the least, on a
    task (in words)."""
    last = died.sizes["learning_rate"] - 1
    up = float(died.low[last]) > float(died.high[0])
    down = float(died.high[last]) < float(died.low[0])
    rates = " against ".join(f"{float(died.learning_rate[i]):g}" for i in (last, 0))
    return Claim(
        claim=_said(died, f"a high learning rate kills living units ({task}, {rates})"),
        source="dying ReLU",
        verdict="confirmed" if up else "refuted" if down else "undecided",
        finding=f"P(die) is {_estimate_text(died, 0)}; {_estimate_text(died, last)}.",
        estimate=float(died.estimate[last]),
        interval=(float(died.low[last]), float(died.high[last])),
        count=f"{int(died.trials[last]):,} units alive at step 0, {int(died.runs[last])} seeds",
        definition=died.attrs["definition"],
        figure="recovery_map",
        more={"at": _at(died, {"lowest": 0, "highest": last})},
    )


def print_summary(summary: Mapping) -> None:
    """The headline as text."""
    total = sum(summary["units"].values())
    parts = ", ".join(f"{name.lower()} {n:,}" for name, n in summary["units"].items() if n)
    print(f"units with the initial bias: {total:,} = {parts}")
    print("learning rate   P(recover) [95 % interval]     n     P(die) [95 % interval]     n")
    rows = zip(summary["recovered_by_learning_rate"], summary["died_by_learning_rate"], strict=True)
    for both in rows:
        text = "   ".join(_row_text(row) for row in both)
        print(f"{both[0]['learning_rate']:13.4g}   {text}")
    claims.print_claims(summary["claims"])


def _row_text(row: Mapping) -> str:
    estimate = "    -" if row["estimate"] is None else f"{row['estimate']:.3f}"
    low, high = row["interval"]
    return f"{estimate} [{low:.3f}, {high:.3f}] {row['trials']:7d}"


def explore(options: Options, out: pathlib.Path) -> None:
    """Writes the interactive page of the stored map where it was asked for."""
    if options.explore:
        page = explorer.explore(store.open_result(out), out / "explorer.html", _start(options))
        print("wrote", page)


EXPERIMENT = Experiment(
    name="recovery_map",
    definitions=tuple(DEFINITIONS),
    question="P(a dead ReLU unit recovers | learning rate, initial bias)",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    paper={
        "learning_rates": [float(f"{r:.4g}") for r in np.geomspace(1e-3, 10, 64)],
        "initial_biases": np.linspace(-13, -2, 64).round(4).tolist(),
        "seeds": 256,
    },
    grids=make_grids,
    train=train,
    analyse=summarize,
    report=print_summary,
    stored=store.open_result,
    figures={
        "recovery_map": Figure(
            "P(a dead unit recovers), P(a living unit dies) and P(a run diverges) over learning "
            "rate and initial bias.",
            figures.draw_recovery_map,
        )
    },
    finish=explore,
)
