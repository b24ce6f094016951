"""Whether the cost of dead units bends at a share of them, and from which share it matters."""

from typing import Any

import numpy as np

from experiments.consequences.sweep import SHARE


def slopes_around(fractions: np.ndarray, curves: np.ndarray, at: float = SHARE) -> np.ndarray:
    """Least-squares slopes of every seed's curve [seeds, fractions] up to and from `at` on,
    [2, seeds], per unit of the dead fraction."""
    out = []
    for part in (fractions <= at, fractions >= at):
        x = fractions[part] - fractions[part].mean()
        out.append(curves[:, part] @ x / (x @ x))
    return np.array(out)


def _designs(fractions: np.ndarray) -> dict[str, list[tuple[float, np.ndarray]]]:
    """Families of curves, each a list of (parameter, columns) that are linear but for it."""
    one = np.ones_like(fractions)
    line = np.stack([one, fractions], 1)

    def bent(knot):
        return np.column_stack([line, np.maximum(fractions - knot, 0)])

    inner = fractions[1:-1]
    return {
        "line": [(np.nan, line)],
        f"kink at {SHARE:g}": [(SHARE, bent(SHARE))],
        "kink anywhere": [(float(knot), bent(knot)) for knot in inner],
        # A power of the share of units that is left: no threshold anywhere.
        "smooth": [
            (float(p), np.stack([one, (1 - fractions) ** -p], 1))
            for p in np.arange(0.25, 6.1, 0.25)
        ],
    }


def fit(
    designs: list[tuple[float, np.ndarray]], curve: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """(parameter, fitted curve) of the member of a family that fits best, by weighted least
    squares."""
    best = (np.inf, np.nan, curve)
    for parameter, columns in designs:
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(columns * root[:, None], curve * root, rcond=None)[0]
        fitted = columns @ coefficients
        misfit = float(weights @ (curve - fitted) ** 2)
        if misfit < best[0]:
            best = (misfit, parameter, fitted)
    return best[1:]


def threshold_test(
    fractions: np.ndarray, curves: np.ndarray, folds: int = 10, draws: int = 500
) -> dict[str, Any]:
    """Whether the mean of curves [seeds, fractions] bends at 40 %.

    The mean of nine tenths of the seeds is fitted by every family of curves (weights: one over the
    variance of the mean), and predicts the mean of the tenth left out: `misfit` is the squared
    error of that, in variances of the mean left out, over what the mean of the others gets
    itself (1: nothing is lost by the family). `knot` is where a bend fits best, with its interval
    over bootstraps of the seeds.
    """
    families = _designs(fractions)
    variance = curves.var(0, ddof=1)
    weights = 1 / np.maximum(variance, 1e-12 * variance.max() + 1e-30)
    misfit = dict.fromkeys((*families, "mean"), 0.0)
    for fold in range(folds):
        out = np.arange(len(curves)) % folds == fold
        kept, seen = curves[~out].mean(0), curves[out].mean(0)
        predictions = {name: fit(family, kept, weights)[1] for name, family in families.items()}
        for name, prediction in {**predictions, "mean": kept}.items():
            misfit[name] += float(weights @ (prediction - seen) ** 2) * out.sum()
    chosen = np.random.default_rng(0).integers(0, len(curves), (draws, len(curves)))
    bends = families["kink anywhere"]
    knots = [fit(bends, curves[pick].mean(0), weights)[0] for pick in chosen]
    return {
        "misfit": {name: misfit[name] / misfit["mean"] for name in families},
        "knot": fit(bends, curves.mean(0), weights)[0],
        "knot_interval": [float(q) for q in np.quantile(knots, [0.025, 0.975])],
    }


def fraction_worse(fractions: np.ndarray, curve: np.ndarray, limit: float) -> float:
    """The least dead fraction at which the curve reaches `limit`, linear between points; nan where
    it does not."""
    above = np.flatnonzero(curve >= limit)
    if not len(above):
        return float("nan")
    i = int(above[0])
    if i == 0:
        return float(fractions[0])
    part = (limit - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(fractions[i - 1] + part * (fractions[i] - fractions[i - 1]))


def worse_row(
    fractions: np.ndarray, curves: np.ndarray, factor: float, more: float, draws: int = 2000
) -> dict[str, Any]:
    """Where the mean of curves [seeds, fractions] reaches (its value at 0) * factor + more: the
    estimate and its interval over bootstraps of the seeds; an end that is None lies beyond the last
    fraction."""

    def where(mean):
        return fraction_worse(fractions, mean, mean[0] * factor + more)

    chosen = np.random.default_rng(0).integers(0, len(curves), (draws, len(curves)))
    found = np.array([where(curves[pick].mean(0)) for pick in chosen])
    ends = np.quantile(np.where(np.isnan(found), np.inf, found), [0.025, 0.975], method="nearest")
    plain = [None if not np.isfinite(x) else float(x) for x in (where(curves.mean(0)), *ends)]
    return {"estimate": plain[0], "interval": plain[1:], "seeds": len(curves)}
