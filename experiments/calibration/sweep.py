"""Options and grids: which networks, how many forks, how far ahead."""

import dataclasses

from experiments.calibration.kinds import KINDS, RETURNING
from relu_dynamics.checks import check_choice
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.grid import Grid, make_grid


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """Forecasts of dead units against what then happens."""

    kinds: tuple[str, ...] = tuple(KINDS)
    """Kinds of networks, see kinds.py."""
    networks: int = 16
    """Held-out networks per kind, which are forecast."""
    base: int = 4
    """Further networks per kind, which give the base rate."""
    forks: int = 24
    """Forks per forecast."""
    futures: int = 4
    """Unseen futures per network."""
    ahead: int = 320
    """Steps of the forecast and of the futures."""
    certified: int = 4
    """Held-out networks per kind whose units also get verdicts by theorem, and networks per kind
    whose units are lifted at a step that a theorem names."""


DEFAULTS = Options()
QUICK = Options(
    kinds=("classifier", "autoencoder"), networks=4, base=2, forks=8, futures=2, ahead=80
)


def make_grids(options: Options) -> dict[str, Grid]:
    """A grid per kind, whose seeds are the networks: first those of the base rate, then the
    held-out ones. Raises a one-line ValueError for options that cannot run."""
    for name in ("networks", "base", "forks", "futures", "ahead", "certified"):
        least = 2 if name == "forks" else 1
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}.")
    if not options.kinds:
        raise ValueError(f"kinds is empty; choose among {', '.join(KINDS)}.")
    grids = {}
    for name in options.kinds:
        check_choice("kinds", name, KINDS)
        config = KINDS[name].config
        if options.ahead % config.probe_every:
            raise ValueError(
                f"ahead={options.ahead} must be a multiple of {config.probe_every}, the steps "
                "between two looks."
            )
        rates = {"learning_rate": [config.learning_rate]}
        seeds = options.base + options.networks
        grids[name] = make_grid(config, rates, seeds, root_seed=options.root_seed)
    return grids


def returning_grids(options: Options) -> dict[str, Grid]:
    """A grid per kind of `RETURNING`, whose seeds are the networks."""
    grids = {}
    for name, kind in RETURNING.items():
        rates = {"learning_rate": [kind.config.learning_rate]}
        grids[name] = make_grid(kind.config, rates, options.certified, root_seed=options.root_seed)
    return grids


def decides(options: Options) -> tuple:
    """What decides the numbers beside the grids."""
    return options.base, options.forks, options.futures, options.ahead
