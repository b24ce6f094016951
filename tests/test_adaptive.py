"""Adaptive sweeps: intervals that survive looking, and seeds that go where it is uncertain."""

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from relu_dynamics import statistics
from relu_dynamics.config import Config
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps import adaptive
from relu_dynamics.sweeps.blocks import run_blocks
from relu_dynamics.sweeps.sweep import sweep

CONFIG = Config(
    task="teacher_student", dimension=4, examples=64, batch_size=16, hidden=(4,), biased_layer=1,
    biased_units=4, steps=20, probe_every=10, sustain=5, optimizer="sgd", noise_scale=3.0,
)  # fmt: skip
AXES = {"learning_rate": [0.001, 0.01, 0.1, 1.0], "initial_bias": [-9.0, -6.0]}


# --- Confidence sequences -------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(successes=st.integers(0, 200), failures=st.integers(0, 200), level=st.floats(0.5, 0.999))
def test_ends_are_where_the_wealth_is_one_over_alpha(successes, failures, level):
    count = successes + failures
    found = statistics.confidence_sequence(successes, count, level)

    def log_wealth(p):
        mixture = special.betaln(successes + 0.5, failures + 0.5) - special.betaln(0.5, 0.5)
        return mixture - special.xlogy(successes, p) - special.xlog1py(failures, -p)

    for end, edge in ((found.low, 0.0), (found.high, 1.0)):
        if end != edge:
            assert log_wealth(end) == pytest.approx(-np.log(1 - level), abs=1e-6)
        else:
            assert log_wealth(edge) <= -np.log(1 - level) + 1e-9
    if count:
        assert found.low <= successes / count <= found.high


@pytest.fixture(scope="module")
def intervals():
    """Of every sum that quarters can have, [sum in quarters, numbers]; sums above are not used."""
    quarters, counts = np.arange(1201)[:, None], np.arange(1, 301)
    return statistics.confidence_sequence(np.minimum(quarters / 4, counts), counts)


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.5])
@pytest.mark.parametrize("shape", ["yes or no", "proportions"])
def test_no_interval_along_the_way_misses_too_often(intervals, mean, shape):
    """A gambler who looks after every number and stops at the worst moment: misses in at most 5 %
    of the sequences. 4,000 sequences of 300: a true rate of 5 % gives more than 6.4 % with
    probability below 1e-4, and the rate found is far below."""
    draw = np.random.default_rng(int(100 * mean))
    size = (4000, 300)
    if shape == "yes or no":
        quarters = 4 * (draw.uniform(size=size) < mean)
    else:  # rounded to quarters at random, which keeps the mean
        quarters = np.floor(4 * draw.beta(2 * mean, 2 * (1 - mean), size) + draw.uniform(size=size))
    sums, counts = np.cumsum(quarters, axis=1).astype(int), np.arange(1, 301)
    low, high = (end[sums, counts - 1] for end in (intervals.low, intervals.high))
    missed = ((low > mean) | (high < mean)).any(1).mean()
    assert missed <= 0.064
    # An exact interval, looked at as often, misses much more: what the sequence is for.
    if shape == "yes or no" and mean == 0.5:
        exact = statistics.exact_interval(sums[:500] // 4, np.broadcast_to(counts, (500, 300)))
        assert ((exact.low > mean) | (exact.high < mean)).any(1).mean() > 0.1


def test_impossible_sums_are_refused():
    with pytest.raises(ValueError, match="total=3, count=2"):
        statistics.confidence_sequence(3.0, 2)


# --- Sweeps ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    return adaptive.sweep(
        CONFIG, AXES, 24, blocks=60, first_seeds=4, lanes=2, measure="recovered_ever"
    )


@pytest.fixture(scope="module")
def full():
    return sweep(CONFIG, AXES, 24, lanes=2)


@pytest.mark.slow
def test_an_adaptive_sweep_is_a_part_of_the_full_one(found, full):
    successes, trials = estimates.counts(full, "recovered_ever")
    wanted = np.where(trials > 0, successes / np.maximum(trials, 1), np.nan)
    there = ~np.isnan(found.proportion.values)
    np.testing.assert_array_equal(found.proportion.values[there], wanted[there])
    runs = found.runs.values
    assert runs.min() >= 4 and runs.sum() == 60 * 2
    np.testing.assert_allclose(found.estimate, np.nanmean(found.proportion, -1))


def test_seeds_go_where_the_intervals_are_wide(found):
    runs, estimate = found.runs.values, found.estimate.values
    assert runs.max() >= 2 * runs.min()
    certain = np.minimum(estimate, 1 - estimate) < 0.05
    assert certain.any() and (~certain).any()
    assert runs[~certain].mean() > runs[certain].mean()
    even = statistics.confidence_sequence(estimate * 15, 15)  # the same budget, evenly
    assert (found.high - found.low).max() < (even.high - even.low).max()


@pytest.mark.slow
def test_a_stopped_sweep_takes_the_same_way_and_trains_only_what_is_missing(
    found, tmp_path, monkeypatch
):
    arguments = dict(first_seeds=4, lanes=2, measure="recovered_ever", out=tmp_path / "out")
    train, trained = run_blocks, []

    def watched(grid, blocks, *rest):
        for block, result in train(grid, blocks, *rest):
            trained.append(block)
            yield block, result
            if len(trained) == 45:
                raise KeyboardInterrupt

    monkeypatch.setattr(adaptive, "run_blocks", watched)
    with pytest.raises(KeyboardInterrupt):
        adaptive.sweep(CONFIG, AXES, 24, blocks=60, **arguments)
    again = adaptive.sweep(CONFIG, AXES, 24, blocks=60, **arguments)
    xr.testing.assert_equal(again, found)
    canary = json.loads((tmp_path / "out" / "canary.json").read_text())["block"]
    again_for = lambda times: sorted([*set(trained), *[canary] * times])  # noqa: E731
    assert len(set(trained)) == 60 and sorted(trained) == again_for(1)
    larger = adaptive.sweep(CONFIG, AXES, 24, blocks=64, **arguments)
    assert len(set(trained)) == 64 and sorted(trained) == again_for(2)
    assert int(larger.runs.sum()) == 128


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": 15}, "blocks=15 must be between first_seeds"),
        ({"blocks": 97}, "and all 96 of the grid"),
        ({"first_seeds": 0}, "first_seeds=0"),
        ({"first_seeds": "2"}, "first_seeds=.2. must be a whole number"),
        ({"blocks": None}, "blocks=None must be a whole number"),
        ({"measure": "recoverd"}, 'did you mean "recovered"'),
        ({"level": 1.5}, "level"),
        ({"seeds": [1, 2]}, "must be the most seeds"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(changes, words, tmp_path):
    arguments = dict(seeds=24, blocks=40, lanes=2, out=tmp_path / "out") | changes
    with pytest.raises(ValueError, match=words):
        adaptive.sweep(CONFIG, AXES, **arguments)
    assert not (tmp_path / "out").exists()
