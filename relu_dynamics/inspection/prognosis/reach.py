"""Reach: on which ways a program's parameters get to its sites and its outputs.

Two facts make a dead unit's own parameters move without a gradient: each of them gets to the unit's
z in one way only, number by number or in one product, so that z of no other unit depends on it; and
no way gets to an output that does not lead through the activation, whose slope is 0.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from relu_dynamics.inspection.prognosis.intervals import precision
from relu_dynamics.inspection.prognosis.walks import walk
from relu_dynamics.inspection.reading.activations import GRID, LAYOUT, SAME, body_of, scan_counts
from relu_dynamics.inspection.reading.sites import Plan, Watched

# Operations that keep the numbers of a parameter apart, or sum over all but its units.
APART = {
    *LAYOUT,
    *SAME,
    *("add", "add_any", "sub", "mul", "neg", "dot_general", "conv_general_dilated"),
    *("concatenate", "slice", "split"),
}
FIRST = {"div", "dynamic_slice", "gather"}  # ... of their first operand

MOST_PASSES = 20  # through a loop's body, until nothing changes


class Ways(NamedTuple):
    """How a value depends on parameters, by their numbers."""

    depends: frozenset = frozenset()  # at all
    once: frozenset = frozenset()  # in one way, numbers kept apart
    around: frozenset = frozenset()  # (parameter, group): with a slope, not through this group

    def joined(self, other: "Ways") -> "Ways":
        """Of a value that may be either."""
        return Ways(self.depends | other.depends, self.once & other.once
                    | (self.once - other.depends) | (other.once - self.depends),
                    self.around | other.around)  # fmt: skip


class Reach:
    """The domain of `Ways` (see `walks`); sites stand in groups, `group_of` (site -> group)."""

    # The slope of a function with a derivative of its own is not that of what it computes.
    opaque = frozenset(
        {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin"}
    )

    def __init__(self, group_of: dict[int, int]):
        self.group_of, self.remembered = group_of, {}

    def wants(self, number: int) -> bool:
        """Whether the site belongs to a group."""
        return number in self.group_of

    def constant(self, value: Any) -> Ways:
        """Depends on nothing."""
        return Ways()

    def take(self, number: int, z: Ways) -> Ways:
        """How z depends on parameters."""
        return z

    def leave(self, number: int, h: Ways) -> Ways:
        """What goes on from a site went through its group."""
        group = self.group_of[number]
        return h._replace(around=frozenset(way for way in h.around if way[1] != group))

    def choose(self, which: Ways, cases: tuple) -> Ways:
        """What comes out of a branch."""
        out = cases[0]
        for case in cases[1:]:
            out = out.joined(case)
        return out._replace(depends=out.depends | which.depends, once=out.once - which.depends)

    def scan(self, eqn: Any, operands: list[Ways], plan: Plan) -> tuple[list, dict]:
        """A loop: what is true of every pass."""
        consts, carries = scan_counts(eqn)
        fixed, carry = operands[:consts], operands[consts : consts + carries]
        rows = operands[consts + carries :]
        for _ in range(MOST_PASSES):
            outs, taken = walk(eqn.params["jaxpr"], [*fixed, *carry, *rows], self, plan)
            new = [a.joined(b) for a, b in zip(carry, outs, strict=False)]
            if new == carry:
                return [*carry, *outs[carries:]], taken
            carry = new
        return self.step(eqn, operands), {}

    def step(self, eqn: Any, operands: list[Ways]) -> list[Ways]:
        """The outputs of one operation."""
        depends = frozenset().union(*(x.depends for x in operands))
        around = frozenset().union(*(x.around for x in operands))
        name, once = eqn.primitive.name, set()
        strided = name == "slice" and eqn.params["strides"] is not None
        if name in APART | FIRST and not strided:
            read = operands[:1] if name in FIRST else operands
            once = {
                leaf
                for x in read
                for leaf in x.once
                if sum(leaf in other.depends for other in operands) == 1
            }
        sloped = lambda v: jnp.issubdtype(v.aval.dtype, jnp.inexact)  # noqa: E731
        return [
            Ways(depends, frozenset(once), around if sloped(var) else frozenset())
            for var in eqn.outvars
        ]


def ways_of(program: Any, groups: list[list[int]], leaves: int) -> tuple[Ways, dict[int, Ways]]:
    """(ways to the outputs, {site: ways to its z}) of a `watch.Program` whose first arguments are
    so many leaves of parameters; groups of sites share their parameters."""
    group_of = {number: g for g, numbers in enumerate(groups) for number in numbers}
    every = range(len(groups))
    values = [
        Ways(frozenset([k]), frozenset([k]), frozenset((k, g) for g in every))
        for k in range(leaves)
    ]
    data = len(program.closed.jaxpr.invars) - leaves
    outs, taken = walk(program.closed, [*values, *[Ways()] * data], Reach(group_of), program.plan)
    end = Ways()
    for out in outs:
        end = Ways(end.depends | out.depends, frozenset(), end.around | out.around)
    return end, taken


# The slope of a dead unit ---------------------------------------------------------------------


def _bodies(eqn: Any) -> list:
    """The jaxprs inside an equation, as a plan lists them."""
    params = eqn.params
    named = {"scan": ["jaxpr"], "while": ["body_jaxpr"]}.get(eqn.primitive.name)
    if named:
        return [params[name] for name in named]
    return params["branches"] if eqn.primitive.name == "cond" else [body_of(eqn)]


def _located(closed: ClosedJaxpr, plan: Plan) -> dict[int, tuple[Any, int, Watched]]:
    """{site: (the jaxpr that it stands in, number of its equation, its place in the plan)}."""
    found = {}
    for i, here in plan.sites.items():
        found |= {watched.site: (closed.jaxpr, i, watched) for watched in here}
    for i, plans in plan.inner.items():
        for body, one in zip(_bodies(closed.jaxpr.eqns[i]), plans, strict=True):
            found |= _located(body, one)
    return found


def dead_slopes(program: Any) -> dict[int, tuple[bool, bool]]:
    """{site: (whether the activation's derivative is exactly 0 below its threshold, and at it)}, as
    JAX differentiates it, of a `watch.Program`. Tried at some 200 numbers."""
    return {
        number: _slopes(jaxpr, i, watched, program.sites[number].threshold)
        for number, (jaxpr, i, watched) in _located(program.closed, program.plan).items()
    }


def _slopes(jaxpr: Any, i: int, watched: Watched, threshold: float) -> tuple[bool, bool]:
    live, kept = {watched.output}, []
    for eqn in reversed(jaxpr.eqns[: i + 1]):
        if live & set(eqn.outvars):
            kept.append(eqn)
            live -= set(eqn.outvars)
            live |= {v for v in eqn.invars if not isinstance(v, Literal)} - {watched.root}
    if live or not jnp.issubdtype(watched.root.aval.dtype, jnp.floating):
        return False, False  # it depends on more than z
    chain = jaxpr.replace(
        constvars=[], invars=[watched.root], outvars=[watched.output], eqns=kept[::-1],
        debug_info=jaxpr.debug_info._replace(arg_names=None, result_paths=None),
    )  # fmt: skip
    function = jaxpr_as_fun(ClosedJaxpr(chain, []))
    shape, dtype = watched.root.aval.shape, watched.root.aval.dtype
    below = np.append(threshold - np.abs(GRID[GRID != 0]), threshold - 1e-6)
    rows = max(1, math.ceil(len(below) / max(math.prod(shape), 1)))
    slope = jax.vmap(jax.grad(lambda z: function(z)[0].astype(jnp.float32).sum()))
    of = lambda numbers: slope(jnp.asarray(np.resize(numbers, (rows, *shape)), dtype))  # noqa: E731
    return bool((of(below) == 0).all()), bool((of(np.array([threshold])) == 0).all())


def coarsest(jaxpr: Any) -> float:
    """The unit roundoff of the coarsest numbers in a jaxpr."""
    found = [2.0**-24]
    for eqn in jaxpr.eqns:
        found += [precision(v.aval.dtype).u for v in eqn.outvars if hasattr(v.aval, "dtype")]
        for param in eqn.params.values():
            several = param if isinstance(param, tuple | list) else [param]
            inner = [getattr(one, "jaxpr", one) for one in several]
            found += [coarsest(one) for one in inner if hasattr(one, "eqns")]
    return max(found)
