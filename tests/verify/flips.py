"""Flips: what differs between two results of the same runs."""

import math
from typing import NamedTuple

import numpy as np
import xarray as xr


class Flips(NamedTuple):
    """How two results of the same runs differ; all are counts."""

    units: int  # that were compared
    runs: int
    units_with_another_outcome: int
    runs_with_another_outcome: int
    runs_with_another_divergence_step: int  # or that diverge in one of the two only


def flips_of(one: xr.Dataset, other: xr.Dataset) -> Flips:
    """The flips between two labelled results of grids that differ in what trains them only, among
    the units with the initial bias."""
    flips, steps = (
        biased_outcomes(one) != biased_outcomes(other),
        one.diverged_at != other.diverged_at,
    )
    counts = flips.sum(), flips.any("unit").sum(), steps.sum()
    return Flips(flips.size, one.diverged_at.size, *map(int, counts))


def biased_outcomes(result: xr.Dataset) -> xr.DataArray:
    """The outcomes of the units with the initial bias, [axes..., seed, unit]."""
    return result.outcome.isel(unit=np.flatnonzero(result.biased.values))


def no_more(ours: int, theirs: int) -> bool:
    """Whether the first of two counts of independent rare events is not above the second by more
    than three standard deviations of their difference."""
    return ours - theirs <= 3 * math.sqrt(ours + theirs)
