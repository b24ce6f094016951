"""Rows: what stands behind the names of a config, and what of it decides a program and a result.

A config names an activation, an optimizer and so on; each name is a row of a table that users may
add to and edit. A row is therefore known by what its functions are made of: their code, defaults,
closures, the plain globals and the helpers that they read. `row_keys` is that for this process,
cheap enough for every call: it is part of what decides whether a program is compiled again.
`row_identity` is the same as a digest of the source text, which other processes find too: it is
part of what a stored result answers. Rows as they are shipped add nothing to either.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import sys
import sysconfig
import textwrap
import types
import warnings
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

SMALL_BYTES = 2**12  # of an array that is compared by its content in every call

TABLES: dict[str, Mapping[str, Any]] = {}  # config field -> the table of its names

SHIPPED: dict[str, dict[str, Any]] = {}  # likewise, as the package brings them

_digests: dict[tuple, str] = {}  # of rows in this process


def declare_tables(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Says which table's rows a config field names. The rows of now are the shipped ones."""
    for field, table in tables.items():
        TABLES[field] = table
        SHIPPED[field] = dict(table)


def row_keys(config: Any) -> tuple[tuple[str, str, Hashable], ...]:
    """(field, name, what the row is made of) of the rows that are not shipped: equal as long
    as their programs are. Part of what JAX compares before it uses a compiled program again; give
    it to a cache of your own that is keyed by a config."""
    return tuple((field, name, _key(row)) for field, name, row in _own_rows(config))


def row_identity(config: Any) -> dict[str, dict[str, str]]:
    """`{"rows": {"activation mine": sha256}}` of the rows that are not shipped; {} without any.

    The digest is of source text and plain values, so another process with the same source agrees.
    What has no source and no plain value is known by its name, with a warning.
    """
    found = {}
    for field, name, row in _own_rows(config):
        key = field, name, _key(row)
        if key not in _digests:
            text = repr(_Walk(f"{field} {name!r}", source=True).see(row))
            _digests[key] = hashlib.sha256(text.encode()).hexdigest()
        found[f"{field} {name}"] = _digests[key]
    return {"rows": found} if found else {}


def _own_rows(config: Any) -> Iterator[tuple[str, str, Any]]:
    """(field, name, row) of every named row that the package does not bring."""
    for field, table in TABLES.items():
        value = getattr(config, field)
        shipped = SHIPPED[field]
        for name in dict.fromkeys(value) if isinstance(value, tuple) else (value,):
            row = table.get(name)
            if row is not shipped.get(name):
                yield field, name, row


def _key(row: Any) -> Hashable:
    return _Walk("", source=False).see(row)


class _Same:
    """An object that equals itself alone; keeps it, so that its address is not given away."""

    def __init__(self, held: Any):
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def _is_library(file: str) -> bool:
    """Whether a source file belongs to Python, an installed package or this one: its version is
    known elsewhere, so it counts by its name."""
    return file.startswith(_library_folders()) or file.startswith("<frozen")


@functools.cache
def _library_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = __file__.removesuffix("rows.py")
    return (*(f"{folder}/" for folder in folders if folder), own)


def _module_is_library(name: str) -> bool:
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name == "__main__" or module is None:
        return False
    return file is None or _is_library(file)


class _Walk:
    """One look at all that a row is made of, as nested tuples of plain values.

    With `source` a function is its source text, which other processes find again; without, it is
    its code object, and what cannot be looked into is itself.
    """

    def __init__(self, row: str, source: bool):
        self.row, self.source = row, source
        self.known: dict[int, tuple[Any, Hashable]] = {}  # (seen and kept, what it is made of)

    def see(self, value: Any) -> Hashable:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return type(value).__name__, repr(value)
        if isinstance(value, enum.Enum):
            return type(value).__qualname__, value.name
        if isinstance(value, np.ndarray | np.generic | jax.Array | np.dtype):
            return self._array(value)
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if id(value) not in self.known:
            self.known[id(value)] = value, "cycle"  # while it is looked into
            self.known[id(value)] = value, self._structure(value)
        return self.known[id(value)][1]

    def _array(self, value: Any) -> Hashable:
        if isinstance(value, np.dtype):
            return "dtype", value.str
        if isinstance(value, Tracer):
            return _Same(value)
        large = value.nbytes > SMALL_BYTES
        if (large or value.dtype.hasobject) and not self.source:
            return _Same(value)
        content = np.ascontiguousarray(value)
        text = repr(content.tolist()).encode() if value.dtype.hasobject else content.tobytes()
        return "array", str(value.dtype), value.shape, hashlib.sha256(text).hexdigest()

    def _structure(self, value: Any) -> Hashable:
        if isinstance(value, dict | types.MappingProxyType):
            return "dict", *((self.see(k), self.see(v)) for k, v in value.items())
        if isinstance(value, set | frozenset):
            return "set", *sorted((self.see(v) for v in value), key=repr)
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value).__name__, *map(self.see, value)
        if isinstance(value, type):
            return self._class(value)
        defaults = _defaults(value)
        if defaults is not None:  # a field added later leaves the rows of today as they are
            parts = ((n, getattr(value, n), default) for n, default in defaults.items())
            return type(value).__qualname__, *(
                (n, self.see(part)) for n, part, default in parts if part is not default
            )
        return self._callable(value)

    def _class(self, value: type) -> Hashable:
        name = f"{value.__module__}.{value.__qualname__}"
        if _module_is_library(value.__module__):
            return "class", name
        own = name if self.source else _Same(value)
        own_parts = ((k, v) for k, v in vars(value).items() if k == "__call__" or k[:2] != "__")
        parts = ((k, self.see(v)) for k, v in own_parts if _is_told(v))
        return "class", own, *map(self.see, value.__bases__), *parts

    def _callable(self, value: Any) -> Hashable:
        if isinstance(value, functools.partial):
            return "partial", *map(self.see, (value.func, value.args, value.keywords))
        if isinstance(value, types.MethodType):
            return "method", self.see(value.__func__), self.see(value.__self__)
        if isinstance(value, staticmethod | classmethod):
            return type(value).__name__, self.see(value.__func__)
        if isinstance(value, property):
            return "property", self.see(value.fget)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if hasattr(value, "__wrapped__"):  # of jax.jit, jax.custom_jvp, functools.cache
            rules = (getattr(value, name, None) for name in ("jvp", "fwd", "bwd"))
            return type(value).__qualname__, self.see(value.__wrapped__), *map(self.see, rules)
        kind = type(value)
        if not _module_is_library(kind.__module__) and hasattr(value, "__dict__"):
            return "object", self.see(kind), self.see(vars(value))
        return self._opaque(value)

    def _function(self, value: types.FunctionType) -> Hashable:
        code = value.__code__
        cells = (cell for cell in value.__closure__ or ())
        inside = [self.see(cell.cell_contents) for cell in cells if _is_filled(cell)]
        defaults = self.see(value.__defaults__), self.see(value.__kwdefaults__)
        if _is_library(code.co_filename):
            name = f"{value.__module__}.{value.__qualname__}"
            return "function", name if self.source else _Same(code), *defaults, *inside
        text = _source(value) if self.source else code
        read = ((name, self.see(part)) for name, part in _globals_read(value))
        return "function", text, *defaults, *inside, *read

    def _opaque(self, value: Any) -> Hashable:
        """What cannot be looked into: known by its name, or in this process by itself."""
        if not self.source:
            return _Same(value)
        module = getattr(value, "__module__", None) or type(value).__module__
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if name is None or not callable(value):
            warnings.warn(
                f"{self.row} is made of {type(value).__qualname__}, which has no source: a stored "
                "result knows it by its name alone; give the row another name when it changes.",
                stacklevel=2,
            )
        return "opaque", f"{module}.{name or type(value).__qualname__}"


def _defaults(value: Any) -> dict[str, Any] | None:
    """The fields of a NamedTuple or dataclass with their defaults; None for other values."""
    if isinstance(value, tuple):
        named: Any = type(value)
        return {name: named._field_defaults.get(name, _Same) for name in named._fields}
    if dataclasses.is_dataclass(value):
        return {f.name: f.default for f in dataclasses.fields(value)}
    return None


def _is_told(value: Any) -> bool:
    """Whether a class attribute says what the class does; Flax and dataclasses add others."""
    told = types.FunctionType | staticmethod | classmethod | property | functools.partial
    return isinstance(value, told | bool | int | float | str | bytes | tuple)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _source(function: types.FunctionType) -> str:
    """The source text of a function, else its code."""
    try:
        return textwrap.dedent(inspect.getsource(function)).rstrip()
    except (OSError, TypeError):  # typed in, or made by exec
        return repr([(c.co_code, c.co_names, _plain(c)) for c in _codes(function.__code__)])


def _plain(code: types.CodeType) -> list[str]:
    return [repr(c) for c in code.co_consts if not isinstance(c, types.CodeType)]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those of the functions inside it."""
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _codes(part)


def _globals_read(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """(name, value) of the globals that a function reads: also of modules of the user's own."""
    names, attributes = _names_read(function.__code__)
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if not isinstance(value, types.ModuleType):
            yield name, value
        elif not _module_is_library(value.__name__):
            own = vars(value)
            yield from ((f"{name}.{part}", own[part]) for part in attributes if part in own)


@functools.lru_cache(maxsize=1024)
def _names_read(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of globals, and of attributes, that a code reads."""
    found = [i for part in _codes(code) for i in dis.get_instructions(part)]
    of = lambda start: {i.argval for i in found if i.opname.startswith(start)}  # noqa: E731
    return tuple(sorted(of(("LOAD_GLOBAL", "LOAD_NAME")))), tuple(
        sorted(of(("LOAD_ATTR", "LOAD_METHOD")))
    )
