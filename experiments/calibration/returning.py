"""Steps at which a theorem says that dead units are alive again, and whether they are.

The networks of `RETURNING` decay their biases, which lifts dead units of the first layer. Of each,
trained and then asked, the step that `prognose` names is held against futures in epochs that are
looked at after every step: a unit is right if in all of them it is alive for the first time at that
very step.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.calibration.kinds import Kind
from experiments.calibration.simulation import Loaded, begin, in_epochs, kept, make_step
from experiments.calibration.sweep import Options
from relu_dynamics.certificates import Verdict
from relu_dynamics.engine import tasks
from relu_dynamics.engine.keys import purpose_key
from relu_dynamics.engine.optimizers import make_optimizer
from relu_dynamics.grid import Grid
from relu_dynamics.inspection import replay, watch
from relu_dynamics.inspection.forecasts.forks import run_fork
from relu_dynamics.inspection.prognosis.prognosis import prognose
from relu_dynamics.sweeps import ensembles, studies


class Lived(NamedTuple):
    """Networks trained, and what became of their units, [networks, ...]."""

    dead: Any  # bool [units], at the time of the prognosis
    alive_at: Any  # int [futures, units], the first step at which it was alive, or -1
    state: Any  # (parameters, optimizer's memory) at the time of the prognosis


class Returned(NamedTuple):
    """Counts of the units that get a step within the futures, a number per network."""

    dead: np.ndarray
    named: np.ndarray  # dead units with a step
    right: np.ndarray  # of these, first alive at that very step in every future
    early: np.ndarray  # of these, alive before it in some future
    open: np.ndarray  # dead units without a verdict


def lived(kind: Kind, options: Options, key: jax.Array, data) -> Lived:
    """One network of a kind, trained and run on. Pure; `key` is consumed."""
    config = kind.config
    assert config.batch_size
    (x, y), state = begin(kind, key, data)
    step = in_epochs(make_step(kind), (x, y), config.batch_size)
    begun = Loaded(state, jnp.arange(config.examples), jnp.int32(0))
    train_key, future_key = (jax.random.fold_in(purpose_key(key, "batch"), n) for n in range(2))
    own_key, keep = (lambda key: key), (lambda kept, taken, state: kept)
    trained, _ = replay(step, begun, own_key, keep, None, steps=config.steps, every=config.steps,
                        key=train_key)  # fmt: skip
    see = lambda loaded: watch(kind.apply)(loaded.state[0], x)[1]  # noqa: E731
    futures = jax.vmap(
        lambda n: run_fork(step, own_key, see, trained, future_key, n, steps=options.ahead, every=1)
    )(jnp.arange(options.futures))
    alive_at = jnp.where(futures.diverged[:, None], -1, futures.alive_at)
    return Lived(see(trained).margin <= 0, alive_at, trained.state)


def hold_against_futures(kind: Kind, grid: Grid, options: Options, path: pathlib.Path) -> Returned:
    """The counts of all networks of a kind; the grid's seeds are the networks, which are stored at
    `path`."""
    kind = kind._replace(config=grid.config)
    keys, data = ensembles.run_keys(grid.root_seed, grid.seeds), tasks.load_data(grid.config)
    question = studies.question_hash({"": grid}, options.futures, options.ahead)
    found = kept(path, question, grid, lambda key, data: lived(kind, options, key, data))
    rows = []
    for network, key in enumerate(keys):
        (x, _), _ = begin(kind, key, data)
        params, memory = jax.tree.map(lambda leaf: leaf[network], found.state)  # noqa: B023
        optimizer = make_optimizer(kind.config)
        verdicts = prognose(kind.apply, params, memory, [x], tx=optimizer, steps=options.ahead)
        rows.append(counted(verdicts.verdict, verdicts.step, found.dead[network],
                            found.alive_at[network]))  # fmt: skip
    return Returned(*np.transpose(rows))


def counted(
    verdict: np.ndarray, step: np.ndarray, dead: np.ndarray, alive_at: np.ndarray
) -> list[int]:
    """The counts of `Returned` of one network; `alive_at` is [futures, units]."""
    named = dead & (verdict == Verdict.CERTIFIED_AT)
    right = named & (alive_at == step).all(0)
    early = named & ((alive_at >= 0) & (alive_at < step)).any(0)
    unsaid = dead & (verdict == Verdict.POSSIBLE)
    return [int(part.sum()) for part in (dead, named, right, early, unsaid)]
