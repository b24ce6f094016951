"""Utility: what each unit contributes, as continual backpropagation has it (Dohare et al. 2024,
Nature 632:768).

The record is pure and lives in the train step:

    record = utility.start(probe)
    record = utility.update(record, probe, params, seen)
    units = definitions.lowest_utility(Facts(probe, seen, usefulness=record))
    record = utility.replaced(record, probe, units)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relu_dynamics.inspection.reading.seen import Seen
from relu_dynamics.inspection.reading.surgery import check_units, per_unit
from relu_dynamics.inspection.reading.watch import Probe


class Usefulness(NamedTuple):
    """Running record of all units. A pytree of arrays."""

    utility: jax.Array  # [units], running average, corrected for its age
    age: jax.Array  # int32 [units], looks since the unit was new
    due: jax.Array  # float32 [sites], how many units are to be replaced, fractions kept


def start(probe: Probe) -> Usefulness:
    """The record of a new network. Raises a ValueError that names a site whose outgoing weights
    are not known: its units would all count as useless."""
    for site in probe.sites:
        if not site.outgoing:
            raise ValueError(
                f"site {site.name!r} has no outgoing weights that are known, so its units have no "
                "utility; leave it out by find(..., exclude=[...])."
            )
    return Usefulness(
        jnp.zeros(probe.units), jnp.zeros(probe.units, jnp.int32), jnp.zeros(len(probe.sites))
    )


def update(
    record: Usefulness,
    probe: Probe,
    params: Any,
    seen: Seen,
    *,
    decay: float = 0.99,
    rate: float = 1e-4,
    maturity: int = 100,
    adapt: bool = False,
) -> Usefulness:
    """The record after a step that saw this of its minibatch.

    The contribution of a unit is its mean |activation| times the sum of its |outgoing weights|;
    with `adapt` divided by the sum of its |incoming weights|, since such a unit learns faster. The
    utility is its average with this decay, corrected for the unit's age. Of the units older than
    `maturity` the share `rate` becomes due at every step.
    """
    sizes = jax.tree.map(jnp.abs, params)
    contribution = seen.size * per_unit(sizes, probe, ("outgoing",))
    if adapt:
        incoming = per_unit(sizes, probe, ("kernel",))
        contribution = contribution / jnp.maximum(incoming, jnp.finfo(incoming.dtype).tiny)
    age = record.age + 1
    weight = (1 - decay) / (1 - decay**age)  # 1 at age 1
    mature = [(age[part] > maturity).sum() for part in probe.slices.values()]
    after = Usefulness(
        record.utility + weight * (contribution - record.utility),
        age,
        record.due + rate * jnp.stack(mature),
    )
    looked = (seen.examples > 0).any()
    return jax.tree.map(lambda new, old: jnp.where(looked, new, old), after, record)


def replaced(record: Usefulness, probe: Probe, units: Any) -> Usefulness:
    """The record after these units were replaced: they are new, and fewer are due."""
    units = check_units(probe, units)
    done = jnp.stack([units[part].sum() for part in probe.slices.values()])
    return Usefulness(
        jnp.where(units, 0, record.utility),
        jnp.where(units, 0, record.age),
        jnp.maximum(record.due - done, 0),
    )
