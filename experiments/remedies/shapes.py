"""The shapes of the activations: values, derivatives, and where a derivative is exactly 0."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics import theory
from relu_dynamics.engine.activations import ACTIVATIONS

SHAPES = ("relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "softplus", "tanh")


def derivative(name: str, z: np.ndarray) -> np.ndarray:
    """The derivative of an activation as JAX computes it in float32, shape of `z` [n]."""
    return np.asarray(jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.asarray(z, jnp.float32)))


def flat_below(name: str, lowest: float = -200.0) -> float | None:
    """The largest z at and below which the float32 derivative is exactly 0, down to `lowest`, on a
    grid of step 0.01; None where there is none."""
    z = np.arange(round(lowest * 100), 1) / 100
    flat = derivative(name, z) == 0
    if not flat[0]:
        return None
    return float(z[-1] if flat.all() else z[np.argmin(flat) - 1])


def shapes() -> dict[str, Any]:
    """Activations and derivatives on a grid, and the exact points that the figure marks."""
    z = np.round(np.linspace(-5, 3, 161), 10)
    return {
        "z": z.tolist(),
        "curves": {
            name: {
                "value": np.asarray(ACTIVATIONS[name](jnp.asarray(z, jnp.float32))).tolist(),
                "derivative": derivative(name, z).tolist(),
            }
            for name in SHAPES
        },
        "stationary": {
            "gelu": theory.gelu_stationary_point(),
            "silu": theory.silu_stationary_point(),
        },
        "flat_below": {name: flat_below(name) for name in SHAPES},
        "tail": _tail(),
    }


def _tail() -> dict[str, Any]:
    """The size of the derivative far to the left."""
    z = np.round(np.linspace(-120, 0, 481), 10)
    return {
        "z": z.tolist(),
        "size": {name: np.abs(derivative(name, z)).tolist() for name in SHAPES},
    }
