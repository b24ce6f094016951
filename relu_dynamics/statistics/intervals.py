"""Intervals of proportions that promise their coverage: the record and the exact one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from relu_dynamics.statistics._checks import checked_level, counts


class Interval(NamedTuple):
    """An estimate with its interval. Every array has the shape of the leading axes (cells)."""

    estimate: np.ndarray  # nan where there is nothing to estimate from
    low: np.ndarray  # <= estimate
    high: np.ndarray  # >= estimate
    successes: np.ndarray | None  # int64; None where the estimate is not one count over another
    trials: np.ndarray | None  # int64, units or runs counted; None likewise
    clusters: np.ndarray  # int64, independent things behind the interval (runs, seeds)
    method: str  # what the interval promises, in words fit for a caption

    def as_json(self) -> dict[str, Any]:
        """One estimate as plain values for a summary: estimate (None where there is nothing to
        estimate from), interval, seeds (the clusters), successes and trials where it is of counts.
        """
        estimate = float(self.estimate)
        row = {
            "estimate": None if np.isnan(estimate) else estimate,
            "interval": [float(self.low), float(self.high)],
            "seeds": int(self.clusters),
        }
        if self.successes is None or self.trials is None:
            return row
        return row | {"successes": int(self.successes), "trials": int(self.trials)}


def exact_interval(successes: ArrayLike, trials: ArrayLike, level: float = 0.95) -> Interval:
    """The proportion of independent trials that succeeded, with an interval of guaranteed coverage.

    For outcomes of whole runs. Units of one run are not independent: use `clustered_interval` for
    them.

    Args:
      successes: counts, any shape.
      trials: counts of the same shape, or one number for all.
      level: coverage, between 0 and 1.

    Returns:
      An `Interval` of the shape of `successes`. Without trials the estimate is nan and the interval
      [0, 1].

    Source: Clopper & Pearson, Biometrika 26 (1934) 404.
    """
    successes, trials = counts(successes, trials)
    low, high = beta_ends(successes, trials, checked_level(level))
    return proportion(low, high, successes, trials, trials, "Clopper-Pearson")


def beta_ends(successes, trials, level):
    """Clopper-Pearson ends; the counts may be fractions."""
    tail = (1 - level) / 2
    failures = trials - successes
    some, others = np.where(successes > 0, successes, 1.0), np.where(failures > 0, failures, 1.0)
    low = np.where(successes > 0, special.betaincinv(some, failures + 1.0, tail), 0.0)
    high = np.where(failures > 0, special.betainccinv(successes + 1.0, others, tail), 1.0)
    return low, high


def proportion(low, high, successes, trials, clusters, method):
    estimate = np.where(trials > 0, successes / np.maximum(trials, 1), np.nan)
    # fmin and fmax skip the nan of no trials; rounding alone can leave k / n outside.
    low, high = np.fmin(low, estimate), np.fmax(high, estimate)
    parts = (np.asarray(x)[()] for x in (estimate, low, high, successes, trials, clusters))
    return Interval._make((*parts, method))
