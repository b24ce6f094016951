"""Clauses: which theorem decided on a unit, and why, or what prevents a verdict, in plain words."""

from relu_dynamics.inspection.prognosis.own_entries import Group, Model
from relu_dynamics.inspection.reading.sites import FLAT

CLAUSES = {
    "no gradient": "its inputs are fixed, and the optimizer moves nothing without a gradient",
    "residue budget": "its inputs are fixed, and what is left in the optimizer's state does not "
    "lift it",
    "optimizer path": "its inputs are fixed, and what the optimizer does without a gradient does "
    "not lift it",
    "silent layer": "its whole layer is dead, so nothing that feeds it gets a gradient",
    "any inputs": "no inputs that it can get would lift it",
}


def theorem_of(moving: list[int], moved: bool, *, forever: bool) -> str:
    """The name of the theorem that certified a unit: its inputs move by these leaves, and whether
    its own entries ever move."""
    if moving:
        return "any inputs"
    if not moved:
        return "no gradient"
    return "residue budget" if forever else "optimizer path"


def why_never(theorem: str, forever: bool, steps: int) -> str:
    """What is said of a unit that stays dead."""
    return CLAUSES[theorem] + (", for ever" if forever else f", for the next {steps} steps")


def what_passes(group: Group) -> str:
    """Why the activation of a site may pass a gradient on when its unit is dead; "" where it
    cannot."""
    if group.site.kind not in FLAT:
        return f"its activation ({group.site.kind}) may pass a gradient on when it is dead"
    if group.site.kind == "jump":
        return "its threshold is a value of the program"
    if group.site.kind == "shrink" or group.site.side < 0:
        return "its activation passes on what is below a threshold, which no theorem here is about"
    if not group.slopes[0]:
        return "the derivative of its activation is not 0 below the threshold"
    return ""


def what_prevents(group: Group) -> str:
    """What prevents a verdict on every unit of a site; "" where nothing does."""
    if what_passes(group):
        return what_passes(group)
    if group.outside:
        return f"its own parameters act past it too ({', '.join(group.outside)})"
    if not any((owner >= 0).any() for owner in group.owner):
        return "no trained parameter is known to be its own alone"
    return ""


def why_open(model: Model, group: Group, moving: list[int], high: float) -> str:
    """Why a dead unit may be alive now, whose margin is below `high`."""
    if moving and not high < float("inf"):
        names = [model.names[k] for k in sorted(moving)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        open_norm = (
            ", and of its normalization no bound is known (a variance as mean(x^2) - mean(x)^2 may "
            "round to 0; in Flax give use_fast_variance=False)"
        )
        normalized = group.site.norm == "units"
        return f"its inputs move ({', '.join(names[:3])}{more})" + open_norm * normalized
    if moving:
        return "its inputs move, and may lift it"
    if not high < float("inf"):
        return "no bound on its rounding is known: the program has an operation without a rule"
    if high == 0:
        return "z may be exactly at its threshold, where the activation has a slope"
    return "closer to its threshold than rounding allows to say, now"
