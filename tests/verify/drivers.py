"""Drivers: the small sweep in processes of its own, to be killed, signalled and starved."""

import contextlib
import multiprocessing
import os
import pathlib
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator

import jax

from relu_dynamics import cli, store
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps.sweep import sweep_grid
from tests.verify.grids import digest_of, small_grid

ROOT = pathlib.Path(__file__).parents[2]  # where processes start, so that they find this package
WAIT_SECONDS = 300


START = """
import os, runpy, sys
cores = int(sys.argv[1])
if cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
del sys.argv[1]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def python_command(module: str, argument: str, cores: int | None = None) -> list[str]:
    """The command that runs a module in a fresh process, on so many of this one's cores."""
    start = START.replace("sys.argv[0]", repr(module))
    return [sys.executable, "-c", start, str(cores or 0), argument]


class Driver:
    """A sweep of the small grid in a process of its own.

    Forked by a server that has imported the package and started no JAX backend: two seconds
    sooner at work than a new interpreter.
    """

    def __init__(self, out: pathlib.Path, cache: pathlib.Path, file_limit: int | None = None):
        self._log = cache / f"log-{secrets.token_hex(8)}"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
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


def _sweep(out: str, file_limit: int | None) -> None:
    """A driver: sweeps the small grid into a folder."""
    if file_limit is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    print("started", flush=True)
    sweep_grid(small_grid(), out=out)


def finish(out: pathlib.Path, cache: pathlib.Path) -> str:
    """Runs a driver to its end; "" or what went wrong."""
    code, said = Driver(out, cache).end()
    return "" if code == 0 else f"ended with {code}: {said[-500:]}"


def wait_for_blocks(out: pathlib.Path, wanted: int, drivers: list[Driver]) -> None:
    """Until so many blocks are there, or no driver runs any more."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and any(each.runs() for each in drivers):
        if len(list(out.glob("blocks/*.npz"))) >= wanted:
            return
        time.sleep(0.005)


def finished_files(out: pathlib.Path, grid: Grid) -> dict[int, tuple[int, int]]:
    """Block -> (inode, time of writing) of every block that validates."""
    found = {}
    for block in store.stored_blocks(out, grid):
        if store.is_done(out, grid, block):
            status = store.block_path(out, block).stat()
            found[block] = (status.st_ino, status.st_mtime_ns)
    return found


@contextlib.contextmanager
def workplace(grid: Grid) -> Iterator[tuple[pathlib.Path, pathlib.Path, str]]:
    """(folder, compile cache, digest of an undisturbed sweep), removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_verify_") as name:
        place = pathlib.Path(name)
        cache = place / "cache"
        cache.mkdir(mode=0o700)
        wrong = finish(place / "undisturbed", cache)
        if wrong:
            raise RuntimeError(f"the undisturbed sweep {wrong}")
        yield place, cache, digest_of(place / "undisturbed", grid)


def wait_for_start(driver: Driver) -> None:
    while driver.runs() and "started" not in driver.said():
        time.sleep(0.005)
