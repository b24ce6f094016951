"""Report: which units of a model are dead, by which definition, worst site first."""

import io
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.inspection.definitions import Facts, firing_rate_bound, table
from relu_dynamics.inspection.seen import Seen
from relu_dynamics.inspection.watch import Probe, each_batch, find, look


class Diagnosis(NamedTuple):
    """What was found; print it, or take `rows`, `units`, `to_json`."""

    probe: Probe
    seen: Seen
    defined: dict[str, np.ndarray]  # definition -> bool [units]
    firing_bound: np.ndarray  # [units], upper 95 % confidence bound on the firing rate

    @property
    def dead(self) -> np.ndarray:
        """Numbers of the units without an example above the threshold."""
        return np.flatnonzero(self.defined["dead"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a site, the one with the largest share of dead units first. Counts of units by
        definition; `rate_below`: no dead unit of the site fires for a larger share of examples, at
        95 % confidence each."""
        rows = []
        for one, part in zip(self.probe.sites, self.probe.slices.values(), strict=True):
            dead = self.defined["dead"][part]
            rows.append(
                {"site": one.name, "kind": one.kind, "hidden": one.hidden, "units": one.count}
                | {name: int(chosen[part].sum()) for name, chosen in self.defined.items()}
                | {
                    "invalid": int((np.asarray(self.seen.invalid)[part] > 0).sum()),
                    "examples": int(np.asarray(self.seen.examples)[part].max()),
                    "rate_below": float(self.firing_bound[part][dead].max())
                    if dead.any()
                    else None,
                }
            )
        return sorted(rows, key=lambda row: (-row["hidden"], -row["dead"] / row["units"]))

    @property
    def units(self) -> list[dict[str, Any]]:
        """One row a unit, for pandas: its site and number, definitions, and statistics."""
        rows = []
        for name, part in self.probe.slices.items():
            for unit in range(part.start, part.stop):
                row = {"unit": unit, "site": name, "number": unit - part.start}
                for field, leaf in self.seen._asdict().items():
                    row[field] = np.asarray(leaf)[unit].item()
                for key, chosen in self.defined.items():
                    row[f"is_{key}"] = bool(chosen[unit])
                rows.append(row | {"rate_below": float(self.firing_bound[unit])})
        return rows

    def to_json(self) -> str:
        """The rows of the sites, and what was not read."""
        return json.dumps({"sites": self.rows, "not_read": list(self.probe.notes)}, indent=1)

    def __str__(self) -> str:
        from rich.console import Console  # slow to import, and only a reader needs it
        from rich.table import Table

        rows = self.rows
        worst = rows[0]
        total = sum(row["dead"] for row in rows)
        sheet = Table(
            title=f"{total} of {self.probe.units} units dead; worst: {worst['site']} with "
            f"{worst['dead']} of {worst['units']}",
            caption="dead: no example above the threshold; fires below: upper 95 % confidence "
            "bound on the share of examples for which a dead unit fires",
        )
        names = [*self.defined, "invalid"]
        for title in ("site", "kind", "units", *names, "examples", "fires below"):
            sheet.add_column(title, justify="left" if title in ("site", "kind") else "right")
        for row in rows:
            bound = "" if row["rate_below"] is None else f"{row['rate_below']:.2g}"
            kind = row["kind"] if row["hidden"] else f"{row['kind']}, not hidden"
            counts = [str(row[name]) for name in ("units", *names, "examples")]
            sheet.add_row(row["site"], kind, *counts, bound)
        text = io.StringIO()
        Console(file=text, width=120).print(sheet)
        notes = [f"not read: {note}" for note in self.probe.notes]
        return "\n".join([text.getvalue().rstrip(), *notes])


def diagnose(
    function: Callable,
    params: Any,
    batches: Iterable[Any],
    *,
    exclude: Sequence[str] = (),
    gradient: Any = None,
) -> Diagnosis:
    """The `Diagnosis` of `function(params, *batch)` over a data set.

    Args:
      function: a model or a loss, as for `find`.
      batches: what the function takes after `params`, an array or a tuple each; read once.
      exclude: names of sites that are none of hidden units.
      gradient: norms of every unit's own gradient [units], as `surgery.gradient_norms` gives them;
        without them nothing is called gradient-dormant.

    Raises a ValueError when there is no batch or nothing is rectified.
    """
    every = each_batch(batches)
    first = next(every)
    probe = find(function, params, *first, exclude=exclude)
    seen = look(function, params, itertools.chain([first], every), exclude=exclude)
    chosen = table(Facts(probe, seen, gradient=gradient))
    defined = {name: np.asarray(units) for name, units in chosen.items()}
    return Diagnosis(probe, seen, defined, firing_rate_bound(seen))
