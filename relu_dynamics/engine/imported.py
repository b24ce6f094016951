"""Imported networks: somebody's trained MLP as the parameters that a run begins with."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.checkpoint_files import read_checkpoint
from relu_dynamics.checks import short_repr

# The names that libraries give to a dense layer's weights, and whether outputs come first.
WEIGHTS = {"kernel": False, "w": False, "weight": True}
BIASES = ("bias", "b")


class _Layer(NamedTuple):
    name: str
    kernel: np.ndarray  # [inputs, outputs]
    bias: np.ndarray | None  # [outputs]


def from_checkpoint(
    path: str | os.PathLike, layers: Sequence[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of the MLP in a checkpoint, as `state=` of `sweep` and `train` takes them.

    Args:
      path: what `read_checkpoint` reads. Kernels of PyTorch and Equinox ("weight", outputs first)
        are transposed.
      layers: the layers' names from input to output, where widths and names do not tell.

    Returns {"hidden_1": {"kernel" [inputs, units], "bias" [units]}, ..., "output": ...}, float32;
    `widths` of it is the config's `hidden`.

    Raises a one-line ValueError that names the leaf and its shape where it is no MLP, and as
    `read_checkpoint`.
    """
    found = {layer.name: layer for layer in _layers(read_checkpoint(path))}
    if layers is not None:
        if sorted(layers) != sorted(found):
            raise ValueError(f"layers={list(layers)} must order {sorted(found)}.")
        order = list(layers)
        wrong = next((pair for pair in zip(order, order[1:], strict=False)
                      if not _follows(found[pair[0]], found[pair[1]])), None)  # fmt: skip
        if wrong:
            raise ValueError(f"layers: {wrong[1]} does not take what {wrong[0]} gives.")
    else:
        order = _order(found)
    if len(order) < 2:
        raise ValueError(f"params has one layer, {order[0]!r}; an MLP has at least two.")
    names = [f"hidden_{k}" for k in range(1, len(order))] + ["output"]
    return {
        name: {
            key: np.ascontiguousarray(value, np.float32)
            for key, value in (("kernel", found[own].kernel), ("bias", found[own].bias))
            if value is not None
        }
        for name, own in zip(names, order, strict=True)
    }


def widths(params: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    """The widths of the hidden layers: `Config.hidden` of these parameters."""
    return tuple(
        layer["kernel"].shape[1] for name, layer in params.items() if name.startswith("hidden_")
    )


def _leaves(tree: Any, place: str = "") -> Iterator[tuple[str, str, np.ndarray]]:
    """(layer, name, array) of every leaf; a state dict's dots divide too."""
    for name, value in tree.items():
        path = f"{place}/{name}" if place else str(name)
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        else:
            layer, _, last = path.replace(".", "/").rpartition("/")
            yield layer, last, value


def _layers(tree: Any) -> list[_Layer]:
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for layer, name, array in _leaves(tree):
        known, sizes = (name in WEIGHTS, 2) if name in WEIGHTS else (name in BIASES, 1)
        if not known or array.ndim != sizes:
            raise ValueError(
                f"{layer}/{name} of shape {array.shape} is no part of an MLP: its layers have a "
                f"matrix ({', '.join(WEIGHTS)}) and a vector ({', '.join(BIASES)})."
            )
        by_layer.setdefault(layer, {})[name] = array
    found = []
    for layer, leaves in by_layer.items():
        weights = [name for name in leaves if name in WEIGHTS]
        biases = [name for name in leaves if name in BIASES]
        if len(weights) != 1 or len(biases) > 1:
            shapes = {name: array.shape for name, array in leaves.items()}
            raise ValueError(f"{layer} has {short_repr(shapes)}; a layer has one matrix.")
        kernel = leaves[weights[0]].T if WEIGHTS[weights[0]] else leaves[weights[0]]
        bias = leaves[biases[0]] if biases else None
        if bias is not None and bias.shape != kernel.shape[1:]:
            raise ValueError(
                f"{layer}/{biases[0]} of shape {bias.shape} does not fit {layer}/{weights[0]} of "
                f"shape {leaves[weights[0]].shape}."
            )
        found.append(_Layer(layer, kernel, bias))
    return found


def _follows(layer: _Layer, other: _Layer) -> bool:
    return layer.kernel.shape[1] == other.kernel.shape[0]


def _order(found: Mapping[str, _Layer]) -> list[str]:
    """The layers from input to output: the only order in which widths fit, or of several that of
    the numbers in their names."""
    chains = _chains(found, most=2)
    numbered = sorted(found, key=_numbers_last)
    if not chains:
        shapes = {name: layer.kernel.shape for name, layer in found.items()}
        raise ValueError(f"the layers do not follow each other, as (inputs, outputs): {shapes}.")
    if len(chains) == 1:
        return chains[0]
    fits = all(map(_follows, *[[found[n] for n in part] for part in (numbered, numbered[1:])]))
    if fits and len({re.sub(r"\d+", "", name) for name in numbered[:-1]}) == 1:
        return numbered
    raise ValueError(
        f"several orders of the layers {sorted(found)} fit; give layers=[...] from input to output."
    )


def _numbers_last(name: str) -> tuple[bool, list[int], str]:
    """Sorts names by their numbers; names without one, such as that of the output, come last."""
    numbers = [int(digits) for digits in re.findall(r"\d+", name)]
    return not numbers, numbers, name


def _chains(found: Mapping[str, _Layer], most: int) -> list[list[str]]:
    """Up to so many orders in which every layer takes what the one before gives."""
    chains: list[list[str]] = []
    waiting = [[name] for name in found]
    while waiting and len(chains) < most:
        chain = waiting.pop()
        if len(chain) == len(found):
            chains.append(chain)
            continue
        waiting += [
            [*chain, name]
            for name, layer in found.items()
            if name not in chain and _follows(found[chain[-1]], layer)
        ]
    return chains
