"""experiments.one_unit: the life of one unit."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from experiments import one_unit as experiment
from experiments.one_unit.account_figure import amount_text, draw_account, draw_waterfall
from experiments.one_unit.analysis import Life, life_phases, network_of
from experiments.one_unit.drawing import density
from experiments.one_unit.layer_figure import animate_layer, save_animation
from experiments.one_unit.life_figure import draw_life, draw_ridges, ridge_steps
from experiments.one_unit.lives import Units, choose, count_lives
from experiments.one_unit.network import Network
from experiments.one_unit.network_figure import (
    draw_flow,
    draw_network,
    gradient_power,
    short_text,
)
from relu_dynamics import store
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.experiment import conduct

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "experiments", "one_unit"]


MARGIN = np.array([2.0, 1.0, -1.0, -3.0, -2.0, -0.5, 0.5, 1.0])
LIFE = Life(np.arange(8), MARGIN, MARGIN - 2, np.full(8, 0.5), MARGIN - 4, death=2, recovery=6)
MOVED = np.stack([np.diff(MARGIN) * 0.75, np.diff(MARGIN) * 0.25], axis=1)


def test_the_phases_of_a_life_sum_to_the_change_of_its_margin():
    phases = life_phases(LIFE, ["residue", "decay"], MOVED)
    assert [(p.name, p.first, p.last) for p in phases] == [
        ("killed", 1, 2),
        ("sinks", 2, 3),
        ("climbs", 3, 6),
    ]
    for phase in phases:
        assert phase.residual == pytest.approx(0, abs=1e-12)
        assert phase.moved["residue"] == pytest.approx(0.75 * (phase.end - phase.start))
    assert phases[0].start == 1 and phases[-1].end == 0.5
    short = MOVED * [[1, 0]]  # a channel that is missing shows as residual
    assert life_phases(LIFE, ["a", "b"], short)[2].residual == pytest.approx(0.875)


def test_a_unit_dead_at_step_0_was_killed_by_nothing():
    born = LIFE._replace(death=0, margin=np.array([-1, -2, -3, -3.5, -2, -0.5, 0.5, 1]))
    names = [p.name for p in life_phases(born, ["a", "b"], MOVED)]
    assert names == ["sinks", "climbs"]


def test_the_bars_of_a_waterfall_float_from_margin_to_margin():
    phases = life_phases(LIFE, ["residue", "decay"], MOVED)
    _, axes = plt.subplots()
    draw_waterfall(axes, phases)
    bars = [(bar.get_y(), bar.get_height()) for group in axes.containers for bar in group]
    assert len(bars) == 6
    assert bars[0][0] == 1 and sum(height for _, height in bars) == pytest.approx(0.5 - 1)
    for (low, height), (then, _) in zip(bars, bars[1:], strict=False):
        assert low + height == pytest.approx(then)


def test_a_density_ends_at_the_data_and_stays_below_0_for_a_dead_unit():
    rng = np.random.default_rng(0)
    z = -np.abs(rng.normal(size=200)) - 1e-3
    grid, height = density(z)
    assert grid[0] == pytest.approx(z.min()) and grid[-1] == pytest.approx(z.max())
    assert grid.max() < 0 and height.max() == 1
    grid, height = density(np.full(50, -2.0))  # no spread at all
    assert np.isfinite(height).all() and grid == pytest.approx(np.full(grid.size, -2))


def test_the_steps_of_a_ridgeline_hold_both_events_and_stay_in_the_run():
    steps = ridge_steps(181, 476, 600)
    assert {180, 181, 475, 476, 600} <= set(steps) and steps == sorted(set(steps))
    assert min(ridge_steps(0, 3, 5)) == 0 and max(ridge_steps(0, 3, 5)) == 5


def test_numbers_on_figures_show_0_only_for_0():
    assert short_text(0.0) == "0" and short_text(1e-9) == "<.01"
    assert short_text(0.5) == ".50" and short_text(123.0) == "123"
    assert amount_text(0) == "0" and amount_text(-1e-5) != "0"
    assert amount_text(0.25) == "+.25" and amount_text(10.0) == "+10.00"


def _units(**changes):
    base = {
        "death": [[5, NEVER, 2], [0, 7, 3]],
        "recovery": [[9, NEVER, NEVER], [4, 20, 8]],
        "for_good": [[True, False, False], [True, False, True]],
        "climb": [[1.0, np.nan, np.nan], [2.0, 9.0, 3.0]],
    }
    return Units(**{k: np.array(v) for k, v in (base | changes).items()})


def test_the_rule_takes_the_largest_climb_among_those_that_stayed():
    assert choose(_units()) == (1, 2)  # not the larger climb that did not last
    with pytest.raises(ValueError, match="recovered for good"):
        choose(_units(for_good=np.zeros((2, 3), bool)))


def test_lives_are_counted_over_all_units():
    rows = count_lives(_units())
    assert (rows["died"]["successes"], rows["died"]["trials"]) == (5, 6)
    assert (rows["recovered_of_the_dead"]["successes"], rows["died"]["seeds"]) == (4, 2)
    assert (rows["for_good_of_the_dead"]["successes"]) == 3
    for row in rows.values():
        low, high = row["interval"]
        assert 0 <= low <= row["estimate"] <= high <= 1


def _network(dead=True):
    rng = np.random.default_rng(1)
    shapes = [(4, 4), (4, 3), (3, 1)]
    weights = [rng.normal(size=shape) for shape in shapes]
    gradients = [np.abs(w) / 100 for w in weights]
    carried = [np.abs(w) for w in weights]
    if dead:
        gradients[1][:, 2] = gradients[2][2] = carried[2][2] = 0
    silent = [np.zeros(4, bool), np.array([False, False, dead])]
    units = [rng.random(n) for n in (4, 4, 3, 1)]
    return Network(weights, carried, gradients, units, units[1:], silent)


@pytest.mark.parametrize(("backward", "blocked"), [(False, 1), (True, 5)])
def test_a_dead_unit_crosses_out_its_output_and_its_gradients(backward, blocked):
    _, axes = plt.subplots()
    draw_flow(axes, _network(), backward)
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert sum(line.get_markersize() == 5 for line in crosses) == blocked
    assert sum(line.get_markersize() > 10 for line in crosses) == 1
    _, axes = plt.subplots()
    draw_flow(axes, _network(dead=False), backward)
    assert not [line for line in axes.lines if line.get_marker() == "x"]


def test_gradients_are_told_with_two_digits_and_their_power_of_ten():
    network = _network()
    largest = max(layer.max() for layer in network.gradients)
    assert 10 <= largest * 10.0 ** gradient_power(network) < 100


def test_whole_figures_of_hand_made_records():
    phases = life_phases(LIFE, ["residue", "decay"], MOVED)
    z = np.stack([np.linspace(-3, top, 20) for top in (1.0, -0.1, 2.0)])
    for figure in (
        draw_life(LIFE, "caption"),
        draw_ridges([1, 2, 3], z, "caption"),
        draw_account(phases, "caption"),
        draw_network(_network(), "caption"),
    ):
        figure.canvas.draw()
        assert figure.get_figwidth() in (3.35, 7.0)


def test_an_animation_is_a_gif_that_says_where_it_comes_from(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 2, 20)) - np.array([0, 5, 0])[:, None, None]
    animation = animate_layer(
        np.array([0, 2, 4]),
        z,
        np.arange(5),
        np.array([0, 1, 2, 1, 0]),
        [16, 17],
        17,
        "caption",
    )
    facts = {"grid_hash": "abc", "git_commit": "def", "command": "one_unit"}
    (path,) = save_animation(animation, tmp_path / "layer", facts)
    with Image.open(path) as gif:
        assert gif.n_frames == 3 and gif.info["duration"] >= 1000
        assert b"grid_hash=abc" in gif.info["comment"] and b"def" in gif.info["comment"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds=0"),
        ({"frames": 1}, "frames=1"),
        ({"network_seeds": 0}, "network_seeds=0"),
        ({"config": {"probe_every": 5}}, "probe_every=5"),
        ({"config": {"probe_size": 16}}, "probe_size"),
        ({"config": {"optimizer": "adan"}}, 'did you mean "adam"'),
        ({"config": {"model": "residual"}}, "accounts do not cover"),
        ({"network": {"normalization": "layer"}}, "plain ReLU"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "simulate", lambda options: pytest.fail("ran"))
    options = dataclasses.replace(experiment.QUICK, out=tmp_path / "out")
    for name, value in change.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(options, name), **value)
        options = dataclasses.replace(options, **{name: value})
    with pytest.raises(ValueError, match=message):
        conduct(experiment.EXPERIMENT, options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_quick_runs_end_to_end_and_draws_again(tmp_path):
    out = tmp_path / "out"
    command = [*COMMAND, "--quick", "--out", str(out)]
    # Compiled as for a user: the suite's cheaper code rounds otherwise in each of two programs, and
    # hundreds of steps carry that far.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    names = ("life", "ridges", "account", "network")
    files = [out / f"one_unit_{n}.{end}" for n in names for end in ("png", "pdf")]
    files.append(out / "one_unit_layer.gif")
    assert all(file.stat().st_size > 10_000 for file in files)
    assert files[-1].stat().st_size < 2_000_000

    phases = summary["phases"]
    assert phases[-1]["end"] > 0 >= phases[-1]["start"] == phases[-2]["end"]
    assert max(abs(phase["residual"]) for phase in phases) < 1e-4
    climb = phases[-1]["end"] - phases[-1]["start"]
    assert climb == pytest.approx(summary["chosen"]["climb"])
    # Dead on all training examples: no gradient at all.
    assert summary["most_moved_by_gradient_while_dead"] == 0
    # The account and the watched run are other programs of the same run.
    assert max(summary["programs_agree_within"].values()) < 1e-3
    network = network_of(store.open_result(out).load())
    (gone,) = np.flatnonzero(network.dead[-1])
    assert (network.gradients[-2][:, gone] == 0).all() and (network.gradients[-1][gone] == 0).all()
    assert (network.carried[-1][gone] == 0).all() and network.gradients[-1].max() > 0

    for file in files:
        file.unlink()
    again = subprocess.run([*command, "--draw"], capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0, again.stderr
    assert all(file.stat().st_size > 10_000 for file in files)
