"""What is compared: every variant with plain ReLU, from birth and on the same dead cohort, paired
by seed; the differences of a base rate as one family."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from experiments.remedies.sweep import (
    NO_COHORT,
    PLAIN,
    Options,
    variants,
)
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


def comparisons(
    results: Results, options: Options
) -> dict[tuple[str, str, bool, str], tuple[Claim, dict]]:
    """(task, arm, low, measure) -> the claim that the variant lowers the measure (raises it, for
    recoveries) against plain ReLU at the base rate, with the false-discovery rate controlled over
    all of them, and the means of both with what they rest on."""
    keys, made, more = [], [], []

    def add(key, better, worse, bounds, note, least=LEAST):
        keys.append(key)
        made.append(
            claims.difference_claim(
                " ".join(map(str, key)),
                "dying ReLU",
                better,
                worse,
                finding="{estimate:+.3f} [{low:+.3f}, {high:+.3f}]",
                definition=DEFINITIONS[key[-1].split(" ")[0]],
                least=least,
                bounds=bounds,
            )
        )
        more.append(note)

    for task in options.tasks:
        plain = results[task][PLAIN]
        base = birth_values(plain, birth_cell(options, False))
        for arm, low in variants(options):
            own = birth_values(results[task][arm], birth_cell(options, low))
            for measure, values in own.items():
                kept = np.isfinite(values) & np.isfinite(base[measure])
                note = {"seeds": int(kept.sum()), "left_out": int((~kept).sum())}
                if kept.sum() < 2:
                    continue
                first, second = base[measure][kept], values[kept]
                note |= {"plain": float(first.mean()), "own": float(second.mean())}
                share = measure in ("dead", "flat")
                bounds, least = ((-1, 1), LEAST) if share else (None, 0.0)
                add((task, arm, low, measure), first, second, bounds, note, least)
            for bias in () if arm in NO_COHORT else options.biases:
                cells = [
                    {"learning_rate": r, "initial_bias": bias}
                    for r in (options.low_rate if low else options.rate, options.rate)
                ]
                found = cohort_counts(results[task][arm], plain, *cells)
                kept = found["trials"] > 0
                if kept.sum() < 2:
                    continue
                own_back, plain_back = (
                    found[n][kept] / found["trials"][kept] for n in ("first", "second")
                )
                units = int(found["trials"].sum())
                note = {
                    "seeds": int(kept.sum()),
                    "units": units,
                    "overlap": units / int(found["union"].sum()),
                    "plain": float(plain_back.mean()),
                    "own": float(own_back.mean()),
                }
                key = (task, arm, low, f"recovered {bias:g}")
                add(key, own_back, plain_back, (-1, 1), note)
    return dict(zip(keys, zip(claims.controlled(made), more, strict=True), strict=True))
