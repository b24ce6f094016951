"""The calibration experiment: its networks, its epochs, and scores of forecasts of known truth."""

import dataclasses
import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import __main__ as command
from experiments.calibration import EXPERIMENT, analysis, kinds, returning, simulation, sweep
from experiments.calibration.certified import Certified, counted
from experiments.calibration.returning import Returned
from relu_dynamics import inspection
from relu_dynamics.certificates import Verdict
from relu_dynamics.experiment import conduct
from relu_dynamics.inspection import replay
from relu_dynamics.statistics import exact_interval

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Other people's programs promote ranks, as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


# Networks ---------------------------------------------------------------------------------------


def drawn(name):
    kind = kinds.KINDS[name]
    inputs = {"regression": 10, "teacher": 16}.get(name, 64)
    params = kind.init(kind.config, inputs, kinds.outputs_of(kind, inputs), KEY)
    return kind, params, jax.random.normal(KEY, (5, inputs))


@pytest.mark.parametrize("name", kinds.KINDS)
def test_every_kind_has_its_hidden_units_and_outputs(name):
    kind, params, x = drawn(name)
    probe = inspection.find(kind.apply, params, x)
    assert [site.count for site in probe.sites] == list(kind.config.hidden)
    assert all(site.hidden for site in probe.sites) and not probe.notes
    assert kind.apply(params, x).shape == (5, kinds.outputs_of(kind, x.shape[1]))


def test_convolutions_are_those_of_flax():
    kind, params, x = drawn("convolutional")
    h = x.reshape(5, 8, 8, 1)
    for p in params[:-1]:
        kernel = p["kernel"].reshape(3, 3, h.shape[-1], -1)
        layer = nn.Conv(kernel.shape[-1], (3, 3), (2, 2), padding=1)
        h = jax.nn.relu(layer.apply({"params": {"kernel": kernel, "bias": p["bias"]}}, h))
    expected = h.mean((1, 2)) @ params[-1]["kernel"] + params[-1]["bias"]
    np.testing.assert_allclose(kind.apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_normalizations_are_those_of_flax():
    kind, params, x = drawn("normalized")
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), params)
    h = x
    for p in params[:-1]:
        own = {"params": {"scale": p["scale"], "bias": p["bias"]}}
        h = jax.nn.relu(nn.LayerNorm(epsilon=1e-5).apply(own, h @ p["kernel"]))
    expected = h @ params[-1]["kernel"] + params[-1]["bias"]
    np.testing.assert_allclose(kind.apply(params, x), expected, rtol=1e-4, atol=1e-4)


def test_an_epoch_has_every_example_once():
    step = lambda seen, x: seen.at[x].add(1)  # noqa: E731
    loaded = simulation.in_epochs(step, (jnp.arange(12),), 4)
    start = simulation.Loaded(jnp.zeros(12, jnp.int32), jnp.arange(12), jnp.int32(0))
    look = lambda kept, taken, state: kept.at[taken // 3 - 1].set(state.state)  # noqa: E731
    end, kept = replay(
        loaded, start, lambda k: k, look, jnp.zeros((5, 12), jnp.int32), steps=15, every=3, key=KEY
    )
    assert np.array_equal(kept, np.arange(1, 6)[:, None] * np.ones((5, 12)))
    assert end.place == 0 and not np.array_equal(end.order, np.arange(12))


# Scores -----------------------------------------------------------------------------------------

OPTIONS = sweep.Options(
    kinds=("regression", "classifier"), networks=60, base=20, forks=24, futures=16
)


def futures(seed, distort=lambda p: p, units=12):
    """Networks whose units recover with chances of their own; forks see distorted ones."""
    rng = np.random.default_rng(seed)
    networks = OPTIONS.base + OPTIONS.networks
    level = rng.uniform(-3, 1, (networks, 1))
    chance = 1 / (1 + np.exp(-level - rng.normal(size=(networks, units))))
    count = lambda n, p: rng.binomial(n, p)  # noqa: E731
    return simulation.Futures(
        rng.random((networks, units)) < 0.5,
        count(OPTIONS.forks, distort(chance)),
        count(OPTIONS.futures, chance),
        count(OPTIONS.futures, chance),
        None,
    )


def summary(distort=lambda p: p):
    certified = {
        "regression": Certified(4, 20, 0, 3, 0, 7),
        "classifier": Certified(4, 1, 0, 0, 0, 9),
    }
    results = {name: futures(n, distort) for n, name in enumerate(OPTIONS.kinds)}
    returned = {"decayed_sgd": Returned(*np.array([[9, 8], [8, 8], [8, 8], [0, 0], [1, 0]]))}
    return analysis.summarize(OPTIONS, analysis.Trained(results, certified, returned))


def test_forecasts_that_are_right_are_found_to_be():
    found = summary()
    verdicts = [claim.verdict for claim in found["claims"]]
    assert verdicts == ["confirmed"] * 6
    assert found["claims"][4].finding.startswith(
        "NEVER: 21 units, 0 broken. AT a step within 320: 3"
    )
    assert found["networks"] == 120 and found["units"] == sum(
        row["units"] for row in found["kinds"]
    )
    for row in found["reliability"][1:-1]:
        assert row["interval"][0] <= row["forecast"] + 0.05
        assert row["interval"][1] >= row["forecast"] - 0.05


@pytest.mark.slow
def test_forecasts_that_are_too_sure_or_too_high_are_found_to_be():
    high = summary(lambda p: np.minimum(p + 0.2, 1))
    assert high["claims"][0].verdict == "refuted" and high["scores"]["bias"]["estimate"] < -0.1
    sure = summary(lambda p: np.clip(3 * (p - 0.5) + 0.5, 0, 1))
    assert sure["claims"][2].verdict == "refuted" and sure["scores"]["excess"]["estimate"] > 0.03
    useless = summary(lambda p: 1 - p)
    assert useless["claims"][1].verdict == "refuted"


def test_the_score_of_one_more_fork_is_estimated_without_bias():
    rng = np.random.default_rng(0)
    chance, forks = rng.uniform(size=200_000), 5
    forecast = rng.binomial(forks, chance) / forks
    outcome = rng.binomial(4, chance) / 4
    scored = analysis.brier(forecast, outcome)
    difference = scored - analysis.expected(forecast, forks)
    assert abs(difference.mean()) < 4 * difference.std() / len(chance) ** 0.5
    rows = analysis.among_forks(
        dataclasses.replace(OPTIONS, forks=forks),
        analysis.Units(*[np.zeros(len(chance), int)] * 2, forecast, outcome, outcome, forecast),
    )
    for row in rows:  # c + 1 of n + 2, Laplace's rule for uniform chances, of n = 4 others
        assert row["estimate"] == pytest.approx((4 * row["forecast"] + 1) / 6, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 4))
def test_brier_scores_are_means_over_futures(forecasts, came):
    forecasts = np.array(forecasts)
    each = [(forecasts - (n < came)) ** 2 for n in range(4)]
    outcome = np.full(len(forecasts), came / 4)
    np.testing.assert_allclose(analysis.brier(forecasts, outcome), np.mean(each, 0), atol=1e-12)
    bins = analysis.bin_of(forecasts)
    assert np.array_equal(bins == 0, forecasts == 0)
    assert np.array_equal(bins == len(analysis.EDGES), forecasts == 1)
    inside = (forecasts > 0) & (forecasts < 1)
    low, high = (np.array(analysis.EDGES)[bins[inside] - k] for k in (1, 0))
    assert np.all((low < forecasts[inside]) & (forecasts[inside] <= high))


def test_a_verdict_is_broken_by_a_unit_that_comes_back():
    options = dataclasses.replace(OPTIONS, forks=2, futures=1)
    names = ["NOT_DEAD", "CERTIFIED_NEVER", "CERTIFIED_NEVER", "CERTIFIED_AT", "CERTIFIED_AT"]
    names += ["CERTIFIED_AT", "POSSIBLE"]
    step = np.array([-1, -1, -1, 20, 20, 9999, -1])
    came = np.array([[0, 0, 0, 2, 2, 0, 1], [1, 0, 0, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0, 0]])
    found = SimpleNamespace(verdict=np.array([Verdict[n] for n in names]), step=step)
    one = simulation.Futures(np.arange(7) > 0, *came, None)
    assert counted(options, found, one).tolist() == [2, 1, 2, 1, 2]


def test_a_step_is_right_if_every_future_is_alive_at_it_and_not_before():
    at, never, possible = (Verdict[n] for n in ("CERTIFIED_AT", "CERTIFIED_NEVER", "POSSIBLE"))
    verdict = np.array([at, at, at, at, never, possible, at])
    step = np.array([5, 5, 5, 5, -1, -1, 5])
    alive_at = np.array([[5, 5, 5, -1, -1, 7, 5], [5, 4, 6, 5, -1, 9, 5]])
    assert returning.counted(verdict, step, np.arange(7) < 6, alive_at) == [6, 4, 1, 1, 1]
    late = Returned(*np.array([[6, 6], [4, 4], [4, 3], [0, 1], [0, 0]]))
    claim = analysis.returned_claim(OPTIONS, {"a": late})
    assert claim.verdict == "refuted" and claim.estimate == 7 / 8 and claim.interval[0] < 7 / 8


@pytest.mark.slow
def test_decay_of_the_biases_lifts_units_at_the_step_that_is_named(tmp_path):
    options = dataclasses.replace(OPTIONS, certified=1, futures=2, ahead=320)
    grid = sweep.returning_grids(options)["decayed_sgd"]
    first = returning.hold_against_futures(
        kinds.RETURNING["decayed_sgd"], grid, options, tmp_path / "a.npz"
    )
    assert first.named.sum() > 0 and np.array_equal(first.right, first.named)
    again = returning.hold_against_futures(
        kinds.RETURNING["decayed_sgd"], grid, options, tmp_path / "a.npz"
    )
    assert all(map(np.array_equal, first, again))


def test_networks_are_the_sample():
    """With one unit and one future per network the interval is the exact one of networks."""
    options = dataclasses.replace(OPTIONS, futures=1)
    outcome = np.array([1.0] * 7 + [0.0] * 13)
    networks = np.arange(20)
    units = analysis.Units(networks, networks * 0, outcome, outcome, outcome, outcome)
    found = analysis.share(options, units, outcome, np.ones(20, bool))
    exact = exact_interval(7, 20)
    assert (found.low, found.high) == (exact.low, exact.high)
    copies = analysis.Units(*(np.repeat(column, 50) for column in units))
    low, high = analysis.interval(copies, copies.outcome)["interval"]
    spread = (0.35 * 0.65 / 20) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)


# The experiment ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--networks", "0"], "networks=0 must be at least 1"),
        (["--forks", "1"], "forks=1 must be at least 2"),
        (["--ahead", "15"], "ahead=15 must be a multiple of 10"),
        (["--kinds", "clasifier"], 'did you mean "classifier"'),
    ],
)
def test_bad_input_gets_one_line(arguments, words, ended):
    done = ended(command.main, "calibration", *arguments)
    assert done.returncode == 2 and words in done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_networks_are_trained_forecast_stored_and_read_again(tmp_path, capsys):
    options = dataclasses.replace(
        sweep.QUICK, kinds=("autoencoder",), networks=2, base=1, forks=4, ahead=40, certified=1
    )
    conduct(EXPERIMENT, dataclasses.replace(options, out=tmp_path))
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["networks"] == 2 and found["units"] > 0
    assert all(0 <= row["estimate"] <= 1 for row in found["reliability"])
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    first = (tmp_path / "autoencoder.npz").stat().st_mtime_ns
    (tmp_path / "summary.json").unlink()
    conduct(EXPERIMENT, dataclasses.replace(options, out=tmp_path))  # trains nothing again
    again = json.loads((tmp_path / "summary.json").read_text())
    assert (tmp_path / "autoencoder.npz").stat().st_mtime_ns == first
    assert again["reliability"] == found["reliability"] and "UNDECIDED" in capsys.readouterr().out
