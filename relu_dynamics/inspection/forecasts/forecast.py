"""Forecast: how probably a dead unit comes back, from replayed forks of the user's own step.

Every fork begins at the same state and runs the user's step over batches drawn anew. The forks in
which a unit recovers are counted, and the interval is that of independent trials (Clopper-Pearson).
What is held fixed is the state; what varies is what the draws decide.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from relu_dynamics.checks import short_repr
from relu_dynamics.inspection.forecasts.forks import call_width, run_fork
from relu_dynamics.inspection.forecasts.replay import margins_of
from relu_dynamics.statistics import Interval, clustered_interval, exact_interval


class Forecast(NamedTuple):
    """What came out of the forks.

    A unit *recovers* in a fork when it is dead at the start (margin <= 0 on what `see` looks at)
    and has a margin > 0 at `sustain` looks in a row, one look every `every` steps, within `steps`
    steps. What happens between two looks is not seen. In a fork whose margins stop being numbers
    (`diverged`) nothing recovers.
    """

    forks: int
    steps: int  # how far each fork ran
    every: int  # steps from one look to the next
    sustain: int  # looks in a row that make a recovery
    dead: np.ndarray  # bool [units], at the start; of the others nothing is forecast
    alive_at: np.ndarray  # int32 [forks, units], steps to the first of `sustain` looks in a row at
    # which the unit was alive, dead at the start or not; -1 for none
    alive_at_end: np.ndarray  # int32 [units], forks at whose last look it is alive
    diverged: int  # forks
    identical: bool  # all forks drew the same, or nothing that was seen of them differed

    @property
    def trials(self) -> int:
        """Independent forks: forks that are copies of one count as one."""
        return 1 if self.identical else self.forks

    @property
    def recovered_at(self) -> np.ndarray:
        """Steps to the recovery, int32 [forks, units]; -1 where there is none."""
        return np.where(self.dead, self.alive_at, -1)

    @property
    def recovered(self) -> np.ndarray:
        """Forks in which the unit recovered, int32 [units]."""
        return (self.recovered_at >= 0).sum(0, dtype=np.int32)

    @property
    def interval(self) -> Interval:
        """P(recover within `steps`) of every unit [units], nan in [0, 1] where it was not dead."""
        return self.within(self.steps)

    @property
    def probability(self) -> np.ndarray:
        """The share of forks in which the unit recovered, [units]; nan where it was not dead."""
        return np.asarray(self.interval.estimate)

    @property
    def low(self) -> np.ndarray:
        """The lower end of its exact 95 % interval, [units]."""
        return np.asarray(self.interval.low)

    @property
    def high(self) -> np.ndarray:
        """The upper end of its exact 95 % interval, [units]."""
        return np.asarray(self.interval.high)

    def within(self, steps: int, level: float = 0.95) -> Interval:
        """P(recover within so many steps, at most `self.steps`) of every unit, with its exact
        interval (Clopper-Pearson)."""
        if not 0 <= steps <= self.steps:
            raise ValueError(f"steps={steps} must be between 0 and {self.steps}, what was run.")
        at = self.recovered_at[: self.trials]
        came = ((at >= 0) & (at <= steps)).sum(0)
        return exact_interval(came, self.trials * self.dead.astype(int), level)

    def pooled(self, units: Any = None, level: float = 0.95) -> Interval:
        """The share of (fork, unit) pairs in which the unit was alive at `sustain` looks in a row.

        By default of the units that are dead at the start. Units that are named (numbers, or bools
        [units]) count whether they are or not: what a change lifts at once has recovered. The
        interval is clustered by fork, whose units see the same batches; of one unit it is exact.
        """
        chosen = np.zeros(self.dead.shape, bool)
        chosen[self.dead if units is None else np.asarray(units)] = True
        if not chosen.any():
            raise ValueError("no unit is chosen, or none is dead; name units to be counted.")
        came = (self.alive_at[: self.trials, chosen] >= 0).sum(1)
        return clustered_interval(came, np.full(self.trials, chosen.sum()), level)

    def __str__(self) -> str:
        dead = np.flatnonzero(self.dead)
        if not dead.size:
            return "no unit is dead: nothing to forecast"
        looks = f"{self.sustain} look{'s' * (self.sustain > 1)} in a row"
        lines = [
            f"{dead.size} dead units, {self.steps} steps ahead; recovered: margin > 0 at {looks}, "
            f"one every {self.every} steps"
        ]
        if self.identical:
            lines.append(
                f"all {self.forks} forks are copies of one: nothing that was drawn matters, so "
                "this is one path and no sample"
            )
        if self.diverged:
            lines.append(f"{self.diverged} of {self.forks} forks diverged; nothing recovers there")
        ends = self.interval
        rows = zip(dead, *(np.asarray(part)[dead] for part in ends[:4]), strict=True)
        for unit, estimate, low, high, came in rows:
            lines.append(
                f"  unit {unit}: {came} of {self.trials}, P = {estimate:.2f} "
                f"[{low:.2f}, {high:.2f}]"
            )
        return "\n".join(lines)


def forecast(
    step: Callable,
    state: Any,
    draw: Callable,
    see: Callable,
    *,
    steps: int,
    every: int,
    forks: int,
    key: jax.Array,
    sustain: int = 1,
    lanes: int | None = None,
) -> Forecast:
    """The `Forecast` of every unit from `forks` runs of `steps` steps that begin at `state`.

    Args:
      step: the user's own train step, pure, jitted or not, watched or not: `step(state, *batch)`
        returns the new state, or tuples that begin with it, as (state, loss) or
        ((state, loss), seen). The state is the first part whose tree is that of `state`.
      state: what the step carries from one call to the next. Typed PRNG keys in it
        (`jax.random.key`) are made anew for every fork; keys of raw integers stay what they are.
      draw: key -> a batch: a tuple of the step's further arguments, or one argument. `draw_from`
        and `draw_examples` draw from the user's own; a batch may hold a key, for dropout.
      see: state -> `Seen`, or margins [units], over the probe set: on what "dead" is judged, as
        `lambda state: watch(model)(state[0], inputs)[1]`.
      steps: how far to look ahead; a multiple of `every`.
      every: steps from one look to the next.
      forks: how many runs. The first n are the same whatever the number.
      key: decides all draws.
      sustain: looks in a row that make a recovery.
      lanes: forks that run at once (vmapped, compiled once); by default what fits into
        `forks.AT_ONCE` bytes by an upper estimate. It may change the last bits of a margin.

    Raises a ValueError for numbers that make no sense, for a step or a `see` that does not return
    what it should, and when the forks do not fit into memory; before anything runs.
    """
    given = {} if lanes is None else {"lanes": lanes}
    _check_counts(steps=steps, every=every, forks=forks, sustain=sustain, **given)
    if steps % every:
        raise ValueError(f"steps={steps} must be a multiple of every={every}.")
    if sustain > steps // every:
        raise ValueError(
            f"sustain={sustain} looks in a row do not fit into {steps // every} looks; use more "
            "steps, or a smaller every or sustain."
        )
    state = jax.tree.map(jnp.asarray, state)
    step, draw, see = (f if isinstance(f, Partial) else Partial(f) for f in (step, draw, see))
    width = call_width(step, draw, see, state, key, forks, lanes)
    start = np.asarray(_start(see, state))
    numbers = np.arange(-(-forks // width) * width, dtype=np.uint32).reshape(-1, width)
    call = functools.partial(_call, steps=steps, every=every, sustain=sustain)
    parts = [jax.device_get(call(step, draw, see, state, key, own)) for own in numbers]
    fork = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:forks], *parts)
    lasts = ~fork.diverged[:, None]
    copies = [bool((one == one[0]).all()) for one in (fork.drawn, fork.path)]
    return Forecast(
        forks,
        steps,
        every,
        sustain,
        (start <= 0) & (start > -np.inf),
        np.where(lasts, fork.alive_at, -1).astype(np.int32),
        ((fork.row > 0) & lasts).sum(0, dtype=np.int32),
        int(fork.diverged.sum()),
        forks > 1 and any(copies),
    )


_start = jax.jit(lambda see, state: margins_of(see(state)))


@functools.partial(jax.jit, static_argnames=("steps", "every", "sustain"))
def _call(step, draw, see, state, key, numbers, **options):
    one = lambda number: run_fork(step, draw, see, state, key, number, **options)  # noqa: E731
    return jax.vmap(one)(numbers)


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={short_repr(value)} must be a whole number, at least 1.")
