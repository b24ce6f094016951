"""Forecasts against futures: the reliability curve, Brier scores beside a base rate, claims.

A *pair* is a dead unit of a held-out network and one of its unseen futures: the unit recovered or
not, 1 or 0. Units and futures of one network go together, so every interval is clustered by
network: Korn-Graubard for shares, a bootstrap over networks of every kind for scores.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.calibration.certified import Certified
from experiments.calibration.kinds import KINDS
from experiments.calibration.returning import Returned
from experiments.calibration.simulation import Futures
from experiments.calibration.sweep import Options
from relu_dynamics.statistics import clustered_interval, exact_interval
from relu_dynamics.statistics.claims import Claim, print_claims

SOURCE = "this project's forecasts"
EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of forecasts strictly between 0 and 1
CLOSE = 0.03  # a difference of probabilities below this does not matter
RESAMPLES = 2000
DEFINITION = (
    "dead: max z <= 0 over all training examples; recovered: alive at one of the looks, one every "
    "10 steps, within the steps of the forecast"
)


class Units(NamedTuple):
    """The dead units of the held-out networks, [units] each."""

    network: np.ndarray  # number of it, over all kinds
    kind: np.ndarray  # number of it
    forecast: np.ndarray  # share of forks in which it recovered
    outcome: np.ndarray  # share of unseen futures in epochs
    resampled: np.ndarray  # share of unseen futures with batches drawn as for the forks
    base: np.ndarray  # base rate of its kind, from other networks


class Trained(NamedTuple):
    """What came out of all kinds, by name."""

    futures: Mapping[str, Futures]
    certified: Mapping[str, Certified]
    returned: Mapping[str, Returned]


def summarize(options: Options, trained: Trained) -> dict[str, Any]:
    """The numbers and claims of all kinds."""
    results = trained.futures
    rates = {name: base_rate(options, futures) for name, futures in results.items()}
    units = held_out(options, results, rates)
    scores = brier_scores(options, units)
    rows = reliability(options, units, units.outcome)
    drawn_anew = reliability(options, units, units.resampled)
    return {
        "definition": DEFINITION,
        "interval": "95 %, clustered by network: Korn-Graubard for shares, bootstrap for scores",
        "networks": options.networks * len(results),
        "networks_with_dead_units": len(np.unique(units.network)),
        "units": len(units.network),
        "forks": options.forks,
        "futures": options.futures,
        "ahead": options.ahead,
        "reliability": rows,
        "reliability_drawn_anew": drawn_anew,
        "among_forks": among_forks(options, units),
        "scores": scores,
        "kinds": [
            kind_row(options, name, number, units, rates[name])
            for number, name in enumerate(results)
        ],
        "certified": {name: row._asdict() for name, row in trained.certified.items()},
        "returned": {
            name: {field: int(sum(part)) for field, part in row._asdict().items()}
            for name, row in trained.returned.items()
        },
        "claims": [
            *claims(options, units, (rows, drawn_anew), scores),
            certified_claim(options, trained.certified),
            returned_claim(options, trained.returned),
        ],
    }


def base_rate(options: Options, futures: Futures) -> float:
    """The share of pairs that recovered in the networks that are kept for the base rate; a half of
    one success and a half of one failure are added, so a rate is never surely 0 or 1."""
    own = slice(0, options.base)
    dead = int(futures.dead[own].sum()) * options.futures
    return (int(futures.epochs[own].sum()) + 0.5) / (dead + 1)


def held_out(options: Options, results: Mapping[str, Futures], rates: Mapping[str, float]) -> Units:
    """The dead units of all held-out networks. Raises a ValueError where there is none."""
    parts = []
    for number, (name, futures) in enumerate(results.items()):
        network, unit = np.nonzero(futures.dead[options.base :])
        at = network + options.base, unit
        parts.append(
            Units(
                network + number * options.networks,
                np.full(len(unit), number),
                futures.forked[at] / options.forks,
                futures.epochs[at] / options.futures,
                futures.resampled[at] / options.futures,
                np.full(len(unit), rates[name]),
            )
        )
    units = Units(*map(np.concatenate, zip(*parts, strict=True)))
    if not len(units.network):
        raise ValueError(
            f"networks={options.networks} have no dead unit; train more, or for longer."
        )
    return units


# Reliability ----------------------------------------------------------------------------------


def bin_of(forecast: np.ndarray) -> np.ndarray:
    """0 for a forecast of exactly 0, the last bin for exactly 1, and those of `EDGES` between."""
    inner = np.digitize(forecast, EDGES[1:-1], right=True) + 1
    return np.where(forecast == 0, 0, np.where(forecast == 1, len(EDGES), inner))


def reliability(options: Options, units: Units, outcome: np.ndarray) -> list[dict[str, Any]]:
    """A row per bin of the forecast: its mean, and how often that happened by these outcomes."""
    rows = []
    for number in range(len(EDGES) + 1):
        own = bin_of(units.forecast) == number
        if not own.any():
            continue
        happened = share(options, units, outcome, own)
        rows.append(
            {"forecast": float(units.forecast[own].mean()), "units": int(own.sum())}
            | happened.as_json()
        )
    return rows


def share(options: Options, units: Units, outcome: np.ndarray, own: np.ndarray):
    """The share of pairs of chosen units that recovered, clustered by network."""
    networks = np.unique(units.network[own], return_inverse=True)[1]
    trials = options.futures * np.bincount(networks)
    successes = np.bincount(networks, np.rint(options.futures * outcome[own])).astype(int)
    return clustered_interval(successes, trials)


def among_forks(options: Options, units: Units) -> list[dict[str, float]]:
    """What the reliability would be if a future were one more fork: every fork is once the future,
    and the others are its forecast. Where it leaves the diagonal, the number of forks is why."""
    forks = options.forks
    came = np.rint(units.forecast * forks)
    forecast = np.concatenate([(came - 1) / (forks - 1), came / (forks - 1)])
    outcome = np.repeat([1.0, 0.0], len(came))
    weight = np.concatenate([came, forks - came])
    possible = weight > 0
    rows = []
    for number in range(len(EDGES) + 1):
        own = possible & (bin_of(np.clip(forecast, 0, 1)) == number)
        if own.any():
            mean = lambda values, own=own: float(np.average(values[own], weights=weight[own]))  # noqa: E731
            rows.append({"forecast": mean(forecast), "estimate": mean(outcome)})
    return rows


# Scores ---------------------------------------------------------------------------------------


def brier(forecast: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Each unit's mean over its futures of (forecast - what happened, 0 or 1)^2, from the share of
    futures in which it recovered (Brier, Monthly Weather Review 78 (1950) 1)."""
    return outcome * (1 - forecast) ** 2 + (1 - outcome) * forecast**2


def expected(forecast: np.ndarray, forks: int) -> np.ndarray:
    """The Brier score of each unit's forecast if a future is one more fork, without bias:
    E (c / n - y)^2 = p (1 - p) (1 + 1 / n), and c (n - c) / (n (n - 1)) estimates p (1 - p)."""
    return forecast * (1 - forecast) * (forks + 1) / (forks - 1)


def brier_scores(options: Options, units: Units) -> dict[str, Any]:
    """Scores and their differences, with intervals."""
    own = brier(units.forecast, units.outcome)
    base = brier(units.base, units.outcome)
    of_forks = expected(units.forecast, options.forks)
    return {
        "brier": interval(units, own),
        "brier_of_base_rate": interval(units, base),
        "skill": interval(units, own, base, lambda a, b: 1 - a / b if b else np.nan),
        "brier_if_one_more_fork": interval(units, of_forks),
        "excess": interval(units, own - of_forks),
        "bias": interval(units, units.outcome - units.forecast),
        "bias_resampled": interval(units, units.resampled - units.forecast),
        "epochs_less_resampled": interval(units, units.outcome - units.resampled),
    }


def interval(
    units: Units,
    first: np.ndarray,
    second: np.ndarray | None = None,
    combine: Callable[[float, float], float] = lambda a, _: a,
) -> dict[str, Any]:
    """combine(mean of the first, mean of the second) over units, with a 95 % percentile interval
    of `RESAMPLES` bootstrap samples of networks, of every kind as many as there are."""
    names, where = np.unique(units.network, return_inverse=True)
    kind = np.zeros(len(names), int)
    kind[where] = units.kind
    count = np.bincount(where)
    sums = [np.bincount(where, part) for part in (first, first if second is None else second)]
    members = [np.flatnonzero(kind == number) for number in np.unique(kind)]
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([rng.choice(own, len(own)) for own in members])
        values.append(combine(*(part[chosen].sum() / count[chosen].sum() for part in sums)))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    estimate = combine(*(part.sum() / count.sum() for part in sums))
    return {
        "estimate": float(estimate),
        "interval": [float(low), float(high)],
        "seeds": len(names),
    }


def kind_row(options: Options, name: str, number: int, units: Units, rate: float) -> dict[str, Any]:
    """The numbers of one kind; without scores where none of its units is dead."""
    own = units.kind == number
    row = {
        "kind": name,
        "words": KINDS[name].words,
        "units": int(own.sum()),
        "networks": int(len(np.unique(units.network[own]))),
        "base_rate": rate,
    }
    if not own.any():
        return row
    part = Units(*(column[own] for column in units))
    return row | {
        "forecast": float(part.forecast.mean()),
        "happened": share(options, part, part.outcome, np.ones(len(part.kind), bool)).as_json(),
        "brier": interval(part, brier(part.forecast, part.outcome)),
        "brier_of_base_rate": interval(part, brier(part.base, part.outcome)),
    }


# Claims ---------------------------------------------------------------------------------------


def claims(
    options: Options,
    units: Units,
    reliabilities: tuple[Sequence[Mapping], Sequence[Mapping]],
    scores: Mapping[str, Mapping],
) -> list[Claim]:
    """What the numbers say; reliabilities are in epochs, and with batches drawn anew."""
    count = (
        f"{len(np.unique(units.network))} held-out networks with dead units, "
        f"{len(units.network):,} units, {options.futures} futures each"
    )
    shared: dict[str, Any] = {
        "source": SOURCE,
        "count": count,
        "definition": DEFINITION,
        "figure": "calibration",
    }
    bias, skill, excess = scores["bias"], scores["skill"], scores["excess"]
    orders = scores["epochs_less_resampled"]
    bins = len(reliabilities[0])
    inside = [
        sum(row["interval"][0] <= row["forecast"] <= row["interval"][1] for row in rows)
        for rows in reliabilities
    ]
    return [
        Claim(
            claim="Forecasts by replayed forks are right on average",
            verdict=within(bias["interval"], CLOSE),
            finding=f"What happened less what was forecast: {ends(bias)}; right if within {CLOSE} "
            f"of 0. The mean forecast lies in the interval of what happened in {inside[0]} of "
            f"{bins} bins, and in {inside[1]} of them where the futures' batches are drawn as for "
            "the forks.",
            estimate=bias["estimate"],
            interval=tuple(bias["interval"]),
            **shared,
        ),
        Claim(
            claim="Forecasts by replayed forks say more than the base rate of other networks of "
            "the same kind",
            verdict=sign(skill["interval"]),
            finding=f"Brier score {scores['brier']['estimate']:.4f} against "
            f"{scores['brier_of_base_rate']['estimate']:.4f}: skill {ends(skill)}.",
            estimate=skill["estimate"],
            interval=tuple(skill["interval"]),
            **shared,
        ),
        Claim(
            claim="An unseen future is like one more fork",
            verdict=within(excess["interval"], CLOSE),
            finding=f"Brier score less what it would be for one more fork: {ends(excess)}.",
            estimate=excess["estimate"],
            interval=tuple(excess["interval"]),
            **shared,
        ),
        Claim(
            claim="Batches drawn anew at every step forecast training in epochs",
            verdict=within(orders["interval"], CLOSE),
            finding=f"Recoveries in epochs less those with batches drawn anew: {ends(orders)}.",
            estimate=orders["estimate"],
            interval=tuple(orders["interval"]),
            **shared,
        ),
    ]


def certified_claim(options: Options, certified: Mapping[str, Certified]) -> Claim:
    """Whether a verdict by theorem was broken."""
    total = Certified(*map(sum, zip(*certified.values(), strict=True)))
    runs = options.forks + 2 * options.futures
    broken = exact_interval(total.never_broken, total.never)
    return Claim(
        claim="A unit of which a theorem says NEVER does not come back, and one AT a step does",
        source=SOURCE,
        verdict=(
            "refuted"
            if total.never_broken + total.at_broken
            else "confirmed"
            if total.never + total.at
            else "undecided"
        ),
        finding=f"NEVER: {total.never} units, {total.never_broken} broken. AT a step within "
        f"{options.ahead}: {total.at} units, {total.at_broken} not seen alive. Without a verdict: "
        f"{total.open}. Each against {runs} forks and futures.",
        estimate=float(broken.estimate),
        interval=(float(broken.low), float(broken.high)),
        count=f"{total.networks} networks, {total.never + total.at + total.open} dead units",
        definition="share of NEVER units that recovered in a fork or a future; " + DEFINITION,
        figure="calibration",
    )


def returned_claim(options: Options, returned: Mapping[str, Returned]) -> Claim:
    """Whether units come back at the very step that a theorem names."""
    whole = Returned(*map(np.concatenate, zip(*returned.values(), strict=True)))
    named, right = int(whole.named.sum()), int(whole.right.sum())
    share = clustered_interval(whole.right, whole.named)
    return Claim(
        claim="A unit of which a theorem says AT a step is alive for the first time at that step",
        source=SOURCE,
        verdict="refuted" if right < named else "confirmed" if named else "undecided",
        finding=f"{named} of {int(whole.dead.sum())} dead units get a step within {options.ahead}: "
        f"{right} are alive for the first time at that very step in each of {options.futures} "
        f"futures, {int(whole.early.sum())} before it in some. {int(whole.open.sum())} have no "
        "verdict.",
        estimate=float(share.estimate),
        interval=(float(share.low), float(share.high)),
        count=f"{len(whole.dead)} networks of {len(returned)} kinds whose biases decay",
        definition="share of AT units that are right, clustered by network; alive: max z > 0 over "
        "all training examples, looked at after every step",
        figure="calibration",
    )


def ends(row: Mapping[str, Any]) -> str:
    """An estimate with its interval, as text."""
    low, high = row["interval"]
    return f"{row['estimate']:+.3f} [{low:+.3f}, {high:+.3f}]"


def within(interval: Sequence[float], close: float) -> str:
    """The verdict on "it is 0, or so close that it does not matter"."""
    low, high = interval
    if -close <= low and high <= close:
        return "confirmed"
    return "refuted" if low > close or high < -close else "undecided"


def sign(interval: Sequence[float]) -> str:
    """The verdict on "it is above 0"."""
    low, high = interval
    return "confirmed" if low > 0 else "refuted" if high < 0 else "undecided"


def report(summary: Mapping[str, Any]) -> None:
    """The reliability curve and the claims as text."""
    print(f"{'forecast':>8} {'happened':>24} units")
    for row in summary["reliability"]:
        low, high = row["interval"]
        print(
            f"{row['forecast']:8.3f} {row['estimate']:8.3f} [{low:.3f}, {high:.3f}] "
            f"{row['units']:5,}"
        )
    print_claims(summary["claims"])
