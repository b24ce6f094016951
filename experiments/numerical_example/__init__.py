"""The article's numerical example: z = 0.1 x - 0.5 on x in [0, 1], dead on every input.

Claim under test: the bias of a dead unit keeps moving without a gradient, so 10,000 steps
bring the unit back at learning rate 1e-2 and not at 1e-4. Every source of movement that this can
mean is run at both rates (and at 1e-1) by the package's own engine, and the step at which the unit
comes back is held against a closed form. Each of the example's six sentences gets a verdict:
holds, fails, or holds under which condition.

The network is v relu(z) + c with v = 1 and c = -1, asked for 0: its error is not 0, so the
unit's gradient is 0 because it is dead and for no other reason.

Writes results.zarr, summary.json and numerical_example.png/.pdf to --out; `--draw` draws again
from the stored result.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import xarray as xr

from experiments.numerical_example.analysis import print_summary, summarize
from experiments.numerical_example.figure import draw_numerical_example
from experiments.numerical_example.simulation import simulate
from experiments.numerical_example.sources import make_cases
from experiments.numerical_example.sweep import DEFAULTS, QUICK, Options, make_grids
from relu_dynamics import store
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.grid import Grid


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> xr.Dataset:
    """Simulates every case and the noisy runs, and stores the result."""
    grid = grids["example"]
    store.check_folder(out, grid)
    cases, noisy, steps = len(make_cases(options)), 2 * grid.runs, grid.config.steps
    print(f"{cases} cases and {noisy:,} noisy runs of {steps:,} steps", flush=True)
    result = simulate(dataclasses.replace(options, config=grid.config))
    result = result.assign_attrs(store.provenance(grid))
    store.open_folder(out, grid)
    result.to_zarr(out / store.RESULT_FOLDER, mode="w", zarr_format=3, consolidated=False)
    return result


EXPERIMENT = Experiment(
    name="numerical_example",
    question="what moves a dead ReLU, z = 0.1 x - 0.5 on [0, 1], and when does it come back",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    implementation="plain",  # every unit is traced
    paper={"seeds": 4096},
    grids=make_grids,
    train=train,
    analyse=summarize,
    report=print_summary,
    stored=store.open_result,
    figures={
        "numerical_example": Figure(
            "The article's own example, z = 0.1x - 0.5: its largest z under every source of "
            "movement, and when the unit comes back, beside closed forms.",
            draw_numerical_example,
        )
    },
)
