"""The example, what of it may be changed, and the grid that names the question."""

import dataclasses
from typing import cast

import numpy as np

from relu_dynamics.config import Config
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.grid import Grid, make_grid

WEIGHT = 0.1
SLOW_ROW = (1e-4, (-0.5000, -0.4999, -0.4998))  # quoted: (learning rate, bias step by step)
FAST_ROW = (1e-2, (-0.5, -0.3, -0.1, 0.05))
STRENGTHS = ("momentum", "weight_decay", "noise_scale", "outside_gradient")
BASE = Config(
    task="unit_interval",
    hidden=(1,),
    biased_layer=1,
    biased_units=1,
    initial_bias=-0.5,
    batch_size=None,
    examples=11,  # x = 0, 0.1, ... 1; the largest z is at an end, because z is linear in x
    steps=10_000,
    probe_every=1,
    learning_rate=1e-2,
    # The strength of every source of movement. A source takes its own fields of these, sets its
    # optimizer, and leaves the rest out of the program.
    optimizer="momentum",
    momentum=0.9,
    weight_decay=0.1,
    noise_scale=1.0,
    outside_gradient=-1.0,
)


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """What to run and where to put it."""

    config: Config = BASE
    """The unit, and the strength of every source of movement (each source takes its own)."""
    learning_rates: tuple[float, ...] = (1e-4, 1e-2, 1e-1)
    """Learning rates, rising; the verdicts compare the first two."""
    seeds: int = 512
    """Runs with additive noise at every learning rate."""


DEFAULTS = Options()
QUICK = Options(seeds=64)


def depth(config: Config, lift: np.ndarray | float = 0.0) -> np.ndarray:
    """How far max z over [0, 1] must rise to count as alive: past the tolerance."""
    return config.tolerance - (max(WEIGHT, 0.0) + config.initial_bias + np.asarray(lift))


def make_grids(options: Options) -> dict[str, Grid]:
    """The one grid, which names the question; raises a one-line ValueError on what this example
    cannot be."""
    config = options.config
    for name in ("task", "hidden", "biased_layer", "activation", "normalization", "output_bias"):
        if getattr(config, name) != getattr(BASE, name):
            raise ValueError(
                f"config.{name}={getattr(config, name)!r}: the example is one unit on [0, 1]; "
                f"leave it at {getattr(BASE, name)!r}."
            )
    for name in (*STRENGTHS, "batch_size", "probe_size"):
        if (getattr(config, name) is None) != (getattr(BASE, name) is None):
            raise ValueError(
                f"config.{name}={getattr(config, name)!r}: the example needs it as it is in its "
                f"base, {getattr(BASE, name)!r}, or another number."
            )
    rates = tuple(options.learning_rates)
    if len(rates) < 2 or list(rates) != sorted(set(rates)):
        raise ValueError(f"learning_rates={rates!r} must be two or more, rising.")
    grid = make_grid(config, {"learning_rate": rates}, options.seeds, root_seed=options.root_seed)
    decay = cast(float, config.weight_decay)  # not None, by the check above
    if rates[0] <= 0 or rates[-1] * decay > 1:
        raise ValueError(
            f"learning_rates={rates!r} must be > 0 and at most 1 / weight_decay = "
            f"{1 / decay if decay else np.inf:g}."
        )
    if config.probe_every != 1 or config.examples < 2:
        raise ValueError(
            f"probe_every={config.probe_every}, examples={config.examples}: the crossing step "
            "needs probe_every=1 and both ends of [0, 1], examples >= 2."
        )
    if depth(config) <= 0:
        raise ValueError(
            f"initial_bias={config.initial_bias!r} leaves the unit alive on [0, 1]; use one below "
            f"{-WEIGHT:g}."
        )
    return {"example": grid}
