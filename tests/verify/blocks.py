"""What another number of lanes changes."""

import dataclasses
import random

import numpy as np
import xarray as xr

from relu_dynamics.sweeps.sweep import sweep
from tests.verify.grids import BIASES, CONFIG, RATES


def check(trials: int, chance: random.Random) -> dict:
    """What a change of the number of lanes does: how many runs change a bit, and how many runs and
    units another outcome. Measured, not promised: `passed` only counts that all lanes were tried.
    `trials` is the number of seeds."""
    config = dataclasses.replace(CONFIG, steps=1500)
    axes = {"learning_rate": [*RATES, 1.0, 3.0], "initial_bias": BIASES}
    base, rows = None, {}
    for lanes in (16, 1, 4, 8, 32, 256):
        result = sweep(config, axes, trials, lanes=lanes)
        if base is None:
            base = result
            continue
        flips = result.outcome != base.outcome
        rows[f"{lanes} instead of 16"] = {
            "runs": int(base.diverged_at.size),
            "runs_with_another_bit": int(_other_bits(base, result).sum()),
            "runs_with_another_outcome": int(flips.any("unit").sum()),
            "units_with_another_outcome": int(flips.sum()),
            "units_at_risk": int(base.dead_at_start.sum()),
        }
    return {"passed": len(rows), "total": 5, "lanes": rows}


def _other_bits(one: xr.Dataset, other: xr.Dataset) -> np.ndarray:
    """Which runs differ in any bit of any number, [axes..., seed]."""
    differs = np.zeros(one.diverged_at.shape, bool)
    for name, values in one.data_vars.items():
        pair = [np.ascontiguousarray(each.values) for each in (values, other[name])]
        flat = [each.reshape(*differs.shape, -1).view(np.uint8) for each in pair]
        differs |= (flat[0] != flat[1]).any(-1)
    return differs
