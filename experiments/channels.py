"""By which channel does a dead ReLU unit come back? P(recover | learning rate, initial bias), with
one channel open at a time.

Claim under test: a dead unit has no gradient, so the learning rate acts only through a
channel, and without one P(recover) is exactly 0 at every rate. One panel has all channels closed,
one has all open, the others have one each, on digits. Three answers stand side by side: causal
forks (one cohort, a channel switched off), exact accounts (which terms moved z up), and
certificates (which units could not move at all). They must agree. At last: does the learning rate
do more than rescale time?

A closed channel has the coefficient 0 (momentum 0 is plain SGD), so panels share a
compiled program. Decay is decoupled: coupled decay would pass through the momentum, and its later
part would be counted as residue.

Writes one result a channel, summary.json, channels.png/.pdf and channels_forks.png/.pdf to --out;
`--draw` draws again from what is stored. About three minutes on two cores; `--quick`, with fewer
channels and a smaller network, under half a minute.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from relu_dynamics import certificates, channels, figures, statistics, store, theory
from relu_dynamics.certificates.case import Verdict
from relu_dynamics.certificates.certify import Certificates
from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine import initialization, models, optimizers, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.normalizations import NORMALIZATIONS
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.step import State
from relu_dynamics.engine.validation import validate
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims, estimates
from relu_dynamics.statistics.intervals import Interval
from relu_dynamics.sweeps import studies
from relu_dynamics.sweeps.sweep import sweep_grid

CLOSED = {"momentum": 0.0, "weight_decay": 0.0, "noise_scale": 0.0}
BASE = Config(
    hidden=(32,),
    biased_layer=1,
    biased_units=16,
    examples=256,
    batch_size=64,
    steps=400,
    probe_every=5,
    optimizer="momentum",
    decay_kind="decoupled",
    decay_targets="biases",
    **CLOSED,
)
ADAM = {"optimizer": "adam", **dict.fromkeys(CLOSED), "decay_kind": "coupled"}
PLAIN = {**ADAM, "optimizer": "sgd"}  # nothing else in the program
NARROW = {**PLAIN, "hidden": (8,), "biased_units": 4}  # where a normalization's threshold is near
OPEN = {"momentum": 0.9, "weight_decay": 0.005, "noise_scale": 0.1}
# Two hidden layers each; at a large rate units die all the time, so some have fresh residue.
FORKED = {
    "all channels": OPEN,
    "upstream only": CLOSED,
    "upstream and residue": CLOSED | {"momentum": 0.9, "learning_rate": 1.0, "initial_bias": -2.0},
}
ARM_CHANNELS = {
    "upstream_frozen": "upstream",
    "residue_zeroed": "residue",
    "decay_off": "decay",
    "noise_off": "noise",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    config: Config = BASE
    """Base of every channel's config; a channel overrides what opens it."""
    channels: tuple[str, ...] = ()
    """Channels to run, by name; all of them by default."""
    rates: int = 8
    """Learning rates of a map, within the channel's range."""
    biases: int = 6
    """Initial biases of a map, within the channel's range."""
    seeds: int = 12
    """Seeds per cell."""
    certified_seeds: int = 3
    """Seeds whose units get certificates, in every cell; with no channel open, all seeds."""
    fork_rate: float = 0.05
    """Learning rate of the forks."""
    fork_bias: float = -6.0
    """Initial bias of the forks."""
    fork_step: int = 10
    """Step at which the forks start; at 0 there is no residue, and its fork is left out."""
    fork_seeds: int = 32
    """Seeds of the forks and the accounts."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    fast_compile: bool = False
    """Compile with fewer optimizations: quicker for short runs, slower for long ones, and the
    last bits of the numbers are others."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/channels-<hash of the question>."""
    draw: bool = False
    """Only draw again from what is stored."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(
        BASE, hidden=(16,), biased_units=8, examples=128, steps=100, batch_size=32
    ),
    channels=("none", "residue", "decay", "noise"),  # one compiled program
    rates=4,
    biases=4,
    seeds=6,
    certified_seeds=1,
    fork_step=0,
    fork_rate=0.1,
    fork_bias=-4.0,
    fork_seeds=16,
    fast_compile=True,
)


# The channels -------------------------------------------------------------------------------------


class Channel(NamedTuple):
    """One panel: which channel is open, where its map lies, and what theory says of it."""

    name: str
    title: str
    change: dict[str, Any]  # of the base config
    rates: tuple[float, float]  # ends of the learning rates, geometric
    biases: tuple[float, float]  # ends of the initial biases
    layers: int = 1  # hidden layers; with two the second is the biased one
    measure: str = "recovered_ever"
    never: bool = False  # theory: P = 0 everywhere
    # (config, start, rates [n, 1], biases [1, m]) -> P of the typical unit; its half is drawn
    boundary: Callable[[Config, "Start", np.ndarray, np.ndarray], np.ndarray] | None = None
    boundary_label: str = ""


class Start(NamedTuple):
    """Step 0 of all seeds, before the initial bias is set; units are the biased ones."""

    projections: np.ndarray  # [seeds, probe, units] w.x, float64
    norms: np.ndarray  # [seeds, probe] ||x|| of what enters the layer


def _decay_boundary(config, start, rates, biases):
    reach = np.median(start.projections.max(1))
    step = theory.bias_decay_recovery_step(
        reach, biases, rates, config.weight_decay, config.tolerance
    )
    return (step <= config.steps).astype(float)


def _noise_boundary(config, start, rates, biases):
    # The highest example alone: a lower bound for the unit, and close to it only near the start.
    depth = np.maximum(-(np.median(start.projections.max(1)) + biases), 0)
    scale = config.noise_scale * np.sqrt(1 + np.mean(start.norms**2))
    return theory.first_passage_probability(depth, rates, scale, config.steps)


def _norm_boundary(config, start, rates, biases):
    over_batch = NORMALIZATIONS[config.normalization].over_batch
    size = config.examples if over_batch else config.hidden[0]
    above = biases > -theory.absorbing_shift(size)
    return np.broadcast_to(above.astype(float), np.broadcast_shapes(rates.shape, biases.shape))


CHANNELS = (
    Channel("none", "none: plain SGD", {}, (0.01, 10), (-3, -9), never=True),
    Channel("upstream", "upstream drift", {}, (0.004, 4.096), (-2, -12), layers=2),
    Channel(
        "residue",
        "heavy-ball residue\n(came back | died)",
        {"momentum": 0.9},
        (0.03, 3),
        (-2, -6),
        measure="came_back",
    ),
    Channel(
        "adam",
        "Adam's residue\n(came back | died)",
        ADAM,
        (0.001, 0.3),
        (-2, -6),
        measure="came_back",
    ),
    Channel(
        "decay",
        "decay of biases",
        {"weight_decay": 0.005},
        (0.01, 1),
        (-4, -13),
        boundary=_decay_boundary,
        boundary_label="decay: median unit",
    ),
    Channel(
        "decay_all",
        "decay of everything",
        {"weight_decay": 0.005, "decay_targets": "all"},
        (0.01, 1),
        (-4, -13),
        never=True,
    ),
    Channel(
        "noise",
        "additive noise",
        {"noise_scale": 0.1},
        (0.01, 1),
        (-4, -13),
        boundary=_noise_boundary,
        boundary_label="noise: approximate, first passage of one example",
    ),
    Channel("rare", "rare examples", PLAIN | {"probe_size": 16}, (0.01, 10), (-2, -6)),
    Channel(
        "layer_norm",
        "LayerNorm, 8 units",
        NARROW | {"normalization": "layer"},
        (0.003, 3),
        (-1.9, -3.1),
        boundary=_norm_boundary,
        boundary_label="LayerNorm: absorbing shift",
    ),
    Channel(
        "batch_norm",
        "BatchNorm, 8 units",
        NARROW | {"normalization": "batch", "batch_size": None},
        (0.003, 3),
        (-3, -6),
        never=True,
    ),
    Channel("leak", "leak of 0.01", PLAIN | {"activation": "leaky_relu"}, (0.1, 30), (-4, -13)),
    Channel("all", "all open, two layers", OPEN, (0.003, 3), (-2, -12), layers=2),
)
NAMES = tuple(channel.name for channel in CHANNELS)


def channel_config(base: Config, channel: Channel) -> Config:
    """The config of a channel's panel."""
    depth = {"hidden": base.hidden * channel.layers, "biased_layer": channel.layers}
    return dataclasses.replace(base, **(depth | channel.change))


def channel_grid(options: Options, channel: Channel) -> Grid:
    """The runs of a channel's panel."""
    ends = sorted(channel.biases)
    axes = {
        "learning_rate": [float(f"{r:.4g}") for r in np.geomspace(*channel.rates, options.rates)],
        "initial_bias": [float(f"{b:.4g}") for b in np.linspace(*ends, options.biases)],
    }
    if channel.name == "upstream":  # doublings: neighbours are evaluated at the same rate * time
        number = max(options.rates + 2, 5)
        low = channel.rates[1] / 2 ** (number - 1)
        axes["learning_rate"] = [float(f"{low * 2**i:.4g}") for i in range(number)]
    config = channel_config(options.config, channel)
    return make_grid(config, axes, options.seeds, root_seed=options.root_seed)


def chosen_channels(options: Options) -> list[Channel]:
    """The channels that the options name, in the table's order."""
    for name in options.channels:
        check_choice("channels", name, NAMES)
    wanted = options.channels or NAMES
    return [channel for channel in CHANNELS if channel.name in wanted]


# Intervals as plain values ------------------------------------------------------------------------


def as_row(interval: Interval) -> dict:
    """Estimate, interval and counts as plain values."""
    plain = lambda value: None if np.isnan(value) else float(value)  # noqa: E731
    row = {
        "estimate": plain(interval.estimate),
        "interval": [float(interval.low), float(interval.high)],
        "seeds": int(interval.clusters),
    }
    if interval.trials is not None:
        row |= {"successes": int(interval.successes), "trials": int(interval.trials)}
    return row


def pool(successes: np.ndarray, trials: np.ndarray) -> dict:
    """The proportion over all cells [..., seed], clustered by seed."""
    summed = (part.reshape(-1, part.shape[-1]).sum(0) for part in (successes, trials))
    return as_row(statistics.clustered_interval(*summed))


def pooled(result: xr.Dataset, measure: str) -> dict:
    """A measure over the whole panel, clustered by seed."""
    return pool(*estimates.counts(result, measure))


def make_claim(claim: str, row: dict, expected: Any, grounds: str, verdict: str, **more) -> dict:
    """One entry of the summary's claims; `grounds` is what the verdict rests on."""
    told_counts = ""
    if row.get("trials") is not None:
        told_counts = f"{row['successes']:,} of {row['trials']:,}"
    found = claims.Claim(
        claim=claim,
        source="what each channel does",
        verdict=verdict,
        finding=f"{interval_text(row)}; expected {expected}; {grounds}."
        + (f" {more['effect']}." if "effect" in more else ""),
        estimate=row["estimate"],
        interval=tuple(row["interval"]),
        count=told_counts,
        definition=estimates.MEASURES["recovered_ever"].definition,
        figure="channels",
    )
    counts = [row.get("successes"), row.get("trials")]
    return found.as_json() | {"counts": counts, "expected": expected, "grounds": grounds, **more}


def at_risk(result: xr.Dataset) -> np.ndarray:
    """Biased units dead at step 0, [rate, bias, seed, unit] of all units."""
    risk = result.dead_at_start & ~result.near_zero_at_start & result.biased
    return _ordered(risk)


def _ordered(array: xr.DataArray) -> np.ndarray:
    return array.transpose("learning_rate", "initial_bias", "seed", ...).values


# Step 0, and certificates there -------------------------------------------------------------------


@jax.jit
def _born(config, key, data):
    task = tasks.make_task(config, purpose_key(key, "task"), data)
    return task, initialization.initialize(config, purpose_key(key, "init"))


@functools.cache
def _step_0(config: Config, root_seed: int, seed: int) -> tuple[tasks.Task, State]:
    """(task, state) at step 0 of a seed. Parameters do not depend on the optimizer: channels
    share the compiled program."""
    kept = ("task", "examples", "input_scaling", "hidden", "normalization", "biased_units")
    kept += ("probe_size", "biased_layer", "initializer", "dimension")
    shared = Config(**{name: getattr(config, name) for name in kept}, initial_bias=0.0)
    key, data = run_key(root_seed, seed), tasks.load_data(config)
    task, params = _born(training.as_arrays(shared), key, data)
    return task, State(np.int32(0), params, optimizers.make_optimizer(config).init(params))


def start_of(config: Config, seeds: Iterable[int], root_seed: int) -> Start:
    """What the biased layer's units see at step 0, for the first layer only."""
    own = dataclasses.replace(config, initial_bias=0.0)
    projections, norms = [], []
    for seed in seeds:
        task, state = _step_0(own, root_seed, seed)
        probe = np.asarray(task.probe, np.float64)
        weights = np.asarray(state.params[models.layer_name(1)]["kernel"], np.float64)
        projections.append(probe @ weights[:, : config.biased_units])
        norms.append(np.sqrt((probe**2).sum(1)))
    return Start(np.stack(projections), np.stack(norms))


class Certified(NamedTuple):
    """Certificates at step 0 of all cells of some seeds, beside what became of the units."""

    verdict: np.ndarray  # [rates, biases, seeds, units]
    theorem: np.ndarray  # [rates, biases, seeds, units]
    result: xr.Dataset  # the same runs


def certify_panel(result: xr.Dataset, grid: Grid, seeds: int) -> Certified:
    """Certificates of every hidden unit at step 0 in all cells of the first `seeds` seeds."""
    config = dataclasses.replace(grid.config, initial_bias=0.0)
    axes = dict(grid.axes)
    rates, biases = axes["learning_rate"], axes["initial_bias"]
    chosen = grid.seeds[:seeds]
    shape = (len(rates), len(biases), len(chosen), config.units)
    verdict, theorem = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for k, seed in enumerate(chosen):
        task, state = _step_0(dataclasses.replace(config, learning_rate=0.0), grid.root_seed, seed)
        task = task._replace(inputs=np.asarray(task.inputs), probe=np.asarray(task.probe))
        for j, bias in enumerate(biases):
            bias = float(np.float32(bias))
            set_bias = lambda shift, b=bias: shift.at[: config.biased_units].set(b)  # noqa: E731
            placed = state._replace(params=models.with_shift(config, state.params, set_bias))
            placed = jax.tree.map(np.asarray, placed)
            for i, rate in enumerate(rates):
                cell = dataclasses.replace(config, learning_rate=rate, initial_bias=bias)
                found = certificates.certify(cell, task, placed, horizon=config.steps)
                verdict[i, j, k], theorem[i, j, k] = found.verdict, found.theorem
    return Certified(verdict, theorem, result.isel(seed=slice(0, len(chosen))))


def certificate_row(certified: Certified) -> dict:
    """The certificates' power on a panel's units at risk, and whether a run contradicted one.

    `contradicted` counts units of all layers, other than those of `power`'s denominator.
    """
    result = certified.result
    risk = at_risk(result)
    recovered = _ordered(result.first_recovery) != NEVER
    never = certified.verdict == Verdict.CERTIFIED_NEVER
    runs = (-1, risk.shape[-1])
    outcome = np.where(risk, _ordered(result.outcome), 0).reshape(runs)
    empty = np.zeros(outcome.shape)
    verdict = certified.verdict.reshape(runs)
    filled = Certificates(verdict, empty, empty, empty, empty, empty)
    units, dead, interval = certificates.power(filled, outcome)
    names, counts = np.unique(certified.theorem[risk & never], return_counts=True)
    alive = recovered & risk & (certified.verdict == Verdict.NOT_DEAD)
    return {
        "seeds": result.sizes["seed"],
        "recovered_who_fired_elsewhere": pool(alive.sum(-1), (recovered & risk).sum(-1)),
        "units_at_risk": int(risk.sum()),
        "certified_never": int((risk & never).sum()),
        "certified_at": int((risk & (certified.verdict == Verdict.CERTIFIED_AT)).sum()),
        "never_recovered": dead,
        "of_them_certified": units,
        "power": as_row(interval),
        "certified_in_all_layers": int(never.sum()),
        "contradicted": int((never & recovered).sum()),
        "theorems": {
            certificates.THEOREM_NAMES[n]: int(c) for n, c in zip(names, counts, strict=True)
        },
    }


# Closed forms -------------------------------------------------------------------------------------


def boundary_line(channel: Channel, grid: Grid) -> dict | None:
    """Where the closed form of the typical unit passes one half: a line over the map."""
    if channel.boundary is None:
        return None
    start = start_of(grid.config, grid.seeds, grid.root_seed)
    axes = dict(grid.axes)
    first, *_, last = axes["learning_rate"]
    rates = np.geomspace(first / 2, last * 2, 81)  # to the edges of the outer cells
    low, high = min(axes["initial_bias"]), max(axes["initial_bias"])
    biases = np.linspace(1.3 * low, high, 1201)
    inside = channel.boundary(grid.config, start, rates[:, None], biases[None]) >= 0.5
    lowest = np.where(inside.any(1), biases[inside.argmax(1)], np.nan)
    lowest[inside.all(1)] = np.nan  # beyond the map
    keep = np.isfinite(lowest)
    return {
        "label": channel.boundary_label,
        "learning_rate": rates[keep].tolist(),
        "initial_bias": lowest[keep].tolist(),
    }


class DecaySteps(NamedTuple):
    """Steps of every unit in the decay panel, [rate, bias, seed, unit]; inf for never."""

    predicted: np.ndarray  # closed form: first step above 0
    fired: np.ndarray  # first step at which a minibatch example fired the unit
    looked: np.ndarray  # first evaluation that saw it alive
    counted: np.ndarray  # bool: at risk, in a run that did not diverge


def decay_steps(result: xr.Dataset, config: Config) -> DecaySteps:
    """What theory says of step 0 alone (margin less bias is the largest w.x), and what happened."""
    rates = result.learning_rate_float32.values.astype(np.float64)[:, None, None, None]
    biases = result.initial_bias_float32.values.astype(np.float64)[None, :, None, None]
    finite = _ordered(result.diverged_at)[..., None] == NEVER
    counted = at_risk(result) & finite
    reach = np.where(counted, _ordered(result.margin_at_start) - biases, 0.0)
    decay = float(np.float32(config.weight_decay))
    predicted = theory.bias_decay_recovery_step(reach, biases, rates, decay, config.tolerance)
    steps = [_ordered(result[name]) for name in ("batch_first_active", "first_recovery")]
    return DecaySteps(predicted, *(np.where(s == NEVER, np.inf, s) for s in steps), counted)


def within_an_evaluation(steps: DecaySteps, config: Config) -> np.ndarray:
    """Whether the unit was first seen above 0, in a minibatch or at an evaluation, at the predicted
    step or up to one evaluation later. From the first firing on, the loss moves the unit too: it
    may push it down again before the next evaluation."""
    seen = np.minimum(steps.fired, steps.looked)
    never = (steps.predicted > config.steps - config.probe_every) & np.isinf(seen)
    return never | ((seen >= steps.predicted - 1) & (seen <= steps.predicted + config.probe_every))


def noise_bracket(result: xr.Dataset, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) bound of every cell's expected P(recover), [rate, bias], by first passage.

    A unit is back when any example is above 0. Lower: its likeliest example alone, seen at
    evaluations only. Upper: the sum over examples, seen at every step. Both hold until the unit
    first fires, and up to the closed form's own error.
    """
    config = grid.config
    start = start_of(config, grid.seeds, grid.root_seed)
    scale = config.noise_scale * np.sqrt(1 + start.norms**2)[:, :, None]
    every = config.probe_every
    units = np.flatnonzero(result.biased.values)
    risk = at_risk(result)[..., units]
    bounds = np.full((2, *risk.shape[:2]), np.nan)
    for j, bias in enumerate(result.initial_bias.values):
        counted = risk[0, j]  # dead at step 0 whatever the rate
        if not counted.any():
            continue
        depth = np.maximum(-(start.projections + bias), 0)
        for i, rate in enumerate(result.learning_rate.values):
            passage = functools.partial(theory.first_passage_probability, depth, rate)
            least = passage(scale * np.sqrt(every), config.steps // every).max(1)
            most = np.minimum(passage(scale, config.steps).sum(1), 1)
            bounds[:, i, j] = least[counted].mean(), most[counted].mean()
    return bounds[0], bounds[1]


# Forks and accounts -------------------------------------------------------------------------------


class Traced(NamedTuple):
    """The accounts of all seeds of a fork's straight run, [seeds, units of the biased layer]."""

    brought: dict[str, np.ndarray]  # channel: what it added to the margin over the dead spell
    climb: np.ndarray
    first_recovery: np.ndarray
    dead: np.ndarray  # at the fork
    certified: dict[str, np.ndarray]  # arm: CERTIFIED_NEVER at the fork


def chosen_forks(options: Options) -> dict[str, dict]:
    """Name -> changes of the config, of every fork that the options allow."""
    return {k: v for k, v in FORKED.items() if options.fork_step or k != "upstream and residue"}


def fork_config(options: Options, change: dict) -> Config:
    """Two hidden layers with the channels of a fork open."""
    return validate(
        dataclasses.replace(
            options.config,
            hidden=options.config.hidden * 2,
            biased_layer=2,
            **({"learning_rate": options.fork_rate, "initial_bias": options.fork_bias} | change),
        )
    )


@functools.partial(jax.jit, static_argnames="root_seed")
def _states_at(config, keys, data, root_seed):
    """(task, state) after `config.steps` steps of every key."""

    def one(key):
        task = tasks.make_task(config, purpose_key(key, "task"), data)
        return task, training.run(config, task, key).state

    return jax.vmap(one)(keys)


@jax.jit
def _start_states(config, keys, data):
    def one(key):
        task = tasks.make_task(config, purpose_key(key, "task"), data)
        return task, training.start(config, key)

    return jax.vmap(one)(keys)


@jax.jit
def _accounts(config, task, keys, state):
    return jax.vmap(functools.partial(channels.spell_account, config))(task, keys, state)


def trace_fork(options: Options, config: Config) -> Traced:
    """Accounts and certificates of the runs that `channels.fork` continues as they are."""
    keys = [run_key(options.root_seed, seed) for seed in range(options.fork_seeds)]
    keys = jax.numpy.stack(keys)
    data, step = tasks.load_data(config), options.fork_step
    before = training.as_arrays(dataclasses.replace(config, steps=step or config.probe_every))
    advance = functools.partial(_states_at, root_seed=options.root_seed) if step else _start_states
    task, state = advance(before, keys, data)
    rest = training.as_arrays(dataclasses.replace(config, steps=config.steps - step))
    account = jax.tree.map(np.asarray, _accounts(rest, task, keys, state))
    units = list(channels.layer_units(config))
    shares = channels.spell_shares(account)
    climb = np.asarray(shares.climb)[:, units]
    share = {name: np.asarray(getattr(shares, name))[:, units] for name in shares._fields[:-1]}
    brought = {name: np.where(climb == 0, 0.0, part * climb) for name, part in share.items()}
    task, state = jax.tree.map(np.asarray, (task, state))
    certified = {}
    for arm, change in (("as_is", {}), ("upstream_frozen", {"upstream_rate": 0.0})):
        changed = dataclasses.replace(config, **change)
        rows = []
        for seed in range(options.fork_seeds):
            own = jax.tree.map(lambda leaf, k=seed: leaf[k], (task, state))
            found = certificates.certify(changed, *own, horizon=config.steps - step)
            rows.append(found.verdict[units] == Verdict.CERTIFIED_NEVER)
        certified[arm] = np.stack(rows)
    history = account.history
    return Traced(
        brought,
        climb,
        history.first_recovery[:, units],
        history.dead_at_start[:, units],
        certified,
    )


def fork_summary(options: Options, name: str, change: dict) -> dict:
    """One fork with its accounts: per arm the causal effect, the share, and whether they agree."""
    config = fork_config(options, change)
    arms = [arm for arm in ARM_CHANNELS if channels.ARMS[arm].missing(config) is None]
    result = channels.fork(
        config, options.fork_step, arms, options.fork_seeds, root_seed=options.root_seed
    )
    traced = trace_fork(options, config)
    cohort = result.cohort & traced.dead
    recovered = cohort & (traced.first_recovery != NEVER)
    climbed = traced.climb[recovered].sum()
    rows = []
    leads = np.stack([traced.brought[channel] for channel in ARM_CHANNELS.values()])
    leading = leads.argmax(0)
    for table in channels.fork_table(result):
        row = {
            "arm": table.arm,
            "cohort": table.cohort,
            "recovered": table.recovered,
            "diverged_seeds": table.diverged,
            "probability": as_row(table.probability),
        }
        if table.arm in ARM_CHANNELS:
            channel = ARM_CHANNELS[table.arm]
            lead = recovered & (leading == list(ARM_CHANNELS.values()).index(channel))
            led = statistics.clustered_interval(lead.sum(-1), recovered.sum(-1))
            row |= {
                "channel": channel,
                "difference": as_row(table.difference),
                "vanished": as_row(table.vanished),
                "share_of_climb": _ratio(traced.brought[channel][recovered].sum(), climbed),
                "recoveries_led_by_it": as_row(led),
                "without_share": _without_share(result, traced.brought[channel], cohort, table.arm),
            }
        rows.append(row)
    others = {
        name: _ratio(part[recovered].sum(), climbed)
        for name, part in traced.brought.items()
        if name not in ARM_CHANNELS.values()
    }
    mismatch = (result.first_recovery[0] != traced.first_recovery) & result.cohort
    never = [(arm, result.arms.index(arm)) for arm in traced.certified if arm in result.arms]
    return {
        "name": name,
        "config": dataclasses.asdict(config),
        "step": result.step,
        "horizon": config.steps,
        "rows": rows,
        "other_shares": others,
        "cohort_differs": int((result.cohort != traced.dead).sum()),
        "first_recovery_differs": int(mismatch.sum()),
        "certified_never": {
            arm: int((traced.certified[arm] & result.cohort).sum()) for arm, _ in never
        },
        "certified_and_recovered": {
            arm: int((traced.certified[arm] & result.recovered[i]).sum()) for arm, i in never
        },
    }


def _ratio(part, whole):
    return float(part / whole) if whole else None


def _without_share(result, brought, cohort, arm) -> dict | None:
    """The arm's effect on the units to which its channel brought exactly nothing."""
    own = cohort & (brought == 0)
    if not own.any():
        return None
    number = result.arms.index(arm)
    counts = [(result.recovered[i] & own).sum(-1) for i in (number, 0)]
    trials = own.sum(-1)
    difference = statistics.paired_difference(counts[0], trials, counts[1], trials)
    row = as_row(difference)
    return row | {
        "units": int(own.sum()),
        "recovered": [int(counts[0].sum()), int(counts[1].sum())],
        "agrees": bool(difference.low <= 0 <= difference.high),
    }


# Does the learning rate do more than rescale time? ------------------------------------------------


def collapse(result: xr.Dataset, least_evaluations: int = 4) -> dict:
    """P(recovered by t = K / rate) over the rates that are evaluated then, for a few K.

    Flat in the rate if it only rescaled time. Neighbouring rates are paired by seed, and the
    intervals of all comparisons hold together (Bonferroni).
    """
    config = estimates.config_of(result)
    every, horizon = config["probe_every"], config["steps"]
    rates = result.learning_rate.values
    risk = at_risk(result)
    first = _ordered(result.first_recovery)
    curves, pairs = [], []
    for start in range(0, len(rates) - 2, 2):
        total = float(rates[start] * horizon)
        least = least_evaluations * every
        reach = [i for i, rate in enumerate(rates) if least <= total / rate * 1.0001]
        reach = [i for i in reach if i >= start]
        if len(reach) < 3:
            continue
        counts, trials, rows = [], [], []
        for i in reach:
            time_i = int(np.floor(total / rates[i] * 1.0001 / every) * every)
            back = risk[i] & (first[i] != NEVER) & (first[i] <= time_i)
            counts.append(back.sum((0, 2)))
            trials.append(risk[i].sum((0, 2)))
            interval = statistics.clustered_interval(counts[-1], trials[-1])
            rows.append({"learning_rate": float(rates[i]), "step": time_i, **as_row(interval)})
        curves.append({"rate_times_steps": total, "rows": rows})
        pairs += [
            (len(curves) - 1, k, counts[k + 1], trials[k + 1], counts[k], trials[k])
            for k in range(len(reach) - 1)
        ]
    level = 1 - 0.05 / max(len(pairs), 1)
    differences = []
    for curve, k, *numbers in pairs:
        row = as_row(statistics.paired_difference(*numbers, level=level))
        rows = curves[curve]["rows"]
        differences.append(
            {
                "rate_times_steps": curves[curve]["rate_times_steps"],
                "learning_rates": [rows[k]["learning_rate"], rows[k + 1]["learning_rate"]],
                **row,
                "apart": not row["interval"][0] <= 0 <= row["interval"][1],
            }
        )
    return {"curves": curves, "differences": differences, "level_of_each": level}


# Claims -------------------------------------------------------------------------------------------


def never_claim(channel: Channel, row: dict, certified: dict, says: str) -> dict:
    """P = 0: by certificate of every unit and by count."""
    whole = certified["certified_never"] == certified["units_at_risk"]
    if row["successes"] or certified["contradicted"]:
        verdict = "refuted"
    else:
        verdict = "confirmed" if whole else "undecided"  # a count of 0 proves nothing
    return make_claim(
        says,
        row,
        0.0,
        f"certificate ({', '.join(certified['theorems'])}) and count",
        verdict,
        channel=channel.name,
        certified=[certified["certified_never"], certified["units_at_risk"]],
        certified_seeds=certified["seeds"],
    )


def some_claim(channel: Channel, row: dict, says: str, source: str) -> dict:
    """P > 0: the interval of the best learning rate lies above 0."""
    verdict = "confirmed" if row["interval"][0] > 0 and row["successes"] else "undecided"
    return make_claim(says, row, "> 0", source, verdict, channel=channel.name)


def best_rate(result: xr.Dataset, measure: str) -> dict:
    """The learning rate with the largest lower bound, all biases pooled."""
    over = estimates.pooled(result, measure, "learning_rate")
    i = int(np.nan_to_num(over.low.where(over.trials > 0)).argmax())
    at = over.isel(learning_rate=i)
    return {
        "learning_rate": float(at.learning_rate),
        "estimate": None if np.isnan(at.estimate) else float(at.estimate),
        "interval": [float(at.low), float(at.high)],
        "successes": int(at.successes),
        "trials": int(at.trials),
        "seeds": int(at.runs),
    }


def panel_claims(channel: Channel, grid: Grid, result: xr.Dataset, panel: dict) -> list[dict]:
    """What theory says of one panel, against it."""
    recovered, certified, best = panel["recovered"], panel["certificates"], panel["best"]
    found = []
    if channel.name == "none":
        says = "without a channel no dead unit recovers at any learning rate"
        found.append(never_claim(channel, recovered, certified, says))
        back = pooled(result, "came_back")
        verdict = "refuted" if back["successes"] else "confirmed"
        says = "... nor does a unit that died during training"
        source = "zero gradient, stateless optimizer; count"
        found.append(make_claim(says, back, 0.0, source, verdict, channel="none"))
    elif channel.never:
        says = f"{channel.name}: no dead unit recovers"
        found.append(never_claim(channel, recovered, certified, says))
    elif channel.measure == "came_back":
        says = f"{channel.name}: units that died in training come back by what the optimizer kept"
        found.append(some_claim(channel, best, says, "no other channel is open"))
        says = f"{channel.name}: units dead at step 0 have no residue and never recover"
        found.append(never_claim(channel, recovered, certified, says))
    else:
        source = "no other channel is open" if channel.name != "all" else "all channels are open"
        says = f"{channel.name}: dead units recover (at the best learning rate)"
        found.append(some_claim(channel, best, says, source))
    extra = {"decay": _decay_claim, "noise": _noise_claim, "layer_norm": _norm_claim}
    if channel.name in extra:
        found.append(extra[channel.name](grid, result))
    if channel.name == "rare":
        found.append(_rare_claim(panel["certificates"]))
    return [claim | {"learning_rates": config_rates(grid)} for claim in found]


def config_rates(grid: Grid) -> list[float]:
    """First and last learning rate of a grid."""
    rates = dict(grid.axes)["learning_rate"]
    return [rates[0], rates[-1]]


def _decay_claim(grid, result):
    steps = decay_steps(result, grid.config)
    agrees = within_an_evaluation(steps, grid.config) & steps.counted
    horizon = grid.config.steps
    share = {
        name: float((getattr(steps, name)[steps.counted] <= horizon).mean())
        for name in ("predicted", "looked")
    }
    row = pool(agrees.sum(-1), steps.counted.sum(-1))
    return make_claim(
        "decay: every unit first fires at the closed-form step, within one evaluation",
        row,
        1.0,
        "theory.bias_decay_recovery_step per unit",
        "confirmed" if row["successes"] == row["trials"] else "refuted",
        channel="decay",
        share_back_by_the_horizon=share,
    )


def _noise_claim(grid, result):
    lower, upper = noise_bracket(result, grid)
    cells = estimates.cells(result, "recovered_ever")
    known = cells.trials.values > 0
    low, high = cells.low.values, cells.high.values
    inside = known & (high >= lower) & (low <= upper)
    weights = cells.trials.values[known]
    mean = [float(np.average(part[known], weights=weights).round(4)) for part in (lower, upper)]
    row = pooled(result, "recovered_ever")
    fits = inside.sum() == known.sum() and mean[0] <= row["interval"][1]
    return make_claim(
        "noise: P(recover) lies between the first passage of the likeliest example and the sum "
        "over examples, in every cell",
        row,
        mean,
        "theory.first_passage_probability (approximate)",
        "confirmed" if fits and row["interval"][0] <= mean[1] else "undecided",
        channel="noise",
        cells_within=[int(inside.sum()), int(known.sum())],
    )


def _norm_claim(grid, result):
    threshold = -theory.absorbing_shift(grid.config.hidden[0])
    below = result.sel(initial_bias=result.initial_bias < threshold)
    row = pooled(below, "recovered_ever")
    return make_claim(
        f"layer_norm: below the absorbing shift {threshold:.4g} no unit recovers",
        row,
        0.0,
        "theory.absorbing_shift; certificate",
        "refuted" if row["successes"] else "confirmed" if row["trials"] else "undecided",
        channel="layer_norm",
        threshold=float(threshold),
    )


def _rare_claim(certified):
    row = certified["recovered_who_fired_elsewhere"]
    return make_claim(
        "rare: whoever came back fired on other training examples at step 0",
        row,
        1.0,
        "certificates.certify: not dead on the training set; the rest is certified",
        "confirmed" if row["successes"] == row["trials"] else "refuted",
        channel="rare",
    )


def comparison_claims(panels: dict[str, dict]) -> list[dict]:
    """Claims on two panels together."""
    found = []
    if {"none", "noise"} <= panels.keys():
        quiet, noisy = panels["none"]["recovered"], panels["noise"]["recovered"]
        certified = panels["none"]["certificates"]
        nobody = certified["certified_never"] == certified["units_at_risk"]  # P = 0, not a count
        apart = nobody and not quiet["successes"] and noisy["interval"][0] > 0
        found.append(
            make_claim(
                "SGD's own noise is not additive noise: it recovers nobody",
                noisy,
                "> 0, with minibatch noise alone 0",
                "panel noise by count, panel none by certificate",
                "confirmed" if apart else "undecided",
                with_minibatch_noise_alone=quiet,
            )
        )
    if {"none", "layer_norm", "batch_norm"} <= panels.keys():
        layer = panels["layer_norm"]["recovered"]
        others = {name: panels[name]["recovered"] for name in ("batch_norm", "none")}
        nobody = not any(row["successes"] for row in others.values())
        found.append(
            make_claim(
                "LayerNorm recovers under plain SGD with one hidden layer, BatchNorm and none not",
                layer,
                "> 0, BatchNorm and none 0",
                "panels layer_norm, batch_norm, none",
                "confirmed" if nobody and layer["interval"][0] > 0 else "refuted",
                others=others,
            )
        )
    powers = {name: panel["certificates"] for name, panel in panels.items()}
    powers = {name: row for name, row in powers.items() if row}
    units = sum(row["certified_in_all_layers"] for row in powers.values())
    wrong = sum(row["contradicted"] for row in powers.values())
    row = as_row(statistics.exact_interval(wrong, max(units, 1)))
    found.append(
        make_claim(
            "a unit certified never to recover never recovered",
            row | {"seeds": None},
            0.0,
            "certificates at step 0, all layers, seeds as in each panel",
            "refuted" if wrong else "confirmed",
        )
    )
    return found


def fork_claims(fork: dict) -> list[dict]:
    """What a fork says, and whether forks, accounts and certificates agree."""
    found = []
    for row in fork["rows"][1:]:
        low, high = row["difference"]["interval"]
        effect = "It lowers it" if high < 0 else "It raises it" if low > 0 else "No effect seen"
        found.append(
            make_claim(
                f"{fork['name']}: {row['arm']} changes P(recover by step {fork['horizon']})",
                row["difference"],
                "< 0 if the channel brings units back",
                "channels.fork, paired by seed",
                "undecided" if low <= 0 <= high else "confirmed",
                effect=effect,
                share_of_climb=row["share_of_climb"],
                vanished=row["vanished"],
            )
        )
        nothing = row["without_share"]
        if nothing:
            found.append(
                make_claim(
                    f"{fork['name']}: no share of {row['channel']} in the account, no effect of "
                    f"{row['arm']}",
                    nothing,
                    0.0,
                    "channels.spell_account and channels.fork on the same units",
                    "confirmed" if nothing["agrees"] else "refuted",
                    units=nothing["units"],
                )
            )
    for arm, wrong in fork["certified_and_recovered"].items():
        units = fork["certified_never"][arm]
        if units:
            row = as_row(statistics.exact_interval(wrong, units))
            found.append(
                make_claim(
                    f"{fork['name']}, {arm}: units certified at the fork never recovered in it",
                    row,
                    0.0,
                    "certificates.certify at the fork",
                    "refuted" if wrong else "confirmed",
                )
            )
    return found


def agreement_claim(forks: list[dict]) -> dict:
    """Forks against accounts: an effect has the sign of the share, and no share has no effect."""
    agrees, told_apart = [], []
    for fork in forks:
        for row in fork["rows"][1:]:
            name = f"{fork['name']}: {row['arm']}"
            (low, high), share = row["difference"]["interval"], row["share_of_climb"]
            if share is not None and not low <= 0 <= high:
                agrees.append(bool((share > 0) == (high < 0)))
                told_apart.append({"arm": name, "agrees": agrees[-1]})
            nothing = row["without_share"]
            if nothing:
                agrees.append(nothing["agrees"])
                told_apart.append({"arm": name, "units_without_share": True, "agrees": agrees[-1]})
    row = as_row(statistics.exact_interval(sum(agrees), len(agrees)))
    return make_claim(
        "forks and accounts agree: who brought units up (down) is missed (not missed) when off, "
        "and without a share there is no effect",
        row,
        1.0,
        "channels.fork, channels.spell_account",
        "undecided" if not agrees else "confirmed" if all(agrees) else "refuted",
        comparisons=told_apart,
    )


def collapse_claim(found: dict) -> dict:
    """Whether P(recovered by K / rate) is flat in the rate, and where it breaks."""
    apart = [row for row in found["differences"] if row["apart"]]
    breaks = sorted({rate for row in apart for rate in row["learning_rates"][1:]})
    worst = max(
        found["differences"],
        key=lambda row: abs(row["estimate"] or 0.0),
        default={"estimate": None, "interval": [-1.0, 1.0], "learning_rates": None},
    )
    flat = [row for row in found["differences"] if not row["apart"]]
    return make_claim(
        "the learning rate only rescales time: P(recovered by K / rate) is flat in the rate",
        worst,
        0.0,
        "paired differences of neighbouring rates (Bonferroni); the largest is shown",
        "refuted" if apart else "undecided",
        comparisons_apart=[len(apart), len(found["differences"])],
        breaks_at=breaks,
        largest_between=worst["learning_rates"],
        flat_between=[row["learning_rates"] for row in flat],
    )


# Compute -> store -> draw -------------------------------------------------------------------------


def question_hash(options: Options, named: dict[str, Grid]) -> str:
    """The hash of all that decides the numbers."""
    fields = ("fork_rate", "fork_bias", "fork_step", "fork_seeds", "fast_compile")
    own = [getattr(options, field) for field in fields]
    text = json.dumps([[name, grid.hash] for name, grid in named.items()] + own)
    return hashlib.sha256(text.encode()).hexdigest()


def run(options: Options) -> None:
    """Compute -> store -> draw."""
    chosen = chosen_channels(options)
    for field in ("rates", "biases", "fork_seeds", "certified_seeds"):
        least = 1 if field == "certified_seeds" else 2
        if getattr(options, field) < least:
            raise ValueError(f"{field}={getattr(options, field)} must be at least {least}.")
    named = {channel.name: channel_grid(options, channel) for channel in chosen}
    digest = question_hash(options, named)
    out = options.out or pathlib.Path("runs") / f"channels-{digest[:12]}"
    if not options.draw:
        _check_forks(options)
        for name, grid in named.items():
            store.check_folder(out / name, grid)
        fast = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", options.fast_compile or fast)
        try:
            compute(options, chosen, named, out)
        finally:
            jax.config.update("jax_disable_most_optimizations", fast)
    results = {name: store.open_result(out / name).load() for name in named}
    summary = studies.read_summary(out, ("panels", "forks", "collapse"))
    attributes = next(iter(results.values())).attrs | {"grid_hash": digest}
    panels = [panel for panel in summary["panels"] if panel["name"] in results]
    for name, figure in {
        "channels": figures.draw_channels(results, panels),
        "channels_forks": figures.draw_channel_forks(summary["forks"], summary["collapse"]),
    }.items():
        print("wrote", *figures.save(figure, out / name, attributes))


def _check_forks(options: Options) -> None:
    every = options.config.probe_every
    if options.fork_step % every or not 0 <= options.fork_step < options.config.steps:
        raise ValueError(
            f"fork_step={options.fork_step} must be a multiple of probe_every={every}, >= 0 and "
            f"below steps={options.config.steps}."
        )
    for change in chosen_forks(options).values():
        fork_config(options, change)


def compute(options: Options, chosen: list[Channel], named: dict[str, Grid], out) -> dict:
    """Trains all panels and forks, writes summary.json and prints it."""
    started = time.monotonic()
    total = sum(grid.runs * grid.config.steps for grid in named.values())
    print(f"{len(chosen)} channels, {total:,} run-steps; results in {out}", flush=True)
    panels, rows, found = {}, [], None
    for channel in chosen:
        grid = named[channel.name]
        begun = time.monotonic()
        result = sweep_grid(grid, out=out / channel.name, progress=True).load()
        panel = panel_summary(options, channel, grid, result)
        panel["seconds"] = round(time.monotonic() - begun, 2)
        panels[channel.name] = panel
        rows += panel_claims(channel, grid, result, panel)
        if channel.name == "upstream":
            found = collapse(result)
        print(f"{channel.name}: {panel['seconds']} s", flush=True)
    begun = time.monotonic()
    forks = [fork_summary(options, name, change) for name, change in chosen_forks(options).items()]
    print(f"forks and accounts: {time.monotonic() - begun:.1f} s", flush=True)
    rows += comparison_claims(panels)
    rows += [claim for fork in forks for claim in fork_claims(fork)]
    rows.append(agreement_claim(forks))
    if found is not None:
        rows.append(collapse_claim(found))
    attributes = dict(result.attrs)
    summary = {
        "question": "P(a dead ReLU unit recovers | learning rate, initial bias, channel)",
        "definitions": {
            name: estimates.MEASURES[name].definition for name in ("recovered_ever", "came_back")
        },
        "interval": "95 %, Korn-Graubard clustered by seed; differences: t over paired seeds",
        "claims": rows,
        "panels": list(panels.values()),
        "forks": forks,
        "collapse": found,
        "wall_seconds": round(time.monotonic() - started, 2),
        "provenance": attributes | {"grid_hashes": {n: grid.hash for n, grid in named.items()}},
    }
    store.write_summary(out, summary)
    print_summary(summary)
    return summary


def panel_summary(options: Options, channel: Channel, grid: Grid, result: xr.Dataset) -> dict:
    """The numbers of one panel."""
    certified = None
    if grid.config.activation == "relu":
        seeds = len(grid.seeds) if channel.name == "none" else options.certified_seeds
        certified = certificate_row(certify_panel(result, grid, seeds))
    return {
        "name": channel.name,
        "title": channel.title,
        "measure": channel.measure,
        "measured": pooled(result, channel.measure),
        "recovered": pooled(result, "recovered_ever"),
        "best": best_rate(result, channel.measure),
        "diverged": pooled(result, "diverged"),
        "boundary": boundary_line(channel, grid),
        "certificates": certified,
    }


def interval_text(row: dict) -> str:
    """Estimate, interval and counts as text."""
    if row["estimate"] is None:
        return "nothing at risk"
    low, high = row["interval"]
    counts = f"  {row['successes']:,}/{row['trials']:,}" if "successes" in row else ""
    return f"{row['estimate']:.4f} [{low:.4f}, {high:.4f}]{counts}"


def print_summary(summary: dict) -> None:
    """Panels, forks and claims as text."""
    print("\nchannel      measure         whole panel                              certified never")
    for panel in summary["panels"]:
        found = panel["certificates"]
        power = "not ReLU"
        if found:
            power = (
                f"{found['of_them_certified']:,} of {found['never_recovered']:,} never recovered"
            )
        print(
            f"{panel['name']:12} {panel['measure']:15} "
            f"{interval_text(panel['measured']):40} {power}"
        )
    for fork in summary["forks"]:
        print(f"\nfork '{fork['name']}' at step {fork['step']}, by step {fork['horizon']}")
        print("arm               P(recover)                       difference to as_is        "
              "vanished                  share of climb")  # fmt: skip
        for row in fork["rows"]:
            line = f"{row['arm']:17} {interval_text(row['probability']):42}"
            if "difference" in row:
                line += f" {interval_text(row['difference']):26} {interval_text(row['vanished'])}"
                share = row["share_of_climb"]
                line += "  none recovered" if share is None else f"  {share:+.3f}"
            print(line)
    print()
    claims.print_claims(summary["claims"])
    print(f"{summary['wall_seconds']} s")
