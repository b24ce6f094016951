"""Normalizations: what stands between the affine map and the activation, one row each.

The formulas take NumPy and JAX arrays alike: models train with them, accounts take them apart, and
certificates bound them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from relu_dynamics.config import Config

GROUP_SIZE = 4  # units per group in "group" normalization

NORM_EPSILON = 1e-6  # added to every variance

Statistics = Callable[[Any], tuple[Any, Any]]  # of z [batch, units]; both broadcast to its shape


def batch_statistics(z: Any) -> tuple[Any, Any]:
    """(mean, variance) of every unit over the batch at hand, always (training mode). There are no
    running averages: a forward pass stays a pure function of parameters and inputs."""
    return z.mean(0, keepdims=True), z.var(0, keepdims=True)


def layer_statistics(z: Any) -> tuple[Any, Any]:
    """(mean, variance) of every example over the last axis."""
    mean = z.mean(-1, keepdims=True)
    return mean, ((z - mean) ** 2).mean(-1, keepdims=True)


def group_statistics(z: Any) -> tuple[Any, Any]:
    """(mean, variance) of every example over GROUP_SIZE neighbouring units."""
    mean, variance = layer_statistics(z.reshape(len(z), -1, GROUP_SIZE))
    return mean[..., 0].repeat(GROUP_SIZE, axis=-1), variance[..., 0].repeat(GROUP_SIZE, axis=-1)


def square_statistics(z: Any) -> tuple[Any, Any]:
    """(0, mean square) of every example over its units."""
    return 0.0, (z**2).mean(-1, keepdims=True)


class Normalization(NamedTuple):
    """What the rest of the project has to know of a normalization; a row of `NORMALIZATIONS`.

    z becomes (z - mean) / sqrt(variance + NORM_EPSILON) * scale + shift. `scale` and `shift` say
    where these parameters [units] of a hidden layer lie: "NAME" or "GROUP/NAME", with {} for the
    layer's number.
    """

    shift: str
    scale: str | None = None  # None: nothing is normalized, and the shift is the layer's bias
    statistics: Statistics | None = None  # None: z has none
    over_batch: bool = False  # a unit is normalized over the batch, else an example over its units
    group: int | None = None  # units normalized together; None: all of the layer
    centred: bool = True  # the mean is subtracted
    of_weights: bool = False  # the incoming weights have norm 1, rather than z deviation 1
    covered: bool = False  # accounts, forks and certificates were proved for it
    aliases: tuple[str, ...] = ()  # what else it is called, for the hint at an unknown name

    @property
    def present(self) -> bool:
        """Whether anything is normalized."""
        return self.scale is not None


NORMALIZATIONS: dict[str, Normalization] = {
    "none": Normalization("hidden_{}/bias", covered=True, aliases=("identity", "off")),
    "batch": Normalization(
        "shift_norm_{}",
        "scale_norm_{}",
        batch_statistics,
        over_batch=True,
        covered=True,
        aliases=("batch norm", "batch normalization", "bn"),
    ),
    "layer": Normalization(
        "norm_{}/bias",
        "norm_{}/scale",
        layer_statistics,
        covered=True,
        aliases=("layer norm", "layer normalization", "ln"),
    ),
    "rms": Normalization(
        "shift_norm_{}",
        "norm_{}/scale",
        square_statistics,
        centred=False,
        covered=True,
        aliases=("rms norm",),
    ),
    "group": Normalization(
        "norm_{}/bias",
        "norm_{}/scale",
        group_statistics,
        group=GROUP_SIZE,
        covered=True,
        aliases=("group norm", "gn"),
    ),
    # Salimans & Kingma 2016, arXiv 1602.07868.
    "weight": Normalization(
        "shift_norm_{}", "scale_norm_{}", of_weights=True, aliases=("weight norm",)
    ),
}


def normalization_of(config: Config) -> Normalization:
    """The row of `NORMALIZATIONS` that the config names."""
    return NORMALIZATIONS[config.normalization]


def location(path: str, layer: int) -> tuple[str, str]:
    """(group, name) of a row's parameter in hidden layer `layer` (from 1); the group is "" at the
    top level."""
    group, _, name = path.format(layer).rpartition("/")
    return group, name
