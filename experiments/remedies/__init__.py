"""Which remedy keeps ReLU units alive, which one brings dead ones back, and what does it cost?

Claims under test: those of the article on the dying-ReLU problem, that He and Xavier
initialization, leaky ReLU, PReLU, ELU, batch normalization and a low learning rate reduce dead
units; and the popular one that GELU is immune, because its gradient is never 0. The base is a
network in which plain ReLU units die: heavy-ball momentum 0.9 at learning rate 0.3, He
initialization; a milder base has rate 0.1. Every remedy changes one thing (a few change two), and
every one is tried at both base rates and at a low one, 0.03.

Two questions, on the same seeds (same data, minibatches and, where the shapes agree, weights):
*from birth*, no unit is dead by imposition; *the same dead cohort*, a quarter of the second layer
starts at a bias so low that it is dead in all arms, and arms are paired on the units dead at step
0 in both. Dead: no training example makes z > 0, for every activation. Flat: the derivative is
exactly 0 in float32 for all of them ("numerically dead"; the same thing for ReLU, and the only one
that matters for learning). The price: held-out loss and error, steps that take longer, derivatives
that point the wrong way.

Writes one result per arm, summary.json, and remedies_ranking, remedies_ranking_mild and
remedies_activations as .png/.pdf to --out; `--draw` draws again from summary.json. 15 minutes of
CPU time (20 minutes by the clock on two cores shared with other jobs).
"""

import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.remedies import figure
from relu_dynamics import figures, statistics, store, theory
from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import training
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import NEVER, Outcome
from relu_dynamics.engine.step import train_step
from relu_dynamics.engine.tasks import load_data, make_task
from relu_dynamics.engine.validation import validate
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import studies
from relu_dynamics.sweeps.blocks import block_devices

BASE = Config(
    hidden=(32, 32),
    examples=256,
    batch_size=32,
    steps=400,
    probe_every=20,
    optimizer="momentum",
    momentum=0.9,
    biased_layer=2,
    biased_units=8,
)
PLAIN = "relu"  # the arm that all others are compared with
REMEDIES: dict[str, tuple[str, dict[str, Any]]] = {  # name: (label, what it changes of the base)
    PLAIN: ("plain ReLU", {}),
    "leaky_relu": ("leaky ReLU", {"activation": "leaky_relu"}),
    "prelu": ("PReLU", {"activation": "prelu"}),
    "elu": ("ELU", {"activation": "elu"}),
    "selu": ("SELU, LeCun init", {"activation": "selu", "initializer": "lecun_normal"}),
    "gelu": ("GELU", {"activation": "gelu"}),
    "silu": ("SiLU", {"activation": "silu"}),
    "crelu": ("CReLU", {"activation": "crelu"}),
    "too_large": ("init 10 x too large", {"initializer": "too_large"}),
    "xavier_normal": ("Xavier init", {"initializer": "xavier_normal"}),
    "randomized_asymmetric": ("RAI init", {"initializer": "randomized_asymmetric"}),
    "data_dependent": ("data-dependent init", {"initializer": "data_dependent"}),
    "batch": ("BatchNorm", {"normalization": "batch"}),
    "layer": ("LayerNorm", {"normalization": "layer"}),
    "rms": ("RMSNorm", {"normalization": "rms"}),
    "weight": ("weight norm", {"normalization": "weight"}),
    "warmup": ("warm-up", {"schedule": "warmup", "warmup_steps": 100}),
    "cosine": ("cosine decay", {"schedule": "cosine"}),
    "warmup_cosine": ("warm-up + cosine", {"schedule": "warmup_cosine", "warmup_steps": 100}),
    "clip": ("clipping at norm 1", {"clip_norm": 1.0}),
    "leaky_batch": (
        "leaky ReLU + BatchNorm",
        {"activation": "leaky_relu", "normalization": "batch"},
    ),
    "gelu_layer": ("GELU + LayerNorm", {"activation": "gelu", "normalization": "layer"}),
    "clip_warmup": (
        "clipping + warm-up",
        {"clip_norm": 1.0, "schedule": "warmup", "warmup_steps": 100},
    ),
    "batch_cosine": (
        "BatchNorm + warm-up + cosine",
        {"normalization": "batch", "schedule": "warmup_cosine", "warmup_steps": 100},
    ),
}
LOW = "lower rate"
NO_COHORT = ("too_large",)  # no bias of an ordinary size makes its units dead
LEAST = 0.01
DEFINITIONS = {
    "dead": "share of all hidden units with max z <= 0 over the training examples at the horizon; "
    "in a diverged run all count as dead",
    "flat": "share of all hidden units whose activation has derivative exactly 0 in float32 for "
    "all training examples at the horizon (for ReLU: the dead ones); in a diverged run all are",
    "held_loss": "natural logarithm of the held-out loss after the last step; seeds in which "
    "either arm is not finite are left out of both",
    "recovered": "of the units dead on the training examples at step 0 in both arms: alive again "
    "for at least the sustain steps; not so in a diverged run",
}
SHAPES = ("relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "softplus", "tanh")
TIMED_NETWORKS, TIMED_STEPS = 16, 100


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    config: Config = BASE
    """Base of every arm's config."""
    tasks: tuple[str, ...] = ("digits", "diabetes")
    """Tasks, each with all arms."""
    arms: tuple[str, ...] = ()
    """Remedies to try, by name; all of them by default. Plain ReLU is always there."""
    rate: float = 0.3
    """Learning rate of the base, at which units die."""
    milder_rate: float = 0.1
    """A second base, at which fewer die."""
    low_rate: float = 0.03
    """The lower one, a remedy of its own and with every other."""
    biases: tuple[float, ...] = (-5.0,)
    """Initial biases of the dead cohort; with a normalization they are its shift."""
    seeds: int = 100
    """Seeds per cell."""
    timing_rounds: int = 5
    """How often every arm's step is timed, in turns."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/remedies-<hash of the question>."""
    draw: bool = False
    """Only draw again from the stored summary."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(BASE, steps=200),
    tasks=("digits",),
    arms=("leaky_relu", "gelu"),
    seeds=16,
    timing_rounds=3,
)


# The arms -----------------------------------------------------------------------------------------


def arm_names(options: Options) -> list[str]:
    """The arms to run, plain ReLU first; raises a one-line ValueError for an unknown one."""
    for name in options.arms:
        check_choice("arms", name, tuple(REMEDIES))
    return [n for n in REMEDIES if n == PLAIN or not options.arms or n in options.arms]


def arm_config(options: Options, task: str, arm: str) -> Config:
    """The config of one arm on one task."""
    changes = REMEDIES[arm][1]
    return validate(dataclasses.replace(options.config, task=task, **changes))


def task_grids(options: Options, task: str) -> dict[str, Grid]:
    """The grids of one task by arm: both rates, without and with the imposed biases."""
    if not options.low_rate < options.milder_rate < options.rate:
        raise ValueError(
            f"low_rate={options.low_rate} must be below milder_rate={options.milder_rate}, and "
            f"that below rate={options.rate}."
        )
    if not options.biases or max(options.biases) >= 0:
        raise ValueError(f"biases={short_repr(options.biases)} must all be negative.")
    if options.timing_rounds < 2:
        raise ValueError(f"timing_rounds={options.timing_rounds} must be at least 2.")
    rates = (options.rate, options.milder_rate, options.low_rate)

    def grid(arm):
        biases = (0.0,) if arm in NO_COHORT else (0.0, *options.biases)
        return make_grid(
            arm_config(options, task, arm),
            {"learning_rate": rates, "initial_bias": biases},
            options.seeds,
            root_seed=options.root_seed,
            lanes=len(rates) * len(biases),
        )

    return {arm: grid(arm) for arm in arm_names(options)}


# What is compared ---------------------------------------------------------------------------------

Results = Mapping[str, Mapping[str, xr.Dataset]]  # task: arm: result
Cell = Mapping[str, float]


def birth_cell(options: Options, low: bool) -> Cell:
    """The cell without an imposed bias, at the base rate or the low one."""
    return {"learning_rate": options.low_rate if low else options.rate, "initial_bias": 0.0}


def last_share(result: xr.Dataset, name: str, cell: Cell, diverged: float) -> np.ndarray:
    """A layer summary at the last evaluation, as its mean over all units, [seed]; `diverged` in a
    run that diverged."""
    widths = np.asarray(estimates.config_of(result)["hidden"], float)
    at = result.sel(cell, method="nearest")
    last = at[name].isel(probe_step=-1).transpose("seed", "layer").values
    share = last @ widths / widths.sum()
    return np.where(at.diverged_at.values == NEVER, share, diverged)


def birth_values(result: xr.Dataset, cell: Cell) -> dict[str, np.ndarray]:
    """What is compared from birth, one number per seed. A remedy that makes a run diverge has saved
    none of its units: they count as dead and flat."""
    at = result.sel(cell, method="nearest")
    diverged = estimates.per_seed(result, "diverged", cell)
    loss = at.held_loss.values.astype(float)
    return {
        "dead": estimates.per_seed(result, "dead", cell) + diverged,
        "flat": last_share(result, "layer_flat_fraction", cell, 1.0),
        "held_loss": np.log(np.maximum(loss, 1e-30)),
    }


def cohort_counts(
    first: xr.Dataset, second: xr.Dataset, first_cell: Cell, second_cell: Cell
) -> dict[str, np.ndarray]:
    """Sustained recoveries of the units dead at step 0 in both arms, int64 [seed]: `first`,
    `second` and `trials`; and `union`, the units dead at step 0 in either."""
    dead, back = [], []
    for result, cell in ((first, first_cell), (second, second_cell)):
        at = result.sel(cell, method="nearest")
        at_risk = at.dead_at_start & ~at.near_zero_at_start & at.biased
        dead.append(at_risk.transpose("seed", "unit").values)
        recovered = at.outcome == Outcome.RECOVERED_SUSTAINED
        back.append(recovered.transpose("seed", "unit").values)
    both = dead[0] & dead[1]
    return {
        "first": (back[0] & both).sum(-1),
        "second": (back[1] & both).sum(-1),
        "trials": both.sum(-1),
        "union": (dead[0] | dead[1]).sum(-1),
    }


def bases(options: Options) -> tuple[Options, Options]:
    """The options with either base rate as `rate`."""
    return options, dataclasses.replace(options, rate=options.milder_rate)


def variants(options: Options) -> list[tuple[str, bool]]:
    """(arm, whether at the low rate) of everything that is compared with plain ReLU. At the milder
    base only plain ReLU is tried at the low rate too."""
    milder = options.rate == options.milder_rate
    everything = [(arm, low) for low in (False, True) for arm in arm_names(options)]
    return [
        (arm, low)
        for arm, low in everything
        if (arm, low) != (PLAIN, False) and not (low and milder and arm != PLAIN)
    ]


def label_of(arm: str, low: bool) -> str:
    """What a variant is called."""
    if not low:
        return REMEDIES[arm][0]
    return LOW if arm == PLAIN else f"{REMEDIES[arm][0]} + {LOW}"


def comparisons(
    results: Results, options: Options
) -> dict[tuple[str, str, bool, str], tuple[Claim, dict]]:
    """(task, arm, low, measure) -> the claim that the variant lowers the measure (raises it, for
    recoveries) against plain ReLU at the base rate, with the false-discovery rate controlled over
    all of them, and the means of both with what they rest on."""
    keys, made, more = [], [], []

    def add(key, better, worse, bounds, note, least=LEAST):
        keys.append(key)
        made.append(
            claims.difference_claim(
                " ".join(map(str, key)),
                "dying ReLU",
                better,
                worse,
                finding="{estimate:+.3f} [{low:+.3f}, {high:+.3f}]",
                definition=DEFINITIONS[key[-1].split(" ")[0]],
                least=least,
                bounds=bounds,
            )
        )
        more.append(note)

    for task in options.tasks:
        plain = results[task][PLAIN]
        base = birth_values(plain, birth_cell(options, False))
        for arm, low in variants(options):
            own = birth_values(results[task][arm], birth_cell(options, low))
            for measure, values in own.items():
                kept = np.isfinite(values) & np.isfinite(base[measure])
                note = {"seeds": int(kept.sum()), "left_out": int((~kept).sum())}
                if kept.sum() < 2:
                    continue
                first, second = base[measure][kept], values[kept]
                note |= {"plain": float(first.mean()), "own": float(second.mean())}
                share = measure in ("dead", "flat")
                bounds, least = ((-1, 1), LEAST) if share else (None, 0.0)
                add((task, arm, low, measure), first, second, bounds, note, least)
            for bias in () if arm in NO_COHORT else options.biases:
                cells = [
                    {"learning_rate": r, "initial_bias": bias}
                    for r in (options.low_rate if low else options.rate, options.rate)
                ]
                found = cohort_counts(results[task][arm], plain, *cells)
                kept = found["trials"] > 0
                if kept.sum() < 2:
                    continue
                own_back, plain_back = (
                    found[n][kept] / found["trials"][kept] for n in ("first", "second")
                )
                units = int(found["trials"].sum())
                note = {
                    "seeds": int(kept.sum()),
                    "units": units,
                    "overlap": units / int(found["union"].sum()),
                    "plain": float(plain_back.mean()),
                    "own": float(own_back.mean()),
                }
                key = (task, arm, low, f"recovered {bias:g}")
                add(key, own_back, plain_back, (-1, 1), note)
    return dict(zip(keys, zip(claims.controlled(made), more, strict=True), strict=True))


# The claims ---------------------------------------------------------------------------------------

SENTENCES = {  # (arm, low): (what it is in a sentence, the arm it is compared with)
    (PLAIN, False): ("He initialization", "too_large"),
    ("xavier_normal", False): ("Xavier (Glorot) initialization", "too_large"),
    ("leaky_relu", False): ("Leaky ReLU", PLAIN),
    ("prelu", False): ("PReLU", PLAIN),
    ("elu", False): ("ELU", PLAIN),
    ("batch", False): ("Batch normalization", PLAIN),
    (PLAIN, True): ("A low learning rate", PLAIN),
}


def birth_claims(results: Results, options: Options) -> list[Claim]:
    """ "X reduces dead units" of every remedy that the article names, over tasks and base rates."""
    names = arm_names(options)
    wanted = {
        variant: sentence
        for variant, sentence in SENTENCES.items()
        if {variant[0], sentence[1]} <= set(names)
    }
    parts: dict[tuple, Claim] = {}
    overall: dict[tuple, Claim] = {}
    for (arm, low), (what, against) in wanted.items():
        than = "weights ten times too large" if against != PLAIN else "plain ReLU"
        pairs, notes = [], []
        for base in bases(options):
            for task in options.tasks:
                where = f"{task} at rate {base.rate:g}"
                cells = birth_cell(base, False), birth_cell(base, low)
                sides = [
                    (birth_values(results[task][name], cell), results[task][name], cell)
                    for name, cell in zip((against, arm), cells, strict=True)
                ]
                pairs.append([values["dead"] for values, _, _ in sides])
                parts[arm, low, where] = _reduction(what, than, *pairs[-1], "")
                notes.append(f"{where}: {_dead_flat_loss(sides)}")
        first, second = np.mean(pairs, axis=0)
        overall[arm, low] = _reduction(what, than, first, second, "; ".join(notes))
    settled = dict(zip(parts, claims.controlled(list(parts.values())), strict=True))
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
        f"median held-out loss {_median(own['held_loss']):.3g} against "
        f"{_median(plain['held_loss']):.3g}"
    )


def _median(logarithms: np.ndarray) -> float:
    """The median of numbers from their logarithms; nan where none is finite."""
    kept = logarithms[np.isfinite(logarithms)]
    return float(np.exp(np.median(kept))) if kept.size else np.nan


def _reduction(what: str, than: str, without, own, note: str) -> Claim:
    return claims.difference_claim(
        f"{what} reduces dead units (against {than}).",
        "dying ReLU",
        without,
        own,
        finding="From birth {estimate:+.3f} [{low:+.3f}, {high:+.3f}] fewer of all units dead at "
        "the end (or in a diverged run). " + note + ".",
        definition=DEFINITIONS["dead"],
        figure="remedies_ranking",
        least=LEAST,
        bounds=(-1, 1),
        units="mean over tasks and base rates",
    )


def cohort_claims(
    options: Options, compared: Mapping[tuple[str, str, bool, str], tuple[Claim, dict]]
) -> dict[tuple[str, bool], dict[str, tuple[Claim, dict]]]:
    """(arm, low) -> task and base rate -> how the first dead cohort did, for the remedies that the
    article names but initializers."""
    measure = f"recovered {options.biases[0]:g}"
    out: dict[tuple[str, bool], dict[str, tuple[Claim, dict]]] = {}
    for (arm, low), (_, against) in SENTENCES.items():
        if against != PLAIN:
            continue
        for task in options.tasks:
            if (entry := compared.get((task, arm, low, measure))) is not None:
                where = f"{task} at rate {options.rate:g}"
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
            claim=f"{SENTENCES[variant][0]} brings dead units back (the same cohort, bias "
            f"{options.biases[0]:g}).",
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
    slope = float(derivative("gelu", np.float32([-1.5]))[0])
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
        f"{task} at rate {rate:g}: dead {d['estimate']:.4f} [{d['interval'][0]:.4f}, "
        f"{d['interval'][1]:.4f}], flat {flat:.4f}"
        for (task, rate), (d, flat) in found.items()
    )
    dies = {key: d["interval"][0] > 0 and d["successes"] > 0 for key, (d, _) in found.items()}
    where = ", ".join(f"{task} at rate {rate:g}" for (task, rate), dead in dies.items() if dead)
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
    return _estimate(at), float(last_share(result, "layer_flat_fraction", cell, 0.0).mean())


# Activations --------------------------------------------------------------------------------------


def derivative(name: str, z: np.ndarray) -> np.ndarray:
    """The derivative of an activation as JAX computes it in float32, shape of `z` [n]."""
    return np.asarray(jax.vmap(jax.grad(ACTIVATIONS[name]))(jnp.asarray(z, jnp.float32)))


def flat_below(name: str, lowest: float = -200.0) -> float | None:
    """The largest z at and below which the float32 derivative is exactly 0, down to `lowest`, on a
    grid of step 0.01; None where there is none."""
    z = np.arange(round(lowest * 100), 1) / 100
    flat = derivative(name, z) == 0
    if not flat[0]:
        return None
    return float(z[-1] if flat.all() else z[np.argmin(flat) - 1])


def shapes() -> dict[str, Any]:
    """Activations and derivatives on a grid, and the exact points that the figure marks."""
    z = np.round(np.linspace(-5, 3, 161), 10)
    return {
        "z": z.tolist(),
        "curves": {
            name: {
                "value": np.asarray(ACTIVATIONS[name](jnp.asarray(z, jnp.float32))).tolist(),
                "derivative": derivative(name, z).tolist(),
            }
            for name in SHAPES
        },
        "stationary": {
            "gelu": theory.gelu_stationary_point(),
            "silu": theory.silu_stationary_point(),
        },
        "flat_below": {name: flat_below(name) for name in SHAPES},
        "tail": _tail(),
    }


def _tail() -> dict[str, Any]:
    """The size of the derivative far to the left."""
    z = np.round(np.linspace(-120, 0, 481), 10)
    return {
        "z": z.tolist(),
        "size": {name: np.abs(derivative(name, z)).tolist() for name in SHAPES},
    }


# Time ---------------------------------------------------------------------------------------------


def timings(options: Options) -> dict[str, dict]:
    """Time of a training step of every arm, as a multiple of plain ReLU's in the same round.

    Bare training without any evaluation on the probe set, `TIMED_NETWORKS` networks side by side on
    one device. Arms take turns within a round, so that what else the machine does hits all of them;
    the interval is that of the mean logarithm over rounds. It speaks of this small network and
    machine.
    """
    names, task = arm_names(options), options.tasks[0]
    with concurrent.futures.ThreadPoolExecutor(len(block_devices())) as pool:
        programs = dict(
            zip(names, pool.map(lambda n: _program(options, task, n), names), strict=True)
        )
    for call in programs.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.timing_rounds):
        for name, call in programs.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    plain = np.log(seconds[PLAIN])
    out = {}
    for name, own in seconds.items():
        ratio = statistics.paired_mean(np.log(own), plain)
        ends = [float(np.exp(end)) for end in (ratio.estimate, ratio.low, ratio.high)]
        micro = 1e6 * np.median(own) / (TIMED_STEPS * TIMED_NETWORKS)
        out[name] = {
            "ratio": ends[0],
            "interval": [1.0, 1.0] if name == PLAIN else ends[1:],
            "rounds": len(own),
            "microseconds_a_step_and_network": float(micro),
        }
    return out


def _program(options: Options, task: str, arm: str):
    """A call that trains TIMED_NETWORKS networks of one arm and waits for them."""
    config = dataclasses.replace(arm_config(options, task, arm), initial_bias=0.0)
    configs = jax.tree.map(lambda v: jnp.full((TIMED_NETWORKS,), v, jnp.float32), config)
    rates = jnp.linspace(options.low_rate, options.rate, TIMED_NETWORKS, dtype=jnp.float32)
    configs = dataclasses.replace(configs, learning_rate=rates)
    key, data = run_key(options.root_seed, 0), load_data(config)

    @jax.jit
    def train(configs, key, data):
        task = make_task(configs, purpose_key(key, "task"), data)

        def one(config):
            carry, nothing = (training.start(config, key), None), lambda *_: (None, None)
            (state, _), _ = training.scan_steps(
                train_step, nothing, config, task, key, carry, TIMED_STEPS
            )
            return state.params

        return jax.vmap(one)(configs)

    arguments = jax.device_put((configs, key, data), jax.local_devices()[0])
    compiled = train.lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


# The summary --------------------------------------------------------------------------------------


def ranking(
    results: Results,
    options: Options,
    compared: Mapping[tuple[str, str, bool, str], tuple[Claim, dict]],
    timed: Mapping[str, Mapping],
) -> list[dict]:
    """Every variant with its paired differences to plain ReLU, fewest dead units first (mean over
    the tasks; from birth; those of diverged runs count as dead)."""
    rows = []
    for arm, low in variants(options):
        row: dict[str, Any] = {"arm": arm, "low_rate": low, "label": label_of(arm, low)}
        row["time"] = timed[arm]
        row["tasks"] = {}
        for task in options.tasks:
            cell = birth_cell(options, low)
            result = results[task][arm]
            entry: dict[str, Any] = birth_row(result, cell)
            for measure in ("dead", "flat", "held_loss") + tuple(
                f"recovered {bias:g}" for bias in options.biases
            ):
                if (found := compared.get((task, arm, low, measure))) is None:
                    entry["difference", measure] = None
                    continue
                claim, note = found
                sign = 1 if measure.startswith("recovered") else -1  # own minus plain
                ends = sorted(sign * end for end in claim.interval or (np.nan, np.nan))
                entry["difference", measure] = {
                    "estimate": sign * claim.estimate,
                    "interval": ends,
                    "p_value": claim.p_value,
                    "verdict": claim.verdict,
                    **note,
                }
            row["tasks"][task] = {
                **{k: v for k, v in entry.items() if not isinstance(k, tuple)},
                "difference": {k[1]: v for k, v in entry.items() if isinstance(k, tuple)},
            }
        row["lost"] = float(np.mean([t["lost"]["estimate"] for t in row["tasks"].values()]))
        rows.append(row)
    return sorted(rows, key=lambda row: row["lost"])


def birth_row(result: xr.Dataset, cell: Cell) -> dict[str, Any]:
    """One cell from birth: its measures with intervals and counts, its hazards, its price."""
    result = result.sel({name: [value] for name, value in cell.items()}, method="nearest")
    row: dict[str, Any] = {
        measure: _estimate(estimates.cells(result, measure).squeeze())
        for measure in ("dead", "born_dead", "died", "diverged")
    }
    shares = {
        "lost": birth_values(result, cell)["dead"],
        "flat": last_share(result, "layer_flat_fraction", cell, 0.0),
        "wrong_way": last_share(result, "layer_wrong_way_fraction", cell, 0.0),
    }
    for name, values in shares.items():
        found = statistics.seed_clustered_mean(values)
        row[name] = {
            "estimate": float(found.estimate),
            "interval": [float(found.low), float(found.high)],
            "seeds": len(values),
        }
    for name in ("held_loss", "held_error"):
        values = result[name].values.ravel()
        kept = values[np.isfinite(values)]
        row[name] = {
            "median": float(np.median(kept)) if kept.size else None,
            "seeds_not_finite": int(values.size - kept.size),
        }
    last = estimates.hazards(result, windows=2).squeeze().isel(window=-1)
    row["hazards"] = {
        name: [_finite(float(last[name + end])) for end in ("", "_low", "_high")]
        for name in ("death", "recovery", "stationary")
    } | {"observed": float(last.observed)}
    return row


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _estimate(at: xr.Dataset) -> dict:
    return {
        "estimate": _finite(float(at.estimate)),
        "interval": [float(at.low), float(at.high)],
        "successes": int(at.successes),
        "trials": int(at.trials),
        "seeds": int(at.runs),
    }


def price(rows: Sequence[Mapping], options: Options) -> dict:
    """Whether fewer dead units go with a lower held-out loss: how many variants with verdicts on
    both fall where, by task."""
    out = {}
    for task in options.tasks:
        counts: dict[str, int] = {}
        for row in rows:
            found = [row["tasks"][task]["difference"][m] for m in ("dead", "held_loss")]
            if None in found or found[0]["verdict"] != "confirmed":
                continue
            low, high = found[1]["interval"]
            loss = (
                "undecided"
                if found[1]["verdict"] == "undecided"
                else ("lower loss" if high < 0 else "higher loss" if low > 0 else "undecided")
            )
            counts[loss] = counts.get(loss, 0) + 1
        out[task] = counts
    return out


def summarize(results: Results, options: Options, timed: Mapping[str, Mapping]) -> dict:
    """The headline numbers, each with interval and counts."""
    rankings, cohorts = [], []
    for base in bases(options):
        compared = comparisons(results, base)
        rows = ranking(results, base, compared, timed)
        cohorts.append(cohort_claims(base, compared))
        plain = {t: birth_row(results[t][PLAIN], birth_cell(base, False)) for t in results}
        rankings.append(
            {
                "rate": base.rate,
                "plain": plain,
                "rows": rows,
                "variants_with_fewer_dead_units_by_loss": price(rows, base),
            }
        )
    made = [
        *birth_claims(results, options),
        *revival_claims(options, cohorts),
        *gelu_claims(results, options),
    ]
    return {
        "question": "which remedy keeps ReLU units alive, revives dead ones, and at what price?",
        "definitions": DEFINITIONS,
        "interval": "differences: t over paired seeds; shares: Clopper-Pearson with effective "
        "trials, clustered by seed; 95 %; false-discovery rate controlled at 5 % over all "
        "differences of a base rate, and over the parts of the claims",
        "config": dataclasses.asdict(options.config),
        "tasks": list(options.tasks),
        "seeds": options.seeds,
        "low_rate": options.low_rate,
        "biases": list(options.biases),
        "claims": [claim.as_json() for claim in made],
        "rankings": rankings,
        "shapes": shapes(),
    }


def print_summary(summary: dict) -> None:
    """The headline as text."""
    claims.print_claims(summary["claims"])
    for ranked in summary["rankings"]:
        for task in summary["tasks"]:
            _print_ranking(ranked, task)
        print(
            f"\nrate {ranked['rate']:g}, variants with fewer dead units:",
            ranked["variants_with_fewer_dead_units_by_loss"],
        )


def _print_ranking(ranked: Mapping, task: str):
    plain = ranked["plain"][task]
    low, high = plain["dead"]["interval"]
    print(
        f"\n{task} at rate {ranked['rate']:g}: plain ReLU has {plain['dead']['estimate']:.3f} "
        f"[{low:.3f}, {high:.3f}] of its units dead at the end, "
        f"{plain['diverged']['estimate']:.2f} of its runs diverged, median held-out loss "
        f"{plain['held_loss']['median']}. Differences:"
    )
    print(
        f"{'':42}{'dead or diverged':>24}{'log held-out loss':>24}{'diverged':>9}{'time':>6}"
        f"{'wrong way':>10}"
    )
    for row in ranked["rows"]:
        entry = row["tasks"][task]
        print(
            f"{row['label']:42}{_difference_text(entry['difference']['dead']):>24}"
            f"{_difference_text(entry['difference']['held_loss']):>24}"
            f"{entry['diverged']['estimate']:9.2f}{row['time']['ratio']:6.2f}"
            f"{entry['wrong_way']['estimate']:10.3f}"
        )


def _difference_text(difference: Mapping | None) -> str:
    if difference is None:
        return "-"
    low, high = difference["interval"]
    return f"{difference['estimate']:+.3f} [{low:+.3f},{high:+.3f}]"


# Compute -> store -> draw -------------------------------------------------------------------------


def run(options: Options) -> None:
    """Compute -> store -> draw."""
    if not options.tasks:
        raise ValueError("tasks=() must name at least one.")
    arms = {task: task_grids(options, task) for task in options.tasks}
    study = {f"{task} {arm}": grid for task, own in arms.items() for arm, grid in own.items()}
    digest = studies.question_hash(study)
    out = options.out or pathlib.Path("runs") / f"remedies-{digest[:12]}"
    if not options.draw:
        started = time.monotonic()
        found = studies.sweep_study(study, out)
        results = {t: {arm: found[f"{t} {arm}"] for arm in own} for t, own in arms.items()}
        summary = summarize(results, options, timings(options))
        attributes = next(iter(found.values())).attrs
        summary["provenance"] = dict(attributes) | {"grid_hash": digest}
        summary["wall_seconds"] = round(time.monotonic() - started, 2)
        store.write_summary(out, summary)
        print_summary(summary)
    summary = studies.read_summary(out, ("rankings", "shapes", "provenance"))
    for name, draw in figure.FIGURES.items():
        paths = figures.save(draw(summary), out / name, summary["provenance"])
        print("wrote", *paths)
