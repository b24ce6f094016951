"""The smallest change of one number (a learning rate, a decay, a bias) that brings units back."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.checks import check_finite
from relu_dynamics.inspection.forecasts.forecast import Forecast


class Tried(NamedTuple):
    """One value, and how often the units came back with it."""

    value: float
    probability: float  # share of (fork, unit) pairs that recovered
    low: float  # its interval; of all values tried together
    high: float
    forks: int  # independent ones

    @property
    def certain(self) -> bool:
        """Whether nothing was random, so one path is the whole answer and has no interval."""
        return self.forks == 1

    def __str__(self) -> str:
        ends = "nothing random" if self.certain else f"[{self.low:.2f}, {self.high:.2f}]"
        forks = f"{self.forks} fork{'s' * (self.forks > 1)}"
        return f"P = {self.probability:.2f} {ends}, {forks}"


class SmallestChange(NamedTuple):
    """What was found; print it for all values that were tried."""

    value: (
        float | None
    )  # nearest to `now` of those whose `low` is above `probability`; None of none
    now: float
    probability: float  # asked for
    level: float  # of all intervals together
    tried: tuple[Tried, ...]  # by value
    name: str  # of the number
    units: np.ndarray  # bool [units], of which it was asked
    reversals: tuple[tuple[float, float], ...]
    """(smaller change, larger change of the same sign) pairs of which the larger surely helps less:
    their intervals lie apart. The response is then not monotone, and between the values tried it
    may be anything."""

    @property
    def chosen(self) -> Tried | None:
        """What came out with `value`; None of none."""
        return next((row for row in self.tried if row.value == self.value), None)

    def __str__(self) -> str:
        found = "none of these" if self.value is None else f"{self.value:.6g}"
        lines = [
            f"P(recover) > {self.probability:g}: {self.name} {found} (now {self.now:.6g}; "
            f"intervals of {self.level:.0%} together, {len(self.tried)} values)"
        ]
        lines += [f"  {row.value:.6g}: {row}" for row in self.tried]
        for smaller, larger in self.reversals:
            lines.append(f"  not monotone: {larger:.6g} helps less than {smaller:.6g}")
        return "\n".join(lines)


def smallest_change(
    run_with: Callable[[float], Forecast],
    values: Sequence[float],
    units: Any = None,
    *,
    now: float,
    name: str = "value",
    probability: float = 0.5,
    refine: int = 4,
    geometric: bool = False,
    level: float = 0.95,
) -> SmallestChange:
    """The value nearest to `now` with which P(recover) is surely above `probability`.

    `now` and all `values` are tried. Then the gap between the nearest value that is enough and the
    value before it, which is not, is halved `refine` times. A smaller change that is enough may
    hide between two values that are not: `values` decides how finely it is looked for.

    Args:
      run_with: value -> the forecast with it: of a step made with this learning rate, or of a state
        whose bias is kicked by so much. Give every value forks of its own key, or all the same
        key to compare them on the same batches.
      values: finite numbers, in any order, on one side of `now` or on both.
      units: numbers or bools [units], of which the share of (fork, unit) pairs that recover is
        asked; by default those that are dead with `now`. What a value lifts at once has recovered.
      now: the present value.
      name: what the number is, as a report is to call it: "learning rate".
      probability: to be exceeded by the lower end of the interval, between 0 and 1.
      refine: halvings.
      geometric: whether changes are factors (of learning rates) and not differences; all values
        must then be > 0.
      level: of all intervals together (Bonferroni over all values that may be tried).

    Raises a ValueError for numbers that make no sense, and when so few forks are run that no value
    could be enough.
    """
    every = [check_finite("now", now), *(check_finite("values", value) for value in values)]
    _check(every, probability, refine, geometric, level)
    each = 1 - (1 - level) / (len(every) + refine)
    scale = np.log if geometric else np.asarray
    distance = lambda value: abs(float(scale(value) - scale(now)))  # noqa: E731
    tried: dict[float, Tried] = {}
    chosen = units
    asked = np.zeros(0, bool)

    def enough(value: float) -> bool:
        nonlocal chosen, asked
        forecast = run_with(value)
        if chosen is None:  # `now` comes first
            chosen = np.flatnonzero(forecast.dead)
        asked = np.zeros(len(forecast.dead), bool)
        asked[np.asarray(chosen)] = True
        tried[value] = _tried(value, forecast, chosen, each, probability)
        return tried[value].low > probability

    good = [value for value in every if enough(value)]
    best = min(good, key=distance) if good else None
    if best is not None and best != now:
        inner = [v for v in every if distance(v) < distance(best) and _beyond(v, best, now)]
        short = max(inner, key=distance)
        for _ in range(refine):
            middle = float(np.sqrt(short * best)) if geometric else (short + best) / 2
            if middle in tried:
                break
            short, best = (short, middle) if enough(middle) else (middle, best)
    rows = tuple(tried[value] for value in sorted(tried))
    reversals = _reversals(rows, now)
    return SmallestChange(best, now, probability, level, rows, name, asked, reversals)


def _beyond(value: float, other: float, now: float) -> bool:
    """Whether a value is `now`, or on the same side of it as another."""
    return value == now or (value > now) == (other > now)


def _tried(value, forecast: Forecast, units, level: float, probability: float) -> Tried:
    share = forecast.pooled(units, level)
    estimate = float(share.estimate)
    if forecast.identical:
        return Tried(value, estimate, estimate, estimate, 1)
    most = ((1 - level) / 2) ** (1 / forecast.forks)
    if most <= probability:
        needed = int(np.log((1 - level) / 2) / np.log(probability)) + 1
        raise ValueError(
            f"forks={forecast.forks} are too few: even if all recover, the lower end of the "
            f"interval is {most:.2f}, not above probability={probability}; use {needed} forks."
        )
    return Tried(value, estimate, float(share.low), float(share.high), forecast.forks)


def _reversals(rows: Sequence[Tried], now: float) -> tuple[tuple[float, float], ...]:
    found = []
    for side in (1, -1):
        own = sorted(
            (row for row in rows if side * (row.value - now) >= 0),
            key=lambda row: abs(row.value - now),
        )
        for number, row in enumerate(own):
            better = [before for before in own[:number] if before.low > row.high]
            if better:
                found.append((max(better, key=lambda one: one.low).value, row.value))
    return tuple(found)


def _check(every, probability, refine, geometric, level) -> None:
    if len(every) < 2 or len(set(every)) < len(every):
        raise ValueError(f"values={every[1:]} must differ from each other and from now={every[0]}.")
    if geometric and min(every) <= 0:
        raise ValueError(f"values={every[1:]}, now={every[0]}: factors need numbers > 0.")
    for name, share in (("probability", probability), ("level", level)):
        if not 0 < share < 1:
            raise ValueError(f"{name}={share} must be between 0 and 1.")
    if refine < 0:
        raise ValueError(f"refine={refine} must be at least 0.")
