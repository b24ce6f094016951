"""The kernel: the same numbers as float64 NumPy and as the plain path, and nothing else."""

import dataclasses
import functools
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

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
from tests import kernel_reference

BOUND = 2e-4  # on |a - b| / (1 + |b|) after these few steps
EXAMPLES, STEPS, LANES = 40, 8, 3


@st.composite
def configs(draw) -> Config:
    """Any config that the kernel covers, small."""
    kind = draw(st.sampled_from(["regression", "two outputs", "classes"]))
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
        "momentum": draw(st.sampled_from([None, 0.5])) if optimizer != "sgd" else None,
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
    return Config(
        task=f"kernel test {kind} {draw(st.sampled_from([1, 2, 4, 7, 16, 20]))}", **fields
    )


@pytest.fixture(autouse=True)
def own_tasks():
    """A task of every kind and dimension that `configs` names."""
    rng = np.random.default_rng(0)
    for width in (1, 2, 4, 7, 16, 20):
        x = rng.normal(size=(EXAMPLES, width)).astype(np.float32)
        y = rng.normal(size=(EXAMPLES, 2)).astype(np.float32)
        made = {
            "regression": (1, False, y[:, :1]),
            "two outputs": (2, False, y),
            "classes": (3, True, rng.integers(0, 3, EXAMPLES).astype(np.int32)),
        }
        for name, (outputs, classes, targets) in made.items():
            data = x, targets
            tasks.TASKS[f"kernel test {name} {width}"] = tasks.TaskKind(
                outputs, classes, lambda data=data: data, None
            )
    yield
    for name in [name for name in tasks.TASKS if name.startswith("kernel test")]:
        del tasks.TASKS[name]


def drawn_params(config: Config, rng, lanes: int) -> dict:
    widths = [tasks.input_dimension(config), *config.hidden, tasks.TASKS[config.task].outputs]
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


def check_config(config: Config, seed: int) -> None:
    config = validate(config)
    kind = tasks.TASKS[config.task]
    inputs, targets = tasks.load_data(config)
    rng = np.random.default_rng(seed)
    size = config.batch_size or EXAMPLES
    batches = rng.integers(0, EXAMPLES, (STEPS, size)).astype(np.int32)
    params, rates = drawn_params(config, rng, LANES), [0.0, 0.003, 0.03]
    after, history, losses = kernel_run(config, params, inputs, targets, batches, rates)
    for lane, rate in enumerate(rates):
        layers = [
            (np.asarray(g["kernel"][lane]), np.asarray(g["bias"][lane]) if "bias" in g else None)
            for g in (params[name] for name in groups(config))
        ]
        targeted = decay_targets(config)
        factors = [
            float(optimizers.scheduled(config, jnp.int32(t)).learning_rate) / config.learning_rate
            for t in range(STEPS)
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
        assume(seen["nearest"] > 3e-6)  # rounding may put it on the other side of the kink
        for name, layer in zip(groups(config), found, strict=True):
            for key, value in zip(("kernel", "bias"), layer, strict=True):
                if value is not None:
                    assert difference(after[name][key][lane], value) < BOUND, (name, key)
        assert difference(losses.mean[lane], np.mean(seen["losses"])) < BOUND
        assert losses.diverged_at[lane] == outcomes.NEVER
        wanted = seen["mean"], seen["peak"], seen["active"], seen["first"]
        for field, value in zip(SEEN, wanted, strict=True):
            assert difference(getattr(history, field)[lane], value) < BOUND, field


def groups(config: Config) -> list[str]:
    return [models.layer_name(i + 1) for i in range(len(config.hidden))] + ["output"]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(configs(), st.integers(0, 2**16))
def test_any_network_is_that_of_float64(config, seed):
    check_config(config, seed)


@pytest.mark.slow
@settings(max_examples=240, deadline=None, derandomize=True)
@given(configs(), st.integers(0, 2**16))
def test_240_networks_are_those_of_float64(config, seed):
    check_config(config, seed)


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
    check_config(config, seed)


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
    inputs, targets = (np.array(a) for a in tasks.load_data(config))
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


def test_declared_slopes_are_those_of_the_functions():
    for row in ACTIVATIONS.values():
        if row.slope_below is not None:
            z = jnp.array([-2.0, -0.5, 0.5, 3.0])
            np.testing.assert_allclose(row(z), jnp.where(z > 0, z, row.slope_below * z), rtol=1e-6)


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


@pytest.mark.slow
def test_the_sanitizers_find_nothing(tmp_path):
    """Addresses, undefined behaviour: random shapes, NaN and infinity, with and without this
    processor's own vectors."""
    driver = pathlib.Path(__file__).with_name("kernel_driver.cc")
    for target in ([], ["-march=native"]):
        program = tmp_path / "driver"
        command = ["c++", "-std=c++17", "-O0", "-w", *target, "-DWITHOUT_JAX"]
        command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        command += ["-I", str(build.SOURCE.parent), str(driver), "-o", str(program)]
        subprocess.run(command, check=True)
        done = subprocess.run([program, "400"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == "400 problems\n"


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
