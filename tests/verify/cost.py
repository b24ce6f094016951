"""What durable and validated blocks cost beside training them."""

import random
import tempfile
import time
from collections.abc import Callable

import numpy as np

from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.grid import make_grid
from relu_dynamics.sweeps.blocks import run_block
from tests.verify.grids import BIASES


def check(trials: int, chance: random.Random) -> dict:
    """What a block of the default map costs to write durably, to read and check twice (when a
    sweep is continued, and for the labelled result), beside training it."""
    rates = [float(r) for r in np.geomspace(1e-3, 10, 16)]
    grid = make_grid(Config(), {"learning_rate": rates, "initial_bias": BIASES}, 1)
    result = run_block(grid, 0)
    train = _median_seconds(lambda: run_block(grid, 0), min(trials, 10))
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        folder = store.open_folder(name, grid)
        write = _median_seconds(lambda: store.write_block(folder, grid, 0, result), trials)
        read = _median_seconds(lambda: store.read_block(folder, grid, 0), trials)
    share = (write + 2 * read) / (train + write + 2 * read)
    return {
        "passed": int(share <= 0.03),
        "total": 1,
        "share_of_wall_time": round(share, 5),
        "milliseconds": {
            name: round(1e3 * value, 3)
            for name, value in (("train", train), ("write", write), ("read", read))
        },
    }


def _median_seconds(call: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(max(times, 1)):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
