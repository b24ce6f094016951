"""P(a trained deep and narrow network is constant), after Lu et al. (arXiv 1903.06733).

Claims under test: networks of width 2 and 10 weight layers collapse to a constant in at least 90 %
of the runs; the randomized asymmetric initialization prevents most of it. Writes summary.json and
collapse.png/.pdf to --out.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Drawing

from experiments.reproductions.drawing import draw_points
from experiments.reproductions.published import (
    FULL,
    LU,
    against,
    against_counts,
    check_counts,
    entry,
    initializer,
    report,
)
from relu_dynamics import statistics
from relu_dynamics.config import Config
from relu_dynamics.engine import models, tasks, training
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.figures.style import COLUMN, STYLE, ordered_colours, write_caption
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import ensembles

# Sweep --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """P(a trained deep and narrow network is constant)."""

    targets: tuple[str, ...] = ("abs", "x_sin_5x", "step_sine")
    """1-D targets of Lu et al."""
    init: tuple[str, ...] = ("he", "rai")
    """Initializers."""
    width: int = 2
    """Units of every hidden layer."""
    depth: int = 10
    """Weight layers."""
    learning_rate: float = 1e-3
    """Of Adam."""
    steps: int = 4000
    """Full-batch steps."""
    points: int = 48
    """Training points, evenly over [-sqrt 3, sqrt 3]."""
    runs: int = 1000
    """Networks per target and initializer."""


DEFAULTS = Options()
QUICK = Options(targets=("abs",), runs=100, steps=500, learning_rate=3e-3, points=16)


def make_grids(options: Options) -> dict[str, Grid]:
    """A grid per target and initializer; raises a one-line ValueError for options that cannot
    run."""
    check_counts(width=options.width, runs=options.runs)
    if options.depth < 2 or options.points < 4 or options.points % 2:
        raise ValueError(
            f"depth={options.depth}, points={options.points}: use at least 2 weight layers and an "
            "even number of points >= 4."
        )
    if not options.targets or not options.init:
        raise ValueError("targets and init must name at least one each.")
    return {
        name_of(target, init): make_grid(
            arm_config(options, target, init),
            {"learning_rate": (options.learning_rate,)},
            options.runs,
            root_seed=options.root_seed,
        )
        for target in options.targets
        for init in options.init
    }


def name_of(target: str, init: str) -> str:
    """What the runs of a target and an initializer are called."""
    return f"{target}, {init}"


def arm_config(options: Options, target: str, init: str) -> Config:
    """The config of one arm; raises a ValueError for a target that is no 1-D function."""
    config = Config(
        task=target,
        hidden=(options.width,) * (options.depth - 1),
        initializer=initializer(init),
        optimizer="adam",
        steps=options.steps,
        probe_every=options.steps,
        examples=options.points,
        **FULL,
    )
    if tasks.TASKS.get(target) and tasks.TASKS[target].target is None:
        raise ValueError(f"targets: {target!r} is not an analytic 1-D target.")
    return config


class Shares(NamedTuple):
    """What the runs of one arm showed, [runs] each."""

    constant: np.ndarray  # the output on the whole domain
    half: np.ndarray  # ... on one half-line only
    born_dead: np.ndarray  # a layer was silent at step 0
    misfit: np.ndarray  # mean squared error


CONSTANT = 1e-6  # a smaller range of the output is a constant's rounding
FITTED = 1e-3  # mean squared error


def collapse_reading(config: Config, task: tasks.Task, run: training.Run) -> tuple:
    """(range of the output on the domain, on its left half, on its right half, mean squared error,
    whether a layer was silent at step 0) of a run."""
    output = models.apply(config, run.state.params, task.inputs).output[:, 0]
    half = config.examples // 2
    silent = run.history.dead_at_start.reshape(len(config.hidden), -1).all(1).any()
    ranges = [jnp.ptp(part) for part in (output, output[:half], output[-half:])]
    return (*ranges, jnp.mean((output - task.targets[:, 0]) ** 2), silent)


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> dict[str, Shares]:
    """What the runs of every arm showed."""
    return {name: train_arm(name, grid) for name, grid in grids.items()}


def train_arm(name: str, grid: Grid) -> Shares:
    """Trains an ensemble and reads which networks are constant."""
    print(f"{name}: {grid.runs:,} runs of {grid.config.steps:,} steps", flush=True)
    read = ensembles.train_all(grid, collapse_reading, 250)
    whole, left, right, misfit, born = (values[:, 0] for values in read)
    constant = whole <= CONSTANT
    half = ~constant & ((left <= CONSTANT) | (right <= CONSTANT))
    return Shares(constant, half, born, misfit)


# Analysis -----------------------------------------------------------------------------------------

LEAST_GAIN = 0.35  # published: about 60 points
PUBLISHED = {  # (target, init): (text, low, high)
    ("abs", "he"): ("> 90 %", 0.9, 1.0),
    ("x_sin_5x", "he"): ("91.9 %", 0.909, 0.929),
    ("x_sin_5x", "rai"): ("29.2 %", 0.282, 0.302),
    ("step_sine", "he"): ("93.8 %", 0.928, 0.948),
    ("step_sine", "rai"): ("32.6 %", 0.316, 0.336),
}


def summarize(options: Options, found: Mapping[str, Shares]) -> dict[str, Any]:
    """Every arm's shares with intervals, and the claims."""
    rows = [
        arm_row(target, init, found[name_of(target, init)])
        for target in options.targets
        for init in options.init
    ]
    return {
        "definition": f"collapsed: the output's range over {options.points} points of "
        f"[-sqrt 3, sqrt 3] is <= {CONSTANT:g}; half: on one half-line only; born dead: a "
        "hidden layer with all units <= 0 on all points at step 0",
        "interval": "Clopper-Pearson, 95 %; differences: t over paired seeds",
        "rows": rows,
        "table": published_table(options, rows),
        "claims": [*collapse_claims(options, rows), *gain_claims(options, found)],
    }


def arm_row(target: str, init: str, own: Shares) -> dict[str, Any]:
    """The shares of one arm's runs."""
    events = {
        "collapsed": own.constant,
        "half": own.half,
        "born_dead": own.born_dead,
        "fitted": own.misfit < FITTED,
    }
    return {
        "target": target,
        "init": init,
        "not_finite": int((~np.isfinite(own.misfit)).sum()),
        **{
            name: statistics.exact_interval(seen.sum(), len(seen)).as_json()
            for name, seen in events.items()
        },
    }


def published_table(options: Options, rows: Sequence[Mapping]) -> list[dict]:
    """Published shares (1,000 runs, no interval printed) beside ours."""
    out = []
    if (options.width, options.depth) != (2, 10):
        return out
    for row in rows:
        if (row["target"], row["init"]) in PUBLISHED:
            text, low, high = PUBLISHED[row["target"], row["init"]]
            if text.startswith(">"):
                verdict = against(row["collapsed"], low, high)
            else:  # two samples of runs
                theirs = round(float(text[:-2]) * 10)
                verdict = against_counts(row["collapsed"], theirs, 1000)
            quantity = f"{row['target']}, width 2, 10 weight layers, {row['init']}: collapsed"
            out.append(entry(LU, quantity, text, row["collapsed"], verdict))
    return out


def collapse_claims(options: Options, rows: Sequence[Mapping]) -> list[Claim]:
    """Collapse at He's initialization, on the target |x|."""
    return [
        Claim(
            claim="Deep and narrow networks collapse to a constant: >= 90 % "
            f"(width {options.width}, {options.depth} weight layers)",
            source=LU,
            verdict=against(share, 0.9, 1.0),
            finding=f"{share['estimate']:.1%} of {share['trials']:,} runs "
            f"[{share['interval'][0]:.1%}, {share['interval'][1]:.1%}], of which "
            f"{row['born_dead']['estimate']:.1%} were constant at birth; half-collapsed "
            f"{row['half']['estimate']:.1%}.",
            estimate=share["estimate"],
            interval=tuple(share["interval"]),
            count=f"{share['trials']:,} runs",
            definition="constant on the domain after training",
            figure="collapse",
        )
        for row in rows
        if (row["target"], row["init"]) == ("abs", "he")
        for share in [row["collapsed"]]
    ]


def gain_claims(options: Options, found: Mapping[str, Shares]) -> list[Claim]:
    """How much less networks collapse at the asymmetric initialization, by target."""
    out = []
    for target in options.targets:
        arms = [found.get(name_of(target, init)) for init in ("he", "rai")]
        pair = [own.constant.astype(float) for own in arms if own is not None]
        if len(pair) < 2:
            continue
        plain, rai = pair
        gain = statistics.paired_mean(plain, rai, bounds=(-1, 1))
        estimate, low, high = (float(part) for part in gain[:3])
        out.append(
            Claim(
                claim="The randomized asymmetric initialization collapses at least 35 points "
                f"less often ({tasks.label_of(target)})",
                source=LU,
                verdict=against({"interval": [low, high]}, LEAST_GAIN),
                finding=f"He {plain.mean():.1%}, asymmetric {rai.mean():.1%}: "
                f"{100 * estimate:.1f} points less [{100 * low:.1f}, {100 * high:.1f}].",
                estimate=estimate,
                interval=(low, high),
                count=f"{options.runs:,} runs per arm",
                definition="constant on the domain after training; paired by seed",
                figure="collapse",
            )
        )
    return out


# Figure -------------------------------------------------------------------------------------------

NAMES = {"he": "He", "rai": "asym."}  # of the initializers that the paper compares


def draw_collapse(summary: Mapping) -> Drawing:
    """Shares of collapsed and half-collapsed runs, with those dead at birth."""
    rows = summary["rows"]
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 3.0))
        x = np.arange(len(rows))
        kinds = (("born_dead", "born dead"), ("collapsed", "collapsed"), ("half", "half-collapsed"))
        for i, ((kind, label), colour) in enumerate(zip(kinds, ordered_colours(3), strict=True)):
            own = [row[kind] for row in rows]
            place = x + 0.27 * (i - 1)
            axes.bar(place, [r["estimate"] for r in own], 0.25, color=colour, label=label)
            draw_points(axes, place, own, linestyle="none", color="black", marker="")
        axes.set_xticks(x, [str(NAMES.get(r["init"], r["init"].replace("_", " "))) for r in rows])
        targets = dict.fromkeys(row["target"] for row in rows)
        centres = [np.mean([i for i in x if rows[i]["target"] == name]) for name in targets]
        below = [tasks.label_of(name) for name in targets]
        axes.set_xticks(centres, below, minor=True)
        axes.tick_params(which="minor", length=0, pad=16)
        axes.xaxis.remove_overlapping_locs = False
        axes.set(ylim=(0, 1.25), yticks=np.arange(0, 1.01, 0.2), ylabel="share of runs")
        axes.set_xlabel("initializer and target")
        axes.legend(loc="upper center", ncols=3, columnspacing=0.8, handlelength=1.0)
        asked = summary["options"]
        write_caption(
            figure,
            f"n = {asked['runs']:,} runs for each target and initializer (one seed each), "
            f"{asked['depth']} weight layers of width {asked['width']}, Adam at "
            f"{asked['learning_rate']:g}, {asked['steps']:,} full-batch steps on "
            f"{asked['points']} points; 95 % intervals (Clopper-Pearson). Born dead: a layer with "
            "z <= 0 on all points at step 0. Collapsed: constant on "
            "[-√3,\N{NO-BREAK SPACE}√3] after training; half: on one half-line "
            "only. He: normal weights; asym.: randomized asymmetric initialization.",
        )
    return figure


EXPERIMENT = Experiment(
    name="collapse",
    question="how probable is a network that is constant after training?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    grids=make_grids,
    train=train,
    analyse=summarize,
    report=report,
    figures={
        "collapse": Figure(
            "P(a deep and narrow network is constant), at birth and after training, by target and "
            "initialization.",
            draw_collapse,
        )
    },
)
