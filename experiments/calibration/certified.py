"""Verdicts by theorem on the networks that were forecast, and whether any was broken."""

from typing import NamedTuple

import jax
import numpy as np

from experiments.calibration.kinds import Kind
from experiments.calibration.simulation import Futures, begin
from experiments.calibration.sweep import Options
from relu_dynamics.certificates import Verdict
from relu_dynamics.engine import tasks
from relu_dynamics.engine.optimizers import make_optimizer
from relu_dynamics.grid import Grid
from relu_dynamics.inspection.prognosis.prognosis import Prognosis, prognose
from relu_dynamics.sweeps import ensembles


class Certified(NamedTuple):
    """Counts of the dead units of some held-out networks of a kind."""

    networks: int
    never: int  # that stay dead for as long as the futures last
    never_broken: int  # of these, that recovered in a fork or a future
    at: int  # that are alive after a known number of steps, within that time
    at_broken: int  # of these, that some fork or future never saw alive
    open: int  # without a verdict


def certify(kind: Kind, grid: Grid, options: Options, futures: Futures) -> Certified:
    """The verdicts on the first held-out networks, as many as `options.certified`."""
    kind = kind._replace(config=grid.config)
    keys, data = ensembles.run_keys(grid.root_seed, grid.seeds), tasks.load_data(grid.config)
    counts = np.zeros(5, int)
    chosen = range(options.base, options.base + min(options.certified, options.networks))
    for network in chosen:
        (x, _), _ = begin(kind, keys[network], data)
        params, memory = jax.tree.map(lambda leaf: leaf[network], futures.state)  # noqa: B023
        optimizer = make_optimizer(kind.config)
        found = prognose(kind.apply, params, memory, [x], tx=optimizer, steps=options.ahead)
        one = jax.tree.map(lambda leaf: leaf[network], futures._replace(state=None))  # noqa: B023
        counts += counted(options, found, one)
    return Certified(len(chosen), *map(int, counts))


def counted(options: Options, found: Prognosis, one: Futures) -> np.ndarray:
    """(never, of these broken, at, of these broken, without a verdict) of one network."""
    runs = options.forks + 2 * options.futures
    came = one.forked + one.epochs + one.resampled
    never = one.dead & (found.verdict == Verdict.CERTIFIED_NEVER)
    at = one.dead & (found.verdict == Verdict.CERTIFIED_AT) & (found.step <= options.ahead)
    rest = one.dead & ~never & ~at
    marked = (never, never & (came > 0), at, at & (came < runs), rest)
    return np.array([part.sum() for part in marked])
