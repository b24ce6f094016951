"""The experiment on what dead units cost: options, arithmetic, and a dead unit is a missing one."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import __main__ as command
from experiments.consequences.analysis import severe_claim, steps_to_threshold
from experiments.consequences.missing import missing_difference, without_killed
from experiments.consequences.sweep import DEFAULTS, make_grids
from experiments.consequences.thresholds import (
    fraction_worse,
    slopes_around,
    threshold_test,
    worse_row,
)
from relu_dynamics.config import Config
from relu_dynamics.engine import models, training
from relu_dynamics.engine.keys import run_key

ROOT = pathlib.Path(__file__).parent.parent

FRACTIONS = np.round(np.arange(10) * 0.1, 1)
SMALL = Config(
    task="teacher_student", dimension=6, examples=32, hidden=(10, 10), batch_size=8, steps=40,
    probe_every=20, learning_rate=0.1, initial_bias=0.0, biased_layer=1, biased_units=1,
    killed_fraction=0.4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": ()}, "widths=() must be"),
        ({"widths": (7,)}, "not a whole number of units"),
        ({"fractions": (0.0, 0.4)}, "at least 4 shares"),
        ({"fractions": (0.0, 0.1, 0.2, 0.3)}, "must begin with 0 and hold 0.4"),
        ({"smaller": (0.25,)}, "smaller=(0.25,) must be among"),
        ({"seeds": 3}, "seeds=3 must be at least 10"),
        ({"threshold": 0.0}, "threshold=0.0 must be above 0"),
    ],
)
def test_bad_options_are_refused_in_one_line(changes, words):
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        make_grids(dataclasses.replace(DEFAULTS, **changes))
    assert words in str(caught.value)


def test_bad_input_gets_one_line_and_exit_code_2(ended):
    done = ended(command.main, "consequences", "--widths", "7")
    assert done.returncode == 2 and done.stderr.startswith("error: fractions: 0.1 of width 7")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_study_has_every_arm_and_the_sizes_that_are_left():
    grids = make_grids(DEFAULTS)
    new = {grid.config.hidden for name, grid in grids.items() if name.endswith("new")}
    assert new == {(left, left) for left in (1, 2, 4, 6, 8, 12, 16, 24, 32)}
    late = grids["width-20-killed-late"].config
    assert late.killed_at == late.steps // 2 and late.hidden == (20, 20)
    assert grids["width-40-memorizing"].config.task == "digits_random_labels"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_killed_unit_is_a_missing_unit_with_the_weights_the_others_had(optimizer):
    config = dataclasses.replace(SMALL, optimizer=optimizer, learning_rate=0.02)
    found = missing_difference(config)
    assert found["largest_difference"] <= 2e-6 * found["largest_weight"]
    assert found["largest_weight"] > 0.1
    assert found["expected_scale"] == pytest.approx(0.6**0.5)
    wide = dataclasses.replace(SMALL, hidden=(100, 100), steps=20)
    assert missing_difference(wide)["scale_of_fresh"] == pytest.approx(0.6**0.5, rel=0.05)


def test_cutting_out_killed_units_keeps_the_function():
    state = training.start(training.as_arrays(SMALL), run_key(0, 1))
    smaller, params = without_killed(SMALL, state.params)
    assert smaller.hidden == (6, 6) and smaller.killed_fraction is None
    inputs = jax.random.normal(jax.random.key(1), (5, 6))
    whole = models.apply(SMALL, state.params, inputs).output
    np.testing.assert_allclose(models.apply(smaller, params, inputs).output, whole, rtol=1e-5)


def test_steps_to_a_threshold():
    losses = np.array([[0.5, 0.2, 0.4], [0.5, 0.4, 0.3], [np.nan, 0.1, 0.1], [0.1, 0.9, 0.9]])
    found = steps_to_threshold(losses, 0.3, 20)
    np.testing.assert_array_equal(found, [40, 80, 40, 20])  # 80: not within 60 steps


def test_slopes_around_a_kink():
    curve = np.maximum(FRACTIONS - 0.4, 0) * 2 + 0.5 * FRACTIONS
    below, above = slopes_around(FRACTIONS, np.stack([curve, 2 * curve]))
    np.testing.assert_allclose(below, [0.5, 1.0])
    np.testing.assert_allclose(above, [2.5, 5.0])


def test_a_threshold_is_found_where_there_is_one_and_not_where_there_is_none():
    noise = 0.02 * np.random.default_rng(1).standard_normal((60, 10))
    kinked = threshold_test(FRACTIONS, 1 + 3 * np.maximum(FRACTIONS - 0.4, 0) + noise, draws=60)
    assert kinked["knot"] == 0.4 and kinked["knot_interval"] == [0.4, 0.4]
    assert kinked["misfit"]["kink at 0.4"] < 1.2 < kinked["misfit"]["smooth"]
    smooth = threshold_test(FRACTIONS, 0.5 * (1 - FRACTIONS) ** -1.5 + noise, draws=60)
    assert smooth["misfit"]["smooth"] < 1.2 < smooth["misfit"]["kink at 0.4"]


def test_where_it_is_a_tenth_worse():
    curve = np.array([1.0, 1.05, 1.15, 3.0])
    shares = np.array([0.0, 0.1, 0.2, 0.3])
    assert fraction_worse(shares, curve, 1.1) == pytest.approx(0.15)
    assert np.isnan(fraction_worse(shares, curve, 4.0))
    row = worse_row(shares, np.tile(curve, (12, 1)), 1.1, 0.0, draws=20)
    assert row["estimate"] == pytest.approx(0.15)
    np.testing.assert_allclose(row["interval"], [0.15, 0.15])
    never = worse_row(shares, np.ones((12, 4)), 1.1, 0.0, draws=20)
    assert never["estimate"] is None and never["interval"] == [None, None]


@pytest.mark.parametrize(
    ("intervals", "kink", "verdict"),
    [
        ([(0.35, 0.42), (0.38, 0.5)], 0.9, "confirmed"),
        ([(0.05, 0.1), (0.38, 0.5)], 0.9, "conditional"),
        ([(0.35, 0.42), (0.38, 0.5)], 1.5, "refuted"),
        ([(0.05, 0.1), (0.6, None)], 0.9, "refuted"),
    ],
)
def test_the_verdict_on_40_per_cent(intervals, kink, verdict):
    tests = [
        {
            "quantity": "held-out loss",
            "width": width,
            "tenth_worse": {"estimate": ends[0], "interval": list(ends)},
            "misfit": {"kink at 0.4": kink, "smooth": 1.0},
        }
        for width, ends in zip((10, 20), intervals, strict=True)
    ]
    claim = severe_claim(DEFAULTS, tests)
    assert claim.verdict == verdict
    assert bool(claim.condition) == (verdict == "conditional")


@pytest.mark.slow
def test_quick_consequences(tmp_path):
    command = [sys.executable, "-m", "experiments", "consequences", "--quick"]
    for more in ([], ["--draw"]):
        done = subprocess.run(
            [*command, "--out", str(tmp_path), *more], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["awakened"] == 0 and summary["killed_units"] > 0
    assert (tmp_path / "consequences.png").stat().st_size > 10_000
