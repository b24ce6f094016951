"""Activations: what a unit outputs for its pre-activation z, one row each."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config


@dataclasses.dataclass(frozen=True)
class Activation:
    """What the rest of the project has to know of an activation; a row of `ACTIVATIONS`. Calling
    the row calls its function, with the slopes of step 0 where they are learned and none are
    given."""

    function: Callable[..., jax.Array]  # of z [batch, units], and of slopes where they are learned
    rectifies: bool = False  # max(z, 0), with derivative 0 at 0: certificates cover it
    homogeneous: bool = False  # f(z) = f'(z) z
    learned_slope: float | None = None  # at step 0, where each unit learns its slope below 0
    outputs: int = 1  # per unit; [batch, outputs * units], the first output of all units first
    selects: bool = False  # of (z, k): which k units of an example have an output, else 0
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name

    def __call__(
        self, z: jax.Array, slopes: jax.Array | None = None, k: int | None = None
    ) -> jax.Array:
        if self.selects:
            return self.function(z, max(z.shape[-1] // 2, 1) if k is None else k)
        if self.learned_slope is None:
            return self.function(z)
        return self.function(z, self.learned_slope if slopes is None else slopes)

    @property
    def elementwise(self) -> bool:
        """Whether a unit has one output, a function of its z alone."""
        return self.outputs == 1 and self.learned_slope is None and not self.selects


def _largest(z: jax.Array, k: int) -> jax.Array:
    """The k largest z of every example as they are, ties to the first, and 0 for the others."""
    chosen = jax.nn.one_hot(jax.lax.top_k(z, k)[1], z.shape[-1], dtype=bool).any(-2)
    return jnp.where(chosen, z, 0)


ACTIVATIONS: dict[str, Activation] = {
    # jax.nn.relu has derivative 0 at 0; maximum(x, 0) would have 0.5 and revive units at z = 0.
    "relu": Activation(jax.nn.relu, rectifies=True, homogeneous=True, aliases=("rectifier",)),
    "leaky_relu": Activation(jax.nn.leaky_relu, homogeneous=True, aliases=("lrelu",)),
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
