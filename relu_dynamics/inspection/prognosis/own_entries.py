"""Own entries: of every trained leaf the entries that only one unit's z depends on, and that get
no gradient while the unit is dead.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.inspection.prognosis.bounds import constant, largest
from relu_dynamics.inspection.prognosis.intervals import Interval, top
from relu_dynamics.inspection.prognosis.reach import coarsest, dead_slopes, ways_of
from relu_dynamics.inspection.prognosis.zero_gradient import Path
from relu_dynamics.inspection.reading.sites import FLAT, Site
from relu_dynamics.inspection.reading.surgery import INCOMING, spread
from relu_dynamics.inspection.reading.watch import Program, grouped, leaf_name, trace


class Group(NamedTuple):
    """A site of a `Probe`, which may stand for several places of the program."""

    name: str
    part: slice  # of all units
    numbers: list[int]  # of the places
    site: Site
    owner: list[np.ndarray]  # of every trained leaf: whose entry it is, unit of the site or -1
    affine: bool  # z is affine in the own entries
    behind: frozenset[int]  # trained leaves whose gradient passes through this site alone
    moving: frozenset[int]  # leaves that z depends on, that move and of which no unit owns entries
    slopes: tuple[bool, bool]  # whether no gradient passes below the threshold, and at it
    u: float  # the largest unit roundoff in the program
    outside: tuple[str, ...]  # leaves that feed its units and get a gradient otherwise


class Model(NamedTuple):
    """A program in training: what every part of a prognosis reads."""

    function: Callable
    params: Any
    data: list[tuple]
    programs: list[Program]  # of every batch
    groups: list[Group]
    names: list[str]  # of the leaves of the parameters
    trained: list[int | None]  # of every leaf, its number in the trained tree
    frozen: list[bool]  # of every leaf, whether the optimizer never moves it

    def margins(self, group: Group, leaves: list[Interval]) -> Interval:
        """Between which numbers every unit's margin lies, [units of the group], over all data and
        places, for all parameters within `leaves`."""
        count = group.site.count
        low, high = np.full(count, -np.inf), np.full(count, -np.inf)
        for program, data in zip(self.programs, self.data, strict=True):
            for found in largest(program, group.numbers, leaves, data).values():
                low, high = np.maximum(low, found.low), np.maximum(high, found.high)
        return Interval(low, high)

    def background(self, settled: list[Interval]) -> list[Interval]:
        """Intervals of all leaves of the parameters: what is frozen as it is, of the trained ones
        what is settled within its bounds, all else unknown."""
        leaves = []
        for k, leaf in enumerate(jax.tree.leaves(self.params)):
            t = self.trained[k]
            if self.frozen[k]:
                leaves.append(constant(leaf))
            else:
                leaves.append(top(jnp.shape(leaf)) if t is None else settled[t])
        return leaves

    def is_settled(self, settled: list[Interval], k: int) -> bool:
        """Whether all numbers of a leaf are settled."""
        t = self.trained[k]
        return t is not None and bool(np.isfinite(settled[t].low).all())


def read_model(
    function: Callable,
    params: Any,
    data: list[tuple],
    trained: Any,
    memory: Any,
    tx: optax.GradientTransformation,
    exclude: Sequence[str],
) -> Model:
    """What is known of a program and its parameters before any number is looked at."""
    shapes: dict[Any, Program] = {}
    programs = []
    for batch in data:
        key = str(jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), batch))
        shapes[key] = shapes.get(key) or trace(function, params, batch)
        programs.append(shapes[key])
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [leaf_name(path) for path, _ in paths]
    number = _trained_numbers(params, trained)
    still = _frozen(tx, trained, memory)
    frozen = [k is not None and still[k] for k in number]
    groups = _groups(programs[0], exclude, names, number, frozen, trained)
    return Model(function, params, data, programs, groups, names, number, frozen)


def _trained_numbers(params: Any, trained: Any) -> list[int | None]:
    """Of every leaf of the parameters its number in the trained tree, or None. Raises a ValueError
    that names the trained leaf that is none of the parameters'."""
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    mine = jax.tree_util.tree_flatten_with_path(trained)[0]
    if jax.tree.structure(params) == jax.tree.structure(trained):
        pairs = {k: k for k in range(len(paths))}
    else:
        pairs = {}
        for t, (path, leaf) in enumerate(mine):
            ends = [
                k
                for k, (own, other) in enumerate(paths)
                if f"/{leaf_name(own)}".endswith(f"/{leaf_name(path)}")
                and jnp.shape(other) == jnp.shape(leaf)
                and k not in pairs
            ]
            if not ends:
                raise ValueError(
                    f"trainable {leaf_name(path)!r} of shape {jnp.shape(leaf)} is no leaf of "
                    "params; give the part of params that tx trains."
                )
            pairs[min(ends, key=lambda k: len(leaf_name(paths[k][0])))] = t
    for k, t in pairs.items():
        if not np.array_equal(np.asarray(paths[k][1]), np.asarray(mine[t][1]), equal_nan=True):
            raise ValueError(
                f"trainable {leaf_name(mine[t][0])!r} has other numbers than in params; give both "
                "of the same step."
            )
    return [pairs.get(k) for k in range(len(paths))]


def _frozen(tx: optax.GradientTransformation, trained: Any, memory: Any) -> list[bool]:
    none = [np.zeros(jnp.shape(leaf), bool) for leaf in jax.tree.leaves(trained)]
    return Path(tx, trained, memory, none).frozen()


def _groups(program, exclude, names, number, frozen, trained) -> list[Group]:
    places = grouped(program.sites, exclude)
    outputs, ways = ways_of(program, list(places.values()), len(names))
    slopes, u, groups, at = dead_slopes(program), coarsest(program.closed.jaxpr), [], 0
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(trained)]
    for g, (name, numbers) in enumerate(places.items()):
        site = program.sites[numbers[0]]
        z = [ways[k] for k in numbers if k in ways]
        depends = frozenset().union(*(way.depends for way in z))
        once = frozenset(k for k in depends if all(k in w.once for w in z if k in w.depends))
        behind = frozenset(
            t for k, t in enumerate(number) if t is not None and (k, g) not in outputs.around
        )
        linked = {names.index(link.leaf) for link in site.links if link.leaf in names}
        own = {k for k in linked & once if number[k] in behind}
        owner, owned = _owners(site, {names[k]: number[k] for k in own}, shapes)
        free = {k for k in depends if not frozen[k] and number[k] not in owned}
        groups.append(
            Group(
                name=name,
                part=slice(at, at + site.count),
                numbers=numbers,
                site=site,
                owner=owner,
                affine=not any(link.role == "scale" for link in site.links),
                behind=behind,
                moving=frozenset(free) if len(z) == len(numbers) else frozenset(range(len(names))),
                slopes=_of_all(slopes, numbers, site),
                u=u,
                outside=tuple(
                    names[k] for k in sorted(linked & once) if number[k] not in behind | {None}
                ),
            )
        )
        at += site.count
    return groups


def _of_all(slopes: dict, numbers: list[int], site: Site) -> tuple[bool, bool]:
    """Whether no place of a site passes a gradient on below its threshold, and at it."""
    if site.kind not in FLAT - {"jump"}:
        return False, False
    return all(slopes[k][0] for k in numbers), all(slopes[k][1] for k in numbers)


def _owners(site: Site, own: dict[str, int], shapes: list) -> tuple[list[np.ndarray], set[int]]:
    """(of every trained leaf whose entry it is, the leaves whose entries have owners)."""
    owner, owned = [np.full(shape, -1) for shape in shapes], set()
    units = jnp.arange(site.count)
    for link in site.links:
        if link.leaf in own and link.role in INCOMING:
            of = spread(units, link, shapes[own[link.leaf]], -1)
            if of is not None:
                t = own[link.leaf]
                owner[t] = np.maximum(owner[t], np.asarray(of))
                owned.add(t)
    return owner, owned
