"""experiments.remedies: exact points of the activations, the paired cohort, claims from numbers
made by hand, and a run as a user starts it."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments import __main__ as command
from experiments.remedies import analysis, comparisons, shapes, sweep, verdicts
from relu_dynamics import theory
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.outcomes import NEVER, Outcome
from relu_dynamics.engine.validation import validate
from relu_dynamics.statistics import claims

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "experiments", "remedies"]


# Activations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "point", "known"),
    [
        ("gelu", theory.gelu_stationary_point(), -0.751792),
        ("silu", theory.silu_stationary_point(), -1.278465),
    ],
)
def test_the_derivative_is_0_where_theory_says_and_negative_below(name, point, known):
    assert abs(point - known) < 1e-6
    at, below, above = shapes.derivative(name, np.array([point, point - 0.01, point + 0.01]))
    assert abs(at) < 1e-6 and below < 0 < above


@pytest.mark.slow
def test_where_the_float32_derivative_is_exactly_0():
    drawn = shapes.shapes()
    assert drawn["stationary"]["gelu"] == theory.gelu_stationary_point()
    assert drawn["stationary"]["silu"] == theory.silu_stationary_point()
    found = drawn["flat_below"]
    assert found["relu"] == 0
    assert found["leaky_relu"] is None and found["prelu"] is None
    # e^z is 0 in float32 where it is below the smallest normal number, 2^-126. But JAX 0.10 has the
    # derivative of expm1 as expm1(z) + 1 (0.12 as e^z), and that is 0 from where e^z is half the
    # spacing of floats below 1, 2^-25.
    exact = jax.grad(jnp.expm1)(-30.0) > 0
    assert found["elu"] == pytest.approx(-(126 if exact else 25) * np.log(2), abs=0.01)
    assert np.exp(np.float32(found["elu"])) > 0
    assert -15 <= found["gelu"] <= -10  # FIELD: exact GELU is flat by -15
    for name in ("elu", "gelu", "silu"):
        left, right = shapes.derivative(name, np.array([found[name], found[name] + 0.011]))
        assert left == 0 and right != 0


def test_a_relu_has_no_derivative_at_0():
    assert shapes.derivative("relu", np.array([-1.0, 0.0, 1.0])).tolist() == [0, 0, 1]


# The arms -----------------------------------------------------------------------------------------


def test_every_arm_is_a_config_that_can_run():
    for arm in sweep.REMEDIES:
        made = validate(sweep.arm_config(sweep.DEFAULTS, "digits", arm))
        assert made.activation in ACTIVATIONS
    grids = sweep.task_grids(sweep.DEFAULTS, "digits")
    assert len({(g.root_seed, g.seeds) for g in grids.values()}) == 1  # paired by seed


def test_every_variant_is_compared_once_and_plain_relu_never_with_itself():
    found = sweep.variants(sweep.DEFAULTS)
    assert len(found) == len(set(found)) == 2 * len(sweep.REMEDIES) - 1
    milder = sweep.bases(sweep.DEFAULTS)[1]
    assert len(sweep.variants(milder)) == len(sweep.REMEDIES)
    assert ("relu", False) not in found and ("relu", True) in found
    assert sweep.label_of("relu", True) == "lower rate"
    assert sweep.label_of("batch", True) == "BatchNorm + lower rate"


# The same dead cohort -----------------------------------------------------------------------------


def _result(dead, recovered):
    """Two seeds of four units at one cell; the last unit has no imposed bias."""
    shape = ("learning_rate", "initial_bias", "seed", "unit")
    codes = np.where(recovered, Outcome.RECOVERED_SUSTAINED, Outcome.STILL_DEAD)
    return xr.Dataset(
        {
            "dead_at_start": (shape, np.array(dead, bool)[None, None]),
            "near_zero_at_start": (shape, np.zeros((1, 1, 2, 4), bool)),
            "outcome": (shape, codes[None, None]),
        },
        {
            "learning_rate": [0.1],
            "initial_bias": [-5.0],
            "biased": ("unit", [True, True, True, False]),
        },
    )


def test_the_cohort_is_paired_on_units_dead_in_both_arms():
    first = _result([[1, 1, 0, 1], [1, 1, 1, 1]], [[1, 0, 0, 1], [1, 1, 0, 1]])
    second = _result([[1, 0, 1, 1], [1, 1, 0, 1]], [[0, 0, 1, 0], [1, 0, 0, 0]])
    cell = {"learning_rate": 0.1, "initial_bias": -5.0}
    found = comparisons.cohort_counts(first, second, cell, cell)
    assert found["trials"].tolist() == [1, 2] and found["union"].tolist() == [3, 3]
    assert found["first"].tolist() == [1, 2] and found["second"].tolist() == [0, 1]


def test_a_share_at_the_last_look_weighs_layers_by_width_and_knows_diverged_runs():
    axes = ("learning_rate", "initial_bias", "seed")
    evaluations = np.array(
        [[[9.0, 9.0], [0.5, 0.25]], [[9.0, 9.0], [0.0, 0.0]]]
    )  # seed, evaluation, layer
    result = xr.Dataset(
        {
            "layer_flat_fraction": ((*axes, "probe_step", "layer"), evaluations[None, None]),
            "diverged_at": (axes, np.array([[[NEVER, 3]]])),
        },
        {"learning_rate": [0.1], "initial_bias": [0.0]},
        {"identity": json.dumps({"config": {"hidden": [10, 30]}, "axes": []})},
    )
    cell = {"learning_rate": 0.1, "initial_bias": 0.0}
    found = comparisons.last_share(result, "layer_flat_fraction", cell, 1.0)
    assert found.tolist() == [(10 * 0.5 + 30 * 0.25) / 40, 1.0]


# Claims from numbers made by hand -----------------------------------------------------------------


def test_birth_claims_follow_the_planted_effect(monkeypatch):
    options = dataclasses.replace(
        sweep.DEFAULTS, arms=("leaky_relu", "elu", "too_large"), tasks=("a", "b")
    )
    results = {t: {arm: (t, arm) for arm in sweep.arm_names(options)} for t in options.tasks}
    noise = np.random.default_rng(0)

    def values(result, cell):
        task, arm = result
        rate = cell["learning_rate"]
        low = rate == options.low_rate
        dead = {"relu": 0.1 if low else 0.5, "leaky_relu": 0.2, "elu": 0.5, "too_large": 0.5}[arm]
        if arm == "elu" and task == "b" and rate == options.milder_rate:
            dead = 0.3
        names = ("dead", "flat", "held_loss", "held_error")
        return {name: dead + noise.uniform(0, 1e-4, 40) for name in names}

    monkeypatch.setattr(verdicts, "birth_values", values)
    monkeypatch.setattr(verdicts, "_dead_flat_loss", lambda sides: "")
    made = {c.claim.split(" reduces")[0]: c for c in verdicts.birth_claims(results, options)}
    assert made["Leaky ReLU"].verdict == "confirmed"
    assert made["Leaky ReLU"].estimate == pytest.approx(0.3, abs=1e-3)
    assert made["A low learning rate"].verdict == "confirmed"
    assert made["He initialization"].verdict == "refuted"  # as many as with weights too large
    assert made["ELU"].verdict == "conditional"
    assert made["ELU"].condition == (
        "confirmed at b at rate 0.1; refuted at a at rate 0.3, b at rate 0.3, a at rate 0.1"
    )
    assert "Xavier (Glorot) initialization" not in made


def test_price_counts_variants_by_hand():
    def row(dead, loss, interval):
        claim = {"verdict": loss, "interval": interval}
        return {"tasks": {"a": {"difference": {"dead": {"verdict": dead}, "held_loss": claim}}}}

    rows = [
        row("confirmed", "confirmed", [-2, -1]),
        row("confirmed", "refuted", [1, 2]),
        row("confirmed", "undecided", [-1, 2]),
        row("refuted", "confirmed", [-2, -1]),
    ]
    options = dataclasses.replace(sweep.DEFAULTS, tasks=("a",))
    assert analysis.price(rows, options) == {
        "a": {"lower loss": 1, "higher loss": 1, "undecided": 1}
    }


# As a user runs it --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": ("leaky",)}, 'did you mean "leaky_relu"'),
        ({"low_rate": 0.2}, "low_rate=0.2 must be below milder_rate=0.1"),
        ({"biases": (0.0,)}, "must all be negative"),
        ({"timing_rounds": 1}, "must be at least 2"),
        ({"tasks": ()}, "must name at least one"),
    ],
)
def test_bad_options_get_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as raised:
        sweep.make_grids(dataclasses.replace(sweep.DEFAULTS, **changes))
    assert "\n" not in str(raised.value)


def test_an_unknown_arm_ends_with_exit_code_2(ended):
    done = ended(command.main, "remedies", "--arms", "gelu", "batchnorm")
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_quick_remedies(tmp_path):
    run = lambda *more: subprocess.run(  # noqa: E731
        [*COMMAND, "--quick", "--out", str(tmp_path), *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    done = run()
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {row["verdict"] for row in summary["claims"]} <= set(claims.VERDICTS)
    made = {row["claim"]: row for row in summary["claims"]}
    assert made["GELU's gradient is never 0."]["verdict"] == "refuted"
    ranked = summary["rankings"][0]["rows"]
    labels = [row["label"] for row in ranked]
    assert "leaky ReLU + lower rate" in labels and "plain ReLU" not in labels
    lost = [row["lost"] for row in ranked]
    assert lost == sorted(lost)
    leaky = next(row for row in ranked if row["label"] == "leaky ReLU")
    assert leaky["tasks"]["digits"]["flat"]["estimate"] == 0  # its derivative is never 0
    assert leaky["time"]["rounds"] == 3 and leaky["time"]["ratio"] > 0
    for name in ("remedies_ranking", "remedies_ranking_mild", "remedies_activations"):
        (tmp_path / f"{name}.png").unlink()
    assert run("--draw").returncode == 0
    assert (tmp_path / "remedies_ranking.png").stat().st_size > 10_000
