"""Shards, executors and hosts: real processes on this machine, and not one bit differs."""

import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest
import xarray as xr

from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.grid import VersionError, make_grid
from relu_dynamics.sweeps import executors
from relu_dynamics.sweeps.plan import check_shard
from relu_dynamics.sweeps.sweep import sweep

SMALL = Config(
    task="teacher_student", examples=64, dimension=5, hidden=(8, 8), biased_units=4,
    batch_size=16, steps=40, probe_every=10, sustain=20,
)  # fmt: skip
AXES = {"learning_rate": [0.01, 0.1, 1.0], "initial_bias": [-3.0, -1.0]}
GRID = make_grid(SMALL, AXES, 3, lanes=4)
NO_DASK = "dask is not installed: pip install -e '.[dask]'"


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    return sweep(SMALL, AXES, 3, lanes=4)


# --- Shards ---------------------------------------------------------------------------------------


def test_shards_share_a_folder_and_the_last_one_makes_the_result(whole, tmp_path):
    with pytest.raises(store.UnfinishedError, match="shard 2/3 is done; 4 of 6 blocks are left"):
        sweep(SMALL, AXES, 3, lanes=4, out=tmp_path, shard=(2, 3))
    assert store.finished_blocks(tmp_path, GRID) == [2, 5]
    with pytest.raises(store.UnfinishedError):
        sweep(SMALL, AXES, 3, lanes=4, out=tmp_path, shard="0/3")
    assert not (tmp_path / store.RESULT_FOLDER).exists()
    last = sweep(SMALL, AXES, 3, lanes=4, out=tmp_path, shard=(1, 3))
    xr.testing.assert_equal(last.load(), whole)


def test_without_a_shard_the_rest_of_a_lost_one_is_trained(whole, tmp_path, monkeypatch):
    with pytest.raises(store.UnfinishedError):
        sweep(SMALL, AXES, 3, lanes=4, out=tmp_path, shard=(0, 2))
    trained = []
    original = store.write_block
    monkeypatch.setattr(
        store, "write_block", lambda *a: (trained.append(a[2]), original(*a)) and None
    )
    xr.testing.assert_equal(sweep(SMALL, AXES, 3, lanes=4, out=tmp_path).load(), whole)
    assert sorted(trained) == [1, 3, 5]


def test_more_shards_than_blocks_is_no_error(tmp_path):
    with pytest.raises(store.UnfinishedError):
        sweep(SMALL, AXES, 3, lanes=4, out=tmp_path, shard=(6, 7))
    assert store.finished_blocks(tmp_path, GRID) == []


def test_a_shard_needs_a_folder():
    with pytest.raises(ValueError, match="shard=0/2 needs out=FOLDER"):
        sweep(SMALL, AXES, 3, shard=(0, 2))


@pytest.mark.parametrize(
    "shard", [(2, 2), (-1, 2), (0, 0), "1", "2/2", "a/b", [0, 1], True, (0.0, 2)]
)
def test_a_bad_shard_is_refused(shard):
    with pytest.raises(ValueError, match="must be i/n"):
        check_shard(shard)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, None),
        ({"ID": "3", "MIN": "0", "MAX": "7", "STEP": "1", "COUNT": "8"}, (3, 8)),
        ({"ID": "3", "MIN": "1", "MAX": "8", "COUNT": "8"}, (2, 8)),
        ({"ID": "6", "MIN": "2", "MAX": "10", "STEP": "2", "COUNT": "5"}, (2, 5)),
        ({"ID": "4", "COUNT": "8"}, (4, 8)),
        ({"ID": "5", "MIN": "5", "MAX": "5", "COUNT": "1"}, (0, 1)),  # one task sent again
    ],
)
def test_a_slurm_array_is_shards(variables, wanted, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert check_shard("auto") == wanted
    assert check_shard(None) is None  # the library never guesses
    assert check_shard("1/3") == (1, 3)  # what is asked for wins


@pytest.mark.parametrize(
    "variables",
    [
        {"ID": "3", "MIN": "1", "MAX": "7", "COUNT": "3"},  # --array=1,3,7
        {"ID": "9", "MIN": "0", "MAX": "7", "COUNT": "8"},
        {"ID": "3", "MIN": "0", "MAX": "8", "STEP": "2", "COUNT": "5"},
        {"ID": "x"},
        {"ID": "3"},
    ],
)
def test_an_irregular_slurm_array_is_refused(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(ValueError, match="give --shard i/n"):
        check_shard("auto")


def test_every_block_belongs_to_one_shard():
    for shards in (1, 2, 3, 5, 9):
        parts = [list(range(i, GRID.blocks, shards)) for i in range(shards)]
        assert sorted(sum(parts, [])) == list(range(GRID.blocks))


def test_two_results_made_at_once_leave_one_whole(whole, tmp_path):
    sweep(SMALL, AXES, 3, lanes=4, out=tmp_path)
    attributes = store.provenance(GRID)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        made = [pool.submit(store.build_result, tmp_path, GRID, attributes) for _ in range(4)]
        assert all(m.result() == tmp_path / store.RESULT_FOLDER for m in made)
    xr.testing.assert_equal(store.open_result(tmp_path).load(), whole)
    assert not list(tmp_path.glob("*.tmp"))


# --- Executors ------------------------------------------------------------------------------------


class Broken(concurrent.futures.Executor):
    """Runs tasks here; breaks after so many, as a pool does whose worker was killed."""

    def __init__(self, tasks: int):
        self.left = tasks

    def submit(self, function, /, *arguments):
        future = concurrent.futures.Future()
        self.left -= 1
        if self.left < 0:
            future.set_exception(concurrent.futures.BrokenExecutor("a worker was lost"))
        else:
            future.set_result(function(*arguments))
        return future


def test_any_executor_gives_the_same_result(whole):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        result = sweep(SMALL, AXES, 3, lanes=4, executor=pool)
    xr.testing.assert_equal(result, whole)


def test_blocks_of_a_broken_executor_are_trained_by_the_next(whole, tmp_path):
    made = []

    def make():
        made.append(Broken(2))
        return made[-1]

    result = sweep(SMALL, AXES, 3, lanes=4, out=tmp_path, executor=make)
    assert 3 <= len(made) <= 4
    xr.testing.assert_equal(result.load(), whole)


def test_blocks_of_an_executor_that_stays_broken_are_trained_here(whole):
    xr.testing.assert_equal(sweep(SMALL, AXES, 3, lanes=4, executor=Broken(2)), whole)


class Flaky(concurrent.futures.ThreadPoolExecutor):
    """Fails every second task, as a remote worker may."""

    tasks = 0

    def submit(self, function, /, *arguments):
        Flaky.tasks += 1
        if Flaky.tasks % 2:
            return super().submit(_fail)
        return super().submit(function, *arguments)


def _fail():
    raise ConnectionError("worker lost")


def test_a_failed_block_is_tried_again_and_not_for_ever(whole):
    with Flaky(1) as pool:
        xr.testing.assert_equal(sweep(SMALL, AXES, 3, lanes=4, executor=pool), whole)

    class Failing(concurrent.futures.ThreadPoolExecutor):
        def submit(self, function, /, *arguments):
            return super().submit(_fail)

    with Failing(1) as pool, pytest.raises(ConnectionError, match="worker lost"):
        sweep(SMALL, AXES, 3, lanes=4, executor=pool)


def test_a_worker_of_another_version_is_refused():
    with pytest.raises(VersionError, match="a worker runs jax"):
        executors.block_task(GRID, "0" * 64, 0, 0)


def _die_once(grid, grid_hash, block, canary, mark):
    """A block task whose worker is killed the first time."""
    if not os.path.exists(mark):
        pathlib.Path(mark).touch()
        os.kill(os.getpid(), 9)
    return executors.block_task(grid, grid_hash, block, canary)


class DiesOnce(concurrent.futures.ProcessPoolExecutor):
    """A pool of real processes, one of which is killed in the middle of a block."""

    def __init__(self, mark):
        super().__init__(1, mp_context=multiprocessing.get_context("spawn"))
        self.mark = str(mark)

    def submit(self, function, /, *arguments):
        return super().submit(_die_once, *arguments, self.mark)


@pytest.mark.slow
def test_a_killed_process_costs_only_its_block(whole, tmp_path):
    mark = tmp_path / "died"
    result = sweep(SMALL, AXES, 3, lanes=4, executor=lambda: DiesOnce(mark))
    assert mark.exists()
    xr.testing.assert_equal(result, whole)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason=NO_DASK)
def test_dask_workers_give_the_same_bits_and_may_be_killed(whole, tmp_path):
    """Two real worker processes; one is killed while blocks are under way."""
    script = tmp_path / "driver.py"
    script.write_text(DASK_DRIVER)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(_question()), str(out)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "killed a worker" in done.stdout
    xr.testing.assert_equal(store.open_result(out).load(), whole)


def _question() -> dict:
    return json.loads(json.dumps(GRID.identity))


DASK_DRIVER = """
import json, os, signal, sys, threading, time
from relu_dynamics.grid import grid_from_identity
from relu_dynamics.sweeps.sweep import sweep_grid
from distributed import Client, LocalCluster

if __name__ == "__main__":
    grid = grid_from_identity(json.loads(sys.argv[1]))
    cluster = LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None)
    client = Client(cluster)
    pid = list(client.run(os.getpid).values())[0]

    def kill():
        while client.cluster.scheduler.tasks == {}:
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        print("killed a worker", flush=True)

    killer = threading.Thread(target=kill)
    killer.start()
    sweep_grid(grid, out=sys.argv[2], executor=client.get_executor())
    killer.join()
    client.close()
    cluster.close()
"""


# --- jax.distributed ------------------------------------------------------------------------------

HOST = """
import json, sys
import jax
address, number, count, question, out = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(address, int(count), int(number))
from relu_dynamics import store
from relu_dynamics.grid import grid_from_identity
from relu_dynamics.sweeps.plan import check_shard
from relu_dynamics.sweeps.sweep import sweep_grid
grid = grid_from_identity(json.loads(question))
assert check_shard(None) == (int(number), int(count))
try:
    sweep_grid(grid, out=out)
    print("made the result")
except store.UnfinishedError as unfinished:
    print(unfinished)
"""


@pytest.mark.slow
def test_processes_of_jax_distributed_are_shards(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    out = tmp_path / "out"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, address, str(i), "2", json.dumps(_question()), str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert any("made the result" in out for out, _ in said)
    xr.testing.assert_equal(store.open_result(out).load(), whole)


# --- The script, as a SLURM array runs it ---------------------------------------------------------


@pytest.mark.slow
def test_the_script_in_an_array_with_a_lost_task(tmp_path):
    """Three tasks at once, the first killed; then the same command once more, alone."""
    root = pathlib.Path(__file__).parent.parent
    command = [
        sys.executable, "-m", "experiments", "recovery_map", "--quick",
        "--lanes", "4", "--out", str(tmp_path / "map"),
    ]  # fmt: skip

    def task(number):
        array = {"ID": number, "MIN": 0, "MAX": 2, "COUNT": 3}
        variables = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
        pipe = subprocess.PIPE
        environment = {**os.environ, **variables}
        return subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=root
        )

    tasks = [task(number) for number in range(3)]
    time.sleep(1)
    tasks[0].kill()
    said = [each.communicate(timeout=300) for each in tasks]
    assert [each.returncode for each in tasks[1:]] == [0, 0], said
    assert "are left to others" in said[1][0] or "are left to others" in said[2][0]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "map" / "summary.json").read_text())
    assert summary["runs"] == 4 * 4 * 8
