"""Config files: JSON and TOML, read strictly."""

import dataclasses
import json
import os
import pathlib
import stat
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from relu_dynamics.checks import check_choice, check_finite, check_path, short_repr

MOST_FILE_BYTES = 2**20  # of a config file


def read_file(path: str | os.PathLike) -> dict[str, Any]:
    """The table in a JSON (.json) or TOML (.toml) file.

    Raises a one-line ValueError for anything else: another ending, not a regular file, larger
    than MOST_FILE_BYTES, not UTF-8, a byte order mark, a syntax error, a duplicate key, NaN or
    Infinity, nesting too deep, or no table at the top.
    """
    path = check_path("config file", path)
    name = f"config file {short_repr(str(path))}"
    if path.suffix not in (".json", ".toml"):
        raise ValueError(f"{name}: its name must end in .json or .toml.")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a folder, or a pipe that would block
            raise ValueError(f"{name} is not a regular file; give a JSON or TOML file.")
        with open(path, "rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else _one_line(error)
        text = reason if name in str(reason) else f"{name} cannot be read: {reason}."
        raise ValueError(text) from None
    if len(content) > MOST_FILE_BYTES:
        raise ValueError(f"{name} is larger than {MOST_FILE_BYTES} bytes; is it a config?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    if text.startswith("\ufeff"):
        raise ValueError(f"{name} begins with a byte order mark; save it as UTF-8 without one.")
    try:
        return parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {_one_line(error)}") from None


def parse_json(text: str) -> dict[str, Any]:
    """A JSON object, strictly: a one-line ValueError on duplicate keys, NaN, Infinity, nesting too
    deep, or anything but an object."""
    try:
        values = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(_one_line(error)) from None
    if not isinstance(values, dict):
        raise ValueError(f"{short_repr(values)} must be a JSON object, such as {{}}.")
    return values


def _one_line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply."
    return " ".join(str(error).split())


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"key {short_repr(twice)} appears twice; keep one.")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON allows; give a finite one.")


Record = TypeVar("Record")


def from_mapping(values: Mapping[str, Any], base: Record, kind: str = "option") -> Record:
    """The dataclass `base` with the fields that `values` names, strictly by their types.

    A field that is a dataclass takes a table and a tuple takes a list; a float also takes a whole
    number; nothing else is converted. Raises a one-line ValueError on an unknown name (with the
    nearest) or a wrong type. Ranges are `validate`'s.
    """
    assert dataclasses.is_dataclass(base)
    hints = typing.get_type_hints(type(base))
    known = {field.name: field for field in dataclasses.fields(base)}
    changes = {}
    for name, value in values.items():
        check_choice(kind, name, known)
        present = getattr(base, name)
        if dataclasses.is_dataclass(present):
            if not isinstance(value, Mapping):
                raise ValueError(f"{name}={short_repr(value)} must be a table of fields.")
            changes[name] = from_mapping(value, present, f"{name} field")
        else:
            changes[name] = _typed(name, value, hints[name])
    return dataclasses.replace(base, **changes)  # pyright: ignore[reportArgumentType]


_WORDS = {int: "a whole number", float: "a real number", bool: "true or false", str: "text"}


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type that `hint` says; raises a ValueError when it is of another."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        if choice is type(None) and value is None:
            return None
        if typing.get_origin(choice) is tuple and isinstance(value, list | tuple):
            return tuple(_typed(name, item, typing.get_args(choice)[0]) for item in value)
        if choice is float and type(value) in (int, float):
            return check_finite(name, value)
        if choice is pathlib.Path and type(value) is str:
            return pathlib.Path(value)
        if choice in (bool, int, str) and type(value) is choice:
            return value
    wanted = " or ".join(_WORDS.get(choice, _in_words(choice)) for choice in choices)
    raise ValueError(f"{name}={short_repr(value)} must be {wanted}.")


def _in_words(choice: Any) -> str:
    if typing.get_origin(choice) is tuple:
        return f"a list, each of its values {_WORDS.get(typing.get_args(choice)[0], 'a value')}"
    return {type(None): "null", pathlib.Path: "a path"}.get(choice, str(choice))
