"""The article's numerical example: z = 0.1 x - 0.5 on x in [0, 1], dead on every input.

Claim under test: the bias of a dead unit keeps moving without a gradient, so 10,000 steps
bring the unit back at learning rate 1e-2 and not at 1e-4. Every source of movement that this can
mean is run at both rates (and at 1e-1) by the package's own engine, and the step at which the unit
comes back is held against a closed form. Each of the example's six sentences gets a verdict:
holds, fails, or holds under which condition.

The network is v relu(z) + c with v = 1 and c = -1, asked for 0: its error is not 0, so the
unit's gradient is 0 because it is dead and for no other reason.

Writes results.zarr, summary.json and numerical_example.png/.pdf to --out; `--draw` draws again
from the stored result. Under a minute on two cores; `--quick` under half a minute.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from scipy.special import ive

from relu_dynamics import certificates, figures, statistics, store, theory
from relu_dynamics.config import Config
from relu_dynamics.engine import evaluation, optimizers, outcomes, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.memory import check_memory, trace_bytes
from relu_dynamics.engine.step import State
from relu_dynamics.grid import Grid, make_grid
from relu_dynamics.statistics import claims
from relu_dynamics.sweeps.blocks import block_devices

WEIGHT = 0.1
SLOW_ROW = (1e-4, (-0.5000, -0.4999, -0.4998))  # quoted: (learning rate, bias step by step)
FAST_ROW = (1e-2, (-0.5, -0.3, -0.1, 0.05))
PLAIN_RATES = tuple(10.0**power for power in range(-6, 4))
STEPS_BEFORE_DEATH = 10  # of gradient -1, that the momentum buffers remember
ADAM_STEPS_BEFORE_DEATH = 1000
NEAR_THRESHOLD = 1e-4  # relative distance of "too little" and "enough" from the smallest trace
NOISE_KINDS = ("bias alone", "weight and bias")

BASE = Config(
    task="unit_interval",
    hidden=(1,),
    biased_layer=1,
    biased_units=1,
    initial_bias=-0.5,
    batch_size=None,
    examples=11,  # x = 0, 0.1, ... 1; the largest z is at an end, because z is linear in x
    steps=10_000,
    probe_every=1,
    learning_rate=1e-2,
    # The strength of every source of movement. A source takes its own fields of these, sets its
    # optimizer, and leaves the rest out of the program.
    optimizer="momentum",
    momentum=0.9,
    weight_decay=0.1,
    noise_scale=1.0,
    outside_gradient=-1.0,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run and where to put it."""

    config: Config = BASE
    """The unit, and the strength of every source of movement (each source takes its own)."""
    learning_rates: tuple[float, ...] = (1e-4, 1e-2, 1e-1)
    """Learning rates, rising; the verdicts compare the first two."""
    seeds: int = 512
    """Runs with additive noise at every learning rate."""
    root_seed: int = 0
    """Decides all noise together with the seeds."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/numerical_example-<hash of the question>."""
    draw: bool = False
    """Only draw again from the stored result."""


DEFAULTS = Options()
QUICK = Options(seeds=64)


# Sources of movement: what acts on the dead unit, and when theory has it come back --------------


class Source(NamedTuple):
    """One way in which a dead unit's bias may move."""

    panel: str
    variant: str
    closed: Callable[[Config, np.ndarray], np.ndarray]
    """(config, lifts) -> first step with max z > tolerance if z is lifted by so much; inf: never"""
    uses: tuple[str, ...] = ()  # the fields of the base config that it needs
    change: dict = {}  # other fields of the config
    memory: Callable[[Config], dict[str, float]] = lambda config: {}  # optimizer state of the bias
    output_weight: float = 1.0  # v; c = -v
    rates: tuple[float, ...] = ()  # learning rates beside those asked for

    @property
    def name(self) -> str:
        """Panel and variant."""
        return f"{self.panel}: {self.variant}"


def depth(config: Config, lift: np.ndarray | float = 0.0) -> np.ndarray:
    """How far max z over [0, 1] must rise to count as alive: past the tolerance."""
    return config.tolerance - (max(WEIGHT, 0.0) + config.initial_bias + np.asarray(lift))


def _never(config, lifts):
    return np.full(np.shape(lifts), np.inf)


def _at_once(config, lifts):
    return np.zeros(np.shape(lifts))


def _drift(config, lifts):
    speed = -config.learning_rate * config.outside_gradient
    return theory.drift_crossing_step(depth(config, lifts), speed)


def _decay(form):
    def closed(config, lifts):
        reach = max(WEIGHT, 0.0) + lifts
        decay = (config.learning_rate, config.weight_decay)
        return form(reach, config.initial_bias, *decay, tolerance=config.tolerance)

    return closed


def _adam_decay(config, lifts):
    return theory.adam_decay_recovery_step(
        np.full((*np.shape(lifts), 1), WEIGHT),
        config.initial_bias + lifts,
        np.array([[0.0], [1.0]]),
        config.learning_rate,
        config.weight_decay,
        config.steps,
        tolerance=config.tolerance,
    )


def residue(config: Config, memory: dict[str, float]) -> np.ndarray:
    """Movement of the bias after 1, 2, ... `config.steps` steps without gradient, from what the
    optimizer remembers of it."""
    steps, rate = np.arange(1, config.steps + 1), config.learning_rate
    if config.optimizer == "adam":
        first = steps[:1000]  # what follows is below 1e-40 of the whole
        moved = theory.adam_residue(**memory, learning_rate=rate, steps=first)
        return np.pad(moved, (0, len(steps) - len(first)), mode="edge")
    form = {"momentum": theory.heavy_ball_residue, "nesterov": theory.nesterov_residue}
    return form[config.optimizer](memory["trace"], rate, config.momentum, steps)


def _from_memory(memory):
    def closed(config, lifts):
        above = residue(config, memory(config)) > depth(config, lifts)[..., None]
        return np.where(above.any(-1), above.argmax(-1) + 1.0, np.inf)

    return closed


def _ten_steps(config):
    # optax's trace is g + momentum * trace: a geometric sum
    mu = config.momentum
    return {"trace": -(1 - mu**STEPS_BEFORE_DEATH) / (1 - mu)}


def _at_threshold(factor):
    def memory(config):
        # the residue is proportional to the trace
        whole = (
            theory.heavy_ball_residue
            if config.optimizer == "momentum"
            else (theory.nesterov_residue)
        )
        unit = whole(-1.0, config.learning_rate, config.momentum)
        return {"trace": -factor * float(depth(config)) / unit}

    return memory


def _thousand_steps(config, b1=0.9, b2=0.999):
    steps = ADAM_STEPS_BEFORE_DEATH
    return {"mu": -(1 - b1**steps), "nu": 1 - b2**steps, "count": steps}


def _largest_adam(config, b1=0.9, b2=0.999):
    # Equality in the Cauchy-Schwarz inequality behind `theory.adam_residue_bound`: gradients that
    # grew by b2 / b1 per step until death, after so many steps that no bias correction is left.
    ratio = (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))
    return {"mu": -ratio, "nu": 1.0, "count": 1_000_000}


def _left(panel, variant, optimizer, memory):
    uses = () if optimizer == "adam" else ("momentum",)
    change = {"optimizer": optimizer}
    return Source(panel, variant, _from_memory(memory), uses, change, memory)


def _decaying(variant, form, **change):
    return Source("weight decay", variant, _decay(form), ("weight_decay",), change)


LESS, MORE = 1 - NEAR_THRESHOLD, 1 + NEAR_THRESHOLD
SOURCES = (
    Source("plain SGD", "dead unit", _never, rates=PLAIN_RATES),
    Source("plain SGD", "control: alive", _at_once, change={"initial_bias": -0.05}),
    Source("outside push", "gradient -1", _drift, ("outside_gradient",)),
    Source("outside push", "output weight 0", _drift, ("outside_gradient",), output_weight=0.0),
    _decaying(
        "bias, decoupled",
        theory.bias_decay_recovery_step,
        decay_kind="decoupled",
        decay_targets="biases",
    ),
    _decaying("bias, coupled", theory.bias_decay_recovery_step, decay_targets="biases"),
    _decaying("weights", theory.weight_decay_recovery_step, decay_targets="weights"),
    _decaying("both", theory.decoupled_decay_recovery_step),
    _left("momentum left", "heavy ball", "momentum", _ten_steps),
    _left("momentum left", "Nesterov", "nesterov", _ten_steps),
    _left("momentum at threshold", "heavy ball, too little", "momentum", _at_threshold(LESS)),
    _left("momentum at threshold", "heavy ball, enough", "momentum", _at_threshold(MORE)),
    _left("momentum at threshold", "Nesterov, too little", "nesterov", _at_threshold(LESS)),
    _left("momentum at threshold", "Nesterov, enough", "nesterov", _at_threshold(MORE)),
    _left("Adam left", "1000 steps of -1", "adam", _thousand_steps),
    _left("Adam left", "largest possible", "adam", _largest_adam),
    Source("Adam with L2", "both", _adam_decay, ("weight_decay",), {"optimizer": "adam"}),
)
STRENGTHS = ("momentum", "weight_decay", "noise_scale", "outside_gradient")


class Case(NamedTuple):
    """One run: a source at one learning rate."""

    source: Source
    config: Config

    @property
    def start(self) -> dict[str, float]:
        """Parameters at step 0."""
        v = self.source.output_weight
        return {"weight": WEIGHT, "bias": self.config.initial_bias, "v": v, "c": -v}


def make_cases(options: Options) -> list[Case]:
    """All sources at all learning rates."""
    cases = []
    for source in SOURCES:
        unused = {name: None for name in STRENGTHS if name not in source.uses}
        change = {"optimizer": "sgd", **unused, **source.change}
        for rate in sorted({*source.rates, *options.learning_rates}):
            change["learning_rate"] = rate
            cases.append(Case(source, dataclasses.replace(options.config, **change)))
    return cases


# Simulation ---------------------------------------------------------------------------------------


def start_state(config: Config, start: dict[str, float], memory: dict[str, float]):
    """The `training.State` of a unit with given parameters, whose optimizer remembers `memory` of
    the bias and nothing of any other parameter."""
    f32 = jnp.float32
    params = {
        "hidden_1": {"kernel": f32([[start["weight"]]]), "bias": f32([start["bias"]])},
        "output": {"kernel": f32([[start["v"]]]), "bias": f32([start["c"]])},
    }
    optimizer = optimizers.make_optimizer(config).init(params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    left = {
        name: jnp.int32(value)
        if name == "count"
        else {**nothing, "hidden_1": {**nothing["hidden_1"], "bias": f32([value])}}
        for name, value in memory.items()
    }
    if left:
        optimizer = optax.tree.set(optimizer, **left)
    return State(jnp.int32(0), params, optimizer)


class Kept(NamedTuple):
    """What is kept of a run, of its only unit; under vmap with a leading [lanes] axis."""

    params: dict  # kernel [1, 1] and bias [1] after the last step
    history: outcomes.History  # without its `batch_` fields
    largest_z: jax.Array  # [steps + 1] over the inputs, from step 0 on
    smallest_z: jax.Array  # [steps + 1]
    gradient_norm: jax.Array  # [steps]


@jax.jit
def _train(configs, key, states):
    task = tasks.make_task(configs, purpose_key(key, "task"), None)
    run = functools.partial(training.run, trace_units=True)
    runs = jax.vmap(run, in_axes=(0, None, None, 0))(configs, task, key, states)
    # What is not returned is neither compiled nor computed: half of the time to compile.
    from_batches = [name for name in runs.history._fields if name.startswith("batch_")]
    return Kept(
        params=runs.state.params["hidden_1"],
        history=runs.history._replace(**dict.fromkeys(from_batches)),
        largest_z=runs.trace.probe_units.margin[..., 0],
        smallest_z=runs.trace.probe_units.minimum[..., 0],
        gradient_norm=runs.trace.gradient_norm[..., 0],
    )


def _stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def run_group(cases: list[Case], root_seed: int) -> list[dict]:
    """Trains cases that share one program, as its lanes; one record per case."""
    configs = _stack([training.as_arrays(case.config) for case in cases])
    states = _stack([start_state(c.config, c.start, c.source.memory(c.config)) for c in cases])
    runs = jax.tree.map(np.asarray, _train(configs, run_key(root_seed, 0), states))
    return [
        record(case, jax.tree.map(lambda leaf, lane=lane: leaf[lane], (runs, states)))
        for lane, case in enumerate(cases)
    ]


def record(case: Case, lane: tuple[Kept, State]) -> dict:
    """A run's facts by name, and what theory has to say of it."""
    run, state = lane
    largest, smallest, unit = run.largest_z, run.smallest_z, run.params
    before = state.params["hidden_1"]
    dead = largest[:-1] <= 0
    recovery = int(run.history.first_recovery[0])
    at_risk = bool(run.history.dead_at_start[0])
    same_bits = all(unit[name].tobytes() == before[name].tobytes() for name in unit)
    constant = all(np.unique(z.view(np.int32)).size == 1 for z in (largest, smallest))
    return {
        "largest_z": largest,
        "smallest_z": smallest,
        "final_weight": float(unit["kernel"][0, 0]),
        "final_bias": float(unit["bias"][0]),
        "unmoved": same_bits and constant,
        "gradient_while_dead": float(run.gradient_norm.max(initial=0, where=dead)),
        "outcome": int(outcomes.classify(run.history)[0]),
        "diverged": int(run.history.diverged_at) != outcomes.NEVER,
        "simulated_step": np.inf if at_risk and recovery == outcomes.NEVER else max(recovery, 0),
        **certificate(case, state),
        **closed_form(case),
    }


def certificate(case: Case, state: State) -> dict:
    """What is proved of the unit at the start of the run: the verdict, its theorem and its step."""
    config = case.config
    task = tasks.make_task(config, purpose_key(run_key(0, 0), "task"), None)
    found = certificates.certify(config, task, state, horizon=config.steps)
    verdict = certificates.Verdict(int(found.verdict[0]))
    step = float(found.step[0]) if verdict == certificates.Verdict.CERTIFIED_AT else np.inf
    return {
        "certificate": verdict.name,
        "theorem": str(found.names[0]),
        "certified_step": step,
    }


def certified(result: xr.Dataset, cases: np.ndarray) -> str:
    """How many of the given dead cases are proved to stay so, or to come back at their step."""
    chosen = result.isel(case=cases)
    counts = {
        name: int((chosen.certificate == name).sum())
        for name in ("CERTIFIED_NEVER", "CERTIFIED_AT", "POSSIBLE")
    }
    total = sum(counts.values())
    proved = [name for name, count in counts.items() if count and name != "POSSIBLE"]
    named = {
        name: sorted(set(chosen.theorem.values[chosen.certificate.values == name].tolist()))
        for name in proved
    }
    said = [f"{n} for {counts[n]} of {total} ({', '.join(named[n])})" for n in proved]
    return "; ".join(said) if said else f"none of {total} certified"


def contradictions(result: xr.Dataset) -> int:
    """Cases whose run contradicts their certificate; a theorem allows none."""
    never = (result.certificate == "CERTIFIED_NEVER") & np.isfinite(result.simulated_step)
    at = result.certificate == "CERTIFIED_AT"
    return int((never | (at & (result.simulated_step != result.certified_step))).sum())


def closed_form(case: Case) -> dict:
    """The step of recovery by theory, and the range of steps that float32 rounding allows.

    Every step rounds a bias of at most |initial_bias| by half a unit in its last place, 2^-26 for
    0.5, and always the same way when the steps are alike (at 1e-4 per step that makes up to half a
    step in 4,000). So the closed form is evaluated with z lifted and lowered by that much for
    every step up to its own (but steps too small to change the bias round nothing); 2^-22
    more covers the rounding of z itself and of those small steps together.
    """
    horizon = case.config.steps
    step = float(case.source.closed(case.config, np.zeros(1))[0])
    bias = np.float32(abs(case.config.initial_bias))
    rounding = float(np.spacing(np.nextafter(bias, np.float32(0)))) / 2
    moving = horizon
    if memory := case.source.memory(case.config):
        moving = np.count_nonzero(np.diff(residue(case.config, memory), prepend=0) > rounding / 4)
    slack = min(step, moving) * rounding + 2.0**-22
    low, high = case.source.closed(case.config, np.array([slack, -slack], float))
    censored = [np.inf if value > horizon else value for value in (step, low, high)]
    names = ("closed_step", "closed_low", "closed_high")
    return dict(zip(names, censored, strict=True), uncensored_step=step)


def wedge_passage_probability(weight, bias, step_deviation, steps, terms=400):
    """P(weight x + bias > 0 for some x in [0, 1] within `steps`) when both take independent
    Gaussian steps: first exit from the wedge {bias <= 0, weight + bias <= 0}, angle 3 pi / 4.

    The series of Metzler (Statistics & Probability Letters 80, 2010; after Iyengar 1985) for
    continuous time, with both sides moved out by 0.5826 step deviations for discrete steps
    (Siegmund 1979), as in `theory.first_passage_probability`. `steps` may be an array, >= 1.
    """
    outward = 0.5825971579390107 * step_deviation
    sides = np.array([-bias, -(weight + bias) / np.sqrt(2)]) + outward
    return wedge_exit_probability(sides, 0.75 * np.pi, step_deviation**2 * steps, terms)


def wedge_exit_probability(distances, angle, variance, terms=400):
    """P(planar Brownian motion has left a wedge) from its distances to the two sides, the angle
    between them and the variance reached (a number or an array)."""
    first, second = distances
    theta = np.arctan2(first * np.sin(angle), second + first * np.cos(angle))
    radius = first / np.sin(theta)
    q = radius**2 / (4 * np.asarray(variance, float)[..., None])
    odd = np.arange(1, 2 * terms, 2)
    order = odd * np.pi / angle
    series = np.sin(odd * theta * np.pi / angle) / odd
    series = series * (ive((order - 1) / 2, q) + ive((order + 1) / 2, q))
    staying = np.sqrt(8 * q[..., 0] / np.pi) * series.sum(-1)
    # The series needs about sqrt(8 q) terms; where it is cut off nothing has left yet.
    far = 8 * q[..., 0] > terms
    nearest = 2 * theory.active_probability(-min(distances), np.sqrt(variance))
    return np.where(far, np.minimum(nearest, 1.0), np.clip(1 - staying, 0.0, 1.0))


@jax.jit
def _train_noise(configs, task_ends, keys, states):
    def one(config, ends, key, state):
        task = tasks.make_task(config, purpose_key(key, "task"), None)
        inputs = task.inputs * ends
        task = task._replace(inputs=inputs, probe=inputs)
        return training.run(config, task, key, state).history.first_recovery[0]

    return jax.vmap(one)(configs, task_ends, keys, states)


def run_noise(options: Options) -> np.ndarray:
    """First recovery step (inf: never) under additive noise, [kinds, rates, seeds].

    The engine's noise moves the weight too. "bias alone" therefore looks at x = 0 only, from a
    bias that leaves the same margin; "weight and bias" looks at both ends of [0, 1].
    """
    unused = {name: None for name in STRENGTHS if name != "noise_scale"}
    config = dataclasses.replace(options.config, optimizer="sgd", examples=2, **unused)
    margin_bias = max(WEIGHT, 0.0) + config.initial_bias
    lanes = list(itertools.product(range(2), options.learning_rates, range(options.seeds)))
    rates = np.float32([rate for _, rate, _ in lanes])
    kinds = np.array([kind for kind, _, _ in lanes])
    configs = jax.tree.map(lambda value: np.full(len(lanes), value, np.float32), config)
    configs = dataclasses.replace(configs, learning_rate=rates)
    one = start_state(config, {"weight": WEIGHT, "bias": 0.0, "v": 1.0, "c": -1.0}, {})
    states = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], len(lanes), 0), one)
    biases = np.where(kinds == 0, margin_bias, config.initial_bias).astype(np.float32)
    states.params["hidden_1"]["bias"] = biases[:, None]
    keys = jnp.stack([run_key(options.root_seed, seed) for seed in range(options.seeds)])
    keys = keys[np.array([seed for _, _, seed in lanes])]
    first = np.asarray(_train_noise(configs, kinds.astype(np.float32), keys, states))
    shape = (len(NOISE_KINDS), len(options.learning_rates), options.seeds)
    return np.where(first == outcomes.NEVER, np.inf, first).reshape(shape)


def noise_closed_form(config: Config, kind: str, rate: float, steps: np.ndarray) -> np.ndarray:
    """P(recovered within `steps`) under additive noise."""
    if kind == "bias alone":
        margin = -(max(WEIGHT, 0.0) + config.initial_bias)
        return theory.first_passage_probability(margin, rate, config.noise_scale, steps)
    return wedge_passage_probability(WEIGHT, config.initial_bias, rate * config.noise_scale, steps)


def simulate(options: Options) -> xr.Dataset:
    """Every source at every learning rate, labelled, with its closed form.

    Cases that share a program are its lanes; programs compile and run side by side.
    """
    cases = make_cases(options)
    lanes_bytes = trace_bytes(cases[0].config, True) * len(cases)
    check_memory(lanes_bytes, "use fewer steps or learning rates")
    groups: dict = {}
    for case in cases:
        program = jax.tree.structure(case.config)  # holds the static fields and which are None
        groups.setdefault(program, []).append(case)
    devices = block_devices()
    jobs = [functools.partial(run_noise, options)]
    jobs += [functools.partial(run_group, group, options.root_seed) for group in groups.values()]

    def work(number):
        with jax.default_device(devices[number % len(devices)]):
            return jobs[number]()

    with concurrent.futures.ThreadPoolExecutor(max(2, len(devices))) as pool:
        noise, *results = pool.map(work, range(len(jobs)))
    records = dict(
        itertools.chain.from_iterable(
            zip(map(id, group), rows, strict=True)
            for group, rows in zip(groups.values(), results, strict=True)
        )
    )
    return label(options, cases, [records[id(case)] for case in cases], noise)


def label(options: Options, cases: list[Case], records: list[dict], noise: np.ndarray):
    """The labelled result."""
    config = options.config
    paths = ("largest_z", "smallest_z")
    data = {
        name: (("case", "step") if name in paths else "case", np.array([r[name] for r in records]))
        for name in records[0]
    }
    for name in ("certificate", "theorem"):
        data[name] = ("case", data[name][1].astype(object))  # zarr: text of any length
    inside = lambda r: r["closed_low"] <= r["simulated_step"] <= r["closed_high"]  # noqa: E731
    data["agrees"] = ("case", np.array([inside(r) for r in records]))
    grid = np.unique(np.geomspace(1, config.steps, 80).astype(int))
    closed = [
        [noise_closed_form(config, kind, rate, grid) for rate in options.learning_rates]
        for kind in NOISE_KINDS
    ]
    recovered = np.isfinite(noise).sum(-1)
    interval = statistics.exact_interval(recovered, options.seeds)
    # All comparisons together are to be wrong in 5 % of experiments (Bonferroni).
    wide = statistics.exact_interval(recovered, options.seeds, level=1 - 0.05 / recovered.size)
    final = np.array(closed)[..., -1]
    text = lambda names: np.array(list(names), object)  # noqa: E731 (zarr: of any length)
    two = ("noise_kind", "learning_rate")
    data |= {
        "noise_recovery_step": ((*two, "seed"), noise),
        "noise_recovered": (two, recovered),
        "noise_estimate": (two, interval.estimate),
        "noise_low": (two, interval.low),
        "noise_high": (two, interval.high),
        "noise_closed": ((*two, "noise_step"), np.array(closed)),
        "noise_agrees": (two, (wide.low <= final) & (final <= wide.high)),
    }
    return xr.Dataset(
        data,
        {
            "source": ("case", text(case.source.name for case in cases)),
            "panel": ("case", text(case.source.panel for case in cases)),
            "variant": ("case", text(case.source.variant for case in cases)),
            "case_rate": ("case", [case.config.learning_rate for case in cases]),
            "step": np.arange(config.steps + 1),
            "learning_rate": list(options.learning_rates),
            "noise_kind": text(NOISE_KINDS),
            "noise_step": grid,
            "seed": np.arange(options.seeds),
        },
        {"quoted": json.dumps([SLOW_ROW, FAST_ROW]), "weight": str(WEIGHT)},
    )


# Verdicts -----------------------------------------------------------------------------------------


def pick(result: xr.Dataset, source: str, rate: float) -> xr.Dataset:
    """One case."""
    return result.isel(case=int(np.flatnonzero(_of(result, source, rate))[0]))


def _of(result, source, rate=None):
    found = result.source.values == source
    return found if rate is None else found & (result.case_rate.values == rate)


def step_text(step: float) -> str:
    """A step, or "never"."""
    return f"{step:,.0f}" if np.isfinite(step) else "never"


def _implied_gradients(row):
    """The gradient that would make each quoted step: minus the step over the learning rate."""
    rate, biases = row
    return [float(g) for g in np.round(-np.diff(biases) / rate, 6)]


def _claim(sentence, says, verdict, finding, grounds, **numbers):
    claim = claims.Claim(
        claim=f"({sentence}) {says}",
        source="learning rate",
        verdict=verdict,
        finding=finding,
        estimate=None,
        interval=None,
        count=f"against {grounds}",
        definition="dead: max z <= 0 over the inputs",
        figure="numerical_example",
    )
    return claim.as_json() | {"sentence": sentence, "numbers": numbers}


def verdicts(result: xr.Dataset, config: Config) -> list[dict]:
    """The verdict on each of the example's six sentences, with its numbers."""
    makers = (_zero_gradient, _slow_row, _fast_row, _crossing, _rates, _memory)
    return [make(result, config) for make in makers]


def _zero_gradient(result, config):
    plain = result.isel(case=_of(result, "plain SGD: dead unit"))
    control = result.isel(case=_of(result, "plain SGD: control: alive"))
    moved, rates = int((~plain.unmoved).sum()), plain.sizes["case"]
    others = result.isel(
        case=(result.gradient_while_dead.values == 0)
        & ~result.unmoved.values
        & (result.panel.values != "plain SGD")
    )
    panels = list(dict.fromkeys(others.panel.values.tolist()))
    if moved:
        verdict = "confirmed"
    else:
        verdict = "conditional" if panels else "refuted"
    return _claim(
        1,
        "a dead unit's weight and bias keep moving although its gradient is 0",
        verdict,
        f"Not under plain SGD: moved at {moved} of {rates} rates, "
        f"{plain.case_rate.values.min():g} to {plain.case_rate.values.max():g}, gradient exactly "
        f"{float(plain.gradient_while_dead.max()):g}; certificate: "
        f"{certified(result, _of(result, 'plain SGD: dead unit'))}. It moves by optimizer memory, "
        "decay, noise or a push from outside the loss.",
        "derived: z <= 0 on every input makes dL/dz, hence dL/dw and dL/db, exactly 0",
        simulated_rates_that_moved=moved,
        expected_rates_that_move=0,
        rates=rates,
        rates_whose_output_bias_diverged=int(plain.diverged.sum()),
        largest_gradient_while_dead=float(plain.gradient_while_dead.max()),
        living_control_moved=int((~control.unmoved).sum()),
        moved_while_the_gradient_was_zero=panels,
    )


def _slow_row(result, config):
    rate, row = SLOW_ROW
    small = float(result.learning_rate[0])
    push = pick(result, "outside push: gradient -1", small)
    free = pick(result, "outside push: output weight 0", small)
    expected = config.initial_bias - small * config.outside_gradient * config.steps
    crosses = float(push.simulated_step)
    return _claim(
        2,
        "at 1e-4 (bias -0.5000, -0.4999, -0.4998) 10,000 steps change next to nothing",
        "refuted" if np.isfinite(crosses) else "confirmed",
        f"Slip: 1e-4 per step is a gradient of -1. {config.steps:,} such steps at {small:g} end at "
        f"{float(free.final_bias):+.4f} (arithmetic {expected:+.4f}) and pass {-WEIGHT:g} at step "
        f"{step_text(crosses)} (closed form {step_text(float(push.closed_step))}). Under plain "
        f"SGD the bias stays at {config.initial_bias:g}.",
        "theory.drift_crossing_step; arithmetic",
        quoted_biases=list(row),
        implied_gradients=_implied_gradients(SLOW_ROW),
        simulated_final_bias=float(free.final_bias),
        expected_final_bias=expected,
        simulated_crossing=crosses if np.isfinite(crosses) else None,
        expected_crossing=float(push.closed_step) if np.isfinite(push.closed_step) else None,
        expected_range=[float(push.closed_low), float(push.closed_high)],
    )


def _fast_row(result, config):
    rate, row = FAST_ROW
    large = float(result.learning_rate[1])
    push = pick(result, "outside push: gradient -1", large)
    gradients = _implied_gradients(FAST_ROW)
    same = np.allclose(gradients, _implied_gradients(SLOW_ROW)[0])
    crosses = float(push.simulated_step)
    sizes = ", ".join(f"{g:g}" for g in gradients)
    return _claim(
        3,
        "at 1e-2 a gradient of the same size takes the bias over -0.5, -0.3, -0.1, 0.05",
        "confirmed" if same else "refuted",
        f"Slip: these moves need gradients {sizes}, not the -1 of the other row. With -1 at "
        f"{large:g} the bias gains {-large * config.outside_gradient:g} per step and the unit is "
        f"back at step {step_text(crosses)} (closed form {step_text(float(push.closed_step))}), "
        "not at step 3.",
        "theory.drift_crossing_step; arithmetic",
        quoted_biases=list(row),
        implied_gradients=gradients,
        simulated_crossing=crosses if np.isfinite(crosses) else None,
        expected_crossing=float(push.closed_step) if np.isfinite(push.closed_step) else None,
        expected_range=[float(push.closed_low), float(push.closed_high)],
    )


def active_fractions(config: Config, biases: tuple[float, ...]) -> np.ndarray:
    """Fraction of the example's inputs with z > 0 at each bias, by the engine's own forward."""
    plain = dataclasses.replace(config, optimizer="sgd", **dict.fromkeys(STRENGTHS))
    starts = [{"weight": WEIGHT, "bias": bias, "v": 1.0, "c": -1.0} for bias in biases]
    params = _stack([start_state(plain, start, {}).params for start in starts])

    @jax.jit
    def evaluate(params):
        inputs = tasks.make_task(plain, jax.random.key(0), None).probe
        return jax.vmap(lambda p: evaluation.evaluate(plain, p, inputs)[0].active_fraction[0])(
            params
        )

    return np.asarray(evaluate(params))


def _crossing(result, config):
    crossing = -WEIGHT
    biases = (config.initial_bias, crossing - 1e-5, crossing, crossing + 1e-5)
    active = active_fractions(config, biases)
    rare = theory.active_probability(config.initial_bias, WEIGHT)
    seen = theory.first_firing_probability(config.initial_bias, WEIGHT, 320_000)
    holds = (active[:3] == 0).all() and active[3] > 0
    return _claim(
        4,
        "past a bias of -0.1 some inputs fire the unit",
        "conditional" if holds else "refuted",
        f"z > 0 iff x > -bias / {WEIGHT:g}: x > {-config.initial_bias / WEIGHT:g} at the start, "
        "x > 1 at -0.1. So for x in [0, 1] only strictly above -0.1. For x ~ N(0, 1) the unit is "
        f"alive from the start, P(z > 0) = {rare:.3g} (in 320,000 draws: {seen:.3g}): dead in the "
        "sample only.",
        "theory.active_probability = Phi(bias / weight), theory.first_firing_probability",
        biases=list(biases),
        simulated_active_fraction=active.tolist(),
        expected_active=[False, False, False, True],
        population_active_probability=rare,
        population_active_probability_at_crossing=theory.active_probability(crossing, WEIGHT),
        fires_within_320000_draws=seen,
    )


def _rates(result, config):
    small, large = (float(rate) for rate in result.learning_rate[:2])
    pairs = {"large only": [], "both": [], "neither": [], "small only": []}
    for source in dict.fromkeys(result.source.values.tolist()):
        if "control" in source or "threshold" in source or source.endswith("output weight 0"):
            continue
        back = [np.isfinite(float(pick(result, source, r).simulated_step)) for r in (small, large)]
        kind = {(0, 1): "large only", (1, 1): "both", (0, 0): "neither", (1, 0): "small only"}
        pairs[kind[tuple(map(int, back))]].append(source)
    noise = result.sel(noise_kind="weight and bias").isel(learning_rate=[0, 1])
    estimates = [
        {
            "learning_rate": float(noise.learning_rate[i]),
            "recovered": int(noise.noise_recovered[i]),
            "runs": result.sizes["seed"],
            "estimate": float(noise.noise_estimate[i]),
            "interval": [float(noise.noise_low[i]), float(noise.noise_high[i])],
            "expected": float(noise.noise_closed[i, -1]),
        }
        for i in range(2)
    ]
    slow = pick(result, "weight decay: bias, decoupled", small)
    recovered = [
        f"{e['estimate']:.2f} [{e['interval'][0]:.2f}, {e['interval'][1]:.2f}]" for e in estimates
    ]
    apart = bool(pairs["large only"]) or estimates[0]["interval"][1] < estimates[1]["interval"][0]
    everywhere = apart and not pairs["both"] and not pairs["neither"]
    return _claim(
        5,
        "the larger rate brings the unit back, the small one never does",
        "confirmed" if everywhere else "conditional" if apart else "refuted",
        "True of what optimizers remember, a finite push in proportion to the rate, and of noise "
        f"within {config.steps:,} steps: P = {recovered[0]} at {small:g}, {recovered[1]} at "
        f"{large:g}. False of plain SGD (no rate does) and of a lasting push or bias decay, where "
        "the small rate is only slower (decay: "
        f"step {step_text(float(slow.uncensored_step))}). Certificates: decay, "
        f"{certified(result, np.flatnonzero(result.panel.values == 'weight decay'))}.",
        "closed forms of theory.py by source; noise: first exit from a wedge",
        rates=[small, large],
        revived_by=pairs,
        noise=estimates,
        bias_decay_step_at_the_small_rate=float(slow.uncensored_step)
        if np.isfinite(slow.uncensored_step)
        else None,
    )


def _memory(result, config):
    small = float(result.learning_rate[0])
    rows = []
    for source in (s for s in SOURCES if s.panel in ("momentum left", "Adam left")):
        case = next(
            c
            for c in make_cases(Options(config, (small,)))
            if c.source.name == source.name and c.config.learning_rate == small
        )
        moved = float(pick(result, source.name, small).final_bias) - config.initial_bias
        expected = residue(case.config, source.memory(case.config))
        rows.append(
            {
                "source": source.name,
                "moved_in_rates": moved / small,
                "expected_in_rates": float(expected[-1]) / small,
                "steps_to_99_percent": int(np.argmax(expected >= 0.99 * expected[-1])) + 1,
            }
        )
    total = {row["source"]: row for row in rows}
    ball, adam = total["momentum left: heavy ball"], total["Adam left: 1000 steps of -1"]
    most = theory.adam_residue_bound(1.0)
    needed = -(WEIGHT + config.initial_bias) / (2 * most)  # z at x = 1 is weight + bias
    remembered = np.flatnonzero(np.isin(result.panel.values, ("momentum left", "Adam left")))
    return _claim(
        6,
        "gradients from before death keep moving the bias",
        "conditional",
        "Only in an optimizer with memory, and only so far: "
        f"{ball['moved_in_rates']:.2f} rates after {STEPS_BEFORE_DEATH} steps of -1 under momentum "
        f"{config.momentum:g} (closed form {ball['expected_in_rates']:.2f}; 99 % within "
        f"{ball['steps_to_99_percent']} steps), {adam['moved_in_rates']:.2f} under Adam after "
        f"1,000. Adam's most is {most:.2f} for each parameter, so below rate {needed:.2g} it "
        f"never revives this unit. SGD: 0. Certificates: {certified(result, remembered)}.",
        "theory.heavy_ball_residue, nesterov_residue, adam_residue, adam_residue_bound",
        moved=rows,
        adam_bound_in_rates=most,
        adam_smallest_rate_that_can_revive=needed,
    )


# Compute -> store -> draw -------------------------------------------------------------------------


def check(options: Options) -> Grid:
    """The grid that names the question; raises a ValueError on what this example cannot be."""
    config = options.config
    for name in ("task", "hidden", "biased_layer", "activation", "normalization", "output_bias"):
        if getattr(config, name) != getattr(BASE, name):
            raise ValueError(
                f"config.{name}={getattr(config, name)!r}: the example is one unit on [0, 1]; "
                f"leave it at {getattr(BASE, name)!r}."
            )
    for name in (*STRENGTHS, "batch_size", "probe_size"):
        if (getattr(config, name) is None) != (getattr(BASE, name) is None):
            raise ValueError(
                f"config.{name}={getattr(config, name)!r}: the example needs it as it is in its "
                f"base, {getattr(BASE, name)!r}, or another number."
            )
    rates = tuple(options.learning_rates)
    if len(rates) < 2 or list(rates) != sorted(set(rates)):
        raise ValueError(f"learning_rates={rates!r} must be two or more, rising.")
    grid = make_grid(config, {"learning_rate": rates}, options.seeds, root_seed=options.root_seed)
    if rates[0] <= 0 or rates[-1] * config.weight_decay > 1:
        raise ValueError(
            f"learning_rates={rates!r} must be > 0 and at most 1 / weight_decay = "
            f"{1 / config.weight_decay if config.weight_decay else np.inf:g}."
        )
    if config.probe_every != 1 or config.examples < 2:
        raise ValueError(
            f"probe_every={config.probe_every}, examples={config.examples}: the crossing step "
            "needs probe_every=1 and both ends of [0, 1], examples >= 2."
        )
    if depth(config) <= 0:
        raise ValueError(
            f"initial_bias={config.initial_bias!r} leaves the unit alive on [0, 1]; use one below "
            f"{-WEIGHT:g}."
        )
    return grid


def run(options: Options) -> None:
    """Compute -> store -> draw."""
    grid = check(options)
    out = options.out or pathlib.Path("runs") / f"numerical_example-{grid.hash[:12]}"
    if options.draw:
        result = store.open_result(out).load()
    else:
        store.check_folder(out, grid)
        started = time.monotonic()
        print(
            f"{len(make_cases(options))} cases and {grid.runs * 2:,} noisy runs of "
            f"{grid.config.steps:,} steps; results in {out}",
            flush=True,
        )
        result = simulate(dataclasses.replace(options, config=grid.config))
        found = json.dumps(verdicts(result, grid.config))
        result = result.assign_attrs(store.provenance(grid) | {"claims": found})
        store.open_folder(out, grid)
        result.to_zarr(out / store.RESULT_FOLDER, mode="w", zarr_format=3, consolidated=False)
        summary = summarize(result)
        summary["wall_seconds"] = round(time.monotonic() - started, 2)
        store.write_summary(out, summary)
        print_summary(summary)
    figure = figures.draw_numerical_example(result)
    print("wrote", *figures.save(figure, out / "numerical_example", result.attrs))


def summarize(result: xr.Dataset) -> dict:
    """Claims and every comparison of a simulation with its closed form."""
    plain = lambda step: float(step) if np.isfinite(step) else None  # noqa: E731
    cases = [
        {
            "source": str(case.source.values),
            "learning_rate": float(case.case_rate),
            **{
                name: plain(case[name].item())
                for name in ("simulated_step", "closed_step", "closed_low", "closed_high")
            },
            "agrees": bool(case.agrees),
            "certificate": str(case.certificate.values),
            "theorem": str(case.theorem.values),
            "outcome": outcomes.Outcome(int(case.outcome)).name,
            "final_bias": plain(case.final_bias.item()),
            "gradient_while_dead": plain(case.gradient_while_dead.item()),
        }
        for case in (result.isel(case=i) for i in range(result.sizes["case"]))
    ]
    noise = [
        {
            "noise": str(kind),
            "learning_rate": float(rate),
            "recovered": int(at.noise_recovered),
            "runs": result.sizes["seed"],
            "estimate": float(at.noise_estimate),
            "interval": [float(at.noise_low), float(at.noise_high)],
            "expected": float(at.noise_closed[-1]),
            "agrees": bool(at.noise_agrees),
        }
        for kind in result.noise_kind.values
        for rate in result.learning_rate.values
        for at in [result.sel(noise_kind=kind, learning_rate=rate)]
    ]
    return {
        "question": "what moves a dead ReLU, z = 0.1 x - 0.5 on [0, 1], and when does it come back",
        "definition": "dead: max z <= 0 over the inputs; back: max z above the tolerance; steps of "
        "null are never within the horizon",
        "interval": "Clopper-Pearson, 95 %; agreement of the noisy runs at 95 % for all together",
        "claims": json.loads(result.attrs["claims"]),
        "cases": cases,
        "noise": noise,
        "certificates_contradicted": contradictions(result),
        "comparisons": len(cases) + len(noise),
        "comparisons_that_agree": sum(row["agrees"] for row in (*cases, *noise)),
        "provenance": {k: v for k, v in result.attrs.items() if k != "claims"},
    }


def _proved(row: dict) -> str:
    verdict = {"CERTIFIED_NEVER": "never", "CERTIFIED_AT": "at this step"}.get(row["certificate"])
    return f"{verdict}: {row['theorem']}" if verdict else "-"


def print_summary(summary: dict) -> None:
    """Every comparison and the verdicts as text."""
    print(
        f"{'source':46}{'rate':>8}{'simulated':>11}{'closed form':>13}{'range':>16}  agrees  proved"
    )
    printed = lambda step: step_text(np.inf if step is None else step)  # noqa: E731
    for row in summary["cases"]:
        low, high = printed(row["closed_low"]), printed(row["closed_high"])
        print(
            f"{row['source']:46}{row['learning_rate']:8g}{printed(row['simulated_step']):>11}"
            f"{printed(row['closed_step']):>13}{low if low == high else f'{low} - {high}':>16}"
            f"  {'yes' if row['agrees'] else 'NO':6}  {_proved(row)}"
        )
    for row in summary["noise"]:
        print(
            f"{'noise: ' + row['noise']:46}{row['learning_rate']:8g}   recovered "
            f"{row['recovered']} of {row['runs']}: {row['estimate']:.3f} "
            f"[{row['interval'][0]:.3f}, {row['interval'][1]:.3f}], "
            f"closed form {row['expected']:.4f}  {'yes' if row['agrees'] else 'NO'}"
        )
    print(
        f"{summary['comparisons_that_agree']} of {summary['comparisons']} comparisons agree; "
        f"{summary['certificates_contradicted']} certificates contradicted"
    )
    claims.print_claims(summary["claims"])
