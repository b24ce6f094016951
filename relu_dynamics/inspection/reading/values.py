"""Values: what is known of every value of a program, and the algebra of its axes.

An axis is a tuple of *factors* (size, label), the slowest first: an axis that was reshaped from
positions and channels has one factor of each. A label says which axes of parameters count the
factor's entries, as ((leaf, axis), ...); () means examples, positions, time steps.
"""

from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.inspection.reading.activations import STAND_IN

Label = tuple[tuple[str, int], ...]
Axis = tuple[tuple[int, Label], ...]

BACKWARD = "backward"  # among the sources of what a gradient's backward pass made

CONSTANT, PARAMETER, DATA = 0, 1, 2  # what a value is made of: the largest of what it depends on


class Link(NamedTuple):
    """A parameter leaf that feeds a site's units directly, or reads them."""

    leaf: str  # its path in the parameters
    role: str  # kernel, bias, scale, shift (a bias after a normalization), centre, outgoing
    axes: tuple[int, ...]  # the leaf's axes that count units, in the order of the site's
    start: int = 0  # its first entry on them that belongs to a unit of the site,
    first: int = 0  # and that unit's number: a kernel may feed a part of the units,
    units: int | None = None  # so many; None: all


class Span(NamedTuple):
    """Which part of a unit axis a link feeds."""

    start: int = 0
    first: int = 0
    units: int | None = None


class Feed(NamedTuple):
    """One leaf that made a value: a `Link` before it is known which axes count units."""

    leaf: str
    role: str
    pairs: tuple[tuple[Label, tuple[int, ...]], ...]  # label of the value's factor -> leaf's axes
    span: Span = Span()


class Writer(NamedTuple):
    """The linear maps that made a value, and what was added since."""

    feeds: tuple[Feed, ...] = ()
    norm: str = ""  # "examples" or "units": over what a normalization on the way averages
    shared: bool = False  # a sum that others read too, or made in a way that is not followed
    upstream: frozenset[str] = frozenset()  # leaves that move the inputs of its kernels
    nonnegative: bool = True  # whether these inputs are >= 0 whatever the parameters

    @property
    def has_kernel(self) -> bool:
        """Whether a linear map made the value."""
        return any(feed.role == "kernel" for feed in self.feeds)


class Value(NamedTuple):
    """What is known of one value."""

    kind: int  # CONSTANT, PARAMETER or DATA
    axes: tuple[Axis, ...]
    depends: frozenset[str] = frozenset()  # leaves
    leaves: dict[str, tuple[Axis, ...]] = {}  # of a parameter: per leaf its axes, labelled by it
    writer: Writer | None = None
    images: tuple[tuple[Any, np.ndarray], ...] = ()  # (var, image): a function of that var alone
    number: Any = None  # where it is one; of a parameter a stand-in
    nonnegative: bool = False
    averaged: frozenset[str] = frozenset()  # over what: it is a statistic
    source: Any = None  # the site whose activation it is,
    sources: frozenset = frozenset()  # and the sites that it depends on


def plain(shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes that count no units."""
    return tuple(((size, ()),) for size in shape)


def label_of(axis: Axis) -> Label:
    """The label of an axis of one factor; of several, all of theirs."""
    return tuple(dict.fromkeys(entry for _, label in axis for entry in label))


def leaf_axes(axis: Axis, leaf: str) -> tuple[int, ...]:
    """The axes of a leaf that count the entries of an axis."""
    return tuple(at for name, at in label_of(axis) if name == leaf)


def counts_units(axes: tuple[Axis, ...]) -> bool:
    """Whether any axis counts units."""
    return any(label for axis in axes for _, label in axis)


def join(axes: list[Axis]) -> Axis:
    """One axis of an elementwise result, from its operands: units win over examples, and what is
    not repeated over what is."""
    whole = max(map(size_of, axes))
    axes = [axis for axis in axes if size_of(axis) == whole]
    return next((axis for axis in axes if label_of(axis)), axes[0])


def regroup(axes: tuple[Axis, ...], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes after a reshape. Factors are kept whole or split; where neither fits, nothing is known
    of any axis any more."""
    left = [factor for axis in axes for factor in axis if factor[0] != 1]
    grouped = []
    for size in shape:
        factors, room = [], size
        while room > 1:
            if not left:
                return plain(shape)
            have, label = left.pop(0)
            if room % have == 0:
                if label and factors and factors[-1][1] == label:  # what was split is whole again
                    factors[-1] = (factors[-1][0] * have, label)
                else:
                    factors.append((have, label))
                room //= have
            elif have % room == 0:
                factors.append((room, label))
                left.insert(0, (have // room, label))
                room = 1
            else:
                return plain(shape)
        grouped.append(tuple(factors) or ((1, ()),))
    return tuple(grouped)


def relayout(eqn: Any, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Axes of a layout operation's output from those of its operand."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name == "transpose":
        return _permuted(axes, eqn.params["permutation"])
    if name == "broadcast_in_dim":
        out = list(plain(shape))
        for source, target in enumerate(eqn.params["broadcast_dimensions"]):
            if eqn.invars[0].aval.shape[source] == shape[target]:
                out[target] = axes[source]
        return tuple(out)
    return regroup(axes, shape)


def _permuted(axes: tuple[Axis, ...], order: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes in another order. Where one axis of parameters was split into several that change their
    order, its entries and the units no longer go together, and the label is one of no parameter."""
    places: dict[Label, list[int]] = {}
    for k in order:
        for _, label in axes[k]:
            places.setdefault(label, []).append(k)
    lost = {label for label, ks in places.items() if label and ks != sorted(ks)}
    clean = lambda label: tuple(("", at) for _, at in label) if label in lost else label  # noqa: E731
    return tuple(tuple((size, clean(label)) for size, label in axes[k]) for k in order)


def relabel(writer: Writer, renamed: dict[Label, Label]) -> Writer:
    """The writer with factors of its value under other labels."""
    feeds = tuple(
        feed._replace(pairs=tuple((renamed.get(label, label), at) for label, at in feed.pairs))
        for feed in writer.feeds
    )
    return writer._replace(feeds=feeds)


def cut(writer: Writer, start: int, size: int) -> Writer:
    """The writer of a slice of a value along its unit axis: of those feeds that reach it."""
    feeds = []
    for feed in writer.feeds:
        span = feed.span
        first = max(span.first, start)
        end = start + size if span.units is None else min(span.first + span.units, start + size)
        if first < end:
            part = Span(span.start + first - span.first, first - start, end - first)
            feeds.append(feed._replace(span=part))
    return writer._replace(feeds=tuple(feeds))


def concatenated(values: list[Value], axis: int, depends: frozenset) -> tuple[Axis, Writer | None]:
    """The axis along which values were concatenated, and the writer of the whole."""
    labels = [label_of(value.axes[axis]) for value in values]
    sizes = [size_of(value.axes[axis]) for value in values]
    whole = tuple(sorted({entry for label in labels for entry in label}))
    writers = [value.writer for value in values if value.writer is not None]
    whole_axes = all(len(value.axes[axis]) == 1 for value in values)
    if not all(labels) or len(writers) < len(values) or not whole_axes:
        return ((sum(sizes), whole),), Writer(shared=True, upstream=depends)
    feeds, first = [], 0
    for writer, label, size in zip(writers, labels, sizes, strict=True):
        for feed in relabel(writer, {label: whole}).feeds:
            at, units = feed.span.first + first, feed.span.units
            span = feed.span._replace(first=at, units=size if units is None else units)
            feeds.append(feed._replace(span=span))
        first += size
    return ((sum(sizes), whole),), Writer(
        feeds=tuple(feeds),
        norm=next((w.norm for w in writers if w.norm), ""),
        shared=any(w.shared for w in writers),
        upstream=frozenset().union(*(w.upstream for w in writers)),
        nonnegative=all(w.nonnegative for w in writers),
    )


def size_of(axis: Axis) -> int:
    """The size of an axis."""
    return int(np.prod([size for size, _ in axis], initial=1))


def meet(values: list[Value]) -> Value:
    """What is known of a value that may be any of these."""
    one = values[0]
    depends = frozenset().union(*(value.depends for value in values))
    same = all(value.leaves == one.leaves for value in values)
    writers = {value.writer for value in values}
    return Value(
        kind=max(value.kind for value in values),
        axes=tuple(join(list(column)) for column in zip(*(v.axes for v in values), strict=True)),
        depends=depends,
        leaves=one.leaves if same else {},
        writer=one.writer if len(writers) == 1 else Writer(shared=True, upstream=depends),
        nonnegative=all(value.nonnegative for value in values),
        # What one step of a loop makes of the parameters, the next reads as parameters.
        sources=frozenset().union(*(value.sources for value in values)) - {BACKWARD},
    )


def parameter(name: str, shape: tuple[int, ...], *, real: bool) -> Value:
    """A leaf of the parameters."""
    axes = tuple(((size, ((name, k),)),) for k, size in enumerate(shape))
    number = STAND_IN if real else None
    return Value(PARAMETER, plain(shape), frozenset([name]), {name: axes}, number=number)


def constant(name: str, value: Any) -> Value:
    """A value that the program closed over: a number, or an array as parameters are."""
    if np.ndim(value) == 0:
        number = isinstance(value, int | float | np.generic | np.ndarray)
        return Value(CONSTANT, (), number=float(value) if number else None)
    return parameter(name, np.shape(value), real=True)._replace(depends=frozenset())


def is_nonnegative(name: str, operands: list[Value], images: tuple) -> bool:
    """Whether the output of an elementwise operation is >= 0 whatever the parameters."""
    if images and (np.asarray(images[-1][1]) >= 0).all():
        return True
    known = [v.nonnegative or (v.number is not None and v.kind == 0 and v.number >= 0)
             for v in operands]  # fmt: skip
    return name in ("add", "mul", "max", "convert_element_type", "copy") and all(known)
