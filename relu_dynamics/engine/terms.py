"""Terms: what joins the task's loss, one row each: penalties on what units output, and revivals of
silent ones. The loss that a run reports stays the task's own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine import models, revivals, tasks, units
from relu_dynamics.engine.activations import threshold_window


class Seen(NamedTuple):
    """What a term may depend on, of a minibatch."""

    forward: models.Forward
    targets: jax.Array
    silent: jax.Array | None = None  # [units] int32, steps since a unit last had an output


class Term(NamedTuple):
    """What the rest of the project has to know of a term; a row of `PENALTIES` or `REVIVALS`."""

    loss: Callable[[Config, models.Params, Seen], jax.Array] | None = None  # for the scale 1
    scale: float | None = None  # the default of its scale
    of_silent: bool = False  # needs to know for how long units have been silent
    of_threshold: bool = False  # moves thresholds alone
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name


# Penalties ------------------------------------------------------------------------------------


def _l1(config: Config, params: models.Params, seen: Seen) -> jax.Array:
    """Sum over units of |h| times the length of its outgoing weights, so that neither can hide in
    the other; mean over examples, per output."""
    outputs = units.outputs(config, params, seen.forward)
    lengths = [jnp.linalg.norm(rows, axis=1) for rows in units.outgoing(config, params)]
    sums = [(h * own[None, :]).sum(1).mean() for h, own in zip(outputs, lengths, strict=True)]
    return jnp.stack(sums).sum() / seen.forward.output.shape[1]


@jax.custom_jvp
def _fires(z: jax.Array, threshold: jax.Array) -> jax.Array:
    return (z > 0).astype(z.dtype) + 0 * threshold


@_fires.defjvp
def _fires_jvp(primals, tangents):
    # z held, as in `activations`: no gradient reaches what z is made of but the threshold.
    z, threshold = primals
    return _fires(z, threshold), -threshold_window(z) * (tangents[1] + 0 * z)


def _l0(config: Config, params: models.Params, seen: Seen) -> jax.Array:
    """Mean number of units that fire on an example, per output; the thresholds learn by a
    straight-through estimator (arXiv 2407.14435, section 3)."""
    sums = []
    for layer, z in enumerate(seen.forward.preactivations, start=1):
        threshold = models.learned(config, params, layer)
        sums.append(_fires(jax.lax.stop_gradient(z), threshold).sum(1).mean())
    return jnp.stack(sums).sum() / seen.forward.output.shape[1]


PENALTIES: dict[str, Term] = {
    "none": Term(),
    "l1": Term(_l1, aliases=("lasso", "sparsity")),
    "l0": Term(_l0, of_threshold=True),
}


# Revivals, of the last hidden layer --------------------------------------------------------------


def _last_layer(config: Config, params: models.Params, seen: Seen) -> tuple[jax.Array, ...]:
    """(z, silent, decoder, residual) as `revivals` has them."""
    after = SILENT_AFTER if config.silent_after is None else config.silent_after
    silent: Any = seen.silent
    return (
        seen.forward.preactivations[-1],
        silent[-config.hidden[-1] :] >= after,
        units.outgoing(config, params)[-1],
        seen.targets - seen.forward.output,
    )


def _aux_k(config: Config, params: models.Params, seen: Seen) -> jax.Array:
    k = min(max(tasks.output_dimension(config) // 2, 1), config.hidden[-1])
    z, silent, decoder, residual = _last_layer(config, params, seen)
    return revivals.aux_k(z, silent, decoder, residual, k)


def _ghosts(config: Config, params: models.Params, seen: Seen) -> jax.Array:
    z, silent, decoder, residual = _last_layer(config, params, seen)
    return revivals.ghost_gradients(z, silent, decoder, residual)


SILENT_AFTER = 100.0

REVIVALS: dict[str, Term] = {
    "none": Term(),
    "aux_k": Term(_aux_k, revivals.AUX_SCALE, of_silent=True, aliases=("auxiliary loss",)),
    "ghost_gradients": Term(_ghosts, 1.0, of_silent=True, aliases=("ghost grads", "ghosts")),
}


def present(config: Config) -> list[tuple[Term, Any]]:
    """(row, scale) of the terms that join the config's loss."""
    named = (
        (PENALTIES[config.penalty], config.penalty_scale),
        (REVIVALS[config.revival], config.revival_scale),
    )
    return [
        (row, row.scale if scale is None else scale) for row, scale in named if row.loss is not None
    ]


def with_terms(config: Config, loss: jax.Array, params: models.Params, seen: Seen) -> jax.Array:
    """The loss and the config's terms."""
    for row, scale in present(config):
        own: Any = row.loss
        loss = loss + scale * own(config, params, seen)
    return loss
