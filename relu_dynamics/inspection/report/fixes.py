"""Fixes: what can be done about a model's dead units, cheapest first, each with its reason.

`FIXES` are rules of thumb over what is known of the units; rows that change nothing come last. A
row says which units it is for, why,
the call that does it, and what nobody has measured here. Whether a fix acted is measured
afterwards: look before and after.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.certificates import Verdict
from relu_dynamics.inspection.forecasts.forecast import Forecast
from relu_dynamics.inspection.forecasts.smallest_change import SmallestChange
from relu_dynamics.inspection.prognosis.prognosis import Prognosis
from relu_dynamics.inspection.reading.seen import Seen
from relu_dynamics.inspection.reading.watch import Probe

RARE = 0.01  # a dead unit that may fire for a larger share of examples needs more of them
LIKELY = 0.5  # a unit that comes back with at least this probability may be waited for


class Known(NamedTuple):
    """What the rules are about; [units] each, None where it is not known."""

    probe: Probe
    seen: Seen
    defined: dict[str, np.ndarray]  # definition -> bool
    firing_bound: np.ndarray
    cause: np.ndarray | None  # of its last death, a name in `CAUSES`; "" where none was recorded
    prognosis: Prognosis | None
    forecast: Forecast | None
    changes: tuple[SmallestChange, ...] = ()  # tried by forks, of one number each

    @property
    def dead(self) -> np.ndarray:
        """Who is dead, bool [units]."""
        return self.defined["dead"]

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of z over the examples, [units]."""
        examples = np.maximum(np.asarray(self.seen.examples), 1)
        return np.sqrt(np.asarray(self.seen.squares, float) / examples)

    def per_site(self, value: Callable[[Any], Any]) -> np.ndarray:
        """A value of each unit's site, [units]."""
        sites = self.probe.sites
        return np.repeat([value(site) for site in sites], [site.count for site in sites])


class Fix(NamedTuple):
    """One thing to do; a row of `FIXES`."""

    who: Callable[[Known], np.ndarray]  # for which units, bool [units]
    why: Callable[[Known, np.ndarray], str]  # of these units
    call: str  # what does it; {units} are their numbers
    unmeasured: str  # what is not known of it


class Suggestion(NamedTuple):
    """A fix for units of one model."""

    fix: str
    units: np.ndarray  # their numbers
    reason: str
    call: str
    unmeasured: str

    def __str__(self) -> str:
        return f"{self.fix} ({_units(len(self.units))}): {self.reason}"


def _units(count: int) -> str:
    return f"{count} unit{'' if count == 1 else 's'}"


def _nobody(known: Known) -> np.ndarray:
    return np.zeros(known.probe.units, bool)


def _invalid(known: Known) -> np.ndarray:
    return np.asarray(known.seen.invalid) > 0


def _undecided(known: Known) -> np.ndarray:
    return known.dead & (known.firing_bound > RARE)


def _why_undecided(known: Known, units: np.ndarray) -> str:
    examples = int(np.asarray(known.seen.examples)[units].min())
    return (
        f"silent on {examples} examples, which still allows one to fire for "
        f"{known.firing_bound[units].max():.2g} of all (95 %)"
    )


def _returning(known: Known) -> np.ndarray:
    wait = _nobody(known)
    if known.prognosis is not None:
        wait |= known.prognosis.verdict == Verdict.CERTIFIED_AT
    if known.forecast is not None:
        wait |= known.forecast.dead & (known.forecast.low >= LIKELY)
    return wait & known.dead


def _why_returning(known: Known, units: np.ndarray) -> str:
    parts = []
    if known.prognosis is not None:
        at = known.prognosis.step[units & (known.prognosis.verdict == Verdict.CERTIFIED_AT)]
        if at.size:
            parts.append(f"certified to return by itself, the last one at step {at.max()} from now")
    if known.forecast is not None:
        low = known.forecast.low[units & known.forecast.dead]
        if low.size and np.nanmax(low) >= LIKELY:
            parts.append(
                f"P(return within {known.forecast.steps} steps) is at least "
                f"{np.nanmin(low[low >= LIKELY]):.2f} ({known.forecast.trials} forks, 95 %)"
            )
    return "; ".join(parts)


def _enough(known: Known) -> list[SmallestChange]:
    """The changes that were tried by forks and are enough, without those that need none."""
    return [one for one in known.changes if one.value not in (None, one.now)]


def _changed(known: Known) -> np.ndarray:
    return known.dead & np.any([_nobody(known), *(one.units for one in _enough(known))], axis=0)


def _why_changed(known: Known, units: np.ndarray) -> str:
    return "; ".join(
        f"{one.name} {one.value:.4g} instead of {one.now:.4g} brings "
        f"{_units(int((one.units & units).sum()))} back: {one.chosen}"
        for one in _enough(known)
        if (one.units & units).any()
    )


def _constant(known: Known) -> np.ndarray:
    """Dead, and z is the same for every example, though layers below could move it."""
    same = np.asarray(known.seen.minimum) == np.asarray(known.seen.margin)
    several = np.asarray(known.seen.examples) > 1
    return known.dead & same & several & known.per_site(lambda site: bool(site.upstream))


def _near(known: Known) -> np.ndarray:
    """Dead, with a bias, and a shift by less than z's own range lifts it."""
    margin, minimum = (np.asarray(x, float) for x in (known.seen.margin, known.seen.minimum))
    shifted = known.per_site(lambda s: any(link.role in ("bias", "shift") for link in s.links))
    near = -margin < margin - minimum
    return known.dead & shifted & near & ~_constant(known) & ~_returning(known)


def _why_near(known: Known, units: np.ndarray) -> str:
    margin = np.asarray(known.seen.margin, float)
    nearest = int(np.argmax(np.where(units, margin, -np.inf)))
    lowest = margin[units].min()
    return (
        f"largest z {-margin[nearest]:.2g} (unit {nearest}) to {-lowest:.2g} below the threshold, "
        "less than z's own range: one shift of the bias"
    )


def _stuck(known: Known) -> np.ndarray:
    """Dead or flat, and nothing cheaper is for it."""
    lost = known.dead | known.defined["flat"]
    return lost & ~_near(known) & ~_constant(known) & ~_returning(known)


def _why_stuck(known: Known, units: np.ndarray) -> str:
    dead = units & known.dead
    parts = []
    if dead.any():
        margin = np.asarray(known.seen.margin, float)[dead]
        parts.append(
            f"largest z {-margin.max():.2g} to {-margin.min():.2g} below the threshold, more than "
            "z's own range, or no bias to shift"
        )
    if (units & ~known.dead).any():
        parts.append(f"{int((units & ~known.dead).sum())} stuck where the slope is 0 above")
    return "; ".join(parts)


def _rare(known: Known) -> np.ndarray:
    """Dormant, and yet it fires."""
    lost = known.dead | known.defined["flat"] | _invalid(known)
    return known.defined["dormant"] & ~lost


def _why_rare(known: Known, units: np.ndarray) -> str:
    examples = np.maximum(np.asarray(known.seen.examples), 1)
    rate = (np.asarray(known.seen.active) / examples)[units]
    return f"dormant, but they fire for {rate.min():.2g} to {rate.max():.2g} of the examples"


def _killed_by(name: str) -> Callable[[Known], np.ndarray]:
    def who(known: Known) -> np.ndarray:
        return _nobody(known) if known.cause is None else known.dead & (known.cause == name)

    return who


def _killers(name: str, remedy: str) -> Fix:
    return Fix(
        _killed_by(name),
        lambda known, units: f"{name} lowered their margins most before they died",
        remedy,
        "it prevents the next death and revives nobody; by how much is not measured here",
    )


AFTERWARDS = "whether they stay alive: inspection.prove compares with the same state left alone"

FIXES: dict[str, Fix] = {
    "find the NaN": Fix(
        _invalid,
        lambda known, units: "z was NaN, which is counted and never called dead",
        'jax.config.update("jax_debug_nans", True), then run the step again',
        "everything else of these units",
    ),
    "look at more examples": Fix(
        _undecided,
        _why_undecided,
        "inspection.diagnose(model, params, more_batches)",
        "whether they fire elsewhere: silence on a sample is not death",
    ),
    "change one number": Fix(
        _changed,
        _why_changed,
        "go on from the state, or with the step, that you gave smallest_change for this value",
        "what the change does to the other units and to the loss",
    ),
    "treat the layer below first": Fix(
        _constant,
        lambda known, units: "z is the same for every example: nothing that varies reaches them",
        "treat the dead units of the layers below, then diagnose again",
        "how many of them return with it",
    ),
    "kick": Fix(
        _near,
        _why_near,
        'inspection.treat("kick", {units}, params, memory, probe=found.probe, tx=tx, key=key, '
        "seen=found.seen)",
        AFTERWARDS,
    ),
    "redraw": Fix(
        _stuck,
        _why_stuck,
        'inspection.treat("redraw", {units}, params, memory, probe=found.probe, tx=tx, key=key, '
        "init=init)",
        AFTERWARDS,
    ),
    "lower the momentum or the learning rate": _killers(
        "residue", "what the optimizer remembers moved them: tx with a smaller momentum or rate"
    ),
    "lower the weight decay": _killers(
        "decay", "tx with a smaller weight_decay, or with mask= for no decay of biases"
    ),
    "lower the learning rate or clip": _killers(
        "gradient", "optax.chain(optax.clip_by_global_norm(1.0), tx), or a smaller rate"
    ),
    "lower the rate of the layers below": _killers(
        "upstream", "optax.multi_transform with a smaller rate for the layers below"
    ),
    "wait": Fix(_returning, _why_returning, "go on training", "what you lose until then"),
    "leave alone": Fix(
        _rare,
        _why_rare,
        "nothing: their gradient is not 0",
        "whether they are of use",
    ),
}


def suggest(known: Known) -> list[Suggestion]:
    """The fixes for these units, cheapest first; [] where nothing is wrong."""
    found = []
    for name, fix in FIXES.items():
        units = fix.who(known)
        if units.any():
            numbers = np.flatnonzero(units)
            listed = "[" + ", ".join(map(str, numbers[:8])) + (", ...]" if units.sum() > 8 else "]")
            reason, call = fix.why(known, units), fix.call.replace("{units}", listed)
            found.append(Suggestion(name, numbers, reason, call, fix.unmeasured))
    return found
