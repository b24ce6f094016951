"""Monitor: the record of every unit of a model in training, carried in the train step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.engine import outcomes, probes
from relu_dynamics.engine.outcomes import History
from relu_dynamics.engine.probes import MarginBounds
from relu_dynamics.inspection.seen import Seen, as_statistics
from relu_dynamics.inspection.watch import Probe


class Monitor(NamedTuple):
    """What is known of a run so far; [units] but `step`. A pytree of arrays: it may live inside
    jit, scan and checkpoints."""

    step: jax.Array  # int32, train steps seen
    history: History  # births, deaths, time dead, margins: as of every run of the engine
    silent: jax.Array  # int32, steps since the unit last fired on a minibatch
    longest: jax.Array  # int32, its longest silence before this one
    margin_drift: jax.Array  # change of the margin between the last two evaluations


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
    bounds = margin_bounds(seen, statistics.margin)
    history = outcomes.start_history(statistics, bounds)
    none = jnp.zeros(seen.margin.shape, jnp.int32)
    return Monitor(jnp.int32(0), history, none, none, jnp.zeros(seen.margin.shape))


def update(monitor: Monitor, seen: Seen) -> Monitor:
    """The monitor after a train step that saw this of its minibatch. A step that was not looked at
    (no examples) changes nothing but the count."""
    looked = (seen.examples > 0).any()
    fired = seen.active > 0
    longest = jnp.where(fired, jnp.maximum(monitor.longest, monitor.silent), monitor.longest)
    silent = jnp.where(fired, 0, monitor.silent + 1)
    history = outcomes.observe_batch(monitor.history, monitor.step, None, as_statistics(seen))
    return Monitor(
        monitor.step + 1,
        jax.tree.map(lambda new, old: jnp.where(looked, new, old), history, monitor.history),
        jnp.where(looked, silent, monitor.silent),
        jnp.where(looked, longest, monitor.longest),
        monitor.margin_drift,
    )


def evaluate(
    monitor: Monitor, seen: Seen, *, since: int, tolerance: float = 1e-6, sustain: int = 1
) -> Monitor:
    """The monitor after a pass over the probe set, `since` steps after the last one; `tolerance`
    and `sustain` as in `Config`."""
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
    return monitor._replace(history=history, margin_drift=margin - monitor.history.margin)


def scalars(monitor: Monitor, probe: Probe) -> dict[str, Any]:
    """Numbers of every site for a logger, as {"site/dead": 0.25, ...}: the share of units dead at
    the last evaluation, deaths and recoveries so far (per unit), and the median margin."""
    out = {}
    for name, part in probe.slices.items():
        history = monitor.history
        out |= {
            f"{name}/dead": (~history.alive[part]).mean(),
            f"{name}/deaths": history.deaths[part].mean(),
            f"{name}/recoveries": history.recoveries[part].mean(),
            f"{name}/margin_median": jnp.median(history.margin[part]),
            f"{name}/silent_longest": monitor.silent[part].max(),
        }
    return out
