"""Signs that no rounding can change: outcomes, certificates and domain bounds say the same of a
unit, and what exact rational arithmetic says of its float32 numbers."""

import dataclasses
import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics.certificates.case import Verdict
from relu_dynamics.certificates.certify import certify
from relu_dynamics.certificates.domains import dead_on_ball, dead_on_box
from relu_dynamics.config import Config
from relu_dynamics.engine import models, outcomes, tasks, training
from relu_dynamics.engine.evaluation import evaluate
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import Outcome
from relu_dynamics.engine.tasks import Task

EXAMPLES, FAN_IN, UNITS, UPPER = 6, 5, 8, 4

ONE = Config(
    task="teacher_student",
    examples=EXAMPLES,
    dimension=FAN_IN,
    hidden=(UNITS,),
    biased_layer=1,
    biased_units=UNITS,
    batch_size=None,
    input_scaling="raw",
    steps=10,
    probe_every=5,
)
TWO = dataclasses.replace(ONE, hidden=(UNITS, UPPER))


def task_of(inputs):
    inputs = jnp.asarray(inputs, jnp.float32)
    return Task(inputs, jnp.ones((len(inputs), 1)), inputs, inputs[:0], jnp.ones((0, 1)))


@functools.cache
def fresh_state(config):
    return training.start(config, jax.random.key(0))


def state_of(config, *layers):
    """The state at step 0 with the given (weights, bias) of the hidden layers."""
    state = fresh_state(config)
    groups = {
        f"hidden_{i}": {"kernel": jnp.asarray(w, jnp.float32), "bias": jnp.asarray(b, jnp.float32)}
        for i, (w, b) in enumerate(layers, start=1)
    }
    return state._replace(params={**state.params, **groups})


@jax.jit
def look(config, params, inputs):
    """(statistics, bounds, what enters each layer) of a network on its inputs."""
    return *evaluate(config, params, inputs), models.apply(config, params, inputs).inputs


def start_outcomes(config, state, inputs):
    """(outcomes at step 0 [units], inputs of each layer in float32)."""
    found, bounds, seen = look(training.as_arrays(config), state.params, jnp.asarray(inputs))
    return outcomes.classify(outcomes.start_history(found, bounds)), seen


def fractions(array):
    return np.array([Fraction(float(v)) for v in np.ravel(array)]).reshape(np.shape(array))


def terms(weights, bias, inputs):
    """All terms of z = w.x + b as rational numbers, [rows, fan_in + 1, units]."""
    w, b, x = (fractions(array) for array in (weights, bias, inputs))
    last = np.broadcast_to(b, (len(x), 1, len(b)))
    return np.concatenate([x[:, :, None] * w[None], last], axis=1)


@st.composite
def arrays(draw, shape):
    """float32 numbers of one kind; half of them with zeros, equal rows and a blank row."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = {
        "normal": rng.standard_normal(shape),
        "integers": rng.integers(-2, 3, shape),
        "mostly negative": -np.abs(rng.standard_normal(shape)) * rng.choice([1, 1, 1, -1], shape),
        "positive": np.abs(rng.standard_normal(shape)),
        "of all sizes": rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 0, shape),
    }
    values = values[draw(st.sampled_from(sorted(values)))].astype(np.float32)
    if draw(st.booleans()):
        values[rng.uniform(size=shape) < rng.choice([0.2, 0.6, 1.0])] = 0
        values[rng.integers(len(values))] = values[rng.integers(len(values))]
        values[rng.integers(len(values))] = 0
    return values


layer = lambda fan_in, units: st.tuples(arrays((fan_in, units)), arrays((units,)))  # noqa: E731

DEAD, ALIVE, UNSURE = Outcome.STILL_DEAD, Outcome.NOT_AT_RISK, Outcome.AMBIGUOUS


def agrees_with_fractions(codes, weights, bias, inputs):
    """Checks outcomes at step 0 of a layer against exact arithmetic on its float32 numbers."""
    parts = terms(weights, bias, inputs)
    margins, sizes = parts.sum(1).max(0), np.abs(parts).sum(1).max(0)
    never_positive = (parts <= 0).all((0, 1))
    sum_of_positive = (((parts >= 0).all(1)) & (parts > 0).any(1)).any(0)
    for code, margin, size, negative, positive in zip(
        codes, margins, sizes, never_positive, sum_of_positive, strict=True
    ):
        if negative or positive:
            assert code == (DEAD if negative else ALIVE)
        elif code == UNSURE:
            assert abs(margin) <= 2 * (len(weights) + 2) * Fraction(2) ** -24 * size
        else:
            assert code == (DEAD if margin <= 0 else ALIVE)


@settings(max_examples=100, deadline=None)
@given(layer(FAN_IN, UNITS), arrays((EXAMPLES, FAN_IN)))
def test_a_layer_is_judged_alike_by_outcomes_certificates_bounds_and_fractions(parameters, inputs):
    weights, bias = parameters
    state = state_of(ONE, parameters)
    codes, _ = start_outcomes(ONE, state, inputs)
    agrees_with_fractions(codes, weights, bias, inputs)
    verdicts = certify(ONE, task_of(inputs), state, horizon=10).verdict
    parts = terms(weights, bias, inputs)
    never_positive = (parts <= 0).all((0, 1))
    assert (verdicts[never_positive] == Verdict.CERTIFIED_NEVER).all()
    assert (codes[verdicts == Verdict.CERTIFIED_NEVER] == DEAD).all()
    assert (codes[verdicts == Verdict.NOT_DEAD] == ALIVE).all()
    # On boxes that hold one example each, and on their hull.
    points = [dead_on_box(ONE, state.params, x, x) for x in inputs]
    balls = [dead_on_ball(ONE, state.params, x, 0.0) for x in inputs]
    on_points = np.all([point.dead for point in points], axis=0)
    np.testing.assert_array_equal(on_points, verdicts == Verdict.CERTIFIED_NEVER)
    np.testing.assert_array_equal([b.dead for b in balls], [p.dead for p in points])
    hull = dead_on_box(ONE, state.params, inputs.min(0), inputs.max(0))
    assert on_points[hull.dead].all()
    largest = np.maximum(inputs.max(0)[:, None] * weights, inputs.min(0)[:, None] * weights)
    assert hull.dead[(largest <= 0).all(0) & (bias <= 0)].all()
    assert (fractions(hull.upper) >= parts.sum(1).max(0)).all()


@settings(max_examples=60, deadline=None)
@given(layer(FAN_IN, UNITS), layer(UNITS, UPPER), arrays((EXAMPLES, FAN_IN)))
def test_two_layers_are_judged_alike(first, second, inputs):
    state = state_of(TWO, first, second)
    codes, seen = start_outcomes(TWO, state, inputs)
    agrees_with_fractions(codes[UNITS:], *second, np.asarray(seen[1]))
    verdicts = certify(TWO, task_of(inputs), state, horizon=10).verdict
    assert (codes[verdicts == Verdict.CERTIFIED_NEVER] == DEAD).all()
    assert (codes[verdicts == Verdict.NOT_DEAD] == ALIVE).all()
    for relaxation in (False, True):
        on_points = np.all(
            [dead_on_box(TWO, state.params, x, x, relaxation=relaxation).dead for x in inputs],
            axis=0,
        )
        assert (codes[on_points] == DEAD).all()
        assert not (verdicts[on_points] == Verdict.NOT_DEAD).any()
        sides = inputs.min(0), inputs.max(0)
        hull = dead_on_box(TWO, state.params, *sides, relaxation=relaxation)
        assert (codes[hull.dead] == DEAD).all()
        # Nothing passes a silent first layer: the second is as dead as its bias says.
        if hull.dead[:UNITS].all():
            np.testing.assert_array_equal(hull.dead[UNITS:], second[1] <= 0)


# Cases whose right values are known by hand -------------------------------------------------


@jax.jit
def run_seeds(config, task, keys):
    """(history, state at step 0) of a run per key."""
    one = lambda key: (training.run(config, task, key).history, training.start(config, key))  # noqa: E731
    return jax.vmap(one)(keys)


def seed_keys(seeds):
    return jnp.stack([run_key(0, seed) for seed in range(seeds)])


def counted(config, inputs, seeds):
    """(outcomes [seeds, units], verdicts likewise) of runs that start at seeds 0, 1, ..."""
    task = task_of(inputs)
    history, starts = run_seeds(training.as_arrays(config), task, seed_keys(seeds))
    verdicts = [
        certify(config, task, jax.tree.map(lambda leaf, i=i: leaf[i], starts), horizon=20).verdict
        for i in range(seeds)
    ]
    return outcomes.classify(history), np.stack(verdicts), starts


def test_units_silent_on_xor_are_dead_and_stay_so():
    """0/1 inputs and no bias: silent iff no weight is positive, 1/4; z at (0, 0) is exactly 0."""
    config = dataclasses.replace(
        ONE, hidden=(4,), biased_units=4, initial_bias=0.0, initializer="xavier_uniform"
    )
    config = dataclasses.replace(config, examples=4, dimension=2, steps=20)
    codes, verdicts, starts = counted(config, [[0, 0], [1, 0], [0, 1], [1, 1]], seeds=64)
    silent = np.asarray((starts.params["hidden_1"]["kernel"] <= 0).all(1))
    assert abs(silent.mean() - 0.25) < 5.5 * np.sqrt(3 / 16 / silent.size)
    np.testing.assert_array_equal(codes == DEAD, silent)
    np.testing.assert_array_equal(verdicts == Verdict.CERTIFIED_NEVER, silent)
    assert not (codes == UNSURE).any()


def test_one_blank_example_hides_no_dead_unit():
    rng = np.random.default_rng(0)
    inputs = np.abs(rng.standard_normal((100, 2))).astype(np.float32)
    config = dataclasses.replace(
        ONE, hidden=(16,), biased_units=16, initial_bias=0.0, examples=100, dimension=2, steps=20
    )
    at_risk = []
    for blank in (False, True):
        inputs[0] = 0 if blank else inputs[0]
        codes, verdicts, starts = counted(config, inputs, seeds=16)
        kernel = np.asarray(starts.params["hidden_1"]["kernel"], np.float64)
        dead = (inputs[1:].astype(np.float64) @ kernel).max(1) <= 0
        np.testing.assert_array_equal(codes == DEAD, dead)
        np.testing.assert_array_equal(verdicts == Verdict.CERTIFIED_NEVER, dead)
        at_risk.append(dead.sum())
    assert at_risk[0] == at_risk[1] > 0


@pytest.mark.parametrize("zero", ["weights", "inputs"])
def test_zero_weights_and_zero_inputs_leave_a_dead_unit(zero):
    config = dataclasses.replace(ONE, initial_bias=0.0)
    inputs = np.random.default_rng(0).standard_normal((EXAMPLES, FAN_IN)) * (zero == "weights")
    state = state_of(config, (np.zeros((FAN_IN, UNITS)) + (zero == "inputs"), np.zeros(UNITS)))
    codes, _ = start_outcomes(config, state, inputs.astype(np.float32))
    assert (codes == DEAD).all()
    verdicts = certify(config, task_of(inputs), state, horizon=10).verdict
    assert (verdicts == Verdict.CERTIFIED_NEVER).all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_terms_that_are_never_positive_stay_so_under_decay(optimizer):
    """Inputs of either sign, the weights against them or 0, and a blank example."""
    config = dataclasses.replace(ONE, optimizer=optimizer, weight_decay=0.01)
    config = dataclasses.replace(
        config, decay_kind="coupled" if optimizer == "sgd" else "decoupled", learning_rate=0.1
    )
    rng = np.random.default_rng(0)
    inputs = np.abs(rng.standard_normal((EXAMPLES, FAN_IN))) * [1, 1, -1, -1, 1]
    inputs[:, 4] *= rng.choice([-1, 1], EXAMPLES)
    inputs[0] = 0
    inputs[1:3, 4] = 1, -1  # of both signs
    weights = -np.abs(rng.standard_normal((FAN_IN, UNITS))) * np.array([1, 1, -1, -1, 0])[:, None]
    weights[0, 0] *= -1  # one term of the first unit is positive
    weights[4, 1] = 1e-3  # and one of the second on some examples
    state = state_of(config, (weights, np.zeros(UNITS)))
    verdicts = certify(config, task_of(inputs), state, horizon=10)
    assert (verdicts.verdict[2:] == Verdict.CERTIFIED_NEVER).all()
    assert set(verdicts.names[2:]) == {"non-positive weights"}
    assert "non-positive weights" not in verdicts.names[:2]


def test_a_second_layer_dead_on_digits_is_not_ambiguous():
    """Three units below: many digits silence them all, and z is the bias, 0."""
    config = Config(hidden=(3, 16), initial_bias=0.0, biased_units=16)
    data = tasks.load_data(config)

    @jax.jit
    @jax.vmap
    def begin(key):
        task = tasks.make_task(config, purpose_key(key, "task"), data)
        return outcomes.start_history(
            *evaluate(config, training.start(config, key).params, task.probe)
        )

    codes = outcomes.classify(begin(seed_keys(32)))[:, 3:]
    assert (codes == DEAD).sum() == 47 and not (codes == UNSURE).any()
