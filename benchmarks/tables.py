"""The tables of the benchmark, of one run or of three: rates, ratios, and the goals.

One run: the median of its rounds with the quartiles in brackets. Three runs: of their medians the
middle one, with the smallest and the largest in brackets.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from agreement import FEW_STEPS
from workloads import NETWORK

# Ratios of a table are to the first of these that was run.
BASES = ("kernel", "engine", "torch-func-compile", "jax-vmap-scan", "numpy")


class Unlike(ValueError):
    """Runs that one table cannot describe."""


class Ratio(NamedTuple):
    """A ratio of two rows' rates, and what it should be (at least, or at most)."""

    text: str
    workload: str
    over: str
    under: str
    least: float | None = None
    most: float | None = None


RATIOS = (
    Ratio("W1, the kernel / plain C", "w1", "kernel", "c", least=0.8),
    Ratio("W2, the kernel / plain C", "w2", "kernel", "c", least=0.85),
    Ratio("W3, the kernel / plain C", "w3", "kernel", "c"),
    Ratio("W1, the kernel / `torch.func` + compile", "w1", "kernel", "torch-func-compile", least=6),
    Ratio("W2, the kernel / `torch.func` + compile", "w2", "kernel", "torch-func-compile", least=3),
    Ratio("W3, the kernel / `torch.func` + compile", "w3", "kernel", "torch-func-compile"),
    Ratio("W1, the kernel / plain JAX", "w1", "kernel", "engine"),
    Ratio("W2, the kernel / plain JAX", "w2", "kernel", "engine"),
    Ratio("W3, the kernel / plain JAX", "w3", "kernel", "engine"),
    Ratio(
        "W1, the kernel: time with all statistics over none",
        "w1",
        "kernel-bare",
        "kernel",
        most=1.1,
    ),
    Ratio(
        "W2, the kernel: time with all statistics over none",
        "w2",
        "kernel-bare",
        "kernel",
        most=1.1,
    ),
    Ratio(
        "W3, the kernel: time with all statistics over none",
        "w3",
        "kernel-bare",
        "kernel",
        most=1.1,
    ),
    Ratio("W1, plain JAX: time with all statistics over none", "w1", "engine-bare", "engine"),
    Ratio("W2, plain JAX: time with all statistics over none", "w2", "engine-bare", "engine"),
    Ratio(
        "W2, every run its own batches: plain JAX / `torch.func` + compile, likewise",
        "w2",
        "engine-own",
        "torch-func-compile-own",
        least=1.5,
    ),
)
PEAK_GOAL = 0.7  # Of the peak, W3 while training.


def render(reports: list[dict]) -> str:
    """One report, or three of the same work on the same machine, as markdown; raises `Unlike` for
    three that are not."""
    first = reports[0]
    _check_alike(reports)
    machine = first["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    peaks = ", ".join(f"{r['machine']['peak_gflops']:.0f}" for r in reports)
    minutes = ", ".join(f"{r['minutes']:.1f}" for r in reports)
    what = (
        f"Medians of {first['rounds']} interleaved rounds, quartiles in brackets."
        if len(reports) == 1
        else f"Three runs of {first['rounds']} interleaved rounds: of the three medians the middle "
        "one, the smallest and the largest in brackets."
    )
    commands = "".join(f"    {report['command']}\n" for report in reports)
    parts = [
        f"Measured on {machine['cores']} cores of {machine['processor']}; {machine['system']}; "
        f"Python {machine['python']}; {versions}. Peak {peaks} GFLOP/s "
        f"({machine['peak_method']}, the best of a run). {what} The command took {minutes} "
        "minutes. Slow contenders do the part of the work named beside them. Preparing is "
        "compiling and warming up. Differences are from NumPy in float64 on the same numbers: the "
        f"median over runs after {FEW_STEPS} steps / after all steps (99th percentile after all); "
        "then the units whose first active step is the same. A row that differs too much is void. "
        "In W3 runs at learning rates below 1 are compared: above, they amplify rounding or "
        f"diverge.\n\n{commands}",
        _goals(reports),
    ]
    parts += [_table(reports, name) for name in first["workloads"]]
    return "\n".join(parts)


def _check_alike(reports: list[dict]) -> None:
    for fact in ("rounds", "sizes"):
        if any(report[fact] != reports[0][fact] for report in reports):
            raise Unlike(f"the runs have different {fact}: {[r[fact] for r in reports]}")
    for fact in ("processor", "cores", "python", "versions"):
        found = [report["machine"][fact] for report in reports]
        if any(value != found[0] for value in found):
            raise Unlike(f"the runs' {fact} differ: {found}")
    for name in reports[0]["workloads"]:
        rows = [sorted(report["workloads"][name]["rows"]) for report in reports]
        if any(names != rows[0] for names in rows):
            raise Unlike(f"{name}: the runs have different rows: {rows}")


def _spread(reports: list[dict], measure: Callable[[dict], np.ndarray]) -> np.ndarray:
    """(low, middle, high) of what `measure` gives of a report, [rounds]."""
    if len(reports) == 1:
        return np.quantile(measure(reports[0]), [0.25, 0.5, 0.75])
    return np.sort([np.median(measure(report)) for report in reports])


def _rates(report: dict, workload: str, row: str) -> np.ndarray:
    found = report["workloads"][workload]["rows"][row]
    return found["run_steps"] / np.array(found["samples_s"])


def _ratio(reports: list[dict], workload: str, over: str, under: str) -> np.ndarray:
    # Samples of one round are neighbours in time: the median of ratios cancels drift.
    return _spread(reports, lambda r: _rates(r, workload, over) / _rates(r, workload, under))


def _share(reports: list[dict], workload: str, row: str) -> np.ndarray:
    """Share of the peak."""

    def measure(report):
        flop = report["workloads"][workload]["rows"][row]["flop"]
        return _rates(report, workload, row) * flop / 1e9 / report["machine"]["peak_gflops"]

    return _spread(reports, measure)


def _goals(reports: list[dict]) -> str:
    lines = ["### In short\n", "| | goal | reached |", "|---|---|---|"]
    for ratio in RATIOS:
        rows = reports[0]["workloads"].get(ratio.workload, {}).get("rows", {})
        if ratio.over not in rows or ratio.under not in rows:
            continue
        low, middle, high = _ratio(reports, ratio.workload, ratio.over, ratio.under)
        goal = "" if ratio.least is None else f"at least {ratio.least:g}"
        goal = goal if ratio.most is None else f"at most {ratio.most:g}"
        lines.append(f"| {ratio.text} | {goal} | {middle:.3g} [{low:.3g}, {high:.3g}] |")
    if "kernel-training" in reports[0]["workloads"].get("w3", {}).get("rows", {}):
        low, middle, high = _share(reports, "w3", "kernel-training")
        lines.append(
            f"| W3, the kernel while training: share of the measured peak | at least {PEAK_GOAL} "
            f"| {middle:.2f} [{low:.2f}, {high:.2f}] |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 3 else ""


def _table(reports: list[dict], name: str) -> str:
    table, size = reports[0]["workloads"][name], reports[0]["sizes"][name]
    rows = table["rows"]
    base = next((n for n in BASES if n in rows and _agrees(reports, name, n)), None)
    title = rows[base]["title"].replace("**", "") if base else "base"
    lines = [
        f"### {name.upper()}: {NETWORK[name]}; {size['cells']} cells x {size['seeds']} seeds "
        f"x {size['steps']} steps\n",
        f"| contender | processes x threads | run-steps/s | GFLOP/s | of peak | {title} is so many "
        "times as fast | prepare s | peak MB | difference; first active |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    speed = {n: _spread(reports, lambda r, n=n: _rates(r, name, n)) for n in rows}
    for row in sorted(rows, key=lambda n: -speed[n][1]):
        lines.append(_line(reports, name, row, base, speed[row]))
    lines += [f"\n{title} was not run: {why}." for title, why in table["not_run"].items()]
    others = [report["workloads"][name]["other_cores"] for report in reports]
    if None not in others:
        said = ", ".join(f"{max(0.0, other):.2f}" for other in others)
        lines.append(f"\nOther work took {said} cores meanwhile.")
    return "\n".join(lines) + "\n"


def _line(reports: list[dict], name: str, row: str, base: str | None, speed: np.ndarray) -> str:
    found = [report["workloads"][name]["rows"][row] for report in reports]
    first, size = found[0], reports[0]["sizes"][name]
    low, middle, high = map(_number, speed)
    work = [first[k] for k in size]
    limited = f" (on {' x '.join(map(str, work))})" if work != list(size.values()) else ""
    ratio = ""
    if base:
        ratio = "{1:.3g} [{0:.3g}, {2:.3g}]".format(*_ratio(reports, name, base, row))
    mid = lambda key: np.median([f[key] for f in found])  # noqa: E731
    return (
        f"| {first['title']}{limited} | {first['processes']} x {first['threads']} "
        f"| {middle} [{low}, {high}] | {speed[1] * first['flop'] / 1e9:.3g} "
        f"| {100 * _share(reports, name, row)[1]:.2g} % | {ratio} "
        f"| {mid('compile_s'):.1f} | {mid('memory_mb'):.0f} | {_verdict(found)} |"
    )


def _agrees(reports: list[dict], name: str, row: str) -> bool:
    found = [report["workloads"][name]["rows"][row]["agreement"] for report in reports]
    return all(agreement is not None and agreement["agrees"] for agreement in found)


def _verdict(found: list[dict]) -> str:
    """What the comparisons of a row with the reference gave: the worst of the runs."""
    if found[0]["agreement"] is None:
        return "not compared: draws of its own"
    worst = max(found, key=lambda row: row["agreement"]["all"]["high"])
    few, late = worst["agreement"]["few"], worst["agreement"]["all"]
    verdict = f"{few['median']:.0e} / {late['median']:.0e} ({late['high']:.0e})"
    if worst["statistics"]:
        verdict += f"; {late['units'] - late['first_active']} of {late['units']}"
    agrees = all(row["agreement"]["agrees"] for row in found)
    return verdict if agrees else "**void**: " + verdict


def _number(rate: float) -> str:
    """A rate with three digits and k or M."""
    scale, suffix = (1e6, " M") if rate >= 1e6 else (1e3, " k") if rate >= 1e3 else (1, "")
    value = rate / scale
    return f"{value:.{max(0, 2 - int(np.log10(max(value, 1))))}f}{suffix}"
