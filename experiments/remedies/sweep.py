"""What is trained: the base network, the remedies that change it, and a grid for every arm."""

import dataclasses
from typing import Any

from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine.validation import validate
from relu_dynamics.experiment import DataOptions
from relu_dynamics.grid import Grid, make_grid

BASE = Config(
    hidden=(32, 32),
    examples=256,
    batch_size=32,
    steps=400,
    probe_every=20,
    optimizer="momentum",
    momentum=0.9,
    biased_layer=2,
    biased_units=8,
)
PLAIN = "relu"  # the arm that all others are compared with
REMEDIES: dict[str, tuple[str, dict[str, Any]]] = {  # name: (label, what it changes of the base)
    PLAIN: ("plain ReLU", {}),
    "leaky_relu": ("leaky ReLU", {"activation": "leaky_relu"}),
    "prelu": ("PReLU", {"activation": "prelu"}),
    "elu": ("ELU", {"activation": "elu"}),
    "selu": ("SELU, LeCun init", {"activation": "selu", "initializer": "lecun_normal"}),
    "gelu": ("GELU", {"activation": "gelu"}),
    "silu": ("SiLU", {"activation": "silu"}),
    "crelu": ("CReLU", {"activation": "crelu"}),
    "too_large": ("init 10 x too large", {"initializer": "too_large"}),
    "xavier_normal": ("Xavier init", {"initializer": "xavier_normal"}),
    "randomized_asymmetric": ("asymmetric init", {"initializer": "randomized_asymmetric"}),
    "data_dependent": ("data-dependent init", {"initializer": "data_dependent"}),
    "batch": ("BatchNorm", {"normalization": "batch"}),
    "layer": ("LayerNorm", {"normalization": "layer"}),
    "rms": ("RMSNorm", {"normalization": "rms"}),
    "weight": ("weight norm", {"normalization": "weight"}),
    "warmup": ("warm-up", {"schedule": "warmup", "warmup_steps": 100}),
    "cosine": ("cosine decay", {"schedule": "cosine"}),
    "warmup_cosine": ("warm-up + cosine", {"schedule": "warmup_cosine", "warmup_steps": 100}),
    "clip": ("clipping at norm 1", {"clip_norm": 1.0}),
    "redo": ("ReDo", {"reset": "redo", "reset_every": 20}),
    # The published rate, 1e-4, would replace two units in so short a run.
    "continual_backprop": (
        "continual backprop",
        {"reset": "continual_backprop", "reset_every": 1, "reset_rate": 1e-3},
    ),
    "regenerative": ("regenerative L2", {"weight_decay": 1e-3, "decay_to_start": True}),
    "leaky_batch": (
        "leaky ReLU + BatchNorm",
        {"activation": "leaky_relu", "normalization": "batch"},
    ),
    "gelu_layer": ("GELU + LayerNorm", {"activation": "gelu", "normalization": "layer"}),
    "clip_warmup": (
        "clipping + warm-up",
        {"clip_norm": 1.0, "schedule": "warmup", "warmup_steps": 100},
    ),
    "batch_cosine": (
        "BatchNorm + warm-up + cosine",
        {"normalization": "batch", "schedule": "warmup_cosine", "warmup_steps": 100},
    ),
}
LOW = "lower rate"
NO_COHORT = ("too_large",)  # no bias of an ordinary size makes its units dead


@dataclasses.dataclass(frozen=True)
class Options(DataOptions):
    """What to run and where to put it."""

    config: Config = BASE
    """Base of every arm's config."""
    tasks: tuple[str, ...] = ("digits", "diabetes")
    """Tasks, each with all arms."""
    arms: tuple[str, ...] = ()
    """Remedies to try, by name; all of them by default. Plain ReLU is always there."""
    rate: float = 0.3
    """Learning rate of the base, at which units die."""
    milder_rate: float = 0.1
    """A second base, at which fewer die."""
    low_rate: float = 0.03
    """The lower one, a remedy of its own and with every other."""
    biases: tuple[float, ...] = (-5.0,)
    """Initial biases of the dead cohort; with a normalization they are its shift."""
    seeds: int = 100
    """Seeds per cell."""
    timing_rounds: int = 5
    """How often every arm's step is timed, in turns."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(BASE, steps=200),
    tasks=("digits",),
    arms=("leaky_relu", "gelu"),
    seeds=16,
    timing_rounds=3,
)


# The arms ----------------------------------------------------------------------------------------


def make_grids(options: Options) -> dict[str, Grid]:
    """Every grid by "task arm"; raises a one-line ValueError for options that cannot run."""
    if not options.tasks:
        raise ValueError("tasks=() must name at least one.")
    return {
        f"{task} {arm}": grid
        for task in options.tasks
        for arm, grid in task_grids(options, task).items()
    }


def arm_names(options: Options) -> list[str]:
    """The arms to run, plain ReLU first; raises a one-line ValueError for an unknown one."""
    for name in options.arms:
        check_choice("arms", name, tuple(REMEDIES))
    return [n for n in REMEDIES if n == PLAIN or not options.arms or n in options.arms]


def arm_config(options: Options, task: str, arm: str) -> Config:
    """The config of one arm on one task."""
    changes = REMEDIES[arm][1]
    return validate(dataclasses.replace(options.config, task=task, **changes))


def task_grids(options: Options, task: str) -> dict[str, Grid]:
    """The grids of one task by arm: both rates, without and with the imposed biases."""
    if not options.low_rate < options.milder_rate < options.rate:
        raise ValueError(
            f"low_rate={options.low_rate} must be below milder_rate={options.milder_rate}, and "
            f"that below rate={options.rate}."
        )
    if not options.biases or max(options.biases) >= 0:
        raise ValueError(f"biases={short_repr(options.biases)} must all be negative.")
    if options.timing_rounds < 2:
        raise ValueError(f"timing_rounds={options.timing_rounds} must be at least 2.")
    rates = (options.rate, options.milder_rate, options.low_rate)

    def grid(arm):
        biases = (0.0,) if arm in NO_COHORT else (0.0, *options.biases)
        return make_grid(
            arm_config(options, task, arm),
            {"learning_rate": rates, "initial_bias": biases},
            options.seeds,
            root_seed=options.root_seed,
            lanes=len(rates) * len(biases),
        )

    return {arm: grid(arm) for arm in arm_names(options)}


def bases(options: Options) -> tuple[Options, Options]:
    """The options with either base rate as `rate`."""
    return options, dataclasses.replace(options, rate=options.milder_rate)


def variants(options: Options) -> list[tuple[str, bool]]:
    """(arm, whether at the low rate) of everything that is compared with plain ReLU. At the milder
    base only plain ReLU is tried at the low rate too."""
    milder = options.rate == options.milder_rate
    everything = [(arm, low) for low in (False, True) for arm in arm_names(options)]
    return [
        (arm, low)
        for arm, low in everything
        if (arm, low) != (PLAIN, False) and not (low and milder and arm != PLAIN)
    ]


def label_of(arm: str, low: bool) -> str:
    """What a variant is called."""
    if not low:
        return REMEDIES[arm][0]
    return LOW if arm == PLAIN else f"{REMEDIES[arm][0]} + {LOW}"
