"""What is compared: every variant with plain ReLU, from birth and on the same dead cohort, paired
by seed; the differences of a base rate as one family."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.remedies.sweep import (
    NO_COHORT,
    PLAIN,
    Options,
    variants,
)
from relu_dynamics import statistics
from relu_dynamics.engine.outcomes import NEVER, Outcome
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim

LEAST = 0.01  # of all units: a smaller difference does not matter
DEFINITIONS = {
    "dead": "share of all hidden units with max z <= 0 over the training examples at the horizon; "
    "in a diverged run all count as dead",
    "flat": "share of all hidden units whose activation has derivative exactly 0 in float32 for "
    "all training examples at the horizon (for ReLU: the dead ones); in a diverged run all are",
    "held_loss": "natural logarithm of the held-out loss after the last step; seeds in which "
    "either arm is not finite are left out of both",
    "recovered": "of the units dead on the training examples at step 0 in both arms: alive again "
    "for at least the sustain steps; not so in a diverged run",
}

Results = Mapping[str, Mapping[str, xr.Dataset]]  # task: arm: result
Cell = Mapping[str, float]


def birth_cell(options: Options, low: bool) -> Cell:
    """The cell without an imposed bias, at the base rate or the low one."""
    return {"learning_rate": options.low_rate if low else options.rate, "initial_bias": 0.0}


def last_share(result: xr.Dataset, name: str, cell: Cell, diverged: float) -> np.ndarray:
    """A layer summary at the last evaluation, as its mean over all units, [seed]; `diverged` in a
    run that diverged."""
    widths = np.asarray(estimates.config_of(result)["hidden"], float)
    at = result.sel(cell, method="nearest")
    last = at[name].isel(probe_step=-1).transpose("seed", "layer").values
    share = last @ widths / widths.sum()
    return np.where(at.diverged_at.values == NEVER, share, diverged)


def birth_values(result: xr.Dataset, cell: Cell) -> dict[str, np.ndarray]:
    """What is compared from birth, one number per seed. A remedy that makes a run diverge has saved
    none of its units: they count as dead and flat."""
    at = result.sel(cell, method="nearest")
    diverged = estimates.per_seed(result, "diverged", cell)
    loss = at.held_loss.values.astype(float)
    return {
        "dead": estimates.per_seed(result, "dead", cell) + diverged,
        "flat": last_share(result, "layer_flat_fraction", cell, 1.0),
        "held_loss": np.log(np.maximum(loss, 1e-30)),
    }


def cohort_counts(
    first: xr.Dataset, second: xr.Dataset, first_cell: Cell, second_cell: Cell
) -> dict[str, np.ndarray]:
    """Sustained recoveries of the units dead at step 0 in both arms, int64 [seed]: `first`,
    `second` and `trials`; and `union`, the units dead at step 0 in either."""
    dead, back = [], []
    for result, cell in ((first, first_cell), (second, second_cell)):
        at = result.sel(cell, method="nearest")
        at_risk = at.dead_at_start & ~at.near_zero_at_start & at.biased
        dead.append(at_risk.transpose("seed", "unit").values)
        recovered = at.outcome == Outcome.RECOVERED_SUSTAINED
        back.append(recovered.transpose("seed", "unit").values)
    both = dead[0] & dead[1]
    return {
        "first": (back[0] & both).sum(-1),
        "second": (back[1] & both).sum(-1),
        "trials": both.sum(-1),
        "union": (dead[0] | dead[1]).sum(-1),
    }


class Difference(NamedTuple):
    """One measure of a variant and of plain ReLU, one number per seed in each, [seeds]."""

    better: np.ndarray  # what is claimed to be larger
    worse: np.ndarray
    note: dict[str, Any]  # the means of both and what they rest on


Key = tuple[str, str, bool, str]  # task, arm, low, measure


def comparisons(results: Results, options: Options) -> dict[Key, tuple[Claim, dict]]:
    """The claims that a variant lowers a measure (raises it, for recoveries) against plain ReLU at
    the base rate, with the false-discovery rate controlled over all of them, and the means of both
    with what they rest on."""
    found: dict[Key, Difference] = {}
    for task in options.tasks:
        for arm, low in variants(options):
            own = birth_differences(results[task], options, arm, low)
            own |= cohort_differences(results[task], options, arm, low)
            found |= {(task, arm, low, measure): pair for measure, pair in own.items()}
    made = {key: difference_claim(key, pair) for key, pair in found.items()}
    controlled = claims.controlled_by_key(made)
    return {key: (claim, found[key].note) for key, claim in controlled.items()}


def difference_claim(key: Key, pair: Difference) -> Claim:
    """The claim on one measure of one variant; a loss has no bounds and no least difference."""
    measure = key[-1]
    loss = measure == "held_loss"
    return claims.difference_claim(
        " ".join(map(str, key)),
        "dying ReLU",
        pair.better,
        pair.worse,
        finding="{estimate:+.3f} [{low:+.3f}, {high:+.3f}]",
        definition=DEFINITIONS[measure.split(" ")[0]],
        least=0.0 if loss else LEAST,
        bounds=None if loss else (-1, 1),
    )


def birth_differences(
    results: Mapping[str, xr.Dataset], options: Options, arm: str, low: bool
) -> dict[str, Difference]:
    """What is compared from birth on one task, by measure; not where fewer than two seeds are
    finite in both."""
    plain = birth_values(results[PLAIN], birth_cell(options, False))
    own = birth_values(results[arm], birth_cell(options, low))
    found = {}
    for measure, values in own.items():
        first, second = statistics.finite_pairs(plain[measure], values)
        if len(first) < 2:
            continue
        note = {"seeds": len(first), "left_out": len(values) - len(first)}
        note |= {"plain": float(first.mean()), "own": float(second.mean())}
        found[measure] = Difference(first, second, note)
    return found


def cohort_differences(
    results: Mapping[str, xr.Dataset], options: Options, arm: str, low: bool
) -> dict[str, Difference]:
    """Recoveries of the same dead cohort on one task, by measure (one per bias); not where fewer
    than two seeds have units dead in both."""
    found = {}
    for bias in () if arm in NO_COHORT else options.biases:
        own_cell, plain_cell = (
            {"learning_rate": rate, "initial_bias": bias}
            for rate in (options.low_rate if low else options.rate, options.rate)
        )
        counts = cohort_counts(results[arm], results[PLAIN], own_cell, plain_cell)
        kept = counts["trials"] > 0
        if kept.sum() < 2:
            continue
        own, plain = (counts[n][kept] / counts["trials"][kept] for n in ("first", "second"))
        units = int(counts["trials"].sum())
        note = {
            "seeds": int(kept.sum()),
            "units": units,
            "overlap": units / int(counts["union"].sum()),
            "plain": float(plain.mean()),
            "own": float(own.mean()),
        }
        found[f"recovered {bias:g}"] = Difference(own, plain, note)
    return found
