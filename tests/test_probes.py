"""Statistics of z against NumPy and against mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relu_dynamics import theory
from relu_dynamics.engine import probes

pytestmark = pytest.mark.core


@pytest.mark.parametrize("size", [1, 2, 3, 7, 32, 97])
def test_unit_statistics_agree_with_numpy(size):
    rng = np.random.default_rng(size)
    layers = [rng.normal(-1, 2, (size, width)).astype(np.float32) for width in (3, 5)]
    found = probes.unit_statistics(tuple(jnp.asarray(z) for z in layers))
    z = np.concatenate(layers, axis=1).astype(np.float64)
    wanted = [(z > 0).mean(0), z.max(0), z.mean(0), z.std(0), z.min(0)]
    for name, value, want in zip(found._fields, found, wanted, strict=True):
        np.testing.assert_allclose(value, want, rtol=2e-6, atol=2e-6, err_msg=name)


def test_deviation_survives_a_large_mean():
    # E z^2 - (E z)^2 in float32 would give 0 or NaN here.
    z = jnp.asarray(np.linspace(-1e-2, 1e-2, 64)[:, None] - 4096.0, jnp.float32)
    found = probes.unit_statistics((z,)).deviation[0]
    np.testing.assert_allclose(found, np.asarray(z, np.float64).std(), rtol=1e-3)


def test_layer_summary_counts_dead_units_by_layer():
    margin = jnp.asarray([-1.0, 0.0, 1.0, jnp.nan, 2.0])
    zeros = jnp.zeros(5)
    statistics = probes.UnitStatistics(zeros, margin, zeros, zeros, zeros)
    summary = probes.layer_summary(
        statistics, (2, 3), probes.SlopeStatistics(zeros, zeros, zeros), zeros, zeros
    )  # fmt: skip
    np.testing.assert_allclose(summary.dead_fraction, [1.0, 0.0])  # NaN is not dead


def test_margin_bounds_hold_for_random_units():
    rng = np.random.default_rng(0)
    for fan_in in (1, 4, 64, 784):
        w = rng.normal(size=(fan_in, 50)).astype(np.float32)
        x = rng.normal(size=(200, fan_in)).astype(np.float32)
        b = rng.normal(-3, 3, 50).astype(np.float32)
        exact = x.astype(np.float64) @ w.astype(np.float64) + b.astype(np.float64)
        found = np.asarray(jnp.asarray(x) @ jnp.asarray(w) + jnp.asarray(b)[None, :], np.float64)
        lower, upper = probes.margin_bounds(*(jnp.asarray(a) for a in (w, b, x, found)))
        for z in (exact, found):
            assert np.all((lower <= z.max(0)) & (z.max(0) <= upper))
        # And they are no excuse to call everything ambiguous.
        assert np.max(upper - lower) < 2e-4 * fan_in


@pytest.mark.parametrize("bias", [0.0, -1.0, -2.0])
def test_active_fraction_at_init_is_the_normal_cdf(bias):
    # 2e5 Gaussian examples: a standard error is at most 0.0011; the false-alarm rate of
    # 5.5 standard errors is below 1e-7, and a difference of 0.013 would be seen.
    key = jax.random.key(3)
    x = jax.random.normal(key, (200_000, 8))
    w = jax.random.normal(jax.random.fold_in(key, 1), (8, 3))
    z = x @ w + bias
    found = probes.unit_statistics((z,)).active_fraction
    wanted = theory.active_probability(bias, np.linalg.norm(w, axis=0))
    np.testing.assert_allclose(found, wanted, atol=5.5 * 0.5 / 200_000**0.5)


@pytest.mark.parametrize("rows", [1, 2, 7, 32, 33, 64, 100])
@pytest.mark.parametrize("units", [3, 512])
def test_halving_wide_rows_gives_the_numbers_of_halving_arrays(rows, units):
    """Several halvings in one pass are the same sum in the same order, bit for bit."""
    z = np.random.default_rng(0).normal(size=(rows, units)).astype(np.float32)

    def obvious(z):
        odd = []
        while len(z) > 1:
            half, rest = divmod(len(z), 2)
            odd += [z[-1]] * rest
            z = z[:half] + z[half : 2 * half]
        return sum(odd, start=z[0])

    found = probes.halve(jnp.add, jnp.asarray(z), each=lambda z: z * 2)
    np.testing.assert_array_equal(found, obvious(z * 2))
    margin = probes.halve(jnp.maximum, jnp.asarray(z))
    np.testing.assert_array_equal(margin, z.max(0))


@pytest.mark.slow
def test_margin_bounds_of_lanes_are_those_of_each_lane():
    """The rule for jax.vmap, whichever arguments have lanes: a decided lane beside an undecided."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 2, 4, 5)).astype(np.float32)
    weights[0, 0] = -np.abs(weights[0, 0])
    bias = np.zeros((3, 2, 5), np.float32)
    bias[1] -= 20
    inputs = np.abs(rng.standard_normal((7, 4))).astype(np.float32)
    inputs[0] = 0  # its z is the bias

    def bounds(weights, bias, inputs):
        z = inputs @ weights + bias[None, :]
        return probes.margin_bounds(weights, bias, inputs, z), z.max(0)

    of_lanes = jax.jit(jax.vmap(jax.vmap(bounds, (0, 0, None)), (0, 0, None)))
    found, margin = of_lanes(weights, bias, inputs)
    own = jax.vmap(jax.vmap(bounds, (0, 0, None)))(weights, bias, np.stack([inputs] * 3))[0]
    each = [[bounds(weights[i, j], bias[i, j], inputs)[0] for j in range(2)] for i in range(3)]
    signs = lambda b: (np.asarray(b.lower > 0), np.asarray(b.upper <= 0))  # noqa: E731
    for i, j in np.ndindex(3, 2):
        for lanes in (found, own):
            one = probes.MarginBounds(lanes.lower[i, j], lanes.upper[i, j])
            np.testing.assert_array_equal(signs(one), signs(each[i][j]))
    assert (
        signs(found)[1][0, 0].all() and (margin[0, 0] == 0).all()
    )  # exactly 0, and certainly dead
    assert (found.lower <= margin).all() and (margin <= found.upper).all()
