"""P(a ReLU unit dies) against the variance of the targets and momentum, after Arnekvist et al.
(arXiv 2005.06195).

Claims under test: targets of small variance kill units, and momentum does, at the same learning
rate and at the same effective one. One unit, a deep and a residual network on a teacher's outputs
times a factor. Writes summary.json and target_variance.png/.pdf to --out.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Drawing

from experiments.reproductions.drawing import COLOURS, draw_points
from experiments.reproductions.published import ARNEKVIST, FULL, check_counts
from relu_dynamics import statistics
from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.figures.style import MARKERS, PAGE, STYLE, write_caption
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import ensembles

# Sweep --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """P(a unit dies) against the scale of the targets, momentum and learning rate."""

    scales: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Factors on the targets; their variance grows with the square."""
    momenta: tuple[float, ...] = (0.0, 0.9, 0.99)
    """Heavy-ball momentum."""
    learning_rates: tuple[float, ...] = (0.001, 0.01, 0.1)
    """Learning rates."""
    networks: tuple[str, ...] = ("one unit", "deep", "residual")
    """Networks: one unit, deep (16-16) or residual (16-16-16)."""
    steps: int = 1000
    """Full-batch steps."""
    seeds: int = 100
    """Seeds per cell."""


DEFAULTS = Options()
QUICK = Options(
    scales=(0.01, 1.0), learning_rates=(0.001, 0.1), steps=100, seeds=20, networks=("deep",)
)
NETWORKS: dict[str, dict[str, Any]] = {
    "one unit": {"hidden": (1,)},
    "deep": {"hidden": (16, 16)},
    "residual": {"hidden": (16, 16, 16), "model": "residual"},
}


def axes_of(options: Options) -> dict[str, tuple[float, ...]]:
    """The axes of every grid."""
    return {
        "target_scale": options.scales,
        "momentum": options.momenta,
        "learning_rate": options.learning_rates,
    }


def make_grids(options: Options) -> dict[str, Grid]:
    """A grid per network; raises a one-line ValueError for options that cannot run."""
    check_counts(seeds=options.seeds, steps=options.steps)
    if not options.networks:
        raise ValueError("networks is empty; give at least one.")
    for name in options.networks:
        check_choice("networks", name, tuple(NETWORKS))
    axes = axes_of(options)
    base = Config(
        task="teacher_student",
        dimension=8,
        examples=32,
        optimizer="momentum",
        momentum=0.0,
        steps=options.steps,
        probe_every=options.steps // 10 if options.steps % 10 == 0 else options.steps,
        **FULL,
    )
    return {
        name: make_grid(
            dataclasses.replace(base, **NETWORKS[name]),
            axes,
            options.seeds,
            root_seed=options.root_seed,
        )
        for name in options.networks
    }


class Counts(NamedTuple):
    """What a grid's runs showed, int [scales, momenta, rates, seeds] each."""

    alive: np.ndarray  # units alive at step 0
    dead: np.ndarray  # those of them dead at the last look, 0 in a diverged run
    diverged: np.ndarray  # whether the run did


def death_reading(config: Config, task: tasks.Task, run: training.Run) -> tuple:
    """(units alive at step 0, those of them dead at the last look, whether the run diverged)."""
    began = ~run.history.dead_at_start
    return began.sum(), (began & ~run.history.alive).sum(), run.history.diverged_at != NEVER


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> dict[str, Counts]:
    """Counts of every network's runs."""
    return {name: count_deaths(name, grid) for name, grid in grids.items()}


def count_deaths(name: str, grid: Grid) -> Counts:
    """Trains a grid and counts units that die."""
    print(f"{name}: {grid.runs:,} runs of {grid.config.steps:,} steps", flush=True)
    read = ensembles.train_all(grid, death_reading, 10)
    alive, dead, diverged = (x.T.reshape(*grid.shape, -1).astype(int) for x in read)
    return Counts(alive, np.where(diverged, 0, dead), diverged)


# Analysis -----------------------------------------------------------------------------------------


def summarize(options: Options, counts: Mapping[str, Counts]) -> dict[str, Any]:
    """Every cell with its interval, and the claims."""
    return {
        "definition": "died: alive at step 0, largest z over the training inputs <= 0 at the "
        "last look; a unit of a diverged run counts as not dead",
        "interval": "Korn-Graubard, clustered by run; differences: t over paired seeds; 95 %",
        "rows": [row for name, own in counts.items() for row in cell_rows(options, name, own)],
        "table": [],
        "claims": make_claims(options, counts),
    }


def cell_rows(options: Options, name: str, counts: Counts) -> list[dict[str, Any]]:
    """P(a unit dies) in every cell of one network."""
    axes = axes_of(options)
    rows = []
    for cell in np.ndindex(counts.dead.shape[:-1]):
        values = {axis: v[i] for (axis, v), i in zip(axes.items(), cell, strict=True)}
        interval = statistics.clustered_interval(counts.dead[cell], counts.alive[cell])
        row = {"network": name, **values, **interval.as_json()}
        rows.append(row | {"diverged_runs": int(counts.diverged[cell].sum())})
    return rows


def make_claims(options: Options, counts: Mapping[str, Counts]) -> list[Claim]:
    """Small against unit targets, momentum against none, pooled over the other axes by seed; and
    momentum at the same effective rate, learning_rate / (1 - momentum)."""
    found = []
    scales = np.array(options.scales)
    unit = int(np.argmin(np.abs(np.log(scales))))
    for name, (alive, dead, _) in counts.items():

        def share(index, dead=dead, alive=alive):  # per seed, [seeds]
            pool = tuple(range(dead[index].ndim - 1))
            return dead[index].sum(pool) / np.maximum(alive[index].sum(pool), 1)

        def compare(claim, first, second, what, name=name, share=share):
            found.append(
                claims.difference_claim(
                    f"{claim} ({name})",
                    ARNEKVIST,
                    share(first),
                    share(second),
                    finding=f"P(dead at the end) {what}: {{first:.3f}} against {{second:.3f}}, "
                    "{estimate:+.3f} [{low:+.3f}, {high:+.3f}].",
                    definition="alive at step 0, dead on the training inputs at the end, pooled "
                    "over the other axes; paired by seed",
                    bounds=(-1, 1),
                    figure="target_variance",
                )
            )

        if unit:
            compare(
                "Targets of small variance kill units",
                np.s_[:1],
                np.s_[unit : unit + 1],
                f"at scale {scales[0]:g} against {scales[unit]:g}",
            )
        if 0.0 in options.momenta and len(options.momenta) > 1:
            zero, most = options.momenta.index(0.0), int(np.argmax(options.momenta))
            compare(
                "Momentum kills units, at the same learning rate",
                np.s_[:, most],
                np.s_[:, zero],
                f"with momentum {options.momenta[most]:g} against none",
            )
            rates = np.array(options.learning_rates)
            for i, rate in enumerate(rates):
                same = np.flatnonzero(np.isclose(rates, rate / (1 - options.momenta[most])))
                if len(same):
                    compare(
                        "Momentum kills units, at the same effective rate "
                        f"{rate / (1 - options.momenta[most]):g}",
                        np.s_[:, most, i],
                        np.s_[:, zero, int(same[0])],
                        f"with momentum {options.momenta[most]:g} at rate {rate:g} against none",
                    )
    return claims.controlled(found)


# Figure -------------------------------------------------------------------------------------------


def draw_target_variance(summary: Mapping) -> Drawing:
    """P(dead at the end) over the targets' scale: networks down, learning rates across."""
    rows = summary["rows"]
    networks = list(dict.fromkeys(r["network"] for r in rows))
    rates = sorted({r["learning_rate"] for r in rows})
    momenta = sorted({r["momentum"] for r in rows})
    with plt.style.context(STYLE):
        figure, grid = plt.subplots(
            len(networks),
            len(rates),
            figsize=(PAGE, 0.9 + 1.55 * len(networks)),
            squeeze=False,
            sharex=True,
        )
        for i, network in enumerate(networks):
            for j, rate in enumerate(rates):
                axes = grid[i, j]
                for momentum, colour, marker in zip(momenta, COLOURS, MARKERS, strict=False):
                    own = [
                        r
                        for r in rows
                        if (r["network"], r["learning_rate"], r["momentum"])
                        == (network, rate, momentum)
                    ]
                    own.sort(key=lambda r: r["target_scale"])
                    scales = [r["target_scale"] for r in own]
                    style = {"color": colour, "marker": marker, "label": f"{momentum:g}"}
                    draw_points(axes, scales, own, **style)
                    gone = [r for r in own if r["diverged_runs"]]
                    axes.plot(
                        [r["target_scale"] for r in gone],
                        [r["estimate"] for r in gone],
                        "x",
                        color="black",
                        markersize=5,
                    )
                axes.set(xscale="log", ylim=(-0.03, 1.03), title=f"{network}, rate {rate:g}")
                if i == len(networks) - 1:
                    axes.set_xlabel("factor on the targets")
                if j == 0:
                    axes.set_ylabel("P(dead at the end)")
        grid[0, 0].legend(title="momentum", title_fontsize=7, labelspacing=0.2)
        asked = summary["options"]
        hidden = ", ".join(f"{n} {'-'.join(map(str, NETWORKS[n]['hidden']))}" for n in networks)
        write_caption(
            figure,
            f"{tasks.label_of('teacher_student')}, full batch, {asked['steps']:,} steps of SGD "
            f"with momentum, n = {asked['seeds']} seeds per point; dead at the end: units alive at "
            "step 0 whose largest z over the training inputs is <= 0 at the end. 95 % intervals "
            "clustered by run. Crosses: some runs diverged (their units count as not dead). "
            f"Hidden: {hidden}.",
        )
    return figure


EXPERIMENT = Experiment(
    name="target_variance",
    question="do small targets and momentum kill units?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    grids=make_grids,
    train=train,
    analyse=summarize,
    figures={
        "target_variance": Figure(
            "P(a living unit is dead at the end) over the scale of the targets.",
            draw_target_variance,
        )
    },
)
