"""The accounts add up, and the forks agree with them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from relu_dynamics import channels
from relu_dynamics.channels import accounts as accounts_
from relu_dynamics.channels import arms as arms_
from relu_dynamics.channels import terms as terms_
from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers, tasks, training
from relu_dynamics.engine.evaluation import evaluate
from relu_dynamics.engine.keys import run_key
from relu_dynamics.engine.normalizations import NORMALIZATIONS
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.step import State, parameter_updates

pytestmark = pytest.mark.core

COVERED_NORMALIZATIONS = [name for name, row in NORMALIZATIONS.items() if row.covered]
DECAYS = {
    "none": {},
    "coupled": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decay_kind": "decoupled", "decay_targets": "weights"},
}
TINY = Config(
    task="teacher_student", dimension=3, hidden=(8, 4), examples=12, batch_size=None,
    learning_rate=0.05, noise_scale=0.1, outside_gradient=-0.3, upstream_rate=0.7,
    biased_layer=2, biased_units=2, steps=4, probe_every=1,
)  # fmt: skip


def _present_float(tree):
    kind = jax.dtypes.canonicalize_dtype(float)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, kind), tree)


def _random_params(config, rng):
    params, fan_in = {}, config.dimension
    for layer, width in enumerate(config.hidden, start=1):
        kernel = rng.normal(size=(fan_in, width))
        params[models.layer_name(layer)] = {"kernel": kernel, "bias": rng.normal(size=width)}
        scale, shift = 1 + 0.1 * rng.normal(size=width), rng.normal(size=width) - 1
        name = f"norm_{layer}"
        if config.normalization == "batch":
            params["scale_" + name], params["shift_" + name] = scale, shift
        if config.normalization == "rms":
            params[name], params["shift_" + name] = {"scale": scale}, shift
        if config.normalization in ("layer", "group"):
            params[name] = {"scale": scale, "bias": shift}
        fan_in = width
    params["output"] = {"kernel": rng.normal(size=(fan_in, 1)), "bias": np.zeros(1)}
    return _present_float(params)


def _random_task(config, rng):
    inputs, targets = rng.normal(size=(12, config.dimension)), rng.normal(size=(12, 1))
    return _present_float(tasks.Task(inputs, targets, inputs[:7], inputs[:0], targets[:0]))


def _state(config, params):
    return State(jnp.int32(0), params, optimizers.make_optimizer(config).init(params))


def _with_decay(optimizer, decay):
    if optimizer == "adamw" and decay == "none":
        decay = "coupled"  # adamw needs a decay, and makes any decoupled
    return dataclasses.replace(TINY, optimizer=optimizer, **DECAYS[decay])


# --- The update's sources ---------------------------------------------------------------------


@functools.cache
def _optax_with_noise(optimizer, decay, x64):
    """(sum of the sources, the true update) over some steps with random gradients."""
    with jax.enable_x64(x64):
        config = accounts_.traced(_with_decay(optimizer, decay))
        rng, key = np.random.default_rng(1), run_key(0, 0)
        state = _state(config, _random_params(config, rng))

        def step(state, gradients):  # not compiled: that would cost more than running
            terms = channels.update_terms(
                config, gradients, state.optimizer, state.params, key, state.step
            )
            update, optimizer = parameter_updates(config, key, state, gradients)
            params = optax.apply_updates(state.params, update)
            return State(state.step + 1, params, optimizer), terms, update

        found = []
        for _ in range(2):
            state, terms, update = step(state, _random_params(config, rng))
            flat = {name: jax.flatten_util.ravel_pytree(tree)[0] for name, tree in terms.items()}
            found.append((flat, jax.flatten_util.ravel_pytree(update)[0]))
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("decay, x64", [*((decay, True) for decay in DECAYS), ("coupled", False)])
@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
def test_the_sources_sum_to_the_update_that_optax_makes(optimizer, decay, x64):
    for terms, update in _optax_with_noise(optimizer, decay, x64):
        assert set(terms) == set(channels.present_sources(_with_decay(optimizer, decay)))
        parts = np.stack(list(terms.values()))
        assert parts.dtype == update.dtype == (np.float64 if x64 else np.float32)
        # In float32 every term and every addition rounds at the size of the largest term.
        tolerance = 1e-12 if x64 else 16 * 2.0**-24
        error = np.abs(parts.sum(0) - update)
        assert (error <= tolerance * np.abs(parts).sum(0)).all()


def test_every_source_acts_in_a_config_that_has_it():
    terms, _ = _optax_with_noise("nesterov", "coupled", True)[-1]
    assert all(np.abs(values).max() > 0 for values in terms.values())
    assert set(terms) == set(channels.SOURCES) - {"decoupled_decay"}


# --- One step's account -----------------------------------------------------------------------


@functools.cache
def _stepper(config, x64):
    """A compiled (traced config, task, state) -> (next state, Entry, rounding bounds of z before
    and after together); x64 is only a cache key."""

    def rounding(bounds):
        return (bounds.upper - bounds.lower) / 2

    def step(config, task, state):
        seen = terms_.see_layers(config, state.params, task.probe)
        _, bounds = evaluate(config, state.params, task.probe)
        after, moves = accounts_._accounted_step(config, task, run_key(0, 0), state, jnp.arange(12))
        now = terms_.see_layers(config, after.params, task.probe)
        record = accounts_._step_record(config, state.params, moves, seen, now)
        _, next_bounds = evaluate(config, after.params, task.probe)
        return after, terms_.named_entry(config, record), rounding(bounds) + rounding(next_bounds)

    return jax.jit(step)


def _entries(config, x64, draws=4, steps=2):
    """(Entry, rounding bounds) of random networks, targets and rates under one compiled step."""
    with jax.enable_x64(x64):
        rng = np.random.default_rng(2)
        for _ in range(draws):
            drawn = dataclasses.replace(config, learning_rate=0.1 * rng.uniform(0.1, 1))
            traced = accounts_.traced(drawn)
            task, state = _random_task(drawn, rng), _state(traced, _random_params(drawn, rng))
            for _ in range(steps):
                state, entry, bounds = _stepper(config, x64)(traced, task, state)
                yield jax.tree.map(np.asarray, (entry, bounds))


def _check_sums_in_float64(config):
    for entry, _ in _entries(config, True):
        for balance in (entry.margin, entry.mean):
            assert balance.residual.dtype == np.float64
            # Measured 1e-15 to 3e-14: z itself rounds, the more the larger z is against dz.
            worst = np.abs(balance.residual).max() / np.abs(balance.change).max()
            assert worst < 1e-12
            assert np.isfinite(balance.change).all() and (np.abs(balance.change) > 0).all()


COMBINATIONS = [  # all of them are below, marked slow
    ("momentum", "none", "coupled"),
    ("nesterov", "batch", "decoupled"),
    ("adam", "layer", "coupled"),
]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer, normalization, decay", COMBINATIONS)
def test_the_terms_sum_to_the_change_of_z(optimizer, normalization, decay):
    config = dataclasses.replace(_with_decay(optimizer, decay), normalization=normalization)
    _check_sums_in_float64(config)


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("normalization", COVERED_NORMALIZATIONS)
@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
def test_the_terms_sum_for_every_combination(optimizer, normalization, decay):
    config = dataclasses.replace(_with_decay(optimizer, decay), normalization=normalization)
    _check_sums_in_float64(config)


@pytest.mark.parametrize(
    "normalization",
    ["none", *(pytest.param(n, marks=pytest.mark.slow) for n in COVERED_NORMALIZATIONS[1:])],
)
def test_the_terms_sum_within_rounding_in_float32(normalization):
    config = dataclasses.replace(_with_decay("momentum", "coupled"), normalization=normalization)
    for entry, bounds in _entries(config, False):
        for balance in (entry.margin, entry.mean):
            assert balance.residual.dtype == np.float32
            # z(t) and z(t+1) each round within their bound; the parameters' own rounding and
            # that of the terms are no larger.
            assert (np.abs(balance.residual) <= 2 * bounds).all()


@pytest.mark.parametrize("normalization", COVERED_NORMALIZATIONS)
def test_normalization_statistics_are_those_of_the_model(normalization):
    config = dataclasses.replace(TINY, normalization=normalization)
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        params, inputs = _random_params(config, rng), jnp.asarray(rng.normal(size=(7, 3)))
        reference = jax.tree.map(lambda leaf: leaf + 1, params)
        expected = models.apply(config, params, inputs)
        if normalization == "none":
            return
        forward = arms_.apply_frozen(reference, False, config, params, inputs)
        for got, want in zip(jax.tree.leaves(forward), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
        held = arms_.apply_frozen(params, True, config, params, inputs)
        np.testing.assert_allclose(held.output, expected.output, rtol=1e-12)


# --- A run's account --------------------------------------------------------------------------

ONE_LAYER = Config(
    task="teacher_student", dimension=4, hidden=(8,), examples=32, batch_size=None,
    biased_layer=1, biased_units=4, initial_bias=-9.0, learning_rate=0.1, steps=60, probe_every=5,
)  # fmt: skip


@pytest.mark.slow
def test_a_dead_first_layer_unit_under_plain_sgd_has_every_term_exactly_zero():
    account = channels.account(ONE_LAYER, 0)
    dead = np.asarray(account.history.dead_at_start)
    assert dead[:4].all() and not dead[4:].any()
    for leaf in jax.tree.leaves(account.entries):
        assert leaf.shape == (60, 8)
        assert (np.asarray(leaf)[:, :4] == 0).all()
    assert account.spell[:, :4].all() and not account.spell[:, 4:].any()
    assert (np.abs(account.entries.mean.terms.gradient.weights[:, 4:]) > 0).any()
    shares = channels.spell_shares(account)
    assert np.isnan(shares.gradient[:4]).all() and (shares.climb[:4] == 0).all()


def test_heavy_ball_residue_of_a_dead_unit_is_the_closed_form():
    """-lr mu / (1 - mu) trace, as the steps grow (FIELD A6: 9 traces at mu = 0.9)."""
    config = dataclasses.replace(ONE_LAYER, optimizer="momentum", momentum=0.8, steps=300)
    with jax.enable_x64(True):
        traced = accounts_.traced(config)
        params = _random_params(config, np.random.default_rng(5))
        params["hidden_1"]["bias"] -= 90.0
        trace = jax.tree.map(jnp.zeros_like, params)
        trace["hidden_1"]["bias"] = jnp.linspace(-1.0, 1.0, 8)
        trace["hidden_1"]["kernel"] = jnp.full((4, 8), 0.25)
        state = _state(traced, params)
        state = state._replace(optimizer=optax.tree.set(state.optimizer, trace=trace))
        account = channels.account(config, 0, range(4), state=state)
        assert account.units.tolist() == [0, 1, 2, 3]
        assert account.spell.all()
        sums = channels.spell_sums(account).sums
        expected = -0.1 * 0.8 / (1 - 0.8) * np.linspace(-1.0, 1.0, 8)[:4]
        moved = sums.margin.terms
        np.testing.assert_allclose(moved.residue.bias, expected, rtol=1e-12)
        others = jax.tree.map(np.asarray, moved._replace(residue=None))
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(others))
        shares = channels.spell_shares(account, "mean")
        np.testing.assert_allclose(shares.residue, 1, rtol=1e-9)


LAYER_NORM = dataclasses.replace(
    ONE_LAYER, normalization="layer", initial_bias=-2.2, biased_units=3, examples=24, steps=100
)


@pytest.mark.slow
def test_layer_norm_moves_a_dead_unit_under_plain_sgd_and_sums_agree_with_the_account():
    """FIELD A9: with one hidden layer the gradient reaches a LayerNorm'd dead unit. The sums of a
    vmapped grid are those of the run alone."""
    account = channels.account(LAYER_NORM, 0)
    alone = channels.spell_sums(account)
    dead = np.asarray(account.history.dead_at_start)
    assert dead[:3].any()
    entries = jax.tree.map(lambda leaf: np.asarray(leaf)[:, dead], account.entries)
    terms = entries.margin.terms
    # Until its recovery nothing but the affine map's own gradient and the statistics move it.
    first = jax.tree.map(lambda leaf: leaf[0], terms)
    assert (first.gradient.weights != 0).all() and (first.normalization != 0).all()
    assert (first.gradient.scale == 0).all() and (first.gradient.shift == 0).all()
    assert (first.upstream == 0).all() and (first.residue.weights == 0).all()

    @jax.jit
    def grid(configs, key):
        task = accounts_.make_task(configs, key, None)
        return jax.vmap(channels.spell_account, (0, None, None))(configs, task, key)

    base = accounts_.traced(LAYER_NORM)
    rates = jnp.asarray([0.1, 0.01], jnp.float32)
    configs = dataclasses.replace(
        base, learning_rate=rates, initial_bias=jnp.full(2, base.initial_bias)
    )
    cells = grid(configs, run_key(0, 0))
    assert cells.sums.handover.shape == (2, 8)
    np.testing.assert_array_equal(cells.steps[0], alone.steps)
    for cell, single in zip(jax.tree.leaves(cells.sums), jax.tree.leaves(alone.sums), strict=True):
        np.testing.assert_allclose(cell[0], single, atol=2e-5)
    shares = channels.spell_shares(cells)
    assert (shares.normalization[0][dead] != 0).all()


DEEP = Config(
    task="teacher_student", dimension=8, hidden=(16, 16), examples=64, batch_size=16,
    biased_units=16, initial_bias=-1.5, learning_rate=0.3, steps=400, probe_every=20,
)  # fmt: skip


@pytest.mark.slow
def test_a_whole_run_is_accounted_in_float64():
    """The terms of all steps add up to what z did, relative to what it moved by."""
    config = dataclasses.replace(ONE_LAYER, optimizer="adam", initial_bias=-2.5, steps=10)
    with jax.enable_x64(True):
        account = channels.account(config, 1)
        for balance in (account.entries.margin, account.entries.mean):
            assert balance.change.dtype == jnp.float64
            assert jnp.abs(balance.residual).max() < 1e-12 * jnp.abs(balance.change).max()
        shares = channels.spell_shares(account)._asdict()
        assert jnp.isfinite(shares["climb"]).all()
        moved = np.asarray(shares.pop("climb")) != 0
        assert moved.any()
        np.testing.assert_allclose(sum(shares.values())[moved], 1, rtol=1e-12)


@pytest.mark.slow
def test_plain_sgd_at_depth_two_is_all_upstream_and_the_climb_telescopes():
    config = dataclasses.replace(DEEP, probe_every=1, steps=120)
    units = channels.layer_units(config)
    account = channels.account(config, 3, units)
    history = jax.tree.map(np.asarray, account.history)
    dead = history.dead_at_start[list(units)]
    back = dead & (history.first_recovery[list(units)] != NEVER)
    assert back.any() and not back[dead].all()
    shares = jax.tree.map(np.asarray, channels.spell_shares(account))
    # Looked at at every step, the dead spell ends before the first gradient arrives.
    assert (shares.gradient[back] == 0).all()
    np.testing.assert_allclose((shares.upstream + shares.handover)[back], 1, atol=1e-4)
    assert (np.abs(shares.rounding[back]) < 1e-4).all()
    still = dead & ~back
    climb = history.margin[list(units)] - history.margin_at_start[list(units)]
    np.testing.assert_allclose(shares.climb[still], climb[still], atol=1e-4)
    assert (
        np.asarray(account.spell).sum(0)[back] == history.first_recovery[list(units)][back]
    ).all()


# --- Forks ------------------------------------------------------------------------------------


@functools.cache
def _deep_fork(step):
    return channels.fork(DEEP, step, ("upstream_frozen", "rate_x2"), 8)


@pytest.mark.slow
def test_without_upstream_nobody_recovers():
    result = _deep_fork(40)
    assert result.arms == ("as_is", "upstream_frozen", "rate_x2")
    recovered = result.recovered.sum((1, 2))
    assert recovered[0] > 0 and recovered[1] == 0
    assert recovered[2] != recovered[0]
    assert not (result.recovered & ~result.cohort).any()
    for arm in range(3):  # one cohort, and margins at the fork are the same bits
        np.testing.assert_array_equal(result.history.dead_at_start[arm], result.cohort)
        np.testing.assert_array_equal(
            result.history.margin_at_start[arm], result.history.margin_at_start[0]
        )
    times = result.first_recovery[result.recovered]
    assert (times > 40).all() and (times % DEEP.probe_every == 0).all()


@pytest.mark.slow
def test_as_is_is_the_straight_run_bit_for_bit():
    late, straight = _deep_fork(40), _deep_fork(0)
    for name in ("margin", "alive"):
        np.testing.assert_array_equal(
            getattr(late.history, name)[0], getattr(straight.history, name)[0]
        )
    both = late.cohort & straight.cohort
    assert both.any()
    after = straight.first_recovery[0] > 40
    keep = both & (after | (straight.first_recovery[0] == NEVER))
    np.testing.assert_array_equal(late.first_recovery[0][keep], straight.first_recovery[0][keep])
    # Another program and width (a run alone) may round otherwise.
    alone = training.train(DEEP, 0).history
    np.testing.assert_allclose(late.history.margin[0, 0], alone.margin[16:], atol=1e-3)
    np.testing.assert_array_equal(
        straight.first_recovery[0, 0][straight.cohort[0]],
        alone.first_recovery[16:][straight.cohort[0]],
    )


def test_the_fork_table_is_paired_and_counts_one_cohort():
    result = _deep_fork(40)
    rows = channels.fork_table(result, (100, 400))
    assert [(row.arm, row.time) for row in rows[:3]] == [(arm, 100) for arm in result.arms]
    assert {row.cohort for row in rows} == {int(result.cohort.sum())}
    as_is, frozen, _ = rows[3:]
    assert as_is.difference is None and as_is.vanished is None
    assert as_is.probability.estimate == as_is.recovered / as_is.cohort
    assert frozen.recovered == 0 and frozen.difference.estimate < 0
    assert frozen.vanished.estimate == 1 and frozen.vanished.trials == as_is.recovered
    assert frozen.difference.low <= frozen.difference.estimate <= frozen.difference.high
    with pytest.raises(ValueError, match="times: 40 must be after the fork"):
        channels.fork_table(result, (40,))


@pytest.mark.slow
def test_without_the_statistics_motion_layer_norm_brings_nobody_back():
    config = dataclasses.replace(LAYER_NORM, biased_units=1, steps=600, probe_every=20)
    result = channels.fork(config, 0, ("normalization_frozen",), 16)
    recovered = result.recovered.sum((1, 2))
    assert recovered[0] > 0 and recovered[1] == 0
    held = result.history
    np.testing.assert_array_equal(
        held.margin[1][result.cohort], held.margin_at_start[1][result.cohort]
    )


@pytest.mark.slow
def test_every_other_arm_takes_its_channel_away():
    """Dead first-layer units pushed by outside gradient, its residue, decay of the bias and
    noise: each arm lowers the margin that its channel raised, or removes its spread."""
    config = dataclasses.replace(
        ONE_LAYER, hidden=(4,), initial_bias=-40.0, optimizer="momentum", weight_decay=0.01,
        decay_targets="biases", noise_scale=0.1, outside_gradient=-0.1,
    )  # fmt: skip
    arms = ("residue_zeroed", "decay_off", "noise_off", "outside_off", "rate_x0.5")
    result = channels.fork(config, 30, arms, 4, units=(0, 2))
    assert result.cohort.all() and result.cohort.shape == (4, 2)
    margins = dict(zip(result.arms, result.history.margin, strict=True))
    gained = {arm: margin - result.history.margin_at_start[0] for arm, margin in margins.items()}
    for arm in ("residue_zeroed", "decay_off", "outside_off", "rate_x0.5"):
        assert (gained[arm] < gained["as_is"] - 0.1).all(), arm
    assert gained["noise_off"].std() < 0.3 * gained["as_is"].std()


def test_zeroed_residue_is_that_of_the_cohort_only():
    memories = {name: row.memory for name, row in optimizers.OPTIMIZERS.items() if row.memory}
    assert set(memories) == {"momentum", "nesterov", "adam", "adamw"}
    for optimizer, name in memories.items():
        config = dataclasses.replace(
            TINY, optimizer=optimizer, weight_decay=0.1, normalization="batch"
        )
        state = _state(config, _random_params(config, np.random.default_rng(4)))
        moment = jax.tree.map(jnp.ones_like, state.params)
        state = state._replace(optimizer=optax.tree.set(state.optimizer, **{name: moment}))
        cohort = jnp.asarray([True, False, False, True])
        zeroed = arms_._zero_residue(config, state, cohort)
        moment = optax.tree.get(zeroed.optimizer, name)
        for leaf in jax.tree.leaves((moment["hidden_2"], moment["scale_norm_2"])):
            assert (leaf[..., 0] == 0).all() and (leaf[..., 1:3] == 1).all()
        for group in ("hidden_1", "output", "shift_norm_1"):
            assert all((leaf == 1).all() for leaf in jax.tree.leaves(moment[group]))


# --- Bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, arm, message",
    [
        ({}, "decay_off", "weight_decay=None leaves nothing to switch off"),
        ({"weight_decay": 0.0}, "decay_off", r"weight_decay=0\.0 leaves nothing"),
        ({}, "noise_off", "noise_scale=None leaves nothing"),
        ({}, "outside_off", "outside_gradient=None leaves nothing"),
        ({"biased_layer": 1}, "upstream_frozen", "biased_layer=1 has no layer below"),
        ({"upstream_rate": 0.0}, "upstream_frozen", "has frozen it already"),
        ({}, "residue_zeroed", "optimizer='sgd' keeps no first moment"),
        ({"optimizer": "rmsprop"}, "residue_zeroed", "optimizer='rmsprop' keeps no first moment"),
        ({"optimizer": "adam", "momentum": 0.0}, "residue_zeroed", r"momentum=0\.0 leaves no"),
        ({}, "normalization_frozen", "normalization='none' has no statistics"),
        ({"learning_rate": 0.0}, "rate_x2", r"learning_rate=0\.0 leaves nothing to multiply"),
        ({}, "rate_x-2", "needs a factor > 0"),
        ({}, "upstream_frozn", 'did you mean "upstream_frozen"'),
    ],
)
def test_an_arm_that_the_config_does_not_have_is_refused(change, arm, message):
    with pytest.raises(ValueError, match=message):
        channels.fork(dataclasses.replace(DEEP, **change), 40, (arm,), 2)


@pytest.mark.parametrize("step", [-20, 400, 420, 30, 20.0, True])
def test_a_fork_needs_a_look_before_the_horizon(step):
    with pytest.raises(ValueError, match="step="):
        channels.fork(DEEP, step, (), 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"units": (3,)}, "units: 3 is not there; use numbers from 16 to 31"),
        ({"units": (32,)}, "units: 32 is not there"),
        ({"units": ()}, "must name at least one unit"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"seeds": (1, 1)}, "without repeats"),
        ({"seeds": (-1,)}, "seed=-1"),
        ({"arms": "decay_off"}, "must be a sequence"),
        ({"arms": ("rate_x2", "rate_x2")}, "names an arm twice"),
    ],
)
def test_bad_arguments_of_a_fork_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        channels.fork(**{"config": DEEP, "step": 0, "arms": (), "seeds": 2, **arguments})


def test_a_fork_without_a_dead_unit_is_refused():
    config = dataclasses.replace(ONE_LAYER, initial_bias=5.0, steps=5)
    with pytest.raises(ValueError, match="is dead at step 0 in any of the seeds"):
        channels.fork(config, 0, (), 2, units=(0, 1))


def test_bad_units_layers_and_views_of_an_account_are_named():
    with pytest.raises(ValueError, match=r"units: 32 is not there; use numbers from 0 to 31"):
        channels.account(DEEP, 0, (32,))
    with pytest.raises(ValueError, match=r"units: True is not there"):
        channels.account(DEEP, 0, (True,))
    with pytest.raises(ValueError, match="layer=3 is not there: hidden layers are 1 to 2"):
        channels.layer_units(DEEP, 3)
    assert channels.layer_units(DEEP, 1) == tuple(range(16))
    with pytest.raises(ValueError, match="view='median' is not known"):
        channels.spell_shares(None, "median")


@pytest.mark.parametrize(
    "fields",
    [{"normalization": "weight"}, {"model": "residual"}, {"change_every": 25}],
)
def test_accounts_refuse_what_they_do_not_cover(fields):
    name, value = next(iter(fields.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}: accounts do not cover it"):
        channels.account(Config(**fields))
