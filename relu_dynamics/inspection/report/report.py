"""Report: which units of a model are dead, by which definition, and what is known of them.

found = diagnose(model, params, batches)
print(found)                # the worst layer, cause, prognosis and cheapest fix come first
found.frame                 # pandas, one row a unit; also to_xarray() and to_json()
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from relu_dynamics.certificates import Verdict
from relu_dynamics.checks import short_repr
from relu_dynamics.inspection.forecasts.forecast import Forecast
from relu_dynamics.inspection.forecasts.smallest_change import SmallestChange
from relu_dynamics.inspection.prognosis.prognosis import Prognosis, prognose
from relu_dynamics.inspection.reading.seen import Seen
from relu_dynamics.inspection.reading.watch import Probe, each_batch, find, look
from relu_dynamics.inspection.records.definitions import Facts, firing_rate_bound, table
from relu_dynamics.inspection.records.monitor import CAUSES, Monitor
from relu_dynamics.inspection.report.fixes import Known, Suggestion, suggest
from relu_dynamics.inspection.report.sheet import VERDICTS, headline, sheet

LEVEL = 0.95  # of every interval here

DEAD = "dead: no example seen above the threshold (max z - threshold <= 0)"


class Diagnosis(NamedTuple):
    """What was found; print it, or take `rows`, `units`, `frame`, `to_xarray`, `to_json`."""

    probe: Probe
    seen: Seen
    defined: dict[str, np.ndarray]  # definition -> bool [units]
    firing_bound: np.ndarray  # [units], upper 95 % confidence bound on the firing rate
    monitor: Monitor | None = None  # what was recorded in training
    cause: np.ndarray | None = None  # of the last death, a name in `CAUSES`, or "" [units]
    prognosis: Prognosis | None = None
    forecast: Forecast | None = None
    changes: tuple[SmallestChange, ...] = ()  # of one number each, tried by forks

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
    def columns(self) -> dict[str, np.ndarray]:
        """What is known of every unit, [units] each, by name; definitions as `is_NAME`."""
        sites = self.probe.sites
        columns: dict[str, Any] = {
            "unit": np.arange(self.probe.units),
            "site": np.repeat([site.name for site in sites], [site.count for site in sites]),
            "number": np.concatenate([np.arange(site.count) for site in sites]),
        }
        columns |= {name: np.asarray(leaf) for name, leaf in self.seen._asdict().items()}
        columns |= {f"is_{name}": units for name, units in self.defined.items()}
        columns["rate_below"] = self.firing_bound
        if self.monitor is not None:
            history = self.monitor.history
            for name in ("first_death", "first_recovery", "deaths", "recoveries"):
                columns[name] = np.asarray(getattr(history, name))
            columns["last_death"] = np.asarray(self.monitor.last_death)
            columns["silent_steps"] = np.asarray(self.monitor.silent)
        if self.cause is not None:
            columns["cause"] = self.cause
        if self.prognosis is not None:
            words = [VERDICTS[Verdict(int(v))] for v in self.prognosis.verdict]
            columns["prognosis"] = np.array(words)
            for name in ("step", "theorem", "reason"):
                columns[f"prognosis_{name}"] = np.asarray(getattr(self.prognosis, name))
        if self.forecast is not None:
            columns["forks_recovered"] = self.forecast.recovered
            for name in ("probability", "low", "high"):
                columns[f"recover_{name}"] = getattr(self.forecast, name)
        return columns

    @property
    def units(self) -> list[dict[str, Any]]:
        """One row a unit: its site and number, statistics, definitions, and what else is known."""
        columns = {name: values.tolist() for name, values in self.columns.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    @property
    def fixes(self) -> list[Suggestion]:
        """What can be done, cheapest first; [] where nothing is wrong."""
        return suggest(self._known)

    @property
    def facts(self) -> dict[str, Any]:
        """What the numbers mean: the definition of dead, the level, and the counts."""
        return {
            "definition_of_dead": DEAD,
            "level": LEVEL,
            "units": self.probe.units,
            "dead": len(self.dead),
            "examples": int(np.asarray(self.seen.examples).max()),
        }

    @property
    def frame(self):
        """The `columns` as a pandas DataFrame, one row a unit."""
        import pandas  # slow to import

        return pandas.DataFrame(self.columns)

    def to_xarray(self):
        """The `columns` as an xarray Dataset over `unit`, with `facts` as attributes; definitions
        under their own names, bool."""
        import xarray

        names = {name: name.removeprefix("is_") for name in self.columns}
        data = {names[name]: ("unit", values) for name, values in self.columns.items()}
        coords = {name: data.pop(name) for name in ("unit", "site", "number")}
        return xarray.Dataset(data, coords, self.facts | {"not_read": list(self.probe.notes)})

    def to_json(self) -> str:
        """The facts, the rows of the sites and of the units, the fixes, and what was not read.
        Numbers that are not finite are null."""
        fixes = [fix._asdict() | {"units": fix.units.tolist()} for fix in self.fixes]
        whole = self.facts | {
            "sites": self.rows,
            "fixes": fixes,
            "not_read": list(self.probe.notes),
        }
        return json.dumps(_finite(whole | {"each_unit": self.units}), indent=1, allow_nan=False)

    @property
    def headline(self) -> list[str]:
        """The worst layer and who is dead, by which definition, cause, prognosis, cheapest fix: a
        line each."""
        return headline(self._known, self.rows, self.fixes)

    def __str__(self) -> str:
        return sheet(self._known, self.rows, self.fixes)

    @property
    def _known(self) -> Known:
        return Known(
            self.probe,
            self.seen,
            self.defined,
            self.firing_bound,
            self.cause,
            self.prognosis,
            self.forecast,
            self.changes,
        )


def _finite(value: Any) -> Any:
    """Plain data with None in the place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def diagnose(
    function: Callable,
    params: Any,
    batches: Iterable[Any],
    *,
    exclude: Sequence[str] = (),
    gradient: Any = None,
    monitor: Monitor | None = None,
    prognosis: Prognosis | None = None,
    forecast: Forecast | None = None,
    changes: Sequence[SmallestChange] = (),
    tx: optax.GradientTransformation | None = None,
    memory: Any = None,
) -> Diagnosis:
    """The `Diagnosis` of `function(params, *batch)` over a data set.

    Args:
      function: a model or a loss, as for `find`.
      batches: what the function takes after `params`, an array or a tuple each; read once.
      exclude: names of sites that are none of hidden units.
      gradient: norms of every unit's own gradient [units], as `surgery.gradient_norms` gives them;
        without them nothing is called gradient-dormant.
      monitor: the record of the same units in training: since when they are silent, and what
        killed them.
      prognosis, forecast: of the same units, where you have them.
      changes: what `smallest_change` found for the same units, a number each: a fix where it is
        enough.
      tx, memory: the optimizer and its state: `prognose` is called, with its defaults; `batches`
        are then all training examples, in a list.

    Raises a ValueError when there is no batch, nothing is rectified, or what is given is of another
    number of units.
    """
    given = {"gradient": gradient, "monitor": monitor, "prognosis": prognosis, "forecast": forecast}
    if tx is not None and isinstance(batches, Iterator):
        raise ValueError("batches is read twice for a prognosis; give a list, or leave out tx.")
    given |= {f"changes[{k}]": change for k, change in enumerate(changes)}
    every = each_batch(batches)
    first = next(every)
    probe = find(function, params, *first, exclude=exclude)
    _check_units(probe, given)
    seen = look(function, params, itertools.chain([first], every), exclude=exclude)
    facts = Facts(probe, seen, gradient)
    if monitor is not None:
        facts = facts._replace(silent=monitor.silent, silences=monitor.silences)
    chosen = table(facts)
    if tx is not None and prognosis is None:
        prognosis = prognose(function, params, memory, batches, tx=tx, exclude=exclude)
    return Diagnosis(
        probe,
        seen,
        {name: np.asarray(units) for name, units in chosen.items()},
        firing_rate_bound(seen, LEVEL),
        monitor,
        _cause_of(monitor),
        prognosis,
        forecast,
        tuple(changes),
    )


def _check_units(probe: Probe, given: dict[str, Any]) -> None:
    """Refuses facts of another number of units."""
    lengths = {
        "gradient": lambda value: np.shape(value)[0],
        "monitor": lambda value: len(value.silent),
        "prognosis": lambda value: len(value.verdict),
        "forecast": lambda value: len(value.recovered),
        "changes": lambda value: len(value.units),
    }
    for name, value in given.items():
        length = lengths[name.partition("[")[0]]
        if value is not None and length(value) != probe.units:
            raise ValueError(
                f"{name} is of {length(value)} units, and {short_repr(probe.names)} have "
                f"{probe.units}; give what was found with the same function and exclude."
            )


def _cause_of(monitor: Monitor | None) -> np.ndarray | None:
    """Names of what killed the units, "" where none was recorded; None without a monitor."""
    return None if monitor is None else np.array([*CAUSES, ""])[np.asarray(monitor.cause)]
