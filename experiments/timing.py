"""What a training step of every arm of an experiment costs in time."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics import statistics
from relu_dynamics.config import Config
from relu_dynamics.engine import training
from relu_dynamics.engine.interventions import with_interventions
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import train_step
from relu_dynamics.engine.tasks import load_data, make_task
from relu_dynamics.sweeps.blocks import block_devices

TIMED_NETWORKS, TIMED_STEPS = 16, 100


def timings(
    configs: Mapping[str, Config],
    plain: str,
    rounds: int,
    rates: tuple[float, float],
    root_seed: int = 0,
) -> dict[str, dict]:
    """Time of a training step of every arm, as a multiple of the `plain` arm's in the same round.

    Bare training without any evaluation on the probe set, `TIMED_NETWORKS` networks side by side on
    one device, at learning rates between `rates`. Arms take turns within a round, so that what else
    the machine does hits all of them; the interval is that of the mean logarithm over rounds. It
    speaks of small networks and of this machine.
    """
    own = lambda config: _program(config, rates, root_seed)  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(len(block_devices())) as pool:
        programs = dict(zip(configs, pool.map(own, configs.values()), strict=True))
    for call in programs.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(rounds):
        for name, call in programs.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    logarithms = np.log(seconds[plain])
    out = {}
    for name, own_seconds in seconds.items():
        ratio = statistics.paired_mean(np.log(own_seconds), logarithms)
        ends = [float(np.exp(end)) for end in (ratio.estimate, ratio.low, ratio.high)]
        micro = 1e6 * np.median(own_seconds) / (TIMED_STEPS * TIMED_NETWORKS)
        out[name] = {
            "ratio": ends[0],
            "interval": [1.0, 1.0] if name == plain else ends[1:],
            "rounds": len(own_seconds),
            "microseconds_a_step_and_network": float(micro),
        }
    return out


def _program(config: Config, rates: tuple[float, float], root_seed: int):
    """A call that trains TIMED_NETWORKS networks of one arm and waits for them."""
    config = dataclasses.replace(config, initial_bias=0.0)
    configs = jax.tree.map(lambda v: jnp.full((TIMED_NETWORKS,), v, jnp.float32), config)
    between = jnp.linspace(*rates, TIMED_NETWORKS, dtype=jnp.float32)
    configs = dataclasses.replace(configs, learning_rate=between)
    key, data = run_key(root_seed, 0), load_data(config)

    @jax.jit
    def train(configs, key, data):
        def one(config):
            task = make_task(config, purpose_key(key, "task"), data)
            carry, nothing = (training.start(config, key), None), lambda *_: (None, None)
            (state, _), _ = training.scan_steps(
                with_interventions(train_step), nothing, config, task, key, carry, TIMED_STEPS
            )
            return state.params

        return jax.vmap(one)(configs)

    arguments = jax.device_put((configs, key, data), jax.local_devices()[0])
    compiled = train.lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))
