"""P(a latent of a new sparse autoencoder is silent on all tokens) against the tokens' mean, in the
setting of Simon, Adams & Zou (arXiv 2605.31518).

Claim under test: a latent is silent on n tokens with probability E Phi(-gamma a)^n, which is
1 / (n + 1) at gamma = 1. Writes summary.json and autoencoder_birth.png/.pdf to --out.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Drawing

from experiments.reproductions.drawing import draw_points
from experiments.reproductions.published import (
    FULL,
    SIMON,
    against_exact,
    check_counts,
    entry,
    report,
)
from relu_dynamics import statistics, theory
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, models
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.figures.style import COLUMN, MARKERS, STYLE, ordered_colours, write_caption
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import ensembles

# Sweep --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """P(a new latent is silent on all tokens) against the tokens' mean."""

    gammas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 15.0)
    """||mean|| / ||deviations|| of the Gaussian tokens."""
    samples: tuple[int, ...] = (10, 100, 1000)
    """Tokens."""
    dimension: int = 256
    """Of the tokens."""
    latents: int = 256
    """Latents of one autoencoder."""
    autoencoders: int = 400
    """New autoencoders, each with tokens of its own."""


DEFAULTS = Options()
QUICK = Options(samples=(10, 100), dimension=64, latents=64, autoencoders=100)


def make_grids(options: Options) -> dict[str, Grid]:
    """One grid, whose seeds are the autoencoders; raises a one-line ValueError for options that
    cannot run."""
    check_counts(latents=options.latents, autoencoders=options.autoencoders)
    if min(options.samples, default=0) < 1 or min(options.gammas, default=-1) < 0:
        raise ValueError(
            f"samples={options.samples}, gammas={options.gammas}: samples must be >= 1 and gammas "
            ">= 0."
        )
    if options.dimension < 3:
        raise ValueError(f"dimension={options.dimension} must be at least 3.")
    config = Config(
        task="teacher_student",
        dimension=options.dimension,
        hidden=(options.latents,),
        examples=max(options.samples),
        **FULL,
    )
    rates = {"learning_rate": [0.1]}
    grid = make_grid(config, rates, options.autoencoders, root_seed=options.root_seed)
    return {"encoders": grid}


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> np.ndarray:
    """`silent_latents` of all autoencoders: none is trained."""
    grid = grids["encoders"]
    keys = ensembles.run_keys(grid.root_seed, grid.seeds)
    return silent_latents(grid.config, options.gammas, options.samples, keys)


def silent_latents(
    config: Config, gammas: Sequence[float], samples: Sequence[int], keys: jax.Array
) -> np.ndarray:
    """How many latents of each new encoder are silent on the first `samples` of its tokens,
    [keys, gammas, samples]. The encoder is the first layer of `config`'s network."""

    def count(key):
        params = initialization.initialize(config, purpose_key(key, "init"))
        centred = jax.random.normal(purpose_key(key, "task"), (max(samples), config.dimension))
        encode = lambda x: models.apply(config, params, x).preactivations[0]  # noqa: E731
        with jax.default_matmul_precision(models.PRECISION):
            z, mean = encode(centred), encode(jnp.ones((1, config.dimension)))
        largest = jnp.stack([z[:n].max(0) for n in samples])  # biases are 0: z is linear
        shifted = largest[None] + jnp.asarray(gammas)[:, None, None] * mean[None]
        return (shifted <= 0).sum(-1)

    return ensembles.map_keys(count, keys, 4)


# Analysis -----------------------------------------------------------------------------------------


def summarize(options: Options, silent: np.ndarray) -> dict[str, Any]:
    """Silent latents beside the law of their birth."""
    rows = [
        cell_row(options, gamma, samples, silent[:, i, j])
        for i, gamma in enumerate(options.gammas)
        for j, samples in enumerate(options.samples)
    ]
    return {
        "definition": "dead: z <= 0 on all tokens at initialization, biases 0",
        "interval": "Korn-Graubard, clustered by autoencoder, 95 %",
        "dimension": options.dimension,
        "rows": rows,
        "table": published_table(options, rows),
        "claims": [birth_claim(rows)],
    }


def cell_row(options: Options, gamma: float, samples: int, silent: np.ndarray) -> dict[str, Any]:
    """The share of silent latents [autoencoders] of one cell, and what the law says."""
    trials = np.full(len(silent), options.latents)
    law = theory.autoencoder_dead_at_birth(gamma, samples)
    finite = theory.autoencoder_dead_at_birth_finite(gamma, samples, options.dimension)
    return {
        "gamma": gamma,
        "samples": samples,
        **statistics.clustered_interval(silent, trials).as_json(),
        "law": float(law),
        "law_finite": float(finite),
    }


def published_table(options: Options, rows: Sequence[Mapping]) -> list[dict]:
    """The law beside ours at gamma 1 and 15."""
    return [
        entry(
            SIMON,
            f"gamma {row['gamma']:g}, {row['samples']:,} tokens: silent latents",
            f"{row['law']:.5g} (law); {row['law_finite']:.5g} at d = {options.dimension}",
            row,
            against_exact(row, row["law_finite"]),
        )
        for row in rows
        if row["gamma"] in (1.0, 15.0)
    ]


def birth_claim(rows: Sequence[Mapping]) -> Claim:
    """Whether the counts follow the law, cell by cell, with the level shared among the cells."""
    meets = [row["interval"][0] <= row["law_finite"] <= row["interval"][1] for row in rows]
    limit = [row["interval"][0] <= row["law"] <= row["interval"][1] for row in rows]
    allowed = int(np.ceil(0.05 * len(rows) + 2 * np.sqrt(0.05 * 0.95 * len(rows))))
    misses = len(meets) - sum(meets)
    return Claim(
        claim="A new latent is silent on n tokens with probability E Phi(-gamma a)^n, 1/(n+1) at "
        "gamma = 1",
        source=SIMON,
        verdict="confirmed" if misses <= allowed else "refuted",
        finding=f"{sum(meets)} of {len(meets)} cells have the law for the finite dimension in "
        f"their 95 % interval, {sum(limit)} its limit of many dimensions (at most {allowed} "
        "misses are expected by chance).",
        estimate=float(np.mean(meets)),
        interval=None,
        count=f"{len(meets)} cells, {rows[0]['trials']:,} latents each",
        definition="z <= 0 on all tokens at initialization",
        figure="autoencoder_birth",
    )


# Figure -------------------------------------------------------------------------------------------


def draw_autoencoder_birth(summary: Mapping) -> Drawing:
    """P(silent latent) over gamma, a curve per number of tokens, with the law."""
    rows = summary["rows"]
    positive = [r["gamma"] for r in rows if r["gamma"]]
    gammas = np.geomspace(min(positive), max(positive), 60)
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(figsize=(COLUMN, 3.0))
        counts = sorted({r["samples"] for r in rows})
        looks = zip(counts, ordered_colours(len(counts)), MARKERS, strict=False)
        for samples, colour, marker in looks:
            own = [r for r in rows if r["samples"] == samples and r["gamma"] and r["estimate"] > 0]
            draw_points(
                axes,
                [r["gamma"] for r in own],
                own,
                color=colour,
                marker=marker,
                linestyle="none",
                label=f"{samples:,}",
            )
            law = theory.autoencoder_dead_at_birth_finite(gammas, samples, summary["dimension"])
            axes.plot(gammas, law, color=colour, linewidth=0.8)
            limit = theory.autoencoder_dead_at_birth(gammas, samples)
            axes.plot(gammas, limit, color=colour, linewidth=0.7, linestyle=(0, (2, 1.5)))
        axes.axhline(0.5, color="0.6", linewidth=0.6)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="gamma = |mean| / |deviations|",
            ylabel="P(silent on all tokens)",
            ylim=(1e-6, 1),
        )
        axes.legend(title="tokens", title_fontsize=7, loc="lower right")
        write_caption(
            figure,
            f"n = {rows[0]['trials']:,} new latents per point, none trained, of {rows[0]['seeds']} "
            "autoencoders (seeds) in "
            f"{summary['dimension']} dimensions, 95 % intervals clustered by autoencoder. Dead: z "
            "<= 0 on all tokens. Lines: the law in as many dimensions; dashed: its limit in many; "
            "grey: one half, its limit at large gamma. Points without a silent latent are not "
            "drawn.",
        )
    return figure


EXPERIMENT = Experiment(
    name="autoencoder_birth",
    question="how probable is a new latent that is silent on all tokens?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    grids=make_grids,
    also_decides=lambda options: (options.gammas, options.samples),
    train=train,
    analyse=summarize,
    report=report,
    figures={
        "autoencoder_birth": Figure(
            "P(a new latent is silent on all tokens), beside its law.", draw_autoencoder_birth
        )
    },
)
