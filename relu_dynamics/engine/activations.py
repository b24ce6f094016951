"""Activations: what a unit outputs for its pre-activation z, one row each."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

PRELU_SLOPE = 0.25  # at step 0; He et al. 2015, arXiv 1502.01852


def prelu(z: jax.Array, slope: jax.Array | float = PRELU_SLOPE) -> jax.Array:
    return jnp.where(z > 0, z, slope * z)


ACTIVATIONS: dict[str, Callable[..., jax.Array]] = {
    # jax.nn.relu has derivative 0 at 0; maximum(x, 0) would have 0.5 and revive units at z = 0.
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "prelu": prelu,  # with a learned slope per unit, a parameter "slope_LAYER"
    # Both signs of z as two outputs (Shang et al. 2016, arXiv 1603.05201): twice the fan-in above.
    "crelu": lambda z: jnp.concatenate([jax.nn.relu(z), jax.nn.relu(-z)], axis=-1),
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}

HOMOGENEOUS = ("relu", "leaky_relu", "identity")  # f(z) = f'(z) z
