"""Looks: the evaluations on the probe set, by the kernel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.config import Config
from relu_dynamics.engine import models, probes
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.columns import is_one_unit
from relu_dynamics.engine.native.glue import lane_by_lane, registered
from relu_dynamics.engine.probes import MarginBounds, UnitStatistics


def looks_by_kernel(config: Config) -> bool:
    """Whether the kernel evaluates the config's networks too: those of ReLU units, for the slopes
    then follow from the margins; networks of one unit are one fast matrix product in JAX."""
    return activation_of(config).rectifies and not is_one_unit(config)


def look(config: Config, params: models.Params, inputs: jax.Array, plain: Callable) -> tuple:
    """What `plain(params, inputs)` gives, `evaluation.probe_statistics` of the network, by the
    kernel; under `jax.vmap` over the parameters one call for all lanes."""

    def alone(params, inputs):
        found = all_lanes(jax.tree.map(lambda leaf: leaf[None], params), inputs)
        return jax.tree.map(lambda leaf: leaf[0], found)

    def all_lanes(params, inputs):
        groups = [params[models.layer_name(i + 1)] for i in range(len(config.hidden))]
        leaves = [g[kind] for g in groups for kind in ("kernel", "bias") if kind in g]
        shape = jax.ShapeDtypeStruct((leaves[0].shape[0], config.units), jnp.float32)
        call = jax.ffi.ffi_call(registered("look"), [shape] * 7, vmap_method="sequential")
        *statistics, lower, upper = call(
            inputs,
            *leaves,
            dims=np.array([inputs.shape[1], *config.hidden], np.int64),
            biases=np.array(["bias" in group for group in groups], np.int64),
        )
        seen = UnitStatistics(*statistics)
        return seen, MarginBounds(lower, upper), probes.rectified_slopes(seen.margin)

    form = jax.custom_batching.custom_vmap(alone)

    @form.def_vmap
    def rule(lanes, batched, params, inputs):
        if batched[1] or not all(jax.tree.leaves(batched[0])):
            return lane_by_lane(plain, lanes, batched, params, inputs)
        result = all_lanes(params, inputs)
        return result, jax.tree.map(lambda _: True, result)

    return form(params, inputs)
