"""Surgery: the entries of parameters and of an optimizer's state that belong to chosen units.

`units` is bool, [units of all sites], as the axis of a `Probe`. Parameters may be the tree that
`find` was given, or the part of it that is trained: leaves are known by the end of their path.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.inspection.sites import Site
from relu_dynamics.inspection.values import Link
from relu_dynamics.inspection.watch import Probe, leaf_name

INCOMING = ("kernel", "bias", "scale", "shift", "centre")


def check_units(probe: Probe, units: Any) -> jax.Array:
    """`units` as bools [units of the probe]; numbers of units are accepted. Raises a ValueError
    that names what is wrong."""
    if isinstance(units, jax.Array) and units.dtype == bool and units.shape == (probe.units,):
        return units  # traced too
    array = np.asarray(units)
    if array.dtype == bool and array.shape == (probe.units,):
        return jnp.asarray(array)
    if array.dtype == bool or array.dtype.kind not in "iu":
        raise ValueError(
            f"units has dtype {array.dtype} and shape {array.shape}; give bools of shape "
            f"({probe.units},), or numbers of units."
        )
    wrong = array[(array < 0) | (array >= probe.units)]
    if wrong.size:
        raise ValueError(f"units names unit {wrong[0]}; there are 0 to {probe.units - 1}.")
    return jnp.zeros(probe.units, bool).at[array].set(True)


def owned(tree: Any, probe: Probe) -> dict[str, str]:
    """{leaf that a link names: the path of that leaf in `tree`}, for a tree that is what `find` was
    given, or a part of it."""
    names = [leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    found = {}
    for link in (link for one in probe.sites for link in (*one.links, *one.outgoing)):
        ends = [name for name in names if f"/{link.leaf}".endswith(f"/{name}")]
        if ends:
            found[link.leaf] = max(ends, key=len)
    return found


def _links(site: Site, roles: Sequence[str]) -> list[Link]:
    return [link for link in (*site.links, *site.outgoing) if link.role in roles]


def _entries(link: Link, shape: tuple[int, ...], count: int) -> tuple[int, int] | None:
    """(entries of the leaf on the axes that count units, units that the link feeds); None where
    the leaf does not tell the units apart."""
    total = int(np.prod([shape[k] for k in link.axes], initial=1))
    units = count - link.first if link.units is None else link.units
    return (total, units) if link.axes and link.start + units <= total else None


def spread(values: jax.Array, link: Link, shape: tuple[int, ...], fill: Any) -> jax.Array | None:
    """A value per unit, [units of the site], over a leaf of this shape; `fill` elsewhere. None
    where the leaf does not tell the units apart."""
    found = _entries(link, shape, len(values))
    if found is None:
        return None
    total, units = found
    line = jnp.full(total, fill, values.dtype)
    line = line.at[link.start : link.start + units].set(values[link.first : link.first + units])
    sizes = [shape[k] for k in link.axes]
    ordered = line.reshape(sizes).transpose(np.argsort(link.axes))
    whole = [size if k in link.axes else 1 for k, size in enumerate(shape)]
    return jnp.broadcast_to(ordered.reshape(whole), shape)


def masks(params: Any, probe: Probe, units: Any, roles: Sequence[str] = INCOMING) -> Any:
    """A tree like `params` of bools: the entries that belong to these units."""
    units, path_of = check_units(probe, units), owned(params, probe)
    parts = list(zip(probe.sites, probe.slices.values(), strict=True))

    def of_leaf(path, leaf):
        name, shape = leaf_name(path), jnp.shape(leaf)
        mask = jnp.zeros(shape, bool)
        for one, part in parts:
            for link in _links(one, roles):
                if path_of.get(link.leaf) == name:
                    own = spread(units[part], link, shape, False)
                    mask = mask if own is None else mask | own
        return mask

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def per_unit(tree: Any, probe: Probe, roles: Sequence[str] = INCOMING) -> jax.Array:
    """Sums of the entries of a tree like the parameters that belong to each unit, [units]."""
    leaves = {leaf_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}
    path_of = owned(tree, probe)
    totals = []
    for one in probe.sites:
        total = jnp.zeros(one.count)
        for link in _links(one, roles):
            name = path_of.get(link.leaf)
            if name is None:
                continue
            leaf = leaves[name]
            found = _entries(link, jnp.shape(leaf), one.count)
            if found is None:
                continue
            entries, units = found
            rows = jnp.moveaxis(leaf, link.axes, range(len(link.axes))).reshape(entries, -1)
            own = rows[link.start : link.start + units].sum(1)
            total = total.at[link.first : link.first + units].add(own)
        totals.append(total)
    return jnp.concatenate(totals)


def gradient_norms(gradients: Any, probe: Probe) -> jax.Array:
    """Norm of the loss gradient of each unit's own parameters, [units]. `gradients` is a tree like
    the parameters."""
    return jnp.sqrt(per_unit(jax.tree.map(jnp.square, gradients), probe))


# The optimizer's state ------------------------------------------------------------------------


def fresh_memory(tx: optax.GradientTransformation, params: Any, memory: Any, mask: Any) -> Any:
    """The optimizer's state with the masked entries as `tx.init(params)` makes them.

    Holds for every state whose leaves are shaped like the parameters. Counts are shared by all
    parameters and stay, so a reset Adam moves too far at first: see `correct_young`. Raises a
    ValueError that names the leaf where a state is kept in another form (factored moments).
    """
    nothing = lambda leaf: jnp.zeros(jnp.shape(leaf), bool)  # noqa: E731
    try:
        where = optax.tree_map_params(
            tx, lambda _, own: own, memory, mask, transform_non_params=nothing
        )
    except (ValueError, TypeError, AttributeError):  # a state without optax's placeholders
        where = _by_path(memory, mask)
    fresh, leaves = tx.init(params), jax.tree_util.tree_flatten_with_path(memory)[0]
    for (path, old), own in zip(leaves, jax.tree.leaves(where), strict=True):
        if jnp.shape(old) != jnp.shape(own):
            raise ValueError(
                f"optimizer state {leaf_name(path)!r} has shape {jnp.shape(old)}, and its "
                f"parameter {jnp.shape(own)}: it does not keep a number for every entry, so the "
                "units' part of it is not defined; use another optimizer, or reset all of its "
                "state."
            )
    keep = lambda old, new, own: jnp.where(own, new, old) if jnp.ndim(own) else old  # noqa: E731
    return jax.tree.map(keep, memory, fresh, where)


def _by_path(memory: Any, mask: Any) -> Any:
    """Masks of a state's leaves by the end of their paths."""
    known = {leaf_name(path): own for path, own in jax.tree_util.tree_flatten_with_path(mask)[0]}

    def of_leaf(path, leaf):
        name = leaf_name(path)
        for parameter, own in known.items():
            if name == parameter or name.endswith("/" + parameter):
                return own
        if jnp.ndim(leaf):
            raise ValueError(
                f"optimizer state {name!r} of shape {jnp.shape(leaf)} is not known to belong to a "
                "parameter; use another optimizer, or reset all of its state."
            )
        return jnp.zeros((), bool)

    return jax.tree_util.tree_map_with_path(of_leaf, memory)


class Ages(NamedTuple):
    """State of `correct_young`."""

    age: Any  # tree like the parameters, int32: steps since the entry was fresh
    count: jax.Array  # int32, steps of the optimizer


def correct_young(b1: float = 0.9, b2: float = 0.999) -> optax.GradientTransformation:
    """After `optax.scale_by_adam` in a chain: every entry gets the bias correction of its own age.

    Adam counts steps once for all parameters, so an entry whose moments were cleared at step 1000
    is corrected as if they were 1000 steps old and moves 2.5 to 5 times too far for hundreds of
    steps. `fresh_memory` sets the ages back. Exact up to Adam's epsilon.
    """

    def init(params):
        ages = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.int32), params)
        return Ages(ages, jnp.int32(0))

    def update(updates, state, params=None):
        del params
        count, age = state.count + 1, jax.tree.map(lambda a: a + 1, state.age)
        ratio = lambda t: jnp.sqrt(1 - b2**t) / (1 - b1**t)  # noqa: E731
        own = lambda u, a: u * jnp.where(a == count, 1.0, ratio(a) / ratio(count))  # noqa: E731
        return jax.tree.map(own, updates, age), Ages(age, count)

    return optax.GradientTransformation(init, update)


def toward_start(strength: float, start: Any) -> optax.GradientTransformation:
    """Regenerative L2 (Kumar et al. 2023, arXiv 2308.11958): a pull to the first parameters, put
    before the optimizer in a chain. It acts on dead units too, which get no other gradient."""

    def update(updates, state, params=None):
        pull: Callable = lambda g, p, q: g + strength * (p - q)  # noqa: E731
        return jax.tree.map(pull, updates, params, start), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
