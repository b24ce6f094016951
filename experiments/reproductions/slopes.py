"""Exact facts on slopes that tutorials state, computed from the package's own activations."""

from typing import Any

import jax
import jax.numpy as jnp

from relu_dynamics import theory
from relu_dynamics.engine.activations import ACTIVATIONS


def activation_rows() -> list[dict[str, Any]]:
    """Every fact with what is stated, ours, and whether they agree to 1e-5."""
    slope_at_0 = lambda activation: float(jax.grad(activation)(0.0))  # noqa: E731
    facts = [
        ("z at which GELU'(z) = 0, in closed form", -0.751792, theory.gelu_stationary_point()),
        ("z at which GELU'(z) = 0, by jax.grad in float32", -0.751792, gelu_stationary_float()),
        (
            "ELU: time to surface from z = -5, times rate and gradient",
            147.413,
            theory.elu_surfacing_time(-5.0),
        ),
        (
            "ELU: time to surface from z = -10, times rate and gradient",
            22025.47,
            theory.elu_surfacing_time(-10.0),
        ),
        ("slope of jax.nn.relu at 0", 0.0, slope_at_0(jax.nn.relu)),
        ("slope of jnp.maximum(z, 0) at 0", 0.5, slope_at_0(lambda z: jnp.maximum(z, 0.0))),
        ("slope of jax.nn.leaky_relu at 0", 1.0, slope_at_0(jax.nn.leaky_relu)),
    ]
    return [
        {
            "quantity": quantity,
            "stated": stated,
            "ours": float(ours),
            "verdict": "confirmed"
            if abs(float(ours) - stated) <= 1e-5 * max(1.0, abs(stated))
            else "refuted",
        }
        for quantity, stated, ours in facts
    ]


def gelu_stationary_float() -> float:
    """Where GELU's float32 derivative changes its sign, by bisection."""
    slope = jax.grad(lambda z: ACTIVATIONS["gelu"](z))
    low, high = -1.0, -0.5
    for _ in range(30):  # down to float32
        middle = (low + high) / 2
        low, high = (middle, high) if float(slope(middle)) < 0 else (low, middle)
    return low
