"""Following: the first step at which a unit whose own entries move by themselves may be alive."""

from typing import NamedTuple

import numpy as np

from relu_dynamics.inspection.prognosis.intervals import Interval
from relu_dynamics.inspection.prognosis.own_entries import Group, Model
from relu_dynamics.inspection.prognosis.zero_gradient import Box

MOST_LOOKS = 300  # at the units' margins in one stretch of steps; beyond, nothing is said


class Stretch(NamedTuple):
    """What happens in some steps; [units of the group] each."""

    alive: np.ndarray  # int, number of the step at which the unit is alive, for certain, or -1
    open: np.ndarray  # int, at which it may be, or -1
    highest: np.ndarray  # largest bound on the margin of the steps in which it is dead
    lowest: np.ndarray  # smallest margin that it may have at the step `alive`


def with_own(
    model: Model, settled: list[Interval], chosen: list[np.ndarray], own: Box
) -> list[Interval]:
    """Leaves with the chosen entries (flat numbers) within a box of one step."""
    inside = []
    for t, (rest, at) in enumerate(zip(settled, chosen, strict=True)):
        low, high = rest.low.copy().reshape(-1), rest.high.copy().reshape(-1)
        low[at], high[at] = own.low[t], own.high[t]
        inside.append(Interval(low.reshape(rest.low.shape), high.reshape(rest.low.shape)))
    return model.background(inside)


def follow(
    model: Model, group: Group, settled: list[Interval], chosen: list[np.ndarray], path: Box,
    pending: np.ndarray,
) -> Stretch:  # fmt: skip
    """The `Stretch` of the steps 1 ... of a path [steps + 1, entries], for the pending units
    (bool), which are dead at step 0.

    A stretch of steps is bounded at once, and halved for those units that this does not decide. z
    is affine in the entries, so it lies between its values at the two ends of the stretch but for
    what the entries are off the straight line between them.
    """
    count, last = group.site.count, len(path.low[0]) - 1
    stacks = {u: [(0, last)] for u in np.flatnonzero(pending)}
    alive, unsure = np.full(count, -1), np.full(count, -1)
    highest, lowest = np.full(count, -np.inf), np.full(count, np.nan)
    owners = [owner.reshape(-1)[at] for owner, at in zip(group.owner, chosen, strict=True)]
    for _ in range(MOST_LOOKS):
        now = {u: stack[-1] for u, stack in stacks.items() if stack}
        if not now:
            break
        starts, ends = np.zeros(count, int), np.zeros(count, int)
        for u, (a, b) in now.items():
            starts[u], ends[u] = a, b
        boxes = ends_of(path, owners, starts, ends, group.affine, group.u)
        found = [model.margins(group, with_own(model, settled, chosen, box)) for box in boxes]
        high, low = np.maximum(found[0].high, found[1].high), found[1].low
        for u, (a, b) in now.items():
            stack = stacks[u]
            stack.pop()
            if is_dead(high[u], group):
                highest[u] = max(highest[u], high[u])
            elif b > a + 1:
                stack.extend([((a + b) // 2, b), (a, (a + b) // 2)])
            else:
                stack.clear()
                sure = low[u] > 0
                (alive if sure else unsure)[u] = b
                lowest[u] = low[u]
    for u, stack in stacks.items():
        if stack:
            unsure[u] = stack[-1][1]
    return Stretch(alive, unsure, highest, lowest)


def is_dead(high: float, group: Group) -> bool:
    """Whether a bound on the margin is below 0, or at 0 where no gradient passes there."""
    return high < 0 or (high == 0 and group.slopes[1])


def ends_of(
    path: Box,
    owners: list[np.ndarray],
    starts: np.ndarray,
    ends: np.ndarray,
    affine: bool,
    u: float,
) -> tuple[Box, Box]:
    """Boxes at the first and the last step of each unit's stretch, so wide that between the two
    lie all steps after the first. Where z is not affine both hold all of these steps."""
    first, final = Box([], []), Box([], [])
    for low, high, owner in zip(path.low, path.high, owners, strict=True):
        a, b, entry = starts[owner], ends[owner], np.arange(len(owner))
        steps = np.arange(len(low))[:, None]
        inside = (steps > a) & (steps <= b)
        single = b <= a + 1
        if affine:
            share = (steps - a) / np.maximum(b - a, 1)
            line = [end[a, entry] + share * (end[b, entry] - end[a, entry]) for end in (low, high)]
            off = np.maximum(line[0] - low, high - line[1])
            off = np.where(inside, off, 0).max(0, initial=0)
            size = np.maximum(np.abs(low).max(0), np.abs(high).max(0))
            off = np.where(single, 0, np.maximum(off, 0) + 8 * u * size)  # rounding is not affine
            bounds = [
                (low[k, entry] - off, high[k, entry] + off) for k in (np.where(single, b, a), b)
            ]
        else:
            bounds = [(
                np.where(inside, low, np.inf).min(0, initial=np.inf),
                np.where(inside, high, -np.inf).max(0, initial=-np.inf),
            )] * 2  # fmt: skip
        for box, (lower, upper) in zip((first, final), bounds, strict=True):
            box.low.append(lower)
            box.high.append(upper)
    return first, final
