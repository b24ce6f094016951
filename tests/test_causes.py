"""experiments.causes: the same knobs by two names, contrasts of the right cells, verdicts and
ranks from numbers made by hand, and a run as a user starts it."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray as xr

from experiments import __main__ as command
from experiments import causes
from experiments.causes import analysis, contrasts, sweep
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, tasks
from relu_dynamics.engine.evaluation import evaluate
from relu_dynamics.experiment import conduct
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import claims, estimates

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "experiments", "causes"]


ONE = dataclasses.replace(sweep.DEFAULTS, tasks=("teacher_student",), seeds=30)


# The mathematics ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scale"), [("too_small", 0.1), ("too_large", 10.0), ("lecun_normal", 0.5**0.5)]
)
def test_named_initializers_are_scales_of_he(name, scale):
    config = Config(task="teacher_student", hidden=(6, 5), biased_units=2, initial_bias=0.0)
    key = jax.random.key(3)
    named = initialization.initialize(dataclasses.replace(config, initializer=name), key)
    scaled = initialization.initialize(dataclasses.replace(config, weight_scale=scale), key)
    for one, two in zip(jax.tree.leaves(named), jax.tree.leaves(scaled), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    assert scale in sweep.HARMFUL["weight_scale"]


@pytest.mark.slow
def test_a_scale_of_the_weights_does_not_change_who_is_born_dead():
    config = Config(
        task="teacher_student", hidden=(4, 4), biased_units=2, initial_bias=0.0, examples=16
    )
    inputs = jax.random.normal(jax.random.key(0), (16, config.dimension))
    dead = []
    for scale in (0.03, 1.0, 10.0):
        own = dataclasses.replace(config, weight_scale=scale)
        params = initialization.initialize(own, jax.random.key(7))
        dead.append(np.asarray(evaluate(own, params, inputs)[0].margin <= 0))
    assert all(np.array_equal(dead[0], other) for other in dead)


def test_the_bad_feature_of_digits_is_not_its_constant_first_pixel():
    config = Config(task="digits", input_scaling="one_bad_feature", scaling_dose=1000.0)
    data = tasks.load_data(config)
    assert not data[0][:, 0].any()
    bad = tasks.make_task(config, jax.random.key(0), data).inputs
    plain = tasks.make_task(
        dataclasses.replace(config, input_scaling="standardized", scaling_dose=None),
        jax.random.key(0),
        data,
    ).inputs
    changed = np.flatnonzero((np.asarray(bad) != np.asarray(plain)).any(0))
    assert changed.size == 1
    np.testing.assert_allclose(bad[:, changed[0]], 1000 * plain[:, changed[0]], rtol=1e-5)


# What is compared ---------------------------------------------------------------------------------


def test_every_contrast_names_cells_that_are_trained():
    grids = sweep.task_grids(ONE, "teacher_student")
    for contrast in contrasts.make_contrasts(ONE):
        assert contrast.cause in contrasts.SENTENCES
        assert contrast.harmed != contrast.plain
        for cell in (contrast.harmed, contrast.plain):
            axes = dict(grids[cell.arm].axes)
            assert set(cell.values) == set(axes)
            for name, value in cell.values.items():
                assert np.isclose(axes[name], value).any()


def test_matched_momentum_has_the_same_effective_rate():
    found = [c for c in contrasts.make_contrasts(ONE) if c.cause == "momentum_matched"]
    assert len(found) == 5
    for contrast in found:
        effective = [
            cell.values["learning_rate"] / (1 - cell.values["momentum"])
            for cell in (contrast.harmed, contrast.plain)
        ]
        np.testing.assert_allclose(*effective)


def test_arms_that_share_a_program_have_the_same_fields_and_lanes():
    grids = sweep.task_grids(ONE, "teacher_student")
    first = grids["weights"]
    for arm in ("bias", "rate"):
        assert grids[arm].lanes == first.lanes
        static = {
            f.name: getattr(grids[arm].config, f.name)
            for f in dataclasses.fields(Config)
            if f.metadata.get("static")
        }
        assert all(getattr(first.config, name) == value for name, value in static.items())


# Verdicts and ranks from numbers made by hand -----------------------------------------------------


def _planted(monkeypatch, effect):
    """Makes the dead share of a cell `effect(arm, values)` plus what its seed adds to all."""
    noise = np.random.default_rng(0)
    seeds = noise.uniform(0, 0.05, 30)

    def shares(results, task, cell, measure="dead"):
        if measure != "dead":
            return 0 * seeds
        return seeds + effect(cell.arm, cell.values) + noise.uniform(0, 1e-4, 30)

    monkeypatch.setattr(contrasts, "shares", shares)


def test_strengths_order_causes_and_do_not_pair_two_scalings(monkeypatch):
    def effect(arm, values):
        dose = values.get("scaling_dose", 0)
        return {
            "shifted": 0.6 * (dose == 8),
            "one_bad_feature": 0.5 * (dose == 100),
            "bias": -0.02 * values.get("initial_bias", 0),
        }.get(arm, 0.0)

    _planted(monkeypatch, effect)
    ranked = analysis.strengths({}, ONE)
    assert [row["cause"] for row in ranked[:3]] == ["shifted", "one_bad_feature", "initial_bias"]
    assert [row["dose"] for row in ranked[:3]] == [8, 100, -8]
    np.testing.assert_allclose(ranked[0]["rise"]["estimate"], 0.6, atol=1e-4)
    assert analysis.strongest_two(ranked) == ("shifted", "initial_bias")
    grid = sweep.map_grid(ONE, "digits", ("shifted", "initial_bias"))
    assert grid.config.input_scaling == "shifted" and grid.shape == (7, 7)


def test_claims_follow_the_planted_effect(monkeypatch):
    def effect(arm, values):
        if arm == "bias":
            return 0.3 * (values["initial_bias"] == -5)
        if arm == "one_bad_feature":  # kills only at the largest rate
            return 0.3 * (values["scaling_dose"] == 100 and values["learning_rate"] == 0.3)
        if arm == "orthogonal":  # surely there, and surely too small to matter
            return 0.001
        return 0.0

    _planted(monkeypatch, effect)
    found = contrasts.contrast_claims({}, ONE)
    made = contrasts.combined_claims({}, ONE, found)["all"]
    assert made["initial_bias"].verdict == "confirmed" and made["initial_bias"].condition == ""
    assert made["one_bad_feature"].verdict == "conditional"
    assert "confirmed at rate 0.3" in made["one_bad_feature"].condition
    assert made["orthogonal"].verdict == "refuted"
    assert made["momentum"].verdict == "refuted"


def test_independent_causes_do_not_interact(monkeypatch):
    alive = {-5.0: 0.5, 0.0: 1.0, 4.0: 0.4}

    def shares(results, task, cell, measure="dead"):
        one, two = (alive[v] for v in cell.values.values())
        together = one * two
        if cell.values == {"scaling_dose": 4.0, "initial_bias": -5.0}:
            together -= extra
        return np.full(30, 1 - together) + np.linspace(-1e-3, 1e-3, 30)

    monkeypatch.setattr(contrasts, "shares", shares)
    for extra in (0.0, 0.1):
        found = analysis.interaction({}, ONE, ("shifted", "initial_bias"))
        np.testing.assert_allclose(found["by_task"]["all"]["estimate"], extra, atol=1e-5)


def test_balance_counts_cells_by_hand():
    def hazard(stationary, observed, events):
        return {"hazards": [{"stationary": stationary, "observed": [observed], "events": events}]}

    rows = [
        hazard([0.5, 0.4, 0.6], 0.5, [3, 4]),
        hazard([0.5, 0.4, 0.6], 0.7, [4, 3]),
        hazard([None, None, None], 0.0, [0, 0]),
    ]
    assert analysis.balance(rows) == {
        "cells": 3,
        "cells_with_events_in_the_second_half": 2,
        "observed_within_stationary_interval": 1,
        "cells_with_more_recoveries_than_deaths": 1,
    }


# What the package got for it ----------------------------------------------------------------------


def _claim(verdict, **more):
    return claims.Claim("c", "s", verdict, "f", 0.1, (0.0, 0.2), "n", "d", **more)


def test_a_combined_claim_names_its_conditions():
    yes, no = _claim("confirmed"), _claim("refuted")
    maybe = _claim("undecided", more_seeds=40)
    combine = lambda *parts: claims.combined(yes, dict(zip("abc", parts, strict=False)))  # noqa: E731
    assert combine(yes, yes).verdict == "confirmed"
    assert combine(no, no).verdict == "refuted"
    both = combine(yes, no, maybe)
    assert both.verdict == "conditional" and both.more_seeds == 40
    assert both.condition == "confirmed at a; refuted at b; undecided at c"
    mixed = combine(no, maybe, no)
    assert mixed.verdict == "undecided"
    assert claims.verdict_text(mixed.as_json()) == "undecided (refuted in 2, undecided in 1)"


def test_a_difference_too_small_to_matter_refutes():
    one, noise = np.zeros(40), np.linspace(0.001, 0.003, 40)
    found = claims.difference_claim("", "", noise, one, finding="", definition="", least=0.01)
    assert found.interval[0] > 0 and found.verdict == "refuted"


def test_per_seed_reads_one_cell():
    grid = make_grid(ONE.config, {"learning_rate": (0.1, 0.2)}, 2)
    alive = np.ones((2, 2, 4), bool)
    alive[1, 0, :3] = False
    result = xr.Dataset(
        {
            "alive": (("learning_rate", "seed", "unit"), alive),
            "dead_at_start": (("learning_rate", "seed", "unit"), np.zeros_like(alive)),
            "diverged_at": (("learning_rate", "seed"), np.array([[-1, -1], [-1, 7]])),
        },
        {"learning_rate": [0.1, 0.2], "unit_layer": ("unit", [1, 1, 2, 2])},
        {"identity": json.dumps(grid.identity)},
    )
    read = lambda rate, layer=None: estimates.per_seed(  # noqa: E731
        result, "dead", {"learning_rate": rate}, layer
    ).tolist()
    assert read(0.1) == [0, 0] and read(0.2) == [0.75, 0] and read(0.2, 2) == [0.5, 0]
    with pytest.raises(ValueError, match="learning_rate=0.3 is not a value"):
        read(0.3)


# As a user runs it --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_scales": (0.1, 1.0)}, "weight_scale doses .* need 0.707107, 10"),
        ({"base_rates": (0.03,)}, "with 0.1 among them"),
        ({"scalings": ("min_max",)}, 'did you mean "minmax"'),
        ({"tasks": ()}, "must name at least one"),
    ],
)
def test_bad_options_get_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as raised:
        conduct(causes.EXPERIMENT, dataclasses.replace(sweep.DEFAULTS, **changes))
    assert "\n" not in str(raised.value)


def test_draw_without_a_result_ends_with_exit_code_2(tmp_path, ended):
    done = ended(command.main, "causes", "--draw", "--out", str(tmp_path))
    assert done.returncode == 2 and "run the experiment first" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_quick_causes(tmp_path):
    run = lambda *more: subprocess.run(  # noqa: E731
        [*COMMAND, "--quick", "--out", str(tmp_path), *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    done = run()
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    made = {row["claim"]: row for row in summary["claims"]}
    assert {row["verdict"] for row in made.values()} <= set(claims.VERDICTS)
    assert made[contrasts.SENTENCES["initial_bias"][1]]["verdict"] == "confirmed"
    for row in summary["cells"]:
        low, high = row["dead"]["interval"]
        assert low <= row["dead"]["estimate"] <= high and row["dead"]["trials"] == 12 * 48
    # The reference cell is the same whichever dose axis it stands on.
    reference = [
        row["dead"]["estimate"]
        for row in summary["cells"]
        if row["arm"] in ("weights", "bias", "rate")
        and row["cell"]["learning_rate"] == 0.1
        and row["cell"].get("weight_scale", 1) == 1
        and row["cell"].get("initial_bias", 0) == 0
        and row["cell"].get("momentum", 0) == 0
    ]
    assert len(reference) == 3 and len(set(reference)) == 1
    for name in ("causes", "causes_layers", "causes_effects", "causes_map"):
        (tmp_path / f"{name}.png").unlink()
    assert run("--draw").returncode == 0
    assert (tmp_path / "causes_map.png").stat().st_size > 10_000
