"""Counts of a panel's units, and their intervals."""

import numpy as np
import xarray as xr

from experiments.channels.step_0 import Certified
from relu_dynamics import certificates, statistics
from relu_dynamics.certificates.case import Verdict
from relu_dynamics.certificates.certify import Certificates
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.statistics import estimates


def at_risk(result: xr.Dataset) -> np.ndarray:
    """Biased units dead at step 0, [rate, bias, seed, unit] of all units."""
    risk = result.dead_at_start & ~result.near_zero_at_start & result.biased
    return ordered(risk)


def ordered(array: xr.DataArray) -> np.ndarray:
    """The values of an array of a panel, [rate, bias, seed, ...]."""
    return array.transpose("learning_rate", "initial_bias", "seed", ...).values


def pool(successes: np.ndarray, trials: np.ndarray) -> dict:
    """The proportion over all cells [..., seed], clustered by seed."""
    summed = (part.reshape(-1, part.shape[-1]).sum(0) for part in (successes, trials))
    return statistics.clustered_interval(*summed).as_json()


def pooled(result: xr.Dataset, measure: str) -> dict:
    """A measure over the whole panel, clustered by seed."""
    return pool(*estimates.counts(result, measure))


def best_rate(result: xr.Dataset, measure: str) -> dict:
    """The learning rate with the largest lower bound, all biases pooled."""
    over = estimates.pooled(result, measure, "learning_rate")
    i = int(np.nan_to_num(over.low.where(over.trials > 0)).argmax())
    at = over.isel(learning_rate=i)
    return {"learning_rate": float(at.learning_rate), **estimates.as_json(at)}


def certificate_row(certified: Certified) -> dict:
    """The certificates' power on a panel's units at risk, and whether a run contradicted one.

    `contradicted` counts units of all layers, other than those of `power`'s denominator.
    """
    result = certified.result
    risk = at_risk(result)
    recovered = ordered(result.first_recovery) != NEVER
    never = certified.verdict == Verdict.CERTIFIED_NEVER
    runs = (-1, risk.shape[-1])
    outcome = np.where(risk, ordered(result.outcome), 0).reshape(runs)
    empty = np.zeros(outcome.shape)
    verdict = certified.verdict.reshape(runs)
    filled = Certificates(verdict, empty, empty, empty, empty, empty)
    units, dead, interval = certificates.power(filled, outcome)
    names, counts = np.unique(certified.theorem[risk & never], return_counts=True)
    alive = recovered & risk & (certified.verdict == Verdict.NOT_DEAD)
    return {
        "seeds": result.sizes["seed"],
        "recovered_who_fired_elsewhere": pool(alive.sum(-1), (recovered & risk).sum(-1)),
        "units_at_risk": int(risk.sum()),
        "certified_never": int((risk & never).sum()),
        "certified_at": int((risk & (certified.verdict == Verdict.CERTIFIED_AT)).sum()),
        "never_recovered": dead,
        "of_them_certified": units,
        "power": interval.as_json(),
        "certified_in_all_layers": int(never.sum()),
        "contradicted": int((never & recovered).sum()),
        "theorems": {
            certificates.THEOREM_NAMES[n]: int(c) for n, c in zip(names, counts, strict=True)
        },
    }
