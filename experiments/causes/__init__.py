"""What kills ReLU units? Weight initialization, a negative bias, the learning rate with momentum,
and the scaling of the inputs, each as a dose-response curve.

Claims under test: those of the article on the dying-ReLU problem, that a poor initialization, a
large negative bias, a high learning rate and badly scaled inputs kill units; and that of Arnekvist
et al. (arXiv 2005.06195), that momentum does. Every cause moves one knob away from the same
reference network (He initialization, no bias, learning rate 0.1, no momentum, standardized
inputs), on two real data sets and a synthetic one, at three learning rates. No unit is dead by
imposition but in the bias arm. Dead: no training example makes z > 0. A run that diverged has no
dead unit; how many diverged stands beside.

Momentum 0 is plain SGD, and scale 1 leaves the weights alone, so four dose axes share a
compiled program. "Too small" and "too large" of the initializers are scales 0.1 and 10 of He's, and
LeCun's is scale sqrt(1/2) (both exactly, tested).

Writes one result per arm, summary.json, and causes, causes_layers, causes_effects and causes_map as
.png/.pdf to --out; `--draw` draws again from summary.json. Ten minutes of CPU time (18 minutes by
the clock on two cores shared with four other jobs).
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.causes import figure
from relu_dynamics import figures, statistics, store
from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import DOSED_SCALINGS, Config
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import studies

BASE = Config(
    hidden=(16, 16, 16),
    examples=256,
    batch_size=32,
    steps=400,
    probe_every=20,
    optimizer="momentum",
    momentum=0.0,
    weight_scale=1.0,
    initial_bias=0.0,
    biased_layer=2,
    biased_units=16,
)
LECUN = 0.5**0.5
REFERENCE = {  # from which every cause moves one knob
    "weight_scale": 1.0,
    "initial_bias": 0.0,
    "learning_rate": 0.1,
    "momentum": 0.0,
    "shifted": 0.0,
    "one_bad_feature": 1.0,
}
# Chosen before anything was run: those of the named initializers and scalings of the package, and
# what tutorials call large.
HARMFUL = {
    "weight_scale": (0.1, LECUN, 10.0),
    "initial_bias": (-5.0,),
    "learning_rate": (3.0,),
    "momentum": (0.9,),
    "shifted": (4.0,),
    "one_bad_feature": (100.0,),
}
LEAST = 0.01  # of all units: a difference smaller than this does not matter
OUTCOME = (
    "share of all hidden units dead on the training examples at the horizon (max z <= 0), a "
    "diverged run having none; paired by seed"
)
MEASURES = ("born_dead", "dead", "died", "dead_at_end", "diverged")
WINDOWS = 2  # of the hazards: the first and the second half of a run


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    config: Config = BASE
    """Base of every arm's config."""
    tasks: tuple[str, ...] = ("digits", "breast_cancer", "teacher_student")
    """Tasks, each with all arms."""
    initializers: tuple[str, ...] = ("xavier_normal", "orthogonal", "randomized_asymmetric")
    """Initializers that are no scale of He's."""
    scalings: tuple[str, ...] = ("minmax", "raw", "shifted", "one_bad_feature")
    """Scalings of the inputs beside standardized ones."""
    weight_scales: tuple[float, ...] = (0.03, 0.1, 0.3, LECUN, 1.0, 3.0, 10.0)
    """Factors on He's initial weights."""
    biases: tuple[float, ...] = (0.0, -0.5, -1.0, -2.0, -3.0, -5.0, -8.0)
    """Initial biases of all units of the biased layer."""
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """Learning rates."""
    momenta: tuple[float, ...] = (0.0, 0.5, 0.9)
    """Heavy-ball momenta."""
    shifts: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """Means of all features, in their deviations."""
    factors: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
    """Factors on one feature."""
    base_rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Learning rates at which every other cause is tried."""
    seeds: int = 100
    """Seeds per cell."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/causes-<hash of the question>."""
    draw: bool = False
    """Only draw again from the stored summary."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(BASE, steps=200),
    tasks=("breast_cancer",),
    initializers=(),
    scalings=("one_bad_feature",),
    seeds=12,
)


class Cell(NamedTuple):
    """One cell of one arm."""

    arm: str
    values: Mapping[str, float]


class Contrast(NamedTuple):
    """A cause under one condition: the cell that has it against the one that has it not."""

    cause: str
    condition: str
    harmed: Cell
    plain: Cell


# The arms -----------------------------------------------------------------------------------------


def dose_axes(options: Options) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """Every cause that has a dose: (arm, axis, doses). A scaling's axis is `scaling_dose`."""
    axes = {
        "weight_scale": ("weights", "weight_scale", options.weight_scales),
        "initial_bias": ("bias", "initial_bias", options.biases),
        "learning_rate": ("rate", "learning_rate", options.learning_rates),
        "momentum": ("rate", "momentum", options.momenta),
        "shifted": ("shifted", "scaling_dose", options.shifts),
        "one_bad_feature": ("one_bad_feature", "scaling_dose", options.factors),
    }
    return {
        name: axis
        for name, axis in axes.items()
        if name not in DOSED_SCALINGS or name in options.scalings
    }


def check_options(options: Options) -> None:
    """Raises a one-line ValueError unless the reference, the harmful doses and the base rates are
    values of the axes, and the names are known."""
    for name in options.scalings:
        check_choice("scalings", name, ("minmax", "raw", *DOSED_SCALINGS))
    for name, (_, _, doses) in dose_axes(options).items():
        missing = {REFERENCE[name], *HARMFUL[name]} - set(doses)
        if missing:
            raise ValueError(
                f"{name} doses {short_repr(doses)} need "
                f"{', '.join(f'{d:g}' for d in sorted(missing))}."
            )
    rates = set(options.base_rates)
    if not rates <= set(options.learning_rates) or REFERENCE["learning_rate"] not in rates:
        raise ValueError(
            f"base_rates={short_repr(options.base_rates)} must be some of learning_rates="
            f"{short_repr(options.learning_rates)}, with {REFERENCE['learning_rate']:g} among them."
        )
    if not options.tasks or len(set(options.tasks)) < len(options.tasks):
        raise ValueError(f"tasks={short_repr(options.tasks)} must name at least one, each once.")


def task_grids(options: Options, task: str) -> dict[str, Grid]:
    """The grids of one task by arm. Those without a named initializer or scaling share a program,
    and so have the same number of lanes."""
    config = dataclasses.replace(options.config, task=task)
    base = options.base_rates
    shared = {
        "weights": {"weight_scale": options.weight_scales, "learning_rate": base},
        "bias": {"initial_bias": options.biases, "learning_rate": base},
        "rate": {"learning_rate": options.learning_rates, "momentum": options.momenta},
    }
    lanes = shared_lanes(options)
    make = lambda config, axes, lanes: make_grid(  # noqa: E731
        config, axes, options.seeds, root_seed=options.root_seed, lanes=lanes
    )
    grids = {arm: make(config, axes, lanes) for arm, axes in shared.items()}
    rates = {"learning_rate": options.learning_rates}
    for name in options.initializers:
        named = dataclasses.replace(config, initializer=name)
        grids[name] = make(named, rates, len(options.learning_rates))
    for name in options.scalings:
        scaled = dataclasses.replace(config, input_scaling=name)
        if name not in DOSED_SCALINGS:
            grids[name] = make(scaled, rates, len(options.learning_rates))
            continue
        doses = dose_axes(options)[name][2]
        axes = {"scaling_dose": doses, "learning_rate": base}
        grids[name] = make(scaled, axes, lanes)
    return grids


def shared_lanes(options: Options) -> int:
    """Lanes of a block of the program that the dose axes share: those of the largest."""
    doses = max(len(options.weight_scales), len(options.biases))
    return max(doses * len(options.base_rates), len(options.learning_rates) * len(options.momenta))


def map_grid(options: Options, task: str, causes: Sequence[str]) -> Grid:
    """The grid of a pairwise map of two causes; at most one of them is a scaling."""
    axes = dose_axes(options)
    scaling = [name for name in causes if name in DOSED_SCALINGS]
    config = dataclasses.replace(
        options.config, task=task, learning_rate=REFERENCE["learning_rate"]
    )
    if scaling:
        config = dataclasses.replace(config, input_scaling=scaling[0])
    return make_grid(
        config,
        {axes[name][1]: axes[name][2] for name in causes},
        options.seeds,
        root_seed=options.root_seed,
        lanes=shared_lanes(options),
    )


# What is compared ---------------------------------------------------------------------------------


def contrasts(options: Options) -> list[Contrast]:
    """Every cause under every condition, against the same cell without it."""
    found = []
    dosed = [n for n in dose_axes(options) if n not in ("learning_rate", "momentum")]
    for rate in options.base_rates:
        at_rate = {"learning_rate": rate}
        where = f"rate {rate:g}"
        plain = Cell("rate", at_rate | {"momentum": 0.0})
        for name in dosed:
            arm, axis, _ = dose_axes(options)[name]
            for dose in HARMFUL[name]:
                found.append(
                    Contrast(
                        _dosed_name(name, dose),
                        where,
                        Cell(arm, at_rate | {axis: dose}),
                        Cell(arm, at_rate | {axis: REFERENCE[name]}),
                    )
                )
        for name in (*options.initializers, *options.scalings):
            if name not in DOSED_SCALINGS:
                found.append(Contrast(name, where, Cell(name, at_rate), plain))
        (momentum,) = HARMFUL["momentum"]
        with_momentum = Cell("rate", at_rate | {"momentum": momentum})
        found.append(Contrast("momentum", where, with_momentum, plain))
    (high,) = HARMFUL["learning_rate"]
    for momentum in options.momenta:
        harmed, plain = (
            Cell("rate", {"learning_rate": rate, "momentum": momentum})
            for rate in (high, REFERENCE["learning_rate"])
        )
        found.append(Contrast("learning_rate", f"momentum {momentum:g}", harmed, plain))
    # A heavy ball moves as far as plain SGD at rate / (1 - momentum): the rate it really has.
    (momentum,) = HARMFUL["momentum"]
    for rate in options.learning_rates:
        same = [r for r in options.learning_rates if np.isclose(r, rate / (1 - momentum))]
        if same:
            harmed = Cell("rate", {"learning_rate": rate, "momentum": momentum})
            plain = Cell("rate", {"learning_rate": same[0], "momentum": 0.0})
            found.append(Contrast("momentum_matched", f"rate {rate:g}", harmed, plain))
    order = [name for name in SENTENCES if any(c.cause == name for c in found)]
    return sorted(found, key=lambda contrast: order.index(contrast.cause))


def _dosed_name(name: str, dose: float) -> str:
    """The name of a cause at a harmful dose."""
    known = {0.1: "too_small", LECUN: "lecun_normal", 10.0: "too_large"}
    return known[dose] if name == "weight_scale" else name


ARNEKVIST = "Arnekvist et al., arXiv 2005.06195"
SENTENCES = {  # cause: (label on figures, the sentence that is tested, its source)
    "too_small": (
        "weights 10 x too small",
        "Initial weights that are too small (a tenth of He's) kill units.",
        "dying ReLU",
    ),
    "too_large": (
        "weights 10 x too large",
        "Initial weights that are too large (ten times He's) kill units.",
        "dying ReLU",
    ),
    "lecun_normal": (
        "LeCun, not He",
        "LeCun's initialization leaves more dead units than He's.",
        "dying ReLU",
    ),
    "xavier_normal": (
        "Xavier, not He",
        "Xavier (Glorot) initialization leaves more dead units than He's.",
        "dying ReLU",
    ),
    "orthogonal": (
        "orthogonal, not He",
        "Orthogonal initialization leaves more dead units than He's.",
        "dying ReLU",
    ),
    "randomized_asymmetric": (
        "randomized asymmetric, not He",
        "Randomized asymmetric initialization leaves more dead units than He's.",
        "Lu et al., arXiv 1903.06733 (who say the opposite)",
    ),
    "initial_bias": (
        "bias -5 on layer 2",
        "A large negative bias (-5 on a whole layer) makes dead units.",
        "dying ReLU",
    ),
    "learning_rate": (
        "rate 3, not 0.1",
        "A high learning rate (3 against 0.1) kills units.",
        "dying ReLU",
    ),
    "momentum": (
        "momentum 0.9, same rate",
        "Momentum (0.9) kills units, at the same learning rate.",
        ARNEKVIST,
    ),
    "momentum_matched": (
        "momentum 0.9, same rate / (1 - m)",
        "Momentum (0.9) kills units more than plain SGD with the same effective rate, "
        "rate / (1 - momentum).",
        ARNEKVIST,
    ),
    "minmax": (
        "min-max inputs",
        "Inputs in [0, 1] (min-max) instead of standardized ones kill units.",
        "dying ReLU",
    ),
    "raw": (
        "raw inputs",
        "Raw instead of standardized inputs kill units.",
        "dying ReLU",
    ),
    "shifted": (
        "means shifted by 4 deviations",
        "Inputs shifted by 4 standard deviations kill units.",
        "dying ReLU",
    ),
    "one_bad_feature": (
        "one feature 100 x too large",
        "One badly scaled feature (100 times too large) kills units.",
        "dying ReLU",
    ),
}

Results = Mapping[str, Mapping[str, xr.Dataset]]  # task: arm: result


def shares(results: Results, task: str, cell: Cell, measure: str = "dead") -> np.ndarray:
    """A measure's share in every seed of one cell of one task, [seed]."""
    return estimates.per_seed(results[task][cell.arm], measure, cell.values)


def contrast_claims(
    results: Results, options: Options
) -> dict[tuple[str, str, str], tuple[Claim, dict]]:
    """(cause, condition, task or "all") -> the claim on it, and what else both cells show. The
    false-discovery rate is controlled over all; "all" is the mean over the tasks of a seed."""
    keys, made, more = [], [], []
    for contrast in contrasts(options):
        _, sentence, source = SENTENCES[contrast.cause]
        both = {
            measure: {
                task: tuple(
                    shares(results, task, cell, measure)
                    for cell in (contrast.harmed, contrast.plain)
                )
                for task in options.tasks
            }
            for measure in ("dead", "born_dead", "diverged")
        }
        for task in (*options.tasks, "all"):
            arms = {
                measure: _mean_of(values.values()) if task == "all" else values[task]
                for measure, values in both.items()
            }
            made.append(
                _difference(sentence, source, *arms["dead"], len(options.tasks), options, task)
            )
            keys.append((contrast.cause, contrast.condition, task))
            more.append(
                {
                    measure: [float(values.mean()) for values in arms[measure]]
                    for measure in ("dead", "born_dead", "diverged")
                }
            )
    return dict(zip(keys, zip(claims.controlled(made), more, strict=True), strict=True))


def _mean_of(pairs) -> tuple[np.ndarray, np.ndarray]:
    first, second = zip(*pairs, strict=True)
    return np.mean(first, axis=0), np.mean(second, axis=0)


def _difference(sentence, source, first, second, tasks, options, task) -> Claim:
    units = options.config.units * len(first) * (tasks if task == "all" else 1)
    return claims.difference_claim(
        sentence,
        source,
        first,
        second,
        finding="{first:.3f} of all units dead at the end, against {second:.3f} without: "
        "{estimate:+.3f} [{low:+.3f}, {high:+.3f}]",
        definition=OUTCOME,
        figure="causes_effects",
        least=LEAST,
        bounds=(-1, 1),
        units=f"{units:,} units per arm and condition",
    )


def combined_claims(
    results: Results, options: Options, found: Mapping[tuple[str, str, str], tuple[Claim, dict]]
) -> dict[str, dict[str, Claim]]:
    """task or "all" -> cause -> one claim over its conditions, of which "all" also has the tasks'.

    The estimate is the mean over the conditions (and tasks) of a seed.
    """
    out: dict[str, dict[str, Claim]] = {task: {} for task in ("all", *options.tasks)}
    conditions: dict[str, list[Contrast]] = {}
    for contrast in contrasts(options):
        conditions.setdefault(contrast.cause, []).append(contrast)
    for cause, of_cause in conditions.items():
        _, sentence, source = SENTENCES[cause]
        for task in out:
            tasks = options.tasks if task == "all" else (task,)
            cells = [(t, c) for c in of_cause for t in tasks]
            arms = _mean_of(
                (shares(results, t, c.harmed), shares(results, t, c.plain)) for t, c in cells
            )
            more = [found[cause, c.condition, t][1] for t, c in cells]
            born, diverged = (
                np.mean([m[name] for m in more], axis=0) for name in ("born_dead", "diverged")
            )
            overall = _difference(sentence, source, *arms, len(tasks), options, task)
            overall = overall._replace(
                finding=f"{overall.finding}. Born dead {born[0]:.3f} against {born[1]:.3f}; runs "
                f"diverged {diverged[0]:.3f} against {diverged[1]:.3f}."
            )
            parts = {f"{c.condition} ({t})": found[cause, c.condition, t][0] for t, c in cells}
            claim = claims.combined(overall, parts)
            if claim.condition:
                claim = claim._replace(condition=_where(cause, of_cause, tasks, found))
            out[task][cause] = claim
    return out


def _where(cause, of_cause, tasks, found) -> str:
    """The verdicts of a cause by task and condition, in words, with how many runs diverged."""
    texts = []
    for task in tasks:
        verdicts: dict[str, list[str]] = {}
        for contrast in of_cause:
            claim, more = found[cause, contrast.condition, task]
            lost, lost_without = more["diverged"]
            note = f" ({lost:.0%} of the runs diverge, {lost_without:.0%} without)"
            note = note if max(lost, lost_without) >= 0.1 else ""
            verdicts.setdefault(claim.verdict, []).append(contrast.condition + note)
        texts.append(
            f"{task}: " + ", ".join(f"{v} at {', '.join(at)}" for v, at in verdicts.items())
        )
    return "; ".join(texts)


# Which cause is strongest -------------------------------------------------------------------------


def strengths(results: Results, options: Options) -> list[dict]:
    """Every cause with a dose, strongest first: the dose at which the dead share at the end rises
    most over the reference, everything else at the reference.

    The rise is the mean over the tasks of a seed. A maximum over doses is chosen by looking, so
    intervals hold for all doses of a cause at once (Bonferroni), and the order is by their lower
    ends.
    """
    rows = []
    for name, (arm, axis, doses) in dose_axes(options).items():
        others = [d for d in doses if d != REFERENCE[name]]
        rest = {"learning_rate": REFERENCE["learning_rate"]}
        rest |= {"momentum": REFERENCE["momentum"]} if arm == "rate" else {}
        level = 1 - 0.05 / len(others)

        def share(dose, task, arm=arm, axis=axis, rest=rest):
            return shares(results, task, Cell(arm, rest | {axis: dose}))

        plain = {task: share(REFERENCE[name], task) for task in options.tasks}
        found = []
        for dose in others:
            at = {task: share(dose, task) for task in options.tasks}
            pooled = statistics.paired_mean(
                *_mean_of((at[t], plain[t]) for t in options.tasks), level, (-1, 1)
            )
            by_task = {
                t: statistics.paired_mean(at[t], plain[t], level, (-1, 1)) for t in options.tasks
            }
            found.append((float(pooled.estimate), dose, pooled, by_task))
        _, dose, pooled, by_task = max(found, key=lambda entry: entry[0])
        rows.append(
            {
                "cause": name,
                "dose": dose,
                "reference": REFERENCE[name],
                "rise": _interval(pooled),
                "by_task": {t: _interval(interval) for t, interval in by_task.items()},
                "doses_tried": len(others),
            }
        )
    return sorted(rows, key=lambda row: -row["rise"]["interval"][0])


def _interval(found: statistics.Interval) -> dict:
    return {
        "estimate": float(found.estimate),
        "interval": [float(found.low), float(found.high)],
        "seeds": int(found.clusters),
    }


def strongest_two(rows: Sequence[Mapping]) -> tuple[str, str]:
    """The two causes at the head of `strengths` that one grid can combine (not two scalings)."""
    first, *others = (row["cause"] for row in rows)
    second = next(n for n in others if not {first, n} <= set(DOSED_SCALINGS))
    return first, second


def interaction(results: Results, options: Options, causes: Sequence[str]) -> dict:
    """Whether two causes together kill more than independent ones would, at their harmful doses:
    of independent causes the shares alive multiply, so this is (alive with one) x (alive with the
    other) - (alive with both) x (alive with neither), by seed; by task and as their mean."""
    axes = [dose_axes(options)[name][1] for name in causes]
    plain = [REFERENCE[name] for name in causes]
    doses = [HARMFUL[name][-1] for name in causes]

    def alive(task, *values):
        return 1 - shares(results, task, Cell("map", dict(zip(axes, values, strict=True))))

    per_task = {
        task: (
            alive(task, doses[0], plain[1]) * alive(task, plain[0], doses[1]),
            alive(task, *doses) * alive(task, *plain),
        )
        for task in options.tasks
    }
    out = {t: _interval(statistics.paired_mean(*p, bounds=(-1, 1))) for t, p in per_task.items()}
    out["all"] = _interval(statistics.paired_mean(*_mean_of(per_task.values()), bounds=(-1, 1)))
    return {"causes": list(causes), "doses": doses, "by_task": out}


# The summary --------------------------------------------------------------------------------------


def cell_rows(result: xr.Dataset, task: str, arm: str) -> list[dict]:
    """Every cell of an arm: its measures with intervals and counts, by layer, and its hazards."""
    names = estimates.axis_names(result)
    found = {measure: estimates.cells(result, measure) for measure in MEASURES}
    layers = [
        {m: estimates.cells(result, m, int(layer)) for m in ("born_dead", "dead")}
        for layer in result.layer.values
    ]
    hazards = estimates.hazards(result, windows=WINDOWS)
    rows = []
    for place in np.ndindex(*(result.sizes[name] for name in names)):
        at = dict(zip(names, place, strict=True))
        rows.append(
            {
                "task": task,
                "arm": arm,
                "cell": {name: float(result[name].values[i]) for name, i in at.items()},
                **{measure: _estimate(cells.isel(at)) for measure, cells in found.items()},
                "layers": [
                    {measure: _estimate(cells.isel(at)) for measure, cells in layer.items()}
                    for layer in layers
                ],
                "hazards": [_hazard(hazards.isel(at | {"window": w})) for w in range(WINDOWS)],
            }
        )
    return rows


def _estimate(at: xr.Dataset) -> dict:
    number = float(at.estimate)
    return {
        "estimate": number if np.isfinite(number) else None,
        "interval": [float(at.low), float(at.high)],
        "successes": int(at.successes),
        "trials": int(at.trials),
        "seeds": int(at.runs),
    }


def _hazard(at: xr.Dataset) -> dict:
    row: dict[str, Any] = {"until_step": int(at.window)}
    for name in ("death", "recovery", "stationary", "observed"):
        ends = [f"{name}{suffix}" for suffix in ("", "_low", "_high")]
        values = [float(at[end]) if end in at else None for end in ends]
        row[name] = [v if v is not None and np.isfinite(v) else None for v in values]
    row["events"] = [int(at.death_events), int(at.recovery_events)]
    row["unit_looks"] = [int(at.death_exposure), int(at.recovery_exposure)]
    return row


def balance(rows: Sequence[Mapping]) -> dict:
    """In how many cells the dead share at the end lies in the interval at which death and recovery
    of the second half of the run would balance."""
    last = [row["hazards"][-1] for row in rows]
    known = [h for h in last if h["stationary"][1] is not None and sum(h["events"])]
    inside = [h["stationary"][1] <= h["observed"][0] <= h["stationary"][2] for h in known]
    return {
        "cells": len(rows),
        "cells_with_events_in_the_second_half": len(known),
        "observed_within_stationary_interval": int(np.sum(inside)),
        "cells_with_more_recoveries_than_deaths": sum(
            h["events"][1] > h["events"][0] for h in last
        ),
    }


def summarize(results: Results, options: Options) -> dict:
    """The headline numbers, each with interval and counts."""
    found = contrast_claims(results, options)
    combined = combined_claims(results, options, found)
    rows = [
        row
        for task, arms in results.items()
        for arm, result in arms.items()
        for row in cell_rows(result, task, arm)
    ]
    ranked = strengths(results, options)
    pair = strongest_two(ranked)
    first = next(iter(next(iter(results.values())).values()))
    return {
        "question": "what kills ReLU units, and how strongly?",
        "definitions": {name: estimates.MEASURES[name].definition for name in MEASURES}
        | {"outcome of the claims": OUTCOME, "least": f"a difference below {LEAST} is none"},
        "interval": "claims: t over paired seeds; cells: "
        + estimates.cells(first, "dead").attrs["method"]
        + "; 95 %; false-discovery rate of all contrasts controlled at 5 %",
        "config": dataclasses.asdict(options.config),
        "tasks": list(options.tasks),
        "seeds": options.seeds,
        "reference": REFERENCE,
        "runs": sum(
            int(np.prod([r.sizes[n] for n in (*estimates.axis_names(r), "seed")]))
            for arms in results.values()
            for r in arms.values()
        ),
        "claims": [claim.as_json() for claim in combined["all"].values()],
        "claims_by_task": {
            task: [claim.as_json() for claim in combined[task].values()] for task in options.tasks
        },
        "contrasts": [
            {
                "cause": cause,
                "label": SENTENCES[cause][0],
                "condition": condition,
                "task": task,
                **{k: claim.as_json()[k] for k in ("estimate", "interval", "p_value", "verdict")},
                "with_and_without": more,
            }
            for (cause, condition, task), (claim, more) in found.items()
        ],
        "strengths": ranked,
        "map": interaction(results, options, pair),
        "balance": balance(rows),
        "doses": {
            name: {"arm": arm, "axis": axis, "doses": list(doses)}
            for name, (arm, axis, doses) in dose_axes(options).items()
        },
        "cells": rows,
    }


def print_summary(summary: dict) -> None:
    """The headline as text."""
    claims.print_claims(summary["claims"])
    print("strongest dose of each cause, everything else at the reference (share of units dead):")
    for row in summary["strengths"]:
        by_task = ", ".join(f"{t} {r['estimate']:+.3f}" for t, r in row["by_task"].items())
        low, high = row["rise"]["interval"]
        print(
            f"  {row['cause']:16} {row['dose']:8.3g}: {row['rise']['estimate']:+.3f} "
            f"[{low:+.3f}, {high:+.3f}]  ({by_task})"
        )
    pair = summary["map"]
    both = pair["by_task"]["all"]
    low, high = both["interval"]
    print(
        f"{' and '.join(pair['causes'])} together, dead beyond independent causes: "
        f"{both['estimate']:+.3f} [{low:+.3f}, {high:+.3f}]"
    )
    print("balance of death and recovery:", summary["balance"])


# Compute -> store -> draw -------------------------------------------------------------------------


def run(options: Options) -> None:
    """Compute -> store -> draw."""
    check_options(options)
    study = {
        f"{task} {arm}": grid
        for task in options.tasks
        for arm, grid in task_grids(options, task).items()
    }
    digest = studies.question_hash(study, list(REFERENCE.items()))
    out = options.out or pathlib.Path("runs") / f"causes-{digest[:12]}"
    if not options.draw:
        started = time.monotonic()
        found = studies.sweep_study(study, out)
        results: dict[str, dict[str, xr.Dataset]] = {task: {} for task in options.tasks}
        for task in options.tasks:
            for arm in task_grids(options, task):
                results[task][arm] = found[f"{task} {arm}"]
        pair = strongest_two(strengths(results, options))
        # In a folder that says which two: others may be strongest with other options.
        maps = {
            f"{task} map {' '.join(pair)}": map_grid(options, task, pair) for task in options.tasks
        }
        for task, result in zip(
            options.tasks, studies.sweep_study(maps, out).values(), strict=True
        ):
            results[task]["map"] = result
        summary = summarize(results, options)
        attributes = next(iter(found.values())).attrs
        summary["provenance"] = dict(attributes) | {"grid_hash": digest}
        summary["wall_seconds"] = round(time.monotonic() - started, 2)
        store.write_summary(out, summary)
        print_summary(summary)
    summary = studies.read_summary(out, ("doses", "contrasts", "map", "provenance"))
    for name, draw in figure.FIGURES.items():
        paths = figures.save(draw(summary), out / name, summary["provenance"])
        print("wrote", *paths)
