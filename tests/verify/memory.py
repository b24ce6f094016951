"""The memory that a sweep says at its start, and what its process has then held."""

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import tempfile

import jax
import numpy as np

from relu_dynamics.config import Config
from relu_dynamics.grid import make_grid
from relu_dynamics.sweeps.plan import block_bytes, process_bytes
from relu_dynamics.sweeps.sweep import sweep_grid
from tests.verify.drivers import ROOT
from tests.verify.grids import CONFIG, ONE_UNIT

MAP_AXES = {
    "learning_rate": [float(rate) for rate in np.geomspace(1e-3, 10, 16)],
    "initial_bias": [float(bias) for bias in range(-13, -1)],
}
MANY_RUNS = {  # 4096 runs per seed of a small network, so that results outweigh the program
    "config": dataclasses.replace(CONFIG, hidden=(16, 16), steps=10, probe_every=5),
    "axes": {
        "learning_rate": [rate / 100 for rate in range(1, 65)],
        "initial_bias": [-4 - bias / 8 for bias in range(64)],
    },
    "lanes": 1024,
}
CASES: dict[str, dict] = {  # what `make_grid` is given; on one device, in memory
    "default map": {"config": Config(steps=100), "axes": MAP_AXES, "seeds": 1},
    "default map, 32 seeds to a folder, 2 devices": {
        "config": Config(steps=25),
        "axes": MAP_AXES,
        "seeds": 32,
        "devices": 2,
        "folder": True,
    },
    "default map, a block of 1024 lanes": {
        "config": Config(steps=25),
        "axes": {**MAP_AXES, "learning_rate": [rate / 100 for rate in range(1, 129)]},
        "seeds": 1,
        "lanes": 1024,
    },
    "one unit, 1024 lanes": {
        "config": Config(task="teacher_student", examples=1024, dimension=5, steps=100, **ONE_UNIT),
        "axes": {"learning_rate": [rate / 1000 for rate in range(1, 1025)]},
        "seeds": 1,
        "lanes": 1024,
    },
    "width 256, full batch": {
        "config": Config(hidden=(256, 256), batch_size=None, steps=25),
        "axes": {"learning_rate": [0.001, 0.01, 0.1]},
        "seeds": 1,
    },
    "adam, six layers, layer normalization": {
        "config": Config(optimizer="adam", hidden=(32,) * 6, normalization="layer", steps=25),
        "axes": MAP_AXES,
        "seeds": 1,
    },
    "262,144 runs": {**MANY_RUNS, "seeds": 64},
    "65,536 runs to a folder": {**MANY_RUNS, "seeds": 16, "folder": True},
    "524,288 runs to a folder": {**MANY_RUNS, "seeds": 128, "folder": True},
}
FEWER, MORE = list(CASES)[-2:]  # whose memory must be the same


def check(trials: int, chance: random.Random) -> dict:
    """The memory that a sweep says at its start, and what its process has then held at its most,
    in fresh processes without a compile cache: within 25 %. And eight times as many runs to a
    folder take no more memory (within 5 %). Linux only. `trials` is how many cases are tried."""
    cases = {name: _memory_case(name) for name in list(CASES)[:trials]}
    passed = sum(abs(case["estimate"] / case["used"] - 1) <= 0.25 for case in cases.values())
    total = len(cases)
    growth = None
    if MORE in cases:
        growth = round(cases[MORE]["used"] / cases[FEWER]["used"], 3)
        passed, total = passed + (growth <= 1.05), total + 1
    return {"passed": passed, "total": total, "mebibytes": cases, "eightfold_runs": growth}


def _memory_case(name: str) -> dict[str, float]:
    """MiB of a case: its results, what it used, what it estimated and by how much that is off."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-m", "tests.verify.memory", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    said = re.search(r"memory about ([0-9,]+) MiB", done.stderr)
    if done.returncode or said is None:
        raise RuntimeError(done.stderr[-2000:])
    found = {**json.loads(done.stdout), "estimate": int(said[1].replace(",", ""))}
    return {**found, "error_percent": round(100 * (found["estimate"] / found["used"] - 1), 1)}


def _print_use(name: str) -> None:
    """What `_memory_case` reads: sweeps a case in this process and says what it has held."""
    case = CASES[name]
    jax.config.update("jax_num_cpu_devices", case.get("devices", 1))
    grid = make_grid(case["config"], case["axes"], case["seeds"], lanes=case.get("lanes"))
    results = grid.blocks * block_bytes(grid)
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as folder:
        out = f"{folder}/sweep" if case.get("folder") else None
        kept = sweep_grid(grid, out=out, progress=True)
        used = process_bytes()[1]
        del kept
    print(json.dumps({"results": round(results / 2**20), "used": round(used / 2**20)}))


if __name__ == "__main__":
    _print_use(sys.argv[1])
