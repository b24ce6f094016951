"""Estimates: from a labelled result to probabilities with intervals, cell by cell.

Every estimate carries its interval, its counts and the definition it used. Inside a cell runs
(seeds) are independent and units of one run are not: intervals are clustered by run. Cells share
seeds, so anything pooled over cells is clustered by seed.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from relu_dynamics.checks import check_choice
from relu_dynamics.config import with_defaults
from relu_dynamics.engine.outcomes import DEFINITIONS, NEVER, Definition, Outcome
from relu_dynamics.statistics.clustered import clustered_interval
from relu_dynamics.statistics.incidence import (
    CumulativeIncidence,
    cumulative_incidence,
    stationary_share,
)
from relu_dynamics.statistics.intervals import Interval


class Measure(NamedTuple):
    """A proportion: which units count, which of them succeed, and in words."""

    among: Callable[[xr.Dataset], xr.DataArray] | None  # None: a proportion of runs
    succeeds: Callable[[xr.Dataset], xr.DataArray]
    definition: str
    label: str = ""  # on a figure or the explorer's page; empty: the name of the row


def _at_risk(result):
    return result.dead_at_start & ~result.near_zero_at_start & result.biased


def _began_alive(result):
    return ~result.dead_at_start & ~result.near_zero_at_start


def _all_units(result):
    return xr.ones_like(result.dead_at_start)


def _finite(result):
    return result.diverged_at == NEVER


MEASURES: dict[str, Measure] = {
    "recovered": Measure(
        _at_risk,
        lambda r: r.outcome == Outcome.RECOVERED_SUSTAINED,
        "dead on the probe set at step 0, alive again for at least the sustain steps; "
        "units of diverged runs count as not recovered",
        "P(dead unit recovers for good)",
    ),
    "recovered_ever": Measure(
        _at_risk,
        lambda r: r.first_recovery != NEVER,
        "dead on the probe set at step 0, alive at some later evaluation",
        "P(dead unit recovers at all)",
    ),
    "alive_at_end": Measure(
        _at_risk,
        lambda r: r.alive & _finite(r),
        "dead on the probe set at step 0, alive at the horizon; not in a diverged run",
        "P(dead unit is alive at the end)",
    ),
    "died": Measure(
        _began_alive,
        lambda r: (r.first_death != NEVER) & _finite(r),
        "alive on the probe set at step 0, dead at some later evaluation; not in a diverged run",
        "P(living unit dies)",
    ),
    "dead_at_end": Measure(
        _began_alive,
        lambda r: ~r.alive & _finite(r),
        "alive on the probe set at step 0, dead at the horizon; not in a diverged run",
        "P(living unit is dead at the end)",
    ),
    "born_dead": Measure(
        _all_units,
        lambda r: r.dead_at_start,
        "all units; dead on the probe set at step 0",
    ),
    "dead": Measure(
        _all_units,
        lambda r: ~r.alive & _finite(r),
        "all units; dead on the probe set at the horizon, not in a diverged run",
    ),
    "came_back": Measure(
        lambda r: _began_alive(r) & (r.first_death != NEVER),
        lambda r: r.first_recovery != NEVER,
        "alive on the probe set at step 0, dead at some later evaluation, alive again at an "
        "evaluation after that. The denominator depends on the treatment (other rates kill other "
        "units): compare arms by a fork of one cohort instead",
        "P(unit that died comes back)",
    ),
    "diverged": Measure(
        None,
        lambda r: ~_finite(r),
        "runs with a loss or margin that was not finite at some step",
        "P(run diverges)",
    ),
}


def axis_names(result: xr.Dataset) -> tuple[str, ...]:
    """The names of the grid's axes, in order."""
    return tuple(name for name, _ in _identity(result)["axes"])


def config_of(result: xr.Dataset) -> dict:
    """The base config of a stored result, as plain values."""
    return with_defaults(_identity(result)["config"])


def judgement(result: xr.Dataset) -> Definition:
    """What a stored result means by "dead"."""
    return DEFINITIONS[config_of(result)["definition"]]


def label(result: xr.Dataset, measure: str) -> str:
    """A measure as a figure calls it, in the words of the result's definition of "dead"."""
    return judgement(result).say(MEASURES[measure].label or measure.replace("_", " "))


def _identity(result: xr.Dataset) -> dict:
    """What names the grid of a result; raises a ValueError when the result does not carry it."""
    try:
        identity = json.loads(result.attrs["identity"])
    except (KeyError, TypeError, ValueError):
        identity = None
    if isinstance(identity, dict) and isinstance(identity.get("config"), dict):
        axes = identity.get("axes")
        if isinstance(axes, list) and all(isinstance(a, list) and len(a) == 2 for a in axes):
            return identity
    raise ValueError(
        "the result has no readable attribute `identity`; give one that a sweep returned."
    )


def counts(
    result: xr.Dataset, measure: str, layer: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(successes, trials) of a measure in every run, int64 [axes..., seed].

    `layer` (from 1) restricts it to the units of one hidden layer.
    """
    check_choice("measure", measure, tuple(MEASURES))
    kind = MEASURES[measure]
    runs = (*axis_names(result), "seed")
    succeeds = kind.succeeds(result)
    if kind.among is None:
        succeeds = succeeds.transpose(*runs).values.astype(np.int64)
        return succeeds, np.ones_like(succeeds)
    among = kind.among(result)
    if layer is not None:
        among = among & (result.unit_layer == layer)
    succeeds, among = (part.transpose(*runs, "unit").values for part in (succeeds, among))
    return (succeeds & among).sum(-1), among.sum(-1)


def per_seed(
    result: xr.Dataset, measure: str, cell: Mapping[str, float], layer: int | None = None
) -> np.ndarray:
    """A measure's proportion in every seed of one cell, float64 [seed]; nan where a seed has no
    unit in the denominator. `cell` gives the value of every axis; raises a ValueError for a value
    that the axis does not have."""
    place = []
    for name in axis_names(result):
        known = np.flatnonzero(np.isclose(result[name].values, cell[name], rtol=1e-9, atol=0))
        if not known.size:
            raise ValueError(f"{name}={cell[name]!r} is not a value of the axis {name}.")
        place.append(int(known[0]))
    successes, trials = (part[tuple(place)] for part in counts(result, measure, layer))
    return np.where(trials > 0, successes / np.maximum(trials, 1), np.nan)


def cells(
    result: xr.Dataset, measure: str, layer: int | None = None, level: float = 0.95
) -> xr.Dataset:
    """The estimate of a measure in every cell: estimate, low, high, successes, trials, runs.

    Intervals are exact ones (Clopper-Pearson) with the effective number of trials, clustered by
    run. A cell without a unit in the denominator has a NaN estimate and the interval [0, 1].
    """
    successes, trials = counts(result, measure, layer)
    interval = clustered_interval(successes, trials, level)
    return _dataset(result, axis_names(result), interval, measure, level)


def table(result: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """Every measure in every cell, one row each: the axes' values, measure, estimate, low, high,
    successes, trials, runs, level and the definition. `table(result).to_csv("cells.csv")` is for
    readers without xarray. A cell without a unit in the denominator has no estimate."""
    names, parts = axis_names(result), []
    for measure in MEASURES:
        found = cells(result, measure, level=level)
        part = found.reset_coords(drop=True).to_dataframe().reset_index()
        part.insert(len(names), "measure", measure)
        parts.append(part.assign(level=level, definition=found.attrs["definition"]))
    return pd.concat(parts, ignore_index=True)


def pooled(
    result: xr.Dataset,
    measure: str,
    axis: str,
    layer: int | None = None,
    level: float = 0.95,
) -> xr.Dataset:
    """The estimate of a measure for every value of one axis, pooled over the other axes and
    clustered by seed, because the cells of a seed share data, weights and batches."""
    names = axis_names(result)
    check_choice("axis", axis, names)
    others = tuple(i for i, name in enumerate(names) if name != axis)
    successes, trials = (part.sum(others) for part in counts(result, measure, layer))
    interval = clustered_interval(successes, trials, level, by="seed")
    return _dataset(result, (axis,), interval, measure, level)


def _dataset(result, names, interval, measure, level):
    data = {
        "estimate": (names, interval.estimate),
        "low": (names, interval.low),
        "high": (names, interval.high),
        "successes": (names, interval.successes),
        "trials": (names, interval.trials),
        "runs": (names, interval.clusters),
    }
    attributes = {
        "measure": measure,
        "definition": judgement(result).say(MEASURES[measure].definition),
        "judged": config_of(result)["definition"],
        "level": level,
        "method": interval.method,
    }
    return xr.Dataset(data, {name: result[name] for name in names}, attributes)


def as_json(cell: xr.Dataset) -> dict[str, Any]:
    """One cell of `cells` or one value of `pooled` as plain values for a summary, as
    `Interval.as_json` has them."""
    names = ("estimate", "low", "high", "successes", "trials", "runs")
    estimate, low, high, successes, trials, runs = (cell[name].values for name in names)
    method = cell.attrs["method"]
    return Interval(estimate, low, high, successes, trials, runs, method).as_json()


def incidence(
    result: xr.Dataset, cell: dict[str, float], times: ArrayLike | None = None
) -> CumulativeIncidence:
    """The cumulative incidence of first recovery (cause 1) and divergence (cause 2) among the
    units at risk of one cell, clustered by run. `cell` gives the value of every axis (nearest),
    `times` the steps to report (ascending; by default those of events)."""
    chosen = result.sel(cell, method="nearest")
    horizon = int(config_of(result)["steps"])
    recovered = chosen.first_recovery.transpose("seed", "unit").values
    diverged = np.broadcast_to(chosen.diverged_at.values[:, None], recovered.shape)
    time = np.full(recovered.shape, horizon)
    code = np.zeros(recovered.shape, int)
    for event, cause in ((diverged, 2), (recovered, 1)):  # recovery comes before divergence
        time = np.where(event != NEVER, event, time)
        code = np.where(event != NEVER, cause, code)
    code[~_at_risk(chosen).transpose("seed", "unit").values] = -1
    runs = np.broadcast_to(np.arange(code.shape[0])[:, None], code.shape)
    return cumulative_incidence(
        time.ravel(), code.ravel(), horizon, clusters=runs.ravel(), times=times
    )


def hazards(result: xr.Dataset, layer: int | None = None, windows: int = 4) -> xr.Dataset:
    """Death and recovery as one process: the hazard of each per evaluation, in equal windows of the
    run, the dead fraction at which they would balance, and the one observed. Dims [axes...,
    window].

    `death` is the share of living units that are dead at the next evaluation, `recovery` the share
    of dead units that are alive at it (each with _low, _high, _events and _exposure in
    unit-evaluations, clustered by seed). `stationary` = death / (death + recovery) is the dead
    fraction at which as many die as recover (with _low and _high, see `stationary_share`; nan where
    neither was seen). `observed` is the dead fraction at the window's last evaluation.
    Units of hidden layer `layer` (from 1; all by default) of runs that did not diverge; dead on the
    probe set, with the hysteresis of `outcomes`. Raises a ValueError when there are fewer
    evaluations than windows.
    """
    config, names = config_of(result), axis_names(result)
    evaluations = result.sizes["probe_step"] - 1
    if not 1 <= windows <= evaluations:
        raise ValueError(
            f"windows={windows} must be between 1 and the {evaluations} evaluations of a run."
        )
    widths = xr.DataArray(np.asarray(config["hidden"]), dims="layer")
    order = (*names, "seed", "probe_step")

    def units(name):  # from fractions of a layer to units, of the layers wanted
        values = (result[name] * widths).where(_finite(result), 0)
        values = values.sum("layer") if layer is None else values.sel(layer=layer)
        return np.rint(values.transpose(*order).values).astype(np.int64)[..., 1:]

    began = ~result.dead_at_start & _finite(result)
    began = began if layer is None else began & (result.unit_layer == layer)
    alive = began.sum("unit").transpose(*order[:-1]).values.astype(np.int64)
    size = sum(config["hidden"]) if layer is None else config["hidden"][layer - 1]
    total = size * _finite(result).transpose(*order[:-1]).values.astype(np.int64)
    died, back = units("layer_died"), units("layer_recovered")
    after = alive[..., None] + np.cumsum(back - died, axis=-1)
    before = np.concatenate([alive[..., None], after[..., :-1]], axis=-1)
    edges = np.linspace(0, evaluations, windows + 1).round().astype(int)

    def in_windows(values):  # [..., seed, evaluation] -> [..., window, seed]
        parts = [values[..., low:high].sum(-1) for low, high in zip(edges, edges[1:], strict=False)]
        return np.stack(parts, axis=-2)

    died, back = in_windows(died), in_windows(back)
    living, dead = in_windows(before), in_windows(total[..., None] - before)
    last = after[..., edges[1:] - 1].swapaxes(-1, -2)
    dims = (*names, "window")
    data = {}
    for name, events, exposure in (("death", died, living), ("recovery", back, dead)):
        interval = clustered_interval(events, exposure)
        parts = (interval.estimate, interval.low, interval.high, events.sum(-1), exposure.sum(-1))
        suffixes = ("", "_low", "_high", "_events", "_exposure")
        data |= {name + s: (dims, part) for s, part in zip(suffixes, parts, strict=True)}
    balance, low, high = stationary_share(died, living, back, dead)
    share = 1 - last.sum(-1) / np.maximum(total.sum(-1)[..., None], 1)
    data |= {
        "stationary": (dims, balance),
        "stationary_low": (dims, low),
        "stationary_high": (dims, high),
        "observed": (dims, share),
    }
    coordinates = {name: result[name] for name in names}
    coordinates["window"] = result.probe_step.values[edges[1:]]  # the step at which it ends
    attributes = {"layer": layer or "all", "steps_a_look": config["probe_every"]}
    return xr.Dataset(data, coordinates, attributes)


def hazard_as_json(window: xr.Dataset) -> dict[str, float]:
    """One cell and window of `hazards` as plain values for a summary: death and recovery with their
    intervals and events, and the dead fraction observed."""
    names = ("death", "death_low", "death_high", "recovery", "recovery_low", "recovery_high")
    row = {name: float(window[name]) for name in (*names, "observed")}
    return row | {name: int(window[name]) for name in ("death_events", "recovery_events")}


def outcome_counts(result: xr.Dataset) -> xr.Dataset:
    """How many of the units with the initial bias had each outcome, per cell; they add up to
    all of them. int64 [axes...] for every name of `Outcome`."""
    biased = result.outcome.isel(unit=np.flatnonzero(result.biased.values))
    return xr.Dataset(
        {o.name.lower(): (biased == o).sum(("seed", "unit")).astype(np.int64) for o in Outcome}
    )
