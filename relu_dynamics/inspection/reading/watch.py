"""Watch: a program that also returns what its rectified units did.

probe = find(step, state, batch)        # what is rectified, and what feeds it; nothing runs
step = jax.jit(watch(train_step))       # the one line that a training loop needs
state, seen = step(state, batch)
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from relu_dynamics.inspection.reading.analysis import TAG, analyse
from relu_dynamics.inspection.reading.evaluate import evaluate
from relu_dynamics.inspection.reading.seen import Seen, Statistics, Values, merge
from relu_dynamics.inspection.reading.sites import Plan, Site
from relu_dynamics.inspection.reading.tracing import as_jaxpr, check_pure
from relu_dynamics.inspection.reading.values import DATA, Value, parameter, plain


class Probe(NamedTuple):
    """What `find` found. The units of all sites lie on one axis, in the order of the sites."""

    sites: tuple[Site, ...]  # one for all places that use the same parameters
    notes: tuple[str, ...]  # what was not looked into

    @property
    def names(self) -> list[str]:
        """The names of the sites, in order."""
        return [site.name for site in self.sites]

    @property
    def units(self) -> int:
        """Number of units of all sites together."""
        return sum(site.count for site in self.sites)

    @property
    def slices(self) -> dict[str, slice]:
        """The place of each site's units on the axis of all units."""
        out, at = {}, 0
        for site in self.sites:
            out[site.name], at = slice(at, at + site.count), at + site.count
        return out

    def __str__(self) -> str:
        lines = [f"{self.units} units at {len(self.sites)} sites"]
        for site in self.sites:
            fed = ", ".join(f"{link.leaf} ({link.role})" for link in site.links) or "unknown"
            units = " x ".join(map(str, site.units))
            kind = site.kind + ("" if site.hidden else ", an output or part of a loss")
            lines.append(f"  {site.name}: {units} units, {kind}; fed by {fed}; {site.where}")
        return "\n".join([*lines, *(f"not read: {note}" for note in self.notes)])


class Program(NamedTuple):
    closed: Any
    out_tree: Any
    plan: Plan
    sites: list[Site]
    notes: list[str]


def site(z: jax.Array, name: str) -> jax.Array:
    """z, marked as pre-activations of units that die where z <= 0: for what `find` cannot see by
    itself. Changes nothing."""
    return checkpoint_name(z, TAG + name)


def leaf_name(path: Any) -> str:
    """A leaf's path as text, the same for dicts, Flax states and Equinox modules."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.removeprefix("params/").removesuffix("/value").removesuffix("/.value")


def trace(function: Callable, params: Any, data: tuple) -> Program:
    closed, shape = as_jaxpr(function, (params, *data))
    values = [
        parameter(
            leaf_name(path) or "parameters",
            jnp.shape(leaf),
            real=jnp.issubdtype(jnp.result_type(leaf), jnp.inexact),
        )
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
    values += [Value(DATA, plain(jnp.shape(leaf))) for leaf in jax.tree.leaves(data)]
    return Program(closed, jax.tree.structure(shape), *analyse(closed, values))


def grouped(sites: Sequence[Site], exclude: Sequence[str]) -> dict[str, list[int]]:
    """{name: numbers of its sites}, in the order of the program; sites of the same parameters are
    the same units and stand together. Raises a ValueError when `exclude` names none."""
    keys: dict[Any, list[int]] = {}
    for number, one in sorted(enumerate(sites), key=lambda pair: pair[1].order):
        known = any(link.role == "kernel" for link in one.links) and not one.shared
        own = frozenset(link._replace(role="") for link in one.links)  # a first state has no kernel
        keys.setdefault((own, one.units) if known else number, []).append(number)
    groups: dict[str, list[int]] = {}
    for numbers in keys.values():
        name = sites[numbers[0]].name
        count = sum(other.partition("#")[0] == name for other in groups)
        groups[f"{name}#{count + 1}" if count else name] = numbers
    unknown = set(exclude) - set(groups)
    if unknown:
        raise ValueError(f"exclude={sorted(unknown)} names no site; there are {list(groups)}.")
    return {name: numbers for name, numbers in groups.items() if name not in exclude}


def find(function: Callable, params: Any, *data: Any, exclude: Sequence[str] = ()) -> Probe:
    """The rectified units of `function(params, *data)`: a model, a loss or a whole training step.
    Nothing is run.

    All leaves of `params` are taken for parameters. `exclude` names sites that are none of hidden
    units. Raises a ValueError when nothing is rectified, `exclude` names no site, the function
    cannot be traced (it names the argument to fix), or two traces of it differ: it is not pure.
    """
    check_pure(function, (params, *data))
    return _probe(trace(function, params, data), exclude)


def _probe(program: Program, exclude: Sequence[str]) -> Probe:
    groups = grouped(program.sites, exclude)
    if not groups:
        notes = "; ".join(program.notes)
        raise ValueError(
            "no rectified unit was found: no operation is 0 on one side and grows on the other. "
            "Mark pre-activations by hand, z = inspection.site(z, name)"
            + (f"; not looked into: {notes}." if notes else ".")
        )
    sites = []
    for name, numbers in groups.items():
        places = [program.sites[k] for k in numbers]
        kernels = lambda one: sum(link.role == "kernel" for link in one.links)  # noqa: E731
        hidden = any(one.hidden for one in places)
        sites.append(max(places, key=kernels)._replace(name=name, hidden=hidden))
    closed_over = [
        f"{one.name}: its weights are an array that the function closes over; give it in the "
        "parameters, or nothing can be treated there"
        for one in sites
        if any(link.leaf.startswith("constant_") for link in one.links)
    ]
    return Probe(tuple(sites), (*program.notes, *closed_over))


def watch(
    function: Callable,
    *,
    has_aux: bool = False,
    exclude: Sequence[str] = (),
    when: Callable[..., jax.Array] | None = None,
    where: Callable[..., jax.Array] | None = None,
) -> Callable:
    """`function(params, *data)` that also returns what its rectified units did, as `Seen`.

    Returns (output, seen), or (output, (aux, seen)) with `has_aux`. Outputs, gradients and
    transformations are those of the function: jit, vmap and grad it as before. Two further
    functions of the same arguments: `when` says (traced bool) whether to look at this call, and
    `where` which examples count, as bools of the leading axes of z.
    """

    def watched(params, *data):
        program = trace(function, params, data)
        collect = Statistics(
            None if where is None else where(params, *data),
            None if when is None else when(params, *data),
        )
        flat = jax.tree.leaves((params, data))
        outs, taken = evaluate(program.closed, flat, program.plan, program.sites, collect)
        parts = []
        for numbers in grouped(program.sites, exclude).values():
            parts.append(taken[numbers[0]])
            for k in numbers[1:]:
                parts[-1] = merge(parts[-1], taken[k])
        if not parts:
            _probe(program, exclude)  # raises
        seen = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
        out = jax.tree.unflatten(program.out_tree, outs)
        return (out[0], (out[1], seen)) if has_aux else (out, seen)

    return watched


def preactivations(function: Callable, params: Any, *data: Any) -> dict[str, jax.Array]:
    """{site: z} of `function(params, *data)`, every z as the program has it, loops stacked."""
    program = trace(function, params, data)
    flat = jax.tree.leaves((params, data))
    _, taken = evaluate(program.closed, flat, program.plan, program.sites, Values())
    names = [program.sites[k].name for k in sorted(taken)]
    return {
        name if names.count(name) == 1 else f"{name}#{names[: i + 1].count(name)}": taken[k]
        for i, (name, k) in enumerate(zip(names, sorted(taken), strict=True))
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _seen_of(function: Callable, exclude: tuple[str, ...], params: Any, *data: Any) -> Seen:
    return watch(function, exclude=exclude)(params, *data)[1]


def each_batch(batches: Iterable[Any]) -> Iterator[tuple]:
    """What a function takes after its parameters, batch by batch, where a batch is a tuple or one
    argument. Raises a ValueError where there is none, or `batches` is an array itself."""
    if isinstance(batches, jax.Array | np.ndarray):
        raise ValueError(
            f"batches is one array of shape {batches.shape}; give batches of it, such as [inputs]."
        )
    empty = True
    for batch in batches:
        empty = False
        yield batch if isinstance(batch, tuple) else (batch,)
    if empty:
        raise ValueError("batches is empty; give at least one batch.")


def look(
    function: Callable, params: Any, batches: Iterable[Any], *, exclude: Sequence[str] = ()
) -> Seen:
    """What every unit of `function(params, batch)` did over a data set, streamed batch by batch.

    `batches` as for `each_batch`, which says what is refused.
    """
    try:
        hash(function)
    except TypeError:  # an Equinox module, say: its method is known by what it belongs to
        function = function.__call__
    total = None
    for data in each_batch(batches):
        seen = _seen_of(function, tuple(exclude), params, *data)
        total = seen if total is None else merge(total, seen)
    assert total is not None
    return total
