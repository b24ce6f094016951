"""One folder, one set of bits: what computes others is refused before it writes."""

import concurrent.futures
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray as xr

from relu_dynamics import settings, store
from relu_dynamics.config import Config
from relu_dynamics.engine.keys import run_key
from relu_dynamics.engine.training import train
from relu_dynamics.grid import VersionError, make_grid
from relu_dynamics.store import checkpoints
from relu_dynamics.sweeps import adaptive, executors
from relu_dynamics.sweeps.blocks import run_block
from relu_dynamics.sweeps.same_bits import SameBits
from relu_dynamics.sweeps.sweep import sweep

SMALL = Config(
    task="teacher_student", examples=32, dimension=4, hidden=(4,), biased_layer=1, biased_units=2,
    batch_size=8, steps=10, probe_every=5, sustain=5,
)  # fmt: skip
AXES = {"learning_rate": [0.01, 0.1], "initial_bias": [-3.0, -1.0]}
GRID = make_grid(SMALL, AXES, 3, lanes=2)


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    return sweep(SMALL, AXES, 3, lanes=2)


@pytest.fixture(scope="module")
def other():
    """A block's result as another processor would have it: one bit off."""
    result = run_block(GRID, 1)
    loss = np.array(result.loss)
    loss.view(np.uint32)[0, 0] ^= 1
    return result._replace(loss=loss)


def folder_with(path, block, result):
    store.open_folder(path, GRID)
    store.write_block(path, GRID, block, result)
    return path


def contents(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_a_folder_with_other_bits_is_refused_and_stays_as_it_is(other, tmp_path):
    folder = folder_with(tmp_path, 1, other)
    before = contents(folder)
    for call in (
        lambda: sweep(SMALL, AXES, 3, lanes=2, out=folder),
        lambda: adaptive.sweep(SMALL, AXES, 3, blocks=6, lanes=2, first_seeds=1, out=folder),
    ):
        with pytest.raises(store.FolderVersionError, match="other bits than are computed now"):
            call()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(VersionError):
        sweep(SMALL, AXES, 3, lanes=2, out=folder, executor=pool)
    assert contents(folder) == before


def test_an_older_folder_continues_and_has_a_canary_then(whole, tmp_path):
    folder = folder_with(tmp_path, 4, run_block(GRID, 4))
    assert store.read_canary(folder, GRID).made_with == {}
    xr.testing.assert_equal(sweep(SMALL, AXES, 3, lanes=2, out=folder).load(), whole)
    canary = store.read_canary(folder, GRID)
    assert canary.block == 4 and canary.made_with == settings.made_with()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"block": 1}'])
def test_a_damaged_canary_is_made_again(content, whole, tmp_path):
    folder = folder_with(tmp_path, 4, run_block(GRID, 4))
    (folder / "canary.json").write_bytes(content)
    xr.testing.assert_equal(sweep(SMALL, AXES, 3, lanes=2, out=folder).load(), whole)
    assert json.loads((folder / "canary.json").read_text())["grid"] == GRID.hash


def test_what_differs_is_said(tmp_path):
    folder = store.open_folder(tmp_path, GRID)
    own = store.canary_of(GRID, 1, run_block(GRID, 1))
    there = {**own.made_with, "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2", "cores": "64"}
    store.claim_canary(folder, GRID, own._replace(digest="0" * 64, made_with=there))
    with pytest.raises(store.FolderVersionError) as error:
        sweep(SMALL, AXES, 3, lanes=2, out=folder)
    text = str(error.value)
    assert "XLA_FLAGS '--xla_cpu_max_isa=SSE4_2' there" in text and "cores '64' there" in text
    assert "\n" not in text and "choose another folder (nothing was changed)" in text


def test_a_canary_is_trained_once_per_process_and_never_for_a_whole_folder(tmp_path):
    trained = []

    def watched(blocks):
        for block in blocks:
            trained.append(block)
            yield block, run_block(GRID, block)

    folder = store.open_folder(tmp_path, GRID)
    same = SameBits(GRID, folder)
    assert [block for block, _ in same.run(watched, [2, 3])] == [2, 3] == trained
    assert [block for block, _ in same.run(watched, [0])] == [0]
    assert list(same.run(watched, [])) == [] and trained == [2, 3, 0]
    later = SameBits(GRID, folder)
    assert list(later.run(watched, [])) == [] and trained == [2, 3, 0]
    assert [block for block, _ in later.run(watched, [1, 2])] == [1, 2]
    assert trained == [2, 3, 0, 2, 1, 2]


@pytest.mark.parametrize("fits", [True, False])
def test_the_first_of_two_processes_in_an_empty_folder_counts(other, tmp_path, fits):
    """Both find it empty; the second compares itself with the first before it writes."""
    folder = store.open_folder(tmp_path, GRID)
    first = store.canary_of(GRID, 1, run_block(GRID, 1) if fits else other)

    def train_blocks(blocks):
        for block in blocks:
            store.claim_canary(folder, GRID, first)  # by the faster process
            yield block, run_block(GRID, block)

    late = SameBits(GRID, folder).run(train_blocks, [0])
    if fits:
        assert [block for block, _ in late] == [0]
    else:
        with pytest.raises(store.FolderVersionError):
            next(late)


@pytest.mark.parametrize("to_folder", [False, True])
def test_a_worker_with_other_bits_is_refused(other, tmp_path, to_folder, monkeypatch):
    class Mixed(concurrent.futures.Executor):
        """Every second task on a worker of another kind."""

        tasks = 0

        def submit(self, function, /, *arguments):
            Mixed.tasks += 1
            future = concurrent.futures.Future()
            result, canary = function(*arguments)
            if Mixed.tasks % 2 == 0:
                canary = canary._replace(digest="0" * 64)
            future.set_result((result, canary))
            return future

    out = tmp_path / "out" if to_folder else None
    with pytest.raises(VersionError, match="bits"):
        sweep(SMALL, AXES, 3, lanes=2, out=out, executor=Mixed())


def test_an_executor_that_is_not_the_first_in_a_folder_begins_again(whole, tmp_path):
    first = store.canary_of(GRID, 3, run_block(GRID, 3))

    class Slow(concurrent.futures.ThreadPoolExecutor):
        def submit(self, function, /, *arguments):
            store.claim_canary(tmp_path, GRID, first)  # by the faster process
            return super().submit(function, *arguments)

    with Slow(2) as pool:
        result = sweep(SMALL, AXES, 3, lanes=2, out=tmp_path, executor=pool)
    xr.testing.assert_equal(result.load(), whole)
    assert store.read_canary(tmp_path, GRID) == first


def test_a_worker_trains_the_canary_once(whole, monkeypatch):
    executors._canaries.clear()
    trained = []
    run = executors.run_block
    monkeypatch.setattr(executors, "run_block", lambda g, b: (trained.append(b), run(g, b))[1])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        xr.testing.assert_equal(sweep(SMALL, AXES, 3, lanes=2, executor=pool), whole)
    assert sorted(trained) == list(range(GRID.blocks))


# --- Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_random_seed_offset", 7),
        ("jax_default_prng_impl", "rbg"),
        ("jax_enable_custom_prng", True),
    ],
)
def test_keys_do_not_depend_on_how_jax_is_set(setting, value):
    pairs = [(root, seed) for root in (0, 2**32 - 1) for seed in (0, 2**40)]
    wanted = {pair: jax.random.bits(run_key(*pair)) for pair in pairs}
    before = getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        for pair, bits in wanted.items():
            assert jax.random.bits(run_key(*pair)) == bits
    finally:
        jax.config.update(setting, before)


def test_keys_are_those_of_jax():
    for root in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(root), 0), 5)
        assert (jax.random.key_data(run_key(root, 5)) == jax.random.key_data(key)).all()


def test_other_draws_are_refused_everywhere(tmp_path):
    jax.config.update("jax_threefry_partitionable", False)
    try:
        for call in (
            lambda: train(SMALL),
            lambda: sweep(SMALL, AXES, 1),
            lambda: checkpoints.train(SMALL, folder=tmp_path / "run", every=5),
        ):
            with pytest.raises(ValueError, match="JAX_THREEFRY_PARTITIONABLE=0 would mean other d"):
                call()
    finally:
        jax.config.update("jax_threefry_partitionable", True)


@pytest.mark.parametrize(
    ("cores", "variables", "wanted"),
    [
        (1, {}, 1), (2, {}, 2), (64, {}, 64), (1, {"NPROC": "8"}, 8), (64, {"NPROC": "1"}, 1),
        (64, {"PJRT_NPROC": "1"}, 1), (64, {"PJRT_NPROC": "4", "NPROC": "1"}, 4),
        (64, {"PJRT_NPROC": "", "NPROC": "many"}, 64),
    ],
)  # fmt: skip
def test_the_variables_that_decide_threads_are_known(cores, variables, wanted):
    assert settings.compiler_threads(cores, variables) == wanted


CORES = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
import jax
jax.config.update("jax_platforms", "cpu")
from relu_dynamics import Config, store
from relu_dynamics.grid import make_grid
from relu_dynamics.sweeps.blocks import run_block
axes = {"learning_rate": [0.01, 0.03, 0.1, 0.3], "initial_bias": [-1.0, -2.0, -4.0, -6.0]}
grid = make_grid(Config(steps=200), axes, 1)
print(len(os.sched_getaffinity(0)), store.canary_of(grid, 0, run_block(grid, 0)).digest)
"""


@pytest.mark.slow
@pytest.mark.skipif(settings.cores() < 2, reason="one core: nothing to compare with")
def test_one_core_gives_the_bits_of_two():
    """The default network, for which XLA gave other bits to a process with one core."""
    names = ("XLA_FLAGS", "NPROC", "PJRT_NPROC", "JAX_COMPILATION_CACHE_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    found = [
        subprocess.run(
            [sys.executable, "-c", CORES, count],
            env=environment, capture_output=True, text=True, check=True,
        ).stdout.split()
        for count in ("1", "2")
    ]  # fmt: skip
    assert [count for count, _ in found] == ["1", "2"]
    assert found[0][1] == found[1][1]
