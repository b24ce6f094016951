"""What watching every step costs: processor time of a training step with and without it, and the
time to trace and compile one.

Watched and unwatched steps take turns, and what is printed is the median over rounds of their
ratio, with its quartiles: other work on the machine then hardly counts. Some five minutes:

    python benchmarks/watch_cost.py
    python benchmarks/watch_cost.py --quick
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from relu_dynamics.inspection import watch


class Wide(nn.Module):
    """Three layers of 1024 units."""

    width: int = 1024

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


class Block(nn.Module):
    """A residual block with group norm."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, self.width, use_bias=False)
        y = nn.relu(nn.GroupNorm(8)(conv((3, 3), self.stride)(x)))
        y = nn.GroupNorm(8)(conv((3, 3))(y))
        return nn.relu(y + (x if x.shape == y.shape else conv((1, 1), self.stride)(x)))


class ResNet(nn.Module):
    """Three blocks of 16, 32 and 64 channels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            x = Block(width, stride)(x)
        return nn.Dense(10)(x.mean((1, 2)))


class Transformer(nn.Module):
    """Blocks of attention and a rectified feed-forward network."""

    blocks: int = 12
    width: int = 64

    @nn.compact
    def __call__(self, x):
        for _ in range(self.blocks):
            h = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(h, h)
            h = nn.relu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(h)
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


def training_step(model: nn.Module, shape: tuple[int, ...]) -> tuple[Callable, Any, tuple]:
    """(step, its first state, a batch) of a classifier trained by Adam."""
    x = jax.random.normal(jax.random.key(0), shape)
    y = jax.random.randint(jax.random.key(1), shape[:1], 0, 10)
    params, tx = jax.jit(model.init)(jax.random.key(2), x), optax.adam(1e-3)

    def step(state, x, y):
        params, memory = state

        def loss_of(params):
            logits: Any = model.apply(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, memory = tx.update(grads, memory, params)
        return (optax.apply_updates(params, updates), memory), loss

    return step, (params, tx.init(params)), (x, y)


def cpu_seconds(run: Callable, state: Any, batch: tuple, steps: int) -> float:
    """Processor time of so many calls of a compiled step."""
    start = time.process_time()
    for _ in range(steps):
        out = run(state, *batch)
    jax.block_until_ready(out)
    return time.process_time() - start


def quartiles(ratios: list[float]) -> str:
    """Median and quartiles of ratios, as what is added in percent."""
    low, middle, high = (np.quantile(ratios, [0.25, 0.5, 0.75]) - 1) * 100
    return f"{middle:+.1f} % (quartiles {low:+.1f} to {high:+.1f} %, {len(ratios)} rounds)"


def step_cost(model: nn.Module, shape: tuple[int, ...], steps: int, rounds: int) -> str:
    """What watching every step adds to its processor time."""
    step, state, batch = training_step(model, shape)
    plain, watched = jax.jit(step), jax.jit(watch(step))
    for run in (plain, watched):
        cpu_seconds(run, state, batch, 2)
    ratios = []
    for turn in range(rounds):
        order = (plain, watched) if turn % 2 else (watched, plain)
        spent = {run: cpu_seconds(run, state, batch, steps) for run in order}
        ratios.append(spent[watched] / spent[plain])
    return quartiles(ratios)


def compile_cost(blocks: int, rounds: int) -> str:
    """What watching adds to the processor time of tracing and compiling a transformer's step."""
    step, state, batch = training_step(Transformer(blocks), (8, 16, 64))
    spent: dict[str, list[float]] = {"traced": [], "plain": [], "watched": []}
    for _ in range(rounds):
        for name, function in (("plain", lambda: step), ("watched", lambda: watch(step))):
            jax.clear_caches()
            start = time.process_time()
            lowered = jax.jit(function()).lower(state, *batch)
            if name == "watched":
                spent["traced"].append(time.process_time() - start)
            lowered.compile()
            spent[name].append(time.process_time() - start)
    ratios = [w / p for w, p in zip(spent["watched"], spent["plain"], strict=True)]
    seconds = ", ".join(f"{name} {np.median(times):.1f} s" for name, times in spent.items())
    return f"{quartiles(ratios)}; medians: {seconds}"


def main() -> None:
    """Prints every measurement."""
    parser = argparse.ArgumentParser(description="What watching every step costs.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller networks")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_compilation_cache", False)
    rounds = 3 if quick else 21
    width = 256 if quick else 1024
    print(f"MLP 3 x {width}, batch 256:", step_cost(Wide(width), (256, 784), 8, rounds), flush=True)
    print("ResNet 16-32-64, batch 32:", step_cost(ResNet(), (32, 32, 32, 3), 2, rounds), flush=True)
    blocks, rounds = (2, 2) if quick else (12, 5)
    print(f"compiling {blocks} transformer blocks:", compile_cost(blocks, rounds), flush=True)


if __name__ == "__main__":
    main()
