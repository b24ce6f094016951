"""The reproductions: the NAME, bad input, and the arithmetic against known answers."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy.special import ndtr

from experiments import NAMES as EVERY_NAME
from experiments import REPRODUCTIONS as NAMES
from experiments import __main__ as command
from experiments.reproductions import (
    autoencoder_birth,
    born_dead,
    boundary,
    box_counting,
    collapse,
    layers,
    published,
    slopes,
)
from relu_dynamics import cli, statistics, theory
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, models, tasks, training
from relu_dynamics.engine.keys import run_key
from relu_dynamics.sweeps import ensembles

ROOT = pathlib.Path(__file__).parent.parent


def script(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


# The command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--quick"]])
def test_without_a_name_one_line_lists_the_names(arguments, ended):
    done = ended(command.main, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: NAME is missing")
    assert all(name in line for name in (*EVERY_NAME, "all"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["born-ded"], 'did you mean "born_dead"'),
        (["all", "--only", "x"], "is not a script"),
        (["born-dead", "--widths", "0"], "widths must be >= 1"),
        (["born-dead", "--init", "hee"], 'did you mean "he"'),
        (["collapse", "--points", "7"], "even number of points"),
        (["collapse", "--targets", "digits"], "not an analytic 1-D target"),
        (["target-variance", "--networks", "one"], "one unit"),
        (["layers", "--seeds", "0"], "seeds=0 must be at least 1"),
        (["continual", "--bit-periods", "2"], "must be at least 4"),
        (["autoencoder-birth", "--dimension", "2"], "must be at least 3"),
        (["boundary", "--vertical", "bias"], "vertical='bias' is not known"),
        (["boundary", "--draw", "--out", "nowhere"], "run the experiment first"),
    ],
)
def test_bad_input_gets_one_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
    monkeypatch.setattr(cli, "_leave", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    monkeypatch.setattr(cli, "_catch_signals", lambda: None)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and words in line


def test_help_lists_the_names(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.choose(["--help"], NAMES, "Text.")
    assert ended.value.code == 0 and "boundary" in capsys.readouterr().out
    assert cli.choose(["born-dead", "--quick"], NAMES, "") == ("born_dead", ["--quick"])


# Born dead ----------------------------------------------------------------------------------------


def born_dead_config(width, depth, init="he_normal"):
    hidden = (width,) * (depth - 1)
    return Config(task="abs", hidden=hidden, initializer=init, examples=2, **published.FULL)


@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 3])
def test_born_dead_networks_follow_the_exact_law_and_the_bounds(width):
    inputs = np.array([[1.0], [-1.0]], np.float32)
    first = born_dead.draw_births(born_dead_config(width, 10), inputs, 8000, 0).silent
    three = statistics.exact_interval((first <= 2).sum(), 8000, level=0.999)
    exact = theory.born_dead_network_probability(width, 3)  # 5/32, 11/256
    assert three.low <= exact <= three.high
    ten = statistics.exact_interval((first <= 9).sum(), 8000, level=0.999)
    stated = {2: 0.87984, 3: 0.57833}[width]  # Monte Carlo of 1e6 networks by other code
    assert ten.low <= stated <= ten.high
    low, high = theory.born_dead_network_bounds(width, 10)
    assert low <= ten.high and ten.low <= high


@pytest.mark.slow
def test_births_by_hand():
    config = born_dead_config(2, 5)
    inputs = np.array([[1.0], [0.0], [-1.0]], np.float32)
    first, constant = born_dead.draw_births(config, inputs, 20, 0)
    root = run_key(0, 2)
    for number in range(20):
        key = jax.random.fold_in(jax.random.fold_in(root, 4), number)
        forward = models.apply(config, initialization.initialize(config, key), inputs)
        z = forward.preactivations
        silent = [bool((np.asarray(layer) <= 0).all()) for layer in z]
        assert first[number] == (silent.index(True) + 1 if any(silent) else 5)
        ranges = [np.ptp(layer[:, 0]) for layer in (*z[1:], forward.output)]
        by_hand = [r <= 1e-7 or any(silent[: i + 1]) for i, r in enumerate(ranges)]
        assert constant[number].tolist() == by_hand


@pytest.mark.slow
def test_rai_is_born_dead_less_often():
    inputs = np.linspace(-(3**0.5), 3**0.5, 17, dtype=np.float32)[:, None]
    config = born_dead_config(2, 10, "randomized_asymmetric")
    first = born_dead.draw_births(config, inputs, 3000, 0).silent
    share = statistics.exact_interval((first <= 9).sum(), 3000, level=0.999)
    assert share.low < 0.244 < share.high  # 20,000 networks by other code
    assert 3 * share.high < 0.88


@pytest.mark.slow
def test_both_shares_of_asymmetric_networks_agree_with_other_code():
    """Width 3: the silent share and the share constant to 1e-7, which depth separates."""
    inputs = np.linspace(-(3**0.5), 3**0.5, 33, dtype=np.float32)[:, None]
    config = born_dead_config(3, 20, "randomized_asymmetric")
    first, constant = born_dead.draw_births(config, inputs, 8000, 0)
    noted = {10: (0.0632, 0.0629), 20: (0.1912, 0.2358)}  # 200,000 networks in NumPy, float32
    for depth, shares in noted.items():
        found = (first <= depth - 1).sum(), constant[:, depth - 2].sum()
        for count, share in zip(found, shares, strict=True):
            own = statistics.exact_interval(count, 8000, level=0.999)
            assert own.low < share < own.high
    assert constant[:, -1].sum() > 1.1 * (first <= 19).sum()


# Verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "low", "high", "verdict"),
    [
        ((0.91, 0.94), 0.9, 1.0, "confirmed"),
        ((0.85, 0.89), 0.9, 1.0, "refuted"),
        ((0.88, 0.92), 0.9, 1.0, "undecided"),
        ((0.2, 0.3), -np.inf, 0.1, "refuted"),
    ],
)
def test_verdicts_by_interval(ends, low, high, verdict):
    assert published.against({"interval": list(ends)}, low, high) == verdict


def test_a_born_dead_share_below_a_collapsed_one_is_no_refutation():
    row = {"init": "he", "width": 2, "depth": 10, "zero_bias": True, "trials": 1000, "seeds": 1000}
    row |= {"estimate": 0.88, "interval": [0.87, 0.89], "bounds": [0.85, 0.9]}
    (line,) = born_dead.published_table([row])
    assert line["verdict"].startswith("conditional")


@pytest.mark.slow
def test_collapse_is_read_off_the_output():
    config = dataclasses.replace(born_dead_config(2, 4), examples=8, steps=2, probe_every=2)
    run = training.train(config, 0)
    task = tasks.make_task(config, jax.random.key(0), None)

    def read(params):
        given = run._replace(state=run.state._replace(params=params))
        return [float(x) for x in collapse.collapse_reading(config, task, given)]

    zero = jax.tree.map(np.zeros_like, run.state.params)
    whole, left, right, misfit, _ = read(zero)
    assert whole == left == right == 0
    assert misfit == pytest.approx(float(np.mean(np.asarray(task.targets) ** 2)))
    # relu(x) through every layer: constant on the left half only
    one = jax.tree.map(lambda leaf: np.zeros_like(leaf), run.state.params)
    for group in one.values():
        group["kernel"][0, 0] = 1.0
    whole, left, right, _, _ = read(one)
    assert left == 0 and whole == pytest.approx(3**0.5)
    assert right == pytest.approx(3**0.5 * 6 / 7)  # the point nearest to 0 is sqrt 3 / 7


@pytest.mark.slow
def test_the_first_layer_is_certified_and_slopes_are_exact():
    options = layers.Options(
        hidden=(16, 8), initial_biases=(-20.0,), steps=20, seeds=1, certified_seeds=1
    )
    grid = layers.make_grids(options)[layers.forced_name(1)]
    certified = layers.first_layer_certificates(options, grid)
    assert certified["dead"] >= 4 and certified["never"] == certified["dead"]
    assert {row["verdict"] for row in slopes.activation_rows()} == {"confirmed"}


def test_uniform_initial_weights_and_biases():
    config = Config(initializer="torch_default", hidden=(64, 256), initial_bias=0.0)
    params = initialization.initialize(config, jax.random.key(0))
    for name, fan_in in (("hidden_1", 64), ("hidden_2", 64), ("output", 256)):
        for leaf in params[name].values():
            assert np.abs(leaf).max() <= fan_in**-0.5
    for leaf in params["hidden_2"].values():  # standard deviation of U(-a, a)
        np.testing.assert_allclose(np.std(leaf), 64**-0.5 / 3**0.5, rtol=0.1)


# Autoencoders -------------------------------------------------------------------------------------


def test_silent_latents_follow_their_law():
    config = Config(
        task="teacher_student", dimension=64, hidden=(64,), examples=20, **published.FULL
    )
    keys = ensembles.run_keys(0, tuple(range(200)))
    silent = autoencoder_birth.silent_latents(config, (0.5, 1.0, 15.0), (1, 20), keys)
    assert silent.shape == (200, 3, 2)
    for i, gamma in enumerate((0.5, 1.0, 15.0)):
        for j, samples in enumerate((1, 20)):
            found = statistics.clustered_interval(silent[:, i, j], np.full(200, 64), level=0.999)
            law = theory.autoencoder_dead_at_birth_finite(gamma, samples, 64)
            assert found.low <= law <= found.high


def test_the_finite_law_has_the_limit_and_known_cases():
    many = theory.autoencoder_dead_at_birth_finite(1.0, [10, 1000], 100_000)
    np.testing.assert_allclose(many, [1 / 11, 1 / 1001], rtol=2e-3)
    np.testing.assert_allclose(theory.autoencoder_dead_at_birth_finite(3.0, 1, 7), 0.5)
    # d = 3: the cosine is uniform on [-1, 1]
    cosine = (np.arange(200_000) + 0.5) / 100_000 - 1
    expected = np.mean(ndtr(-(3**0.5) * cosine) ** 5)
    np.testing.assert_allclose(
        theory.autoencoder_dead_at_birth_finite(1.0, 5, 3), expected, rtol=1e-6
    )


# The boundary -------------------------------------------------------------------------------------


def circle(size):
    x = (np.arange(size) + 0.5) / size - 0.5
    return x[:, None] ** 2 + x[None, :] ** 2 < 0.36**2


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("shape", ["line", "circle", "slope"])
def test_smooth_boundaries_stay_below_the_limit(size, shape):
    x = np.arange(size)
    inside = {
        "line": np.broadcast_to(x[:, None] < size // 3, (size, size)),
        "circle": circle(size),
        "slope": x[:, None] * 0.37 + 3 < x[None, :],
    }[shape]
    found = box_counting.box_dimension(box_counting.edges(inside.astype(int), 0, 1))
    assert 0.85 < found["dimension"] <= boundary.SMOOTH


def test_rough_boundaries_have_a_larger_dimension():
    noise = np.random.default_rng(0).random((128, 128)) < 0.5
    assert (
        box_counting.box_dimension(box_counting.edges(noise.astype(int), 0, 1))["dimension"] > 1.9
    )
    # The boundary of a Koch-like construction: a Sierpinski carpet, log 8 / log 3 = 1.893
    carpet = np.ones((1, 1), bool)
    for _ in range(5):
        row = np.concatenate([carpet] * 3, 1)
        middle = np.concatenate([carpet, np.zeros_like(carpet), carpet], 1)
        carpet = np.concatenate([row, middle, row])
    assert box_counting.box_dimension(carpet)["dimension"] == pytest.approx(1.893, abs=0.1)
    assert box_counting.box_dimension(np.zeros((64, 64), bool)) is None


def test_an_edge_lies_between_two_classes_only():
    image = np.array([[0, 0, 1], [0, 2, 1], [0, 0, 2]])
    found = box_counting.edges(image, 0, 1)
    np.testing.assert_array_equal(np.argwhere(found), [[0, 1]])
    np.testing.assert_array_equal(np.argwhere(box_counting.edges(image, 1, 2)), [[1, 1], [1, 2]])


def test_zooms_go_where_the_boundary_is():
    line = np.zeros((64, 64), bool)
    line[40:44, 8:12] = True
    left, low = box_counting.choose_zoom(line, 8)
    assert 36 / 64 <= left <= 40 / 64 and 4 / 64 <= low <= 8 / 64
    points = boundary.axis_points((0.01, 1.0), 2)
    np.testing.assert_allclose(points, [10**-1.5, 10**-0.5])
    assert boundary.part_of((0.01, 1.0), 0.5, 1.0) == pytest.approx((0.1, 1.0))
    assert boundary.part_of((-3.0, -1.0), 0.25, 0.5) == pytest.approx((-2.5, -2.0))


def test_the_verdict_on_the_boundary():
    def verdict(*dimensions):
        images = [
            {"event": "ever", "recovery": {"dimension": d} if d else None} for d in dimensions
        ]
        return boundary.boundary_claim(images, boundary.Options(), "ever").verdict

    assert verdict(1.0, 1.01, 1.02) == "refuted"
    assert verdict(1.5, 1.55, 1.6) == "confirmed"
    assert verdict(1.0, 1.6, 1.3) == "undecided"
    assert verdict(None) == "undecided"


# End to end ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick(name, tmp_path):
    for more in ([], ["--draw"]):
        done = script(name, "--quick", "--out", str(tmp_path), *more)
        assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["claims"] and summary["rows" if name != "boundary" else "images"]
    assert (tmp_path / f"{name.replace('-', '_')}.png").stat().st_size > 10_000
