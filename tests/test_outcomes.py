"""Hand-made margins -> hand-counted events; the edge cases of the definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics.engine import outcomes
from relu_dynamics.engine.outcomes import NEVER, History, Outcome
from relu_dynamics.engine.probes import MarginBounds, UnitStatistics

pytestmark = pytest.mark.core

EVERY = 10


def statistics(margin):
    zeros = jnp.zeros_like(margin)
    return UnitStatistics(zeros, margin, zeros, zeros, zeros)


def within(margin, bound):
    return MarginBounds(margin - bound, margin + bound)


def play(margins, *, bound=0.0, tolerance=1e-6, sustain=30, loss_at=None) -> History:
    """The history of units whose margins at evaluations 0, 10, 20, ... are the rows of
    `margins`."""
    margins = jnp.asarray(margins, jnp.float32)
    history = outcomes.start_history(statistics(margins[0]), within(margins[0], bound))
    for evaluation, margin in enumerate(margins[1:], start=1):
        loss = jnp.float32(jnp.nan if loss_at == evaluation else 1.0)
        history = outcomes.observe_batch(
            history, jnp.int32(evaluation * EVERY - 1), loss, statistics(margin)
        )
        history = outcomes.observe_probe(
            history,
            jnp.int32(evaluation * EVERY),
            margin,
            within(margin, bound),
            since=EVERY,
            tolerance=tolerance,
            sustain=sustain,
        )
    return history


def of(history: History, unit: int = 0) -> dict:
    values = {name: np.asarray(leaf) for name, leaf in history._asdict().items()}
    return {n: v.item() if v.ndim == 0 else v[unit].item() for n, v in values.items()}


def code(history: History, unit: int = 0) -> Outcome:
    return Outcome(outcomes.classify(history)[unit])


def column(*margins):
    return [[margin] for margin in margins]


def test_a_sustained_recovery_is_counted_with_its_steps():
    h = play(column(-1, -1, 2, 2, 2, 2))
    facts = of(h)
    assert code(h) == Outcome.RECOVERED_SUSTAINED
    assert facts["first_recovery"] == 20
    assert facts["first_sustained"] == 20
    assert facts["recoveries"] == 1 and facts["deaths"] == 0
    assert facts["steps_dead"] == 20
    assert facts["first_death"] == NEVER


def test_a_recovery_that_dies_again_is_transient_and_counts_the_re_death():
    h = play(column(-1, 2, 2, -1, -1, -1, 2, -3))
    facts = of(h)
    assert code(h) == Outcome.RECOVERED_TRANSIENT
    assert (facts["recoveries"], facts["deaths"]) == (2, 2)
    assert facts["first_recovery"] == 10 and facts["first_death"] == 30
    assert facts["first_sustained"] == NEVER
    assert facts["steps_dead"] == 10 + 30  # evaluations 0, and 30 to 50


def test_a_second_spell_can_be_the_sustained_one():
    h = play(column(-1, 2, -1, 2, 2, 2, 2))
    assert code(h) == Outcome.RECOVERED_SUSTAINED
    assert of(h)["first_recovery"] == 10 and of(h)["first_sustained"] == 30


def test_a_late_recovery_is_unconfirmed():
    h = play(column(-1, -1, -1, 2, 2))
    assert code(h) == Outcome.RECOVERED_UNCONFIRMED


def test_still_dead_and_not_at_risk():
    h = play([[-1, 1], [-1, 1], [-1, -1]])
    assert code(h, 0) == Outcome.STILL_DEAD
    assert code(h, 1) == Outcome.NOT_AT_RISK
    assert of(h, 1)["first_death"] == 20 and of(h, 1)["deaths"] == 1
    assert of(h, 1)["first_recovery"] == NEVER


def test_a_unit_alive_from_the_start_never_recovers_by_staying_alive():
    h = play(column(1, 1, 1, 1, 1, 1))
    assert code(h) == Outcome.NOT_AT_RISK
    assert of(h)["first_sustained"] == NEVER


@pytest.mark.parametrize("dust", [0.0, 1e-34, 1e-7])
def test_dust_is_not_a_recovery(dust):
    h = play(column(-1, dust, dust, dust, dust, -1), bound=1e-8)
    assert of(h)["first_recovery"] == NEVER
    assert code(h) == Outcome.AMBIGUOUS  # it came within rounding or tolerance of 0: not "dead"


def test_dust_does_not_kill_either():
    h = play(column(1, 1e-34, 1))
    assert of(h)["deaths"] == 0 and of(h)["alive"]


def test_zero_margin_is_dead():
    h = play(column(0.0, -1.0), bound=0.0, tolerance=0.0)
    assert of(h)["dead_at_start"]


def test_within_rounding_of_zero_at_start_is_ambiguous_on_both_sides():
    h = play([[1e-7, -1e-7, 1e-5, -1e-5], [1, 1, 1, 1]], bound=1e-6)
    codes = [code(h, unit) for unit in range(4)]
    assert codes[:2] == [Outcome.AMBIGUOUS] * 2
    assert codes[2] == Outcome.NOT_AT_RISK and codes[3] == Outcome.RECOVERED_UNCONFIRMED


def test_the_rounding_bound_raises_the_threshold():
    h = play(column(-1, 1e-3, 1e-3), bound=1e-2)
    assert of(h)["first_recovery"] == NEVER


def test_a_diverged_run_is_neither_alive_nor_dead():
    nan = float("nan")
    h = play([[-1, -1, 1], [-1, 2, 1], [nan, 2, 1], [-1, 2, -1], [5, 2, -1]])
    assert of(h)["diverged_at"] == 20
    assert [code(h, unit) for unit in range(3)] == [
        Outcome.DIVERGED,
        Outcome.DIVERGED,
        Outcome.NOT_AT_RISK,
    ]
    assert of(h, 1)["first_recovery"] == 10  # what happened before stays recorded
    assert of(h, 0)["recoveries"] == 0 and of(h, 2)["deaths"] == 0  # and nothing after counts
    assert of(h, 0)["margin"] == -1


def test_a_loss_that_is_not_finite_is_divergence_too():
    h = play(column(-1, -1, -1), loss_at=1)
    assert of(h)["diverged_at"] == 9 and code(h) == Outcome.DIVERGED


def test_batch_records_stream():
    h = play(column(-1, 3, -1))
    assert of(h)["batch_first_active"] == 9 and of(h)["batch_peak"] == 3


margins = st.lists(
    st.sampled_from([-2.0, -1e-9, 0.0, 1e-9, 0.5, 3.0, float("nan")]), min_size=2, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(margins)
def test_counts_are_consistent_for_any_history(values):
    # One compiled function for all lengths: pad by repeating the last evaluation.
    padded = values + [values[-1]] * (12 - len(values))
    facts = of(_jitted(jnp.asarray(column(*padded), jnp.float32)))
    started_dead = facts["dead_at_start"]
    assert facts["recoveries"] - facts["deaths"] in ((0, 1) if started_dead else (-1, 0))
    assert (facts["first_recovery"] == NEVER) == (facts["recoveries"] == 0)
    assert (facts["first_death"] == NEVER) == (facts["deaths"] == 0)
    assert facts["first_sustained"] == NEVER or facts["recoveries"] > 0
    assert facts["alive"] == (facts["recoveries"] - facts["deaths"] == (1 if started_dead else 0))
    assert 0 <= facts["steps_dead"] <= (len(padded) - 1) * EVERY
    if any(np.isnan(values)):
        assert facts["diverged_at"] != NEVER


_jitted = jax.jit(play)


# --- Identities of counts -------------------------------------------------------------------------


def test_counts_add_up_in_a_million_cells():
    """A million histories of eight evaluations with margins drawn to hit every rule: the outcomes
    partition the units, and counts, spells and first events agree with one another."""
    cells, evaluations, every = 250_000, 8, 5  # of 4 units each: a million unit histories
    draw = np.random.default_rng(0)
    size = (evaluations + 1, cells, 4)
    margins = draw.normal(size=size).astype(np.float32)
    margins[draw.uniform(size=size) < 0.1] *= 1e-7  # dust and rounding
    margins[draw.uniform(size=size) < 0.05] = 0
    margins[draw.uniform(size=size) < 0.003] = np.nan
    margins[0][np.isnan(margins[0])] = -1
    bounds = functools.partial(within, bound=1e-6)

    @jax.jit
    def watch(margins):
        history = jax.vmap(lambda m: outcomes.start_history(statistics(m), bounds(m)))(margins[0])
        for evaluation in range(1, evaluations + 1):
            history = jax.vmap(
                lambda h, m, step=evaluation * every: outcomes.observe_probe(
                    h, jnp.int32(step), m, bounds(m), since=every, tolerance=1e-6, sustain=2 * every
                )
            )(history, margins[evaluation])
        return history

    history = jax.tree.map(np.asarray, watch(margins))
    codes = outcomes.classify(history)
    counts = np.bincount(codes.ravel(), minlength=len(Outcome))
    assert counts.sum() == 4 * cells and (counts > 0).all()  # every outcome occurs
    h = history
    started_alive = ~h.dead_at_start
    np.testing.assert_array_equal(started_alive + h.recoveries - h.deaths, h.alive)
    np.testing.assert_array_equal(h.first_recovery != NEVER, h.recoveries > 0)
    np.testing.assert_array_equal(h.first_death != NEVER, h.deaths > 0)
    assert (abs(h.recoveries - h.deaths) <= 1).all()  # they take turns
    diverged = (h.diverged_at != NEVER)[:, None] & np.ones_like(h.alive)
    recovered = np.isin(
        codes,
        [Outcome.RECOVERED_SUSTAINED, Outcome.RECOVERED_TRANSIENT, Outcome.RECOVERED_UNCONFIRMED],
    )
    assert (h.recoveries[recovered] > 0).all() and not (recovered & diverged).any()
    assert h.alive[codes == Outcome.RECOVERED_UNCONFIRMED].all()
    assert not h.alive[codes == Outcome.STILL_DEAD].any()
    assert (h.recoveries[codes == Outcome.STILL_DEAD] == 0).all()
    np.testing.assert_array_equal(
        (codes == Outcome.DIVERGED), diverged & h.dead_at_start & ~h.near_zero_at_start
    )
    assert ((h.first_sustained == NEVER) | (h.first_sustained >= h.first_recovery)).all()
    horizon = evaluations * every
    assert (h.steps_dead <= horizon).all() and (h.steps_dead % every == 0).all()
    never_moved = (h.recoveries == 0) & (h.deaths == 0) & ~diverged
    np.testing.assert_array_equal(
        h.steps_dead[never_moved], np.where(h.dead_at_start[never_moved], horizon, 0)
    )
