"""What dead units cost: loss, time to a threshold and capacity against the dead fraction, caused.

Claims under test, of the article on the dying-ReLU problem: dead units reduce a network's capacity,
slow its convergence, and above 40 % the problem is severe. Here the dead fraction is not observed
but set: of both hidden layers of a network on digits an exact share of the units, 0 to 90 %, chosen
at random, is killed at step 0 or at half of the run (incoming weights 0, bias -1). The same network
with as many units fewer, freshly initialized, says whether a dead unit is a missing one. All at
several widths, because 40 % of many units may be nothing and 40 % of few all. Capacity: how well
random labels are memorized, where no regularity helps.

Writes one result per arm, summary.json and consequences.png/.pdf to --out; `--draw` draws again
from summary.json.
"""

import pathlib
from collections.abc import Mapping

from experiments.consequences import missing
from experiments.consequences.analysis import Results, print_summary, summarize
from experiments.consequences.figure import draw_consequences
from experiments.consequences.sweep import (
    DEFAULTS,
    QUICK,
    Options,
    also_decides,
    make_grids,
    new_grids,
)
from relu_dynamics.experiment import Experiment, Figure, compiling
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps import studies


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> Results:
    """Networks with killed units, new and smaller ones, and one with its killed units cut out."""
    new = new_grids(options)
    killed = {name: grid for name, grid in grids.items() if name not in new}
    with compiling(options.fast_compile):
        return Results(
            studies.sweep_study(killed, out),
            missing.train_new(new, out),
            missing.widest_difference(options),
        )


EXPERIMENT = Experiment(
    name="consequences",
    question="what do dead units cost, when their share is caused and not only observed?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    paper={"seeds": 1000},
    grids=make_grids,
    also_decides=also_decides,
    train=train,
    analyse=summarize,
    report=print_summary,
    figures={
        "consequences": Figure(
            "What dead units cost when they are killed on purpose: loss, time to a threshold and "
            "memorized labels against the dead share.",
            draw_consequences,
        )
    },
)
