"""Published numbers on dead ReLU units, measured again.

born-dead            P(a new network is constant) against width and depth (Lu et al.)
collapse             P(a trained network is constant), He's and the asymmetric initialization
target_variance      P(a unit dies) against the targets' variance and momentum (Arnekvist et al.)
layers               dead units per layer before and after training, and who recovers (UvA tutorial)
continual            dead units under tasks that keep changing (Dohare et al.)
autoencoder-birth    P(a latent is silent on all tokens) at initialization (setting of Simon et al.)
boundary             the image of the recovery boundary, with zooms (after Sohl-Dickstein)

Each writes summary.json, with a table of published numbers beside ours, and a figure to --out.
The axes are options: `born-dead --widths 4 --depths 7 --networks 200000 --init he` asks for another
cell. All together about twenty CPU minutes, so ten on two cores; --quick under a minute each.
"""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reproductions import figure
from experiments.reproductions.published import (
    DOHARE,
    FULL,
    SIMON,
    SOHL,
    UVA,
    against_exact,
    check_counts,
    entry,
    print_table,
)
from relu_dynamics import (
    certificates,
    cli,
    figures,
    statistics,
    store,
    theory,
)
from relu_dynamics.certificates.case import Verdict
from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, models, tasks, training
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.statistics.intervals import Interval
from relu_dynamics.sweeps import ensembles, studies
from relu_dynamics.sweeps.sweep import sweep_grid

# What all of them share ---------------------------------------------------------------------------


def conduct(
    name: str,
    options: Any,
    grid: Grid,
    compute: Callable[[pathlib.Path], dict[str, Any]],
    draw: Callable[[Mapping[str, Any]], Any],
) -> None:
    """Compute -> store -> draw, for one NAME. `grid` says what was run in the provenance."""
    asked = {k: v for k, v in dataclasses.asdict(options).items() if k not in ("out", "draw")}
    digest = hashlib.sha256(json.dumps([asked, grid.hash], sort_keys=True).encode()).hexdigest()
    out = options.out or pathlib.Path("runs") / f"{name}-{digest[:12]}"
    path = out / store.SUMMARY_FILE
    if options.draw:
        if not path.is_file():
            raise ValueError(f"{str(path)!r} is not there; run the experiment first.")
        summary = json.loads(path.read_text())
    else:
        if path.is_file() and json.loads(path.read_text()).get("question_hash") != digest:
            raise store.OtherGridError(f"{str(out)!r} holds another question; use another --out.")
        print(f"== {name}", flush=True)
        started = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        summary = compute(out)
        summary["claims"] = [c.as_json() for c in claims.controlled(summary["claims"])]
        summary |= {"name": name, "question_hash": digest, "options": asked}
        summary["provenance"] = store.provenance(grid)
        summary["wall_seconds"] = round(time.monotonic() - started, 2)
        store.write_summary(out, json.loads(json.dumps(summary, default=str)))
        print_table(summary["table"])
        claims.print_claims(summary["claims"])
    stem = name.replace("-", "_")
    print("wrote", *figures.save(draw(summary), out / stem, summary["provenance"]))


# Dead units per layer -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layers:
    """Dead units per layer before and after training, and which layers recover."""

    hidden: tuple[int, ...] = (64, 32, 32, 16)
    """Widths; the tutorial's are eight times as large."""
    learning_rates: tuple[float, ...] = (0.01, 0.1)
    """Learning rates; the tutorial's is 0.01."""
    initial_biases: tuple[float, ...] = (-4.0, -2.0, -1.0, -0.5, -0.25)
    """What is added to the biases of a quarter of one layer's units, so that some begin dead."""
    steps: int = 600
    """Steps with batches of 64."""
    seeds: int = 100
    """Seeds per cell."""
    certified_seeds: int = 2
    """Seeds whose first-layer units get certificates."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/layers-<hash of the question>."""
    draw: bool = False
    """Only draw again from what is stored."""


def layers_study(options: Layers) -> dict[str, Grid]:
    """The tutorial's network, and one grid per layer in which a quarter of it begins dead."""
    base = Config(
        hidden=options.hidden,
        initializer="torch_default",
        optimizer="momentum",
        momentum=0.9,
        examples=1024,
        steps=options.steps,
        probe_every=max(options.steps // 10, 1),
        **{**FULL, "batch_size": 64},
    )
    rates = {"learning_rate": options.learning_rates}
    study = {
        "as published": make_grid(base, rates, options.seeds, root_seed=options.root_seed),
    }
    for layer, width in enumerate(options.hidden, start=1):
        config = dataclasses.replace(base, biased_layer=layer, biased_units=max(width // 4, 1))
        axes = {"initial_bias": options.initial_biases, "learning_rate": options.learning_rates}
        study[f"layer {layer} begins dead"] = make_grid(
            config, axes, options.seeds, root_seed=options.root_seed
        )
    return study


def run_layers(options: Layers) -> None:
    """Counts dead and recovered units per layer; certificates of the first; slopes at 0."""
    check_counts(seeds=options.seeds, certified_seeds=options.certified_seeds)
    study = layers_study(options)

    def compute(out):
        results = studies.sweep_study(study, out)
        rows = layer_rows(options, results)
        certified = first_layer_certificates(options, study["layer 1 begins dead"])
        exact = activation_rows()
        return {
            "question": "which layers' dead units recover?",
            "definition": "dead: max z over all 1,024 training examples <= 0; recovered: dead at "
            "step 0, alive at a later evaluation",
            "interval": "Korn-Graubard, clustered by seed, 95 %",
            "rows": rows,
            "certificates": certified,
            "activations": exact,
            "hazards": layer_hazards(results),
            "table": layers_table(options, rows, exact),
            "claims": layers_claims(rows, certified),
        }

    grid = study["as published"]
    conduct("layers", options, grid, compute, figure.draw_layers)


def _share(successes: np.ndarray, trials: np.ndarray) -> dict[str, Any]:
    return statistics.clustered_interval(successes, trials).as_json()


def layer_rows(options: Layers, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per layer and learning rate: dead before and after as published, and recovered of those that
    were dead at step 0, as published and where the layer was made to begin dead (all biases)."""
    rows = []
    for layer in range(1, len(options.hidden) + 1):
        plain, forced = results["as published"], results[f"layer {layer} begins dead"]
        for rate in options.learning_rates:
            row: dict[str, Any] = {"layer": layer, "learning_rate": rate}
            for name, result in (("", plain), ("forced_", forced)):
                at = result.sel(learning_rate=rate).isel(
                    unit=np.flatnonzero(result.unit_layer.values == layer)
                )
                order = [*(n for n in estimates.axis_names(result) if n != "learning_rate"), "seed"]
                dead, after, back = (
                    part.sum("unit").transpose(*order).values
                    for part in (
                        at.dead_at_start & ~at.near_zero_at_start,
                        ~at.alive,
                        at.dead_at_start & ~at.near_zero_at_start & (at.first_recovery != NEVER),
                    )
                )
                pool = tuple(range(dead.ndim - 1))
                dead, after, back = (part.sum(pool) for part in (dead, after, back))
                units = np.full(dead.shape, at.sizes["unit"])
                if not name:
                    row["dead_before"], row["dead_after"] = (
                        _share(dead, units),
                        _share(after, units),
                    )
                row[name + "recovered"] = _share(back, dead)
            rows.append(row)
    return rows


def layer_hazards(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Death and recovery per evaluation in the last quarter of the published runs, per layer."""
    result = results["as published"]
    out = []
    for layer in result.layer.values:
        table = estimates.hazards(result, layer=int(layer), windows=2).isel(window=-1)
        for i, rate in enumerate(table.learning_rate.values):
            names = (
                "death",
                "death_low",
                "death_high",
                "recovery",
                "recovery_low",
                "recovery_high",
            )
            row = {name: float(table[name][i]) for name in (*names, "observed")}
            counts = {f"{n}_events": int(table[f"{n}_events"][i]) for n in ("death", "recovery")}
            out.append({"layer": int(layer), "learning_rate": float(rate), **row, **counts})
    return out


def first_layer_certificates(options: Layers, grid: Grid) -> dict[str, int]:
    """How many of the first layer's dead units are certified never to come back, of how many."""
    never = dead = 0
    data = tasks.load_data(grid.config)
    for seed in grid.seeds[: options.certified_seeds]:
        key = run_key(grid.root_seed, seed)
        for bias in options.initial_biases:
            config = dataclasses.replace(grid.config, initial_bias=bias)
            task = tasks.make_task(config, purpose_key(key, "task"), data)
            state = training.start(training.as_arrays(config), key)
            found = certificates.certify(config, task, state, horizon=options.steps)
            first = slice(0, config.hidden[0])
            silent = found.margin[first] <= 0
            dead += int(silent.sum())
            never += int((silent & (found.verdict[first] == Verdict.CERTIFIED_NEVER)).sum())
    return {"never": never, "dead": dead}


def activation_rows() -> list[dict[str, Any]]:
    """Exact facts on slopes, computed from the package's own activations."""
    slope = jax.grad(lambda z: ACTIVATIONS["gelu"](z))
    low, high = -1.0, -0.5
    for _ in range(30):  # bisection down to float32
        middle = (low + high) / 2
        low, high = (middle, high) if float(slope(middle)) < 0 else (low, middle)
    facts = [
        ("z at which GELU'(z) = 0, in closed form", -0.751792, theory.gelu_stationary_point()),
        ("z at which GELU'(z) = 0, by jax.grad in float32", -0.751792, low),
        ("ELU: time to surface from z = -5, times rate and gradient", 147.413, None),
        ("ELU: time to surface from z = -10, times rate and gradient", 22025.47, None),
        ("slope of jax.nn.relu at 0", 0.0, float(jax.grad(jax.nn.relu)(0.0))),
        (
            "slope of jnp.maximum(z, 0) at 0",
            0.5,
            float(jax.grad(lambda z: jnp.maximum(z, 0.0))(0.0)),
        ),
        ("slope of jax.nn.leaky_relu at 0", 1.0, float(jax.grad(jax.nn.leaky_relu)(0.0))),
    ]
    surfacing = iter((-5.0, -10.0))
    rows = []
    for quantity, stated, found in facts:
        ours = float(theory.elu_surfacing_time(next(surfacing))) if found is None else float(found)
        agrees = abs(ours - stated) <= 1e-5 * max(1.0, abs(stated))
        verdict = "confirmed" if agrees else "refuted"
        rows.append({"quantity": quantity, "stated": stated, "ours": ours, "verdict": verdict})
    return rows


def layers_table(options: Layers, rows: Sequence[Mapping], exact: Sequence[Mapping]) -> list[dict]:
    """The tutorial's counts as fractions beside ours at its learning rate, and exact slopes."""
    widths, before, after = (512, 256, 256, 128), (0, 0, 3, 7), (0, 0, 3, 3)
    out = []
    for row in rows:
        i = row["layer"] - 1
        if row["learning_rate"] == 0.01 and len(options.hidden) == 4:
            for name, counts in (("before", before), ("after", after)):
                published = f"{counts[i]} of {widths[i]} (one seed)"
                theirs = statistics.exact_interval(counts[i], widths[i])
                ends = row[f"dead_{name}"]["interval"]
                apart = ends[0] > theirs.high or ends[1] < theirs.low
                verdict = "conditional: another network" if apart else "confirmed"
                quantity = f"layer {row['layer']} of 4: dead {name} training"
                out.append(entry(UVA, quantity, published, row[f"dead_{name}"], verdict))
    for row in exact:
        value = {"estimate": row["ours"], "interval": [row["ours"]] * 2, "seeds": 1}
        out.append(entry("exact", row["quantity"], f"{row['stated']:g}", value, row["verdict"]))
    return out


def layers_claims(rows: Sequence[Mapping], certified: Mapping[str, int]) -> list[Claim]:
    """The first layer never recovers; deeper ones do."""
    definition = (
        "dead on all 1,024 training examples at step 0 (a quarter of the layer biased), alive at a "
        "later evaluation"
    )

    def total(layer):
        own = [r["forced_recovered"] for r in rows if r["layer"] == layer]
        return sum(r["successes"] for r in own), sum(r["trials"] for r in own)

    back, dead = total(1)
    found = [
        Claim(
            claim="Dead units of the first layer never recover",
            source=UVA,
            verdict="confirmed" if certified["never"] == certified["dead"] else "conditional",
            finding=f"{certified['never']} of {certified['dead']} first-layer units that are dead "
            f"are certified never to come back (their gradient and momentum are 0); {back} of "
            f"{dead:,} that began dead were seen alive again.",
            estimate=back / max(dead, 1),
            interval=None,
            count=f"{certified['dead']} certificates, {dead:,} unit-runs",
            definition=definition,
            condition=""
            if certified["never"] == certified["dead"]
            else "no decay, noise or residue: plain momentum from a fresh start",
            figure="layers",
        )
    ]
    for layer in sorted({r["layer"] for r in rows} - {1}):
        best = max(
            (r for r in rows if r["layer"] == layer),
            key=lambda r: r["forced_recovered"]["estimate"] or 0.0,
        )
        share = best["forced_recovered"]
        low, high = share["interval"]
        found.append(
            Claim(
                claim=f"Dead units of layer {layer} recover by themselves",
                source=UVA,
                verdict="confirmed" if low > 0 and share["successes"] else "undecided",
                finding=f"{share['estimate']:.3f} [{low:.3f}, {high:.3f}] of {share['trials']:,} "
                f"unit-runs at learning rate {best['learning_rate']:g}.",
                estimate=share["estimate"],
                interval=(low, high),
                count=f"{share['seeds']} seeds, {share['trials']:,} unit-runs",
                definition=definition,
                figure="layers",
            )
        )
    return found


# Continual learning -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Continual:
    """Dead units and loss while the task changes again and again."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Step sizes of the slowly changing regression (SGD, one example per step)."""
    bit_period: int = 1000
    """Steps between two bit flips."""
    bit_periods: int = 50
    """Flips; the paper trains for a million steps."""
    digit_rates: tuple[float, ...] = (0.01, 0.1, 0.5)
    """Step sizes of permuted digits (SGD, batches of 32)."""
    digit_period: int = 200
    """Steps between two permutations; the paper's one epoch of 60,000 images."""
    digit_periods: int = 30
    """Permutations; the paper's 800."""
    seeds: int = 100
    """Seeds per step size."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/continual-<hash of the question>."""
    draw: bool = False
    """Only draw again from what is stored."""


def continual_reading(config: Config, task: tasks.Task, run: training.Run) -> tuple:
    """(mean training loss, share of dead units at the end) of every period, [periods] each."""
    dead = run.trace.probe_layers.dead_fraction[1:]  # [evaluations, layers]
    widths = jnp.asarray(config.hidden, jnp.float32)
    dead = (dead * widths[None, :]).sum(1) / widths.sum()
    evaluations = config.change_every // config.probe_every
    periods = config.steps // config.change_every
    return run.trace.loss.reshape(periods, evaluations).mean(1), dead.reshape(periods, evaluations)[
        :, -1
    ]


def run_continual(options: Continual) -> None:
    """Trains on changing tasks and reads loss and dead units of every period."""
    check_counts(
        seeds=options.seeds,
        bit_period=options.bit_period,
        bit_periods=options.bit_periods,
        digit_period=options.digit_period,
        digit_periods=options.digit_periods,
    )
    if min(options.bit_periods, options.digit_periods) < 4:
        raise ValueError("bit_periods and digit_periods must be at least 4: quarters are compared.")
    bits = Config(
        task="random_bits",
        hidden=(5,),
        examples=64,
        batch_size=1,
        change_every=options.bit_period,
        probe_every=options.bit_period,
        steps=options.bit_period * options.bit_periods,
        **{name: value for name, value in FULL.items() if name != "batch_size"},
    )
    digits = dataclasses.replace(
        bits,
        task="digits",
        hidden=(32, 32, 32),
        examples=512,
        batch_size=32,
        change_every=options.digit_period,
        probe_every=options.digit_period,
        steps=options.digit_period * options.digit_periods,
    )
    study = {
        name: make_grid(
            config, {"learning_rate": rates}, options.seeds, root_seed=options.root_seed
        )
        for name, config, rates in (
            ("slowly changing regression", bits, options.rates),
            ("permuted digits", digits, options.digit_rates),
        )
    }

    def compute(out):
        rows, curves = [], {}
        for name, grid in study.items():
            print(f"{name}: {grid.runs:,} runs of {grid.config.steps:,} steps", flush=True)
            lanes = 50 if name == "slowly changing regression" else 10
            loss, dead = ensembles.train_all(grid, continual_reading, lanes)
            curves[name] = (loss, dead)  # [seeds, rates, periods]
            for i, rate in enumerate(grid.axes[0][1]):
                row: dict[str, Any] = {"task": name, "learning_rate": rate}
                for quantity, values, bounds in (("loss", loss, None), ("dead", dead, (0.0, 1.0))):
                    finite = np.isfinite(loss[:, i]).all(-1)
                    values = values[finite, i].T.astype(float)  # [periods, seeds]
                    if not values.shape[1]:
                        continue
                    mean = statistics.seed_clustered_mean(values, pool=(), bounds=bounds)
                    row[quantity] = [np.asarray(part).tolist() for part in mean[:3]]
                row |= {"seeds": int(finite.sum()), "diverged_runs": int((~finite).sum())}
                rows.append(row)
        return {
            "question": "do dead units pile up while the task keeps changing?",
            "definition": "dead: max z over all training examples of the period that ends <= 0 "
            "(tau = 0 dormant on the whole period, not on a batch)",
            "interval": "clustered by seed, 95 %",
            "reduced": f"{options.bit_periods} periods of {options.bit_period:,} steps against a "
            f"million steps in the paper, and {options.digit_periods} of {options.digit_period} "
            "steps on 8 x 8 digits with three layers of 32 units against 800 of 60,000 images with "
            "three of 2,000: nothing is said about losses that appear later",
            "rows": rows,
            "table": continual_table(rows),
            "claims": continual_claims(study, curves),
        }

    grid = study["slowly changing regression"]
    conduct("continual", options, grid, compute, figure.draw_continual)


def continual_table(rows: Sequence[Mapping]) -> list[dict]:
    """The paper's share of dead units beside ours at the end."""
    out = []
    for row in rows:
        if row["task"] == "permuted digits" and row["learning_rate"] == 0.01 and "dead" in row:
            estimate, low, high = (part[-1] for part in row["dead"])
            last = {"estimate": estimate, "interval": [low, high], "seeds": row["seeds"]}
            verdict = "conditional: fewer tasks and a narrower network"
            quantity = "permuted images, step size 0.01: dead at the end"
            out.append(entry(DOHARE, quantity, "up to about 25 % after 800 tasks", last, verdict))
    return out


def continual_claims(study: Mapping[str, Grid], curves: Mapping[str, tuple]) -> list[Claim]:
    """Last quarter of the periods against the first: dead units and loss, at every step size."""
    found = []
    for name, (loss, dead) in curves.items():
        quarter = loss.shape[-1] // 4
        for i, rate in enumerate(study[name].axes[0][1]):
            finite = np.isfinite(loss[:, i]).all(-1)
            if finite.sum() < 2:
                continue
            for what, values, claim in (
                ("Dead share", dead, "Dead units pile up while the task changes"),
                ("Loss", loss, "Later tasks are learned worse"),
            ):
                own = values[finite, i].astype(float)
                found.append(
                    claims.difference_claim(
                        f"{claim} ({name}, step size {rate:g})",
                        DOHARE,
                        own[:, -quarter:].mean(-1),
                        own[:, quarter : 2 * quarter].mean(-1),
                        finding=f"{what} {{first:.3g}} in the last quarter of the periods, "
                        "{second:.3g} in the second: {estimate:+.3g} [{low:+.3g}, {high:+.3g}].",
                        bounds=(-1, 1) if what == "Dead share" else None,
                        definition="dead on all training examples of the period, at its end; the "
                        "second quarter is the base, because the first still learns from nothing",
                        figure="continual",
                    )
                )
    return found


# Sparse autoencoders at birth ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AutoencoderBirth:
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
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/autoencoder-birth-<hash of the question>."""
    draw: bool = False
    """Only draw again from what is stored."""


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


def run_autoencoder_birth(options: AutoencoderBirth) -> None:
    """Counts silent latents beside the law of their birth."""
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
    seeds = options.autoencoders
    grid = make_grid(config, {"learning_rate": [0.1]}, seeds, root_seed=options.root_seed)

    def compute(out):
        keys = ensembles.run_keys(options.root_seed, grid.seeds)
        silent = silent_latents(config, options.gammas, options.samples, keys)
        rows = []
        for i, gamma in enumerate(options.gammas):
            for j, samples in enumerate(options.samples):
                row = {"gamma": gamma, "samples": samples}
                trials = np.full(len(silent), options.latents)
                row |= _share(silent[:, i, j], trials)
                row["law"] = float(theory.autoencoder_dead_at_birth(gamma, samples))
                row["law_finite"] = float(
                    theory.autoencoder_dead_at_birth_finite(gamma, samples, options.dimension)
                )
                rows.append(row)
        table = [
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
        return {
            "question": "how probable is a new latent that is silent on all tokens?",
            "definition": "dead: z <= 0 on all tokens at initialization, biases 0",
            "interval": "Korn-Graubard, clustered by autoencoder, 95 %",
            "dimension": options.dimension,
            "rows": rows,
            "table": table,
            "claims": [birth_claim(rows)],
        }

    draw = figure.draw_autoencoder_birth
    conduct("autoencoder-birth", options, grid, compute, draw)


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


# The boundary of recovery -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Boundary:
    """An image of which runs bring a dead unit back, with zooms into its boundary."""

    vertical: str = "upstream_rate"
    """The second axis: upstream_rate (a rate of its own for the layer below) or initial_bias."""
    rates: tuple[float, float] = (0.03, 30.0)
    """Ends of the learning rate, on a logarithmic axis."""
    ends: tuple[float, float] | None = None
    """Ends of the second axis; by default 0.01 and 100 (logarithmic), or -3 and -0.5."""
    pixels: int = 128
    """Pixels along each axis of an image."""
    zooms: int = 3
    """Images after the first, each of a part of the one before."""
    zoom: float = 8.0
    """How many times each is enlarged along both axes."""
    steps: int = 200
    """Full-batch gradient-descent steps."""
    initial_bias: float = -1.0
    """Of half of the second hidden layer's units, where it is not the second axis."""
    seed: int = 5
    """The one network of all pixels; one in which some dead units come back somewhere."""
    root_seed: int = 0
    """Decides all noise together with the seed."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/boundary-<hash of the question>."""
    draw: bool = False
    """Only draw again from what is stored."""


DEAD, RECOVERED, DIVERGED = 0, 1, 2
EVENTS = {"ever": "alive at some later step", "end": "alive at the last step"}
VERTICAL = {"upstream_rate": (0.01, 100.0), "initial_bias": (-3.0, -0.5)}


def axis_points(ends: tuple[float, float], pixels: int) -> np.ndarray:
    """Pixel centres between the ends, evenly on the axis' scale (logarithmic where positive)."""
    places = (np.arange(pixels) + 0.5) / pixels
    if ends[0] > 0:
        return np.exp(np.log(ends[0]) + places * np.log(ends[1] / ends[0]))
    return ends[0] + places * (ends[1] - ends[0])


def part_of(ends: tuple[float, float], first: float, last: float) -> tuple[float, float]:
    """The part of an axis from the share `first` to the share `last` of its length."""
    if ends[0] > 0:
        width = np.log(ends[1] / ends[0])
        return (float(ends[0] * np.exp(first * width)), float(ends[0] * np.exp(last * width)))
    width = ends[1] - ends[0]
    return (float(ends[0] + first * width), float(ends[0] + last * width))


def edges(image: np.ndarray, one: int, other: int) -> np.ndarray:
    """Pixels of an image [x, y] of classes that are of the one or the other of two, and whose right
    or upper neighbour is of the second of them."""
    found = np.zeros(image.shape, bool)
    for here, there, place in (
        (image[:-1], image[1:], found[:-1]),
        (image[:, :-1], image[:, 1:], found[:, :-1]),
    ):
        place |= ((here == one) & (there == other)) | ((here == other) & (there == one))
    return found


def box_dimension(boundary: np.ndarray) -> dict[str, Any] | None:
    """The box-counting dimension of a boolean image [x, y]: minus the slope of log(boxes that hold
    a boundary pixel) over log(side), sides 2, 4, ... to an eighth of the image, with the largest
    and least slope between neighbouring sides. None without a boundary."""
    if not boundary.any():
        return None
    size = boundary.shape[0]
    sides = [2**k for k in range(1, 20) if 2**k <= size // 8]
    counts = []
    for side in sides:
        cut = size // side * side
        boxes = boundary[:cut, :cut].reshape(cut // side, side, cut // side, side).any((1, 3))
        counts.append(int(boxes.sum()))
    if len(sides) < 2 or min(counts) == 0:
        return None
    x, y = np.log(sides), np.log(counts)
    steps = -np.diff(y) / np.diff(x)
    slope = -float(np.polyfit(x, y, 1)[0])
    return {
        "dimension": slope,
        "local": [float(steps.min()), float(steps.max())],
        "sides": sides,
        "boxes": counts,
    }


def choose_zoom(boundary: np.ndarray, zoom: float) -> tuple[float, float]:
    """The left and lower end, as shares of the image [x, y], of the window of 1 / zoom of each
    axis in which most of the boundary lies."""
    size = boundary.shape[0]
    side = max(int(round(size / zoom)), 1)
    total = np.pad(boundary.astype(int).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side]
    windows = windows + total[:-side, :-side]
    x, y = np.unravel_index(int(windows.argmax()), windows.shape)
    return x / size, y / size


def run_boundary(options: Boundary) -> None:
    """Images of recovery, every zoom a new grid of runs."""
    check_counts(steps=options.steps, zooms=options.zooms + 1)
    check_choice("vertical", options.vertical, tuple(VERTICAL))
    ends = options.ends or VERTICAL[options.vertical]
    if options.pixels < 32 or options.zoom <= 1 or ends[0] >= ends[1]:
        raise ValueError(
            f"pixels={options.pixels}, zoom={options.zoom}, ends={ends}: use at least 32 pixels, a "
            "zoom above 1 and ascending ends."
        )
    if not 0 < options.rates[0] < options.rates[1]:
        raise ValueError(f"rates={options.rates} must be positive and ascending.")
    base = Config(
        task="teacher_student",
        dimension=4,
        examples=16,
        hidden=(8, 8),
        steps=options.steps,
        probe_every=max(options.steps // 10, 1),
        **(FULL | {"biased_layer": 2, "biased_units": 4, "initial_bias": options.initial_bias}),
    )

    def grid_of(rates, ends):
        axes = {
            "learning_rate": axis_points(rates, options.pixels).tolist(),
            options.vertical: axis_points(ends, options.pixels).tolist(),
        }
        return make_grid(base, axes, [options.seed], root_seed=options.root_seed)

    def compute(out):
        images = [
            image for event in EVENTS for image in zoomed_images(options, event, ends, grid_of)
        ]
        return {
            "question": "is the boundary of recovery fractal?",
            "definition": "one of four units, dead on the training inputs at step 0, is alive at "
            "some later step (ever) or at the last one (end); diverged: a loss or margin that was "
            "not finite; one network for all pixels",
            "interval": "t over the images; the local slopes are the range within one image",
            "vertical": options.vertical,
            "pixels": options.pixels,
            "images": images,
            "table": boundary_table(images),
            "claims": [boundary_claim(images, options, event) for event in EVENTS],
        }

    grid = grid_of(options.rates, ends)
    conduct("boundary", options, grid, compute, figure.draw_boundary)


def zoomed_images(
    options: Boundary,
    event: str,
    ends: tuple[float, float],
    grid_of: Callable[[tuple[float, float], tuple[float, float]], Grid],
) -> list[dict[str, Any]]:
    """The image of an event over the whole axes, and its zooms into where most boundary lies."""
    images, rates = [], options.rates
    for number in range(options.zooms + 1):
        image = boundary_image(grid_of(rates, ends), event)
        line = edges(image, DEAD, RECOVERED)
        share = [float((image == kind).mean()) for kind in range(3)]
        images.append(
            {
                "event": event,
                "rates": list(rates),
                "ends": list(ends),
                "classes": ["".join(map(str, column)) for column in image.tolist()],
                "share": share,
                "recovery": box_dimension(line),
                "divergence": box_dimension(edges((image == DIVERGED).astype(int), 0, 1)),
            }
        )
        print(f"{event}, image {number}: dead, recovered, diverged {share}", flush=True)
        if not line.any():
            break
        left, low = choose_zoom(line, options.zoom)
        images[-1]["next"] = [left, low, 1 / options.zoom]
        rates = part_of(rates, left, left + 1 / options.zoom)
        ends = part_of(ends, low, low + 1 / options.zoom)
    return images


def boundary_image(grid: Grid, event: str) -> np.ndarray:
    """The class of every pixel [x, y] of a grid of one seed."""
    result = sweep_grid(grid, progress=True)
    names = [name for name, _ in grid.axes]
    cells = result.isel(seed=0)
    biased = cells.isel(unit=np.flatnonzero(result.biased.values))
    if not bool(biased.dead_at_start.any()):
        raise ValueError("seed: no biased unit is dead at step 0 in any pixel; use another seed.")
    # Batches are the whole training set: seen at every step, not only at evaluations.
    alive = biased.alive if event == "end" else biased.batch_first_active != NEVER
    back = (biased.dead_at_start & alive).any("unit").transpose(*names).values
    diverged = (cells.diverged_at != NEVER).transpose(*names).values
    return np.where(diverged, DIVERGED, np.where(back, RECOVERED, DEAD))


def boundary_dimension(images: Sequence[Mapping], event: str) -> Interval | None:
    """Mean dimension of an event's boundary over its images, t over images."""
    own = [image["recovery"] for image in images if image["event"] == event]
    found = [dimension["dimension"] for dimension in own if dimension]
    if len(found) < 2:
        return None
    return statistics.seed_clustered_mean(np.array(found), bounds=None)


def boundary_table(images: Sequence[Mapping]) -> list[dict]:
    """Sohl-Dickstein's range of dimensions (of another boundary) beside ours."""
    out = []
    for event, words in EVENTS.items():
        mean = boundary_dimension(images, event)
        if mean is not None:
            quantity = f"box-counting dimension (there: of convergence; here: {words})"
            verdict = "conditional: another boundary"
            out.append(entry(SOHL, quantity, "1.17 to 1.98", mean.as_json(), verdict))
    return out


SMOOTH = 1.1  # what box counting gives at most for smooth curves at this resolution (tested)


def boundary_claim(images: Sequence[Mapping], options: Boundary, event: str) -> Claim:
    """Whether the dimension is above that of a smooth curve."""
    mean = boundary_dimension(images, event)
    ends = (np.nan, np.nan) if mean is None else (float(mean.low), float(mean.high))
    verdict = "undecided"
    if ends[0] > SMOOTH:
        verdict = "confirmed"
    elif ends[1] < SMOOTH:
        verdict = "refuted"
    own = [image["recovery"] for image in images if image["event"] == event]
    each = ", ".join("none" if found is None else f"{found['dimension']:.2f}" for found in own)
    return Claim(
        claim=f"The boundary of recovery is fractal ({EVENTS[event]})",
        source=SOHL,
        verdict=verdict,
        finding=f"Box-counting dimensions of the images, each enlarged {options.zoom:g} times: "
        f"{each}. A smooth curve gives up to {SMOOTH:g} at {options.pixels} pixels. An image of "
        f"finite resolution after {options.steps} steps decides for these scales only.",
        estimate=None if mean is None else float(mean.estimate),
        interval=None if mean is None else ends,
        count=f"{len(own)} images of {options.pixels} x {options.pixels} runs, one network",
        definition=f"boundary between pixels where a unit that began dead is {EVENTS[event]} and "
        "those where none is, without those that diverged; zooms are where most boundary lies, "
        "which favours rough parts",
        figure="boundary",
    )


# The command line ---------------------------------------------------------------------------------

COMMANDS = {
    "layers": cli.Command(
        run_layers,
        Layers(),
        Layers(
            hidden=(32, 16),
            learning_rates=(0.1,),
            initial_biases=(-4.0, -1.0, -0.5),
            steps=100,
            seeds=10,
            certified_seeds=1,
        ),
        "Dead units per layer before and after training; which layers recover.",
    ),
    "continual": cli.Command(
        run_continual,
        Continual(),
        Continual(bit_period=200, bit_periods=8, digit_period=40, digit_periods=8, seeds=10),
        "Dead units and loss while the task keeps changing.",
    ),
    "autoencoder-birth": cli.Command(
        run_autoencoder_birth,
        AutoencoderBirth(),
        AutoencoderBirth(samples=(10, 100), dimension=64, latents=64, autoencoders=100),
        "P(a new latent is silent on all tokens) against the tokens' mean.",
    ),
    "boundary": cli.Command(
        run_boundary,
        Boundary(),
        Boundary(pixels=32, zooms=1, steps=100),
        "The image of the recovery boundary, with zooms.",
    ),
}
