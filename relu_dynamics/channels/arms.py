"""Arms: one channel switched off at the fork."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from relu_dynamics.channels.terms import normalization_statistics
from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.step import State


def keep_during(spell: jax.Array, values: jax.Array) -> jax.Array:
    """Values [..., units] where the unit is in its spell [units], else 0."""
    return jnp.where(spell.reshape((1,) * (values.ndim - 1) + spell.shape), values, 0)


class Arm(NamedTuple):
    """One counterfactual: how it changes the config and the state at the fork."""

    missing: Callable[[Config], str | None]  # why the config cannot have this arm, or None
    config: Callable[[Config], Config] = lambda config: config  # traced fields only
    state: Callable[[Config, State, jax.Array], State] = lambda config, state, cohort: state
    holds: str | None = None  # what is held as it is at the fork: "upstream" or "normalization"


def _switch_off(field: str) -> Arm:
    def missing(config):
        value = getattr(config, field)
        return None if value else f"{field}={value!r} leaves nothing to switch off"

    return Arm(missing, lambda config: dataclasses.replace(config, **{field: 0.0}))


def _no_upstream(config: Config) -> str | None:
    if config.biased_layer == 1:
        return "biased_layer=1 has no layer below"
    return "upstream_rate=0.0 has frozen it already" if config.upstream_rate == 0 else None


def _no_residue(config: Config) -> str | None:
    if optimizers.optimizer_of(config).memory is None:
        return f"optimizer={config.optimizer!r} keeps no first moment that could move a unit"
    return "momentum=0.0 leaves no residue" if config.momentum == 0 else None


def _no_normalization(config: Config) -> str | None:
    if not activation_of(config).elementwise:
        return f"a frozen forward pass does not cover activation={config.activation!r}"
    if normalization_of(config).statistics is None:
        return f"normalization={config.normalization!r} has no statistics"
    return None


def _zero_residue(config: Config, state: State, cohort: jax.Array) -> State:
    """The state with the first moment of the cohort's incoming parameters set to 0; `cohort` is
    [units of the biased layer] bool. Denominators stay, as they move nothing by themselves."""
    name = str(optimizers.optimizer_of(config).memory)  # `_no_residue` has refused None
    moment = optax.tree.get(state.optimizer, name)
    own = f"_{config.biased_layer}"  # the end of the names of all groups of the layer
    zeroed = {
        group: jax.tree.map(lambda leaf: keep_during(~cohort, leaf), part)
        if group.endswith(own)
        else part
        for group, part in moment.items()
    }
    return state._replace(optimizer=optax.tree.set(state.optimizer, **{name: zeroed}))


ARMS = {
    "as_is": Arm(lambda config: None),
    "upstream_frozen": Arm(_no_upstream, holds="upstream"),
    "residue_zeroed": Arm(_no_residue, state=_zero_residue),
    "decay_off": _switch_off("weight_decay"),
    "noise_off": _switch_off("noise_scale"),
    "outside_off": _switch_off("outside_gradient"),
    "normalization_frozen": Arm(_no_normalization, holds="normalization"),
}

RATE_ARM = "rate_x"


def find_arm(name: str) -> Arm:
    """The arm of a name in `ARMS`, or of "rate_x" and a factor."""
    if not isinstance(name, str) or not name.startswith(RATE_ARM):
        check_choice("arm", name, [*ARMS, RATE_ARM + "10"])
        return ARMS[name]
    try:
        factor = float(name[len(RATE_ARM) :])
    except ValueError:
        factor = 0.0
    if not 0 < factor < float("inf"):
        raise ValueError(
            f"arm {name!r} needs a factor > 0 on the learning rate, such as 'rate_x10'."
        )

    def missing(config):
        return None if config.learning_rate else "learning_rate=0.0 leaves nothing to multiply"

    return Arm(
        missing,
        lambda config: dataclasses.replace(config, learning_rate=factor * config.learning_rate),
    )


def apply_frozen(reference, frozen, config, params, inputs) -> models.Forward:
    """`models.apply` with every hidden layer's normalization statistics taken from the forward
    pass of the `reference` parameters on the same inputs where `frozen` is true."""
    activate = activation_of(config)

    def affine(tree, name, x):
        bias = tree[name].get("bias")
        product = x @ tree[name]["kernel"]
        return product if bias is None else product + bias[None, :]

    def normalize(tree, layer, values, mean, inverse):
        scale, shift = models.scale(config, tree, layer), models.shift(config, tree, layer)
        scale = jnp.ones_like(shift) if scale is None else scale
        return (values - mean) * inverse * scale[None, :] + shift[None, :]

    x, then, preactivations, seen = inputs, inputs, [], []
    for layer in range(1, len(config.hidden) + 1):
        name = models.layer_name(layer)
        seen.append(x)
        values, held_values = affine(params, name, x), affine(reference, name, then)
        held = normalization_statistics(config, held_values)
        now = normalization_statistics(config, values)
        mean, inverse = (jnp.where(frozen, h, n) for h, n in zip(held, now, strict=True))
        preactivations.append(normalize(params, layer, values, mean, inverse))
        x = activate(preactivations[-1])
        then = activate(normalize(reference, layer, held_values, *held))
    return models.Forward(affine(params, "output", x), tuple(preactivations), tuple(seen))
