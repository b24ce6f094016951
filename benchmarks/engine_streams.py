"""The data of the workloads: what this project's engine draws for the same configs.

The engine draws its own data, so `draw_streams` replays what its sweep trains on, and every other
contender gets those arrays.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from workloads import BIASED, EVERY, MOMENTUM, Streams

from relu_dynamics import Config
from relu_dynamics.engine import keys, step, tasks, training

BATCH = {"w1": 32, "w2": 64}
EXAMPLES = 4096


def make_config(name: str, steps: int) -> Config:
    """The config of a workload: the smallest network, 16-32-32-1, or the recovery map's default."""
    if name == "w3":
        return Config(steps=steps, probe_every=EVERY if steps % EVERY == 0 else steps)
    unit = Config(dimension=4, hidden=(1,), output_bias=False, biased_layer=1, biased_units=1)
    mlp = Config(dimension=16, hidden=(32, 32), biased_layer=2, biased_units=BIASED["w2"])
    return replace(
        unit if name == "w1" else mlp,
        task="teacher_student", examples=EXAMPLES, batch_size=BATCH[name], optimizer="momentum",
        momentum=MOMENTUM[name], steps=steps, probe_every=steps, probe_size=64, sustain=steps,
    )  # fmt: skip


def draw_streams(name: str, seeds: int, steps: int) -> Streams:
    """The streams of a workload; this process's JAX is then on the CPU."""
    jax.config.update("jax_platforms", "cpu")
    config = training.as_arrays(make_config(name, steps))
    groups = ["hidden_1", "output"] if name == "w1" else ["hidden_1", "hidden_2", "output"]
    data = tasks.load_data(config)

    @jax.jit
    def one(key):
        task = tasks.make_task(config, keys.purpose_key(key, "task"), data)
        drawn = jax.vmap(lambda t: step.draw_batch(config, key, t))(jnp.arange(steps))
        params = training.start(config, key).params
        kernels = [params[group]["kernel"] for group in groups]
        return task.inputs[drawn], task.targets[drawn], kernels, task.probe

    parts = [jax.device_get(one(keys.run_key(0, seed))) for seed in range(seeds)]
    inputs, targets, kernels, probe = (list(part) for part in zip(*parts, strict=True))
    weights = [np.stack(layer) for layer in zip(*kernels, strict=True)]
    if name == "w3":
        return Streams(np.stack(inputs), np.stack(targets), tuple(weights), np.stack(probe))
    weights[-1] = weights[-1][..., 0, 0] if name == "w1" else weights[-1][..., 0]
    if name == "w1":
        weights[0] = weights[0][..., 0]
    return Streams(np.stack(inputs), np.stack(targets)[..., 0], tuple(weights))
