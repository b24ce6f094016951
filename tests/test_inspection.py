"""Your own model: what is found in it, and whether what is said of its units is true."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics import inspection
from relu_dynamics.config import Config
from relu_dynamics.engine import models, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.inspection.reading import seen, sites, surgery
from relu_dynamics.inspection.reading.watch import watch
from relu_dynamics.inspection.records import definitions, monitor
from tests import zoo

pytestmark = pytest.mark.core

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Other people's programs promote ranks, as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def mlp(p, x):
    for layer in p[:-1]:
        x = jax.nn.relu(dense(layer, x))
    return dense(p[-1], x)


def make(key, *widths):
    keys = jax.random.split(key, len(widths))
    return [
        {"kernel": jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, "bias": jnp.zeros(b)}
        for k, a, b in zip(keys, widths[:-1], widths[1:], strict=False)
    ]


def loss_of(fn):
    return lambda params, *data: (fn(params, *data) ** 2).mean()


# What is found ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*zoo.ZOO, *zoo.STEPS])
def test_every_model_of_the_zoo_has_the_units_that_it_has(name):
    build, units = {**zoo.ZOO, **zoo.STEPS}[name]
    fn, params, data = build()
    assert [site.units for site in inspection.find(fn, params, *data).sites] == units


@pytest.mark.parametrize("name", zoo.NONE)
def test_what_only_looks_like_a_rectifier_is_none(name):
    fn, params, data = zoo.of_activation(zoo.NONE[name])
    with pytest.raises(ValueError, match="no rectified unit was found"):
        inspection.find(fn, params, *data)


@pytest.mark.parametrize(
    ("name", "kind", "threshold", "ceiling"),
    [
        ("maximum", "relu", 0, np.inf),
        ("relu6", "clipped", 0, 6),
        ("hard sigmoid", "clipped", -3, 3),
        ("squared relu", "relu_power", 0, np.inf),
        ("leaky relu", "leaky", 0, np.inf),
        ("silu", "smooth", 0, np.inf),
    ],
)
def test_an_activation_is_named_by_what_it_computes(name, kind, threshold, ceiling):
    fn, params, data = zoo.of_activation(zoo.ACTIVATIONS[name])
    (site,) = inspection.find(fn, params, *data).sites
    assert (site.kind, site.threshold, site.ceiling) == (kind, threshold, ceiling)


def test_outputs_and_losses_are_told_apart_and_can_be_excluded():
    def hinge(p, x, y):
        return jnp.maximum(0, 1 - y * mlp(p, x)).mean()

    params, data = make(KEY, 3, 5, 2), (jnp.ones((4, 3)), jnp.ones((4, 2)))
    probe = inspection.find(hinge, params, *data)
    assert [(site.units, site.hidden) for site in probe.sites] == [((5,), True), ((2,), False)]
    output = probe.sites[1].name
    assert inspection.find(hinge, params, *data, exclude=[output]).units == 5
    with pytest.raises(ValueError, match="exclude=.'nothing'. names no site; there are"):
        inspection.find(hinge, params, *data, exclude=["nothing"])


def test_a_kernel_that_the_data_pick_is_said_to_be_unread():
    fn = lambda p, x, i: jax.nn.relu(x @ p["w"][i]) @ p["out"]  # noqa: E731
    params = {"w": jnp.ones((3, 4, 5)), "out": jnp.ones((5, 1))}
    probe = inspection.find(fn, params, jnp.ones((2, 4)), jnp.int32(1))
    assert probe.units == 5 and "w at" in probe.notes[0] and "picked by an index" in str(probe)


def test_parts_of_a_concatenation_belong_to_their_own_kernels():
    fn, params, data = zoo.concatenated()
    probe = inspection.find(fn, params, *data)
    mask = surgery.masks(params, probe, [4, 5])
    assert mask["w0"].any(0).tolist() == [False] * 4 + [True]
    assert mask["w1"].any(0).tolist() == [True] + [False] * 6
    assert not surgery.masks(params, probe, [4, 5])["w2"].any()


@pytest.mark.parametrize(
    ("cut", "from_a", "from_b"), [((0, 5), [0, 4], []), ((3, 8), [3], [2]), ((5, 12), [], [0, 4])]
)
def test_a_slice_of_a_concatenation_belongs_to_what_it_reaches(cut, from_a, from_b):
    def fn(p, x):
        return jax.nn.relu(jnp.concatenate([x @ p["a"], x @ p["b"]], -1)[:, cut[0] : cut[1]])

    params = {"a": jnp.ones((6, 5)), "b": jnp.ones((6, 7))}
    mask = surgery.masks(params, inspection.find(fn, params, jnp.ones((3, 6))), [0, 4])
    assert np.flatnonzero(mask["a"].any(0)).tolist() == from_a
    assert np.flatnonzero(mask["b"].any(0)).tolist() == from_b


def test_top_k_of_whole_numbers_is_no_site():
    fn = lambda p, x, t: jax.nn.relu(x @ p) * jax.lax.top_k(t, 1)[0][0]  # noqa: E731
    assert inspection.find(fn, jnp.ones((2, 3)), jnp.ones((4, 2)), jnp.arange(5)).units == 3


# Every unit of every model, whole --------------------------------------------------------------


def floating(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def assert_same_bits(a, b):
    for one, other in zip(floating(a), floating(b), strict=True):
        assert np.array_equal(one, other, equal_nan=True)


UNKNOWN = {
    # sums that others read
    "linen ResNet, nn.remat, GroupNorm": 8,
    "ReLU attention scores": 1,
    # kernels that are not followed to their leaves
    "mixture of experts, top-k routing and one-hot dispatch": 2,
    "hypernetwork": 5,
    "hypernetwork that the data feed": 5,
    "complex kernel, modReLU of its size": 5,
    "Fourier layer beside a pointwise one": 5,
    "parameters in one flat vector": 5,
    "layers sliced out of one array": 10,
    "hinge loss on labels": 2,  # 1 - y f is 1 where f is silenced, so its units are alive
    # never taken, summed over time, alive at 0 where the mean is below, dead from the start, random
    "experts by lax.switch": 7,
    "relu of an associative scan": 3,
    "winners above the mean of the layer": 5,
    "scan within a scan": 2,
    "dropout before relu": 5,
}


def of_module(*modules):
    """The programs that these modules of the zoo make."""
    own = [module.__name__ for module in modules]
    return [name for name, row in zoo.ZOO.items() if getattr(row.build, "__module__", "") in own]


PUBLISHED = of_module(zoo.published, zoo.lookalikes)
FIRST = [name for name in zoo.ZOO if name not in (*PUBLISHED, *of_module(zoo.kinds))]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in PUBLISHED])
def test_own_parameters_are_known(name):
    """Silencing every second unit by its own parameters makes exactly these dead and constant; a
    silenced unit's own gradient is exactly 0; and the whole training step shows the same units."""
    build, units = zoo.ZOO[name]
    fn, params, data = build()
    loss = loss_of(fn)
    probe = inspection.find(loss, params, *data)
    see, gradient = jax.jit(watch(loss)), jax.jit(jax.grad(loss, allow_int=True))
    before, known = see(params, *data)[1], 0
    for site, part in zip(probe.sites, probe.slices.values(), strict=True):
        chosen = np.zeros(probe.units, bool)
        chosen[part] = np.arange(site.count) % 2 == 0
        zero = surgery.masks(params, probe, chosen, ("kernel", "scale"))
        low = surgery.masks(params, probe, chosen, ("bias", "shift"))
        changed = jax.tree.map(lambda p, m: jnp.where(m, 0, p), params, zero)
        changed = jax.tree.map(lambda p, m: jnp.where(m, -1, p), changed, low)
        after = see(changed, *data)[1]
        # Without a bias nothing silences a unit whose threshold lies below 0, and at exactly 0
        # jnp.maximum has the slope 1/2.
        dead = np.asarray(after.margin) <= max(-site.threshold, 0)
        below = np.asarray(after.margin) < 0
        still = np.asarray(after.squares) <= 1e-9 * np.asarray(after.examples)
        moved = np.asarray(before.squares) > 0
        inside = np.zeros(probe.units, bool)
        inside[part] = True
        known += int((dead & still & chosen).sum() + (moved & ~still & inside & ~chosen).sum())
        if name in FIRST and site.kind in sites.FLAT and site.norm != "units":
            own = surgery.per_unit(jax.tree.map(jnp.abs, gradient(changed, *data)), probe)
            assert not np.asarray(own)[chosen & below].any()
    assert known >= probe.units - UNKNOWN.get(name, 0)

    if name not in FIRST or name == "lax.while_loop":  # has no gradient in reverse
        return
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))

    def step(state, *data):
        params, memory = state
        value, grads = jax.value_and_grad(loss)(params, *data)
        updates, memory = tx.update(grads, memory, params)
        return (optax.apply_updates(params, updates), memory), value

    whole = inspection.find(step, (params, tx.init(params)), *data)
    assert [site.units for site in whole.sites] == units


def keep_their_bits(ways, names):
    """With XLA as users have it: less optimized, as in this suite, three programs differ by an
    ulp."""
    done = subprocess.run(
        [sys.executable, "benchmarks/watch_bits.py", "--ways", *ways, "--", *names],
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "JAX_PLATFORMS": "cpu",
        },
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "OTHER BITS" not in done.stdout and "not possible" not in done.stdout, done.stdout
    tried = [int(line.split()[3]) for line in done.stdout.splitlines()]
    assert len(tried) == len(ways) and min(tried) >= len(names)


@pytest.mark.slow
def test_outputs_losses_and_gradients_keep_their_bits():
    keep_their_bits(["jit", "grad"], [name for name in FIRST if "activation" not in name])


@pytest.mark.slow
def test_under_vmap_scan_and_sharding_they_keep_their_bits_too():
    names = ["linen MLP", "linen nn.scan over layers", "Highway network", "CReLU"]
    keep_their_bits(["vmap", "scan", "sharding"], names)


@pytest.mark.slow
def test_forty_steps_of_training_with_a_monitor_keep_their_bits():
    x, y = jax.random.normal(KEY, (64, 8)), jax.random.normal(jax.random.key(1), (64, 1))
    tx = optax.adamw(3e-3)

    def step(state, x, y):
        params, memory = state
        loss, grads = jax.value_and_grad(lambda p: ((mlp(p, x) - y) ** 2).mean())(params)
        updates, memory = tx.update(grads, memory, params)
        return (optax.apply_updates(params, updates), memory), loss

    params = make(KEY, 8, 32, 32, 1)
    start = params, tx.init(params)
    looks = inspection.look(mlp, params, [x])

    def watched(state, record, x, y):
        due = lambda *_: record.step % 5 == 0  # noqa: E731
        (state, loss), now = watch(step, when=due)(state, x, y)
        return state, monitor.update(record, now), loss

    plain, both = jax.jit(step), jax.jit(watched)
    state, other, record = start, start, monitor.start(looks)
    for i in range(40):
        batch = x[i % 4 :: 4], y[i % 4 :: 4]
        state, _ = plain(state, *batch)
        other, record, _ = both(other, record, *batch)
    assert_same_bits(state, other)
    assert int(record.step) == 40
    silent = np.asarray(record.silent)
    assert silent.max() <= 8  # looked at in every fifth step only
    last = monitor.evaluate(record, inspection.look(mlp, other[0], [x]), since=40)
    assert np.array_equal(last.history.alive, last.history.margin > 0)
    shares = monitor.scalars(last, inspection.find(mlp, params, x))
    assert shares["0/dead"] == 1 - np.asarray(last.history.alive)[:32].mean()


# Who is dead -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_channel_that_fires_at_one_position_of_one_image_is_alive():
    images = np.full((16, 8, 8, 1), 0.4, np.float32)
    images[11, 0, 7] = 0.6
    kernel = np.zeros((3, 3, 1, 3), np.float32)
    kernel[1, 1, 0] = [1.0, 1.0, -1.0]
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.array([-0.5, -0.7, 0.0])}

    def conv(p, x):
        z = jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(z + p["bias"]).mean((1, 2))

    now = watch(conv)(params, jnp.asarray(images))[1]
    assert now.active.tolist() == [1, 0, 0] and now.examples.tolist() == [16 * 64] * 3
    assert (now.margin <= 0).tolist() == [False, True, True]
    gradient = jax.grad(lambda p: conv(p, jnp.asarray(images)).sum())(params)
    assert (jnp.abs(gradient["bias"]) > 0).tolist() == [True, False, False]


@pytest.mark.slow
def test_a_unit_that_fires_once_in_10000_is_not_dead_and_silence_on_1000_is_no_proof():
    x = np.zeros((10_000, 2), np.float32)
    x[7_777, 0] = 1.0
    params = [{"kernel": jnp.eye(2), "bias": jnp.full(2, -0.5)}, make(KEY, 2, 1)[0]]
    batches = [jnp.asarray(x[start : start + 250]) for start in range(0, len(x), 250)]
    alone = [inspection.look(mlp, params, [batch]) for batch in batches[:2]]
    assert all((one.margin <= 0).all() for one in alone)
    total = inspection.look(mlp, params, batches)
    assert total.active.tolist() == [1, 0] and (total.margin <= 0).tolist() == [False, True]
    whole = inspection.look(mlp, params, [jnp.asarray(x)])
    for field, (a, b) in zip(total._fields, zip(total, whole, strict=True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7, err_msg=field)
    first = inspection.look(mlp, params, batches[:4])
    bound = definitions.firing_rate_bound(first)
    np.testing.assert_allclose(bound, 1 - 0.05 ** (1 / 1000), rtol=1e-6)  # nothing in 1000
    assert (bound > 1e-4).all()  # so one in 10,000 is not excluded


def test_exactly_zero_is_dead_and_nan_is_counted_and_never_dead():
    params = [{"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}, make(KEY, 2, 1)[0]]
    facts = lambda x: definitions.Facts(  # noqa: E731
        inspection.find(mlp, params, x), inspection.look(mlp, params, [x])
    )
    assert definitions.dead(facts(jnp.ones((4, 1)))).tolist() == [True, True]
    broken = facts(jnp.array([[1.0], [jnp.nan], [jnp.nan]]))
    assert broken.seen.invalid.tolist() == [2, 2] and broken.seen.examples.tolist() == [3, 3]
    assert not definitions.dead(broken).any() and not definitions.flat(broken).any()


@pytest.mark.slow
def test_above_its_ceiling_a_unit_is_flat_and_not_dead():
    fn = lambda p, x: jax.nn.relu6(dense(p[0], x)) @ p[1]["kernel"]  # noqa: E731
    params = make(KEY, 3, 3, 1)
    params[0]["bias"] = jnp.array([0.0, 100.0, -100.0])
    x = jax.random.normal(KEY, (20, 3))
    facts = definitions.Facts(inspection.find(fn, params, x), inspection.look(fn, params, [x]))
    assert definitions.dead(facts).tolist() == [False, False, True]
    assert definitions.flat(facts).tolist() == [False, True, True]
    slope = jax.grad(lambda p: fn(p, x).sum())(params)[0]["bias"]
    assert (slope == 0).tolist() == definitions.flat(facts).tolist()


def test_padding_does_not_count():
    x = jnp.array([[1.0], [-1.0], [9.0]])
    params = [{"kernel": jnp.ones((1, 1)), "bias": jnp.array([-2.0])}, make(KEY, 1, 1)[0]]
    mask = jnp.array([True, True, False])
    now = watch(mlp, where=lambda p, x: mask)(params, x)[1]
    assert now.examples.tolist() == [2] and now.margin.tolist() == [-1.0]
    assert watch(mlp)(params, x)[1].margin.tolist() == [7.0]
    with pytest.raises(ValueError, match="where has shape .2,., and z of"):
        watch(mlp, where=lambda p, x: mask[:2])(params, x)


def test_alive_in_float32_and_dead_in_bfloat16():
    params = {"w0": jnp.array([[1.0, 1.0]]), "b": jnp.array([-1.0, -0.5]), "w1": jnp.ones((2, 1))}
    x = jnp.array([[1.001]])

    def fn(dtype):
        def run(p, x):
            p, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (p, x))
            return jax.nn.relu(x @ p["w0"] + p["b"]) @ p["w1"]

        return inspection.look(run, params, [x]).margin

    assert (fn(jnp.float32) > 0).tolist() == [True, True]
    assert (fn(jnp.bfloat16) > 0).tolist() == [False, True]


def test_of_weights_used_twice_a_unit_lives_that_fires_at_one_of_the_sites():
    fn = lambda p, x: jax.nn.relu(x @ p["w"]).sum() + jax.nn.relu((x - 5) @ p["w"]).sum()  # noqa: E731
    params, x = {"w": jnp.array([[1.0, -1.0]])}, jnp.ones((3, 1))
    probe, now = inspection.find(fn, params, x), inspection.look(fn, params, [x])
    assert probe.units == 2 and now.examples.tolist() == [6, 6]
    assert (now.margin > 0).all()
    one = inspection.preactivations(fn, params, x)
    assert [(z > 0).any(0).tolist() for z in one.values()] == [[True, False], [False, True]]


@pytest.mark.slow
def test_a_unit_dead_in_one_layer_of_a_scanned_stack():
    def fn(p, x):
        return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w["k"] + w["b"]), None), x, p)[0].sum()

    params = {"k": jnp.stack([jnp.eye(3)] * 4), "b": jnp.zeros((4, 3)).at[2, 1].set(-9.0)}
    x = jnp.ones((5, 3))
    now = inspection.look(fn, params, [x])
    # The layer above sees nothing of it, so its own unit is at exactly 0: dead too.
    assert np.flatnonzero(now.margin <= 0).tolist() == [2 * 3 + 1, 3 * 3 + 1]
    probe = inspection.find(fn, params, x)
    mask = surgery.masks(params, probe, [7])
    assert np.argwhere(mask["b"]).tolist() == [[2, 1]]
    assert np.unique(np.argwhere(mask["k"])[:, [0, 2]], axis=0).tolist() == [[2, 1]]


@pytest.mark.parametrize("name", ["SAE, relu", "SAE, top-k", "SAE, batch top-k", "SAE, JumpReLU"])
def test_the_latents_that_fire_are_those_that_the_decoder_reads(name):
    fn, params, (x,) = zoo.ZOO[name][0]()
    params = {**params, "bias": params["bias"].at[:5].set(-50.0)}
    now = watch(fn)(params, x)[1]
    reads = jax.jit(lambda decoder: fn({**params, "decoder": decoder}, x))
    plain = reads(params["decoder"])
    moved = [bool((plain != reads(params["decoder"].at[u].add(1.0))).any()) for u in range(40)]
    assert (np.asarray(now.margin) > 0).tolist() == moved and not any(moved[:5])


@pytest.mark.slow
def test_the_engines_own_network_has_the_same_margins_through_its_training_step():
    config = Config(
        task="teacher_student", examples=32, batch_size=None, hidden=(6, 5), biased_units=2,
        initial_bias=-1.0, steps=1, probe_every=1,
    )  # fmt: skip
    key = run_key(0, 0)
    task = tasks.make_task(config, purpose_key(key, "task"), None)
    state = training.start(config, key)
    forward = models.apply(config, state.params, task.inputs)

    def step(state, task):
        return training.train_step(config, task, key, state)[0]

    now = jax.jit(watch(step))(state, task)[1]
    margins = jnp.concatenate([z.max(0) for z in forward.preactivations])
    np.testing.assert_allclose(now.margin, margins, rtol=1e-6)


# Merging is exact ------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.lists(st.sampled_from([1, 24]), min_size=1, max_size=6))
def test_merged_batches_are_what_numpy_says_of_all_of_them(seed, sizes):
    z = np.random.default_rng(seed).normal(size=(sum(sizes), 4)).astype(np.float32)
    parts = np.split(z, np.cumsum(sizes)[:-1])
    site = inspection.find(*zoo.of_dense(lambda p, x: jax.nn.relu(x @ p["w0"]), (12, 4))[:2], zoo.X)
    one = site.sites[0]
    with jax.disable_jit():
        taken = [
            seen.Statistics().take(
                one._replace(factors=part.shape), *2 * (jnp.asarray(part),), None
            )
            for part in parts
        ]
        total = seen.empty(4)
        for part in taken:
            total = seen.merge(total, part)
        backwards = seen.empty(4)
        for part in reversed(taken):
            backwards = seen.merge(part, backwards)
    for merged in (total, backwards):
        assert merged.examples.tolist() == [len(z)] * 4
        assert merged.active.tolist() == (z > 0).sum(0).tolist()
        assert np.array_equal(merged.margin, z.max(0)) and np.array_equal(merged.minimum, z.min(0))
        np.testing.assert_allclose(merged.mean, z.astype(np.float64).mean(0), atol=1e-5)
        deviations = ((z - z.astype(np.float64).mean(0)) ** 2).sum(0)
        np.testing.assert_allclose(merged.squares, deviations, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_definitions_side_by_side_are_those_of_numpy():
    rng = np.random.default_rng(1)
    params = make(KEY, 6, 8, 7, 1)
    params[0]["bias"] = params[0]["bias"].at[:3].set(-20.0)
    x = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    probe, now = inspection.find(mlp, params, x), inspection.look(mlp, params, [x])
    gradient = surgery.gradient_norms(jax.grad(lambda p: mlp(p, x).sum())(params), probe)
    rows = definitions.table(definitions.Facts(probe, now, gradient=gradient))
    h1 = np.maximum(np.asarray(dense(params[0], x)), 0)
    h2 = np.maximum(np.asarray(dense(params[1], h1)), 0)
    sizes = [h.mean(0) for h in (h1, h2)]
    assert rows["dead"].tolist() == np.concatenate([(h == 0).all(0) for h in (h1, h2)]).tolist()
    assert rows["dormant"].tolist() == [bool(v <= 0.1 * s.mean()) for s in sizes for v in s]
    assert rows["dormant_of_sum"].tolist() == [bool(v <= 0.1 * s.sum()) for s in sizes for v in s]
    assert rows["gradient_dormant"][:3].all() and "silent" not in rows
    with pytest.raises(ValueError, match="'silent' needs more than what was seen"):
        definitions.silent(definitions.Facts(probe, now))


# The report ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_puts_the_worst_site_first_and_is_plain_data():
    params = make(KEY, 3, 6, 4, 1)
    params[1]["bias"] = jnp.full(4, -50.0)
    x = jax.random.normal(KEY, (30, 3))
    found = inspection.diagnose(mlp, params, [x[:10], x[10:]])
    assert [row["dead"] for row in found.rows] == [4, 0] and found.dead.tolist() == [6, 7, 8, 9]
    head = str(found).splitlines()
    assert "4 of 10 units dead; worst layer: 1 with 4 of 4" in " ".join(head[:2])
    assert json.loads(found.to_json())["sites"] == found.rows
    assert found.rows[0]["rate_below"] == pytest.approx(1 - 0.05 ** (1 / 30))
    assert [row["is_dead"] for row in found.units] == [False] * 6 + [True] * 4
    assert inspection.diagnose(mlp, params, iter([x[:10], x[10:]])).rows == found.rows
    with pytest.raises(ValueError, match="batches is empty"):
        inspection.diagnose(mlp, params, [])
    with pytest.raises(ValueError, match=r"batches is one array of shape .30, 3.; give batches"):
        inspection.diagnose(mlp, params, x)
    with pytest.raises(ValueError, match=r"got z of shape .0, 6.; give at least one example"):
        inspection.diagnose(mlp, params, [x[:0]])


@pytest.mark.parametrize("start", [0, 1])
def test_a_strided_slice_of_z_is_not_given_the_parameters_of_its_neighbours(start):
    """A feed is a run of neighbouring columns: those of every second one are not named at all."""
    params = {"kernel": jnp.ones((5, 8)), "bias": jnp.zeros(8)}
    x = jnp.ones((32, 5))

    def picked(step):
        def model(params, x):
            return jax.nn.relu((x @ params["kernel"] + params["bias"][None])[:, start:8:step])

        return inspection.find(model, params, x).sites[0]

    one, other = picked(1), picked(2)
    assert [(link.start, link.first, link.units) for link in one.links] in (
        [(start, 0, 8 - start)] * 2, [(0, 0, None)] * 2,
    )  # fmt: skip
    assert other.count == 4 and not other.links
