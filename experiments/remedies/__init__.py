"""Which remedy keeps ReLU units alive, which one brings dead ones back, and what does it cost?

Claims under test: those of the article on the dying-ReLU problem, that He and Xavier
initialization, leaky ReLU, PReLU, ELU, batch normalization and a low learning rate reduce dead
units; and the popular one that GELU is immune, because its gradient is never 0. The base is a
network in which plain ReLU units die: heavy-ball momentum 0.9 at learning rate 0.3, He
initialization; a milder base has rate 0.1. Every remedy changes one thing (a few change two), and
every one is tried at both base rates and at a low one, 0.03.

Two questions, on the same seeds (same data, minibatches and, where the shapes agree, weights):
*from birth*, no unit is dead by imposition; *the same dead cohort*, a quarter of the second layer
starts at a bias so low that it is dead in all arms, and arms are paired on the units dead at step
0 in both. Dead: no training example makes z > 0, for every activation. Flat: the derivative is
exactly 0 in float32 for all of them ("numerically dead"; the same thing for ReLU, and the only one
that matters for learning). The price: held-out loss and error, steps that take longer, derivatives
that point the wrong way.

Writes one result per arm, summary.json, and remedies_ranking, remedies_ranking_mild and
remedies_activations as .png/.pdf to --out; `--draw` draws again from summary.json.
"""

import functools
import pathlib
from collections.abc import Mapping

import xarray as xr

from experiments.remedies import figure
from experiments.remedies.analysis import Trained, print_summary, summarize
from experiments.remedies.sweep import (
    DEFAULTS,
    PLAIN,
    QUICK,
    Options,
    arm_config,
    arm_names,
    make_grids,
)
from experiments.timing import timings
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps import studies


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> Trained:
    """Results by task and arm, and the time that a step of every arm takes."""
    results: dict[str, dict[str, xr.Dataset]] = {task: {} for task in options.tasks}
    for name, result in studies.sweep_study(grids, out).items():
        task, arm = name.split(" ")
        results[task][arm] = result
    configs = {arm: arm_config(options, options.tasks[0], arm) for arm in arm_names(options)}
    rates = options.low_rate, options.rate
    timed = timings(configs, PLAIN, options.timing_rounds, rates, options.root_seed)
    return Trained(results, timed)


EXPERIMENT = Experiment(
    name="remedies",
    question="which remedy keeps ReLU units alive, revives dead ones, and at what price?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    paper={"seeds": 1000},
    grids=make_grids,
    train=train,
    analyse=summarize,
    report=print_summary,
    figures={
        "remedies_ranking": Figure(
            "What helps against dead units, against plain ReLU on the same seeds, and what it "
            "costs.",
            figure.draw_ranking,
        ),
        "remedies_ranking_mild": Figure(
            "The same where plain ReLU loses fewer units.",
            functools.partial(figure.draw_ranking, place=1),
        ),
        "remedies_activations": Figure(
            "Activations and their derivatives, with the points where a gradient ends or turns.",
            figure.draw_activations,
        ),
    },
)
