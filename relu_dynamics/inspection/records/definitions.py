"""Definitions: what people call a dead unit, side by side, each under its own name.

`DEFINITIONS` maps a name to a function of `Facts` that says which units are, bool [units].
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.inspection.reading.seen import Seen
from relu_dynamics.inspection.reading.watch import Probe
from relu_dynamics.inspection.records import silences
from relu_dynamics.inspection.records.utility import Usefulness
from relu_dynamics.statistics import exact_interval


class Facts(NamedTuple):
    """What a definition may depend on; [units] each, None where it is not known."""

    probe: Probe
    seen: Seen
    gradient: jax.Array | None = None  # norms, as `surgery.gradient_norms`
    silent: jax.Array | None = None  # steps since the unit last fired
    silences: jax.Array | None = None  # [units, bins], all its silences, as a monitor counts them
    usefulness: Usefulness | None = None  # of units that are replaced a few at a time


def layer_mean(probe: Probe, values: jax.Array) -> jax.Array:
    """The mean of a statistic over each unit's site, [units]; NaN does not count."""
    parts = [values[part] for part in probe.slices.values()]
    return jnp.concatenate([jnp.broadcast_to(jnp.nanmean(part), part.shape) for part in parts])


def layer_sum(probe: Probe, values: jax.Array) -> jax.Array:
    """The sum of a statistic over each unit's site, [units]; NaN does not count."""
    parts = [values[part] for part in probe.slices.values()]
    return jnp.concatenate([jnp.broadcast_to(jnp.nansum(part), part.shape) for part in parts])


def dead(facts: Facts) -> jax.Array:
    """No example above the threshold. NaN is never dead, and what was not looked at neither."""
    return (facts.seen.examples > 0) & (facts.seen.margin <= 0)


def flat(facts: Facts) -> jax.Array:
    """The activation's derivative is exactly 0 for every example."""
    seen = facts.seen
    return (seen.examples > 0) & (seen.sloped == 0) & (seen.invalid == 0)


def dormant(facts: Facts, tau: float = 0.1) -> jax.Array:
    """E|h| at most tau times its mean over the layer: the code of Sokar et al. 2023."""
    return facts.seen.size <= tau * layer_mean(facts.probe, facts.seen.size)


def dormant_of_sum(facts: Facts, tau: float = 0.1) -> jax.Array:
    """E|h| at most tau times its sum over the layer, as the text of Sokar et al. 2023 (arXiv
    2302.12902) has it: the scores of a layer then sum to 1, and more units fall below tau the
    wider the layer is."""
    return facts.seen.size <= tau * layer_sum(facts.probe, facts.seen.size)


def gradient_dormant(facts: Facts, tau: float = 0.01) -> jax.Array:
    """The norm of its own gradient at most tau times the layer's mean (after ReGraMa, arXiv
    2505.24061, which takes the gradient of z)."""
    gradient = _known(facts.gradient, "gradient_dormant", "gradient=gradient_norms(...)")
    return gradient <= tau * layer_mean(facts.probe, gradient)


def silent(facts: Facts, steps: int = 1000) -> jax.Array:
    """It has not fired for so many steps."""
    return _known(facts.silent, "silent", "silent=monitor.silent") >= steps


def unusually_silent(facts: Facts, rate: float = 0.01) -> jax.Array:
    """Silent for longer than it was in all but a share `rate` of its own silences: self-normalized
    resets (Farias & Jozefiak 2024, arXiv 2410.20098). The quantile is read from a histogram and
    rounded up, so a unit is named at most 1.46 times as late; one that never fired is never named.
    """
    now = _known(facts.silent, "unusually_silent", "silent=monitor.silent")
    past = _known(facts.silences, "unusually_silent", "silences=monitor.silences")
    return now > silences.quantile(past, 1 - rate)


def lowest_utility(facts: Facts, maturity: int = 100) -> jax.Array:
    """Of each site the units that are due for replacement: those of the lowest utility among those
    older than `maturity` steps (continual backpropagation, Dohare et al. 2024, Nature 632:768)."""
    record = _known(facts.usefulness, "lowest_utility", "usefulness=utility.update(...)")
    parts = []
    for part, due in zip(facts.probe.slices.values(), record.due, strict=True):
        mature = record.age[part] > maturity
        order = jnp.argsort(jnp.where(mature, record.utility[part], jnp.inf))
        parts.append(mature & (jnp.argsort(order) < jnp.floor(due)))
    return jnp.concatenate(parts)


class UnknownFactError(ValueError):
    """A definition needs a fact that is not known."""


def _known(value: Any, name: str, remedy: str) -> Any:
    if value is None:
        raise UnknownFactError(f"definition {name!r} needs more than what was seen; give {remedy}.")
    return value


DEFINITIONS: dict[str, Callable[..., jax.Array]] = {
    "dead": dead,
    "flat": flat,
    "dormant": dormant,
    "dormant_of_sum": dormant_of_sum,
    "gradient_dormant": gradient_dormant,
    "silent": silent,
    "unusually_silent": unusually_silent,
    "lowest_utility": lowest_utility,
}


def firing_rate_bound(seen: Seen, level: float = 0.95) -> np.ndarray:
    """Upper confidence bound on the share of examples for which each unit fires, [units].

    Of a unit that never fired on n independent examples it is close to 3 / n at level 0.95: silence
    on a sample is not death. (One-sided Clopper-Pearson. Positions of one image are not
    independent: of a convolution the bound is too low by up to their number.)
    """
    interval = exact_interval(seen.active, np.maximum(seen.examples, 1), 2 * level - 1)
    return np.where(np.asarray(seen.examples) > 0, interval.high, 1.0)


def table(facts: Facts) -> dict[str, Any]:
    """{definition: bool [units]} of all definitions for which enough is known."""
    rows = {}
    for name, definition in DEFINITIONS.items():
        with contextlib.suppress(UnknownFactError):
            rows[name] = definition(facts)
    return rows
