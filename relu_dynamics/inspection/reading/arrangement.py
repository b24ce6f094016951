"""Arrangement: what is known of values that are reduced, sliced and joined."""

from typing import Any

from relu_dynamics.inspection.reading.operations import depends_on, sources_of
from relu_dynamics.inspection.reading.values import (
    CONSTANT,
    DATA,
    Value,
    Writer,
    concatenated,
    counts_units,
    cut,
    join,
    label_of,
    plain,
    size_of,
)


def reduced(eqn: Any, value: Value) -> list[Value]:
    """The outputs of a reduction: statistics over the axes that are gone."""
    gone = eqn.params["axes"]
    keep = [k for k in range(len(value.axes)) if k not in gone]
    labels = [{label for k in part for _, label in value.axes[k] if label} for part in (gone, keep)]
    writer = value.writer
    if writer is not None and labels[0] & labels[1]:  # several columns of a kernel make one number
        writer = writer._replace(shared=True)
    over = {"units" if counts_units((value.axes[k],)) else "examples" for k in gone}
    return [
        Value(
            value.kind,
            tuple(value.axes[k] for k in keep),
            value.depends,
            {leaf: tuple(own[k] for k in keep) for leaf, own in value.leaves.items()},
            writer=writer,
            averaged=value.averaged | over,
            sources=value.sources,
        )
        for _ in eqn.outvars
    ]


def parts_of(eqn: Any, value: Value) -> list[Value]:
    """The parts of a value along its axes."""
    params, outs, at = eqn.params, [], 0
    for var in eqn.outvars:
        shape = var.aval.shape
        starts = params.get("start_indices") or [0] * len(shape)
        if "axis" in params:
            starts = [at if k == params["axis"] else 0 for k in range(len(shape))]
            at += shape[params["axis"]]
        strides = params.get("strides") or [1] * len(shape)
        outs.append(_part(value, shape, starts, strides))
    return outs


def _part(value: Value, shape: tuple[int, ...], starts: Any, strides: Any) -> Value:
    axes, writer, whole = [], value.writer, True
    for axis, size, start, stride in zip(value.axes, shape, starts, strides, strict=True):
        if size_of(axis) == size:
            axes.append(axis)
            continue
        whole = False
        axes.append(((size, label_of(axis)),))
        if writer is not None and label_of(axis) and stride > 1 and size > 1:
            # A feed is a run of neighbouring units, and every second one is none.
            writer = Writer(shared=True, upstream=value.depends)
        elif writer is not None and label_of(axis):
            one = len(axis) == 1
            writer = cut(writer, start, size) if one else writer._replace(shared=True)
    if whole:
        return value
    return value._replace(axes=tuple(axes), writer=writer, leaves={}, images=(), number=None)


def joined(eqn: Any, operands: list[Value]) -> Value:
    """The output of a concatenation."""
    along, depends = eqn.params["dimension"], depends_on(operands)
    data = [value for value in operands if value.kind == DATA]
    axis, writer = concatenated(operands, along, depends)
    axes = tuple(
        axis if k == along else join(list(column))
        for k, column in enumerate(zip(*(value.axes for value in operands), strict=True))
    )
    return Value(
        DATA,
        axes,
        depends,
        writer=writer,
        nonnegative=all(value.nonnegative for value in data) and len(data) == len(operands),
        sources=sources_of(operands),
    )


def picked_axes(eqn: Any) -> tuple[list[int], dict[int, int]]:
    """(axes that are gone, {axis: axis of the output}) of what a computed index picks from."""
    if eqn.primitive.name == "gather":
        numbers = eqn.params["dimension_numbers"]
        gone = [*numbers.collapsed_slice_dims, *numbers.operand_batching_dims]
        kept = [k for k in range(len(eqn.invars[0].aval.shape)) if k not in gone]
        return gone, dict(zip(kept, numbers.offset_dims, strict=True))
    sizes = zip(eqn.outvars[0].aval.shape, eqn.invars[0].aval.shape, strict=True)
    gone = [k for k, (new, old) in enumerate(sizes) if new != old]
    return gone, {k: k for k in range(len(eqn.invars[0].aval.shape)) if k not in gone}


# The parameter that says along which axes an operation mixes or moves the entries.
_MIXES = {"cumlogsumexp": "axis", "cummax": "axis", "cummin": "axis", "cumprod": "axis",
          "cumsum": "axis", "rev": "dimensions", "sort": "dimension"}  # fmt: skip


def gathered(eqn: Any, operands: list[Value]) -> Value:
    """Entries of data, picked by computed indices."""
    value, shape = operands[0], eqn.outvars[0].aval.shape
    axes = list(plain(shape))
    for k, at in picked_axes(eqn)[1].items():
        if size_of(value.axes[k]) == shape[at]:
            axes[at] = value.axes[k]
    depends, sources = depends_on(operands), sources_of(operands)
    known = counts_units(tuple(axes)) or value.writer is None
    writer = value.writer if known else Writer(shared=True, upstream=depends)
    return Value(DATA, tuple(axes), depends, writer=writer, nonnegative=value.nonnegative,
                 source=value.source if known else None, sources=sources)  # fmt: skip


def unknown(eqn: Any, operands: list[Value]) -> list[Value]:
    """Outputs of an operation that is not followed: axes of the same size stay what they are."""
    kind = max((value.kind for value in operands), default=CONSTANT)
    alike = [value for value in operands if value.kind == kind]
    alike = [value for value in alike if value.writer is not None] or alike  # not the indices
    like = alike[0] if alike else None
    depends, sources = depends_on(operands), sources_of(operands)
    outs = []
    for var in eqn.outvars:
        shape = var.aval.shape
        value = Value(kind, plain(shape), depends, sources=sources)
        if like is not None and len(like.axes) == len(shape) and eqn.primitive.name != "iota":
            axes = tuple(
                axis if size_of(axis) == size else ((size, ()),)
                for axis, size in zip(like.axes, shape, strict=True)
            )
            nonnegative = like.nonnegative and eqn.primitive.name.startswith("reduce_window")
            value = value._replace(axes=axes, writer=_written(eqn, like, len(alike), depends),
                                   nonnegative=nonnegative, source=like.source)  # fmt: skip
        if eqn.primitive.name == "rev" and like is not None:
            gone = eqn.params["dimensions"]
            value = value._replace(leaves={
                leaf: tuple(bare if k in gone else axis
                            for k, (axis, bare) in enumerate(zip(own, plain(shape), strict=True)))
                for leaf, own in like.leaves.items()
            })  # fmt: skip
        if eqn.primitive.name == "iota" and len(shape) == 1:
            value = value._replace(source="counter")
        outs.append(value)
    return outs


def _written(eqn: Any, like: Value, several: int, depends: frozenset) -> Writer | None:
    along = eqn.params.get(_MIXES.get(eqn.primitive.name, ""), ())
    along = along if isinstance(along, tuple) else (along,)
    if like.writer is None:
        return None
    units = any(label_of(like.axes[k]) for k in along)
    both = several > 1 and eqn.primitive.name.startswith("scatter")
    return Writer(shared=True, upstream=depends) if units or both else like.writer
