"""The experiments: `python -m experiments NAME [options]`, or `all` of them.

Each is a module of its name, or a folder whose files say their job: `sweep` (options and grids),
`analysis` (stored results -> numbers and claims), `figure` (what is stored -> pictures).
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that the command line can first catch signals: the import takes seconds
    from relu_dynamics.experiment import Experiment

REPRODUCTIONS = (
    "born_dead",
    "collapse",
    "target_variance",
    "layers",
    "continual",
    "autoencoder_birth",
    "boundary",
)
NAMES = (
    "recovery_map",
    "numerical_example",
    "channels",
    "causes",
    "consequences",
    "remedies",
    "autoencoders",
    *REPRODUCTIONS,
    "calibration",
    "one_unit",
)  # in the order of the gallery


def find(name: str) -> "Experiment":
    """The experiment of a NAME."""
    place = f"reproductions.{name}" if name in REPRODUCTIONS else name
    return importlib.import_module(f"experiments.{place}").EXPERIMENT
