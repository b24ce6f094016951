"""What is run: every channel's panel as a grid, and the configs of the forks."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine.validation import validate
from relu_dynamics.experiment import DataOptions
from relu_dynamics.grid import Grid, make_grid

CLOSED: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "noise_scale": 0.0}
BASE = Config(
    hidden=(32,),
    biased_layer=1,
    biased_units=16,
    examples=256,
    batch_size=64,
    steps=400,
    probe_every=5,
    optimizer="momentum",
    decay_kind="decoupled",
    decay_targets="biases",
    **CLOSED,
)
UNDECAYED = {"decay_kind": "coupled", "decay_targets": "all"}
ADAM = {"optimizer": "adam", **dict.fromkeys(CLOSED), **UNDECAYED}
PLAIN = {**ADAM, "optimizer": "sgd"}  # nothing else in the program
NARROW = {**PLAIN, "hidden": (8,), "biased_units": 4}  # where a normalization's threshold is near
OPEN = {"momentum": 0.9, "weight_decay": 0.005, "noise_scale": 0.1}
# Two hidden layers each; at a large rate units die all the time, so some have fresh residue.
FORKED = {
    "all channels": OPEN,
    "upstream only": CLOSED,
    "upstream and residue": CLOSED | {"momentum": 0.9, "learning_rate": 1.0, "initial_bias": -2.0},
}


@dataclasses.dataclass(frozen=True)
class Options(DataOptions):
    """What to run and where to put it."""

    config: Config = BASE
    """Base of every channel's config; a channel overrides what opens it."""
    channels: tuple[str, ...] = ()
    """Channels to run, by name; all of them by default."""
    rates: int = 8
    """Learning rates of a map, within the channel's range."""
    biases: int = 6
    """Initial biases of a map, within the channel's range."""
    seeds: int = 12
    """Seeds per cell."""
    certified_seeds: int = 3
    """Seeds whose units get certificates, in every cell; with no channel open, all seeds."""
    fork_rate: float = 0.05
    """Learning rate of the forks."""
    fork_bias: float = -6.0
    """Initial bias of the forks."""
    fork_step: int = 10
    """Step at which the forks start; at 0 there is no residue, and its fork is left out."""
    fork_seeds: int = 32
    """Seeds of the forks and the accounts."""
    fast_compile: bool = False
    """Compile with fewer optimizations: quicker for short runs, slower for long ones, and the
    last bits of the numbers are others."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(
        BASE, hidden=(16,), biased_units=8, examples=128, steps=100, batch_size=32
    ),
    channels=("none", "residue", "decay", "noise"),  # one compiled program
    rates=4,
    biases=4,
    seeds=6,
    certified_seeds=1,
    fork_step=0,
    fork_rate=0.1,
    fork_bias=-4.0,
    fork_seeds=16,
    fast_compile=True,
)


class Channel(NamedTuple):
    """One panel: which channel is open and where its map lies."""

    name: str
    title: str
    change: dict[str, Any]  # of the base config
    rates: tuple[float, float]  # ends of the learning rates, geometric
    biases: tuple[float, float]  # ends of the initial biases
    layers: int = 1  # hidden layers; with two the second is the biased one
    measure: str = "recovered_ever"
    never: bool = False  # theory: P = 0 everywhere

    @property
    def words(self) -> str:
        """What a sentence calls it: its title without what is measured."""
        return self.title.split("\n")[0]


CHANNELS = (
    Channel("none", "none: plain SGD", {}, (0.01, 10), (-3, -9), never=True),
    Channel("upstream", "upstream drift", {}, (0.004, 4.096), (-2, -12), layers=2),
    Channel(
        "residue",
        "heavy-ball residue\n(came back | died)",
        {"momentum": 0.9},
        (0.03, 3),
        (-2, -6),
        measure="came_back",
    ),
    Channel(
        "adam",
        "Adam's residue\n(came back | died)",
        ADAM,
        (0.001, 0.3),
        (-2, -6),
        measure="came_back",
    ),
    Channel(
        "decay",
        "decay of biases",
        {"weight_decay": 0.005},
        (0.01, 1),
        (-4, -13),
    ),
    Channel(
        "decay_all",
        "decay of everything",
        {"weight_decay": 0.005, "decay_targets": "all"},
        (0.01, 1),
        (-4, -13),
        never=True,
    ),
    Channel(
        "noise",
        "additive noise",
        {"noise_scale": 0.1},
        (0.01, 1),
        (-4, -13),
    ),
    Channel("rare", "rare examples", PLAIN | {"probe_size": 16}, (0.01, 10), (-2, -6)),
    Channel(
        "layer_norm",
        "LayerNorm, 8 units",
        NARROW | {"normalization": "layer"},
        (0.003, 3),
        (-1.9, -3.1),
    ),
    Channel(
        "batch_norm",
        "BatchNorm, 8 units",
        NARROW | {"normalization": "batch", "batch_size": None},
        (0.003, 3),
        (-3, -6),
        never=True,
    ),
    Channel("leak", "leak of 0.01", PLAIN | {"activation": "leaky_relu"}, (0.1, 30), (-4, -13)),
    Channel("all", "all open, two layers", OPEN, (0.003, 3), (-2, -12), layers=2),
)
NAMES = tuple(channel.name for channel in CHANNELS)


def channel_config(base: Config, channel: Channel) -> Config:
    """The config of a channel's panel."""
    depth = {"hidden": base.hidden * channel.layers, "biased_layer": channel.layers}
    return dataclasses.replace(base, **(depth | channel.change))


def channel_grid(options: Options, channel: Channel) -> Grid:
    """The runs of a channel's panel."""
    lowest, highest = sorted(channel.biases)
    axes = {
        "learning_rate": [float(f"{r:.4g}") for r in np.geomspace(*channel.rates, options.rates)],
        "initial_bias": [float(f"{b:.4g}") for b in np.linspace(lowest, highest, options.biases)],
    }
    if channel.name == "upstream":  # doublings: neighbours are evaluated at the same rate * time
        number = max(options.rates + 2, 5)
        low = channel.rates[1] / 2 ** (number - 1)
        axes["learning_rate"] = [float(f"{low * 2**i:.4g}") for i in range(number)]
    config = channel_config(options.config, channel)
    return make_grid(config, axes, options.seeds, root_seed=options.root_seed)


def chosen_channels(options: Options) -> list[Channel]:
    """The channels that the options name, in the table's order."""
    for name in options.channels:
        check_choice("channels", name, NAMES)
    wanted = options.channels or NAMES
    return [channel for channel in CHANNELS if channel.name in wanted]


def make_grids(options: Options) -> dict[str, Grid]:
    """The panels' grids by channel; raises a one-line ValueError for options that cannot run."""
    chosen = chosen_channels(options)
    for field in ("rates", "biases", "fork_seeds", "certified_seeds"):
        least = 1 if field == "certified_seeds" else 2
        if getattr(options, field) < least:
            raise ValueError(f"{field}={getattr(options, field)} must be at least {least}.")
    _check_forks(options)
    return {channel.name: channel_grid(options, channel) for channel in chosen}


def chosen_forks(options: Options) -> dict[str, dict]:
    """Name -> changes of the config, of every fork that the options allow."""
    return {k: v for k, v in FORKED.items() if options.fork_step or k != "upstream and residue"}


def fork_config(options: Options, change: dict) -> Config:
    """Two hidden layers with the channels of a fork open."""
    return validate(
        dataclasses.replace(
            options.config,
            hidden=options.config.hidden * 2,
            biased_layer=2,
            **({"learning_rate": options.fork_rate, "initial_bias": options.fork_bias} | change),
        )
    )


def _check_forks(options: Options) -> None:
    every = options.config.probe_every
    if options.fork_step % every or not 0 <= options.fork_step < options.config.steps:
        raise ValueError(
            f"fork_step={options.fork_step} must be a multiple of probe_every={every}, >= 0 and "
            f"below steps={options.config.steps}."
        )
    for change in chosen_forks(options).values():
        fork_config(options, change)
