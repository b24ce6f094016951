"""relu_dynamics: why did this ReLU unit die, and will it come back?

A `Config` is one run. `train` trains it: a scan of `train_step`, which returns the next state and
a snapshot of every unit's pre-activation statistics. `sweep` trains a grid of configs, vmapped in
fixed blocks, and returns a labelled result. `estimates` turns it into probabilities with
intervals, `figures` into pictures, `explore` into a page to click; `theory` holds the closed forms
to compare with. `channels` and `certificates` say why a unit recovered and whether it can.
"""

import typing as _typing
from importlib import metadata as _metadata

from relu_dynamics import certificates as certificates
from relu_dynamics import channels as channels
from relu_dynamics import estimates as estimates
from relu_dynamics import figures as figures
from relu_dynamics import statistics as statistics
from relu_dynamics import theory as theory
from relu_dynamics.axes import Grid as Grid
from relu_dynamics.axes import make_grid as make_grid
from relu_dynamics.config import Config as Config
from relu_dynamics.grids import sweep as sweep
from relu_dynamics.outcomes import Outcome as Outcome
from relu_dynamics.store import open_result as open_result
from relu_dynamics.training import Run as Run
from relu_dynamics.training import Snapshot as Snapshot
from relu_dynamics.training import State as State
from relu_dynamics.training import train as train
from relu_dynamics.training import train_step as train_step

if _typing.TYPE_CHECKING:
    from relu_dynamics.explorer import explore as explore

__version__ = _metadata.version("relu-dynamics")


def __getattr__(name: str):
    if name == "explore":  # when asked for: `python -m relu_dynamics.explorer` must find it fresh
        from relu_dynamics.explorer import explore

        return explore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
