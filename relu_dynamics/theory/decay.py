"""Weight decay: when it brings a dead unit back."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import (
    xlog1py,
)

from relu_dynamics.theory._numerics import (
    DUST,
    Real,
    betas,
    checked,
    finite,
    non_negative,
    plain,
    whole,
)


# A recovery is the first step t with max z > tolerance; 0 if that holds at once; inf for never.
def decoupled_decay_recovery_step(
    largest_projection: ArrayLike,
    bias: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery when weights and bias both decay: never (inf), for every rate.

    z shrinks by (1 - learning_rate * weight_decay)^t and keeps its sign. `largest_projection` is
    the largest w.x over the probe. Holds for AdamW and SGD from a zero optimizer state, for coupled
    L2 with plain SGD, and for learning_rate * weight_decay <= 1 (above it z changes sign). Source:
    derived.
    """
    projection = finite("largest_projection", largest_projection)
    start = projection + finite("bias", bias)
    product = _decay_product(learning_rate, weight_decay)
    return plain(_geometric_crossing(start, np.zeros(()), product, tolerance))


def weight_decay_recovery_step(
    largest_projection: ArrayLike,
    bias: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery when only the weights decay: max z = s^t * largest_projection + bias.

    s = 1 - learning_rate * weight_decay, which must lie in [0, 1]. A dead unit recovers exactly if
    its bias is positive. `largest_projection` is the largest w.x over the probe. Source: derived.
    """
    projection, offset = finite("largest_projection", largest_projection), finite("bias", bias)
    product = _decay_product(learning_rate, weight_decay)
    return plain(_geometric_crossing(projection, offset, product, tolerance))


def bias_decay_recovery_step(
    largest_projection: ArrayLike,
    bias: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery when only the bias decays: max z = largest_projection + s^t * bias.

    s = 1 - learning_rate * weight_decay, which must lie in [0, 1]. A dead unit recovers exactly if
    some w.x over the probe is positive. Source: derived.
    """
    projection, offset = finite("largest_projection", largest_projection), finite("bias", bias)
    product = _decay_product(learning_rate, weight_decay)
    return plain(_geometric_crossing(offset, projection, product, tolerance))


def adam_decay_recovery_step(
    weights: ArrayLike,
    bias: ArrayLike,
    probe: ArrayLike,
    learning_rate: ArrayLike,
    weight_decay: ArrayLike,
    steps: int,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    tolerance: float = DUST,
) -> Real:
    """Step of recovery under coupled L2 on weights and bias with Adam, from a zero optimizer state.

    `weights` [..., d], `bias` [...], `probe` [n, d]; rate and decay broadcast against `bias`. Every
    parameter follows Adam on the gradient weight_decay * parameter: w and b reach 0 at different
    times and overshoot, which can lift z. inf means "not within `steps`", which is no proof of
    never: 0 is an unstable point once sqrt(nu) has decayed, so parameters of 1e-30 grow back to the
    learning rate's size after thousands of steps, in float64; in float32 they underflow and stay.
    Hence the tolerance.
    Source: derived; runs the recurrence of `optax.adam` after `optax.add_decayed_weights`.
    """
    w, b, x = finite("weights", weights), finite("bias", bias), finite("probe", probe)
    if w.ndim == 0 or x.ndim != 2 or w.shape[-1] != x.shape[-1]:
        raise ValueError(f"weights must be [..., d] and probe [n, d], got {w.shape} and {x.shape}")
    rate = non_negative("learning_rate", learning_rate)
    decay = non_negative("weight_decay", weight_decay)
    b1, b2 = betas(b1, b2)
    eps, tolerance = float(non_negative("eps", eps)), float(non_negative("tolerance", tolerance))
    horizon = int(whole("steps", steps))

    batch = np.broadcast_shapes(w.shape[:-1], b.shape, rate.shape, decay.shape)
    parts = (np.broadcast_to(w, (*batch, w.shape[-1])), np.broadcast_to(b, batch)[..., None])
    parameters = np.concatenate(parts, axis=-1)  # [..., d + 1]
    design = np.concatenate([x, np.ones((len(x), 1))], axis=-1)  # [n, d + 1]
    mu, nu = np.zeros_like(parameters), np.zeros_like(parameters)
    found = np.where(np.max(parameters @ design.T, axis=-1) > tolerance, 0.0, np.inf)
    for step in range(1, horizon + 1):
        if np.all(np.isfinite(found)):
            break
        gradient = decay[..., None] * parameters
        mu = b1 * mu + (1 - b1) * gradient
        nu = b2 * nu + (1 - b2) * gradient**2
        scale = np.sqrt(nu / (1 - b2**step)) + eps
        direction = mu / (1 - b1**step) / np.where(mu == 0, 1.0, scale)
        parameters = parameters - rate[..., None] * direction
        margin = np.max(parameters @ design.T, axis=-1)
        found = np.where(np.isinf(found) & (margin > tolerance), step, found)
    return plain(found)


def _decay_product(learning_rate: ArrayLike, weight_decay: ArrayLike) -> np.ndarray:
    rate = non_negative("learning_rate", learning_rate)
    product = rate * non_negative("weight_decay", weight_decay)
    rule = "<= 1 (above, decay itself flips the sign)"
    return checked("learning_rate * weight_decay", product, rule, lambda v: v <= 1)


def _geometric_crossing(
    decaying: np.ndarray, constant: np.ndarray, product: np.ndarray, tolerance: float
) -> np.ndarray:
    """First t >= 0 with constant + (1 - product)^t * decaying > tolerance, else inf."""
    tolerance = float(non_negative("tolerance", tolerance))
    decaying, constant, product = np.broadcast_arrays(decaying, constant, product)
    already = decaying + constant > tolerance
    later = ~already & (constant > tolerance) & (product > 0)

    def margin(step: np.ndarray) -> np.ndarray:
        return constant + np.exp(xlog1py(step, -product)) * decaying

    with np.errstate(divide="ignore"):
        size = np.where(later, -decaying, 1.0)
        factor = np.where(later, (constant - tolerance) / size, 1.0)
        log_rate = np.where(later, np.log1p(-product), -1.0)
    step = np.floor(np.log(factor) / log_rate) + 1
    # the quotient may round across a whole number: the value itself decides
    step = np.where((step > 1) & (margin(step - 1) > tolerance), step - 1, step)
    step = np.where(margin(step) <= tolerance, step + 1, step)
    return np.where(already, 0.0, np.where(later, step, np.inf))
