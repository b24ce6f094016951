"""Shards: a `shard_map` in the analysis. Its program sees one device's part of every operand.

Over an axis of the mesh, shards hold other units (their kernel is split), other examples (the data
are split), or all the same.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from relu_dynamics.inspection.reading.sites import Site
from relu_dynamics.inspection.reading.values import DATA, PARAMETER, Axis, Value, label_of, size_of

GATHERS = {"all_gather", "all_gather_invariant"}

Split = dict[tuple[str, int], list[str]]  # (leaf, its axis) -> mesh axes over which it is split


def varying(aval: Any) -> frozenset[str]:
    """The mesh axes over which a value differs from shard to shard."""
    kind = getattr(aval, "manual_axis_type", None)  # `vma` is its name in other versions of JAX
    return kind.varying if kind is not None else getattr(aval, "vma", None) or frozenset()


def varying_as(value: jax.Array, shape: Any) -> jax.Array:
    """The value, for JAX to differ from shard to shard where `shape` does: what a branch or a loop
    returns must agree in that."""
    names = tuple(varying(shape) - varying(jax.typeof(value)))
    return jax.lax.pcast(value, names, to="varying") if names else value


def walk_shards(analysis: Any, level: Any, i: int, eqn: Any, operands: list[Value]) -> list[Value]:
    """What is known of a `shard_map`'s outputs; its sites are those of all shards together."""
    params, before = eqn.params, len(analysis.sites)
    specs, sizes = params["in_specs"], params["mesh"].shape
    local = [_shard_of(value, spec, sizes) for value, spec in zip(operands, specs, strict=True)]
    outs, plan = analysis.walk(params["jaxpr"], (), local, level.record, level.place.at(i))
    if plan.busy:
        level.plan.inner[i] = [plan]
    split = _split_leaves(operands, specs)
    by_data = _names(spec for v, spec in zip(operands, specs, strict=True) if v.kind == DATA)
    for number in range(before, len(analysis.sites)):
        root = analysis.tokens[number][1]
        names = varying(root.aval) if params["check_vma"] else by_data
        over = dict.fromkeys((name for name in names if name in sizes), False)
        site = _of_all_shards(analysis.sites[number], over, split, analysis.whole, sizes)
        if not site.links and analysis.sites[number].links:
            analysis.notes.append(
                f"{site.name}: its units are numbered shard by shard, so their parameters are not "
                "known; split the kernel over its last axis"
            )
        analysis.sites[number] = site
        plan.sharded[number] = over
    ends = zip(outs, eqn.outvars, strict=True)
    return [_whole(value, var.aval.shape)._replace(leaves={}) for value, var in ends]


def mesh_gathered(analysis: Any, eqn: Any, value: Value) -> Value:
    """A shard's part together with those of all others, along an axis that it had before."""
    along = eqn.params["all_gather_dimension"]
    for axes in value.leaves.values():
        analysis.whole.update(label_of(axes[along]))
    return _whole(value, eqn.outvars[0].aval.shape)


def _of_all_shards(site: Site, over: dict[str, bool], split: Split, whole: set, sizes) -> Site:
    """The site with the units of all shards, where shards hold parts of its kernel; `over` then
    says over which axes of the mesh."""
    places = [
        (name, at)
        for link in site.links
        for at, axis in enumerate(link.axes)
        if (link.leaf, axis) not in whole
        for name in split.get((link.leaf, axis), ())
    ]
    names = list(dict.fromkeys(name for name, _ in places))
    if not names:
        return site
    over.update(dict.fromkeys(names, True))
    site = site._replace(
        units=(math.prod(sizes[n] for n in names) * site.units[0], *site.units[1:])
    )
    ordered = len(names) == 1 and all(at == 0 for _, at in places)
    return site if ordered else site._replace(links=(), shared=True)


def _names(specs: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for spec in specs for part in spec for name in _of(part)))


def _of(part: Any) -> tuple[str, ...]:
    """The mesh axes that one part of a partition spec names."""
    return () if part is None else (part,) if isinstance(part, str) else tuple(part)


def _split_leaves(operands: Sequence[Value], specs: Sequence[Any]) -> Split:
    split: Split = {}
    for value, spec in zip(operands, specs, strict=True):
        own = value.leaves.values() if value.kind == PARAMETER else ()
        for axis, part in [pair for axes in own for pair in zip(axes, spec, strict=False)]:
            for place in label_of(axis) if _of(part) else ():
                split.setdefault(place, []).extend(_of(part))
    return split


def _shard_of(value: Value, spec: Any, sizes: Mapping[str, int]) -> Value:
    """A shard's part of a value; its axes keep their labels."""
    parts = [*spec, *[None] * (len(value.axes) - len(spec))]
    over = [math.prod(sizes[name] for name in _of(part)) for part in parts]
    cut = lambda axes: tuple(_cut(a, n) for a, n in zip(axes, over, strict=True))  # noqa: E731
    leaves = {leaf: cut(axes) for leaf, axes in value.leaves.items()}
    return value._replace(axes=cut(value.axes), leaves=leaves, images=())


def _cut(axis: Axis, parts: int) -> Axis:
    """One of equal parts of an axis: of its slowest factor, where that can be divided."""
    if parts == 1:
        return axis
    (size, label), *rest = axis
    if size % parts:
        return ((size_of(axis) // parts, label_of(axis)),)
    return ((size // parts, label), *rest)


def _whole(value: Value, shape: tuple[int, ...]) -> Value:
    """A value of which shards are put together to this shape."""
    grown = lambda axes: tuple(  # noqa: E731
        axis if size_of(axis) == size else ((size, label_of(axis)),)
        for axis, size in zip(axes, shape, strict=True)
    )
    leaves = {leaf: grown(own) for leaf, own in value.leaves.items()}
    return value._replace(axes=grown(value.axes), leaves=leaves, images=())
