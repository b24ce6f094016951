"""Replay: a user's own train step, run on from a state over batches that are drawn anew.

`replay` is the only loop over a user's steps, as `training.scan_steps` is over the engine's.
Functions may be `jax.tree_util.Partial`s, whose arrays are then arguments of the compiled program
and not constants in it: `draw_from` and `draw_examples` return such.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from relu_dynamics.checks import short_repr
from relu_dynamics.inspection.reading.seen import Seen
from relu_dynamics.inspection.reading.watch import each_batch, leaf_name


def replay(
    step: Callable,
    state: Any,
    draw: Callable,
    look: Callable,
    kept: Any,
    *,
    steps: int,
    every: int,
    key: jax.Array,
) -> tuple[Any, Any]:
    """(state, kept) after `steps` steps of `step(state, *batch)`; pure, for use in jit and vmap.

    The batch of step i is `draw(fold_in(key, i))`. Every `every` steps
    `kept = look(kept, steps taken, state)`.
    """

    def one(state, number):
        batch = draw(jax.random.fold_in(key, number))
        made = step(state, *(batch if isinstance(batch, tuple) else (batch,)))
        return state_in(made, state), None

    def segment(carry, first):
        state, kept = carry
        state, _ = jax.lax.scan(one, state, first + jnp.arange(every))
        return (state, look(kept, first + every, state)), None

    return jax.lax.scan(segment, (state, kept), jnp.arange(0, steps, every))[0]


def state_in(made: Any, state: Any) -> Any:
    """The new state in what a step returned: the state itself, or the first part of a tuple, of a
    tuple in it and so on, whose tree is that of `state`. So it is found in (state, loss) and in
    what a watched step returns, ((state, loss), seen).

    Raises a ValueError where there is none, or where a leaf changes its shape or type.
    """
    found, wanted = made, jax.tree.structure(state)
    while jax.tree.structure(found) != wanted:
        if not isinstance(found, tuple) or not found:
            raise ValueError(
                f"step returned {_shortened(jax.tree.structure(made))}, which does not begin with "
                f"a state like the one given, {_shortened(wanted)}; return the new state, or "
                "(state, ...)."
            )
        found = found[0]
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, old), new in zip(leaves, jax.tree.leaves(found), strict=True):
        kinds = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in (old, new)]
        if kinds[0] != kinds[1]:
            before, after = (f"{dtype} {shape}" for shape, dtype in kinds)
            raise ValueError(
                f"state leaf {leaf_name(path) or 'state'!r} is {before} before a step and {after} "
                "after it; a step that is run on must keep them, so cast the leaf in the step or "
                "in the state given."
            )
    return found


def _shortened(structure: Any) -> str:
    return short_repr(structure).removeprefix("PyTreeDef(").removesuffix(")")


def margins_of(seen: Any) -> jax.Array:
    """The margins [units] in what `see(state)` returned: a `Seen`, or the margins themselves. They
    are -inf for units without an example.

    Raises a ValueError for anything else.
    """
    if isinstance(seen, tuple) and not isinstance(seen, Seen):
        raise ValueError(
            f"see returned a tuple of {len(seen)}; return the Seen alone, as "
            "watch(model)(params, inputs)[1]."
        )
    margin = jnp.where(seen.examples > 0, seen.margin, -jnp.inf) if isinstance(seen, Seen) else seen
    if jnp.ndim(margin) != 1 or not jnp.issubdtype(jnp.result_type(margin), jnp.floating):
        raise ValueError(
            f"see returned {short_repr(margin)}; return a Seen, or the margins as floats [units]."
        )
    return margin


# Batches drawn anew ---------------------------------------------------------------------------


def draw_from(batches: Iterable[Any]) -> Partial:
    """key -> one of the user's own batches, each as likely as any other: their order is drawn
    anew, with replacement.

    `batches` are tuples of a step's arguments, or one argument each; all are held in memory. Raises
    a ValueError where there is none, or where they differ in shape (a last batch that is smaller).
    """
    every = list(each_batch(batches))
    shapes = [jax.tree.map(jnp.shape, batch) for batch in every]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"batch {number} has shapes {short_repr(shape)}, and batch 0 "
                f"{short_repr(shapes[0])}; give batches of equal shapes, or use draw_examples."
            )
    return Partial(_one_of, jax.tree.map(lambda *leaves: jnp.stack(leaves), *every))


def _one_of(stacked: Any, key: jax.Array) -> Any:
    count = jax.tree.leaves(stacked)[0].shape[0]
    number = jax.random.randint(key, (), 0, count)
    return jax.tree.map(lambda leaf: leaf[number], stacked)


def draw_examples(arrays: Any, batch_size: int | None = None) -> Partial:
    """key -> a batch of so many different examples of the user's own data, drawn anew.

    `arrays` is an array [examples, ...], or a tuple or tree of them that share their examples. A
    batch is of the same kind. With batch_size None, or all examples, every batch is all of them in
    their order: full-batch training, of which nothing is random.

    Raises a ValueError for arrays of unequal lengths and for a batch size that cannot be drawn.
    """
    arrays = jax.tree.map(jnp.asarray, arrays)
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(arrays)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"arrays have {sorted(lengths)} examples; give arrays of the same number of rows."
        )
    (count,) = lengths
    if batch_size is None or batch_size == count:
        return Partial(_all_of, arrays)
    if not 1 <= batch_size < count:
        raise ValueError(f"batch_size={batch_size} must be between 1 and the {count} examples.")
    return Partial(_Some(batch_size), arrays)


def _all_of(arrays: Any, key: jax.Array) -> Any:
    return arrays


class _Some(NamedTuple):
    """Draws some examples; equal sizes are equal functions, so nothing is compiled twice."""

    batch_size: int

    def __call__(self, arrays: Any, key: jax.Array) -> Any:
        total = jax.tree.leaves(arrays)[0].shape[0]
        chosen = jax.random.choice(key, total, (self.batch_size,), replace=False)
        return jax.tree.map(lambda leaf: leaf[chosen], arrays)
