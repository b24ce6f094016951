"""Surgery: the entries of parameters and of an optimizer's state that belong to chosen units.

`units` is bool, [units of all sites], as the axis of a `Probe`. Parameters may be the tree that
`find` was given, or the part of it that is trained: leaves are known by the end of their path.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from relu_dynamics.checks import short_repr
from relu_dynamics.inspection.reading.sites import Site
from relu_dynamics.inspection.reading.values import Link
from relu_dynamics.inspection.reading.watch import Probe, leaf_name

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
    given, or a part of it. Raises a ValueError where it has none of these leaves."""
    names = [leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    found = {}
    for link in (link for one in probe.sites for link in (*one.links, *one.outgoing)):
        ends = [name for name in names if f"/{link.leaf}".endswith(f"/{name}")]
        if ends:
            found[link.leaf] = max(ends, key=len)
    known = {link.leaf for one in probe.sites for link in one.links}
    if known and not found:
        raise ValueError(
            f"params holds none of {short_repr(sorted(known))}, only {short_repr(names)}; give the "
            "tree that find was given, or a part of it."
        )
    return found


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


def per_entry(
    params: Any,
    probe: Probe,
    values: jax.Array,
    links_of: Callable[[Site], Sequence[Link]],
    combine: Callable,
    fill: Any,
) -> Any:
    """A tree like `params`: for every entry the values [units] of the units that it belongs to by
    these links, combined, and `fill` where it belongs to none."""
    parts, path_of = (
        list(zip(probe.sites, probe.slices.values(), strict=True)),
        owned(params, probe),
    )

    def of_leaf(path, leaf):
        name, shape = leaf_name(path), jnp.shape(leaf)
        total = jnp.full(shape, fill, values.dtype)
        for one, part in parts:
            for link in links_of(one):
                if path_of.get(link.leaf) == name:
                    own = spread(values[part], link, shape, fill)
                    total = total if own is None else combine(total, own)
        return total

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def links(*roles: str) -> Callable[[Site], list[Link]]:
    """Of a site, the links with these roles."""
    return lambda site: [link for link in (*site.links, *site.outgoing) if link.role in roles]


def masks(params: Any, probe: Probe, units: Any, roles: Sequence[str] = INCOMING) -> Any:
    """A tree like `params` of bools: the entries that belong to these units."""
    units = check_units(probe, units)
    return per_entry(params, probe, units, links(*roles), jnp.logical_or, False)


def per_unit(tree: Any, probe: Probe, roles: Sequence[str] = INCOMING) -> jax.Array:
    """Sums of the entries of a tree like the parameters that belong to each unit, [units]."""
    leaves = {leaf_name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}
    path_of = owned(tree, probe)
    totals = []
    for one in probe.sites:
        total = jnp.zeros(one.count)
        for link in links(*roles)(one):
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


def gradient_norms(gradients: Any, probe: Probe, roles: Sequence[str] = INCOMING) -> jax.Array:
    """Norm of the loss gradient of each unit's parameters with these roles, by default its own,
    [units]. `gradients` is a tree like the parameters."""
    return jnp.sqrt(per_unit(jax.tree.map(jnp.square, gradients), probe, roles))


# The optimizer's state ------------------------------------------------------------------------


def fresh_memory(tx: optax.GradientTransformation, params: Any, memory: Any, mask: Any) -> Any:
    """The optimizer's state with the masked entries as `tx.init(params)` makes them.

    Holds for every state whose numbers are kept one per entry of the parameters. Counts are shared
    by all parameters and stay, so a reset Adam moves too far at first: `transforms.entrywise`
    mends that. Raises a ValueError that names the leaf where a state is kept in another form
    (factored moments), or is not one of `tx`.
    """
    fresh, nothing = tx.init(params), lambda leaf: jnp.zeros(jnp.shape(leaf), bool)
    if jax.tree.structure(fresh) != jax.tree.structure(memory):
        raise ValueError(
            f"memory is {short_repr(memory)}, and tx.init(params) makes {short_repr(fresh)}; give "
            "the state of this optimizer for these parameters."
        )
    try:
        where = optax.tree_map_params(
            tx, lambda _, own: own, memory, mask, transform_non_params=nothing
        )
    except (
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
    ):  # a state without optax's placeholders
        where = _by_path(memory, fresh, mask)

    def of_leaf(path, old, new, own):
        if jnp.shape(old) == jnp.shape(own):
            return jnp.where(own, new, old) if jnp.ndim(own) else old
        if not jnp.issubdtype(jnp.result_type(old), jnp.inexact):
            return old  # a flag of the whole leaf
        raise ValueError(
            f"optimizer state {leaf_name(path)!r} has shape {jnp.shape(old)}, and its "
            f"parameter {jnp.shape(own)}: it does not keep a number for every entry, so the "
            "units' part of it is not defined; use another optimizer, or reset all of its state."
        )

    return jax.tree_util.tree_map_with_path(of_leaf, memory, fresh, where)


def _by_path(memory: Any, fresh: Any, mask: Any) -> Any:
    """Masks of a state's leaves by the end of their paths. What is of no parameter stays where it
    is as `fresh` has it: a constant."""
    known = {leaf_name(path): own for path, own in jax.tree_util.tree_flatten_with_path(mask)[0]}

    def of_leaf(path, leaf, new):
        name = leaf_name(path)
        ends = [one for one in known if f"/{name}".endswith(f"/{one}".rstrip("/"))]
        if ends:
            return known[max(ends, key=len)]
        if jnp.ndim(leaf) and (isinstance(leaf, Tracer) or not np.array_equal(leaf, new)):
            raise ValueError(
                f"optimizer state {name!r} of shape {jnp.shape(leaf)} is not known to belong to a "
                "parameter; use another optimizer, or reset all of its state."
            )
        return jnp.zeros(jnp.shape(leaf), bool)

    return jax.tree_util.tree_map_with_path(of_leaf, memory, fresh)
