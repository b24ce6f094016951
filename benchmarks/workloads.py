"""The work that every contender does: the same arrays, the same steps, the same statistics.

A workload is a grid of small trainings. Axes: `seeds`, `cells` (a cell is a learning rate and an
initial bias), `steps`, `batch`, `units`. The minibatches and the initial weights belong to a seed
and are shared by all its cells (common random numbers). The optimizer is heavy-ball gradient
descent, m = g + 0.9 m and p = p - lr m, on the loss 0.5 mean((output - target)^2).

At every step, before the update, the statistics of the pre-activation z of each hidden unit over
the minibatch are its mean, its largest value and the fraction with z > 0. They are streamed into
the fields named in STATISTICS; `first_active` is the first step with max z > 0, counted from 0,
and equals the number of steps when there was none.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

MOMENTUM = 0.9
STATISTICS = ("first_active", "sum_mean", "running_max", "sum_fraction")
# Floating-point operations per run-step with and without statistics, counted by hand.
FLOP = {"w1": {True: 931, False: 803}, "w2": {True: 570e3, False: 554e3}}
SIZES = {"w1": dict(cells=1024, seeds=16, steps=1000), "w2": dict(cells=64, seeds=8, steps=300)}
QUICK_SIZES = {"w1": dict(cells=64, seeds=2, steps=100), "w2": dict(cells=16, seeds=2, steps=40)}


class Streams(NamedTuple):
    """What every run of a seed trains on and starts from; all arrays are float32."""

    inputs: np.ndarray  # [seeds, steps, batch, features]
    targets: np.ndarray  # [seeds, steps, batch]
    weights: tuple[np.ndarray, ...]  # Initial weights of each layer, [seeds, ...].


@dataclass(frozen=True)
class Workload:
    """Everything that a contender may read; all arrays are float32."""

    name: str  # "w1": one ReLU unit, 4 inputs. "w2": an MLP 16-32-32-1.
    inputs: np.ndarray  # [seeds, steps, batch, features]
    targets: np.ndarray  # [seeds, steps, batch]
    learning_rate: np.ndarray  # [cells]
    initial_bias: np.ndarray  # [cells]
    weights: tuple[np.ndarray, ...]  # Initial weights of each layer, [seeds, ...].

    @property
    def seeds(self) -> int:
        return self.targets.shape[0]

    @property
    def steps(self) -> int:
        return self.targets.shape[1]

    @property
    def cells(self) -> int:
        return self.learning_rate.shape[0]

    @property
    def run_steps(self) -> int:
        return self.seeds * self.cells * self.steps

    @property
    def units(self) -> int:
        return 1 if self.name == "w1" else sum(w.shape[-1] for w in self.weights[:2])

    @cached_property
    def initial(self) -> list[np.ndarray]:
        """Initial parameters of all runs, each [seeds, cells, ...], in the order of `pack`.

        W1: w [4], b, v. W2: w1 [16, 32], b1, w2 [32, 32], b2, w3 [32], b3; the first half of the
        second hidden layer starts at the bias of the cell and every other bias at 0.
        """
        grid = (self.seeds, self.cells)
        spread = [np.broadcast_to(w[:, None], grid + w.shape[1:]).copy() for w in self.weights]
        bias = np.broadcast_to(self.initial_bias, grid)
        if self.name == "w1":
            w, v = spread
            return [w, bias.copy(), v]
        w1, w2, w3 = spread
        b1, b2 = (np.zeros(grid + (w.shape[-1],), np.float32) for w in (w1, w2))
        b2[..., : b2.shape[-1] // 2] = bias[..., None]
        return [w1, b1, w2, b2, w3, np.zeros(grid, np.float32)]

    def empty(self) -> dict[str, np.ndarray]:
        """The streaming statistics of all runs before the first step, [seeds, cells, units]."""
        shape = (self.seeds, self.cells, self.units)
        return dict(
            first_active=np.full(shape, self.steps, np.int32),
            sum_mean=np.zeros(shape, np.float32),
            running_max=np.full(shape, -np.inf, np.float32),
            sum_fraction=np.zeros(shape, np.float32),
        )

    def take(self, seeds: slice, cells: slice, steps: slice) -> "Workload":
        """A part of the work: contiguous copies of the named seeds, cells and steps."""
        return replace(
            self,
            inputs=np.ascontiguousarray(self.inputs[seeds, steps]),
            targets=np.ascontiguousarray(self.targets[seeds, steps]),
            learning_rate=np.ascontiguousarray(self.learning_rate[cells]),
            initial_bias=np.ascontiguousarray(self.initial_bias[cells]),
            weights=tuple(np.ascontiguousarray(w[seeds]) for w in self.weights),
        )

    def limit(self, seeds: int = 10**9, cells: int = 10**9, steps: int = 10**9) -> "Workload":
        """At most so many seeds, cells (spread evenly over the grid) and first steps."""
        stride = max(1, self.cells // cells)
        # A stride that shares a factor with the grid's side would visit one learning rate only.
        stride += stride > 1 and stride % 2 == 0
        return self.take(
            slice(seeds), slice(0, min(self.cells, cells) * stride, stride), slice(steps)
        )

    def split(self, parts: int) -> tuple[list["Workload"], int]:
        """Equal parts for the processes, and the axis (0 seeds, 1 cells) along which they join."""
        every = slice(None)
        if self.seeds % parts == 0:
            n = self.seeds // parts
            return [self.take(slice(i * n, (i + 1) * n), every, every) for i in range(parts)], 0
        edges = np.linspace(0, self.cells, parts + 1).astype(int)
        pairs = zip(edges[:-1], edges[1:], strict=True)
        return [self.take(every, slice(a, b), every) for a, b in pairs], 1


def pack(parameters: list[np.ndarray]) -> np.ndarray:
    """Parameters in the order of `Workload.initial`, flattened to [seeds, cells, parameters]."""
    grid = parameters[-1].shape[:2]
    return np.concatenate([np.asarray(p).reshape(*grid, -1) for p in parameters], axis=-1)


def make_workload(name: str, cells: int, streams: Streams) -> Workload:
    """The workload of that name on `cells` cells, a square number.

    Learning rates are logarithmic in a range where heavy-ball descent is stable, biases linear; the
    learning rate varies fastest.
    """
    side = int(round(cells**0.5))
    if side * side != cells:
        raise ValueError(f"cells must be a square number, got {cells}")
    highest_rate = 1e-1 if name == "w1" else 3e-2
    rates, biases = np.geomspace(1e-4, highest_rate, side), np.linspace(-4.0, 0.5, side)
    bias, rate = np.meshgrid(biases, rates, indexing="ij")
    rate, bias = (a.ravel().astype(np.float32) for a in (rate, bias))
    return Workload(name, streams.inputs, streams.targets, rate, bias, streams.weights)
