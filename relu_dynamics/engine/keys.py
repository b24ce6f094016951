"""Keys: every random draw is a fold of a run's key by its purpose and its step."""

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.settings import DRAW_SETTINGS, check_jax

PURPOSES = {"task": 0, "init": 1, "batch": 2, "noise": 3, "kill": 4, "reset": 5}


def run_key(root_seed: int, seed: int) -> jax.Array:
    """The key of a seed's runs; seeds go up to 2^64, both their halves are folded in."""
    for field, value, most in (("root_seed", root_seed, 2**32), ("seed", seed, 2**64)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"{field}={value!r} must be a whole number.")
        if not 0 <= value < most:
            raise ValueError(f"{field}={value!r} must be >= 0 and < {most}.")
    check_jax(DRAW_SETTINGS)
    # What `jax.random.key` gives unless JAX is told to use another generator or to offset seeds.
    seed_bits = jnp.asarray(np.array([0, root_seed], np.uint32))
    root = jax.random.wrap_key_data(seed_bits, impl="threefry2x32")
    high, low = divmod(int(seed), 2**32)
    return jax.random.fold_in(jax.random.fold_in(root, np.uint32(high)), np.uint32(low))


def purpose_key(key: jax.Array, purpose: str) -> jax.Array:
    """The key of one of the `PURPOSES` of a run's key."""
    return jax.random.fold_in(key, PURPOSES[purpose])


def noise_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """The key of one step's additive noise."""
    return jax.random.fold_in(purpose_key(key, "noise"), step)
