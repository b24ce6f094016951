"""What is trained: the reference network, its causes with their doses, and a grid for every arm."""

import dataclasses
from collections.abc import Sequence

from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine.scalings import dosed_scalings
from relu_dynamics.experiment import DataOptions
from relu_dynamics.grid import Grid, make_grid

BASE = Config(
    hidden=(16, 16, 16),
    examples=256,
    batch_size=32,
    steps=400,
    probe_every=20,
    optimizer="momentum",
    momentum=0.0,
    weight_scale=1.0,
    initial_bias=0.0,
    biased_layer=2,
    biased_units=16,
)
LECUN = 0.5**0.5
REFERENCE = {  # from which every cause moves one knob
    "weight_scale": 1.0,
    "initial_bias": 0.0,
    "learning_rate": 0.1,
    "momentum": 0.0,
    "shifted": 0.0,
    "one_bad_feature": 1.0,
}
# Chosen before anything was run: those of the named initializers and scalings of the package, and
# what tutorials call large.
HARMFUL = {
    "weight_scale": (0.1, LECUN, 10.0),
    "initial_bias": (-5.0,),
    "learning_rate": (3.0,),
    "momentum": (0.9,),
    "shifted": (4.0,),
    "one_bad_feature": (100.0,),
}


@dataclasses.dataclass(frozen=True)
class Options(DataOptions):
    """What to run and where to put it."""

    config: Config = BASE
    """Base of every arm's config."""
    tasks: tuple[str, ...] = ("digits", "breast_cancer", "teacher_student")
    """Tasks, each with all arms."""
    initializers: tuple[str, ...] = ("xavier_normal", "orthogonal", "randomized_asymmetric")
    """Initializers that are no scale of He's."""
    scalings: tuple[str, ...] = ("minmax", "raw", "shifted", "one_bad_feature")
    """Scalings of the inputs beside standardized ones."""
    weight_scales: tuple[float, ...] = (0.03, 0.1, 0.3, LECUN, 1.0, 3.0, 10.0)
    """Factors on He's initial weights."""
    biases: tuple[float, ...] = (0.0, -0.5, -1.0, -2.0, -3.0, -5.0, -8.0)
    """Initial biases of all units of the biased layer."""
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Learning rates."""
    momenta: tuple[float, ...] = (0.0, 0.5, 0.9)
    """Heavy-ball momenta."""
    shifts: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """Means of all features, in their deviations."""
    factors: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    """Factors on one feature."""
    base_rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Learning rates at which every other cause is tried."""
    seeds: int = 100
    """Seeds per cell."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(BASE, steps=200),
    tasks=("breast_cancer",),
    initializers=(),
    scalings=("one_bad_feature",),
    seeds=12,
)


# The arms -----------------------------------------------------------------------------------------


def dose_axes(options: Options) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """Every cause that has a dose: (arm, axis, doses). A scaling's axis is `scaling_dose`."""
    axes = {
        "weight_scale": ("weights", "weight_scale", options.weight_scales),
        "initial_bias": ("bias", "initial_bias", options.biases),
        "learning_rate": ("rate", "learning_rate", options.learning_rates),
        "momentum": ("rate", "momentum", options.momenta),
        "shifted": ("shifted", "scaling_dose", options.shifts),
        "one_bad_feature": ("one_bad_feature", "scaling_dose", options.factors),
    }
    return {
        name: axis
        for name, axis in axes.items()
        if name not in dosed_scalings() or name in options.scalings
    }


def check_options(options: Options) -> None:
    """Raises a one-line ValueError unless the reference, the harmful doses and the base rates are
    values of the axes, and the names are known."""
    for name in options.scalings:
        check_choice("scalings", name, ("minmax", "raw", *dosed_scalings()))
    for name, (_, _, doses) in dose_axes(options).items():
        missing = {REFERENCE[name], *HARMFUL[name]} - set(doses)
        if missing:
            raise ValueError(
                f"{name} doses {short_repr(doses)} need "
                f"{', '.join(f'{d:g}' for d in sorted(missing))}."
            )
    rates = set(options.base_rates)
    if not rates <= set(options.learning_rates) or REFERENCE["learning_rate"] not in rates:
        raise ValueError(
            f"base_rates={short_repr(options.base_rates)} must be some of learning_rates="
            f"{short_repr(options.learning_rates)}, with {REFERENCE['learning_rate']:g} among them."
        )
    if not options.tasks or len(set(options.tasks)) < len(options.tasks):
        raise ValueError(f"tasks={short_repr(options.tasks)} must name at least one, each once.")


def make_grids(options: Options) -> dict[str, Grid]:
    """Every grid by "task arm"; raises a one-line ValueError for options that cannot run."""
    check_options(options)
    return {
        f"{task} {arm}": grid
        for task in options.tasks
        for arm, grid in task_grids(options, task).items()
    }


def task_grids(options: Options, task: str) -> dict[str, Grid]:
    """The grids of one task by arm. Those without a named initializer or scaling share a program,
    and so have the same number of lanes."""
    config = dataclasses.replace(options.config, task=task)
    base = options.base_rates
    shared = {
        "weights": {"weight_scale": options.weight_scales, "learning_rate": base},
        "bias": {"initial_bias": options.biases, "learning_rate": base},
        "rate": {"learning_rate": options.learning_rates, "momentum": options.momenta},
    }
    lanes = shared_lanes(options)
    make = lambda config, axes, lanes: make_grid(  # noqa: E731
        config, axes, options.seeds, root_seed=options.root_seed, lanes=lanes
    )
    grids = {arm: make(config, axes, lanes) for arm, axes in shared.items()}
    rates = {"learning_rate": options.learning_rates}
    for name in options.initializers:
        named = dataclasses.replace(config, initializer=name)
        grids[name] = make(named, rates, len(options.learning_rates))
    for name in options.scalings:
        scaled = dataclasses.replace(config, input_scaling=name)
        if name not in dosed_scalings():
            grids[name] = make(scaled, rates, len(options.learning_rates))
            continue
        doses = dose_axes(options)[name][2]
        axes = {"scaling_dose": doses, "learning_rate": base}
        grids[name] = make(scaled, axes, lanes)
    return grids


def shared_lanes(options: Options) -> int:
    """Lanes of a block of the program that the dose axes share: those of the largest."""
    doses = max(len(options.weight_scales), len(options.biases))
    return max(doses * len(options.base_rates), len(options.learning_rates) * len(options.momenta))


def map_grid(options: Options, task: str, causes: Sequence[str]) -> Grid:
    """The grid of a pairwise map of two causes; at most one of them is a scaling."""
    axes = dose_axes(options)
    scaling = [name for name in causes if name in dosed_scalings()]
    config = dataclasses.replace(
        options.config, task=task, learning_rate=REFERENCE["learning_rate"]
    )
    if scaling:
        config = dataclasses.replace(config, input_scaling=scaling[0])
    return make_grid(
        config,
        {axes[name][1]: axes[name][2] for name in causes},
        options.seeds,
        root_seed=options.root_seed,
        lanes=shared_lanes(options),
    )
