"""The summary: panels, forks, the collapse test and the claims, as numbers and as text."""

from collections.abc import Mapping
from typing import Any

from experiments.channels.closed_forms import BOUNDARIES, boundary_line
from experiments.channels.collapse import collapse
from experiments.channels.counts import best_rate, certificate_row, pooled
from experiments.channels.fork_effects import fork_summary
from experiments.channels.panels import Panel, Results
from experiments.channels.sweep import Options
from experiments.channels.verdicts import (
    agreement_claim,
    collapse_claim,
    comparison_claims,
    fork_claims,
    interval_text,
    panel_claims,
)
from relu_dynamics.statistics import claims, estimates


def summarize(options: Options, results: Results) -> dict[str, Any]:
    """Every panel and fork with intervals, and the claims."""
    panels = {name: panel_summary(panel) for name, panel in results.panels.items()}
    forks = [fork_summary(fork) for fork in results.forks]
    upstream = results.panels.get("upstream")
    rescaled = collapse(upstream.result) if upstream else None
    found = [
        *(
            claim
            for name, row in panels.items()
            for claim in panel_claims(results.panels[name], row)
        ),
        *comparison_claims(panels),
        *(claim for fork in forks for claim in fork_claims(fork)),
        agreement_claim(forks),
    ]
    return {
        "definitions": {
            name: estimates.MEASURES[name].definition for name in ("recovered_ever", "came_back")
        },
        "interval": "95 %, Korn-Graubard clustered by seed; differences: t over paired seeds",
        "claims": found + ([collapse_claim(rescaled)] if rescaled else []),
        "panels": list(panels.values()),
        "forks": forks,
        "collapse": rescaled,
    }


def panel_summary(panel: Panel) -> dict[str, Any]:
    """The numbers of one panel."""
    channel, grid, result, start, certified = panel
    known = BOUNDARIES.get(channel.name, ()) if start else ()
    return {
        "name": channel.name,
        "title": channel.title,
        "measure": channel.measure,
        "measured": pooled(result, channel.measure),
        "recovered": pooled(result, "recovered_ever"),
        "best": best_rate(result, channel.measure),
        "diverged": pooled(result, "diverged"),
        "boundaries": [boundary_line(boundary, grid, start) for boundary in known if start],
        "certificates": certificate_row(certified) if certified else None,
    }


def print_summary(summary: Mapping) -> None:
    """Panels, forks and claims as text."""
    print("\nchannel      measure         whole panel                              certified never")
    for panel in summary["panels"]:
        found = panel["certificates"]
        power = "not ReLU"
        if found:
            power = (
                f"{found['of_them_certified']:,} of {found['never_recovered']:,} never recovered"
            )
        print(
            f"{panel['name']:12} {panel['measure']:15} "
            f"{interval_text(panel['measured']):40} {power}"
        )
    for fork in summary["forks"]:
        print(f"\nfork '{fork['name']}' at step {fork['step']}, by step {fork['horizon']}")
        print("arm               P(recover)                       difference to as_is        "
              "vanished                  share of climb")  # fmt: skip
        for row in fork["rows"]:
            line = f"{row['arm']:17} {interval_text(row['probability']):42}"
            if "difference" in row:
                line += f" {interval_text(row['difference']):26} {interval_text(row['vanished'])}"
                share = row["share_of_climb"]
                line += "  none recovered" if share is None else f"  {share:+.3f}"
            print(line)
    print()
    claims.print_claims(summary["claims"])
