"""Silences: how long each unit is used to be silent, as a histogram that a step can carry."""

import jax
import jax.numpy as jnp
import numpy as np

# Steps from one firing to the next: exact up to 16, then bins that are 1.41 times as long each.
EDGES = np.array(
    [*range(1, 17), *(int(16 * 2 ** (k / 2)) for k in range(1, 54)), np.iinfo(np.int32).max]
)


def none(units: int) -> jax.Array:
    """No silence yet: int32 [units, bins]."""
    return jnp.zeros((units, len(EDGES)), jnp.int32)


def counted(counts: jax.Array, steps: jax.Array, fired: jax.Array) -> jax.Array:
    """The counts with one more silence, of so many steps, for each unit that fired."""
    place = jnp.searchsorted(jnp.asarray(EDGES, jnp.int32), steps)
    return counts.at[jnp.arange(counts.shape[0]), place].add(fired.astype(jnp.int32))


def quantile(counts: jax.Array, share: float) -> jax.Array:
    """The fewest steps within which each unit fired again in at least this share of its silences,
    int32 [units], rounded up to the end of a bin: at most 1.46 times too many. The largest int32
    for a unit that never fired."""
    up_to = jnp.cumsum(counts, axis=1)
    enough = (up_to >= share * up_to[:, -1:]) & (up_to[:, -1:] > 0)
    first = jnp.where(enough.any(1), jnp.argmax(enough, axis=1), len(EDGES) - 1)
    return jnp.asarray(EDGES, jnp.int32)[first]
