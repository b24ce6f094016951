"""relu_dynamics: why did this ReLU unit die, and will it come back?

A `Config` is one run, on a task of this package or on your own data (`tasks.from_arrays`). `train`
trains it: a scan of `train_step`, which returns the next state and a snapshot of every unit's pre-
activation statistics. `sweep` trains a grid of configs, vmapped in fixed blocks, and returns a
labelled result. `estimates` turns it into probabilities with intervals, `figures` into pictures,
`explore` into an interactive page; `theory` holds the closed forms to compare with. `channels` and
`certificates` say why a unit recovered and whether it can.

The rooms, from the ground up: `config`, `checks`, `grid`; `engine` (one run), `theory` (what
mathematics says), `statistics` (what the counts say); `certificates` (what is proved), `channels`
(why it moved), `store` (what is on disk), `figures`; `sweeps` (many runs), `explorer`, `cli`.
"""

from importlib import metadata as _metadata

from relu_dynamics import certificates as certificates
from relu_dynamics import channels as channels
from relu_dynamics import figures as figures
from relu_dynamics import statistics as statistics
from relu_dynamics import theory as theory
from relu_dynamics.config import Config as Config
from relu_dynamics.engine import tasks as tasks
from relu_dynamics.engine.outcomes import Outcome as Outcome
from relu_dynamics.engine.step import Snapshot as Snapshot
from relu_dynamics.engine.step import State as State
from relu_dynamics.engine.step import train_step as train_step
from relu_dynamics.engine.training import Run as Run
from relu_dynamics.engine.training import train as train
from relu_dynamics.explorer import explore as explore
from relu_dynamics.grid import Grid as Grid
from relu_dynamics.grid import make_grid as make_grid
from relu_dynamics.statistics import estimates as estimates
from relu_dynamics.store import open_result as open_result
from relu_dynamics.sweeps.sweep import sweep as sweep

__version__ = _metadata.version("relu-dynamics")
