"""Networks of other libraries, trained on real data until units die, through the whole path.

The networks and the path are those of benchmarks/real_networks.py, which prints the docs' numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import real_networks
from relu_dynamics import inspection
from relu_dynamics.certificates import Verdict
from relu_dynamics.inspection.reading.surgery import INCOMING, per_unit
from relu_dynamics.inspection.records import monitor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=real_networks.NETWORKS)
def run(request):
    trained = real_networks.train(real_networks.NETWORKS[request.param](), seed=0)
    return trained, real_networks.examine(trained, seed=0)


def test_units_die_by_training(run):
    trained, outcome = run
    died = np.setdiff1d(outcome.diagnosis.dead, np.flatnonzero(trained.born_dead))
    deaths = np.asarray(trained.record.history.deaths)
    assert len(died) >= 5 and (deaths[died] > 0).all()
    assert len(died) > trained.born_dead.sum()
    assert np.mean(trained.losses[-10:]) < 0.8 * trained.losses[0]  # it learns nevertheless


def test_step_with_optimizer_and_average_has_the_units_of_the_loss(run):
    trained, _ = run
    network = trained.network
    whole = inspection.find(network.step, trained.state, *network.data)
    assert [one.count for one in whole.sites] == [one.count for one in trained.probe.sites]


def test_dead_units_are_those_without_gradient(run):
    trained, outcome = run
    dead = outcome.diagnosis.defined["dead"]
    assert (outcome.gradients[dead] == 0).all() and (outcome.gradients[~dead] > 0).any()
    np.testing.assert_array_equal(dead, ~np.asarray(trained.record.history.alive))


def test_parts_of_every_death_sum_to_the_fall_of_the_margin(run):
    trained, outcome = run
    died = np.asarray(trained.record.history.deaths) > 0
    *parts, rest = np.asarray(trained.record.cause_parts)[:, died]
    size = np.maximum(np.abs(parts).max(0), 1)  # the terms of z, which are rounded, are above 1
    assert (np.sum(parts, 0) < 0).all()  # it fired before and is dead after
    assert (np.abs(rest) <= 1e-5 * size).all()
    named = outcome.diagnosis.cause[died]
    np.testing.assert_array_equal(named, np.array(monitor.CAUSES)[np.argmin(parts, 0)])


def test_never_is_not_contradicted_by_training_on(run):
    _, outcome = run
    verdict, ahead = outcome.prognosis.verdict, outcome.ahead
    assert (ahead.recovered[verdict == Verdict.CERTIFIED_NEVER] == 0).all()
    np.testing.assert_array_equal(verdict != Verdict.NOT_DEAD, ahead.dead)


def test_where_inputs_are_fixed_there_is_a_verdict_and_elsewhere_a_forecast(run):
    trained, outcome = run
    verdict, ahead = outcome.prognosis.verdict, outcome.ahead
    dead, first = outcome.diagnosis.dead, trained.probe.slices.get("layers/0")
    fixed = dead < (first.stop if first else 0)  # the inputs of all MLPs of the transformer move
    assert (verdict[dead[fixed]] != Verdict.POSSIBLE).all()
    assert not fixed.all() and np.isfinite(ahead.probability[dead[~fixed]]).all()


def test_treatment_reaches_all_and_acts_at_a_smaller_rate(run):
    trained, outcome = run
    dead, census = outcome.diagnosis.dead, outcome.census
    assert outcome.treated.unreached == () and outcome.treated.uncut == ()
    assert census["dead_before"] == census["units"] and census["dead_after"] == 0
    gradient = jax.grad(trained.network.loss)(outcome.treated.params, *trained.network.data)
    squares = jax.tree.map(jnp.square, gradient)
    reaches = per_unit(squares, trained.probe, (*INCOMING, "outgoing"))  # a new unit's own is 0
    assert (reaches[dead] > 0).all()
    proof = outcome.proofs["a tenth"]
    assert proof.acted and proof.treated.estimate > proof.untreated.estimate
