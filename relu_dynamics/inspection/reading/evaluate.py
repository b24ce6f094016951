"""Evaluate: runs a program as it is, and takes what is asked for at its sites.

Every equation is bound as it stands in the jaxpr, with its own parameters, so that nothing in the
program changes; what is collected at a site leaves loops and branches as a further output.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.sharding import PartitionSpec

from relu_dynamics.inspection.reading.activations import body_of, scan_counts
from relu_dynamics.inspection.reading.sites import Plan, Site

Taken = dict[int, Any]  # site -> what was collected


def evaluate(
    closed: ClosedJaxpr, args: Any, plan: Plan, sites: list[Site], collect: Any
) -> tuple[list, Taken]:
    """(outputs, what was collected) of a closed jaxpr for flat arguments.

    `collect` has take(site, z, output, threshold), fold(stack, counts_units) of a loop's passes,
    merge(a, b) and empty(shape), as `seen.Statistics`.
    """
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars, args, strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]  # noqa: E731
    taken: Taken = {}

    def run(inner: ClosedJaxpr, plan: Plan) -> Callable:
        return lambda *args: evaluate(inner, args, plan, sites, collect)

    for i, eqn in enumerate(jaxpr.eqns):
        values = [read(atom) for atom in eqn.invars]
        if i in plan.inner:
            call = _CALLS.get(eqn.primitive.name, _called)
            outs, more = call(eqn, values, plan.inner[i], run, collect)
            taken |= more
        else:
            outs = _bind(eqn, values)
        known |= dict(zip(eqn.outvars, outs, strict=True))
        for number, root, output, threshold, equal in plan.sites.get(i, ()):
            limit = None if threshold is None else read(threshold)
            if limit is not None and equal:  # z passes there: the last number that does not is next
                limit = jax.lax.stop_gradient(limit)
                limit = jnp.nextafter(limit, jnp.full_like(limit, -sites[number].side * jnp.inf))
            taken[number] = collect.take(sites[number], read(root), read(output), limit)
    return [read(atom) for atom in jaxpr.outvars], taken


def _bind(eqn: Any, values: list) -> list:
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _scanned(eqn: Any, values: list, plans: list[Plan], run: Callable, collect: Any):
    params, plan = eqn.params, plans[0]
    consts, carries = scan_counts(eqn)
    body, fixed = run(params["jaxpr"], plan), values[:consts]

    def step(carry, row):
        outs, taken = body(*fixed, *carry, *row)
        return outs[:carries], (outs[carries:], taken)

    first, rows = values[consts : consts + carries], values[consts + carries :]
    carry, (stacked, taken) = jax.lax.scan(
        step, first, rows,
        length=params["length"], reverse=params["reverse"], unroll=params["unroll"],
    )  # fmt: skip
    folded = {k: collect.fold(t, plan.stacked.get(k, False)) for k, t in taken.items()}
    return [*carry, *stacked], folded


def _while(eqn: Any, values: list, plans: list[Plan], run: Callable, collect: Any):
    params = eqn.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    body = run(params["body_jaxpr"], plans[0])
    test = jaxpr_as_fun(params["cond_jaxpr"])
    tested, fixed, start = values[:first], values[first : first + second], values[first + second :]
    shapes = jax.eval_shape(lambda *carry: body(*fixed, *carry)[1], *start)
    nothing = {k: collect.empty(shape) for k, shape in shapes.items()}

    def again(state):
        outs, taken = body(*fixed, *state[0])
        return outs, {k: collect.merge(state[1][k], taken[k]) for k in taken}

    return jax.lax.while_loop(
        lambda state: test(*tested, *state[0])[0], again, (list(start), nothing)
    )


def _switched(eqn: Any, values: list, plans: list[Plan], run: Callable, collect: Any):
    inner = zip(eqn.params["branches"], plans, strict=True)
    branches = [run(branch, plan) for branch, plan in inner]
    shapes: dict = {}
    for branch in branches:
        shapes |= jax.eval_shape(lambda *args, branch=branch: branch(*args)[1], *values[1:])

    def complete(branch):
        def call(*args):
            outs, taken = branch(*args)
            return outs, {
                k: taken[k] if k in taken else collect.empty(shape) for k, shape in shapes.items()
            }

        return call

    return jax.lax.switch(values[0], [complete(branch) for branch in branches], *values[1:])


def _checkpointed(eqn: Any, values: list, plans: list[Plan], run: Callable, collect: Any):
    body, params = run(_body(eqn), plans[0]), eqn.params
    if params["differentiated"]:
        return _called(eqn, values, plans, run, collect)
    again = jax.checkpoint(body, prevent_cse=params["prevent_cse"], policy=params["policy"])
    return again(*values)


def _sharded(eqn: Any, values: list, plans: list[Plan], run: Callable, collect: Any):
    """A `shard_map`: what every shard collects leaves it on leading axes of shards, one for each
    axis of the mesh, which are then folded."""
    params, plan = eqn.params, plans[0]
    body, mesh = run(ClosedJaxpr(params["jaxpr"], ()), plan), params["mesh"]
    manual = [name for name in mesh.axis_names if name in params["newly_manual_axes"]]

    def shard(*args):
        outs, taken = body(*args)
        return outs, jax.tree.map(lambda leaf: leaf[None], taken)

    outs, stacked = jax.shard_map(
        shard, mesh=mesh, in_specs=params["in_specs"], axis_names=set(manual),
        out_specs=(list(params["out_specs"]), PartitionSpec(tuple(manual))),
        check_vma=params["check_vma"],
    )(*values)  # fmt: skip
    lengths = [mesh.shape[name] for name in manual]
    folded = {}
    for k, stack in stacked.items():
        over = plan.sharded.get(k, {})
        part = jax.tree.map(lambda leaf: leaf.reshape(*lengths, *leaf.shape[1:]), stack)
        for depth, name in reversed(list(enumerate(manual))):
            fold = _first if name not in over else functools.partial(_folded, collect, over[name])
            for _ in range(depth):
                fold = jax.vmap(fold)
            part = fold(part)
        folded[k] = part
    return outs, folded


def _first(stack: Any) -> Any:
    """Of shards that computed the same."""
    return jax.tree.map(lambda leaf: leaf[0], stack)


def _folded(collect: Any, counts_units: bool, stack: Any) -> Any:
    return collect.fold(stack, counts_units)


def _inlined(eqn: Any, values: list, plans: list[Plan], run: Callable, collect: Any):
    return run(_body(eqn), plans[0])(*values)


def _called(eqn: Any, values: list, plans: list[Plan], run: Callable, collect: Any):
    """A function with a derivative of its own: as it is, and once more for what is inside."""
    inside = run(_body(eqn), plans[0])(*jax.lax.stop_gradient(values))[1]
    return _bind(eqn, values), inside


def _body(eqn: Any) -> ClosedJaxpr:
    body = body_of(eqn)
    assert body is not None
    return body


_CALLS: dict[str, Callable] = {
    "checkpoint": _checkpointed,
    "closed_call": _inlined,
    "cond": _switched,
    "core_call": _inlined,
    "jit": _inlined,
    "pjit": _inlined,
    "remat2": _checkpointed,
    "scan": _scanned,
    "shard_map": _sharded,
    "while": _while,
}
