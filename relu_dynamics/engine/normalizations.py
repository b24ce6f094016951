"""Normalizations: what stands between the affine map and the activation, one row each."""

GROUP_SIZE = 4  # units a group in "group" normalization

NORM_EPSILON = 1e-6
