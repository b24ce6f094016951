"""Activations: what a unit outputs for its pre-activation z, one row each."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config


@dataclasses.dataclass(frozen=True)
class Activation:
    """What the rest of the project has to know of an activation; a row of `ACTIVATIONS`. Calling
    the row calls its function, with the slopes (or thresholds) of step 0 where they are learned
    and none are given."""

    function: Callable[..., jax.Array]  # of z [batch, units], and of slopes where they are learned
    rectifies: bool = False  # max(z, 0), with derivative 0 at 0: certificates cover it
    homogeneous: bool = False  # f(z) = f'(z) z
    # f(z) = z above 0 and slope_below * z below it, derivative slope_below there; None: another f.
    slope_below: float | None = None
    learned_slope: float | None = None  # at step 0, where each unit learns its slope below 0
    # Likewise of a learned threshold, > 0: z is then what is above it, and the function gets both.
    learned_threshold: float | None = None
    outputs: int = 1  # per unit; [batch, outputs * units], the first output of all units first
    selects: bool = False  # of (z, k): which units have an output, k per example on average
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name

    def __call__(
        self, z: jax.Array, slopes: jax.Array | None = None, k: int | None = None
    ) -> jax.Array:
        if self.selects:
            return self.function(z, max(z.shape[-1] // 2, 1) if k is None else k)
        if self.learned is None:
            return self.function(z)
        return self.function(z, self.learned if slopes is None else slopes)

    @property
    def learned(self) -> float | None:
        """What each unit learns of its activation, at step 0; None where it learns nothing."""
        return self.learned_slope if self.learned_threshold is None else self.learned_threshold

    @property
    def elementwise(self) -> bool:
        """Whether a unit has one output, a function of its z alone."""
        return self.outputs == 1 and self.learned is None and not self.selects


def _largest(z: jax.Array, k: int) -> jax.Array:
    """The k largest z of every example as they are, ties to the first, and 0 for the others."""
    chosen = jax.nn.one_hot(jax.lax.top_k(z, k)[1], z.shape[-1], dtype=bool).any(-2)
    return jnp.where(chosen, z, 0)


def _largest_of_batch(z: jax.Array, k: int) -> jax.Array:
    """The k * batch largest z of all examples together as they are, and 0 for the others. What ties
    with the last of them stays too."""
    count = k * z.shape[0]
    least = jax.lax.top_k(jax.lax.stop_gradient(z).reshape(-1), count)[0][-1]
    return jnp.where(z >= least, z, 0)


JUMP_WINDOW = 0.1  # of z, within which a threshold learns


def threshold_window(z: jax.Array) -> jax.Array:
    """The rectangle of height 1 / JUMP_WINDOW about z = 0, as wide as JUMP_WINDOW: the kernel with
    which a threshold's straight-through gradient is estimated (arXiv 2407.14435, section 3)."""
    return jnp.where(jnp.abs(z) < JUMP_WINDOW / 2, 1 / JUMP_WINDOW, 0.0)


@jax.custom_jvp
def _jump(z: jax.Array, threshold: jax.Array) -> jax.Array:
    """z + threshold where z > 0, else 0: what came in, where it exceeds the threshold."""
    return jnp.where(z > 0, z + threshold, 0)


@_jump.defjvp
def _jump_jvp(primals, tangents):
    # By z exactly the derivative. By the threshold, z held: with z = x - threshold the derivatives
    # then sum to -threshold * window(z) along the threshold, the published estimator.
    z, threshold = primals
    above = (z > 0).astype(z.dtype)
    slope = above - threshold * threshold_window(z)
    return _jump(z, threshold), above * tangents[0] + slope * tangents[1]


ACTIVATIONS: dict[str, Activation] = {
    # jax.nn.relu has derivative 0 at 0; maximum(x, 0) would have 0.5 and revive units at z = 0.
    "relu": Activation(
        jax.nn.relu, rectifies=True, homogeneous=True, slope_below=0.0, aliases=("rectifier",)
    ),
    "leaky_relu": Activation(
        jax.nn.leaky_relu, homogeneous=True, slope_below=0.01, aliases=("lrelu",)
    ),
    "prelu": Activation(
        lambda z, slope: jnp.where(z > 0, z, slope * z),
        learned_slope=0.25,  # He et al. 2015, arXiv 1502.01852
        aliases=("parametric relu",),
    ),
    # Both signs of z as two outputs (Shang et al. 2016, arXiv 1603.05201): twice the fan-in above.
    "crelu": Activation(
        lambda z: jnp.concatenate([jax.nn.relu(z), jax.nn.relu(-z)], axis=-1),
        outputs=2,
        aliases=("concatenated relu",),
    ),
    # Derivative 0 at both ends too, as JAX has it.
    "relu6": Activation(jax.nn.relu6, aliases=("clipped relu",)),
    "hard_tanh": Activation(jax.nn.hard_tanh),
    # So et al. 2021, arXiv 2109.08668.
    "squared_relu": Activation(lambda z: jax.nn.relu(z) ** 2, aliases=("relu squared", "relu2")),
    "top_k": Activation(_largest, selects=True),  # Gao et al. 2024, arXiv 2406.04093
    # Bussmann et al. 2024, arXiv 2412.06410: always of the examples at hand, the probe set too.
    "batch_top_k": Activation(_largest_of_batch, selects=True),
    # Rajamanoharan et al. 2024, arXiv 2407.14435.
    "jump_relu": Activation(_jump, learned_threshold=0.1),
    "elu": Activation(jax.nn.elu),
    "selu": Activation(jax.nn.selu),
    "gelu": Activation(lambda x: jax.nn.gelu(x, approximate=False)),
    "silu": Activation(jax.nn.silu, aliases=("swish",)),
    "softplus": Activation(jax.nn.softplus),
    "tanh": Activation(jnp.tanh, aliases=("hyperbolic tangent",)),
    "identity": Activation(lambda x: x, homogeneous=True, aliases=("linear", "none")),
}


def activation_of(config: Config) -> Activation:
    """The row of `ACTIVATIONS` that the config names."""
    return ACTIVATIONS[config.activation]
