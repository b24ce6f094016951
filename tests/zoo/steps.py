"""Whole training steps, as people write them: functions of (state, *data)."""

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training import train_state

from tests.zoo.base import IMAGES, KEY, LABELS, X, Y, arrays, drawn, step

relu = jax.nn.relu
UNITS = (9,), (7,)


def mlp(p, x):
    x = relu(x @ p["w0"] + p["b0"])
    return relu(x @ p["w1"] + p["b1"]) @ p["out"]


def params_of_mlp():
    return arrays(w0=(12, 9), b0=(9,), w1=(9, 7), b1=(7,), out=(7, 4))


def squares(p, x, y):
    return ((mlp(p, x) - y) ** 2).mean()


def stepped(tx, loss=squares):
    """A training step by an optax optimizer, and its first state."""

    def one(state, *data):
        params, memory = state
        value, grads = jax.value_and_grad(loss)(params, *data)
        updates, memory = tx.update(grads, memory, params, value=value)
        return (optax.apply_updates(params, updates), memory), value

    params = params_of_mlp()
    return one, (params, tx.init(params)), (X, Y)


for name, tx in {
    "clipped by the global norm, AdamW, cosine": optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10))
    ),
    "elementwise clipping, gradient noise, SGD": optax.chain(
        optax.clip(0.1), optax.add_noise(0.1, 0.5, KEY), optax.sgd(0.1, 0.9, nesterov=True)
    ),
    "adaptive clipping, LAMB": optax.chain(optax.adaptive_grad_clip(0.1), optax.lamb(1e-3)),
    "Adafactor": optax.adafactor(1e-3),
    "Shampoo's kin: Muon": optax.contrib.muon(1e-3),
    "Lion, weights kept non-negative": optax.chain(
        optax.lion(1e-3), optax.keep_params_nonnegative()
    ),
    "AMSGrad": optax.amsgrad(1e-3),
    "apply if finite": optax.apply_if_finite(optax.adam(1e-3), 3),
    "reduced on a plateau": optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau()),
    "accumulated by MultiSteps": optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(),
    "Prodigy": optax.contrib.prodigy(),
}.items():
    step(name, *UNITS)(functools.partial(stepped, optax.with_extra_args_support(tx)))


@step("gradients accumulated in a scan", *UNITS)
def accumulated():
    tx = optax.adam(1e-3)

    def one(state, x, y):
        params, memory = state

        def add(total, batch):
            value, grads = jax.value_and_grad(squares)(params, *batch)
            return jax.tree.map(jnp.add, total, (value, grads)), None

        zero = 0.0, jax.tree.map(jnp.zeros_like, params)
        batches = x.reshape(4, 8, 12), y.reshape(4, 8, 4)
        (value, grads), _ = jax.lax.scan(add, zero, batches)
        updates, memory = tx.update(jax.tree.map(lambda g: g / 4, grads), memory)
        return (optax.apply_updates(params, updates), memory), value

    params = params_of_mlp()
    return one, (params, tx.init(params)), (X, Y)


@step("an epoch: steps in a scan", *UNITS)
def epoch():
    one, state, _ = stepped(optax.with_extra_args_support(optax.adam(1e-3)))
    fn = lambda state, x, y: jax.lax.scan(lambda s, b: one(s, *b), state, (x, y))  # noqa: E731
    return fn, state, (X.reshape(4, 8, 12), Y.reshape(4, 8, 4))


@step("steps in a fori_loop over shuffled batches", *UNITS)
def shuffled():
    one, state, _ = stepped(optax.with_extra_args_support(optax.adam(1e-3)))

    def fn(state, x, y, key):
        order = jax.random.permutation(key, 32).reshape(4, 8)
        return jax.lax.fori_loop(0, 4, lambda i, s: one(s, x[order[i]], y[order[i]])[0], state)

    return fn, state, (X, Y, KEY)


@step("averaged parameters (EMA)", *UNITS)
def averaged():
    tx = optax.adam(1e-3)

    def one(state, x, y):
        params, memory, average = state
        updates, memory = tx.update(jax.grad(squares)(params, x, y), memory)
        params = optax.apply_updates(params, updates)
        return params, memory, optax.incremental_update(params, average, 0.01)

    params = params_of_mlp()
    return one, (params, tx.init(params), params), (X, Y)


@step("mixed precision with a dynamic loss scale", *UNITS)
def scaled():
    tx = optax.sgd(1e-2)

    def one(state, x, y):
        params, memory, scale = state

        def loss(p):
            half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), p)
            return ((mlp(half, x.astype(jnp.float16)).astype(jnp.float32) - y) ** 2).mean() * scale

        grads = jax.tree.map(lambda g: g / scale, jax.grad(loss)(params))
        good = jnp.isfinite(optax.tree.norm(grads))
        updates, new = tx.update(grads, memory)
        keep = lambda a, b: jnp.where(good, a, b)  # noqa: E731
        params = jax.tree.map(keep, optax.apply_updates(params, updates), params)
        scale = jnp.clip(jnp.where(good, scale * 1.001, scale / 2), 1.0, 2.0**15)
        return params, jax.tree.map(keep, new, memory), scale

    params = params_of_mlp()
    return one, (params, tx.init(params), jnp.float32(1024)), (X, Y)


@step("rematerialized, value_and_grad with has_aux", *UNITS)
def rematerialized():
    def one(params, x, y):
        def loss(p):
            out = jax.checkpoint(mlp)(p, x)
            return ((out - y) ** 2).mean(), {"accuracy": (out.argmax(-1) == y.argmax(-1)).mean()}

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value, aux

    return one, params_of_mlp(), (X, Y)


@step("jitted inside, with donated arguments", *UNITS)
def donated():
    one, state, data = stepped(optax.with_extra_args_support(optax.adam(1e-3)))
    return jax.jit(one, donate_argnums=0), state, data


@step("gradients per example, clipped (private SGD)", *UNITS)
def private():
    def one(params, x, y, key):
        grads = jax.vmap(jax.grad(squares), (None, 0, 0))(params, x[:, None], y[:, None])
        norms = jnp.sqrt(sum((g**2).reshape(32, -1).sum(1) for g in jax.tree.leaves(grads)))
        share = 1 / jnp.maximum(norms, 1.0)
        mean = lambda g: (g * share.reshape(-1, *[1] * (g.ndim - 1))).mean(0)  # noqa: E731
        return jax.tree.map(lambda p, g: p - 0.1 * mean(g), params, grads)

    return one, params_of_mlp(), (X, Y, KEY)


@step("gradients cut to their largest entries", *UNITS)
def sparse_gradients():
    def largest(g):
        return jnp.where(jnp.abs(g) >= jnp.sort(jnp.abs(g).ravel())[-3], g, 0)

    def one(params, x, y):
        grads = jax.tree.map(largest, jax.grad(squares)(params, x, y))
        return jax.tree.map(lambda p, g: p - 0.1 * jax.nn.relu(g), params, grads)

    return one, params_of_mlp(), (X, Y)


@step("sharpness-aware: two gradients", *UNITS)
def sharpness_aware():
    def one(params, x, y):
        grads = jax.grad(squares)(params, x, y)
        length = 0.05 / (optax.tree.norm(grads) + 1e-12)
        away = jax.tree.map(lambda p, g: p + length * g, params, grads)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(squares)(away, x, y))

    return one, params_of_mlp(), (X, Y)


@step("generator and critic, alternating", (6,), (8,))
def adversarial():
    def generate(p, z):
        return relu(z @ p["w"] + p["b"]) @ p["out"]

    def judge(p, x):
        return (relu(x @ p["w"] + p["b"]) @ p["out"])[:, 0]

    def one(state, x, key):
        g, d = state
        z = jax.random.normal(key, (32, 3))
        loss_d = lambda d: jax.nn.softplus(-judge(d, x)).mean() + jax.nn.softplus(  # noqa: E731
            judge(d, jax.lax.stop_gradient(generate(g, z)))).mean()  # fmt: skip
        loss_g = lambda g: -judge(d, generate(g, z)).mean()  # noqa: E731
        lower = lambda p, s: p - 0.1 * s  # noqa: E731
        d = jax.tree.map(lower, d, jax.grad(loss_d)(d))
        return jax.tree.map(lower, g, jax.grad(loss_g)(g)), d

    state = arrays(w=(3, 8), b=(8,), out=(8, 12)), arrays(w=(12, 6), b=(6,), out=(6, 1))
    return one, state, (X, KEY)


@step("Q-learning with a target network", *UNITS, *UNITS)
def q_learning():
    tx = optax.adam(1e-3)

    def one(state, x, action, reward, after):
        params, target, memory, count = state
        goal = reward + 0.99 * mlp(target, after).max(-1)

        def loss(p):
            q = jnp.take_along_axis(mlp(p, x), action[:, None], 1)[:, 0]
            return optax.huber_loss(q, jax.lax.stop_gradient(goal)).mean()

        updates, memory = tx.update(jax.grad(loss)(params), memory)
        params = optax.apply_updates(params, updates)
        target = optax.periodic_update(params, target, count, 100)
        return params, target, memory, count + 1

    params = params_of_mlp()
    return one, (params, params, tx.init(params), jnp.int32(0)), (X, LABELS, Y[:, 0], X + 1)


@step("flax TrainState with BatchNorm and dropout", (9,))
def flax_state():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(9)(x)))
            return nn.Dense(4)(nn.Dropout(0.2, deterministic=not train)(x))

    class State(train_state.TrainState):
        batch_stats: dict

    net = Net()
    variables = drawn(functools.partial(net.init, train=False), KEY, X)
    state = State.create(apply_fn=net.apply, params=variables["params"], tx=optax.adam(1e-3),
                         batch_stats=variables["batch_stats"])  # fmt: skip

    def one(state, x, y, key):
        def loss(p):
            out, new = state.apply_fn({"params": p, "batch_stats": state.batch_stats}, x, True,
                                      mutable=["batch_stats"], rngs={"dropout": key})  # fmt: skip
            return ((out - y) ** 2).mean(), new

        grads, new = jax.grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=new["batch_stats"])

    return one, state, (X, Y, KEY)


@step("nnx.value_and_grad and nnx.Optimizer, split and merged", (9,))
def nnx_optimizer():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(12, 9, rngs=rngs), nnx.BatchNorm(9, rngs=rngs)
            self.drop, self.out = nnx.Dropout(0.2, rngs=rngs), nnx.Linear(9, 4, rngs=rngs)

        def __call__(self, x):
            return self.out(self.drop(nnx.relu(self.norm(self.first(x)))))

    net = Net(nnx.Rngs(0))
    graph, state = nnx.split((net, nnx.Optimizer(net, optax.adam(1e-3), wrt=nnx.Param)))

    def one(state, x, y):
        net, optimizer = nnx.merge(graph, state)
        loss = lambda net: ((net(x) - y) ** 2).mean()  # noqa: E731
        value, grads = nnx.value_and_grad(loss)(net)
        optimizer.update(net, grads)
        return nnx.state((net, optimizer)), value

    return one, state, (X, Y)


@step("equinox filter_value_and_grad", (9,), (9,))
def equinox():
    tx = optax.adam(1e-3)
    model = eqx.nn.MLP(12, 4, 9, 2, key=KEY)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def one(state, x, y):
        params, memory = state

        @eqx.filter_value_and_grad
        def loss(model):
            return ((jax.vmap(model)(x) - y) ** 2).mean()

        value, grads = loss(eqx.combine(params, static))
        updates, memory = tx.update(grads, memory, params)
        return (eqx.apply_updates(params, updates), memory), value

    return one, (params, tx.init(params)), (X, Y)


@step("haiku transform_with_state, BatchNorm", (6,), (9,))
def haiku():
    def net(x):
        x = hk.Conv2D(6, 3)(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9)(x, is_training=True)).mean((1, 2))
        return hk.Linear(4)(jax.nn.relu(hk.Linear(9)(x)))

    model, tx = hk.transform_with_state(net), optax.sgd(0.1)
    params, statistics = drawn(model.init, KEY, IMAGES)

    def one(state, x, labels):
        params, statistics, memory = state

        def loss(p):
            out, new = model.apply(p, statistics, None, x)
            return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean(), new

        grads, statistics = jax.grad(loss, has_aux=True)(params)
        updates, memory = tx.update(grads, memory)
        return optax.apply_updates(params, updates), statistics, memory

    return one, (params, statistics, tx.init(params)), (IMAGES, LABELS[:8])


@step("sharded over the data by jit", *UNITS)
def sharded():
    one, state, data = stepped(optax.with_extra_args_support(optax.adam(1e-3)))
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(one, in_shardings=(whole, split, split)), state, data


@step("an ensemble of steps by vmap", (3, 9), (3, 7))
def ensemble():
    one, _, _ = stepped(optax.with_extra_args_support(optax.adam(1e-3)))
    params = arrays(w0=(3, 12, 9), w1=(3, 9, 7), out=(3, 7, 4))
    params |= {"b0": jnp.zeros((3, 9)), "b1": jnp.zeros((3, 7))}
    state = params, jax.vmap(optax.adam(1e-3).init)(params)
    return jax.vmap(one, (0, None, None)), state, (X, Y)


@step("steps within steps: a learned learning rate", *UNITS)
def learned_rate():
    def one(state, x, y):
        def outer(log_rate):
            grads = jax.grad(squares)(state["params"], x, y)
            moved = jax.tree.map(lambda p, g: p - jnp.exp(log_rate) * g, state["params"], grads)
            return squares(moved, x + 1, y), moved

        slope, moved = jax.grad(outer, has_aux=True)(state["log_rate"])
        return {"params": moved, "log_rate": state["log_rate"] - 0.1 * slope}

    return one, {"params": params_of_mlp(), "log_rate": jnp.float32(-3)}, (X, Y)
