"""Stopping: intervals that hold at every sample size, and how many seeds are enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from relu_dynamics.statistics._checks import checked_level, cluster_counts
from relu_dynamics.statistics.clustered import Design, design_of, effective_ends, effective_trials
from relu_dynamics.statistics.intervals import Interval

_MOST_SEEDS = 1_000_000


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


def required_seeds(
    successes: ArrayLike,
    trials: ArrayLike,
    half_width: float | None = None,
    against: float | None = None,
    level: float = 0.95,
) -> np.ndarray:
    """How many more seeds would make `clustered_interval` narrow enough, or exclude a given value.

    Supposes that further seeds look like those seen: same proportion, same spread between clusters.
    Thus a plan, not a promise, and worth little from a handful of seeds. Decide the number once:
    adding seeds until an interval excludes a value makes that exclusion a false one far more often
    than the level says.

    Args:
      successes: counts, shape (..., clusters).
      trials: counts of the same shape, or one number for all clusters.
      half_width: wanted half width, (high - low) / 2 at most this; between 0 and 0.5. Give this or
        `against`.
      against: a proportion in [0, 1] to be decided against.
      level: coverage, between 0 and 1.

    Returns:
      Whole numbers of shape (...), float64 because inf says: not with 1 000 000 seeds in all (the
      estimate equals `against`, say) or nothing was observed. 0 where the present seeds do.
    """
    successes, trials = cluster_counts(successes, trials)
    level = checked_level(level)
    if (half_width is None) == (against is None):
        raise ValueError(
            f"half_width={half_width!r}, against={against!r}: give exactly one of the two"
        )
    if half_width is not None and not 0 < half_width <= 0.5:
        raise ValueError(f"half_width={half_width!r} must be above 0 and at most 0.5")
    if against is not None and not 0 <= against <= 1:
        raise ValueError(f"against={against!r} must be a proportion, between 0 and 1")
    design = design_of(successes, trials)
    total, units = successes.sum(-1), trials.sum(-1)
    now = successes.shape[-1]  # with the seeds that had no trials: of more seeds, as many have none

    def enough(seeds):
        factor = seeds / now
        scaled = Design(*(field * factor for field in design))
        low, high = effective_ends(total, units, effective_trials(scaled, level), level)
        if half_width is not None:
            return (high - low) / 2 <= half_width
        return (against < low) | (against > high)

    # Bisection on whole numbers of seeds: widths only shrink as seeds are added.
    few, many = np.full(units.shape, float(now)), np.full(units.shape, float(_MOST_SEEDS))
    done, possible = enough(few), enough(many) & (units > 0)
    while np.any(many - few > 1):
        middle = np.floor((few + many) / 2)
        good = enough(middle)
        few, many = np.where(good, few, middle), np.where(good, middle, many)
    return np.where(done, 0.0, np.where(possible, many - now, np.inf))[()]
