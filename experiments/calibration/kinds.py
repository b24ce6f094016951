"""The kinds of networks whose units are forecast, each in plain JAX.

A kind's config says what it is trained on and how (task, examples, batch, optimizer, rate, steps);
the network itself is the kind's own, and reads the config's widths.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine import tasks
from relu_dynamics.engine.tasks import Task

Params = Any


class Kind(NamedTuple):
    """One kind of network and its training."""

    words: str  # as figures and tables say it
    config: Config
    init: Callable[[Config, int, int, jax.Array], Params]  # of inputs and outputs, and a key
    apply: Callable[[Params, jax.Array], jax.Array]  # (parameters, inputs) -> outputs
    itself: bool = False  # whether the inputs are the targets too


def targets_of(kind: Kind, task: Task) -> jax.Array:
    """What the outputs are to be."""
    return task.inputs if kind.itself else task.targets


def outputs_of(kind: Kind, dimension: int) -> int:
    """Number of outputs."""
    return dimension if kind.itself else tasks.output_dimension(kind.config)


# Networks -------------------------------------------------------------------------------------


def config(**fields: Any) -> Config:
    """256 examples in batches of 16, so 20 epochs in 320 steps; no bias is imposed."""
    shared: dict[str, Any] = {
        "initial_bias": 0.0,
        "examples": 256,
        "batch_size": 16,
        "steps": 320,
        "probe_every": 10,
    }
    return Config(**(shared | fields))


def layer(key: jax.Array, inputs: int, outputs: int) -> Params:
    """A dense layer as He et al. (arXiv 1502.01852) draw it, biases 0."""
    kernel = jax.random.normal(key, (inputs, outputs)) * (2 / inputs) ** 0.5
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def dense(p: Params, x: jax.Array) -> jax.Array:
    z = x @ p["kernel"]
    return z + jnp.broadcast_to(p["bias"], z.shape)


def layers(key: jax.Array, widths: Sequence[int]) -> list[Params]:
    """Dense layers from each width to the next."""
    return [
        layer(jax.random.fold_in(key, number), *pair)
        for number, pair in enumerate(zip(widths[:-1], widths[1:], strict=True))
    ]


def init_mlp(config: Config, inputs: int, outputs: int, key: jax.Array) -> Params:
    return layers(key, (inputs, *config.hidden, outputs))


def mlp(params: list[Params], x: jax.Array) -> jax.Array:
    for p in params[:-1]:
        x = jax.nn.relu(dense(p, x))
    return dense(params[-1], x)


def init_normalized(config: Config, inputs: int, outputs: int, key: jax.Array) -> Params:
    *hidden, last = init_mlp(config, inputs, outputs, key)
    return [p | {"scale": jnp.ones_like(p["bias"])} for p in hidden] + [last]


def normalized_mlp(params: list[Params], x: jax.Array) -> jax.Array:
    """LayerNorm (arXiv 1607.06450) before every ReLU."""
    for p in params[:-1]:
        z = x @ p["kernel"]
        z = (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-5)
        scale, bias = (jnp.broadcast_to(p[name], z.shape) for name in ("scale", "bias"))
        x = jax.nn.relu(z * scale + bias)
    return dense(params[-1], x)


def init_residual(config: Config, inputs: int, outputs: int, key: jax.Array) -> Params:
    """A block per hidden layer; what it adds is small at first, or the stream grows with depth."""
    width = config.hidden[0]
    first, *blocks, last = layers(key, (inputs, *[width] * (2 * len(config.hidden) + 1), outputs))
    small = [p | {"kernel": p["kernel"] / 3} for p in blocks[1::2]]
    return [first, *(p for pair in zip(blocks[::2], small, strict=True) for p in pair), last]


def residual(params: list[Params], x: jax.Array) -> jax.Array:
    """A stream of one width; every block adds dense(relu(dense(stream)))."""
    x = dense(params[0], x)
    for p, back in zip(params[1:-1:2], params[2:-1:2], strict=True):
        x = x + dense(back, jax.nn.relu(dense(p, x)))
    return dense(params[-1], x)


def init_convolutional(config: Config, inputs: int, outputs: int, key: jax.Array) -> Params:
    channels = (1, *config.hidden)
    keys = [jax.random.fold_in(key, number) for number in range(len(channels))]
    pairs = zip(keys, channels[:-1], channels[1:], strict=False)
    kernels = [layer(own, 9 * before, after) for own, before, after in pairs]
    return [*kernels, layer(keys[-1], channels[-1], outputs)]


def convolutional(params: list[Params], x: jax.Array) -> jax.Array:
    """3 x 3 convolutions of 8 x 8 images by strides of 2, and a mean over positions; each as one
    product with the nine shifted images, which many networks at once compute faster than a grouped
    convolution."""
    x = x.reshape(*x.shape[:-1], 8, 8, 1)
    for p in params[:-1]:
        size = x.shape[1]
        around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [
            around[:, i : i + size : 2, j : j + size : 2] for i in range(3) for j in range(3)
        ]
        x = jax.nn.relu(dense(p, jnp.concatenate(shifted, axis=-1)))
    return dense(params[-1], x.mean((1, 2)))


KINDS: dict[str, Kind] = {
    "regression": Kind(
        "MLP, regression, SGD",
        config(task="diabetes", hidden=(32, 32), learning_rate=0.2),
        init_mlp,
        mlp,
    ),
    "classifier": Kind(
        "MLP, digits, Adam",
        config(task="digits", hidden=(32, 32), optimizer="adam", learning_rate=0.06),
        init_mlp,
        mlp,
    ),
    "convolutional": Kind(
        "convolutions, digits, momentum",
        config(task="digits", hidden=(12, 24), optimizer="momentum", learning_rate=0.2),
        init_convolutional,
        convolutional,
    ),
    "normalized": Kind(
        "LayerNorm MLP, digits, Adam",
        config(task="digits", hidden=(32, 32), optimizer="adam", learning_rate=0.06),
        init_normalized,
        normalized_mlp,
    ),
    "autoencoder": Kind(
        "autoencoder, digits, Adam",
        config(task="digits", hidden=(32, 12, 32), optimizer="adam", learning_rate=0.02),
        init_mlp,
        mlp,
        itself=True,
    ),
    "residual": Kind(
        "residual blocks, digits, Adam",
        config(task="digits", hidden=(24, 24, 24), optimizer="adam", learning_rate=0.03),
        init_residual,
        residual,
    ),
    "teacher": Kind(
        "deep MLP, teacher, Nesterov",
        config(
            task="teacher_student", hidden=(24, 24, 24), optimizer="nesterov", learning_rate=0.1
        ),
        init_mlp,
        mlp,
    ),
}


def init_lowered(config: Config, inputs: int, outputs: int, key: jax.Array) -> Params:
    """An MLP whose first biases lie far below 0, exponentially distributed with mean 4."""
    first, *rest = init_mlp(config, inputs, outputs, key)
    depth = 4 * jax.random.exponential(jax.random.fold_in(key, len(rest) + 1), first["bias"].shape)
    return [first | {"bias": -depth}, *rest]


def returning(words: str, optimizer: str, rate: float, decay: float) -> Kind:
    """A kind of `RETURNING`: 80 steps of training, while its biases decay."""
    own = config(
        task="digits", hidden=(48,), biased_layer=1, optimizer=optimizer, learning_rate=rate,
        weight_decay=decay, decay_targets="biases", steps=80,
    )  # fmt: skip
    return Kind(words, own, init_lowered, mlp)


RETURNING: dict[str, Kind] = {
    "decayed_sgd": returning("MLP, digits, SGD", "sgd", 0.05, 0.1),
    "decayed_momentum": returning("MLP, digits, momentum", "momentum", 0.02, 0.02),
    "decayed_adam": returning("MLP, digits, AdamW", "adamw", 0.005, 1.0),
}
"""Networks whose dead units come back because their biases decay, for `returning`."""
