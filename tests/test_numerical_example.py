"""experiments.numerical_example: every source of movement against its closed form."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from scipy.special import ndtr

from experiments import numerical_example as example
from experiments.numerical_example import closed_forms
from experiments.numerical_example.analysis import contradictions
from experiments.numerical_example.sources import PLAIN_RATES
from experiments.numerical_example.verdicts import pick, verdicts
from relu_dynamics import store, theory
from relu_dynamics.engine import outcomes
from relu_dynamics.experiment import conduct

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "experiments", "numerical_example"]
SLOW, FAST, FASTER = 1e-4, 1e-2, 1e-1


OPTIONS = dataclasses.replace(example.QUICK, seeds=24)


@pytest.fixture(scope="module")
def result():
    return example.simulate(OPTIONS)


@pytest.fixture(scope="module")
def claims(result):
    return {c.more["sentence"]: c for c in verdicts(result, OPTIONS.config)}


def step_of(result, source, rate):
    return float(pick(result, source, rate).simulated_step)


def moved(result, source, rate):
    """Movement of the bias, in learning rates."""
    return (float(pick(result, source, rate).final_bias) + 0.5) / rate


@pytest.mark.slow
def test_no_run_contradicts_its_certificate_and_certificates_say_something(result):
    assert contradictions(result) == 0
    plain = result.isel(case=result.source.values == "plain SGD: dead unit")
    assert set(plain.certificate.values.tolist()) == {"CERTIFIED_NEVER"}
    decay = pick(result, "weight decay: bias, decoupled", FAST)
    assert decay.certificate == "CERTIFIED_AT" and int(decay.certified_step) == 1609
    decided = result.certificate.isin(["CERTIFIED_NEVER", "CERTIFIED_AT"])
    assert int(decided.sum()) >= 40


def test_plain_sgd_leaves_the_unit_bit_for_bit_at_every_rate(result):
    plain = result.isel(case=result.source.values == "plain SGD: dead unit")
    assert set(PLAIN_RATES) <= set(plain.case_rate.values)
    assert plain.unmoved.all()
    assert (plain.gradient_while_dead == 0).all()
    assert (plain.final_bias == np.float32(-0.5)).all()
    assert (plain.final_weight == np.float32(0.1)).all()
    # also where the rest of the network blew up, which is an outcome of its own
    assert plain.diverged.values[plain.case_rate.values >= 10].all()
    assert (plain.outcome.values[plain.case_rate.values >= 10] == outcomes.Outcome.DIVERGED).all()


def test_a_living_unit_in_the_same_program_moves(result):
    control = result.isel(case=result.source.values == "plain SGD: control: alive")
    assert not control.unmoved.any()
    assert (control.outcome == outcomes.Outcome.NOT_AT_RISK).all()


def test_a_dead_unit_has_no_gradient_but_the_push(result):
    pushed = result.panel.values == "outside push"
    assert (result.gradient_while_dead.values[~pushed] == 0).all()
    assert (result.gradient_while_dead.values[pushed] == 1).all()


def test_drift_crosses_where_the_arithmetic_says(result):
    source = "outside push: gradient -1"
    # 0.4 / 1e-4 is 4000 and reaching 0 is no crossing; 4,000 roundings of 2^-26 make 0.6 steps
    assert step_of(result, source, SLOW) in (4000, 4001)
    assert step_of(result, source, FAST) == 41
    assert step_of(result, source, FASTER) == 5
    slow = pick(result, source, SLOW)
    assert (float(slow.closed_low), float(slow.closed_high)) == (4000, 4001)


def test_an_unanswered_drift_ends_at_the_arithmetic_bias(result):
    free = pick(result, "outside push: output weight 0", SLOW)
    assert float(free.final_bias) == pytest.approx(0.5, abs=10_000 * 2**-26)


@pytest.mark.parametrize("form", ["decoupled", "coupled"])
def test_bias_decay(result, form):
    source = f"weight decay: bias, {form}"
    for rate in (SLOW, FAST, FASTER):
        expected = theory.bias_decay_recovery_step(0.1, -0.5, rate, 0.1, tolerance=1e-6)
        assert step_of(result, source, rate) == (expected if expected <= 10_000 else np.inf)
    slow = pick(result, source, SLOW)
    assert float(slow.final_bias) == pytest.approx(-0.5 * (1 - 1e-5) ** 10_000, rel=1e-3)


@pytest.mark.parametrize("targets", ["weights", "both"])
def test_decay_of_weights_never_revives(result, targets):
    for rate in (SLOW, FAST, FASTER):
        at = pick(result, f"weight decay: {targets}", rate)
        assert float(at.simulated_step) == np.inf
        assert not bool(at.unmoved)


@pytest.mark.parametrize("name", ["heavy ball", "Nesterov"])
@pytest.mark.parametrize("rate", [SLOW, FAST, FASTER])
def test_momentum_just_below_and_above_the_smallest_trace(result, name, rate):
    assert step_of(result, f"momentum at threshold: {name}, too little", rate) == np.inf
    enough = pick(result, f"momentum at threshold: {name}, enough", rate)
    assert float(enough.simulated_step) == float(enough.closed_step) == 88


@pytest.mark.parametrize(
    ("source", "rates"),
    [
        ("momentum left: heavy ball", 58.6189),  # 9 (1 - 0.9^10) / 0.1
        ("momentum left: Nesterov", 52.7570),
        ("Adam left: 1000 steps of -1", 9.0713),
        ("Adam left: largest possible", 65.7615),
    ],
)
def test_what_optimizers_remember_moves_the_bias_so_far(result, source, rates):
    assert moved(result, source, SLOW) == pytest.approx(rates, rel=1e-3)
    # and revives exactly where that is more than the margin
    for rate in (SLOW, FAST, FASTER):
        assert np.isfinite(step_of(result, source, rate)) == (rates * rate > 0.4)


def test_every_simulation_agrees_with_its_closed_form(result):
    wrong = result.isel(case=~result.agrees.values)
    assert wrong.source.values.tolist() == []
    assert result.noise_agrees.all()
    # the allowed ranges are narrow, so that agreeing means something
    finite = np.isfinite(result.closed_high.values)
    assert (result.closed_high - result.closed_low).values[finite].max() <= 1
    assert np.isinf(result.closed_low.values[~finite]).all()


def test_noise_is_held_against_the_probability_of_what_is_simulated(result):
    last = result.noise_closed.isel(noise_step=-1)
    alone = last.sel(noise_kind="bias alone")
    np.testing.assert_allclose(alone[1:], [0.6849, 0.9634], atol=1e-4)
    both = last.sel(noise_kind="weight and bias")
    # at least each side on its own, at most their sum
    at_one = theory.first_passage_probability(0.4, np.sqrt(2) * FAST, 1.0, 10_000)
    at_zero = theory.first_passage_probability(0.5, FAST, 1.0, 10_000)
    assert max(at_one, at_zero) < float(both[1]) < at_one + at_zero
    assert float(last[:, 0].max()) < 1e-100


def test_wedge_exit_in_its_two_simple_cases():
    variance = np.array([1e-4, 0.01, 0.1, 1.0, 10.0])
    one = lambda distance: 2 * ndtr(-distance / np.sqrt(variance))  # noqa: E731
    square = closed_forms.wedge_exit_probability((0.3, 0.5), np.pi / 2, variance)
    np.testing.assert_allclose(square, 1 - (1 - one(0.3)) * (1 - one(0.5)), atol=1e-12)
    half_plane = closed_forms.wedge_exit_probability((0.3, 0.3), np.pi * (1 - 1e-9), variance)
    np.testing.assert_allclose(half_plane, one(0.3), atol=1e-7)


def test_wedge_passage_against_random_walks():
    generator, walks, steps, deviation = np.random.default_rng(0), 20_000, 200, 0.05
    weight, bias = np.full(walks, 0.1), np.full(walks, -0.5)
    back = np.zeros(walks, bool)
    for _ in range(steps):
        weight += deviation * generator.standard_normal(walks)
        bias += deviation * generator.standard_normal(walks)
        back |= (bias > 0) | (weight + bias > 0)
    expected = closed_forms.wedge_passage_probability(0.1, -0.5, deviation, np.array([steps]))[0]
    error = np.sqrt(expected * (1 - expected) / walks)
    assert back.mean() == pytest.approx(expected, abs=5.5 * error)


def test_verdicts(claims):
    expected = {
        1: "conditional",
        2: "refuted",
        3: "refuted",
        4: "conditional",
        5: "conditional",
        6: "conditional",
    }
    assert {number: claim.verdict for number, claim in claims.items()} == expected
    numbers = {number: claim.more["numbers"] for number, claim in claims.items()}
    assert numbers[1]["simulated_rates_that_moved"] == 0
    assert set(numbers[1]["moved_while_the_gradient_was_zero"]) == {
        "weight decay",
        "momentum left",
        "momentum at threshold",
        "Adam left",
        "Adam with L2",
    }
    assert numbers[2]["implied_gradients"] == [-1, -1]
    assert numbers[2]["expected_final_bias"] == pytest.approx(0.5)
    assert numbers[3]["implied_gradients"] == [-20, -20, -15]
    assert numbers[4]["simulated_active_fraction"] == pytest.approx([0, 0, 0, 1 / 11])
    assert numbers[4]["population_active_probability"] == pytest.approx(2.866516e-7)
    assert numbers[4]["fires_within_320000_draws"] == pytest.approx(0.0876, abs=1e-4)
    revived = numbers[5]["revived_by"]
    assert "plain SGD: dead unit" in revived["neither"]
    assert revived["both"] == ["outside push: gradient -1"]
    assert "momentum left: heavy ball" in revived["large only"]
    assert revived["small only"] == []
    assert numbers[5]["bias_decay_step_at_the_small_rate"] == pytest.approx(160_943, abs=2)
    assert numbers[6]["adam_smallest_rate_that_can_revive"] == pytest.approx(0.003041, abs=1e-6)


@pytest.mark.slow
def test_store_draw_and_redraw(result, tmp_path, monkeypatch, capsys):
    options = dataclasses.replace(OPTIONS, out=tmp_path / "out")
    monkeypatch.setattr(example, "simulate", lambda options: result)
    conduct(example.EXPERIMENT, options)
    summary = json.loads((options.out / "summary.json").read_text())
    assert len(summary["claims"]) == 6
    assert summary["comparisons"] == summary["comparisons_that_agree"] == len(summary["cases"]) + 6
    assert {"git_commit", "versions", "command"} <= summary["provenance"].keys()
    assert "REFUTED" in capsys.readouterr().out

    monkeypatch.setattr(example, "simulate", lambda options: pytest.fail("recomputed"))
    for suffix in ("png", "pdf"):
        (options.out / f"numerical_example.{suffix}").unlink()
    conduct(example.EXPERIMENT, dataclasses.replace(options, draw=True))
    for suffix in ("png", "pdf"):
        assert (options.out / f"numerical_example.{suffix}").stat().st_size > 10_000
    xr.testing.assert_equal(store.open_result(options.out).load(), result)

    other = dataclasses.replace(options, seeds=3)
    with pytest.raises(ValueError, match="another question"):
        conduct(example.EXPERIMENT, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rates": (1e-2,)}, "two or more"),
        ({"learning_rates": (1e-2, 1e-4)}, "rising"),
        ({"learning_rates": (0.0, 1e-2)}, "must be > 0"),
        ({"learning_rates": (1e-2, float("nan"))}, "learning_rate"),
        ({"learning_rates": (1e-2, 11.0)}, "1 / weight_decay"),
        ({"seeds": 0}, "seeds=0"),
        ({"config": {"task": "digits"}}, "config.task='digits'"),
        ({"config": {"hidden": (2,)}}, "one unit"),
        ({"config": {"weight_decay": None}}, "config.weight_decay=None"),
        ({"config": {"initial_bias": -0.05}}, "initial_bias=-0.05"),
        ({"config": {"probe_every": 10}}, "probe_every=10"),
        ({"config": {"optimizer": "adan"}}, 'did you mean "adam"'),
    ],
)
def test_bad_input_is_refused_before_anything_runs(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "simulate", lambda options: pytest.fail("ran"))
    change = dict(change, out=tmp_path / "out")
    if "config" in change:
        change["config"] = dataclasses.replace(OPTIONS.config, **change["config"])
    with pytest.raises(ValueError, match=message):
        conduct(example.EXPERIMENT, dataclasses.replace(OPTIONS, **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_quick_runs_end_to_end(tmp_path):
    out = tmp_path / "out"
    command = [*COMMAND, "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "64 of 64 comparisons agree" in done.stdout
    assert (out / "summary.json").exists()
    assert (out / "numerical_example.pdf").exists()
