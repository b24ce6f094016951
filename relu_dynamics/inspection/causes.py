"""Causes: which part of one optimizer step moved a unit's margin, for any optax optimizer.

The margin after the step is reached from that before it by one change after the other: of the
unit's own parameters what the optimizer remembers (*residue*), its *decay*, and the *gradient*;
then that of all other parameters, which move what the unit sees (*upstream*). The parts sum to the
change of the margin, since each begins where the last one ended.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from relu_dynamics.inspection.surgery import masks
from relu_dynamics.inspection.watch import Probe


class Causes(NamedTuple):
    """Change of every unit's margin in one step, by what made it; [units] each."""

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


def causes(
    margins: Callable[[Any], jax.Array],
    params: Any,
    memory: Any,
    gradients: Any,
    *,
    probe: Probe,
    tx: optax.GradientTransformation,
) -> Causes:
    """The `Causes` of one step of `tx` from `params` and its state `memory` with these gradients.

    `margins(params)` -> [units], as `lambda p: watch(model)(p, batch)[1].margin`: it is evaluated
    four times for every site. Pure: jit it. What an optimizer does with gradients of 0 is its
    residue and decay; what it then does with parameters of 0 as well is residue alone. An optimizer
    that couples parameters (a global norm) puts what the coupling does under gradient.
    """
    margins = jax.jit(margins)  # read once, not for every site
    zero, nothing = (jax.tree.map(jnp.zeros_like, tree) for tree in (gradients, params))
    residue = optax.apply_updates(params, tx.update(zero, memory, nothing)[0])
    decayed = optax.apply_updates(params, tx.update(zero, memory, params)[0])
    whole = optax.apply_updates(params, tx.update(gradients, memory, params)[0])
    before, after = margins(params), margins(whole)
    parts = []
    for part in probe.slices.values():
        own = masks(params, probe, jnp.zeros(probe.units, bool).at[part].set(True))
        line = [before[part]]
        for moved in (residue, decayed, whole):
            line.append(margins(jax.tree.map(jnp.where, own, moved, params))[part])
        line.append(after[part])
        parts.append(jnp.stack([b - a for a, b in zip(line[:-1], line[1:], strict=True)]))
    return Causes(*jnp.concatenate(parts, axis=1))
