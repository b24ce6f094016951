"""Activations, and what only looks like one."""

import jax
import jax.numpy as jnp

from tests.zoo.base import of_activation, program

ACTIVATIONS = {
    "maximum": lambda z: jnp.maximum(z, 0),
    "where": lambda z: jnp.where(z > 0, z, 0),
    "where, the other way": lambda z: jnp.where(z <= 0, 0, z),
    "clip below": lambda z: jnp.clip(z, 0),
    "product with a sign": lambda z: z * (z > 0),
    "mean with its size": lambda z: (z + jnp.abs(z)) / 2,
    "relu6": jax.nn.relu6,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "hard swish": jax.nn.hard_swish,
    "sparse plus": jax.nn.sparse_plus,
    "squared relu": lambda z: jax.nn.relu(z) ** 2,
    "leaky relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "gelu, exact": lambda z: jax.nn.gelu(z, approximate=False),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
}
NONE = {
    "two rectifiers that make an absolute value": lambda z: jax.nn.relu(z) + jax.nn.relu(-z),
    "two rectifiers that make the identity": lambda z: jax.nn.relu(z) - jax.nn.relu(-z),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "exp": jnp.exp,
    "softmax": jax.nn.softmax,
    "abs": jnp.abs,
    "square": jnp.square,
    "guard": lambda z: jnp.maximum(z, 1e-6),
    "identity": lambda z: z,
    "divided by a guarded deviation": lambda z: z / jnp.maximum(z.std(), 1e-6),
    "variance cut at 0": lambda z: z * jax.lax.rsqrt(
        jnp.maximum(0, (z**2).mean(-1, keepdims=True) - z.mean(-1, keepdims=True) ** 2) + 1e-5
    ),
}  # fmt: skip

for name, function in ACTIVATIONS.items():
    program(f"activation {name}", (9,))(lambda function=function: of_activation(function))
