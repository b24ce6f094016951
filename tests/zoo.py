"""Models of every style: what makes (function of (params, *data), params, data), and the units of
every site to be found, in order."""

import functools
from functools import partial

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from relu_dynamics.inspection import site

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (32, 12))
IMAGES = jax.random.normal(jax.random.key(2), (8, 8, 8, 3))
TOKENS = jax.random.normal(jax.random.key(3), (4, 6, 8))


def linen(module, *data, method=None, **kwargs):
    variables = module.init(KEY, *data, **kwargs)
    return partial(module.apply, **kwargs), variables, data


class MLP(nn.Module):
    act: object = nn.relu

    @nn.compact
    def __call__(self, x):
        for width in (16, 24):
            x = self.act(nn.Dense(width)(x))
        return nn.Dense(4)(x)


class CNN(nn.Module):
    train: bool = True

    @nn.compact
    def __call__(self, x):
        for width in (6, 10):
            x = nn.Conv(width, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(4)(nn.relu(nn.Dense(20)(x)))


def cnn_train():
    module = CNN()
    variables = module.init(KEY, IMAGES)
    fn = lambda v, x: module.apply(v, x, mutable=["batch_stats"])[0]  # noqa: E731
    return fn, variables, (IMAGES,)


class ResBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.GroupNorm(num_groups=2)(nn.Conv(self.width, (3, 3))(x)))
        y = nn.GroupNorm(num_groups=2)(nn.Conv(self.width, (3, 3))(y))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        for _ in range(2):
            x = nn.remat(ResBlock)(8)(x)
        return nn.Dense(4)(x.mean((1, 2)))


class PreActResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        for _ in range(2):
            y = nn.relu(nn.LayerNorm()(x))
            y = nn.relu(nn.LayerNorm()(nn.Conv(8, (3, 3))(y)))
            x = x + nn.Conv(8, (3, 3))(y)
        return nn.Dense(4)(x.mean((1, 2)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(x.shape[-1])(nn.relu(nn.Dense(20)(x))), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(4)(stack()(nn.Dense(16)(x), None)[0])


class ScannedRemat(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer, prevent_cse=False)
        stack = nn.scan(layer, variable_axes={"params": 1}, split_rngs={"params": True}, length=3)
        return nn.Dense(4)(stack()(nn.Dense(16)(x), None)[0])


class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
        members = nn.vmap(
            MLP, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=5
        )
        return members()(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h)
        h = nn.LayerNorm()(x)
        return x + nn.Dense(x.shape[-1])(nn.relu(nn.Dense(4 * x.shape[-1])(h)))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(50, 8)(tokens) + self.param("position", nn.initializers.normal(), (6, 8))
        for _ in range(2):
            x = Block()(x)
        return nn.Dense(4)(nn.LayerNorm()(x))


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(12)
        x = nn.relu(layer(x))
        x = nn.relu(layer(x))
        return nn.Dense(4)(x)


class Jitted(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = nn.jit(MLP)
        return block()(x) + jax.jit(lambda z: jnp.where(z > 0, z, 0.0) @ jnp.ones((7, 4)))(
            nn.Dense(7)(x)
        )


class Maxout(nn.Module):  # plain jnp rectifiers, an alias, a default attribute
    act: object = jax.nn.relu

    @nn.compact
    def __call__(self, x):
        x = jnp.maximum(nn.Dense(9)(x), 0)
        x = self.act(nn.Dense(10)(x)) ** 2
        x = jnp.where(jnp.abs(x) > 3, 3.0, x)
        return nn.Dense(4)(jnp.clip(nn.Dense(11)(x), 0, 6))


class RNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Cell(nn.Module):
            @nn.compact
            def __call__(self, h, x):
                h = nn.relu(nn.Dense(9, use_bias=False)(h) + nn.Dense(9)(x))
                return h, h

        over_time = nn.scan(
            Cell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        h, _ = over_time()(jnp.zeros((x.shape[0], 9)), x)
        return nn.Dense(4)(h)


class ReGLU(nn.Module):
    @nn.compact
    def __call__(self, x):
        gate, value = jnp.split(nn.Dense(28)(x), 2, axis=-1)
        return nn.Dense(4)(nn.relu(gate) * value)


class WeightNormed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.WeightNorm(nn.Dense(14))(x))
        return nn.Dense(4)(x)


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = nn.Dense(6)(nn.relu(nn.Dense(11)(y)))
        return nn.Dense(4)(x + jnp.swapaxes(y, 1, 2))


class NnxMLP(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(12, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Linear(16, 24, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(24, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.out(self.drop(nnx.relu(self.second(x))))


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 7, (3, 3), rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(7, 7, rngs=rngs) for _ in range(2)])
        self.out = nnx.Linear(7, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv(x))
        for block in self.blocks:
            x = x + nnx.relu(block(x))
        return self.out(x.mean((1, 2)))


def of_nnx(module, *data):
    graph, state, other = nnx.split(module, nnx.Param, ...)
    fresh = functools.partial(jax.tree.map, lambda leaf: leaf)  # nnx wants its Variables new
    fn = lambda state, other, *data: nnx.merge(graph, state, fresh(other))(*data)  # noqa: E731
    return fn, state, (other, *data)


def equinox_mlp():
    model = eqx.nn.MLP(12, 4, 16, 2, key=KEY)
    params, static = eqx.partition(model, eqx.is_array)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, (X,)


class EqxConv(eqx.Module):  # channels first
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    out: eqx.nn.Linear

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 6, 3, key=a)
        self.second = eqx.nn.Conv2d(6, 9, 3, key=b)
        self.out = eqx.nn.Linear(9 * 16, 4, key=c)

    def __call__(self, x):
        x = jax.nn.relu(self.second(jax.nn.relu(self.first(x))))
        return self.out(x.reshape(-1))


def equinox_cnn():
    params, static = eqx.partition(EqxConv(KEY), eqx.is_array)
    fn = lambda p, x: jax.vmap(eqx.combine(p, static))(x)  # noqa: E731
    return fn, params, (jnp.moveaxis(IMAGES, -1, 1),)


def haiku_mlp():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([16, 24, 4])(x)))
    return model.apply, model.init(KEY, X), (X,)


def sae(kind):
    def fn(p, x):
        z = (x - p["mean"]) @ p["encoder"] + p["bias"]
        if kind == "relu":
            f = jax.nn.relu(z)
        elif kind == "topk":
            values, at = jax.lax.top_k(z, 4)
            f = jnp.zeros_like(z).at[jnp.arange(len(z))[:, None], at].set(jax.nn.relu(values))
        elif kind == "batch_topk":
            limit = jax.lax.top_k(z.reshape(-1), 4 * len(z))[0][-1]
            f = jnp.where(z >= limit, jax.nn.relu(z), 0.0)
        else:
            f = jumprelu(z, jnp.exp(p["log_threshold"]))
        return f @ p["decoder"] + p["mean"]

    a, b = jax.random.split(KEY)
    params = {
        "encoder": jax.random.normal(a, (12, 40)) * 0.3, "bias": jnp.zeros(40) - 0.2,
        "decoder": jax.random.normal(b, (40, 12)) * 0.3, "mean": jnp.zeros(12),
        "log_threshold": jnp.log(jnp.full(40, 0.5)),
    }  # fmt: skip
    return fn, params, (X,)


@jax.custom_vjp
def jumprelu(z, threshold):
    return z * (z > threshold)


def _jumprelu_back(residue, g):  # a rectangular kernel for the threshold
    z, threshold = residue
    near = (jnp.abs(z - threshold) < 0.05) / 0.05
    return g * (z > threshold), (-threshold * near * g).sum(0)


jumprelu.defvjp(lambda z, t: (jumprelu(z, t), (z, t)), _jumprelu_back)


def dense(p, x):
    return x @ p["w"] + p["b"]


def weights(key, *shape):
    return {"w": jax.random.normal(key, shape) * 0.3, "b": jnp.zeros(shape[-1])}


def branches():
    def fn(p, x):
        deep = lambda h: dense(p["c"], jax.nn.relu(dense(p["b"], h)))  # noqa: E731
        h = jax.nn.relu(dense(p["a"], x))
        return jax.lax.cond(x.sum() > -1e9, deep, lambda h: h[:, :4], h)

    keys = jax.random.split(KEY, 3)
    params = dict(a=weights(keys[0], 12, 10), b=weights(keys[1], 10, 13), c=weights(keys[2], 13, 4))
    return fn, params, (X,)


def fixed_point():  # a while loop: the same weights until it settles
    def fn(p, x):
        p = {**jax.lax.stop_gradient(p), "c": p["c"]}  # reverse mode cannot enter a while loop
        drive = dense(p["a"], x)
        again = lambda s: (s[0] + 1, jax.nn.relu(drive + s[1] @ p["r"]))  # noqa: E731
        still = jax.lax.stop_gradient
        h = jax.lax.while_loop(
            lambda s: s[0] < 5, lambda s: still(again(s)), still((0, jnp.zeros_like(drive)))
        )[1]
        return h @ p["c"]["w"]

    keys = jax.random.split(KEY, 3)
    params = dict(a=weights(keys[0], 12, 10), r=weights(keys[1], 10, 10)["w"] * 0.2,
                  c=weights(keys[2], 10, 4))  # fmt: skip
    return fn, params, (X,)


def own_gradient():  # a block with a derivative of its own
    @jax.custom_vjp
    def block(p, x):
        return dense(p["b"], jax.nn.relu(dense(p["a"], x)))

    def forward(p, x):
        out, back = jax.vjp(lambda p, x: dense(p["b"], jax.nn.relu(dense(p["a"], x))), p, x)
        return out, back

    block.defvjp(forward, lambda back, g: jax.tree.map(lambda t: jnp.clip(t, -1, 1), back(g)))
    keys = jax.random.split(KEY)
    return block, dict(a=weights(keys[0], 12, 10), b=weights(keys[1], 10, 4)), (X,)


def experts():
    def fn(p, x):
        h = jax.nn.relu(jnp.einsum("bd,edf->bef", x, p["up"]) + p["bias"])
        return jnp.einsum("bef,efo->bo", h, p["down"])

    a, b = jax.random.split(KEY)
    params = dict(up=jax.random.normal(a, (3, 12, 7)), bias=jnp.zeros((3, 7)),
                  down=jax.random.normal(b, (3, 7, 4)))  # fmt: skip
    return fn, params, (X,)


def relu_attention():
    def fn(p, x):
        q, k, v = (jnp.einsum("btd,dhe->bhte", x, p[n]) for n in "qkv")
        scores = jax.nn.relu(q @ jnp.swapaxes(k, -1, -2) / 3.0)
        return jnp.einsum("bhts,bhse->bte", scores, v)

    keys = jax.random.split(KEY, 3)
    return (
        fn,
        {n: jax.random.normal(k, (8, 2, 4)) for n, k in zip("qkv", keys, strict=True)},
        (TOKENS,),
    )


def eight_layers_scanned_plainly():
    def fn(p, x):
        step = lambda h, w: (jax.nn.relu(h @ w["w"] + w["b"]), None)  # noqa: E731
        return jax.lax.scan(step, x, p)[0]

    return fn, {"w": jax.random.normal(KEY, (8, 12, 12)) * 0.4, "b": jnp.zeros((8, 12))}, (X,)


def of_dense(function, *shapes):
    """A function of {"w0": ..., "w1": ...} with kernels of these shapes, and of X."""
    keys = jax.random.split(KEY, len(shapes))
    params = {f"w{k}": jax.random.normal(key, shape) * 0.3
              for k, (key, shape) in enumerate(zip(keys, shapes, strict=True))}  # fmt: skip
    return function, params, (X,)


def flattened_convolution():
    def fn(p, x):
        z = jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu((z + p["b"]).reshape(len(x), -1)) @ p["out"]

    a, b = jax.random.split(KEY)
    params = dict(w=jax.random.normal(a, (3, 3, 3, 6)), b=jnp.zeros(6),
                  out=jax.random.normal(b, (384, 4)))  # fmt: skip
    return fn, params, (IMAGES,)


def concatenated():
    return of_dense(
        lambda p, x: jax.nn.relu(jnp.concatenate([x @ p["w0"], x @ p["w1"]], -1)) @ p["w2"],
        (12, 5), (12, 7), (12, 4),
    )  # fmt: skip


def picked_by_a_loop():
    def fn(p, x):
        return jax.lax.fori_loop(0, 4, lambda i, h: jax.nn.relu(h @ p["w0"][i]), x) @ p["w1"]

    return of_dense(fn, (4, 12, 12), (12, 4))


def picked_by_a_scan():
    def fn(p, x):
        layer = lambda h, i: (jax.nn.relu(h @ p["w0"][i]), None)  # noqa: E731
        return jax.lax.scan(layer, x, jnp.arange(4))[0] @ p["w1"]

    return of_dense(fn, (4, 12, 12), (12, 4))


def sorted_latents():
    def fn(p, x):
        z = site(x @ p["w0"], "latents")
        return jnp.where(z >= jnp.sort(z, -1)[:, -3:-2], z, 0) @ p["w1"]

    return of_dense(fn, (12, 20), (20, 4))


def half_precision(dtype):
    def fn(p, x):
        p, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (p, x))
        return jax.nn.relu(x @ p["w0"]) @ p["w1"]

    return of_dense(fn, (12, 9), (9, 4))


def of_activation(function):
    """A network of one hidden layer with this activation."""
    return of_dense(lambda p, x: function(x @ p["w0"]) @ p["w1"], (12, 9), (9, 4))


ACTIVATIONS = {
    "maximum": lambda z: jnp.maximum(z, 0),
    "where": lambda z: jnp.where(z > 0, z, 0),
    "where, the other way": lambda z: jnp.where(z <= 0, 0, z),
    "clip below": lambda z: jnp.clip(z, 0),
    "product with a sign": lambda z: z * (z > 0),
    "mean with its size": lambda z: (z + jnp.abs(z)) / 2,
    "relu6": jax.nn.relu6,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "hard swish": jax.nn.hard_swish,
    "sparse plus": jax.nn.sparse_plus,
    "squared relu": lambda z: jax.nn.relu(z) ** 2,
    "leaky relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "gelu, exact": lambda z: jax.nn.gelu(z, approximate=False),
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "softplus": jax.nn.softplus,
}
NONE = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "exp": jnp.exp,
    "softmax": jax.nn.softmax,
    "abs": jnp.abs,
    "square": jnp.square,
    "guard": lambda z: jnp.maximum(z, 1e-6),
    "identity": lambda z: z,
    "divided by a guarded deviation": lambda z: z / jnp.maximum(z.std(), 1e-6),
    "variance cut at 0": lambda z: z * jax.lax.rsqrt(
        jnp.maximum(0, (z**2).mean(-1, keepdims=True) - z.mean(-1, keepdims=True) ** 2) + 1e-5
    ),
}  # fmt: skip


TEXT = np.arange(24).reshape(4, 6) % 50
ZOO = {
    "linen MLP": (lambda: linen(MLP(), X), [(16,), (24,)]),
    "linen MLP, gelu": (lambda: linen(MLP(nn.gelu), X), [(16,), (24,)]),
    "linen CNN + BatchNorm, training": (cnn_train, [(6,), (10,), (20,)]),
    "linen CNN + BatchNorm, running": (lambda: linen(CNN(False), IMAGES), [(6,), (10,), (20,)]),
    "linen ResNet, nn.remat, GroupNorm": (lambda: linen(ResNet(), IMAGES), [(8,)] * 5),
    "linen pre-activation ResNet": (lambda: linen(PreActResNet(), IMAGES), [(8,)] * 4),
    "linen nn.scan over layers": (lambda: linen(Scanned(), X), [(3, 20)]),
    "linen nn.scan(nn.remat), axis 1": (lambda: linen(ScannedRemat(), X), [(3, 20)]),
    "linen nn.vmap ensemble": (lambda: linen(Ensemble(), X), [(5, 16), (5, 24)]),
    "linen transformer": (lambda: linen(Transformer(), TEXT), [(32,), (32,)]),
    "linen module called twice": (lambda: linen(Twice(), X), [(12,)]),
    "linen nn.jit, jax.jit inside": (lambda: linen(Jitted(), X), [(16,), (24,), (7,)]),
    "linen plain jnp, squared, clipped": (lambda: linen(Maxout(), X), [(9,), (10,), (11,)]),
    "linen RNN, nn.scan over time": (lambda: linen(RNN(), TOKENS), [(9,)]),
    "linen ReGLU": (lambda: linen(ReGLU(), X), [(14,)]),
    "linen WeightNorm": (lambda: linen(WeightNormed(), X), [(14,)]),
    "linen MLP-mixer": (lambda: linen(Mixer(), TOKENS), [(11,)]),
    "nnx MLP, BatchNorm, Dropout": (lambda: of_nnx(NnxMLP(nnx.Rngs(0)), X), [(16,), (24,)]),
    "nnx CNN": (lambda: of_nnx(NnxCNN(nnx.Rngs(0)), IMAGES), [(7,)] * 3),
    "equinox MLP": (equinox_mlp, [(16,), (16,)]),
    "equinox CNN, channels first": (equinox_cnn, [(6,), (9,)]),
    "haiku MLP": (haiku_mlp, [(16,), (24,)]),
    "SAE, relu": (lambda: sae("relu"), [(40,)]),
    "SAE, top-k": (lambda: sae("topk"), [(40,)]),
    "SAE, batch top-k": (lambda: sae("batch_topk"), [(40,)]),
    "SAE, JumpReLU": (lambda: sae("jump"), [(40,)]),
    "lax.cond": (branches, [(10,), (13,)]),
    "lax.while_loop": (fixed_point, [(10,)]),
    "custom_vjp block": (own_gradient, [(10,)]),
    "mixture of experts": (experts, [(3, 7)]),
    "ReLU attention scores": (relu_attention, [(2,)]),
    "lax.scan over layers": (eight_layers_scanned_plainly, [(8, 12)]),
    "relu after the flatten of a convolution": (flattened_convolution, [(6,)]),
    "concatenated layers": (concatenated, [(12,)]),
    "kernel picked by a fori_loop": (picked_by_a_loop, [(4, 12)]),
    "kernel picked by a scan": (picked_by_a_scan, [(4, 12)]),
    "top-k by sorting, named by hand": (sorted_latents, [(20,)]),
    "bfloat16": (partial(half_precision, jnp.bfloat16), [(9,)]),
    "float16": (partial(half_precision, jnp.float16), [(9,)]),
    **{f"activation {name}": (partial(of_activation, function), [(9,)])
       for name, function in ACTIVATIONS.items()},
}  # fmt: skip
