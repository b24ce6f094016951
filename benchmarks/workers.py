"""Contenders in processes of their own: prepared once, timed from outside, measured apart.

Each worker owns an equal part of the runs. A sample is timed in the parent, from the message that
starts the workers to the last answer, so neither the start of a process nor a compilation nor the
transport of results is in it.
"""

import importlib
import multiprocessing
import os
import time
from dataclasses import dataclass, field

import numpy as np
from workloads import EVALUATIONS_FLOP, FLOP, NETWORK, Workload

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Contender:
    """What to run and how; `limits` bounds the work of a contender too slow for all of it."""

    name: str
    title: str
    target: str  # "module:Class", imported in the worker only.
    processes: int = 1
    threads: int = 1  # Of each process.
    arguments: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    limits: dict = field(default_factory=dict)  # Arguments of Workload.limit by workload name.
    workloads: tuple[str, ...] = tuple(NETWORK)
    statistics: bool = True
    evaluations: bool = True
    own_batches: bool = False  # Every run draws its own: nothing to compare number by number.

    def flop(self, workload: str) -> float:
        """Floating-point operations per run-step."""
        return FLOP[workload][self.statistics] + self.evaluations * EVALUATIONS_FLOP[workload]


class NotRun(Exception):
    """The contender cannot run here; the message says why."""


class Team:
    """The workers of one contender for one workload."""

    def __init__(self, contender: Contender, work: Workload):
        self.contender = contender
        self.work = work.limit(**contender.limits.get(work.name, {}))
        parts, self.axis = self.work.split(contender.processes)
        threads = dict.fromkeys(THREADS, str(contender.threads))
        self._members = [_start({**threads, **contender.environment}) for _ in parts]
        try:
            self._ask("load", contender.target, contender.arguments)
            self.compile_s = max(self._ask("prepare", each=[(part,) for part in parts]))
        except NotRun:
            self.close()
            raise

    def sample(self, repeats: int = 1, steps: int | None = None) -> float:
        """Seconds that the whole work takes, averaged over `repeats` runs in a row."""
        start = time.perf_counter()
        self._ask("run", repeats, steps)
        return (time.perf_counter() - start) / repeats

    def result(self) -> dict[str, np.ndarray]:
        """The results of the last run, joined over the workers."""
        parts = self._ask("result")
        return {k: np.concatenate([p[k] for p in parts], axis=self.axis) for k in parts[0]}

    def memory_mb(self) -> float:
        """The peak resident memory of all workers together, libraries included."""
        return sum(self._ask("memory"))

    def cpu_s(self) -> float:
        """The processor time that the workers have used so far."""
        return sum(self._ask("cpu"))

    def close(self) -> None:
        for process, pipe in self._members:
            pipe.close()  # The worker ends when its pipe does.
            process.join(10)
            if process.is_alive():
                process.terminate()

    def _ask(self, request: str, *arguments, each: list[tuple] | None = None) -> list:
        """The answers of all workers to a request, with the same arguments or each its own."""
        try:
            for (_, pipe), own in zip(
                self._members, each or [arguments] * len(self._members), strict=True
            ):
                pipe.send((request, own))
            answers = [pipe.recv() for _, pipe in self._members]
        except (EOFError, OSError):
            raise NotRun("a worker process died") from None
        for failed, value in answers:
            if failed:
                raise NotRun(value)
        return [value for _, value in answers]


def _start(environment: dict):
    """A fresh interpreter with that environment, and the parent's end of its pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        process = context.Process(target=_serve, args=(theirs,))
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()
    return process, ours


def _serve(pipe) -> None:
    """Answers requests until the pipe closes; a failure is an answer too."""
    worker = _Worker()
    while True:
        try:
            request, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = False, getattr(worker, request)(*arguments)
        except ModuleNotFoundError as error:
            answer = True, f"{error.name} is not installed"
        except Exception as error:
            answer = True, str(error).strip().split("\n")[0][:200] or type(error).__name__
        pipe.send(answer)


class _Worker:
    """The requests that a worker understands."""

    def load(self, target: str, arguments: dict) -> None:
        module, name = target.split(":")
        self.contender = getattr(importlib.import_module(module), name)(**arguments)

    def prepare(self, work: Workload) -> float:
        start = time.perf_counter()
        self.contender.prepare(work)
        return time.perf_counter() - start

    def run(self, repeats: int, steps: int | None) -> None:
        for _ in range(repeats):
            self.last = self.contender.run(steps)

    def result(self) -> dict[str, np.ndarray]:
        # What the timed run does not return anyway may be computed apart.
        complete = getattr(self.contender, "complete", lambda result: result)
        return complete(self.last)

    def memory(self) -> float:
        import resource
        import sys

        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

    def cpu(self) -> float:
        return time.process_time()
