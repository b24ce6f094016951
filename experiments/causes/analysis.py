"""The analysis: which cause is strongest, whether the two strongest act independently, and the
summary. From stored results alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from experiments.causes import contrasts
from experiments.causes.contrasts import (
    LEAST,
    OUTCOME,
    SENTENCES,
    Cell,
    Results,
    combined_claims,
    contrast_claims,
    mean_arms,
)
from experiments.causes.sweep import HARMFUL, REFERENCE, Options, dose_axes
from relu_dynamics import statistics
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.scalings import dosed_scalings
from relu_dynamics.statistics import claims, estimates

MEASURES = ("born_dead", "dead", "died", "dead_at_end", "diverged")
WINDOWS = 2  # of the hazards: the first and the second half of a run


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
            return contrasts.shares(results, task, Cell(arm, rest | {axis: dose}))

        plain = {task: share(REFERENCE[name], task) for task in options.tasks}
        found = []
        for dose in others:
            at = {task: share(dose, task) for task in options.tasks}
            pooled = statistics.paired_mean(
                *mean_arms((at[t], plain[t]) for t in options.tasks), level, (-1, 1)
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
                "rise": pooled.as_json(),
                "by_task": {t: interval.as_json() for t, interval in by_task.items()},
                "doses_tried": len(others),
            }
        )
    return sorted(rows, key=lambda row: -row["rise"]["interval"][0])


def strongest_two(rows: Sequence[Mapping]) -> tuple[str, str]:
    """The two causes at the head of `strengths` that one grid can combine (not two scalings)."""
    first, *others = (row["cause"] for row in rows)
    second = next(n for n in others if not {first, n} <= set(dosed_scalings()))
    return first, second


def interaction(results: Results, options: Options, causes: Sequence[str]) -> dict:
    """Whether two causes together kill more than independent ones would, at their harmful doses:
    of independent causes the shares alive multiply, so this is (alive with one) x (alive with the
    other) - (alive with both) x (alive with neither), by seed; by task and as their mean."""
    axes = [dose_axes(options)[name][1] for name in causes]
    plain = [REFERENCE[name] for name in causes]
    doses = [HARMFUL[name][-1] for name in causes]

    def alive(task, *values):
        return 1 - contrasts.shares(
            results, task, Cell("map", dict(zip(axes, values, strict=True)))
        )

    per_task = {
        task: (
            alive(task, doses[0], plain[1]) * alive(task, plain[0], doses[1]),
            alive(task, *doses) * alive(task, *plain),
        )
        for task in options.tasks
    }
    out = {t: statistics.paired_mean(*p, bounds=(-1, 1)).as_json() for t, p in per_task.items()}
    pooled = statistics.paired_mean(*mean_arms(per_task.values()), bounds=(-1, 1))
    out["all"] = pooled.as_json()
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
    finite = dead_where_finite(result)
    layers_finite = [dead_where_finite(result, int(layer)) for layer in result.layer.values]
    hazards = estimates.hazards(result, windows=WINDOWS)
    rows = []
    for place in np.ndindex(*(result.sizes[name] for name in names)):
        at = dict(zip(names, place, strict=True))
        rows.append(
            {
                "task": task,
                "arm": arm,
                "cell": {name: float(result[name].values[i]) for name, i in at.items()},
                **{measure: estimates.as_json(cells.isel(at)) for measure, cells in found.items()},
                "dead_where_finite": finite[place],
                "layers": [
                    {measure: estimates.as_json(cells.isel(at)) for measure, cells in layer.items()}
                    | {"dead_where_finite": own[place]}
                    for layer, own in zip(layers, layers_finite, strict=True)
                ],
                "hazards": [_hazard(hazards.isel(at | {"window": w})) for w in range(WINDOWS)],
            }
        )
    return rows


def dead_where_finite(result: xr.Dataset, layer: int | None = None) -> np.ndarray:
    """The dead share at the end of the units of runs that did not diverge, as plain values by cell
    [axes...]: a run that diverged has no dead unit, and no living one."""
    names = (*estimates.axis_names(result), "seed")
    dead, units = estimates.counts(result, "dead", layer)
    finite = (result.diverged_at == NEVER).transpose(*names).values
    shares = np.empty(finite.shape[:-1], object)
    for place in np.ndindex(shares.shape):
        kept = dead[place] * finite[place], units[place] * finite[place]
        shares[place] = statistics.clustered_interval(*kept).as_json()
    return shares


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


def summarize(options: Options, results: Results) -> dict:
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
        "claims": list(combined["all"].values()),
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


def print_summary(summary: Mapping) -> None:
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
