"""Bit identity, in fresh processes with XLA's full optimization (see conftest).

One script trains a grid block by block and prints a digest of every run; what must not change a
run is changed between processes.
"""

import json
import os
import subprocess
import sys

import pytest

from relu_dynamics.engine import columns, models, optimizers
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.normalizations import NORMALIZATIONS
from tests.verify import bits

SCRIPT = """
import hashlib, json, sys
import jax
import numpy as np
options = json.loads(sys.argv[1])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", options["devices"])
from relu_dynamics import Config, make_grid
from relu_dynamics.sweeps.blocks import run_blocks
config = Config(task="teacher_student", examples=64, dimension=5, hidden=(8, 8), biased_units=4,
                batch_size=16, sustain=20, probe_every=10, steps=options["steps"],
                **options["fields"])
grid = make_grid(config, options["axes"], options["seeds"], lanes=4)
blocks = list(range(grid.blocks))[:: options["order"]]
digests = {}
for block, result in run_blocks(grid, blocks):
    cells = grid.block_cells(block)[: grid.block_size(block)]
    values = grid.values(cells)
    for lane in range(len(cells)):
        label = [float(v[lane]) for v in values.values()] + [grid.block_seed(block)]
        leaves = jax.tree.leaves(jax.tree.map(lambda x: x[lane], result))
        if options.get("prefix"):  # what the first evaluations of a longer run must share
            leaves = [result.loss[lane][:4], result.probe_layers.margin_mean[lane][:5]]
        text = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves)
        digests[str(label)] = hashlib.sha256(text).hexdigest()[:16]
print(json.dumps(digests, sort_keys=True))
"""
OPTIMIZERS = {
    "sgd": {},
    "momentum": {"optimizer": "momentum"},
    "adam": {"optimizer": "adam"},
    "rmsprop": {"optimizer": "rmsprop"},
}
BASE = {
    "devices": 1,
    "order": 1,
    "steps": 40,
    "seeds": 2,
    "axes": {"learning_rate": [0.001, 0.01, 0.1], "initial_bias": [-3.0, -1.0]},
}


def digests(fields, **changes) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    options = json.dumps({**BASE, "fields": fields, **changes})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, options],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_runs_keep_their_bits(name):
    """Devices, order of blocks, a fresh process, other cells in the block (one of them diverging)
    and more seeds: 0 differing runs. A longer horizon keeps the prefix."""
    fields = OPTIMIZERS[name]
    base = digests(fields)
    assert len(base) == 12 and len(set(base.values())) == 12
    assert digests(fields, devices=2, order=-1) == base
    assert digests(fields, devices=3) == base
    larger = digests(
        fields,
        seeds=3,
        axes={"learning_rate": [1e30, 0.001, 0.003, 0.01, 0.1], "initial_bias": [-3.0, -2.0, -1.0]},
    )
    assert {label: larger[label] for label in base} == base
    short = digests(fields, prefix=True)
    assert digests(fields, prefix=True, steps=80) == short


def test_every_kind_of_run_is_among_the_configs_whose_bits_are_verified():
    """And each of them can run: the check itself takes an hour."""
    grids = [bits.grid_of(fields, {}) for fields in bits.BIT_CONFIGS.values()]
    tried = {(g.config.optimizer, g.config.activation) for g in grids}
    assert tried >= {(o, a) for o in ("sgd", "adam") for a in ACTIVATIONS}
    assert {optimizer for optimizer, _ in tried} == set(optimizers.OPTIMIZERS)
    assert {g.config.normalization for g in grids} == set(NORMALIZATIONS)
    assert {g.config.model for g in grids} == set(models.MODELS)
    assert {"data_dependent", "randomized_asymmetric"} <= {g.config.initializer for g in grids}
    assert any(columns.is_one_unit(g.config) for g in grids)
    assert all(g.runs == 12 for g in grids)
