"""Normalized: bounds on numbers that are divided by their own size, whatever they are.

Of z = d / sqrt(mean(d^2) + eps) intervals alone know nothing where d is unknown: that numerator and
denominator are made of the same d is lost. Here every value keeps what it is made of, and of every
value that is at least c |d|^p number by number this is remembered. It gives

    |d_i| / sqrt(sum_j d_j^2 / n + eps) <= sqrt(n)

for a normalization over n numbers, with d = x (RMSNorm) or d = x - mean(x) (LayerNorm, Ba, Kiros &
Hinton 2016, arXiv 1607.06450). In exact arithmetic the d of a LayerNorm sum to 0, and no |z| is
above sqrt(n - 1). Rounding spares the larger bound alone: a mean that is off shifts all d, after
which they do not sum to 0, but the sum of their squares is still theirs.

The variance must be computed of the d that it divides. Of the form mean(x^2) - mean(x)^2 rounding
may leave 0 while d is not 0, and there is no bound without one on x. Taken for granted: what the
program computes twice from the same numbers in the same way is the same number.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from relu_dynamics.inspection.prognosis.intervals import SECOND_ORDER, Interval, precision
from relu_dynamics.inspection.prognosis.rules import has_rule
from relu_dynamics.inspection.reading.activations import LAYOUT

Axes = tuple[int | None, ...]  # of each axis of a value, the axis of what it is made of, or None

ROOT, POWER = 4, 64  # roundings of a root, and of `pow`, which rounds a logarithm too


class Name(NamedTuple):
    """What a value is: numbers that are known by a number of their own, laid out along its axes.
    Where an axis is None the value is repeated along it, or its size is 1."""

    core: int
    axes: Axes


class Above(NamedTuple):
    """value >= share |core|^power - lost, wherever the indices agree on the axes."""

    core: int
    axes: Axes
    power: int
    share: float
    lost: float


class Against(NamedTuple):
    """|value core| <= most, wherever the indices agree on the axes."""

    core: int
    axes: Axes
    most: Any  # a number, or an array like the value


class Within(NamedTuple):
    """|value| <= most |core| but for underflow, number by number."""

    core: int
    axes: Axes
    most: Any


class Made(Interval):
    """An interval that knows what it is made of."""

    name: Name
    above: tuple[Above, ...]
    against: tuple[Against, ...]
    within: tuple[Within, ...]  # beside itself


class Makers:
    """What the values of one walk are made of."""

    def __init__(self):
        self.numbers: dict[Any, int] = {}

    def _core(self, *key: Any) -> int:
        """The number of what is made like this; of its own without a key."""
        return self.numbers.setdefault(key or ("new", len(self.numbers)), len(self.numbers))

    def fresh(self, x: Interval) -> Made:
        """A value of which it is not known what it is made of, but for single numbers."""
        if isinstance(x, Made):
            return x
        if not np.ndim(x.low) and x.exact:
            return _made(x, Name(self._core("number", float(x.low)), ()))
        return _made(x, Name(self._core(), _own_axes(np.shape(x.low))))

    def after(self, eqn: Any, operands: list[Interval], out: Interval) -> Made:
        """The output of an operation, within what is known of its making."""
        known = [self.fresh(x) for x in operands]
        name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
        if name in LAYOUT:
            return _laid_out(eqn, known[0], out) or self.fresh(out)
        if name == "select_n":
            which = known[0]
            if np.size(which.low) and which.low.min() == which.high.max():
                return _spread(known[1 + int(which.low.min())], shape)
        if name == "convert_element_type" and _widens(eqn):
            return known[0]
        if name == "sub" and not known[1].size.any():
            return _spread(known[0], shape)
        if has_rule(eqn):
            known = [_spread(x, shape) for x in known]
        elif name not in ("reduce_sum", "reduce_max"):
            return self.fresh(out)
        own = self._named(eqn, known)
        if not np.size(out.low):
            return _made(out, own)
        p = precision(eqn.outvars[0].aval.dtype)
        return _related(eqn, known, out, own, 2 * p.u * SECOND_ORDER, p.tiny)

    def _named(self, eqn: Any, known: list[Made]) -> Name:
        """What the output is: the same as what was made in the same way of the same."""
        name, aval = eqn.primitive.name, eqn.outvars[0].aval
        key = (name, str(aval.dtype), eqn.params.get("y"))
        if not has_rule(eqn):
            over = tuple(map(int, eqn.params["axes"]))
            return Name(self._core(*key, over, *(x.name for x in known)), _own_axes(aval.shape))
        every = range(len(known[0].name.axes))
        varied = [j for j in every if any(x.name.axes[j] is not None for x in known)]
        parts = [Name(x.name.core, tuple(x.name.axes[j] for j in varied)) for x in known]
        axes = tuple(varied.index(j) if j in varied else None for j in every)
        return Name(self._core(*key, *parts), axes)


def _made(
    x: Interval, name: Name, above: tuple = (), against: tuple = (), within: tuple = ()
) -> Made:
    made = Made(x.low, x.high)
    made.name, made.above, made.against, made.within = name, above, against, within
    return made


def _own_axes(shape: tuple[int, ...]) -> Axes:
    return tuple(k if size != 1 else None for k, size in enumerate(shape))


def _widens(eqn: Any) -> bool:
    old, new = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
    real = jnp.issubdtype(old, jnp.floating) and jnp.issubdtype(new, jnp.floating)
    return real and jnp.promote_types(old, new) == new


def _moved(x: Made, out: Interval, source: list[int | None], lay: Any) -> Made:
    """A value laid out anew: of each axis of the output, the axis of the operand that it is."""
    of = lambda axes: tuple(None if k is None else axes[k] for k in source)  # noqa: E731
    return _made(
        out,
        Name(x.name.core, of(x.name.axes)),
        tuple(fact._replace(axes=of(fact.axes)) for fact in x.above),
        *(
            tuple(fact._replace(axes=of(fact.axes), most=lay(fact.most)) for fact in facts)
            for facts in (x.against, x.within)
        ),
    )


def _spread(x: Made, shape: tuple[int, ...]) -> Made:
    """A value as an operation number by number reads it, whose output has this shape."""
    if np.shape(x.low) == shape:
        return x
    own = np.shape(x.low)
    first = len(shape) - len(own)
    source = [k - first if k >= first and own[k - first] == size else None
              for k, size in enumerate(shape)]  # fmt: skip
    lay = lambda most: np.broadcast_to(most, shape)  # noqa: E731
    return _moved(x, Interval(*map(lay, x)), source, lay)


def _laid_out(eqn: Any, x: Made, out: Interval) -> Made | None:
    """What a layout operation makes of a value; None where it splits axes."""
    name, shape, old = eqn.primitive.name, eqn.outvars[0].aval.shape, np.shape(x.low)
    source: list[int | None] = [None] * len(shape)
    if name == "transpose":
        order = list(eqn.params["permutation"])
        source[:] = order
        lay = lambda most: np.transpose(most, order) if np.ndim(most) else most  # noqa: E731
    elif name == "broadcast_in_dim":
        placed = [1] * len(shape)
        for k, j in enumerate(eqn.params["broadcast_dimensions"]):
            source[j], placed[j] = (k if old[k] == shape[j] else None), old[k]
        lay = lambda most: (  # noqa: E731
            np.broadcast_to(np.reshape(most, placed), shape) if np.ndim(most) else most
        )
    else:
        kept = [k for k, size in enumerate(old) if size != 1]
        if [old[k] for k in kept] != [size for size in shape if size != 1]:
            return None
        for j, k in zip([j for j, size in enumerate(shape) if size != 1], kept, strict=True):
            source[j] = k
        lay = lambda most: np.reshape(most, shape) if np.ndim(most) else most  # noqa: E731
    return _moved(x, out, source, lay)


# What follows from what -----------------------------------------------------------------------


def _related(eqn: Any, known: list[Made], out: Interval, own: Name, u: float, tiny: float) -> Made:
    """The output with what is known of it; `u` is twice the unit roundoff, with room for errors of
    second order and for our own."""
    name, first = eqn.primitive.name, known[0]
    power, roundings = _power(eqn, known), POWER if name == "pow" else ROOT
    above: tuple[Above, ...] = ()
    against: tuple[Against, ...] = ()
    within: tuple[Within, ...] = ()
    if name == "abs":
        above = (Above(*first.name, 1, 1.0, 0.0),)
    elif power == 2 or name == "mul" and first.name == known[1].name:
        above = (Above(*first.name, 2, 1 - 2 * u, tiny),)
        out = Interval(np.maximum(out.low, 0), out.high)
    elif power == 0.5:
        above = tuple(
            Above(f.core, f.axes, 1, f.share**0.5 * (1 - roundings * u), f.lost**0.5 + tiny)
            for f in first.above
            if f.power == 2
        )
    elif power == -0.5:
        against = _inverses(first, 2, roundings * u)
    elif name in ("reduce_sum", "reduce_max"):
        above = _reduced(eqn, first, u, tiny)
    elif name == "add":
        above = tuple(
            f._replace(share=f.share * (1 - u), lost=2 * f.lost + tiny)
            for x, other in (known, known[::-1])
            for f in x.above
            if other.low.min() >= 0
        )
    elif name == "max":
        above = first.above + known[1].above
    elif name == "convert_element_type":
        above = _scaled(first, 1.0, 1.0, u, tiny)
    elif name == "mul":
        for x, other in (known, known[::-1]):
            if x.above:
                above += _scaled(x, other.low.min(), other.high.max(), u, tiny)
            out, more = _multiplied(out, x, other, u, tiny)
            against += more
            within += _sized(x, other, u)
    elif name == "div":
        if first.above:
            above = _scaled(first, 1 / known[1].high.max(), 1 / known[1].low.min(), 2 * u, tiny)
        facts = _inverses(known[1], 1, 0.0)
        inverse = _made(Interval(0.0, 1 / known[1].low), known[1].name, (), facts)
        out, against = _multiplied(out, inverse, first, 4 * u, tiny)
    above = tuple(f for f in above if f.share > 0 and np.isfinite(f.lost))
    return _made(out, own, above, against, within)


def _power(eqn: Any, known: list[Made]) -> float | None:
    """To which power an operation raises its first operand."""
    name = eqn.primitive.name
    if name == "integer_pow":
        return eqn.params["y"]
    if name == "pow":
        y = known[1]
        return float(y.low.min()) if y.low.min() == y.high.max() else None
    return {"square": 2, "sqrt": 0.5, "rsqrt": -0.5}.get(name)


def _reduced(eqn: Any, x: Made, u: float, tiny: float) -> tuple[Above, ...]:
    """A sum of numbers >= 0, or the largest of numbers, is no smaller than any of them."""
    over = eqn.params["axes"]
    terms = int(np.prod([eqn.invars[0].aval.shape[k] for k in over], initial=1))
    if not x.above or eqn.primitive.name == "reduce_sum" and x.low.min() < 0:
        return ()
    rest = [k for k in range(len(x.name.axes)) if k not in over]
    return tuple(
        f._replace(
            axes=tuple(f.axes[k] for k in rest),
            share=f.share * (1 - (terms + 2) * u),
            lost=2 * f.lost + terms * tiny,
        )
        for f in x.above
    )


def _scaled(x: Made, least: float, most: float, u: float, tiny: float) -> tuple[Above, ...]:
    """A value times numbers between `least` and `most`."""
    if not (least > 0 and np.isfinite(most)):
        return ()
    return tuple(
        f._replace(share=f.share * least * (1 - u), lost=2 * f.lost * most + tiny) for f in x.above
    )


def _inverses(x: Made, power: int, error: float) -> tuple[Against, ...]:
    """Of x to the power -1 / `power`, where x is at least share |core|^power."""
    found = [f for f in x.above if f.power == power]
    least = x.low.min() if found else 0
    return tuple(
        Against(f.core, f.axes, ((1 + f.lost / least) / f.share) ** (1 / power) * (1 + error))
        for f in found
        if least > 0
    )


def _multiplied(
    out: Interval, x: Made, other: Made, u: float, tiny: float
) -> tuple[Interval, tuple[Against, ...]]:
    """(the product of x and another value, narrower where that is the core of |x core| <= most;
    what is known of the product). A product that underflows may be off by a half of the smallest
    number, which the largest core makes 4 roundoffs."""
    against: tuple[Against, ...] = ()
    for fact in x.against:
        most = _times(fact.most, other.size * (1 + u)) + 4 * u
        if np.isfinite(most).any():
            against += (Against(fact.core, fact.axes, most),)
        for core, axes, share in (Within(*other.name, 1.0), *other.within):
            same = all(a in (None, b) for a, b in zip(fact.axes, axes, strict=True))
            if fact.core == core and same:
                bound = _times(fact.most, share) * (1 + u) + tiny * (1 + x.size)
                out = Interval(np.maximum(out.low, -bound), np.minimum(out.high, bound))
    return out, against


def _sized(x: Made, other: Made, u: float) -> tuple[Within, ...]:
    """Of the product of a value without a bound and another one, how large it is beside what the
    first is made of."""
    size = other.size * (1 + u)
    if np.isfinite(x.high).all() or not np.isfinite(size).any():
        return ()
    facts = (Within(*x.name, 1.0), *x.within)
    return tuple(fact._replace(most=_times(fact.most, size)) for fact in facts)


def _times(a: Any, b: Any) -> Any:
    """Of numbers >= 0; what is unknown stays so."""
    product = a * b
    return np.where(np.isnan(product), np.inf, product)
