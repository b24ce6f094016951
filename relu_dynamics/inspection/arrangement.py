"""Arrangement: what is known of values that are reduced, sliced and joined."""

from typing import Any

from relu_dynamics.inspection.operations import depends_on, sources_of
from relu_dynamics.inspection.values import (
    CONSTANT,
    DATA,
    Value,
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
    over = {"units" if counts_units((value.axes[k],)) else "examples" for k in gone}
    return [
        Value(
            value.kind,
            tuple(value.axes[k] for k in keep),
            value.depends,
            {leaf: tuple(own[k] for k in keep) for leaf, own in value.leaves.items()},
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
        outs.append(_part(value, shape, starts))
    return outs


def _part(value: Value, shape: tuple[int, ...], starts: Any) -> Value:
    axes, writer, whole = [], value.writer, True
    for axis, size, start in zip(value.axes, shape, starts, strict=True):
        if size_of(axis) == size:
            axes.append(axis)
            continue
        whole = False
        axes.append(((size, label_of(axis)),))
        if writer is not None and label_of(axis):
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


def unknown(eqn: Any, operands: list[Value]) -> list[Value]:
    """Outputs of an operation that is not followed: axes of the same size stay what they are."""
    kind = max((value.kind for value in operands), default=CONSTANT)
    like = next((value for value in operands if value.kind == kind), None)
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
            value = value._replace(axes=axes, writer=like.writer, nonnegative=nonnegative,
                                   source=like.source)  # fmt: skip
        if eqn.primitive.name == "iota" and len(shape) == 1:
            value = value._replace(source="counter")
        outs.append(value)
    return outs
