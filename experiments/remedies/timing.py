"""What a training step of every arm costs in time."""

import concurrent.futures
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.remedies.sweep import PLAIN, Options, arm_config, arm_names
from relu_dynamics import statistics
from relu_dynamics.engine import training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import train_step
from relu_dynamics.engine.tasks import load_data, make_task
from relu_dynamics.sweeps.blocks import block_devices

TIMED_NETWORKS, TIMED_STEPS = 16, 100


def timings(options: Options) -> dict[str, dict]:
    """Time of a training step of every arm, as a multiple of plain ReLU's in the same round.

    Bare training without any evaluation on the probe set, `TIMED_NETWORKS` networks side by side on
    one device. Arms take turns within a round, so that what else the machine does hits all of them;
    the interval is that of the mean logarithm over rounds. It speaks of this small network and
    machine.
    """
    names, task = arm_names(options), options.tasks[0]
    with concurrent.futures.ThreadPoolExecutor(len(block_devices())) as pool:
        programs = dict(
            zip(names, pool.map(lambda n: _program(options, task, n), names), strict=True)
        )
    for call in programs.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.timing_rounds):
        for name, call in programs.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    plain = np.log(seconds[PLAIN])
    out = {}
    for name, own in seconds.items():
        ratio = statistics.paired_mean(np.log(own), plain)
        ends = [float(np.exp(end)) for end in (ratio.estimate, ratio.low, ratio.high)]
        micro = 1e6 * np.median(own) / (TIMED_STEPS * TIMED_NETWORKS)
        out[name] = {
            "ratio": ends[0],
            "interval": [1.0, 1.0] if name == PLAIN else ends[1:],
            "rounds": len(own),
            "microseconds_a_step_and_network": float(micro),
        }
    return out


def _program(options: Options, task: str, arm: str):
    """A call that trains TIMED_NETWORKS networks of one arm and waits for them."""
    config = dataclasses.replace(arm_config(options, task, arm), initial_bias=0.0)
    configs = jax.tree.map(lambda v: jnp.full((TIMED_NETWORKS,), v, jnp.float32), config)
    rates = jnp.linspace(options.low_rate, options.rate, TIMED_NETWORKS, dtype=jnp.float32)
    configs = dataclasses.replace(configs, learning_rate=rates)
    key, data = run_key(options.root_seed, 0), load_data(config)

    @jax.jit
    def train(configs, key, data):
        task = make_task(configs, purpose_key(key, "task"), data)

        def one(config):
            carry, nothing = (training.start(config, key), None), lambda *_: (None, None)
            (state, _), _ = training.scan_steps(
                train_step, nothing, config, task, key, carry, TIMED_STEPS
            )
            return state.params

        return jax.vmap(one)(configs)

    arguments = jax.device_put((configs, key, data), jax.local_devices()[0])
    compiled = train.lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))
