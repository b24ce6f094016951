"""The small sweep that the checks disturb, and the digest of what came out of it."""

import hashlib
import pathlib

import numpy as np

from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.grid import Grid, make_grid

CONFIG = Config(
    task="teacher_student",
    examples=64,
    dimension=5,
    hidden=(8, 8),
    biased_units=4,
    batch_size=16,
    steps=400,
    probe_every=20,
    sustain=100,
)
ONE_UNIT = {"hidden": (1,), "biased_layer": 1, "biased_units": 1}
RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
BIASES = [-4.0, -3.0, -2.0, -1.0]
LANES = 4


def small_grid(root_seed: int = 0, seeds: int = 8) -> Grid:
    """The grid that the checks sweep: 6 x 4 cells, 8 seeds, 48 blocks."""
    axes = {"learning_rate": RATES, "initial_bias": BIASES}
    return make_grid(CONFIG, axes, seeds, root_seed=root_seed, lanes=LANES)


def digest_of(folder: pathlib.Path, grid: Grid) -> str:
    """Sha256 of all numbers in a finished folder: its blocks and its labelled result."""
    digest = hashlib.sha256()
    for block in range(grid.blocks):
        for name, array in sorted(store.read_block(folder, grid, block).items()):
            digest.update(name.encode() + array.tobytes())
    result = store.open_result(folder).load()
    for name in sorted(map(str, result.variables)):
        values = result[name].values
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
