"""Intervals, cumulative incidence and paired comparisons for counts of dead units that recovered.

A cell of a grid holds ``runs`` (one per seed) and every run holds ``units``, of which some are at
risk (dead at step 0). Two facts decide which interval is honest:

- units of one run share data, weights and noise, so the independent things in a cell are its runs:
  `clustered_interval`;
- cells share seeds (common random numbers), so the independent things in a pool of cells are the
  seeds: `seed_clustered_mean`, and for two arms `paired_difference`.

Axes: leading axes are cells, in any number; the last axis is what the function pools (``clusters``,
``seeds``, ``units``). Counts are kept as integers, everything else is float64. Bad input
is a `ValueError` that names it.
"""

from relu_dynamics.statistics.clustered import clustered_interval as clustered_interval
from relu_dynamics.statistics.clustered import seed_clustered_mean as seed_clustered_mean
from relu_dynamics.statistics.incidence import CumulativeIncidence as CumulativeIncidence
from relu_dynamics.statistics.incidence import cumulative_incidence as cumulative_incidence
from relu_dynamics.statistics.intervals import Interval as Interval
from relu_dynamics.statistics.intervals import exact_interval as exact_interval
from relu_dynamics.statistics.pairs import Discoveries as Discoveries
from relu_dynamics.statistics.pairs import false_discovery_rate as false_discovery_rate
from relu_dynamics.statistics.pairs import finite_pairs as finite_pairs
from relu_dynamics.statistics.pairs import paired_difference as paired_difference
from relu_dynamics.statistics.pairs import paired_mean as paired_mean
from relu_dynamics.statistics.pairs import paired_p_value as paired_p_value
from relu_dynamics.statistics.stopping import confidence_sequence as confidence_sequence
