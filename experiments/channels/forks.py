"""Forks, and the accounts and certificates of the runs that they continue."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.channels.sweep import Options, fork_config
from relu_dynamics import certificates, channels
from relu_dynamics.certificates.case import Verdict
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key

ARM_CHANNELS = {
    "upstream_frozen": "upstream",
    "residue_zeroed": "residue",
    "decay_off": "decay",
    "noise_off": "noise",
}


class Traced(NamedTuple):
    """The accounts of all seeds of a fork's straight run, [seeds, units of the biased layer]."""

    brought: dict[str, np.ndarray]  # channel: what it added to the margin over the dead spell
    climb: np.ndarray
    first_recovery: np.ndarray
    dead: np.ndarray  # at the fork
    certified: dict[str, np.ndarray]  # arm: CERTIFIED_NEVER at the fork


@functools.partial(jax.jit, static_argnames="root_seed")
def _states_at(config, keys, data, root_seed):
    """(task, state) after `config.steps` steps of every key."""

    def one(key):
        task = tasks.make_task(config, purpose_key(key, "task"), data)
        return task, training.run(config, task, key).state

    return jax.vmap(one)(keys)


@jax.jit
def _start_states(config, keys, data):
    def one(key):
        task = tasks.make_task(config, purpose_key(key, "task"), data)
        return task, training.start(config, key)

    return jax.vmap(one)(keys)


@jax.jit
def _accounts(config, task, keys, state):
    return jax.vmap(functools.partial(channels.spell_account, config))(task, keys, state)


class Fork(NamedTuple):
    """One fork, and the accounts of the runs that it continues."""

    name: str
    config: Config
    result: channels.ForkResult
    traced: Traced


def make_fork(options: Options, name: str, change: dict) -> Fork:
    """Runs a fork of a name, with every arm that its config has, and its accounts."""
    config = fork_config(options, change)
    arms = [arm for arm in ARM_CHANNELS if channels.ARMS[arm].missing(config) is None]
    result = channels.fork(
        config, options.fork_step, arms, options.fork_seeds, root_seed=options.root_seed
    )
    return Fork(name, config, result, trace_fork(options, config))


def trace_fork(options: Options, config: Config) -> Traced:
    """Accounts and certificates of the runs that `channels.fork` continues as they are."""
    keys = jnp.stack([run_key(options.root_seed, seed) for seed in range(options.fork_seeds)])
    data, step = tasks.load_data(config), options.fork_step
    before = training.as_arrays(dataclasses.replace(config, steps=step or config.probe_every))
    advance = functools.partial(_states_at, root_seed=options.root_seed) if step else _start_states
    task, state = advance(before, keys, data)
    rest = training.as_arrays(dataclasses.replace(config, steps=config.steps - step))
    account = jax.tree.map(np.asarray, _accounts(rest, task, keys, state))
    units = list(channels.layer_units(config))
    shares = channels.spell_shares(account)
    climb = np.asarray(shares.climb)[:, units]
    share = {name: np.asarray(getattr(shares, name))[:, units] for name in shares._fields[:-1]}
    brought = {name: np.where(climb == 0, 0.0, part * climb) for name, part in share.items()}
    task, state = jax.tree.map(np.asarray, (task, state))
    certified = {}
    for arm, change in (("as_is", {}), ("upstream_frozen", {"upstream_rate": 0.0})):
        changed = dataclasses.replace(config, **change)
        rows = []
        for seed in range(options.fork_seeds):
            own = jax.tree.map(lambda leaf, k=seed: leaf[k], (task, state))
            found = certificates.certify(changed, *own, horizon=config.steps - step)
            rows.append(found.verdict[units] == Verdict.CERTIFIED_NEVER)
        certified[arm] = np.stack(rows)
    history = account.history
    return Traced(
        brought,
        climb,
        history.first_recovery[:, units],
        history.dead_at_start[:, units],
        certified,
    )
