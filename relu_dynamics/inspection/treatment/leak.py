"""Leak: a ReLU that lets a gradient through to units that are silent, as long as it is wanted."""

import functools

import jax
import jax.numpy as jnp


def leaking_relu(z: jax.Array, leak: jax.Array | float, *, axis: int = -1) -> jax.Array:
    """max(z, 0), with the gradient `leak`, not 0, for units without a positive z in the batch.

    Put it where the model has its ReLU and anneal the leak from outside, as by
    `optax.linear_schedule(0.1, 0.0, 1000)(step)`: at 0 it is the ReLU. Outputs and losses are those
    of the ReLU at any leak, and so are the gradients of all units that fire in the batch. A silent
    unit's gradient is that of a leaky ReLU: a surrogate that says in which direction the loss would
    fall if the unit fired; it is not the gradient of the loss.

    Args:
      z: pre-activations; the units are on `axis`, and all other axes are examples.
      leak: 0 or more, a number or a traced scalar; it gets no gradient.
    """
    return _leaking(axis, z, jnp.asarray(leak, z.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _leaking(axis, z, leak):
    return jnp.maximum(z, 0)


def _forward(axis, z, leak):
    return _leaking(axis, z, leak), (z, leak)


def _backward(axis, kept, g):
    z, leak = kept
    examples = tuple(k for k in range(z.ndim) if k != axis % z.ndim)
    silent = (z <= 0).all(examples, keepdims=True)
    return jnp.where(z > 0, g, jnp.where(silent, leak * g, 0)), jnp.zeros_like(leak)


_leaking.defvjp(_forward, _backward)
