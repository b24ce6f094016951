"""What is trained: networks of which an exact share of the units is killed, the same that memorize
random labels, and new networks with as many units fewer."""

import dataclasses
from typing import Any

from relu_dynamics.config import Config
from relu_dynamics.experiment import DataOptions
from relu_dynamics.grid import Grid, make_grid

SHARE = 0.4  # above which the article calls it severe
BASE = Config(
    examples=512,
    batch_size=32,
    steps=800,
    probe_every=20,
    learning_rate=0.1,
    initial_bias=0.0,
    biased_layer=1,
    biased_units=1,
)
CAPACITY = dataclasses.replace(
    BASE,
    task="digits_random_labels",
    examples=1797,  # all: what is held out of random labels says nothing
    batch_size=64,
    steps=2000,
    probe_every=500,
    optimizer="adam",
    learning_rate=0.003,
)


@dataclasses.dataclass(frozen=True)
class Options(DataOptions):
    """What to run and where to put it."""

    config: Config = BASE
    """Base config of loss and time; the arms override its hidden, killed_at and killed_fraction."""
    capacity: Config = CAPACITY
    """Base config of memorization, likewise."""
    widths: tuple[int, ...] = (10, 20, 40)
    """Units of each of the two hidden layers."""
    fractions: tuple[float, ...] = tuple(round(0.1 * i, 1) for i in range(10))
    """Shares of the units that are killed; with every width they make whole numbers."""
    smaller: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.9)
    """Of these shares there is a network with as many units fewer, too."""
    threshold: float = 0.3
    """A run has converged when its mean minibatch loss between two evaluations is below this
    (nats)."""
    seeds: int = 100
    """Seeds per cell."""
    fast_compile: bool = False
    """Compile with fewer optimizations: quicker for short runs, slower for long ones, and the
    last bits of the numbers are others."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(BASE, examples=256, steps=200),
    capacity=dataclasses.replace(CAPACITY, steps=200, probe_every=100),
    widths=(10,),
    fractions=(0.0, 0.2, 0.4, 0.6, 0.8),
    smaller=(0.4,),
    threshold=1.0,
    seeds=12,
    fast_compile=True,
)


# The arms -----------------------------------------------------------------------------------------


def killed_name(width: int, late: bool = False) -> str:
    """The arm of networks of this width whose units are killed at step 0, or late."""
    return f"width-{width}-killed-{'late' if late else 'early'}"


def new_name(width: int) -> str:
    """The arm of new networks of this width."""
    return f"width-{width}-new"


def capacity_name(width: int) -> str:
    """The arm of networks of this width that memorize random labels."""
    return f"width-{width}-memorizing"


def left(width: int, fraction: float) -> int:
    """How many units of a layer are left."""
    return width - round(width * fraction)


def make_grids(options: Options) -> dict[str, Grid]:
    """The grid of every arm, by name; raises a one-line ValueError for options that cannot run."""
    check_options(options)
    return killed_grids(options) | new_grids(options)


def killed_grids(options: Options) -> dict[str, Grid]:
    """The grids of networks with killed units."""
    half = options.config.steps // options.config.probe_every // 2 * options.config.probe_every
    grids = {}
    for width in options.widths:
        for late in (False, True):
            config = dataclasses.replace(
                options.config,
                hidden=(width, width),
                killed_at=half * late,
                killed_fraction=0.0,
            )
            grids[killed_name(width, late)] = _grid(options, config)
        capacity = dataclasses.replace(options.capacity, hidden=(width, width))
        grids[capacity_name(width)] = _grid(options, capacity)
    return grids


def _grid(options: Options, config: Config) -> Grid:
    axes = {"killed_fraction": options.fractions}
    return make_grid(config, axes, options.seeds, root_seed=options.root_seed)


def new_grids(options: Options) -> dict[str, Grid]:
    """The grids of new and smaller networks: one cell each."""
    sizes = {left(width, share) for width in options.widths for share in options.smaller}
    return {
        new_name(size): make_grid(
            dataclasses.replace(options.config, hidden=(size, size)),
            {"learning_rate": (options.config.learning_rate,)},
            options.seeds,
            root_seed=options.root_seed,
        )
        for size in sorted(sizes, reverse=True)
    }


def also_decides(options: Options) -> tuple[Any, ...]:
    """What decides the numbers beside the grids."""
    return options.threshold, options.smaller, options.widths, options.fast_compile


def check_options(options: Options) -> None:
    """Raises a one-line ValueError for options that cannot run."""
    if not options.widths or len(set(options.widths)) < len(options.widths):
        raise ValueError(f"widths={options.widths} must be one or more different widths.")
    if len(options.fractions) < 4 or sorted(set(options.fractions)) != list(options.fractions):
        raise ValueError(f"fractions={options.fractions} must be at least 4 shares, ascending.")
    if options.fractions[0] != 0 or SHARE not in options.fractions:
        raise ValueError(f"fractions={options.fractions} must begin with 0 and hold {SHARE}.")
    unknown = [share for share in options.smaller if share not in options.fractions]
    if unknown or 1 in options.fractions:
        raise ValueError(
            f"smaller={options.smaller} must be among fractions={options.fractions}, all below 1."
        )
    for width in options.widths:
        for share in options.fractions:
            if abs(width * share - round(width * share)) > 1e-6:
                raise ValueError(
                    f"fractions: {share} of width {width} is not a whole number of units; use "
                    "widths that are multiples of 10."
                )
    if options.seeds < 10:
        raise ValueError(f"seeds={options.seeds} must be at least 10: folds of seeds are left out.")
    if options.threshold <= 0:
        raise ValueError(f"threshold={options.threshold} must be above 0.")
