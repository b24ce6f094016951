"""Forecasts by replayed forks, against closed forms, loops in Python and unseen futures."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics import inspection
from relu_dynamics.inspection import draw_examples, draw_from, forecast, replay, smallest_change
from relu_dynamics.inspection.forecasts.fingerprints import fingerprint
from relu_dynamics.inspection.forecasts.sizes import working_bytes
from relu_dynamics.statistics import exact_interval

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Other people's programs promote ranks, as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


# A unit that comes back when a certain ticket is drawn ------------------------------------------


def buy(margins, ticket):
    """A winning ticket brings every unit back for good."""
    return jnp.where(ticket, 1.0, margins), ticket


@functools.cache
def tickets(chance):
    return lambda key: jax.random.bernoulli(key, chance)


def see(margins):
    return margins


def lottery(chance, steps, forks, key=KEY, *, step=buy, margins=(-1.0,), every=1, **options):
    margins = jnp.asarray(margins)
    draw = tickets(chance)
    return forecast(
        step, margins, draw, see, steps=steps, every=every, forks=forks, key=key, **options
    )


def test_certain_futures_are_certain():
    never, always = lottery(0.0, 5, 40), lottery(1.0, 5, 40)
    assert never.recovered == 0 and never.probability == 0 and always.recovered == 40
    assert (always.recovered_at == 1).all() and (never.recovered_at == -1).all()
    assert always.alive_at_end == 40 and never.alive_at_end == 0


def test_copies_of_one_fork_count_as_one():
    one = lottery(0.0, 5, 40)
    assert one.identical and one.trials == 1 and "copies of one" in str(one)
    assert one.high == exact_interval(0, 1).high
    alone = lottery(0.3, 5, 1)
    assert not alone.identical and alone.trials == 1


def test_the_count_is_that_of_a_loop_in_python():
    chance, steps, forks = 0.1, 12, 20
    found = lottery(chance, steps, forks, every=3)
    for fork in range(forks):
        key = jax.random.fold_in(KEY, fork)
        won = [bool(tickets(chance)(jax.random.fold_in(key, i))) for i in range(steps)]
        at = 3 * (won.index(True) // 3 + 1) if any(won) else -1
        assert found.recovered_at[fork, 0] == at
    assert not found.identical and found.trials == forks
    assert found.recovered == (found.recovered_at >= 0).sum(0)
    ends = exact_interval(found.recovered, forks)
    assert (found.low, found.high) == (ends.low, ends.high)


def test_units_that_are_alive_are_not_forecast():
    found = lottery(1.0, 4, 3, margins=(-1.0, 0.0, 2.0, np.nan))
    assert found.dead.tolist() == [True, True, False, False]
    assert np.isnan(found.probability).tolist() == [False, False, True, True]
    assert (found.low[2], found.high[2]) == (0, 1)
    assert "no unit is dead" in str(lottery(0.5, 4, 3, margins=(2.0,)))


def test_in_a_fork_that_diverges_nothing_recovers():
    step = lambda margins, ticket: jnp.where(ticket, jnp.array([jnp.nan, 1.0]), margins)  # noqa: E731
    found = lottery(0.2, 5, 50, step=step, margins=(-1.0, -1.0))
    assert 0 < found.diverged < 50 and not found.recovered.any()
    assert (found.alive_at_end == 0).all() and "diverged" in str(found)


def test_a_recovery_may_have_to_last():
    step = lambda margins, ticket: jnp.where(ticket, 1.0, -1.0) + 0 * margins  # noqa: E731
    once, lasting = (lottery(0.5, 8, 64, step=step, sustain=n) for n in (1, 3))
    for fork in range(64):
        key = jax.random.fold_in(KEY, fork)
        won = [bool(tickets(0.5)(jax.random.fold_in(key, i))) for i in range(8)]
        rows = [i + 1 for i in range(6) if all(won[i : i + 3])]
        assert lasting.recovered_at[fork, 0] == (rows[0] if rows else -1)
    assert 0 < lasting.recovered[0] < once.recovered[0]


@pytest.mark.slow
def test_the_interval_covers_the_closed_form():
    """A unit comes back exactly if a ticket wins in the next t steps: P = 1 - (1 - p)^t."""
    trials, covered = 300, {}
    for chance, steps in ((0.02, 10), (0.1, 10), (0.3, 4)):
        truth = 1 - (1 - chance) ** steps
        found = [lottery(chance, steps, 24, jax.random.key(n), lanes=24) for n in range(trials)]
        inside = [f.low[0] <= truth <= f.high[0] for f in found]
        covered[chance] = np.mean(inside)
        shares = np.array([f.probability[0] for f in found])
        error = (truth * (1 - truth) / (24 * trials)) ** 0.5
        assert abs(shares.mean() - truth) < 4 * error
    assert min(covered.values()) >= 0.93


# Of a network -----------------------------------------------------------------------------------


def model(params, x):
    h = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"])
    h = jax.nn.relu(h @ params["b"]["kernel"] + params["b"]["bias"])
    return h @ params["out"]


def start(rate=0.1):
    """A network of which four second-layer units are just dead."""
    keys = jax.random.split(KEY, 4)
    params = {
        "a": {"kernel": jax.random.normal(keys[0], (6, 8)) / 2, "bias": jnp.zeros((8,))},
        "b": {"kernel": jax.random.normal(keys[1], (8, 8)) / 2, "bias": jnp.zeros((8,))},
        "out": jax.random.normal(keys[2], (8, 1)),
    }
    x = jax.random.normal(keys[3], (64, 6))
    margins = inspection.watch(model)(params, x)[1].margin[8:]
    lowered = -margins[:4] - jnp.array([0.02, 0.05, 0.1, 2.0])
    params["b"]["bias"] = params["b"]["bias"].at[:4].set(lowered)
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
    return (params, tx.init(params)), tx, x, jnp.sin(x.sum(1, keepdims=True))


def make_step(tx):
    def step(state, x, y):
        params, memory = state
        loss = lambda params: jnp.mean((model(params, x) - y) ** 2)  # noqa: E731
        value, gradients = jax.value_and_grad(loss)(params)
        updates, memory = tx.update(gradients, memory, params)
        return (optax.apply_updates(params, updates), memory), value

    return step


@functools.cache
def network():
    state, tx, x, y = start()
    see = lambda state: inspection.watch(model)(state[0], x)[1]  # noqa: E731
    return state, make_step(tx), draw_examples((x, y), 8), see


TIMES = {"steps": 30, "every": 5, "key": KEY}


@functools.cache
def reference():
    return forecast(*(network()[k] for k in (1, 0, 2, 3)), forks=12, **TIMES)


@pytest.mark.slow
def test_some_units_of_the_network_come_back_and_some_do_not():
    found = reference()
    assert found.dead.any() and 0 < found.recovered[found.dead].sum()
    assert (found.recovered[found.dead] < 12).any() and not found.identical


def test_a_forecast_is_that_of_every_fork_run_alone():
    state, step, draw, see = network()
    step, see = jax.jit(step), jax.jit(see)
    found = reference()
    for fork in (0, 7):
        now, key, alive = state, jax.random.fold_in(KEY, fork), []
        for i in range(30):
            now, _ = step(now, *draw(jax.random.fold_in(key, i)))
            if (i + 1) % 5 == 0:
                alive.append(np.asarray(see(now).margin) > 0)
        alive = np.array(alive)
        at = np.where(alive.any(0), 5 * (alive.argmax(0) + 1), -1)
        assert np.array_equal(found.recovered_at[fork], np.where(found.dead, at, -1))


@pytest.mark.parametrize("lanes", [1, 5])
def test_how_many_forks_run_at_once_changes_nothing(lanes):
    state, step, draw, see = network()
    found, whole = forecast(step, state, draw, see, forks=11, lanes=lanes, **TIMES), reference()
    assert np.array_equal(found.alive_at, whole.alive_at[:11])
    assert np.array_equal(found.dead, whole.dead)


def test_a_watched_jitted_step_is_the_same_step():
    state, step, draw, see = network()
    watched = jax.jit(inspection.watch(step))
    found = forecast(watched, state, draw, see, forks=12, **TIMES)
    assert np.array_equal(found.alive_at, reference().alive_at)


def test_margins_may_be_given_for_what_is_seen():
    state, step, draw, see = network()
    found = forecast(step, state, draw, lambda state: see(state).margin, forks=12, **TIMES)
    assert np.array_equal(found.alive_at, reference().alive_at)


def test_full_batches_are_one_fork_and_permuted_ones_too():
    state, step, _, see = network()
    _, _, x, y = start()
    permuted = lambda key: tuple(part[jax.random.permutation(key, 64)] for part in (x, y))  # noqa: E731
    for draw in (draw_examples((x, y)), draw_examples((x, y), 64), draw_from([(x, y)]), permuted):
        found = forecast(step, state, draw, see, forks=4, **TIMES)
        assert found.identical and found.trials == 1


def test_keys_in_the_state_are_made_anew():
    def step(state, _):
        margin, key = state
        key, own = jax.random.split(key)
        return jnp.where(jax.random.bernoulli(own, 0.3), 1.0, margin), key

    nothing, see = (lambda key: jnp.zeros(1)), (lambda state: state[0][None])
    options = {"steps": 4, "every": 1, "forks": 64, "key": KEY}
    found = forecast(step, (jnp.float32(-1.0), jax.random.key(3)), nothing, see, **options)
    assert not found.identical and found.low[0] < 1 - 0.7**4 < found.high[0]
    raw = forecast(step, (jnp.float32(-1.0), jax.random.PRNGKey(3)), nothing, see, **options)
    assert raw.identical


def test_pooled_units_are_clustered_by_fork():
    found = lottery(0.3, 3, 40, margins=(-1.0, -1.0, -1.0))  # three copies of one unit
    whole, one = found.pooled(), found.pooled([1])
    assert (one.low, one.high) == (found.low[1], found.high[1])
    assert whole.trials == 120 and whole.estimate == one.estimate
    assert abs(whole.low - one.low) < 0.02 and abs(whole.high - one.high) < 0.02
    with pytest.raises(ValueError, match="no unit is chosen"):
        lottery(0.3, 3, 4, margins=(1.0,)).pooled()
    sooner = found.within(1)
    assert sooner.successes[0] == (found.recovered_at[:, 0] == 1).sum() <= found.recovered[0]


# Batches ----------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.sampled_from([2, 17]), st.integers(0, 2**31), st.data())
def test_drawn_examples_are_different_ones_of_the_users_own(count, seed, data):
    size = data.draw(st.integers(1, count))
    x = jnp.arange(count)
    drawn, double = draw_examples((x, {"double": 2 * x}), size)(jax.random.key(seed))
    assert drawn.shape == (size,) and len(set(drawn.tolist())) == size
    assert set(drawn.tolist()) <= set(range(count))
    assert np.array_equal(double["double"], 2 * drawn)


def test_every_batch_and_every_example_is_as_likely():
    keys = jax.random.split(KEY, 6000)
    batches = [(jnp.full((2,), n),) for n in range(5)]
    which = jax.vmap(draw_from(batches))(keys)[0][:, 0]
    examples = jax.vmap(draw_examples(jnp.arange(5), 2))(keys)
    for counts, chance in ((np.bincount(which), 0.2), (np.bincount(examples.reshape(-1)), 0.4)):
        assert np.all(abs(counts / 6000 - chance) < 4 * (chance * (1 - chance) / 6000) ** 0.5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.sampled_from(["float32", "bfloat16", "int32", "bool", "uint8"]))
def test_fingerprints_know_examples_and_not_their_order(seed, dtype):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(7, 3)) * 3).astype(dtype)
    y, order = jnp.arange(7), rng.permutation(7)
    hashed = jax.jit(fingerprint)
    assert hashed((x, y)) == hashed((x[order], y[order]))
    assert hashed((x, y)) != hashed((x, y.at[0].set(9)))
    rows = lambda y: sorted(zip(np.asarray(x, float).tolist(), y.tolist(), strict=True))  # noqa: E731
    assert (hashed((x, y)) == hashed((x, y[order]))) == (rows(y) == rows(y[order]))


def test_working_bytes_are_those_of_all_values():
    function = lambda x: jnp.sum(jnp.sin(x) * 2)  # noqa: E731
    x = jnp.zeros((10, 10))
    assert working_bytes(function, x) == 4 * (100 + 100 + 1)
    assert 800 <= working_bytes(jax.jit(function), x) <= 808


def test_replay_keeps_what_it_is_told_to_and_draws_by_the_step():
    draw = lambda key: jax.random.uniform(key)  # noqa: E731
    look = lambda kept, taken, state: kept.at[taken // 2 - 1].set(state)  # noqa: E731
    state, kept = replay(
        lambda s, u: s + u, jnp.float32(0), draw, look, jnp.zeros(3), steps=6, every=2, key=KEY
    )
    drawn = [float(draw(jax.random.fold_in(KEY, i))) for i in range(6)]
    assert np.allclose(kept, np.cumsum(drawn)[1::2]) and state == kept[-1]


# The smallest change ----------------------------------------------------------------------------


def one_unit_step(state, x):
    """A first-layer unit under plain SGD: nothing moves it while it is dead."""
    gradient = jax.grad(lambda bias: jnp.mean(jax.nn.relu(x + bias)))(state)
    return state - 0.01 * gradient


def test_the_smallest_kick_is_the_margin():
    x = jnp.linspace(-2.0, 1.0, 32)
    see, draw = (lambda bias: jnp.max(x + bias)[None]), draw_examples(x, 8)
    options = {"steps": 6, "every": 1, "forks": 16, "key": KEY}

    def kicked(by):
        return forecast(one_unit_step, jnp.float32(-1.75 + by), draw, see, **options)

    found = smallest_change(kicked, [0.25, 0.5, 1.0, 2.0], now=0.0, refine=5)
    exact = 0.75  # minus the margin, 1 - 1.75
    assert exact < found.value <= exact + 0.5 / 2**5
    assert found.tried[0].value == 0 and len(found.tried) == 10 and not found.reversals
    assert [row.probability for row in found.tried] == [float(r.value > exact) for r in found.tried]
    assert f"{found.value:.6g}" in str(found)


def by_chance(response, forks=60):
    """value -> a forecast whose unit recovers with this chance in one step."""
    return lambda value: lottery(
        response(value), 1, forks, jax.random.fold_in(KEY, int(1000 * value))
    )


def test_what_is_chosen_has_its_lower_end_above_what_was_asked():
    response = lambda value: min(value, 1.0)  # noqa: E731
    found = smallest_change(by_chance(response), [0.2, 0.4, 0.8], now=0.1, refine=3)
    chosen = {row.value: row for row in found.tried}[found.value]
    assert 0.5 < chosen.low <= chosen.probability and 0.4 < found.value <= 0.8
    assert all(row.low <= 0.5 for row in found.tried if row.value < found.value)
    each = 1 - 0.05 / 7
    ends = exact_interval(round(60 * chosen.probability), 60, each)
    assert (chosen.low, chosen.high) == (ends.low, ends.high)


def test_both_sides_are_looked_at_and_the_nearer_one_is_chosen():
    response = lambda value: float(value < 0.055 or value > 7)  # noqa: E731
    found = smallest_change(
        by_chance(response), [0.01, 0.1, 10.0, 20.0], now=1.0, refine=2, geometric=True
    )
    assert found.value == pytest.approx(10 ** (1 - 1 / 8), rel=1e-6) or found.value == 10.0
    assert found.value > 7


def test_none_of_these_is_an_answer_and_no_change_too():
    none = smallest_change(by_chance(lambda _: 0.1), [1.0, 2.0], now=0.5)
    assert none.value is None and "none of these" in str(none) and len(none.tried) == 3
    assert smallest_change(by_chance(lambda _: 1.0), [1.0], now=0.5).value == 0.5


def test_a_response_that_falls_again_is_not_hidden():
    found = smallest_change(
        by_chance(lambda v: 0.95 if v == 1 else 0.02), [1.0, 2.0, 3.0], now=0.0, refine=0
    )
    assert found.value == 1 and found.reversals == ((1.0, 2.0), (1.0, 3.0))
    assert "not monotone" in str(found)


@functools.cache
def by_rate():
    """value -> the forecast of the network at this learning rate; compiled once."""
    (params, memory), tx, x, _ = start()
    _, step, draw, see = network()

    def run(value):
        changed = optax.tree.set(memory, learning_rate=jnp.float32(value))
        return forecast(step, (params, changed), draw, see, forks=40, **TIMES)

    return run


def test_a_learning_rate_is_changed_in_the_optimizers_state():
    found = smallest_change(by_rate(), [0.03, 0.1], [10], now=1e-6, probability=0.2, refine=1)
    assert found.value is not None and 0.03 < found.value <= 0.1
    assert found.tried[0].probability == 0 and len(found.tried) == 4


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps=0 must be a whole number"),
        ({"forks": 2.5}, "forks=2.5 must be a whole number"),
        ({"lanes": 0}, "lanes=0 must be a whole number"),
        ({"steps": 7, "every": 5}, "steps=7 must be a multiple of every=5"),
        ({"sustain": 9}, "sustain=9 looks in a row do not fit into 2 looks"),
        ({"step": lambda state, _: {"loss": 1.0}}, "does not begin with a state like the one"),
        ({"step": lambda state, _: state.astype(jnp.bfloat16)}, "state leaf 'state' is float32"),
        ({"see": lambda state: state[0]}, "return a Seen, or the margins as floats"),
        ({"see": lambda state: (state, 1)}, "see returned a tuple of 2"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(change, words):
    given = {"step": buy, "see": see, "steps": 10, "every": 5, "forks": 2} | change
    step, look = given.pop("step"), given.pop("see")
    with pytest.raises(ValueError, match=words) as error:
        forecast(step, jnp.array([-1.0]), tickets(0.5), look, key=KEY, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: draw_examples((jnp.zeros(3), jnp.zeros(4)), 2), r"arrays have \[3, 4\] examples"),
        (lambda: draw_examples(jnp.zeros(3), 4), "batch_size=4 must be between 1 and the 3"),
        (lambda: draw_from([]), "batches is empty"),
        (lambda: draw_from([jnp.zeros(3), jnp.zeros(2)]), "batch 1 has shapes"),
        (lambda: lottery(0.5, 2, 4).within(3), "steps=3 must be between 0 and 2"),
        (lambda: smallest_change(by_chance(abs), [1.0], now=1.0), "must differ from each other"),
        (lambda: smallest_change(by_chance(abs), [np.nan], now=1.0), "values=nan must be finite"),
        (
            lambda: smallest_change(by_chance(abs), [-1.0], now=1.0, geometric=True),
            "factors need numbers > 0",
        ),
        (
            lambda: smallest_change(by_chance(lambda _: 0.5, 4), [1.0], now=0.5),
            "forks=4 are too few.* use 8 forks",
        ),
        (
            lambda: smallest_change(by_chance(abs), [1.0], now=0.5, probability=1.0),
            "probability=1.0 must be between 0 and 1",
        ),
    ],
)
def test_other_bad_input_gets_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
