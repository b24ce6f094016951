"""Run by test_shards.py with four CPU devices: every case beside the same program on one."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from relu_dynamics import inspection
from relu_dynamics.inspection import watch

DEVICES = np.array(jax.devices())
LINE = Mesh(DEVICES, ("data",))
ACROSS = Mesh(DEVICES, ("model",))
GRID = Mesh(DEVICES.reshape(2, 2), ("data", "model"))
KEYS = jax.random.split(jax.random.key(0), 6)
X = jax.random.normal(KEYS[0], (16, 6))
PARAMS = {
    "a": {"w": jax.random.normal(KEYS[1], (6, 8)) / 2, "b": jnp.linspace(-3.0, 0, 8)},
    "b": {"w": jax.random.normal(KEYS[2], (8, 12)) / 2, "b": jnp.linspace(-2.0, 1, 12)},
    "out": jax.random.normal(KEYS[3], (12, 1)),
}
STACK = {
    "w": jax.random.normal(KEYS[4], (3, 6, 8)) / 2,
    "v": jax.random.normal(KEYS[5], (3, 8, 6)) / 2,
    "b": jnp.linspace(-2.0, 0, 24).reshape(3, 8),
}
SPLIT = {"a": {"w": P(None, "model"), "b": P("model")},
         "b": {"w": P("model", None), "b": P()}, "out": P()}  # fmt: skip
WHOLE = P()


def relu(p, x):
    return jnp.maximum(x @ p["w"] + p["b"], 0)


def mlp(p, x):
    return relu(p["b"], relu(p["a"], x)) @ p["out"]


def tensor_parallel(p, x):
    """Kernels a by columns, b by rows: the products of the shards are summed."""
    z = jax.lax.psum(relu(p["a"], x) @ p["b"]["w"], "model") + p["b"]["b"]
    return jnp.maximum(z, 0) @ p["out"]


def gathering(p, x):
    whole = lambda leaf, at: jax.lax.all_gather(leaf, "data", axis=at, tiled=True)  # noqa: E731
    a = {**p["a"], "w": whole(p["a"]["w"], 1)}
    return mlp({**p, "a": a, "b": jax.tree.map(lambda leaf: whole(leaf, 0), p["b"])}, x)


def branching(p, x):
    def again(state):
        i, h = state
        return i + 1, relu({"w": p["b"]["w"][:, :8], "b": p["b"]["b"][:8]}, h)

    h = jax.lax.while_loop(lambda s: s[0] < 3, again, (0, relu(p["a"], x)))[1]
    return jax.lax.cond(
        x[0, 0] > -99.0, lambda h: relu(p["b"], h) @ p["out"], lambda h: h[:, :1], h
    )


def scanned(sum_over):
    def run(p, x):
        def layer(h, w):
            out = jnp.maximum(h @ w["w"] + w["b"], 0) @ w["v"]
            return h + (jax.lax.psum(out, sum_over) if sum_over else out), None

        return jax.lax.scan(layer, x, p)[0]

    return run


def spread(function, mesh, specs, data, check=True):
    return jax.shard_map(
        function, mesh=mesh, in_specs=(specs, data), out_specs=data, check_vma=check
    )


def loss(model):
    return lambda p, x: (model(p, x) ** 2).mean()


def same(a, b):
    return all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))


def compare(many, one, params=PARAMS, order=None):
    seen_of = lambda model: jax.jit(watch(model))(params, X)  # noqa: E731
    (out, seen), (plain, wanted) = seen_of(many), seen_of(one)
    probes = [inspection.find(model, params, X) for model in (many, one)]
    wanted = wanted if order is None else jax.tree.map(lambda leaf: leaf[order], wanted)
    differing = [
        name
        for name, a, b in zip(seen._fields, seen, wanted, strict=True)
        if not np.allclose(a, b, rtol=2e-5, atol=1e-5)
        or (a.dtype == jnp.int32 and bool((a != b).any()))
    ]
    links = [[repr(site.links) for site in probe.sites] for probe in probes]
    if order is not None:  # none is known where the numbers are of shards
        links[1] = ["()"] * len(probes[1].sites)
    return {
        "differing": differing,
        "same outputs": same(out, jax.jit(many)(params, X)) and np.allclose(out, plain, 1e-4, 1e-5),
        "names": probes[0].names,
        "names of one": probes[1].names,
        "links": links[0],
        "links of one": links[1],
        "notes": "; ".join(probes[0].notes),
    }


def main():
    rows = P("data")
    by_rows = {"a": {"w": P(None, "data"), "b": P()}, "b": {"w": rows, "b": rows}, "out": P()}
    at = NamedSharding(LINE, rows)
    placed = lambda p, x: mlp(p, jax.lax.with_sharding_constraint(x, at))  # noqa: E731
    by_layers = {"w": P(None, None, "model"), "v": P(None, "model", None), "b": P(None, "model")}
    # Shard by shard, and of every shard its half of each layer.
    by_shard = np.arange(24).reshape(3, 4, 2).transpose(1, 0, 2).ravel()
    cadence = functools.partial(watch, when=lambda p, x: x.sum() > -1e9)
    mesh = spread(mlp, LINE, WHOLE, rows)
    answers = {
        "examples split": compare(mesh, mlp),
        "examples split, unchecked": compare(spread(mlp, LINE, WHOLE, rows, False), mlp),
        "kernels split": compare(spread(tensor_parallel, ACROSS, SPLIT, P()), mlp),
        "both split": compare(spread(tensor_parallel, GRID, SPLIT, rows), mlp),
        "gathered kernels": compare(spread(gathering, LINE, by_rows, rows), mlp),
        "loops and branches": compare(spread(branching, LINE, WHOLE, rows), branching),
        "jit with shardings": compare(placed, mlp),
        "layers of a scan split": compare(
            spread(scanned("model"), ACROSS, by_layers, P()), scanned(None), STACK, by_shard
        ),
    }
    seen, plain = (jax.jit(cadence(model))(PARAMS, X)[1] for model in (mesh, mlp))
    answers["cadence"] = answers["examples split"] | {
        "differing": [k for k, a, b in zip(seen._fields, seen, plain, strict=True)
                      if not np.allclose(a, b, rtol=2e-5, atol=1e-5)]
    }  # fmt: skip
    watched = jax.jit(jax.grad(watch(loss(mesh)), has_aux=True))(PARAMS, X)[0]
    plain = jax.jit(jax.grad(loss(mesh)))(PARAMS, X)
    answers["gradient"] = answers["examples split"] | {"same outputs": same(watched, plain)}
    print(json.dumps(answers))


main()
