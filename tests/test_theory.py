"""Closed forms against published numbers, quadrature, Monte Carlo, recurrences and optax runs."""

import math
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from relu_dynamics import theory
from relu_dynamics.theory import _numerics as numerics

pytestmark = pytest.mark.core

ARTICLE = {"bias": -0.5, "weight_norm": 0.1}  # z = 0.1 x - 0.5
SEGMENT = np.array([[-1.0], [1.0]])  # the ends decide for the article's unit on [-1, 1]
fixed = settings(max_examples=25, deadline=None, derandomize=True)


# One Gaussian unit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bias", "active", "dead_32", "dead_1000"),
    [
        (0.0, 0.5, 2.3e-10, 0.0),
        (-1.0, 0.158655, 0.003973, 0.0),
        (-2.0, 0.022750, 0.478828, 1.0e-10),
        (-3.0, 0.001350, 0.957695, 0.259030),
        (-4.0, 3.167e-5, 0.998987, 0.968825),
    ],
)
def test_unit_table(bias, active, dead_32, dead_1000):
    # tolerances are half a unit of the last printed digit, or that of the printed exponent
    assert theory.active_probability(bias, 1.0) == pytest.approx(active, rel=2e-4, abs=5e-7)
    dead = 1 - theory.first_firing_probability(bias, 1.0, [32, 1000])
    assert dead == pytest.approx([dead_32, dead_1000], abs=5e-7)


def test_the_article_unit():
    assert theory.active_probability(**ARTICLE) == pytest.approx(2.866516e-7, rel=2e-7)
    first = theory.first_firing_probability(**ARTICLE, samples=[320_000, 60_000])
    np.testing.assert_allclose(first, [0.0876, 0.01705], rtol=6e-4)  # half the last digit


def test_a_constant_unit_is_decided_by_its_bias():
    bias = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(theory.active_probability(bias, 0.0), [0, 0, 1])
    np.testing.assert_array_equal(theory.first_firing_probability(bias, 0.0, 3), [0, 0, 1])
    np.testing.assert_array_equal(theory.first_firing_probability(bias, 0.0, 0), [0, 0, 0])


# Drift and noise ------------------------------------------------------------------------------


def test_drift_crossing_step_is_strict():
    # the article's bias, 1e-4 per step upward from a depth of 0.4: at 4000 z = 0, which is dead
    assert theory.drift_crossing_step(0.4, 1e-4) == 4001
    steps = theory.drift_crossing_step([0.0, 1.0, 0.5, 0.5], [0.1, 0.4, 0.0, -1.0])
    np.testing.assert_array_equal(steps, [1, 3, np.inf, np.inf])


@fixed
@given(st.floats(0, 10), st.floats(1e-3, 10))
def test_drift_crossing_step_is_the_first(margin, drift):
    step = theory.drift_crossing_step(margin, drift)
    assert step * drift > margin
    assert step == 1 or (step - 1) * drift <= margin


def test_first_passage_values():
    passage = theory.first_passage_probability(0.4, [1e-4, 1e-3, 1e-2, 1e-1], 1.0, 10_000)
    np.testing.assert_array_less(abs(passage[1:] - [6.2e-5, 0.6849, 0.9634]), [5e-7, 5e-5, 5e-5])
    assert passage[0] < 1e-100
    assert abs(passage[2] - 0.6831) < 0.0064  # a published-size Monte Carlo with its 95 % band
    silent = theory.first_passage_probability([0.4, 0.0, 0.0], [0, 0, 1], 1.0, [10, 10, 0])
    np.testing.assert_array_equal(silent, 0)


def test_first_passage_against_random_walks():
    # 20 000 walks of 1000 steps from a depth of 20 steps' noise: 5 standard errors, and 0.001 which
    # is what the docstring states as the size of the approximation
    rng = np.random.default_rng(1)
    position, highest = np.zeros(20_000), np.zeros(20_000)
    for _ in range(1000):
        position += rng.standard_normal(20_000)
        np.maximum(highest, position, out=highest)
    expected = theory.first_passage_probability(0.2, 0.1, 0.1, 1000)
    error = math.sqrt(expected * (1 - expected) / 20_000)
    assert abs(np.mean(highest > 20) - expected) < 5 * error + 0.001


@pytest.mark.parametrize(("steps", "error"), [(20, 0.022), (100, 0.01), (2000, 0.003)])
def test_first_passage_from_the_edge(steps, error):
    # at depth 0 the law of every symmetric walk is known: 1 - C(2n, n) / 4^n (Sparre Andersen)
    exact = 1 - math.comb(2 * steps, steps) / 4**steps
    approximate = theory.first_passage_probability(0.0, 1.0, 1.0, steps)
    assert 0 < approximate - exact < error


# Optimizer residue ----------------------------------------------------------------------------


@contextmanager
def optax_in_float64():
    # optax raises a float to its int32 step count, which strict promotion would refuse
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def optax_run(optimizer, gradients, silent_steps):
    """The optimizer's state after `gradients`, and the path of 0 under zero gradients after it."""
    with optax_in_float64():
        gradients = jnp.asarray(gradients, jnp.float64)
        start = jnp.zeros_like(gradients[0])

        def step(carry, gradient):
            parameters, state = carry
            updates, state = optimizer.update(gradient, state, parameters)
            return (optax.apply_updates(parameters, updates), state), parameters

        (_, state), _ = jax.lax.scan(step, (start, optimizer.init(start)), gradients)
        silence = jnp.zeros((silent_steps + 1, *start.shape))
        _, path = jax.lax.scan(step, (start, state), silence)
        return jax.tree.map(np.asarray, state), np.asarray(path)[1:]


@pytest.mark.parametrize(
    ("nesterov", "residue"), [(False, theory.heavy_ball_residue), (True, theory.nesterov_residue)]
)
def test_momentum_residue_is_optax(nesterov, residue):
    gradients = np.random.default_rng(2).standard_normal((7, 5))
    state, path = optax_run(optax.sgd(0.3, momentum=0.9, nesterov=nesterov), gradients, 400)
    steps = np.arange(1, 401)[:, None]
    np.testing.assert_allclose(residue(state[0].trace, 0.3, 0.9, steps), path, rtol=1e-10)
    # 0.9^400 of the movement is still to come
    np.testing.assert_allclose(residue(state[0].trace, 0.3, 0.9), path[-1], rtol=1e-10)


def test_momentum_residue_values():
    assert theory.heavy_ball_residue(1.0, 1.0, 0.9) == pytest.approx(-9, rel=1e-14)
    assert theory.nesterov_residue(1.0, 1.0, 0.9) == pytest.approx(-8.1, rel=1e-14)
    trace = -(1 - 0.9**10) / (1 - 0.9)  # after ten steps of gradient -1
    assert theory.heavy_ball_residue(trace, 1.0, 0.9) == pytest.approx(58.6189, abs=5e-5)
    assert theory.heavy_ball_residue(1.0, 1.0, 0.0) == 0
    assert theory.heavy_ball_residue(1.0, 1.0, 0.9, steps=0) == 0


ADAM = [
    {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    {"b1": 0.9, "b2": 0.99, "eps": 1e-3},  # eps as large as the moments: it must be exact too
    {"b1": 0.5, "b2": 0.9, "eps": 1e-8, "eps_root": 1e-6},
    {"b1": 0.0, "b2": 0.99, "eps": 1e-8},
]


@pytest.mark.parametrize("settings_", ADAM)
@pytest.mark.parametrize("active_steps", [1, 30])
def test_adam_residue_is_optax(settings_, active_steps):
    rng = np.random.default_rng(3)
    gradients = rng.standard_normal((active_steps, 6)) * np.logspace(-4, 1, 6)
    state, path = optax_run(optax.adam(0.2, **settings_), gradients, 600)
    mu, nu, count = state[0].mu, state[0].nu, state[0].count
    steps = np.arange(1, 601)[:, None]
    partial = theory.adam_residue(mu, nu, count, 0.2, steps=steps, **settings_)
    np.testing.assert_allclose(partial, path, rtol=1e-10)
    total = theory.adam_residue(mu, nu, count, 0.2, **settings_)
    np.testing.assert_allclose(total, path[-1], rtol=1e-10)
    bound = theory.adam_residue_bound(0.2, settings_["b1"], settings_["b2"])
    assert np.all(np.abs(total) <= bound)


def test_adamw_residue_without_decay_is_the_same():
    state, path = optax_run(optax.adamw(0.2, weight_decay=0.0), np.ones((4, 1)), 300)
    adam = state[0]
    total = theory.adam_residue(adam.mu, adam.nu, adam.count, 0.2, steps=300)
    np.testing.assert_allclose(total, path[-1], rtol=1e-10)


def adam_state(gradients, b1=0.9, b2=0.999):
    mu = nu = 0.0
    for gradient in gradients:
        mu, nu = b1 * mu + (1 - b1) * gradient, b2 * nu + (1 - b2) * gradient**2
    return mu, nu, len(gradients)


def test_adam_residue_values():
    assert theory.adam_residue(*adam_state([1.0]), 1.0) == pytest.approx(-5.0055, abs=5e-5)
    long = adam_state([-1.0] * 1000)
    assert theory.adam_residue(*long, 1.0) == pytest.approx(9.0713, abs=5e-5)
    assert theory.adam_residue_bound(1.0) == pytest.approx(65.7615, abs=5e-5)
    assert theory.adam_residue_bound(1.0) == pytest.approx(9.0452 * 7.2703, rel=1e-5)
    assert theory.adam_residue_bound(1.0, 0.9, 0.99) == pytest.approx(22.2207, abs=5e-5)
    assert theory.adam_residue_bound([1.0, 2.0], b1=0.0).tolist() == [0, 0]


def test_adam_residue_of_the_article_unit():
    # z = w x + b on [-1, 1] moves by at most two bounds: 131.5 rates against a depth of 0.4
    reach = 2 * theory.adam_residue_bound([1e-4, 0.003041, 1e-2])
    assert reach[0] == pytest.approx(131.5e-4, rel=3e-4)
    assert reach[0] < 0.4 < reach[2]
    assert reach[1] == pytest.approx(0.4, rel=2e-4)
    assert 0.4 / (2 * theory.adam_residue_bound(1.0)) == pytest.approx(0.003041, abs=5e-7)


@pytest.mark.parametrize(
    ("b1", "b2"), [(0.9, 0.999), (0.9, 0.99), (0.8, 0.9), (0.9, 0.85), (0.3, 0.3)]
)
def test_adam_bound_holds_for_the_worst_history_and_is_sharp(b1, b2):
    # the worst history (Cauchy-Schwarz) grows as (b1 / b2)^-age; count is how long it lasted
    def worst(count):
        growth = (b1 / b2) ** np.arange(count - 1, -1, -1.0)
        return abs(theory.adam_residue(*adam_state(growth, b1, b2), 1.0, b1, b2, eps=0.0))

    reached = [worst(count) for count in (1, 2, 3, 5, 10, 100, 6000)]
    bound = theory.adam_residue_bound(1.0, b1, b2)
    assert max(reached) <= bound * (1 + 1e-12)
    if b2 >= b1 * math.sqrt(2 - b1**2):
        assert max(reached) > 0.99 * bound  # long histories reach it


@fixed
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30),
    st.floats(0.05, 0.95),
    st.floats(0.05, 0.95),
)
def test_adam_bound_holds_for_any_history(gradients, b1, above):
    b2 = b1**2 + above * (1 - b1**2)
    moved = theory.adam_residue(*adam_state(gradients, b1, b2), 1.0, b1, b2, eps=1e-8)
    assert abs(moved) <= theory.adam_residue_bound(1.0, b1, b2) * (1 + 1e-12)


def test_adam_residue_of_a_parameter_without_gradients_is_zero():
    residue = theory.adam_residue([0.0, 1.0], [0.0, 1.0], 3, 1.0, eps=0.0)
    assert residue[0] == 0
    assert residue[1] < 0


# Decay ----------------------------------------------------------------------------------------


def test_decay_of_the_article_unit():
    # largest w.x is 0.1 on [-1, 1]
    unit = {"largest_projection": 0.1, "bias": -0.5}
    rates = {"learning_rate": [1e-4, 1e-3, 1e-2], "weight_decay": 0.1}
    assert np.all(theory.decoupled_decay_recovery_step(**unit, **rates) == np.inf)
    assert np.all(theory.weight_decay_recovery_step(**unit, **rates) == np.inf)
    assert theory.bias_decay_recovery_step(**unit, learning_rate=0.01, weight_decay=0.1) == 1609


def test_adam_decay_of_the_article_unit():
    arguments = ([0.1], -0.5, SEGMENT, [1e-2, 1e-3], 0.1)
    steps = theory.adam_decay_recovery_step(*arguments, 4000, tolerance=0.0)
    np.testing.assert_array_equal(steps, [86, 3950])
    # at 1e-3 that crossing is 7e-30 high, and the whole bump below 1e-27: dust, and no recovery
    steps = theory.adam_decay_recovery_step(*arguments, 4000)
    np.testing.assert_array_equal(steps, [86, np.inf])
    assert np.isinf(theory.adam_decay_recovery_step(*arguments, 4000, tolerance=1e-27)[1])


def test_adam_decay_at_the_smallest_rate_is_dust_first():
    # at 1e-4 z first rises to 2e-35, then (unstable 0, float64) to the size of the rate; the first
    # rise hangs on no rounding, the later one grows out of 1e-190: its step is given some room
    arguments = ([0.1], -0.5, SEGMENT, 1e-4, 0.1)
    assert theory.adam_decay_recovery_step(*arguments, 14_000, tolerance=0.0) == 13_275
    later = theory.adam_decay_recovery_step(*arguments, 25_000)
    assert later == pytest.approx(21_512, abs=10)


def optax_decay(optimizer, weights, bias, steps):
    """Path of max z over the segment [-1, 1], with no gradient but the optimizer's own decay."""
    with optax_in_float64():
        start = {"w": jnp.asarray(weights), "b": jnp.asarray(bias)}
        silence = jax.tree.map(jnp.zeros_like, start)

        def step(carry, _):
            parameters, state = carry
            updates, state = optimizer.update(silence, state, parameters)
            moved: Any = optax.apply_updates(parameters, updates)
            return (moved, state), jnp.abs(moved["w"]) + moved["b"]

        _, margins = jax.lax.scan(step, (start, optimizer.init(start)), None, steps)
        return np.asarray(margins)


def first_above(margins, tolerance=numerics.DUST):
    above = np.flatnonzero(margins > tolerance)
    return above[0] + 1 if len(above) else np.inf


@pytest.mark.parametrize("unit", [(0.1, -0.5), (-0.3, -0.35), (0.2, -3.0)])
@pytest.mark.parametrize("rate", [0.003, 0.02])
def test_decay_recovery_steps_are_those_of_optax(unit, rate):
    weights, bias = unit
    decay, steps = 0.5, 6000
    l2 = optax.add_decayed_weights(decay)

    margins = optax_decay(optax.chain(l2, optax.adam(rate)), weights, bias, steps)
    adam = theory.adam_decay_recovery_step([weights], bias, SEGMENT, rate, decay, steps)
    assert adam == first_above(margins)

    margins = optax_decay(optax.adamw(rate, weight_decay=decay), weights, bias, steps)
    decoupled = theory.decoupled_decay_recovery_step(abs(weights), bias, rate, decay)
    assert decoupled == first_above(margins) == np.inf

    bias_only = optax.adamw(rate, weight_decay=decay, mask={"w": False, "b": True})
    margins = optax_decay(bias_only, weights, bias, steps)
    expected = theory.bias_decay_recovery_step(abs(weights), bias, rate, decay)
    assert expected == first_above(margins)


def test_weight_decay_alone_surfaces_a_positive_bias():
    # every example projects below -1: z = s^t (-1) + 0.25 crosses 0 at s^t < 1/4
    step = theory.weight_decay_recovery_step(-1.0, 0.25, 0.1, [0.0, 0.1, 10.0])
    np.testing.assert_array_equal(step, [np.inf, math.ceil(math.log(0.25) / math.log(0.99)), 1])


@fixed
@given(
    st.floats(-5, -0.01),
    st.floats(-1, 1),
    st.floats(1e-3, 0.5),
    st.sampled_from([0.0, 1e-9, 1e-3]),
)
def test_geometric_decay_is_first_crossing_of_the_recurrence(projection, bias, product, tolerance):
    step = theory.weight_decay_recovery_step(projection, bias, 1.0, product, tolerance)
    times = np.arange(0, 60_000)
    above = np.flatnonzero(bias + (1 - product) ** times * projection > tolerance)
    seen = step if step < len(times) else np.inf  # a bias of 1e-204 wins later than we look
    assert seen == (above[0] if len(above) else np.inf)


# Normalization --------------------------------------------------------------------------------


def test_absorbing_shift_values():
    assert theory.absorbing_shift(8) == pytest.approx(2.6458, abs=5e-5)
    sizes = np.array([1, 4, 64])
    np.testing.assert_allclose(theory.absorbing_shift(sizes), np.sqrt(sizes - 1))
    np.testing.assert_allclose(theory.absorbing_shift(sizes, centred=False), np.sqrt(sizes))


@pytest.mark.parametrize("size", [2, 5, 33])
def test_absorbing_shift_is_the_largest_normalized_entry(size):
    rng = np.random.default_rng(4)
    spikes = np.eye(size)  # one entry apart from equal others attains the bound
    entries = np.concatenate([spikes, rng.standard_cauchy((2000, size))])
    centred = entries - entries.mean(axis=1, keepdims=True)
    layer = np.max(centred / centred.std(axis=1, keepdims=True))
    rms = np.max(entries / np.sqrt(np.mean(entries**2, axis=1, keepdims=True)))
    assert layer == pytest.approx(theory.absorbing_shift(size), rel=1e-12)
    assert rms == pytest.approx(theory.absorbing_shift(size, centred=False), rel=1e-12)


# Born dead ------------------------------------------------------------------------------------


def test_born_dead_unit_on_intervals_and_balls():
    radius = np.array([1.0, math.sqrt(3), 2.0])
    interval = theory.born_dead_unit_probability(radius, 1)
    np.testing.assert_allclose(interval, np.arctan(1 / radius) / np.pi, rtol=1e-13)
    np.testing.assert_allclose(interval, [1 / 4, 1 / 6, 0.147584], atol=5e-7)
    ball = theory.born_dead_unit_probability(1.0, [2, 5, 10])
    np.testing.assert_allclose(ball, [0.146447, 0.0377934, 0.00505978], rtol=4e-6)
    assert ball[0] == pytest.approx((1 - 1 / math.sqrt(2)) / 2, rel=1e-13)


@fixed
@given(st.floats(1e-6, 50), st.integers(1, 60))
def test_born_dead_unit_on_a_ball_is_student_t(radius, dimension):
    expected = stats.t.sf(radius * math.sqrt(dimension), dimension)
    got = theory.born_dead_unit_probability(radius, dimension)
    assert got == pytest.approx(expected, rel=1e-9)


def test_born_dead_unit_limits():
    assert theory.born_dead_unit_probability(0.0, 7) == pytest.approx(0.5, rel=1e-15)
    assert theory.born_dead_unit_probability(np.inf, 7) == 0
    assert theory.born_dead_unit_probability_box(0.0, 7) == pytest.approx(0.5, rel=1e-13)
    assert theory.born_dead_unit_probability_box(np.inf, 7) == 0
    tiny = theory.born_dead_unit_probability(1e-9, 1)
    assert 0.5 - tiny == pytest.approx(1e-9 / np.pi, abs=1e-11)
    np.testing.assert_array_equal(
        theory.born_dead_unit_probability_orthant([0, 1, 9]), [1 / 2, 1 / 4, 2.0**-10]
    )


def test_born_dead_unit_on_boxes():
    # Monte Carlo values with their 95 % bands
    box = theory.born_dead_unit_probability_box(1.0, [2, 3])
    assert abs(box[0] - 0.10818) < 0.00016
    assert abs(box[1] - 0.04168) < 0.0001
    assert abs(theory.born_dead_unit_probability_unit_box(2) - 0.27708) < 0.00026
    # {b < -|w1| - |w2| - |w3|} is one of the 24 equal cells of the 24-cell
    assert box[1] == pytest.approx(1 / 24, rel=1e-12)


@pytest.mark.parametrize("half_width", [1e-3, 0.3, 1.0, 4.0, 300.0])
def test_born_dead_unit_on_a_box_against_densities(half_width):
    line = theory.born_dead_unit_probability_box(half_width, 1)
    assert line == pytest.approx(math.atan2(1, half_width) / math.pi, rel=1e-12)

    # |w1| + |w2| has the density (2 / sqrt pi) exp(-s^2/4) erf(s/2)
    def integrand(s):
        density = 2 / math.sqrt(math.pi) * math.exp(-s * s / 4) * math.erf(s / 2)
        return density * special.ndtr(-half_width * s)

    scale = 1 / max(half_width, 0.1)
    pieces = [0, scale, 4 * scale, 12 * scale, 40 * scale]
    square = sum(
        integrate.quad(integrand, low, high, epsabs=0, epsrel=1e-12)[0]
        for low, high in zip(pieces[:-1], pieces[1:], strict=True)
        if special.ndtr(-half_width * low) > 0
    )
    got = theory.born_dead_unit_probability_box(half_width, 2)
    assert got == pytest.approx(square, rel=1e-10)


@pytest.mark.parametrize("dimension", [1, 4, 30])
def test_born_dead_unit_on_a_huge_box(dimension):
    # only tiny weights survive: (2/pi)^(d/2) E|b|^d / (2 d! r^d), up to a factor 1 - O(d^2 / r^2)
    log_moment = dimension / 2 * math.log(2) + math.lgamma((dimension + 1) / 2)
    log_moment -= 0.5 * math.log(math.pi)
    log_limit = dimension / 2 * math.log(2 / math.pi) + log_moment - math.log(2)
    log_limit -= math.lgamma(dimension + 1) + dimension * math.log(1e6)
    got = theory.born_dead_unit_probability_box(1e6, dimension)
    assert math.log(got) == pytest.approx(log_limit, rel=1e-11)


def test_born_dead_unit_on_the_unit_box_against_the_mixture():
    # a random subset of the weights is negative and does not matter: a binomial mixture of orthant
    # pieces, each the box probability of that many positive weights
    dimension = 12
    positive = np.arange(1, dimension + 1)
    pieces = np.append(0.5, theory.born_dead_unit_probability_box(1.0, positive))
    chances = stats.binom.pmf(np.arange(dimension + 1), dimension, 0.5)
    expected = chances @ pieces
    assert theory.born_dead_unit_probability_unit_box(dimension) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_born_dead_units_are_as_many_as_monte_carlo_finds(dimension):
    # 400 000 units, 5 standard errors
    draws = np.random.default_rng(6).standard_normal((400_000, dimension + 1))
    w, b = draws[:, 1:], draws[:, 0]
    cases = [
        (b + 0.7 * np.linalg.norm(w, axis=1), theory.born_dead_unit_probability(0.7, dimension)),
        (b + 0.7 * np.abs(w).sum(1), theory.born_dead_unit_probability_box(0.7, dimension)),
        (b + np.maximum(w, 0).sum(1), theory.born_dead_unit_probability_unit_box(dimension)),
        (np.max(draws, axis=1), theory.born_dead_unit_probability_orthant(dimension)),
    ]
    for largest, expected in cases:
        error = math.sqrt(expected * (1 - expected) / len(b))
        assert abs(np.mean(largest <= 0) - expected) < 5 * error


def test_born_dead_network_exact():
    assert theory.born_dead_network_probability(2, 3) == pytest.approx(5 / 32, rel=1e-15)
    assert theory.born_dead_network_probability(3, 3) == pytest.approx(11 / 256, rel=1e-15)
    np.testing.assert_array_equal(theory.born_dead_network_probability([1, 2, 50], 2), 0)
    chain = theory.born_dead_network_probability(1, [3, 4, 12])
    np.testing.assert_allclose(chain, [1 / 2, 3 / 4, 1 - 2.0**-10])
    with pytest.raises(ValueError, match="weight_layers must be 2 or 3.*got 4 at width 2"):
        theory.born_dead_network_probability(2, 4)


PUBLISHED = [
    (2, 5, 0.49815, 0.4562, 0.5781),
    (2, 10, 0.87984, 0.8548, 0.8999),
    (2, 20, 0.99339, 0.9916, 0.9944),
    (3, 10, 0.57833, 0.4872, 0.6564),
    (3, 20, 0.88891, 0.8479, 0.9096),
    (4, 10, 0.29338, 0.1927, 0.4033),
    (5, 10, 0.12895, 0.0612, 0.2243),
    (10, 10, 0.00128, 0.0001, 0.0078),
]


@pytest.mark.parametrize(("width", "depth", "measured", "low", "high"), PUBLISHED)
def test_born_dead_network_bounds_table(width, depth, measured, low, high):
    lower, upper = theory.born_dead_network_bounds(width, depth)
    assert (lower, upper) == (pytest.approx(low, abs=5.1e-5), pytest.approx(high, abs=5.1e-5))
    assert lower < measured < upper
    # no worse than the published upper bound 1 - (1 - 2^-N)^(L-1)
    assert upper < 1 - (1 - 2.0**-width) ** (depth - 1)


def test_born_dead_network_bounds_at_the_ends():
    lower, upper = theory.born_dead_network_bounds(50, 1000)
    assert upper == pytest.approx(998 * 2.0**-50, rel=1e-12)
    assert lower == pytest.approx(upper**2 + 2.0**-49 * upper, rel=1e-12)
    assert theory.born_dead_network_bounds(7, 2) == (0, 0)
    lower, upper = theory.born_dead_network_bounds(1, np.arange(2, 30))
    np.testing.assert_allclose(lower, upper, rtol=1e-15)
    np.testing.assert_allclose(upper, theory.born_dead_network_probability(1, np.arange(2, 30)))


def measured_born_dead(width, weight_layers, networks, seed):
    """Share of networks silent on both half-lines: z scales with |x|, so x = 1 and -1 tell all."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((networks, width), np.float32)
    rays = np.maximum(np.stack([first, -first], axis=1), 0)  # [networks, 2, width]
    for _ in range(weight_layers - 2):
        weights = rng.standard_normal((networks, width, width), np.float32)
        rays = np.maximum(rays @ weights, 0)
        rays /= np.maximum(
            rays.max(axis=(1, 2), keepdims=True), 1e-30
        )  # scale is free: no underflow
    return np.mean(~np.any(rays > 0, axis=(1, 2)))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 1000))
def test_born_dead_monte_carlo_lies_within_the_bounds(width, weight_layers, seed):
    measured = measured_born_dead(width, weight_layers, 100_000, seed)
    lower, upper = theory.born_dead_network_bounds(width, weight_layers)
    band = 6 * math.sqrt(0.25 / 100_000)  # 6 sigma at the widest
    assert lower - band <= measured <= upper + band


@pytest.mark.parametrize("width", [2, 3])
def test_born_dead_exact_against_monte_carlo(width):
    expected = theory.born_dead_network_probability(width, 3)
    measured = measured_born_dead(width, 3, 200_000, seed=7)
    assert abs(measured - expected) < 5 * math.sqrt(expected * (1 - expected) / 200_000)


@pytest.mark.parametrize("samples", [1, 10, 1000, 10**6, 10**9])
def test_autoencoder_latents_at_gamma_one(samples):
    expected = 1 / (samples + 1)
    assert theory.autoencoder_dead_at_birth(1.0, samples) == pytest.approx(expected, rel=1e-10)
    # the two forms of the integral meet at 1, where log P changes slower than 10 log(n) per gamma
    below = theory.autoencoder_dead_at_birth(1 - 1e-9, samples)
    assert below == pytest.approx(expected, rel=1e-6)


def test_autoencoder_latents_values():
    assert theory.autoencoder_dead_at_birth(1.0, 1000) == pytest.approx(0.000999, abs=5e-7)
    assert theory.autoencoder_dead_at_birth(15.0, 1000) == pytest.approx(0.41448, abs=5e-6)
    far = theory.autoencoder_dead_at_birth([1e3, np.inf], 10**9)
    assert 0.497 < far[0] < far[1] == 0.5
    np.testing.assert_array_equal(theory.autoencoder_dead_at_birth([0.0, 3.0], [4, 0]), [2**-4, 1])
    # one token: it is silent with probability 1/2 whatever gamma
    one = theory.autoencoder_dead_at_birth([0.01, 0.5, 7.0, 1e3], 1)
    np.testing.assert_allclose(one, 0.5, rtol=1e-12)


@pytest.mark.parametrize(("gamma", "samples"), [(0.05, 3), (0.5, 50), (0.9, 5000), (3.0, 7)])
def test_autoencoder_latents_against_quadrature(gamma, samples):
    def integrand(a):
        log_density = -a * a / 2 + samples * special.log_ndtr(-gamma * a)
        return math.exp(log_density) / math.sqrt(2 * math.pi)

    edges = np.arange(-12, 8.5, 0.5)
    pieces = [integrate.quad(integrand, a, a + 0.5, epsabs=0)[0] for a in edges]
    got = theory.autoencoder_dead_at_birth(gamma, samples)
    assert got == pytest.approx(math.fsum(pieces), rel=1e-10)


# Other activations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "value", "activation"),
    [
        (theory.gelu_stationary_point, -0.751792, lambda z: jax.nn.gelu(z, approximate=False)),
        (theory.silu_stationary_point, -1.278465, jax.nn.silu),
    ],
)
def test_stationary_points(point, value, activation):
    assert point() == pytest.approx(value, abs=5e-7)
    with jax.enable_x64(True):
        slope = jax.grad(activation)
        assert slope(point()) == pytest.approx(0, abs=1e-14)
        assert slope(point() - 0.1) < 0 < slope(point() + 0.1)


def test_elu_surfacing_time():
    times = theory.elu_surfacing_time([0.0, -5.0, -10.0])
    np.testing.assert_allclose(times, [0, 147.413, 22025.47], atol=5e-3)
    # gradient flow in small steps: dz = 1e-3 e^z
    z, elapsed = -3.0, 0
    while z < 0:
        z, elapsed = z + 1e-3 * math.exp(z), elapsed + 1
    assert elapsed * 1e-3 == pytest.approx(theory.elu_surfacing_time(-3.0), rel=2e-3)


# Arguments ------------------------------------------------------------------------------------

INVALID = [
    (theory.active_probability, (np.nan, 1.0), "bias must be finite, got nan"),
    (theory.active_probability, (0.0, -1.0), "weight_norm must be finite and >= 0, got -1.0"),
    (theory.active_probability, ([0.0, np.inf], 1.0), "bias must be finite, got inf"),
    (theory.first_firing_probability, (0.0, 1.0, 2.5), "samples must be a whole number >= 0"),
    (theory.first_firing_probability, (0.0, 1.0, -1), "samples must be a whole number >= 0"),
    (theory.drift_crossing_step, (-0.1, 1.0), "margin must be finite and >= 0, got -0.1"),
    (theory.first_passage_probability, (-0.4, 1, 1, 1), "margin must be finite and >= 0, got -0.4"),
    (theory.heavy_ball_residue, (1.0, 1.0, 1.0), r"momentum must be in \[0, 1\), got 1.0"),
    (theory.nesterov_residue, (1.0, 1.0, 0.9, 1.5), "steps must be a whole number"),
    (theory.adam_residue, (1.0, 0.0, 1, 1.0, 0.9, 0.999, 0.0), "nu must be > 0 where mu is not 0"),
    (theory.adam_residue, (1.0, 1.0, 1, 1.0, 0.9, 0.8), r"needs b1\^2 < b2, got b1=0.9, b2=0.8"),
    (theory.adam_residue_bound, (1.0, 0.9, 0.81), r"only for b1\^2 < b2, got b1=0.9, b2=0.81"),
    (theory.bias_decay_recovery_step, (0.1, -1, 2.0, 1.0), "learning_rate.*<= 1.*got 2.0"),
    (theory.weight_decay_recovery_step, (0.1, -1, 1, 0.1, -1.0), "tolerance must be finite"),
    (theory.adam_decay_recovery_step, ([1.0], 0.0, [1.0], 1, 1, 9), r"probe \[n, d\]"),
    (theory.absorbing_shift, (0,), "size must be a whole number >= 1, got 0"),
    (theory.born_dead_unit_probability, (-1.0, 2), "radius must be >= 0, got -1.0"),
    (theory.born_dead_unit_probability, (1.0, 0), "dimension must be a whole number >= 1"),
    (theory.born_dead_unit_probability_box, (np.nan, 2), "half_width must be >= 0, got nan"),
    (theory.born_dead_unit_probability_unit_box, (2.5,), "dimension must be a whole number"),
    (theory.born_dead_network_bounds, (2, 1), "weight_layers must be a whole number >= 2, got 1"),
    (theory.autoencoder_dead_at_birth, (-1.0, 5), "gamma must be >= 0, got -1.0"),
    (theory.elu_surfacing_time, (1.0,), "preactivation must be finite and <= 0, got 1.0"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), INVALID)
def test_arguments_outside_the_domain_are_named(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


ELEMENTWISE = [
    (theory.active_probability, ([-3.0, 1.0], [0.5, 2.0])),
    (theory.first_firing_probability, ([-3.0, 1.0], [0.5, 2.0], [7, 0])),
    (theory.drift_crossing_step, ([0.1, 0.2], [0.03, -0.1])),
    (theory.first_passage_probability, ([0.1, 0.2], [0.1, 1.0], [1.0, 0.0], [5, 6])),
    (theory.heavy_ball_residue, ([1.0, -2.0], [0.1, 0.2], [0.9, 0.0], [3, 4])),
    (theory.nesterov_residue, ([1.0, -2.0], [0.1, 0.2], [0.9, 0.0], [3, 4])),
    (theory.adam_residue, ([1.0, -2.0], [0.1, 0.2], [4, 1], [0.1, 1.0])),
    (theory.adam_residue_bound, ([0.1, 1.0],)),
    (theory.decoupled_decay_recovery_step, ([0.1, 0.2], [-0.5, 0.5], [0.1, 0.2], [0.1, 1.0])),
    (theory.weight_decay_recovery_step, ([-0.1, -2], [0.05, -0.5], [0.1, 0.2], [0.1, 1.0])),
    (theory.bias_decay_recovery_step, ([0.1, -0.2], [-0.5, -0.5], [0.1, 0.2], [0.1, 1.0])),
    (theory.born_dead_unit_probability, ([0.3, 4.0], [2, 7])),
    (theory.born_dead_unit_probability_box, ([0.3, 4.0], [2, 7])),
    (theory.born_dead_unit_probability_unit_box, ([2, 7],)),
    (theory.born_dead_unit_probability_orthant, ([2, 7],)),
    (theory.born_dead_network_probability, ([2, 7], [3, 2])),
    (theory.autoencoder_dead_at_birth, ([0.5, 7.0], [30, 2])),
    (theory.elu_surfacing_time, ([-1.0, -2.0],)),
]


@pytest.mark.parametrize(("function", "columns"), ELEMENTWISE)
def test_an_array_is_its_scalars(function, columns):
    together = function(*map(np.asarray, columns))
    assert together.shape == (2,)
    alone = [function(*row) for row in zip(*columns, strict=True)]
    assert all(isinstance(value, float) for value in alone)
    np.testing.assert_allclose(together, alone, rtol=1e-13)  # vectorized powers may round apart
    grid = function(*(np.asarray(column)[:, None] for column in columns))
    np.testing.assert_allclose(grid[:, 0], alone, rtol=1e-13)


@fixed
@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0.01, 10), st.integers(1, 10**6))
def test_monotone_in_the_bias(one, two, norm, samples):
    low, high = sorted((one, two))
    assert theory.active_probability(low, norm) <= theory.active_probability(high, norm)
    firing = theory.first_firing_probability([low, high], norm, samples)
    assert firing[0] <= firing[1]


@fixed
@given(st.floats(0, 30), st.floats(0, 30), st.integers(1, 40))
def test_larger_domains_have_fewer_born_dead_units(one, two, dimension):
    small, large = sorted((one, two))
    for function in (
        theory.born_dead_unit_probability,
        theory.born_dead_unit_probability_box,
    ):
        assert function(large, dimension) <= function(small, dimension) * (1 + 1e-11)
    # the ball lies in the box, which lies in the ball around its corners
    box = theory.born_dead_unit_probability_box(one, dimension)
    around = theory.born_dead_unit_probability(one * math.sqrt(dimension), dimension)
    inside = theory.born_dead_unit_probability(one, dimension)
    assert around * (1 - 1e-11) <= box <= inside * (1 + 1e-11)


@fixed
@given(st.integers(1, 60), st.integers(2, 1000))
def test_network_bounds_are_ordered_probabilities(width, weight_layers):
    lower, upper = theory.born_dead_network_bounds(width, weight_layers)
    deeper = theory.born_dead_network_bounds(width, weight_layers + 1)
    assert 0 <= lower <= upper * (1 + 1e-12) <= 1 + 1e-12
    assert deeper[0] >= lower
    assert deeper[1] >= upper
