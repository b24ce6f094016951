"""Oracles: the survey interval and the incidence curves beside other people's implementations."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from relu_dynamics.statistics import clustered_interval
from relu_dynamics.statistics.incidence import cumulative_incidence


def korn_graubard(successes, trials, level, degrees):
    """The textbook interval, as R's `svyciprop(method="beta")` writes it: the effective size
    p(1 - p)/var, times (t_{n-1}/t_df)^2, into the quantiles of two beta distributions.

    The variance is not the package's: a regression of the 0/1 units on a constant, with the
    sandwich variance between clusters and `svymean`'s factor C/(C - 1).
    """
    units = np.concatenate(
        [np.repeat([1.0, 0.0], [s, n - s]) for s, n in zip(successes, trials, strict=True)]
    )
    groups = np.repeat(np.arange(len(trials)), trials)
    fit = sm.OLS(units, np.ones(len(units))).fit()
    robust = fit.get_robustcov_results("cluster", groups=groups, use_correction=False)
    count = len(trials)
    share, variance = units.mean(), robust.cov_params()[0, 0] * count / (count - 1)
    size, upper = len(units), (1 + level) / 2
    effective = share * (1 - share) / variance
    effective *= (stats.t.ppf(upper, size - 1) / stats.t.ppf(upper, degrees)) ** 2
    happened = share * effective
    low = stats.beta.ppf(1 - upper, happened, effective - happened + 1)
    high = stats.beta.ppf(upper, happened + 1, effective - happened)
    return share, low, high


def carriers(successes, trials):
    """The degrees of freedom of the package: effective clusters behind the rarer side, less one."""

    def size(x):
        return x.sum() ** 2 / (x**2).sum()

    return min(size(successes.astype(float)), size((trials - successes).astype(float))) - 1


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_clustered_interval_is_korn_graubard_where_no_floor_acts(level):
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(60):
        clusters = int(rng.integers(8, 60))
        trials = rng.integers(10, 40, clusters)
        spread = rng.uniform(2, 30)
        center = rng.uniform(0.15, 0.85)
        shares = rng.beta(center * spread, (1 - center) * spread, clusters)
        successes = rng.binomial(trials, shares)
        degrees = carriers(successes, trials)
        share, low, high = korn_graubard(successes, trials, level, degrees)
        worst = trials.sum() ** 2 / np.square(trials).sum()
        residual = successes - trials * share
        effective = trials.sum() ** 2 * share * (1 - share) / np.square(residual).sum()
        factor = (clusters - 1) / clusters
        factor *= (
            stats.t.ppf((1 + level) / 2, trials.sum() - 1) / stats.t.ppf((1 + level) / 2, degrees)
        ) ** 2
        # The two floors and the ceiling that the docstring names do not act here.
        if effective * factor < min(effective, worst) or effective > trials.sum():
            continue
        compared += 1
        ours = clustered_interval(successes, trials, level)
        np.testing.assert_allclose(
            (ours.estimate, ours.low, ours.high), (share, low, high), rtol=1e-9
        )
    assert compared >= 30


def test_the_published_degrees_of_freedom_are_never_wider():
    rng = np.random.default_rng(1)
    for _ in range(40):
        trials = rng.integers(10, 40, 24)
        successes = rng.binomial(trials, rng.beta(1.0, 3.0, 24))
        _, low, high = korn_graubard(successes, trials, 0.95, len(trials) - 1)
        ours = clustered_interval(successes, trials)
        assert ours.low <= low + 1e-12 and ours.high >= high - 1e-12


@pytest.mark.parametrize("case", range(8))
def test_incidence_is_the_aalen_johansen_curve_of_lifelines(case):
    lifelines = pytest.importorskip("lifelines", reason="lifelines is in the extra `test`")
    rng = np.random.default_rng(case)
    units = int(rng.integers(30, 200))
    # Distinct times: lifelines moves tied ones apart at random, which is another estimate.
    times = rng.permutation(np.arange(1, 2 * units))[:units].astype(float)
    codes = rng.integers(0, 3, units)
    ours = cumulative_incidence(times, codes, horizon=2.0 * units)
    for index, cause in enumerate(ours.causes):
        fitted = lifelines.AalenJohansenFitter(calculate_variance=False)
        fitted.fit(times, codes, event_of_interest=int(cause))
        curve = fitted.cumulative_density_.iloc[:, 0]
        theirs = curve.to_numpy()[np.searchsorted(curve.index, ours.times, side="right") - 1]
        np.testing.assert_allclose(ours.incidence[index], theirs, rtol=1e-10, atol=1e-12)
