"""Sparse autoencoders, loops, branches and derivatives of one's own, in plain JAX."""

from functools import partial

import jax
import jax.numpy as jnp

from relu_dynamics.inspection import site
from tests.zoo.base import IMAGES, KEY, TOKENS, X, dense, of_dense, program, weights


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


for name, (build, units) in {
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
}.items():
    program(name, *units)(build)
