"""Whether a watched program keeps the bits of outputs, losses and gradients, over the zoo of
tests/zoo: compiled, differentiated, under vmap, in a scan, and with data sharded over two devices.

Prints every program and way where a bit differs, and how many do not. All of it takes half an hour
on one core; names, or parts of them, pick programs:

    python benchmarks/watch_bits.py
    python benchmarks/watch_bits.py --ways jit grad -- "linen MLP" ResNet
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.inspection import watch
from tests import zoo


def bits(tree: Any) -> list[bytes]:
    """Of all floating leaves."""
    return [
        np.asarray(leaf).tobytes()
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


def twice(tree: Any) -> Any:
    """Every leaf stacked with itself."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)


def loss_of(fn: Callable) -> Callable:
    """The mean square of all outputs."""

    def loss(params, *data):
        outs = [
            x for x in jax.tree.leaves(fn(params, *data)) if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        return sum((jnp.abs(x) ** 2).mean() for x in outs)

    return loss


def by_jit(fn, params, data, keep):
    """Compiled."""
    return keep(jax.jit(fn)(params, *data))


def by_grad(fn, params, data, keep):
    """Its loss and gradients."""
    watched = keep is not _all
    loss = watch(loss_of(fn)) if watched else loss_of(fn)
    value, grads = jax.jit(jax.value_and_grad(loss, has_aux=watched, allow_int=True))(params, *data)
    return keep(value), grads


def by_vmap(fn, params, data, keep):
    """Under vmap over two sets of parameters."""
    return keep(jax.jit(jax.vmap(fn, (0, *(None for _ in data))))(twice(params), *data))


def by_scan(fn, params, data, keep):
    """In a scan over two batches."""

    def run(params, batches):
        return jax.lax.scan(lambda none, batch: (none, keep(fn(params, *batch))), None, batches)[1]

    return jax.jit(run)(params, twice(data))


def by_sharding(fn, params, data, keep):
    """With the leading axis of the data over two devices."""
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",))

    def placed(leaf):
        even = jnp.ndim(leaf) and leaf.shape[0] % 2 == 0
        spec = jax.sharding.PartitionSpec("data" if even else None)
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec))

    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return keep(jax.jit(fn)(jax.device_put(params, whole), *jax.tree.map(placed, data)))


WAYS = {"jit": by_jit, "grad": by_grad, "vmap": by_vmap, "scan": by_scan, "sharding": by_sharding}


def _all(out):
    return out


def _first(out):
    return out[0]


def compare(name: str, ways: list[str]) -> dict[str, str]:
    """{way: same, OTHER BITS, or why it cannot be tried} of one program."""
    fn, params, data = zoo.ZOO[name].build()
    found = {}
    for way in ways:
        run = WAYS[way]
        try:
            plain = run(fn, params, data, _all)
        except (TypeError, ValueError, NotImplementedError) as error:
            found[way] = f"not possible unwatched: {str(error).splitlines()[0]}"
            continue
        watched = run(fn if way == "grad" else watch(fn), params, data, _first)
        found[way] = "same" if bits(plain) == bits(watched) else "OTHER BITS"
    jax.clear_caches()
    return found


def main() -> None:
    """Prints what differs, then how many do not."""
    parser = argparse.ArgumentParser(description="Whether watching keeps the bits.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("names", nargs="*", help="parts of names of programs; default: all")
    options = parser.parse_args()
    names = [n for n in zoo.ZOO if not options.names or any(part in n for part in options.names)]
    counts: dict[str, list[int]] = {way: [0, 0] for way in options.ways}
    for name in names:
        for way, word in compare(name, options.ways).items():
            counts[way][0] += word == "same"
            counts[way][1] += not word.startswith("not")
            if word != "same":
                print(f"{name}, {way}: {word}", flush=True)
    for way, (same, tried) in counts.items():
        print(f"{way}: {same} of {tried} programs with the same bits", flush=True)


if __name__ == "__main__":
    main()
