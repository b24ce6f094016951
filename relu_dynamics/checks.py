"""Checks: refuse bad input in one line that names the field, the value and the remedy."""

import difflib
import math
import numbers
import os
import pathlib
from typing import Any

import jax
import numpy as np


def check_choice(field: str, value: Any, known: tuple[str, ...] | list[str]) -> None:
    """Raises a ValueError that names the nearest known value unless `value` is in `known`."""
    if not isinstance(value, str):
        raise ValueError(f"{field}={short_repr(value)} must be a name. Known: {', '.join(known)}.")
    if value in known:
        return
    near = [name for name in known if name.startswith(value) and value]
    near = near or difflib.get_close_matches(value[:100], list(known), n=1, cutoff=0.4)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    raise ValueError(f"{field}={short_repr(value)} is not known{hint} Known: {', '.join(known)}.")


def short_repr(value: Any) -> str:
    """A value as one line of at most 100 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a broken __repr__, or an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_path(field: str, value: Any) -> pathlib.Path:
    """A path given as text or as a path; raises a ValueError for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{field}={short_repr(value)} must be a path, such as 'runs/map'.")
    return pathlib.Path(value)


def is_real_number(value: Any) -> bool:
    """Whether a value is one int or float: of Python, of numpy, or a 0-d array of them."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, numbers.Real)


def check_finite(name: str, value: float) -> float:
    """A finite number as a Python float; raises a ValueError otherwise."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}={short_repr(value)} must be finite.")
    return number
