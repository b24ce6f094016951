"""Programs with one rectified layer, and beside it what must not be taken for another."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tests.zoo.base import LABELS, TOKENS, X, Y, arrays, dense, program, weights

relu = jax.nn.relu


def beside(name: str, *more: tuple[int, ...]) -> Callable:
    """Registers a loss of (output [32, 4], targets [32, 4], labels [32]) of a rectified layer of 9
    units; `more` are the units of what the loss rectifies itself."""

    def register(loss: Callable) -> Callable:
        def build():
            def fn(p, x, y, labels):
                return loss(relu(dense(p["a"], x)) @ p["out"], y, labels)

            params = {"a": weights(jax.random.key(5), 12, 9), "out": arrays(out=(9, 4))["out"]}
            return fn, params, (X, Y, LABELS)

        program(f"beside {name}", (9,), *more)(build)
        return loss

    return register


@beside("Huber loss")
def huber(f, y, labels):
    return optax.huber_loss(f, y).mean()


@beside("Huber loss by hand")
def huber_by_hand(f, y, labels):
    size = jnp.abs(f - y)
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5).mean()


@beside("quantile loss")
def quantile(f, y, labels):
    return jnp.maximum(0.9 * (y - f), -0.1 * (y - f)).mean()


@beside("log-cosh")
def log_cosh(f, y, labels):
    return optax.log_cosh(f, y).mean()


@beside("cross entropy, smoothed labels")
def cross_entropy(f, y, labels):
    smooth = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.1)
    return optax.softmax_cross_entropy(f, smooth).mean()


@beside("clipped probabilities")
def clipped_probabilities(f, y, labels):
    p = jnp.clip(jax.nn.softmax(f), 1e-7, 1 - 1e-7)
    return -(jax.nn.one_hot(labels, 4) * jnp.log(p)).sum(-1).mean()


@beside("focal loss")
def focal(f, y, labels):
    p = jax.nn.sigmoid(f)
    return (-((1 - p) ** 2) * jnp.log(p + 1e-8)).mean()


@beside("PPO's clipped ratio and clipped value")
def ppo(f, y, labels):
    log = jax.nn.log_softmax(f)[jnp.arange(32), labels]
    ratio, gain = jnp.exp(log - y[:, 0]), y[:, 1]
    gain = (gain - gain.mean()) / (gain.std() + 1e-8)
    policy = jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain).mean()
    value, old = f[:, 2], y[:, 2]
    cut = old + jnp.clip(value - old, -0.2, 0.2)
    return 0.5 * jnp.maximum((value - y[:, 3]) ** 2, (cut - y[:, 3]) ** 2).mean() - policy


@beside("log-variances between bounds")
def bounded_variance(f, y, labels):
    log = jnp.clip(f[:, 2:], -20.0, 2.0)
    return (log + (f[:, :2] - y[:, :2]) ** 2 * jnp.exp(-log)).mean()


@beside("min-max normalization")
def min_max(f, y, labels):
    low, high = f.min(0), f.max(0)
    return ((f - low) / jnp.maximum(high - low, 1e-6) - y).mean()


@beside("unit norms with a guard")
def unit_norms(f, y, labels):
    return (f / jnp.maximum(jnp.linalg.norm(f, axis=-1, keepdims=True), 1e-12) * y).sum()


@beside("cosine similarity in a contrastive loss")
def contrastive(f, y, labels):
    f = f * jax.lax.rsqrt(jnp.maximum((f**2).sum(-1, keepdims=True), 1e-12))
    return -jnp.diag(jax.nn.log_softmax(f @ f.T / 0.1)).mean()


@beside("batch norm on the output")
def normed_output(f, y, labels):
    var = jnp.maximum(0.0, (f**2).mean(0) - f.mean(0) ** 2)
    return ((f - f.mean(0)) * jax.lax.rsqrt(var + 1e-5) - y).mean()


@beside("greedy actions and accuracy")
def accuracy(f, y, labels):
    return (f.argmax(-1) == labels).mean() + jnp.take_along_axis(f, labels[:, None], -1).mean()


@beside("masked softmax")
def masked_softmax(f, y, labels):
    mask = jnp.arange(4) <= labels[:, None]
    return jax.nn.softmax(jnp.where(mask, f, -1e9)).mean() + jnp.where(mask, f, 0.0).mean()


@beside("rounding with a straight-through gradient")
def rounded(f, y, labels):
    return (f + jax.lax.stop_gradient(jnp.round(f * 4) / 4 - f) - y).mean()


@beside("signs with a straight-through gradient")
def signs(f, y, labels):
    return (jnp.tanh(f) + jax.lax.stop_gradient(jnp.sign(f) - jnp.tanh(f)) - y).mean()


@beside("Gumbel noise and a temperature")
def gumbel(f, y, labels):
    noise = -jnp.log(-jnp.log(jax.random.uniform(jax.random.key(3), f.shape) + 1e-9) + 1e-9)
    return (jax.nn.softmax((f + noise) / 0.5) * y).sum()


@beside("absolute values and squares")
def absolute(f, y, labels):
    return jnp.abs(f - y).mean() + jnp.square(f).mean() + jnp.sqrt(jnp.abs(f) + 1e-6).mean()


@beside("a loss of the largest of several")
def largest(f, y, labels):
    return jnp.maximum(f[:, 0], f[:, 1]).mean() + f.max(-1).mean() + jax.nn.logsumexp(f, -1).mean()


@beside("a loss scale and a check for finite numbers")
def finite(f, y, labels):
    loss = ((f - y) ** 2).mean()
    return jnp.where(jnp.isfinite(loss), loss, 0.0) * 2.0**10


@beside("a cosine schedule and a warm-up")
def schedule(f, y, labels):
    rate = jnp.minimum(1.0, jnp.sum(labels) / 100) * optax.cosine_decay_schedule(1.0, 10)(3)
    return rate * ((f - y) ** 2).mean()


@beside("a hinge", (4,))
def hinge(f, y, labels):
    return relu(1 - (2 * jax.nn.one_hot(labels, 4) - 1) * f).mean()


@beside("outputs cut to pixels", (4,))
def pixels(f, y, labels):
    return ((jnp.clip(f, 0, 1) - y) ** 2).mean()


@program("beside rotary positions and a causal mask", (20,))
def rotary():
    def turned(x):
        angle = jnp.arange(6)[:, None] * 100.0 ** -jnp.linspace(0, 1, 4)
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle),
                                a * jnp.sin(angle) + b * jnp.cos(angle)], -1)  # fmt: skip

    def fn(p, x):
        q, k, v = turned(x @ p["q"]), turned(x @ p["k"]), x @ p["v"]
        scores = jnp.where(jnp.tril(jnp.ones((6, 6), bool)), q @ k.swapaxes(1, 2), -jnp.inf)
        x = x + jax.nn.softmax(scores) @ v
        return x + relu(x @ p["up"]) @ p["down"]

    return fn, arrays(q=(8, 8), k=(8, 8), v=(8, 8), up=(8, 20), down=(20, 8)), (TOKENS,)
