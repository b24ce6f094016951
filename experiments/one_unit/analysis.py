"""The chosen unit's life, the account of what moved it, and the summary; from the stored result."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.one_unit.lives import Units, count_lives
from experiments.one_unit.network import Network
from experiments.one_unit.sweep import Options


class Life(NamedTuple):
    """One unit's pre-activation z over the probe set at every evaluation; arrays [evaluations]."""

    step: np.ndarray
    margin: np.ndarray  # largest z
    mean: np.ndarray
    deviation: np.ndarray
    minimum: np.ndarray
    death: int  # step of the first evaluation that sees it dead
    recovery: int  # step of the first evaluation that sees it alive again


def life_of(result: xr.Dataset) -> Life:
    """The chosen unit's life."""
    names = ("margin", "mean", "deviation", "minimum")
    paths = {name: result[name].values for name in names}
    ends = {name: result.attrs[name] for name in ("death", "recovery")}
    return Life(step=result["look"].values, **paths, **ends)


def deepest_evaluation(life: Life) -> int:
    """The evaluation of the dead spell at which the margin is lowest (the first such)."""
    spell = (life.step >= life.death) & (life.step < life.recovery)
    return int(np.argmin(np.where(spell, life.margin, np.inf)))


def gradient_while_dead(result: xr.Dataset) -> float:
    """The most that the gradient moved the margin by in a step of the dead spell."""
    life = life_of(result)
    moved = result.moved.values[life.death : life.recovery]
    return float(np.abs(moved[:, result.channel.values == "gradient"]).max())


class Phase(NamedTuple):
    """A stretch of a unit's life, its margin at both ends and what every channel moved it by."""

    name: str
    first: int  # step of the evaluation at its start
    last: int  # step of the evaluation at its end
    start: float  # margin there
    end: float
    moved: dict[str, float]  # by channel, in units of z

    @property
    def residual(self) -> float:
        """What the channels do not explain: rounding."""
        return self.end - self.start - sum(self.moved.values())


def life_phases(life: Life, channels: Sequence[str], moved: np.ndarray) -> list[Phase]:
    """The step that killed the unit (none for one dead at step 0), its way down to the deepest
    margin and its way back. `moved` is [steps, channels], row t what moved the margin from
    evaluation t to evaluation t + 1; evaluations are at every step."""
    deepest = deepest_evaluation(life)
    ends = [
        ("killed", max(life.death - 1, 0), life.death),
        ("sinks", life.death, deepest),
        ("climbs", deepest, life.recovery),
    ]
    phases = []
    for name, first, last in ends:
        if first < last:
            sums = moved[first:last].astype(float).sum(0).tolist()
            start, end = (float(life.margin[evaluation]) for evaluation in (first, last))
            phases.append(
                Phase(name, first, last, start, end, dict(zip(channels, sums, strict=True)))
            )
    return phases


def phases_of(result: xr.Dataset) -> list[Phase]:
    """The account of the chosen unit's death, way down and way back."""
    names = [str(name) for name in result.channel.values]
    return life_phases(life_of(result), names, result.moved.values)


def network_of(result: xr.Dataset) -> Network:
    """The small network's values."""

    def layers(name):
        start = f"network_{name}_"
        found = sorted(str(key) for key in result.data_vars if str(key).startswith(start))
        return [result[key].values for key in found if key[len(start) :].isdigit()]

    return Network(**{name: layers(name) for name in Network._fields})


def summarize(options: Options, result: xr.Dataset) -> dict[str, Any]:
    """The chosen unit, the account of its life, and how frequent such lives are."""
    units = Units(*(result[name].values for name in Units._fields))
    facts = ("chosen_seed", "chosen_unit", "death", "recovery", "network_seed")
    return {
        "definition": "dead: max z <= 0 over the probe set; back: max z above the tolerance and "
        "the rounding bound; for good: the last event, at least `sustain` steps before the horizon",
        "rule": "largest climb, from the deepest margin to the recovery, among units that "
        "recovered for good",
        "interval": "95 %, Korn-Graubard clustered by seed",
        "chosen": {name: result.attrs[name] for name in facts}
        | {"climb": float(np.nanmax(np.where(units.for_good, units.climb, np.nan)))},
        "counts": count_lives(units),
        "claims": [],  # one unit is a case and no evidence
        "phases": [phase._asdict() | {"residual": phase.residual} for phase in phases_of(result)],
        "most_moved_by_gradient_while_dead": gradient_while_dead(result),
        "programs_agree_within": {
            name: result.attrs[name] for name in ("margin_path_error", "watched_error")
        },
    }


def print_summary(summary: Mapping) -> None:
    """The chosen unit and its account as text."""
    chosen = summary["chosen"]
    print(
        f"seed {chosen['chosen_seed']}, unit {chosen['chosen_unit']}: dead from step "
        f"{chosen['death']}, back at {chosen['recovery']}, climb {chosen['climb']:.3f}"
    )
    for name, row in summary["counts"].items():
        low, high = row["interval"]
        print(f"{name}: {row['successes']} of {row['trials']} [{low:.3f}, {high:.3f}]")
    for phase in summary["phases"]:
        parts = ", ".join(f"{name} {value:+.3f}" for name, value in phase["moved"].items())
        print(
            f"{phase['name']}, steps {phase['first']} to {phase['last']}: {phase['start']:.3f} -> "
            f"{phase['end']:.3f} = {parts}; residual {phase['residual']:.1e}"
        )
    most = summary["most_moved_by_gradient_while_dead"]
    print(f"moved by the gradient while dead: at most {most:g} per step")
