"""Seen: what has been seen of every unit, merged over batches, loops and branches.

`Seen` is a monoid under `merge`, with `empty` as its neutral element: the order of the batches and
where they are cut change no count and no margin, and means by rounding only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.engine.probes import UnitStatistics
from relu_dynamics.inspection.reading.shards import varying_as
from relu_dynamics.inspection.reading.sites import FLAT, Site

MOST = np.iinfo(np.int32).max  # a count stays there


class Seen(NamedTuple):
    """Statistics of every unit over what has been seen; all [units], of all sites in order. An
    example is a place where the unit was computed: of a convolution every position is one."""

    examples: jax.Array  # int32, how many
    active: jax.Array  # int32, of these above the threshold
    sloped: jax.Array  # int32, of these where the activation's derivative is not exactly 0
    invalid: jax.Array  # int32, of these where z was NaN
    margin: jax.Array  # largest z - threshold: dead on what was seen exactly when <= 0
    minimum: jax.Array  # smallest z - threshold
    mean: jax.Array  # of z
    squares: jax.Array  # sum of squared deviations of z from its mean
    size: jax.Array  # mean of |activation|


def _added(a: jax.Array, b: jax.Array) -> jax.Array:
    return a + jnp.minimum(b, MOST - a)


def merge(a: Seen, b: Seen) -> Seen:
    """What has been seen in both (Chan, Golub & LeVeque 1979 for the squares)."""
    examples = _added(a.examples, b.examples)
    ours, theirs, all_of = (x.astype(jnp.float32) for x in (a.examples, b.examples, examples))
    share = theirs / jnp.maximum(all_of, 1)
    shift = jnp.where((ours > 0) & (theirs > 0), b.mean - a.mean, 0)
    return Seen(
        examples=examples,
        active=_added(a.active, b.active),
        sloped=_added(a.sloped, b.sloped),
        invalid=_added(a.invalid, b.invalid),
        margin=jnp.maximum(a.margin, b.margin),
        minimum=jnp.minimum(a.minimum, b.minimum),
        mean=jnp.where(ours > 0, a.mean + shift * share, b.mean),
        squares=a.squares + b.squares + shift**2 * ours * share,
        size=a.size + (b.size - a.size) * share,
    )


def empty(units: int) -> Seen:
    """Nothing seen yet of so many units."""
    none, zero = jnp.zeros(units, jnp.int32), jnp.zeros(units)
    infinite = jnp.full(units, jnp.inf)
    return Seen(none, none, none, none, -infinite, infinite, zero, zero, zero)


def as_statistics(seen: Seen) -> UnitStatistics:
    """As the engine's own statistics, margins above the threshold."""
    count = jnp.maximum(seen.examples, 1).astype(jnp.float32)
    return UnitStatistics(
        active_fraction=seen.active / count,
        margin=seen.margin,
        mean=seen.mean,
        deviation=jnp.sqrt(seen.squares / count),
        minimum=seen.minimum,
    )


def distance_of(site: Site, z: jax.Array, output: jax.Array, threshold: jax.Array | None):
    """(z above its threshold, activation) of a site, both in its factors."""
    if site.kind == "topk":  # selected: z itself; else how far it is from the last selected
        last = output[..., -1:] if output.ndim == z.ndim else output.min()
        distance = jnp.where(z >= last, z, jnp.minimum(z, z - last)).reshape(site.factors)
        return distance, jnp.where(z >= last, z, 0).reshape(site.factors)
    limit = site.threshold if threshold is None else threshold
    if jnp.size(limit) == z.size:
        limit = jnp.reshape(limit, z.shape)
    activation = output if output.size == z.size else jax.nn.relu(z)
    distance = jnp.abs(z) - limit if site.kind == "shrink" else site.side * (z - limit)
    return distance.reshape(site.factors), activation.reshape(site.factors)


class Statistics:
    """Collects `Seen` of every site; memory of the order of the units.

    `where`: bool, of the leading axes of every z: the examples that count (padding does not).
    `when`: bool (traced): whether this call is looked at.
    """

    def __init__(self, where: jax.Array | None = None, when: jax.Array | None = None):
        self.where, self.when = where, when

    def take(self, site: Site, z, output, threshold) -> Seen:
        """What is seen of one site's units. Raises a ValueError where there is no example."""
        if not z.size:
            raise ValueError(f"{site.name!r} got z of shape {z.shape}; give at least one example.")
        z, output, threshold = jax.lax.stop_gradient((z, output, threshold))
        if self.when is None:
            return self._seen(site, z, output, threshold)
        shape = jax.eval_shape(lambda: self._seen(site, z, output, threshold))
        return jax.lax.cond(
            self.when,
            lambda: self._seen(site, z, output, threshold),
            lambda: self.empty(shape),
        )

    def _seen(self, site: Site, z, output, threshold) -> Seen:
        counts = self._counts(site, z)
        distance, activation = distance_of(site, z, output, threshold)
        values = z.reshape(site.factors)
        over = tuple(k for k in range(len(site.factors)) if k not in site.axes)
        flat = lambda value: value.reshape(-1)  # noqa: E731
        total = lambda value: flat((value & counts).sum(over, dtype=jnp.int32))  # noqa: E731
        wide = lambda value: value.astype(jnp.promote_types(value.dtype, jnp.float32))  # noqa: E731
        number = jnp.broadcast_to(counts, site.factors).sum(over, keepdims=True, dtype=jnp.int32)
        share = 1 / jnp.maximum(number, 1).astype(jnp.float32)
        mean_of = lambda value: jnp.where(counts, wide(value), 0).sum(over, keepdims=True) * share  # noqa: E731
        mean = mean_of(values)
        active = distance > 0
        sloped = active  # the same count once, where nothing is flat above
        if site.kind in FLAT and np.isfinite(site.ceiling):
            sloped = active & (site.side * values < site.side * site.ceiling)
        if site.kind in ("leaky", "smooth"):
            sloped = ~jnp.isnan(values)
        return Seen(
            examples=flat(number),
            active=total(active),
            sloped=total(sloped),
            invalid=total(jnp.isnan(values)),
            margin=flat(wide(jnp.where(counts, distance, -jnp.inf).max(over))),
            minimum=flat(wide(jnp.where(counts, distance, jnp.inf).min(over))),
            mean=flat(mean),
            squares=flat(jnp.where(counts, (wide(values) - mean) ** 2, 0).sum(over)),
            size=flat(mean_of(jnp.abs(activation))),
        )

    def _counts(self, site: Site, z: jax.Array) -> jax.Array:
        """Which examples count, in the site's factors."""
        if self.where is None:
            return jnp.ones((1,) * len(site.factors), bool)
        shape = jnp.shape(self.where)
        if z.shape[: len(shape)] != shape:
            raise ValueError(
                f"where has shape {shape}, and z of {site.name!r} has {z.shape}; `where` must have "
                "the leading axes of every z, so exclude this site or mask its statistics."
            )
        mask = jnp.reshape(self.where, shape + (1,) * (z.ndim - len(shape)))
        return jnp.broadcast_to(mask, z.shape).reshape(site.factors)

    def fold(self, stack: Seen, counts_units: bool) -> Seen:
        """Of a loop, with its leading axis: the units of its layers, or its repetitions merged."""
        if counts_units:
            return jax.tree.map(lambda leaf: leaf.reshape(-1), stack)
        first = jax.tree.map(lambda leaf: leaf[0], stack)
        rest = jax.tree.map(lambda leaf: leaf[1:], stack)
        return jax.lax.scan(lambda a, b: (merge(a, b), None), first, rest)[0]

    def empty(self, shape: Seen) -> Seen:
        """Nothing seen of units such as these."""
        return jax.tree.map(varying_as, empty(shape.examples.size), shape)

    merge = staticmethod(merge)


class Values:
    """Collects z itself, loops stacked; not inside `while` and `cond`."""

    def take(self, site: Site, z, output, threshold):
        """The site's z as the program has it."""
        return jax.lax.stop_gradient(z)

    def fold(self, stack, counts_units: bool):
        """Of a loop: as it is."""
        return stack

    def empty(self, shape):
        """There is none."""
        raise ValueError(
            "z inside a while loop or a branch has no fixed shape; look at statistics."
        )

    merge = empty
