"""What must not change a bit of a run, done otherwise in fresh processes."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import inspect
import json
import multiprocessing
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import jax
import numpy as np

from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.normalizations import NORMALIZATIONS
from relu_dynamics.engine.optimizers import OPTIMIZERS
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.sweeps import executors
from relu_dynamics.sweeps.blocks import block_devices, block_program, compiler_options, run_blocks
from tests.verify.drivers import ROOT, python_command
from tests.verify.grids import CONFIG, LANES, ONE_UNIT

FEW_RATES = [0.001, 0.01, 0.1]
FEW_BIASES = [-3.0, -1.0]


VARIATIONS: dict[str, dict] = {  # what a fresh process does otherwise than the first one
    "compiled again, compile cache written": {},
    "compile cache read": {},
    "one core": {"cores": 1, "cache": False},
    "2 devices": {"devices": 2},
    "8 devices": {"devices": 8},
    "blocks in reverse": {"order": -1},
    "blocks by shards of 3": {"order": 3},
    "cells in reverse, in other lanes": {"rates": FEW_RATES[::-1], "biases": FEW_BIASES[::-1]},
    "by an executor's process": {"executor": True},
    "more seeds, larger axes, diverging neighbours": {
        "seeds": 3,
        "rates": [1e30, 0.001, 0.003, 0.01, 0.1],
        "biases": [-3.0, -2.0, -1.0],
    },
    "a longer horizon, same prefix": {"steps": 80, "compared": "prefix"},
    "without statistics, losses alone": {"statistics": False, "compared": "losses"},
}
AUTOENCODER = {
    "task": "sparse_features",
    "model": "autoencoder",
    "hidden": (16,),
    "biased_layer": 1,
    "input_scaling": "shifted",
}
BIT_CONFIGS = {
    **{name: {"optimizer": name} for name in OPTIMIZERS},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    **{
        f"{optimizer}, {name}": {"optimizer": optimizer, "activation": name}
        for optimizer in ("sgd", "adam")
        for name in ACTIVATIONS
        if name != "relu"  # the network of all others
    },
    **{
        f"sgd, {name} normalization": {"normalization": name}
        for name in NORMALIZATIONS
        if name != "none"
    },
    "momentum, residual, data-dependent start": {
        "optimizer": "momentum",
        "model": "residual",
        "initializer": "data_dependent",
    },
    "adam, autoencoder, resampling and ghost gradients": {
        **AUTOENCODER,
        "optimizer": "adam",
        "penalty": "l1",
        "penalty_scale": 0.01,
        "decoder_bias": "mean",
        "reset": "resample",
        "reset_every": 10,
        "revival": "ghost_gradients",
        "silent_after": 5.0,
    },
    "adam, tied autoencoder, AuxK": {
        **AUTOENCODER,
        "model": "tied_autoencoder",
        "optimizer": "adam",
        "activation": "batch_top_k",
        "revival": "aux_k",
        "silent_after": 5.0,
    },
    "momentum, ReDo": {"optimizer": "momentum", "reset": "redo", "reset_every": 10},
    "sgd, continual backpropagation, decay to the start": {
        "reset": "continual_backprop",
        "reset_every": 1,
        "reset_rate": 0.02,
        "reset_maturity": 5.0,
        "weight_decay": 0.1,
        "decay_to_start": True,
    },
    "sgd, randomized asymmetric start": {"initializer": "randomized_asymmetric"},
    "sgd, one unit": ONE_UNIT,
    "adam, one unit": {"optimizer": "adam", **ONE_UNIT},
    "sgd, clipping, warm-up and cosine, decoupled decay": {
        "clip_norm": 0.1,
        "schedule": "warmup_cosine",
        "warmup_steps": 10,
        "decay_steps": 80,
        "weight_decay": 0.01,
        "decay_kind": "decoupled",
    },
    "adam, clipping, cosine, coupled decay, noise": {
        "optimizer": "adam",
        "clip_norm": 0.1,
        "schedule": "cosine",
        "decay_steps": 80,
        "weight_decay": 0.01,
        "noise_scale": 0.01,
    },
    **{
        f"{optimizer}, by the kernel": {"optimizer": optimizer, "implementation": "kernel"}
        for optimizer in ("sgd", "nesterov", "adam")
    },
    "momentum, one unit, by the kernel": {
        "optimizer": "momentum",
        **ONE_UNIT,
        "implementation": "kernel",
    },
    "sgd, half killed, a changing task": {
        "killed_fraction": 0.5,
        "killed_at": 20,
        "task": "digits",
        "dimension": 16,  # the default: digits have their own
        "change_every": 20,
    },
}


def check(trials: int, chance: random.Random) -> dict:
    """Every variation that must not change a bit, for every optimizer, activation, normalization
    and more: how many runs differ from the first process's. `trials` is how many variations are
    tried, as many at a time as there are cores."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        cache = pathlib.Path(name)
        tried = dict(list(VARIATIONS.items())[:trials])
        digests = functools.partial(_digests, cache=cache)
        with concurrent.futures.ThreadPoolExecutor(len(block_devices())) as pool:
            changes = list(tried.values())
            base, *others = pool.map(digests, [{"cache": False}, *changes[:1]])  # cache written
            others += pool.map(digests, changes[1:])
        for (variation, change), found in zip(tried.items(), others, strict=True):
            compared = change.get("compared", "all")
            rows[variation] = {
                config: sum(
                    found[config].get(run, {}).get(compared) != digests[compared]
                    for run, digests in runs.items()
                )
                for config, runs in base.items()
            }
    runs = sum(len(found) for found in base.values())
    differing = sum(sum(row.values()) for row in rows.values())
    return {
        "passed": runs * len(rows) - differing,
        "total": runs * len(rows),
        "runs": runs,
        "configs": list(base),
        "differing_runs": {name: {k: v for k, v in row.items() if v} for name, row in rows.items()},
    }


def _digests(changes: dict, cache: pathlib.Path) -> dict[str, dict[str, dict[str, str]]]:
    """config name -> run label -> digests of its numbers, from a process of its own."""
    environment = _environment(cache / "compiled" if changes.get("cache", True) else None)
    command = python_command("tests.verify.bits", json.dumps(changes), changes.get("cores"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout)


def _environment(cache: pathlib.Path | None) -> dict[str, str]:
    """This process's, with a compile cache for every program or without one."""
    told = ("JAX_COMPILATION_CACHE_DIR", "NPROC", "PJRT_NPROC")
    named = {k: v for k, v in os.environ.items() if k not in told}
    named |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return named if cache is None else named | {"JAX_COMPILATION_CACHE_DIR": str(cache)}


def _print_digests(changes: dict) -> None:
    """What `_digests` reads: digests of every run of every config."""
    jax.config.update("jax_num_cpu_devices", changes.get("devices", 1))
    found = {}
    for name, fields in BIT_CONFIGS.items():
        found[name] = _run_digests(fields, changes)
        jax.clear_caches()  # a process may map only so many pieces of compiled code
    print(json.dumps(found))


def grid_of(fields: dict, changes: dict) -> Grid:
    """The grid of one of the `BIT_CONFIGS` under one of the `VARIATIONS`: by itself 12 runs."""
    steps = changes.get("steps", 40)
    config = dataclasses.replace(CONFIG, steps=steps, probe_every=10, sustain=20, **fields)
    axes = {
        "learning_rate": changes.get("rates", FEW_RATES),
        "initial_bias": changes.get("biases", FEW_BIASES),
    }
    return make_grid(config, axes, changes.get("seeds", 2), lanes=LANES)


def _run_digests(fields: dict, changes: dict) -> dict[str, dict[str, str]]:
    """run label -> digests of all its numbers, of what a longer run shares, and of its losses."""
    grid = grid_of(fields, changes)
    order = changes.get("order", 1)
    blocks = list(range(grid.blocks))
    blocks = blocks[::-1] if order < 0 else [b for i in range(order) for b in blocks[i::order]]
    found = {}
    program = None if changes.get("statistics", True) else _losses_program
    for block, result in _any_blocks(grid, blocks, changes.get("executor", False), program):
        cells = grid.block_cells(block)[: grid.block_size(block)]
        for lane, cell in enumerate(cells):
            one = jax.tree.map(lambda leaf: np.asarray(leaf)[lane], result)  # noqa: B023
            kinds = {"losses": [one.loss, one.held_loss, one.held_error]}
            if one.probe_layers is not None:
                kinds["prefix"] = [one.loss[:4], one.probe_layers.margin_mean[:5]]
                kinds["all"] = jax.tree.leaves(one)
            values = grid.values(np.array([cell]))
            label = [float(v[0]) for v in values.values()] + [grid.block_seed(block)]
            found[str(label)] = {name: _leaves_digest(leaves) for name, leaves in kinds.items()}
    return found


def _leaves_digest(leaves) -> str:
    content = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)
    return hashlib.sha256(content).hexdigest()[:16]


@functools.partial(jax.jit, compiler_options=compiler_options())
def _losses_program(configs, key, data, given=None):
    """`block_program` of which nobody reads the statistics: XLA leaves them out."""
    result = inspect.unwrap(block_program)(configs, key, data, given)
    return result._replace(history=None, probe_layers=None)


def _any_blocks(grid, blocks, executor, program):
    if not executor:
        yield from run_blocks(grid, blocks, program=program)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        yield from executors.run_blocks_on(pool, grid, blocks)


if __name__ == "__main__":
    _print_digests(json.loads(sys.argv[1]))
