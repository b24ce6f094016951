"""Treatment: what is done to chosen units of a model, and the proof that it acted.

    treated = treat("redraw", dead, params, memory, probe=probe, tx=tx, key=key, init=init)

A published method is a definition that chooses (`definitions.DEFINITIONS`) and a change here: ReDo
is dormant x redraw, ReGraMa gradient_dormant x redraw, self-normalized resets unusually_silent x
redraw.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.checks import check_choice
from relu_dynamics.inspection.seen import Seen
from relu_dynamics.inspection.surgery import (
    INCOMING,
    check_units,
    fresh_memory,
    masks,
    owned,
    spread,
)
from relu_dynamics.inspection.watch import Probe, leaf_name


class Chosen(NamedTuple):
    """What a change is made of."""

    key: jax.Array
    params: Any
    probe: Probe
    units: jax.Array  # bool [units]
    init: Callable[[jax.Array], Any] | None  # key -> parameters, the user's own
    seen: Seen | None  # of the parameters, over a data set


def redraw(chosen: Chosen) -> Any:
    """Own parameters as the model's own `init` draws them, outgoing weights 0: the network's
    output stays what it was where the outgoing kernel is known and the unit was silent."""
    own = masks(chosen.params, chosen.probe, chosen.units)
    params = jax.tree.map(jnp.where, own, _drawn(chosen), chosen.params)
    outgoing = masks(params, chosen.probe, chosen.units, ("outgoing",))
    return jax.tree.map(lambda leaf, gone: jnp.where(gone, 0, leaf), params, outgoing)


def kick(chosen: Chosen, by: float = 0.1) -> Any:
    """The last shift before the activation raised so that the largest z seen is `by` above the
    threshold."""
    if chosen.seen is None:
        raise ValueError("kick needs seen=look(...): what it is to lift the margin from.")
    lift = jnp.where(chosen.units, by - chosen.seen.margin, 0.0)
    parts = list(zip(chosen.probe.sites, chosen.probe.slices.values(), strict=True))
    path_of = owned(chosen.params, chosen.probe)

    def of_leaf(path, leaf):
        name, shape = leaf_name(path), jnp.shape(leaf)
        for one, part in parts:
            last = [link for link in one.links if link.role in ("bias", "shift")][-1:]
            for link in last:
                if path_of.get(link.leaf) == name:
                    own = spread(lift[part], link, shape, 0.0)
                    leaf = leaf if own is None else leaf + own.astype(leaf.dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(of_leaf, chosen.params)


def shrink(chosen: Chosen, keep: float = 0.8) -> Any:
    """Shrink and perturb (Ash & Adams 2020, arXiv 1910.08475) of own parameters: the share `keep`
    of them, and the rest of a new draw."""
    mix = lambda own, new, old: jnp.where(own, keep * old + (1 - keep) * new, old)  # noqa: E731
    own = masks(chosen.params, chosen.probe, chosen.units)
    return jax.tree.map(mix, own, _drawn(chosen), chosen.params)


def _drawn(chosen: Chosen) -> Any:
    if chosen.init is None:
        raise ValueError(
            "init=None: give the function key -> parameters that drew the model's parameters."
        )
    drawn = chosen.init(chosen.key)
    if jax.tree.structure(drawn) != jax.tree.structure(chosen.params):
        raise ValueError(
            f"init returned {jax.tree.structure(drawn)}, and the parameters are "
            f"{jax.tree.structure(chosen.params)}; return the same tree."
        )
    return drawn


class Change(NamedTuple):
    """One way to change units; a row of `CHANGES`."""

    make: Callable[..., Any]  # of (chosen, options): the new parameters
    writes: tuple[
        str, ...
    ] = ()  # roles of the entries that are new, be they the same number or not


CHANGES: dict[str, Change] = {
    "redraw": Change(redraw, (*INCOMING, "outgoing")),
    "kick": Change(kick),
    "shrink": Change(shrink, INCOMING),
}


class Treated(NamedTuple):
    """What a treatment did."""

    params: Any
    memory: Any  # the optimizer's state
    units: np.ndarray  # bool [units], chosen
    changed: dict[str, int]  # entries of each leaf that changed
    reset: dict[str, int]  # entries of each leaf of the optimizer's state that changed
    unreached: tuple[str, ...]  # sites with a chosen unit of which no own parameter changed

    def proof(self, before: Seen, after: Seen) -> dict[str, float]:
        """Did it act? Of the chosen units: how many, how many were dead before and are after, and
        the median margin, from what was seen of the same data before and after."""
        own = self.units
        return {
            "units": int(own.sum()),
            "dead_before": int((np.asarray(before.margin) <= 0)[own].sum()),
            "dead_after": int((np.asarray(after.margin) <= 0)[own].sum()),
            "margin_before": float(np.median(np.asarray(before.margin)[own])),
            "margin_after": float(np.median(np.asarray(after.margin)[own])),
        }


def treat(
    change: str,
    units: Any,
    params: Any,
    memory: Any,
    *,
    probe: Probe,
    tx: optax.GradientTransformation,
    key: jax.Array,
    init: Callable[[jax.Array], Any] | None = None,
    seen: Seen | None = None,
    **options: float,
) -> Treated:
    """Changes the parameters of chosen units, and makes the optimizer's memory of what changed
    fresh. Eager code: call it between jitted steps.

    Args:
      change: a name in `CHANGES`.
      units: bool [units], or numbers of units.
      params, memory: the trained parameters and `tx`'s state. The memory is None for none.
      probe: of the same parameters, by `find`.
      init: key -> parameters, as they were drawn; redraw and shrink need it.
      seen: what was seen of these parameters; kick needs it.
      options: of the change, as `by` and `keep`.

    Raises a ValueError that names what is missing or what cannot be done, before anything is.
    """
    check_choice("change", change, CHANGES)
    chosen = Chosen(key, params, probe, check_units(probe, units), init, seen)
    row = CHANGES[change]
    new = row.make(chosen, **options)
    written = masks(params, probe, chosen.units, row.writes)
    mask = jax.tree.map(lambda a, b, own: own | (a != b), new, params, written)
    new_memory = memory if memory is None else fresh_memory(tx, new, memory, mask)
    changed, path_of = _differing(params, new), owned(params, probe)
    unreached = tuple(
        one.name
        for one, part in zip(probe.sites, probe.slices.values(), strict=True)
        if bool(chosen.units[part].any())
        and not any(path_of.get(link.leaf) in changed for link in one.links)
    )
    return Treated(
        new,
        new_memory,
        np.asarray(chosen.units),
        changed,
        _differing(memory, new_memory),
        unreached,
    )


def _differing(old: Any, new: Any) -> dict[str, int]:
    """Entries that differ, by leaf."""
    leaves = jax.tree_util.tree_flatten_with_path(old)[0]
    counts = {
        leaf_name(path): int(jnp.sum(a != b))
        for (path, a), b in zip(leaves, jax.tree.leaves(new), strict=True)
    }
    return {name: count for name, count in counts.items() if count}
