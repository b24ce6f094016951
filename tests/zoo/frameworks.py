"""Networks in the style of each framework, one for every way to compose layers."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from tests.zoo.base import (
    IMAGES,
    KEY,
    TEXT,
    TOKENS,
    X,
    drawn,
    linen,
    of_equinox,
    of_haiku,
    of_nnx,
    program,
)


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
    variables = drawn(module.init, KEY, IMAGES)
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


def equinox_mlp():
    return of_equinox(eqx.nn.MLP(12, 4, 16, 2, key=KEY), X)


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
    return of_equinox(EqxConv(KEY), jnp.moveaxis(IMAGES, -1, 1))


def haiku_mlp():
    return of_haiku(lambda x: hk.nets.MLP([16, 24, 4])(x), X)


for name, (build, units) in {
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
}.items():
    program(name, *units)(build)
