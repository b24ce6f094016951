"""What became of every unit, the rule that chooses one of them, and how frequent such lives are."""

from typing import NamedTuple, cast

import jax
import numpy as np

from relu_dynamics import channels, statistics
from relu_dynamics.config import Config
from relu_dynamics.engine import training
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.probes import UnitStatistics


class Units(NamedTuple):
    """All units of the layer in all seeds; NumPy, [seeds, units], steps or NEVER."""

    death: np.ndarray  # first evaluation dead: 0 for a unit dead at step 0
    recovery: np.ndarray  # first evaluation alive after it
    for_good: np.ndarray  # bool: that was the last event, at least `sustain` steps ago
    climb: np.ndarray  # margin at the recovery minus the deepest of the spell; nan without


def units_of(config: Config, run: training.Run) -> Units:
    """What became of every unit of the biased layer in one run, [units]."""
    units = list(channels.layer_units(config))
    history = jax.tree.map(np.asarray, run.history)
    margin = np.asarray(cast(UnitStatistics, run.trace.probe_units).margin)[:, units]
    death = np.where(history.dead_at_start, 0, history.first_death)[units]
    recovery = history.first_recovery[units]
    diverged = history.diverged_at != NEVER
    events_after = history.recoveries[units] > 1
    lasted = config.steps - recovery >= config.sustain
    back = recovery != NEVER
    for_good = back & history.alive[units] & ~events_after & lasted & ~diverged
    climb = np.full(len(units), np.nan)
    for unit in np.flatnonzero(back):
        spell = margin[death[unit] : recovery[unit], unit]
        climb[unit] = margin[recovery[unit], unit] - spell.min()
    return Units(death, recovery, for_good, climb)


def choose(found: Units) -> tuple[int, int]:
    """(seed, unit within the layer) that the rule names; raises a ValueError when there is none."""
    score = np.where(found.for_good, found.climb, -np.inf)
    if not found.for_good.any():
        raise ValueError(
            f"no unit of {len(score)} seeds died and recovered for good; use more seeds, more "
            f"steps or another learning_rate."
        )
    seed, unit = np.unravel_index(np.argmax(score), score.shape)
    return int(seed), int(unit)


def count_lives(found: Units) -> dict[str, dict]:
    """How often units died, came back and stayed, with intervals clustered by seed."""
    died, back = found.death != NEVER, found.recovery != NEVER
    pairs = {
        "died": (died, np.ones_like(died)),
        "recovered_of_the_dead": (back, died),
        "for_good_of_the_dead": (found.for_good, died),
    }
    seeds = {"seeds": len(died)}  # all of them, also those in which nothing died
    return {
        name: statistics.clustered_interval(successes.sum(1), trials.sum(1)).as_json() | seeds
        for name, (successes, trials) in pairs.items()
    }
