"""Training: one pure step, and a run as a scan of it.

    train_step(config, task, key, state, indices) -> (state, snapshot)

State is what the next step needs; snapshot is what a reader wants to see. A run scans the step
that it is handed, `train_step` by default, and evaluates on the probe set every `probe_every`
steps; `scan_steps` is the only loop over steps. A grid is `jax.vmap` of a run over configs
(`relu_dynamics.sweeps`). The key of a run is never split: every draw is a `fold_in` of a purpose
and a step, so a longer run or a larger grid never changes a run's noise.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import columns, initialization, models, native, outcomes, probes, tasks
from relu_dynamics.engine.columns import lanes_last, scan_stretch
from relu_dynamics.engine.evaluation import judged, probe_statistics
from relu_dynamics.engine.initializers import fits_inputs
from relu_dynamics.engine.interventions import kill_share, with_interventions
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.memory import check_memory, free_programs, trace_bytes
from relu_dynamics.engine.optimizers import make_optimizer
from relu_dynamics.engine.outcomes import History
from relu_dynamics.engine.probes import LayerSummary, UnitStatistics
from relu_dynamics.engine.shapes import check_state, check_task
from relu_dynamics.engine.starting import Given, StartingPoint, starting_point
from relu_dynamics.engine.step import State, draw_batch, train_step
from relu_dynamics.engine.tasks import Task
from relu_dynamics.engine.validation import validate


class Trace(NamedTuple):
    """The record of a run. Leaves named `batch...` and `loss` have a leading [steps] axis when
    every unit is traced; `probe_...` have a leading [probes + 1] axis, from step 0 on."""

    loss: jax.Array  # [steps], or [probes] means over the steps between evaluations
    probe_layers: LayerSummary  # [probes + 1, layers]
    probe_units: UnitStatistics | None  # [probes + 1, units]
    batch_units: UnitStatistics | None  # [steps, units]
    gradient_norm: jax.Array | None  # [steps, units]


class Run(NamedTuple):
    """All that came out of one run."""

    state: State
    history: History
    trace: Trace
    held_loss: jax.Array  # [] after the last step, on held-out examples (else on the probe set)
    held_error: jax.Array  # [] fraction wrong or mean squared error, likewise


def start(config: Config, key: jax.Array, given: Given | None = None) -> State:
    """The state at step 0 of the run with this config and run key: of the config's initializer, or
    of `given`, what a user gave (`StartingPoint.arrays`), with the initial bias added."""
    if given is not None:
        params, memory = jax.tree.map(jnp.asarray, given)
        return _begun(config, key, initialization.with_initial_bias(config, params), memory)
    inputs = None
    if fits_inputs(config):
        data = tasks.load_data(config)
        inputs = tasks.make_task(config, purpose_key(key, "task"), data).inputs
    params = initialization.initialize(config, purpose_key(key, "init"), inputs)
    return _begun(config, key, params, None)


def _begun(config, key, params, memory) -> State:
    """The state at step 0 with these parameters; the optimizer's memory is empty by default."""
    memory = make_optimizer(config).init(params) if memory is None else memory
    state = State(jnp.int32(0), params, memory)
    if config.killed_fraction is not None and config.killed_at == 0:
        state = kill_share(config, None, key, state)
    return state


def scan_steps(
    step: Callable,
    observe: Callable,
    config: Config,
    task: Task,
    key: jax.Array,
    carry: tuple[State, Any],
    count: int,
    *,
    finish: Callable = lambda carry, out: (carry, out),
    stretch: Callable = scan_stretch,
) -> tuple[tuple[State, Any], Any]:
    """`count` training steps from the carry (state, kept): the only loop over steps.

    `step(config, task, key, state, indices) -> (state, snapshot)` gets the minibatch, [batch], that
    the key draws for `state.step`. `observe(kept, before, after, snapshot) -> (kept, out)` gets the
    states before and after the step. Returns finish((state, kept), out [count, ...]), by default
    its arguments. `stretch` is the form of the loop: `columns.scan_stretch`, `lanes_last` or
    `native.by_kernel`.
    """

    def observed_step(shared, carry, indices):
        before, kept = carry
        made = step(*shared, before, indices)
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], State)):
            raise ValueError(
                f"step={short_repr(step)} returned {type(made).__name__}; a step returns "
                "(State, snapshot), as train_step does."
            )
        after, snapshot = made
        kept, out = observe(kept, before, after, snapshot)
        return (after, kept), out

    # All draws at once: threefry in a loop of single steps costs more than a small network's
    # training step.
    first = carry[0].step
    steps = first + jnp.arange(count, dtype=first.dtype)
    indices = jax.vmap(lambda now: draw_batch(config, key, now))(steps)
    return stretch(observed_step, finish)((config, task, key), carry, indices)


def _form(config, step, trace_units) -> Callable:
    """The form of the loop over the steps between two evaluations."""
    if config.implementation == "kernel" and step is train_step and not trace_units:
        return native.by_kernel
    return lanes_last if columns.is_one_unit(config) else scan_stretch


def run(
    config: Config,
    task: Task,
    key: jax.Array,
    state: State | None = None,
    *,
    step: Callable = train_step,
    trace_units: bool = False,
    history: History | None = None,
    given: Given | None = None,
) -> Run:
    """One whole run as a scan of steps, from `state` (by default that of `start`, which gets
    `given`) for `config.steps` steps; `history` is what was seen before (by default nothing). Pure;
    jit it, or vmap it over configs.

    `step(config, task, key, state, indices) -> (state, snapshot)` is the step, `train_step` or one
    made from it. It must not close over values that differ between lanes.

    Under `jax.vmap` over the config only, the batches of a seed are drawn once for all lanes and
    the first layer of all lanes is one matrix product.
    """
    every = config.probe_every
    state = start(config, key, given) if state is None else state
    check_task(config, task)
    check_state(config, state.step, state.params)
    made = task  # of which a changing task is made anew in every period

    def task_at(step):
        if config.change_every is None:
            return task
        return tasks.renewed(config, made, purpose_key(key, "task"), step)

    def evaluate_probe(params, step):
        plain = functools.partial(probe_statistics, config, apply=models.apply)
        probe = task_at(step).probe
        if form is native.by_kernel and native.looks_by_kernel(config):
            return native.look(config, params, probe, plain)
        return plain(params, probe)

    form = _form(config, step, trace_units)
    statistics, bounds, slope = evaluate_probe(state.params, state.step)
    history = (
        outcomes.start_history(*judged(config, statistics, bounds, slope))
        if history is None
        else history
    )
    history_at_start = history

    def probe_record(statistics, slope, before, after):
        layers = probes.layer_summary(
            statistics,
            config.hidden,
            slope,
            died=after.deaths - before.deaths,
            recovered=after.recoveries - before.recoveries,
        )
        return layers, statistics if trace_units else None

    def observe(history, before, _, snapshot):
        history = outcomes.observe_batch(history, before.step, None, snapshot.batch)
        record = (snapshot.batch, snapshot.gradient_norm) if trace_units else None
        return history, (snapshot.loss, record)

    def finish(carry, out):
        state, history = carry
        losses, record = out
        summed = losses
        if not isinstance(losses, outcomes.Losses):  # of single steps
            summed = outcomes.sum_up_losses(state.step - every, losses)
        history = outcomes.observe_losses(history, summed)
        return (state, history), (losses if trace_units else summed.mean, record)

    train_steps = functools.partial(
        scan_steps,
        with_interventions(step),
        observe,
        count=every,
        finish=finish,
        stretch=form,
    )

    def segment(carry, first):
        before = carry[1]
        (state, history), (losses, record) = train_steps(config, task_at(first), key, carry)
        # An evaluation belongs to the period before it: what was learned, before the task changes.
        statistics, bounds, slope = evaluate_probe(state.params, first)
        seen, bounds = judged(config, statistics, bounds, slope)
        history = outcomes.observe_probe(
            history,
            state.step,
            seen.margin,
            bounds,
            since=every,
            tolerance=config.tolerance,
            sustain=config.sustain,
        )
        evaluation = probe_record(statistics, slope, before, history)
        return (state, history), (losses, record, evaluation)

    first_steps = state.step + jnp.arange(config.probes) * every
    (state, history), (losses, record, evaluations) = jax.lax.scan(
        segment, (state, history), first_steps
    )
    first_evaluation = probe_record(statistics, slope, history_at_start, history_at_start)
    layers, units = jax.tree.map(
        lambda head, rest: jnp.concatenate([head[None], rest]), first_evaluation, evaluations
    )
    if trace_units:
        losses, record = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (losses, record))
    batch_units, norms = record if trace_units else (None, None)
    task = task_at(first_steps[-1])
    held_inputs, held_targets = task.held_inputs, task.held_targets
    if held_inputs.shape[0] == 0:
        held_inputs, held_targets = task.probe, task.targets[: task.probe.shape[0]]
    output = models.apply(config, state.params, held_inputs).output
    return Run(
        state=state,
        history=history,
        trace=Trace(losses, layers, units, batch_units, norms),
        held_loss=tasks.loss(config, output, held_targets),
        held_error=tasks.error(config, output, held_targets),
    )


@functools.partial(jax.jit, static_argnames=("step", "trace_units"))
def _train(config, key, data, state, given, *, step, trace_units):
    task = tasks.make_task(config, purpose_key(key, "task"), data)
    return run(config, task, key, state, step=step, trace_units=trace_units, given=given)


def train(
    config: Config,
    seed: int = 0,
    *,
    root_seed: int = 0,
    state: State | models.Params | StartingPoint | None = None,
    step: Callable = train_step,
    trace_units: bool = False,
) -> Run:
    """Trains one network, from step 0 or from a given state, and returns all that came out of it.

    A `State`, such as a run's, is continued as it is, at its own step. Parameters alone begin at
    step 0 with an empty memory of the optimizer, and the config's `initial_bias` is added.
    `step` is the training step, see `run`; make it once, since every new one is compiled anew.
    With `trace_units=True` the trace holds every unit's statistics: of the minibatch and the
    gradient norm at every step, of the probe set at every evaluation (set `probe_every=1` for every
    step). Raises a ValueError for a config that cannot run, and before starting when the trace
    does not fit into memory. A run that resumes after a kill: `store.checkpoints.train`.
    """
    if not callable(step):
        raise ValueError(f"step={short_repr(step)} must be a training step, such as train_step.")
    config = validate(config)
    begins = None if isinstance(state, State) else starting_point(config, state)
    check_memory(trace_bytes(config, trace_units), "use trace_units=False or fewer steps")
    free_programs()
    traced = as_arrays(config)
    key = run_key(root_seed, seed)
    data = tasks.load_data(config)
    state, given = (state, None) if begins is None else (None, begins.arrays)
    return _train(traced, key, data, state, given, step=step, trace_units=trace_units)


def as_arrays(config: Config) -> Config:
    """The config with its traced fields as float32 arrays: one trace whatever their Python type."""
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), config)
