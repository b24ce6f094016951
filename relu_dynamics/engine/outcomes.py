"""Outcomes: what "dead", "recovered" and "died" mean, written once.

Definitions, all *on the probe set* (a fixed set of examples, never the training minibatch):

* margin of a unit: the largest z over the probe set.
* dead: margin <= 0. Not z < 0: ReLU'(0) = 0 in JAX, so a unit at 0 gets no gradient either.
* alive again (recovered): margin > tolerance, and some example certainly has z > 0 whatever the
  rounding (`probes.MarginBounds`). Between 0 and that nothing changes: a dead unit stays dead
  (z = 1e-34 is dust, not a recovery), a living one stays alive, for at any z > 0 it still gets a
  gradient.
* at risk: dead at step 0.
* sustained: alive at every evaluation for at least `sustain` steps after the recovery. A unit that
  is alive at the horizon, but not yet for that long, is `RECOVERED_UNCONFIRMED`.
* diverged: the loss or a margin of the run was not finite at some step. It is an outcome of its
  own for every unit at risk, whatever it did before: NaN <= 0 is False, and a diverged run must
  not read as alive. (The step of an earlier recovery stays recorded.)
* ambiguous: rounding decides the sign of the margin at step 0, or the unit never recovered but
  came so near 0 from below that rounding decided. Counted apart, never guessed. A margin of
  exactly 0 whose every term is 0 or negative is not ambiguous: no rounding makes it positive.

A config with `definition="flat"` asks the same of another event: the margin of a unit is then the
largest size of its derivative da/dz over the probe set, so "dead" reads "flat" (the derivative is
exactly 0 on every example), and rounding has no part in it. `DEFINITIONS` has the words. The
numbers of the minibatch (`batch_...`) are of z under either.

Axes: `units` of all hidden layers in order; leading axes (runs) where a function says "...".
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.engine import probes
from relu_dynamics.engine.probes import MarginBounds, UnitStatistics

# Part of a stored result's identity: raise it when a definition changes. Since 2 a sign that no
# order of summation can change is certain (sums of terms of one sign, exact zeros), and rounding is
# judged example by example; in 1 these units were ambiguous.
DEFINITION_VERSION = 2

NEVER = -1  # the step of an event that did not happen


class Definition(NamedTuple):
    """What a result means by "dead"; a row of `DEFINITIONS`."""

    rule: str  # of a unit, in words
    short: str  # the same on a figure
    of_slopes: bool = False  # the margin is the largest size of the derivative, else of z
    words: tuple[tuple[str, str], ...] = ()  # (what a text about dead units says, what it is here)

    def say(self, text: str) -> str:
        """A text about dead units in the words of this definition."""
        for written, here in self.words:
            text = text.replace(written, here)
        return text


DEFINITIONS: dict[str, Definition] = {
    "dead": Definition("largest pre-activation over the probe set <= 0", "max z <= 0"),
    "flat": Definition(
        "derivative da/dz exactly 0 on the whole probe set",
        "da/dz = 0",
        of_slopes=True,
        words=(
            ("dead", "flat"),
            ("Dead", "Flat"),
            ("dies", "goes flat"),
            ("died", "went flat"),
            ("kills", "flattens"),
        ),
    ),
}


class Outcome(enum.IntEnum):
    """The outcome of one unit of one run."""

    NOT_AT_RISK = 0
    STILL_DEAD = 1  # right-censored at the horizon
    RECOVERED_SUSTAINED = 2
    RECOVERED_TRANSIENT = 3
    RECOVERED_UNCONFIRMED = 4  # alive at the horizon, for fewer than `sustain` steps so far
    DIVERGED = 5  # the competing risk
    AMBIGUOUS = 6


Array = jax.Array | np.ndarray  # inside a program, and on the host


class History(NamedTuple):
    """Running record of one run's units; [units] each unless noted. Steps are int32, NEVER = -1.

    Everything comes from the evaluations on the probe set (step 0 and every `probe_every` steps),
    but the fields named `batch_...`: those come from the training minibatch at every step.
    """

    margin_at_start: Array  # float32
    dead_at_start: Array  # bool
    near_zero_at_start: Array  # bool, |margin| within rounding of 0
    near_zero: Array  # bool, within rounding of 0 from below, before any recovery
    alive: Array  # bool, with the hysteresis of the definition
    margin: Array  # float32, at the last evaluation
    spell_start: Array  # step at which the present spell (alive or dead) was first seen
    first_recovery: Array  # step of the first evaluation alive after being dead
    first_sustained: Array  # start of the first spell alive after death that lasted
    first_death: Array  # step of the first evaluation dead after being alive
    recoveries: Array  # int32
    deaths: Array  # int32; of a unit at risk these are re-deaths
    steps_dead: Array  # int32, steps between evaluations count for the state at their start
    batch_first_active: Array  # first step with z > 0 for a minibatch example
    batch_mean_sum: Array  # float32, sum over steps of the mean of z
    batch_peak: Array  # float32, largest z over all steps
    batch_active_sum: Array  # float32, sum over steps of the active fraction
    diverged_at: Array  # [] first step at which the loss or a margin was not finite


def start_history(statistics: UnitStatistics, bounds: MarginBounds) -> History:
    """The history at step 0 from probe statistics and the bounds of their margins, [units]."""
    margin = statistics.margin
    dead = margin <= 0
    never = jnp.full(margin.shape, NEVER, jnp.int32)
    none = jnp.zeros(margin.shape, jnp.int32)
    near = (bounds.lower <= 0) & (bounds.upper > 0)
    return History(
        margin_at_start=margin,
        dead_at_start=dead,
        near_zero_at_start=near,
        near_zero=near,
        alive=~dead,
        margin=margin,
        spell_start=none,
        first_recovery=never,
        first_sustained=never,
        first_death=never,
        recoveries=none,
        deaths=none,
        steps_dead=none,
        batch_first_active=never,
        batch_mean_sum=jnp.zeros_like(margin),
        batch_peak=jnp.full_like(margin, -jnp.inf),
        batch_active_sum=jnp.zeros_like(margin),
        diverged_at=jnp.where(jnp.isfinite(margin).all(), NEVER, 0).astype(jnp.int32),
    )


def _first(recorded: Array, happens: Array, step: jax.Array) -> jax.Array:
    return jnp.where((recorded == NEVER) & happens, step, recorded)


def _first_active(history: History, step: jax.Array) -> jax.Array:
    """The first active step, after the minibatches of all steps before `step`."""
    return _first(history.batch_first_active, history.batch_peak > 0, step - 1)


def observe_batch(
    history: History, step: jax.Array, loss: jax.Array | None, statistics: UnitStatistics
) -> History:
    """The history after minibatch statistics of the forward pass at `step`. A loss of None is
    left to `observe_losses`.

    `batch_first_active` is a step late, until the next evaluation: it is read from the peak so far,
    which is in memory, for XLA would reduce z once more for every use of this step's own.
    """
    diverged_at = history.diverged_at
    if loss is not None:
        diverged_at = _first(diverged_at, ~jnp.isfinite(loss), step)
    return history._replace(
        batch_first_active=_first_active(history, step),
        batch_mean_sum=history.batch_mean_sum + statistics.mean,
        batch_peak=jnp.maximum(history.batch_peak, statistics.margin),
        batch_active_sum=history.batch_active_sum + statistics.active_fraction,
        diverged_at=diverged_at,
    )


class Losses(NamedTuple):
    """What is kept of the training losses of a stretch of steps, [] or [...]."""

    mean: jax.Array  # float32
    diverged_at: jax.Array  # int32, the first step whose loss is not finite, or NEVER


def sum_up_losses(first: jax.Array, losses: jax.Array) -> Losses:
    """The `Losses` of a stretch, [steps, ...], from step `first` on, [] or [...].

    Of a stretch rather than of a step: a pass over what is recorded anyway costs less than one
    more operation at every step.
    """
    count = losses.shape[0]
    offsets = jnp.arange(count).reshape(count, *[1] * (losses.ndim - 1))
    steps = jnp.broadcast_to(first, losses.shape[1:])[None] + offsets
    later = jnp.iinfo(jnp.int32).max
    at = probes.halve(jnp.minimum, jnp.where(jnp.isfinite(losses), later, steps))
    return Losses(losses.mean(0), jnp.where(at < later, at, NEVER))


def observe_losses(history: History, losses: Losses) -> History:
    """The history after the training losses of a stretch of steps."""
    diverges = losses.diverged_at != NEVER
    return history._replace(diverged_at=_first(history.diverged_at, diverges, losses.diverged_at))


def observe_probe(
    history: History,
    step: jax.Array,
    margin: jax.Array,
    bounds: MarginBounds,
    *,
    since: int,
    tolerance: float,
    sustain: int,
) -> History:
    """The history after an evaluation on the probe set at `step`, `since` steps after the last
    evaluation.

    margin and its bounds are [units]; the events are those of the module's definitions. Once a run
    has diverged its history no longer changes.
    """
    diverged_at = _first(history.diverged_at, ~jnp.isfinite(margin).all(), step)
    running = diverged_at == NEVER
    revived = (margin > tolerance) & (bounds.lower > 0)
    alive = jnp.where(revived, True, jnp.where(margin <= 0, False, history.alive))
    recovers = running & alive & ~history.alive
    dies = running & ~alive & history.alive
    spell_start = jnp.where(recovers | dies, step, history.spell_start)
    # A spell counts only when it began with a recovery: units alive from step 0 never recovered.
    recovered = recovers | (history.recoveries > 0)
    lasted = running & alive & recovered & (step - spell_start >= sustain)
    first_recovery = _first(history.first_recovery, recovers, step)
    brushes = running & (first_recovery == NEVER) & ~alive & (bounds.upper > 0)
    keep = lambda new, old: jnp.where(running, new, old)  # noqa: E731
    return history._replace(
        batch_first_active=_first_active(history, step),
        near_zero=history.near_zero | brushes,
        alive=keep(alive, history.alive),
        margin=keep(margin, history.margin),
        spell_start=spell_start,
        first_recovery=first_recovery,
        first_sustained=jnp.where(
            (history.first_sustained == NEVER) & lasted, spell_start, history.first_sustained
        ),
        first_death=_first(history.first_death, dies, step),
        recoveries=history.recoveries + recovers.astype(jnp.int32),
        deaths=history.deaths + dies.astype(jnp.int32),
        steps_dead=history.steps_dead + jnp.where(running & ~history.alive, since, 0),
        diverged_at=diverged_at,
    )


def classify(history: History) -> np.ndarray:
    """The `Outcome` of every unit, uint8 [..., units]; history leaves [..., units] (NumPy or JAX),
    `diverged_at` [...]."""
    h = History(*(np.asarray(leaf) for leaf in history))
    recovered = h.first_recovery != NEVER
    rules = [  # the first that holds decides
        (h.near_zero_at_start, Outcome.AMBIGUOUS),
        (~h.dead_at_start, Outcome.NOT_AT_RISK),
        ((h.diverged_at != NEVER)[..., None], Outcome.DIVERGED),
        (h.first_sustained != NEVER, Outcome.RECOVERED_SUSTAINED),
        (recovered & h.alive, Outcome.RECOVERED_UNCONFIRMED),
        (recovered, Outcome.RECOVERED_TRANSIENT),
        (h.near_zero, Outcome.AMBIGUOUS),
    ]
    conditions = [np.broadcast_to(condition, h.alive.shape) for condition, _ in rules]
    codes = [np.uint8(outcome) for _, outcome in rules]
    return np.select(conditions, codes, default=np.uint8(Outcome.STILL_DEAD))
