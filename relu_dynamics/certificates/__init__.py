"""Certificates: when P(recover) is exactly 0 or 1 for a unit, and the theorem that says so.

    certify(config, task, state, horizon=1000) -> Certificates

A dead unit has no gradient, so it can move only through a channel. For every unit of a network in
a training state, an ordered table of theorems (`THEOREMS`) is asked; the first that decides gives
the verdict. To add a theorem, write one function and add one row.

*Dead* and *recover* are those of `engine.outcomes`. Gradients come from the training set,
so "dead" here is dead on every training example (and on the probe set, should it hold others).
What is certified is the float32 program as it runs (matrix products at `models.PRECISION`), not
the real numbers it stands for. All bounds are therefore computed in float64 and widened by the
rounding of that program: of the forward pass, in any order of summation (u per operation,
u = 2^-24), through all layers; and, where parameters move, of every update, accumulated over the
steps they move (`slack`). A unit closer to 0 than the slack is POSSIBLE. "Never" is a claim on the
first `horizon` steps from the state; where no parameter moves, any horizon costs the same.

Axes: `units` of all hidden layers in order; `rows` the training examples (and foreign probes).
"""

from relu_dynamics.certificates.case import DUST as DUST
from relu_dynamics.certificates.case import Verdict as Verdict
from relu_dynamics.certificates.certify import COVERED as COVERED
from relu_dynamics.certificates.certify import Certificates as Certificates
from relu_dynamics.certificates.certify import certify as certify
from relu_dynamics.certificates.certify import power as power
from relu_dynamics.certificates.domains import DomainBound as DomainBound
from relu_dynamics.certificates.domains import dead_on_ball as dead_on_ball
from relu_dynamics.certificates.domains import dead_on_box as dead_on_box
from relu_dynamics.certificates.theorems import THEOREM_NAMES as THEOREM_NAMES
from relu_dynamics.certificates.theorems import THEOREMS as THEOREMS
