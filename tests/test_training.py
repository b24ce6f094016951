"""One run: gradients, optimizers, noise, traces, and the verb itself."""

import dataclasses
import functools
import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from relu_dynamics.config import Config
from relu_dynamics.engine import (
    columns,
    evaluation,
    initializers,
    interventions,
    memory,
    models,
    optimizers,
    probes,
    tasks,
    training,
)
from relu_dynamics.engine import step as step_
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.evaluation import evaluate
from relu_dynamics.engine.keys import PURPOSES, purpose_key, run_key
from relu_dynamics.engine.memory import available_bytes, trace_bytes
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.step import State, draw_batch, gradient_norms, loss_gradients, train_step
from relu_dynamics.sweeps.sweep import sweep

pytestmark = pytest.mark.core

SMALL = Config(
    task="teacher_student",
    examples=64,
    dimension=5,
    hidden=(8, 8),
    biased_units=4,
    initial_bias=-2.0,
    batch_size=16,
    steps=20,
    probe_every=5,
    sustain=5,
)


def setup(config, seed=0):
    key = run_key(0, seed)
    task_key = purpose_key(key, "task")
    task = tasks.make_task(config, task_key, tasks.load_data(config))
    return training.as_arrays(config), task, key


_start = jax.jit(training.start)
_evaluate = jax.jit(evaluate)


@jax.jit
def _gradient_norms(config, params, task):
    def loss(params):
        return tasks.loss(config, models.apply(config, params, task.inputs).output, task.targets)

    return gradient_norms(config, jax.grad(loss)(params))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bias", [-0.5, -1.5, -8.0])
@pytest.mark.parametrize("hidden", [(16,), (8, 8)])
def test_dead_on_the_training_set_is_the_same_as_zero_gradient(seed, bias, hidden):
    """Dead on all training examples <=> gradient of incoming weights and bias exactly 0.

    In the last hidden layer, where the error reaches every living unit. Below it, only "dead =>
    0" is a theorem: a living unit that feeds only dead ones gets nothing either.
    """
    config = dataclasses.replace(
        SMALL, initial_bias=bias, hidden=hidden, biased_layer=len(hidden), batch_size=None
    )
    config, task, key = setup(config, seed)
    params = _start(config, key).params
    zero = np.asarray(_gradient_norms(config, params, task)) == 0
    dead = np.asarray(_evaluate(config, params, task.inputs)[0].margin <= 0)
    last = slice(sum(hidden[:-1]), None)
    np.testing.assert_array_equal(zero[last], dead[last])
    assert np.all(zero[dead])
    assert dead[last].any() or bias > -8.0
    assert not dead[last].all()


def test_relu_has_derivative_zero_at_zero():
    assert jax.grad(ACTIVATIONS["relu"])(0.0) == 0.0
    assert jax.grad(lambda x: jnp.maximum(x, 0.0))(0.0) == 0.5  # why relu is not written so
    assert jax.grad(ACTIVATIONS["leaky_relu"])(0.0) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields", "reference"),
    [
        ("sgd", {}, lambda r: optax.sgd(r)),
        ("momentum", {}, lambda r: optax.sgd(r, momentum=0.9)),
        ("nesterov", {}, lambda r: optax.sgd(r, momentum=0.9, nesterov=True)),
        ("adam", {}, lambda r: optax.adam(r)),
        ("rmsprop", {}, lambda r: optax.rmsprop(r)),
        ("adamw", {"weight_decay": 0.01}, lambda r: optax.adamw(r, weight_decay=0.01)),
        (
            "sgd",
            {"weight_decay": 0.01},
            lambda r: optax.chain(optax.add_decayed_weights(0.01), optax.sgd(r)),
        ),
    ],
)
def test_optimizers_are_optax_with_and_without_vmap(name, fields, reference):
    """Three steps under vmap over rates == three steps of plain optax with a Python rate."""
    config = dataclasses.replace(SMALL, optimizer=name, **fields)
    _, task, key = setup(config)
    rates = [1e-3, 1e-2, 0.1]
    lanes = jax.tree.map(lambda v: jnp.full(3, v, jnp.float32), config)
    lanes = dataclasses.replace(lanes, learning_rate=jnp.asarray(rates, jnp.float32))

    axes = State(None, 0, 0)  # the step is shared: all lanes draw the same batches
    step = jax.jit(
        jax.vmap(
            lambda config, state: train_step(config, task, key, state)[0],
            in_axes=(0, axes),
            out_axes=axes,
        )
    )
    first = _start(config, key)
    state = first._replace(
        params=jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), first.params),
        optimizer=jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), first.optimizer),
    )
    for _ in range(3):
        state = step(lanes, state)
    found = state.params

    @jax.jit
    def gradients(params, chosen):
        x, y = task.inputs[chosen], task.targets[chosen]
        return jax.grad(lambda p: tasks.loss(config, models.apply(config, p, x).output, y))(params)

    for lane, rate in enumerate(rates):
        params = first.params
        optimizer = reference(rate)
        state = optimizer.init(params)
        for step in range(3):
            chosen = draw_batch(config, key, jnp.int32(step))
            gradient = gradients(params, chosen)
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        lane_params = jax.tree.map(lambda leaf, lane=lane: leaf[lane], found)
        # Batched and single matrix products round differently: a few units in the last place of
        # the largest entries; Adam divides by sqrt(v) and loosens small entries.
        chex.assert_trees_all_close(lane_params, params, rtol=2e-4, atol=2e-5)


def test_the_momentum_default_is_bit_equal_to_optax_adam():
    config = dataclasses.replace(SMALL, optimizer="adam")
    gradient = {"w": jnp.asarray([0.3, -2.0, 1e-4])}
    ours, reference = optimizers.make_optimizer(config), optax.adam(config.learning_rate)
    states = [optimizer.init(gradient) for optimizer in (ours, reference)]
    for _ in range(5):
        results = [
            optimizer.update(gradient, state, gradient)
            for optimizer, state in zip((ours, reference), states, strict=True)
        ]
        updates, states = zip(*results, strict=True)
        chex.assert_trees_all_equal(*updates)


@pytest.mark.slow
def test_a_run_is_its_steps():
    """`train` gives what a Python loop of train_step gives."""
    config, task, key = setup(SMALL)
    step = jax.jit(train_step)
    state, losses = training.start(config, key), []
    for _ in range(SMALL.steps):
        state, snapshot = step(config, task, key, state)
        losses.append(snapshot.loss)
    run = training.train(SMALL, trace_units=True)
    chex.assert_trees_all_close(run.state.params, state.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.trace.loss, losses, rtol=1e-5)


def same_step(*arguments):
    return train_step(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"hidden": (1,), "biased_layer": 1, "biased_units": 1}])
def test_a_run_of_a_step_around_the_step_is_the_run(change):
    config = dataclasses.replace(SMALL, **change)
    plain, wrapped = training.train(config), training.train(config, step=same_step)
    chex.assert_trees_all_equal(plain, wrapped)


def frozen_biases(config, task, key, state, indices):
    """A step that moves no bias."""
    after, snapshot = train_step(config, task, key, state, indices)
    groups = {
        name: group | {"bias": state.params[name]["bias"]} if "bias" in group else group
        for name, group in after.params.items()
    }
    return after._replace(params=groups), snapshot


@pytest.mark.slow
def test_a_run_scans_the_step_that_it_is_handed():
    """A step that freezes the biases gives what gradient descent written out in NumPy gives."""
    config = dataclasses.replace(
        SMALL, hidden=(8,), biased_layer=1, batch_size=None, learning_rate=0.1
    )
    made, task, key = setup(config)
    params = jax.tree.map(np.float64, training.start(made, key).params)
    first, last = params["hidden_1"], params["output"]
    x, y = np.float64(task.inputs), np.float64(task.targets)
    for _ in range(config.steps):
        z = x @ first["kernel"] + first["bias"]
        active = np.maximum(z, 0)
        error = (active @ last["kernel"] + last.get("bias", 0) - y) / len(x)
        through = (error @ last["kernel"].T) * (z > 0)
        last["kernel"] = last["kernel"] - 0.1 * active.T @ error
        first["kernel"] = first["kernel"] - 0.1 * x.T @ through
    found = training.train(config, step=frozen_biases).state.params
    chex.assert_trees_all_close(found, params, rtol=1e-5, atol=1e-6)
    moved = training.train(config).state.params["hidden_1"]["bias"] - first["bias"]
    assert np.abs(moved).max() > 1e-3  # without the freezing the biases do move


def lift_biases(config, task, key, state):
    return state._replace(params=models.with_shift(config, state.params, lambda bias: bias + 1.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "when, times",
    [
        (interventions.every(5, lift_biases), [5, 10, 15]),
        (interventions.every(jnp.float32(8), lift_biases), [8, 16]),
        (interventions.at(0, lift_biases), [0]),
        (interventions.at(7, lift_biases), [7]),
        (interventions.at(20, lift_biases), []),
    ],
)
def test_a_change_acts_before_the_steps_that_it_is_made_for(when, times):
    """At learning rate 0 nothing else moves the biases."""
    config = dataclasses.replace(SMALL, learning_rate=0.0, probe_every=1)
    run = training.train(config, step=when(train_step), trace_units=True)
    means = np.asarray(run.trace.probe_units.mean)[:, -1]
    rises = np.flatnonzero(np.diff(means) > 0.5)  # from one evaluation to the next
    np.testing.assert_array_equal(rises, times)
    np.testing.assert_allclose(means[-1] - means[0], len(times), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(1,), (8, 8)])
def test_a_change_under_vmap_is_the_change_of_every_lane(hidden):
    """Also when the lanes differ in how often it acts."""
    layers = {"hidden": hidden, "biased_layer": len(hidden), "biased_units": 1}
    config, task, key = setup(dataclasses.replace(SMALL, **layers))

    def step(config, *arguments):
        return interventions.every(config.clip_norm, lift_biases)(train_step)(config, *arguments)

    run = jax.jit(functools.partial(training.run, step=step))
    lanes = dataclasses.replace(
        jax.tree.map(lambda value: jnp.full(3, value), config), clip_norm=jnp.float32([3, 4, 50])
    )
    together = jax.vmap(run, (0, None, None))(lanes, task, key)
    for lane in range(3):
        own = jax.tree.map(lambda leaf, lane=lane: leaf[lane], (lanes, together))
        alone = run(own[0], task, key)
        chex.assert_trees_all_close(own[1].state, alone.state, rtol=1e-5, atol=1e-6)


def test_a_step_that_is_none_is_refused():
    with pytest.raises(ValueError, match="step='adam' must be a training step"):
        training.train(SMALL, step="adam")  # type: ignore[arg-type]


def test_trace_has_named_arrays_for_every_step_and_unit():
    run = training.train(SMALL, trace_units=True)
    units, steps, evaluations = SMALL.units, SMALL.steps, SMALL.probes + 1
    assert run.trace.batch_units.margin.shape == (steps, units)
    assert run.trace.gradient_norm.shape == (steps, units)
    assert run.trace.probe_units.minimum.shape == (evaluations, units)
    assert run.trace.probe_layers.dead_fraction.shape == (evaluations, 2)
    # A unit silent on the whole minibatch gets no gradient from it.
    silent = np.asarray(run.trace.batch_units.margin) <= 0
    assert silent.any()
    assert np.all(np.asarray(run.trace.gradient_norm)[silent] == 0)


def test_the_history_is_the_same_with_and_without_the_trace():
    with_trace = training.train(SMALL, trace_units=True)
    without = training.train(SMALL)
    chex.assert_trees_all_equal(with_trace.history, without.history)


@pytest.mark.slow
def test_a_longer_run_has_the_same_prefix():
    short = training.train(SMALL)
    long = training.train(dataclasses.replace(SMALL, steps=40))
    evaluations = SMALL.probes + 1
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x[:evaluations], long.trace.probe_layers), short.trace.probe_layers
    )
    np.testing.assert_array_equal(long.trace.loss[: SMALL.probes], short.trace.loss)


@pytest.mark.slow
def test_continuing_from_a_state_is_the_longer_run():
    first = training.train(SMALL, 3)
    second = training.train(SMALL, 3, state=first.state)
    long = training.train(dataclasses.replace(SMALL, steps=40), 3)
    chex.assert_trees_all_equal(second.state, long.state)


@pytest.mark.slow
def test_noise_moves_even_a_dead_unit_and_its_size_is_right():
    config = dataclasses.replace(
        SMALL,
        hidden=(64,),
        biased_layer=1,
        biased_units=64,
        initial_bias=-50.0,
        noise_scale=2.0,
        learning_rate=0.01,
    )
    before = _start(*_config_key(config)).params["hidden_1"]
    after = training.train(config).state.params["hidden_1"]
    moves = np.concatenate([np.ravel(after[k] - before[k]) for k in ("kernel", "bias")])
    # 384 moves of standard deviation 0.01 * 2 * sqrt(20): 5.5 standard errors of a deviation.
    expected = 0.01 * 2.0 * SMALL.steps**0.5
    assert abs(moves.std() / expected - 1) < 5.5 / (2 * moves.size) ** 0.5
    assert training.train(config).history.first_recovery.max() == NEVER


def _config_key(config):
    return training.as_arrays(config), run_key(0, 0)


@pytest.mark.slow
def test_frozen_upstream_does_not_move_and_the_rest_does():
    config = dataclasses.replace(SMALL, upstream_rate=0.0)
    start = _start(*_config_key(config))
    before, after = start.params, training.train(config, state=start).state.params
    chex.assert_trees_all_equal(before["hidden_1"], after["hidden_1"])
    assert not np.array_equal(before["output"]["kernel"], after["output"]["kernel"])


@pytest.mark.parametrize("targets", ["all", "weights", "biases"])
@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_decay_shrinks_what_it_should(targets, kind):
    """A dead network without gradients: only decay moves it, by (1 - rate decay) per step."""
    config = Config(weight_decay=0.5, decay_kind=kind, decay_targets=targets, learning_rate=0.1)
    optimizer = optimizers.make_optimizer(config)
    before = {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full(2, -3.0)}
    params, state = before, optimizer.init(before)
    for _ in range(5):
        zero = jax.tree.map(jnp.zeros_like, params)
        updates, state = optimizer.update(zero, state, params)
        params = optax.apply_updates(params, updates)
    factor = (1 - 0.1 * 0.5) ** 5
    for name, decays in (("kernel", targets != "biases"), ("bias", targets != "weights")):
        expected = np.asarray(before[name]) * (factor if decays else 1.0)
        np.testing.assert_allclose(params[name], expected, rtol=1e-6)


@pytest.mark.slow
def test_the_outside_gradient_pushes_only_the_biased_units():
    config = dataclasses.replace(
        SMALL,
        hidden=(8,),
        biased_layer=1,
        biased_units=2,
        initial_bias=-50.0,
        outside_gradient=-3.0,
    )
    after = training.train(config).state.params["hidden_1"]["bias"]
    np.testing.assert_allclose(after[:2], -50 + 0.1 * 3 * SMALL.steps, rtol=1e-5)


def test_sequential_batches_go_through_the_examples_in_order():
    config = dataclasses.replace(SMALL, batch_order="sequential")
    drawn = [draw_batch(config, run_key(0, 0), jnp.int32(t)) for t in range(5)]
    np.testing.assert_array_equal(np.concatenate(drawn), np.arange(80) % 64)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(8, 8), (1,)], ids=["layers", "one unit"])
def test_cells_with_independent_batches_are_runs_of_their_own(hidden):
    """A cell's draws follow from its own numbers: they differ from its neighbours', do not depend
    on what else is in the grid, and are those of the run alone."""
    config = dataclasses.replace(
        SMALL, batch_order="independent", hidden=hidden, biased_layer=1, biased_units=1,
        initial_bias=-9.0, steps=20,
    )  # fmt: skip
    axes = {"learning_rate": [0.01, 0.1], "initial_bias": [-9.0, -0.1]}
    result = sweep(config, axes, 2, lanes=4)
    few = sweep(config, {"learning_rate": [0.1], "initial_bias": [-9.0]}, 2, lanes=4)
    cell = {"learning_rate": 0.1, "initial_bias": -9.0}
    xr.testing.assert_equal(result.sel(cell).batch_mean_sum, few.sel(cell).batch_mean_sum)
    alone = training.train(dataclasses.replace(config, learning_rate=0.1), 1)
    np.testing.assert_allclose(
        result.sel(cell).sel(seed=1).batch_mean_sum, alone.history.batch_mean_sum, rtol=1e-4
    )
    key = run_key(0, 1)
    drawn = {
        (rate, bias): np.asarray(
            draw_batch(
                dataclasses.replace(config, learning_rate=rate, initial_bias=bias), key, step
            )
        ).tolist()
        for rate in axes["learning_rate"]
        for bias in axes["initial_bias"]
        for step in [jnp.int32(3)]
    }
    assert len({str(batch) for batch in drawn.values()}) == 4


def test_independent_batches_are_uniform_and_uncorrelated_between_cells():
    """Mean and correlation of the indices of 200 cells, each within 5 standard errors."""
    config = dataclasses.replace(SMALL, batch_order="independent")
    key, step = run_key(0, 0), jnp.int32(0)
    rates = jnp.linspace(0.01, 0.02, 200)
    draw = lambda rate: draw_batch(  # noqa: E731
        dataclasses.replace(training.as_arrays(config), learning_rate=rate), key, step
    )
    drawn = np.asarray(jax.vmap(draw)(rates), float)
    standard = (drawn - (config.examples - 1) / 2) / ((config.examples**2 - 1) / 12) ** 0.5
    assert abs(standard.mean()) < 5 / standard.size**0.5
    neighbours = standard[1:] * standard[:-1]
    assert abs(neighbours.mean()) < 5 / neighbours.size**0.5


def test_keys_do_not_alias():
    """Seeds beyond 2^32 do not wrap, and purposes and steps of seeds do not meet."""
    keys = [run_key(0, seed) for seed in (0, 1, 2**32, 2**32 + 1)]
    keys += [run_key(1, 0)]
    keys += [purpose_key(keys[0], purpose) for purpose in PURPOSES]
    data = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}
    assert len(data) == len(keys)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["batch", "layer", "rms", "group"])
def test_normalized_layers_start_with_the_shift_and_unit_spread(normalization):
    config = dataclasses.replace(SMALL, normalization=normalization, initial_bias=-1.5)
    config, task, key = setup(config)
    params = _start(config, key).params
    z = models.apply(config, params, task.inputs).preactivations[1]
    spread = np.asarray(z[:, :4] + 1.5)
    if normalization == "batch":
        np.testing.assert_allclose(spread.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(spread.std(0), 1, rtol=1e-3)
    assert np.all(np.abs(spread) <= SMALL.hidden[1] ** 0.5 * 4)  # Samuelson's inequality
    assert np.all(np.isfinite(z))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation_has_its_gradient(activation):
    """The parameter gradient against a central difference along a random direction."""
    config, task, key = setup(dataclasses.replace(SMALL, activation=activation, initial_bias=-0.4))
    params = _start(config, key).params
    leaves, tree = jax.tree.flatten(params)
    draws = [jax.random.normal(jax.random.fold_in(key, i), leaf.shape) for i, leaf in
             enumerate(leaves)]  # fmt: skip
    direction = jax.tree.unflatten(tree, draws)
    # A threshold learns by an estimate that is no derivative: tests/test_autoencoders.py has it.
    direction |= {n: 0 * v for n, v in direction.items() if n.startswith("log_threshold")}
    draws = jax.tree.leaves(direction)

    @jax.jit
    def both(params):
        at = lambda scale: jax.tree.map(lambda p, d: p + scale * d, params, direction)  # noqa: E731
        loss = lambda p: loss_gradients(config, task, jnp.arange(16), p)[0]  # noqa: E731
        slope = sum(
            jnp.vdot(g, d)
            for g, d in zip(jax.tree.leaves(jax.grad(loss)(params)), draws, strict=True)
        )
        return slope, (loss(at(2e-4)) - loss(at(-2e-4))) / 4e-4

    found, wanted = both(params)
    # Central differences in float32: 1e-7 of the loss over 4e-4, and kinks within the step.
    np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "initializer",
    [
        name
        for name in initializers.INITIALIZERS
        if name not in ("randomized_asymmetric", "data_dependent", "zeros", "ones", "minus_ones")
    ],
)
def test_initializers_have_their_variance(initializer):
    config = dataclasses.replace(SMALL, hidden=(200, 300), initializer=initializer)
    kernel = training.start(*_config_key(config)).params["hidden_2"]["kernel"]
    variance = {
        "he_normal": 2 / 200, "he_uniform": 2 / 200, "xavier_normal": 2 / 500,
        "xavier_uniform": 2 / 500, "lecun_normal": 1 / 200, "orthogonal": 2 / 300,
        "too_small": 0.02 / 200, "too_large": 200 / 200, "torch_default": 1 / 600,
    }[initializer]  # fmt: skip
    # 60,000 entries: the relative standard error of a variance is 0.006.
    assert abs(np.var(kernel) / variance - 1) < 0.035


def test_a_trace_that_does_not_fit_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(ValueError, match="GiB are free; use trace_units=False"):
        training.train(SMALL, trace_units=True)


def test_what_is_no_state_is_refused():
    with pytest.raises(ValueError, match="state=3 must be a State"):
        training.train(SMALL, state=3)


def test_available_memory_is_less_than_all_of_it():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < available_bytes() <= total


def test_memory_estimate_of_a_trace_covers_what_it_holds():
    run = training.train(SMALL, trace_units=True)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(run.trace))
    assert held <= trace_bytes(SMALL, True) <= 2.5 * held


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu"])
def test_one_unit_networks_as_columns_are_the_networks(activation, output_bias):
    """The fast form under vmap == the obvious form, gradients and statistics, to rounding."""
    config = dataclasses.replace(
        SMALL, hidden=(1,), biased_layer=1, biased_units=1, initial_bias=-0.3,
        activation=activation, output_bias=output_bias,
    )  # fmt: skip
    config, task, key = setup(config)
    indices = jnp.arange(13)
    params = [_start(config, run_key(0, seed)).params for seed in range(5)]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    fast = jax.jit(jax.vmap(step_.batch_gradients, (None, None, None, 0)))(
        config, task, indices, lanes
    )
    plain = jax.jit(loss_gradients)
    for lane, each in enumerate(params):
        loss, z, gradients = plain(config, task, indices, each)
        obvious = (loss, probes.unit_statistics(z), gradients)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, lane=lane: leaf[lane], fast), obvious, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("optimizer", "lanes"),
    [
        ("momentum", 3),
        ("adam", 1024),  # rows of 4 KiB get spare columns
        pytest.param("adam", 3, marks=pytest.mark.slow),
        pytest.param("momentum", 1024, marks=pytest.mark.slow),
    ],
)
def test_whole_runs_of_one_unit_as_columns_are_the_runs(optimizer, lanes, monkeypatch):
    """Lanes on the last axis and evaluations on all lanes as one layer == `jax.vmap` of the obvious
    form: the same events, numbers to rounding, and a diverged lane stays by itself."""
    config = dataclasses.replace(
        SMALL, hidden=(1,), biased_layer=1, biased_units=1, optimizer=optimizer,
        steps=20, probe_every=5, sustain=5,
    )  # fmt: skip
    config, task, key = setup(config)
    rates = np.geomspace(1e-3, 0.1, lanes).astype(np.float32)
    rates[1] = 1e30
    configs = dataclasses.replace(
        jax.tree.map(lambda value: jnp.full(lanes, value), config),
        learning_rate=jnp.asarray(rates),
        initial_bias=jnp.linspace(-2.0, 0.5, lanes),
    )
    train = lambda: jax.jit(jax.vmap(training.run, (0, None, None)))(configs, task, key)  # noqa: E731
    fast = train()
    monkeypatch.setattr(training, "lanes_last", columns.scan_stretch)
    monkeypatch.setattr(evaluation, "evaluate_columns", lambda config, plain, statistics_of: plain)
    monkeypatch.setattr(step_, "all_units_at_once", lambda config, plain: plain)
    obvious = train()
    assert (fast.history.diverged_at[1] >= 0) and (fast.history.diverged_at[0] < 0)
    fine = np.asarray(obvious.history.diverged_at) < 0
    for found, wanted in zip(jax.tree.leaves(fast), jax.tree.leaves(obvious), strict=True):
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        if found.ndim and found.shape[0] == lanes:
            found, wanted = np.asarray(found)[fine], np.asarray(wanted)[fine]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(fast.history.diverged_at, obvious.history.diverged_at)


def test_one_unit_networks_with_their_own_examples_are_not_mixed_up():
    config = dataclasses.replace(SMALL, hidden=(1,), biased_layer=1, biased_units=1)
    config, task, key = setup(config)
    params = _start(config, key).params
    draws = jnp.arange(12).reshape(3, 4)
    batch_gradients = jax.jit(step_.batch_gradients)
    found = jax.vmap(batch_gradients, in_axes=(None, None, 0, None))(config, task, draws, params)
    for lane in range(3):
        wanted = batch_gradients(config, task, draws[lane], params)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, lane=lane: leaf[lane], found), wanted, rtol=1e-6
        )


def test_batches_are_independent_draws_with_replacement():
    """Every example is drawn Binomial(draws, 1 / examples) often, and two steps share an example
    in a place Binomial(places, 1 / examples) often: within 5.5 standard errors."""
    config = dataclasses.replace(SMALL, batch_size=16)
    steps, chance = 4000, 1 / config.examples
    draw = jax.vmap(lambda step: draw_batch(config, run_key(0, 0), step))
    drawn = np.asarray(draw(jnp.arange(steps)))
    counts = np.bincount(drawn.ravel(), minlength=config.examples)
    error = np.sqrt(drawn.size * chance * (1 - chance))
    assert len(counts) == config.examples
    assert (abs(counts - drawn.size * chance) < 5.5 * error).all()
    for apart in (1, 2, 7):
        same = (drawn[apart:] == drawn[:-apart]).sum()
        places = drawn[apart:].size
        assert abs(same - places * chance) < 5.5 * np.sqrt(places * chance * (1 - chance))


@pytest.mark.parametrize("count", [0, -5, 2.5, True, "5", None, float("nan")])
def test_steps_that_are_none_are_refused(count):
    with pytest.raises(ValueError, match=r"^count=.* must be a whole number of steps >= 1"):
        interventions.every(count, lift_biases)
    with pytest.raises(ValueError, match=r"^when=.* must be a whole number of steps >= 0"):
        interventions.at(count if count != 0 else -1, lift_biases)


def test_a_step_that_returns_something_else_is_refused():
    with pytest.raises(ValueError, match="^step=.* returned NoneType; a step returns"):
        training.train(SMALL, step=lambda *arguments: None)
