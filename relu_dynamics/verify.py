"""Verify: breaks sweeps on purpose and counts how often the answer stays right.

    python -m relu_dynamics.verify {kills,signals,damage,disk,bits,blocks,memory,cost} [--trials N]

Every check prints one JSON object with `passed` and `total` and ends with 0 when they are equal,
else with 1. A disturbed sweep passes when its result, in the end, has the digest of an undisturbed
one. Drivers are real processes of `python -m relu_dynamics.verify sweep FOLDER`, a sweep of a few
seconds. docs/reliability.md holds what was measured.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import multiprocessing
import os
import pathlib
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import xarray as xr

from relu_dynamics import cli, store
from relu_dynamics.config import NORMALIZATIONS, Config
from relu_dynamics.engine import optimizers
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.sweeps import executors
from relu_dynamics.sweeps.blocks import (
    block_devices,
    block_program,
    compiler_options,
    run_block,
    run_blocks,
)
from relu_dynamics.sweeps.plan import block_bytes, process_bytes
from relu_dynamics.sweeps.sweep import sweep, sweep_grid

CONFIG = Config(
    task="teacher_student",
    examples=64,
    dimension=5,
    hidden=(8, 8),
    biased_units=4,
    batch_size=16,
    steps=400,
    probe_every=20,
    sustain=100,
)
RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
BIASES = [-4.0, -3.0, -2.0, -1.0]
FEW_RATES = [0.001, 0.01, 0.1]
FEW_BIASES = [-3.0, -1.0]
ONE_UNIT = {"hidden": (1,), "biased_layer": 1, "biased_units": 1}
LANES = 4
WAIT_SECONDS = 300


def small_grid(root_seed: int = 0, seeds: int = 8) -> Grid:
    """The grid that the checks sweep: 6 x 4 cells, 8 seeds, 48 blocks."""
    axes = {"learning_rate": RATES, "initial_bias": BIASES}
    return make_grid(CONFIG, axes, seeds, root_seed=root_seed, lanes=LANES)


def digest_of(folder: pathlib.Path, grid: Grid) -> str:
    """Sha256 of all numbers in a finished folder: its blocks and its labelled result."""
    digest = hashlib.sha256()
    for block in range(grid.blocks):
        for name, array in sorted(store.read_block(folder, grid, block).items()):
            digest.update(name.encode() + array.tobytes())
    result = store.open_result(folder).load()
    for name in sorted(map(str, result.variables)):
        values = result[name].values
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


# --- Drivers: the sweep in a process of its own ---------------------------------------------------


def _environment(cache: pathlib.Path) -> dict[str, str]:
    """With a private compile cache, so that a driver starts fast."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


class Driver:
    """A sweep of the small grid in a process of its own.

    Forked by a server that has imported the package and started no JAX backend: two seconds
    sooner at work than a new interpreter.
    """

    def __init__(self, out: pathlib.Path, cache: pathlib.Path, file_limit: int | None = None):
        self._log = cache / f"log-{secrets.token_hex(8)}"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["relu_dynamics.verify"])
        arguments = (str(out), str(cache), str(self._log), file_limit)
        self._process = context.Process(target=_drive, args=arguments)
        self._process.start()

    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        pid = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, number)

    def said(self) -> str:
        """What it has written so far."""
        return self._log.read_text() if self._log.exists() else ""

    def end(self) -> tuple[int | None, str]:
        """Waits for its end: (exit code, what it has written)."""
        self._process.join(WAIT_SECONDS)
        return self._process.exitcode, self.said()


def _drive(out: str, cache: str, log: str, file_limit: int | None) -> None:
    """What a driver's process does."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    cli.guard(lambda: _sweep(out, file_limit))


def _finish(out: pathlib.Path, cache: pathlib.Path) -> str:
    """Runs a driver to its end; "" or what went wrong."""
    code, said = Driver(out, cache).end()
    return "" if code == 0 else f"ended with {code}: {said[-500:]}"


def _wait_for_blocks(out: pathlib.Path, wanted: int, drivers: list[Driver]) -> None:
    """Until so many blocks are there, or no driver runs any more."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and any(each.runs() for each in drivers):
        if len(list(out.glob("blocks/*.npz"))) >= wanted:
            return
        time.sleep(0.005)


def _finished_files(out: pathlib.Path, grid: Grid) -> dict[int, tuple[int, int]]:
    """Block -> (inode, time of writing) of every block that validates."""
    found = {}
    for block in store.stored_blocks(out, grid):
        if store.is_done(out, grid, block):
            status = store.block_path(out, block).stat()
            found[block] = (status.st_ino, status.st_mtime_ns)
    return found


@contextlib.contextmanager
def _workplace(grid: Grid) -> Iterator[tuple[pathlib.Path, pathlib.Path, str]]:
    """(folder, compile cache, digest of an undisturbed sweep), removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        place = pathlib.Path(name)
        cache = place / "cache"
        cache.mkdir(mode=0o700)
        wrong = _finish(place / "undisturbed", cache)
        if wrong:
            raise RuntimeError(f"the undisturbed sweep {wrong}")
        yield place, cache, digest_of(place / "undisturbed", grid)


def _wait_for_start(driver: Driver) -> None:
    while driver.runs() and "started" not in driver.said():
        time.sleep(0.005)


def kills(trials: int, chance: random.Random) -> dict:
    """SIGKILL at random moments, one to three drivers at once, then to the end. A trial is one
    kill of all drivers; a sweep is killed three times before it may finish."""
    grid = small_grid()
    failures, moments, killed, sweeps, lost, again = [], [], 0, 0, 0, 0
    with _workplace(grid) as (place, cache, wanted):
        while killed < trials:
            sweeps += 1
            out = place / f"sweep{sweeps}"
            done: dict[int, tuple[int, int]] = {}
            for _ in range(min(3, trials - killed)):
                drivers = [Driver(out, cache) for _ in range(chance.randint(1, 3))]
                _wait_until_a_random_moment(out, grid, len(done), drivers, chance)
                for driver in drivers:
                    driver.send(signal.SIGKILL)
                for driver in drivers:
                    driver.end()
                killed += 1
                now = _finished_files(out, grid)
                moments.append(len(now))
                lost += len(done.keys() - now.keys())
                again += sum(now[block] != file for block, file in done.items() if block in now)
                done = now
            wrong = _finish(out, cache)
            end = {} if wrong else _finished_files(out, grid)
            again += sum(end.get(block) != file for block, file in done.items())
            if wrong or digest_of(out, grid) != wanted:
                failures.append(wrong or "the digest differs")
            shutil.rmtree(out)
    return {
        "passed": killed if not failures and not lost and not again else 0,
        "total": killed,
        "sweeps": sweeps,
        "sweeps_with_the_right_digest": sweeps - len(failures),
        "finished_blocks_lost": lost,
        "finished_blocks_trained_again": again,
        "blocks_there_at_the_kills": sorted(moments),
        "of_blocks": grid.blocks,
        "failures": failures,
    }


def _wait_until_a_random_moment(out, grid, done, drivers, chance) -> None:
    if chance.random() < 0.2:  # while it starts
        time.sleep(chance.uniform(0, 3))
        return
    _wait_for_blocks(out, chance.randint(done, done + grid.blocks // 3), drivers)
    time.sleep(chance.uniform(0, 0.2))


def signals(trials: int, chance: random.Random) -> dict:
    """Ctrl-C and SIGTERM in turn, at a random moment after the start: the right exit code, the
    message how to go on, no traceback, and the right result when the command is repeated."""
    grid = small_grid()
    failures, seconds = [], []
    with _workplace(grid) as (place, cache, wanted):
        for trial in range(trials):
            out = place / f"sweep{trial}"
            number = (signal.SIGINT, signal.SIGTERM)[trial % 2]
            driver = Driver(out, cache)
            _wait_for_start(driver)
            _wait_for_blocks(out, chance.randint(0, grid.blocks // 2), [driver])
            time.sleep(chance.uniform(0, 0.05))
            began = time.monotonic()
            driver.send(number)
            code, said = driver.end()
            seconds.append(time.monotonic() - began)
            right = code == 128 + number and "the same command continues" in said
            if not right or "Traceback" in said:
                failures.append(f"ended with {code}: {said[-300:]}")
            elif (wrong := _finish(out, cache)) or digest_of(out, grid) != wanted:
                failures.append(wrong or "the digest differs")
            shutil.rmtree(out, ignore_errors=True)
    return {
        "passed": trials - len(failures),
        "total": trials,
        "most_seconds_to_end": round(max(seconds, default=0), 2),
        "failures": failures,
    }


# --- Damage ---------------------------------------------------------------------------------------


def _flip(path, chance):
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _truncate(path, chance):
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(1, len(content))])


def _zero(path, chance):
    content = bytearray(path.read_bytes())
    first = chance.randrange(len(content) - 64)
    last = chance.randrange(first + 1, len(content))
    content[first:last] = bytes(last - first)
    path.write_bytes(content)


def _empty(path, chance):
    path.write_bytes(b"")


def _delete(path, chance):
    path.unlink()


FILE_DAMAGES = {"flip": _flip, "truncate": _truncate, "zero": _zero, "empty": _empty}
BLOCK_DAMAGES = (*FILE_DAMAGES, "delete", "swap", "foreign", "old schema")
RESULT_DAMAGES = ("result flip", "result delete")
DAMAGES = (*BLOCK_DAMAGES, *RESULT_DAMAGES)


def damage(trials: int, chance: random.Random) -> dict:
    """Every kind of damage in turn to a finished sweep: what is changed must be set aside or
    trained again, and the result must be the undamaged one. A change that leaves the numbers and
    their seal readable and equal (a time stamp in a zip header) is harmless and counted so."""
    grid = small_grid(seeds=2)
    kinds: dict[str, collections.Counter] = {kind: collections.Counter() for kind in DAMAGES}
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        place = pathlib.Path(name)
        for folder, source in (("right", grid), ("foreign", small_grid(1, seeds=2))):
            sweep_grid(source, out=place / folder)
        wanted = digest_of(place / "right", grid)
        for trial in range(trials):
            kind = DAMAGES[trial % len(DAMAGES)]
            out = place / "damaged"
            shutil.copytree(place / "right", out)
            _damage(kind, out, place / "foreign", grid, chance)
            with contextlib.redirect_stderr(open(os.devnull, "w")):
                seen = len(store.finished_blocks(out, grid)) < grid.blocks
                seen |= not store.result_is_whole(out, grid)
                sweep_grid(grid, out=out)
            right = digest_of(out, grid) == wanted
            kinds[kind]["silent" if not right else "detected" if seen else "harmless"] += 1
            shutil.rmtree(out)
    silent = sum(counts["silent"] for counts in kinds.values())
    return {
        "passed": trials - silent,
        "total": trials,
        "silent": silent,
        "kinds": {kind: dict(counts) for kind, counts in kinds.items() if counts},
    }


def _damage(kind, out, foreign, grid, chance) -> None:
    first, second = chance.sample(range(grid.blocks), 2)
    path, other = store.block_path(out, first), store.block_path(out, second)
    if kind in FILE_DAMAGES:
        FILE_DAMAGES[kind](path, chance)
    elif kind == "delete":
        path.unlink()
    elif kind == "swap":
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind == "foreign":
        shutil.copy(store.block_path(foreign, first), path)
    elif kind == "old schema":
        _write_with_old_schema(out, grid, first)
    else:
        files = [p for p in (out / store.RESULT_FOLDER).rglob("c/**/*") if p.is_file()]
        (_flip if kind == "result flip" else _delete)(chance.choice(sorted(files)), chance)


def _write_with_old_schema(out, grid, block) -> None:
    """The block as a program of another schema would have sealed it."""
    old = dataclasses.replace(grid)
    old.__dict__["identity"] = {**grid.identity, "schema_version": 0}
    store.write_block(out, old, block, run_block(grid, block))


# --- The disk -------------------------------------------------------------------------------------


def disk(trials: int, chance: random.Random) -> dict:
    """A disk that is too small, that fills up under way, that is read-only, and a folder that is
    deleted under way: exit code 4 in one line, finished blocks kept, then the right result."""
    grid = small_grid()
    failures, total = [], 0
    with _workplace(grid) as (place, cache, wanted), _small_disk(place, 16) as (small, kind):
        for trial in range(trials):
            name, case = list(DISK_CASES.items())[trial % len(DISK_CASES)]
            out = small / "sweep"
            wrong = case(out, cache, grid, chance)
            if wrong is None:  # cannot be made here
                continue
            total += 1
            wrong = wrong or _finish(out, cache)
            if wrong or digest_of(out, grid) != wanted:
                failures.append(f"{name}: {wrong or 'the digest differs'}")
            shutil.rmtree(out, ignore_errors=True)
    return {
        "passed": total - len(failures),
        "total": total,
        "disk": kind,
        "cases": list(DISK_CASES),
        "failures": failures,
    }


@contextlib.contextmanager
def _small_disk(place: pathlib.Path, mebibytes: int) -> Iterator[tuple[pathlib.Path, str]]:
    small = place / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(small)],
        capture_output=True,
    )
    try:
        yield small, "tmpfs" if mounted.returncode == 0 else "no tmpfs: those cases are left out"
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(small)], check=True)


def _is_small(out: pathlib.Path) -> bool:
    return shutil.disk_usage(out.parent).total < 2**26


def _fill(folder: pathlib.Path, leave: int) -> pathlib.Path:
    """A file that leaves so many bytes of a disk."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while (room := shutil.disk_usage(folder).free - leave) > 0:
            file.write(bytes(min(2**16, room)))
    return path


def _ended_with_4(driver: Driver, words: str) -> str:
    code, said = driver.end()
    right = code == cli.EXIT_DISK and words in said and "Traceback" not in said
    return "" if right else f"ended with {code}: {said[-300:]}"


def _too_small(out, cache, grid, chance) -> str | None:
    if not _is_small(out):
        return None
    filler = _fill(out.parent, 2**16)
    wrong = _ended_with_4(Driver(out, cache), "MiB left")
    filler.unlink()
    return wrong or ("something was written" if out.exists() else "")


def _fills_up(out, cache, grid, chance) -> str | None:
    if not _is_small(out):
        return None
    driver = Driver(out, cache)
    _wait_for_blocks(out, chance.randint(1, grid.blocks // 2), [driver])
    filler = _fill(out.parent, 0)
    wrong = _ended_with_4(driver, "the disk is full")
    kept = len(_finished_files(out, grid))
    filler.unlink()
    return wrong or ("" if kept else "no block was kept")


def _read_only(out, cache, grid, chance) -> str | None:
    if not _is_small(out):
        return None
    mount = ["mount", "-o"]
    subprocess.run([*mount, "remount,ro", str(out.parent)], check=True)
    wrong = _ended_with_4(Driver(out, cache), "cannot be written")
    subprocess.run([*mount, "remount,rw", str(out.parent)], check=True)
    return wrong


def _size_limit(out, cache, grid, chance) -> str:
    """A limit on the size of any file (RLIMIT_FSIZE) below that of a block."""
    wrong = _ended_with_4(Driver(out, cache, file_limit=4096), "the disk is full")
    return wrong or ("a block was written" if _finished_files(out, grid) else "")


def _deleted(out, cache, grid, chance) -> str:
    driver = Driver(out, cache)
    _wait_for_blocks(out, chance.randint(1, grid.blocks // 2), [driver])
    os.replace(out, out.with_name("gone"))
    wrong = _ended_with_4(driver, "has gone")
    shutil.rmtree(out.with_name("gone"))
    return wrong


DISK_CASES = {
    "too small at the start": _too_small,
    "full under way": _fills_up,
    "read-only": _read_only,
    "a limit on file sizes": _size_limit,
    "deleted under way": _deleted,
}


# --- Bits -----------------------------------------------------------------------------------------

VARIATIONS: dict[str, dict] = {  # what a fresh process does otherwise than the first one
    "compiled again, compile cache written": {},
    "compile cache read": {},
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
BIT_CONFIGS = {
    **{name: {"optimizer": name} for name in optimizers.OPTIMIZERS},
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
    "sgd, half killed, a changing task": {
        "killed_fraction": 0.5,
        "killed_at": 20,
        "task": "digits",
        "change_every": 20,
    },
}


def bits(trials: int, chance: random.Random) -> dict:
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
    environment = _environment(cache / "compiled")
    if not changes.get("cache", True):
        environment.pop("JAX_COMPILATION_CACHE_DIR")
    command = [sys.executable, "-m", "relu_dynamics.verify", "digests", json.dumps(changes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout)


def print_digests(changes: dict) -> None:
    """What `_digests` reads: digests of every run of every config."""
    jax.config.update("jax_num_cpu_devices", changes.get("devices", 1))
    found = {}
    for name, fields in BIT_CONFIGS.items():
        found[name] = _run_digests(fields, changes)
        jax.clear_caches()  # a process may map only so many pieces of compiled code
    print(json.dumps(found))


def bits_grid(fields: dict, changes: dict) -> Grid:
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
    grid = bits_grid(fields, changes)
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
def _losses_program(configs, key, data):
    """`grids.block_program` of which nobody reads the statistics: XLA leaves them out."""
    result = inspect.unwrap(block_program)(configs, key, data)
    return result._replace(history=None, probe_layers=None)


def _any_blocks(grid, blocks, executor, program):
    if not executor:
        yield from run_blocks(grid, blocks, program=program)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        yield from executors.run_blocks_on(pool, grid, blocks)


def blocks(trials: int, chance: random.Random) -> dict:
    """What a change of the number of lanes does: how many runs change a bit, and how many runs and
    units another outcome. Measured, not promised: `passed` only counts that all lanes were tried.
    `trials` is the number of seeds."""
    config = dataclasses.replace(CONFIG, steps=1500)
    axes = {"learning_rate": [*RATES, 1.0, 3.0], "initial_bias": BIASES}
    base, rows = None, {}
    for lanes in (16, 1, 4, 8, 32, 256):
        result = sweep(config, axes, trials, lanes=lanes)
        if base is None:
            base = result
            continue
        flips = result.outcome != base.outcome
        rows[f"{lanes} instead of 16"] = {
            "runs": int(base.diverged_at.size),
            "runs_with_another_bit": int(_other_bits(base, result).sum()),
            "runs_with_another_outcome": int(flips.any("unit").sum()),
            "units_with_another_outcome": int(flips.sum()),
            "units_at_risk": int(base.dead_at_start.sum()),
        }
    return {"passed": len(rows), "total": 5, "lanes": rows}


def _other_bits(one: xr.Dataset, other: xr.Dataset) -> np.ndarray:
    """Which runs differ in any bit of any number, [axes..., seed]."""
    differs = np.zeros(one.diverged_at.shape, bool)
    for name, values in one.data_vars.items():
        pair = [np.ascontiguousarray(each.values) for each in (values, other[name])]
        flat = [each.reshape(*differs.shape, -1).view(np.uint8) for each in pair]
        differs |= (flat[0] != flat[1]).any(-1)
    return differs


# --- Memory ---------------------------------------------------------------------------------------

MAP_AXES = {
    "learning_rate": [float(rate) for rate in np.geomspace(1e-3, 10, 16)],
    "initial_bias": [float(bias) for bias in range(-13, -1)],
}
MANY_RUNS = {  # 4096 runs a seed of a small network, so that results outweigh the program
    "config": dataclasses.replace(CONFIG, hidden=(16, 16), steps=10, probe_every=5),
    "axes": {
        "learning_rate": [rate / 100 for rate in range(1, 65)],
        "initial_bias": [-4 - bias / 8 for bias in range(64)],
    },
    "lanes": 1024,
}
MEMORY_CASES: dict[str, dict] = {  # what `make_grid` is given; on one device, in memory
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
FEWER, MORE = list(MEMORY_CASES)[-2:]  # whose memory must be the same


def memory(trials: int, chance: random.Random) -> dict:
    """The memory that a sweep says at its start, and what its process has then held at its most,
    in fresh processes without a compile cache: within 25 %. And eight times as many runs to a
    folder take no more memory (within 5 %). Linux only. `trials` is how many cases are tried."""
    cases = {name: _memory_case(name) for name in list(MEMORY_CASES)[:trials]}
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
    command = [sys.executable, "-m", "relu_dynamics.verify", "use", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = re.search(r"memory about ([0-9,]+) MiB", done.stderr)
    if done.returncode or said is None:
        raise RuntimeError(done.stderr[-2000:])
    found = {**json.loads(done.stdout), "estimate": int(said[1].replace(",", ""))}
    return {**found, "error_percent": round(100 * (found["estimate"] / found["used"] - 1), 1)}


def print_use(name: str) -> None:
    """What `_memory_case` reads: sweeps a case in this process and says what it has held."""
    case = MEMORY_CASES[name]
    jax.config.update("jax_num_cpu_devices", case.get("devices", 1))
    grid = make_grid(case["config"], case["axes"], case["seeds"], lanes=case.get("lanes"))
    results = grid.blocks * block_bytes(grid)
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as folder:
        out = f"{folder}/sweep" if case.get("folder") else None
        kept = sweep_grid(grid, out=out, progress=True)
        used = process_bytes()[1]
        del kept
    print(json.dumps({"results": round(results / 2**20), "used": round(used / 2**20)}))


def cost(trials: int, chance: random.Random) -> dict:
    """What a block of the default map costs to write durably, to read and check twice (when a
    sweep is continued, and for the labelled result), beside training it."""
    rates = [float(r) for r in np.geomspace(1e-3, 10, 16)]
    grid = make_grid(Config(), {"learning_rate": rates, "initial_bias": BIASES}, 1)
    result = run_block(grid, 0)
    train = _median_seconds(lambda: run_block(grid, 0), min(trials, 10))
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        folder = store.open_folder(name, grid)
        write = _median_seconds(lambda: store.write_block(folder, grid, 0, result), trials)
        read = _median_seconds(lambda: store.read_block(folder, grid, 0), trials)
    share = (write + 2 * read) / (train + write + 2 * read)
    return {
        "passed": int(share <= 0.03),
        "total": 1,
        "share_of_wall_time": round(share, 5),
        "milliseconds": {
            name: round(1e3 * value, 3)
            for name, value in (("train", train), ("write", write), ("read", read))
        },
    }


def _median_seconds(call: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(max(times, 1)):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


# --- The command ----------------------------------------------------------------------------------

CHECKS: dict[str, tuple[Callable[[int, random.Random], dict], int]] = {
    "kills": (kills, 200),
    "signals": (signals, 40),
    "damage": (damage, 80),
    "disk": (disk, 20),
    "bits": (bits, len(VARIATIONS)),
    "blocks": (blocks, 32),
    "memory": (memory, len(MEMORY_CASES)),
    "cost": (cost, 50),
}


def _sweep(out: str, file_limit: int | None) -> None:
    """A driver: sweeps the small grid into a folder."""
    if file_limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    print("started", flush=True)
    sweep_grid(small_grid(), out=out)


INNER: dict[str, Callable[[str], None]] = {  # what the checks start in processes of their own
    "sweep": lambda out: cli.guard(lambda: _sweep(out, None)),
    "digests": lambda changes: print_digests(json.loads(changes)),
    "use": print_use,
}


def main() -> None:
    """Runs one check and prints its JSON."""
    parser = argparse.ArgumentParser(prog="python -m relu_dynamics.verify", description=__doc__)
    parser.add_argument("check", choices=[*CHECKS, *INNER])
    parser.add_argument(
        "argument", nargs="?", help="FOLDER of sweep; used by the checks themselves"
    )
    parser.add_argument("--trials", type=int, help="how often; the default is the full check")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and places")
    given = parser.parse_args()
    if given.check in INNER:
        if given.argument is None:
            parser.error(f"{given.check} needs an argument")
        INNER[given.check](given.argument)
        return
    check, full = CHECKS[given.check]
    trials = full if given.trials is None else given.trials
    if trials < 1:
        parser.error(f"--trials {trials} must be at least 1")
    # The fork server runs this module once more as the main one, and says so for every driver.
    os.environ["PYTHONWARNINGS"] = "ignore:'relu_dynamics.verify' found:RuntimeWarning"
    began = time.monotonic()
    found = check(trials, random.Random(given.seed))
    seconds = round(time.monotonic() - began, 1)
    print(
        json.dumps(
            {"check": given.check, "seed": given.seed, **found, "seconds": seconds}, indent=1
        )
    )
    sys.exit(found["passed"] != found["total"])


if __name__ == "__main__":
    main()
