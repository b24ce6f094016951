"""The analysis: what is compared of every run, the rows, the tests and the claims. From stored
results alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.consequences.sweep import (
    SHARE,
    Options,
    capacity_name,
    killed_name,
    left,
    new_name,
)
from experiments.consequences.thresholds import slopes_around, threshold_test, worse_row
from relu_dynamics import statistics
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim

SOURCE = "dying ReLU"
WORSE = 0.1  # 10 % more loss
POINT = 0.01  # one point of error
DEAD = "killed: incoming weights 0 and bias -1, so max z = -1 over the training examples"

Numbers = Mapping[str, np.ndarray]  # what is compared, [cells, seeds] each


class Results(NamedTuple):
    """What was trained."""

    killed: Mapping[str, xr.Dataset]  # by arm
    new: Mapping[str, Mapping[str, np.ndarray]]  # by arm: `missing.new_reading` of all seeds
    missing: Mapping[str, float]  # `missing.missing_difference` of one network


# Numbers per run ----------------------------------------------------------------------------------


def steps_to_threshold(losses: np.ndarray, threshold: float, every: int) -> np.ndarray:
    """The step at the end of the first stretch between two evaluations whose mean loss is below the
    threshold; the horizon plus one stretch where none is, or where the loss was not finite.
    `losses` is [..., evaluations]; `every` the steps between two evaluations."""
    reached = losses < threshold  # False for nan
    first = np.where(reached.any(-1), reached.argmax(-1), losses.shape[-1])
    return (first + 1) * every


def convergence(losses: np.ndarray, threshold: float, every: int, horizon: int) -> Numbers:
    """Steps to the threshold (censored ones at the horizon), whether it was reached, and the last
    loss, of `losses` [..., evaluations]."""
    steps = steps_to_threshold(losses, threshold, every)
    return {
        "steps": np.minimum(steps, horizon).astype(float),
        "reached": steps <= horizon,
        "training_loss": losses[..., -1].astype(float),
    }


def per_run(result: xr.Dataset, threshold: float) -> Numbers:
    """What is compared of networks with killed units: held-out loss and error, convergence; units
    that are dead at the last evaluation and were not killed, killed units that came back."""
    config, axis = estimates.config_of(result), "killed_fraction"
    at = lambda name, *rest: result[name].transpose(axis, "seed", *rest).values  # noqa: E731
    margin = at("margin", "unit")
    killed = margin == -1  # exactly: weights 0, bias -1, and nothing may move them
    shares, widths = result[axis].values, np.array(config["hidden"])
    wanted = np.round(shares[:, None] * widths).sum(-1, keepdims=True)  # of every cell
    return {
        **convergence(at("loss", "look"), threshold, config["probe_every"], config["steps"]),
        "loss": at("held_loss").astype(float),
        "error": at("held_error").astype(float),
        "died": ((margin <= 0) & ~killed).sum(-1),
        "awakened": wanted - killed.sum(-1),
        "diverged": at("diverged_at") != NEVER,
    }


def per_new_run(read: Mapping[str, np.ndarray], options: Options) -> Numbers:
    """The same of one size of new networks, [1, seeds] each."""
    config = options.config
    row = {
        **convergence(read["losses"], options.threshold, config.probe_every, config.steps),
        "loss": read["loss"].astype(float),
        "error": read["error"].astype(float),
        "died": read["died"],
        "awakened": np.zeros(len(read["died"])),
        "diverged": read["diverged"],
    }
    return {name: values[None] for name, values in row.items()}


def mean_row(values: np.ndarray, bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """Mean over seeds [seeds] with its interval, as plain values."""
    return statistics.seed_clustered_mean(values.astype(float), bounds=bounds).as_json()


# The summary --------------------------------------------------------------------------------------


def summarize(options: Options, results: Results) -> dict[str, Any]:
    """All rows, tests and claims."""
    numbers = {name: per_run(r, options.threshold) for name, r in results.killed.items()}
    numbers |= {name: per_new_run(read, options) for name, read in results.new.items()}
    tests = [test for width in options.widths for test in width_tests(options, numbers, width)]
    return {
        "definitions": {
            "killed": DEAD,
            "steps": f"steps until the mean minibatch loss between two evaluations is below "
            f"{options.threshold:g} nats; runs that did not get there count with the horizon "
            f"{options.config.steps} (restricted mean)",
            "loss": "cross-entropy (nats) on held-out examples after the last step",
            "memorizing": "share of all 1,797 randomly relabelled digits that is wrong after "
            f"{options.capacity.steps} steps",
        },
        "interval": "t over seeds (means), bootstrap over seeds (knots and fractions), 95 %",
        "threshold": options.threshold,
        "steps": options.config.steps,
        "widths": list(options.widths),
        "seeds": options.seeds,
        "rows": [row for width in options.widths for row in width_rows(options, numbers, width)],
        "tests": tests,
        "missing": results.missing,
        "awakened": int(sum(v["awakened"].sum() for v in numbers.values())),
        "killed_units": _killed_units(options),
        "diverged_runs": int(sum(v["diverged"].sum() for v in numbers.values())),
        "hazards": {
            f"width {width}": hazard_rows(results.killed[killed_name(width)])
            for width in options.widths
        },
        "claims": make_claims(options, numbers, tests, results.missing),
    }


def width_rows(options: Options, numbers: Mapping[str, Numbers], width: int) -> list[dict]:
    """Every share of every arm of a width."""
    arms = {
        "killed at step 0": killed_name(width),
        "killed at half": killed_name(width, late=True),
        "memorizing": capacity_name(width),
    }
    rows = [
        _row(arm, width, share, {field: v[i] for field, v in numbers[name].items()})
        for arm, name in arms.items()
        for i, share in enumerate(options.fractions)
    ]
    for share in options.smaller:
        own = {field: v[0] for field, v in numbers[new_name(left(width, share))].items()}
        rows.append(_row("new and smaller", width, share, own))
    return rows


def _row(arm: str, width: int, share: float, values: Numbers) -> dict[str, Any]:
    finite = ~values["diverged"]
    row = {"arm": arm, "width": width, "fraction": share, "units_left": left(width, share)}
    for name in ("loss", "error", "steps", "training_loss"):
        row[name] = mean_row(values[name][finite])
    row["reached"] = mean_row(values["reached"], (0.0, 1.0))
    row["died_unkilled"] = int(values["died"].sum())
    row["diverged"] = int(values["diverged"].sum())
    return row


def width_tests(options: Options, numbers: Mapping[str, Numbers], width: int) -> list[dict]:
    """Whether the curves of a width bend, and from which share each is worse."""
    fractions = np.array(options.fractions)
    early, memory = numbers[killed_name(width)], numbers[capacity_name(width)]
    curves = {
        "held-out loss": early["loss"].T,
        "steps to threshold": early["steps"].T,
        "training error on random labels": memory["error"].T,
    }
    tests = [_test_row(quantity, width, fractions, c) for quantity, c in curves.items()]
    point = worse_row(fractions, early["error"].T, 1.0, POINT)
    return [*tests, {"quantity": "held-out error", "width": width, "point_worse": point}]


def _test_row(quantity: str, width: int, fractions: np.ndarray, curves: np.ndarray) -> dict:
    below, above = slopes_around(fractions, curves)
    difference = statistics.paired_mean(above, below)
    return {
        "quantity": quantity,
        "width": width,
        "slope_below": mean_row(below),
        "slope_above": mean_row(above),
        "bend": [float(difference.estimate), float(difference.low), float(difference.high)],
        "tenth_worse": worse_row(fractions, curves, 1 + WORSE, 0.0),
        **threshold_test(fractions, curves),
    }


def _killed_units(options: Options) -> int:
    early_late_memory = 3
    killed = sum(width - left(width, f) for width in options.widths for f in options.fractions)
    return 2 * killed * options.seeds * early_late_memory


def hazard_rows(result: xr.Dataset) -> list[dict[str, float]]:
    """Death and recovery per evaluation of the units, in the last window, per killed fraction."""
    table = estimates.hazards(result, windows=2).isel(window=-1)
    return [
        {"fraction": float(share), **estimates.hazard_as_json(table.isel(killed_fraction=i))}
        for i, share in enumerate(table.killed_fraction.values)
    ]


# Claims -------------------------------------------------------------------------------------------

COSTS = (  # sentence, arm of a width, quantity, what it is called
    (
        "Dead units reduce the capacity of the network",
        capacity_name,
        "error",
        "Training error on random labels",
    ),
    ("Dead units slow down convergence", killed_name, "steps", "Restricted mean steps"),
    ("Dead units worsen what the network learns", killed_name, "loss", "Held-out loss"),
)


def make_claims(
    options: Options, numbers: Mapping[str, Numbers], tests: Sequence[Mapping], equal: Mapping
) -> list[Claim]:
    """Every claim with its verdict; those by a difference are one family."""
    found = [
        *cost_claims(options, numbers),
        *(
            claim
            for width in options.widths
            for claim in (
                late_claim(numbers, options, width),
                *missing_claims(numbers, options, width),
            )
        ),
    ]
    return [same_as_missing(equal), severe_claim(options, tests), *claims.controlled(found)]


def cost_claims(options: Options, numbers: Mapping[str, Numbers]) -> list[Claim]:
    """What the article's share of dead units costs, and what the largest does, at every width."""
    places = dict.fromkeys((options.fractions.index(SHARE), len(options.fractions) - 1))
    return [
        _difference(
            f"{claim} (width {width}, {options.fractions[place]:.0%} dead against none)",
            SOURCE,
            numbers[arm(width)][quantity][place],
            numbers[arm(width)][quantity][0],
            finding=f"{what} {{first:.3g}} with {options.fractions[place]:.0%} killed, "
            "{second:.3g} with none: {estimate:+.3g} [{low:+.3g}, {high:+.3g}].",
        )
        for place in places
        for claim, arm, quantity, what in COSTS
        for width in options.widths
    ]


def late_claim(numbers: Mapping[str, Numbers], options: Options, width: int) -> Claim:
    """Whether units that die late cost more than units that were dead from the start."""
    at = options.fractions.index(SHARE)
    return _difference(
        f"Units that die late cost more than units that were dead from the start "
        f"(width {width}, {SHARE:.0%})",
        "this project",
        numbers[killed_name(width, late=True)]["loss"][at],
        numbers[killed_name(width)]["loss"][at],
        finding="Held-out loss {first:.3g} killed at half of the run, {second:.3g} killed "
        "at step 0: {estimate:+.3g} [{low:+.3g}, {high:+.3g}].",
    )


def missing_claims(numbers: Mapping[str, Numbers], options: Options, width: int) -> list[Claim]:
    """Whether a dead unit costs more than one that a new network does not have."""
    return [
        _difference(
            f"A dead unit costs more than a unit that is not there, in a network that was "
            f"initialized at that size (width {width}, {share:.0%})",
            "this project",
            numbers[killed_name(width)]["loss"][options.fractions.index(share)],
            numbers[new_name(left(width, share))]["loss"][0],
            finding="Held-out loss {first:.3g} with dead units, {second:.3g} in a new "
            "network of as many living units: {estimate:+.3g} [{low:+.3g}, {high:+.3g}].",
            paired="same data and minibatches by seed",
        )
        for share in options.smaller
    ]


def _difference(
    claim: str,
    source: str,
    first: np.ndarray,
    second: np.ndarray,
    *,
    finding: str,
    paired: str = "paired by seed",
) -> Claim:
    return claims.difference_claim(
        claim,
        source,
        *statistics.finite_pairs(first, second),
        finding=finding,
        definition=f"{paired}; {DEAD}",
        figure="consequences",
    )


def same_as_missing(equal: Mapping[str, float]) -> Claim:
    """A dead unit is a missing one, from `missing.missing_difference`."""
    return Claim(
        claim="A dead unit is the same as a missing one",
        source="this project",
        verdict="conditional",
        finding=f"Killed units and units cut out, with the same other weights: after "
        f"{equal['steps']} steps no weight differs by more than {equal['largest_difference']:.1e} "
        f"(the largest is {equal['largest_weight']:.2g}), which is rounding. Against a network "
        f"newly initialized at the smaller size the weights above the first layer are "
        f"{equal['scale_of_fresh']:.3f} times as large (exactly sqrt(units left / units) = "
        f"{equal['expected_scale']:.3f} in expectation), nothing else differs.",
        estimate=equal["largest_difference"],
        interval=None,
        count="1 seed; the statement is an identity",
        definition=DEAD,
        condition="the units that are left keep their weights and no channel moves the dead one; a "
        "new, smaller network starts at a larger scale",
        figure="consequences",
    )


def severe_claim(options: Options, tests: Sequence[Mapping]) -> Claim:
    """The verdict on the threshold of 40 %, from the threshold tests of all widths."""
    worse = [t for t in tests if t["quantity"] == "held-out loss"]
    holds, text = [], []
    for test in worse:
        row = test["tenth_worse"]
        low, high = (np.inf if end is None else end for end in row["interval"])
        bends = test["misfit"][f"kink at {SHARE:g}"] < test["misfit"]["smooth"]
        holds.append(low - 0.05 <= SHARE <= high + 0.05 and bends)
        numbers = [
            f"beyond {options.fractions[-1]:.0%}" if x is None else f"{x:.0%}"
            for x in (row["estimate"], *row["interval"])
        ]
        text.append(f"width {test['width']}: {numbers[0]} [{numbers[1]}, {numbers[2]}]")
    smooth = sum(t["misfit"]["smooth"] <= t["misfit"][f"kink at {SHARE:g}"] for t in worse)
    verdict = "confirmed" if all(holds) else "conditional" if any(holds) else "refuted"
    condition = ", ".join(f"width {t['width']}" for t, h in zip(worse, holds, strict=True) if h)
    return Claim(
        claim=f"More than {SHARE:.0%} dead units are severe: a threshold",
        source=SOURCE,
        verdict=verdict,
        finding=f"Held-out loss is 10 % worse from a dead share of {'; '.join(text)}. A smooth "
        f"curve in the number of units left predicts left-out seeds at least as well as a bend at "
        f"{SHARE:.0%} at {smooth} of {len(worse)} widths.",
        estimate=worse[-1]["tenth_worse"]["estimate"],
        interval=None,
        count=f"{options.seeds} seeds, {len(worse)} widths, {len(options.fractions)} shares",
        definition=f"confirmed at a width if a bend at {SHARE:.0%} predicts better than a smooth "
        f"curve and the share at which the loss becomes 10 % worse is {SHARE:.0%} within 5 points; "
        + DEAD,
        condition=f"holds at {condition} only" if verdict == "conditional" else "",
        figure="consequences",
    )


def print_summary(summary: Mapping[str, Any]) -> None:
    """The headline as text."""
    print("width  dead   held-out loss          held-out error   steps to threshold   reached")
    for row in summary["rows"]:
        if row["arm"] == "killed at step 0":
            loss, steps = row["loss"], row["steps"]
            print(
                f"{row['width']:5d}  {row['fraction']:4.0%}   {loss['estimate']:.3f} "
                f"[{loss['interval'][0]:.3f}, {loss['interval'][1]:.3f}]   "
                f"{row['error']['estimate']:.3f}            {steps['estimate']:6.0f}"
                f"               {row['reached']['estimate']:.2f}"
            )
    print(
        f"killed units that came back: {summary['awakened']:,} of {summary['killed_units']:,}; "
        f"diverged runs: {summary['diverged_runs']}"
    )
    for test in summary["tests"]:
        if "knot" in test:
            print(
                f"{test['quantity']}, width {test['width']}: tenth worse from "
                f"{test['tenth_worse']['estimate']} {test['tenth_worse']['interval']}; best knot "
                f"{test['knot']:.1f} {test['knot_interval']}; misfit "
                + ", ".join(f"{name} {x:.2f}" for name, x in test["misfit"].items())
            )
    claims.print_claims(summary["claims"])
