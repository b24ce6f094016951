"""Prognosis against training that goes on from the state, against the engine's certificates, and
against mathematics."""

import collections

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from relu_dynamics.certificates import Verdict
from relu_dynamics.certificates.certify import certify
from relu_dynamics.engine import models, optimizers
from relu_dynamics.engine.step import parameter_updates
from relu_dynamics.inspection import watch
from relu_dynamics.inspection.prognosis.bounds import Arrays
from relu_dynamics.inspection.prognosis.intervals import Interval, top
from relu_dynamics.inspection.prognosis.prognosis import prognose
from relu_dynamics.inspection.prognosis.walks import walk
from relu_dynamics.inspection.prognosis.zero_gradient import Path
from tests import test_certificates as certified

pytestmark = pytest.mark.core
slow = lambda name: pytest.param(name, marks=pytest.mark.slow)  # noqa: E731

NEVER, AT, POSSIBLE = Verdict.CERTIFIED_NEVER, Verdict.CERTIFIED_AT, Verdict.POSSIBLE
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (32, 6)) * 0.7


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Other people's programs promote ranks, as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def mlp(p, x):
    for layer in p[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ p[-1]["kernel"] + p[-1]["bias"]


def dense(key, widths, bias=-1.5):
    keys = jax.random.split(key, len(widths))
    return [
        {"kernel": jax.random.normal(k, (a, b)) * a**-0.5,
         "bias": bias * jnp.abs(jax.random.normal(jax.random.fold_in(k, 1), (b,)))}
        for k, a, b in zip(keys, widths[:-1], widths[1:], strict=False)
    ]  # fmt: skip


# Intervals hold what the program computes -------------------------------------------------------

FUNCTIONS = {
    "layer norm": lambda a, b: (
        (a - a.mean(1, keepdims=True)) / jnp.sqrt(a.var(1, keepdims=True) + 1e-5) * b[0]
    ),
    "softmax": lambda a, b: jax.nn.softmax(a * b),
    "attention": lambda a, b: jax.nn.softmax(a @ b.T) @ b,
    "convolution": lambda a, b: jax.lax.conv_general_dilated(
        a[None, None], b[None, None, :2, :2], (1, 1), "SAME"
    ),
    "powers": lambda a, b: (1 + jnp.abs(a)) ** (b + 2.0) + a**3 - 1 / (1 + b**2),
    "smooth": lambda a, b: jnp.tanh(a) + jax.nn.gelu(b) * jax.nn.sigmoid(a) + jnp.log1p(b**2),
    "waves": lambda a, b: jnp.sin(a) * jnp.cos(3 * b),
    "choices": lambda a, b: jnp.where(a > b, jnp.maximum(a, 0), jnp.clip(b, -0.5, 0.5)).sum(0),
    "layout": lambda a, b: jnp.concatenate([a.T, b.T[::-1]], 1).reshape(-1)[3:7].max(),
    "scan": lambda a, b: jax.lax.scan(lambda c, x: (c * 0.5 + x, c.max()), a[0], b)[1],
    "bfloat16": lambda a, b: (
        (a.astype(jnp.bfloat16) @ b.T.astype(jnp.bfloat16)).astype(jnp.float32)
    ),
    "branches": lambda a, b: jax.lax.cond(a.sum() > 0, jnp.sin, jnp.exp, b),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_intervals_hold_whatever_the_program_computes_within_them(name):
    function = jax.jit(FUNCTIONS[name])
    rng = np.random.default_rng(len(name))
    shapes = [(4, 5), (4, 5)]
    program = jax.make_jaxpr(FUNCTIONS[name])(*(jnp.zeros(shape) for shape in shapes))
    for width in (0.0, 1e-3, 0.3):
        middle = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        boxes = [Interval(x.astype(float) - width, x.astype(float) + width) for x in middle]
        with np.errstate(all="ignore"):
            (out,), _ = walk(program, boxes, Arrays([], []))
        assert np.isfinite(out.low).all()
        for _ in range(10):
            inside = [
                np.clip(x + width * rng.uniform(-1, 1, x.shape), *box).astype(np.float32)
                for x, box in zip(middle, boxes, strict=True)
            ]
            if width:
                inside = [x + (x < b.low) * 1e-7 - (x > b.high) * 1e-7
                          for x, b in zip(inside, boxes, strict=True)]  # fmt: skip
            value = np.asarray(function(*(jnp.float32(x) for x in inside)), float)
            assert (out.low <= value).all() and (value <= out.high).all()


# The optimizer's path ---------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, 0.9),
    "nesterov": optax.sgd(0.1, 0.9, nesterov=True),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=1e-2),
    "adamw, kernels": optax.adamw(
        1e-2, weight_decay=1e-2, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    ),
    "decayed biases": optax.chain(
        optax.add_decayed_weights(0.05, lambda p: jax.tree.map(lambda x: x.ndim == 1, p)),
        optax.sgd(0.2),
    ),
    "amsgrad": optax.amsgrad(1e-2),
    "adabelief": optax.adabelief(1e-2),
    "adafactor": optax.adafactor(1e-2),
    "adagrad": optax.adagrad(0.1),
    "rmsprop": optax.rmsprop(1e-2),
    "lion": optax.lion(1e-3),
    "lamb": optax.lamb(1e-2),
    "lars": optax.lars(0.1),
    "nadam": optax.nadam(1e-2),
    "yogi": optax.yogi(1e-2),
    "novograd": optax.novograd(1e-2),
    "clipped adam": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    "every third": optax.MultiSteps(optax.adam(1e-2), 3),
    "cosine": optax.adam(optax.cosine_decay_schedule(0.05, 20)),
    "if finite": optax.apply_if_finite(optax.sgd(0.1), 3),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
    "noise": optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(0.1)),
    "muon": optax.contrib.muon(1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_without_a_gradient_go_where_the_path_says(name):
    tx, steps, warm = OPTIMIZERS[name], 25, 4
    params = {"kernel": jax.random.normal(KEY, (5, 6)), "bias": -jnp.ones(6)}
    own = {"kernel": np.arange(6) % 3 == 0, "bias": np.arange(6) % 3 == 0}
    own["kernel"] = np.broadcast_to(own["kernel"], (5, 6))
    draw = lambda i: jax.tree.map(  # noqa: E731
        lambda x: jax.random.normal(jax.random.fold_in(KEY, i), x.shape), params
    )

    @jax.jit
    def step(params, memory, gradients):
        updates, memory = tx.update(gradients, memory, params)
        return optax.apply_updates(params, updates), memory

    memory = tx.init(params)
    for i in range(warm):
        params, memory = step(params, memory, draw(i))
    path = Path(tx, params, memory, jax.tree.leaves(own))
    box = path.advance(steps)
    held = next(path.held())
    for i in range(steps + 40):
        gradients = jax.tree.map(lambda g, o: jnp.where(o, 0, g), draw(warm + i), own)
        params, memory = step(params, memory, gradients)
        bounds = box if i < steps else held
        for leaf, at, low, high in zip(
            jax.tree.leaves(params), path.chosen, bounds.low, bounds.high, strict=True
        ):
            value = np.asarray(leaf, float).reshape(-1)[at]
            now = (low[i + 1], high[i + 1]) if i < steps else (low, high)
            assert (now[0] <= value).all() and (value <= now[1]).all()
    known = all(np.isfinite(end).all() for end in (*box.low, *box.high))
    # Noise and trust ratios reach every entry; the last four remember nothing that moves.
    assert known == (name not in {"noise", "lamb", "muon"})
    if name in {"sgd", "adagrad", "rmsprop", "if finite"}:
        assert all(map(np.array_equal, held.low, held.high))


# Against training that goes on ------------------------------------------------------------------


class LayerNormed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(12)(x))
        x = nn.relu(nn.LayerNorm()(nn.Dense(8)(x)))
        return nn.Dense(1)(x)


class LayerNormedByDifferences(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(12)(x))
        x = nn.relu(nn.LayerNorm(use_fast_variance=False)(nn.Dense(8)(x)))
        return nn.Dense(1)(x)


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.relu(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.Dense(1)(x)


def stack(p, x):
    def layer(h, own):
        return h + jax.nn.relu(h @ own["w"] + own["b"]) @ own["v"], None

    h = jax.nn.relu(x @ p["first"] + p["b"])
    return jax.lax.scan(layer, h, p["layers"])[0] @ p["out"]


def stack_parameters(key):
    w, v, first, out = jax.random.split(key, 4)
    layers = {"w": jax.random.normal(w, (2, 8, 10)) / 3, "b": jnp.full((2, 10), -0.5),
              "v": jax.random.normal(v, (2, 10, 8)) / 3}  # fmt: skip
    return {"first": jax.random.normal(first, (6, 8)) / 2, "b": jnp.zeros(8),
            "layers": layers, "out": jax.random.normal(out, (8, 1))}  # fmt: skip


def linen(module, x):
    return module.apply, lambda key: module.init(key, x), x


def equinox():
    model = eqx.nn.MLP(6, 1, 10, 2, activation=jax.nn.relu, key=KEY)
    _, static = eqx.partition(model, eqx.is_array)
    init = lambda key: eqx.filter(eqx.nn.MLP(6, 1, 10, 2, key=key), eqx.is_array)  # noqa: E731
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), init, X


IMAGES = jax.random.uniform(jax.random.key(3), (8, 5, 5, 2))
NETWORKS = {
    "plain": lambda: (mlp, lambda key: dense(key, (6, 12, 8, 1)), X),
    "relu6 and positive inputs": lambda: (
        lambda p, x: jnp.clip(jnp.abs(x) @ p[0]["kernel"] + p[0]["bias"], 0, 6) @ p[1]["kernel"],
        lambda key: dense(key, (6, 12, 1), -1.0), X),
    "layer norm": lambda: linen(LayerNormed(), X),
    "layer norm by differences": lambda: linen(LayerNormedByDifferences(), X),
    "convolution": lambda: linen(Convolution(), IMAGES),
    "scan": lambda: (stack, stack_parameters, X),
    "equinox": equinox,
}  # fmt: skip


def pushed_down(key, params):
    """Parameters of which a third of all entries of vectors is lowered: units that are dead, and
    that come near to it."""
    leaves, tree = jax.tree.flatten(params)
    moved = []
    for i, leaf in enumerate(leaves):
        down = jax.random.bernoulli(jax.random.fold_in(key, i), 0.35, leaf.shape)
        size = jax.random.exponential(jax.random.fold_in(key, 100 + i), leaf.shape) * 2.5
        moved.append(jnp.where(down, leaf - size, leaf) if leaf.ndim == 1 else leaf)
    return jax.tree.unflatten(tree, moved)


def contradicted(network, tx, seeds, *, warm=True, steps=250):
    """(what was contradicted, counts by verdict and theorem) of nets that train on minibatches."""
    function, init, x = NETWORKS[network]()
    wrong, counts = [], collections.Counter()

    @jax.jit
    def train(params, memory, key, target):
        def step(state, i):
            params, memory = state
            rows = jax.random.permutation(jax.random.fold_in(key, i), len(x))[: len(x) // 2]
            loss = lambda p: ((function(p, x[rows]) - target[rows]) ** 2).mean()  # noqa: E731
            updates, memory = tx.update(jax.grad(loss)(params), memory, params)
            params = optax.apply_updates(params, updates)
            return (params, memory), watch(function)(params, x)[1].margin

        return jax.lax.scan(step, (params, memory), jnp.arange(steps))

    for seed in seeds:
        key = jax.random.key(seed)
        params = pushed_down(key, init(key))
        target = 2 * jnp.sin(3 * x.reshape(len(x), -1).sum(1, keepdims=True))
        memory = tx.init(params)
        if warm:
            (params, memory), _ = train(params, memory, key, target)
        found = prognose(function, params, memory, [x], tx=tx, steps=steps)
        margins = np.asarray(train(params, memory, jax.random.fold_in(key, 7), target)[1])
        alive = margins > 0
        first = np.where(alive.any(0), alive.argmax(0) + 1, -1)
        never, at = found.verdict == NEVER, found.verdict == AT
        bad = (never & (first != -1)) | (at & (first != found.step))
        bad |= never & (margins > found.bound + 1e-30).any(0)
        wrong += [(network, seed, int(u), found.theorem[u]) for u in np.flatnonzero(bad)]
        counts.update(zip(found.verdict.tolist(), found.theorem, strict=True))
    return wrong, counts


QUICK = [
    ("plain", "sgd"),
    ("relu6 and positive inputs", "momentum"),
    ("layer norm", "clipped adam"),
]
LONG = [
    *(("plain", name) for name in ("nesterov", "adam", "adamw", "lion", "every third")),
    *((network, "decayed biases") for network in ("equinox", "convolution")),
    *(("convolution", name) for name in ("momentum", "adamw, kernels", "cosine")),
    *(("layer norm", name) for name in ("adamw", "lamb")),
    *(("layer norm by differences", name) for name in ("adam", "decayed biases")),
    ("scan", "rmsprop"),
    ("equinox", "adagrad"),
    ("relu6 and positive inputs", "lion"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "optimizer"), QUICK)
def test_no_verdict_is_contradicted_by_training(network, optimizer):
    wrong, counts = contradicted(network, OPTIMIZERS[optimizer], range(2))
    assert not wrong, counts
    assert sum(count for (verdict, _), count in counts.items() if verdict == NEVER)


def test_units_return_at_the_very_step_that_is_foretold():
    wrong, counts = contradicted("plain", OPTIMIZERS["decayed biases"], range(3), warm=False)
    assert not wrong, counts
    assert counts[AT, "optimizer path"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize(("network", "optimizer"), LONG)
def test_no_verdict_is_contradicted_by_training_of_more_kinds(network, optimizer):
    wrong, counts = contradicted(network, OPTIMIZERS[optimizer], range(10, 13), steps=200)
    assert not wrong, counts


# Verdicts that mathematics knows -----------------------------------------------------------------

POSITIVE = jnp.abs(X)


def verdict_of(function, params, x=X, tx=None, **options):
    """(verdict, theorem or reason, step) of unit 0, which is dead."""
    tx = tx or optax.sgd(0.1)
    found = prognose(function, params, tx.init(options.get("trainable", params)), [x], tx=tx,
                     **{"steps": 300, **options})  # fmt: skip
    assert found.margin[0] <= 0
    says = found.theorem[0] if found.verdict[0] != POSSIBLE else found.reason[0]
    return Verdict(found.verdict[0]), says, int(found.step[0])


def one(kernel=0.1, bias=-1.0, units=2):
    """A first layer whose unit 0 is dead on inputs within +-1, and whose other units are alive."""
    b = jnp.ones(units).at[0].set(bias)
    return {"w": jnp.full((6, units), kernel), "b": b, "out": jnp.ones((units, 1))}


def layer(activation=jax.nn.relu):
    return lambda p, x: activation(x / 3 @ p["w"] + p["b"]) @ p["out"]


@jax.custom_vjp
def straight_through(z):
    return jax.nn.relu(z)


straight_through.defvjp(lambda z: (jax.nn.relu(z), None), lambda _, g: (g,))


def penalized(p, x):
    return layer()(p, x).sum() + 1e-3 * (p["w"] ** 2).sum()


def tied(p, x):
    return jax.nn.relu(x / 3 @ p["w"] + p["b"]) @ p["w"].T


def gated(p, x):
    z = x / 3 @ p["w"] + p["b"]
    return jax.nn.relu(z) @ p["out"] * jnp.sin(z).sum(1, keepdims=True)


def mixed(p, x):
    return jax.nn.relu(jnp.cumsum(x / 3 @ p["w"], 1) + p["b"]) @ p["out"]


def batch_normed(p, x):
    z = x @ p["w"]
    z = (z - z.mean(0)) / jnp.sqrt(z.var(0) + 1e-5)
    return jax.nn.relu(0.3 * z + p["b"]) @ p["out"]


def through_fourier(p, x):
    z = jnp.fft.irfft(jnp.fft.rfft(x / 3 @ p["w"], axis=0), axis=0) + p["b"]
    return jax.nn.relu(z) @ p["out"]


OPEN = {
    "complex numbers": (through_fourier, "inputs move (w)"),
    "leaky": (layer(jax.nn.leaky_relu), "leaky"),
    "a gradient of its own": (layer(straight_through), "derivative"),
    "a penalty": (penalized, "act past it"),
    "tied weights": (tied, "act past it"),
    "a gate": (gated, "act past it"),
    "units are mixed": (mixed, "inputs move (w)"),
    "batch statistics": (batch_normed, "inputs move, and may lift it"),
}


@pytest.mark.parametrize("name", OPEN)
def test_what_may_move_a_dead_unit_is_named(name):
    function, why = OPEN[name]
    verdict, says, _ = verdict_of(function, one())
    assert verdict == POSSIBLE and why in says


def test_a_still_optimizer_never_revives_a_unit_of_the_first_layer():
    for activation in (jax.nn.relu, jax.nn.relu6, lambda z: jnp.where(z > 0, z**2, 0)):
        assert verdict_of(layer(activation), one())[:2] == (NEVER, "no gradient")
    noise = optax.chain(optax.add_noise(0.1, 0.5, KEY), optax.sgd(0.1))
    assert verdict_of(layer(), one(), tx=noise)[0] == POSSIBLE


def test_decay_of_the_biases_lifts_a_unit_at_the_step_that_the_law_says():
    """b s^t rises above -w.x, the largest of which is known: the first whole t."""
    rate, decay = 0.5, 0.02
    mask = {"w": False, "b": True, "out": False}
    tx = optax.chain(optax.add_decayed_weights(decay, mask), optax.sgd(rate))
    params = one(kernel=0.3, bias=-2.0)
    largest = float(np.max(np.asarray(X, float) / 3 @ np.full(6, np.float32(0.3))))
    step = int(np.ceil(np.log(largest / 2) / np.log1p(-rate * decay)))
    assert verdict_of(layer(), params, tx=tx) == (AT, "optimizer path", step)
    # A horizon that ends before says nothing beyond it.
    short = prognose(layer(), params, tx.init(params), [X], tx=tx, steps=step - 1)
    assert short.verdict[0] == NEVER and not short.forever[0] and str(step - 1) in short.reason[0]


def test_momentum_lifts_or_does_not():
    """All that is left of a trace m moves a parameter by rate m mu / (1 - mu)."""
    tx, params = optax.sgd(0.1, 0.5), one(kernel=0.0)
    for pull, verdict in ((-9.0, NEVER), (-11.0, AT)):  # of the bias: 0.9 and 1.1 in all
        memory = optax.tree_utils.tree_set(
            tx.init(params),
            trace={**jax.tree.map(jnp.zeros_like, params), "b": jnp.array([pull, 0.0])},
        )
        found = prognose(layer(), params, memory, [X], tx=tx)
        assert found.verdict[0] == verdict
        if verdict == AT:
            assert found.step[0] == np.ceil(-np.log2(1 - 10 / 11))


def test_weights_that_no_inputs_can_lift():
    """w <= 0 and b < 0 behind a relu: whatever the layer below does."""
    params = {"first": dense(KEY, (6, 4, 1), 0.0)[0], "w": jnp.full((4, 2), -1.0),
              "b": jnp.array([-0.1, 1.0]), "out": jnp.ones((2, 1))}  # fmt: skip

    def function(squash):
        below = lambda p, x: squash(x @ p["first"]["kernel"] + p["first"]["bias"])  # noqa: E731
        return lambda p, x: jax.nn.relu(below(p, x) @ p["w"] + p["b"]) @ p["out"]

    def last(squash, params):
        tx = optax.sgd(0.1)
        found = prognose(function(squash), params, tx.init(params), [X], tx=tx)
        return Verdict(found.verdict[-2]), found.theorem[-2]

    assert last(jax.nn.relu, params) == (NEVER, "any inputs")
    assert last(jnp.tanh, params)[0] == Verdict.NOT_DEAD
    far = {**params, "w": -params["w"], "b": jnp.array([-90.0, 1.0])}
    assert last(jax.nn.relu, far)[0] == POSSIBLE
    # Inputs within 0 and 1 lift by 4 at most.
    high = {**params, "w": -params["w"], "b": jnp.array([-4.1, 1.0])}
    assert last(jax.nn.sigmoid, high) == (NEVER, "any inputs")


# A normalization bounds z, whatever it is given ---------------------------------------------------


def centred(z, axis=-1):
    return z - z.mean(axis, keepdims=True)


def mean_square(z, axis=-1):
    return (z**2).mean(axis, keepdims=True)


def in_half(z):
    d = centred(z.astype(jnp.bfloat16))
    return d * jax.lax.rsqrt(mean_square(d) + 1e-5)


NORMS = {  # of z [..., 8] and a scale and shift [8]: within sqrt(8) |scale| of the shift
    "divided": lambda z, g, b: centred(z) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-5) * g + b,
    "scale first": lambda z, g, b: centred(z) * (g * jax.lax.rsqrt(z.var(-1) + 1e-6)[:, None]) + b,
    "deviation": lambda z, g, b: g * (centred(z) / (z.std(-1, keepdims=True) + 1e-5)) + b,
    "a power": lambda z, g, b: g * centred(z) * (z.var(-1, keepdims=True) + 1e-5) ** -0.5 + b,
    "rms": lambda z, g, b: z * jax.lax.rsqrt(mean_square(z) + 1e-5) * g + b,
    "floor": lambda z, g, b: z / jnp.maximum(jnp.sqrt(mean_square(z)), 1e-4) * g + b,
    "first axis": lambda z, g, b: (
        (lambda t: centred(t, 0) * jax.lax.rsqrt(mean_square(centred(t, 0), 0) + 1e-5))(z.T).T * g
        + b
    ),
    "bfloat16": lambda z, g, b: in_half(z).astype(jnp.float32) * g + b,
    "of length 1": lambda z, g, b: (
        8**0.5 * g * z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-6) + b
    ),
    "as in a paper": lambda z, g, b: (
        g * centred(z) / (z.std(-1, keepdims=True) + 1e-6) + b
    ),
    "flax": lambda z, g, b: nn.LayerNorm(use_fast_variance=False).apply(
        {"params": {"scale": g, "bias": b}}, z
    ),
    "flax rms": lambda z, g, b: nn.RMSNorm().apply({"params": {"scale": g}}, z) + b,
    "equinox": lambda z, g, b: jax.vmap(
        eqx.tree_at(lambda m: (m.weight, m.bias), eqx.nn.LayerNorm(8), (g, b))
    )(z),
    "haiku": lambda z, g, b: hk.without_apply_rng(
        hk.transform(lambda z: hk.LayerNorm(-1, True, True)(z))
    ).apply({"layer_norm": {"scale": g, "offset": b}}, z),
}  # fmt: skip


FEW = {"divided", "bfloat16", "flax"}
UNCENTRED = {"rms", "flax rms", "floor", "of length 1"}


def wild(rng):
    """Rows of 8 that come near to a bound: one number alone, all the same but for a last bit, of
    every size."""
    size = np.float32(10.0) ** rng.integers(-20, 16, (64, 1))
    rows = rng.standard_normal((64, 8)) * 10.0 ** rng.integers(-3, 3, (64, 8))
    rows[::3] = np.eye(8)[rng.integers(8, size=22)] * np.sign(rows[::3, :1])
    rows[1::3] = 1 + 1e-7 * rng.integers(-1, 2, (21, 8))
    return np.float32(rows * size)


@pytest.mark.parametrize("name", NORMS)
def test_a_normalized_number_is_bounded_whatever_it_is_made_of(name):
    rng = np.random.default_rng(len(name))
    scale, shift = (np.float32(rng.standard_normal(8)) for _ in range(2))
    program = jax.make_jaxpr(NORMS[name])(jnp.zeros((64, 8)), scale, shift)
    domain = Arrays([], [])
    unknown = domain.makers.fresh(top((64, 8)))
    with np.errstate(all="ignore"):
        (out,), _ = walk(program, [unknown, *map(domain.constant, (scale, shift))], domain)
    radius = np.broadcast_to((out.high - out.low) / 2, (64, 8))
    slack = 0.2 if name == "bfloat16" else 1e-4
    exact = np.sqrt(8) * np.abs(np.float64(scale))
    assert (radius >= exact).all() and (radius <= exact * (1 + slack) + 1e-5).all()
    largest = 0.0
    for _ in range(20):
        value = np.float64(jax.jit(NORMS[name])(wild(rng), scale, shift))
        assert (out.low <= value).all() and (value <= out.high).all()
        largest = max(largest, np.abs((value - shift) / scale).max())
    assert largest >= 0.99 * np.sqrt(8 if {name} & UNCENTRED else 7)


def test_a_variance_as_a_difference_of_means_has_no_bound():
    """Rounding may leave a variance of 0: then the numbers are divided by the epsilon alone."""
    z = np.float32(1000 + 0.02 * np.arange(8))[None]
    assert np.abs(NORMS["divided"](z, 1.0, 0.0)).max() < np.sqrt(8)
    assert np.abs(jax.nn.standardize(z)).max() > 3 * np.sqrt(8)
    for name, norm in (("fast", jax.nn.standardize), ("none", lambda z: z / z.std())):
        program, domain = jax.make_jaxpr(norm)(jnp.zeros((1, 8))), Arrays([], [])
        with np.errstate(all="ignore"):
            (out,), _ = walk(program, [domain.makers.fresh(top((1, 8)))], domain)
        assert not np.isfinite(out.high).any(), name


def normalized(norm):
    below = lambda p, x: jnp.tanh(x @ p["first"]) @ p["w"]  # noqa: E731
    return lambda p, x: jax.nn.relu(norm(below(p, x), p["scale"], p["b"])) @ p["out"]


def of_norm(bias, scale=0.5):
    first, w = jax.random.normal(KEY, (6, 6)), jax.random.normal(jax.random.key(2), (6, 8))
    return {"first": first, "w": w, "scale": jnp.full(8, scale), "out": jnp.ones((8, 1)),
            "b": jnp.zeros(8).at[0].set(bias)}  # fmt: skip


@pytest.mark.parametrize(
    "name", [*(n for n in NORMS if n in FEW), *(slow(n) for n in NORMS if n not in FEW)]
)
def test_a_shift_beyond_what_a_normalization_reaches_is_never_lifted(name):
    """sqrt(8) / 2 = 1.4142: below it for ever, above it not certain; with decay only for a time."""
    function, edge = normalized(NORMS[name]), np.sqrt(8) / 2
    slack = 0.2 if name == "bfloat16" else 1e-3
    assert verdict_of(function, of_norm(-edge * (1 + slack)))[:2] == (NEVER, "any inputs")
    verdict, says, _ = verdict_of(function, of_norm(-edge * 0.999))
    assert verdict == POSSIBLE and says == "its inputs move, and may lift it"


def test_a_normalization_bounds_until_the_shift_has_decayed():
    """-2 s^t is above -sqrt(8) / 2 from a known step on; before it, nothing lifts the unit."""
    rate, decay = 0.5, 0.02
    mask = {"first": False, "w": False, "scale": False, "b": True, "out": False}
    tx = optax.chain(optax.add_decayed_weights(decay, mask), optax.sgd(rate))
    step = int(np.ceil(np.log(np.sqrt(8) / 4) / np.log1p(-rate * decay)))
    function, params = normalized(NORMS["divided"]), of_norm(-2.0)
    assert verdict_of(function, params, tx=tx, steps=step - 1)[:2] == (NEVER, "any inputs")
    verdict, says, _ = verdict_of(function, params, tx=tx, steps=step)
    assert verdict == POSSIBLE and says == f"its inputs move, and may lift it from step {step} on"


def test_batch_statistics_bound_what_is_no_larger_than_the_batch():
    norm = lambda z, g, b: centred(z, 0) / jnp.sqrt(z.var(0) + 1e-5) * g + b  # noqa: E731
    edge = np.sqrt(len(X)) / 2
    for share, verdict in ((1.001, NEVER), (0.999, POSSIBLE)):
        assert verdict_of(normalized(norm), of_norm(-edge * share))[0] == verdict


def test_a_fast_variance_is_named_as_what_prevents_a_verdict():
    function = normalized(lambda z, g, b: jax.nn.standardize(z) * g + b)
    verdict, says, _ = verdict_of(function, of_norm(-9.0))
    assert verdict == POSSIBLE and "use_fast_variance=False" in says


def test_a_layer_that_is_dead_as_a_whole_stops_all_that_feeds_it():
    params = dense(KEY, (6, 8, 4, 1), -0.5)
    params[1]["bias"] = jnp.full(4, -50.0)
    for tx, forever in ((optax.sgd(0.1), True), (optax.adamw(1e-4, weight_decay=1e-3), False)):
        found = prognose(mlp, params, tx.init(params), [X], tx=tx, steps=100)
        assert set(found.theorem[8:]) == {"silent layer"}
        assert (found.verdict[found.margin <= 0] == NEVER).all()
        assert (found.forever[found.margin <= 0] == forever).all()


def test_at_exactly_zero_the_derivative_decides():
    params = one(kernel=0.0, bias=0.0)
    assert verdict_of(layer(), params)[:2] == (NEVER, "no gradient")
    verdict, says, _ = verdict_of(layer(lambda z: jnp.maximum(z, 0)), params)
    assert verdict == POSSIBLE and "derivative" in says or "exactly" in says


def test_what_is_frozen_stays_and_what_is_outside_the_trained_part_may_move():
    params = dense(KEY, (6, 8, 4, 1), -0.5)
    params[1]["bias"] = jnp.full(4, -50.0).at[0].set(50.0)
    labels = [{"kernel": name, "bias": name} for name in ("no", "yes", "yes")]
    tx = optax.multi_transform({"yes": optax.adam(0.1), "no": optax.set_to_zero()}, labels)
    frozen = prognose(mlp, params, tx.init(params), [X], tx=tx)
    assert (frozen.verdict[9:] == NEVER).all() and frozen.forever[9:].all()
    whole = {"trained": params[1:], "rest": params[0]}
    function = lambda p, x: mlp([p["rest"], *p["trained"]], x)  # noqa: E731
    tx = optax.adam(0.1)
    found = prognose(function, whole, tx.init(whole["trained"]), [X], tx=tx,
                     trainable=whole["trained"])  # fmt: skip
    assert (found.verdict[9:] == POSSIBLE).all() and "rest/kernel" in found.reason[9]


def test_half_precision_is_given_its_own_rounding():
    """A margin of 1 % of the terms is clear of float32's rounding and not of bfloat16's."""
    params = one(kernel=10.0, bias=-1.0)
    params["b"] = params["b"].at[0].set(-1.002 * float((X / 3 @ params["w"])[:, 0].max()))
    assert verdict_of(layer(), params)[0] == NEVER

    def half(p, x):
        return layer()(jax.tree.map(lambda v: v.astype(jnp.bfloat16), p), x.astype(jnp.bfloat16))

    found = prognose(half, params, optax.sgd(0.1).init(params), [X], tx=optax.sgd(0.1))
    assert found.verdict[0] in (POSSIBLE, Verdict.NOT_DEAD)


def broken(updates, state, params=None):
    raise TypeError("no value function")


def test_bad_input_is_refused_in_one_line():
    params, tx = one(), optax.adam(0.1)
    memory = tx.init(params)
    cases = [
        (dict(steps=0), "steps=0"),
        (dict(batches=[]), "batches is empty"),
        (dict(memory=optax.sgd(0.1).init(params)), "has no such leaf"),
        (dict(memory=tx.init({**params, "w": jnp.ones((6, 3))})), r"0/mu/w.*\(6, 3\)"),
        (dict(trainable={"v": params["w"]}, memory=tx.init({"v": params["w"]})), "'v'"),
        (dict(trainable={"w": params["w"] + 1}, memory=tx.init({"w": params["w"]})), "other num"),
        (dict(exclude=["none"]), "names no site"),
        (dict(tx=optax.GradientTransformation(tx.init, broken)), "cannot be traced"),
    ]
    for changed, says in cases:
        given = {"memory": memory, "batches": [X], "tx": tx, **changed}
        with pytest.raises(ValueError, match=says) as error:
            prognose(layer(), params, **given)
        assert "\n" not in str(error.value)


# Against the engine's certificates ---------------------------------------------------------------


def of_engine(config, params, start, task, horizon):
    """The `Prognosis` of the engine's network, whose updates are those of its training step."""
    function = lambda p, x: models.apply(config, p, x).output  # noqa: E731

    def update(updates, state, params=None):
        now = start._replace(params=params, optimizer=state)
        return parameter_updates(config, KEY, now, updates)

    tx = optax.GradientTransformation(optimizers.make_optimizer(config).init, update)
    params, memory = jax.tree.map(jnp.asarray, (params, start.optimizer))
    return prognose(function, params, memory, [jnp.asarray(task.inputs)], tx=tx, steps=horizon)


ENGINE = [
    (certified.BASE,),
    (certified.BASE, certified.HEAVY),
    (certified.BASE, certified.ADAM, {"momentum": 0.5}),
    (certified.BASE, certified.COUPLED),
    (certified.BASE, certified.DECOUPLED, certified.BIASES),
    (certified.BASE, certified.COUPLED, {"optimizer": "adamw"}, certified.WEIGHTS),
    (certified.DEEP, certified.RESTING),
]


def agreement(parts, seed, lanes):
    """Counts of (certified, foretold) verdicts; asserts that none contradicts the other."""
    config, rng = certified.program(parts), np.random.default_rng(seed)
    configs, tasks, begin = certified.random_runs(config, rng)
    states, _, _ = certified.simulated(configs, tasks, begin, seed)
    pairs = collections.Counter()
    for lane in range(lanes):
        state = jax.tree.map(lambda leaf, i=lane: leaf[i, 9], states)
        config, task = configs[lane], tasks[lane]
        ours = certify(config, task, state, horizon=50)
        theirs = of_engine(config, state.params, state, task, 50)
        for a, b in zip(ours.verdict.tolist(), theirs.verdict.tolist(), strict=True):
            assert {a, b} != {NEVER, AT} and not (b == Verdict.NOT_DEAD and a in (NEVER, AT))
            pairs[Verdict(a).name, Verdict(b).name] += 1
        both = (ours.verdict == AT) & (theirs.verdict == AT)
        np.testing.assert_array_equal(ours.step[both] - 9, theirs.step[both])
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("parts", ENGINE[3:5])
def test_prognosis_agrees_with_the_certificates_of_the_engines_network(parts):
    pairs = agreement(parts, 5, 4)
    assert sum(pairs[(name, name)] for name in ("CERTIFIED_NEVER", "CERTIFIED_AT")) > 0, pairs


@pytest.mark.slow
@pytest.mark.parametrize("parts", ENGINE)
def test_prognosis_agrees_with_the_certificates_in_more_states(parts):
    agreement(parts, 11, 10)
