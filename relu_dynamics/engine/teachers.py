"""Teachers: synthetic data that a random network labels, drawn by a key."""

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config

TEACHER_UNITS = 8

BITS, BIT_TEACHER_UNITS = 20, 100  # of Dohare et al., Nature 632:768

FEATURES, ACTIVE = 2, 4  # per dimension, and per token in expectation

HELD_TOKENS = 512


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


def sparse_features(config: Config, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tokens, the same) [examples + HELD_TOKENS, dimension]: sums of a few of FEATURES * dimension
    random directions of length 1 (features in superposition, Elhage et al. 2022, arXiv 2209.10652).

    Every feature is there with the same probability, ACTIVE of them in expectation, with a
    coefficient from U(0.5, 1.5). The tokens are centred, and scaled so that the squared length of a
    token is `dimension` in expectation over tokens.
    """
    direction_key, there_key, size_key = (jax.random.fold_in(key, i) for i in range(3))
    dimension, tokens = config.dimension, config.examples + HELD_TOKENS
    count = FEATURES * dimension
    chance = min(ACTIVE / count, 0.5)
    directions = jax.random.normal(direction_key, (count, dimension))
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    there = jax.random.bernoulli(there_key, chance, (tokens, count))
    sizes = jax.random.uniform(size_key, (tokens, count), minval=0.5, maxval=1.5)
    variance = chance * (1 + 1 / 12) - chance**2  # of a coefficient: its mean is `chance`
    centred = (jnp.where(there, sizes, 0.0) - chance) @ directions
    inputs = centred * (dimension / (count * variance)) ** 0.5
    return inputs, inputs
