"""Your own model: which units of any JAX program are dead, since when and why."""

from relu_dynamics.inspection.report import Diagnosis as Diagnosis
from relu_dynamics.inspection.report import diagnose as diagnose
from relu_dynamics.inspection.seen import Seen as Seen
from relu_dynamics.inspection.seen import empty as empty
from relu_dynamics.inspection.seen import merge as merge
from relu_dynamics.inspection.sites import Site as Site
from relu_dynamics.inspection.treatment import Treated as Treated
from relu_dynamics.inspection.treatment import treat as treat
from relu_dynamics.inspection.watch import Probe as Probe
from relu_dynamics.inspection.watch import find as find
from relu_dynamics.inspection.watch import look as look
from relu_dynamics.inspection.watch import preactivations as preactivations
from relu_dynamics.inspection.watch import site as site
from relu_dynamics.inspection.watch import watch as watch
