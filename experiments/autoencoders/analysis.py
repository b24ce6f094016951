"""The analysis: latents dead at birth beside their law, at the end, and what a revival changes.
From stored results and times alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from experiments.autoencoders.sweep import (
    ACTIVATIONS,
    PLAIN,
    REVIVALS,
    Options,
    arms,
    label_of,
)
from experiments.autoencoders.verdicts import birth_claim, mean_claims, revival_claims
from relu_dynamics import statistics, theory
from relu_dynamics.engine.activations import ACTIVATIONS as ROWS
from relu_dynamics.statistics import claims, estimates

DEFINITIONS = {
    "dead": "share of all latents whose derivative by z is exactly 0 on all training tokens at the "
    "horizon; in a diverged run all count as dead",
    "fvu": "natural logarithm of the squared error on held-out tokens in units of their variance",
    "l0": "latents active per training token at the horizon",
}
Cell = Mapping[str, float]


class Trained(NamedTuple):
    """What was trained and timed."""

    results: Mapping[str, xr.Dataset]
    timed: Mapping[str, Mapping]  # `timing.timings`


def cells_of(options: Options, revival: str) -> list[dict[str, float]]:
    """Every cell of an arm's grid."""
    biases = options.biases if revival == PLAIN else options.biases[:1]
    return [
        {"scaling_dose": gamma, "learning_rate": rate, "initial_bias": bias}
        for gamma in options.gammas
        for rate in options.rates
        for bias in biases
    ]


def values_of(result: xr.Dataset, cell: Cell) -> dict[str, np.ndarray]:
    """What is measured in one cell, one number per seed [seed]. The tokens have variance 1 in every
    coordinate, so the mean squared error is the FVU."""
    at = result.sel(cell, method="nearest")
    config = estimates.config_of(result)
    diverged = estimates.per_seed(result, "diverged", cell)
    active = at.layer_active_fraction.isel(probe_step=-1, layer=0).values.astype(float)
    if ROWS[config["activation"]].selects:
        active = np.full_like(active, config["top_k"] / config["hidden"][0])
    return {
        "dead": estimates.per_seed(result, "dead", cell) + diverged,
        "fvu": np.log(np.maximum(at.held_error.values.astype(float), 1e-30)),
        "l0": active * config["hidden"][0],
    }


def birth_rows(options: Options, result: xr.Dataset) -> list[dict[str, Any]]:
    """The share of latents dead at step 0 without a bias, with the law, for every gamma. Learning
    rates share their starts."""
    config, rows = options.config, []
    for gamma in options.gammas:
        cell = {"scaling_dose": gamma, "learning_rate": options.rates[0], "initial_bias": 0.0}
        dead = result.sel(cell, method="nearest").dead_at_start.transpose("seed", "unit").values
        trials = np.full(len(dead), dead.shape[1])
        law = theory.autoencoder_dead_at_birth_finite(gamma, config.examples, config.dimension)
        share = statistics.clustered_interval(dead.sum(1), trials).as_json()
        rows.append({"gamma": gamma, **share, "law": float(law)})
    return rows


def end_rows(options: Options, trained: Trained) -> list[dict[str, Any]]:
    """Every cell of every arm: dead at the end with interval and count, FVU, L0."""
    rows = []
    for name, (activation, revival) in arms(options).items():
        for cell in cells_of(options, revival):
            measured = values_of(trained.results[name], cell)
            share = estimates.cells(trained.results[name], "dead").sel(cell, method="nearest")
            rows.append(
                {
                    "activation": activation,
                    "revival": revival,
                    **cell,
                    "dead": estimates.as_json(share),
                    "fvu": float(np.exp(np.median(measured["fvu"]))),
                    "l0": float(measured["l0"].mean()),
                    "diverged": float(
                        estimates.per_seed(trained.results[name], "diverged", cell).mean()
                    ),
                }
            )
    return rows


def summarize(options: Options, trained: Trained) -> dict[str, Any]:
    """The headline numbers, each with interval and counts."""
    measured = {
        (*arm, *cell.values()): values_of(trained.results[name], cell)
        for name, arm in arms(options).items()
        for cell in cells_of(options, arm[1])
    }
    births = []
    if "relu" in options.activations and 0.0 in options.biases:
        births = birth_rows(options, trained.results[f"relu {PLAIN}"])
    revived, rows = revival_claims(options, measured)
    for row in rows:
        row["label"] = label_of(row["activation"], row["revival"])
        row["time"] = trained.timed[f"{row['activation']} {row['revival']}"]
    return {
        "definitions": DEFINITIONS,
        "interval": "shares: Korn-Graubard, clustered by seed; differences: t over paired seeds; "
        "95 %; false-discovery rate controlled at 5 % over the parts of the claims",
        "config": dataclasses.asdict(options.config),
        "labels": {
            "activations": {name: ACTIVATIONS[name][0] for name in options.activations},
            "revivals": {name: REVIVALS[name][0] for name in (PLAIN, *options.revivals)},
        },
        "seeds": options.seeds,
        "births": births,
        "cells": end_rows(options, trained),
        "revivals": rows,
        "times": trained.timed,
        "claims": [
            *birth_claim(options, births),
            *mean_claims(options, measured),
            *revived,
        ],
    }


def print_summary(summary: Mapping[str, Any]) -> None:
    """The headline as text."""
    claims.print_claims(summary["claims"])
    for row in summary["births"]:
        low, high = row["interval"]
        print(
            f"gamma {row['gamma']:g}: dead at birth {row['estimate']:.3f} [{low:.3f}, {high:.3f}], "
            f"law {row['law']:.3f}"
        )
    print(f"{'':44}{'dead':>26}{'log FVU':>26}{'L0':>26}{'time':>6}")
    for row in summary["revivals"]:
        parts = "".join(_difference_text(row[name]).rjust(26) for name in ("dead", "fvu", "l0"))
        print(f"{row['label']:44}{parts}{row['time']['ratio']:6.2f}")


def _difference_text(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["interval"]
    return f"{found['estimate']:+.3f} [{low:+.3f},{high:+.3f}]"
