"""Dead units under tasks that keep changing, after Dohare et al. (Nature 632:768).

Claims under test: dead units pile up while the task changes, and later tasks are learned worse. A
slowly changing regression, where single bits flip, and digits whose pixels are permuted again and
again. Writes summary.json and continual.png/.pdf to --out.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Drawing

from experiments.reproductions.drawing import COLOURS
from experiments.reproductions.published import DOHARE, FULL, check_counts, entry, report
from relu_dynamics import statistics
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.figures.style import DASHES, PAGE, STYLE, write_caption
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import ensembles

# Sweep --------------------------------------------------------------------------------------------

REGRESSION, DIGITS = "slowly changing regression", "permuted digits"
LANES = {REGRESSION: 50, DIGITS: 10}  # seeds in one call


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """Dead units and loss while the task changes again and again."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Step sizes of the slowly changing regression (SGD, one example per step)."""
    bit_period: int = 1000
    """Steps between two bit flips."""
    bit_periods: int = 50
    """Flips; the paper trains for a million steps."""
    digit_rates: tuple[float, ...] = (0.01, 0.1, 0.5)
    """Step sizes of permuted digits (SGD, batches of 32)."""
    digit_period: int = 200
    """Steps between two permutations; the paper's one epoch of 60,000 images."""
    digit_periods: int = 30
    """Permutations; the paper's 800."""
    seeds: int = 100
    """Seeds per step size."""


DEFAULTS = Options()
QUICK = Options(bit_period=200, bit_periods=8, digit_period=40, digit_periods=8, seeds=10)


def make_grids(options: Options) -> dict[str, Grid]:
    """A grid per task; raises a one-line ValueError for options that cannot run."""
    check_counts(
        seeds=options.seeds,
        bit_period=options.bit_period,
        bit_periods=options.bit_periods,
        digit_period=options.digit_period,
        digit_periods=options.digit_periods,
    )
    if min(options.bit_periods, options.digit_periods) < 4:
        raise ValueError("bit_periods and digit_periods must be at least 4: quarters are compared.")
    bits = Config(
        task="random_bits",
        hidden=(5,),
        examples=64,
        change_every=options.bit_period,
        probe_every=options.bit_period,
        steps=options.bit_period * options.bit_periods,
        **{**FULL, "batch_size": 1},
    )
    digits = dataclasses.replace(
        bits,
        task="digits",
        hidden=(32, 32, 32),
        examples=512,
        batch_size=32,
        change_every=options.digit_period,
        probe_every=options.digit_period,
        steps=options.digit_period * options.digit_periods,
    )
    make = lambda config, rates: make_grid(  # noqa: E731
        config, {"learning_rate": rates}, options.seeds, root_seed=options.root_seed
    )
    return {REGRESSION: make(bits, options.rates), DIGITS: make(digits, options.digit_rates)}


class Curves(NamedTuple):
    """What the runs of a task showed in every period, [seeds, rates, periods] each."""

    loss: np.ndarray  # mean training loss
    dead: np.ndarray  # share of units dead at the end of the period


def continual_reading(config: Config, task: tasks.Task, run: training.Run) -> Curves:
    """The curves of one run, [periods] each."""
    dead = run.trace.probe_layers.dead_fraction[1:]  # [evaluations, layers]
    widths = jnp.asarray(config.hidden, jnp.float32)
    dead = (dead * widths[None, :]).sum(1) / widths.sum()
    by_period = lambda values: values.reshape(task_periods(config), -1)  # noqa: E731
    return Curves(by_period(run.trace.loss).mean(1), by_period(dead)[:, -1])


def task_periods(config: Config) -> int:
    """How many tasks a run sees one after another."""
    return config.steps // (config.change_every or config.steps)


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> dict[str, Curves]:
    """The curves of both tasks."""
    return {name: train_task(name, grid) for name, grid in grids.items()}


def train_task(name: str, grid: Grid) -> Curves:
    """Trains a task's runs and reads every period."""
    print(f"{name}: {grid.runs:,} runs of {grid.config.steps:,} steps", flush=True)
    return ensembles.train_all(grid, continual_reading, LANES[name])


# Analysis -----------------------------------------------------------------------------------------


def summarize(options: Options, found: Mapping[str, Curves]) -> dict[str, Any]:
    """Every curve with its intervals, and the claims."""
    rates = {REGRESSION: options.rates, DIGITS: options.digit_rates}
    rows = [
        curve_row(name, rate, Curves(curves.loss[:, i], curves.dead[:, i]))
        for name, curves in found.items()
        for i, rate in enumerate(rates[name])
    ]
    made = [
        claim
        for name, curves in found.items()
        for i, rate in enumerate(rates[name])
        for claim in late_claims(name, rate, Curves(curves.loss[:, i], curves.dead[:, i]))
    ]
    return {
        "definition": "dead: max z over all training examples of the period that ends <= 0 "
        "(tau = 0 dormant on the whole period, not on a batch)",
        "interval": "clustered by seed, 95 %",
        "reduced": f"{options.bit_periods} periods of {options.bit_period:,} steps against a "
        f"million steps in the paper, and {options.digit_periods} of {options.digit_period} "
        "steps on 8 x 8 digits with three layers of 32 units against 800 of 60,000 images with "
        "three of 2,000: nothing is said about losses that appear later",
        "rows": rows,
        "table": published_table(rows),
        "claims": claims.controlled(made),
    }


def finite_seeds(curves: Curves) -> np.ndarray:
    """Which seeds of one step size did not diverge, bool [seeds]."""
    return np.all(np.isfinite(curves.loss), axis=-1)


def curve_row(name: str, rate: float, curves: Curves) -> dict[str, Any]:
    """Loss and dead share of every period at one step size: [mean, low, high], [periods] each."""
    finite = finite_seeds(curves)
    row: dict[str, Any] = {"task": name, "learning_rate": rate}
    for quantity, values, bounds in (
        ("loss", curves.loss, None),
        ("dead", curves.dead, (0.0, 1.0)),
    ):
        if finite.any():
            values = values[finite].T.astype(float)  # [periods, seeds]
            mean = statistics.seed_clustered_mean(values, pool=(), bounds=bounds)
            row[quantity] = [np.asarray(part).tolist() for part in mean[:3]]
    return row | {"seeds": int(finite.sum()), "diverged_runs": int((~finite).sum())}


def published_table(rows: Sequence[Mapping]) -> list[dict]:
    """The paper's share of dead units beside ours at the end."""
    out = []
    for row in rows:
        if row["task"] == DIGITS and row["learning_rate"] == 0.01 and "dead" in row:
            estimate, low, high = (part[-1] for part in row["dead"])
            last = {"estimate": estimate, "interval": [low, high], "seeds": row["seeds"]}
            verdict = "conditional: fewer tasks and a narrower network"
            quantity = "permuted images, step size 0.01: dead at the end"
            out.append(entry(DOHARE, quantity, "up to about 25 % after 800 tasks", last, verdict))
    return out


def late_claims(name: str, rate: float, curves: Curves) -> list[Claim]:
    """Last quarter of the periods against the second at one step size: dead units and loss; none
    where fewer than two runs are left."""
    finite = finite_seeds(curves)
    if finite.sum() < 2:
        return []
    quarter = curves.loss.shape[-1] // 4
    return [
        claims.difference_claim(
            f"{claim} ({name}, step size {rate:g})",
            DOHARE,
            own[:, -quarter:].mean(-1),
            own[:, quarter : 2 * quarter].mean(-1),
            finding=f"{what} {{first:.3g}} in the last quarter of the periods, "
            "{second:.3g} in the second: {estimate:+.3g} [{low:+.3g}, {high:+.3g}].",
            bounds=bounds,
            definition="dead on all training examples of the period, at its end; the "
            "second quarter is the base, because the first still learns from nothing",
            figure="continual",
        )
        for what, values, bounds, claim in (
            ("Dead share", curves.dead, (-1, 1), "Dead units pile up while the task changes"),
            ("Loss", curves.loss, None, "Later tasks are learned worse"),
        )
        for own in [values[finite].astype(float)]
    ]


# Figure -------------------------------------------------------------------------------------------


def draw_continual(summary: Mapping) -> Drawing:
    """Loss and dead share of every period, a column per task."""
    rows = summary["rows"]
    names = list(dict.fromkeys(r["task"] for r in rows))
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(2, len(names), figsize=(PAGE, 4.0), squeeze=False, sharex="col")
        for j, name in enumerate(names):
            own = [r for r in rows if r["task"] == name and "loss" in r]
            for row, colour, dashes in zip(own, COLOURS, DASHES, strict=False):
                for i, quantity in enumerate(("loss", "dead")):
                    mean, low, high = (np.array(part) for part in row[quantity])
                    periods = np.arange(1, len(mean) + 1)
                    axes = grid[i, j]
                    label = f"{row['learning_rate']:g}"
                    axes.plot(periods, mean, color=colour, linestyle=dashes, label=label)
                    axes.fill_between(periods, low, high, color=colour, alpha=0.2, linewidth=0)
            grid[0, j].set_title(name)
            grid[0, j].set_ylabel(
                "training loss" + (" (nats)" if "digits" in name else "\n(half squared error)")
            )
            grid[1, j].set(ylabel="dead fraction", xlabel="period (one task each)", ylim=(0, None))
            grid[1, j].legend(title="step size", title_fontsize=7, labelspacing=0.2)
        asked = summary["options"]
        write_caption(
            figure,
            f"n = {asked['seeds']} seeds per step size, bands: 95 %, clustered by seed. "
            "Regression: 20 bits, 5 hidden units, one example per step, a bit flips every "
            f"{asked['bit_period']:,} steps. Digits: 32-32-32, batch 32, pixels permuted anew "
            f"every {asked['digit_period']} steps. Dead: max z <= 0 over the period's training "
            "examples. " + summary["reduced"] + ".",
        )
    return figure


EXPERIMENT = Experiment(
    name="continual",
    question="do dead units pile up while the task changes for ever?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    grids=make_grids,
    train=train,
    analyse=summarize,
    report=report,
    figures={"continual": Figure("Dead units under tasks that keep changing.", draw_continual)},
)
