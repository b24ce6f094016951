"""Every comparison of a simulation with its closed form, as a summary and as text."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments.numerical_example.sweep import Options
from experiments.numerical_example.verdicts import step_text, verdicts
from relu_dynamics.engine import outcomes
from relu_dynamics.statistics import claims


def summarize(options: Options, result: xr.Dataset) -> dict[str, Any]:
    """Claims and every comparison of a simulation with its closed form."""
    plain = lambda step: float(step) if np.isfinite(step) else None  # noqa: E731
    cases = [
        {
            "source": str(case.source.values),
            "learning_rate": float(case.case_rate),
            **{
                name: plain(case[name].item())
                for name in ("simulated_step", "closed_step", "closed_low", "closed_high")
            },
            "agrees": bool(case.agrees),
            "certificate": str(case.certificate.values),
            "theorem": str(case.theorem.values),
            "outcome": outcomes.Outcome(int(case.outcome)).name,
            "final_bias": plain(case.final_bias.item()),
            "gradient_while_dead": plain(case.gradient_while_dead.item()),
        }
        for case in (result.isel(case=i) for i in range(result.sizes["case"]))
    ]
    noise = [
        {
            "noise": str(kind),
            "learning_rate": float(rate),
            "recovered": int(at.noise_recovered),
            "runs": result.sizes["seed"],
            "estimate": float(at.noise_estimate),
            "interval": [float(at.noise_low), float(at.noise_high)],
            "expected": float(at.noise_closed[-1]),
            "agrees": bool(at.noise_agrees),
        }
        for kind in result.noise_kind.values
        for rate in result.learning_rate.values
        for at in [result.sel(noise_kind=kind, learning_rate=rate)]
    ]
    return {
        "definition": "dead: max z <= 0 over the inputs; back: max z above the tolerance; steps of "
        "null are never within the horizon",
        "interval": "Clopper-Pearson, 95 %; agreement of the noisy runs at 95 % for all together",
        "claims": verdicts(result, options.config),
        "cases": cases,
        "noise": noise,
        "certificates_contradicted": contradictions(result),
        "comparisons": len(cases) + len(noise),
        "comparisons_that_agree": sum(row["agrees"] for row in (*cases, *noise)),
    }


def contradictions(result: xr.Dataset) -> int:
    """Cases whose run contradicts their certificate; a theorem allows none."""
    never = (result.certificate == "CERTIFIED_NEVER") & np.isfinite(result.simulated_step)
    at = result.certificate == "CERTIFIED_AT"
    return int((never | (at & (result.simulated_step != result.certified_step))).sum())


def print_summary(summary: Mapping) -> None:
    """Every comparison and the verdicts as text."""
    print(
        f"{'source':46}{'rate':>8}{'simulated':>11}{'closed form':>13}{'range':>16}  agrees  proved"
    )
    printed = lambda step: step_text(np.inf if step is None else step)  # noqa: E731
    for row in summary["cases"]:
        low, high = printed(row["closed_low"]), printed(row["closed_high"])
        print(
            f"{row['source']:46}{row['learning_rate']:8g}{printed(row['simulated_step']):>11}"
            f"{printed(row['closed_step']):>13}{low if low == high else f'{low} - {high}':>16}"
            f"  {'yes' if row['agrees'] else 'NO':6}  {_proved(row)}"
        )
    for row in summary["noise"]:
        print(
            f"{'noise: ' + row['noise']:46}{row['learning_rate']:8g}   recovered "
            f"{row['recovered']} of {row['runs']}: {row['estimate']:.3f} "
            f"[{row['interval'][0]:.3f}, {row['interval'][1]:.3f}], "
            f"closed form {row['expected']:.4f}  {'yes' if row['agrees'] else 'NO'}"
        )
    print(
        f"{summary['comparisons_that_agree']} of {summary['comparisons']} comparisons agree; "
        f"{summary['certificates_contradicted']} certificates contradicted"
    )
    claims.print_claims(summary["claims"])


def _proved(row: Mapping) -> str:
    verdict = {"CERTIFIED_NEVER": "never", "CERTIFIED_AT": "at this step"}.get(row["certificate"])
    return f"{verdict}: {row['theorem']}" if verdict else "-"
