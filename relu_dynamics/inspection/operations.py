"""Operations: what is known of an equation's output from what is known of its operands."""

from typing import Any, NamedTuple

from jax.extend.core import Literal

from relu_dynamics.inspection.activations import GRID, image_of, shape_of
from relu_dynamics.inspection.values import (
    CONSTANT,
    DATA,
    PARAMETER,
    Axis,
    Feed,
    Value,
    Writer,
    counts_units,
    is_activation,
    is_nonnegative,
    join,
    label_of,
    leaf_axes,
    plain,
    relabel,
)


def depends_on(operands: list[Value]) -> frozenset[str]:
    """The leaves that any operand depends on."""
    return frozenset().union(*(value.depends for value in operands))


def sources_of(operands: list[Value]) -> frozenset:
    """The sites that any operand depends on."""
    return frozenset().union(*(value.sources for value in operands))


def _pairs(axes: tuple[Axis, ...], other: tuple[Axis, ...], leaf: str) -> tuple:
    """(label of a factor, axes of a leaf) where both count the same entries."""
    pairs = []
    for axis, own in zip(axes, other, strict=True):
        alike = [size for size, _ in axis] == [size for size, _ in own]
        for k, (_, label) in enumerate(axis):
            at = leaf_axes((own[k],) if alike else own, leaf)
            if label and at:
                pairs.append((label, at))
    return tuple(pairs)


# Elementwise ----------------------------------------------------------------------------------


class Threshold(NamedTuple):
    """A number that a value is compared or joined with, and its variable where it has one."""

    number: float
    var: Any


def elementwise(eqn: Any, operands: list[Value], uses: dict, thresholds: dict, k: int) -> Value:
    """Output `k` of an operation number by number."""
    out = eqn.outvars[k]
    shape, ndim = out.aval.shape, len(out.aval.shape)
    kind = max((value.kind for value in operands), default=CONSTANT)
    full = [value for value in operands if len(value.axes) == ndim]
    axes = tuple(join(list(column)) for column in zip(*(v.axes for v in full), strict=True))
    if not axes:
        axes = plain(shape)
    leaves = {leaf: own for v in full if v.kind == PARAMETER for leaf, own in v.leaves.items()}
    depends, averaged = depends_on(operands), [v.averaged for v in operands if v.kind == kind]
    images, number = _images(eqn, operands, thresholds, k)
    if kind < DATA:
        over = frozenset().union(*averaged)
        counter = any(value.source == "counter" for value in operands)
        return Value(kind, axes, depends, leaves, number=number, averaged=over,
                     source="counter" if counter else None)  # fmt: skip
    writer = _sum_of_writers(eqn, operands, dict(images), axes, uses, depends)
    if leaves and eqn.primitive.name in ("add", "sub", "mul", "div"):
        if not counts_units(axes):
            own = next(iter(leaves.values()))
            axes = tuple(
                a if size > 1 else old for a, size, old in zip(own, shape, axes, strict=True)
            )
        writer = writer or Writer(nonnegative=False)
        role = "scale" if eqn.primitive.name in ("mul", "div") else "bias"
        if role == "bias" and writer.norm:
            role = "shift"
        if eqn.primitive.name == "sub" and operands[1].kind == PARAMETER:
            role = "centre"
        feeds = tuple(Feed(leaf, role, _pairs(axes, own, leaf)) for leaf, own in leaves.items())
        writer = writer._replace(feeds=writer.feeds + tuple(f for f in feeds if f.pairs))
    data = [value for value in operands if value.kind == DATA]
    known = {value.source for value in data} - {None}
    return Value(
        DATA,
        axes,
        depends,
        writer=writer,
        images=images,
        nonnegative=is_nonnegative(eqn.primitive.name, operands, images),
        averaged=frozenset().union(*averaged) if all(averaged) else frozenset(),
        source=known.pop() if len(known) == 1 == len(data) else None,
        sources=sources_of(operands),
    )


def _images(eqn: Any, operands: list[Value], thresholds: dict, k: int) -> tuple[tuple, Any]:
    """(images, number) of an elementwise output: one of the two at most."""
    if not all(value.number is not None or value.images for value in operands):
        return (), None
    rooted = [dict(value.images) for value in operands if value.images]
    if not rooted:
        return (), image_of(eqn, [value.number for value in operands], k)
    images = []
    for root in (r for r in rooted[0] if all(r in other for other in rooted[1:])):
        inputs = [dict(v.images)[root] if v.images else v.number for v in operands]
        image = image_of(eqn, inputs, k)
        if getattr(image, "shape", None) == GRID.shape:
            images.append((root, image))
        for atom, value in zip(eqn.invars, operands, strict=True):
            if value.number is not None and not value.images:
                fixed = isinstance(atom, Literal) or value.kind == CONSTANT
                new = Threshold(float(value.number), None if fixed else atom)
                thresholds.setdefault(root, []).append(new)
    return tuple(images), None


def _sum_of_writers(
    eqn: Any, operands: list[Value], images: dict, axes: tuple[Axis, ...], uses: dict, depends
) -> Writer | None:
    """Who wrote the output: those who wrote the operands, unless it is an activation's."""
    data = [(atom, v) for atom, v in zip(eqn.invars, operands, strict=True) if v.kind == DATA]
    statistics = [bool(value.averaged) for _, value in data]
    if any(is_activation(images.get(atom)) for atom, _ in data if not isinstance(atom, Literal)):
        return None if all(statistics) else Writer(shared=True, upstream=depends)
    writers = [_as_labelled(v, axes) for _, v in data if v.writer is not None]
    if not writers:
        return None
    name = eqn.primitive.name
    norm = next((writer.norm for writer in writers if writer.norm), "")
    if name in ("sub", "mul", "div") and any(statistics) and not all(statistics):
        over = frozenset().union(*(value.averaged for _, value in data))
        norm = norm or ("units" if "units" in over else "examples")
    made = [writer for writer in writers if writer.shared or writer.has_kernel]
    read_twice = any(uses.get(atom, 0) > 1 for atom, _ in data)
    residual = name in ("add", "sub", "add_any") and len(made) > 1 and read_twice
    return Writer(
        feeds=tuple(dict.fromkeys(feed for writer in writers for feed in writer.feeds)),
        norm=norm,
        shared=residual or any(writer.shared for writer in writers),
        upstream=frozenset().union(*(writer.upstream for writer in writers)),
        nonnegative=all(writer.nonnegative for writer in made),
    )


def _as_labelled(value: Value, axes: tuple[Axis, ...]) -> Writer:
    """A value's writer in the labels of another value of its axes."""
    assert value.writer is not None
    if len(value.axes) != len(axes):
        return value.writer
    renamed = {
        old: new
        for own, other in zip(value.axes, axes, strict=True)
        if len(own) == len(other)
        for (_, old), (_, new) in zip(own, other, strict=True)
        if old and old != new
    }
    return relabel(value.writer, renamed) if renamed else value.writer


# Linear ---------------------------------------------------------------------------------------


def _places(eqn: Any) -> list[tuple[int | None, int | None]]:
    """Of each output axis of a product or convolution: (axis of the left, axis of the right)."""
    numbers = eqn.params["dimension_numbers"]
    ndims = [len(var.aval.shape) for var in eqn.invars]
    if eqn.primitive.name == "dot_general":
        (left, right), (left_batch, right_batch) = numbers
        free = [
            [k for k in range(ndim) if k not in (*contracted, *batch)]
            for ndim, contracted, batch in zip(
                ndims, (left, right), (left_batch, right_batch), strict=True
            )
        ]
        return [
            *zip(left_batch, right_batch, strict=True),
            *((k, None) for k in free[0]),
            *((None, k) for k in free[1]),
        ]
    places: list = [(None, None)] * ndims[0]
    places[numbers.out_spec[0]] = (numbers.lhs_spec[0], None)
    places[numbers.out_spec[1]] = (None, numbers.rhs_spec[0])
    return places


def _contracted(eqn: Any, side: int) -> list[tuple[int, int]]:
    """(axis of the data, axis of the kernel) that a product sums over; the data are on `side`."""
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        return [(p[side], p[1 - side]) for p in zip(*numbers[0], strict=True)]
    return [(numbers.lhs_spec[1], numbers.rhs_spec[1])]


def _axis(axes: tuple[Axis, ...], at: int | None, otherwise: Axis) -> Axis:
    return otherwise if at is None else axes[at]


def linear(eqn: Any, operands: list[Value]) -> Value:
    """A product or a convolution: the operand without data is the kernel."""
    shape, places = eqn.outvars[0].aval.shape, _places(eqn)
    left, right = operands[:2]
    kind, depends = max(left.kind, right.kind), depends_on(operands)
    bare = list(plain(shape))
    if kind < DATA:
        leaves = {
            leaf: tuple(_axis(own, at[side], empty) for at, empty in zip(places, bare, strict=True))
            for side, value in enumerate((left, right))
            for leaf, own in value.leaves.items()
        }
        return Value(kind, plain(shape), depends, leaves)
    if left.kind == right.kind == DATA:
        axes = tuple(
            empty
            if None in at
            else join([_axis(left.axes, at[0], empty), _axis(right.axes, at[1], empty)])
            for at, empty in zip(places, bare, strict=True)
        )
        return Value(DATA, axes, depends, writer=Writer(shared=True, upstream=depends),
                     sources=sources_of(operands))  # fmt: skip
    side = 0 if left.kind < DATA else 1
    kernel, data = operands[side], operands[1 - side]
    leaves = kernel.leaves
    if not leaves:  # made from parameters in a way that is not followed
        leaves = {"": tuple(
            ((size, (("", k),)),) for k, size in enumerate(eqn.invars[side].aval.shape)
        )}  # fmt: skip
    main = max(leaves, key=lambda leaf: sum(bool(label_of(axis)) for axis in leaves[leaf]))
    axes, own = [], {leaf: [] for leaf in leaves}
    for at, empty in zip(places, bare, strict=True):
        axis = _axis(leaves[main], at[side], empty)
        if at[side] is not None and not label_of(axis):
            axis = _axis(data.axes, at[1 - side], axis)
        axes.append(axis)
        for leaf, its in leaves.items():
            own[leaf].append(_axis(its, at[side], empty))
    feeds = []
    for leaf, its in leaves.items():
        pairs = _pairs(tuple(axes), tuple(own[leaf]), leaf)
        counted = sum(bool(label_of(axis)) for axis in its)
        made = sum(bool(label_of(axis)) for axis in own[leaf])
        role = "kernel" if leaf == main or made < counted else "scale"
        if leaf:
            feeds.append(Feed(leaf, role, pairs))
    return Value(
        DATA,
        tuple(axes),
        depends,
        writer=Writer(
            tuple(feeds), shared=not feeds, upstream=data.depends, nonnegative=data.nonnegative
        ),
        sources=data.sources,
    )


def readers(eqn: Any, operands: list[Value]) -> list[tuple[Any, str, tuple[int, ...]]]:
    """(site, leaf, its axes) where the kernel of a product reads an activation unit by unit."""
    side = 0 if operands[0].kind == DATA else 1
    data, kernel = operands[side], operands[1 - side]
    if data.kind != DATA or kernel.kind != PARAMETER or data.source is None:
        return []
    pairs = _contracted(eqn, side)
    if not all(label_of(data.axes[d]) and len(data.axes[d]) == 1 for d, _ in pairs):
        return []
    found = []
    for leaf, own in kernel.leaves.items():
        axes = tuple(at for _, k in pairs for at in leaf_axes(own[k], leaf))
        if axes:
            found.append((data.source, leaf, axes))
    return found


def rectified(images: tuple) -> dict:
    """{root: its shape} of those images that are rectifiers'."""
    shapes = {root: shape_of(image) for root, image in images}
    return {root: shape for root, shape in shapes.items() if shape is not None}
