"""The kernel: the same numbers as float64 NumPy and as the plain path, and nothing else."""

import dataclasses
import functools
import json
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relu_dynamics import store
from relu_dynamics.config import FIELDS, Config
from relu_dynamics.engine import models, native, optimizers, outcomes, tasks, training
from relu_dynamics.engine.activations import ACTIVATIONS, Activation
from relu_dynamics.engine.evaluation import probe_statistics
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.engine.native import build, coverage
from relu_dynamics.engine.native.glue import SEEN, call, decay_targets
from relu_dynamics.engine.step import State
from relu_dynamics.engine.training import train
from relu_dynamics.engine.validation import validate
from relu_dynamics.grid import grid_from_identity, make_grid
from relu_dynamics.sweeps.blocks import run_block
from relu_dynamics.sweeps.sweep import sweep
from tests import kernel_reference
from tests.verify.flips import Flips, flips_of, no_more

BOUND = 2e-4  # on |a - b| / (1 + |b|) after these few steps
EXAMPLES, STEPS, RATES = 40, 8, (0.0, 0.003, 0.03)
WIDTHS = 1, 2, 4, 7, 16, 20

# Kinds of targets of the tests' own tasks: (outputs, are they classes).
OUTPUTS = {
    "regression": (1, False),
    "two outputs": (2, False),
    "nine outputs": (9, False),
    "33 outputs": (33, False),
    "two classes": (2, True),
    "classes": (3, True),
    "19 classes": (19, True),
}


@st.composite
def configs(draw) -> Config:
    """Any config that the kernel covers, small."""
    kind = draw(st.sampled_from([*OUTPUTS]))
    hidden = tuple(draw(st.lists(st.integers(1, 37), min_size=1, max_size=3)))
    optimizer = draw(st.sampled_from(["sgd", "momentum", "nesterov", "adam", "adamw"]))
    decays = optimizer == "adamw" or draw(st.booleans())
    fields = {
        "hidden": hidden,
        "activation": draw(st.sampled_from(["relu", "leaky_relu"])),
        "hidden_bias": tuple(draw(st.lists(st.booleans(), min_size=len(hidden),
                                           max_size=len(hidden)))),
        "output_bias": draw(st.booleans()),
        "optimizer": optimizer,
        "momentum": draw(st.sampled_from([None, 0.0, 0.5, 0.99])) if optimizer != "sgd" else None,
        "weight_decay": 0.1 if decays else None,
        "decay_targets": draw(st.sampled_from(["all", "weights", "biases"])) if decays else "all",
        "batch_size": draw(st.sampled_from([None, 1, 5, 16, 33])),
        "biased_layer": 1, "biased_units": 1, "examples": EXAMPLES, "steps": STEPS,
        "probe_every": STEPS, "implementation": "kernel", "initial_bias": 0.0,
    }  # fmt: skip
    if decays and optimizer != "adamw":
        fields["decay_kind"] = draw(st.sampled_from(["coupled", "decoupled"]))
    if draw(st.integers(0, 4)) == 0:
        fields |= {"schedule": "warmup_cosine", "warmup_steps": 3, "decay_steps": 7}
    return Config(task=f"kernel test {kind} {draw(st.sampled_from(WIDTHS))}", **fields)


@pytest.fixture(autouse=True)
def own_tasks():
    """A task of every kind and dimension that `configs` names."""
    rng = np.random.default_rng(0)
    for width in WIDTHS:
        x = rng.normal(size=(EXAMPLES, width)).astype(np.float32)
        for name, (outputs, classes) in OUTPUTS.items():
            y = rng.normal(size=(EXAMPLES, outputs)).astype(np.float32)
            targets = y.argmax(1).astype(np.int32) if classes else y
            tasks.TASKS[f"kernel test {name} {width}"] = tasks.TaskKind(
                outputs, classes, lambda data=(x, targets): data, None
            )
    yield
    for name in [name for name in tasks.TASKS if name.startswith("kernel test")]:
        del tasks.TASKS[name]


def drawn_params(config: Config, rng, lanes: int) -> dict:
    widths = [tasks.input_dimension(config), *config.hidden, tasks.TASKS[config.task].outputs]
    assert isinstance(config.hidden_bias, tuple)
    biases = [*config.hidden_bias, config.output_bias]
    tree = {}
    for i, (fan_in, width, bias) in enumerate(zip(widths, widths[1:], biases, strict=False)):
        name = models.layer_name(i + 1) if i < len(config.hidden) else "output"
        tree[name] = {"kernel": rng.normal(size=(lanes, fan_in, width)) / np.sqrt(fan_in)}
        if bias:
            tree[name]["bias"] = rng.normal(size=(lanes, width))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def kernel_run(config: Config, params, inputs, targets, batches, rates):
    """(parameters, history, `Losses`) of lanes, by the kernel alone."""
    lanes, units = len(rates), config.units
    zeros = np.zeros((lanes, units), np.float32)
    fields = dict.fromkeys(outcomes.History._fields, zeros)
    fields |= {"batch_peak": zeros - np.inf, "batch_first_active": zeros.astype(np.int32) - 1}
    task = tasks.Task(jnp.asarray(inputs), jnp.asarray(targets), inputs, inputs, targets)

    @jax.jit
    def run(rates, params, batches):
        traced = dataclasses.replace(config, learning_rate=rates)
        optimizer = jax.vmap(optimizers.make_optimizer(config).init)(params)
        state = State(jnp.int32(0), params, optimizer)
        history = outcomes.History(**jax.tree.map(jnp.asarray, fields))
        return call(lanes, traced, task, state, history, batches)

    (state, history), losses = run(jnp.asarray(rates, jnp.float32), params, batches)
    return state.params, history, losses


def difference(a, b) -> float:
    a, b = np.float64(a), np.float64(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.where(same, 0, np.abs(a - b) / (1 + np.abs(b))).max(initial=0))


def check_config(config: Config, seed: int, *, examples: int = EXAMPLES, rates=RATES) -> bool:
    """Trains on the task's first `examples`, a lane for each of the `rates`. Returns whether it
    could be compared: not where a z is so near the kink that rounding may put it on the other side.
    """
    config = validate(config)
    kind = tasks.TASKS[config.task]
    data = tasks.load_data(config)
    assert data is not None
    inputs, targets = (a[:examples] for a in data)
    rng = np.random.default_rng(seed)
    size = config.batch_size or examples
    batches = rng.integers(0, examples, (config.steps, size)).astype(np.int32)
    params = drawn_params(config, rng, len(rates))
    after, history, losses = kernel_run(config, params, inputs, targets, batches, rates)
    for lane, rate in enumerate(rates):
        layers = [
            (np.asarray(g["kernel"][lane]), np.asarray(g["bias"][lane]) if "bias" in g else None)
            for g in (params[name] for name in groups(config))
        ]
        targeted = decay_targets(config)
        factors = [
            float(optimizers.scheduled(config, jnp.int32(t)).learning_rate) / config.learning_rate
            for t in range(config.steps)
        ]
        momentum = 0.9 if config.momentum is None else config.momentum
        found, seen = kernel_reference.train(
            layers, np.float64(inputs), np.float64(targets) if not kind.classes else targets,
            batches, rates=np.float32(rate) * np.array(factors),
            rule=config.optimizer.removesuffix("w"), momentum=momentum,
            decay=config.weight_decay or 0.0, decoupled=optimizers.decay_is_decoupled(config),
            decays=("weights" in targeted, "biases" in targeted),
            slope=ACTIVATIONS[config.activation].slope_below, classes=kind.classes,
        )  # fmt: skip
        if seen["nearest"] < 3e-6:
            return False
        for name, layer in zip(groups(config), found, strict=True):
            for key, value in zip(("kernel", "bias"), layer, strict=True):
                if value is not None:
                    assert difference(after[name][key][lane], value) < BOUND, (name, key)
        assert difference(losses.mean[lane], np.mean(seen["losses"])) < BOUND
        assert losses.diverged_at[lane] == outcomes.NEVER
        wanted = seen["mean"], seen["peak"], seen["active"], seen["first"]
        for field, value in zip(SEEN, wanted, strict=True):
            assert difference(getattr(history, field)[lane], value) < BOUND, field
    return True


def groups(config: Config) -> list[str]:
    return [models.layer_name(i + 1) for i in range(len(config.hidden))] + ["output"]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(configs(), st.integers(0, 2**16))
def test_any_network_is_that_of_float64(config, seed):
    assume(check_config(config, seed))


@pytest.mark.slow
@settings(max_examples=240, deadline=None, derandomize=True)
@given(configs(), st.integers(0, 2**16))
def test_240_networks_are_those_of_float64(config, seed):
    assume(check_config(config, seed))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.sampled_from([1, 2, 4, 7, 16]), st.booleans(), st.sampled_from(["relu", "leaky_relu"]),
       st.sampled_from(["sgd", "momentum", "nesterov", "adam"]), st.integers(0, 99))  # fmt: skip
def test_one_unit_is_that_of_float64(width, output_bias, activation, optimizer, seed):
    config = Config(
        task=f"kernel test regression {width}", hidden=(1,), hidden_bias=(True,),
        output_bias=output_bias, activation=activation, optimizer=optimizer, biased_layer=1,
        biased_units=1, initial_bias=0.0, examples=EXAMPLES, batch_size=33, steps=STEPS,
        probe_every=STEPS, implementation="kernel",
    )  # fmt: skip
    assume(check_config(config, seed))


ODD = {"hidden": (9, 3), "hidden_bias": (True, True)}
EDGES = {
    "one example": (ODD, {"examples": 1}),
    "one lane": (ODD, {"rates": (0.03,)}),
    "33 lanes": (ODD, {"rates": np.geomspace(1e-4, 0.03, 33).tolist()}),
    "33 lanes of one unit": ({}, {"rates": np.geomspace(1e-4, 0.03, 33).tolist()}),
    "one unit, one lane, one example": ({"batch_size": 1}, {"examples": 1, "rates": (0.03,)}),
    "one step, a batch of one": ({**ODD, "steps": 1, "probe_every": 1, "batch_size": 1}, {}),
    "a batch of all": ({**ODD, "batch_size": None}, {}),
    "odd widths": ({"hidden": (1, 3, 7, 9, 17), "hidden_bias": (True,) * 5}, {}),
    "six layers": ({"hidden": (6,) * 6, "hidden_bias": (True,) * 6}, {}),
    "sixteen inputs of one unit": ({"task": "kernel test regression 16"}, {}),
    "33 outputs": ({**ODD, "task": "kernel test 33 outputs 7"}, {}),
    "19 classes": ({**ODD, "task": "kernel test 19 classes 7"}, {}),
    "two classes of one unit": ({"task": "kernel test two classes 1"}, {}),
    "no momentum": ({**ODD, "optimizer": "nesterov", "momentum": 0.0}, {}),
    "all momentum": ({**ODD, "optimizer": "momentum", "momentum": 0.99999994}, {}),
    "Adam without momentum": ({**ODD, "optimizer": "adam", "momentum": 0.0}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EDGES)
def test_an_edge_is_that_of_float64(name):
    fields, more = EDGES[name]
    config = Config(
        **{
            "task": "kernel test regression 4", "hidden": (1,), "hidden_bias": (True,),
            "biased_layer": 1, "biased_units": 1, "initial_bias": 0.0, "examples": EXAMPLES,
            "batch_size": 7, "steps": STEPS, "probe_every": STEPS, "implementation": "kernel",
        } | fields
    )  # fmt: skip
    assert check_config(config, 5, **more)


# ---- Beside the plain path ----

SMALL = Config(
    task="teacher_student", examples=64, dimension=4, hidden=(8, 8), biased_units=4, batch_size=16,
    probe_every=10, steps=40, sustain=20, optimizer="momentum",
)  # fmt: skip
UNIT = dataclasses.replace(
    SMALL, hidden=(1,), biased_layer=1, biased_units=1, output_bias=False, optimizer="adam"
)
AXES = {"learning_rate": [1e-3, 0.03, 1e30], "initial_bias": [-3.0, -0.5]}


def block(config, **more):
    return run_block(make_grid(config, AXES, 1, **more), 0)


def by(implementation, config):
    return dataclasses.replace(config, implementation=implementation)


KILLED = dataclasses.replace(SMALL, killed_fraction=0.5, input_scaling="shifted", scaling_dose=2.0)


@pytest.mark.parametrize("config", [SMALL, UNIT, KILLED], ids=["network", "unit", "killed"])
def test_a_block_agrees_with_the_plain_path_and_diverges_at_the_same_step(config):
    plain, kernel = block(by("plain", config)), block(by("kernel", config))
    diverged = plain.history.diverged_at
    assert (diverged >= 0).any() and (diverged < 0).any()
    np.testing.assert_array_equal(kernel.history.diverged_at, diverged)
    np.testing.assert_array_equal(
        outcomes.classify(kernel.history), outcomes.classify(plain.history)
    )
    whole = diverged < 0
    for a, b in zip(jax.tree.leaves(kernel), jax.tree.leaves(plain), strict=True):
        assert difference(a[whole], b[whole]) < BOUND


FULL = 0.99999994  # the momentum next to 1
PLAIN_EDGES = {
    "a look at every step": ({"probe_every": 1, "steps": 5, "sustain": 2}, {}),
    "six layers": ({"hidden": (8,) * 6}, {}),
    "one lane": ({}, {"lanes": 1}),
    "a batch of all, ten classes": ({"task": "digits", "dimension": 16, "batch_size": None}, {}),
    "heavy-ball": ({"momentum": 0.5}, {"more": {"momentum": [0.0, FULL]}}),
    "Nesterov": ({"optimizer": "nesterov"}, {"more": {"momentum": [0.0, FULL]}}),
    "Adam": ({"optimizer": "adam"}, {"more": {"momentum": [0.0, 0.9999, FULL]}}),
    "enormous weights": ({}, {"more": {"weight_scale": [1e15, 1e20, 9e37]}}),
    "huge rates": ({}, {"more": {"learning_rate": [30.0, 1e3, 1e10, 1e20, 9e37]}}),
    "huge rates of one unit": (
        {"hidden": (1,), "biased_layer": 1, "biased_units": 1},
        {"more": {"learning_rate": [30.0, 1e3, 1e10, 1e20, 9e37]}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN_EDGES)
def test_an_edge_agrees_with_the_plain_path(name):
    """Outcomes, and the step at which a run diverges; calm runs in every number."""
    fields, given = PLAIN_EDGES[name]
    config = dataclasses.replace(SMALL, **fields)
    axes = AXES | given.get("more", {})
    plain, kernel = (
        run_block(make_grid(by(i, config), axes, 1, lanes=given.get("lanes")), 0)
        for i in ("plain", "kernel")
    )
    np.testing.assert_array_equal(kernel.history.diverged_at, plain.history.diverged_at)
    np.testing.assert_array_equal(
        outcomes.classify(kernel.history), outcomes.classify(plain.history)
    )
    whole = plain.history.diverged_at < 0
    for a, b in zip(jax.tree.leaves(kernel), jax.tree.leaves(plain), strict=True):
        assert difference(a[whole], b[whole]) < BOUND


@st.composite
def grids_of_configs(draw) -> tuple[Config, dict]:
    """A network that the kernel covers, and axes of 20 configs of it."""
    hidden = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)))
    optimizer = draw(st.sampled_from(["sgd", "momentum", "nesterov", "adam", "adamw"]))
    layer = draw(st.integers(1, len(hidden)))
    config = Config(
        task=draw(st.sampled_from(["teacher_student", "digits"])), examples=64, dimension=5,
        hidden=hidden, activation=draw(st.sampled_from(["relu", "relu", "leaky_relu"])),
        biased_layer=layer, biased_units=draw(st.integers(1, hidden[layer - 1])),
        optimizer=optimizer, batch_size=draw(st.sampled_from([None, 1, 16])),
        weight_decay=0.01 if optimizer == "adamw" else draw(st.sampled_from([None, 0.01])),
        steps=200, probe_every=20, sustain=60,
    )  # fmt: skip
    if config.task == "digits":
        config = dataclasses.replace(config, dimension=16)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    fastest = 0.0 if optimizer in ("adam", "adamw") else 1.0
    return config, {
        "learning_rate": (10 ** rng.uniform(-3, fastest, 5)).tolist(),
        "initial_bias": [-9.0, *rng.uniform(-4, 0, 3).tolist()],  # the first: dead from the start
    }


@pytest.mark.slow
def test_outcomes_of_240_configs_flip_no_more_than_between_two_numbers_of_lanes():
    """Two seeds of each config by the kernel, by plain JAX, and by plain JAX in blocks of 4."""
    found = []

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(grids_of_configs())
    def compare(drawn):
        config, axes = drawn
        base, narrow, kernel = (
            sweep(by(i, config), axes, 2, lanes=lanes)
            for i, lanes in (("plain", 20), ("plain", 4), ("kernel", 20))
        )
        found.append((flips_of(base, kernel), flips_of(base, narrow)))

    compare()
    ours, theirs = (Flips(*map(sum, zip(*each, strict=True))) for each in zip(*found, strict=True))
    print(ours, theirs, sep="\n")  # docs/speed.md quotes them
    assert len(found) >= 12 and ours.runs >= 480
    assert no_more(ours.runs_with_another_outcome, theirs.runs_with_another_outcome)
    assert no_more(ours.runs_with_another_divergence_step, theirs.runs_with_another_divergence_step)
    assert ours.units_with_another_outcome < 0.05 * ours.units


@pytest.mark.slow
def test_a_run_alone_is_that_of_the_plain_path():
    plain, kernel = (train(by(i, dataclasses.replace(SMALL, initial_bias=-1.0)))
                     for i in ("plain", "kernel"))  # fmt: skip
    for a, b in zip(jax.tree.leaves(kernel), jax.tree.leaves(plain), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert difference(a, b) < BOUND


def test_vmap_over_seeds_too_is_every_seed_by_itself():
    """As ensembles train: the lanes of the outer vmap have data and minibatches of their own."""
    config = dataclasses.replace(by("kernel", SMALL), steps=2 * SMALL.probe_every)
    rates = jnp.array([0.01, 0.1], jnp.float32)
    data = tasks.load_data(config)

    def of_seed(key, task):
        cell = lambda rate: training.run(dataclasses.replace(config, learning_rate=rate), task, key)  # noqa: E731
        return jax.vmap(cell)(rates)

    keys = jax.random.split(jax.random.key(3), 2)
    made = [tasks.make_task(config, purpose_key(key, "task"), data) for key in keys]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
    together = jax.jit(jax.vmap(of_seed))(keys, stacked)
    alone = [jax.jit(of_seed)(key, task) for key, task in zip(keys, made, strict=True)]
    for name in SEEN:  # what the kernel alone computes
        one_by_one = [getattr(found.history, name) for found in alone]
        np.testing.assert_array_equal(getattr(together.history, name), np.stack(one_by_one))


@pytest.mark.slow
def test_a_lane_does_not_depend_on_its_neighbours_or_its_place():
    wide, narrow = block(by("kernel", SMALL), lanes=6), block(by("kernel", SMALL), lanes=4)
    for name in SEEN:  # what the kernel alone computes
        np.testing.assert_array_equal(
            getattr(wide.history, name)[:4], getattr(narrow.history, name)
        )


def test_what_is_not_a_number_stays():
    """A NaN among the inputs is in the loss, the mean and the peak at the step that sees it."""
    config = validate(Config(task="kernel test regression 4", hidden=(5,), hidden_bias=(True,),
                             biased_layer=1, biased_units=1, initial_bias=0.0, examples=EXAMPLES,
                             batch_size=7, steps=STEPS, probe_every=STEPS))  # fmt: skip
    data = tasks.load_data(config)
    assert data is not None
    inputs, targets = (np.array(a) for a in data)
    for bad in (np.nan, np.inf):
        inputs[11] = bad
        batches = np.zeros((STEPS, 7), np.int32)
        batches[3, 6] = 11
        rng = np.random.default_rng(0)
        params = drawn_params(config, rng, 2)
        _, history, losses = kernel_run(config, params, inputs, targets, batches, [0.01, 0.1])
        assert not np.isfinite(losses.mean).any()
        np.testing.assert_array_equal(losses.diverged_at, 3)
        assert not np.isfinite(np.asarray(history.batch_mean_sum)).any()
        assert not np.isfinite(np.asarray(history.batch_peak)).all()


@pytest.mark.parametrize("hidden", [(5,), (5, 7)])
def test_a_lane_that_diverges_leaves_its_neighbours_alone(hidden):
    """With a minibatch that fills no block of rows: what an infinite weight makes of those left
    over is in no sum."""
    config = validate(Config(task="kernel test regression 4", hidden=hidden,
                             activation="leaky_relu",
                             hidden_bias=(True,) * len(hidden), biased_layer=1, biased_units=1,
                             initial_bias=0.0, examples=EXAMPLES, batch_size=7, steps=STEPS,
                             probe_every=STEPS))  # fmt: skip
    inputs, targets = tasks.load_data(config)
    rng = np.random.default_rng(0)
    batches = rng.integers(0, EXAMPLES, (STEPS, 7)).astype(np.int32)
    params = drawn_params(config, rng, 3)
    for rates in ([1e30, 0.01, 0.1], [0.003, 0.01, 0.1]):
        params_after, _, losses = kernel_run(config, params, inputs, targets, batches, rates)
        kept = [np.asarray(leaf)[1:] for leaf in jax.tree.leaves((params_after, losses.mean))]
        if rates[0] == 1e30:
            assert losses.diverged_at[0] > 0
            beside = kept
    for a, b in zip(beside, kept, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("examples", [1, 13, 64])
def test_a_look_is_that_of_the_plain_path(examples):
    """Statistics and bounds on the probe set: a wide layer, one without bias, and units whose sign
    the norms leave open, one blank and one whose terms nearly cancel."""
    config = Config(task="kernel test regression 4", hidden=(37, 5, 2),
                    hidden_bias=(True, False, True), biased_layer=1, biased_units=1,
                    initial_bias=0.0, examples=EXAMPLES)  # fmt: skip
    rng = np.random.default_rng(examples)
    inputs = rng.normal(size=(examples, 4)).astype(np.float32)
    inputs[:, 1] = -inputs[:, 0]
    params = drawn_params(config, rng, 3)
    weights = np.array(params["hidden_1"]["kernel"])
    weights[:, :, 0], weights[:, :, 1] = 0, 1e-9
    weights[:, :2, 1] = 1
    bias = np.array(params["hidden_1"]["bias"])
    bias[:, :2] = 0
    params["hidden_1"] = {"kernel": jnp.asarray(weights), "bias": jnp.asarray(bias)}
    plain = functools.partial(probe_statistics, config, apply=models.apply)
    form = jax.jit(jax.vmap(lambda p: native.look(config, p, jnp.asarray(inputs), plain)))
    found, wanted = form(params), jax.vmap(lambda p: plain(p, inputs))(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    for found_bound, bound in zip(found[1], wanted[1], strict=True):  # the signs that decide
        np.testing.assert_array_equal(found_bound[:, :1] > 0, bound[:, :1] > 0)
    assert ((wanted[1].lower <= 0) & (wanted[1].upper > 0)).any() or examples < 13


# ---- What is covered, and who decides ----


def test_what_somebody_adds_is_not_covered():
    assert FIELDS.keys() >= coverage.COVERED
    assert coverage.uncovered(SMALL) is None
    for fields in ({"clip_norm": 1.0}, {"activation": "elu"}, {"normalization": "layer"},
                   {"optimizer": "rmsprop"}, {"model": "residual"}, {"noise_scale": 0.1},
                   {"batch_order": "independent"}, {"upstream_rate": 0.5}):  # fmt: skip
        config = dataclasses.replace(SMALL, **fields)
        assert coverage.uncovered(config) == f"{[*fields][0]}={[*fields.values()][0]!r}"
        with pytest.raises(ValueError, match="does not cover .*; use implementation='plain'"):
            validate(by("kernel", config))
        assert make_grid(by("auto", config), AXES, 1).config.implementation == "plain"


def test_a_row_of_a_users_own_is_not_covered():
    shipped = ACTIVATIONS["relu"]
    try:
        ACTIVATIONS["relu"] = Activation(lambda z: 2 * jnp.maximum(z, 0), slope_below=0.0)
        assert coverage.uncovered(SMALL) == "activation='relu'"
    finally:
        ACTIVATIONS["relu"] = shipped


def test_a_kernels_result_names_its_source_and_compiler():
    """Beside the versions, and in what is compared where bits differ."""
    plain, kernel = (make_grid(by(i, SMALL), AXES, 1) for i in ("plain", "kernel"))
    named = build.made_by()
    assert named["kernel"] == build.digest()[:16] and any(
        map(str.isdigit, named["kernel's compiler"])
    )
    for field in ("versions", "made_with"):
        assert json.loads(store.provenance(kernel)[field]).items() >= named.items()
        assert not json.loads(store.provenance(plain)[field]).keys() & named.keys()
    there = json.loads(store.provenance(kernel)["made_with"]) | {"kernel": "another"}
    here = f"kernel 'another' there, '{named['kernel']}' here"
    assert store.told_differences(there) == here


def test_declared_slopes_are_those_of_the_functions():
    for row in ACTIVATIONS.values():
        if row.slope_below is not None:
            z = jnp.array([-2.0, -0.5, 0.5, 3.0])
            np.testing.assert_allclose(row(z), jnp.where(z > 0, z, row.slope_below * z), rtol=1e-6)


def test_auto_leaves_one_unit_with_many_evaluations_to_plain_jax():
    often = dataclasses.replace(validate(UNIT), implementation="auto")
    assert [coverage.decided(dataclasses.replace(often, probe_every=n)) for n in (25, 100)] == [
        "plain",
        "kernel",
    ]
    assert coverage.decided(Config(implementation="auto")) == "kernel"


def test_the_implementation_is_part_of_the_identity_and_of_old_ones_nothing_changes():
    plain, kernel, auto = (make_grid(by(i, SMALL), AXES, 1) for i in ("plain", "kernel", "auto"))
    assert "implementation" not in plain.identity["config"]
    assert auto.hash == kernel.hash != plain.hash
    assert grid_from_identity(kernel.identity).config.implementation == "kernel"


def test_without_a_compiler_the_kernel_is_refused_in_one_line_and_auto_is_plain(monkeypatch):
    def none():
        raise build.BuildError("there is no C++ compiler")

    identity = make_grid(by("kernel", SMALL), AXES, 1).identity
    monkeypatch.setattr(coverage, "library", none)
    assert make_grid(by("auto", SMALL), AXES, 1).config.implementation == "plain"
    for attempt in (lambda: make_grid(by("kernel", SMALL), AXES, 1),
                    lambda: grid_from_identity(identity)):  # fmt: skip
        with pytest.raises(ValueError, match="cannot be had here: there is no C.. compiler") as e:
            attempt()
        assert "\n" not in str(e.value)


# ---- How it is built ----


DRIVER = pathlib.Path(__file__).with_name("kernel_driver.cc")


def driven(program, problems, command, runner=()):
    """The runs' mean losses in the driver's problems, an array each, from a program that `command`
    builds."""
    command = [*command, "-std=c++17", "-w", "-DWITHOUT_JAX", "-I", str(build.SOURCE.parent)]
    subprocess.run([*command, str(DRIVER), "-o", str(program)], check=True)
    done = subprocess.run([*runner, program, str(problems)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *losses, last = done.stdout.splitlines()
    assert last == f"{problems} problems"
    return [np.array(line.split(), np.float64) for line in losses]


@pytest.mark.slow
def test_the_sanitizers_find_nothing(tmp_path):
    """Addresses, undefined behaviour: random shapes, NaN and infinity, with and without this
    processor's own vectors."""
    for target in ([], ["-march=native"]):
        command = ["c++", "-O0", *target, "-fsanitize=address,undefined"]
        assert len(driven(tmp_path / "d", 400, [*command, "-fno-sanitize-recover=all"])) == 400


# Other compilers and processors, and what runs their programs here.
ELSEWHERE = {
    "g++": (["g++", "-march=native"], []),
    "clang++": (["clang++", "-march=native"], []),
    "clang++ of any processor": (["clang++"], []),
    "arm64": (["aarch64-linux-gnu-g++", "-static"], ["qemu-aarch64"]),
}


@pytest.fixture(scope="module")
def without_vectors(tmp_path_factory):
    return driven(tmp_path_factory.mktemp("here") / "driver", 300, ["c++", "-O2"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_compiler_or_processor_trains_alike(name, tmp_path, without_vectors):
    """The same 300 problems as by this machine's compiler without its own vectors: losses that are
    not large or not a number are equal but for rounding, and the others are neither there."""
    command, runner = ELSEWHERE[name]
    for tool in (command[0], *runner):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    flags = [flag for flag in build.FLAGS if flag.startswith(("-O", "-f")) and flag != "-fPIC"]
    there = driven(tmp_path / "there", 300, [*command, *flags], runner)
    usual = 0
    for ours, theirs in zip(without_vectors, there, strict=True):
        calm = np.abs(ours) < 100
        np.testing.assert_allclose(theirs[calm], ours[calm], rtol=2e-3)
        assert not (np.abs(theirs[~calm]) < 90).any()
        usual += calm.sum()
    assert usual > 2000  # of 5,345 runs; rates are large


def test_a_library_that_was_damaged_is_compiled_again_whole_or_not_at_all(tmp_path, monkeypatch):
    """With a source of one line: the real one takes the compiler ten seconds."""
    source = tmp_path / "kernel.cc"
    source.write_text('extern "C" int answer() { return 42; }')
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert build.library.__wrapped__().answer() == 42
    (made,) = (tmp_path / "cache").rglob("*.so")
    assert made.stat().st_mode & 0o077 == 0
    made.unlink()
    made.write_bytes(b"not a library")
    assert build.library.__wrapped__().answer() == 42
    assert len(list(made.parent.iterdir())) == 1
    made.parent.chmod(0o777)  # others could write there: not used, but it runs
    before = made.stat().st_mtime_ns
    assert build.library.__wrapped__().answer() == 42
    assert made.stat().st_mtime_ns == before
    source.write_text("this is not C++")
    with pytest.raises(build.BuildError, match="cannot compile the kernel: .*error"):
        build.library.__wrapped__()
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildError, match="there is no C"):
        build.library.__wrapped__()
