"""What is compared: every cause under every condition, against the same cell without it, paired by
seed; the claims on them as one family."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.causes.sweep import HARMFUL, LECUN, REFERENCE, Options, dose_axes
from relu_dynamics.engine.scalings import dosed_scalings
from relu_dynamics.engine.tasks import label_of
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim

LEAST = 0.01  # of all units: a difference smaller than this does not matter
OUTCOME = (
    "share of all hidden units dead on the training examples at the horizon (max z <= 0), a "
    "diverged run having none; paired by seed"
)


class Cell(NamedTuple):
    """One cell of one arm."""

    arm: str
    values: Mapping[str, float]


class Contrast(NamedTuple):
    """A cause under one condition: the cell that has it against the one that has it not."""

    cause: str
    condition: str
    harmed: Cell
    plain: Cell


def make_contrasts(options: Options) -> list[Contrast]:
    """Every cause under every condition, against the same cell without it."""
    found = []
    dosed = [n for n in dose_axes(options) if n not in ("learning_rate", "momentum")]
    for rate in options.base_rates:
        at_rate = {"learning_rate": rate}
        where = f"rate {rate:g}"
        plain = Cell("rate", at_rate | {"momentum": 0.0})
        for name in dosed:
            arm, axis, _ = dose_axes(options)[name]
            for dose in HARMFUL[name]:
                found.append(
                    Contrast(
                        _dosed_name(name, dose),
                        where,
                        Cell(arm, at_rate | {axis: dose}),
                        Cell(arm, at_rate | {axis: REFERENCE[name]}),
                    )
                )
        for name in (*options.initializers, *options.scalings):
            if name not in dosed_scalings():
                found.append(Contrast(name, where, Cell(name, at_rate), plain))
        (momentum,) = HARMFUL["momentum"]
        with_momentum = Cell("rate", at_rate | {"momentum": momentum})
        found.append(Contrast("momentum", where, with_momentum, plain))
    (high,) = HARMFUL["learning_rate"]
    for momentum in options.momenta:
        harmed, plain = (
            Cell("rate", {"learning_rate": rate, "momentum": momentum})
            for rate in (high, REFERENCE["learning_rate"])
        )
        found.append(Contrast("learning_rate", f"momentum {momentum:g}", harmed, plain))
    # A heavy ball moves as far as plain SGD at rate / (1 - momentum): the rate it really has.
    (momentum,) = HARMFUL["momentum"]
    for rate in options.learning_rates:
        same = [r for r in options.learning_rates if np.isclose(r, rate / (1 - momentum))]
        if same:
            harmed = Cell("rate", {"learning_rate": rate, "momentum": momentum})
            plain = Cell("rate", {"learning_rate": same[0], "momentum": 0.0})
            found.append(Contrast("momentum_matched", f"rate {rate:g}", harmed, plain))
    order = [name for name in SENTENCES if any(c.cause == name for c in found)]
    return sorted(found, key=lambda contrast: order.index(contrast.cause))


def _dosed_name(name: str, dose: float) -> str:
    """The name of a cause at a harmful dose."""
    known = {0.1: "too_small", LECUN: "lecun_normal", 10.0: "too_large"}
    return known[dose] if name == "weight_scale" else name


ARNEKVIST = "Arnekvist et al., arXiv 2005.06195"
SENTENCES = {  # cause: (label on figures, the sentence that is tested, its source)
    "too_small": (
        "weights 10 x too small",
        "Initial weights that are too small (a tenth of He's) kill units.",
        "dying ReLU",
    ),
    "too_large": (
        "weights 10 x too large",
        "Initial weights that are too large (ten times He's) kill units.",
        "dying ReLU",
    ),
    "lecun_normal": (
        "LeCun, not He",
        "LeCun's initialization leaves more dead units than He's.",
        "dying ReLU",
    ),
    "xavier_normal": (
        "Xavier, not He",
        "Xavier (Glorot) initialization leaves more dead units than He's.",
        "dying ReLU",
    ),
    "orthogonal": (
        "orthogonal, not He",
        "Orthogonal initialization leaves more dead units than He's.",
        "dying ReLU",
    ),
    "randomized_asymmetric": (
        "randomized asymmetric, not He",
        "Randomized asymmetric initialization leaves more dead units than He's.",
        "Lu et al., arXiv 1903.06733 (who say the opposite)",
    ),
    "initial_bias": (
        "bias -5 on layer 2",
        "A large negative bias (-5 on a whole layer) makes dead units.",
        "dying ReLU",
    ),
    "learning_rate": (
        "rate 3, not 0.1",
        "A high learning rate (3 against 0.1) kills units.",
        "dying ReLU",
    ),
    "momentum": (
        "momentum 0.9, same rate",
        "Momentum (0.9) kills units, at the same learning rate.",
        ARNEKVIST,
    ),
    "momentum_matched": (
        "momentum 0.9, same rate / (1 - m)",
        "Momentum (0.9) kills units more than plain SGD with the same effective rate, "
        "rate / (1 - momentum).",
        ARNEKVIST,
    ),
    "minmax": (
        "min-max inputs",
        "Inputs in [0, 1] (min-max) instead of standardized ones kill units.",
        "dying ReLU",
    ),
    "raw": (
        "raw inputs",
        "Raw instead of standardized inputs kill units.",
        "dying ReLU",
    ),
    "shifted": (
        "means shifted by 4 deviations",
        "Inputs whose means are 4 deviations off kill units.",
        "dying ReLU",
    ),
    "one_bad_feature": (
        "one feature 100 x too large",
        "One badly scaled feature (100 times too large) kills units.",
        "dying ReLU",
    ),
}

Results = Mapping[str, Mapping[str, xr.Dataset]]  # task: arm: result


def shares(results: Results, task: str, cell: Cell, measure: str = "dead") -> np.ndarray:
    """A measure's share in every seed of one cell of one task, [seed]."""
    return estimates.per_seed(results[task][cell.arm], measure, cell.values)


def contrast_claims(
    results: Results, options: Options
) -> dict[tuple[str, str, str], tuple[Claim, dict]]:
    """(cause, condition, task or "all") -> the claim on it, and what else both cells show. The
    false-discovery rate is controlled over all; "all" is the mean over the tasks of a seed."""
    made, more = {}, {}
    for contrast in make_contrasts(options):
        _, sentence, source = SENTENCES[contrast.cause]
        both = {
            measure: {
                task: tuple(
                    shares(results, task, cell, measure)
                    for cell in (contrast.harmed, contrast.plain)
                )
                for task in options.tasks
            }
            for measure in ("dead", "born_dead", "diverged")
        }
        for task in (*options.tasks, "all"):
            arms = {
                measure: mean_arms(values.values()) if task == "all" else values[task]
                for measure, values in both.items()
            }
            key = (contrast.cause, contrast.condition, task)
            made[key] = _difference(
                sentence, source, arms["dead"], len(options.tasks), options, task
            )
            more[key] = {
                measure: [float(values.mean()) for values in arms[measure]]
                for measure in ("dead", "born_dead", "diverged")
            }
    return {key: (claim, more[key]) for key, claim in claims.controlled_by_key(made).items()}


def mean_arms(pairs: Iterable[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Both arms as means over tasks or conditions, [seeds] each."""
    first, second = zip(*pairs, strict=True)
    return np.mean(first, axis=0), np.mean(second, axis=0)


def _difference(sentence, source, arms, tasks, options, task) -> Claim:
    first, second = arms
    units = options.config.units * len(first) * (tasks if task == "all" else 1)
    return claims.difference_claim(
        sentence,
        source,
        first,
        second,
        finding="{first:.3f} of all units dead at the end, against {second:.3f} without: "
        "{estimate:+.3f} [{low:+.3f}, {high:+.3f}]",
        definition=OUTCOME,
        figure="causes_effects",
        least=LEAST,
        bounds=(-1, 1),
        units=f"{units:,} units an arm and condition",
    )


def combined_claims(
    results: Results, options: Options, found: Mapping[tuple[str, str, str], tuple[Claim, dict]]
) -> dict[str, dict[str, Claim]]:
    """task or "all" -> cause -> one claim over its conditions, of which "all" also has the tasks'.

    The estimate is the mean over the conditions (and tasks) of a seed.
    """
    out: dict[str, dict[str, Claim]] = {task: {} for task in ("all", *options.tasks)}
    conditions: dict[str, list[Contrast]] = {}
    for contrast in make_contrasts(options):
        conditions.setdefault(contrast.cause, []).append(contrast)
    for cause, of_cause in conditions.items():
        _, sentence, source = SENTENCES[cause]
        for task in out:
            tasks = options.tasks if task == "all" else (task,)
            cells = [(t, c) for c in of_cause for t in tasks]
            arms = mean_arms(
                (shares(results, t, c.harmed), shares(results, t, c.plain)) for t, c in cells
            )
            more = [found[cause, c.condition, t][1] for t, c in cells]
            born, diverged = (
                np.mean([m[name] for m in more], axis=0) for name in ("born_dead", "diverged")
            )
            overall = _difference(sentence, source, arms, len(tasks), options, task)
            overall = overall._replace(
                finding=f"{overall.finding}. Born dead {born[0]:.3f} against {born[1]:.3f}; runs "
                f"diverged {diverged[0]:.3f} against {diverged[1]:.3f}."
            )
            parts = {f"{c.condition} ({t})": found[cause, c.condition, t][0] for t, c in cells}
            claim = claims.combined(overall, parts)
            if claim.condition:
                claim = claim._replace(condition=_where(cause, of_cause, tasks, found))
            out[task][cause] = claim
    return out


def _where(cause, of_cause, tasks, found) -> str:
    """The verdicts of a cause by task and condition, in words, with how many runs diverged."""
    texts = []
    for task in tasks:
        verdicts: dict[str, list[str]] = {}
        for contrast in of_cause:
            claim, more = found[cause, contrast.condition, task]
            lost, lost_without = more["diverged"]
            note = f" ({lost:.0%} of the runs diverge, {lost_without:.0%} without)"
            note = note if max(lost, lost_without) >= 0.1 else ""
            verdicts.setdefault(claim.verdict, []).append(contrast.condition + note)
        texts.append(
            f"{label_of(task)}: "
            + ", ".join(f"{v} at {', '.join(at)}" for v, at in verdicts.items())
        )
    return "; ".join(texts)
