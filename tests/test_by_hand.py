"""Numbers that end up in a paper, against a few lines that compute them otherwise: by hand, unit by
unit, in NumPy. Small enough to run after every change; `mutations.py` says what they must catch."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from relu_dynamics import channels, statistics
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, interventions, optimizers, step, tasks
from relu_dynamics.engine.keys import PURPOSES, noise_key, purpose_key, run_key
from relu_dynamics.engine.outcomes import NEVER, Outcome
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import estimates

NET = Config(
    task="teacher_student", dimension=3, examples=16, batch_size=4, hidden=(6, 5, 4),
    biased_layer=2, biased_units=2, steps=20, probe_every=5,
)  # fmt: skip


def with_(**fields) -> Config:
    return dataclasses.replace(NET, **fields)


def random_tree(seed, config=NET):
    """Parameters of a network, or what has their shape, by random numbers."""
    rng = np.random.default_rng(seed)
    widths = [config.dimension, *config.hidden, 1]
    names = [f"hidden_{i}" for i in range(1, len(config.hidden) + 1)] + ["output"]
    return {
        name: {
            "kernel": jnp.asarray(rng.standard_normal((a, b)), jnp.float32),
            "bias": jnp.asarray(rng.standard_normal(b), jnp.float32),
        }
        for name, a, b in zip(names, widths, widths[1:], strict=False)
    }


# --- Draws ---------------------------------------------------------------------------------------


def test_what_is_drawn_for_one_purpose_comes_from_no_other_purposes_key(monkeypatch):
    """Every key that a draw uses is followed back to the run's key: the first fold is of its
    purpose alone, so batch, noise, weights, task and killed units are independent."""
    parents, used = {}, []
    name = lambda key: np.asarray(jax.random.key_data(key)).tobytes()  # noqa: E731
    is_seen = lambda key: not isinstance(key, jax.core.Tracer)  # noqa: E731

    def folding(original):
        def fold_in(key, data):
            made = original(key, data)
            if is_seen(made):
                parents[name(made)] = name(key)
            return made

        return fold_in

    def drawing(original):
        def draw(key, *more, **named):
            if is_seen(key):
                used.append(name(key))
            return original(key, *more, **named)

        return draw

    monkeypatch.setattr(jax.random, "fold_in", folding(jax.random.fold_in))
    for draw in ("normal", "uniform", "randint", "permutation", "bernoulli", "rademacher"):
        monkeypatch.setattr(jax.random, draw, drawing(getattr(jax.random, draw)))
    key, config = run_key(0, 3), with_(noise_scale=1.0, killed_fraction=0.5)
    params = random_tree(0)
    state = step.State(jnp.int32(7), params, optax.EmptyState())

    def purposes(call) -> set[bytes]:
        used.clear()
        call()
        found = set()
        for each in used:
            while parents[each] != name(key):
                each = parents[each]
            found.add(each)
        return found

    redrawn = dataclasses.replace(config, initializer="randomized_asymmetric")
    reset = dataclasses.replace(redrawn, reset="redo", reset_every=1)
    task = tasks.make_task(config, purpose_key(run_key(0, 4), "task"), None)
    begun = state._replace(optimizer=optimizers.make_optimizer(reset).init(params))
    calls = {
        "batch": lambda: step.draw_batch(config, key, jnp.int32(7)),
        "noise": lambda: step.add_noise(config, noise_key(key, jnp.int32(7)), params),
        "task": lambda: tasks.make_task(config, purpose_key(key, "task"), None),
        "init": lambda: initialization.initialize(redrawn, purpose_key(key, "init")),
        "kill": lambda: interventions.kill_share(config, None, key, state),
        "reset": lambda: interventions.reset_units(reset, task, key, begun),
    }
    assert calls.keys() == PURPOSES.keys()  # a new purpose is tried here too
    found = {purpose: purposes(call) for purpose, call in calls.items()}
    assert all(len(firsts) == 1 for firsts in found.values())
    assert len(set.union(*found.values())) == len(PURPOSES)


def test_seeds_far_apart_have_keys_of_their_own():
    seeds = [s + high for s in (0, 1, 5) for high in (0, 2**31, 2**32, 2**33, 2**63)]
    keys = {np.asarray(jax.random.key_data(run_key(0, seed))).tobytes() for seed in seeds}
    assert len(keys) == len(seeds)


# --- The step ------------------------------------------------------------------------------------


def test_noise_is_the_rate_times_its_scale_times_a_standard_normal():
    zeros = jax.tree.map(jnp.zeros_like, random_tree(0, with_(hidden=(200, 50))))
    for rate, scale in ((0.1, 2.0), (0.5, 0.3), (0.0, 5.0)):
        made = step.add_noise(with_(learning_rate=rate, noise_scale=scale), run_key(0, 0), zeros)
        moved = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(made)])
        assert moved.std() == pytest.approx(rate * scale, rel=0.03)


@pytest.mark.parametrize("biased_layer", [2, 3])
def test_the_upstream_rate_scales_the_layers_below_the_biased_one_and_no_other(biased_layer):
    updates = random_tree(1)
    config = with_(biased_layer=biased_layer, upstream_rate=0.25)
    for name, group in step.scale_upstream(config, updates).items():
        below = name != "output" and int(name[-1]) < biased_layer
        for part, leaf in group.items():
            np.testing.assert_array_equal(leaf, updates[name][part] * (0.25 if below else 1))


def test_the_outside_gradient_and_the_initial_bias_reach_the_biased_units_alone():
    params = random_tree(2)
    pushed = step.with_outside_gradient(with_(outside_gradient=0.5), params)
    expected = jax.tree.map(np.array, params)
    expected["hidden_2"]["bias"][:2] += np.float32(0.5)
    jax.tree.map(np.testing.assert_array_equal, pushed, expected)
    made = {b: initialization.initialize(with_(initial_bias=b), run_key(0, 0)) for b in (-3.0, 0.0)}
    expected = jax.tree.map(np.array, made[0.0])
    expected["hidden_2"]["bias"][:2] += np.float32(-3.0)
    jax.tree.map(np.testing.assert_array_equal, made[-3.0], expected)


def test_a_clipped_gradient_has_the_norm_and_the_direction_that_it_should():
    gradients = random_tree(3)
    flat = lambda tree: np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])  # noqa: E731
    size = np.linalg.norm(flat(gradients))
    for limit in (0.5, 0.99 * size, 2 * size):
        found = flat(step.clipped(with_(clip_norm=float(limit)), gradients))
        np.testing.assert_allclose(found, flat(gradients) * min(1, limit / size), rtol=1e-5)


@pytest.mark.parametrize("targets", ["all", "weights", "biases"])
@pytest.mark.parametrize("kind", ["coupled", "decoupled"])
def test_decay_under_plain_sgd_multiplies_what_it_should(targets, kind):
    config = with_(learning_rate=0.5, weight_decay=0.2, decay_kind=kind, decay_targets=targets)
    params = random_tree(4)
    optimizer = optimizers.make_optimizer(config)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    for name, group in params.items():
        for part, leaf in group.items():
            decays = targets == "all" or (targets == "weights") == (part == "kernel")
            expected = leaf * (1 - 0.5 * 0.2 * decays)
            np.testing.assert_allclose(leaf + updates[name][part], expected, rtol=1e-6)


def test_schedules_are_their_formulas():
    steps = np.arange(0, 41)
    warm = np.minimum(steps / 8, 1)
    cosine = (1 + np.cos(np.pi * np.minimum(steps / 40, 1))) / 2
    both = np.where(steps < 8, warm, (1 + np.cos(np.pi * np.minimum((steps - 8) / 32, 1))) / 2)
    for name, expected in (("warmup", warm), ("cosine", cosine), ("warmup_cosine", both)):
        config = with_(schedule=name, warmup_steps=8, decay_steps=40, learning_rate=2.0)
        rates = [optimizers.scheduled(config, jnp.int32(t)).learning_rate for t in steps]
        np.testing.assert_allclose(rates, 2 * expected, atol=1e-6)


def test_the_momentum_default_is_that_of_the_papers():
    for name in ("momentum", "nesterov", "adam"):
        zeros, ones = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
        optimizer = optimizers.make_optimizer(with_(optimizer=name, learning_rate=1.0))
        _, state = optimizer.update(ones, optimizer.init(zeros), zeros)
        memory = optimizers.OPTIMIZERS[name].memory
        first = optax.tree.get(state, memory)["w"][0]
        _, state = optimizer.update(zeros, state, zeros)
        assert optax.tree.get(state, memory)["w"][0] / first == pytest.approx(0.9)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_as_many_units_are_killed_as_the_share_says(share):
    config = with_(killed_fraction=share)
    params, memory = interventions.kill(config, random_tree(5), random_tree(6), run_key(0, 1))
    for name, width in zip(("hidden_1", "hidden_2", "hidden_3"), config.hidden, strict=True):
        dead = np.asarray(params[name]["bias"] == -1)
        assert dead.sum() == round(share * width)
        assert not np.asarray(params[name]["kernel"])[:, dead].any()
        assert not np.asarray(memory[name]["bias"])[dead].any()
        assert np.asarray(memory[name]["bias"])[~dead].all()


# --- Data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", list(tasks.SCALINGS))
def test_held_out_inputs_are_scaled_as_the_training_inputs_are(scaling):
    """Every feature goes through one straight line, found from the training examples alone."""
    config = Config(task="wine", examples=60, input_scaling=scaling, probe_size=7)
    key, (raw, _) = run_key(0, 0), tasks.load_data(config)
    made = tasks.make_task(config, key, (raw, np.arange(len(raw), dtype=np.int32)))
    order = np.concatenate([made.targets, made.held_targets])  # which example is where
    assert sorted(order) == list(range(len(raw)))
    np.testing.assert_array_equal(made.probe, made.inputs[:7])
    for feature in range(raw.shape[1]):
        train, held = raw[order[:60], feature], raw[order[60:], feature]
        slope, constant = np.polyfit(train.astype(np.float64), made.inputs[:, feature], 1)
        for values, scaled in ((train, made.inputs), (held, made.held_inputs)):
            expected = slope * values.astype(np.float64) + constant
            np.testing.assert_allclose(scaled[:, feature], expected, rtol=1e-3, atol=2e-3 * slope)
        if scaling == "standardized":
            assert made.inputs[:, feature].mean() == pytest.approx(0, abs=1e-4)
            assert made.inputs[:, feature].std() == pytest.approx(1, abs=1e-4)


def test_the_factor_on_the_targets_reaches_training_and_held_out_ones():
    plain, scaled = (
        tasks.make_task(
            Config(task="diabetes", examples=100, target_scale=factor),
            run_key(0, 0),
            tasks.load_data(Config(task="diabetes")),
        )
        for factor in (None, 3.0)
    )
    for name in ("targets", "held_targets"):
        np.testing.assert_allclose(getattr(scaled, name), 3 * getattr(plain, name), rtol=1e-6)
        assert len(getattr(plain, name))


def test_losses_are_half_the_mean_square_and_the_cross_entropy():
    rng = np.random.default_rng(0)
    outputs, targets = rng.standard_normal((2, 9, 1)).astype(np.float32)
    regression, classes = Config(task="diabetes"), Config(task="wine")
    half = float(tasks.loss(regression, jnp.asarray(outputs), jnp.asarray(targets)))
    assert half == pytest.approx(((outputs - targets) ** 2).mean() / 2, rel=1e-6)
    error = float(tasks.error(regression, jnp.asarray(outputs), jnp.asarray(targets)))
    assert error == pytest.approx(2 * half, rel=1e-6)
    logits, labels = rng.standard_normal((9, 3)), rng.integers(0, 3, 9)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(chance[np.arange(9), labels]).mean()
    found = float(tasks.loss(classes, jnp.asarray(logits), jnp.asarray(labels)))
    assert found == pytest.approx(expected, rel=1e-5)


# --- Cells ---------------------------------------------------------------------------------------


def test_the_runs_of_blocks_have_the_values_and_seeds_of_their_cells():
    """Walking over all blocks meets every (seed, rate, bias) once, as a nested loop would."""
    rates, biases, seeds = (0.1, 0.2, 0.3), (-2.0, -1.0), (5, 9)
    grid = make_grid(NET, {"learning_rate": rates, "initial_bias": biases}, seeds, lanes=4)
    walked = []
    for block in range(grid.blocks):
        cells = grid.block_cells(block)[: grid.block_size(block)]
        values = grid.values(cells)
        walked += [
            (grid.block_seed(block), float(rate), float(bias))
            for rate, bias in zip(values["learning_rate"], values["initial_bias"], strict=True)
        ]
    f32 = lambda value: float(np.float32(value))  # noqa: E731
    assert walked == [(s, f32(r), f32(b)) for s in seeds for r in rates for b in biases]


# --- What a stored result says -------------------------------------------------------------------


def random_result(seed, rates=2, biases=2, seeds=6, units=5) -> xr.Dataset:
    """A labelled result with random histories; a third of its runs diverged."""
    rng = np.random.default_rng(seed)
    runs = (rates, biases, seeds)
    shape = (*runs, units)
    chance = lambda p, shape=shape: rng.random(shape) < p  # noqa: E731
    steps = lambda p: np.where(chance(p), rng.integers(1, 101, shape), NEVER)  # noqa: E731
    first_recovery = steps(0.5)
    diverged_at = np.where(chance(0.35, runs), rng.integers(1, 101, runs), NEVER)
    outcome = rng.integers(0, len(Outcome), shape)
    outcome = np.where(diverged_at[..., None] != NEVER, Outcome.DIVERGED, outcome)
    dims = ("learning_rate", "initial_bias", "seed", "unit")
    config = {"steps": 100, "hidden": [units], "probe_every": 10}
    axes = [["learning_rate", list(range(rates))], ["initial_bias", list(range(biases))]]
    return xr.Dataset(
        {
            "dead_at_start": (dims, chance(0.6)),
            "near_zero_at_start": (dims, chance(0.1)),
            "alive": (dims, chance(0.5)),
            "first_recovery": (dims, first_recovery),
            "first_death": (dims, steps(0.4)),
            "outcome": (dims, outcome),
            "diverged_at": (dims[:-1], diverged_at),
            "biased": ("unit", np.arange(units) < units - 1),
        },
        {
            "learning_rate": np.arange(float(rates)),
            "initial_bias": np.arange(float(biases)),
            "unit_layer": ("unit", np.ones(units, int)),
        },
        {"identity": json.dumps({"axes": axes, "config": config})},
    )


def is_counted(measure: str, u: dict) -> tuple[bool, bool]:
    """(in the denominator, in the numerator) of one unit, by the words of the definitions."""
    diverged = u["diverged_at"] != NEVER
    clear = not u["near_zero_at_start"]
    at_risk = u["dead_at_start"] and clear and u["biased"]  # whatever becomes of its run
    began_alive = not u["dead_at_start"] and clear
    died, back = u["first_death"] != NEVER, u["first_recovery"] != NEVER
    return {
        "recovered": (at_risk, u["outcome"] == Outcome.RECOVERED_SUSTAINED),
        "recovered_ever": (at_risk, back),
        "alive_at_end": (at_risk, u["alive"] and not diverged),
        "died": (began_alive, died and not diverged),
        "dead_at_end": (began_alive, not u["alive"] and not diverged),
        "born_dead": (True, u["dead_at_start"]),
        "dead": (True, not u["alive"] and not diverged),
        "came_back": (began_alive and died, back),
    }[measure]


def units_of(result: xr.Dataset):
    """(place of the run, everything known of the unit) of every unit."""
    for place in np.ndindex(*(result.sizes[d] for d in ("learning_rate", "initial_bias", "seed"))):
        run = result.isel(dict(zip(("learning_rate", "initial_bias", "seed"), place, strict=True)))
        values = {name: run[name].values for name in run.data_vars}
        for unit in range(result.sizes["unit"]):
            yield place, {n: v[unit] if v.ndim else v[()] for n, v in values.items()}


def counts_by_hand(result, measure):
    shape = [result.sizes[d] for d in ("learning_rate", "initial_bias", "seed")]
    successes, trials = np.zeros(shape, int), np.zeros(shape, int)
    for place, unit in units_of(result):
        counts, succeeds = is_counted(measure, unit)
        trials[place] += bool(counts)
        successes[place] += bool(counts and succeeds)
    return successes, trials


@pytest.mark.parametrize("measure", [m for m in estimates.MEASURES if m != "diverged"])
def test_a_measure_counts_unit_by_unit_what_its_definition_says(measure):
    result = random_result(1)
    successes, trials = counts_by_hand(result, measure)
    found = estimates.counts(result, measure)
    np.testing.assert_array_equal(found[0], successes)
    np.testing.assert_array_equal(found[1], trials)
    assert 0 < successes.sum() < trials.sum()


@pytest.mark.parametrize("axis", ["learning_rate", "initial_bias"])
def test_what_is_pooled_over_cells_has_as_many_runs_as_seeds(axis):
    """The cells of a seed share data, weights and batches: the sample are the seeds. So an axis of
    copies of one cell tells no more than the cell."""
    result = random_result(2, rates=3, biases=4)
    found = estimates.pooled(result, "recovered_ever", axis)
    successes, trials = counts_by_hand(result, "recovered_ever")
    over = 1 if axis == "learning_rate" else 0
    expected = statistics.clustered_interval(successes.sum(over), trials.sum(over))
    for name in ("estimate", "low", "high", "successes", "trials"):
        np.testing.assert_allclose(found[name], getattr(expected, name))
    assert (found.runs <= result.sizes["seed"]).all() and found.runs.max() > 1
    other = "initial_bias" if axis == "learning_rate" else "learning_rate"
    copied = result.isel({other: [0] * result.sizes[other]})
    copied = copied.assign_coords({other: result[other].values})
    alone = estimates.cells(result.isel({other: [0]}), "recovered_ever").squeeze(other)
    pooled = estimates.pooled(copied, "recovered_ever", axis)
    width = lambda interval: np.asarray(interval.high - interval.low)  # noqa: E731
    assert (width(pooled) > 0.9 * width(alone)).all()


def test_a_run_that_diverged_will_not_recover_and_stays_in_the_denominator():
    """All units are followed to the horizon or to their event, so each incidence there is a plain
    proportion of all units at risk; censored at divergence it would be larger."""
    result = random_result(3, seeds=12)
    for rate in range(2):
        for bias in range(2):
            cell = {"learning_rate": float(rate), "initial_bias": float(bias)}
            curve = estimates.incidence(result, cell)
            at_risk = recovered = lost = 0
            for place, unit in units_of(result):
                if place[:2] != (rate, bias) or not is_counted("recovered_ever", unit)[0]:
                    continue
                at_risk += 1
                back = unit["first_recovery"] != NEVER
                recovered += back
                lost += unit["diverged_at"] != NEVER and not back
            assert 0 < recovered < at_risk and lost > 0
            assert curve.trials == at_risk
            assert curve.incidence[0, -1] == pytest.approx(recovered / at_risk)
            assert curve.incidence[1, -1] == pytest.approx(lost / at_risk)


# --- Forks ---------------------------------------------------------------------------------------


def test_the_layers_below_are_frozen_and_the_biased_one_is_not():
    """Full batches, no momentum: a unit that is dead for all steps gets no gradient, so with frozen
    layers below its margin moves by rate * push a step, from outside the loss, and by nothing."""
    config = with_(
        batch_size=None, outside_gradient=-0.25, learning_rate=0.5, initial_bias=-6.0, steps=4,
        probe_every=2, hidden=(4, 3), biased_units=3,
    )  # fmt: skip
    found = channels.fork(config, 0, ("upstream_frozen",), 2)
    start, end = found.history.margin_at_start[1], found.history.margin[1]
    assert found.cohort.all() and (end < 0).all()
    np.testing.assert_allclose(end, start + 4 * 0.5 * 0.25, rtol=1e-5)
