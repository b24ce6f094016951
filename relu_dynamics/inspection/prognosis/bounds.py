"""Bounds: a program run on intervals, whole arrays at a time, and what they say of its units.

What comes out of an operation without a rule is unknown, from minus to plus infinity, so the bounds
hold for every program; loops that end by a test, sorting and the like only make them useless.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.inspection.prognosis.intervals import (
    SECOND_ORDER,
    Interval,
    Precision,
    chosen,
    point,
    precision,
    top,
    widened,
)
from relu_dynamics.inspection.prognosis.normalized import Makers
from relu_dynamics.inspection.prognosis.rules import elementwise, has_rule, is_complex
from relu_dynamics.inspection.prognosis.walks import walk
from relu_dynamics.inspection.reading.activations import LAYOUT, SAME, scan_counts
from relu_dynamics.inspection.reading.sites import Plan, Site

UNBOUNDED = 1e150  # stands for infinity in a product of matrices, where 0 times it must be 0

ENDLESS = 1e100  # sums that contain it lie beyond

COARSE = 2.0**-7  # what accelerators may lose of a product at their default precision

# The same numbers come out, in other places: either end of an interval by itself.
MOVES = {*LAYOUT, "concatenate", "pad", "reduce_window_max", "rev", "slice", "split"}
PICKS = {"dynamic_slice", "gather"}
RENAMES = SAME - {"convert_element_type", "reduce_precision"}
LEAST_OR_MOST: dict[str, Callable] = {
    "reduce_and": np.min,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_or": np.max,
}


def constant(value: Any) -> Interval:
    """An array that a program closed over or is given; random keys and complex numbers
    are not known."""
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jax.dtypes.extended) or jnp.issubdtype(dtype, jnp.complexfloating):
        return top(jnp.shape(value))
    return point(value)


class Arrays:
    """The domain of whole arrays, as `Interval` (see `walks`). Of a site it takes the largest z of
    every unit."""

    opaque = frozenset()

    def __init__(self, sites: list[Site], wanted: Iterable[int]):
        self.sites, self.wanted, self.remembered = sites, set(wanted), {}
        self.makers = Makers()

    def constant(self, value: Any) -> Interval:
        """An array that the program closed over or is given."""
        return self.makers.fresh(constant(value))

    def wants(self, number: int) -> bool:
        """Whether this site was asked for."""
        return number in self.wanted

    def take(self, number: int, z: Interval) -> Interval:
        """Between which numbers the largest z of each unit lies, [units], above the threshold."""
        site = self.sites[number]
        over = tuple(k for k in range(len(site.factors)) if k not in site.axes)
        most = (end.reshape(site.factors).max(over).reshape(-1) for end in z)
        return Interval(*(end - site.threshold for end in most))

    def leave(self, number: int, h: Interval) -> Interval:
        """The activation as it is."""
        return h

    def choose(self, which: Interval, cases: tuple) -> Interval:
        """What comes out of a branch."""
        return self.makers.fresh(chosen(which, *cases))

    def scan(self, eqn: Any, operands: list[Interval], plan: Plan) -> tuple[list, dict]:
        """A loop of known length, pass by pass."""
        params = eqn.params
        consts, carries = scan_counts(eqn)
        fixed, carry = operands[:consts], operands[consts : consts + carries]
        order = range(params["length"])
        passes: list[tuple[list, dict]] = []
        for k in reversed(order) if params["reverse"] else order:
            row = [
                self.makers.fresh(Interval(x.low[k], x.high[k]))
                for x in operands[consts + carries :]
            ]
            outs, taken = walk(params["jaxpr"], [*fixed, *carry, *row], self, plan)
            carry = outs[:carries]
            passes.append((outs[carries:], taken))
        if params["reverse"]:
            passes.reverse()
        if not passes:
            return [top(var.aval.shape) for var in eqn.outvars], {}
        stacked = [_stack(rows) for rows in zip(*(rows for rows, _ in passes), strict=True)]
        folded = {}
        for number in passes[0][1]:
            every = _stack([taken[number] for _, taken in passes])
            by_layer = plan.stacked.get(number, False)
            folded[number] = Interval(*((e.reshape(-1) if by_layer else e.max(0)) for e in every))
        return [*carry, *stacked], folded

    def step(self, eqn: Any, operands: list[Interval]) -> list[Interval]:
        """The outputs of one operation."""
        name = eqn.primitive.name
        if any(is_complex(var.aval.dtype) for var in (*eqn.invars, *eqn.outvars)):
            return [top(var.aval.shape) for var in eqn.outvars]
        if name in RENAMES:
            return operands
        outs = self._step(eqn, operands)
        return [self.makers.after(eqn, operands, outs[0])] if len(outs) == 1 else outs

    def _step(self, eqn: Any, operands: list[Interval]) -> list[Interval]:
        """As `step`, without what is known of how the operands were made."""
        name = eqn.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            return [_products(eqn, *operands)]
        if name in MOVES:
            ends = [_bound(eqn, [x[k] for x in operands]) for k in (0, 1)]
            return [Interval(low, high) for low, high in zip(*ends, strict=True)]
        if name in PICKS:
            return [_picked(eqn, *operands)]
        if name in LEAST_OR_MOST:
            return [Interval(*(LEAST_OR_MOST[name](e, eqn.params["axes"]) for e in operands[0]))]
        if name == "reduce_sum":
            return [_sum(eqn, operands[0])]
        if name == "iota":
            return [point(_bound(eqn, [])[0])]
        if has_rule(eqn):
            return [elementwise(eqn, operands)]
        return [top(var.aval.shape) for var in eqn.outvars]


def _stack(rows: Any) -> Interval:
    return Interval(np.stack([x.low for x in rows]), np.stack([x.high for x in rows]))


def _bound(eqn: Any, values: list, **changed: Any) -> list:
    """The operation itself, on float64 numbers."""
    with jax.enable_x64(True):
        out = eqn.primitive.bind(*map(jnp.asarray, values), **(eqn.params | changed))
    return [np.asarray(one) for one in (out if eqn.primitive.multiple_results else [out])]


def _picked(eqn: Any, x: Interval, *places: Interval) -> Interval:
    """A part of an array at a place that is computed: nothing is known if that is not."""
    if not all(np.all(place.exact) for place in places):
        return top(eqn.outvars[0].aval.shape)
    at = [
        place.low.astype(atom.aval.dtype)
        for place, atom in zip(places, eqn.invars[1:], strict=True)
    ]
    low, high = (_bound(eqn, [end, *at])[0] for end in x)
    unknown = np.isnan(low)
    return Interval(np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high))


def _sum(eqn: Any, x: Interval) -> Interval:
    axes = eqn.params["axes"]
    terms = math.prod(eqn.invars[0].aval.shape[k] for k in axes)
    ends = Interval(x.low.sum(axes), x.high.sum(axes))
    return sum_of(ends, x.size.sum(axes), terms, precision(eqn.outvars[0].aval.dtype))


def sum_of(ends: Interval, size: Any, terms: int, p: Precision, more: float = 0.0) -> Interval:
    """A sum of so many terms with sum |term| = size, rounded, in any order, as
    `certificates.case.sum_error` bounds it, and by `more` of the size."""
    error = ((terms + 2) * p.u * SECOND_ORDER + more) * size + terms * p.tiny
    error = np.where(size > 0, error, 0.0)  # a sum of zeros is exact
    return widened(ends, error, error, p)


def _products(eqn: Any, a: Interval, b: Interval) -> Interval:
    """A product of matrices or a convolution. Every term is bounded by the signs of its factors:
    where no term can be above 0 the sum is not either, rounded or not, however large the factors
    (`certificates.case.no_positive_term`)."""
    of = lambda x, y: _bound(eqn, [x, y], precision=None, preferred_element_type=np.dtype(float))[0]  # noqa: E731
    cut = lambda x: Interval(*(np.clip(end, -UNBOUNDED, UNBOUNDED) for end in x))  # noqa: E731
    a, b = cut(a), cut(b)
    # The parts above and below 0 of either end: how far up and down a factor may, and must, reach.
    up_a, down_a, up_b, down_b = (np.maximum(e, 0) for e in (a.high, -a.low, b.high, -b.low))
    must_a, fall_a, must_b, fall_b = (np.maximum(e, 0) for e in (a.low, -a.high, b.low, -b.high))
    above = of(up_a, up_b) + of(down_a, down_b)
    below = of(up_a, down_b) + of(down_a, up_b)
    ends = Interval(
        np.where(below > ENDLESS, -np.inf, of(must_a, must_b) + of(fall_a, fall_b) - below),
        np.where(above > ENDLESS, np.inf, above - of(must_a, fall_b) - of(fall_a, must_b)),
    )
    size = of(a.size, b.size)
    size = np.where(size > ENDLESS, np.inf, size)
    p = precision(eqn.outvars[0].aval.dtype)
    return sum_of(ends, size, _terms(eqn), p, _lost(eqn))


def _terms(eqn: Any) -> int:
    """How many products are summed."""
    numbers, shape = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
    if eqn.primitive.name == "dot_general":
        return math.prod(shape[k] for k in numbers[0][1])
    return math.prod(shape) // max(shape[numbers.rhs_spec[0]], 1)


def _lost(eqn: Any) -> float:
    exact = jax.default_backend() == "cpu" or "HIGHEST" in str(eqn.params["precision"])
    return 0.0 if exact else COARSE


def largest(
    program: Any, wanted: Iterable[int], leaves: list[Interval], data: tuple
) -> dict[int, Interval]:
    """{site: between which numbers every unit's largest z - threshold lies, [units]} of a
    `watch.Program` for the wanted sites (by number), for all parameters within `leaves`, in their
    order. The data are exact."""
    domain = Arrays(program.sites, wanted)
    values = [*map(domain.makers.fresh, leaves), *map(domain.constant, jax.tree.leaves(data))]
    with np.errstate(all="ignore"):
        _, taken = walk(
            program.closed,
            values,
            domain,
            program.plan,
            [False] * len(program.closed.jaxpr.outvars),
        )
    none = {number: top((program.sites[number].count,)) for number in domain.wanted}
    return none | taken
