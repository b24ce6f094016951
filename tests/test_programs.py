"""Programs that nobody here wrote: who is dead in them, on constructed truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relu_dynamics import inspection
from relu_dynamics.inspection.reading import surgery
from relu_dynamics.inspection.records import definitions
from tests import zoo

X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (64, 3)), jnp.float32)


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


def judged(fn, params, *data):
    """{definition: [is it called so]} of a function's units."""
    probe = inspection.find(fn, params, *data)
    facts = definitions.Facts(probe, inspection.look(fn, params, [data]))
    return {name: np.asarray(rows).tolist() for name, rows in definitions.table(facts).items()}


def network(act):
    """Five units of one layer: sum of 3 inputs, each in [-1, 1], plus their own bias."""
    params = {"w": jnp.ones((3, 5)), "b": jnp.array([0.5, -9.0, 9.0, -2.0, 2.0])}
    return (lambda p, x: act(x @ p["w"] + p["b"]).sum(-1)), params


DEAD_AND_FLAT = {
    "relu": (jax.nn.relu, [1], [1]),
    "relu6": (jax.nn.relu6, [1], [1, 2]),
    "hard sigmoid": (jax.nn.hard_sigmoid, [1], [1, 2]),
    "minimum with 0": (lambda z: jnp.minimum(z, 0.0), [2], [2]),
    "soft shrinkage": (lambda z: jnp.sign(z) * jnp.maximum(jnp.abs(z) - 8.0, 0), [0, 3, 4], None),
    "hard shrinkage": (lambda z: jnp.where(jnp.abs(z) > 8.0, z, 0), [0, 3, 4], None),
    "both signs apart": (
        lambda z: jnp.concatenate([jnp.maximum(z, 0), jnp.minimum(z, 0)], -1), [], [],
    ),
    "the two largest of the layer": (
        lambda z: jnp.where(z >= jnp.sort(z, -1)[..., -2:-1], z, 0), [0, 1, 3], [0, 1, 3],
    ),
    "above the mean": (lambda z: z * (z > z.mean(-1, keepdims=True)), [1, 3], [1, 3]),
    "leaky": (jax.nn.leaky_relu, [1], []),
    "silu": (jax.nn.silu, [1], []),
}  # fmt: skip


@pytest.mark.parametrize("name", DEAD_AND_FLAT)
def test_who_is_dead_and_who_is_flat(name):
    """By construction; and flat is exactly what jax.grad says of each unit's own bias."""
    act, dead, flat = DEAD_AND_FLAT[name]
    fn, params = network(act)
    found = judged(fn, params, X)
    assert np.flatnonzero(found["dead"]).tolist() == dead
    flat = dead if flat is None else flat
    assert np.flatnonzero(found["flat"]).tolist() == flat
    slopes = jax.vmap(jax.grad(fn), (None, 0))(params, X)["b"]
    assert np.flatnonzero((slopes == 0).all(0)).tolist() == flat


def test_the_last_winner_of_a_sorted_top_k_is_alive():
    """It equals the threshold, so it fires with no margin at all to spare."""
    fn = lambda p, x: jnp.where((z := x @ p) >= jnp.sort(z, -1)[:, -2:-1], z, 0).sum(-1)  # noqa: E731
    found = judged(fn, jnp.array([[3.0, 2.0, 1.0]]), jnp.array([[1.0], [2.0]]))
    assert found["dead"] == [False, False, True]
    fixed = lambda p, x: jnp.where((z := x @ p) >= 0.5, z, 0)  # noqa: E731
    found = judged(fixed, jnp.array([[0.25, 0.24]]), jnp.array([[1.0], [2.0]]))
    assert found["dead"] == [False, True]


def test_a_threshold_that_the_data_decide_leaves_gradients_as_they_are():
    fn, params, data = zoo.ZOO["top-k by sorting"].build()
    loss = lambda p, x: (fn(p, x) ** 2).mean()  # noqa: E731
    grads, _ = jax.jit(jax.grad(inspection.watch(loss), has_aux=True))(params, *data)
    for a, b in zip(*map(jax.tree.leaves, (grads, jax.grad(loss)(params, *data))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_pooled_unit_is_judged_by_what_the_pool_hands_on():
    fn = lambda p, x: jax.nn.relu((x[..., None] * p["w"]).mean(1) + p["b"])  # noqa: E731
    maximal = lambda p, x: jax.nn.relu((x @ p["w"]).max(1) + p["b"])  # noqa: E731
    x = jnp.array([[-1.0, 0.5], [-1.0, 0.8]])  # one position of two is above 0, the mean is below
    params = {"w": jnp.ones(1), "b": jnp.zeros(1)}
    assert judged(maximal, params | {"w": jnp.ones((1, 1))}, x[..., None])["dead"] == [False]
    with pytest.raises(ValueError, match="no rectified unit"):
        judged(fn, params, x)  # no kernel: a scale alone tells no units apart from a variance
    linear = lambda p, x: jax.nn.relu((x @ p["w"]).mean(1) + p["b"])  # noqa: E731
    assert judged(linear, params | {"w": jnp.ones((1, 1))}, x[..., None])["dead"] == [True]


def test_shared_weights_are_one_unit_wherever_they_are_used():
    """Unrolled by hand, the first step of a recurrent network has no state, yet is the same."""
    fn, params, data = zoo.ZOO["recurrent network, unrolled by hand"].build()
    (site,) = inspection.find(fn, params, *data).sites
    z = inspection.preactivations(fn, params, *data)
    margins = np.max([np.asarray(one).max(0) for one in z.values()], 0)
    assert site.units == (9,) and len(z) == 3
    np.testing.assert_array_equal(inspection.look(fn, params, [data]).margin, margins)


@pytest.mark.parametrize(
    "name", ["hypernetwork", "hypernetwork that the data feed", "kernel made of two factors"]
)
def test_no_units_own_entries_of_a_kernel_that_a_reshape_made(name):
    """What counts more or fewer entries than there are units belongs to none of them."""
    fn, params, data = zoo.ZOO[name].build()
    probe = inspection.find(fn, params, *data)
    mask = surgery.masks(params, probe, np.arange(probe.units) == probe.units - 1)
    changed = jax.tree.map(lambda p, m: jnp.where(m, p + 1, p), params, mask)
    moved = [
        np.asarray(a != b).reshape(-1, a.shape[-1]).any(0)
        for a, b in zip(
            inspection.preactivations(fn, params, *data).values(),
            inspection.preactivations(fn, changed, *data).values(),
            strict=True,
        )
    ]
    assert np.flatnonzero(np.concatenate(moved)).tolist() in ([], [probe.units - 1])


def test_what_is_moved_out_of_order_owns_nothing():
    def fn(p, x):  # channels shuffled between a kernel and its rectifier
        z = (x @ p["w"]).reshape(len(x), 2, 3).swapaxes(1, 2).reshape(len(x), 6)
        return jax.nn.relu(z + p["b"])

    params = {"w": jnp.ones((3, 6)), "b": jnp.zeros(6)}
    probe = inspection.find(fn, params, X)
    mask = surgery.masks(params, probe, [1])
    assert probe.units == 6 and not mask["w"].any()
    assert np.flatnonzero(mask["b"]).tolist() in ([], [1])


NOTED = {
    "a floor that is not 0": (lambda p, x: jnp.maximum(x @ p, -0.5), "stays at -0.5"),
    "parameters alone": (
        lambda p, x: x @ jax.nn.relu(p @ p.T), "rectifies what is computed from parameters alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTED)
def test_what_is_not_counted_is_said(name):
    other, note = NOTED[name]
    fn = lambda p, x: jax.nn.relu(x @ p).sum() + other(p, x).sum()  # noqa: E731
    assert note in "".join(inspection.find(fn, jnp.ones((3, 2)), X).notes)


@pytest.mark.parametrize(
    ("fn", "data"),
    [
        (lambda p, x: x @ p + jnp.maximum(x, 0).sum(), (X,)),
        (lambda p, x: jax.random.uniform(jax.random.key(0), (64, 2)) + x @ p, (X,)),
    ],
)
def test_data_and_random_numbers_alone_are_no_units(fn, data):
    with pytest.raises(ValueError, match="no rectified unit"):
        inspection.find(fn, jnp.ones((3, 2)), *data)


def test_a_batch_of_picked_kernels_is_read():
    pick = jax.vmap(lambda w, i: w[i])
    fn = lambda p, x, i: jax.nn.relu(jnp.einsum("bi,bio->bo", x, pick(p, i)))  # noqa: E731
    probe = inspection.find(fn, jnp.ones((64, 4, 3, 2)), X, jnp.zeros(64, jnp.int32))
    assert probe.units == 2
