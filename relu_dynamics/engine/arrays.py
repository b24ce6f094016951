"""Arrays: what a user hands over as inputs or targets, as finite float32 rows.

NumPy, JAX and pandas objects, lists and columns of data sets. Every refusal is one line that names
the field, the row, the column, the value and the remedy. Rows and columns count from 0.
"""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from relu_dynamics.checks import reads_as_number, short_repr

LARGEST = 1e15  # a float32 variance overflows soon after

LEAST_SPREAD = 1e-15  # below, a float32 variance is 0

MISSING = ("", "na", "n/a", "nan", "null", "?")  # of text cells among numbers

FILL = "drop the row or fill the cell"


def as_array(field: str, value: Any) -> np.ndarray:
    """A value as a host array with rows; nothing of it is converted yet."""
    if hasattr(value, "toarray") and not isinstance(value, np.ndarray | jax.Array):
        raise ValueError(f"{field} is sparse; give {field}.toarray().")
    if np.ma.is_masked(value):
        raise ValueError(f"{field} has masked cells; {FILL}.")
    if isinstance(value, str | bytes | dict | set | frozenset) or value is None:
        raise ValueError(f"{field}={short_repr(value)} must be an array of numbers with rows.")
    if isinstance(value, Sequence) and not isinstance(value, list | tuple):
        value = list(value)  # a column of a data set
    try:
        array = np.asarray(value)
    except Exception as error:
        lengths = [len(r) for r in value if hasattr(r, "__len__")] if _is_list(value) else []
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        if odd is not None:
            raise ValueError(
                f"{field}: row {odd} has {lengths[odd]} values and row 0 has {lengths[0]}; give "
                "rows of one length."
            ) from None
        text = " ".join(str(error).split())[:150]
        raise ValueError(f"{field} is no array ({text}); give numbers as a NumPy array.") from None
    if array.dtype.kind in "US" and not isinstance(value, np.ndarray):
        array = np.asarray(value, object)  # NumPy writes numbers beside text as text
    if array.dtype.kind == "V" and array.dtype.names is None:  # bfloat16 and the like
        array = array.astype(np.float32)
    if array.ndim == 0:
        raise ValueError(
            f"{field}={short_repr(value)} is not an array; give one row per example, [rows, ...]."
        )
    if not array.size:
        raise ValueError(f"{field} is empty (shape {array.shape}); give at least one value.")
    return array


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def is_missing(value: Any) -> bool:
    """Whether a cell of objects is empty: None, NaN, one of pandas' own, or a word for it."""
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return is_number(value) and bool(value != value)


def is_number(value: Any) -> bool:
    """Whether a cell of objects is a real number or a boolean."""
    return isinstance(value, numbers.Real | np.bool_)


def check_lengths(one: str, first: np.ndarray, other: str, second: np.ndarray) -> None:
    """Raises a ValueError unless two arrays, named `one` and `other`, have as many rows."""
    if len(first) == len(second):
        return
    turned = second.ndim == 2 and second.shape[0] == 1 and second.shape[1] == len(first)
    remedy = f"give {other}.T" if turned else "give one target per row"
    raise ValueError(f"{one} has {len(first)} rows and {other} has {len(second)}; {remedy}.")


def check_same_features(train: np.ndarray, names: Any, held: np.ndarray, held_names: Any) -> None:
    """Raises a ValueError unless held-out inputs have the features of the training inputs."""
    if train.shape[1] != held.shape[1]:
        raise ValueError(
            f"held inputs have {held.shape[1]} features and inputs have {train.shape[1]}; give "
            "the same ones."
        )
    for i, (name, other) in enumerate(zip(names or (), held_names or (), strict=False)):
        if name != other:
            raise ValueError(
                f"held inputs: column {i} is {short_repr(other)} and in inputs {short_repr(name)}; "
                "give the same columns in the same order."
            )


def features_of(field: str, value: Any) -> tuple[np.ndarray, list | None, list[str]]:
    """(inputs as [rows, features] float32, the columns' names where they have some, notes).

    [rows] is one feature; rows of more axes, such as images, are flattened."""
    names = list(value.columns) if hasattr(value, "columns") else None
    array = as_array(field, value)
    notes = []
    if array.ndim == 1:
        array = array[:, None]
    elif array.ndim > 2:
        notes.append(f"{field}: rows of shape {array.shape[1:]} are flattened.")

    def column(rest):
        if array.ndim > 2:
            return f"pixel {tuple(map(int, rest))}"
        return f"column {names[rest[0]]!r}" if names else f"column {int(rest[0])}"

    def place(index):
        return f"row {int(index[0])}, {column(index[1:])}"

    real = real_numbers(field, array, place, "encode it as numbers, or drop the column")
    flat = real.reshape(len(real), -1)
    single = flat.astype(np.float32)
    low, high = flat.min(0), flat.max(0)
    for lost in np.flatnonzero((low < high) & ~float32_keeps(single, low, high)):
        where = column(np.unravel_index(lost, array.shape[1:]))
        raise ValueError(
            f"{field}: {where} goes from {low[lost]:.17g} to {high[lost]:.17g}, which float32 "
            "cannot tell apart or square; subtract an offset, or change its unit."
        )
    constant = np.flatnonzero(low == high)
    if len(constant):
        first = column(np.unravel_index(constant[0], array.shape[1:]))
        notes.append(
            f"{field}: {len(constant)} of {flat.shape[1]} features are constant, {first} first; "
            "they are kept, and standardized to 0."
        )
    if flat.shape[1] >= 16 and low.min() >= 0 and 64 < high.max() <= 255:
        if array.dtype.kind in "iu" or not (flat % 1).any():
            notes.append(
                f"{field}: whole numbers from 0 to {high.max():g} look like image bytes; "
                "input_scaling='raw' would not scale them, so use 'standardized' or 'minmax', or "
                "divide by 255."
            )
    return single, names, notes


def float32_keeps(single: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether float32 keeps a column's spread, [features]."""
    return (single.min(0) < single.max(0)) & (high - low >= LEAST_SPREAD)


def real_numbers(field: str, array: np.ndarray, place: Any, remedy: str) -> np.ndarray:
    """An array of finite numbers as float64 (float32 where nothing is lost); raises for the first
    cell that is none."""
    kind = array.dtype.kind
    if kind in "USO":
        readable = None  # the first cell of text that could be a number
        for index in np.ndindex(array.shape):
            value = array[index]
            if is_missing(value):
                raise ValueError(f"{field}: {place(index)} is missing ({str(value)!r}); {FILL}.")
            if isinstance(value, str | bytes):
                if not reads_as_number(value):
                    raise ValueError(
                        f"{field}: {place(index)} is text ({short_repr(str(value))}); {remedy}."
                    )
                readable = index if readable is None else readable
            elif not is_number(value):
                what = f"{short_repr(value)} ({type(value).__name__})"
                raise ValueError(f"{field}: {place(index)} is {what}; {remedy}.")
        if readable is not None:
            text = short_repr(str(array[readable]))
            raise ValueError(
                f"{field}: {place(readable)} is text ({text}); give {field}.astype(float)."
            )
        array = array.astype(np.float64)
    elif kind not in "biuf":
        raise ValueError(f"{field} has dtype {array.dtype}; give real numbers: {remedy}.")
    exact = array.dtype.itemsize <= 2 or array.dtype == np.float32
    real = array.astype(np.float32 if exact else np.float64)
    bad = ~np.isfinite(real)
    if bad.any():
        index = np.unravel_index(np.argmax(bad), real.shape)
        raise ValueError(f"{field}: {place(index)} is {real[index]}; {FILL}.")
    large = np.abs(real) > LARGEST
    if large.any():
        index = np.unravel_index(np.argmax(large), real.shape)
        raise ValueError(
            f"{field}: {place(index)} is {real[index]:g}, too large for a variance in float32; "
            "change its unit."
        )
    return real
