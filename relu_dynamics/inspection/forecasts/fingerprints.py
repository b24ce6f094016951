"""Fingerprints: whether two forks drew the same, and fresh keys for each.

Forks that saw the same examples at every step are copies of one another, not a sample.
"""

from typing import Any

import jax
import jax.numpy as jnp


def fingerprint(tree: Any) -> jax.Array:
    """A hash of a batch, uint32: the same for the same examples in another order, since a loss is a
    mean over them. Examples are the first axis of every array, typed PRNG keys have none."""
    examples: dict[int, jax.Array] = {}
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        words = _words(leaf)
        place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, 1) + jnp.uint32(1 + number * 7919)
        own = _mixed(words ^ _mixed(place)).sum(1, dtype=jnp.uint32)
        examples[len(own)] = examples.get(len(own), jnp.zeros_like(own)) + own
    parts = [_mixed(rows).sum(dtype=jnp.uint32) for rows in examples.values()]
    return sum(parts, jnp.uint32(0))


def chained(before: jax.Array, new: jax.Array) -> jax.Array:
    """The fingerprint of a sequence, from that of what came before and of what is next."""
    return _mixed(before * jnp.uint32(31) + new)


def with_new_keys(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
    """(the state with its typed PRNG keys folded with `key`, a fingerprint of these)."""
    word = jax.random.bits(key)

    def renewed(leaf):
        if not _is_key(leaf):
            return leaf
        fold = lambda one: jax.random.fold_in(one, word)  # noqa: E731
        return jax.vmap(fold)(leaf.reshape(-1)).reshape(leaf.shape)

    new = jax.tree.map(renewed, state)
    return new, fingerprint([leaf for leaf in jax.tree.leaves(new) if _is_key(leaf)])


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _words(leaf: Any) -> jax.Array:
    """The bits of an array as uint32 [examples, words of each]."""
    if _is_key(leaf):
        return jax.random.key_data(leaf).reshape(1, -1)
    leaf = jnp.asarray(leaf)
    rows = leaf.shape[0] if leaf.ndim else 1
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], -1)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        leaf = jax.lax.bitcast_convert_type(wide, jnp.uint32)
    return leaf.astype(jnp.uint32).reshape(rows, -1)


def _mixed(words: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 (Appleby, public domain), which spreads every bit."""
    words = words ^ (words >> 16)
    words = words * jnp.uint32(0x85EBCA6B)
    words = words ^ (words >> 13)
    words = words * jnp.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
