"""Executors: blocks handed to processes and machines."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import jax

from relu_dynamics import store
from relu_dynamics.grid import Grid, VersionError
from relu_dynamics.rows import row_identity
from relu_dynamics.settings import check_jax
from relu_dynamics.sweeps.blocks import BlockResult, run_block, run_blocks
from relu_dynamics.sweeps.same_bits import SameBits

AnyExecutor = concurrent.futures.Executor | Callable[[], concurrent.futures.Executor]

IN_FLIGHT = 256  # blocks given to an executor at a time

RETRIES = 3  # of a block, and of an executor that broke


_canaries: dict[tuple[str, int], store.Canary] = {}  # that this process has trained


def block_task(
    grid: Grid, grid_hash: str, block: int, canary: int
) -> tuple[BlockResult, store.Canary]:
    """The result of one block as host arrays, and what this process finds for the block `canary`
    (trained once in its life): what an executor's worker runs.

    A pure function of its arguments, so it may be run again anywhere. Raises a `VersionError`
    when the worker's own JAX, platform or rows would give other numbers.
    """
    check_jax()
    here = dataclasses.replace(grid)  # without what the sender has computed of it
    if here.hash != grid_hash:
        rows = ", ".join(row_identity(here.config).get("rows", ())) or "none"
        raise VersionError(
            f"a worker runs jax {jax.__version__} on {jax.default_backend()} with rows of its own: "
            f"{rows}; this is not what the sweep was started with: start workers in the same "
            "environment, and register your rows in a module that they import."
        )
    result = run_block(here, block)
    if (grid_hash, canary) not in _canaries:
        again = result if block == canary else run_block(here, canary)
        _canaries[grid_hash, canary] = store.canary_of(here, canary, again)
    return result, _canaries[grid_hash, canary]


def run_blocks_on(
    executor: AnyExecutor,
    grid: Grid,
    blocks: Iterable[int],
    report: Callable[[str], None] = lambda line: None,
    same: SameBits | None = None,
) -> Iterator[tuple[int, BlockResult]]:
    """Yields (block, result) as blocks finish on an executor's workers. Every worker finds the
    canary of `same` (of these blocks alone by default) before its blocks count.

    A block that fails (its worker was lost, say) is tried again up to `RETRIES` times. When the
    executor itself breaks, a new one takes over if a function that makes them was given, else this
    process; either way the numbers are the same.
    """
    make = executor if not isinstance(executor, concurrent.futures.Executor) else None
    same = same or SameBits(grid)
    waiting = collections.deque()
    source = iter(blocks)
    tries: collections.Counter[int] = collections.Counter()
    for attempt in range(RETRIES + 1):
        pool = make() if make else executor
        try:
            yield from _on_pool(pool, same, source, waiting, tries, report)
            return
        except concurrent.futures.BrokenExecutor as error:
            left = make is not None and attempt < RETRIES
            report(f"{_one_line(error)} {'restarting the workers' if left else 'continuing here'}")
            if not left:
                break
        finally:
            if make:
                pool.shutdown(wait=False, cancel_futures=True)
    train = functools.partial(run_blocks, grid)
    yield from same.run(train, itertools.chain(waiting, source))


def _on_pool(pool, same, source, waiting, tries, report):
    """Yields from one executor; on a `BrokenExecutor` what was not finished is in `waiting`."""
    grid, running = same.grid, {}
    known = same.look()
    canary = None if known is None else known.block
    try:
        while True:
            while len(running) < IN_FLIGHT:
                block = waiting.popleft() if waiting else next(source, None)
                if block is None:
                    break
                waiting.appendleft(block)  # not lost when submit itself fails
                canary = block if canary is None else canary
                running[pool.submit(block_task, grid, grid.hash, block, canary)] = block
                waiting.popleft()
            if not running:
                return
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                try:
                    result, found = future.result()
                    other = same.compare(found)
                except (ValueError, concurrent.futures.BrokenExecutor):
                    raise  # bad input, or all workers gone
                except Exception as error:
                    block = running.pop(future)
                    tries[block] += 1
                    if tries[block] > RETRIES:
                        raise
                    report(f"block {block} is tried again: {_one_line(error)}")
                    waiting.append(block)
                else:
                    if other is None:
                        yield running.pop(future), result
                        continue
                    canary = other  # another process was the first in the folder: again, with its
                    cancelled = [f for f in running if f is not future and f.cancel()]
                    waiting.extend(running.pop(f) for f in (future, *cancelled))
    finally:
        for future, block in running.items():
            future.cancel()
            waiting.append(block)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
