"""Transforms: what a user's optax optimizer may be made of, so that units can be treated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def entrywise(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` with a state of its own for every entry, counts too: an entry that `fresh_memory` made
    fresh moves as from scratch.

    Adam counts steps once for all parameters, so an entry whose moments were cleared at step 1000
    is corrected for bias as if they were 1000 steps old and moves 2.5 to 5 times too far for
    hundreds of steps. Right for every `tx` that treats entries apart (`optax.scale_by_adam`, no
    trust ratio); a schedule belongs after it in the chain, or it starts again too. Price: the
    counts, an int32 for every parameter.
    """

    def each(function, *trees):
        shape = jnp.shape(jax.tree.leaves(trees)[0])
        out = jax.vmap(function)(*jax.tree.map(jnp.ravel, trees))
        return jax.tree.map(lambda leaf: leaf.reshape(shape), out)

    def init(params):
        leaves, tree = jax.tree.flatten(params)
        states = [each(tx.init, leaf) for leaf in leaves]
        return jax.tree.map(lambda *parts: jax.tree.unflatten(tree, parts), *states)

    def update(updates, state, params=None):
        leaves, tree = jax.tree.flatten(updates)
        own = jax.tree.structure(tx.init(jnp.zeros(())))
        states = tree.flatten_up_to(jax.tree.transpose(own, tree, state))
        others = [None] * len(leaves) if params is None else jax.tree.leaves(params)
        done = [each(tx.update, *row) for row in zip(leaves, states, others, strict=True)]
        new = jax.tree.map(lambda *parts: jax.tree.unflatten(tree, parts), *[s for _, s in done])
        return jax.tree.unflatten(tree, [u for u, _ in done]), new

    return optax.GradientTransformation(init, update)


def toward_start(strength: float, start: Any) -> optax.GradientTransformation:
    """Regenerative L2 (Kumar et al. 2023, arXiv 2308.11958): a pull to the first parameters, put
    before the optimizer in a chain. It acts on dead units too, which get no other gradient."""

    def update(updates, state, params=None):
        pull: Callable = lambda g, p, q: g + strength * (p - q)  # noqa: E731
        return jax.tree.map(pull, updates, params, start), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
