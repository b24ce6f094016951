"""Certificates at the ends of the ranges: never a traceback, never against the recursion itself."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics.certificates import Verdict, certify
from relu_dynamics.config import Config
from relu_dynamics.engine import training
from relu_dynamics.engine.optimizers import ADAM_B2, ADAM_EPSILON
from relu_dynamics.engine.step import State
from relu_dynamics.engine.tasks import Task

BASE = Config(
    task="teacher_student", dimension=3, examples=8, hidden=(6,), biased_layer=1, biased_units=3,
    batch_size=None, steps=60, probe_every=1,
)  # fmt: skip
EXTREMES = st.one_of(
    st.just(0.0), st.floats(-37, 37).map(lambda power: 10.0**power), st.floats(0.0, 3.0)
)


@functools.cache
def fresh(optimizer: str, normalization: str) -> State:
    config = dataclasses.replace(
        BASE, optimizer=optimizer, normalization=normalization, weight_decay=0.0, hidden=(8,)
    )
    return jax.tree.map(np.asarray, training.start(config, jax.random.key(0)))


def random_case(optimizer, normalization, seed) -> tuple[Task, State]:
    """A task, and a state with random parameters and memories; its dead units get no gradient."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: (rng.standard_normal(leaf.shape) * 2 - 1).astype(np.float32)  # noqa: E731
    state = fresh(optimizer, normalization)
    sizes = lambda leaf: abs(draw(leaf)) if leaf.dtype.kind == "f" else leaf  # noqa: E731
    memory = jax.tree.map(sizes, state.optimizer)
    signed = {
        name: jax.tree.map(draw, optax.tree.get(memory, name))
        for name in ("trace", "mu")
        if optax.tree.get(memory, name, None) is not None
    }
    if seed % 2 and signed:
        memory = optax.tree.set(memory, **signed)
    inputs = rng.standard_normal((8, 3)).astype(np.float32)
    task = Task(inputs, np.zeros((8, 1), np.float32), inputs, inputs[:0], np.zeros((0, 1)))
    return task, State(np.int32(0), jax.tree.map(draw, state.params), memory)


def margins(config: Config, task: Task, state: State, horizon: int) -> np.ndarray:
    """The margin [horizon + 1, units] of every unit of layer 1 if no gradient ever reached it, by
    the optimizers' published recursions in float64."""
    p = np.concatenate([state.params["hidden_1"]["kernel"], state.params["hidden_1"]["bias"][None]])
    p = p.astype(np.float64)
    number = lambda value: float(np.float32(value))  # noqa: E731
    rate, decay = number(config.learning_rate), number(config.weight_decay or 0.0)
    mu = 0.9 if config.momentum is None else number(config.momentum)

    def memory(name):
        tree = optax.tree.get(state.optimizer, name, None)
        if tree is None:
            return np.zeros_like(p)
        layer = tree["hidden_1"]
        return np.concatenate([layer["kernel"], layer["bias"][None]]).astype(np.float64)

    trace, first, second = memory("trace"), memory("mu"), memory("nu")
    decays = {"all": (1, 1), "weights": (1, 0), "biases": (0, 1)}[config.decay_targets]
    shrink = decay * np.array([decays[0]] * 3 + [decays[1]])[:, None]
    design = np.concatenate([task.inputs, np.ones((8, 1))], axis=1).astype(np.float64)
    seen = [(design @ p).max(0)]
    for step in range(1, horizon + 1):
        gradient = shrink * p if config.decay_kind == "coupled" else np.zeros_like(p)
        if config.optimizer in ("momentum", "nesterov"):
            trace = mu * trace + gradient
            update = gradient + mu * trace if config.optimizer == "nesterov" else trace
        elif config.optimizer == "adam":
            first = mu * first + (1 - mu) * gradient
            second = ADAM_B2 * second + (1 - ADAM_B2) * gradient**2
            mean, square = first / (1 - mu**step), second / (1 - ADAM_B2**step)
            update = mean / (np.sqrt(square) + ADAM_EPSILON)
        else:
            update = gradient
        apart = rate * shrink * p if config.decay_kind == "decoupled" else 0.0
        p = p - rate * update - apart
        seen.append((design @ p).max(0))
    return np.array(seen)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(["sgd", "momentum", "nesterov", "adam"]),
    st.sampled_from(["coupled", "decoupled"]),
    st.sampled_from(["all", "weights", "biases"]),
    EXTREMES,
    st.one_of(st.none(), EXTREMES),
    st.one_of(st.sampled_from([0.0, 1e-30, 0.5, 0.9, 0.999, 0.99999]), st.floats(0, 0.9999)),
    st.one_of(st.sampled_from([0, 1, 2]), st.integers(0, 60)),
    st.integers(0, 10**6),
)
def test_no_certificate_contradicts_the_recursion_at_any_rate_and_decay(
    optimizer, kind, targets, rate, decay, momentum, horizon, seed
):
    config = dataclasses.replace(
        BASE, hidden=(8,), optimizer=optimizer, learning_rate=rate, weight_decay=decay
    )
    if optimizer != "sgd":
        config = dataclasses.replace(config, momentum=momentum)
    if decay is not None:
        config = dataclasses.replace(config, decay_kind=kind, decay_targets=targets)
    task, state = random_case(optimizer, "none", seed)
    if decay is None:  # its optimizer is not a chain
        memory = optax.tree.get(state.optimizer, "mu" if optimizer == "adam" else "trace", None)
        assert memory is not None or optimizer == "sgd"
    found = certify(config, task, state, horizon=horizon)
    with np.errstate(all="ignore"):
        real = margins(config, task, state, horizon)
    highest = np.maximum.accumulate(np.where(np.isnan(real), -np.inf, real), axis=0)
    size = 1e-4 * (1 + np.abs(real[0]))
    never = found.verdict == Verdict.CERTIFIED_NEVER
    assert (highest[-1][never] <= size[never]).all()
    for unit in np.flatnonzero(found.verdict == Verdict.CERTIFIED_AT):
        step = int(found.step[unit])
        assert 1 <= step <= horizon and highest[step - 1, unit] <= size[unit] < np.inf
        assert real[step, unit] > -size[unit]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["layer", "rms", "batch"]),
    st.sampled_from(["sgd", "momentum", "adam"]),
    EXTREMES,
    EXTREMES,
    st.one_of(st.integers(0, 60), st.sampled_from([10**6, 2**31 - 1])),
    st.integers(0, 100),
)
def test_a_normalized_unit_gets_a_verdict_at_any_rate_decay_and_horizon(
    normalization, optimizer, rate, decay, horizon, seed
):
    """The bound on z of a certified unit is one: it is never above 0."""
    task, state = random_case(optimizer, normalization, seed)
    config = dataclasses.replace(
        BASE, hidden=(8,), optimizer=optimizer, normalization=normalization, learning_rate=rate,
        weight_decay=decay,
    )  # fmt: skip
    found = certify(config, task, state, horizon=horizon)
    never = found.verdict == Verdict.CERTIFIED_NEVER
    assert (found.bound[never] <= 0).all()


@pytest.mark.parametrize("horizon", [-1, 1.0, True, "9", 2**31, 10**400])
def test_what_is_no_horizon_is_refused_in_one_line(horizon):
    task, state = random_case("sgd", "none", 0)
    with pytest.raises(ValueError, match="^horizon=[^\n]*$"):
        certify(dataclasses.replace(BASE, hidden=(8,)), task, state, horizon=horizon)
