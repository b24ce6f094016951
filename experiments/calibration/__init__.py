"""Are forecasts of dead units right? Forecast P(recover) against what then happened.

Claims under test: that P(recover) from replayed forks of the user's own step is calibrated, and
better than what is known without it, the base rate of other networks of the same kind.

Networks of seven kinds (MLPs, convolutions, LayerNorm, an autoencoder, residual blocks; SGD,
momentum, Nesterov, Adam) are trained until some hidden units are dead, max z <= 0 over all training
examples. Each is forecast from forks, and then trained on, several times, in epochs of a new order.
Of every kind some networks only give the base rate, the others are held out.

Of some held-out networks the verdicts by theorem (NEVER, AT step) are also tried on all forks and
futures. In networks of three further
kinds, whose biases decay, the step that a theorem names is held against futures that are looked at
after every step.

Writes summary.json, KIND.npz (counts of every unit, and the trained networks) and
calibration.png/.pdf to --out; `--draw` draws again from summary.json. A stop loses one kind.
"""

import pathlib
from collections.abc import Mapping

from experiments.calibration.analysis import Trained, report, summarize
from experiments.calibration.certified import certify
from experiments.calibration.figure import draw_calibration
from experiments.calibration.kinds import KINDS, RETURNING
from experiments.calibration.returning import hold_against_futures
from experiments.calibration.simulation import simulate
from experiments.calibration.sweep import (
    DEFAULTS,
    QUICK,
    Options,
    decides,
    make_grids,
    returning_grids,
)
from relu_dynamics.experiment import Experiment, Figure, compiling
from relu_dynamics.grid import Grid


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> Trained:
    """The futures of every kind, each stored in a file of its own, and the verdicts."""
    futures, certified = {}, {}
    for number, (name, grid) in enumerate(grids.items(), start=1):
        print(f"{number}/{len(grids)} {KINDS[name].words}: {grid.runs} networks", flush=True)
        with compiling(fast=True):  # compiling takes longer than running
            futures[name] = simulate(KINDS[name], grid, options, out / f"{name}.npz")
            certified[name] = certify(KINDS[name], grid, options, futures[name])
    returned = {}
    for name, grid in returning_grids(options).items():
        print(f"{RETURNING[name].words}: {grid.runs} networks", flush=True)
        with compiling(fast=True):
            returned[name] = hold_against_futures(
                RETURNING[name], grid, options, out / f"{name}.npz"
            )
    return Trained(futures, certified, returned)


EXPERIMENT = Experiment(
    name="calibration",
    question="is a forecast P(recover) of a dead unit what then happens?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    paper={"networks": 100, "base": 50, "forks": 128},
    grids=make_grids,
    also_decides=decides,
    train=train,
    analyse=summarize,
    report=report,
    figures={
        "calibration": Figure(
            "Forecasts of dead units against what then happened, in networks that they had not "
            "seen.",
            draw_calibration,
        )
    },
)
