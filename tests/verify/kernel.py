"""The recovery map by plain JAX and by the kernel: outcomes, and the verdicts that rest on them."""

import dataclasses
import random

import numpy as np
import xarray as xr

from experiments import recovery_map
from relu_dynamics.engine.outcomes import Outcome
from relu_dynamics.statistics import estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps.sweep import sweep
from tests.verify.flips import biased_outcomes, flips_of, no_more

# What trains the map, with how many lanes (None: by the config). The second says how much plain
# JAX differs from itself.
PATHS = {"plain": ("plain", None), "plain, 4 lanes": ("plain", 4), "kernel": ("kernel", None)}

CLAIMS = {"recovered": recovery_map.window_claim, "died": recovery_map.rising_claim}


def check(trials: int, chance: random.Random) -> dict:
    """The default recovery map with `trials` seeds by each of the `PATHS`: outcomes, their flips,
    and every claim of the experiment. Passed: the kernel's runs differ from plain JAX's in no more
    outcomes and divergence steps than plain JAX's do between two numbers of lanes; and each claim
    has the same verdict, its estimate by either path inside the other's interval."""
    options = dataclasses.replace(recovery_map.DEFAULTS, seeds=trials)
    axes = {"learning_rate": options.learning_rates, "initial_bias": options.initial_biases}
    results, claims = {}, {}
    for name, (implementation, lanes) in PATHS.items():
        config = dataclasses.replace(options.config, implementation=implementation)
        results[name] = sweep(config, axes, trials, lanes=lanes)
        claims[name] = [
            claim_of(estimates.pooled(results[name], measure, "learning_rate"))
            for measure, claim_of in CLAIMS.items()
        ]
    base = results.pop("plain")
    flips = {name: flips_of(base, result) for name, result in results.items()}
    counts = [(f.runs_with_another_outcome, f.runs_with_another_divergence_step)
              for f in (flips["kernel"], flips["plain, 4 lanes"])]  # fmt: skip
    passed = [no_more(ours, theirs) for ours, theirs in zip(*counts, strict=True)]
    passed += [_agree(*pair) for pair in zip(claims["plain"], claims["kernel"], strict=True)]
    outcomes = {"plain": base, **results}
    return {
        "passed": sum(passed),
        "total": len(passed),
        "flips_from_plain": {name: found._asdict() for name, found in flips.items()},
        "flipped_units_by_learning_rate": {
            name: _by_rate(biased_outcomes(result) != biased_outcomes(base))
            for name, result in results.items()
        },
        "outcomes": {name: _counts(result) for name, result in outcomes.items()},
        "claims": {
            name: [{"claim": c.claim, "verdict": c.verdict, "finding": c.finding} for c in rows]
            for name, rows in claims.items()
        },
        "paired_differences": _differences(base, results["kernel"]),
    }


def _agree(one: Claim, other: Claim) -> bool:
    inside = lambda a, b: b.interval[0] <= a.estimate <= b.interval[1]  # noqa: E731
    return one.verdict == other.verdict and inside(one, other) and inside(other, one)


def _by_rate(flips: xr.DataArray) -> dict[str, int]:
    counts = flips.sum([name for name in flips.dims if name != "learning_rate"])
    return {f"{float(n.learning_rate):g}": int(n) for n in counts}


def _counts(result: xr.Dataset) -> dict[str, int]:
    found = biased_outcomes(result)
    return {outcome.name: int((found == int(outcome)).sum()) for outcome in Outcome}


def _differences(one: xr.Dataset, other: xr.Dataset) -> dict[str, float]:
    """The largest difference of P(recover) and P(die) between the two, over learning rates, and
    the widest 95 % interval's half width beside it."""
    found = {}
    for measure in ("recovered", "died"):
        ours, theirs = (estimates.pooled(r, measure, "learning_rate") for r in (one, other))
        found[measure] = float(np.nanmax(np.abs(ours.estimate - theirs.estimate)))
        half = (ours.high - ours.low).where(ours.trials > 0) / 2
        found[f"{measure}, median half width"] = float(half.median())
    return found
