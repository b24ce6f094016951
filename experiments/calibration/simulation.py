"""Networks trained until some units are dead, forks of each, and its unseen futures.

Training and futures go through the examples in epochs, as a user's loop does: a new order for every
epoch, every example once. The forks draw batches as `inspection.draw_examples` does, which knows
nothing of epochs. So the forecast is tried on what it is for, and not on its own law; further forks
are kept as futures of that law, to tell the two apart.
"""

import io
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.calibration.kinds import Kind, outputs_of, targets_of
from experiments.calibration.sweep import Options, decides
from relu_dynamics import store
from relu_dynamics.engine import tasks
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.engine.models import PRECISION
from relu_dynamics.engine.optimizers import make_optimizer
from relu_dynamics.grid import Grid
from relu_dynamics.inspection import draw_examples, replay, watch
from relu_dynamics.inspection.forecasts.forks import run_fork
from relu_dynamics.sweeps import ensembles, studies

AT_ONCE = 10  # networks of one compiled call


class Futures(NamedTuple):
    """What became of every unit of every network of a kind, [networks, units] each, and the
    networks."""

    dead: np.ndarray  # bool, at the time of the forecast
    forked: np.ndarray  # int, forks in which it recovered
    epochs: np.ndarray  # int, unseen futures in epochs, in which it recovered
    resampled: np.ndarray  # int, unseen futures with batches drawn as those of the forks
    state: Any  # (parameters, optimizer's memory) at the time of the forecast, [networks, ...]


class Loaded(NamedTuple):
    """A state of training, and where it is in its epoch."""

    state: Any
    order: jax.Array  # int32 [examples]
    place: jax.Array  # int32, batches taken of it


def make_step(kind: Kind) -> Callable:
    """The train step of a kind, (parameters, optimizer's memory), inputs, targets -> the same."""
    optimizer = make_optimizer(kind.config)

    def loss(params, x, y):
        if kind.itself:
            return 0.5 * jnp.mean((kind.apply(params, x) - y) ** 2)
        return tasks.loss(kind.config, kind.apply(params, x), y)

    def step(state, x, y):
        params, memory = state
        updates, memory = optimizer.update(jax.grad(loss)(params, x, y), memory, params)
        return optax.apply_updates(params, updates), memory

    return step


def in_epochs(step: Callable, arrays: tuple, batch: int) -> Callable:
    """The step that takes its batches itself, in epochs: (Loaded, key of a new order) -> Loaded."""
    count = len(arrays[0])

    def loaded_step(loaded, key):
        new = jax.random.permutation(key, count)
        order = jnp.where(loaded.place == 0, new, loaded.order)
        chosen = jax.lax.dynamic_slice_in_dim(order, loaded.place * batch, batch)
        state = step(loaded.state, *(part[chosen] for part in arrays))
        return Loaded(state, order, (loaded.place + 1) % (count // batch))

    return loaded_step


def begin(kind: Kind, key: jax.Array, data: Any) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """((inputs, targets), (parameters, optimizer's memory)) of a network before training; `key` is
    that of the run."""
    config = kind.config
    task = tasks.make_task(config, purpose_key(key, "task"), data)
    x, y = task.inputs, targets_of(kind, task)
    params = kind.init(config, x.shape[1], outputs_of(kind, x.shape[1]), purpose_key(key, "init"))
    return (x, y), (params, make_optimizer(config).init(params))


def futures_of(kind: Kind, options: Options, key: jax.Array, data: Any) -> Futures:
    """One network of a kind, trained, forked and run on, [units]. Pure; `key` is consumed."""
    config = kind.config
    assert config.batch_size and config.steps % (config.examples // config.batch_size) == 0
    (x, y), state = begin(kind, key, data)
    step, own_key = make_step(kind), lambda key: key
    loaded_step = in_epochs(step, (x, y), config.batch_size)
    begun = Loaded(state, jnp.arange(config.examples), jnp.int32(0))
    draws = purpose_key(key, "batch")
    train_key, fork_key, future_key = (jax.random.fold_in(draws, n) for n in range(3))
    see = lambda state: watch(kind.apply)(state[0], x)[1]  # noqa: E731
    see_loaded = lambda loaded: see(loaded.state)  # noqa: E731
    times = {"every": config.probe_every}
    keep = lambda kept, taken, state: kept  # noqa: E731
    trained, _ = replay(
        loaded_step, begun, own_key, keep, None, steps=config.steps, key=train_key, **times
    )
    times |= {"steps": options.ahead}
    draw = draw_examples((x, y), config.batch_size)
    dead = see_loaded(trained).margin <= 0
    forks = jax.vmap(lambda n: run_fork(step, draw, see, trained.state, fork_key, n, **times))(
        jnp.arange(options.forks + options.futures)
    )
    futures = jax.vmap(
        lambda n: run_fork(loaded_step, own_key, see_loaded, trained, future_key, n, **times)
    )(jnp.arange(options.futures))
    came, unseen = (
        (fork.alive_at >= 0) & dead[None] & ~fork.diverged[:, None] for fork in (forks, futures)
    )
    return Futures(
        dead,
        came[: options.forks].sum(0),
        unseen.sum(0),
        came[options.forks :].sum(0),
        trained.state,
    )


def simulate(kind: Kind, grid: Grid, options: Options, path: pathlib.Path) -> Futures:
    """The futures of all networks of a kind; the grid's seeds are the networks. They are stored at
    `path`, from where the same question reads them again."""
    kind = kind._replace(config=grid.config)
    question = studies.question_hash({"": grid}, *decides(options))
    return kept(path, question, grid, lambda key, data: futures_of(kind, options, key, data))


def kept(path: pathlib.Path, question: str, grid: Grid, of: Callable) -> Any:
    """`of` (key, data) of every network of a grid, stored at `path`, from where the same question
    reads it again."""
    keys, data = ensembles.run_keys(grid.root_seed, grid.seeds), tasks.load_data(grid.config)

    def precisely(key, data):
        with jax.default_matmul_precision(PRECISION):
            return of(key, data)

    if (leaves := _stored(path, question)) is not None:
        return jax.tree.unflatten(jax.tree.structure(jax.eval_shape(of, keys[0], data)), leaves)
    found = ensembles.map_keys(precisely, keys, AT_ONCE, (data,))
    with store.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, question, *jax.tree.leaves(found))
        store.write_whole(path, buffer.getvalue())
    return found


def _stored(path: pathlib.Path, question: str) -> list[np.ndarray] | None:
    """The leaves that were stored for a question; None where there are none, or of another."""
    try:
        with np.load(path, allow_pickle=False) as file:
            asked, *leaves = (file[f"arr_{number}"] for number in range(len(file.files)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return leaves if str(asked) == question else None
