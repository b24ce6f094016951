"""Teachers: synthetic data that a random network labels, drawn by a key."""

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config

TEACHER_UNITS = 8

BITS, BIT_TEACHER_UNITS = 20, 100  # of Dohare et al., Nature 632:768


def teacher_student(config: Config, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gaussian inputs and the outputs of a random ReLU network of TEACHER_UNITS units, scaled to
    unit variance in expectation over teachers (up to the outputs' mean)."""
    input_key, first_key, second_key = (jax.random.fold_in(key, i) for i in range(3))
    dimension = config.dimension
    inputs = jax.random.normal(input_key, (config.examples, dimension))
    first = jax.random.normal(first_key, (dimension, TEACHER_UNITS)) / dimension**0.5
    second = jax.random.normal(second_key, (TEACHER_UNITS, 1)) * (2 / TEACHER_UNITS) ** 0.5
    return inputs, jax.nn.relu(inputs @ first) @ second


def random_bits(config: Config, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Random bits and the outputs for them of the threshold units of `bit_targets`."""
    bits = jax.random.bernoulli(key, 0.5, (config.examples, BITS)).astype(jnp.float32)
    return bits, bit_targets(bits, key)


def bit_targets(bits: jax.Array, key: jax.Array) -> jax.Array:
    """A fixed random network of BIT_TEACHER_UNITS linear threshold units with weights -1 and 1,
    each firing when beta = 0.7 of its bits agree; the sum of its outputs, in units of its square
    root. The target of Dohare et al., Nature 632:768 (2024), slowly-changing regression."""
    first_key, second_key = (jax.random.fold_in(key, i) for i in (1, 2))
    first = jax.random.rademacher(first_key, (BITS, BIT_TEACHER_UNITS), jnp.float32)
    second = jax.random.rademacher(second_key, (BIT_TEACHER_UNITS, 1), jnp.float32)
    threshold = 0.7 * BITS - (first < 0).sum(0, keepdims=True)
    return (bits @ first > threshold).astype(jnp.float32) @ second / BIT_TEACHER_UNITS**0.5
