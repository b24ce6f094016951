"""What the zoo is made of: a register, data, and short ways to write parameters."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (32, 12))
Y = jax.random.normal(jax.random.key(4), (32, 4))
IMAGES = jax.random.normal(jax.random.key(2), (8, 8, 8, 3))
TOKENS = jax.random.normal(jax.random.key(3), (4, 6, 8))
TEXT = np.arange(24).reshape(4, 6) % 50
LABELS = np.arange(32) % 4


class Program(NamedTuple):
    """A program of the zoo."""

    build: Callable[[], tuple[Callable, Any, tuple]]  # makes (function, params, data)
    units: list[tuple[int, ...]]  # of every site to be found, in order


ZOO: dict[str, Program] = {}
STEPS: dict[str, Program] = {}  # whole training steps: functions of (state, *data)


def program(name: str, *units: tuple[int, ...], into: dict[str, Program] = ZOO) -> Callable:
    """Registers the decorated function, which builds a program with sites of these units."""

    def register(build: Callable) -> Callable:
        assert name not in into, name
        into[name] = Program(build, list(units))
        return build

    return register


step = partial(program, into=STEPS)


def arrays(**shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    """Parameters of these shapes: kernels of unit gain where there are two axes or more, else
    zeros."""
    rng = np.random.default_rng(0)  # compiles nothing
    return {
        name: jnp.asarray(
            rng.normal(size=shape) * math.prod(shape[:-1]) ** -0.5
            if len(shape) > 1
            else np.zeros(shape),
            jnp.float32,
        )
        for name, shape in shapes.items()
    }


def dense(p: dict, x: jax.Array) -> jax.Array:
    """A dense layer."""
    return x @ p["w"] + p["b"]


def weights(key: jax.Array, *shape: int) -> dict:
    """Of a dense layer."""
    return {"w": jax.random.normal(key, shape) * 0.3, "b": jnp.zeros(shape[-1])}


def of_dense(function: Callable, *shapes: tuple[int, ...]) -> tuple:
    """A function of {"w0": ..., "w1": ...} with kernels of these shapes, and of X."""
    keys = jax.random.split(KEY, len(shapes))
    params = {f"w{k}": jax.random.normal(key, shape) * 0.3
              for k, (key, shape) in enumerate(zip(keys, shapes, strict=True))}  # fmt: skip
    return function, params, (X,)


def of_activation(function: Callable) -> tuple:
    """A network of one hidden layer with this activation."""
    return of_dense(lambda p, x: function(x @ p["w0"]) @ p["w1"], (12, 9), (9, 4))


def conv(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """A convolution of images with channels last."""
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return jax.lax.conv_general_dilated(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def drawn(init: Callable, *args: Any) -> Any:
    """Parameters of the shapes that `init(*args)` gives, drawn without compiling it."""

    def leaf(path, shape):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        ones = name.endswith(("scale", "var", "sigma"))
        return jnp.ones(shape.shape, shape.dtype) if ones else arrays(leaf=shape.shape)["leaf"]

    return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(init, *args))


def linen(module, *data):
    """A Flax linen module."""
    return module.apply, drawn(module.init, KEY, *data), data


def of_nnx(module, *data):
    """A Flax nnx module."""
    graph, state, other = nnx.split(module, nnx.Param, ...)
    fresh = partial(jax.tree.map, lambda leaf: leaf)  # nnx wants its Variables new
    fn = lambda state, other, *data: nnx.merge(graph, state, fresh(other))(*data)  # noqa: E731
    return fn, state, (other, *data)


def of_equinox(module, *data):
    """An Equinox module of one example, over a batch."""
    params, static = eqx.partition(module, eqx.is_array)
    return lambda p, *data: jax.vmap(eqx.combine(p, static))(*data), params, data


def of_haiku(net, *data):
    """A Haiku function."""
    model = hk.without_apply_rng(hk.transform(net))
    return model.apply, drawn(model.init, KEY, *data), data
