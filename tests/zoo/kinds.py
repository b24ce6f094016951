"""Plain programs, one of every way in which layers are written."""

import jax
import jax.numpy as jnp

from tests.zoo.base import IMAGES, KEY, LABELS, TOKENS, X, Y, arrays, conv, of_dense, program

relu = jax.nn.relu


@program("Highway network", (12,))
def highway():
    def fn(p, x):
        gate = jax.nn.sigmoid(x @ p["gate"] - 1)
        return (gate * relu(x @ p["w"] + p["b"]) + (1 - gate) * x) @ p["out"]

    return fn, arrays(gate=(12, 12), w=(12, 12), b=(12,), out=(12, 4)), (X,)


@program("WaveNet, dilated and gated", (7,), (9,))
def wavenet():
    def causal(x, w, dilation):
        return jax.lax.conv_general_dilated(
            x, w, (1,), [((w.shape[0] - 1) * dilation, 0)], rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )  # fmt: skip

    def fn(p, x):
        x, skips = x @ p["embed"], 0
        for layer, dilation in zip(p["layers"], (1, 2, 4), strict=True):
            z = jnp.tanh(causal(x, layer["filter"], dilation))
            z = z * jax.nn.sigmoid(causal(x, layer["gate"], dilation))
            x, skips = x + z @ layer["residual"], skips + z @ layer["skip"]
        return relu(relu(skips) @ p["post"] + p["b"]) @ p["out"]

    layers = [arrays(filter=(2, 5, 6), gate=(2, 5, 6), residual=(6, 5), skip=(6, 7))] * 3
    params = arrays(embed=(8, 5), post=(7, 9), b=(9,), out=(9, 4)) | {"layers": layers}
    return fn, params, (TOKENS,)


@program("U-Net", (4,), (6,), (4,))
def unet():
    def fn(p, x):
        down = relu(conv(x, p["down"]) + p["b"])
        deep = relu(conv(down, p["deep"], window_strides=(2, 2)))
        up = jax.lax.conv_transpose(deep, p["up"], (2, 2), "SAME",
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
        both = jnp.concatenate([down, up], -1)
        return conv(relu(conv(both, p["merge"])), p["out"])

    return fn, arrays(down=(3, 3, 3, 4), b=(4,), deep=(3, 3, 4, 6), up=(3, 3, 6, 5),
                      merge=(3, 3, 9, 4), out=(1, 1, 4, 1)), (IMAGES,)  # fmt: skip


@program("transposed convolution", (5,))
def transposed():
    def fn(p, x):
        z = jax.lax.conv_transpose(x, p["w"], (2, 2), "SAME", transpose_kernel=True,
                                   dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
        return relu(z + p["b"]).mean((1, 2)) @ p["out"]

    return fn, arrays(w=(3, 3, 5, 3), b=(5,), out=(5, 2)), (IMAGES,)


@program("depthwise separable convolution", (6,), (9,))
def separable():
    def fn(p, x):
        x = relu(conv(x, p["depth"], feature_group_count=3) + p["b"])
        return relu(conv(x, p["point"])).mean((1, 2)) @ p["out"]

    return fn, arrays(depth=(3, 3, 1, 6), b=(6,), point=(1, 1, 6, 9), out=(9, 2)), (IMAGES,)


@program("grouped convolution", (8,), (12,))
def grouped():
    def fn(p, x):
        x = relu(conv(x, p["first"]))
        return relu(conv(x, p["groups"], feature_group_count=4)).mean((1, 2)) @ p["out"]

    return fn, arrays(first=(1, 1, 3, 8), groups=(3, 3, 2, 12), out=(12, 2)), (IMAGES,)


@program("max-pool before relu", (6,), (9,))
def pooled_first():
    def pool(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def fn(p, x):
        x = relu(pool(conv(x, p["w0"]) + p["b0"]))
        return relu(pool(conv(x, p["w1"]) + p["b1"])).reshape(len(x), -1) @ p["out"]

    return fn, arrays(w0=(3, 3, 3, 6), b0=(6,), w1=(3, 3, 6, 9), b1=(9,), out=(36, 2)), (IMAGES,)


@program("average-pool before relu", (6,))
def averaged_first():
    def fn(p, x):
        z = conv(x, p["w"]) + p["b"]
        z = jax.lax.reduce_window(z, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        return relu(z).mean((1, 2)) @ p["out"]

    return fn, arrays(w=(3, 3, 3, 6), b=(6,), out=(6, 2)), (IMAGES,)


@program("global average before relu", (6,))
def globally_averaged():
    fn = lambda p, x: relu(conv(x, p["w"]).mean((1, 2)) + p["b"]) @ p["out"]  # noqa: E731
    return fn, arrays(w=(3, 3, 3, 6), b=(6,), out=(6, 2)), (IMAGES,)


@program("global maximum before relu", (6,))
def globally_maximal():
    fn = lambda p, x: relu(conv(x, p["w"]).max((1, 2)) + p["b"]) @ p["out"]  # noqa: E731
    return fn, arrays(w=(3, 3, 3, 6), b=(6,), out=(6, 2)), (IMAGES,)


@program("squeeze and excitation", (6,), (2,))
def squeeze():
    def fn(p, x):
        x = relu(conv(x, p["w"]))
        gate = jax.nn.sigmoid(relu(x.mean((1, 2)) @ p["down"] + p["b"]) @ p["up"])
        return (x * gate[:, None, None]).mean((1, 2)) @ p["out"]

    return fn, arrays(w=(3, 3, 3, 6), down=(6, 2), b=(2,), up=(2, 6), out=(6, 2)), (IMAGES,)


@program("graph network, segment_sum", (9,), (7,), (7,))
def graph_network():
    def fn(p, nodes, senders, receivers):
        for layer in (p["first"], p["second"]):
            messages = (
                relu(nodes[senders] @ layer["message"]) if "message" in layer else nodes[senders]
            )
            gathered = jax.ops.segment_sum(messages, receivers, len(nodes))
            nodes = relu(jnp.concatenate([nodes, gathered], -1) @ layer["update"] + layer["b"])
        return nodes.sum(0) @ p["out"]

    params = arrays(out=(7, 2)) | {
        "first": arrays(message=(12, 9), update=(21, 7), b=(7,)),
        "second": arrays(update=(14, 7), b=(7,)),
    }
    senders, receivers = jnp.arange(40) % 32, jnp.arange(40) * 7 % 32
    return fn, params, (X, senders, receivers)


@program("graph convolution, adjacency last", (9,), (9,))
def graph_convolution():
    def fn(p, x, adjacency):
        for layer in (p["a"], p["b"]):
            x = relu(adjacency @ (x @ layer["w"]) + layer["b"])
        return x.mean(0)

    adjacency = jnp.eye(32) * 0.5 + jnp.roll(jnp.eye(32), 1, 0) * 0.5
    params = {"a": arrays(w=(12, 9), b=(9,)), "b": arrays(w=(9, 9), b=(9,))}
    return fn, params, (X, adjacency)


@program("graph attention, segment_max", (9,))
def graph_attention():
    def fn(p, x, senders, receivers):
        h = x @ p["w"]
        score = jax.nn.tanh(h[senders] @ p["a"] + h[receivers] @ p["c"])[:, 0]
        top = jax.ops.segment_max(score, receivers, 32)
        weight = jnp.exp(score - top[receivers])
        total = jax.ops.segment_sum(weight, receivers, 32)
        weight = weight / jnp.maximum(total[receivers], 1e-9)
        return relu(jax.ops.segment_sum(h[senders] * weight[:, None], receivers, 32)).sum(0)

    senders, receivers = jnp.arange(40) % 32, jnp.arange(40) * 7 % 32
    return fn, arrays(w=(12, 9), a=(9, 1), c=(9, 1)), (X, senders, receivers)


@program("DeepSets", (9,), (8,))
def deep_sets():
    def fn(p, x):
        return relu(relu(x @ p["phi"] + p["b"]).sum(1) @ p["rho"]) @ p["out"]

    return fn, arrays(phi=(8, 9), b=(9,), rho=(9, 8), out=(8, 1)), (TOKENS,)


@program("radiance field, encoded positions and a skip", (16,), (16,), (16,), (8,), (1,))
def radiance_field():
    def encoded(x):
        angles = x[..., None] * 2.0 ** jnp.arange(3)
        both = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        return jnp.concatenate([x, both.reshape(*x.shape[:-1], -1)], -1)

    def fn(p, rays):
        x = encoded(rays)
        h = relu(x @ p["w0"] + p["b0"])
        h = relu(h @ p["w1"] + p["b1"])
        h = relu(jnp.concatenate([h, x], -1) @ p["w2"] + p["b2"])
        density = jax.nn.softplus(h @ p["density"])
        color = jax.nn.sigmoid(relu(h @ p["w3"]) @ p["color"])
        alpha = 1 - jnp.exp(-density)
        weight = alpha * jnp.cumprod(1 - alpha + 1e-10, -2)
        return (weight * color).sum(-2)

    params = arrays(w0=(21, 16), b0=(16,), w1=(16, 16), b1=(16,), w2=(37, 16), b2=(16,),
                    density=(16, 1), w3=(16, 8), color=(8, 3))  # fmt: skip
    return fn, params, (TOKENS[..., :3],)


@program("mixture of experts, top-k routing and one-hot dispatch", (3,), (3, 7))
def routed():
    def fn(p, x):
        chances = jax.nn.softmax(x @ p["router"])
        best, which = jax.lax.top_k(chances, 2)
        gate = (jax.nn.one_hot(which, 3) * best[..., None]).sum(1)
        taken = (gate > 0).astype(x.dtype)
        place = ((jnp.cumsum(taken, 0) - 1) * taken).astype(int)
        dispatch = jax.nn.one_hot(place, 32) * taken[..., None]  # [tokens, experts, capacity]
        inputs = jnp.einsum("td,tec->ecd", x, dispatch)
        h = relu(jnp.einsum("ecd,edf->ecf", inputs, p["up"]) + p["b"][:, None])
        outputs = jnp.einsum("ecf,efd->ecd", h, p["down"])
        return jnp.einsum("ecd,tec,te->td", outputs, dispatch, gate)

    params = arrays(router=(12, 3), up=(3, 12, 7), b=(3, 7), down=(3, 7, 4))
    return fn, params, (X,)


@program("experts by vmap over their parameters", (3, 7))
def vmapped_experts():
    def expert(p, x):
        return relu(x @ p["up"] + p["b"]) @ p["down"]

    def fn(p, x):
        gate = jax.nn.softmax(x @ p["router"])
        return jnp.einsum("eto,te->to", jax.vmap(expert, (0, None))(p["experts"], x), gate)

    experts = arrays(up=(3, 12, 7), down=(3, 7, 4)) | {"b": jnp.zeros((3, 7))}
    return fn, arrays(router=(12, 3)) | {"experts": experts}, (X,)


@program("experts by lax.switch", (7,), (8,), (9,))
def switched_experts():
    def expert(k):
        return lambda p, x: relu(x @ p[k]["up"] + p[k]["b"]) @ p[k]["down"]

    def fn(p, x, which):
        return jax.lax.switch(which, [expert(k) for k in range(3)], p, x)

    params = [arrays(up=(12, 7 + k), b=(7 + k,), down=(7 + k, 4)) for k in range(3)]
    return fn, params, (X, jnp.int32(1))


@program("CReLU", (9,))
def concatenated_signs():
    def fn(p, x):
        z = x @ p["w"]
        return jnp.concatenate([relu(z), relu(-z)], -1) @ p["out"]

    return fn, arrays(w=(12, 9), out=(18, 4)), (X,)


@program("maxout, and a rectifier beside it", (9,))
def maxout():
    def fn(p, x):
        pieces = (x @ p["w"]).reshape(len(x), 5, 3).max(-1)
        return relu(pieces @ p["v"]) @ p["out"]

    return fn, arrays(w=(12, 15), v=(5, 9), out=(9, 4)), (X,)


@program("maximum of two layers, and a rectifier beside it", (9,))
def maximum_of_two():
    fn = lambda p, x: relu(jnp.maximum(x @ p["a"], x @ p["b"]) @ p["v"]) @ p["out"]  # noqa: E731
    return fn, arrays(a=(12, 5), b=(12, 5), v=(5, 9), out=(9, 4)), (X,)


@program("spectral norm", (9,))
def spectral():
    def fn(p, x, u):
        v = p["w"] @ u
        v = v / jnp.linalg.norm(v)
        u = p["w"].T @ v
        u = u / jnp.linalg.norm(u)
        sigma = v @ p["w"] @ u
        return relu(x @ (p["w"] / sigma) + p["b"]) @ p["out"]

    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X, jnp.ones(9))


@program("weight norm by hand", (9,))
def weight_normed():
    def fn(p, x):
        w = p["v"] * jax.lax.rsqrt((p["v"] ** 2).sum(0, keepdims=True) + 1e-12) * p["g"]
        return relu(x @ w + p["b"]) @ p["out"]

    params = arrays(v=(12, 9), g=(9,), b=(9,), out=(9, 4))
    return fn, params | {"g": jnp.ones(9)}, (X,)


@program("standardized weights", (6,))
def standardized():
    def fn(p, x):
        w = p["w"]
        w = (w - w.mean((0, 1, 2))) * jax.lax.rsqrt(w.var((0, 1, 2)) + 1e-5)
        return relu(conv(x, w) + p["b"]).mean((1, 2)) @ p["out"]

    return fn, arrays(w=(3, 3, 3, 6), b=(6,), out=(6, 2)), (IMAGES,)


@program("LoRA beside a kernel", (9,))
def lora():
    fn = lambda p, x: relu(x @ (p["w"] + p["down"] @ p["up"]) + p["b"]) @ p["out"]  # noqa: E731
    return fn, arrays(w=(12, 9), b=(9,), down=(12, 2), up=(2, 9), out=(9, 4)), (X,)


@program("LoRA as a second path", (9,))
def lora_path():
    fn = lambda p, x: relu(x @ p["w"] + (x @ p["down"]) @ p["up"]) @ p["out"]  # noqa: E731
    return fn, arrays(w=(12, 9), down=(12, 2), up=(2, 9), out=(9, 4)), (X,)


@program("low-rank kernel", (9,))
def low_rank():
    fn = lambda p, x: relu(x @ p["a"] @ p["b"]) @ p["out"]  # noqa: E731
    return fn, arrays(a=(12, 2), b=(2, 9), out=(9, 4)), (X,)


@program("kernel made of two factors", (9,))
def factored():
    fn = lambda p, x: relu(x @ (p["a"] @ p["b"])) @ p["out"]  # noqa: E731
    return fn, arrays(a=(12, 2), b=(2, 9), out=(9, 4)), (X,)


@program("masked kernel (pruned)", (9,))
def pruned():
    fn = lambda p, x, m: relu(x @ (p["w"] * m) + p["b"]) @ p["out"]  # noqa: E731
    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X, jnp.ones((12, 9)))


@program("hypernetwork", (9,))
def hypernetwork():
    def fn(p, x):
        code = relu(p["code"] @ p["h0"] + p["hb"])[0]
        w = (code @ p["h1"]).reshape(12, 9)
        return relu(x @ w + p["b"]) @ p["out"]

    params = arrays(code=(1, 3), h0=(3, 6), hb=(6,), h1=(6, 108), b=(9,), out=(9, 4))
    return fn, params, (X,)


@program("hypernetwork that the data feed", (6,), (9,))
def data_hypernetwork():
    def fn(p, x):
        w = (relu(x @ p["h0"]) @ p["h1"]).reshape(len(x), 12, 9)
        return relu(jnp.einsum("bi,bio->bo", x, w) + p["b"]) @ p["out"]

    return fn, arrays(h0=(12, 6), h1=(6, 108), b=(9,), out=(9, 4)), (X,)


@program("tied autoencoder", (9,))
def tied():
    fn = lambda p, x: relu(x @ p["w"] + p["b"]) @ p["w"].T + p["c"]  # noqa: E731
    return fn, arrays(w=(12, 9), b=(9,), c=(12,)), (X,)


@program("dropout before relu", (9,))
def dropped_first():
    def fn(p, x, key):
        z = x @ p["w"] + p["b"]
        keep = jax.random.bernoulli(key, 0.8, z.shape)
        return relu(jnp.where(keep, z / 0.8, 0.0)) @ p["out"]

    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X, KEY)


@program("dropout on the inputs and after relu", (9,))
def dropped():
    def drop(key, x):
        return x * jax.random.bernoulli(key, 0.8, x.shape) / 0.8

    def fn(p, x, key):
        a, b = jax.random.split(key)
        return drop(b, relu(drop(a, x) @ p["w"] + p["b"])) @ p["out"]

    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X, KEY)


@program("stop_gradient on a target network", (9,), (9,))
def target_network():
    def q(p, x):
        return relu(x @ p["w"] + p["b"]) @ p["out"]

    def fn(p, x):
        return q(p["online"], x) - jax.lax.stop_gradient(q(p["target"], x))

    layer = arrays(w=(12, 9), b=(9,), out=(9, 4))
    return fn, {"online": layer, "target": layer}, (X,)


@program("fixed point, differentiated implicitly", (10,))
def implicit():
    def solve(f, z):
        return jax.lax.while_loop(
            lambda s: (jnp.abs(s[0] - s[1]).max() > 1e-4) & (s[2] < 20),
            lambda s: (f(s[0]), s[0], s[2] + 1),
            (f(z), z, 0),
        )[0]

    @jax.custom_vjp
    def layer(p, x):
        return solve(lambda z: relu(z @ p["r"] + x @ p["w"] + p["b"]), jnp.zeros((len(x), 10)))

    def forward(p, x):
        z = layer(p, x)
        return z, (p, x, z)

    def backward(saved, g):
        p, x, z = saved
        f = lambda p, x, z: relu(z @ p["r"] + x @ p["w"] + p["b"])  # noqa: E731
        pull = jax.vjp(lambda z: f(p, x, z), z)[1]
        u = solve(lambda u: g + pull(u)[0], g)
        return jax.vjp(lambda p, x: f(p, x, z), p, x)[1](u)

    layer.defvjp(forward, backward)
    params = arrays(r=(10, 10), w=(12, 10), b=(10,), out=(10, 4))
    params["r"] = params["r"] * 0.2
    return lambda p, x: layer(p, x) @ p["out"], params, (X,)


@program("associative scan of a linear recurrence", (9,))
def linear_recurrence():
    def fn(p, x):
        u = x @ p["in"]
        decay = jnp.broadcast_to(jax.nn.sigmoid(p["decay"]), u.shape)
        h = jax.lax.associative_scan(
            lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (decay, u), axis=1
        )[1]
        return relu(h @ p["w"] + p["b"]) @ p["out"]

    params = arrays(**{"in": (8, 5), "decay": (5,), "w": (5, 9), "b": (9,), "out": (9, 4)})
    return fn, params, (TOKENS,)


@program("relu of an associative scan", (5,))
def rectified_recurrence():
    def fn(p, x):
        u = x @ p["in"] + p["b"]
        h = jax.lax.associative_scan(jnp.add, u, axis=1)
        return relu(h) @ p["out"]

    return fn, arrays(**{"in": (8, 5), "b": (5,), "out": (5, 4)}), (TOKENS,)


@program("lax.map over examples", (9,))
def mapped():
    def one(p, x):
        return relu(x @ p["w"] + p["b"]) @ p["out"]

    fn = lambda p, x: jax.lax.map(lambda row: one(p, row), x)  # noqa: E731
    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X,)


@program("lax.map in batches", (9,))
def mapped_in_batches():
    def one(p, x):
        return relu(x @ p["w"] + p["b"]) @ p["out"]

    fn = lambda p, x: jax.lax.map(lambda row: one(p, row), x, batch_size=8)  # noqa: E731
    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X,)


@program("complex inputs", (9,))
def complex_inputs():
    def fn(p, x):
        f = jnp.fft.rfft(x, axis=-1)
        return relu(jnp.abs(f) @ p["w"] + p["b"]) @ p["out"]

    return fn, arrays(w=(7, 9), b=(9,), out=(9, 4)), (X,)


@program("complex kernel, modReLU of its size", (9,))
def mod_relu():
    def fn(p, x):
        z = x.astype(jnp.complex64) @ jax.lax.complex(p["re"], p["im"])
        size = jnp.abs(z)
        return jnp.abs(z / (size + 1e-6) * relu(size + p["b"])) @ p["out"]

    return fn, arrays(re=(12, 9), im=(12, 9), b=(9,), out=(9, 4)), (X,)


@program("Fourier layer beside a pointwise one", (9,))
def fourier():
    def fn(p, x):
        f = jnp.einsum("bki,kio->bko", jnp.fft.rfft(x, axis=1), jax.lax.complex(p["re"], p["im"]))
        return relu(jnp.fft.irfft(f, n=6, axis=1) + x @ p["w"] + p["b"]) @ p["out"]

    params = arrays(re=(4, 8, 9), im=(4, 8, 9), w=(8, 9), b=(9,), out=(9, 4))
    return fn, params, (TOKENS,)


@program("fake-quantized, straight through", (9,))
def fake_quantized():
    def quantized(w):
        scale = jnp.abs(w).max() / 127
        rounded = jnp.clip(jnp.round(w / scale), -127, 127) * scale
        return w + jax.lax.stop_gradient(rounded - w)

    fn = lambda p, x: relu(quantized(x) @ quantized(p["w"]) + p["b"]) @ p["out"]  # noqa: E731
    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X,)


@program("int8 kernel and inputs", (9,))
def int8():
    def fn(p, x):
        scale = jnp.abs(x).max(-1, keepdims=True) / 127
        x = jnp.round(x / scale).astype(jnp.int8)
        z = jnp.matmul(x, p["w"], preferred_element_type=jnp.int32)
        return relu(z.astype(jnp.float32) * scale * p["scale"] + p["b"]) @ p["out"]

    params = arrays(b=(9,), out=(9, 4))
    kernel = jax.random.randint(KEY, (12, 9), -127, 128, jnp.int8)
    return fn, params | {"w": kernel, "scale": jnp.full(9, 0.01)}, (X,)


@program("mixed precision", (9,), (8,))
def mixed_precision():
    def layer(x, w, b):
        return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32) + b

    def fn(p, x):
        return relu(layer(relu(layer(x, p["w0"], p["b0"])), p["w1"], p["b1"])) @ p["out"]

    return fn, arrays(w0=(12, 9), b0=(9,), w1=(9, 8), b1=(8,), out=(8, 4)), (X,)


@program("einsum with heads and units last to first", (2, 5))
def heads_first():
    def fn(p, x):
        h = relu(jnp.einsum("btd,fhd->hfbt", x, p["w"]) + p["b"].T[:, :, None, None])
        return jnp.einsum("hfbt,hfo->bto", h, p["out"])

    return fn, arrays(w=(5, 2, 8), out=(2, 5, 4)) | {"b": jnp.zeros((5, 2))}, (TOKENS,)


@program("kernel of three axes, flattened before relu", (2, 5))
def flattened_heads():
    def fn(p, x):
        z = jnp.einsum("btd,dhf->bthf", x, p["w"]).reshape(4, 6, 10) + p["b"]
        return relu(z) @ p["out"]

    return fn, arrays(w=(8, 2, 5), b=(10,), out=(10, 4)), (TOKENS,)


@program("jnp.vectorize", (9,))
def vectorized():
    @jnp.vectorize
    def unused(x):
        return x

    layer = jnp.vectorize(lambda x, w, b: relu(w @ x + b), signature="(i),(o,i),(o)->(o)")
    fn = lambda p, x: unused(layer(x, p["w"], p["b"])) @ p["out"]  # noqa: E731
    return fn, arrays(w=(9, 12), b=(9,), out=(9, 4)), (X,)


@program("vmap over examples, matrix times vector", (9,), (8,))
def matrix_times_vector():
    def one(p, x):
        return p[2][0] @ relu(p[1][0] @ relu(p[0][0] @ x + p[0][1]) + p[1][1])

    shapes = [(9, 12), (8, 9), (4, 8)]
    params = tuple((arrays(w=s)["w"], jnp.zeros(s[0])) for s in shapes)
    return lambda p, x: jax.vmap(one, (None, 0))(p, x), params, (X,)


@program("examples last", (9,), (8,))
def examples_last():
    def fn(p, x):
        h = relu(p["w0"] @ x.T + p["b0"][:, None])
        return p["out"] @ relu(p["w1"] @ h)

    return fn, arrays(w0=(9, 12), b0=(9,), w1=(8, 9), out=(4, 8)), (X,)


@program("ensemble by vmap over seeds, examples each", (3, 9))
def ensemble_over_data():
    def one(p, x):
        return relu(x @ p["w"] + p["b"]) @ p["out"]

    params = arrays(w=(3, 12, 9), out=(3, 9, 4)) | {"b": jnp.zeros((3, 9))}
    return jax.vmap(one), params, (jnp.stack([X, X + 1, X - 1]),)


@program("batch-norm after a concatenation", (12,))
def normed_concatenation():
    def fn(p, x):
        z = jnp.concatenate([x @ p["a"], x @ p["b"]], -1)
        z = (z - z.mean(0)) * jax.lax.rsqrt(z.var(0) + 1e-5) * p["scale"] + p["shift"]
        return relu(z) @ p["out"]

    params = arrays(a=(12, 5), b=(12, 7), out=(12, 4), shift=(12,))
    return fn, params | {"scale": jnp.ones(12)}, (X,)


@program("dense block", (6,), (6,), (6,))
def dense_block():
    def fn(p, x):
        for w in p["layers"]:
            x = jnp.concatenate([x, relu(x @ w)], -1)
        return x @ p["out"]

    layers = [arrays(w=(12 + 6 * k, 6))["w"] for k in range(3)]
    return fn, {"layers": layers, "out": arrays(w=(30, 4))["w"]}, (X,)


@program("inception block", (4,), (5,), (6,))
def inception():
    def fn(p, x):
        branches = [relu(conv(x, p[name]) + p["b" + name]) for name in ("one", "three", "five")]
        return jnp.concatenate(branches, -1).mean((1, 2)) @ p["out"]

    return fn, arrays(one=(1, 1, 3, 4), bone=(4,), three=(3, 3, 3, 5), bthree=(5,),
                      five=(5, 5, 3, 6), bfive=(6,), out=(15, 2)), (IMAGES,)  # fmt: skip


@program("two towers, one kernel", (9,))
def siamese():
    def tower(p, x):
        return relu(x @ p["w"] + p["b"]) @ p["out"]

    fn = lambda p, x, y: ((tower(p, x) - tower(p, y)) ** 2).sum(-1)  # noqa: E731
    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X, X + 1)


@program("FiLM", (9,))
def film():
    def fn(p, x, c):
        z = x @ p["w"]
        return relu(z * (1 + c @ p["gain"]) + c @ p["shift"]) @ p["out"]

    return fn, arrays(w=(12, 9), gain=(4, 9), shift=(4, 9), out=(9, 4)), (X, Y)


@program("GRU cell with a rectified candidate", (9,))
def rectified_gru():
    def fn(p, x):
        def cell(h, x):
            both = jnp.concatenate([h, x], -1)
            z, r = jax.nn.sigmoid(both @ p["z"]), jax.nn.sigmoid(both @ p["r"])
            new = relu(x @ p["w"] + (r * h) @ p["u"] + p["b"])
            return (1 - z) * h + z * new, None

        return jax.lax.scan(cell, jnp.zeros((4, 9)), x.swapaxes(0, 1))[0] @ p["out"]

    params = arrays(z=(17, 9), r=(17, 9), w=(8, 9), u=(9, 9), b=(9,), out=(9, 4))
    return fn, params, (TOKENS,)


@program("recurrent network, unrolled by hand", (9,))
def unrolled():
    def fn(p, x):
        h = jnp.zeros((4, 9))
        for t in range(3):
            h = relu(x[:, t] @ p["w"] + h @ p["u"] + p["b"])
        return h @ p["out"]

    return fn, arrays(w=(8, 9), u=(9, 9), b=(9,), out=(9, 4)), (TOKENS,)


@program("attention block of a vision transformer, patches by a reshape", (16,))
def vision_transformer():
    def fn(p, x):
        b, h, w, c = x.shape
        x = x.reshape(b, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, 4, 48) @ p["embed"] + p["position"]
        q, k, v = jnp.split(x @ p["qkv"], 3, -1)
        x = x + jax.nn.softmax(q @ k.swapaxes(1, 2) / 8**0.5) @ v
        return (x + relu(x @ p["up"] + p["b"]) @ p["down"]).mean(1) @ p["out"]

    params = arrays(embed=(48, 8), position=(4, 8), qkv=(8, 24), up=(8, 16), b=(16,),
                    down=(16, 8), out=(8, 4))  # fmt: skip
    return fn, params, (IMAGES,)


@program("linear attention with rectified features", (2, 4))
def linear_attention():
    def fn(p, x):
        q, k = (relu(jnp.einsum("btd,dhe->bhte", x, p["w"])) + 1e-3 for _ in range(2))
        v = jnp.einsum("btd,dhe->bhte", x, p["v"])
        top = q @ (k.swapaxes(-1, -2) @ v)
        return top / (q @ k.sum(2, keepdims=True).swapaxes(-1, -2))

    return fn, arrays(w=(8, 2, 4), v=(8, 2, 4)), (TOKENS,)


@program("conditional computation: where of two layers", (9,), (9,))
def either():
    def fn(p, x):
        a, b = relu(x @ p["a"]), relu(x @ p["b"])
        return jnp.where(x[:, :1] > 0, a, b) @ p["out"]

    return fn, arrays(a=(12, 9), b=(12, 9), out=(9, 4)), (X,)


@program("learned threshold (shifted relu)", (9,))
def shifted():
    fn = lambda p, x: relu(x @ p["w"] - p["theta"]) @ p["out"]  # noqa: E731
    return fn, arrays(w=(12, 9), theta=(9,), out=(9, 4)), (X,)


@program("PReLU, one slope per channel", (9,))
def prelu():
    def fn(p, x):
        z = x @ p["w"]
        return jnp.where(z >= 0, z, p["slope"] * z) @ p["out"]

    return fn, arrays(w=(12, 9), out=(9, 4)) | {"slope": jnp.full(9, 0.25)}, (X,)


@program("PReLU as a difference of rectifiers", (9,))
def prelu_by_parts():
    def fn(p, x):
        z = x @ p["w"]
        return (jnp.maximum(z, 0) + p["slope"] * jnp.minimum(z, 0)) @ p["out"]

    return fn, arrays(w=(12, 9), out=(9, 4)) | {"slope": jnp.full(9, 0.25)}, (X,)


@program("ramp: a difference of shifted rectifiers", (9,))
def ramp():
    def fn(p, x):
        z = x @ p["w"]
        return (relu(z) - relu(z - 1)) @ p["out"]

    return fn, arrays(w=(12, 9), out=(9, 4)), (X,)


@program("negated: minimum with 0", (9,))
def negated():
    fn = lambda p, x: jnp.minimum(x @ p["w"], 0) @ p["out"]  # noqa: E731
    return fn, arrays(w=(12, 9), out=(9, 4)), (X,)


@program("soft shrinkage, dead on both sides of 0", (9,))
def soft_shrinkage():
    def fn(p, x):
        z = x @ p["w"]
        return (jnp.sign(z) * jnp.maximum(jnp.abs(z) - 0.5, 0)) @ p["out"]

    return fn, arrays(w=(12, 9), out=(9, 4)), (X,)


@program("hard shrinkage", (9,))
def hard_shrinkage():
    def fn(p, x):
        z = x @ p["w"]
        return jnp.where(jnp.abs(z) > 0.5, z, 0) @ p["out"]

    return fn, arrays(w=(12, 9), out=(9, 4)), (X,)


@program("LISTA, learned thresholds", (9,), (9,), (9,))
def lista():
    def fn(p, x):
        drive, theta = x @ p["w"], jax.nn.softplus(p["theta"])
        shrink = lambda z: jnp.sign(z) * relu(jnp.abs(z) - theta)  # noqa: E731
        h = shrink(drive)
        for _ in range(2):
            h = shrink(drive + h @ p["s"])
        return h @ p["out"]

    return fn, arrays(w=(12, 9), s=(9, 9), theta=(9,), out=(9, 4)), (X,)


@program("winners by a median of the layer", (9,))
def above_the_median():
    def fn(p, x):
        z = x @ p["w"]
        return jnp.where(z > jnp.median(z, -1, keepdims=True), z, 0) @ p["out"]

    return fn, arrays(w=(12, 9), out=(9, 4)), (X,)


@program("winners above the mean of the layer", (9,))
def above_the_mean():
    def fn(p, x):
        z = x @ p["w"]
        return (z * (z > z.mean(-1, keepdims=True))) @ p["out"]

    return fn, arrays(w=(12, 9), out=(9, 4)), (X,)


@program("top-k by sorting", (20,))
def sorted_top_k():
    def fn(p, x):
        z = x @ p["w0"]
        return jnp.where(z >= jnp.sort(z, -1)[:, -3:-2], z, 0) @ p["w1"]

    return of_dense(fn, (12, 20), (20, 4))


@program("hinge loss on labels", (9,), (4,))
def hinge():
    def fn(p, x, labels):
        scores = relu(x @ p["w"] + p["b"]) @ p["out"]
        signs = 2 * jax.nn.one_hot(labels, 4) - 1
        return relu(1 - signs * scores)

    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X, LABELS)


@program("sharded over devices by a constraint", (9,))
def sharded():
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    def fn(p, x):
        x = jax.lax.with_sharding_constraint(x, split)
        h = relu(x @ p["w"] + p["b"])
        return jax.lax.with_sharding_constraint(h, split) @ p["out"]

    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X,)


@program("custom_jvp activation", (9,))
def own_tangent():
    @jax.custom_jvp
    def act(z):
        return jnp.maximum(z, 0.0)

    act.defjvp(lambda primals, tangents: (act(*primals), tangents[0] * (primals[0] > -0.1)))
    return of_dense(lambda p, x: act(x @ p["w0"]) @ p["w1"], (12, 9), (9, 4))


@program("scanned layers of two kinds", (3, 9), (3, 7))
def scanned_pairs():
    def fn(p, x):
        def pair(h, w):
            h = h + relu(h @ w["a"] + w["ab"]) @ w["ao"]
            return h + relu(h @ w["b"]) @ w["bo"], None

        return jax.lax.scan(pair, x, p)[0]

    params = arrays(a=(3, 12, 9), ao=(3, 9, 12), b=(3, 12, 7), bo=(3, 7, 12))
    return fn, params | {"ab": jnp.zeros((3, 9))}, (X,)


@program("scan within a scan", (2, 3, 12))
def nested_scans():
    def fn(p, x):
        layer = lambda h, w: (relu(h @ w), None)  # noqa: E731
        return jax.lax.scan(lambda h, ws: (jax.lax.scan(layer, h, ws)[0], None), x, p["w"])[0]

    return fn, arrays(w=(2, 3, 12, 12)), (X,)


@program("layers scanned over time in the same scan", (9,), (7,))
def recurrent_stack():
    def fn(p, x):
        def cell(carry, x):
            a, b = carry
            a = relu(x @ p["wa"] + a @ p["ua"])
            b = relu(a @ p["wb"] + b @ p["ub"] + p["b"])
            return (a, b), b

        start = jnp.zeros((4, 9)), jnp.zeros((4, 7))
        return jax.lax.scan(cell, start, x.swapaxes(0, 1))[1] @ p["out"]

    return fn, arrays(wa=(8, 9), ua=(9, 9), wb=(9, 7), ub=(7, 7), b=(7,), out=(7, 4)), (TOKENS,)


@program("microbatches in a scan", (9,))
def microbatches():
    def fn(p, x):
        one = lambda total, x: (total + (relu(x @ p["w"] + p["b"]) @ p["out"]).sum(), None)  # noqa: E731
        return jax.lax.scan(one, 0.0, x.reshape(4, 8, 12))[0]

    return fn, arrays(w=(12, 9), b=(9,), out=(9, 4)), (X,)


@program("neural ODE, fixed steps of a fori_loop", (9,))
def neural_ode():
    def fn(p, x):
        f = lambda h: relu(h @ p["w"] + p["b"]) @ p["v"]  # noqa: E731
        return jax.lax.fori_loop(0, 4, lambda i, h: h + 0.25 * f(h), x) @ p["out"]

    return fn, arrays(w=(12, 9), b=(9,), v=(9, 12), out=(12, 4)), (X,)


@program("parameters in one flat vector", (9,))
def flat_parameters():
    from jax.flatten_util import ravel_pytree

    flat, unravel = ravel_pytree(arrays(b=(9,), out=(9, 4), w=(12, 9)))

    def fn(flat, x):
        p = unravel(flat)
        return relu(x @ p["w"] + p["b"]) @ p["out"]

    return fn, flat, (X,)


@program("layers sliced out of one array", (9,), (9,), (9,))
def sliced_layers():
    def fn(p, x):
        h = relu(x @ p["in"])
        for k in range(2):
            h = relu(h @ p["stack"][k] + p["b"][k])
        return h @ p["out"]

    params = arrays(**{"in": (12, 9), "stack": (2, 9, 9), "out": (9, 4)})
    return fn, params | {"b": jnp.zeros((2, 9))}, (X,)
