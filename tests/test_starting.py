"""Starting points: biases by a law, layers without bias, an initializer per layer, and a given
state; against NumPy, and against what the same network gives without them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from relu_dynamics import certificates, channels, train
from relu_dynamics.config import Config, to_json
from relu_dynamics.engine import initialization, models, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.normalizations import NORMALIZATIONS
from relu_dynamics.engine.optimizers import make_optimizer
from relu_dynamics.engine.starting import starting_point
from relu_dynamics.engine.validation import from_json, validate
from relu_dynamics.grid import grid_from_identity, make_grid
from relu_dynamics.statistics import clustered_interval
from relu_dynamics.sweeps.replay import replay
from relu_dynamics.sweeps.sweep import sweep

BASE = Config(
    examples=64,
    batch_size=16,
    hidden=(8, 6),
    biased_units=3,
    initial_bias=0.0,
    steps=20,
    probe_every=10,
    sustain=10,
)


def change(**fields):
    return dataclasses.replace(BASE, **fields)


def begin(config, seed=0):
    """(traced config, task, state at step 0)"""
    key = run_key(0, seed)
    task = tasks.make_task(config, purpose_key(key, "task"), tasks.load_data(config))
    return task, training.start(training.as_arrays(validate(config)), key)


# --- Biases by a law ------------------------------------------------------------------------------


def dead_share(monkeypatch, law, scale, inputs, networks=8192):
    """How many one-unit networks of `initialize` are born dead on the inputs."""
    data = inputs, inputs.sum(1, keepdims=True)
    row = tasks.TaskKind(outputs=1, classes=False, load=lambda: data, target=None)
    monkeypatch.setitem(tasks.TASKS, "sum", row)
    config = change(
        task="sum",
        hidden=(1,),
        biased_layer=1,
        biased_units=1,
        initializer="xavier_normal",
        bias_law=law,
        bias_scale=scale,
    )
    keys = jax.vmap(jax.random.key)(jnp.arange(networks))
    params = jax.vmap(lambda key: initialization.initialize(config, key))(keys)["hidden_1"]
    z = inputs @ np.asarray(params["kernel"])[:, :, 0].T + np.asarray(params["bias"])[:, 0]
    return int((z.max(0) <= 0).sum())


def test_a_law_of_the_biases_kills_as_many_units_as_in_numpy(monkeypatch):
    """16 inputs in [0, 1], 256 examples, w ~ N(0, 2/17): P(dead) is 0.197 with b ~ N(0, 1) and
    0.066 with b = 0."""
    draw = np.random.default_rng(0)
    inputs = draw.random((256, 16)).astype(np.float32)
    largest = (inputs @ (draw.normal(size=(16, 20_000)) * np.sqrt(2 / 17))).max(0)
    for law, scale, biases, known in (
        ("normal", 1.0, draw.normal(size=20_000), 0.197),
        ("initializer", None, 0.0, 0.066),
        ("uniform", 2.0, draw.uniform(-2, 2, 20_000), None),
        ("constant", -1.0, -1.0, None),
    ):
        wanted = np.mean(largest + biases <= 0)
        assert known is None or abs(wanted - known) < 0.01
        dead = dead_share(monkeypatch, law, scale, inputs)
        interval = clustered_interval(np.array([dead]), 8192, level=0.9999)
        slack = 4 * np.sqrt(wanted * (1 - wanted) / 20_000)
        assert interval.low - slack <= wanted <= interval.high + slack, law


@pytest.mark.parametrize(
    ("law", "normalization"), [("constant", "none"), ("uniform", "layer"), ("normal", "weight")]
)
def test_a_law_draws_the_shift_of_every_hidden_layer_and_nothing_else(law, normalization):
    config = change(
        hidden=(400, 300), normalization=normalization, bias_law=law, bias_scale=0.5,
        initial_bias=-2.0,
    )  # fmt: skip
    _, state = begin(config)
    _, plain = begin(dataclasses.replace(config, bias_law="initializer", bias_scale=None))
    for layer in (1, 2):
        shift = np.array(models.shift(config, state.params, layer))
        if layer == 2:
            shift[:3] += 2.0
        if law == "constant":
            np.testing.assert_allclose(shift, 0.5, rtol=1e-6)
        else:
            wanted = ("norm", (0, 0.5)) if law == "normal" else ("uniform", (-0.5, 1.0))
            assert kstest(shift, *wanted).pvalue > 1e-4
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state.params, plain.params)
    differing = {jax.tree_util.keystr(p) for p, v in jax.tree.leaves_with_path(same) if not v}
    path = NORMALIZATIONS[normalization].shift
    assert {place.strip("[]'").replace("']['", "/") for place in differing} == {
        path.format(layer) for layer in (1, 2)
    }


def test_a_law_may_differ_between_layers():
    _, state = begin(change(bias_law=("constant", "initializer"), bias_scale=0.1))
    np.testing.assert_allclose(state.params["hidden_1"]["bias"], 0.1, rtol=1e-6)
    np.testing.assert_array_equal(state.params["hidden_2"]["bias"], 0)


# --- Layers without bias, an initializer per layer ------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "killed_fraction": 0.5,
            "initializer": ("randomized_asymmetric", "data_dependent", "ones"),
        },
        {"hidden": (1,), "task": "teacher_student", "biased_layer": 1, "biased_units": 1},
        {"normalization": "batch", "initial_bias": -1.0},
    ],
    ids=str,
)
def test_layers_without_bias_are_trained_and_evaluated(fields):
    config = change(hidden_bias=False, **fields)
    run = train(config)
    assert "bias" not in run.state.params["hidden_1"] and "bias" in run.state.params["output"]
    task, _ = begin(config)
    z = models.apply(config, run.state.params, task.inputs).preactivations
    margins = np.concatenate([np.asarray(layer).max(0) for layer in z])
    np.testing.assert_allclose(run.history.margin, margins, rtol=1e-4, atol=1e-5)
    if not fields:
        np.testing.assert_allclose(z[0], task.inputs @ run.state.params["hidden_1"]["kernel"],
                                   rtol=1e-4, atol=1e-4)  # fmt: skip


def test_an_initializer_per_layer_is_that_of_each_layer():
    names = ("ones", "he_normal", "zeros")
    _, state = begin(change(initializer=names))
    for name, group in zip(names, ("hidden_1", "hidden_2", "output"), strict=True):
        _, alone = begin(change(initializer=name))
        np.testing.assert_array_equal(state.params[group]["kernel"], alone.params[group]["kernel"])
    made = validate(change(initializer=list(names)))
    assert made.initializer == names and from_json(to_json(made)) == made


def test_constant_kernels_silence_the_layer_above_for_ever(monkeypatch):
    """Kernels 0.5, then -0.5, on inputs in [0, 1]: the margin is -0.5 * 10 * min 0.5 sum x."""
    draw = np.random.default_rng(42)
    inputs = draw.random((1000, 10)).astype(np.float32)
    data = inputs, draw.integers(0, 2, 1000).astype(np.int32)
    monkeypatch.setitem(tasks.TASKS, "box", tasks.TaskKind(2, True, lambda: data, None))
    config = change(
        task="box", examples=1000, batch_size=32, hidden=(10, 10), input_scaling="raw",
        optimizer="adam", initializer=("ones", "minus_ones", "he_normal"), weight_scale=0.5,
    )  # fmt: skip
    task, state = begin(config)
    found = certificates.certify(config, task, state, horizon=100_000)
    np.testing.assert_allclose(found.margin[10:], -0.5 * 10 * 0.5 * inputs.sum(1).min(), rtol=1e-6)
    np.testing.assert_allclose(found.margin[10:], -5.00939, atol=1e-5)
    assert (found.verdict[10:] == certificates.Verdict.CERTIFIED_NEVER).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"initializer": ("ones",)}, "initializer=('ones',) has 1 values; give one, or 3"),
        ({"initializer": ("ones", "one", "ones")}, "initializer='one' is not known"),
        ({"bias_law": "normal"}, "needs a bias_scale"),
        ({"bias_scale": 1.0}, "bias_scale=1.0 is not used by bias_law='initializer'"),
        ({"bias_law": "norml", "bias_scale": 1.0}, 'did you mean "normal"'),
        ({"hidden_bias": (1, 0)}, "hidden_bias=(1, 0) must be True or False"),
        ({"hidden_bias": (True,)}, "has 1 values; give one, or 2"),
        ({"hidden_bias": False, "initial_bias": -1.0}, "initial_bias=-1.0 needs a bias in"),
        ({"hidden_bias": False, "outside_gradient": 0.1}, "outside_gradient=0.1 needs a bias in"),
        (
            {"hidden_bias": (False, True), "bias_law": "constant", "bias_scale": 0.1},
            "leaves layer 1 without a bias",
        ),
        (
            {"initializer": "data_dependent", "bias_law": "constant", "bias_scale": 0.1},
            "fits the biases of layer 1",
        ),
        ({"initializer": "zeros", "normalization": "weight"}, "have no direction"),
    ],
)
def test_a_starting_point_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValueError) as refused:
        validate(change(**fields))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_an_axis_over_the_bias_of_a_layer_without_bias_is_refused():
    with pytest.raises(ValueError, match="initial_bias=-1.0 needs a bias"):
        make_grid(change(hidden_bias=False), {"initial_bias": [0.0, -1.0]}, 1)


# --- A given state --------------------------------------------------------------------------------

MOMENTUM = change(optimizer="momentum", initial_bias=-9.0)
AXES = {"learning_rate": [0.1, 0.3]}


@pytest.fixture(scope="module")
def trained():
    """The state of a trained network."""
    return train(change(optimizer="momentum", learning_rate=0.05)).state


@pytest.mark.slow
def test_a_sweep_starts_from_a_given_state_and_is_replayed_with_it(trained, tmp_path):
    result = sweep(MOMENTUM, AXES, seeds=2, state=trained, out=tmp_path / "out")
    begun = np.array(result.margin_at_start)  # [rates, seeds, units]
    for seed in (0, 1):
        task, _ = begin(MOMENTUM, seed)
        params = models.with_shift(
            MOMENTUM, trained.params, lambda shift: shift.at[:3].add(MOMENTUM.initial_bias)
        )
        z = models.apply(MOMENTUM, params, task.probe).preactivations
        wanted = np.concatenate([np.asarray(layer).max(0) for layer in z])
        np.testing.assert_allclose(begun[:, seed], [wanted] * 2, rtol=1e-4, atol=1e-4)
        # The same run alone: the optimizer's memory is kept, the step is not.
        moved = training.State(jnp.int32(0), params, trained.optimizer)
        alone = train(dataclasses.replace(MOMENTUM, learning_rate=0.1), seed, state=moved)
        np.testing.assert_allclose(result.margin[0, seed], alone.history.margin, rtol=1e-2,
                                   atol=1e-2)  # fmt: skip
    cell = {"learning_rate": 0.1}
    replay(tmp_path / "out", cell, 0, state=trained)  # raises where a bit is another one
    with pytest.raises(ValueError, match="began with a given state .* give state="):
        replay(tmp_path / "out", cell, 0)
    with pytest.raises(ValueError, match="began with a given state .*, not with a given state"):
        replay(tmp_path / "out", cell, 0, state=trained.params)
    with pytest.raises(ValueError, match="another grid, which differs in state"):
        sweep(MOMENTUM, AXES, seeds=2, out=tmp_path / "out")


def test_a_state_is_part_of_the_identity_of_a_grid(trained):
    plain = make_grid(MOMENTUM, AXES, 2)
    given, alone = (make_grid(MOMENTUM, AXES, 2, state=s) for s in (trained, trained.params))
    assert "state" not in plain.identity and len({plain.hash, given.hash, alone.hash}) == 3
    again = jax.tree.map(jnp.array, trained)  # other arrays of the same numbers
    assert make_grid(MOMENTUM, AXES, 2, state=again).hash == given.hash
    assert grid_from_identity(given.identity, trained).hash == given.hash
    with pytest.raises(ValueError, match="axis weight_scale"):
        make_grid(MOMENTUM, {"weight_scale": [1.0, 2.0]}, 2, state=trained)


@pytest.mark.slow
def test_train_and_fork_start_from_given_parameters(trained):
    run = train(MOMENTUM, state=trained.params)
    wanted = sweep(MOMENTUM, {"learning_rate": [MOMENTUM.learning_rate]}, 1, state=trained.params)
    margins = np.asarray(wanted.margin_at_start)[0, 0]
    np.testing.assert_allclose(run.history.margin_at_start, margins, rtol=1e-4, atol=1e-4)
    dead = (margins <= 0)[8:]
    assert dead.any()
    forks = channels.fork(MOMENTUM, 0, ("upstream_frozen",), 1, state=trained.params)
    np.testing.assert_array_equal(forks.cohort[0], dead)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_fault_in_a_given_state_is_named(trained, data):
    """One fault in one leaf of the parameters or the optimizer's memory."""
    leaves, structure = jax.tree.flatten_with_path(trained)
    places = [i for i, (path, _) in enumerate(leaves) if "step" not in jax.tree_util.keystr(path)]
    at = data.draw(st.sampled_from(places))
    arrays = [np.array(leaf) for _, leaf in leaves]
    leaf = arrays[at]
    fault = data.draw(st.sampled_from(["nan", "inf", "float64", "shape", "text"]))
    if fault in ("nan", "inf"):
        index = tuple(data.draw(st.integers(0, n - 1)) for n in leaf.shape)
        leaf[index] = float(fault)
        words = f"holds {fault} at {list(index)}"
    elif fault == "text":
        arrays[at], words = np.full(leaf.shape, "a"), "has shape"
    else:
        arrays[at] = leaf.astype(np.float64) if fault == "float64" else leaf[..., None]
        words = f"has shape {arrays[at].shape} of {arrays[at].dtype}"
    with pytest.raises(ValueError) as refused:
        starting_point(MOMENTUM, jax.tree.unflatten(structure, arrays))
    text = str(refused.value)
    assert text.startswith(f"state{jax.tree_util.keystr(leaves[at][0])} {words}")
    assert "\n" not in text


def test_a_state_of_another_network_or_optimizer_is_refused(trained):
    for other, words in (
        ({}, "state['hidden_1']['bias'] is missing"),
        ({**trained.params, "more": 1}, "state['more'] is not a parameter"),
        (3, "state=3 must be a State"),
        (trained._replace(optimizer=make_optimizer(change()).init(trained.params)), "is missing"),
    ):
        with pytest.raises(ValueError) as refused:
            sweep(MOMENTUM, AXES, 1, state=other)
        assert words in str(refused.value) and "\n" not in str(refused.value)
