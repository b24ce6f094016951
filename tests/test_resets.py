"""Resets in the engine's grid: ReDo, continual backpropagation and regenerative L2, against the
inspection room's, against loops in NumPy and against closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics import inspection
from relu_dynamics.config import Config
from relu_dynamics.engine import interventions, models, optimizers, resets, tasks, training, units
from relu_dynamics.engine.initialization import initialize
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import draw_batch, train_step
from relu_dynamics.engine.validation import validate
from relu_dynamics.inspection.records import definitions
from relu_dynamics.sweeps.sweep import sweep

SMALL = Config(
    task="teacher_student",
    examples=48,
    dimension=5,
    hidden=(8, 6),
    biased_units=3,
    initial_bias=-6.0,
    learning_rate=0.01,
    optimizer="adam",
    batch_size=16,
    steps=40,
    probe_every=10,
    sustain=10,
)
REDO = dataclasses.replace(SMALL, reset="redo", reset_every=20)
CBP = dataclasses.replace(
    SMALL, reset="continual_backprop", reset_every=1, reset_rate=0.02, reset_maturity=5.0
)


def setup(config):
    key = run_key(0, 0)
    task = tasks.make_task(config, purpose_key(key, "task"), tasks.load_data(config))
    return training.as_arrays(config), task, key


_start, _advance = jax.jit(training.start), jax.jit(train_step)
_reset = jax.jit(interventions.reset_units)


def trained_state(config, steps=8):
    """(config, task, key, state) after so many steps without a reset."""
    config, task, key = setup(config)
    state = _start(config, key)
    for _ in range(steps):
        state, _ = _advance(config, task, key, state)
    return config, task, key, state


# Choices, of arrays -------------------------------------------------------------------------------

numbers = st.integers(0, 8).map(lambda n: n / 4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=9), st.integers(0, 10))
def test_the_least_useful_are_those_that_one_at_a_time_would_go(units, count):
    utility, eligible = (np.array(part) for part in zip(*units, strict=True))
    left, gone = list(np.flatnonzero(eligible)), set()
    for _ in range(min(count, len(left))):
        lowest = min(left, key=lambda i: (utility[i], i))
        left.remove(lowest)
        gone.add(lowest)
    chosen = resets.least_useful(jnp.asarray(utility, jnp.float32), jnp.asarray(eligible), count)
    assert set(np.flatnonzero(chosen)) == gone


def test_replacements_add_up_to_the_rate():
    """What is due is neither lost nor given twice, whatever the fractions."""
    age, due, replaced = jnp.full(5, 1000), jnp.float32(0), 0
    for _ in range(40):
        chosen, due = resets.replaceable(
            jnp.arange(5.0), age, due, maturity=10.0, expected=jnp.float32(0.07)
        )
        replaced += int(chosen.sum())
        assert not chosen[1:].any()  # one at a time here, and the first is the least useful
    assert replaced == int(40 * 5 * 0.07) and 0 <= due < 1
    young, kept = resets.replaceable(
        jnp.ones(5), jnp.full(5, 10), jnp.float32(0.9), maturity=10.0, expected=1.0
    )
    assert not young.any() and kept == np.float32(0.9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=1, max_size=9), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_dormancy_is_that_of_the_inspection_room(sizes, tau):
    sizes = np.array(sizes, np.float32)
    ours = np.asarray(resets.dormancy(jnp.asarray(sizes))) <= tau
    if sizes.any():
        np.testing.assert_array_equal(ours, sizes / sizes.mean() <= np.float32(tau))
    else:
        assert ours.all()


# ReDo ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"optimizer": "momentum", "normalization": "layer"},
        {"optimizer": "rmsprop", "initializer": "torch_default"},
        {"optimizer": "sgd", "normalization": "batch", "hidden_bias": False},
    ],
    ids=["adam", "momentum, layer norm", "rmsprop, own biases", "sgd, batch norm"],
)
def test_redo_is_dormant_x_redraw_of_the_inspection_room(fields):
    """Another implementation: it reads the program, and knows nothing of the engine's names."""
    config, task, key, state = trained_state(dataclasses.replace(REDO, **fields))
    ours = _reset(config, task, key, state)
    forward = lambda params, x: models.apply(config, params, x).output  # noqa: E731
    probe = inspection.find(forward, state.params, task.probe)
    seen = inspection.look(forward, state.params, [(task.probe,)])
    dormant = definitions.dormant(definitions.Facts(probe, seen))
    assert 0 < int(dormant.sum()) < config.units
    draw_key = jax.random.fold_in(purpose_key(key, "reset"), state.step)
    plain = dataclasses.replace(config, initial_bias=0.0)
    theirs = inspection.treat(
        "redraw",
        dormant,
        state.params,
        state.optimizer,
        probe=probe,
        tx=optimizers.make_optimizer(config),
        key=draw_key,
        init=lambda key: initialize(plain, key),
    )
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    jax.tree.map(np.testing.assert_array_equal, ours.optimizer, theirs.memory)
    assert ours.step == state.step


def test_a_reset_of_dead_units_leaves_the_output_as_it_was():
    config, task, key, state = trained_state(dataclasses.replace(REDO, reset_threshold=0.0))
    after = _reset(config, task, key, state)
    before = models.apply(config, state.params, task.probe)
    now = models.apply(config, after.params, task.probe)
    dead = np.concatenate([(z <= 0).all(0) for z in before.preactivations])
    changed = np.asarray(after.params["hidden_2"]["kernel"] != state.params["hidden_2"]["kernel"])
    assert dead.any() and changed.any()
    np.testing.assert_allclose(now.output, before.output, atol=1e-6)
    alive = np.concatenate([(z > 0).any(0) for z in now.preactivations])
    assert alive[dead].any()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["crelu", "prelu"])
def test_what_belongs_to_a_unit_is_all_that_moves_it_and_all_that_it_moves(activation):
    """By derivatives: z of the others depends on no masked number, but through what they feed."""
    config = dataclasses.replace(REDO, activation=activation)
    config, task, key = setup(config)
    params = training.start(config, key).params
    unit = jnp.zeros(config.units, bool).at[2].set(True)
    incoming, outgoing = units.masks(config, params, unit)

    def first_layer(params):
        return models.activate(
            config, params, 1, models.apply(config, params, task.probe).preactivations[0]
        )

    width = config.hidden[0]
    own = jnp.arange(first_layer(params).shape[1]) % width == 2
    moved = jax.jacrev(lambda p: first_layer(p).sum(0))(params)
    for mask, slopes in zip(jax.tree.leaves(incoming), jax.tree.leaves(moved), strict=True):
        rest = np.asarray(slopes)[~own]
        assert not rest[:, np.asarray(mask)].any()  # feeds nobody else
        assert not np.asarray(slopes)[own][:, ~np.asarray(mask)].any()  # all that feeds it
    cut = jax.tree.map(lambda gone, leaf: jnp.where(gone, 0, leaf), outgoing, params)
    kept = jnp.where(own, 0, first_layer(params))
    above = kept @ params["hidden_2"]["kernel"] + params["hidden_2"]["bias"][None, :]
    found = models.apply(config, cut, task.probe).preactivations[1]
    np.testing.assert_allclose(found, above, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_resets_come_every_so_many_steps_and_never_at_step_0():
    """The run is the steps of `train_step` with `reset_units` before every 20th."""
    config, task, key = setup(REDO)
    state = _start(config, key)
    for step in range(REDO.steps):
        if step == 20:
            state = _reset(config, task, key, state)
        state, _ = _advance(config, task, key, state)
    run = training.train(REDO)
    for ours, theirs in zip(jax.tree.leaves(run.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


# Continual backpropagation ------------------------------------------------------------------------


def test_ages_silences_and_utilities_are_those_of_a_loop():
    config = dataclasses.replace(CBP, reset_rate=0.0)
    config, task, key, state = trained_state(config, steps=0)
    age = silent = utility = 0.0
    for _ in range(12):
        batch = draw_batch(config, key, state.step)
        z = models.apply(config, state.params, task.inputs[batch]).preactivations
        h = [np.maximum(np.asarray(layer), 0) for layer in z]
        above = (np.asarray(state.params[n]["kernel"]) for n in ("hidden_2", "output"))
        now = [s.mean(0) * np.abs(w).sum(1) for s, w in zip(h, above, strict=True)]
        utility = 0.99 * utility + 0.01 * np.concatenate(now)
        fired = np.concatenate([(layer > 0).any(0) for layer in h])
        age, silent = age + 1, np.where(fired, 0, silent + 1)
        state, _ = _advance(config, task, key, state, batch)
    memory = resets.remembered(config, state.optimizer)
    np.testing.assert_allclose(memory.utility, utility, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(memory.silent, silent)
    np.testing.assert_array_equal(memory.age, np.full(14, age))
    assert silent.max() == 12 and silent.min() == 0


def test_the_least_useful_mature_units_are_replaced_and_forgotten():
    """One replacement, against the published loop: one layer after the other."""
    config, task, key, state = trained_state(dataclasses.replace(CBP, reset_rate=0.0))
    config = dataclasses.replace(config, reset_rate=jnp.float32(0.3), reset_every=1)
    memory = resets.remembered(config, state.optimizer)
    after = _reset(config, task, key, state)
    new = resets.remembered(config, after.optimizer)
    start = 0
    for layer, width in enumerate(config.hidden):
        part = slice(start, start + width)
        due = 0.3 * (np.asarray(memory.age[part]) > 5).sum()
        order = np.argsort(np.asarray(memory.utility[part]), kind="stable")
        gone = np.isin(np.arange(width), order[: int(due)])
        np.testing.assert_array_equal(np.asarray(new.age[part]) == 0, gone)
        assert float(new.due[layer]) == pytest.approx(due - int(due), abs=1e-5)
        name = f"hidden_{layer + 1}"
        moments = after.optimizer[0][0].mu[name]["kernel"]
        assert not np.asarray(moments)[:, gone].any() and np.asarray(moments)[:, ~gone].any()
        start += width
    assert not np.asarray(new.utility)[np.asarray(new.age) == 0].any()


@pytest.mark.slow
@pytest.mark.parametrize("base", [REDO, CBP], ids=["redo", "continual backprop"])
def test_lanes_of_a_grid_are_the_runs_by_themselves(base):
    """Traced numbers differ between the lanes: the threshold or the rate, and the learning rate."""
    field = "reset_threshold" if base.reset == "redo" else "reset_rate"
    values = [0.0, 0.3] if base.reset == "redo" else [0.0, 0.05]
    result = sweep(base, {field: values, "learning_rate": [0.001, 0.003]}, seeds=1)
    for value in values:
        own = dataclasses.replace(base, **{field: value, "learning_rate": 0.003})
        run = training.train(own)
        cell = result.sel({field: value, "learning_rate": 0.003, "seed": 0}, method="nearest")
        np.testing.assert_allclose(cell.margin, run.history.margin, rtol=1e-3, atol=1e-4)
    few, many = (result.sel({field: v}, method="nearest").margin.values for v in values)
    assert not np.allclose(few, many)


@pytest.mark.slow
def test_a_run_that_stops_remembers_its_units():
    """Continued from its state, a run is the straight one to the bit."""
    first = training.train(dataclasses.replace(CBP, steps=20))
    straight = training.train(CBP)
    rest = training.train(dataclasses.replace(CBP, steps=20), state=first.state)
    leaves = zip(jax.tree.leaves(rest.state), jax.tree.leaves(straight.state), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)
    ages = np.asarray(resets.remembered(CBP, straight.state.optimizer).age)
    assert ages.max() == 40 and ages.min() < 40


# Regenerative L2 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_what_gets_no_gradient_comes_back_to_its_start_geometrically(kind):
    config = dataclasses.replace(
        SMALL, optimizer="sgd", initial_bias=0.0, learning_rate=0.1, weight_decay=0.5,
        decay_kind=kind, decay_to_start=True,
    )  # fmt: skip
    optimizer = optimizers.make_optimizer(config)
    first = training.start(config, run_key(0, 0)).params
    moved = jax.tree.map(lambda leaf: leaf + 1.0, first)
    state, zero = optimizer.init(first), jax.tree.map(jnp.zeros_like, first)
    now = moved
    for _ in range(7):
        updates, state = optimizer.update(zero, state, now)
        now = jax.tree.map(jnp.add, now, updates)
    left = jax.tree.map(lambda a, b: np.asarray(a - b), now, first)
    wanted = (1 - 0.1 * 0.5) ** 7
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, desired=wanted, rtol=1e-4, atol=1e-5), left
    )


@pytest.mark.slow
def test_regenerative_decay_brings_back_what_plain_decay_does_not():
    """A unit whose bias was pushed down comes back to its start, at which it is alive."""
    base = dataclasses.replace(
        SMALL, optimizer="sgd", initial_bias=0.0, learning_rate=0.0, weight_decay=0.1,
    )  # fmt: skip
    params = training.start(dataclasses.replace(base, decay_to_start=True), run_key(0, 0)).params
    gone = dataclasses.replace(base, learning_rate=0.1, steps=400, probe_every=100)
    margins = {}
    for to_start in (False, True):
        config = dataclasses.replace(gone, decay_to_start=to_start)
        state = _start(config, run_key(0, 0))
        pushed = models.with_shift(config, params, lambda shift: shift - 50.0)
        run = training.train(config, state=state._replace(params=pushed))
        margins[to_start] = np.asarray(run.history.margin)[-config.hidden[-1] :]
    assert (margins[False] < margins[True]).all()
    assert (margins[True] > 0).any() and not (margins[False] > 0).any()


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reset": "redo"}, "reset_every=None: reset='redo' needs the steps between two resets"),
        ({"reset_every": 5}, "reset_every=5 is not used by reset='none'; use reset_every=None, or"),
        ({"reset": "redo", "reset_every": 0}, "reset_every=0 must be between 1 and"),
        ({"reset": "redo", "reset_every": 2.5}, "reset_every=2.5 must be a whole number"),
        ({"reset": "redo", "reset_every": 40}, "reset_every=40 must be below steps=40"),
        ({"reset": "redo", "reset_every": 5, "reset_rate": 0.1}, "not used by reset='redo'"),
        ({"reset": "redo", "reset_every": 5, "reset_threshold": -1.0}, "reset_threshold=-1.0 must"),
        ({"reset": "rdeo", "reset_every": 5}, 'did you mean "redo"'),
        (
            {"reset": "redo", "reset_every": 5, "model": "residual", "hidden": (5, 5)},
            "needs a model whose outgoing weights belong to one unit each, not model='residual'",
        ),
        ({"decay_to_start": True}, "decay_to_start=True needs a weight_decay"),
        ({"decay_to_start": 1, "weight_decay": 0.1}, "decay_to_start=1 must be True or False"),
        (
            {"decay_to_start": True, "weight_decay": 0.1, "killed_fraction": 0.5},
            "killed_fraction=0.5 needs decay_to_start=False",
        ),
    ],
)  # fmt: skip
def test_bad_fields_get_one_line_with_the_remedy(fields, words):
    with pytest.raises(ValueError, match=words) as raised:
        validate(dataclasses.replace(SMALL, **fields))
    assert "\n" not in str(raised.value)
