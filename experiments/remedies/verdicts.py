"""The claims: that a remedy reduces dead units, that it brings dead ones back, and GELU's."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments.remedies.comparisons import (
    DEFINITIONS,
    LEAST,
    Cell,
    Key,
    Results,
    birth_cell,
    birth_values,
    last_share,
)
from experiments.remedies.shapes import derivative, flat_below
from experiments.remedies.sweep import PLAIN, Options, arm_names, bases
from relu_dynamics import theory
from relu_dynamics.engine.tasks import label_of
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim

ARTICLE = "dying ReLU"


class Sentence(NamedTuple):
    """How a claim speaks of a variant."""

    what: str
    against: str = PLAIN  # the arm that it is compared with
    source: str = ARTICLE


SENTENCES = {  # by (arm, low)
    (PLAIN, False): Sentence("He initialization", "too_large"),
    ("xavier_normal", False): Sentence("Xavier (Glorot) initialization", "too_large"),
    ("leaky_relu", False): Sentence("Leaky ReLU"),
    ("prelu", False): Sentence("PReLU"),
    ("elu", False): Sentence("ELU"),
    ("batch", False): Sentence("Batch normalization"),
    (PLAIN, True): Sentence("A low learning rate"),
    ("redo", False): Sentence("ReDo", source="Sokar et al., arXiv 2302.12902"),
    ("continual_backprop", False): Sentence(
        "Continual backpropagation", source="Dohare et al., doi 10.1038/s41586-024-07711-7"
    ),
    ("regenerative", False): Sentence("Regenerative L2", source="Kumar et al., arXiv 2308.11958"),
}


def birth_claims(results: Results, options: Options) -> list[Claim]:
    """ "X reduces dead units" of every remedy that the article names, over tasks and base rates."""
    names = arm_names(options)
    wanted = {
        variant: sentence
        for variant, sentence in SENTENCES.items()
        if {variant[0], sentence.against} <= set(names)
    }
    parts: dict[tuple, Claim] = {}
    overall: dict[tuple, Claim] = {}
    for (arm, low), sentence in wanted.items():
        pairs, notes = [], []
        for base in bases(options):
            for task in options.tasks:
                where = f"{label_of(task)} at rate {base.rate:g}"
                cells = birth_cell(base, False), birth_cell(base, low)
                sides = [
                    (birth_values(results[task][name], cell), results[task][name], cell)
                    for name, cell in zip((sentence.against, arm), cells, strict=True)
                ]
                without, own = (values["dead"] for values, _, _ in sides)
                pairs.append([without, own])
                parts[arm, low, where] = _reduction(sentence, without, own, "")
                notes.append(f"{where}: {_dead_flat_loss(sides)}")
        first, second = np.mean(pairs, axis=0)
        overall[arm, low] = _reduction(sentence, first, second, "; ".join(notes))
    settled = claims.controlled_by_key(parts)
    return [
        claims.combined(
            claim, {key[2]: part for key, part in settled.items() if key[:2] == variant}
        )
        for variant, claim in overall.items()
    ]


def _dead_flat_loss(sides) -> str:
    """What one task shows at one base rate, own against the arm that it is compared with."""
    (plain, plain_result, plain_cell), (own, own_result, own_cell) = sides
    diverged = [
        estimates.per_seed(result, "diverged", cell).mean()
        for result, cell in ((own_result, own_cell), (plain_result, plain_cell))
    ]
    return (
        f"dead or diverged {own['dead'].mean():.3f} against {plain['dead'].mean():.3f}, "
        f"runs diverged {diverged[0]:.2f} against {diverged[1]:.2f}, "
        f"flat or diverged {own['flat'].mean():.3f} against {plain['flat'].mean():.3f}, "
        f"median held-out loss {_median(own['held_loss'])} against "
        f"{_median(plain['held_loss'])}"
    )


def _median(logarithms: np.ndarray) -> str:
    """The median of numbers from their logarithms, in words where none is finite."""
    kept = logarithms[np.isfinite(logarithms)]
    return f"{np.exp(np.median(kept)):.3g}" if kept.size else "infinite in every run"


def _reduction(sentence: Sentence, without, own, note: str) -> Claim:
    than = "weights ten times too large" if sentence.against != PLAIN else "plain ReLU"
    return claims.difference_claim(
        f"{sentence.what} reduces dead units (against {than}).",
        sentence.source,
        without,
        own,
        finding="Of all units, {second:.3f} with it against {first:.3f} without are dead at the "
        "end (or in a diverged run); without minus with: {estimate:+.3f} "
        "[{low:+.3f}, {high:+.3f}]. " + note + ".",
        definition=DEFINITIONS["dead"],
        figure="remedies_ranking",
        least=LEAST,
        bounds=(-1, 1),
        units="mean over tasks and base rates",
    )


def cohort_claims(
    options: Options, compared: Mapping[Key, tuple[Claim, dict]]
) -> dict[tuple[str, bool], dict[str, tuple[Claim, dict]]]:
    """(arm, low) -> task and base rate -> how the first dead cohort did, for the remedies that the
    article names but initializers."""
    measure = f"recovered {options.biases[0]:g}"
    out: dict[tuple[str, bool], dict[str, tuple[Claim, dict]]] = {}
    for (arm, low), sentence in SENTENCES.items():
        if sentence.against != PLAIN:
            continue
        for task in options.tasks:
            if (entry := compared.get((task, arm, low, measure))) is not None:
                where = f"{label_of(task)} at rate {options.rate:g}"
                out.setdefault((arm, low), {})[where] = entry
    return out


def revival_claims(options: Options, found: Sequence[Mapping]) -> list[Claim]:
    """ "X brings dead units back" over the tasks and the base rates, from the `cohort_claims` of
    every base rate."""
    out = []
    for variant in found[0]:
        entries = {where: e for own in found for where, e in own.get(variant, {}).items()}
        says = "; ".join(
            f"{where}: {note['own']:.3f} against {note['plain']:.3f}, {claim.finding} "
            f"({note['units']:,} units dead at step 0 in both, {note['overlap']:.0%} of those "
            "dead in either)"
            for where, (claim, note) in entries.items()
        )
        first, note = next(iter(entries.values()))
        overall = first._replace(
            claim=f"{SENTENCES[variant].what} brings dead units back (the same cohort, bias "
            f"{options.biases[0]:g}).",
            source=SENTENCES[variant].source,
            finding=f"P(recovers for good) {says}.",
            count=f"{note['seeds']} seeds and {note['units']:,} units in the first condition",
            figure="remedies_ranking",
            estimate=float(np.mean([claim.estimate for claim, _ in entries.values()])),
            interval=None,
        )
        out.append(claims.combined(overall, {w: claim for w, (claim, _) in entries.items()}))
    return out


def gelu_claims(results: Results, options: Options) -> list[Claim]:
    """The popular claim on GELU in its two halves: its reason, and its conclusion."""
    if "gelu" not in arm_names(options):
        return []
    root, below = theory.gelu_stationary_point(), flat_below("gelu")
    slope = float(derivative("gelu", np.array([-1.5]))[0])
    reason = Claim(
        claim="GELU's gradient is never 0.",
        source="popular tutorials",
        verdict="refuted",
        finding=f"Its derivative is 0 at z = {root:.4f}, negative below it ({slope:.3f} at -1.5: a "
        f"rising z lowers the output), and exactly 0 in float32 at and below z = {below:.2f}.",
        estimate=root,
        interval=None,
        count="a closed form, and every float32 derivative on a grid of step 0.01",
        definition="derivative of z Phi(z)",
        figure="remedies_activations",
    )
    cells = [birth_cell(base, False) for base in bases(options)] + [birth_cell(options, True)]
    found = {
        (task, cell["learning_rate"]): _birth_share(results[task]["gelu"], cell)
        for task in options.tasks
        for cell in cells
    }
    wrong = np.mean(
        [
            last_share(results[t]["gelu"], "layer_wrong_way_fraction", cells[0], 0.0)
            for t in options.tasks
        ]
    )
    says = "; ".join(
        f"{label_of(task)} at rate {rate:g}: dead {d['estimate']:.4f} [{d['interval'][0]:.4f}, "
        f"{d['interval'][1]:.4f}], flat {flat:.4f}"
        for (task, rate), (d, flat) in found.items()
    )
    dies = {key: d["interval"][0] > 0 and d["successes"] > 0 for key, (d, _) in found.items()}
    where = ", ".join(
        f"{label_of(task)} at rate {rate:g}" for (task, rate), dead in dies.items() if dead
    )
    immune = Claim(
        claim="GELU units do not die.",
        source="popular tutorials",
        verdict="refuted"
        if all(dies.values())
        else "conditional"
        if any(dies.values())
        else "undecided",
        finding=f"Share of all units dead at the end, from birth: {says}. At the base rate "
        f"{wrong:.3f} of all pairs of unit and example have a negative derivative.",
        estimate=float(np.mean([d["estimate"] for d, _ in found.values()])),
        interval=None,
        count=f"{options.seeds} seeds, {options.seeds * options.config.units:,} units per cell",
        definition=DEFINITIONS["dead"] + "; flat: " + DEFINITIONS["flat"],
        condition=f"units die: {where}" if any(dies.values()) and not all(dies.values()) else "",
        figure="remedies_ranking",
    )
    return [reason, immune]


def _birth_share(result: xr.Dataset, cell: Cell) -> tuple[dict, float]:
    at = estimates.cells(result, "dead").sel(cell, method="nearest")
    return estimates.as_json(at), float(last_share(result, "layer_flat_fraction", cell, 0.0).mean())
