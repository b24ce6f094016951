"""Rules: the interval of an operation number by number, from those of its operands."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special

from relu_dynamics.inspection.prognosis.intervals import (
    EXACT,
    Interval,
    add,
    at_most,
    chosen,
    equal,
    general_power,
    inverse,
    larger,
    less_than,
    magnitude,
    monotone,
    multiply,
    near,
    negative,
    opposite,
    pick,
    point,
    power,
    precision,
    product,
    remainder,
    rounded,
    smaller,
    truth,
    wave,
)

Rule = Callable[..., Interval]  # of the operands and the precision of the output


def _root(x: Interval) -> Interval:
    return Interval(np.sqrt(np.maximum(x.low, 0)), np.sqrt(np.maximum(x.high, 0)))


def _smooth(f: Callable) -> Rule:
    return lambda x, p: rounded(monotone(f, x), p, 8)


def _step(f: Callable) -> Rule:
    return lambda x, p: monotone(f, x)


RULES: dict[str, Rule] = {
    "abs": lambda x, p: magnitude(x),
    "add": add,
    "add_any": add,
    "and": lambda a, b, p: smaller(a, b),
    "ceil": _step(np.ceil),
    "clamp": lambda low, x, high, p: smaller(larger(x, low), high),
    "cos": lambda x, p: wave(np.cos, x, p),
    "div": lambda a, b, p: rounded(product(a, inverse(b)), p, 4),
    "eq": lambda a, b, p: equal(a, b),
    "erf": _smooth(scipy.special.erf),
    "exp": _smooth(np.exp),
    "exp2": _smooth(np.exp2),
    "expm1": _smooth(np.expm1),
    "floor": _step(np.floor),
    "ge": lambda a, b, p: at_most(b, a),
    "gt": lambda a, b, p: less_than(b, a),
    "is_finite": lambda x, p: truth(np.isfinite(x.size), np.ones_like(x.size)),
    "le": lambda a, b, p: at_most(a, b),
    "log": lambda x, p: near(monotone(lambda end: np.log(np.maximum(end, 0)), x), p, 8),
    "log1p": lambda x, p: near(monotone(lambda end: np.log1p(np.maximum(end, -1)), x), p, 8),
    "logistic": _smooth(scipy.special.expit),
    "lt": lambda a, b, p: less_than(a, b),
    "max": lambda a, b, p: larger(a, b),
    "min": lambda a, b, p: smaller(a, b),
    "mul": multiply,
    "ne": lambda a, b, p: opposite(equal(a, b)),
    "neg": lambda x, p: negative(x),
    "not": lambda x, p: opposite(x),
    "or": lambda a, b, p: larger(a, b),
    "pow": general_power,
    "rem": lambda a, b, p: remainder(a, b),
    "round": lambda x, p: Interval(np.ceil(x.low - 0.5), np.floor(x.high + 0.5)),  # halves: either
    "rsqrt": lambda x, p: rounded(inverse(_root(x)), p, 4),
    "select_n": lambda which, *rest: chosen(which, *rest[:-1]),
    "sign": _step(np.sign),
    "sin": lambda x, p: wave(np.sin, x, p),
    "sqrt": lambda x, p: rounded(_root(x), p, 4),
    "square": lambda x, p: power(x, 2, p),
    "sub": lambda a, b, p: add(a, negative(b), p),
    "tanh": _smooth(np.tanh),
}

BITWISE = {"and", "or", "not"}  # of whole numbers


def has_rule(eqn: Any) -> bool:
    """Whether an operation works number by number, and there is a rule for it."""
    name = eqn.primitive.name
    if name in (*BITWISE, "div", "pow") and is_whole(eqn.outvars[0].aval.dtype):
        return False
    return name in RULES or name in ("integer_pow", "convert_element_type")


@functools.cache
def is_whole(dtype: Any) -> bool:
    """Whether a type is of whole numbers."""
    return jnp.issubdtype(dtype, jnp.integer)


@functools.cache
def is_complex(dtype: Any) -> bool:
    """Whether a type is of complex numbers, for which there are no rules."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


def elementwise(eqn: Any, operands: list[Interval]) -> Interval:
    """The output of an operation number by number, for which there is a rule."""
    name, dtype = eqn.primitive.name, eqn.outvars[0].aval.dtype
    if name == "integer_pow":
        out = power(operands[0], eqn.params["y"], precision(dtype))
    elif name == "convert_element_type":
        out = _converted(operands[0], eqn.invars[0].aval.dtype, dtype)
    else:
        out = RULES[name](*operands, precision(dtype))
    return _in_range(out, dtype) if is_whole(dtype) else out


def _in_range(x: Interval, dtype: Any) -> Interval:
    """Whole numbers, of which nothing is known where they may wrap around. Counts without a bound
    are taken to stay in range."""
    info = jnp.iinfo(dtype)
    over = [np.isfinite(end) & ((end < info.min) | (end > info.max)) for end in x]
    return pick(over[0] | over[1], Interval(float(info.min), float(info.max)), x)


def _converted(x: Interval, old: Any, new: Any) -> Interval:
    if jnp.issubdtype(new, jnp.bool_):
        return opposite(equal(x, point(0.0)))
    real, p = jnp.issubdtype(old, jnp.floating), precision(new)
    if p == EXACT:
        return monotone(np.trunc, x) if real else x
    if real and jnp.promote_types(old, new) == new:
        return x  # nothing is lost
    fits = (not real) & (x.size < 1 / p.u)
    return pick(fits, x, rounded(x, p))
