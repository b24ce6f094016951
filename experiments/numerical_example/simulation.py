"""Every source of movement and additive noise by the engine, as one labelled result."""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from experiments.numerical_example.closed_forms import closed_form, noise_closed_form
from experiments.numerical_example.sources import Case, make_cases
from experiments.numerical_example.sweep import FAST_ROW, SLOW_ROW, STRENGTHS, WEIGHT, Options
from relu_dynamics import certificates, statistics
from relu_dynamics.config import Config
from relu_dynamics.engine import evaluation, optimizers, outcomes, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.memory import check_memory, trace_bytes
from relu_dynamics.engine.probes import UnitStatistics
from relu_dynamics.engine.step import State
from relu_dynamics.sweeps.blocks import block_devices

NOISE_KINDS = ("bias alone", "weight and bias")


def start_state(config: Config, start: dict[str, float], memory: dict[str, float]) -> State:
    """The state of a unit with given parameters, whose optimizer remembers `memory` of
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
    seen = cast(UnitStatistics, runs.trace.probe_units)
    # What is not returned is neither compiled nor computed: half of the time to compile.
    from_batches = [name for name in runs.history._fields if name.startswith("batch_")]
    return Kept(
        params=runs.state.params["hidden_1"],
        history=runs.history._replace(**dict.fromkeys(from_batches)),
        largest_z=seen.margin[..., 0],
        smallest_z=seen.minimum[..., 0],
        gradient_norm=cast(jax.Array, runs.trace.gradient_norm)[..., 0],
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


def crossing_biases(config: Config) -> tuple[float, ...]:
    """The bias at the start, and just below, at and just above the one at which z = 0 at x = 1."""
    return config.initial_bias, -WEIGHT - 1e-5, -WEIGHT, -WEIGHT + 1e-5


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
    rates = np.array([rate for _, rate, _ in lanes], np.float32)
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


def simulate(options: Options) -> xr.Dataset:
    """Every source at every learning rate, labelled, with its closed form. Raises a ValueError for
    runs that do not fit in the memory.

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


def label(
    options: Options, cases: list[Case], records: list[dict], noise: np.ndarray
) -> xr.Dataset:
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
    biases = crossing_biases(config)
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
        "active_fraction": ("bias", active_fractions(config, biases)),
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
            "bias": list(biases),
        },
        {"quoted": json.dumps([SLOW_ROW, FAST_ROW]), "weight": str(WEIGHT)},
    )
