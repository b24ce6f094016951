"""Operations: what is known of an equation's output from what is known of its operands."""

from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Literal

from relu_dynamics.inspection.reading.activations import GRID, STAND_IN, image_of, look_at
from relu_dynamics.inspection.reading.values import (
    BACKWARD,
    CONSTANT,
    DATA,
    PARAMETER,
    Axis,
    Feed,
    Value,
    Writer,
    counts_units,
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


# A comparison, and the side on which a value that stands first passes where both are equal: x >= y
# keeps what is equal above, and so does the x that `x < y` does not drop.
COMPARISONS = {"gt": -1, "ge": 1, "lt": 1, "le": -1}


class Threshold(NamedTuple):
    """A number that a value is compared or joined with, and its variable where it has one."""

    number: float
    var: Any
    equal: int = 0  # the side that passes where the value equals it; 0: neither, or it is the same

    def below(self, side: int) -> float:
        """The last number that does not pass, for a value that passes on this side."""
        if self.equal != side or not self.number:
            return self.number
        return float(np.nextafter(np.float32(self.number), np.float32(-side * np.inf)))


def elementwise(eqn: Any, operands: list[Value], uses: dict, thresholds: dict, k: int) -> Value:
    """Output `k` of an operation number by number."""
    out = eqn.outvars[k]
    shape, ndim = out.aval.shape, len(out.aval.shape)
    kind = max((value.kind for value in operands), default=CONSTANT)
    full = [value for value in operands if len(value.axes) == ndim]
    axes = tuple(join(list(column)) for column in zip(*(v.axes for v in full), strict=True))
    if not axes:
        axes = plain(shape)
    leaves = {leaf: own for value in full for leaf, own in value.leaves.items()}
    depends, averaged = depends_on(operands), [v.averaged for v in operands if v.kind == kind]
    images, number = _images(eqn, operands, thresholds, k)
    if kind < DATA:
        over = frozenset().union(*averaged)
        counter = any(value.source == "counter" for value in operands)
        made = next((value.writer for value in operands if value.writer is not None), None)
        return Value(kind, axes, depends, leaves, made, number=number, averaged=over,
                     source="counter" if counter else None)  # fmt: skip
    writer = _sum_of_writers(eqn, operands, dict(images), axes, uses, depends)
    if leaves and eqn.primitive.name in ("add", "sub", "mul", "div"):
        if not counts_units(axes):
            own = next(iter(leaves.values()))
            axes = tuple(a if label_of(a) else old for a, old in zip(own, axes, strict=True))
        writer = writer or Writer(nonnegative=False)
        role = "scale" if eqn.primitive.name in ("mul", "div") else "bias"
        if role == "bias" and writer.norm:
            role = "shift"
        if eqn.primitive.name == "sub" and operands[1].leaves:
            role = "centre"
        feeds = tuple(Feed(leaf, role, _pairs(axes, own, leaf)) for leaf, own in leaves.items())
        writer = writer._replace(feeds=writer.feeds + tuple(f for f in feeds if f.pairs))
    whole = all(label_of(axis) for own in leaves.values() for axis in own)
    moved = whole and eqn.primitive.name in ("add", "sub", "mul", "div")
    data = [value for value in operands if value.kind == DATA]
    known = {value.source for value in data} - {None}
    return Value(
        DATA,
        axes,
        depends,
        leaves if moved else {},  # parameters moved by the data: a step within a step, noise
        writer=writer,
        images=images,
        nonnegative=is_nonnegative(eqn.primitive.name, operands, images),
        averaged=frozenset().union(*averaged) if all(averaged) else frozenset(),
        source=known.pop() if len(known) == 1 == len(data) else None,
        sources=sources_of([value for value in data if not value.leaves] or operands),
    )


def _images(eqn: Any, operands: list[Value], thresholds: dict, k: int) -> tuple[tuple, Any]:
    """(images, number) of an elementwise output: one of the two at most. A value is compared with
    any other, which then is its threshold; else all operands are numbers or functions of one value.
    """
    compared = COMPARISONS.get(eqn.primitive.name, 0)
    unknown = [value.number is None and not value.images for value in operands]
    if any(unknown) and not (compared and max(value.kind for value in operands) == DATA):
        return (), None
    known = [dict(value.images) for value in operands]
    rooted = [its for its in known if its]
    if not rooted:
        return (), None if any(unknown) else image_of(eqn, [v.number for v in operands], k)
    together = [root for root in rooted[0] if all(root in its for its in rooted[1:])]
    roots = together or ([root for its in rooted for root in its] if compared else [])
    images = []
    for root in roots:
        inputs = [
            its[root] if root in its else STAND_IN if value.number is None else value.number
            for its, value in zip(known, operands, strict=True)
        ]
        image = image_of(eqn, inputs, k)
        if getattr(image, "shape", None) == GRID.shape:
            images.append((root, image))
        for at, (atom, value, number) in enumerate(zip(eqn.invars, operands, inputs, strict=True)):
            if root not in known[at]:
                fixed = isinstance(atom, Literal) or value.kind == CONSTANT
                equal = compared if at else -compared
                new = Threshold(float(number), None if fixed else atom, equal)
                thresholds.setdefault(root, []).append(new)
    return tuple(images), None


def _sum_of_writers(
    eqn: Any, operands: list[Value], images: dict, axes: tuple[Axis, ...], uses: dict, depends
) -> Writer | None:
    """Who wrote the output: those who wrote the operands, unless it is an activation's."""
    data = [(atom, v) for atom, v in zip(eqn.invars, operands, strict=True) if v.kind == DATA]
    statistics = [bool(value.averaged) for _, value in data]
    bent = (not look_at(images[atom]).affine for atom, _ in data if atom in images)
    if any(bent):
        made = depends and not all(statistics)  # a mask is made from the data alone
        return Writer(shared=True, upstream=depends) if made else None
    written = [(bool(v.averaged), _as_labelled(v, axes)) for _, v in data if v.writer is not None]
    if not all(statistics):  # a normalization's mean and deviation are no inputs, its scale is one
        scales = [feed for own, w in written if own for feed in w.feeds if feed.role == "scale"]
        written = [(own, w) for own, w in written if not own]
        if scales:
            written.append((True, Writer(tuple(scales))))
    writers = [writer for _, writer in written]
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


def _labelled(axes: Any) -> int:
    return sum(bool(label_of(axis)) for axis in axes)


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
        made = Writer(shared=True) if kind == PARAMETER else None
        return Value(kind, plain(shape), depends, leaves, made)
    if left.kind == right.kind == DATA and bool(left.leaves) == bool(right.leaves):
        for side, value in enumerate((right, left)):
            if not value.depends and value.writer is None:
                return _mixed(eqn, operands, side, places)
        axes = tuple(
            empty
            if None in at
            else join([_axis(left.axes, at[0], empty), _axis(right.axes, at[1], empty)])
            for at, empty in zip(places, bare, strict=True)
        )
        return Value(DATA, axes, depends, writer=Writer(shared=True, upstream=depends),
                     sources=sources_of(operands) - {BACKWARD})  # fmt: skip
    side = 0 if left.kind < DATA or (right.kind == DATA and left.leaves) else 1
    kernel, data = operands[side], operands[1 - side]
    leaves = kernel.leaves
    if not leaves:  # made from parameters in a way that is not followed
        leaves = {"": tuple(
            ((size, (("", k),)),) for k, size in enumerate(eqn.invars[side].aval.shape)
        )}  # fmt: skip
    free = [k for at in places for k in [at[side]] if k is not None]
    main = max(leaves, key=lambda leaf: (_labelled([leaves[leaf][k] for k in free]),
                                         _labelled(leaves[leaf])))  # fmt: skip
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
        inner = _labelled(own[leaf]) < _labelled(its)  # it is summed over
        role = "kernel" if leaf == main or inner else "scale"
        if leaf:
            feeds.append(Feed(leaf, role, pairs))
    return Value(
        DATA,
        tuple(axes),
        depends,
        writer=Writer(
            tuple(feeds), shared=not feeds, upstream=data.depends, nonnegative=data.nonnegative
        ),
        sources=data.sources - {BACKWARD},
    )


def _mixed(eqn: Any, operands: list[Value], side: int, places: list) -> Value:
    """A product of a value and plain data, such as an adjacency matrix: examples are mixed."""
    value, mixer = operands[side], operands[1 - side]
    axes = []
    for at, size in zip(places, eqn.outvars[0].aval.shape, strict=True):
        other = _axis(mixer.axes, at[1 - side], ((size, ()),))
        axes.append(join([_axis(value.axes, at[side], other), other]))
    within = any(label_of(value.axes[k]) for k, _ in _contracted(eqn, side))
    writer = value.writer and value.writer._replace(nonnegative=False)
    if within:  # units are mixed too
        writer = Writer(shared=True, upstream=value.depends)
    return Value(DATA, tuple(axes), value.depends, writer=writer, sources=value.sources,
                 source=None if within else value.source)  # fmt: skip


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
