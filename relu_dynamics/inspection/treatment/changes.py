"""Changes: what can be done to chosen units of a model. Pure: none acts in place."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from relu_dynamics.inspection.reading.seen import Seen
from relu_dynamics.inspection.reading.sites import Site
from relu_dynamics.inspection.reading.surgery import INCOMING, links, masks, per_entry
from relu_dynamics.inspection.reading.values import Link
from relu_dynamics.inspection.reading.watch import Probe

NEEDED = {
    "init": "the function key -> parameters that drew the model's parameters",
    "seen": "what was seen of these parameters, by look(...)",
    "see": "the function params -> Seen over a data set",
}

DEPTH = 20  # of a network of which all layers are fitted together


class Chosen(NamedTuple):
    """What a change is made of."""

    key: jax.Array
    params: Any
    probe: Probe
    units: jax.Array  # bool [units]
    init: Callable[[jax.Array], Any]  # key -> parameters, the user's own
    seen: Seen  # of the parameters, over a data set
    see: Callable[[Any], Seen]  # of other parameters, over the same


def redraw(chosen: Chosen) -> Any:
    """Own parameters as the model's own `init` draws them, outgoing weights 0: the network's
    output stays what it was where the outgoing kernel is known and the unit was silent."""
    return cut(chosen._replace(params=_mixed(chosen, 0.0)))


def cut(chosen: Chosen) -> Any:
    """Outgoing weights 0."""
    gone = masks(chosen.params, chosen.probe, chosen.units, ("outgoing",))
    return _of_numbers(lambda leaf, own: jnp.where(own, 0, leaf), chosen.params, gone)


def kick(chosen: Chosen, by: float = 0.1) -> Any:
    """The last shift before the activation moved so that the farthest z seen is `by` beyond the
    threshold: raised, or lowered where the activation passes on what is below it."""
    return _lifted(chosen.params, chosen, _sides(chosen.probe) * (by - chosen.seen.margin))


def shrink(chosen: Chosen, keep: float = 0.8) -> Any:
    """Shrink and perturb (Ash & Adams 2020, arXiv 1910.08475) of own parameters: the share `keep`
    of them, and the rest of a new draw."""
    return _mixed(chosen, keep)


def fitted(chosen: Chosen, rate: float = 0.5) -> Any:
    """Redrawn, then scaled and shifted so that z has deviation 1 over the data that `see` shows and
    is above the threshold for the share `rate` of them if it is Gaussian (after LSUV, arXiv
    1511.06422). It looks again after every fit, until all chosen units follow: those of deep layers
    do when those below them have. `Treated.proof` has the rate reached.

    Raises a ValueError that names the unit whose z did not follow.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate={rate} must be between 0 and 1.")
    params = redraw(chosen)
    limits = [jnp.full(one.count, one.threshold) for one in chosen.probe.sites]
    target = jnp.concatenate(limits) + _sides(chosen.probe) * norm.ppf(rate)
    for _ in range(DEPTH):
        seen = chosen.see(params)
        off = jnp.maximum(jnp.abs(_deviation(seen) - 1), jnp.abs(seen.mean - target))
        wrong = np.flatnonzero(np.asarray(chosen.units & ~(off < 0.01)))
        if not wrong.size:
            return params
        factor = jnp.where(chosen.units, 1 / _deviation(seen), 1.0)
        scales = per_entry(params, chosen.probe, factor, _affine, jnp.multiply, 1.0)
        params = _of_numbers(lambda leaf, by: (leaf * by).astype(leaf.dtype), params, scales)
        params = _lifted(params, chosen, target - factor * seen.mean)
    raise ValueError(
        f"unit {wrong[0]} was fitted to mean {target[wrong[0]]:.3g} and deviation 1 and has "
        f"{seen.mean[wrong[0]]:.3g} and {_deviation(seen)[wrong[0]]:.3g}: it has no bias of its "
        "own, or z is not linear in its parameters; leave its site out, or use redraw."
    )


def _sides(probe: Probe) -> jax.Array:
    """Where each unit's activation passes something on: 1 above its threshold, -1 below."""
    return jnp.concatenate([jnp.full(one.count, float(one.side)) for one in probe.sites])


def _deviation(seen: Seen) -> jax.Array:
    return jnp.sqrt(seen.squares / seen.examples)


def _affine(site: Site) -> list[Link]:
    """The parameters in which z is linear: behind a normalization its scale and shift."""
    late = links("scale", "shift")(site)
    return late or links("kernel", "bias")(site)


def _last_shift(site: Site) -> list[Link]:
    return links("bias", "shift")(site)[-1:]


def _lifted(params: Any, chosen: Chosen, by: jax.Array) -> Any:
    """z of the chosen units raised, by the last shift. Raises a ValueError for NaN."""
    wrong = np.flatnonzero(np.asarray(chosen.units & ~jnp.isfinite(by)))
    if wrong.size:
        raise ValueError(
            f"unit {wrong[0]} would be lifted by {by[wrong[0]]}: its z is not finite, its input "
            "does not vary, or no example was seen; leave it out, or redraw it."
        )
    lift = jnp.where(chosen.units, by, 0.0)
    lifts = per_entry(params, chosen.probe, lift, _last_shift, jnp.add, 0.0)
    return _of_numbers(lambda leaf, up: leaf + up.astype(leaf.dtype), params, lifts)


def _mixed(chosen: Chosen, keep: float) -> Any:
    """Own parameters: the share `keep` of the old, the rest of a new draw."""
    if not 0 <= keep <= 1:
        raise ValueError(f"keep={keep} must be between 0 and 1.")
    drawn = chosen.init(chosen.key)
    made, wanted = (
        (jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (drawn, chosen.params)
    )
    if made != wanted:
        raise ValueError(f"init returned {made}, and the parameters are {wanted}; return the same.")
    own = masks(chosen.params, chosen.probe, chosen.units)
    if keep == 0:  # 0 * NaN is NaN
        return jax.tree.map(jnp.where, own, drawn, chosen.params)
    mix = lambda old, own, new: jnp.where(own, keep * old + (1 - keep) * new, old)  # noqa: E731
    return _of_numbers(mix, chosen.params, own, drawn)


def _of_numbers(function: Callable, params: Any, *trees: Any) -> Any:
    """The parameters changed; leaves that are no real numbers (a dropout's key) stay."""
    real = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)  # noqa: E731
    keep = lambda leaf, *rest: function(leaf, *rest) if real(leaf) else leaf  # noqa: E731
    return jax.tree.map(keep, params, *trees)


class Change(NamedTuple):
    """One way to change units; a row of `CHANGES`."""

    make: Callable[..., Any]  # of (chosen, options): the new parameters
    needs: tuple[str, ...] = ()  # fields of `Chosen` that must be given
    writes: tuple[str, ...] = ()  # roles of entries that are new, even if the number is the same


CHANGES: dict[str, Change] = {
    "redraw": Change(redraw, ("init",), (*INCOMING, "outgoing")),
    "fitted": Change(fitted, ("init", "see"), (*INCOMING, "outgoing")),
    "shrink": Change(shrink, ("init",), INCOMING),
    "kick": Change(kick, ("seen",)),
    "cut": Change(cut, (), ("outgoing",)),
}
