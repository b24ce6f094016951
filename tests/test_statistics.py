"""Statistics against tables, exact enumeration, identities and simulated truth.

Simulations have a fixed seed. A coverage assertion fails by chance with probability below 1e-8 if
the interval keeps the coverage it claims (`_hits_expected`), hence below 1e-6 for all of them; what
it detects is written where it is used.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import CumIncidenceRight, SurvfuncRight
from statsmodels.stats.proportion import proportion_confint

from relu_dynamics import statistics
from relu_dynamics.statistics import incidence as incidence_
from relu_dynamics.statistics import intervals as intervals_

pytestmark = pytest.mark.core

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def _hits_expected(repeats, coverage):
    """The fewest hits of so many intervals that an honest one falls below with chance <= 1e-8."""
    return stats.binom.ppf(1e-8, repeats, coverage)


def _holds(interval, truth):
    return (interval.low <= truth) & (truth <= interval.high)


def _beta_binomial(rng, share, correlation, shape, units):
    """Successes of `units` in each cluster, with a given correlation between units of a cluster."""
    if correlation == 0:
        return rng.binomial(units, share, shape)
    if correlation == 1:
        return units * rng.binomial(1, share, shape)
    size = 1 / correlation - 1
    return rng.binomial(units, rng.beta(share * size, (1 - share) * size, shape))


# --- one binomial proportion ----------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("trials", [1, 4, 16, 64])
def test_exact_intervals_equal_the_reference_tables(trials, level):
    successes = np.arange(trials + 1)
    exact = statistics.exact_interval(successes, trials, level)
    reference = np.array(
        [stats.binomtest(k, trials).proportion_ci(level, "exact") for k in successes.tolist()]
    )
    np.testing.assert_allclose([exact.low, exact.high], reference.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        [exact.low, exact.high],
        proportion_confint(successes, trials, alpha=1 - level, method="beta"),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 100, 0, 0.03622),
        (0, 1000, 0, 0.003682),
        (1, 100, 0.000253, 0.05446),
        (50, 100, 0.3983, 0.6017),
    ],
)
def test_exact_interval_of_the_published_examples(successes, trials, low, high):
    interval = statistics.exact_interval(successes, trials)
    # Half a unit of the last digit quoted.
    np.testing.assert_allclose([interval.low, interval.high], [low, high], atol=5.1e-5, rtol=2e-3)
    assert interval.estimate == successes / trials
    assert (interval.successes, interval.trials, interval.clusters) == (successes, trials, trials)


@pytest.mark.parametrize("trials", [4, 16, 64])
def test_exact_interval_covers_at_its_level_whatever_the_truth(trials):
    truth = np.concatenate([np.geomspace(1e-5, 0.05, 400), np.linspace(0.05, 0.5, 901)])
    successes = np.arange(trials + 1)
    chance = stats.binom.pmf(successes, trials, truth[:, None])
    exact = statistics.exact_interval(successes, trials)
    assert np.min((chance * _holds(exact, truth[:, None])).sum(-1)) >= 0.95


def test_no_trials_say_nothing_and_rounding_excludes_no_estimate():
    nothing = statistics.exact_interval(0, 0)
    assert np.isnan(nothing.estimate)
    assert (nothing.low, nothing.high) == (0, 1)
    trials = np.arange(1, 5001)
    for successes in (0 * trials, trials):
        result = statistics.exact_interval(successes, trials)
        assert np.all(_holds(result, result.estimate))
        assert np.all((result.low >= 0) & (result.high <= 1))


@SETTINGS
@given(st.integers(1, 400), st.floats(0.5, 0.999), st.data())
def test_exact_interval_contains_the_estimate_and_rises_with_the_count(trials, level, data):
    successes = data.draw(st.integers(0, trials - 1))
    array = statistics.exact_interval([successes, successes + 1], trials, level)
    alone = statistics.exact_interval(successes, trials, level)
    assert alone.low == array.low[0] and alone.high == array.high[0]
    assert np.all(_holds(array, array.estimate))
    assert array.low[0] < array.low[1] and array.high[0] < array.high[1]
    assert array.successes.dtype == np.int64 and array.trials.dtype == np.int64


# --- units clustered by run -----------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 2, 7, 32])
def test_one_unit_in_each_run_gives_the_exact_interval(runs):
    outcomes = np.tri(runs + 1, runs, -1, dtype=int)  # 0, 1, ..., runs successes
    clustered = statistics.clustered_interval(outcomes, 1)
    exact = statistics.exact_interval(np.arange(runs + 1), runs)
    for name in ("estimate", "low", "high", "successes", "trials"):
        np.testing.assert_array_equal(getattr(clustered, name), getattr(exact, name))


@pytest.mark.parametrize("share", [0, 3, 8])
def test_runs_that_all_agree_count_as_one_trial_each(share):
    clustered = statistics.clustered_interval([share] * 12, 8)
    low, high = intervals_.beta_ends(share / 8 * 12.0, 12.0, 0.95)
    np.testing.assert_allclose([clustered.low, clustered.high], [low, high], rtol=1e-12)
    if share in (0, 8):
        exact = statistics.exact_interval(12 * share // 8, 12)
        assert (clustered.low, clustered.high) == (exact.low, exact.high)
    # One run with most of the units: hardly more than one trial.
    lonely = statistics.clustered_interval([0, 0, 0, 0], [100, 1, 1, 1])
    assert lonely.high > statistics.exact_interval(0, 4).high


def test_clustered_interval_step_by_step():
    successes, trials = [0, 3, 1, 5, 0, 2, 4, 1], [6, 8, 7, 8, 5, 8, 6, 7]
    runs, units = 8, sum(trials)
    share = sum(successes) / units
    variance = sum((k - share * n) ** 2 for k, n in zip(successes, trials, strict=True)) / units**2
    variance *= runs / (runs - 1)
    carriers = sum(successes) ** 2 / sum(k * k for k in successes)  # fewer than of the failures
    ratio = stats.t.ppf(0.975, units - 1) / stats.t.ppf(0.975, carriers - 1)
    effective = share * (1 - share) / variance * ratio**2
    assert effective > units**2 / sum(n * n for n in trials)  # no floor in this example
    low = stats.beta.ppf(0.025, share * effective, (1 - share) * effective + 1)
    high = stats.beta.ppf(0.975, share * effective + 1, (1 - share) * effective)
    interval = statistics.clustered_interval(successes, trials)
    np.testing.assert_allclose(interval[:3], [share, low, high], rtol=1e-10)


def test_copied_units_count_once_and_unrelated_units_never_more_than_their_number():
    rng = np.random.default_rng(0)
    outcome = rng.binomial(1, 0.3, (50, 32))
    copies = statistics.clustered_interval(8 * outcome, 8)
    exact = statistics.exact_interval(outcome.sum(-1), 32)
    np.testing.assert_allclose(copies.low, exact.low, atol=1e-12)
    np.testing.assert_allclose(copies.high, exact.high, atol=1e-12)
    spread = statistics.clustered_interval(rng.binomial(8, 0.3, (50, 32)), 8)
    naive = statistics.exact_interval(spread.successes, spread.trials)
    assert np.all((spread.low <= naive.low) & (spread.high >= naive.high))


def test_no_units_at_risk_say_nothing():
    nothing = statistics.clustered_interval(np.zeros((2, 5), int), 0)
    assert np.all(np.isnan(nothing.estimate))
    np.testing.assert_array_equal([nothing.low, nothing.high], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(nothing.clusters, 0)


counts = st.lists(
    st.integers(0, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=1,
    max_size=20,
)


@SETTINGS
@given(counts, st.floats(0.5, 0.99), st.randoms(use_true_random=False))
def test_clustered_interval_properties(pairs, level, random):
    successes, trials = np.array(pairs).T
    interval = statistics.clustered_interval(successes, trials, level)
    if trials.sum():
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
        assert interval.high - interval.low > 0
    # Wider with the level.
    wider = statistics.clustered_interval(successes, trials, (1 + level) / 2)
    assert wider.low <= interval.low and interval.high <= wider.high
    # The order of runs, runs without units at risk, and other cells change nothing.
    mixed = pairs + [(0, 0)] * 3
    random.shuffle(mixed)
    same = statistics.clustered_interval(*np.array(mixed).T, level)
    np.testing.assert_allclose(same[:6], interval[:6], rtol=1e-9)
    array = statistics.clustered_interval([[successes, successes]], [[trials, trials]], level)
    assert array.low.shape == (1, 2)
    np.testing.assert_array_equal(array.low, interval.low)
    # Failures are successes counted from the other side.
    mirrored = statistics.clustered_interval(trials - successes, trials, level)
    np.testing.assert_allclose(
        [1 - mirrored.high, 1 - mirrored.low], [interval.low, interval.high], atol=1e-9
    )


@pytest.mark.parametrize("runs", [8, 32, 128])
@pytest.mark.parametrize("correlation", [0, 0.1, 0.5, 0.9, 1])
def test_clustered_interval_covers_at_least_94_percent(runs, correlation):
    """Detects (chance of a miss < 1e-6) a coverage of 88 % or less at any of the shares."""
    rng = np.random.default_rng([1, runs, int(10 * correlation)])
    repeats = 3000
    for share in (0.005, 0.02, 0.05, 0.1, 0.5):
        successes = _beta_binomial(rng, share, correlation, (repeats, runs), 8)
        interval = statistics.clustered_interval(successes, 8)
        assert _holds(interval, share).sum() >= _hits_expected(repeats, 0.94), share


def test_clustered_interval_where_the_published_degrees_of_freedom_and_the_naive_one_fail():
    """Wide layers, rare recovery; detects (miss < 1e-6) a coverage of 89 % or less."""
    rng = np.random.default_rng(2)
    repeats, truth = 4000, 0.02
    successes = _beta_binomial(rng, truth, 0.3, (repeats, 32), 512)
    interval = statistics.clustered_interval(successes, 512)
    assert _holds(interval, truth).sum() >= _hits_expected(repeats, 0.94)
    naive = statistics.exact_interval(successes.sum(-1), 512 * 32)
    assert _holds(naive, truth).mean() < 0.5


def test_clustered_interval_is_not_needlessly_wide():
    rng = np.random.default_rng(3)
    for correlation in (0, 0.1, 0.5):
        interval = statistics.clustered_interval(
            _beta_binomial(rng, 0.3, correlation, (500, 128), 8), 8
        )
        effective = 128 * 8 / (1 + 7 * correlation)
        ideal = 2 * 1.96 * np.sqrt(0.3 * 0.7 / effective)
        assert np.mean(interval.high - interval.low) < 1.12 * ideal


# --- planning -------------------------------------------------------------------------------------


# --- cells that share seeds -----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_pool_over_cells_that_share_seeds_covers_and_the_naive_pool_does_not(share):
    """Correlation 0.5 between cells; detects (miss < 1e-6) a coverage of 86 % or less."""
    rng = np.random.default_rng(5)
    repeats, cells, seeds = 1500, 50, 32
    common = rng.standard_normal((repeats, 1, seeds))
    score = (common + rng.standard_normal((repeats, cells, seeds))) / np.sqrt(2)
    recovered = score < stats.norm.ppf(share)
    pooled = statistics.seed_clustered_mean(recovered, pool=1)
    hits = _holds(pooled, share).sum()
    assert hits >= _hits_expected(repeats, 0.94)
    naive = statistics.exact_interval(recovered.sum((1, 2)), cells * seeds)
    assert _holds(naive, share).mean() < 0.5
    # For outcomes 0 and 1 it is the clustered interval of the counts of a seed.
    counted = statistics.clustered_interval(recovered.sum(1), cells)
    np.testing.assert_allclose(pooled[:3], counted[:3], rtol=1e-9)


def test_seed_clustered_mean_of_unbounded_numbers_is_the_t_interval():
    values = np.random.default_rng(6).normal(3, 2, (4, 9, 5))
    result = statistics.seed_clustered_mean(values, axis=1, bounds=None)
    per_seed = values.mean((0, 2))
    reference = stats.ttest_1samp(per_seed, 0).confidence_interval()
    np.testing.assert_allclose([result.low, result.high], reference, rtol=1e-12)
    np.testing.assert_allclose(result.estimate, per_seed.mean(), rtol=1e-12)
    assert result.clusters == 9 and result.trials is None
    rows = statistics.seed_clustered_mean(values, axis=1, pool=-1, bounds=None)
    one = statistics.seed_clustered_mean(values[2], axis=0, bounds=None)
    np.testing.assert_allclose([x[2] for x in rows[:3]], one[:3], rtol=1e-12)


def test_seeds_that_agree_or_stand_alone_are_no_certainty():
    none = statistics.seed_clustered_mean(np.zeros((6, 8)))
    assert none.low == 0
    np.testing.assert_allclose(none.high, statistics.exact_interval(0, 8).high, rtol=1e-12)
    same = statistics.seed_clustered_mean(np.full((6, 3, 8), 0.1))
    assert same.high > 0.3
    alone = statistics.seed_clustered_mean([0.3])
    assert alone.low < 0.05 and alone.high > 0.95
    unbounded = statistics.seed_clustered_mean([0.3, 0.3], bounds=None)
    assert (unbounded.low, unbounded.high) == (-np.inf, np.inf)


def test_numbers_within_bounds_scale_with_them():
    values = np.random.default_rng(7).random((3, 12))
    unit = statistics.seed_clustered_mean(values)
    steps = statistics.seed_clustered_mean(100 + 900 * values, bounds=(100, 1000))
    np.testing.assert_allclose(steps[:3], [100 + 900 * end for end in unit[:3]], rtol=1e-9)
    t = statistics.seed_clustered_mean(values, bounds=None)
    assert 1 < (unit.high - unit.low) / (t.high - t.low) < 1.5


@pytest.mark.parametrize("correlation", [0, 0.5, 0.9])
def test_paired_difference_covers(correlation):
    """Claimed: 92.5 %. Detects (miss < 1e-6) a coverage of 86 % or less."""
    rng = np.random.default_rng([8, int(10 * correlation)])
    repeats, seeds = 3000, 32
    for first, second in ((0.3, 0.3), (0.1, 0.4), (0.02, 0.1)):
        common = np.sqrt(correlation) * rng.standard_normal((repeats, seeds, 1))
        counts = []
        for share in (first, second):
            own = np.sqrt(1 - correlation) * rng.standard_normal((repeats, seeds, 8))
            counts.append((common + own < stats.norm.ppf(share)).sum(-1))
        interval = statistics.paired_difference(counts[0], 8, counts[1], 8)
        assert _holds(interval, first - second).sum() >= _hits_expected(repeats, 0.925)


def test_paired_difference_is_the_t_interval_without_ties():
    rng = np.random.default_rng(9)
    first_n, second_n = rng.integers(50, 99, (2, 10))
    first, second = rng.binomial(first_n, 0.6), rng.binomial(second_n, 0.4)
    difference = first / first_n - second / second_n
    reference = stats.ttest_1samp(difference, 0).confidence_interval()
    result = statistics.paired_difference(first, first_n, second, second_n)
    np.testing.assert_allclose([result.low, result.high], reference, rtol=1e-12)
    # A seed without units at risk in one arm is no pair.
    more = statistics.paired_difference([*first, 3], [*first_n, 9], [*second, 0], [*second_n, 0])
    np.testing.assert_allclose(more[:3], result[:3], rtol=1e-12)
    assert more.clusters == 10


def test_arms_without_a_difference_leave_an_interval_around_zero():
    result = statistics.paired_difference([0] * 16, 8, [0] * 16, 8)
    beyond = statistics.exact_interval(0, 16).high
    np.testing.assert_allclose([result.low, result.high], [-beyond, beyond], rtol=1e-12)
    assert result.estimate == 0
    one = statistics.paired_difference([1] + [0] * 15, 8, [0] * 16, 8)
    assert one.low < 0 < one.estimate < one.high
    nothing = statistics.paired_difference([[0, 0]], 0, [[1, 1]], 1)
    assert np.isnan(nothing.estimate[0])
    assert (nothing.low[0], nothing.high[0], nothing.clusters[0]) == (-1, 1, 0)


def test_false_discovery_rate_equals_the_step_up_rule():
    p_values = np.random.default_rng(11).random((5, 8)) ** 3
    result = statistics.false_discovery_rate(p_values, 0.1)
    np.testing.assert_allclose(
        result.adjusted.ravel(), stats.false_discovery_control(p_values.ravel()), rtol=1e-12
    )
    np.testing.assert_array_equal(result.rejected, result.adjusted <= 0.1)
    assert result.rejected.shape == (5, 8)
    ordered = np.sort(p_values.ravel())
    passing = np.flatnonzero(ordered <= 0.1 * np.arange(1, 41) / 40)
    assert result.rejected.sum() == passing[-1] + 1
    assert statistics.false_discovery_rate(np.zeros((0, 3))).rejected.shape == (0, 3)


# --- time to an event -----------------------------------------------------------------------------


def _histories(rng, runs, units, horizon, censoring=None):
    """Recovery (rate 1/1000, differing between runs), divergence, loss; [runs * units] each."""
    shape = (runs, units)
    recovery = rng.exponential(1000, shape) / rng.gamma(2, 0.5, (runs, 1))
    divergence = rng.exponential(2500, shape)
    lost = rng.exponential(censoring, shape) if censoring else np.full(shape, np.inf)
    end = np.minimum(lost, horizon)
    time = np.minimum(np.minimum(recovery, divergence), end)
    code = np.where(time == recovery, 1, np.where(time == divergence, 2, 0))
    return np.ceil(time).ravel(), code.ravel(), np.repeat(np.arange(runs), units)


def test_incidence_without_early_loss_is_the_proportion_and_its_clustered_interval():
    rng = np.random.default_rng(12)
    time, code, run = _histories(rng, 16, 8, 600)
    curve = statistics.cumulative_incidence(time, code, 600, clusters=run)
    happened = (code[:, None] == curve.causes) & (time[:, None] <= curve.times[:, None, None])
    np.testing.assert_allclose(curve.incidence, happened.mean(1).T, atol=1e-12)
    by_run = happened.reshape(-1, 16, 8, 2).sum(2)  # [T, runs, K]
    clustered = statistics.clustered_interval(by_run.transpose(2, 0, 1), 8)
    np.testing.assert_allclose(curve.low, clustered.low, atol=1e-10)
    np.testing.assert_allclose(curve.high, clustered.high, atol=1e-10)
    np.testing.assert_array_equal(curve.events, happened.sum(1).T)
    np.testing.assert_array_equal(curve.at_risk, (time >= curve.times[:, None]).sum(-1))
    assert (curve.trials, curve.clusters) == (128, 16)
    # Every unit has recovered, diverged or neither.
    neither = np.mean((code == 0) | (time > curve.times[-1]))
    np.testing.assert_allclose(curve.incidence[:, -1].sum() + neither, 1, atol=1e-12)


def test_incidence_equals_the_reference_under_random_loss():
    time, code, run = _histories(np.random.default_rng(13), 40, 6, 900, censoring=700)
    curve = statistics.cumulative_incidence(time, code, 900, clusters=run)
    reference = CumIncidenceRight(time, code)
    at = np.searchsorted(reference.times, curve.times, side="right") - 1
    np.testing.assert_allclose(curve.incidence, np.array(reference.cinc)[:, at], atol=1e-12)
    one_kind = statistics.cumulative_incidence(time, np.minimum(code, 1), 900, clusters=run)
    survival = SurvfuncRight(time, np.minimum(code, 1))
    np.testing.assert_allclose(1 - one_kind.incidence[0], survival.surv_prob, atol=1e-12)


def test_influence_of_a_run_is_the_derivative_in_its_weight():
    time, code, run = _histories(np.random.default_rng(14), 12, 5, 900, censoring=600)
    grid = np.unique(time[code > 0])
    copies = 200

    def curve_with_weight(extra):
        repeats = np.full(time.shape, copies) + extra * (run == 3)
        many = (np.repeat(x, repeats) for x in (time, code, run))
        return incidence_._aalen_johansen(incidence_._Cell(*many, 2), grid).incidence

    slope = (curve_with_weight(1) - curve_with_weight(-1)) / 2 * copies
    influence = incidence_._aalen_johansen(incidence_._Cell(time, code, run, 2), grid).influence
    np.testing.assert_allclose(influence[:, 3], slope, atol=1e-5)
    np.testing.assert_allclose(influence.sum(1), 0, atol=1e-12)


def test_incidence_under_random_loss_covers_the_truth():
    """Detects (miss < 1e-6) a coverage of 82 % or less, or a bias of 15 % of the truth."""
    rng = np.random.default_rng(15)
    repeats, runs, units, times = 800, 16, 6, np.array([100.0, 300.0, 500.0])
    recovery_rate = rng.gamma(2, 0.5, (400_000, 1)) / 1000
    rate = recovery_rate + 1 / 2500
    truth = np.mean(recovery_rate / rate * (1 - np.exp(-rate * times)), axis=0)
    time, code, run = zip(
        *(_histories(rng, runs, units, 500, censoring=800) for _ in range(repeats)), strict=True
    )
    curve = statistics.cumulative_incidence(time, code, 500, clusters=run[0], times=times)
    hits = _holds(statistics.Interval(*curve[2:5], 0, 0, 0, ""), truth)[:, 0].sum(0)
    assert np.all(hits >= _hits_expected(repeats, 0.94))
    # np.ceil in the histories moves nothing across these times.
    np.testing.assert_allclose(curve.incidence[:, 0].mean(0), truth, rtol=0.08)


def test_censored_time_to_recovery_with_units_that_never_recover():
    """Recovery time exponential with mean 1000, 30 % never: the share is known in closed form.

    Detects (miss < 1e-6) a bias of 0.025 in the share.
    """
    rng = np.random.default_rng(16)
    recovery = np.where(rng.random(40_000) < 0.3, np.inf, rng.exponential(1000, 40_000))
    run = np.repeat(np.arange(100), 400)
    for horizon in (500, 1000, 3000):
        share = 0.7 * (1 - np.exp(-horizon / 1000))
        time, code = np.minimum(recovery, horizon), (recovery <= horizon).astype(int)
        at = statistics.cumulative_incidence(time, code, horizon, clusters=run, times=[horizon])
        assert abs(at.incidence[0, 0] - share) < 0.0125


def test_no_event_yet_leaves_the_exact_interval_of_the_runs():
    time, code = np.full(24, 50.0), np.zeros(24, int)
    run = np.repeat(np.arange(6), 4)
    curve = statistics.cumulative_incidence(time, code, 50, clusters=run, times=[0, 10, 50])
    exact = statistics.exact_interval(0, 6)
    np.testing.assert_array_equal(curve.incidence, [[0, 0, 0]])
    np.testing.assert_allclose(curve.high, [[exact.high] * 3], rtol=1e-12)
    assert statistics.cumulative_incidence(time, code, 50).incidence.shape == (1, 0)
    # Runs lost before the time no longer vouch for it.
    time[run < 3] = 5
    late = statistics.cumulative_incidence(time, code, 50, clusters=run, times=[10])
    np.testing.assert_allclose(late.high, [[statistics.exact_interval(0, 3).high]], rtol=1e-12)


def test_nothing_is_said_about_times_after_all_were_lost():
    curve = statistics.cumulative_incidence([1, 2, 3], [1, 0, 0], 9, times=[1, 3, 4])
    np.testing.assert_allclose(curve.incidence, [[1 / 3, 1 / 3, np.nan]])
    assert (curve.low[0, 2], curve.high[0, 2]) == (0, 1)
    # Unless all had an event: then nothing more can happen.
    done = statistics.cumulative_incidence([1, 2, 3], [1, 2, 1], 9, times=[3, 9])
    np.testing.assert_allclose(done.incidence, [[2 / 3] * 2, [1 / 3] * 2])


def test_cells_are_independent_and_units_not_at_risk_do_not_count():
    rng = np.random.default_rng(17)
    time, code, run = (
        np.array(x) for x in zip(*(_histories(rng, 6, 4, 700) for _ in range(6)), strict=True)
    )
    code[rng.random(code.shape) < 0.3] = -1
    code[5] = -1  # a cell without any unit at risk
    time[code == -1] = np.nan
    shaped = [x.reshape(2, 3, -1) for x in (time, code)]
    times = [100, 400, 650]
    curve = statistics.cumulative_incidence(*shaped, 650, clusters=run[0], times=times)
    assert curve.incidence.shape == (2, 3, 2, 3) and curve.at_risk.shape == (2, 3, 3)
    for cell in range(5):
        risk = code[cell] >= 0
        alone = (time[cell][risk], code[cell][risk], 650)
        own = run[cell][risk]
        place = np.unravel_index(cell, (2, 3))
        single = statistics.cumulative_incidence(*alone, clusters=own, times=times)
        for name in ("incidence", "low", "high", "events", "at_risk", "trials", "clusters"):
            np.testing.assert_allclose(
                getattr(curve, name)[place], getattr(single, name), rtol=1e-12
            )
    assert np.isnan(curve.incidence[1, 2]).all() and curve.trials[1, 2] == 0


def test_events_after_the_horizon_have_not_happened_by_it():
    time, code = np.array([10, 400, 501, 900]), np.array([1, 1, 1, 2])
    late = statistics.cumulative_incidence(time, code, 500)
    np.testing.assert_array_equal(late.times, [10, 400])
    np.testing.assert_allclose(late.incidence, [[0.25, 0.5], [0, 0]])


# --- refusals -------------------------------------------------------------------------------------

one_run = ([1, 2], [1, 0], 5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: statistics.exact_interval(3, 2), "successes holds 3 of 2 trials"),
        (lambda: statistics.exact_interval(-1, 2), "successes holds -1"),
        (lambda: statistics.exact_interval(0.5, 2), r"successes holds 0\.5.*whole"),
        (lambda: statistics.exact_interval(np.nan, 2), "successes holds nan"),
        (lambda: statistics.exact_interval(0, "2"), "trials has dtype"),
        (lambda: statistics.exact_interval([0, 1], [1, 2, 3]), r"\(2,\) and trials \(3,\)"),
        (lambda: statistics.exact_interval(0, np.float32(2**25)), "trials holds.*integers"),
        (lambda: statistics.exact_interval(0, 2, level=95), "level=95.*0.95"),
        (lambda: statistics.exact_interval(0, 2, level=0), "level=0"),
        (lambda: statistics.exact_interval(0, 2, level=np.nan), "level=nan"),
        (lambda: statistics.clustered_interval(1, 2), "last axis of clusters"),
        (lambda: statistics.clustered_interval(np.zeros((3, 0), int), 2), "last axis"),
        (lambda: statistics.clustered_interval([1, 1], [2**30, 2**31]), "below 2"),
        (lambda: statistics.seed_clustered_mean([0.5, np.nan]), "1 numbers that are not finite"),
        (lambda: statistics.seed_clustered_mean([0.5, 2]), "bounds"),
        (lambda: statistics.seed_clustered_mean([]), "non-empty"),
        (lambda: statistics.seed_clustered_mean(["a"]), "dtype"),
        (lambda: statistics.seed_clustered_mean([[0, 1]], axis=2), "axis=2"),
        (lambda: statistics.seed_clustered_mean([[0, 1]], pool=1), "pool=1"),
        (lambda: statistics.paired_difference([3], 2, [1], 2), "first_successes holds 3"),
        (lambda: statistics.paired_difference([1], 2, [1, 1], 2), "second_successes"),
        (lambda: statistics.false_discovery_rate([0.5, np.nan]), "p_values holds nan"),
        (lambda: statistics.false_discovery_rate([0.5], level=1), "level=1"),
        (lambda: statistics.cumulative_incidence([1], [1, 0], 5), "event_time has shape"),
        (lambda: statistics.cumulative_incidence([1], [-2], 5), "event_code holds -2"),
        (lambda: statistics.cumulative_incidence([np.nan], [0], 5), "event_time holds nan"),
        (lambda: statistics.cumulative_incidence([-1], [0], 5), "event_time holds -1"),
        (lambda: statistics.cumulative_incidence([1], [0], np.inf), "horizon=inf"),
        (lambda: statistics.cumulative_incidence(*one_run, times=[3, 2]), "ascending"),
        (lambda: statistics.cumulative_incidence(*one_run, times=[9]), "horizon 5"),
        (lambda: statistics.cumulative_incidence(*one_run, clusters=[1]), "clusters has shape"),
        (lambda: statistics.cumulative_incidence(np.zeros((0, 2)), np.zeros((0, 2)), 5), "cell"),
    ],
)
def test_bad_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()
