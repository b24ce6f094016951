"""The run, the small network, and the grids that name the question."""

import dataclasses

from relu_dynamics import channels
from relu_dynamics.config import Config
from relu_dynamics.engine.validation import check_covered, validate
from relu_dynamics.experiment import DataOptions
from relu_dynamics.grid import Grid, make_grid

BASE = Config(
    hidden=(16, 16),
    initial_bias=0.0,
    biased_units=16,
    examples=256,
    batch_size=32,
    steps=600,
    probe_every=1,
    learning_rate=0.15,
    optimizer="momentum",
    momentum=0.9,
    weight_decay=0.05,
    decay_kind="decoupled",
    noise_scale=0.1,
)
SMALL = Config(
    task="teacher_student",
    dimension=4,
    hidden=(4, 3),
    initial_bias=0.0,
    biased_units=1,
    examples=256,
    batch_size=32,
    steps=200,
    probe_every=200,
    learning_rate=0.3,
)


@dataclasses.dataclass(frozen=True)
class Options(DataOptions):
    """What to run and where to put it."""

    config: Config = BASE
    """The run; the units of its `biased_layer` are evaluated at every step."""
    network: Config = SMALL
    """The small network of the gradient-flow figure."""
    seeds: int = 32
    """Seeds among whose units the rule chooses."""
    network_seeds: int = 64
    """Seeds of the small network that are tried."""
    frames: int = 120
    """Frames of the animation, evenly over the run."""


DEFAULTS = Options()
QUICK = Options(network_seeds=8, frames=16)


def make_grids(options: Options) -> dict[str, Grid]:
    """The runs of both networks, which name the question; raises a one-line ValueError on what
    cannot be drawn."""
    config = options.config
    if config.probe_every != 1:
        raise ValueError(
            f"config.probe_every={config.probe_every}: a life is shown step by step; use 1."
        )
    for name, least in (("frames", 2), ("network_seeds", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}.")
    network = validate(options.network)
    if network.normalization != "none" or network.model != "mlp" or network.activation != "relu":
        raise ValueError(
            "network: the picture knows plain ReLU networks; leave model='mlp', "
            "activation='relu', normalization='none'."
        )
    if config.probe_size is not None or network.probe_size is not None:
        raise ValueError("probe_size: dead must mean dead on all training examples; leave it None.")
    check_covered(config, "accounts", channels.COVERED)
    grids = {"unit": (config, options.seeds), "network": (network, options.network_seeds)}
    return {
        name: make_grid(
            config, {"learning_rate": (config.learning_rate,)}, seeds, root_seed=options.root_seed
        )
        for name, (config, seeds) in grids.items()
    }
