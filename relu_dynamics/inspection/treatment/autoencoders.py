"""Revival of sparse autoencoders' latents: auxiliary losses that reach dead latents, and only them.

A dead latent gets no gradient from the reconstruction. Both losses here let dead latents, and no
others, explain what the autoencoder leaves over. `dead` is a mask that the caller defines, such as
`monitor.silent >= 1000`; `decoder` is [latents, inputs].
"""

import jax
import jax.numpy as jnp

from relu_dynamics.engine.revivals import largest_silent


def auxk_loss(
    z: jax.Array, dead: jax.Array, decoder: jax.Array, residual: jax.Array, *, k: int
) -> jax.Array:
    """AuxK (Gao et al. 2024, arXiv 2406.04093): the mean squared error with which the `k` dead
    latents of the largest z reconstruct the residual, as a share of the residual's mean square.

    Add it to the loss with a small coefficient (1/32 in the paper). The latents enter as z itself
    and are not rectified: behind a ReLU a dead latent's z is negative, and would get no gradient
    again. Such a latent may also serve with a negative z and stay dead: count who came back. 0
    where no latent is dead.

    Args:
      z: pre-activations [batch, latents], float.
      dead: bool [latents].
      decoder: [latents, inputs].
      residual: inputs minus their reconstruction, [batch, inputs]; no gradient flows through it.
      k: how many dead latents, at most all.
    """
    _check(z, dead, decoder, residual)
    if not 1 <= k <= z.shape[1]:
        raise ValueError(f"k={k} must be between 1 and the {z.shape[1]} latents.")
    residual = jax.lax.stop_gradient(residual)
    error = residual - largest_silent(z, dead, k) @ _only(dead, decoder)
    whole = (residual**2).mean()
    return jnp.where(
        dead.any() & (whole > 0), (error**2).mean() / jnp.where(whole > 0, whole, 1), 0
    )


def ghost_loss(
    z: jax.Array, dead: jax.Array, decoder: jax.Array, residual: jax.Array, loss: jax.Array
) -> jax.Array:
    """Ghost gradients (Jermyn & Templeton, Transformer Circuits, January 2024): dead latents with
    the activation exp(z), scaled to half the norm of the residual example by example, reconstruct
    the residual; their squared error is scaled to the size of `loss`.

    Arguments as for `auxk_loss`, and the scalar `loss` of the reconstruction. Both scales are
    constants for the gradient, so the value is that of `loss` and says nothing; what acts is the
    gradient. 0 where no latent is dead.
    """
    _check(z, dead, decoder, residual)
    stop = jax.lax.stop_gradient
    residual = stop(residual)
    peak = stop(jnp.where(dead, z, -jnp.inf).max(1, keepdims=True))  # its factor is scaled away
    ghosts = jnp.where(dead, jnp.exp(jnp.where(dead, z - jnp.where(dead.any(), peak, 0), 0)), 0)
    output = ghosts @ _only(dead, decoder)
    sizes = [jnp.linalg.norm(stop(value), axis=1, keepdims=True) for value in (residual, output)]
    scale = sizes[0] / (2 * jnp.where(sizes[1] > 0, sizes[1], 1))
    error = ((residual - output * scale) ** 2).mean()
    return jnp.where(dead.any(), error * stop(loss / jnp.where(error > 0, error, 1)), 0)


def _only(dead: jax.Array, decoder: jax.Array) -> jax.Array:
    return jnp.where(dead[:, None], decoder, 0)


def _check(z, dead, decoder, residual):
    """Raises a ValueError that names the argument whose shape does not fit."""
    wanted = {
        "dead": (dead, z.shape[1:]),
        "decoder": (decoder, (z.shape[-1], residual.shape[-1])),
        "residual": (residual, (*z.shape[:1], decoder.shape[-1])),
    }
    for name, (value, shape) in wanted.items():
        if z.ndim != 2 or jnp.shape(value) != shape:
            raise ValueError(
                f"{name} has shape {jnp.shape(value)}, and z has {z.shape}; give z [batch, "
                "latents], dead [latents], decoder [latents, inputs] and residual [batch, inputs]."
            )
    if dead.dtype != bool:
        raise ValueError(f"dead has dtype {dead.dtype}; give bools, such as silent >= 1000.")
