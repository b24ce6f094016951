"""Evaluations: the statistics of z on the probe set, and what rounding leaves of the margins."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from relu_dynamics.config import Config
from relu_dynamics.engine import columns, models, probes
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.columns import evaluate_columns
from relu_dynamics.engine.models import PRECISION
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.outcomes import DEFINITIONS
from relu_dynamics.engine.probes import MarginBounds, SlopeStatistics, UnitStatistics


def evaluate(
    config: Config, params: models.Params, inputs: jax.Array, apply: Callable = models.apply
) -> tuple:
    """(UnitStatistics, MarginBounds), [units] each, of the pre-activations on `inputs`."""
    return probe_statistics(config, params, inputs, apply)[:2]


def evaluate_judged(
    config: Config, params: models.Params, inputs: jax.Array, apply: Callable = models.apply
) -> tuple[UnitStatistics, MarginBounds]:
    """`evaluate` with the margins that the config's `definition` judges, and their bounds."""
    return judged(config, *probe_statistics(config, params, inputs, apply))


def judged(
    config: Config, statistics: UnitStatistics, bounds: MarginBounds, slopes: SlopeStatistics
) -> tuple[UnitStatistics, MarginBounds]:
    """The statistics with the margins that the config's `definition` judges, and their bounds:
    those of z, or the largest sizes of the derivative, which rounding does not blur."""
    if not DEFINITIONS[config.definition].of_slopes:
        return statistics, bounds
    return statistics._replace(margin=slopes.largest), MarginBounds(slopes.largest, slopes.largest)


def probe_statistics(config, params, inputs, apply) -> Any:
    """`statistics_of` the network on inputs, in the form that is fast under `jax.vmap`."""

    def plain(params, inputs):
        with jax.default_matmul_precision(PRECISION):
            return statistics_of(config, params, apply(config, params, inputs))

    one_unit = apply is models.apply and columns.is_one_unit(config)
    return (evaluate_columns(config, plain, statistics_of) if one_unit else plain)(params, inputs)


def statistics_of(config, params, forward):
    """(statistics, `MarginBounds`, `SlopeStatistics`) of a forward pass."""
    statistics = probes.unit_statistics(forward.preactivations)
    bounds = []
    for layer, (z, seen) in enumerate(
        zip(forward.preactivations, forward.inputs, strict=True), start=1
    ):
        shift = models.shift(config, params, layer)
        if activation_of(config).learned_threshold is not None:  # rounds as another term of the sum
            threshold: Any = models.learned(config, params, layer)
            shift = jnp.abs(shift) + threshold[0]
        if not normalization_of(config).present:
            weights = params[models.layer_name(layer)]["kernel"]
            bounds.append(probes.margin_bounds(weights, shift, seen, z))
        else:
            bounds.append(probes.normalized_margin_bounds(shift, z, seen.shape[1]))
    slope = _slope_statistics(config, params, forward, statistics)
    margins = MarginBounds(*(jnp.concatenate(parts) for parts in zip(*bounds, strict=True)))
    return statistics, margins, slope


def _slope_statistics(config, params, forward, statistics) -> SlopeStatistics:
    """`probes.slope_statistics` of a forward pass."""
    if activation_of(config).rectifies:  # known from what is there: no second pass over z
        return probes.rectified_slopes(statistics.margin)
    z = forward.preactivations
    layers = enumerate(z, start=1)
    return probes.slope_statistics(
        tuple(models.slopes(config, params, layer, values) for layer, values in layers),
        statistics.margin,
    )
