"""Does the learning rate do more than rescale time?"""

from typing import Any

import numpy as np
import xarray as xr

from experiments.channels.counts import at_risk, ordered
from relu_dynamics import statistics
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.statistics import estimates


def collapse(result: xr.Dataset, least_evaluations: int = 4) -> dict[str, Any]:
    """P(recovered by t = K / rate) over the rates that are evaluated then, for a few K.

    Flat in the rate if it only rescaled time. Neighbouring rates are paired by seed, and the
    intervals of all comparisons hold together (Bonferroni).
    """
    config = estimates.config_of(result)
    every, horizon = config["probe_every"], config["steps"]
    rates = result.learning_rate.values
    risk = at_risk(result)
    first = ordered(result.first_recovery)
    curves, pairs = [], []
    for start in range(0, len(rates) - 2, 2):
        total = float(rates[start] * horizon)
        least = least_evaluations * every
        reach = [i for i, rate in enumerate(rates) if least <= total / rate * 1.0001]
        reach = [i for i in reach if i >= start]
        if len(reach) < 3:
            continue
        counts, trials, rows = [], [], []
        for i in reach:
            time_i = int(np.floor(total / rates[i] * 1.0001 / every) * every)
            back = risk[i] & (first[i] != NEVER) & (first[i] <= time_i)
            counts.append(back.sum((0, 2)))
            trials.append(risk[i].sum((0, 2)))
            interval = statistics.clustered_interval(counts[-1], trials[-1])
            rows.append({"learning_rate": float(rates[i]), "step": time_i, **interval.as_json()})
        curves.append({"rate_times_steps": total, "rows": rows})
        pairs += [
            (len(curves) - 1, k, counts[k + 1], trials[k + 1], counts[k], trials[k])
            for k in range(len(reach) - 1)
        ]
    level = 1 - 0.05 / max(len(pairs), 1)
    differences = []
    for curve, k, *numbers in pairs:
        row = statistics.paired_difference(*numbers, level=level).as_json()
        rows = curves[curve]["rows"]
        differences.append(
            {
                "rate_times_steps": curves[curve]["rate_times_steps"],
                "learning_rates": [rows[k]["learning_rate"], rows[k + 1]["learning_rate"]],
                **row,
                "apart": not row["interval"][0] <= 0 <= row["interval"][1],
            }
        )
    return {"curves": curves, "differences": differences, "level_of_each": level}
