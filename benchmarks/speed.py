"""Speed of this project side by side with what its users would pick instead.

One command trains the same grids of tiny networks with every contender in turn, checks that all
compute the same thing, and prints a table of run-steps per second (one run-step is one step of one
run). Rounds are interleaved: each contender gives one sample a round, so that a machine that slows
down slows all of them. It takes some eight minutes on two idle cores. Run it three times,
and write the middle of the three, with the spread, into the docs:

    python benchmarks/speed.py --json 1.json
    python benchmarks/speed.py --json 2.json
    python benchmarks/speed.py --json 3.json
    python benchmarks/speed.py --summarize 1.json 2.json 3.json --write docs/speed.md

`--quick` is a check in a minute. Contenders that are not installed have no row.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
from agreement import FEW_STEPS, compare
from tables import Unlike, render
from workers import CORES, Contender, NotRun, Team
from workloads import QUICK_SIZES, SIZES, Streams, Workload, make_workload

SAMPLE_S = 0.3  # Fast contenders repeat the work until a sample takes about so long.
ONE_DEVICE = {"JAX_PLATFORMS": "cpu"}

CONTENDERS = (
    Contender(
        "kernel",
        "**relu_dynamics, the kernel**, all statistics",
        "contender_engine:Engine",
        threads=CORES,
        arguments=dict(implementation="kernel"),
    ),
    Contender(
        "kernel-bare",
        "relu_dynamics, the kernel, no statistics",
        "contender_engine:Engine",
        threads=CORES,
        arguments=dict(implementation="kernel", statistics=False),
        statistics=False,
    ),
    Contender(
        "kernel-training",
        "relu_dynamics, the kernel, all statistics, no evaluations",
        "contender_engine:Engine",
        threads=CORES,
        arguments=dict(implementation="kernel", evaluations=False),
        evaluations=False,
        workloads=("w3",),
    ),
    Contender(
        "engine",
        "**relu_dynamics, plain JAX**, all statistics",
        "contender_engine:Engine",
        threads=CORES,
    ),
    Contender(
        "engine-bare",
        "relu_dynamics, plain JAX, no statistics",
        "contender_engine:Engine",
        threads=CORES,
        arguments=dict(statistics=False),
        statistics=False,
        workloads=("w1", "w2"),
    ),
    Contender(
        "engine-own",
        "relu_dynamics, plain JAX, all statistics, every run its own batches",
        "contender_engine:Engine",
        threads=CORES,
        arguments=dict(own_batches=True),
        own_batches=True,
        workloads=("w1", "w2"),
        limits=dict(w1=dict(steps=100)),
    ),
    Contender(
        "torch-eager",
        "PyTorch eager with hooks, one run at a time",
        "contenders_torch:Eager",
        processes=CORES,
        limits=dict(
            w1=dict(seeds=2, cells=4, steps=250),
            w2=dict(seeds=2, cells=4, steps=100),
            w3=dict(seeds=2, cells=4, steps=100),
        ),
    ),
    Contender(
        "torch-func",
        "`torch.func` vmap",
        "contenders_torch:Func",
        threads=CORES,
        limits=dict(w1=dict(steps=75), w2=dict(steps=75), w3=dict(steps=50)),
    ),
    # Torch's threads wait for each other in every operation: with other work on a core the row
    # above falls to a tenth, this one does not.
    Contender(
        "torch-func-processes",
        "`torch.func` vmap, a process a core",
        "contenders_torch:Func",
        processes=CORES,
        limits=dict(w1=dict(steps=75), w2=dict(steps=75), w3=dict(steps=50)),
    ),
    Contender(
        "torch-func-compile",
        "`torch.func` vmap + `torch.compile`",
        "contenders_torch:FuncCompiled",
        processes=CORES,
        limits=dict(w2=dict(steps=150), w3=dict(steps=100)),
    ),
    Contender(
        "torch-func-compile-own",
        "`torch.func` vmap + `torch.compile`, every run its own batches",
        "contenders_torch:FuncCompiledOwn",
        processes=CORES,
        own_batches=True,
        workloads=("w1", "w2"),
        limits=dict(w1=dict(steps=100), w2=dict(steps=100)),
    ),
    Contender(
        "torch-matrix",
        "torch matrix form by hand + `torch.compile`",
        "contenders_torch:Matrix",
        processes=CORES,
        workloads=("w1",),
    ),
    Contender(
        "numpy",
        "NumPy over the grid",
        "contenders_numpy:Grid",
        processes=CORES,
        limits=dict(w1=dict(steps=500), w2=dict(steps=100), w3=dict(steps=50)),
    ),
    Contender(
        "jax-vmap-scan",
        "JAX textbook `vmap(scan)`, linen + optax",
        "contenders_jax:VmapScan",
        threads=CORES,
        environment=ONE_DEVICE,
        limits=dict(w1=dict(steps=250), w2=dict(steps=100), w3=dict(steps=50)),
    ),
    Contender(
        "jax-loop",
        "JAX jitted step, one run at a time",
        "contenders_jax:Loop",
        threads=CORES,
        environment=ONE_DEVICE,
        limits=dict(
            w1=dict(seeds=1, cells=4, steps=250),
            w2=dict(seeds=1, cells=4, steps=100),
            w3=dict(seeds=1, cells=4, steps=100),
        ),
    ),
    Contender("c", "plain C (OpenMP), near the limit", "contenders_c:Reference", threads=CORES),
)


def main() -> None:
    arguments = _parse()
    if arguments.summarize:
        reports = [json.loads(Path(path).read_text()) for path in arguments.summarize]
        try:
            _write(render(reports), arguments.write)
        except Unlike as error:
            sys.exit(str(error))
        return
    sizes = dict(QUICK_SIZES if arguments.quick else SIZES)
    if arguments.size:
        fields = dict(zip(("cells", "seeds", "steps"), arguments.size, strict=True))
        sizes = dict.fromkeys(sizes, fields)
    start = time.perf_counter()
    chosen = [c for c in CONTENDERS if not arguments.contenders or c.name in arguments.contenders]
    with tempfile.TemporaryDirectory() as cache:
        # A fresh cache: compile times are those of a first run, whoever ran here before.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        machine = describe_machine()
        tables = {}
        for name in arguments.workloads:
            work = _workload(name, **sizes[name])
            tables[name] = measure(work, chosen, arguments.rounds, machine)
    report = dict(
        command=shlex.join(["python", *sys.argv]),
        minutes=(time.perf_counter() - start) / 60,
        rounds=arguments.rounds,
        sizes={name: sizes[name] for name in arguments.workloads},
        machine=machine,
        workloads=tables,
    )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    _write(render([report]), arguments.write)


def _write(text: str, path: str | None) -> None:
    print(text)
    if path:
        write_between_marks(Path(path), text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [c.name for c in CONTENDERS]
    parser.add_argument("--rounds", type=int, help="samples of each contender (5; quick: 2)")
    parser.add_argument("--workloads", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=names,
        metavar="NAME",
        help="of " + ", ".join(names) + " (all)",
    )
    parser.add_argument("--quick", action="store_true", help="small grids: a check, not a result")
    parser.add_argument(
        "--size",
        nargs=3,
        type=int,
        metavar=("CELLS", "SEEDS", "STEPS"),
        help="another size of the work, for each workload; CELLS is a square, of w3 12 squares",
    )
    parser.add_argument(
        "--summarize",
        nargs=3,
        metavar="FILE",
        help="measure nothing: the tables of three runs, written by --json",
    )
    parser.add_argument("--write", metavar="FILE", help="write the tables to this markdown file")
    parser.add_argument("--json", metavar="FILE", help="write all samples to this file")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    return arguments


def _workload(name: str, cells: int, seeds: int, steps: int) -> Workload:
    """The workload, with streams from a process of its own: every worker imports this file, and
    JAX would count in its memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        streams = pool.submit(_draw_streams, name, seeds, steps).result()
    return make_workload(name, cells, streams)


def _draw_streams(name: str, seeds: int, steps: int) -> Streams:
    from engine_streams import draw_streams

    return draw_streams(name, seeds, steps)


def measure(work, contenders, rounds: int, machine: dict) -> dict:
    """Prepares, checks and times the contenders on one workload; returns rows and circumstances.

    The peak of the machine is measured once per round too, and the best kept in `machine`.
    """
    teams, rows, not_run = {}, {}, {}
    try:
        for contender in (c for c in contenders if work.name in c.workloads):
            _say(f"{work.name}: preparing {contender.name}")
            try:
                team = Team(contender, work)
                teams[contender.name] = team
                rows[contender.name] = _check(team)
            except NotRun as error:
                not_run[contender.name] = str(error)
                if contender.name in teams:
                    teams.pop(contender.name).close()
        start, busy, own = time.perf_counter(), _busy_s(), _cpu_s(teams)
        for index in range(rounds):
            _say(f"{work.name}: round {index + 1} of {rounds}")
            machine["peak_gflops"] = max(machine["peak_gflops"], _peak()[0])
            for name, team in teams.items():
                row = rows[name]
                row["samples_s"].append(team.sample(row["repeats"]))
        wall = time.perf_counter() - start
        ended = _busy_s()
        others = None
        if busy is not None and ended is not None:
            others = (ended - busy - _cpu_s(teams) + own) / wall
        for name, team in teams.items():
            rows[name]["memory_mb"] = team.memory_mb()
    finally:
        for team in teams.values():
            team.close()
    not_run = {_title(name): why for name, why in not_run.items()}
    return dict(rows=rows, not_run=not_run, other_cores=others)


def _check(team: Team) -> dict:
    """A row without samples: who ran on what, compile time, agreement, repeats a sample."""
    contender, work = team.contender, team.work
    agreement = None
    if not contender.own_batches:
        team.sample(steps=min(FEW_STEPS, work.steps))
        few = team.result()
    team.sample()  # Warm for all steps.
    seconds = team.sample()
    if not contender.own_batches:
        compared = compare(work, few, team.result())
        agreement = compared._replace(
            few=compared.few._asdict(), all=compared.all._asdict()
        )._asdict()
    return dict(
        title=contender.title,
        flop=contender.flop(work.name),
        processes=contender.processes,
        threads=contender.threads,
        statistics=contender.statistics,
        seeds=work.seeds,
        cells=work.cells,
        steps=work.steps,
        run_steps=work.run_steps,
        compile_s=team.compile_s,
        agreement=agreement,
        samples_s=[],
        repeats=min(100, max(1, round(SAMPLE_S / seconds))),
    )


def describe_machine() -> dict:
    """The machine, its measured peak and the versions that took part."""
    _say("measuring the peak of the machine")
    versions = {}
    for package in ("relu_dynamics", "jax", "flax", "optax", "torch", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    peak, how = _peak()
    return dict(
        processor=_processor(),
        cores=CORES,
        system=platform.platform(),
        python=platform.python_version(),
        versions=versions,
        peak_gflops=peak,
        peak_method=how,
    )


def _peak() -> tuple[float, str]:
    """The largest float32 rate of all cores in GFLOP/s, and how it was measured."""
    try:
        from contenders_c import peak_gflops

        return peak_gflops(), "fused multiply-add loop in C"
    except RuntimeError:
        a = np.ones((2048, 2048), np.float32)
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            np.matmul(a, a)
            seconds.append(time.perf_counter() - start)
        return 2 * 2048**3 / min(seconds) / 1e9, "sgemm 2048 in NumPy"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _busy_s() -> float | None:
    """Processor seconds used by everything on the machine since it started, where Linux tells."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, path.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _cpu_s(teams: dict) -> float:
    return time.process_time() + sum(team.cpu_s() for team in teams.values())


def _title(name: str) -> str:
    return next(c.title for c in CONTENDERS if c.name == name).replace("**", "")


def write_between_marks(path: Path, text: str) -> None:
    """Replaces what stands between the two marks in the file, so that prose around it stays."""
    begin, end = "<!-- benchmarks/speed.py writes from here -->", "<!-- to here -->"
    old = path.read_text() if path.exists() else ""
    if begin not in old or end not in old:
        old = f"# Speed, side by side\n\n{begin}\n{end}\n"
    head, rest = old.split(begin, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}{begin}\n\n{text}\n{end}{rest.split(end, 1)[1]}")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
