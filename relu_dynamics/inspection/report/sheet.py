"""Sheet: a diagnosis as text, what matters most in its first five lines."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from relu_dynamics.certificates import Verdict
from relu_dynamics.inspection.report.fixes import Known, Suggestion

MOST_UNITS = 12  # listed one by one; the rest is in the tables

VERDICTS = {
    Verdict.NOT_DEAD: "not dead",
    Verdict.POSSIBLE: "possible",
    Verdict.CERTIFIED_NEVER: "never",
    Verdict.CERTIFIED_AT: "at step",
}

WIDTH = 200  # nothing is wrapped


def sheet(known: Known, rows: Sequence[dict[str, Any]], fixes: Sequence[Suggestion]) -> str:
    """The whole text: five lines, the sites, the worst units, the fixes, what was not read."""
    parts = ["\n".join(headline(known, rows, fixes)), _sites(known, rows)]
    if known.dead.any():
        parts.append(_units(known))
    parts += [f"{fix}\n  {fix.call}\n  not measured: {fix.unmeasured}" for fix in fixes]
    parts += map(str, known.changes)
    parts += [f"not read: {note}" for note in known.probe.notes]
    return "\n".join(parts)


def headline(
    known: Known, rows: Sequence[dict[str, Any]], fixes: Sequence[Suggestion]
) -> list[str]:
    """Five lines: the worst site, who is dead by which definition, cause, prognosis, fix."""
    worst = max(rows, key=lambda row: (row["dead"] > 0, row["hidden"], row["dead"] / row["units"]))
    counts = ", ".join(f"{name} {int(units.sum())}" for name, units in known.defined.items())
    dead, units = int(known.dead.sum()), known.probe.units
    where = f"worst layer: {worst['site']} with {worst['dead']} of {worst['units']}"
    first = f"{dead} of {units} units dead; {where}" if dead else f"none of {units} units is dead"
    return [
        first,
        f"by definition: {counts}; dead: no example of {worst['examples']} above the threshold",
        f"cause: {cause_text(known)}",
        f"prognosis: {prognosis_text(known)}",
        f"cheapest fix: {fixes[0]}" if fixes else "cheapest fix: none needed",
    ]


def cause_text(known: Known) -> str:
    """What killed the dead units, in a line."""
    if not known.dead.any():
        return "nothing died"
    if known.cause is None:
        return "not known; give monitor=, the record of the training"
    names, counts = np.unique(known.cause[known.dead], return_counts=True)
    order = np.lexsort((-counts, names == ""))
    return ", ".join(f"{names[k] or 'no death recorded'} {counts[k]}" for k in order)


def prognosis_text(known: Known) -> str:
    """What becomes of the dead units, in a line."""
    if not known.dead.any():
        return "nothing to return"
    parts = []
    if known.prognosis is not None:
        verdict = known.prognosis.verdict[known.dead]
        step = known.prognosis.step[known.dead & (known.prognosis.verdict == Verdict.CERTIFIED_AT)]
        never, possible = (
            (verdict == v).sum() for v in (Verdict.CERTIFIED_NEVER, Verdict.POSSIBLE)
        )
        parts.append(f"never {never}, at a known step {step.size}, possible {possible}")
        if step.size:
            parts[-1] += f" (first return at step {step.min()} from now)"
    if known.forecast is not None and known.forecast.dead.any():
        share = known.forecast.pooled()
        parts.append(
            f"P(return within {known.forecast.steps} steps) {float(share.estimate):.2f} "
            f"[{float(share.low):.2f}, {float(share.high):.2f}], {known.forecast.trials} forks"
        )
    return "; ".join(parts) or "not asked; give tx= and memory=, or forecast="


def _printed(table: Any) -> str:
    from rich.console import Console  # slow to import, and only a reader needs it

    text = io.StringIO()
    Console(file=text, width=WIDTH).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).rstrip()


def _table(title: str, caption: str, columns: Sequence[str], left: int) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # A name may hold brackets, which are no markup here.
    table = Table(title=Text(title), caption=Text(caption), box=box.SIMPLE, title_justify="left")
    table.caption_justify = "left"
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k < left else "right")
    return table


def _add(table: Any, values: Sequence[Any]) -> None:
    from rich.text import Text

    table.add_row(*(Text(str(value)) for value in values))


def _sites(known: Known, rows: Sequence[dict[str, Any]]) -> str:
    names = [*known.defined, "invalid"]
    table = _table(
        "Sites, worst first",
        "fires below: upper 95 % confidence bound on the share of examples for which a dead unit "
        "fires, were they independent (positions of an image are not)",
        ("site", "kind", "units", *names, "examples", "fires below"),
        2,
    )
    for row in rows:
        bound = "" if row["rate_below"] is None else f"{row['rate_below']:.2g}"
        kind = row["kind"] if row["hidden"] else f"{row['kind']}, not hidden"
        counts = [row[name] for name in ("units", *names, "examples")]
        _add(table, [row["site"], kind, *counts, bound])
    return _printed(table)


def _units(known: Known) -> str:
    dead = np.flatnonzero(known.dead)
    margin = np.asarray(known.seen.margin, float)
    chosen = dead[np.argsort(-margin[dead], kind="stable")][:MOST_UNITS]
    more = f"; {len(dead) - len(chosen)} more in .units" if len(dead) > len(chosen) else ""
    columns = ["unit", "site", "number", "margin", "deviation", "fires below"]
    extra = unit_texts(known)
    table = _table(f"Dead units, nearest first{more}", "", [*columns, *extra], 2)
    starts = known.per_site(lambda site: site.name), _numbers(known)
    for u in chosen:
        row = [u, starts[0][u], starts[1][u], f"{margin[u]:.3g}", f"{known.deviation[u]:.2g}"]
        row += [f"{known.firing_bound[u]:.2g}", *(texts[u] for texts in extra.values())]
        _add(table, row)
    return _printed(table)


def _numbers(known: Known) -> np.ndarray:
    return np.concatenate([np.arange(site.count) for site in known.probe.sites])


def unit_texts(known: Known) -> dict[str, list[str]]:
    """What is known of every unit's past and future as words, by column; [units] each."""
    texts: dict[str, list[str]] = {}
    if known.cause is not None:
        texts["cause"] = [str(name) for name in known.cause]
    if known.prognosis is not None:
        texts["prognosis"] = [_verdict_text(known.prognosis, u) for u in range(known.probe.units)]
    if known.forecast is not None:
        ends = known.forecast.interval
        texts["P(return)"] = [
            f"{ends.estimate[u]:.2f} [{ends.low[u]:.2f}, {ends.high[u]:.2f}]"
            if known.forecast.dead[u]
            else ""
            for u in range(known.probe.units)
        ]
    return texts


def _verdict_text(prognosis: Any, unit: int) -> str:
    verdict = Verdict(int(prognosis.verdict[unit]))
    if verdict == Verdict.NOT_DEAD:
        return ""
    why = prognosis.theorem[unit] if verdict != Verdict.POSSIBLE else prognosis.reason[unit]
    step = f" {int(prognosis.step[unit])}" if verdict == Verdict.CERTIFIED_AT else ""
    return f"{VERDICTS[verdict]}{step}{': ' if why else ''}{why}"
