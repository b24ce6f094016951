"""P(a new network is constant) against width and depth, after Lu et al. (arXiv 1903.06733).

Claims under test: the probability of being born dead lies within the proved bounds, rises with the
depth and falls with the width; the randomized asymmetric initialization lowers it. Two shares per
cell: networks with a silent layer, and networks whose output is constant to 1e-7. Another cell:
`--widths 4 --depths 7 --networks 200000 --init he`. Writes summary.json and born_dead.png/.pdf to
--out.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Drawing

from experiments.reproductions.drawing import draw_points
from experiments.reproductions.published import (
    FULL,
    LU,
    against,
    against_exact,
    check_counts,
    entry,
    initializer,
    report,
)
from relu_dynamics import statistics, theory
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, models
from relu_dynamics.engine.initializers import initializers_of
from relu_dynamics.engine.keys import run_key
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.figures.style import COLUMN, STYLE, ordered_colours, write_caption
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import ensembles

# Sweep --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """P(a new network is constant on a symmetric 1-D domain)."""

    widths: tuple[int, ...] = (2, 3, 5, 10)
    """Units of every hidden layer."""
    depths: tuple[int, ...] = (3, 5, 10, 20)
    """Weight layers L, so there are L - 1 hidden layers."""
    networks: int = 1_000_000
    """Networks per width."""
    init: tuple[str, ...] = ("he", "rai")
    """Initializers: he, rai (randomized asymmetric) or any other name of the package."""
    points: int = 33
    """Points of the domain where biases are not 0 (elsewhere its two half-lines are exact)."""
    networks_with_biases: int = 100_000
    """Networks per width where biases are not 0."""


DEFAULTS = Options()
QUICK = Options(widths=(2, 3), depths=(3, 10), networks=20_000, networks_with_biases=5_000)


def make_grids(options: Options) -> dict[str, Grid]:
    """A grid per initializer and width, of the deepest network; raises a one-line ValueError for
    options that cannot run."""
    check_counts(networks=options.networks, with_biases=options.networks_with_biases)
    if min(options.widths, default=0) < 1 or min(options.depths, default=0) < 2:
        raise ValueError(
            f"widths={options.widths}, depths={options.depths}: widths must be >= 1 and depths "
            ">= 2 weight layers."
        )
    if options.points < 2:
        raise ValueError(f"points={options.points} must be at least 2.")
    if not options.init:
        raise ValueError("init is empty; give at least one, such as he.")
    return {
        name_of(init, width): make_grid(
            Config(
                task="abs",
                hidden=(width,) * (max(options.depths) - 1),
                initializer=initializer(init),
                examples=options.points,
                **FULL,
            ),
            {"learning_rate": [0.1]},
            1,
            root_seed=options.root_seed,
        )
        for init in options.init
        for width in options.widths
    }


def name_of(init: str, width: int) -> str:
    """What the networks of an initializer and a width are called."""
    return f"{init}, width {width}"


class Ensemble(NamedTuple):
    """What the new networks of an initializer and a width showed."""

    silent: np.ndarray  # `Births.silent`, int [networks]
    constant: dict[int, np.ndarray]  # `Births.constant`, by depth in weight layers
    zero_bias: bool
    networks_per_second: int


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> dict[str, Ensemble]:
    """Initializes the networks: none is trained."""
    return {name: draw_networks(options, name, grid.config) for name, grid in grids.items()}


def draw_networks(options: Options, name: str, config: Config) -> Ensemble:
    """Many new networks of one config."""
    with_biases = initializers_of(config)[0].redraw is not None
    networks = options.networks_with_biases if with_biases else options.networks
    # Without biases a network is linear on either side of 0: its ends and 0 are the domain.
    points = options.points if with_biases else 3
    inputs = np.linspace(-(3**0.5), 3**0.5, points, dtype=np.float32)[:, None]
    started = time.monotonic()
    births = draw_births(config, jnp.asarray(inputs), networks, options.root_seed)
    speed = round(networks / (time.monotonic() - started))
    print(f"{name}: {speed:,} networks/s", flush=True)
    constant = {depth: births.constant[:, depth - 2] for depth in sorted(options.depths)}
    return Ensemble(births.silent, constant, not with_biases, speed)


CONSTANT = 1e-7  # an output of a smaller range on the domain is called constant


class Births(NamedTuple):
    """New networks at birth."""

    silent: np.ndarray  # int [networks], first silent hidden layer (from 1), else one past the last
    constant: np.ndarray  # bool [networks, hidden layers]: cut after that layer, a constant output


def draw_births(config: Config, inputs: jax.Array, networks: int, root_seed: int) -> Births:
    """Many new networks on all inputs [points, 1].

    From a silent layer on everything is constant, so a network of fewer layers is born dead
    exactly if its first layers hold a silent one: one ensemble answers for every depth. The output
    of a network of fewer layers is the first unit of the layer where it ends, before the ReLU.
    """

    def birth(number):
        key = jax.random.fold_in(jax.random.fold_in(root, len(config.hidden)), number)
        with jax.default_matmul_precision(models.PRECISION):
            forward = models.apply(config, initialization.initialize(config, key), inputs)
        z = forward.preactivations
        silent = jnp.stack([(layer <= 0).all() for layer in z])
        outputs = jnp.stack([above[:, 0] for above in (*z[1:], forward.output)])
        narrow = outputs.max(1) - outputs.min(1) <= CONSTANT
        first = jnp.where(silent.any(), silent.argmax(), len(z))
        return first + 1, narrow | (jnp.arange(len(z)) >= first)

    root = run_key(root_seed, config.hidden[0])
    return Births(*ensembles.map_lanes(birth, jnp.arange(networks, dtype=jnp.uint32), 1000))


# Analysis -----------------------------------------------------------------------------------------

DEFINITION = "a layer silent on the whole domain at initialization; Clopper-Pearson"
NOTED = {  # (width, weight layers): of asymmetric networks, in the project's field notes
    (3, 10): {"a silent layer": 0.064, "output constant to 1e-7": 0.064},
    (3, 20): {"a silent layer": 0.190, "output constant to 1e-7": 0.236},
}
PUBLISHED = {  # width: (text, low, high), 10 weight layers, after training (Lu et al.)
    2: ("> 90 % collapse after training", 0.9, 1.0),
    3: ("about 60 % collapse", 0.55, 0.65),
    5: ("> 10 % collapse", 0.1, 1.0),
    10: ("< 1 % collapse", 0.0, 0.01),
}


def summarize(options: Options, found: Mapping[str, Ensemble]) -> dict[str, Any]:
    """Every cell beside exact values and bounds, and the claims."""
    rows = [
        cell_row(init, width, depth, found[name_of(init, width)])
        for init in options.init
        for width in options.widths
        for depth in sorted(options.depths)
    ]
    return {
        "definition": "dead: a hidden layer whose units are all <= 0 on the whole domain, so "
        "that the network is constant; with biases on "
        f"{options.points} points of [-sqrt 3, sqrt 3], without on both half-lines (exact). "
        f"constant_output: the output has a range of at most {CONSTANT:g} there: a silent layer or "
        "signals that have shrunk to rounding",
        "interval": "Clopper-Pearson, 95 %; depths of a width share their networks",
        "rows": rows,
        "networks_per_second": {name: own.networks_per_second for name, own in found.items()},
        "table": published_table(rows),
        "claims": make_claims(rows),
    }


def cell_row(init: str, width: int, depth: int, own: Ensemble) -> dict[str, Any]:
    """P(born dead) of networks of `depth` weight layers, with the proved bounds at zero bias."""
    count = int((own.silent <= depth - 1).sum())
    row = {"init": init, "width": width, "depth": depth, "zero_bias": own.zero_bias}
    row |= statistics.exact_interval(count, len(own.silent)).as_json()
    constant = own.constant[depth]
    row["constant_output"] = statistics.exact_interval(int(constant.sum()), len(constant)).as_json()
    if own.zero_bias:
        row["bounds"] = list(theory.born_dead_network_bounds(width, depth))
    return row


def published_table(rows: Sequence[Mapping]) -> list[dict]:
    """Published numbers beside ours, of the cells that were run."""
    out = []
    for row in rows:
        if row["init"] == "he" and row["depth"] == 10 and row["width"] in PUBLISHED:
            text, low, high = PUBLISHED[row["width"]]
            # Training cannot undo a birth, but kill more: "more than" is not refuted by a birth.
            verdict = against(row, low, high)
            if verdict == "refuted" and row["interval"][1] < low:
                verdict = "conditional: born dead alone is less; see collapse"
            quantity = f"width {row['width']}, 10 weight layers, He: born dead"
            out.append(entry(LU, quantity, text, row, verdict))
        if row["init"] == "he" and row["depth"] == 3:
            exact = float(theory.born_dead_network_probability(row["width"], 3))
            quantity = f"width {row['width']}, 3 weight layers, He: born dead"
            published = f"{exact:.6g} exactly (their lower bound is attained)"
            out.append(entry(LU, quantity, published, row, against_exact(row, exact)))
        if row["init"] == "rai" and (row["width"], row["depth"]) in NOTED:
            for name, noted in NOTED[row["width"], row["depth"]].items():
                share = row if name == "a silent layer" else row["constant_output"]
                quantity = f"width {row['width']}, {row['depth']} weight layers, asymmetric: {name}"
                verdict = against_exact(share, noted)
                out.append(entry("field notes", quantity, f"{noted:.3f}", share, verdict))
    return out


def make_claims(rows: Sequence[Mapping]) -> list[Claim]:
    """Depth, width and the bounds; He's initialization against the asymmetric one."""
    bounded = [row for row in rows if row["zero_bias"]]
    he = [row for row in bounded if row["init"] == "he"]
    by = {(row["init"], row["width"], row["depth"]): row for row in rows}
    pair = [by[init, 2, 10] for init in ("he", "rai") if (init, 2, 10) in by]
    found = [bounds_claim(bounded)] if bounded else []
    found += [asymmetric_claim(*pair)] if len(pair) == 2 else []
    for axis, other, word in (("depth", "width", "rises"), ("width", "depth", "falls")):
        if steps := neighbours(he, axis, other):
            found.append(monotone_claim(steps, axis, word))
    return found


def bounds_claim(rows: Sequence[Mapping]) -> Claim:
    """Whether every cell without biases meets the proved bounds."""
    inside = [
        row["bounds"][0] <= row["interval"][1] and row["interval"][0] <= row["bounds"][1]
        for row in rows
    ]
    return Claim(
        claim="The probability of being born dead lies within the proved bounds",
        source=LU,
        verdict="confirmed" if all(inside) else "refuted",
        finding=f"{sum(inside)} of {len(inside)} cells have an interval that meets "
        "[lower, upper]; the lower bound is exact at 3 weight layers.",
        estimate=float(np.mean(inside)),
        interval=None,
        count=f"{len(inside)} cells, {rows[0]['trials']:,} networks per width",
        definition=DEFINITION,
        figure="born_dead",
    )


def asymmetric_claim(plain: Mapping, rai: Mapping) -> Claim:
    """He's initialization against the asymmetric one, from the rows of both."""
    ratio = plain["estimate"] / max(rai["estimate"], 1e-300)
    low = plain["interval"][0] / rai["interval"][1]
    high = plain["interval"][1] / max(rai["interval"][0], 1e-300)
    return Claim(
        claim="The randomized asymmetric initialization is born dead at least 3 times less "
        "often (width 2, 10 weight layers)",
        source=LU,
        verdict="confirmed" if low > 3 else "refuted" if high < 3 else "undecided",
        finding=f"He {plain['estimate']:.4f}, asymmetric {rai['estimate']:.4f}: "
        f"{ratio:.2f} times [{low:.2f}, {high:.2f}].",
        estimate=ratio,
        interval=(low, high),
        count=f"{plain['trials']:,} and {rai['trials']:,} networks",
        definition=DEFINITION + " ends combined (wider than 95 %)",
        figure="born_dead",
    )


def neighbours(rows: Sequence[Mapping], axis: str, other: str) -> list[tuple[Mapping, Mapping]]:
    """Pairs of cells next to each other along an axis, the other one equal."""
    lines: dict[int, list] = {}
    for row in sorted(rows, key=lambda r: r[axis]):
        lines.setdefault(row[other], []).append(row)
    return [(a, b) for line in lines.values() for a, b in zip(line, line[1:], strict=False)]


def monotone_claim(steps: Sequence[tuple[Mapping, Mapping]], axis: str, word: str) -> Claim:
    """Whether the probability "rises" or "falls" with an axis between all neighbours."""
    sign = 1 if word == "rises" else -1
    holds = [
        sign * a["estimate"] < sign * b["estimate"]
        and (a["interval"][1] < b["interval"][0] or b["interval"][1] < a["interval"][0])
        for a, b in steps
    ]
    return Claim(
        claim=f"The probability of being born dead {word} with the {axis}",
        source=LU,
        verdict="confirmed" if all(holds) else "undecided",
        finding=f"{sum(holds)} of {len(holds)} neighbouring cells do, with intervals apart.",
        estimate=float(np.mean(holds)),
        interval=None,
        count=f"{len(holds)} pairs of cells",
        definition=DEFINITION,
        figure="born_dead",
    )


# Figure -------------------------------------------------------------------------------------------


def draw_born_dead(summary: Mapping) -> Drawing:
    """P(born dead) over depth, a line per width, with exact bounds as bands."""
    rows = summary["rows"]
    widths = sorted({row["width"] for row in rows})
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 3.3))
        for width, colour in zip(widths, ordered_colours(len(widths)), strict=True):
            for init in dict.fromkeys(row["init"] for row in rows):
                own = [r for r in rows if r["width"] == width and r["init"] == init]
                own = sorted((r for r in own if r["estimate"] > 0), key=lambda r: r["depth"])
                if not own:
                    continue
                he = own[0]["zero_bias"]
                style = {"marker": "o" if he else "s", "mfc": colour if he else "white"}
                line = {"linestyle": "none" if he else (0, (2, 1.5)), "linewidth": 0.7}
                draw_points(axes, [r["depth"] for r in own], own, color=colour, **style, **line)
            depths = np.arange(3, max(3, *(row["depth"] for row in rows)) + 1)
            low, high = theory.born_dead_network_bounds(width, depths)
            axes.fill_between(depths, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot([], [], "o", color=colour, label=f"width {width}")
        axes.plot([], [], "o", color="0.3", label="He")
        axes.plot([], [], "s", mfc="white", color="0.3", label="asym.")
        axes.set(
            xscale="log",
            yscale="log",
            ylim=(3e-6, 1.5),
            xlabel="weight layers",
            ylabel="P(network born dead)",
        )
        ticks = sorted({row["depth"] for row in rows})
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        figure.legend(loc="outside upper center", ncols=3, columnspacing=0.8)
        most, least = (f(row["trials"] for row in rows) for f in (max, min))
        networks = f"{most:,}" if most == least else f"{most:,} (asymmetric: {least:,})"
        write_caption(
            figure,
            f"n = {networks} new networks per width, none trained, one input in "
            "[-√3,\N{NO-BREAK SPACE}√3]. Bands: proved bounds at zero bias. 95 % "
            "intervals (Clopper-Pearson), mostly smaller "
            "than the marks; cells without a dead network are not drawn. Born dead: a layer with "
            "z <= 0 on the whole domain. Circles: He's normal weights; squares (asym.): randomized "
            "asymmetric initialization.",
        )
    return figure


EXPERIMENT = Experiment(
    name="born_dead",
    question="how probable is a new network that is constant?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    grids=make_grids,
    also_decides=lambda options: (
        options.depths,
        options.networks,
        options.networks_with_biases,
    ),
    train=train,
    analyse=summarize,
    report=report,
    figures={
        "born_dead": Figure(
            "P(a new network is born dead) over depth and width, beside its bounds.", draw_born_dead
        )
    },
)
