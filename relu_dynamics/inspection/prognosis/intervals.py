"""Intervals: between which float64 numbers a number of a program certainly lies, rounded or not.

An operation's interval holds every number that it may give in the program's own precision, whatever
the compiler fuses or reorders: the ends are those of real arithmetic, widened by the operation's
rounding (a few u, u the unit roundoff of its output; Higham, Accuracy and Stability of Numerical
Algorithms, 2.2). Rounding never changes a sign.

The numbers of the run are taken to be finite: 0 times an unknown number is 0, and 0 / 0 is not
thought of. Arrays are float64 NumPy, also those of whole numbers and of bools (0 and 1). Call
everything here under `np.errstate(all="ignore")`: unknown is infinite.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

SECOND_ORDER = 1 + 1e-3  # of rounding errors, and our own rounding in float64


class Interval(NamedTuple):
    """low <= x <= high, number by number."""

    low: Any
    high: Any

    @property
    def size(self) -> Any:
        """The largest |x|."""
        return np.maximum(-self.low, self.high)

    @property
    def least(self) -> Any:
        """The smallest |x|."""
        return np.maximum(np.maximum(self.low, -self.high), 0)

    @property
    def exact(self) -> Any:
        """Whether x is known exactly."""
        return self.low == self.high


def point(x: Any) -> Interval:
    """Numbers that are known exactly."""
    x = np.asarray(x).astype(np.float64)
    return Interval(x, x)


def top(shape: tuple[int, ...] = ()) -> Interval:
    """Numbers of which nothing is known."""
    return Interval(np.full(shape, -np.inf), np.full(shape, np.inf))


def pick(which: Any, a: Interval, b: Interval) -> Interval:
    """a where `which`, else b."""
    return Interval(np.where(which, a.low, b.low), np.where(which, a.high, b.high))


class Precision(NamedTuple):
    """What numbers of one type lose."""

    u: float  # the unit roundoff
    tiny: float  # what is lost when a number below the normal ones becomes 0
    largest: float  # beyond, numbers may overflow: nothing is known


EXACT = Precision(0.0, 0.0, float("inf"))  # whole numbers and bools


@functools.cache
def precision(dtype: Any) -> Precision:
    """Of a type; of float64 that of float32, since bounds are computed in it."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return EXACT
    info = jnp.finfo(jnp.float32 if dtype == jnp.float64 else dtype)
    tiny = 10 * float(info.smallest_normal)
    return Precision(float(info.eps) / 2, tiny, float(info.max) / 10)


def widened(x: Interval, error_low: Any, error_high: Any, p: Precision) -> Interval:
    """x with an absolute error at either end, signs kept; what may overflow is not known."""
    low, high = x.low - error_low, x.high + error_high
    low = np.where(x.low >= 0, np.maximum(low, 0), low)
    high = np.where(x.high <= 0, np.minimum(high, 0), high)
    return Interval(
        np.where((np.abs(low) <= p.largest), low, -np.inf),
        np.where((np.abs(high) <= p.largest), high, np.inf),
    )


def rounded(x: Interval, p: Precision, times: Any = 1.0) -> Interval:
    """x as `times` rounding errors leave it."""
    if p == EXACT:
        return x
    share = times * p.u * SECOND_ORDER
    return widened(x, np.abs(x.low) * share + p.tiny, np.abs(x.high) * share + p.tiny, p)


def near(x: Interval, p: Precision, times: float) -> Interval:
    """x with so many rounding errors of numbers of size max(|x|, 1), which may change its sign."""
    error = times * p.u * SECOND_ORDER
    return Interval(
        x.low - error * np.maximum(np.abs(x.low), 1), x.high + error * np.maximum(np.abs(x.high), 1)
    )


def negative(x: Interval) -> Interval:
    """-x."""
    return Interval(-x.high, -x.low)


def magnitude(x: Interval) -> Interval:
    """|x|."""
    return Interval(x.least, x.size)


def monotone(f: Callable, x: Interval) -> Interval:
    """An increasing function, not rounded."""
    return Interval(f(x.low), f(x.high))


def add(a: Interval, b: Interval, p: Precision) -> Interval:
    """a + b. Rounding to nearest moves the sum by no more than either term, since the other one
    is a number itself; a term below half a roundoff of the other leaves it as it is."""
    low, high = a.low + b.low, a.high + b.high
    if p == EXACT:
        return Interval(low, high)
    size_a, size_b = a.size, b.size
    less = np.minimum(size_a, size_b)
    small = np.where(less == 0, 0.0, p.tiny)  # a sum with 0 is exact
    share = p.u * SECOND_ORDER
    wide = widened(
        Interval(low, high),
        np.minimum(np.abs(low) * share, less) + small,
        np.minimum(np.abs(high) * share, less) + small,
        p,
    )
    half = p.u / 2 / SECOND_ORDER
    for kept, size in ((a, size_b), (b, size_a)):
        least = kept.least
        wide = pick((size <= least * half) & (least > p.tiny), kept, wide)
    return wide


def _times(a: Any, b: Any) -> Any:
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def product(a: Interval, b: Interval) -> Interval:
    """a b, not rounded."""
    if b.low is b.high and np.ndim(b.low) == 0:
        a, b = b, a
    if a.low is a.high and np.ndim(a.low) == 0:  # the numbers of an optimizer
        if a.low == 0:
            return Interval(np.zeros_like(b.low), np.zeros_like(b.low))
        ends = a.low * b.low, a.low * b.high
        return Interval(*(ends if a.low > 0 else ends[::-1]))
    corners = [_times(x, y) for x in a for y in b]
    return Interval(functools.reduce(np.minimum, corners), functools.reduce(np.maximum, corners))


def multiply(a: Interval, b: Interval, p: Precision) -> Interval:
    """a b; exact where either is 1 or -1."""
    real = product(a, b)
    if p == EXACT:
        return real
    unit = (a.exact & (a.size == 1)) | (b.exact & (b.size == 1))
    return pick(unit, real, rounded(real, p))


def inverse(x: Interval) -> Interval:
    """1 / x, not rounded."""
    crosses = (x.low < 0) & (x.high > 0)
    return Interval(
        np.where(crosses | (x.high == 0), -np.inf, 1 / x.high),
        np.where(crosses | (x.low == 0), np.inf, 1 / x.low),
    )


def power(x: Interval, exponent: int, p: Precision) -> Interval:
    """x to a whole power."""
    if exponent == 1:
        return x
    base = magnitude(x) if exponent % 2 == 0 else x
    if exponent < 0:
        base = inverse(base)
    n = abs(exponent)
    return rounded(Interval(base.low**n, base.high**n), p, n + 1)


def general_power(x: Interval, y: Interval, p: Precision) -> Interval:
    """x to the power y, for x > 0 or y = 1; else nothing is known. y log x is rounded before exp
    is."""
    positive = x.low > 0
    logs = Interval(np.log(np.where(positive, x.low, 1)), np.log(np.where(positive, x.high, 1)))
    exponent = product(y, logs)
    size = np.where(np.isinf(exponent.size), 0, exponent.size)
    ends = rounded(monotone(np.exp, exponent), p, 8 + 2 * size)
    same = y.exact & (y.low == 1)
    return pick(same, rounded(x, p), pick(positive, ends, Interval(-np.inf, np.inf)))


def wave(f: Callable, x: Interval, p: Precision) -> Interval:
    """A function of slope at most 1 between -1 and 1."""
    known = np.isfinite(x.low) & np.isfinite(x.high)
    value = f(np.where(known, (x.low + x.high) / 2, 0))
    radius = np.where(known, (x.high - x.low) / 2, 2)
    ends = Interval(np.maximum(value - radius, -1), np.minimum(value + radius, 1))
    return near(ends, p, 8)


# Comparison and choice: bools are intervals from "certainly" to "possibly" ---------------------


def truth(certain: Any, possible: Any) -> Interval:
    """A bool: whether it is certainly true, and whether it may be."""
    return Interval(certain * 1.0, possible * 1.0)


def less_than(a: Interval, b: Interval) -> Interval:
    """a < b."""
    return truth(a.high < b.low, a.low < b.high)


def at_most(a: Interval, b: Interval) -> Interval:
    """a <= b."""
    return truth(a.high <= b.low, a.low <= b.high)


def equal(a: Interval, b: Interval) -> Interval:
    """a == b."""
    same = a.exact & b.exact & (a.low == b.low)
    return truth(same, (a.low <= b.high) & (b.low <= a.high))


def opposite(a: Interval) -> Interval:
    """Not a."""
    return Interval(1 - a.high, 1 - a.low)


def chosen(which: Interval, *cases: Interval) -> Interval:
    """The case that `which` counts from 0; of those that it may be, what may be any."""
    low, high = np.inf, -np.inf
    for k, case in enumerate(cases):
        may = (which.low <= k) & (k <= which.high)
        low = np.minimum(low, np.where(may, case.low, np.inf))
        high = np.maximum(high, np.where(may, case.high, -np.inf))
    return Interval(low, high)


def larger(a: Interval, b: Interval) -> Interval:
    """The larger of the two."""
    return Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high))


def smaller(a: Interval, b: Interval) -> Interval:
    """The smaller of the two."""
    return Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high))


def remainder(a: Interval, b: Interval) -> Interval:
    """What is left of a / b, where both are known; else at most as much as b."""
    left = np.fmod(a.low, b.low)
    return pick(a.exact & b.exact & (b.low != 0), Interval(left, left), Interval(-b.size, b.size))
