"""Dead units per layer before and after training, and which layers recover, after the UvA deep
learning tutorial 3 (JAX).

Claims under test: dead units of the first layer never recover; those of deeper layers do. The
tutorial's network at an eighth of its widths; the same with a quarter of one layer biased, so that
some begin dead; certificates of the first layer; exact slopes. Writes one result per arm,
summary.json and layers.png/.pdf to --out.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from experiments.reproductions.drawing import COLOURS, draw_points
from experiments.reproductions.published import (
    FULL,
    UVA,
    against_counts,
    check_counts,
    entry,
    report,
)
from experiments.reproductions.slopes import activation_rows
from relu_dynamics import certificates
from relu_dynamics.certificates.case import Verdict
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.figures.style import MARKERS, PAGE, STYLE, write_caption
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import clustered_interval, estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import studies

# Sweep --------------------------------------------------------------------------------------------

PUBLISHED = "as published"


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """Dead units per layer before and after training, and which layers recover."""

    hidden: tuple[int, ...] = (64, 32, 32, 16)
    """Widths; the tutorial's are eight times as large."""
    learning_rates: tuple[float, ...] = (0.01, 0.1)
    """Learning rates; the tutorial's is 0.01."""
    initial_biases: tuple[float, ...] = (-4.0, -2.0, -1.0, -0.5, -0.25)
    """What is added to the biases of a quarter of one layer's units, so that some begin dead."""
    steps: int = 600
    """Steps with batches of 64."""
    seeds: int = 100
    """Seeds per cell."""
    certified_seeds: int = 2
    """Seeds whose first-layer units get certificates."""


DEFAULTS = Options()
QUICK = Options(
    hidden=(32, 16),
    learning_rates=(0.1,),
    initial_biases=(-4.0, -1.0, -0.5),
    steps=100,
    seeds=10,
    certified_seeds=1,
)


def forced_name(layer: int) -> str:
    """The arm in which a quarter of a layer (from 1) begins dead."""
    return f"layer {layer} begins dead"


def make_grids(options: Options) -> dict[str, Grid]:
    """The tutorial's network, and one grid per layer in which a quarter of it begins dead; raises a
    one-line ValueError for options that cannot run."""
    check_counts(seeds=options.seeds, certified_seeds=options.certified_seeds)
    base = Config(
        implementation="auto",
        hidden=options.hidden,
        initializer="torch_default",
        optimizer="momentum",
        momentum=0.9,
        examples=1024,
        steps=options.steps,
        probe_every=max(options.steps // 10, 1),
        **{**FULL, "batch_size": 64},
    )
    rates = {"learning_rate": options.learning_rates}
    make = lambda config, axes: make_grid(  # noqa: E731
        config, axes, options.seeds, root_seed=options.root_seed
    )
    grids = {PUBLISHED: make(base, rates)}
    for layer, width in enumerate(options.hidden, start=1):
        config = dataclasses.replace(base, biased_layer=layer, biased_units=max(width // 4, 1))
        grids[forced_name(layer)] = make(config, {"initial_bias": options.initial_biases} | rates)
    return grids


class Results(NamedTuple):
    """What was trained, and what was certified of the first layer."""

    runs: Mapping[str, xr.Dataset]  # by arm
    certified: Mapping[str, int]  # `first_layer_certificates`


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> Results:
    """Trains every arm and certifies the first layer's units at step 0."""
    runs = studies.sweep_study(grids, out)
    return Results(runs, first_layer_certificates(options, grids[forced_name(1)]))


def first_layer_certificates(options: Options, grid: Grid) -> dict[str, int]:
    """How many of the first layer's dead units are certified never to come back, of how many."""
    never = dead = 0
    data = tasks.load_data(grid.config)
    for seed in grid.seeds[: options.certified_seeds]:
        key = run_key(grid.root_seed, seed)
        for bias in options.initial_biases:
            config = dataclasses.replace(grid.config, initial_bias=bias)
            task = tasks.make_task(config, purpose_key(key, "task"), data)
            state = training.start(training.as_arrays(config), key)
            found = certificates.certify(config, task, state, horizon=options.steps)
            first = slice(0, config.hidden[0])
            silent = found.margin[first] <= 0
            dead += int(silent.sum())
            never += int((silent & (found.verdict[first] == Verdict.CERTIFIED_NEVER)).sum())
    return {"never": never, "dead": dead}


# Analysis -----------------------------------------------------------------------------------------

DEFINITION = (
    "dead on all 1,024 training examples at step 0 (a quarter of the layer biased), alive at a "
    "later evaluation"
)


def summarize(options: Options, results: Results) -> dict[str, Any]:
    """Dead and recovered units per layer, certificates of the first, slopes at 0."""
    rows = [
        layer_row(results.runs, layer, rate)
        for layer in range(1, len(options.hidden) + 1)
        for rate in options.learning_rates
    ]
    exact = activation_rows()
    return {
        "definition": "dead: max z over all 1,024 training examples <= 0; recovered: dead at "
        "step 0, alive at a later evaluation",
        "interval": "Korn-Graubard, clustered by seed, 95 %",
        "rows": rows,
        "certificates": results.certified,
        "activations": exact,
        "hazards": hazard_rows(results.runs[PUBLISHED]),
        "table": published_table(options, rows, exact),
        "claims": [first_layer_claim(rows, results.certified), *deeper_claims(rows)],
    }


class Counts(NamedTuple):
    """Units of a layer, int [seeds] each."""

    units: np.ndarray
    dead: np.ndarray  # at step 0
    after: np.ndarray  # ... dead at the end
    back: np.ndarray  # of those dead at step 0: alive at a later evaluation


def layer_counts(result: xr.Dataset, layer: int, rate: float) -> Counts:
    """The counts of a layer at a learning rate, pooled over the initial biases."""
    units = np.flatnonzero(result.unit_layer.values == layer)
    at = result.sel(learning_rate=rate).isel(unit=units)
    pool = [name for name in estimates.axis_names(result) if name != "learning_rate"]
    total = lambda units: units.sum(["unit", *pool]).values  # noqa: E731
    dead = at.dead_at_start & ~at.near_zero_at_start
    return Counts(
        units=total(xr.ones_like(dead, int)),
        dead=total(dead),
        after=total(~at.alive),
        back=total(dead & (at.first_recovery != NEVER)),
    )


def layer_row(runs: Mapping[str, xr.Dataset], layer: int, rate: float) -> dict[str, Any]:
    """Dead before and after as published, and recovered of those that were dead at step 0, as
    published and where the layer was made to begin dead (all biases)."""
    plain = layer_counts(runs[PUBLISHED], layer, rate)
    forced = layer_counts(runs[forced_name(layer)], layer, rate)
    return {
        "layer": layer,
        "learning_rate": rate,
        "dead_before": clustered_interval(plain.dead, plain.units).as_json(),
        "dead_after": clustered_interval(plain.after, plain.units).as_json(),
        "recovered": clustered_interval(plain.back, plain.dead).as_json(),
        "forced_recovered": clustered_interval(forced.back, forced.dead).as_json(),
    }


def hazard_rows(result: xr.Dataset) -> list[dict[str, Any]]:
    """Death and recovery per evaluation in the second half of the published runs, per layer."""
    rows = []
    for layer in result.layer.values:
        table = estimates.hazards(result, layer=int(layer), windows=2).isel(window=-1)
        for i, rate in enumerate(table.learning_rate.values):
            row = {"layer": int(layer), "learning_rate": float(rate)}
            rows.append(row | estimates.hazard_as_json(table.isel(learning_rate=i)))
    return rows


def published_table(
    options: Options, rows: Sequence[Mapping], exact: Sequence[Mapping]
) -> list[dict]:
    """The tutorial's counts as fractions beside ours at its learning rate, and exact slopes."""
    widths, before, after = (512, 256, 256, 128), (0, 0, 3, 7), (0, 0, 3, 3)
    out = []
    for row in rows:
        i = row["layer"] - 1
        if row["learning_rate"] == 0.01 and len(options.hidden) == 4:
            for name, counts in (("before", before), ("after", after)):
                published = f"{counts[i]} of {widths[i]} (one seed)"
                verdict = against_counts(row[f"dead_{name}"], counts[i], widths[i])
                verdict = "conditional: another network" if verdict == "refuted" else verdict
                quantity = f"layer {row['layer']} of 4: dead {name} training"
                out.append(entry(UVA, quantity, published, row[f"dead_{name}"], verdict))
    for row in exact:
        value = {"estimate": row["ours"], "interval": [row["ours"]] * 2, "seeds": 1}
        out.append(entry("exact", row["quantity"], f"{row['stated']:g}", value, row["verdict"]))
    return out


def first_layer_claim(rows: Sequence[Mapping], certified: Mapping[str, int]) -> Claim:
    """The first layer never recovers: certified, and seen."""
    own = [row["forced_recovered"] for row in rows if row["layer"] == 1]
    back, dead = (sum(share[name] for share in own) for name in ("successes", "trials"))
    every = certified["never"] == certified["dead"]
    return Claim(
        claim="Dead units of the first layer never recover",
        source=UVA,
        verdict="confirmed" if every else "conditional",
        finding=f"{certified['never']} of {certified['dead']} first-layer units that are dead "
        f"are certified never to come back (their gradient and momentum are 0); {back} of "
        f"{dead:,} that began dead were seen alive again.",
        estimate=back / max(dead, 1),
        interval=None,
        count=f"{certified['dead']} certificates, {dead:,} unit-runs",
        definition=DEFINITION,
        condition="" if every else "no decay, noise or residue: plain momentum from a fresh start",
        figure="layers",
    )


def deeper_claims(rows: Sequence[Mapping]) -> list[Claim]:
    """Deeper layers recover, each at the learning rate at which most do."""
    best = [
        max(
            (row for row in rows if row["layer"] == layer),
            key=lambda row: row["forced_recovered"]["estimate"] or 0.0,
        )
        for layer in sorted({row["layer"] for row in rows} - {1})
    ]
    return [recovery_claim(row) for row in best]


def recovery_claim(row: Mapping[str, Any]) -> Claim:
    """Whether units of a layer recover by themselves, from one of its rows."""
    share = row["forced_recovered"]
    low, high = share["interval"]
    return Claim(
        claim=f"Dead units of layer {row['layer']} recover by themselves",
        source=UVA,
        verdict="confirmed" if low > 0 and share["successes"] else "undecided",
        finding=f"{share['estimate']:.3f} [{low:.3f}, {high:.3f}] of {share['trials']:,} "
        f"unit-runs at learning rate {row['learning_rate']:g}.",
        estimate=share["estimate"],
        interval=(low, high),
        count=f"{share['seeds']} seeds, {share['trials']:,} unit-runs",
        definition=DEFINITION,
        figure="layers",
    )


# Figure -------------------------------------------------------------------------------------------


def draw_layers(summary: Mapping) -> Drawing:
    """Dead per layer before and after training, and recovery of what began dead."""
    with plt.style.context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.7))
        _draw_dead(left, summary["rows"])
        _draw_recovered(right, summary)
        layers = np.unique([row["layer"] for row in summary["rows"]])
        for axes in (left, right):
            axes.set(xlabel="hidden layer", xticks=layers, xlim=(0.5, layers.max() + 0.5))
            axes.legend(loc="upper left")
        asked, certified = summary["options"], summary["certificates"]
        write_caption(
            figure,
            f"{tasks.label_of('digits')}, hidden {'-'.join(map(str, asked['hidden']))}, uniform "
            f"initial weights and biases, SGD with momentum 0.9, batch 64, {asked['steps']} steps, "
            f"n = {asked['seeds']} seeds; dead: max z <= 0 over 1,024 training examples. 95 % "
            "intervals clustered by seed. Right: of "
            f"{_forced(summary):,} units that began dead, initial biases "
            + ", ".join(f"{b:g}" for b in asked["initial_biases"])
            + f" pooled. Certified never to recover: {certified['never']} of {certified['dead']} "
            f"dead units of layer 1 ({asked['certified_seeds']} seeds).",
        )
    return figure


def _forced(summary: Mapping) -> int:
    return sum(row["forced_recovered"]["trials"] for row in summary["rows"])


def _draw_dead(axes: Axes, rows: Sequence[Mapping]):
    rate = min(row["learning_rate"] for row in rows)
    own = [row for row in rows if row["learning_rate"] == rate]
    layers = np.array([row["layer"] for row in own])
    for when, colour, marker, shift in (
        ("before", "#0072B2", "o", -0.1),
        ("after", "#D55E00", "s", 0.1),
    ):
        dead = [row[f"dead_{when}"] for row in own]
        style = {"marker": marker, "linestyle": "none", "label": f"{when} training"}
        draw_points(axes, layers + shift, dead, color=colour, **style)
    axes.set(
        ylabel="dead fraction",
        ylim=(-0.03 * axes.get_ylim()[1], 1.4 * axes.get_ylim()[1]),
        title=f"as published, rate {rate:g}",
    )


def _draw_recovered(axes: Axes, summary: Mapping):
    rows = [row for row in summary["rows"] if row["forced_recovered"]["trials"]]
    rates = sorted({row["learning_rate"] for row in summary["rows"]})
    for i, (rate, colour, marker) in enumerate(zip(rates, COLOURS[2:], MARKERS, strict=False)):
        own = [row for row in rows if row["learning_rate"] == rate]
        draw_points(
            axes,
            np.array([row["layer"] for row in own]) + 0.1 * i,
            [row["forced_recovered"] for row in own],
            color=colour,
            marker=marker,
            linestyle="none",
            label=f"rate {rate:g}",
        )
    axes.set(
        ylabel="P(recovers at some evaluation)",
        ylim=(-0.03, 1.25),
        yticks=np.arange(0, 1.01, 0.2),
        title="a quarter of one layer begins dead",
    )


EXPERIMENT = Experiment(
    name="layers",
    question="which layers' dead units recover?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    grids=make_grids,
    also_decides=lambda options: (options.certified_seeds,),
    train=train,
    analyse=summarize,
    report=report,
    figures={
        "layers": Figure(
            "Dead units by layer, before and after training, and which of them recover.",
            draw_layers,
        )
    },
)
