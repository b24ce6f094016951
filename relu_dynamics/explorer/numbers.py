"""Numbers: what the page shows of a result."""

import itertools
from typing import Any

import numpy as np
import xarray as xr

from relu_dynamics import figures, statistics
from relu_dynamics.config import LABELS
from relu_dynamics.engine.outcomes import Outcome
from relu_dynamics.statistics import estimates

MOST_EVALUATIONS = 100  # of a curve or ribbon; of longer runs every k-th evaluation is shown

LEVEL = 0.95

OUTCOMES = {
    Outcome.RECOVERED_SUSTAINED: "recovered, sustained",
    Outcome.RECOVERED_UNCONFIRMED: "recovered, unconfirmed",
    Outcome.RECOVERED_TRANSIENT: "recovered, transient",
    Outcome.STILL_DEAD: "still dead",
    Outcome.DIVERGED: "diverged",
    Outcome.AMBIGUOUS: "ambiguous",
    Outcome.NOT_AT_RISK: "not at risk",
}

PROVENANCE = (
    "grid_hash", "git_commit", "command", "versions", "python", "device", "machine", "created",
    "definition_of_dead", "seed_sharing",
)  # fmt: skip


def axis_of(result: xr.Dataset, axis: str) -> dict:
    values = [f"{value:g}" for value in result[axis].values]
    if len(set(values)) < len(values):
        values = [repr(float(value)) for value in result[axis].values]
    return {"label": LABELS[axis], "values": values}


def rounded(values: Any) -> Any:
    """Nested lists of numbers of 4 significant digits; None where a number is not finite."""
    if isinstance(values, np.ndarray):
        return rounded(values.tolist())
    if isinstance(values, list):
        return [rounded(value) for value in values]
    if isinstance(values, int):
        return values
    return float(f"{values:.4g}") if np.isfinite(values) else None


def measure_of(result: xr.Dataset, measure: str) -> dict:
    """Rows [cells] of the numbers of `estimates.cells`, and which cells are doubtful."""
    found = estimates.cells(result, measure, level=LEVEL)
    names = ("estimate", "low", "high", "successes", "trials", "runs")
    rows = {name: rounded(found[name].values.ravel()) for name in names}
    doubtful = (found.trials < figures.FEW_TRIALS) | (
        found.high - found.low > figures.WIDE_INTERVAL
    )
    rows["doubtful"] = (doubtful & (found.trials > 0)).values.ravel().tolist()
    return rows | {"method": found.attrs["method"]}


def shown_steps(result: xr.Dataset) -> np.ndarray:
    """Steps of the evaluations that are shown: the first, every k-th and the last."""
    steps = result.probe_step.values
    return steps[shown_evaluations(len(steps))]


def shown_evaluations(evaluations: int) -> np.ndarray:
    every = -(-evaluations // MOST_EVALUATIONS)
    return np.unique([*range(0, evaluations, every), evaluations - 1])


def cells_of(result: xr.Dataset) -> list[dict[str, float]]:
    axes = estimates.axis_names(result)
    values = [result[axis].values.tolist() for axis in axes]
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def incidence(result: xr.Dataset) -> list[dict]:
    """For every cell, the cumulative incidence of both causes with intervals, [evaluations]
    each."""
    few = result[["first_recovery", "diverged_at", "dead_at_start", "near_zero_at_start"]]
    evaluations = shown_steps(result)
    return [_curves(few, cell, evaluations) for cell in cells_of(result)]


def _curves(result: xr.Dataset, cell: dict[str, float], evaluations: np.ndarray) -> dict:
    found = estimates.incidence(result, cell, evaluations)
    bands = [list(part) for part in zip(found.incidence, found.low, found.high, strict=True)]
    if len(bands) < 2:  # no run diverged: the interval of a count of 0 of the same runs
        none = statistics.clustered_interval(*_nothing(result, cell), LEVEL)
        bands.append(
            [np.full(len(evaluations), end) for end in (none.estimate, none.low, none.high)]
        )
    return {
        "recovered": rounded([row.tolist() for row in bands[0]]),
        "diverged": rounded([row.tolist() for row in bands[1]]),
        "observed": found.at_risk.tolist(),
        "trials": int(found.trials),
        "runs": int(found.clusters),
        "method": found.method,
    }


def _nothing(result: xr.Dataset, cell: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """(zeros, units at risk) of the runs of a cell, [seeds]."""
    chosen = result.sel(cell)
    units = at_risk(chosen).sum("unit").values.ravel()
    return np.zeros_like(units), units


def outcomes(result: xr.Dataset) -> dict:
    """For every outcome, rows [cells] of its count and of its share with its interval."""
    axes = estimates.axis_names(result)
    biased = result.outcome.isel(unit=np.flatnonzero(result.biased.values))
    rows = {}
    for outcome in OUTCOMES:
        counts = (biased == outcome).sum("unit").transpose(*axes, "seed").values
        share = statistics.clustered_interval(counts, biased.sizes["unit"], LEVEL)
        rows[OUTCOMES[outcome]] = {
            "count": counts.sum(-1).ravel().tolist(),
            "share": rounded([part.ravel().tolist() for part in share[:3]]),
        }
    return {"rows": rows, "units": biased.sizes["unit"] * result.sizes["seed"]}


def caption(result: xr.Dataset) -> str:
    """What was run, in one sentence."""
    config = estimates.config_of(result)
    cells = np.prod([result.sizes[axis] for axis in estimates.axis_names(result)])
    batch = "all examples" if config["batch_size"] is None else f"batch {config['batch_size']}"
    return (
        f"Task {config['task']}, hidden layers {'-'.join(map(str, config['hidden']))}, "
        f"{config['optimizer']}, {batch}, {config['steps']} steps; {cells} cells, "
        f"{result.sizes['seed']} seeds each. "
        f"{config['definition'].capitalize()}: {estimates.judgement(result).rule}, "
        f"{config['probe_size'] or config['examples']} examples. "
        f"For good: for {config['sustain']} steps."
    )


def at_risk(result: xr.Dataset) -> xr.DataArray:
    return result.dead_at_start & ~result.near_zero_at_start & result.biased
