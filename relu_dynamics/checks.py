"""Checks: refuse bad input in one line that names the field, the value and the remedy."""

import difflib
import math
import numbers
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np


def check_choice(field: str, value: Any, known: Collection[str]) -> None:
    """Raises a ValueError that names the nearest known value unless `value` is in `known`.

    `known` are names, or a table of them whose rows may declare `aliases`: what else the field
    calls them. The hint looks at names and aliases first, in any case and without _, - and blanks,
    and only then at the spelling.
    """
    listed = ", ".join(known)
    if not isinstance(value, str):
        raise ValueError(f"{field}={short_repr(value)} must be a name. Known: {listed}.")
    if value in known:
        return
    near = nearest(value, known)
    hint = f'; did you mean "{near}"?' if near else "."
    raise ValueError(f"{field}={short_repr(value)} is not known{hint} Known: {listed}.")


def nearest(value: str, known: Collection[str]) -> str | None:
    """The name in `known`, as `check_choice` has it, that `value` most likely means; or None."""
    asked = _folded(value[:100])
    rows = known.items() if isinstance(known, Mapping) else ((name, None) for name in known)
    meant = {_folded(alias): name for name, row in rows for alias in aliases_of(row)}
    meant |= {_folded(name): name for name in known}
    if asked in meant:
        return meant[asked]
    begun = [name for name in known if _folded(name).startswith(asked) and asked]
    close = begun or difflib.get_close_matches(asked, list(meant), n=1, cutoff=0.6)
    return meant[_folded(close[0])] if close else None


def aliases_of(row: Any) -> tuple[str, ...]:
    """The other names that a row of a table declares, or a field in its metadata."""
    declared = getattr(row, "metadata", {}).get("aliases") or getattr(row, "aliases", ())
    return declared if isinstance(declared, tuple) else ()


def _folded(name: str) -> str:
    return re.sub("[_ -]", "", name.casefold())


def reads_as_number(text: str | bytes) -> bool:
    """Whether text spells a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def without_quotes(value: Any) -> str:
    """The remedy for a number given as text, such as ": 0.1 without quotes"; else nothing."""
    given = isinstance(value, str) and reads_as_number(value)
    return f": {float(value):g} without quotes" if given else ""


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
