"""What dead units cost: loss, time to a threshold and capacity against the dead fraction, caused.

Claims under test, of the article on the dying-ReLU problem: dead units reduce a network's capacity,
slow its convergence, and above 40 % the problem is severe. Here the dead fraction is not observed
but set: of both hidden layers of a network on digits an exact share of the units, 0 to 90 %, chosen
at random, is killed at step 0 or at half of the run (incoming weights 0, bias -1). The same network
with as many units fewer, freshly initialized, says whether a dead unit is a missing one. All at
several widths, because 40 % of many units may be nothing and 40 % of few all. Capacity: how well
random labels are memorized, where no regularity helps.

Writes one result per arm, summary.json and consequences.png/.pdf to --out; `--draw` draws again
from what is stored. About sixteen CPU minutes, so eight on two cores; `--quick` about one CPU
minute.
"""

import dataclasses
import io
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from experiments.consequences.figure import draw_consequences
from relu_dynamics import figures, statistics, store
from relu_dynamics.config import Config
from relu_dynamics.engine import models, optimizers, tasks, training
from relu_dynamics.engine.keys import run_key
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.step import State
from relu_dynamics.engine.validation import validate
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import ensembles, studies

SOURCE = "dying ReLU"
SHARE = 0.4  # above which the article calls it severe
WORSE = 0.1  # 10 % more loss
POINT = 0.01  # one point of error
DEAD = "killed: incoming weights 0 and bias -1, so max z = -1 over the training examples"
BASE = Config(
    examples=512,
    batch_size=32,
    steps=800,
    probe_every=20,
    learning_rate=0.1,
    initial_bias=0.0,
    biased_layer=1,
    biased_units=1,
)
CAPACITY = dataclasses.replace(
    BASE,
    task="digits_random_labels",
    examples=1797,  # all: what is held out of random labels says nothing
    batch_size=64,
    steps=2000,
    probe_every=500,
    optimizer="adam",
    learning_rate=0.003,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    config: Config = BASE
    """Base config of loss and time; the arms override its hidden, killed_at and killed_fraction."""
    capacity: Config = CAPACITY
    """Base config of memorization, likewise."""
    widths: tuple[int, ...] = (10, 20, 40)
    """Units of each of the two hidden layers."""
    fractions: tuple[float, ...] = tuple(round(0.1 * i, 1) for i in range(10))
    """Shares of the units that are killed; with every width they make whole numbers."""
    smaller: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.9)
    """Of these shares there is a network with as many units fewer, too."""
    threshold: float = 0.3
    """A run has converged when its mean minibatch loss between two evaluations is below this
    (nats)."""
    seeds: int = 100
    """Seeds per cell."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    fast_compile: bool = False
    """Compile with fewer optimizations: quicker for short runs, slower for long ones, and the
    last bits of the numbers are others."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/consequences-<hash of the question>."""
    draw: bool = False
    """Only draw again from what is stored."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(BASE, examples=256, steps=200),
    capacity=dataclasses.replace(CAPACITY, steps=200, probe_every=100),
    widths=(10,),
    fractions=(0.0, 0.2, 0.4, 0.6, 0.8),
    smaller=(0.4,),
    threshold=1.0,
    seeds=12,
    fast_compile=True,
)


# The arms -----------------------------------------------------------------------------------------


def killed_name(width: int, late: bool) -> str:
    """The arm of networks of this width whose units are killed at step 0, or late."""
    return f"width-{width}-killed-{'late' if late else 'early'}"


def missing_name(width: int) -> str:
    """The arm of new networks of this width."""
    return f"width-{width}-new"


def capacity_name(width: int) -> str:
    """The arm of networks of this width that memorize random labels."""
    return f"width-{width}-memorizing"


def left(width: int, fraction: float) -> int:
    """How many units of a layer are left."""
    return width - round(width * fraction)


def make_study(options: Options) -> dict[str, Grid]:
    """The grid of every arm, by name; raises a ValueError for shares that are not whole units."""
    check(options)
    axes = {"killed_fraction": options.fractions}
    grids = {}

    def add(name, config, axes, **changes):
        config = dataclasses.replace(config, **changes)
        grids[name] = make_grid(config, axes, options.seeds, root_seed=options.root_seed)

    evaluations = options.config.steps // options.config.probe_every
    half = evaluations // 2 * options.config.probe_every
    for width in options.widths:
        for late in (False, True):
            change = {"hidden": (width, width), "killed_at": half * late, "killed_fraction": 0.0}
            add(killed_name(width, late), options.config, axes, **change)
        add(capacity_name(width), options.capacity, axes, hidden=(width, width))
    return grids


def make_new(options: Options) -> dict[str, Grid]:
    """The grid of every new and smaller network, by name: one cell each."""
    check(options)
    sizes = {left(width, share) for width in options.widths for share in options.smaller}
    axes = {"learning_rate": (options.config.learning_rate,)}
    return {
        missing_name(size): make_grid(
            dataclasses.replace(options.config, hidden=(size, size)),
            axes,
            options.seeds,
            root_seed=options.root_seed,
        )
        for size in sorted(sizes, reverse=True)
    }


def check(options: Options) -> None:
    """Raises a one-line ValueError for options that cannot run."""
    if not options.widths or len(set(options.widths)) < len(options.widths):
        raise ValueError(f"widths={options.widths} must be one or more different widths.")
    if len(options.fractions) < 4 or sorted(set(options.fractions)) != list(options.fractions):
        raise ValueError(f"fractions={options.fractions} must be at least 4 shares, ascending.")
    if options.fractions[0] != 0 or SHARE not in options.fractions:
        raise ValueError(f"fractions={options.fractions} must begin with 0 and hold {SHARE}.")
    unknown = [share for share in options.smaller if share not in options.fractions]
    if unknown or 1 in options.fractions:
        raise ValueError(
            f"smaller={options.smaller} must be among fractions={options.fractions}, all below 1."
        )
    for width in options.widths:
        for share in options.fractions:
            if abs(width * share - round(width * share)) > 1e-6:
                raise ValueError(
                    f"fractions: {share} of width {width} is not a whole number of units; use "
                    "widths that are multiples of 10."
                )
    if options.seeds < 10:
        raise ValueError(f"seeds={options.seeds} must be at least 10: folds of seeds are left out.")
    if options.threshold <= 0:
        raise ValueError(f"threshold={options.threshold} must be above 0.")


def run(options: Options) -> None:
    """Compute -> store -> draw."""
    study, new = make_study(options), make_new(options)
    more = (options.threshold, options.smaller, options.widths, options.fast_compile)
    question = studies.question_hash(study | new, *more)
    out = options.out or pathlib.Path("runs") / f"consequences-{question[:12]}"
    if options.draw:
        results = studies.open_study(study, out)
        summary = summarize(options, results, open_new(options, new, out))
    else:
        started = time.monotonic()
        jax.config.update("jax_disable_most_optimizations", options.fast_compile)
        results = studies.sweep_study(study, out)
        train_new(new, out)
        summary = summarize(options, results, open_new(options, new, out))
        summary["wall_seconds"] = round(time.monotonic() - started, 2)
        store.write_summary(out, summary)
        print_summary(summary)
    attributes = summary["provenance"]
    figure = draw_consequences(summary)
    print("wrote", *figures.save(figure, out / "consequences", attributes))


# A dead unit and a missing one --------------------------------------------------------------------


def without_killed(config: Config, params: models.Params) -> tuple[Config, models.Params]:
    """The same network without its killed units: a config of the smaller widths, and the weights
    that the others had. Every layer must keep the same number of units or more than none."""
    alive = []
    for layer in range(1, len(config.hidden) + 1):
        group = params[models.layer_name(layer)]
        killed = ~np.any(np.asarray(group["kernel"]), axis=0) & (np.asarray(group["bias"]) == -1)
        alive.append(~killed)
    out, below = {}, slice(None)
    for layer, kept in enumerate(alive, start=1):
        group = params[models.layer_name(layer)]
        out[models.layer_name(layer)] = {
            "kernel": group["kernel"][below][:, kept],
            "bias": group["bias"][kept],
        }
        below = kept
    out["output"] = {**params["output"], "kernel": params["output"]["kernel"][below]}
    hidden = tuple(int(kept.sum()) for kept in alive)
    smaller = dataclasses.replace(config, hidden=hidden, killed_fraction=None, killed_at=0)
    return validate(smaller), out


def missing_difference(config: Config, seed: int = 0, root_seed: int = 0) -> dict[str, float]:
    """Trains a network with killed units, and the smaller one with the weights that the others had,
    on the same minibatches. Returns the largest difference between weights that both have after
    the last step, the largest of these weights, and the deviation of a second-layer weight at
    step 0 over that of a fresh network of the smaller size (He's)."""
    key = run_key(root_seed, seed)
    start = training.start(training.as_arrays(validate(config)), key)
    smaller, params = without_killed(config, start.params)
    state = State(start.step, params, optimizers.make_optimizer(smaller).init(params))
    # The key of the batches is the run's; a run from a given state takes no weights from it.
    with_dead = training.train(config, seed, root_seed=root_seed).state.params
    without = training.train(smaller, seed, root_seed=root_seed, state=state).state.params
    kept = without_killed(config, with_dead)[1]
    pairs = list(zip(jax.tree.leaves(kept), jax.tree.leaves(without), strict=True))
    second = np.asarray(params[models.layer_name(2)]["kernel"])
    return {
        "steps": config.steps,
        "largest_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
        "largest_weight": max(float(np.abs(b).max()) for _, b in pairs),
        "scale_of_fresh": float(second.std() / np.sqrt(2 / smaller.hidden[0])),
        "expected_scale": float(np.sqrt(smaller.hidden[0] / config.hidden[0])),
    }


# Numbers per run ----------------------------------------------------------------------------------


def steps_to_threshold(losses: np.ndarray, threshold: float, every: int) -> np.ndarray:
    """The step at the end of the first stretch between two evaluations whose mean loss is below the
    threshold; the horizon plus one stretch where none is, or where the loss was not finite.
    `losses` is [..., evaluations]; `every` the steps between two evaluations."""
    reached = losses < threshold  # False for nan
    first = np.where(reached.any(-1), reached.argmax(-1), losses.shape[-1])
    return (first + 1) * every


def per_run(result: xr.Dataset, threshold: float) -> dict[str, np.ndarray]:
    """What is compared, [cells, seeds] each: held-out loss and error, steps to the threshold
    (censored ones at the horizon) and whether it was reached; units that are dead at the last
    evaluation and were not killed, killed units that came back."""
    config, axis = estimates.config_of(result), "killed_fraction"
    at = lambda name, *rest: result[name].transpose(axis, "seed", *rest).values  # noqa: E731
    every, horizon = config["probe_every"], config["steps"]
    steps = steps_to_threshold(at("loss", "look"), threshold, every)
    margin = at("margin", "unit")
    killed = margin == -1  # exactly: weights 0, bias -1, and nothing may move them
    wanted = sum(np.round(result[axis].values * width) for width in config["hidden"])
    return {
        "loss": at("held_loss").astype(float),
        "error": at("held_error").astype(float),
        "steps": np.minimum(steps, horizon).astype(float),
        "reached": steps <= horizon,
        "training_loss": at("loss", "look")[..., -1].astype(float),
        "died": ((margin <= 0) & ~killed).sum(-1),
        "awakened": wanted[:, None] - killed.sum(-1),
        "diverged": at("diverged_at") != NEVER,
    }


# One cell of a small network is no work for a block of cells: its lanes are seeds, a file a size.


def new_reading(config: Config, task: tasks.Task, run: training.Run) -> dict[str, jax.Array]:
    """What `per_run` needs of one run."""
    return {
        "loss": run.held_loss,
        "error": run.held_error,
        "losses": run.trace.loss,
        "died": (run.history.margin <= 0).sum(),
        "diverged": run.history.diverged_at != NEVER,
    }


def train_new(new: Mapping[str, Grid], out: pathlib.Path) -> None:
    """Trains the new and smaller networks and stores what is read of them, [seeds, ...] each."""
    for name, grid in new.items():
        path = out / f"{name}-{grid.hash[:12]}.npz"
        if not path.is_file():
            print(f"{name}: {grid.runs:,} runs of {grid.config.steps:,} steps", flush=True)
            read = ensembles.train_all(grid, new_reading, 25)
            held = io.BytesIO()
            np.savez(held, **{field: values[:, 0] for field, values in read.items()})
            store.write_whole(path, held.getvalue())


def open_new(
    options: Options, new: Mapping[str, Grid], out: pathlib.Path
) -> dict[str, dict[str, np.ndarray]]:
    """`per_run` of the stored new and smaller networks, [1, seeds] each."""
    numbers = {}
    every, horizon = options.config.probe_every, options.config.steps
    for name, grid in new.items():
        path = out / f"{name}-{grid.hash[:12]}.npz"
        if not path.is_file():
            raise ValueError(f"{str(path)!r} is not there; run the experiment first.")
        with np.load(path) as read:
            losses = read["losses"]
            steps = steps_to_threshold(losses, options.threshold, every)
            row = {
                "loss": read["loss"].astype(float),
                "error": read["error"].astype(float),
                "steps": np.minimum(steps, horizon).astype(float),
                "reached": steps <= horizon,
                "training_loss": losses[:, -1].astype(float),
                "died": read["died"],
                "awakened": np.zeros(len(losses)),
                "diverged": read["diverged"],
            }
        numbers[name] = {field: values[None] for field, values in row.items()}
    return numbers


def mean_row(values: np.ndarray, bounds: tuple[float, float] | None = None) -> dict[str, Any]:
    """Mean over seeds [seeds] with its interval, as plain values."""
    interval = statistics.seed_clustered_mean(values.astype(float), bounds=bounds)
    return {
        "estimate": float(interval.estimate),
        "interval": [float(interval.low), float(interval.high)],
        "seeds": int(values.shape[-1]),
    }


# Is there a threshold? ----------------------------------------------------------------------------


def slopes_around(fractions: np.ndarray, curves: np.ndarray, at: float = SHARE) -> np.ndarray:
    """Least-squares slopes of every seed's curve [seeds, fractions] up to and from `at` on,
    [2, seeds], per unit of the dead fraction."""
    out = []
    for part in (fractions <= at, fractions >= at):
        x = fractions[part] - fractions[part].mean()
        out.append(curves[:, part] @ x / (x @ x))
    return np.array(out)


def _designs(fractions: np.ndarray) -> dict[str, list[tuple[float, np.ndarray]]]:
    """Families of curves, each a list of (parameter, columns) that are linear but for it."""
    one = np.ones_like(fractions)
    line = np.stack([one, fractions], 1)

    def bent(knot):
        return np.column_stack([line, np.maximum(fractions - knot, 0)])

    inner = fractions[1:-1]
    return {
        "line": [(np.nan, line)],
        f"kink at {SHARE:g}": [(SHARE, bent(SHARE))],
        "kink anywhere": [(float(knot), bent(knot)) for knot in inner],
        # A power of the share of units that is left: no threshold anywhere.
        "smooth": [
            (float(p), np.stack([one, (1 - fractions) ** -p], 1))
            for p in np.arange(0.25, 6.1, 0.25)
        ],
    }


def fit(
    designs: list[tuple[float, np.ndarray]], curve: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """(parameter, fitted curve) of the member of a family that fits best, by weighted least
    squares."""
    best = (np.inf, np.nan, curve)
    for parameter, columns in designs:
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(columns * root[:, None], curve * root, rcond=None)[0]
        fitted = columns @ coefficients
        misfit = float(weights @ (curve - fitted) ** 2)
        if misfit < best[0]:
            best = (misfit, parameter, fitted)
    return best[1:]


def threshold_test(
    fractions: np.ndarray, curves: np.ndarray, folds: int = 10, draws: int = 500
) -> dict[str, Any]:
    """Whether the mean of curves [seeds, fractions] bends at 40 %.

    The mean of nine tenths of the seeds is fitted by every family of curves (weights: one over the
    variance of the mean), and predicts the mean of the tenth left out: `misfit` is the squared
    error of that, in variances of the mean left out, over what the mean of the others gets
    itself (1: nothing is lost by the family). `knot` is where a bend fits best, with its interval
    over bootstraps of the seeds.
    """
    families = _designs(fractions)
    variance = curves.var(0, ddof=1)
    weights = 1 / np.maximum(variance, 1e-12 * variance.max() + 1e-30)
    misfit = dict.fromkeys((*families, "mean"), 0.0)
    for fold in range(folds):
        out = np.arange(len(curves)) % folds == fold
        kept, seen = curves[~out].mean(0), curves[out].mean(0)
        predictions = {name: fit(family, kept, weights)[1] for name, family in families.items()}
        for name, prediction in {**predictions, "mean": kept}.items():
            misfit[name] += float(weights @ (prediction - seen) ** 2) * out.sum()
    chosen = np.random.default_rng(0).integers(0, len(curves), (draws, len(curves)))
    bends = families["kink anywhere"]
    knots = [fit(bends, curves[pick].mean(0), weights)[0] for pick in chosen]
    return {
        "misfit": {name: misfit[name] / misfit["mean"] for name in families},
        "knot": fit(bends, curves.mean(0), weights)[0],
        "knot_interval": [float(q) for q in np.quantile(knots, [0.025, 0.975])],
    }


def fraction_worse(fractions: np.ndarray, curve: np.ndarray, limit: float) -> float:
    """The least dead fraction at which the curve reaches `limit`, linear between points; nan where
    it does not."""
    above = np.flatnonzero(curve >= limit)
    if not len(above):
        return float("nan")
    i = int(above[0])
    if i == 0:
        return float(fractions[0])
    part = (limit - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(fractions[i - 1] + part * (fractions[i] - fractions[i - 1]))


def worse_row(
    fractions: np.ndarray, curves: np.ndarray, factor: float, more: float, draws: int = 2000
) -> dict[str, Any]:
    """Where the mean of curves [seeds, fractions] reaches (its value at 0) * factor + more: the
    estimate and its interval over bootstraps of the seeds; an end that is None lies beyond the last
    fraction."""

    def where(mean):
        return fraction_worse(fractions, mean, mean[0] * factor + more)

    chosen = np.random.default_rng(0).integers(0, len(curves), (draws, len(curves)))
    found = np.array([where(curves[pick].mean(0)) for pick in chosen])
    ends = np.quantile(np.where(np.isnan(found), np.inf, found), [0.025, 0.975], method="nearest")
    plain = [None if not np.isfinite(x) else float(x) for x in (where(curves.mean(0)), *ends)]
    return {"estimate": plain[0], "interval": plain[1:], "seeds": len(curves)}


# Summary ------------------------------------------------------------------------------------------


def summarize(
    options: Options, results: Mapping[str, xr.Dataset], new: Mapping[str, Mapping]
) -> dict[str, Any]:
    """All rows and claims, from the stored results and `open_new`."""
    numbers = {name: per_run(result, options.threshold) for name, result in results.items()} | new
    fractions = np.array(options.fractions)
    rows, tests = [], []
    for width in options.widths:
        arms = {
            "killed at step 0": numbers[killed_name(width, False)],
            "killed at half": numbers[killed_name(width, True)],
            "memorizing": numbers[capacity_name(width)],
        }
        for arm, values in arms.items():
            rows += [
                _row(arm, width, share, {name: v[i] for name, v in values.items()})
                for i, share in enumerate(options.fractions)
            ]
        for share in options.smaller:
            own = {n: v[0] for n, v in numbers[missing_name(left(width, share))].items()}
            rows.append(_row("new and smaller", width, share, own))
        early, memory = arms["killed at step 0"], arms["memorizing"]
        for quantity, curves in (
            ("held-out loss", early["loss"].T),
            ("steps to threshold", early["steps"].T),
            ("training error on random labels", memory["error"].T),
        ):
            tests.append(_test_row(quantity, width, fractions, curves))
        point = worse_row(fractions, early["error"].T, 1.0, POINT)
        tests.append({"quantity": "held-out error", "width": width, "point_worse": point})
    equal = missing_difference(
        dataclasses.replace(
            options.config,
            hidden=(options.widths[-1],) * 2,
            killed_fraction=SHARE,
            steps=5 * options.config.probe_every,
        )
    )
    first = results[killed_name(options.widths[0], False)]
    return {
        "question": "what do dead units cost, when their share is caused and not only observed?",
        "definitions": {
            "killed": DEAD,
            "steps": f"steps until the mean minibatch loss between two evaluations is below "
            f"{options.threshold:g} nats; runs that did not get there count with the horizon "
            f"{options.config.steps} (restricted mean)",
            "loss": "cross-entropy (nats) on held-out digits after the last step",
            "memorizing": "share of all 1,797 randomly relabelled digits that is wrong after "
            f"{options.capacity.steps} steps",
        },
        "interval": "t over seeds (means), bootstrap over seeds (knots and fractions), 95 %",
        "threshold": options.threshold,
        "steps": options.config.steps,
        "widths": list(options.widths),
        "seeds": options.seeds,
        "rows": rows,
        "tests": tests,
        "missing": equal,
        "awakened": int(sum(v["awakened"].sum() for v in numbers.values())),
        "killed_units": _killed_units(options),
        "diverged_runs": int(sum(v["diverged"].sum() for v in numbers.values())),
        "hazards": {
            f"width {width}": _hazard_rows(results[killed_name(width, False)])
            for width in options.widths
        },
        "claims": [c.as_json() for c in make_claims(options, numbers, tests, equal)],
        "provenance": dict(first.attrs),
    }


def _row(arm: str, width: int, share: float, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    finite = ~values["diverged"]
    row = {"arm": arm, "width": width, "fraction": share, "units_left": left(width, share)}
    for name in ("loss", "error", "steps", "training_loss"):
        row[name] = mean_row(values[name][finite])
    row["reached"] = mean_row(values["reached"], (0.0, 1.0))
    row["died_unkilled"] = int(values["died"].sum())
    row["diverged"] = int(values["diverged"].sum())
    return row


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


def _hazard_rows(result: xr.Dataset) -> list[dict[str, float]]:
    """Death and recovery per evaluation of the units, in the last window, per killed fraction."""
    table = estimates.hazards(result, windows=2).isel(window=-1)
    names = ("death", "death_low", "death_high", "recovery", "recovery_low", "recovery_high")
    return [
        {
            "fraction": float(table.killed_fraction[i]),
            **{name: float(table[name][i]) for name in (*names, "observed")},
            "death_events": int(table.death_events[i]),
            "recovery_events": int(table.recovery_events[i]),
        }
        for i in range(table.sizes["killed_fraction"])
    ]


# Claims -------------------------------------------------------------------------------------------


def make_claims(
    options: Options, numbers: Mapping[str, Mapping], tests: Sequence[Mapping], equal: Mapping
) -> list[Claim]:
    """Every claim with its verdict, as one family."""
    at, zero = options.fractions.index(SHARE), 0
    last = len(options.fractions) - 1
    found: list[Claim] = []

    def compare(claim, arm, quantity, what, unit, place):
        """One claim at every width, then joined."""
        parts = []
        for width in options.widths:
            values = numbers[arm(width)]
            share = options.fractions[place]
            parts.append(
                claims.difference_claim(
                    f"{claim} (width {width}, {share:.0%} dead against none)",
                    SOURCE,
                    *_finite_pair(values[quantity][place], values[quantity][zero]),
                    finding=f"{what} {{first:.3g}} with {share:.0%} killed, {{second:.3g}} with "
                    f"none: {{estimate:+.3g}}{unit} [{{low:+.3g}}, {{high:+.3g}}].",
                    definition=f"paired by seed; {DEAD}",
                    figure="consequences",
                )
            )
        return parts

    early = lambda width: killed_name(width, False)  # noqa: E731
    for place in dict.fromkeys((at, last)):
        found += compare(
            "Dead units reduce the capacity of the network",
            capacity_name,
            "error",
            "Training error on random labels",
            "",
            place,
        )
        found += compare(
            "Dead units slow down convergence", early, "steps", "Restricted mean steps", "", place
        )
        found += compare(
            "Dead units worsen what the network learns", early, "loss", "Held-out loss", "", place
        )
    for width in options.widths:
        late = numbers[killed_name(width, True)]["loss"][at]
        found.append(
            claims.difference_claim(
                f"Units that die late cost more than units that were dead from the start "
                f"(width {width}, {SHARE:.0%})",
                "this project",
                *_finite_pair(late, numbers[early(width)]["loss"][at]),
                finding="Held-out loss {first:.3g} killed at half of the run, {second:.3g} killed "
                "at step 0: {estimate:+.3g} [{low:+.3g}, {high:+.3g}].",
                definition=f"paired by seed; {DEAD}",
                figure="consequences",
            )
        )
        for share in options.smaller:
            killed = numbers[early(width)]["loss"][options.fractions.index(share)]
            new = numbers[missing_name(left(width, share))]["loss"][0]
            found.append(
                claims.difference_claim(
                    f"A dead unit costs more than a unit that is not there, in a network that was "
                    f"initialized at that size (width {width}, {share:.0%})",
                    "this project",
                    *_finite_pair(killed, new),
                    finding="Held-out loss {first:.3g} with dead units, {second:.3g} in a new "
                    "network of as many living units: {estimate:+.3g} [{low:+.3g}, {high:+.3g}].",
                    definition=f"same data and minibatches by seed; {DEAD}",
                    figure="consequences",
                )
            )
    found = claims.controlled(found)
    return [_same_as_missing(equal), severe_claim(options, tests), *found]


def _finite_pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the seeds of which one is not finite (a diverged run)."""
    finite = np.isfinite(first) & np.isfinite(second)
    return first[finite], second[finite]


def _same_as_missing(equal: Mapping[str, float]) -> Claim:
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
