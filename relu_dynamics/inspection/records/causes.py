"""Causes: which part of the training moved a unit's margin, for any optax optimizer.

Every update has three parts: what the optimizer *remembers* (residue), its *decay*, and what the
*gradient* of this step adds. `add` sums them over steps, which costs two more updates a step and no
forward pass; `account` then says, at an evaluation, what each did to every margin. One step at a
time is `causes`.

The margin now is reached from that at the start by one change after the other: of the unit's own
parameters the residue, the decay and the gradient; then that of all other parameters, which move
what the unit sees (*upstream*). The parts sum to the change of the margin, since each begins where
the last one ended.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.inspection.reading.surgery import masks
from relu_dynamics.inspection.reading.watch import Probe


class Causes(NamedTuple):
    """Change of every unit's margin, by what made it; [units] each."""

    residue: jax.Array
    decay: jax.Array
    gradient: jax.Array
    upstream: jax.Array

    @property
    def total(self) -> jax.Array:
        """The change of the margin."""
        return self.residue + self.decay + self.gradient + self.upstream

    @property
    def largest(self) -> jax.Array:
        """The number of the field that lowered the margin most, int32 [units]."""
        return jnp.argmin(jnp.stack(list(self)), axis=0).astype(jnp.int32)


class Moves(NamedTuple):
    """What moved the parameters since a point in training; trees like them. Pure: it lives in jit,
    scan and checkpoints."""

    start: Any  # the parameters then
    residue: Any  # sums since then, at least float32
    decay: Any


def begin(params: Any) -> Moves:
    """Nothing has moved since these parameters."""
    none = jax.tree.map(
        lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params
    )
    return Moves(params, none, none)


def add(
    moves: Moves,
    params: Any,
    memory: Any,
    gradients: Any,
    *,
    tx: optax.GradientTransformation,
    **extra: Any,
) -> Moves:
    """The moves after one more step of `tx` from `params` and its state `memory`, both as they were
    before the step; `extra` is what its update is given beside (a loss as `value`).

    What the update does with gradients of 0 is residue and decay. Decay is the part of it that
    changes its sign with the parameters: the update is taken once more at -params, with the
    parameters that the optimizer keeps copies of (`schedule_free`) mirrored too. Gradients that an
    accumulator still holds are remembered, so they are residue, and so is the noise of a noisy
    optimizer. What an optimizer makes of a gradient by way of others (a global norm) is gradient,
    and so is what it does not define for gradients of 0.
    """
    tx = optax.with_extra_args_support(tx)
    zero, mirrored = (
        jax.tree.map(f, t) for f, t in ((jnp.zeros_like, gradients), (_minus, params))
    )
    at = tx.init(params), tx.init(mirrored)
    other = jax.tree.map(lambda m, a, b: m + (b - a) if _real(m) else m, memory, *at)
    here = tx.update(zero, memory, params, **extra)[0]
    there = tx.update(zero, other, mirrored, **extra)[0]

    def sums(sign):
        def one(total, a, b):
            part = (a.astype(total.dtype) + sign * b.astype(total.dtype)) / 2
            return total + jnp.where(jnp.isfinite(a) & jnp.isfinite(b), part, 0)

        return one

    return Moves(
        moves.start,
        jax.tree.map(sums(1), moves.residue, here, there),
        jax.tree.map(sums(-1), moves.decay, here, there),
    )


def _minus(leaf: jax.Array) -> jax.Array:
    return -leaf


def _real(leaf: jax.Array) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def account(
    margins: Callable[[Any], jax.Array], moves: Moves, params: Any, *, probe: Probe
) -> Causes:
    """The `Causes` of the change from `moves.start` to `params`, which is where training is now.

    `margins(params)` -> [units], as `lambda p: watch(model)(p, batch)[1].margin`. Jit it: only the
    layer whose parameters are exchanged is computed again then, so that it costs about five forward
    passes, however deep the model is. Called eagerly it costs three passes for every site and two.
    """
    margins = jax.jit(margins)  # read once, not for every site
    residue = jax.tree.map(_moved, moves.start, moves.residue)
    decayed = jax.tree.map(
        lambda p, r, d: _moved(p, r + d), moves.start, moves.residue, moves.decay
    )
    before, after, parts = margins(moves.start), margins(params), []
    for part in probe.slices.values():
        with jax.ensure_compile_time_eval():
            units = jnp.zeros(probe.units, bool).at[part].set(True)
            own = jax.tree.map(np.asarray, masks(params, probe, units))
        line = [before[part]]
        for stage in (residue, decayed, params):
            line.append(margins(jax.tree.map(_exchanged, own, stage, moves.start))[part])
        line.append(after[part])
        parts.append(jnp.stack([b - a for a, b in zip(line[:-1], line[1:], strict=True)]))
    return Causes(*jnp.concatenate(parts, axis=1))


def _moved(leaf: jax.Array, by: jax.Array) -> jax.Array:
    return (leaf + by).astype(leaf.dtype)


def _exchanged(own: np.ndarray, new: jax.Array, old: jax.Array) -> jax.Array:
    """The own entries new. A leaf that is exchanged as a whole, or not at all, stays what it is:
    the compiler then sees which layers are the same."""
    return new if own.all() else jnp.where(own, new, old) if own.any() else old


def causes(
    margins: Callable[[Any], jax.Array],
    params: Any,
    memory: Any,
    gradients: Any,
    *,
    probe: Probe,
    tx: optax.GradientTransformation,
    **extra: Any,
) -> Causes:
    """The `Causes` of one step of `tx` from `params` and its state `memory` with these gradients;
    arguments as for `add` and `account`."""
    moves = add(begin(params), params, memory, gradients, tx=tx, **extra)
    whole = optax.with_extra_args_support(tx).update(gradients, memory, params, **extra)[0]
    return account(margins, moves, optax.apply_updates(params, whole), probe=probe)
