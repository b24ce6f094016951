"""Whether a contender computed the same thing as the reference, and by how much it differs.

The reference is the NumPy contender in float64 on the same float32 arrays. Rounding may put one
example of a run on the other side of a ReLU's kink, and runs of a seed share such accidents; so
half of the runs must agree closely, nearly all of them loosely, and what is discrete is counted.
"""

from typing import NamedTuple

import numpy as np
from workers import CORES, Contender, Team
from workloads import Workload

FEW_STEPS = 20
# Bounds on the median and on the 99th percentile over runs of the largest difference in a run.
BOUNDS_FEW = (1e-5, 2e-3)
BOUNDS_ALL = (2e-3, 5e-2)
# Bounds on the share of units whose first active step differs, and on the mean differences of the
# fractions active and dead.
SHARE = 1e-3
REFERENCE = Contender(
    "reference",
    "NumPy in float64",
    "contenders_numpy:Grid",
    processes=CORES,
    arguments=dict(dtype=np.float64),
)


class Difference(NamedTuple):
    """Differences |a - b| / (1 + |b|) of parameters, mean, peak and margin; the largest of each
    run."""

    median: float  # Over runs.
    high: float  # The 99th percentile over runs.
    largest: float
    fraction: float  # Mean difference of the fraction active, over runs and units.
    first_active: int  # Units whose first active step differs.
    units: int  # Of so many.
    dead: float  # Mean difference of the fraction of steps dead, over runs and units.

    def within(self, bounds: tuple[float, float]) -> bool:
        return (
            self.median <= bounds[0]
            and self.high <= bounds[1]
            and self.fraction <= SHARE
            and self.dead <= SHARE
            and self.first_active <= SHARE * self.units
        )


class Agreement(NamedTuple):
    """The differences after FEW_STEPS and after all steps, and the verdict."""

    few: Difference
    all: Difference
    agrees: bool


_cache = {}


def reference(work: Workload, steps: int) -> dict[str, np.ndarray]:
    """The results of the first `steps` steps in double precision."""
    sizes = work.name, work.seeds, work.cells, work.steps, steps
    if sizes not in _cache:
        compared = work.take(slice(None), work.compared, slice(None))
        team = Team(REFERENCE, compared)
        try:
            team.sample(steps=steps)
            _cache[sizes] = team.result()
        finally:
            team.close()
    return _cache[sizes]


def compare(work: Workload, few: dict, full: dict) -> Agreement:
    """Compares a contender's results after FEW_STEPS and after all steps with the reference, in
    the cells that can be compared."""
    steps = min(FEW_STEPS, work.steps)
    few, full = ({k: a[:, work.compared] for k, a in part.items()} for part in (few, full))
    early = _difference(few, reference(work, steps), steps)
    late = _difference(full, reference(work, work.steps), work.steps)
    return Agreement(early, late, early.within(BOUNDS_FEW) and late.within(BOUNDS_ALL))


def _difference(result: dict, expected: dict, steps: int) -> Difference:
    wrong = [k for k, a in result.items() if a.shape != expected[k].shape]
    units = expected["first_active"].size
    if wrong or "parameters" not in result:
        return Difference(np.inf, np.inf, np.inf, np.inf, units, units, np.inf)
    worst = np.zeros(expected["parameters"].shape[:2])
    for key, scale in (
        ("parameters", 1),
        ("sum_mean", steps),
        ("running_max", 1),
        ("margin", 1),
    ):
        if key in result:
            a, b = result[key] / scale, expected[key] / scale
            error = np.abs(a - b) / (1 + np.abs(b))
            # Not a number on both sides agrees; on one side it is an infinite difference.
            error = np.where(np.isnan(a) & np.isnan(b), 0, np.nan_to_num(error, nan=np.inf))
            worst = np.maximum(worst, error.max(-1))
    fraction, first, dead = 0.0, 0, 0.0
    if "first_active" in result:
        fraction = np.abs(result["sum_fraction"] - expected["sum_fraction"]).mean() / steps
        first = (result["first_active"] != expected["first_active"]).sum()
    if "steps_dead" in result:
        dead = np.abs(result["steps_dead"] - expected["steps_dead"]).mean() / steps
    return Difference(
        float(np.median(worst)),
        float(np.quantile(worst, 0.99)),
        float(worst.max()),
        float(fraction),
        int(first),
        units,
        float(dead),
    )
