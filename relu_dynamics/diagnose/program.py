"""Programs by name: what `module:name` says is diagnosed, with its parameters and its data."""

import importlib
import inspect
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from relu_dynamics.checkpoint_files import read_checkpoint
from relu_dynamics.checks import nearest, short_repr


def load(program: str, params: str | os.PathLike | None) -> tuple[Callable, Any]:
    """(function, parameters) of `module:name`, as `function(parameters, *batch)` is called.

    The name is that of one of

    * a function without arguments that returns (function, parameters), or such a pair;
    * a function of (parameters, *batch), or an object with such an `apply` (a Flax linen module, a
      transformed Haiku function); the parameters then come from the checkpoint `params`.

    The module is imported from the current folder too, which runs it. Raises a one-line ValueError.
    """
    found, field = _named(program), f"program={short_repr(program)}"
    if callable(found) and not hasattr(found, "apply") and not _needed(found):
        found = _called(field, found)
    given = None if params is None else read_checkpoint(params)
    if isinstance(found, tuple):
        if len(found) != 2 or not callable(found[0]):
            raise ValueError(f"{field} gave {short_repr(found)}; give (function, parameters).")
        return found if given is None else (found[0], _as(found[1], given))
    function, wrapped = getattr(found, "apply", found), hasattr(found, "apply")
    if not callable(function):
        raise ValueError(f"{field} is {short_repr(found)}; give a function.")
    if given is None:
        raise ValueError(
            f"{field} takes parameters; give them with --params FILE, or name a function without "
            "arguments that returns (function, parameters)."
        )
    is_flax = wrapped and hasattr(found, "scope")  # of linen, whose parameters are a collection
    return function, {"params": given} if is_flax else given


def batches_of(arrays: Sequence[np.ndarray], size: int) -> Iterator[tuple]:
    """Batches of so many rows, as they are asked for."""
    for start in range(0, len(arrays[0]), size):
        yield tuple(_as_jax(array[start : start + size]) for array in arrays)


def _as_jax(part: np.ndarray) -> np.ndarray:
    wide = {"f": np.float32, "i": np.int32, "u": np.uint32}
    kind = part.dtype.kind
    return part.astype(wide[kind]) if kind in wide and part.dtype.itemsize == 8 else part


def _named(program: str) -> Any:
    module, colon, name = program.partition(":")
    if not (module and colon and name):
        raise ValueError(
            f"program={short_repr(program)} must be module:name, such as mymodel:apply."
        )
    module = module.removesuffix(".py").replace("/", ".")
    sys.path.insert(0, str(pathlib.Path.cwd()))
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise ValueError(
            f"program: module {module!r} cannot be imported ({_what(error)}); start where it lies."
        ) from None
    finally:
        sys.path.pop(0)
    for part in name.split("."):
        if not hasattr(found, part):
            near = nearest(part, [known for known in dir(found) if not known.startswith("_")])
            hint = f'; did you mean "{near}"?' if near else "."
            raise ValueError(f"program: {module} has no {part!r}{hint}")
        found = getattr(found, part)
    return found


def _needed(function: Callable) -> int:
    """How many arguments a function cannot do without."""
    try:
        known = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    several = any(one.kind == inspect.Parameter.VAR_POSITIONAL for one in known)
    return several + sum(one.kind in plain and one.default is one.empty for one in known)


def _called(field: str, factory: Callable) -> Any:
    try:
        return factory()
    except Exception as error:
        raise ValueError(f"{field} failed when it was called: {_what(error)}.") from None


def _as(like: Any, given: Any) -> Any:
    """A checkpoint's arrays in the tree of the program's own parameters."""
    names = {jax.tree_util.keystr(p, simple=True, separator="/"): np.shape(x)
             for p, x in jax.tree_util.tree_flatten_with_path(like)[0]}  # fmt: skip
    flat = {jax.tree_util.keystr(p, simple=True, separator="/"): x
            for p, x in jax.tree_util.tree_flatten_with_path(given)[0]}  # fmt: skip
    ends = {name.removesuffix("/value").removeprefix("params/"): name for name in names}
    for name, place in ends.items():
        if name not in flat or flat[name].shape != names[place]:
            has = flat[name].shape if name in flat else "nothing"
            raise ValueError(
                f"params has {has} for {name!r}, and the program needs {names[place]}; known: "
                f"{short_repr(', '.join(flat))}."
            )
    extra = [name for name in flat if name not in ends]
    if extra:
        raise ValueError(f"params has {extra[0]!r}, which the program has not; leave it out.")
    return jax.tree.unflatten(jax.tree.structure(like), [flat[name] for name in ends])


def _what(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(field: str, call: Callable[[], Any]) -> Any:
    """What `call` returns; what else than a ValueError a user's program raises, as one."""
    try:
        return call()
    except ValueError:
        raise
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{field}: {_what(error)}.") from None
