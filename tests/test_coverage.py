"""What 95 % intervals cover when seeds differ strongly: simulations in NumPy alone."""

import pathlib
import re

import numpy as np
import pytest
from scipy import optimize, special, stats

from relu_dynamics import statistics
from relu_dynamics.statistics.incidence import stationary_share

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "definitions.md"


def logit_normal(rng, mean, deviation, shape):
    """Probabilities of that mean whose logits are normal with that deviation."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    off = lambda centre: (  # noqa: E731
        special.expit(centre + deviation * nodes) @ weights / weights.sum() - mean
    )
    centre = optimize.brentq(off, -30, 10)
    return special.expit(centre + deviation * rng.standard_normal(shape))


def covered(interval, truth):
    return np.mean((interval.low <= truth) & (truth <= interval.high))


@pytest.mark.slow
def test_pooled_intervals_cover_what_the_page_says():
    """Every number of the page's table, simulated: it moves by 5 standard errors or not at all."""
    rows = re.findall(
        r"^\| (0\.\d+) \| (\d\.\d) \| (\d+) ((?:\| \d\.\d+ ){4})\|$", PAGE.read_text(), re.M
    )
    assert len(rows) == 16
    rng, repeats = np.random.default_rng(0), 4000
    for share, deviation, cells, stated in rows:
        trials = 8 * int(cells)
        for seeds, value in zip((16, 32, 100, 300), stated.strip("| ").split(" | "), strict=True):
            of_seed = logit_normal(rng, float(share), float(deviation), (repeats, seeds))
            interval = statistics.clustered_interval(rng.binomial(trials, of_seed), trials)
            error = np.sqrt(2 * float(value) * (1 - float(value)) / repeats) + 1e-3
            found = covered(interval, float(share))
            assert abs(found - float(value)) < 5 * error, (share, deviation, cells, seeds, found)


def chain(rng, death, recovery, deviation, shape, units=32, evaluations=10):
    """Counts of `stationary_share` of two-state chains whose rates differ between seeds."""
    died, living, back, silent = np.zeros((4, *shape), int)
    rates = [
        special.expit(special.logit(rate) + deviation * rng.standard_normal(shape))
        for rate in (death, recovery)
    ]
    dead = rng.binomial(units, rates[0] / sum(rates))
    for _ in range(evaluations):
        falls, rises = rng.binomial(units - dead, rates[0]), rng.binomial(dead, rates[1])
        died, living = died + falls, living + units - dead
        back, silent = back + rises, silent + dead
        dead = dead + falls - rises
    return died, living, back, silent


@pytest.mark.parametrize(("death", "recovery"), [(0.01, 0.01), (0.002, 0.02), (0.02, 0.002)])
@pytest.mark.parametrize("deviation", [0, 2])
def test_the_balance_of_two_hazards_covers(death, recovery, deviation):
    """Detects (chance of a miss < 1e-6) a coverage of 89 % or less. The quantiles of a bootstrap
    over seeds covered 84 to 95 %."""
    rng = np.random.default_rng(int(1000 * death + deviation))
    truth = stationary_share(*chain(rng, death, recovery, deviation, (1, 200_000)))[0][0]
    for seeds in (8, 16, 32):
        share, low, high = stationary_share(*chain(rng, death, recovery, deviation, (600, seeds)))
        hits = ((low <= truth) & (truth <= high)).sum()
        assert hits >= stats.binom.ppf(1e-8, 600, 0.95)
        assert ((low <= share) & (share <= high)).all()
    assert np.median(high - low) < 0.4  # 32 seeds: no excuse to say nothing


def test_the_balance_by_hand():
    share, low, high = stationary_share([2, 2], [20, 20], [1, 1], [20, 20])
    assert share == pytest.approx(2 / 3) and low < share < high
    share, low, high = stationary_share([0, 0], [20, 20], [0, 0], [0, 0])
    assert np.isnan(share) and (low, high) == (0, 1)
    share, _, high = stationary_share([3, 0], [20, 20], [0, 0], [5, 5])
    assert share == high == 1
