"""Resets: units that are made new while training goes on, one row each. Pure functions of arrays.

A row says which units of every hidden layer are to be new; `interventions.reset_units` does it
every `Config.reset_every` steps. What a row has to remember of the units is part of the optimizer's
memory (`memory_element`), so that runs, checkpoints and given states carry it like all else.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from relu_dynamics.config import Config
from relu_dynamics.engine import models, revivals, terms, units
from relu_dynamics.engine.units import by_layer

UTILITY_DECAY = 0.99  # of Dohare et al., Nature 632:768


class UnitMemory(NamedTuple):
    """What is remembered of the units."""

    age: jax.Array  # [units] int32, steps since it was new
    silent: jax.Array  # [units] int32, steps since it last had an output on a minibatch
    utility: jax.Array  # [units], running average of what it contributes to the layer above
    due: jax.Array  # [layers], units that are to be replaced, and the fraction left over


# Of one layer; arrays alone ------------------------------------------------------------------


def dormancy(sizes: jax.Array) -> jax.Array:
    """The score of ReDo, [units]: E|h| in units of its mean over the layer, from E|h| [units].
    Sokar et al. 2023 (arXiv 2302.12902). 0 for all in a layer without any output."""
    mean = sizes.mean()
    return jnp.where(mean > 0, sizes / jnp.where(mean > 0, mean, 1), 0.0)


def contribution(sizes: jax.Array, outgoing: jax.Array) -> jax.Array:
    """The contribution of every unit, [units]: E|h| [units] times the sum of the sizes of its
    outgoing weights [units, outputs]. Dohare et al., Nature 632:768 (2024)."""
    return sizes * jnp.abs(outgoing).sum(1)


def least_useful(utility: jax.Array, eligible: jax.Array, count: jax.Array) -> jax.Array:
    """The `count` eligible units of the lowest utility, bool [units]; fewer where there are fewer
    eligible ones. Ties go to the first."""
    rank = jnp.argsort(jnp.argsort(jnp.where(eligible, utility, jnp.inf), stable=True))
    return eligible & (rank < count)


def replaceable(
    utility: jax.Array, age: jax.Array, due: jax.Array, *, maturity: Any, expected: Any
) -> tuple[jax.Array, jax.Array]:
    """Continual backpropagation's choice in one layer: (chosen [units], what is due later []).

    Units older than `maturity` steps are eligible. `expected` of them (a share of a unit each) are
    due, fractions add up until a whole unit is, and those of the lowest utility go. The running
    average began at 0, so it is divided by 1 - decay^age, as the authors' code does.
    """
    eligible = age > maturity
    due = due + expected * eligible.sum()
    fair = utility / (1 - UTILITY_DECAY ** jnp.maximum(age, 1))
    chosen = least_useful(fair, eligible, jnp.floor(due))
    return chosen, due - chosen.sum()


# Rows -----------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What a choice, and a way to make a unit new, may depend on."""

    sizes: jax.Array  # [units], E|h| over the probe set
    memory: UnitMemory | None
    forward: models.Forward  # on the probe set
    targets: jax.Array  # of the probe set


class Reset(NamedTuple):
    """What the rest of the project has to know of a reset; a row of `RESETS`."""

    # Of (config, facts): which units are to be new, bool [units], and what is due later, [layers].
    chooses: Callable[[Config, Facts], tuple[jax.Array, jax.Array | None]] | None = None
    remembers: bool = False  # needs the `UnitMemory`
    # Of (config, key, parameters with the chosen units new, chosen, facts): the parameters with the
    # units new in another way. None: as the initializer draws them, with outgoing weights 0.
    renews: Callable[..., models.Params] | None = None
    autoencodes: bool = False  # for autoencoders alone
    threshold: float | None = None  # the default of `reset_threshold`, where it is used
    rate: float | None = None  # of `reset_rate` and `reset_maturity`, likewise
    maturity: float | None = None
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name


def _number(config: Config, name: str) -> Any:
    """A (traced) number of the config's reset, or its row's default."""
    given = getattr(config, f"reset_{name}")
    return getattr(reset_of(config), name) if given is None else given


def _dormant(config: Config, facts: Facts) -> tuple[jax.Array, None]:
    """Units whose score is at most tau."""
    scores = [dormancy(sizes) for sizes in by_layer(config, facts.sizes)]
    return jnp.concatenate(scores) <= _number(config, "threshold"), None


def _least_useful(config: Config, facts: Facts) -> tuple[jax.Array, jax.Array]:
    """Mature units of the lowest utility, so many of them a step."""
    memory: Any = facts.memory
    expected = _number(config, "rate") * config.reset_every
    layers = zip(
        by_layer(config, memory.utility), by_layer(config, memory.age), memory.due, strict=True
    )
    found = [
        replaceable(*layer, maturity=_number(config, "maturity"), expected=expected)
        for layer in layers
    ]
    chosen, due = zip(*found, strict=True)
    return jnp.concatenate(chosen), jnp.stack(due)


def _silent_for_long(config: Config, facts: Facts) -> tuple[jax.Array, None]:
    """Units silent for at least half the steps between two resets."""
    memory: Any = facts.memory
    period: Any = config.reset_every
    return memory.silent >= period / 2, None


def _resample(config, key, params, chosen, facts):
    """Latents in the directions of examples that are reconstructed badly, with bias 0."""
    name = models.layer_name(1)
    encoder = params[name]["kernel"]
    losses = 0.5 * jnp.mean((facts.targets - facts.forward.output) ** 2, axis=1)
    columns, rows = revivals.resampled(key, facts.forward.inputs[0], losses, encoder, chosen)
    own = {"kernel": jnp.where(chosen[None, :], columns, encoder)}
    if "bias" in params[name]:
        own["bias"] = jnp.where(chosen, 0.0, params[name]["bias"])
    decoder = jnp.where(chosen[:, None], rows, params["output"]["kernel"])
    return {**params, name: own, "output": {**params["output"], "kernel": decoder}}


RESETS: dict[str, Reset] = {
    "none": Reset(),
    # Sokar et al. 2023, arXiv 2302.12902.
    "redo": Reset(_dormant, threshold=0.1, aliases=("dormant", "recycle")),
    # Dohare et al. 2024, Nature 632:768.
    "continual_backprop": Reset(
        _least_useful,
        remembers=True,
        rate=1e-4,
        maturity=100.0,
        aliases=("cbp", "continual backpropagation", "generate and test"),
    ),
    # Bricken et al. 2023, Towards Monosemanticity.
    "resample": Reset(
        _silent_for_long,
        remembers=True,
        renews=_resample,
        autoencodes=True,
        aliases=("resampling",),
    ),
}


def reset_of(config: Config) -> Reset:
    """The row of `RESETS` that the config names."""
    return RESETS[config.reset]


# What is remembered ---------------------------------------------------------------------------


def remembers(config: Config) -> bool:
    """Whether the config's runs keep a `UnitMemory`."""
    return reset_of(config).remembers or terms.REVIVALS[config.revival].of_silent


def memory_element(config: Config) -> optax.GradientTransformation:
    """An element of an optimizer's chain that keeps the `UnitMemory` and leaves updates alone."""
    count, layers = config.units, len(config.hidden)

    def init(params):
        nothing = jnp.zeros(count, jnp.int32)
        return UnitMemory(nothing, nothing, jnp.zeros(count), jnp.zeros(layers))

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def remembered(config: Config, optimizer: Any) -> UnitMemory | None:
    """The `UnitMemory` in the optimizer's state; None where none is kept."""
    return optimizer[-1] if remembers(config) else None


def with_memory(optimizer: Any, memory: UnitMemory) -> Any:
    """The optimizer's state with another `UnitMemory`."""
    return (*optimizer[:-1], memory)


def observed(
    config: Config, memory: UnitMemory, params: models.Params, forward: models.Forward
) -> UnitMemory:
    """The memory after a forward pass on a minibatch."""
    sizes = units.sizes(config, params, forward)
    layers = zip(by_layer(config, sizes), units.outgoing(config, params), strict=True)
    now = jnp.concatenate([contribution(*layer) for layer in layers])
    return memory._replace(
        age=memory.age + 1,
        silent=jnp.where(sizes > 0, 0, memory.silent + 1),
        utility=UTILITY_DECAY * memory.utility + (1 - UTILITY_DECAY) * now,
    )


def made_new(memory: UnitMemory, chosen: jax.Array, due: jax.Array | None) -> UnitMemory:
    """The memory after the chosen units, bool [units], were made new."""
    fresh = lambda values: jnp.where(chosen, 0, values)  # noqa: E731
    return UnitMemory(
        fresh(memory.age),
        fresh(memory.silent),
        fresh(memory.utility),
        memory.due if due is None else due,
    )
