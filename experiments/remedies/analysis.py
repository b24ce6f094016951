"""The analysis: the ranking of the remedies, what they cost, and the summary. From stored results
and times alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.remedies.comparisons import (
    DEFINITIONS,
    Cell,
    Key,
    Results,
    birth_cell,
    birth_values,
    comparisons,
    last_share,
)
from experiments.remedies.shapes import shapes
from experiments.remedies.sweep import PLAIN, Options, bases, label_of, variants
from experiments.remedies.verdicts import birth_claims, cohort_claims, gelu_claims, revival_claims
from relu_dynamics import statistics
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim


class Trained(NamedTuple):
    """What was trained and timed."""

    results: Results
    timed: Mapping[str, Mapping]  # `timing.timings`


def ranking(
    results: Results,
    options: Options,
    compared: Mapping[Key, tuple[Claim, dict]],
    timed: Mapping[str, Mapping],
) -> list[dict]:
    """Every variant with its paired differences to plain ReLU, fewest dead units first (mean over
    the tasks; from birth; those of diverged runs count as dead)."""
    rows = []
    for arm, low in variants(options):
        tasks: dict[str, dict[str, Any]] = {
            task: {
                **birth_row(results[task][arm], birth_cell(options, low)),
                "difference": difference_rows(options, compared, (task, arm, low)),
            }
            for task in options.tasks
        }
        rows.append(
            {
                "arm": arm,
                "low_rate": low,
                "label": label_of(arm, low),
                "time": timed[arm],
                "tasks": tasks,
                "lost": float(np.mean([entry["lost"]["estimate"] for entry in tasks.values()])),
            }
        )
    return sorted(rows, key=lambda row: row["lost"])


def difference_rows(
    options: Options,
    compared: Mapping[Key, tuple[Claim, dict]],
    variant: tuple[str, str, bool],
) -> dict[str, dict | None]:
    """Every measure of a (task, arm, low) minus that of plain ReLU; None where there is none."""
    cohorts = (f"recovered {bias:g}" for bias in options.biases)
    return {
        measure: difference_row(measure, *compared[*variant, measure])
        if (*variant, measure) in compared
        else None
        for measure in ("dead", "flat", "held_loss", *cohorts)
    }


def difference_row(measure: str, claim: Claim, note: Mapping[str, Any]) -> dict[str, Any]:
    """A claim on a measure as the variant's minus plain ReLU's, with its note."""
    sign = 1 if measure.startswith("recovered") else -1
    return {
        "estimate": None if claim.estimate is None else sign * claim.estimate,
        "interval": sorted(sign * end for end in claim.interval or (np.nan, np.nan)),
        "p_value": claim.p_value,
        "verdict": claim.verdict,
        **note,
    }


def birth_row(result: xr.Dataset, cell: Cell) -> dict[str, Any]:
    """One cell from birth: its measures with intervals and counts, its hazards, its price."""
    result = result.sel({name: [value] for name, value in cell.items()}, method="nearest")
    row: dict[str, Any] = {
        measure: estimates.as_json(estimates.cells(result, measure).squeeze())
        for measure in ("dead", "born_dead", "died", "diverged")
    }
    shares = {
        "lost": birth_values(result, cell)["dead"],
        "flat": last_share(result, "layer_flat_fraction", cell, 0.0),
        "wrong_way": last_share(result, "layer_wrong_way_fraction", cell, 0.0),
    }
    for name, values in shares.items():
        row[name] = statistics.seed_clustered_mean(values).as_json()
    for name in ("held_loss", "held_error"):
        values = result[name].values.ravel()
        kept = values[np.isfinite(values)]
        row[name] = {
            "median": float(np.median(kept)) if kept.size else None,
            "seeds_not_finite": int(values.size - kept.size),
        }
    last = estimates.hazards(result, windows=2).squeeze().isel(window=-1)
    row["hazards"] = {
        name: [_finite(float(last[name + end])) for end in ("", "_low", "_high")]
        for name in ("death", "recovery", "stationary")
    } | {"observed": float(last.observed)}
    return row


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def price(rows: Sequence[Mapping], options: Options) -> dict:
    """Whether fewer dead units go with a lower held-out loss: how many variants with verdicts on
    both fall where, by task."""
    out = {}
    for task in options.tasks:
        counts: dict[str, int] = {}
        for row in rows:
            found = [row["tasks"][task]["difference"][m] for m in ("dead", "held_loss")]
            if None in found or found[0]["verdict"] != "confirmed":
                continue
            low, high = found[1]["interval"]
            loss = (
                "undecided"
                if found[1]["verdict"] == "undecided"
                else ("lower loss" if high < 0 else "higher loss" if low > 0 else "undecided")
            )
            counts[loss] = counts.get(loss, 0) + 1
        out[task] = counts
    return out


def summarize(options: Options, trained: Trained) -> dict:
    """The headline numbers, each with interval and counts."""
    results, timed = trained
    rankings, cohorts = [], []
    for base in bases(options):
        compared = comparisons(results, base)
        rows = ranking(results, base, compared, timed)
        cohorts.append(cohort_claims(base, compared))
        plain = {t: birth_row(results[t][PLAIN], birth_cell(base, False)) for t in results}
        rankings.append(
            {
                "rate": base.rate,
                "plain": plain,
                "rows": rows,
                "variants_with_fewer_dead_units_by_loss": price(rows, base),
            }
        )
    made = [
        *birth_claims(results, options),
        *revival_claims(options, cohorts),
        *gelu_claims(results, options),
    ]
    return {
        "definitions": DEFINITIONS,
        "interval": "differences: t over paired seeds; shares: Clopper-Pearson with effective "
        "trials, clustered by seed; 95 %; false-discovery rate controlled at 5 % over all "
        "differences of a base rate, and over the parts of the claims",
        "config": dataclasses.asdict(options.config),
        "tasks": list(options.tasks),
        "seeds": options.seeds,
        "low_rate": options.low_rate,
        "biases": list(options.biases),
        "claims": made,
        "rankings": rankings,
        "shapes": shapes(),
    }


def print_summary(summary: Mapping[str, Any]) -> None:
    """The headline as text."""
    claims.print_claims(summary["claims"])
    for ranked in summary["rankings"]:
        for task in summary["tasks"]:
            _print_ranking(ranked, task)
        print(
            f"\nrate {ranked['rate']:g}, variants with fewer dead units:",
            ranked["variants_with_fewer_dead_units_by_loss"],
        )


def _print_ranking(ranked: Mapping, task: str):
    plain = ranked["plain"][task]
    low, high = plain["dead"]["interval"]
    print(
        f"\n{task} at rate {ranked['rate']:g}: plain ReLU has {plain['dead']['estimate']:.3f} "
        f"[{low:.3f}, {high:.3f}] of its units dead at the end, "
        f"{plain['diverged']['estimate']:.2f} of its runs diverged, median held-out loss "
        f"{plain['held_loss']['median']}. Differences:"
    )
    print(
        f"{'':42}{'dead or diverged':>24}{'log held-out loss':>24}{'diverged':>9}{'time':>6}"
        f"{'wrong way':>10}"
    )
    for row in ranked["rows"]:
        entry = row["tasks"][task]
        print(
            f"{row['label']:42}{_difference_text(entry['difference']['dead']):>24}"
            f"{_difference_text(entry['difference']['held_loss']):>24}"
            f"{entry['diverged']['estimate']:9.2f}{row['time']['ratio']:6.2f}"
            f"{entry['wrong_way']['estimate']:10.3f}"
        )


def _difference_text(difference: Mapping | None) -> str:
    if difference is None:
        return "-"
    low, high = difference["interval"]
    return f"{difference['estimate']:+.3f} [{low:+.3f},{high:+.3f}]"
