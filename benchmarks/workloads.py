"""The work that every contender does: the same arrays, the same steps, the same statistics.

A workload is a grid of small trainings. Axes: `seeds`, `cells` (a cell is a learning rate and an
initial bias), `steps`, `batch`, `units`. The minibatches and the initial weights belong to a seed
and are shared by all its cells (common random numbers).

W1 and W2 are regressions under heavy-ball gradient descent, m = g + 0.9 m and p = p - lr m, on the
loss 0.5 mean((output - target)^2). W3 is the recovery map as `python -m experiments recovery_map`
trains it by default: cross entropy on digits under plain gradient descent, and an evaluation on all
training examples every 25 steps.

At every step, before the update, the statistics of the pre-activation z of each hidden unit over
the minibatch are its mean, its largest value and the fraction with z > 0. They are streamed into
the fields named in STATISTICS; `first_active` is the first step with max z > 0, counted from 0,
and equals the number of steps when there was none. An evaluation, at step 0, every `every` steps
and after the last, finds each hidden unit's margin, its largest z over the examples of `probe`:
`margin` is the last one, and `steps_dead` counts the steps after an evaluation with a margin
of 0 or less, up to the next.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

HEAVY_BALL = 0.9
MOMENTUM = {"w1": HEAVY_BALL, "w2": HEAVY_BALL, "w3": 0.0}
NETWORK = {
    "w1": "one ReLU unit, 4 inputs, batch 32",
    "w2": "MLP 16-32-32-1, batch 64",
    "w3": "the default recovery map, MLP 64-32-32-10 on digits, batch 64, an evaluation on 1024 "
    "examples every 25 steps",
}
BIASED = {"w2": 16, "w3": 8}  # Units of the second hidden layer that begin with the cell's bias.
STATISTICS = ("first_active", "sum_mean", "running_max", "sum_fraction")
EVALUATED = ("margin", "steps_dead")
EVERY = 25  # Steps between two evaluations of W3.
CHAOTIC = 1.0  # Learning rates of W3 from which on a run amplifies rounding, or diverges.
# Floating-point operations per run-step with and without statistics, and those of the evaluations,
# counted by hand.
FLOP = {
    "w1": {True: 931, False: 803},
    "w2": {True: 570e3, False: 554e3},
    "w3": {True: 1.078e6, False: 1.062e6},
}
EVALUATIONS_FLOP = {"w1": 0, "w2": 0, "w3": 254e3}
SIZES = {
    "w1": dict(cells=1024, seeds=16, steps=1000),
    "w2": dict(cells=64, seeds=8, steps=300),
    "w3": dict(cells=192, seeds=2, steps=1000),
}
QUICK_SIZES = {
    "w1": dict(cells=64, seeds=2, steps=100),
    "w2": dict(cells=16, seeds=2, steps=40),
    "w3": dict(cells=48, seeds=2, steps=50),
}


class Streams(NamedTuple):
    """What every run of a seed trains on and starts from; arrays are float32 but for classes."""

    inputs: np.ndarray  # [seeds, steps, batch, features]
    targets: np.ndarray  # [seeds, steps, batch]; W3: int32 class numbers
    weights: tuple[np.ndarray, ...]  # Initial weights of each layer, [seeds, ...].
    probe: np.ndarray | None = None  # W3: [seeds, examples, features] of the evaluations.


@dataclass(frozen=True)
class Workload:
    """Everything that a contender may read; arrays are float32 but for classes."""

    name: str  # A key of NETWORK.
    inputs: np.ndarray  # [seeds, steps, batch, features]
    targets: np.ndarray  # [seeds, steps, batch]; W3: int32 class numbers
    learning_rate: np.ndarray  # [cells]
    initial_bias: np.ndarray  # [cells]
    weights: tuple[np.ndarray, ...]  # Initial weights of each layer, [seeds, ...].
    probe: np.ndarray | None = None  # W3: [seeds, examples, features] of the evaluations.

    @property
    def momentum(self) -> float:
        return MOMENTUM[self.name]

    @property
    def fields(self) -> tuple[str, ...]:
        """The statistics that the results name."""
        return STATISTICS if self.probe is None else STATISTICS + EVALUATED

    def every(self, steps: int) -> int:
        """Steps between two evaluations of a training of `steps` steps."""
        return EVERY if steps % EVERY == 0 else steps

    @property
    def compared(self) -> np.ndarray:
        """Places of the cells whose results can be compared: where a run amplifies rounding no two
        programs agree."""
        rates = self.learning_rate
        return np.flatnonzero(rates < CHAOTIC) if self.name == "w3" else np.arange(self.cells)

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

        W1: w [4], b, v. W2: w1 [16, 32], b1, w2 [32, 32], b2, w3 [32], b3; W3: w1 [64, 32], b1,
        w2 [32, 32], b2, w3 [32, 10], b3 [10]. The first units of the second hidden layer start at
        the bias of the cell and every other bias at 0.
        """
        grid = (self.seeds, self.cells)
        spread = [np.broadcast_to(w[:, None], grid + w.shape[1:]).copy() for w in self.weights]
        bias = np.broadcast_to(self.initial_bias, grid)
        if self.name == "w1":
            w, v = spread
            return [w, bias.copy(), v]
        w1, w2, w3 = spread
        b1, b2 = (np.zeros(grid + (w.shape[-1],), np.float32) for w in (w1, w2))
        b2[..., : BIASED[self.name]] = bias[..., None]
        return [w1, b1, w2, b2, w3, np.zeros(grid + w3.shape[3:], np.float32)]

    def empty(self) -> dict[str, np.ndarray]:
        """The streaming statistics of all runs before the first step, [seeds, cells, units]."""
        shape = (self.seeds, self.cells, self.units)
        every = dict(
            first_active=np.full(shape, self.steps, np.int32),
            sum_mean=np.zeros(shape, np.float32),
            running_max=np.full(shape, -np.inf, np.float32),
            sum_fraction=np.zeros(shape, np.float32),
            margin=np.zeros(shape, np.float32),
            steps_dead=np.zeros(shape, np.int32),
        )
        return {field: every[field] for field in self.fields}

    def take(self, seeds: slice, cells: slice | np.ndarray, steps: slice) -> "Workload":
        """A part of the work: contiguous copies of the named seeds, cells and steps."""
        return replace(
            self,
            inputs=np.ascontiguousarray(self.inputs[seeds, steps]),
            targets=np.ascontiguousarray(self.targets[seeds, steps]),
            learning_rate=np.ascontiguousarray(self.learning_rate[cells]),
            initial_bias=np.ascontiguousarray(self.initial_bias[cells]),
            weights=tuple(np.ascontiguousarray(w[seeds]) for w in self.weights),
            probe=None if self.probe is None else np.ascontiguousarray(self.probe[seeds]),
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


def axes_of(name: str, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The (learning rates, initial biases) of a grid of `cells` cells: a square, or of W3 three
    biases to four rates.

    Learning rates are logarithmic, biases linear. W1 and W2 stay in a range where heavy-ball
    descent is stable; W3 with 192 cells has the default axes of the recovery map.
    """
    shape = (4, 3) if name == "w3" else (1, 1)
    unit = round((cells / np.prod(shape)) ** 0.5)
    rates, biases = (n * unit for n in shape)
    if rates * biases != cells:
        kind = "12 times a square" if name == "w3" else "a square number"
        raise ValueError(f"cells of {name} must be {kind}, got {cells}")
    if name == "w3":
        logarithmic = [float(f"{rate:.3g}") for rate in np.geomspace(1e-3, 10, rates)]
        return np.array(logarithmic), np.linspace(-13, -2, biases)
    highest_rate = 1e-1 if name == "w1" else 3e-2
    return np.geomspace(1e-4, highest_rate, rates), np.linspace(-4.0, 0.5, biases)


def make_workload(name: str, cells: int, streams: Streams) -> Workload:
    """The workload of that name on the grid `axes_of(name, cells)`; the learning rate varies
    fastest."""
    rates, biases = axes_of(name, cells)
    bias, rate = np.meshgrid(biases, rates, indexing="ij")
    rate, bias = (a.ravel().astype(np.float32) for a in (rate, bias))
    return Workload(
        name, streams.inputs, streams.targets, rate, bias, streams.weights, streams.probe
    )
