"""Sources of movement: what acts on the dead unit, and when theory has it come back."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

from experiments.numerical_example.sweep import STRENGTHS, WEIGHT, Options, depth
from relu_dynamics import theory
from relu_dynamics.config import Config

PLAIN_RATES = tuple(10.0**power for power in range(-6, 4))
STEPS_BEFORE_DEATH = 10  # of gradient -1, that the momentum buffers remember
ADAM_STEPS_BEFORE_DEATH = 1000
NEAR_THRESHOLD = 1e-4  # relative distance of "too little" and "enough" from the smallest trace


class Source(NamedTuple):
    """One way in which a dead unit's bias may move."""

    panel: str
    variant: str
    closed: Callable[[Config, np.ndarray], np.ndarray]
    """(config, lifts) -> first step with max z > tolerance if z is lifted by so much; inf: never"""
    uses: tuple[str, ...] = ()  # the fields of the base config that it needs
    change: dict = {}  # other fields of the config
    memory: Callable[[Config], dict[str, float]] = lambda config: {}  # optimizer state of the bias
    output_weight: float = 1.0  # v; c = -v
    rates: tuple[float, ...] = ()  # learning rates beside those asked for

    @property
    def name(self) -> str:
        """Panel and variant."""
        return f"{self.panel}: {self.variant}"


def _never(config, lifts):
    return np.full(np.shape(lifts), np.inf)


def _at_once(config, lifts):
    return np.zeros(np.shape(lifts))


def _drift(config, lifts):
    speed = -config.learning_rate * config.outside_gradient
    return theory.drift_crossing_step(depth(config, lifts), speed)


def _decay(form):
    def closed(config, lifts):
        reach = max(WEIGHT, 0.0) + lifts
        decay = (config.learning_rate, config.weight_decay)
        return form(reach, config.initial_bias, *decay, tolerance=config.tolerance)

    return closed


def _adam_decay(config, lifts):
    return theory.adam_decay_recovery_step(
        np.full((*np.shape(lifts), 1), WEIGHT),
        config.initial_bias + lifts,
        np.array([[0.0], [1.0]]),
        config.learning_rate,
        config.weight_decay,
        config.steps,
        tolerance=config.tolerance,
    )


# What is left in the trace of the optimizers that keep one.
TRACE_RESIDUES = {"momentum": theory.heavy_ball_residue, "nesterov": theory.nesterov_residue}


def residue(config: Config, memory: dict[str, float]) -> np.ndarray:
    """Movement of the bias after 1, 2, ... `config.steps` steps without gradient, from what the
    optimizer remembers of it."""
    steps, rate = np.arange(1, config.steps + 1), config.learning_rate
    if config.optimizer not in TRACE_RESIDUES:  # Adam
        first = steps[:1000]  # what follows is below 1e-40 of the whole
        moved = theory.adam_residue(**memory, learning_rate=rate, steps=first)
        return np.pad(moved, (0, len(steps) - len(first)), mode="edge")
    momentum = cast(float, config.momentum)
    return TRACE_RESIDUES[config.optimizer](memory["trace"], rate, momentum, steps)


def _from_memory(memory):
    def closed(config, lifts):
        above = residue(config, memory(config)) > depth(config, lifts)[..., None]
        return np.where(above.any(-1), above.argmax(-1) + 1.0, np.inf)

    return closed


def _ten_steps(config):
    # optax's trace is g + momentum * trace: a geometric sum
    mu = config.momentum
    return {"trace": -(1 - mu**STEPS_BEFORE_DEATH) / (1 - mu)}


def _at_threshold(factor):
    def memory(config):
        # the residue is proportional to the trace
        whole = TRACE_RESIDUES[config.optimizer]
        unit = whole(-1.0, config.learning_rate, cast(float, config.momentum))
        return {"trace": -factor * float(depth(config)) / unit}

    return memory


def _thousand_steps(config, b1=0.9, b2=0.999):
    steps = ADAM_STEPS_BEFORE_DEATH
    return {"mu": -(1 - b1**steps), "nu": 1 - b2**steps, "count": steps}


def _largest_adam(config, b1=0.9, b2=0.999):
    # Equality in the Cauchy-Schwarz inequality behind `theory.adam_residue_bound`: gradients that
    # grew by b2 / b1 per step until death, after so many steps that no bias correction is left.
    ratio = (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))
    return {"mu": -ratio, "nu": 1.0, "count": 1_000_000}


def _left(panel, variant, optimizer, memory):
    uses = ("momentum",) if optimizer in TRACE_RESIDUES else ()
    change = {"optimizer": optimizer}
    return Source(panel, variant, _from_memory(memory), uses, change, memory)


def _decaying(variant, form, **change):
    return Source("weight decay", variant, _decay(form), ("weight_decay",), change)


LESS, MORE = 1 - NEAR_THRESHOLD, 1 + NEAR_THRESHOLD
SOURCES = (
    Source("plain SGD", "dead unit", _never, rates=PLAIN_RATES),
    Source("plain SGD", "control: alive", _at_once, change={"initial_bias": -0.05}),
    Source("outside push", "gradient -1", _drift, ("outside_gradient",)),
    Source("outside push", "output weight 0", _drift, ("outside_gradient",), output_weight=0.0),
    _decaying(
        "bias, decoupled",
        theory.bias_decay_recovery_step,
        decay_kind="decoupled",
        decay_targets="biases",
    ),
    _decaying("bias, coupled", theory.bias_decay_recovery_step, decay_targets="biases"),
    _decaying("weights", theory.weight_decay_recovery_step, decay_targets="weights"),
    _decaying("both", theory.decoupled_decay_recovery_step),
    _left("momentum left", "heavy ball", "momentum", _ten_steps),
    _left("momentum left", "Nesterov", "nesterov", _ten_steps),
    _left("momentum at threshold", "heavy ball, too little", "momentum", _at_threshold(LESS)),
    _left("momentum at threshold", "heavy ball, enough", "momentum", _at_threshold(MORE)),
    _left("momentum at threshold", "Nesterov, too little", "nesterov", _at_threshold(LESS)),
    _left("momentum at threshold", "Nesterov, enough", "nesterov", _at_threshold(MORE)),
    _left("Adam left", "1000 steps of -1", "adam", _thousand_steps),
    _left("Adam left", "largest possible", "adam", _largest_adam),
    Source("Adam with L2", "both", _adam_decay, ("weight_decay",), {"optimizer": "adam"}),
)


class Case(NamedTuple):
    """One run: a source at one learning rate."""

    source: Source
    config: Config

    @property
    def start(self) -> dict[str, float]:
        """Parameters at step 0."""
        v = self.source.output_weight
        return {"weight": WEIGHT, "bias": self.config.initial_bias, "v": v, "c": -v}


def make_cases(options: Options) -> list[Case]:
    """All sources at all learning rates."""
    cases = []
    for source in SOURCES:
        unused = {name: None for name in STRENGTHS if name not in source.uses}
        change = {"optimizer": "sgd", **unused, **source.change}
        for rate in sorted({*source.rates, *options.learning_rates}):
            change["learning_rate"] = rate
            cases.append(Case(source, dataclasses.replace(options.config, **change)))
    return cases
