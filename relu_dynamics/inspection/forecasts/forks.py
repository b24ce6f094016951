"""Forks: one replay of a user's step, what is kept of it, and how many run at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.engine.memory import check_memory
from relu_dynamics.inspection.forecasts.fingerprints import chained, fingerprint, with_new_keys
from relu_dynamics.inspection.forecasts.replay import margins_of, replay, state_in
from relu_dynamics.inspection.forecasts.sizes import bytes_of, working_bytes

AT_ONCE = 2**30  # bytes that the forks of one call may take; decides how many run at once


class Fork(NamedTuple):
    """What is kept of one fork."""

    row: jax.Array  # int32 [units], looks in a row, up to the last, at which the unit was alive
    alive_at: jax.Array  # int32 [units], steps to the first of `sustain` such looks; -1 for none
    diverged: jax.Array  # bool, whether some margin was no number, or infinite
    drawn: jax.Array  # uint32, fingerprint of all batches
    path: jax.Array  # uint32, of the margins at all looks


def run_fork(
    step: Callable,
    draw: Callable,
    see: Callable,
    state: Any,
    key: jax.Array,
    number: jax.Array,
    *,
    steps: int,
    every: int,
    sustain: int = 1,
) -> Fork:
    """Fork `number` of `forecast`, with its arguments. Pure: jit it, vmap it over numbers, states
    and keys."""
    key = jax.random.fold_in(key, number)
    state, drawn = with_new_keys(state, key)

    def drawn_step(carry, *batch):
        state, drawn = carry
        return state_in(step(state, *batch), state), chained(drawn, fingerprint(batch))

    def look(fork, taken, carry):
        margin = margins_of(see(carry[0]))
        row = jnp.where(margin > 0, fork.row + 1, 0)
        first = (row >= sustain) & (fork.alive_at < 0)
        bad = jnp.isnan(margin) | (margin == jnp.inf)
        return Fork(
            row,
            jnp.where(first, taken - (sustain - 1) * every, fork.alive_at),
            fork.diverged | bad.any(),
            carry[1],
            chained(fork.path, fingerprint(margin[None])),
        )

    units = jax.eval_shape(lambda state: margins_of(see(state)), state).shape
    none = jnp.zeros(units, jnp.int32)
    kept = Fork(none, none - 1, jnp.bool_(False), drawn, jnp.uint32(0))
    return replay(drawn_step, (state, drawn), draw, look, kept, steps=steps, every=every, key=key)[
        1
    ]


def call_width(
    step: Callable,
    draw: Callable,
    see: Callable,
    state: Any,
    key: jax.Array,
    forks: int,
    lanes: int | None = None,
) -> int:
    """How many of the forks run at once: `lanes`, or by default what fits into `AT_ONCE` bytes.
    Nothing runs, but all functions are traced, so what they return is checked on the way.

    Raises a ValueError when what these forks surely hold does not fit into memory.
    """
    batch = jax.eval_shape(draw, key)
    arguments = batch if isinstance(batch, tuple) else (batch,)
    held = 2 * bytes_of(state) + bytes_of(batch)
    most = held + max(
        working_bytes(
            lambda state, *batch: state_in(step(state, *batch), state), state, *arguments
        ),
        working_bytes(lambda state: margins_of(see(state)), state),
    )
    lanes = min(forks, max(1, AT_ONCE // most) if lanes is None else lanes)
    check_memory(lanes * held, f"run fewer than lanes={lanes} forks at once")
    return lanes
