"""Flat units: those whose derivative is exactly 0 on every probe example, with the history that
dead units have. Against NumPy's derivatives, and against "dead" where both are the same."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import recovery_map
from relu_dynamics import certificates, channels, figures, train
from relu_dynamics.config import Config
from relu_dynamics.engine import models, tasks, training
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.evaluation import evaluate_judged, probe_statistics
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import DEFINITIONS, Outcome, classify
from relu_dynamics.engine.step import train_step
from relu_dynamics.engine.validation import validate
from relu_dynamics.experiment import conduct
from relu_dynamics.explorer import explore
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.plan import check_at_risk
from relu_dynamics.sweeps.sweep import sweep

SMALL = Config(
    examples=64,
    batch_size=16,
    hidden=(6, 6),
    biased_units=3,
    initial_bias=0.0,
    steps=60,
    probe_every=10,
    sustain=20,
)


def change(**fields):
    return dataclasses.replace(SMALL, **fields)


# The derivative of every row in NumPy, at z [examples, units] in float32.
ONE = np.float32(1)
SLOPES = {
    "relu": lambda z: (z > 0) * ONE,
    "relu6": lambda z: ((z > 0) & (z < 6)) * ONE,
    "hard_tanh": lambda z: ((z >= -1) & (z <= 1)) * ONE,
    "squared_relu": lambda z: 2 * np.maximum(z, 0),
    "top_k": lambda z: (np.argsort(np.argsort(-z, kind="stable"), kind="stable") < 3) * ONE,
    "batch_top_k": lambda z: (z >= np.sort(z, axis=None)[-(z.size // 2)]) * ONE,
    "jump_relu": lambda z: (z > np.float32(0.1)) * ONE,
    "identity": lambda z: np.ones_like(z),
    "leaky_relu": lambda z: np.where(z >= 0, ONE, np.float32(0.01)),
    "prelu": lambda z: np.where(z > 0, ONE, np.float32(0.25)),
    "crelu": lambda z: (z != 0) * ONE,
}
FAR = 30.0  # where the derivative of every activation is known well


def one_layer(activation, z):
    """(config, parameters) of a network whose first pre-activations are `z` for inputs 1, 0, 0 ...:
    each example shows one row."""
    config = change(
        activation=activation, hidden=(z.shape[1],), biased_layer=1, biased_units=1,
        initial_bias=0.0,
    )  # fmt: skip
    params = training.start(config, run_key(0, 0)).params
    group = {"kernel": jnp.asarray(z), "bias": jnp.zeros(z.shape[1])}
    return config, {**params, "hidden_1": group}


@pytest.mark.parametrize("activation", sorted(SLOPES))
def test_a_unit_is_flat_where_the_derivative_in_numpy_is_0_on_all_examples(activation):
    config, _ = one_layer(activation, np.zeros((12, 6), np.float32))
    flat = dataclasses.replace(config, definition="flat")

    @jax.jit
    def ask(kernel):
        _, params = one_layer(activation, kernel)
        both = (
            evaluate_judged(flat, params, jnp.eye(12)),
            probe_statistics(config, params, jnp.eye(12), models.apply),
        )
        return both[0][0].margin, both[0][1], both[1][2].flat

    numbers = st.sampled_from([-7.0, -1.0, -0.5, 0.0, 0.25, 1.0, 1.5, 6.0, 6.5, FAR, -FAR])
    columns = st.sampled_from([None, -7.0, 0.0, 6.5, FAR])  # a whole unit stuck, or not

    @settings(max_examples=40, deadline=None)
    @given(st.lists(numbers, min_size=72, max_size=72), st.lists(columns, min_size=6, max_size=6))
    def check(values, stuck):
        z = np.float32(values).reshape(12, 6)
        for unit, value in enumerate(stuck):
            if value is not None:
                z[:, unit] = value
        wanted = np.abs(SLOPES[activation](z)).max(0)
        margin, bounds, flat_by_layer = ask(z)
        np.testing.assert_allclose(margin, wanted, rtol=1e-6)
        np.testing.assert_array_equal(np.asarray(margin) <= 0, wanted == 0)
        np.testing.assert_array_equal(flat_by_layer, wanted == 0)  # the layers' share agrees
        np.testing.assert_array_equal(bounds.lower, margin)
        if activation in ("relu", "squared_relu"):
            np.testing.assert_array_equal(np.asarray(margin) <= 0, z.max(0) <= 0)

    check()


def test_every_row_has_a_derivative_to_compare_with_or_is_smooth():
    smooth = {"elu", "selu", "gelu", "silu", "softplus", "tanh"}
    assert set(SLOPES) | smooth == set(ACTIVATIONS)


@pytest.mark.slow
def test_flat_is_dead_for_relu_event_by_event():
    """No unit is within rounding of 0 here, where only "dead" is ambiguous."""
    config = change(initial_bias=-5.0, learning_rate=0.3)
    dead = train(config).history
    flat = train(dataclasses.replace(config, definition="flat")).history
    assert not dead.near_zero.any() and dead.dead_at_start.any() and dead.recoveries.any()
    for name in dead._fields:
        mine, other = getattr(dead, name), getattr(flat, name)
        if name.startswith("batch_") and mine.dtype == np.float32:  # of z under either
            np.testing.assert_allclose(mine, other, rtol=1e-2, atol=1e-3, err_msg=name)
        elif name not in ("margin", "margin_at_start"):
            np.testing.assert_array_equal(mine, other, name)
    assert set(np.unique(flat.margin)) <= {0.0, 1.0}


@pytest.mark.slow
def test_clipped_units_on_raw_digits_are_flat_at_both_ends(monkeypatch):
    """Digits from 0 to 255 into ReLU6, 200 steps: some 14 of the 16 units in the first layer have
    no slope on any example, and 2 of them are dead (which ones depends on rounding)."""

    load: Any = tasks.TASKS["digits"].load

    def raw():
        inputs, targets = load()
        return inputs * np.float32(255 / 16), targets

    row = tasks.TASKS["digits"]._replace(load=raw, renew=None)
    monkeypatch.setitem(tasks.TASKS, "digits255", row)
    config = change(
        task="digits255", examples=512, batch_size=64, hidden=(16, 16), activation="relu6",
        input_scaling="raw", biased_layer=1, biased_units=16, learning_rate=0.01, steps=200,
        probe_every=25, definition="flat",
    )  # fmt: skip
    run = train(config)
    task = tasks.make_task(config, purpose_key(run_key(0, 0), "task"), tasks.load_data(config))
    z = [np.asarray(layer) for layer in models.apply(config, run.state.params, task.probe)[1]]
    flat = [(SLOPES["relu6"](layer) == 0).all(0) for layer in z]
    np.testing.assert_array_equal(~np.asarray(run.history.alive), np.concatenate(flat))
    layers = jax.tree.map(lambda values: np.asarray(values[-1] * 16), run.trace.probe_layers)
    assert layers.flat_fraction.tolist() == [each.sum() for each in flat]
    assert layers.dead_fraction.tolist() == [(layer <= 0).all(0).sum() for layer in z]
    assert layers.flat_fraction[0] >= 12 and layers.dead_fraction[0] <= 4


STUCK = change(
    activation="relu6", initial_bias=40.0, learning_rate=0.3, definition="flat", steps=100
)


@pytest.fixture(scope="module")
def stuck():
    """Units of the second layer stuck at the top of ReLU6: a sweep over how far."""
    return sweep(STUCK, {"initial_bias": [20.0, 8.0]}, seeds=4)


@pytest.mark.slow
def test_a_cohort_stuck_at_the_top_has_a_probability_to_recover(stuck):
    cells = estimates.cells(stuck, "recovered")
    assert (cells.trials > 0).all() and (cells.low <= cells.estimate).all()
    assert cells.attrs["definition"].startswith("flat on the probe set at step 0, alive again")
    # NumPy's derivatives say which units are at risk.
    for seed in range(4):
        key = run_key(0, seed)
        state = training.start(dataclasses.replace(STUCK, initial_bias=8.0), key)
        task = tasks.make_task(STUCK, purpose_key(key, "task"), tasks.load_data(STUCK))
        z = models.apply(STUCK, state.params, task.probe).preactivations
        slopes = [np.abs(SLOPES["relu6"](np.asarray(layer))).max(0) for layer in z]
        found = stuck.dead_at_start.sel(initial_bias=8.0, seed=seed)
        np.testing.assert_array_equal(found, np.concatenate(slopes) == 0)
    assert int((stuck.outcome == Outcome.AMBIGUOUS).sum()) == 0


@pytest.mark.slow
def test_every_text_of_a_result_about_flat_units_says_so(stuck, tmp_path):
    assert stuck.attrs["definition_of_dead"] == DEFINITIONS["flat"].rule
    assert json.loads(stuck.attrs["identity"])["config"]["definition"] == "flat"
    assert estimates.label(stuck, "recovered") == "P(flat unit recovers for good)"
    assert estimates.label(stuck, "died") == "P(living unit goes flat)"
    for name in estimates.MEASURES:
        words = estimates.cells(stuck, name).attrs["definition"]
        assert "dead" not in words and "died" not in words
    caption = figures.caption(stuck)
    assert "flat: da/dz = 0" in caption and "dead" not in caption
    page = explore(stuck, tmp_path / "page.html").read_text()
    assert "P(flat unit recovers for good)" in page and "P(dead unit" not in page
    assert DEFINITIONS["flat"].rule in page


def test_the_default_definition_speaks_of_the_dead():
    words = "P(dead unit recovers for good)"
    assert DEFINITIONS["dead"].say(words) == words
    assert DEFINITIONS["flat"].say("a unit that died, kills, dies; Dead") == (
        "a unit that went flat, flattens, goes flat; Flat"
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"activation": "relu6", "initial_bias": 40.0},
            "flat at another z .* use definition='flat'",
        ),
        ({"initial_bias": 40.0}, "no unit is dead .* more negative initial_bias than 40.0"),
        (
            {"activation": "relu6", "initial_bias": 0.1, "definition": "flat", "biased_units": 1},
            "no unit is flat .* larger in size than 0.1, negative or positive",
        ),
        (
            {"initial_bias": 40.0, "definition": "flat"},
            "no unit is flat .* more negative initial_bias than 40.0",
        ),
    ],
)
def test_the_remedy_knows_on_which_side_units_are_stuck(fields, words):
    config = change(**fields)
    grid = make_grid(config, {"initial_bias": [config.initial_bias]}, 1)
    with pytest.raises(ValueError, match=words):
        check_at_risk(grid)


@pytest.mark.slow
def test_flat_units_of_a_fork_are_its_cohort_and_certificates_refuse_them():
    forks = channels.fork(STUCK, 0, ("upstream_frozen",), 1)
    assert forks.cohort[:, : STUCK.biased_units].all()
    state = training.start(STUCK, run_key(0, 0))
    relu = dataclasses.replace(STUCK, activation="relu")
    with pytest.raises(ValueError, match="definition='flat': certificates do not cover it"):
        certificates.certify(relu, None, state, horizon=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_run_that_diverges_is_not_flat():
    run = train(change(activation="relu6", learning_rate=1e30, optimizer="adam", steps=20,
                       definition="flat", normalization="none", task="diabetes"))  # fmt: skip
    plain = train(change(activation="relu6", learning_rate=1e30, optimizer="adam", steps=20,
                         task="diabetes"))  # fmt: skip
    assert int(plain.history.diverged_at) >= 0
    assert int(run.history.diverged_at) == int(plain.history.diverged_at)


# --- top_k ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_top_k_lets_the_largest_through_and_their_gradients():
    draw = np.random.default_rng(0)
    z = draw.normal(size=(20, 9)).astype(np.float32)
    z[0] = 1.0  # ties go to the first
    for k in (1, 4, 9, None):
        count = 4 if k is None else k
        kept = np.zeros_like(z)
        for row, out in zip(z, kept, strict=True):
            best = np.argsort(-row, kind="stable")[:count]
            out[best] = row[best]
        np.testing.assert_array_equal(ACTIVATIONS["top_k"](jnp.asarray(z), k=k), kept)
        config = change(activation="top_k", hidden=(9, 9), top_k=k)
        np.testing.assert_array_equal(models.slopes(config, {}, 1, jnp.asarray(z)), kept != 0)
    # An input that is never selected gets no gradient.
    config = validate(change(activation="top_k", top_k=2, definition="flat", initial_bias=-50.0))
    state = training.start(training.as_arrays(config), run_key(0, 0))
    task = tasks.make_task(config, jax.random.key(0), tasks.load_data(config))
    _, seen = train_step(training.as_arrays(config), task, run_key(0, 0), state)
    flat = np.asarray(evaluate_judged(config, state.params, task.inputs)[0].margin) == 0
    assert flat[6:9].all() and not np.asarray(seen.gradient_norm)[flat].any()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"top_k": 3},
            "is not used by activation='relu'; use top_k=None, or activation='top_k'",
        ),
        ({"activation": "top_k", "top_k": 7}, "top_k=7 must be between 1 and 6"),
        ({"activation": "top_k", "top_k": 0}, "top_k=0 must be between 1 and 6"),
        ({"definition": "flt"}, 'did you mean "flat"'),
    ],
)
def test_a_definition_or_selection_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValueError) as refused:
        validate(change(**fields))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_dust_is_no_recovery_of_a_flat_unit():
    """A derivative between 0 and the tolerance changes nothing, as for z."""
    config = change(activation="squared_relu", initial_bias=-5.0, definition="flat")
    history = train(dataclasses.replace(config, tolerance=1e30)).history
    assert history.dead_at_start.any() and not history.recoveries.any()
    assert not (classify(history) == Outcome.RECOVERED_SUSTAINED).any()


def test_an_experiment_whose_texts_speak_of_the_dead_refuses_flat_units(tmp_path):
    asked = dataclasses.replace(recovery_map.QUICK.config, definition="flat")
    options = dataclasses.replace(recovery_map.QUICK, config=asked, out=tmp_path / "out")
    other = dataclasses.replace(recovery_map.EXPERIMENT, definitions=("dead",))
    with pytest.raises(ValueError, match="definition='flat': .* speak of dead units; use "):
        conduct(other, options)
    assert not (tmp_path / "out").exists()
