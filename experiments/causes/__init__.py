"""What kills ReLU units? Weight initialization, a negative bias, the learning rate with momentum,
and the scaling of the inputs, each as a dose-response curve.

Claims under test: those of the article on the dying-ReLU problem, that a poor initialization, a
large negative bias, a high learning rate and badly scaled inputs kill units; and that of Arnekvist
et al. (arXiv 2005.06195), that momentum does. Every cause moves one knob away from the same
reference network (He initialization, no bias, learning rate 0.1, no momentum, standardized
inputs), on two real data sets and a synthetic one, at three learning rates. No unit is dead by
imposition but in the bias arm. Dead: no training example makes z > 0. A run that diverged has no
dead unit; how many diverged stands beside.

Momentum 0 is plain SGD, and scale 1 leaves the weights alone, so four dose axes share a
compiled program. "Too small" and "too large" of the initializers are scales 0.1 and 10 of He's, and
LeCun's is scale sqrt(1/2) (both exactly, tested).

Writes one result per arm, summary.json, and causes, causes_layers, causes_effects and causes_map as
.png/.pdf to --out; `--draw` redraws from summary.json.
"""

import pathlib
from collections.abc import Mapping

import xarray as xr

from experiments.causes import figure
from experiments.causes.analysis import print_summary, strengths, strongest_two, summarize
from experiments.causes.sweep import DEFAULTS, QUICK, REFERENCE, Options, make_grids, map_grid
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps import studies


def train(
    options: Options, grids: Mapping[str, Grid], out: pathlib.Path
) -> dict[str, dict[str, xr.Dataset]]:
    """Results by task and arm; then those of the arm "map", of the two causes that are strongest in
    the others."""
    found = studies.sweep_study(grids, out)
    results: dict[str, dict[str, xr.Dataset]] = {task: {} for task in options.tasks}
    for name, result in found.items():
        task, arm = name.split(" ")
        results[task][arm] = result
    pair = strongest_two(strengths(results, options))
    # In a folder that says which two: others may be strongest with other options.
    maps = {f"{task} map {' '.join(pair)}": map_grid(options, task, pair) for task in options.tasks}
    for task, result in zip(options.tasks, studies.sweep_study(maps, out).values(), strict=True):
        results[task]["map"] = result
    return results


EXPERIMENT = Experiment(
    name="causes",
    question="what kills ReLU units, and how strongly?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    paper={"seeds": 1000},
    grids=make_grids,
    also_decides=lambda options: (list(REFERENCE.items()),),
    train=train,
    analyse=summarize,
    report=print_summary,
    figures={
        "causes": Figure(
            "The dead share, born dead and at the end, over the dose of every cause.",
            figure.draw_dose_response,
        ),
        "causes_effects": Figure(
            "Every cause at three learning rates, against the same seeds without it.",
            figure.draw_effects,
        ),
        "causes_layers": Figure(
            "The dead share of every layer over the dose of every cause.",
            figure.draw_layers,
        ),
        "causes_map": Figure("The two strongest causes together.", figure.draw_pairwise_map),
    },
)
