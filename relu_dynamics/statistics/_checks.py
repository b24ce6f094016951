"""Checks of counts and levels that all estimates share."""

from __future__ import annotations

import numpy as np


def checked_level(level):
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must be between 0 and 1, 0.95 for 95 %")
    return float(level)


def whole(numbers, name):
    """The numbers as int64, if each is a whole number that its type has held exactly."""
    numbers = np.asarray(numbers)
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {numbers.dtype}: must be whole numbers")
    if numbers.dtype.kind == "f":
        # Beyond this the type skips whole numbers: counts may have been lost already.
        largest = 2 / np.finfo(numbers.dtype).eps
        bad = ~((numbers == np.floor(numbers)) & (np.abs(numbers) <= largest))
        if bad.any():
            raise ValueError(
                f"{name} holds {numbers[bad].flat[0]}: must be whole numbers "
                f"(of size at most {largest:.0f} in {numbers.dtype}); keep counts as integers"
            )
    return numbers.astype(np.int64)


def counts(successes, trials, successes_name="successes", trials_name="trials"):
    successes, trials = whole(successes, successes_name), whole(trials, trials_name)
    if trials.ndim == 0:
        trials = np.broadcast_to(trials, successes.shape)
    if successes.shape != trials.shape:
        raise ValueError(
            f"{successes_name} has shape {successes.shape} and {trials_name} {trials.shape}: "
            f"must be equal, or {trials_name} one number"
        )
    if np.any(successes < 0):
        raise ValueError(f"{successes_name} holds {successes.min()}: counts must not be negative")
    if np.any(successes > trials):
        where = np.unravel_index(np.argmax(successes > trials), successes.shape)
        raise ValueError(
            f"{successes_name} holds {successes[where]} of {trials[where]} {trials_name}: "
            f"must not be more than {trials_name}"
        )
    return successes, trials


def cluster_counts(successes, trials, successes_name="successes", trials_name="trials"):
    successes, trials = counts(successes, trials, successes_name, trials_name)
    if successes.ndim == 0 or successes.shape[-1] == 0:
        raise ValueError(
            f"{successes_name} has shape {successes.shape}: must have a last axis of clusters"
        )
    if trials.sum(-1).max(initial=0) >= 2**31:
        raise ValueError(
            f"{trials_name} add up to {trials.sum(-1).max()}: "
            "must stay below 2**31 for exact arithmetic"
        )
    return successes, trials


def checked_axis(axis, dimensions, name):
    if not -dimensions <= axis < dimensions:
        raise ValueError(f"{name}={axis!r} must be an axis of values, which has {dimensions}")
    return int(axis) % dimensions
