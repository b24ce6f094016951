"""Closed forms for the birth, death and recovery of ReLU units.

Each function returns a number that a measurement can be held against, and names its source: a
paper, or "derived", which means derived for this package and compared in the tests with Monte
Carlo, quadrature, an exact recurrence or a real optax run.

Everything is NumPy in float64. Scalars in, a float out; arrays in, an array out, with broadcasting.
Unless a docstring says otherwise, inputs x are standard normal, x ~ N(0, I), a unit's
pre-activation is z = w.x + b, and "dead" means max z <= 0 over the examples in question. Steps are
returned as floats, because "never" is `inf`. A value outside its domain (NaN included) raises a
ValueError that names it.

Letters used in shapes: `...` batch, `d` input dimension, `n` probe examples.
"""

from relu_dynamics.theory.activations import absorbing_shift as absorbing_shift
from relu_dynamics.theory.activations import elu_surfacing_time as elu_surfacing_time
from relu_dynamics.theory.activations import gelu_stationary_point as gelu_stationary_point
from relu_dynamics.theory.activations import silu_stationary_point as silu_stationary_point
from relu_dynamics.theory.autoencoders import autoencoder_dead_at_birth as autoencoder_dead_at_birth
from relu_dynamics.theory.autoencoders import (
    autoencoder_dead_at_birth_finite as autoencoder_dead_at_birth_finite,
)
from relu_dynamics.theory.decay import adam_decay_recovery_step as adam_decay_recovery_step
from relu_dynamics.theory.decay import bias_decay_recovery_step as bias_decay_recovery_step
from relu_dynamics.theory.decay import (
    decoupled_decay_recovery_step as decoupled_decay_recovery_step,
)
from relu_dynamics.theory.decay import weight_decay_recovery_step as weight_decay_recovery_step
from relu_dynamics.theory.depth import born_dead_network_bounds as born_dead_network_bounds
from relu_dynamics.theory.depth import (
    born_dead_network_probability as born_dead_network_probability,
)
from relu_dynamics.theory.depth import born_dead_unit_probability as born_dead_unit_probability
from relu_dynamics.theory.depth import (
    born_dead_unit_probability_box as born_dead_unit_probability_box,
)
from relu_dynamics.theory.depth import (
    born_dead_unit_probability_orthant as born_dead_unit_probability_orthant,
)
from relu_dynamics.theory.depth import (
    born_dead_unit_probability_unit_box as born_dead_unit_probability_unit_box,
)
from relu_dynamics.theory.drift import drift_crossing_step as drift_crossing_step
from relu_dynamics.theory.drift import first_passage_probability as first_passage_probability
from relu_dynamics.theory.residue import adam_residue as adam_residue
from relu_dynamics.theory.residue import adam_residue_bound as adam_residue_bound
from relu_dynamics.theory.residue import heavy_ball_residue as heavy_ball_residue
from relu_dynamics.theory.residue import nesterov_residue as nesterov_residue
from relu_dynamics.theory.unit import active_probability as active_probability
from relu_dynamics.theory.unit import first_firing_probability as first_firing_probability
