"""Prognosis: for every dead unit NEVER, AT step or POSSIBLE, and the theorem that says so.

    prognose(function, params, memory, batches, tx=tx) -> Prognosis

"Dead" is dead on every training example, so `batches` must be all of them, as training sees them: a
verdict says nothing of other inputs, of augmented ones, or of noise (dropout) that is not in them.
While a unit is dead its own parameters get no gradient. The optimizer's own program then says where
they are at every later step, and intervals that contain every rounding say what z can be there.

What is taken for granted: training moves the parameters by `tx` and nothing else, with gradients of
a function of what `function` returns (a penalty on the parameters must be part of `function`, so
give the loss where there is one); all numbers stay finite; and the optimizer's counts in range.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.certificates import Verdict
from relu_dynamics.checks import short_repr
from relu_dynamics.inspection.prognosis.clauses import (
    theorem_of,
    what_passes,
    what_prevents,
    why_never,
    why_open,
)
from relu_dynamics.inspection.prognosis.following import follow, is_dead, with_own
from relu_dynamics.inspection.prognosis.intervals import Interval, top
from relu_dynamics.inspection.prognosis.own_entries import Group, Model, read_model
from relu_dynamics.inspection.prognosis.zero_gradient import Box, Path, check_memory
from relu_dynamics.inspection.reading.watch import each_batch, find, look

FIRST_STRETCH, LONGEST_STRETCH = 64, 512  # steps that are run between two looks
MOST_NUMBERS = 8_000_000  # of a path that are held at once


class Prognosis(NamedTuple):
    """What is known of every unit's future; [units] of all sites, in the order of a `Probe`."""

    verdict: np.ndarray  # uint8, `certificates.Verdict`
    step: np.ndarray  # int32, of CERTIFIED_AT the steps from now after which it is alive, else -1
    theorem: tuple[str, ...]  # which of `clauses.CLAUSES` decided, or "none"
    reason: tuple[str, ...]  # why, in a clause; of POSSIBLE what prevents a verdict
    margin: np.ndarray  # float64, largest z - threshold over the examples
    bound: np.ndarray  # float64, NEVER: no margin up to the horizon is larger; AT: it is larger
    slack: np.ndarray  # float64, the allowance for rounding in `bound` now; nan where inputs move
    forever: np.ndarray  # bool, of NEVER whether it holds beyond `steps` too


class _Sheet:
    """The verdicts while they are found."""

    def __init__(self, margin: np.ndarray):
        units = len(margin)
        self.margin = margin
        self.verdict = np.where(margin <= 0, Verdict.POSSIBLE, Verdict.NOT_DEAD).astype(np.uint8)
        self.step = np.full(units, -1, np.int32)
        self.theorem, self.reason = ["none"] * units, [""] * units
        self.bound, self.slack = np.full(units, np.nan), np.full(units, np.nan)
        self.forever = np.zeros(units, bool)
        for unit in np.flatnonzero(self.verdict == Verdict.NOT_DEAD):
            self.reason[unit] = "it fires" if margin[unit] > 0 else "it is not a number"

    def open(self, part: slice) -> np.ndarray:
        """The dead units of a site without a verdict, bool."""
        return (self.verdict[part] == Verdict.POSSIBLE) & (np.array(self.reason[part]) == "")

    def decide(
        self, unit: int, verdict: Verdict, theorem: str, reason: str, **numbers: Any
    ) -> None:
        """Writes a verdict down."""
        self.verdict[unit], self.theorem[unit], self.reason[unit] = verdict, theorem, reason
        for name, value in numbers.items():
            getattr(self, name)[unit] = value


class _Settled:
    """Where entries of trained leaves are up to the horizon, unknown but for what is certain."""

    def __init__(self, boxes: list[Interval]):
        self.boxes = boxes
        self.limited: set[int] = set()  # leaves of which something is not certain beyond

    def add(self, chosen: list, hull: Box, mine: list[np.ndarray], forever: bool) -> None:
        """Chosen entries, of these the ones that are `mine`, stay within their hull."""
        for t, (at, own) in enumerate(zip(chosen, mine, strict=True)):
            low, high = self.boxes[t].low.copy(), self.boxes[t].high.copy()
            low.reshape(-1)[at[own]] = hull.low[t][own]
            high.reshape(-1)[at[own]] = hull.high[t][own]
            self.boxes[t] = Interval(low, high)
            if own.any() and not forever:
                self.limited.add(t)

    def ends(self, model: Model, group: Group) -> bool:
        """Whether what feeds a site is certain up to the horizon only."""
        return any(model.trained[k] in self.limited for k in group.moving)


def prognose(
    function: Callable,
    params: Any,
    memory: Any,
    batches: Iterable[Any],
    *,
    tx: optax.GradientTransformation,
    steps: int = 10_000,
    trainable: Any = None,
    exclude: Sequence[str] = (),
) -> Prognosis:
    """The `Prognosis` of every unit of `function(params, *batch)` for the next `steps` steps.

    Args:
      function: a model or a loss, as for `find`, of all that the loss depends on.
      params: its parameters at this step.
      memory: `tx`'s state at this step.
      batches: all training examples, as for `look`.
      tx: the optimizer, all that happens between gradients and parameters.
      steps: how far a verdict reaches at least.
      trainable: the part of `params` that `tx` trains, if not all. Of the rest nothing is taken
        for granted: close over what never changes, or freeze it in `tx`.
      exclude: names of sites that are none of hidden units.

    Raises a ValueError where the state is not one of `tx` for these parameters, where `trainable`
    is none of `params`, where there is no batch, nothing is rectified or `steps` is below 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"steps={short_repr(steps)} must be a whole number of steps >= 1.")
    data = list(each_batch(batches))
    find(function, params, *data[0], exclude=exclude)
    trained = params if trainable is None else trainable
    check_memory(tx, trained, memory)
    model = read_model(function, params, data, trained, memory, tx, exclude)
    seen = look(function, params, data, exclude=exclude)
    sheet = _Sheet(np.asarray(seen.margin, np.float64))
    settled = _Settled([top(jnp.shape(leaf)) for leaf in jax.tree.leaves(trained)])
    start = lambda masks: Path(tx, trained, memory, masks)  # noqa: E731
    with np.errstate(all="ignore"):  # unknown is infinite
        for group in reversed(model.groups):
            _silent_layer(sheet, model, group, settled, start, steps)
        for group in model.groups:
            _decide(sheet, model, group, settled, start, steps)
    return Prognosis(
        sheet.verdict,
        sheet.step,
        tuple(sheet.theorem),
        tuple(sheet.reason),
        sheet.margin,
        sheet.bound,
        sheet.slack,
        sheet.forever,
    )


def _decide(
    sheet: _Sheet, model: Model, group: Group, settled: _Settled, start: Callable, steps: int
) -> None:
    """The verdicts on a site's dead units, one by one; what is certain for ever is settled."""
    part = group.part
    pending, prevented = sheet.open(part), what_prevents(group)
    if prevented:
        for u in np.flatnonzero(pending):
            sheet.reason[part.start + u] = prevented
        return
    if not pending.any():
        return
    mine = [(owner >= 0) & pending[np.maximum(owner, 0)] for owner in group.owner]
    path = start(mine)
    now = model.margins(group, with_own(model, settled.boxes, path.chosen, path.now))
    moving = [k for k in group.moving if not model.is_settled(settled.boxes, k)]
    sure = np.array([is_dead(high, group) for high in now.high])
    for u in np.flatnonzero(pending & ~sure):
        sheet.reason[part.start + u] = why_open(model, group, moving, now.high[u])
    pending &= sure
    bound = np.where(pending, now.high, -np.inf)
    slack = np.full(len(bound), np.nan) if moving else (now.high - now.low) / 2
    lasting = not settled.ends(model, group)
    first, hull, done, stretch = path.now, path.now, 0, FIRST_STRETCH
    numbers = sum(map(len, path.chosen))
    never = lambda u, theorem, forever: sheet.decide(  # noqa: E731
        part.start + u, Verdict.CERTIFIED_NEVER, theorem, why_never(theorem, forever, steps),
        bound=bound[u], slack=slack[u], forever=forever,
    )  # fmt: skip
    while pending.any():
        for held in path.held():
            known = pending & _finite(group, path.chosen, held)
            if not known.any():
                continue
            high = model.margins(group, with_own(model, settled.boxes, path.chosen, held)).high
            holds = known & np.array([is_dead(one, group) for one in high])
            hull = _joined_of(holds, group, path.chosen, hull, held)
            moved = _moved(group, path.chosen, first, hull)
            for u in np.flatnonzero(holds):
                bound[u] = max(bound[u], high[u])
                never(u, theorem_of(moving, moved[u], forever=True), lasting)
            pending &= ~holds
        if done >= steps or not pending.any():
            break
        length = int(min(stretch, steps - done, max(1, MOST_NUMBERS // max(numbers, 1))))
        box = path.advance(length)
        found = follow(model, group, settled.boxes, path.chosen, box, pending)
        hull = hull.joined(box.hull)
        bound = np.maximum(bound, found.highest)
        for u in np.flatnonzero(pending & (found.alive >= 0)):
            at = done + int(found.alive[u])
            sheet.decide(
                part.start + u, Verdict.CERTIFIED_AT, "optimizer path",
                f"what the optimizer does without a gradient lifts it at step {at}",
                step=at, bound=found.lowest[u], slack=slack[u],
            )  # fmt: skip
        for u in np.flatnonzero(pending & (found.open >= 0)):
            step = done + int(found.open[u])
            sheet.reason[part.start + u] = (
                f"its inputs move, and may lift it from step {step} on"
                if moving
                else f"closer to its threshold than rounding allows to say, at step {step}"
            )
        pending &= (found.alive < 0) & (found.open < 0)
        done, stretch = done + length, min(2 * stretch, LONGEST_STRETCH)
    for u in np.flatnonzero(pending):
        never(u, theorem_of(moving, True, forever=False), False)
    stays = sheet.verdict[part] == Verdict.CERTIFIED_NEVER
    mine = [stays[o.reshape(-1)[at]] for o, at in zip(group.owner, path.chosen, strict=True)]
    settled.add(path.chosen, hull, mine, bool(sheet.forever[part][stays].all()))


def _silent_layer(
    sheet: _Sheet, model: Model, group: Group, settled: _Settled, start: Callable, steps: int
) -> None:
    """All units of a site are dead, and z depends only on parameters whose gradient passes through
    it: none of them gets any. If all stays dead on their path without one, that is their path."""
    if not sheet.open(group.part).all() or what_passes(group):
        return
    masks = [np.full(low.shape, t in group.behind) for t, (low, _) in enumerate(settled.boxes)]
    path = start(masks)
    hull, done, forever = path.now, 0, False
    while not forever:
        held = next(filter(_bounded, path.held()), None)
        forever = held is not None
        hull = hull.joined(held or path.now)
        high = model.margins(group, with_own(model, settled.boxes, path.chosen, hull)).high
        if not all(is_dead(one, group) for one in high):
            return
        if forever or done >= steps:
            break
        length = int(min(LONGEST_STRETCH, steps - done))
        hull, done = hull.joined(path.advance(length).hull), done + length
    forever &= not settled.ends(model, group)
    for u in range(group.site.count):
        sheet.decide(
            group.part.start + u, Verdict.CERTIFIED_NEVER, "silent layer",
            why_never("silent layer", forever, steps), bound=high[u], forever=forever,
        )  # fmt: skip
    settled.add(path.chosen, hull, [np.ones(len(at), bool) for at in path.chosen], forever)


def _bounded(box: Box) -> bool:
    """Whether every entry of a box is known to be within bounds."""
    return all(np.isfinite(end).all() for ends in box for end in ends)


def _of_units(group: Group, chosen: list[np.ndarray], flags: list[np.ndarray]) -> np.ndarray:
    """Which units own an entry that is flagged, bool."""
    units = np.zeros(group.site.count, bool)
    for owner, at, flag in zip(group.owner, chosen, flags, strict=True):
        units[owner.reshape(-1)[at][flag]] = True
    return units


def _finite(group: Group, chosen: list[np.ndarray], box: Box) -> np.ndarray:
    """Whose entries a box holds within bounds, bool."""
    ends = zip(box.low, box.high, strict=True)
    return ~_of_units(group, chosen, [~np.isfinite(a) | ~np.isfinite(b) for a, b in ends])


def _moved(group: Group, chosen: list[np.ndarray], first: Box, hull: Box) -> np.ndarray:
    """Which units have an own entry that ever moves, bool."""
    ends = zip(*first, *hull, strict=True)
    return _of_units(group, chosen, [(c < a) | (d > b) for a, b, c, d in ends])


def _joined_of(
    units: np.ndarray, group: Group, chosen: list[np.ndarray], hull: Box, held: Box
) -> Box:
    """The hull, of these units' entries joined with what holds them."""
    low, high = [], []
    for t, at in enumerate(chosen):
        mine = units[group.owner[t].reshape(-1)[at]]
        low.append(np.where(mine, np.minimum(hull.low[t], held.low[t]), hull.low[t]))
        high.append(np.where(mine, np.maximum(hull.high[t], held.high[t]), hull.high[t]))
    return Box(low, high)
