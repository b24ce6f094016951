"""Initializers: the weights at step 0, one row each."""

from collections.abc import Callable

import flax.linen as nn

INITIALIZERS: dict[str, Callable] = {
    "he_normal": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    "he_uniform": nn.initializers.he_uniform(),
    "xavier_normal": nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "xavier_uniform": nn.initializers.xavier_uniform(),
    "lecun_normal": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
    "orthogonal": nn.initializers.orthogonal(2**0.5),
    # These three also set the biases, see `initialize`.
    "randomized_asymmetric": nn.initializers.zeros,
    "data_dependent": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    # U(-1, 1) / sqrt(fan_in) for weights and biases, the default of PyTorch's linear layers.
    "torch_default": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "too_small": nn.initializers.variance_scaling(0.02, "fan_in", "normal"),
    "too_large": nn.initializers.variance_scaling(200.0, "fan_in", "normal"),
}
