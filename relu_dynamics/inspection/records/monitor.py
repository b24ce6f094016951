"""Monitor: the record of every unit of a model in training, carried in the train step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.engine import outcomes, probes
from relu_dynamics.engine.outcomes import NEVER, History
from relu_dynamics.engine.probes import MarginBounds
from relu_dynamics.inspection.reading.seen import Seen, as_statistics
from relu_dynamics.inspection.reading.watch import Probe
from relu_dynamics.inspection.records import silences
from relu_dynamics.inspection.records.causes import Causes

DEAD = "no example of the last evaluation above the threshold"
CAUSES = (*Causes._fields, "unaccounted")  # names of the numbers in `Monitor.cause`


class Monitor(NamedTuple):
    """What is known of a run so far; [units] but `step`. A pytree of arrays: it may live inside
    jit, scan and checkpoints. Steps of events are NEVER = -1 where there was none."""

    step: jax.Array  # int32, train steps seen
    history: History  # births, deaths, time dead, margins: as of every run of the engine
    examples: jax.Array  # int32, of the last evaluation
    silent: jax.Array  # int32, steps since the unit last fired on a minibatch
    silences: jax.Array  # int32 [units, bins], its times from one firing to the next
    margin_drift: jax.Array  # change of the margin between the last two evaluations
    moved: Causes  # what `account` was told of since the last evaluation
    last_death: jax.Array  # int32, step of the evaluation that found it dead
    cause: jax.Array  # int8, number in `CAUSES` of what lowered the margin most before it; or -1
    cause_parts: jax.Array  # float32 [5, units], change of the margin by each of `CAUSES` then


def _seen_margin(seen: Seen, otherwise: Any) -> jax.Array:
    """The margins, and another number for units that were not seen (a branch not taken)."""
    return jnp.where(seen.examples > 0, seen.margin, otherwise)


def margin_bounds(seen: Seen, margin: jax.Array) -> MarginBounds:
    """What the margin may be for rounding: an estimate, not a bound, for the sizes of the terms of
    z are not known."""
    size = jnp.maximum(jnp.abs(seen.margin), jnp.abs(seen.minimum))
    error = 64 * probes.UNIT_ROUNDOFF * jnp.where(seen.examples > 0, size, 0)
    return MarginBounds(margin - error, margin + error)


def start(seen: Seen) -> Monitor:
    """The monitor before the first step, from what was seen of the probe set."""
    statistics = as_statistics(seen)._replace(margin=_seen_margin(seen, 0.0))
    shape = seen.margin.shape
    none, zero = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
    return Monitor(
        step=jnp.int32(0),
        history=outcomes.start_history(statistics, margin_bounds(seen, statistics.margin)),
        examples=seen.examples,
        silent=none,
        silences=silences.none(*shape),
        margin_drift=zero,
        moved=Causes(zero, zero, zero, zero),
        last_death=jnp.full(shape, NEVER, jnp.int32),
        cause=jnp.full(shape, -1, jnp.int8),
        cause_parts=jnp.zeros((len(CAUSES), *shape)),
    )


def update(monitor: Monitor, seen: Seen) -> Monitor:
    """The monitor after a train step that saw this of its minibatch. A step that was not looked at
    (no examples) changes nothing but the count."""
    looked = (seen.examples > 0).any()
    fired = seen.active > 0
    after = monitor._replace(
        history=outcomes.observe_batch(monitor.history, monitor.step, None, as_statistics(seen)),
        silent=jnp.where(fired, 0, monitor.silent + 1),
        silences=silences.counted(monitor.silences, monitor.silent + 1, fired),
    )
    kept = jax.tree.map(lambda new, old: jnp.where(looked, new, old), after, monitor)
    return kept._replace(step=monitor.step + 1)


def account(monitor: Monitor, why: Causes) -> Monitor:
    """The monitor that was told what moved the margins: after every step by `causes.causes`, or
    before an evaluation, for all steps since the last one, by `causes.account`."""
    return monitor._replace(moved=jax.tree.map(jnp.add, monitor.moved, why))


def evaluate(
    monitor: Monitor, seen: Seen, *, since: int, tolerance: float = 1e-6, sustain: int = 1
) -> Monitor:
    """The monitor after a pass over the probe set, `since` steps after the last one; `tolerance`
    and `sustain` as in `Config`.

    Of every unit found to have died it keeps the cause: the part that lowered its margin most since
    the last evaluation. What `account` was not told of is a part too, `unaccounted`.
    """
    margin = _seen_margin(seen, monitor.history.margin)
    history = outcomes.observe_probe(
        monitor.history,
        monitor.step,
        margin,
        margin_bounds(seen, margin),
        since=since,
        tolerance=tolerance,
        sustain=sustain,
    )
    drift, died = margin - monitor.history.margin, history.deaths > monitor.history.deaths
    parts = jnp.stack([*monitor.moved, drift - monitor.moved.total])
    return monitor._replace(
        history=history,
        examples=seen.examples,
        margin_drift=drift,
        moved=jax.tree.map(jnp.zeros_like, monitor.moved),
        last_death=jnp.where(died, monitor.step, monitor.last_death),
        cause=jnp.where(died, jnp.argmin(parts, 0), monitor.cause).astype(jnp.int8),
        cause_parts=jnp.where(died, parts, monitor.cause_parts),
    )


# For loggers and notebooks ---------------------------------------------------------------------


def _per_unit(monitor: Monitor) -> dict[str, np.ndarray]:
    history = monitor.history
    columns = {
        "dead": ~history.alive,
        "margin": history.margin,
        "margin_drift": monitor.margin_drift,
        "steps_dead": history.steps_dead,
        "deaths": history.deaths,
        "recoveries": history.recoveries,
        "silent": monitor.silent,
    }
    return {name: np.asarray(column) for name, column in columns.items()}


def scalars(monitor: Monitor, probe: Probe) -> dict[str, float]:
    """Plain numbers of every site for a logger, as {"site/dead": 0.25, ...}.

    `dead` is the share of its `units` that are dead: no example of the last evaluation above the
    threshold. All units are counted, so the share has no error of sampling units; that of sampling
    `examples` is `dead_fires_below`, the largest share of examples for which a dead unit may still
    fire, at 95 % confidence (0 where none is dead). Deaths, recoveries and steps dead are means per
    unit, margin and drift medians, and `died_of_...` counts units by the cause of their last death.
    """
    out, columns = {}, _per_unit(monitor)
    cause, examples = np.asarray(monitor.cause), np.asarray(monitor.examples)
    for name, part in probe.slices.items():
        site = {key: column[part] for key, column in columns.items()}
        fewest = examples[part][site["dead"]].min(initial=np.iinfo(np.int32).max)
        numbers = {
            "dead": site["dead"].mean(),
            "units": site["dead"].size,
            "examples": examples[part].max(),
            "dead_fires_below": 1 - 0.05 ** (1 / max(fewest, 1)) if site["dead"].any() else 0.0,
            **{key: site[key].mean() for key in ("deaths", "recoveries", "steps_dead")},
            "margin_median": np.median(site["margin"]),
            "margin_drift_median": np.median(site["margin_drift"]),
            "silent_longest": site["silent"].max(),
            **{f"died_of_{key}": (cause[part] == k).sum() for k, key in enumerate(CAUSES)},
        }
        out |= {f"{name}/{key}": float(value) for key, value in numbers.items()}
    return out


def histograms(monitor: Monitor, probe: Probe) -> dict[str, np.ndarray]:
    """{"site/margin": [units of the site], ...} for the histogram writer of a logger: margins,
    their drift, steps dead, deaths, recoveries, and steps of silence. Numbers that are not finite
    are left out, since no writer takes them."""
    columns = _per_unit(monitor)
    del columns["dead"]
    return {
        f"{name}/{key}": column[part][np.isfinite(column[part])]
        for name, part in probe.slices.items()
        for key, column in columns.items()
    }


def to_xarray(monitor: Monitor, probe: Probe) -> Any:
    """The record as an `xarray.Dataset` over `unit`, with the site of every unit and its number
    there as coordinates."""
    import xarray as xr  # slow to import, and only a reader needs it

    sites = [
        (name, k) for name, part in probe.slices.items() for k in range(part.stop - part.start)
    ]
    history = monitor.history
    columns = _per_unit(monitor) | {
        "first_death": history.first_death,
        "last_death": monitor.last_death,
        "first_recovery": history.first_recovery,
        "examples": monitor.examples,
        "cause": np.array([*CAUSES, ""], object)[np.asarray(monitor.cause)].astype(str),
    }
    data = xr.Dataset(
        {name: ("unit", np.asarray(column)) for name, column in columns.items()},
        {
            "unit": np.arange(probe.units),
            "site": ("unit", [name for name, _ in sites]),
            "number": ("unit", [k for _, k in sites]),
            "part": list(CAUSES),
        },
        {"step": int(monitor.step), "dead": DEAD, "no_event": NEVER, "steps": "training steps"},
    )
    parts = xr.DataArray(np.asarray(monitor.cause_parts), dims=("part", "unit"))
    return data.assign(cause_parts=parts)
