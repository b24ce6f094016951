"""Proof: whether a treatment lasts, against the same state left alone.

Both states run on over the same batches, fork by fork (common random numbers), so a fork is a pair.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.inspection.forecasts.forecast import forecast
from relu_dynamics.inspection.forecasts.replay import margins_of, state_in
from relu_dynamics.statistics import Interval, clustered_interval, paired_difference


class Proof(NamedTuple):
    """What came out of the paired forks. A unit is alive with a margin above 0 on what `see` looks
    at, after `steps` steps. The intervals are over forks, each of which is one cluster of units:
    they speak of this network and its data, not of other networks."""

    difference: Interval  # share alive of the treated state minus that of the untreated one
    treated: Interval
    untreated: Interval
    alive_treated: np.ndarray  # bool [forks, units chosen]
    alive_untreated: np.ndarray
    steps: int
    identical: bool  # all forks are copies of one path: they count as one

    @property
    def acted(self) -> bool:
        """Whether more units are alive with the treatment, beyond the interval."""
        return bool(self.difference.low > 0)

    def __str__(self) -> str:
        forks, units = self.alive_treated.shape
        share = lambda x: f"{x.estimate:.2f} [{x.low:.2f}, {x.high:.2f}]"  # noqa: E731
        note = "; nothing in the step is random, so the forks count as one" * self.identical
        return (
            f"{units} units, margin > 0 after {self.steps} steps: {share(self.treated)} treated, "
            f"{share(self.untreated)} left alone, difference {share(self.difference)} "
            f"(95 %, paired over {forks} forks of this network{note})"
        )


def prove(
    step: Callable,
    untreated: Any,
    treated: Any,
    draw: Callable,
    see: Callable,
    units: Any,
    *,
    steps: int,
    forks: int,
    key: jax.Array,
    level: float = 0.95,
) -> Proof:
    """The `Proof` that a treatment acted on `units` (bools [units], or numbers).

    Args:
      step, draw, see, steps, forks, key: as for `forecast`: the user's own step, key -> a batch,
        state -> `Seen` or margins.
      untreated, treated: states of the step, before and after the treatment.
      level: coverage of the intervals.

    Raises a ValueError for units that are none, and what `forecast` raises.
    """
    arms = [_alive(step, state, draw, see, steps, forks, key) for state in (treated, untreated)]
    count = arms[0][0].shape[1]
    chosen = np.asarray(units)
    chosen = np.flatnonzero(chosen) if chosen.dtype == bool and chosen.shape == (count,) else chosen
    if not chosen.size or chosen.dtype.kind not in "iu" or (chosen < 0).any():
        raise ValueError(f"units={units!r} must be bools [{count}] with a True, or unit numbers.")
    if chosen.max() >= count:
        raise ValueError(f"units names unit {chosen.max()}; there are 0 to {count - 1}.")
    identical = all(same for _, same in arms)
    alive, left = (arm[:, chosen] for arm, _ in arms)
    won, lost = (arm[: 1 if identical else forks].sum(1) for arm in (alive, left))
    trials = np.full(len(won), len(chosen))
    return Proof(
        paired_difference(won, trials, lost, trials, level),
        clustered_interval(won, trials, level),
        clustered_interval(lost, trials, level),
        alive,
        left,
        steps,
        identical,
    )


def _alive(step, state, draw, see, steps, forks, key) -> tuple[np.ndarray, bool]:
    """(bool [forks, units]: a margin above 0 after `steps` steps, whether all forks are copies).

    `forecast` counts who comes back, so until the last step every unit is shown to it as dead: who
    comes back at it is alive at the end, whatever it was at the start.
    """

    def counted(carry, *batch):
        taken, state = carry
        return taken + 1, state_in(step(state, *batch), state)

    def seen(carry):
        margin = margins_of(see(carry[1]))
        return jnp.where(carry[0] < steps, -1.0, margin)

    made = forecast(
        counted, (jnp.int32(0), state), draw, seen, steps=steps, every=steps, forks=forks, key=key
    )
    return made.recovered_at > 0, made.identical
