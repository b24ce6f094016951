"""Half of a sweep as it is, the rest under other settings, cores, rows or data."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import xarray as xr

from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.sweeps.sweep import sweep_grid
from tests.verify.drivers import ROOT, python_command
from tests.verify.grids import CONFIG
from tests.xla_flags import NO_FUSION_EMITTERS

ROWS = """
    import functools
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from relu_dynamics.engine import activations, initializers, models, normalizations
    from relu_dynamics.engine import optimizers, tasks

    LEAK = 0.05
    inputs = np.random.default_rng(0).normal(size=(96, 5)).astype(np.float32)
    targets = np.abs(inputs[:, :1] * 2)

    def leaky(slope):
        return lambda z: jnp.where(z > 0, z, slope * LEAK * z)

    def shrunk(statistics, power=0.5):
        def of(z):
            mean, variance = statistics(z)
            return mean, variance**power
        return of

    class Mine(models.MLP):
        def connect(self, below, active):
            return 1.5 * active

    def half(z):
        return z / 2

    activations.ACTIVATIONS["mine"] = activations.Activation(leaky(2.0))
    initializers.INITIALIZERS["mine"] = initializers.Initializer(
        jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    )
    models.MODELS["mine"] = Mine
    normalizations.NORMALIZATIONS["mine"] = normalizations.NORMALIZATIONS["layer"]._replace(
        statistics=shrunk(normalizations.layer_statistics), covered=False
    )
    optimizers.OPTIMIZERS["mine"] = optimizers.Optimizer(
        functools.partial(lambda factor, rate, momentum: optax.sgd(factor * rate), 0.8)
    )
    optimizers.SCHEDULES["mine"] = optimizers.Schedule(lambda step, w, d: 1 / (1 + 0.01 * step))
    tasks.SCALINGS["mine"] = tasks.Scaling(lambda x, train, _: half(x))
    tasks.TASKS["mine"] = tasks.TaskKind(1, False, lambda: (inputs, targets), None)
"""

CONFIGS = {
    "cores": Config(steps=100),  # the network for which one core once gave other bits
    "settings": dataclasses.replace(CONFIG, optimizer="adam", steps=100),
    "rows": Config(
        task="mine", activation="mine", initializer="mine", model="mine", normalization="mine",
        optimizer="mine", schedule="mine", input_scaling="mine", examples=64, hidden=(8, 8),
        biased_units=4, batch_size=16, steps=40, probe_every=10, sustain=20,
    ),
}  # fmt: skip


def _cores(**environment: str) -> dict:
    return {"config": "cores", "environment": environment}


def _flags(text: str) -> dict:
    return {"environment": {"XLA_FLAGS": text}}


def _edit(old: str, new: str) -> dict:
    return {"config": "rows", "edit": [old, new]}


VARIATIONS: dict[str, dict] = {  # what the second half is computed with
    "one core": {"config": "cores", "cores": 1},
    "NPROC=1": _cores(NPROC="1"),
    "PJRT_NPROC=1": _cores(PJRT_NPROC="1"),
    "PJRT_NPROC=8": _cores(PJRT_NPROC="8"),
    "SSE4_2": _flags("--xla_cpu_max_isa=SSE4_2"),
    "AVX2": _flags("--xla_cpu_max_isa=AVX2"),
    "vectors of 128 bits": _flags("--xla_cpu_prefer_vector_width=128"),
    "fast math": _flags("--xla_cpu_enable_fast_math=true"),
    "fast minimum": _flags("--xla_cpu_enable_fast_min_max=true"),
    "no optimization": _flags("--xla_backend_optimization_level=0"),
    "full optimization": _flags("--xla_backend_optimization_level=3"),
    **({"no fusion emitters": _flags(NO_FUSION_EMITTERS)} if NO_FUSION_EMITTERS else {}),
    "Eigen on one thread": _flags("--xla_cpu_multi_thread_eigen=false"),
    **{
        f"{name}={value}": {"environment": {name: value}}
        for name, value in (
            ("JAX_THREEFRY_PARTITIONABLE", "0"),
            ("JAX_RANDOM_SEED_OFFSET", "7"),
            ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
            ("JAX_DEFAULT_PRNG_IMPL", "unsafe_rbg"),
            ("JAX_ENABLE_CUSTOM_PRNG", "1"),
            ("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16"),
            ("JAX_NUMPY_DTYPE_PROMOTION", "strict"),
            ("JAX_NUMPY_RANK_PROMOTION", "raise"),
            ("JAX_SOFTMAX_CUSTOM_JVP", "0"),
            ("JAX_ENABLE_X64", "1"),
            ("JAX_DISABLE_JIT", "1"),
            ("JAX_DEBUG_NANS", "1"),
            ("JAX_NUM_CPU_DEVICES", "2"),
        )
    },
    "nothing, with rows": {"config": "rows"},
    "a line moved": _edit("LEAK = 0.05", "\n# moved\nLEAK = 0.05"),
    "a global": _edit("LEAK = 0.05", "LEAK = 0.06"),
    "a closure": _edit("leaky(2.0)", "leaky(3.0)"),
    "a body": _edit("z > 0", "z > 0.5"),
    "a default": _edit("power=0.5", "power=0.6"),
    "a partial": _edit("rate), 0.8", "rate), 0.7"),
    "a lambda": _edit("0.01 * step", "0.02 * step"),
    "a helper": _edit("return z / 2", "return z / 3"),
    "a method": _edit("1.5 * active", "1.25 * active"),
    "an initializer": _edit("variance_scaling(2.0", "variance_scaling(1.0"),
    "the inputs": _edit("default_rng(0)", "default_rng(1)"),
    "one target": _edit(":1] * 2)", ":1] * 2)\ntargets[3] += 1"),
}


def check(trials: int, chance: random.Random) -> dict:
    """Every variation: the first half of a sweep stands in a folder, and a process that differs in
    one thing continues it. It must be refused, or end with the digest of an undisturbed sweep."""
    rows = {}
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        place = pathlib.Path(name)
        tried = dict(list(VARIATIONS.items())[:trials])
        whole = {}
        for config in sorted({change.get("config", "settings") for change in tried.values()}):
            whole[config] = _computed({"config": config, "out": str(place / config)})["alone"]
        for number, (variation, change) in enumerate(tried.items()):
            config = change.get("config", "settings")
            out = place / f"{config}{number}"
            shutil.copytree(place / config, out)
            rows[variation] = found = _computed({**change, "config": config, "out": str(out)})
            found["passed"] = found["continued"] in (None, whole[config])
            found["other_bits"] = found["alone"] not in (None, whole[config])
            shutil.rmtree(out)
    return {
        "passed": sum(row["passed"] for row in rows.values()),
        "total": len(rows),
        "same": [name for name, row in rows.items() if row["continued"] is not None],
        "refused": {name: row["said"] for name, row in rows.items() if row["continued"] is None},
        "other_bits": [name for name, row in rows.items() if row["other_bits"]],
        "failed": [name for name, row in rows.items() if not row["passed"]],
    }


def _computed(change: dict) -> dict:
    """What a process of its own finds: digests of the sweep alone and of the continued folder
    (None: refused), and what was said."""
    told = ("XLA_FLAGS", "NPROC", "PJRT_NPROC", "JAX_COMPILATION_CACHE_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in told}
    environment |= {"JAX_PLATFORMS": "cpu", **change.get("environment", {})}
    command = python_command("tests.verify.identity", json.dumps(change), change.get("cores"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def _print_computed(change: dict) -> None:
    """What `_computed` reads."""
    out = pathlib.Path(change["out"])
    if change["config"] == "rows":
        _register(out.with_suffix(".py"), change.get("edit", ["", ""]))
    grid = _grid(CONFIGS[change["config"]])
    found, said = {}, ""
    for name, train in (
        ("alone", functools.partial(sweep_grid, grid)),
        ("continued", functools.partial(_continued, grid, out)),
    ):
        try:
            found[name] = _digest(train())
        except ValueError as error:
            found[name], said = None, str(error)
    print(json.dumps({**found, "said": said}))


def _register(path: pathlib.Path, edit: list[str]) -> None:
    """Runs the module with the rows, as a notebook's cell."""
    text = textwrap.dedent(ROWS)
    old, new = edit
    if old:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("rows_of_mine", path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _grid(config: Config) -> Grid:
    axes = {"learning_rate": [0.01, 0.03, 0.1, 0.3], "initial_bias": [-1.0, -2.0, -4.0, -6.0]}
    return make_grid(config, axes, 2)


def _continued(grid: Grid, out: pathlib.Path) -> xr.Dataset:
    """The sweep into a folder; into a new one its first half alone."""
    if out.exists():
        return sweep_grid(grid, out=out)
    try:
        return sweep_grid(grid, out=out, shard=(0, 2))
    except store.UnfinishedError:
        return xr.Dataset()


def _digest(result: xr.Dataset) -> str:
    digest = hashlib.sha256()
    for name in sorted(map(str, result.variables)):
        digest.update(np.ascontiguousarray(result[name].values).tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    _print_computed(json.loads(sys.argv[1]))
