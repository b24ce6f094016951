"""The C reference, compiled on the spot: as near to the limit of the machine as plain C comes."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from workloads import BIASED, Workload

FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
)


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled `reference.c`; raises RuntimeError where that is not possible."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise RuntimeError("the C reference needs a C compiler and there is none")
    source = Path(__file__).with_name("reference.c")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "reference.so")
        for flags in (FLAGS, [f for f in FLAGS if "vector-width" not in f]):
            command = [compiler, *flags, str(source), "-o", str(target), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return ctypes.CDLL(str(target))
    raise RuntimeError(f"{compiler} could not compile reference.c: {done.stderr[:300]}")


def peak_gflops() -> float:
    """The rate of independent fused multiply-adds on all threads, best of five, in GFLOP/s."""
    measure = library().peak
    measure.restype = ctypes.c_double
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        flop = measure(ctypes.c_long(20_000_000))
        best = max(best, flop / (time.perf_counter() - start) / 1e9)
    return best


class Reference:
    """The kernel of the workload, over runs in parallel."""

    def prepare(self, work: Workload) -> None:
        self.work = work
        self.kernel = getattr(library(), work.name)
        self.run(steps=5)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work = self.work
        steps = work.steps if steps is None else steps
        count = sum(p[0, 0].size for p in work.initial)
        parameters = np.empty((work.seeds, work.cells, count), np.float32)
        stats = work.empty()
        arrays = (
            work.inputs,
            work.targets,
            *([] if work.probe is None else [work.probe]),
            *work.weights,
            work.learning_rate,
            work.initial_bias,
            parameters,
            *stats.values(),
        )
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in arrays]
        sizes = [work.seeds, work.cells, work.steps, steps]
        if work.probe is not None:
            sizes += [work.every(steps), work.probe.shape[1], BIASED[work.name]]
        self.kernel(*map(ctypes.c_int, sizes), *pointers)
        return dict(parameters=parameters, **stats)
