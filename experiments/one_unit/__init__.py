"""The life of one unit: how it dies, what moves it while it is dead, how it comes back; on digits.

One case, chosen by a rule and not by hand: of seeds 0 to `seeds` - 1 and all units of the second
hidden layer, the unit that was dead at some evaluation, recovered for good (its first recovery was
the last event of its life, at least `config.sustain` steps before the horizon) and climbed most,
from its deepest margin to its recovery. The configuration was chosen so that units die by
themselves (no initial bias), come back, and every channel but normalization is open. What is
frequent is counted in summary.json over all those units; the figures show the one.

A second, small network (4-4-3-1, teacher-student, because no real data set here has so few inputs)
shows where gradient flows and where a dead unit stops it: the first seed after whose training
exactly one hidden unit is dead, one of the last hidden layer that was alive at step 0.

Writes results.zarr, summary.json, one_unit_life, one_unit_ridges, one_unit_account and
one_unit_network (.png/.pdf) and one_unit_layer.gif to --out; `--draw` draws again from the stored
result. Half of the time is the animation; `--quick` has fewer frames.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import xarray as xr

from experiments.one_unit import figure
from experiments.one_unit.analysis import print_summary, summarize
from experiments.one_unit.layer_figure import save_animation
from experiments.one_unit.simulation import simulate
from experiments.one_unit.sweep import DEFAULTS, QUICK, Options, make_grids
from relu_dynamics import store
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.grid import Grid


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> xr.Dataset:
    """Trains every seed and the small network, and stores what the figures show."""
    grid = grids["unit"]
    store.check_folder(out, grid)
    valid = dataclasses.replace(options, config=grid.config, network=grids["network"].config)
    result = simulate(valid).assign_attrs(store.provenance(grid))
    store.open_folder(out, grid)
    result.to_zarr(out / store.RESULT_FOLDER, mode="w", zarr_format=3, consolidated=False)
    return result


EXPERIMENT = Experiment(
    name="one_unit",
    question="how one unit dies and what brings it back",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    implementation="plain",  # every unit is traced
    grids=make_grids,
    train=train,
    analyse=summarize,
    report=print_summary,
    stored=lambda out: store.open_result(out).load(),
    figures={
        "one_unit_life": Figure(
            "One unit dies, sinks, climbs and comes back.", figure.draw_the_life
        ),
        "one_unit_ridges": Figure(
            "Its pre-activations over all examples meanwhile.", figure.draw_its_ridges
        ),
        "one_unit_account": Figure("What moved it, to the last digit.", figure.draw_its_account),
        "one_unit_network": Figure(
            "Where gradient flows, and where a dead unit stops it.", figure.draw_the_network
        ),
        "one_unit_layer": Figure(
            "A whole layer in motion.", figure.draw_the_layer, save=save_animation
        ),
    },
)
