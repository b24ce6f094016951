"""Sizes: how much memory a user's function takes, before it is compiled."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of their shapes."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def working_bytes(function: Callable, *arguments: Any) -> int:
    """Bytes of all values that `function(*arguments)` computes, none given back: an upper estimate
    of what it takes while it runs. Traces, and runs nothing."""
    return _values(jax.make_jaxpr(function)(*arguments).jaxpr)


def _values(jaxpr: Any) -> int:
    own = sum(_size(variable.aval) for eqn in jaxpr.eqns for variable in eqn.outvars)
    return own + max((_values(inner) for eqn in jaxpr.eqns for inner in _inner(eqn)), default=0)


def _inner(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


def _size(array: Any) -> int:
    shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", np.dtype(np.float32))
    return int(np.prod(shape, initial=1)) * dtype.itemsize
