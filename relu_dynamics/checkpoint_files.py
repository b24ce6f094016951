"""Checkpoint files: parameters that other programs saved, read strictly and never unpickled.

A pickle runs whatever it says when it is read, so no plain pickle is read. PyTorch's own files hold
one that names tensors and where their numbers lie: of it only these names are followed, and nothing
else is looked up, let alone called. PyTorch is not needed.
"""

import collections
import importlib
import io
import os
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from relu_dynamics.checks import check_path, short_repr

PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")

MOST_BYTES = 2**36

TRAIN_STATE = {"step", "params", "opt_state"}  # what `flax.training.train_state` saves


class MissingReaderError(ImportError, ValueError):
    """The library that reads a format is not installed. A ValueError too, so that scripts end in
    one line."""


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """The parameters in a checkpoint, as nested dicts of NumPy arrays.

    Read are a folder of orbax, .msgpack of Flax, .safetensors, .pt and .pth of PyTorch (a state
    dict, or a dict that holds one beside other things, as a training script or Lightning saves it),
    and .npz. A tree is as it was saved, without a "params" around all of it and without what a
    `TrainState` of Flax holds beside it; flat names with "/" become nested, and names with "." (a
    state dict's) stay.

    Raises a one-line ValueError for a file that is missing, damaged or a pickle, and for what holds
    no arrays; a `MissingReaderError` without the library that a format needs.
    """
    path = check_path("params", path)
    field = f"params={short_repr(str(path))}"
    if path.suffix in PICKLES:
        raise ValueError(
            f"{field} is a pickle, which runs code when it is read; save arrays: .msgpack "
            "(flax.serialization), .safetensors, orbax or .npz."
        )
    if not path.exists():
        raise ValueError(f"{field} does not exist.")
    reader = _orbax if path.is_dir() else _READERS.get(path.suffix)
    if reader is None:
        known = ", ".join(_READERS)
        raise ValueError(f"{field} is of no known kind; give a folder of orbax, or {known}.")
    if path.is_file() and not 0 < path.stat().st_size <= MOST_BYTES:
        raise ValueError(f"{field} has {path.stat().st_size} bytes; give a whole checkpoint.")
    try:
        tree = reader(path)
    except MissingReaderError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{field} cannot be read: {text[:200]}") from None
    return _arrays(field, _without_wrapper(_nested(tree)))


def _orbax(path: pathlib.Path) -> Any:
    import jax
    import orbax.checkpoint

    places = [place for place in (path, path / "default") if (place / "_METADATA").exists()]
    if not places:
        steps = sorted(place.name for place in path.iterdir() if place.is_dir())
        raise ValueError(
            f"it is no checkpoint of orbax; give the folder of one step. Folders: {steps[:8]}."
        )
    place, host = places[0].absolute(), orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
    with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(place).item_metadata
        # Of no device: a checkpoint of many is read on one.
        return checkpointer.restore(place, restore_args=jax.tree.map(lambda _: host, saved.tree))


def _msgpack(path: pathlib.Path) -> Any:
    from flax import serialization

    return serialization.msgpack_restore(path.read_bytes())


def _library(name: str, path: pathlib.Path, remedy: str) -> Any:
    """A library that reads a format; raises a `MissingReaderError` without it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingReaderError(
            f"params={short_repr(str(path))} needs {name.partition('.')[0]}; {remedy}."
        ) from None


def _safetensors(path: pathlib.Path) -> Any:
    remedy = "install it: pip install safetensors"
    return _library("safetensors.flax", path, remedy).load_file(path)


# Storages of PyTorch, by what a file calls them, and the types of their numbers.
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


class _TorchTensors(pickle.Unpickler):
    """Reads `data.pkl` of a file of `torch.save`: dicts of tensors, and no other object.

    https://docs.pytorch.org/docs/stable/notes/serialization.html#torch-save-format
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(_stored(archive, f"{folder}/data.pkl")))
        self._read = lambda name: _stored(archive, f"{folder}/{name}")
        named = f"{folder}/byteorder" in archive.namelist()  # since PyTorch 2.1
        order = self._read("byteorder").decode() if named else "little"
        self._swapped = order != sys.byteorder
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        # Functions made anew for every file: a pickle may set attributes of what it is handed.
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *given: _tensor(*given[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if module_name == "torch" and global_name in _STORAGES:
            return global_name
        try:
            return known[module_name, global_name]
        except KeyError:
            raise ValueError(
                f"it holds a {module_name}.{global_name}; save model.state_dict() alone"
            ) from None

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, storage, key, _, count = pid
        if key not in self._storages:
            import jax.numpy  # knows bfloat16 by its name

            dtype = jax.numpy.dtype(_STORAGES[storage])
            numbers = np.frombuffer(self._read(f"data/{key}"), dtype)
            if len(numbers) != count:
                raise ValueError(
                    f"storage {key} has {len(numbers)} numbers and should have {count}"
                )
            self._storages[key] = numbers.byteswap() if self._swapped else numbers
        return self._storages[key]


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """A record of a zip as PyTorch writes them, uncompressed: none is larger than the file."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which torch.save never does")
    return archive.read(name)


def _tensor(storage: np.ndarray, start: int, shape: tuple, strides: tuple) -> np.ndarray:
    """The tensor whose first number is `start` in its storage, with strides in numbers."""
    inside = len(shape) == len(strides) and min(start, *shape, *strides, 0) == 0
    last = start + sum((size - 1) * by for size, by in zip(shape, strides, strict=True))
    count = int(np.prod(shape, dtype=object))
    if not inside or count > len(storage) or (count and last >= len(storage)):
        raise ValueError(
            f"a tensor of shape {tuple(shape)} and strides {tuple(strides)} from {start} does not "
            f"lie in its storage of {len(storage)} numbers"
        )
    if not count:
        return np.zeros(shape, storage.dtype)
    by = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[start:], shape, by).copy()


def _torch(path: pathlib.Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no file of torch.save since PyTorch 1.6; save it again")
    with zipfile.ZipFile(path) as archive:
        folders = [name.removesuffix("/data.pkl") for name in archive.namelist()
                   if name.endswith("/data.pkl")]  # fmt: skip
        if len(folders) != 1:
            raise ValueError("it holds no data.pkl, as torch.save writes; save model.state_dict()")
        state = _TorchTensors(archive, folders[0]).load()
    if not isinstance(state, Mapping):
        raise ValueError(f"it holds a {type(state).__name__}; save model.state_dict()")
    return _state_dict(state)


def _state_dict(saved: Mapping) -> dict:
    """The state dict in what was saved: all of it, or the one entry that is a dict of tensors,
    beside the epoch, the optimizer's state and the like. Raises a ValueError that names the entries
    where there are several such, or none."""
    tensors = [value for value in saved.values() if isinstance(value, np.ndarray)]
    inside = [
        str(name)
        for name, value in saved.items()
        if isinstance(value, Mapping) and _of_tensors(value)
    ]
    own = any(tensor.ndim for tensor in tensors) or (tensors and not inside)  # not a loss beside it
    if own or len(inside) == len(saved) > 1:
        return dict(saved)
    if len(inside) == 1:
        return dict(next(value for name, value in saved.items() if str(name) == inside[0]))
    if not inside:
        names = short_repr([str(name) for name in saved])
        raise ValueError(f"it holds {names}, none of them a dict of tensors; save a state dict")
    raise ValueError(
        f"{short_repr(inside)} are dicts of tensors in it; save the one that you mean, alone"
    )


def _of_tensors(tree: Mapping) -> bool:
    """Whether there are tensors in nested dicts, and nothing else."""
    leaves, rest = [], [tree]
    while rest:
        for value in rest.pop().values():
            (rest if isinstance(value, Mapping) else leaves).append(value)
    return bool(leaves) and all(isinstance(leaf, np.ndarray) for leaf in leaves)


def _npz(path: pathlib.Path) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    ".msgpack": _msgpack,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".npz": _npz,
}


def _nested(tree: Any) -> Any:
    """Flat names with "/" as nested dicts."""
    if not isinstance(tree, Mapping) or not any("/" in str(name) for name in tree):
        return tree
    nested: dict[str, Any] = {}
    for name, value in tree.items():
        *outer, last = str(name).split("/")
        place = nested
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def _without_wrapper(tree: Any) -> Any:
    while isinstance(tree, Mapping) and set(tree) in ({"params"}, TRAIN_STATE):
        tree = tree["params"]
    return tree


def _arrays(field: str, tree: Any, place: str = "") -> dict[str, Any]:
    """The tree with arrays as leaves, Flax nnx's {"value": array} as the array."""
    if not isinstance(tree, Mapping) or not tree:
        raise ValueError(f"{field} holds no tree of arrays{place and f' at {place}'}.")
    found: dict[str, Any] = {}
    for name, value in tree.items():
        at = f"{place}/{name}".removeprefix("/")
        if isinstance(value, Mapping) and set(value) == {"value"}:
            value = value["value"]
        if isinstance(value, Mapping):
            found[str(name)] = _arrays(field, value, at)
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" and array.dtype.name not in ("bfloat16", "float16"):
            raise ValueError(f"{field}: {at} is of {array.dtype}; give numbers.")
        found[str(name)] = array
    return found
