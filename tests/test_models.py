"""Networks: activations and their derivatives, initializers that set biases, weight normalization,
skip connections, and killed units. Schedules, clipping and changing tasks, as they enter a step."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, models, optimizers, tasks, training
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import State, draw_batch, loss_gradients, train_step
from relu_dynamics.engine.validation import validate

BASE = Config(
    hidden=(12, 10), examples=128, batch_size=32, steps=50, biased_units=1, initial_bias=0.0
)


def start(config, seed=0):
    config = training.as_arrays(validate(config))
    key = run_key(0, seed)
    task = tasks.make_task(config, purpose_key(key, "task"), tasks.load_data(config))
    return config, task, key, training.start(config, key)


def change(**fields):
    return dataclasses.replace(BASE, **fields)


# --- Activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_slopes_are_the_derivative_of_the_activation(activation):
    config, _, _, state = start(change(activation=activation))
    z = jnp.linspace(-6, 6, 240).reshape(20, 12)  # without 0, where ReLU has a kink
    wanted = jax.vmap(jax.grad(lambda x: ACTIVATIONS[activation](x[None]).sum()))
    if activation == "batch_top_k":  # half of all numbers, by their ranks
        expected = (z.ravel().argsort().argsort() >= 120).reshape(z.shape).astype(z.dtype)
    elif ACTIVATIONS[activation].selects:  # half of the units, by their ranks
        expected = (z.argsort(-1).argsort(-1) >= 6).astype(z.dtype)
    elif activation == "crelu":
        expected = jnp.ones_like(z)  # one of its two outputs always moves with |slope| 1
    else:
        expected = wanted(z.ravel()).reshape(z.shape)
    chex.assert_trees_all_close(models.slopes(config, state.params, 1, z), expected, rtol=1e-6)


@pytest.mark.slow
def test_prelu_learns_a_slope_for_every_unit_that_moves_a_dead_one():
    config, task, key, state = start(change(activation="prelu", initial_bias=-20.0))
    np.testing.assert_array_equal(state.params["slope_1"], np.full(12, 0.25))
    after, snapshot = train_step(config, task, key, state)
    dead = np.asarray(snapshot.batch.margin) <= 0
    assert dead[12] and np.all(np.asarray(snapshot.gradient_norm)[dead] > 0)
    assert np.all(after.params["slope_2"] != 0.25)


def test_prelu_with_slope_0_is_relu():
    config, task, _, state = start(change(activation="prelu"))
    flat = {**state.params, "slope_1": jnp.zeros(12), "slope_2": jnp.zeros(10)}
    relu = {name: group for name, group in flat.items() if not name.startswith("slope")}
    chex.assert_trees_all_equal(
        models.apply(config, flat, task.probe),
        models.apply(dataclasses.replace(config, activation="relu"), relu, task.probe),
    )


def test_crelu_shows_both_signs_so_that_no_gradient_is_lost():
    config, task, key, state = start(change(activation="crelu", initial_bias=-20.0))
    assert state.params["hidden_2"]["kernel"].shape == (24, 10)
    forward = models.apply(config, state.params, task.probe)
    z, above = forward.preactivations[0], forward.inputs[1]
    np.testing.assert_array_equal(above[:, :12] - above[:, 12:], z)
    assert np.all(train_step(config, task, key, state)[1].gradient_norm > 0)


# --- Initializers ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_randomized_asymmetric_weights_have_one_beta_entry_a_unit():
    """Lu et al., arXiv 1903.06733: N(0, 0.6007^2 / fan_in), one entry of a row from Beta(2, 1)."""
    config, _, _, state = start(change(hidden=(400, 300), initializer="randomized_asymmetric"))
    group = state.params["hidden_2"]
    rows = np.concatenate([group["kernel"], group["bias"][None]])
    scale = 0.6007 / 400**0.5
    large = rows > 6 * scale  # of Beta(2, 1) all but (6 scale)^2 = 3 % lie above, of normals none
    assert np.all(large.sum(0) <= 1)
    assert abs(large.mean(0).sum() * len(rows) / 300 - (1 - (6 * scale) ** 2)) < 0.05
    beta = rows.max(0)[large.any(0)]
    assert abs(beta.mean() - 2 / 3) < 0.075  # 5.5 standard errors
    assert beta.max() <= 1
    normal = rows[~large]
    assert abs(normal.std() / scale - 1) < 0.01
    assert len(np.unique(rows.argmax(0))) > 150  # the place is random, the bias among them


def test_data_dependent_units_have_mean_0_and_deviation_1_on_the_training_inputs():
    config, task, _, state = start(change(initializer="data_dependent"))
    for z in models.apply(config, state.params, task.inputs).preactivations:
        np.testing.assert_allclose(z.mean(0), 0, atol=2e-5)
        np.testing.assert_allclose(z.std(0), 1, rtol=1e-4)


def test_data_dependent_initialization_says_that_it_needs_inputs():
    with pytest.raises(ValueError, match="inputs=None"):
        initialization.initialize(change(initializer="data_dependent"), jax.random.key(0))


@settings(max_examples=6, deadline=None)
@given(scale=st.floats(0.0625, 64.0, width=32))
def test_weight_scale_is_a_factor_on_the_weights_only(scale):
    plain, scaled = (start(change(weight_scale=s, initial_bias=-2.0))[3] for s in (1.0, scale))
    for name, group in plain.params.items():
        np.testing.assert_allclose(
            scaled.params[name]["kernel"], np.float32(scale) * group["kernel"], rtol=1e-6
        )
        np.testing.assert_array_equal(scaled.params[name]["bias"], group["bias"])


# --- Networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("initializer", ["he_normal", "data_dependent"])
def test_weight_normalization_changes_nothing_at_step_0(initializer):
    config, task, _, state = start(change(normalization="weight", initializer=initializer))
    plain = start(change(initializer=initializer))
    np.testing.assert_allclose(
        models.apply(config, state.params, task.probe).output,
        models.apply(plain[0], plain[3].params, task.probe).output,
        rtol=2e-5,
        atol=2e-5,
    )


def test_weight_normalization_makes_the_length_of_the_weights_irrelevant():
    config, task, _, state = start(change(normalization="weight"))
    longer = {**state.params["hidden_1"], "kernel": 7 * state.params["hidden_1"]["kernel"]}
    np.testing.assert_allclose(
        models.apply(config, {**state.params, "hidden_1": longer}, task.probe).output,
        models.apply(config, state.params, task.probe).output,
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_dead_unit_under_weight_normalization_gets_no_gradient():
    config, task, key, state = start(change(normalization="weight", initial_bias=-50.0))
    _, snapshot = train_step(config, task, key, state)
    assert snapshot.batch.margin[12] < 0 and snapshot.gradient_norm[12] == 0


def test_a_residual_layer_passes_its_input_on():
    config, task, _, state = start(change(model="residual", hidden=(10, 10), biased_units=1))
    silent = {**state.params["hidden_2"], "bias": jnp.full(10, -1e3)}
    forward = models.apply(config, {**state.params, "hidden_2": silent}, task.probe)
    first = jax.nn.relu(forward.preactivations[0])
    output = state.params["output"]
    np.testing.assert_allclose(
        forward.output, first @ output["kernel"] + output["bias"][None], rtol=1e-5, atol=1e-6
    )


# --- Killed units ---------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(tenths=st.integers(0, 10), optimizer=st.sampled_from(["sgd", "momentum", "adam"]))
def test_exactly_the_wanted_share_is_killed_and_stays_dead(tenths, optimizer):
    config = change(hidden=(20, 10), killed_fraction=tenths / 10, optimizer=optimizer, steps=1)
    config = dataclasses.replace(config, probe_every=1)
    config, task, key, state = start(config)
    killed = [np.all(state.params[f"hidden_{i}"]["kernel"] == 0, axis=0) for i in (1, 2)]
    assert [k.sum() for k in killed] == [2 * tenths, tenths]
    after, _ = train_step(config, task, key, state)
    for i, gone in enumerate(killed, start=1):
        group = after.params[f"hidden_{i}"]
        assert np.all(group["kernel"][:, gone] == 0) and np.all(group["bias"][gone] == -1)


def test_a_larger_killed_share_contains_a_smaller_one():
    few, many = (start(change(killed_fraction=f))[3].params["hidden_1"] for f in (0.25, 0.5))
    assert np.all(many["bias"][few["bias"] == -1] == -1)


@pytest.mark.slow
def test_a_network_with_killed_units_is_the_network_without_them():
    config, task, key, state = start(change(killed_fraction=0.4, batch_size=None))
    kept = [np.flatnonzero(state.params[f"hidden_{i}"]["bias"] != -1) for i in (1, 2)]
    first, second, output = (state.params[n] for n in ("hidden_1", "hidden_2", "output"))
    pruned = {
        "hidden_1": {"kernel": first["kernel"][:, kept[0]], "bias": first["bias"][kept[0]]},
        "hidden_2": {
            "kernel": second["kernel"][np.ix_(kept[0], kept[1])],
            "bias": second["bias"][kept[1]],
        },
        "output": {**output, "kernel": output["kernel"][kept[1]]},
    }
    small = dataclasses.replace(config, hidden=tuple(len(k) for k in kept), killed_fraction=None)
    small_state = State(jnp.int32(0), pruned, optimizers.make_optimizer(small).init(pruned))
    for _ in range(5):
        state, seen = train_step(config, task, key, state)
        small_state, alone = train_step(small, task, key, small_state)
        np.testing.assert_allclose(seen.loss, alone.loss, rtol=1e-5)
    np.testing.assert_allclose(
        state.params["hidden_1"]["kernel"][:, kept[0]],
        small_state.params["hidden_1"]["kernel"],
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_units_killed_later_forget_their_momentum(optimizer):
    config = change(
        killed_fraction=0.5, killed_at=10, probe_every=10, steps=30, optimizer=optimizer
    )
    run = training.train(config, seed=3)
    deaths = np.split(np.asarray(run.history.first_death), [12])
    for layer, (count, died) in enumerate(zip((6, 5), deaths, strict=True), start=1):
        group = run.state.params[f"hidden_{layer}"]
        killed = np.all(group["kernel"] == 0, axis=0)  # no momentum has moved them since
        assert killed.sum() == count and np.all(group["bias"][killed] == -1)
        # Seen at the evaluation after the kill, but for those that had died before.
        assert np.all((died[killed] > 0) & (died[killed] <= 20)) and np.any(died[killed] == 20)


# --- Schedules, clipping, changing tasks ----------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [1, 1, 1, 1]),
        ({"schedule": "warmup", "warmup_steps": 20}, [0, 0.5, 1, 1]),
        ({"schedule": "cosine"}, [1, 0.9045085, 0.6545085, 0]),
        ({"schedule": "warmup_cosine", "warmup_steps": 10}, [0, 1, 0.8535534, 0]),
    ],
)
def test_schedules_at_steps_0_10_20_50(fields, wanted):
    config = validate(change(learning_rate=2.0, **fields))
    rates = [float(optimizers.scheduled(config, s).learning_rate) for s in (0, 10, 20, 50)]
    np.testing.assert_allclose(rates, 2 * np.asarray(wanted), rtol=1e-5, atol=1e-6)


def test_a_schedule_is_that_of_optax():
    config, task, key, state = start(
        change(schedule="cosine", optimizer="momentum", momentum=0.8, learning_rate=0.1)
    )
    schedule = optax.schedules.cosine_decay_schedule(0.1, 50)
    theirs = optax.sgd(schedule, momentum=0.8)
    params, memory = state.params, theirs.init(state.params)
    for step in range(10):
        indices = draw_batch(config, key, jnp.int32(step))
        _, _, gradients = loss_gradients(config, task, indices, params)
        updates, memory = theirs.update(gradients, memory)
        params = optax.apply_updates(params, updates)
        state, _ = train_step(config, task, key, state)
    chex.assert_trees_all_close(state.params, params, rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_length_of_a_step():
    config, task, key, state = start(change(clip_norm=1e-3, learning_rate=1.0))
    after, _ = train_step(config, task, key, state)
    length = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, state.params))
    np.testing.assert_allclose(length, 1e-3, rtol=1e-3)
    wide, *_, other = start(change(clip_norm=1e6, learning_rate=1.0))
    free = train_step(wide, task, key, other)[0]
    plain = train_step(start(change(learning_rate=1.0))[0], task, key, other)[0]
    chex.assert_trees_all_close(free.params, plain.params, rtol=1e-6)


def test_changing_digits_permute_their_features_and_keep_the_first_period():
    config, task, key, _ = start(change(change_every=25))
    at = lambda step: tasks.renewed(  # noqa: E731
        config, task, purpose_key(key, "task"), jnp.int32(step)
    )
    chex.assert_trees_all_equal(at(24), task)
    second = at(25)
    assert not np.array_equal(second.inputs, task.inputs)
    np.testing.assert_array_equal(np.sort(second.inputs, axis=1), np.sort(task.inputs, axis=1))
    chex.assert_trees_all_equal(at(49), second)


@pytest.mark.slow
def test_slow_bits_flip_one_a_period_and_the_target_network_stays():
    config, task, key, _ = start(
        change(task="random_bits", change_every=25, examples=64, steps=100)
    )
    at = lambda step: tasks.renewed(  # noqa: E731
        config, task, purpose_key(key, "task"), jnp.int32(step)
    )
    periods = [at(step) for step in (0, 25, 50, 75)]
    for before, after in zip(periods, periods[1:], strict=False):
        moved = np.flatnonzero(np.any(before.inputs != after.inputs, axis=0))
        assert len(moved) == 1 and moved[0] < tasks.SLOW_BITS
    rows = np.concatenate([p.inputs for p in periods])
    targets = np.concatenate([p.targets for p in periods])[:, 0]
    _, where = np.unique(rows, axis=0, return_inverse=True)
    for row in np.unique(where):  # equal inputs have equal targets in every period
        assert np.ptp(targets[where == row]) == 0


def test_random_labels_have_the_classes_as_often_and_nothing_to_do_with_the_inputs():
    plain = start(change(examples=1500))[1]
    random = start(change(examples=1500, task="digits_random_labels"))[1]
    np.testing.assert_array_equal(plain.inputs, random.inputs)
    every = lambda task: np.bincount(  # noqa: E731
        np.concatenate([task.targets, task.held_targets]), minlength=10
    )
    np.testing.assert_array_equal(every(plain), every(random))
    assert abs(np.mean(plain.targets == random.targets) - 0.1) < 0.05


@pytest.mark.slow
def test_the_dose_of_a_bad_scaling_is_what_it_says():
    shifted = start(change(input_scaling="shifted", scaling_dose=2.0))[1]
    varied = np.asarray(shifted.inputs).std(0) > 0
    np.testing.assert_allclose(np.asarray(shifted.inputs).mean(0), 2.0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(shifted.inputs).std(0)[varied], 1.0, rtol=1e-4)
    task = "breast_cancer"
    bad = start(change(task=task, input_scaling="one_bad_feature", scaling_dose=50.0))[1]
    np.testing.assert_allclose(np.asarray(bad.inputs).std(0)[0], 50.0, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(bad.inputs).std(0)[1:], 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"warmup_steps": 5}, "warmup_steps=5 is not used by schedule='constant'"),
        ({"schedule": "warmup"}, "warmup_steps=None"),
        ({"schedule": "warmup_cosine", "warmup_steps": 50}, "must be below decay_steps=50"),
        ({"schedule": "cosin"}, 'did you mean "cosine"'),
        ({"clip_norm": 0.0}, "clip_norm=0.0 must be finite and > 0"),
        ({"scaling_dose": 1.0}, "is not used by input_scaling='standardized'"),
        ({"killed_fraction": 1.5}, "killed_fraction=1.5 must be in"),
        ({"killed_at": 25}, "needs a killed_fraction"),
        ({"killed_fraction": 0.5, "killed_at": 30}, "multiple of probe_every=25"),
        ({"killed_fraction": 0.5, "normalization": "batch"}, "needs normalization='none'"),
        ({"change_every": 30}, "multiple of probe_every=25"),
        ({"change_every": 25, "task": "wine", "examples": 100}, "needs a task that can change"),
        ({"model": "resnet"}, 'did you mean "residual"'),
    ],
)
def test_bad_fields_are_named_with_the_remedy(fields, words):
    with pytest.raises(ValueError, match=words):
        validate(change(**fields))
