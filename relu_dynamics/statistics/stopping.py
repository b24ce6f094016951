"""Stopping: intervals that hold at every sample size, whenever one stops."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from relu_dynamics.statistics._checks import checked_level
from relu_dynamics.statistics.intervals import Interval


def confidence_sequence(total: ArrayLike, count: ArrayLike, level: float = 0.95) -> Interval:
    """An interval for the mean of numbers in [0, 1] that holds at every count at once.

    However the moment to stop was chosen, also by looking at these very numbers, the chance that
    any of the intervals along the way misses the mean is at most 1 - level. The price is width:
    about 1.6 times that of an exact interval at 100 numbers.

    Args:
      total: the sum of the numbers, any shape; they are independent given those before, with one
        mean. Runs' proportions, say; counts of successes among trials are a special case.
      count: how many they are, of that shape or one number.
      level: between 0 and 1.

    Returns:
      An `Interval` of that shape: the means p for which the wealth of a gambler who bets on other
      means than p, as a Beta(1/2, 1/2) mixture, stays below 1 / (1 - level).

    Source: Ville's inequality for the beta-binomial mixture; Howard, Ramdas, McAuliffe & Sekhon,
    Ann. Statist. 49 (2021) 1055, section 4. That it holds for numbers within [0, 1], not for 0 and
    1 only, is the inequality of arithmetic and geometric means.
    """
    total, count = np.broadcast_arrays(np.asarray(total, np.float64), np.asarray(count, np.float64))
    level = checked_level(level)
    bad = ~((count >= 0) & (count == np.round(count)) & (total >= 0) & (total <= count))
    if bad.any():
        raise ValueError(
            f"total={total[bad].flat[0]:g}, count={count[bad].flat[0]:g}: the sum of count numbers "
            "in [0, 1] must be between 0 and count"
        )
    mean = total / np.maximum(count, 1)
    room = special.betaln(total + 0.5, count - total + 0.5) - special.betaln(0.5, 0.5)
    bound = room + np.log(1 - level)  # log wealth < -log(1 - level)

    def inside(p):
        return special.xlogy(total, p) + special.xlog1py(count - total, -p) > bound

    def edge(start, end):  # start is inside, end is outside or the last possible mean
        good, out = start.copy(), end.copy()
        for _ in range(60):
            middle = (good + out) / 2
            holds = inside(middle)
            good, out = np.where(holds, middle, good), np.where(holds, out, middle)
        return np.where(inside(end), end, out)

    low, high = (edge(mean, np.full(mean.shape, end)) for end in (0.0, 1.0))
    estimate = np.where(count > 0, mean, np.nan)[()]
    clusters = count.astype(np.int64)[()]
    method = "confidence sequence, valid at any time"
    return Interval(estimate, low[()], high[()], None, None, clusters, method)
