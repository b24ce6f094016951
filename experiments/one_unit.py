"""The life of one unit: how it dies, what moves it while it is dead, how it comes back; on digits.

One case, chosen by a rule and not by hand: of seeds 0 to `seeds` - 1 and all units of the second
hidden layer, the unit that was dead at some evaluation, recovered for good (its first recovery was
the last event of its life, at least `config.sustain` steps before the horizon) and climbed most,
from its deepest margin to its recovery. The configuration was chosen so that units die by
themselves (no initial bias), come back, and every channel but normalization is open. What is
frequent is counted in summary.json over all those units; the figures show the one.

A second, small network (4-4-3-1, teacher-student, because no real data set here has so few inputs)
shows where gradient flows and where a dead unit stops it: the first seed after whose training
exactly one hidden unit is dead, one of the last hidden layer that was alive at step 0.

Writes results.zarr, summary.json, one_unit_life, one_unit_ridges, one_unit_account and
one_unit_network (.png/.pdf) and one_unit_layer.gif to --out; `--draw` draws again from the stored
result. 40 s of CPU time, half of it the animation (under two minutes on a machine with seven times
more work than cores); `--quick`, with fewer frames, 18 s.
"""

import dataclasses
import functools
import json
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from relu_dynamics import channels, figures, statistics, store
from relu_dynamics.config import Config
from relu_dynamics.engine import models, tasks, training
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.step import loss_gradients, train_step
from relu_dynamics.engine.validation import check_covered, validate
from relu_dynamics.figures.units import (
    Life,
    Network,
    Phase,
    animate_layer,
    draw_account,
    draw_life,
    draw_network,
    draw_ridges,
    life_phases,
    ridge_steps,
)
from relu_dynamics.grid import Grid, make_grid

BASE = Config(
    hidden=(16, 16),
    initial_bias=0.0,
    biased_units=16,
    examples=256,
    batch_size=32,
    steps=600,
    probe_every=1,
    learning_rate=0.15,
    optimizer="momentum",
    momentum=0.9,
    weight_decay=0.05,
    decay_kind="decoupled",
    noise_scale=0.1,
)
SMALL = Config(
    task="teacher_student",
    dimension=4,
    hidden=(4, 3),
    initial_bias=0.0,
    biased_units=1,
    examples=256,
    batch_size=32,
    steps=200,
    probe_every=200,
    learning_rate=0.3,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    config: Config = BASE
    """The run; the units of its `biased_layer` are evaluated at every step."""
    network: Config = SMALL
    """The small network of the gradient-flow figure."""
    seeds: int = 32
    """Seeds among whose units the rule chooses."""
    network_seeds: int = 64
    """Seeds of the small network that are tried."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    frames: int = 120
    """Frames of the animation, evenly over the run."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/one_unit-<hash of the question>."""
    draw: bool = False
    """Only draw again from the stored result."""


DEFAULTS = Options()
QUICK = Options(network_seeds=8, frames=16)


# The rule -----------------------------------------------------------------------------------------


class Units(NamedTuple):
    """All units of the layer in all seeds; NumPy, [seeds, units], steps or NEVER."""

    death: np.ndarray  # first evaluation dead: 0 for a unit dead at step 0
    recovery: np.ndarray  # first evaluation alive after it
    for_good: np.ndarray  # bool: that was the last event, at least `sustain` steps ago
    climb: np.ndarray  # margin at the recovery minus the deepest of the spell; nan without


def look_at_units(config: Config, run: training.Run) -> Units:
    """What became of every unit of the biased layer in one run, [units]."""
    units = list(channels.layer_units(config))
    history = jax.tree.map(np.asarray, run.history)
    margin = np.asarray(run.trace.probe_units.margin)[:, units]
    death = np.where(history.dead_at_start, 0, history.first_death)[units]
    recovery = history.first_recovery[units]
    diverged = history.diverged_at != NEVER
    events_after = history.recoveries[units] > 1
    lasted = config.steps - recovery >= config.sustain
    back = recovery != NEVER
    for_good = back & history.alive[units] & ~events_after & lasted & ~diverged
    climb = np.full(len(units), np.nan)
    for unit in np.flatnonzero(back):
        spell = margin[death[unit] : recovery[unit], unit]
        climb[unit] = margin[recovery[unit], unit] - spell.min()
    return Units(death, recovery, for_good, climb)


def choose(found: Units) -> tuple[int, int]:
    """(seed, unit within the layer) that the rule names; raises a ValueError when there is none."""
    score = np.where(found.for_good, found.climb, -np.inf)
    if not found.for_good.any():
        raise ValueError(
            f"no unit of {len(score)} seeds died and recovered for good; use more seeds, more "
            f"steps or another learning_rate."
        )
    seed, unit = np.unravel_index(np.argmax(score), score.shape)
    return int(seed), int(unit)


def count_lives(found: Units) -> dict[str, dict]:
    """How often units died, came back and stayed, with intervals clustered by seed."""
    died, back = found.death != NEVER, found.recovery != NEVER
    pairs = {
        "died": (died, np.ones_like(died)),
        "recovered_of_the_dead": (back, died),
        "for_good_of_the_dead": (found.for_good, died),
    }
    rows = {}
    for name, (successes, trials) in pairs.items():
        interval = statistics.clustered_interval(successes.sum(1), trials.sum(1))
        rows[name] = {
            "estimate": float(interval.estimate) if trials.any() else None,
            "interval": [float(interval.low), float(interval.high)],
            "successes": int(successes.sum()),
            "trials": int(trials.sum()),
            "seeds": len(successes),
        }
    return rows


# What is drawn ------------------------------------------------------------------------------------


@jax.jit
def _watch(config, key, data):
    """z of the biased layer over the whole probe set before every step, [steps, batch, units]."""
    task = tasks.make_task(config, purpose_key(key, "task"), data)

    def see(params):
        with jax.default_matmul_precision(models.PRECISION):
            return models.apply(config, params, task.probe).preactivations[config.biased_layer - 1]

    (state, _), z = training.scan_steps(
        train_step,
        lambda _, before, *rest: (None, see(before.params)),
        config,
        task,
        key,
        (training.start(config, key), None),
        config.steps,
    )
    return jnp.concatenate([z, see(state.params)[None]])


def watch(config: Config, seed: int, root_seed: int) -> np.ndarray:
    """z of the biased layer over the whole probe set at every step, [steps + 1, units, batch]."""
    key = run_key(root_seed, seed)
    z = _watch(training.as_arrays(config), key, tasks.load_data(config))
    return np.asarray(z).transpose(0, 2, 1)


def open_channels(config: Config) -> tuple[str, ...]:
    """The channels of `channels.Shares` that the config has, `handover` last."""
    sources = channels.present_sources(config)
    decays = "coupled_decay" in sources or "decoupled_decay" in sources
    has = {
        "outside": "outside" in sources,
        "residue": "residue" in sources,
        "decay": decays,
        "noise": "noise" in sources,
        "upstream": config.biased_layer > 1,
        "normalization": config.normalization != "none",
    }
    return ("gradient", *(name for name, there in has.items() if there), "handover")


def moved_by_channel(config: Config, entries: channels.Entry) -> np.ndarray:
    """What every channel moved the margin of one unit by, [steps, channels], from its account."""
    terms = entries.margin.terms
    whole = {name: sum(getattr(terms, name)) for name in channels.SOURCES}
    moved = {
        "gradient": whole["gradient"],
        "outside": whole["outside"],
        "residue": whole["residue"],
        "decay": whole["coupled_decay"] + whole["decoupled_decay"],
        "noise": whole["noise"],
        "upstream": terms.upstream + terms.cross,
        "normalization": terms.normalization,
        "handover": entries.handover,
    }
    return np.stack([np.asarray(moved[name])[:, 0] for name in open_channels(config)], axis=1)


def measure_network(options: Options) -> tuple[int, Network]:
    """(seed, values on every edge) of the small network that the rule names, over all of its
    training examples; raises a ValueError when no seed fits."""
    config = options.network
    last = np.arange(config.units) >= config.units - config.hidden[-1]
    for seed in range(options.network_seeds):
        run = training.train(config, seed, root_seed=options.root_seed)
        dead = np.asarray(run.history.margin) <= 0
        born_alive = ~np.asarray(run.history.dead_at_start)
        if dead.sum() == 1 and (dead & last & born_alive).any():
            return seed, network_values(config, seed, options.root_seed, run.state.params)
    raise ValueError(
        f"no network of {options.network_seeds} seeds ended with exactly one dead unit, in its "
        f"last hidden layer; use more network_seeds."
    )


def network_values(config: Config, seed: int, root_seed: int, params: models.Params) -> Network:
    """What flows through a network forward and backward, over all training examples."""
    key = run_key(root_seed, seed)
    task = tasks.make_task(config, purpose_key(key, "task"), tasks.load_data(config))
    forward = models.apply(config, params, task.inputs)
    every = jnp.arange(config.examples)
    _, z, gradients = loss_gradients(config, task, every, params)
    hidden = [models.layer_name(layer) for layer in range(1, len(config.hidden) + 1)]
    seen = [*forward.inputs, ACTIVATIONS[config.activation](forward.preactivations[-1])]
    size = lambda values: np.abs(np.asarray(values))  # noqa: E731
    weights = [np.asarray(params[name]["kernel"]) for name in (*hidden, "output")]
    inflow = [size(x).mean(0) for x in seen]
    return Network(
        weights=weights,
        carried=[mean[:, None] * size(w) for mean, w in zip(inflow, weights, strict=True)],
        gradients=[size(gradients[name]["kernel"]) for name in (*hidden, "output")],
        activity=[*inflow, size(forward.output).mean(0)],
        bias_gradients=[size(gradients[name]["bias"]) for name in (*hidden, "output")],
        dead=[np.asarray(values.max(0) <= 0) for values in z],
    )


def compute(options: Options) -> xr.Dataset:
    """Everything that the figures show, labelled."""
    config = options.config
    train = functools.partial(training.train, config, root_seed=options.root_seed, trace_units=True)
    found = [look_at_units(config, train(seed)) for seed in range(options.seeds)]
    found = Units(*(np.stack(leaves) for leaves in zip(*found, strict=True)))
    seed, unit = choose(found)
    number = channels.layer_units(config)[unit]
    trace = jax.tree.map(lambda leaf: np.asarray(leaf)[:, number], train(seed).trace.probe_units)
    account = channels.account(config, seed, [number], options.root_seed)
    z = watch(config, seed, options.root_seed)
    frames = np.unique(np.linspace(0, config.steps, options.frames).round().astype(int))
    network_seed, network = measure_network(options)
    moved = moved_by_channel(config, account.entries)
    path = trace.margin[0] + np.cumsum(np.sum(moved, 1, dtype=np.float64))
    data = {
        **{name: ("look", getattr(trace, name)) for name in ("margin", "mean", "deviation")},
        "minimum": ("look", trace.minimum),
        "moved": (("step", "channel"), moved),
        "unit_z": (("look", "example"), z[:, unit]),
        "dead_units": ("look", (z.max(2) <= 0).sum(1)),
        "frame_z": (("frame", "unit", "example"), z[frames]),
        **{name: (("seed", "unit"), leaf) for name, leaf in found._asdict().items()},
    }
    for name, layers in network._asdict().items():
        for layer, values in enumerate(layers):
            dims = tuple(f"net_{layer + axis}_{values.ndim}" for axis in range(values.ndim))
            data[f"network_{name}_{layer}"] = (tuple(f"{name}_{dim}" for dim in dims), values)
    text = np.array(open_channels(config), object)  # zarr: of any length
    coordinates = {
        "look": np.arange(config.steps + 1),
        "step": np.arange(config.steps),
        "frame": frames,
        "channel": text,
        "unit": np.array(channels.layer_units(config)),
        "seed": np.arange(options.seeds),
    }
    attributes = {
        "chosen_seed": seed,
        "chosen_unit": number,
        "death": int(found.death[seed, unit]),
        "recovery": int(found.recovery[seed, unit]),
        "network_seed": network_seed,
        "network_config": json.dumps(dataclasses.asdict(options.network), sort_keys=True),
        "margin_path_error": float(np.abs(path - trace.margin[1:]).max()),
        "watched_error": float(np.abs(z[:, unit].max(1) - trace.margin).max()),
    }
    return xr.Dataset(data, coordinates, attributes)


# Stored results -> records ------------------------------------------------------------------------


def life_of(result: xr.Dataset) -> Life:
    """The chosen unit's life."""
    names = ("margin", "mean", "deviation", "minimum")
    paths = {name: result[name].values for name in names}
    ends = {name: result.attrs[name] for name in ("death", "recovery")}
    return Life(step=result["look"].values, **paths, **ends)


def gradient_while_dead(result: xr.Dataset) -> float:
    """The most that the gradient moved the margin by in a step of the dead spell."""
    life = life_of(result)
    moved = result.moved.values[life.death : life.recovery]
    return float(np.abs(moved[:, result.channel.values == "gradient"]).max())


def phases_of(result: xr.Dataset) -> list[Phase]:
    """The account of the chosen unit's death, way down and way back."""
    names = [str(name) for name in result.channel.values]
    return life_phases(life_of(result), names, result.moved.values)


def network_of(result: xr.Dataset) -> Network:
    """The small network's values."""

    def layers(name):
        start = f"network_{name}_"
        found = sorted(str(key) for key in result.data_vars if str(key).startswith(start))
        return [result[key].values for key in found if key[len(start) :].isdigit()]

    return Network(**{name: layers(name) for name in Network._fields})


# Compute -> store -> draw -------------------------------------------------------------------------


def check(options: Options) -> tuple[Options, Grid]:
    """The options with validated configs and the grid that names the question; raises a ValueError
    on what cannot be drawn."""
    config = options.config
    if config.probe_every != 1:
        raise ValueError(
            f"config.probe_every={config.probe_every}: a life is told step by step; use 1."
        )
    for name, least in (("frames", 2), ("network_seeds", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"{name}={getattr(options, name)} must be at least {least}.")
    network = validate(options.network)
    if network.normalization != "none" or network.model != "mlp" or network.activation != "relu":
        raise ValueError(
            "network: the picture knows plain ReLU networks; leave model='mlp', "
            "activation='relu', normalization='none'."
        )
    if config.probe_size is not None or network.probe_size is not None:
        raise ValueError("probe_size: dead must mean dead on all training examples; leave it None.")
    check_covered(config, "accounts", channels.COVERED)
    axes = {"learning_rate": (config.learning_rate,)}
    grid = make_grid(config, axes, options.seeds, root_seed=options.root_seed)
    return dataclasses.replace(options, config=grid.config, network=network), grid


def run(options: Options) -> None:
    """Compute -> store -> draw."""
    options, grid = check(options)
    out = options.out or pathlib.Path("runs") / f"one_unit-{grid.hash[:12]}"
    if options.draw:
        result = store.open_result(out).load()
    else:
        store.check_folder(out, grid)
        started = time.monotonic()
        print(f"{options.seeds} runs of {grid.config.steps} steps; results in {out}", flush=True)
        result = compute(options)
        result = result.assign_attrs(store.provenance(grid))
        store.open_folder(out, grid)
        result.to_zarr(out / store.RESULT_FOLDER, mode="w", zarr_format=3, consolidated=False)
        summary = summarize(result)
        summary["wall_seconds"] = round(time.monotonic() - started, 2)
        store.write_summary(out, summary)
        print_summary(summary)
    print("wrote", *draw_all(result, out))


def summarize(result: xr.Dataset) -> dict:
    """The chosen unit, the account of its life, and how frequent such lives are."""
    units = Units(*(result[name].values for name in Units._fields))
    facts = ("chosen_seed", "chosen_unit", "death", "recovery", "network_seed")
    return {
        "question": "how one unit dies and what brings it back",
        "definition": "dead: max z <= 0 over the probe set; back: max z above the tolerance and "
        "the rounding bound; for good: the last event, at least `sustain` steps before the horizon",
        "rule": "largest climb, from the deepest margin to the recovery, among units that "
        "recovered for good",
        "interval": "95 %, Korn-Graubard clustered by seed",
        "chosen": {name: result.attrs[name] for name in facts}
        | {"climb": float(np.nanmax(np.where(units.for_good, units.climb, np.nan)))},
        "counts": count_lives(units),
        "claims": [],  # one unit is a case and no evidence
        "phases": [phase._asdict() | {"residual": phase.residual} for phase in phases_of(result)],
        "most_moved_by_gradient_while_dead": gradient_while_dead(result),
        "programs_agree_within": {
            name: result.attrs[name] for name in ("margin_path_error", "watched_error")
        },
        "provenance": {k: v for k, v in result.attrs.items() if k not in facts},
    }


def print_summary(summary: dict) -> None:
    """The chosen unit and its account as text."""
    chosen = summary["chosen"]
    print(
        f"seed {chosen['chosen_seed']}, unit {chosen['chosen_unit']}: dead from step "
        f"{chosen['death']}, back at {chosen['recovery']}, climb {chosen['climb']:.3f}"
    )
    for name, row in summary["counts"].items():
        low, high = row["interval"]
        print(f"{name}: {row['successes']} of {row['trials']} [{low:.3f}, {high:.3f}]")
    for phase in summary["phases"]:
        parts = ", ".join(f"{name} {value:+.3f}" for name, value in phase["moved"].items())
        print(
            f"{phase['name']}, steps {phase['first']} to {phase['last']}: {phase['start']:.3f} -> "
            f"{phase['end']:.3f} = {parts}; residual {phase['residual']:.1e}"
        )
    most = summary["most_moved_by_gradient_while_dead"]
    print(f"moved by the gradient while dead: at most {most:g} per step")


def captions(result: xr.Dataset) -> dict[str, str]:
    """What every figure shows, with n and the definition."""
    config = json.loads(result.attrs["identity"])["config"]
    small = json.loads(result.attrs["network_config"])
    seeds, examples = result.sizes["seed"], result.sizes["example"]
    chosen = (
        f"Unit {result.attrs['chosen_unit']} of seed {result.attrs['chosen_seed']}: of "
        f"{seeds * result.sizes['unit']} units (hidden layer {config['biased_layer']}, {seeds} "
        "seeds) the one with the largest climb that recovered for good."
    )
    widths = "-".join(map(str, config["hidden"]))
    words = {"weight_decay": "decay", "noise_scale": "noise", "batch_size": "batch"}
    texts = [f"{word} {config[name]:g}" for name, word in words.items() if config[name]]
    momentum = "" if config["momentum"] is None else f" {config['momentum']:g}"
    ran = (
        f"Run: {config['task']}, hidden {widths}, {config['optimizer']}{momentum}, rate "
        f"{config['learning_rate']:g}, {', '.join(texts)}."
    )
    most = gradient_while_dead(result)
    silent = "0 at every step" if most == 0 else f"at most {most:.0e} per step"
    dead = f"Dead: largest z <= 0 over the probe set of {examples} examples."
    asinh = "The axis is linear within 1 of 0, logarithmic beyond."
    residual = max(abs(phase.residual) for phase in phases_of(result))
    layers = "-".join(map(str, (small["dimension"], *small["hidden"], 1)))
    return {
        "life": f"{chosen} {ran} {dead} {asinh} The band of one deviation is cut at the smallest "
        "and largest z.",
        "ridges": f"{chosen} {dead} Densities of n = {examples} z, each scaled to its own peak, "
        "that end at the smallest and largest z; blue: above 0, alive; tick: margin; orange "
        f"step: dead. {asinh}",
        "account": f"{chosen} {ran} {dead} Bars: what each channel moved the margin by, summed "
        "over the steps. Exact: bars sum to the change, largest residual "
        f"{residual:.0e} (float32 rounding). While dead, gradient moves it by {silent}. "
        "residue: what the optimizer remembers; upstream: the layer below moved; handover: "
        "another example took over the margin."
        + (" No normalization here." if config["normalization"] == "none" else ""),
        "network": f"Measured over n = {small['examples']} training examples after "
        f"{small['steps']} steps ({small['task']}, {layers}, rate {small['learning_rate']:g}), "
        f"seed {result.attrs['network_seed']}: the first that ends with exactly one dead unit, in "
        "its last hidden layer and alive at step 0. Forward: mean |weight x activation| on an "
        "edge, mean |activation| in a unit. Backward: |loss gradient| of the weight on its edge, "
        "of the bias in its unit. Dead: z <= 0 for all examples. Crosses: exactly 0.",
        "layer": f"z over {examples} probe examples, all units of hidden layer "
        f"{config['biased_layer']} (numbered over all layers), seed {result.attrs['chosen_seed']}; "
        f"boxed: the unit of the other figures. {ran} Dead (orange): largest z (bar) <= 0. Blue: "
        f"the part above 0. Widths scaled to each unit's own peak. {asinh}",
    }


def draw_all(result: xr.Dataset, out: pathlib.Path) -> list[pathlib.Path]:
    """Draws every figure from a result and returns the files."""
    texts, life = captions(result), life_of(result)
    rows = ridge_steps(life.death, life.recovery, int(life.step[-1]))
    drawn = {
        "life": draw_life(life, texts["life"]),
        "ridges": draw_ridges(rows, result.unit_z.values[rows], texts["ridges"]),
        "account": draw_account(phases_of(result), texts["account"]),
        "network": draw_network(network_of(result), texts["network"]),
    }
    paths = []
    for name, figure in drawn.items():
        paths += figures.save(figure, out / f"one_unit_{name}", result.attrs)
    moving = animate_layer(
        out / "one_unit_layer.gif",
        result.frame.values,
        result.frame_z.values,
        result["look"].values,
        result.dead_units.values,
        result.unit.values.tolist(),
        result.attrs["chosen_unit"],
        texts["layer"],
        result.attrs,
    )
    return [*paths, moving]
