"""What a fork says of every channel: its causal effect and its share of the climb."""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from experiments.channels.forks import ARM_CHANNELS, Fork
from relu_dynamics import channels, statistics
from relu_dynamics.engine.outcomes import NEVER


def fork_summary(fork: Fork) -> dict[str, Any]:
    """One fork with its accounts: per arm the causal effect, the share, and whether they agree."""
    name, config, result, traced = fork
    cohort = result.cohort & traced.dead
    recovered = cohort & (traced.first_recovery != NEVER)
    climbed = traced.climb[recovered].sum()
    rows = []
    leads = np.stack([traced.brought[channel] for channel in ARM_CHANNELS.values()])
    leading = leads.argmax(0)
    for table in channels.fork_table(result):
        row = {
            "arm": table.arm,
            "cohort": table.cohort,
            "recovered": table.recovered,
            "diverged_seeds": table.diverged,
            "probability": table.probability.as_json(),
        }
        if table.difference and table.vanished:  # as_is has neither
            channel = ARM_CHANNELS[table.arm]
            lead = recovered & (leading == list(ARM_CHANNELS.values()).index(channel))
            led = statistics.clustered_interval(lead.sum(-1), recovered.sum(-1))
            row |= {
                "channel": channel,
                "difference": table.difference.as_json(),
                "vanished": table.vanished.as_json(),
                "share_of_climb": _ratio(traced.brought[channel][recovered].sum(), climbed),
                "share_interval": ratio_interval(
                    np.where(recovered, traced.brought[channel], 0).sum(-1),
                    np.where(recovered, traced.climb, 0).sum(-1),
                ),
                "recoveries_led_by_it": led.as_json(),
                "without_share": _without_share(result, traced.brought[channel], cohort, table.arm),
            }
        rows.append(row)
    others = {
        name: _ratio(part[recovered].sum(), climbed)
        for name, part in traced.brought.items()
        if name not in ARM_CHANNELS.values()
    }
    mismatch = (result.first_recovery[0] != traced.first_recovery) & result.cohort
    never = [(arm, result.arms.index(arm)) for arm in traced.certified if arm in result.arms]
    return {
        "name": name,
        "config": dataclasses.asdict(config),
        "step": result.step,
        "horizon": config.steps,
        "rows": rows,
        "other_shares": others,
        "cohort_differs": int((result.cohort != traced.dead).sum()),
        "first_recovery_differs": int(mismatch.sum()),
        "certified_never": {
            arm: int((traced.certified[arm] & result.cohort).sum()) for arm, _ in never
        },
        "certified_and_recovered": {
            arm: int((traced.certified[arm] & result.recovered[i]).sum()) for arm, i in never
        },
    }


def _ratio(part, whole):
    return float(part / whole) if whole else None


def ratio_interval(parts: np.ndarray, wholes: np.ndarray) -> list[float] | None:
    """95 % interval of sum(parts) / sum(wholes) over seeds, [seeds] each: linearized, t over seeds
    (Cochran, Sampling Techniques, 1977, eq. 6.13). None for one seed, or for wholes of sum 0."""
    seeds, whole = len(parts), wholes.sum()
    if seeds < 2 or not whole:
        return None
    ratio = parts.sum() / whole
    residuals = parts - ratio * wholes
    reach = stats.t.ppf(0.975, seeds - 1) * np.sqrt(seeds / (seeds - 1) * (residuals**2).sum())
    return [float(ratio - reach / abs(whole)), float(ratio + reach / abs(whole))]


def _without_share(result, brought, cohort, arm) -> dict | None:
    """The arm's effect on the units to which its channel brought exactly nothing."""
    own = cohort & (brought == 0)
    if not own.any():
        return None
    number = result.arms.index(arm)
    counts = [(result.recovered[i] & own).sum(-1) for i in (number, 0)]
    trials = own.sum(-1)
    difference = statistics.paired_difference(counts[0], trials, counts[1], trials)
    return difference.as_json() | {
        "units": int(own.sum()),
        "recovered": [int(counts[0].sum()), int(counts[1].sum())],
        "agrees": bool(difference.low <= 0 <= difference.high),
    }
