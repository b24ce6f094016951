"""Data files: a user's .csv, .parquet or .npz, read strictly into inputs and targets.

What the values may be is checked where they become a task (`engine.data`); what is refused here is
a file that does not say which values it means.
"""

import contextlib
import csv
import hashlib
import os
import pathlib
import stat
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.checks import check_choice, check_path, reads_as_number, short_repr

ARRAYS = (  # of an .npz: (inputs, targets)
    ("inputs", "targets"),
    ("X", "y"),
    ("x", "y"),
    ("X_train", "y_train"),
    ("x_train", "y_train"),
)

HELD_ARRAYS = (("held_inputs", "held_targets"), ("X_test", "y_test"), ("x_test", "y_test"))


class MissingParquetError(ImportError, ValueError):
    """The extra `parquet` is not installed. A ValueError too, so that scripts end in one line."""


class FileData(NamedTuple):
    """What a data file holds."""

    inputs: Any  # an array, or a table with its columns' names
    targets: Any
    held: tuple[Any, Any] | None  # the held-out arrays of an .npz that has some
    source: dict[str, str]  # the file's name, without its folder, and its sha256


def read_data(path: str | os.PathLike, target: str | None = None) -> FileData:
    """The inputs and targets in a .csv (UTF-8, comma, a line of names), .parquet or .npz file.

    Args:
      path: the file.
      target: the column of the targets; all other columns are inputs. An .npz holds arrays of its
        own instead: the first pair of `ARRAYS` that is there, and of `HELD_ARRAYS`.

    Raises a one-line ValueError for a file that is missing, empty or not of its kind, for a column
    that is not there or is there twice, and a `MissingParquetError` without the extra `parquet`.
    """
    path, field, digest = _opened(path, tuple(_READERS))
    with _answered(field):
        inputs, targets, held = _READERS[path.suffix](path, field, target)
    return FileData(inputs, targets, held, {"file": path.name, "sha256": digest})


def read_arrays(
    path: str | os.PathLike, names: Sequence[str] = (), target: str | None = None
) -> tuple[np.ndarray, ...]:
    """The arrays in a .npy, .npz, .csv or .parquet file that a model is called with, in its order.

    Args:
      path: the file.
      names: of the arrays of an .npz, in the order of the model's arguments; by default its only
        array, or the inputs of the first pair of `ARRAYS` that is there.
      target: a column of a table that is no input.

    Raises a one-line ValueError as `read_data`, and for a column or an array that holds no numbers.
    """
    path, field, _ = _opened(path, (*_READERS, ".npy"))
    with _answered(field):
        if path.suffix == ".npz":
            arrays = _named_arrays(path, field, names)
        elif names:
            raise ValueError(f"arrays={short_repr(list(names))} names arrays of an .npz; leave it.")
        elif path.suffix == ".npy":
            arrays = {"its array": np.load(path, allow_pickle=False, mmap_mode="r")}
        else:
            arrays = {"its table": _numbers_in(_TABLES[path.suffix](path, field), field, target)}
    for name, array in arrays.items():
        if not array.size or not array.ndim:
            raise ValueError(f"{field}: {name} has shape {array.shape}; give at least one example.")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{field}: {name} is of {array.dtype}; give numbers.")
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{field}: its arrays have {short_repr(rows)} rows; give as many of each.")
    return tuple(arrays.values())


def _named_arrays(path: pathlib.Path, field: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    with _npz_arrays(path, field) as arrays:
        pair = _present(arrays, ARRAYS)
        chosen = list(names) or (arrays.files if len(arrays.files) == 1 else list(pair or ())[:1])
        missing = [name for name in chosen if name not in arrays.files]
        if missing or not chosen:
            raise ValueError(
                f"{field}: name the model's arguments by arrays=; it holds "
                f"{', '.join(arrays.files) or 'none'}."
            )
        return {name: arrays[name] for name in chosen}


def _numbers_in(table: Any, field: str, target: str | None) -> np.ndarray:
    if target is not None:
        table = _split(table, field, target)[0]
    for column in table.columns:
        if table[column].dtype.kind not in "fiub":
            raise ValueError(
                f"{field}: column {short_repr(str(column))} holds no numbers; leave it out, or "
                "name it as the target."
            )
        if table[column].isna().any():
            row = int(table[column].isna().argmax())
            raise ValueError(
                f"{field}: column {short_repr(str(column))} is empty in row {row}; fill it, or "
                "drop the row."
            )
    return table.to_numpy(np.float32)


def _opened(path: Any, endings: tuple[str, ...]) -> tuple[pathlib.Path, str, str]:
    """(path, how errors name it, sha256) of a regular file that can be read."""
    path = check_path("data", path)
    field = f"data={short_repr(str(path))}"
    check_choice("data's ending", path.suffix, endings)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{field} is not a regular file; give a file.")
        if not found.st_size:
            raise ValueError(f"{field} is empty.")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and field in str(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{field} cannot be read: {reason}.") from None
    return path, field, digest


@contextlib.contextmanager
def _answered(field: str) -> Iterator[None]:
    """Whatever a reading library raises inside, as one line that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as rows longer than the line of names
            yield
    except MissingParquetError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if not text.startswith(field):
            text = f"{field} cannot be read: {text[:200]}"
        raise ValueError(text) from None


def _csv(path: pathlib.Path, field: str) -> Any:
    import pandas  # slow to import, and only files need it

    with open(path, encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), [])
    if len(names) < 2:
        raise ValueError(
            f"{field}: its first line has one column, {short_repr(names[0] if names else '')}; "
            "give columns separated by commas, named in the first line."
        )
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"{field}: column {twice!r} is there twice; rename one.")
    if all(map(reads_as_number, names)):
        raise ValueError(f"{field}: its first line is numbers; name the columns in the first line.")
    return pandas.read_csv(
        path, encoding="utf-8-sig", index_col=False, keep_default_na=False, na_values=[""]
    )


def _parquet(path: pathlib.Path, field: str) -> Any:
    import pandas

    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingParquetError(
            f"{field}: .parquet needs pyarrow; install it: pip install pyarrow, or give a .csv."
        ) from None
    return pandas.read_parquet(path)


def _split(table: Any, field: str, target: str | None) -> tuple:
    """(all columns but the target, the target, no held-out part) of a table."""
    columns = ", ".join(map(str, table.columns))
    columns = columns if len(columns) <= 300 else f"{columns[:297]}..."
    if target is None:
        raise ValueError(f"{field}: target is missing; name its column. Columns: {columns}.")
    if target not in table.columns:
        raise ValueError(f"{field}: target={short_repr(target)} is no column. Columns: {columns}.")
    if len(table.columns) < 2:
        raise ValueError(f"{field}: there is no column but the target; give inputs too.")
    if not len(table):
        raise ValueError(f"{field} has no rows.")
    return table.drop(columns=[target]), table[target], None


def _npz(path: pathlib.Path, field: str, target: str | None) -> tuple:
    if target is not None:
        raise ValueError(
            f"target={short_repr(target)} names a column, and an .npz has none: call its arrays "
            "inputs and targets."
        )
    with _npz_arrays(path, field) as arrays:
        pair = _present(arrays, ARRAYS)
        if pair is None:
            wanted = " or ".join(" and ".join(pair) for pair in ARRAYS[:2])
            names = ", ".join(arrays.files) or "none"
            raise ValueError(f"{field}: give arrays {wanted}. Arrays: {names}.")
        held = _present(arrays, HELD_ARRAYS)
        load = lambda names: tuple(arrays[name] for name in names)  # noqa: E731
        return *load(pair), load(held) if held else None


def _npz_arrays(path: pathlib.Path, field: str) -> Any:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{field} is not an .npz; write it with numpy.savez.")
    return np.load(path, allow_pickle=False)


def _present(arrays: Any, pairs: tuple) -> tuple | None:
    return next((pair for pair in pairs if set(pair) <= set(arrays.files)), None)


def _table(path: pathlib.Path, field: str, target: str | None) -> tuple:
    return _split(_TABLES[path.suffix](path, field), field, target)


_TABLES = {".csv": _csv, ".parquet": _parquet}

_READERS = {".csv": _table, ".parquet": _table, ".npz": _npz}
