"""Revivals of silent latents in an autoencoder. Pure functions of arrays.

All take z [batch, units], `silent` bool [units], the decoder [units, outputs] and the residual
[batch, outputs], the targets less what was reconstructed, through which no gradient flows. Losses
are half the mean squared error over examples and outputs, as the engine's.
"""

import jax
import jax.numpy as jnp

AUX_SCALE = 1 / 32  # of Gao et al. 2024, arXiv 2406.04093


def largest_silent(z: jax.Array, silent: jax.Array, k: int) -> jax.Array:
    """The k largest z of every example among the silent latents as they are, 0 for all others."""
    masked = jnp.where(silent[None, :], jax.lax.stop_gradient(z), -jnp.inf)
    chosen = jax.nn.one_hot(jax.lax.top_k(masked, k)[1], z.shape[1], dtype=bool).any(1)
    return jnp.where(chosen & silent[None, :], z, 0)


def aux_k(
    z: jax.Array, silent: jax.Array, decoder: jax.Array, residual: jax.Array, k: int
) -> jax.Array:
    """AuxK: the k largest silent latents of every example are to reconstruct the residual. Gao et
    al. 2024, arXiv 2406.04093, appendix A.2; z enters without a ReLU. 0 without a silent latent."""
    rebuilt = largest_silent(z, silent, k) @ decoder
    loss = 0.5 * jnp.mean((jax.lax.stop_gradient(residual) - rebuilt) ** 2)
    return jnp.where(silent.any(), loss, 0.0)


def ghost_gradients(
    z: jax.Array, silent: jax.Array, decoder: jax.Array, residual: jax.Array
) -> jax.Array:
    """Ghost gradients: exp(z) of the silent latents, scaled to half the residual's length, is to
    reconstruct the residual; the loss is scaled to the size of the main one. Jermyn & Templeton,
    Transformer Circuits Thread, January 2024. No gradient flows through either scale. 0 without a
    silent latent."""
    residual = jax.lax.stop_gradient(residual)
    loud = jnp.where(silent[None, :], jnp.exp(jnp.where(silent[None, :], z, 0.0)), 0.0)
    ghost = loud @ decoder
    length = lambda x: jnp.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    scale = length(residual) / (2 * length(jax.lax.stop_gradient(ghost)) + 1e-6)
    loss = 0.5 * jnp.mean((residual - ghost * scale) ** 2)
    main = 0.5 * jnp.mean(residual**2)
    level = main / jnp.maximum(jax.lax.stop_gradient(loss), 1e-30)
    return jnp.where(silent.any(), level * loss, 0.0)


RESAMPLED_LENGTH = 0.2  # of the other latents' mean encoder length, Bricken et al. 2023


def resampled(
    key: jax.Array, inputs: jax.Array, losses: jax.Array, encoder: jax.Array, silent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(encoder columns [fan_in, units], decoder rows [units, fan_in]) for all latents, of which the
    silent ones are to be replaced: directions of examples that were drawn in proportion to their
    squared loss, the encoder's RESAMPLED_LENGTH times the mean length of the others, the decoder's
    of length 1. Bricken et al., Transformer Circuits Thread, October 2023.

    inputs [examples, fan_in] are what the encoder sees (less the decoder's bias), losses
    [examples], encoder [fan_in, units].
    """
    weights = jnp.log(jnp.maximum(losses, 1e-30)) * 2
    drawn = inputs[jax.random.categorical(key, weights, shape=(encoder.shape[1],))]
    rows = drawn / jnp.maximum(jnp.linalg.norm(drawn, axis=1, keepdims=True), 1e-30)
    lengths, others = jnp.linalg.norm(encoder, axis=0), ~silent
    mean = jnp.where(others, lengths, 0).sum() / jnp.maximum(others.sum(), 1)
    return RESAMPLED_LENGTH * jnp.where(others.any(), mean, 1.0) * rows.T, rows
