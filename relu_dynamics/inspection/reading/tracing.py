"""Tracing: a user's function as a jaxpr, or one line that says what keeps it from being one.

JAX runs the function once with placeholders and keeps what it computed with them. What Python must
know then (a name, a number of layers, which branch of an `if`) has to be fixed beforehand, and what
changes from call to call (a counter, np.random) is baked in: both are found here by trying.
"""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from relu_dynamics.checks import short_repr
from relu_dynamics.inspection.reading.sites import line_of

OF_JAX = (jax.errors.JAXTypeError, jax.errors.JAXIndexError)

MOST_TRIES = 16  # arguments that are fixed, one after the other, to find which one decides


def as_jaxpr(function: Callable, args: Sequence[Any]) -> tuple[ClosedJaxpr, Any]:
    """(jaxpr, shapes of the output) of `function(*args)`.

    Raises a one-line ValueError that names the argument which Python needs to know; what a function
    raises by itself is left as it is.
    """
    try:
        return jax.make_jaxpr(function, return_shape=True)(*args)
    except (TypeError, ValueError, IndexError) as error:
        fixed = _deciding(function, args)
        if fixed is None and not isinstance(error, OF_JAX):
            raise
        raise ValueError(_why(function, args, fixed, error)) from error


def check_pure(function: Callable, args: Sequence[Any]) -> None:
    """Raises a one-line ValueError where two traces of `function(*args)` differ, which names the
    line: what changes from call to call is no part of a compiled program."""
    plain = inspect.unwrap(function)  # jit would hand out its first trace again
    try:
        # Functions of their own, for JAX remembers what it has traced.
        first, second = (jax.make_jaxpr(lambda *a: plain(*a))(*args) for _ in range(2))
    except Exception:
        return  # `as_jaxpr` says what is wrong, or it has another signature than what it wraps
    for name in _keepers(plain):
        raise ValueError(
            f"{_name(function)} is not pure: it keeps a value that it computed in {name!r}, which "
            "outlives the call; return it instead."
        )
    difference = next(_differences(first, second), None)
    if difference:
        raise ValueError(
            f"{_name(function)} is not pure: called twice with the same arguments it is two "
            f"programs, {difference}. A counter, np.random, a clock or a list that grows would be "
            "baked in as it is at the first call; pass it as an argument (for random numbers a "
            "jax.random key)."
        )


# What decides in Python ------------------------------------------------------------------------


class _Leaf(NamedTuple):
    """One leaf of the arguments."""

    argument: int  # of the positional arguments, from 0
    path: str  # inside it; "" where it is the argument
    value: Any


def _leaves(args: Sequence[Any]) -> list[_Leaf]:
    return [
        _Leaf(path[0].idx, jax.tree_util.keystr(path[1:]), value)
        for path, value in jax.tree_util.tree_flatten_with_path(tuple(args))[0]
    ]


def _deciding(function: Callable, args: Sequence[Any]) -> list[_Leaf] | None:
    """The leaves that, fixed, let the function be traced: one, those of one argument, or all that
    are one number, text, or no array at all."""
    leaves = _leaves(args)
    known = [i for i, leaf in enumerate(leaves) if not isinstance(leaf.value, Tracer)]
    plain = [i for i in known if not np.ndim(_shaped(leaves[i].value))]
    whole = [[i for i in known if leaves[i].argument == number] for number in range(1, len(args))]
    for numbers in [*([i] for i in plain), *whole][:MOST_TRIES] + [plain]:
        if numbers and _traces(function, args, set(numbers)):
            return [leaves[i] for i in numbers]
    return None


def _shaped(value: Any) -> Any:
    return value if isinstance(value, np.ndarray | jax.Array) else 0


def _traces(function: Callable, args: Sequence[Any], fixed: set[int]) -> bool:
    values, tree = jax.tree.flatten(tuple(args))

    def call(*free):
        left = iter(free)
        every = [value if i in fixed else next(left) for i, value in enumerate(values)]
        return function(*jax.tree.unflatten(tree, every))

    try:
        jax.eval_shape(call, *(value for i, value in enumerate(values) if i not in fixed))
    except Exception:  # whatever else is wrong with it: it does not help
        return False
    return True


def _why(function: Callable, args: Sequence[Any], fixed: Any, error: Exception) -> str:
    name, at = _name(function), _user_line(error)
    where = f" at {at}" if at else ""
    if fixed is None:
        text = " ".join(str(error).split("\n")[0].split())[:200].rstrip(".")
        return (
            f"{name} cannot be traced: Python needs a value{where} that is computed ({text}). Use "
            "jnp functions, jnp.where, jax.lax.cond or jax.lax.fori_loop there."
        )
    names = _parameter_names(function, len(args))
    which = " and ".join(
        dict.fromkeys(
            f"{names[leaf.argument]}{leaf.path}"
            + ("" if np.ndim(_shaped(leaf.value)) else f" = {short_repr(leaf.value)}")
            for leaf in fixed
        )
    )
    whole = {leaf.argument: leaf.value for leaf in fixed if not leaf.path}
    free = ", ".join(name for i, name in enumerate(names) if i not in whole)
    full = ", ".join(
        short_repr(whole[i]) if i in whole and not np.ndim(_shaped(whole[i])) else own
        for i, own in enumerate(names)
    )
    remedy = (
        f"give lambda {free}: {name}({full}), or functools.partial"
        if whole
        else "take it out of the arrays and fix it by functools.partial"
    )
    return (
        f"{name} cannot be traced: Python needs to know {which}{where}. Make it static: {remedy}."
    )


def _name(function: Callable) -> str:
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__name__", None) or type(inner).__name__


def _parameter_names(function: Callable, count: int) -> list[str]:
    try:
        known = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        known = []
    named = [one.name for one in known if one.kind == one.POSITIONAL_OR_KEYWORD][:count]
    return named + [f"argument_{i}" for i in range(len(named), count)]


def _user_line(error: BaseException) -> str:
    """File and line of the last frame that is neither JAX's nor of this package."""
    own = __name__.partition(".")[0]
    frames = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("jax", "jaxlib", own)
    ]
    if not frames:
        return ""
    last = traceback.extract_stack(frames[-1], limit=1)[0]
    lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame is frames[-1]]
    return f"{last.filename.rpartition('/')[2]}:{lines[-1]}"


# Two traces ------------------------------------------------------------------------------------


def _keepers(function: Callable) -> Iterator[str]:
    """Names of what a function refers to outside itself that hold a placeholder of JAX."""
    inner = getattr(function, "__func__", function)
    if not inspect.isfunction(inner):
        return
    outside = inspect.getclosurevars(inner)
    known = {**outside.globals, **outside.nonlocals}
    if inner is not function:
        known["self"] = getattr(function, "__self__", None)
    for name, value in known.items():
        held = value.values() if isinstance(value, dict) else value
        if not isinstance(value, list | tuple | set | dict):
            held = [value, *getattr(value, "__dict__", {}).values()]
        if any(isinstance(one, Tracer) for one in held):
            yield name


def _differences(one: ClosedJaxpr, other: ClosedJaxpr) -> Iterator[str]:
    """Where two jaxprs differ, in words."""
    pairs = zip(one.consts, other.consts, strict=False)
    if len(one.consts) != len(other.consts) or not all(_same(a, b) for a, b in pairs):
        yield "with other constants"
    yield from _inside(one.jaxpr, other.jaxpr)


def _inside(one: Jaxpr, other: Jaxpr) -> Iterator[str]:
    for a, b in zip(one.eqns, other.eqns, strict=False):
        if a.primitive is not b.primitive:
            yield f"{a.primitive.name} and {b.primitive.name} at {line_of(a)}"
        for x, y in zip(a.invars, b.invars, strict=False):
            if isinstance(x, Literal) and isinstance(y, Literal) and not _same(x.val, y.val):
                yield f"with {_shown(x.val)} and {_shown(y.val)} at {line_of(a)}"
        if [str(v.aval) for v in a.outvars] != [str(v.aval) for v in b.outvars]:
            yield f"with other shapes or types at {line_of(a)}"
        for x, y in zip(_bodies(a), _bodies(b), strict=False):
            yield from _differences(x, y)
    if len(one.eqns) != len(other.eqns):
        yield f"of {len(one.eqns)} and of {len(other.eqns)} operations"


def _shown(value: Any) -> str:
    return short_repr(np.asarray(value).tolist())


def _bodies(eqn: Any) -> list[ClosedJaxpr]:
    """The jaxprs among an equation's parameters."""
    several = [one for p in eqn.params.values() for one in (p if isinstance(p, tuple) else (p,))]
    return [
        one if isinstance(one, ClosedJaxpr) else ClosedJaxpr(one, ())
        for one in several
        if isinstance(one, ClosedJaxpr | Jaxpr)
    ]


def _same(a: Any, b: Any) -> bool:
    """Whether two constants are the same numbers; what has none (a key) counts as the same."""
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return True
    try:
        return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
    except TypeError:
        return True
