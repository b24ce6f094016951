"""Walks: a program run on values of another kind, its functions and branches included.

A *domain* says what a value is: constant(array), step(eqn, operands), scan(eqn, operands, plan),
choose(which, cases) of a branch, and at sites wants(number), take(number, z) and leave(number, h)
of the activation, which goes on. It has a dict `remembered`, and names in `opaque` the functions
that are to be stepped over.
"""

from typing import Any

from jax.extend.core import ClosedJaxpr, Literal

from relu_dynamics.inspection.reading.activations import body_of
from relu_dynamics.inspection.reading.sites import Plan

NOTHING = Plan({}, {}, {}, {})


def _wanted_inside(plan: Plan, domain: Any) -> bool:
    here = any(domain.wants(w.site) for found in plan.sites.values() for w in found)
    return here or any(
        _wanted_inside(one, domain) for inner in plan.inner.values() for one in inner
    )


def _kept(jaxpr: Any, outputs: list[bool], domain: Any, plan: Plan) -> tuple[list[int], set]:
    """As `_needed`, remembered by the domain: an optimizer is run thousands of times."""
    key = id(jaxpr), tuple(outputs), id(plan)
    if key not in domain.remembered:
        kept, live = _needed(jaxpr, outputs, domain, plan)
        domain.remembered[key] = sorted(kept), live, jaxpr, plan  # these two keep their ids
    return domain.remembered[key][:2]


def _needed(jaxpr: Any, outputs: list[bool], domain: Any, plan: Plan) -> tuple[set[int], set]:
    """(numbers of the equations, variables) that wanted outputs and sites depend on."""
    real = lambda atoms: {atom for atom in atoms if not isinstance(atom, Literal)}  # noqa: E731
    live = real(v for v, wanted in zip(jaxpr.outvars, outputs, strict=True) if wanted)
    kept = set()
    for i in reversed(range(len(jaxpr.eqns))):
        eqn, here = jaxpr.eqns[i], [w for w in plan.sites.get(i, ()) if domain.wants(w.site)]
        inside = any(_wanted_inside(one, domain) for one in plan.inner.get(i, ()))
        if here or inside or live & set(eqn.outvars):
            kept.add(i)
            live |= real(eqn.invars) | {watched.root for watched in here}
    return kept, live


def variables_read(jaxpr: Any, outputs: list[bool], domain: Any) -> set:
    """The variables that the wanted outputs of a program depend on."""
    return _kept(jaxpr, outputs, domain, NOTHING)[1]


def walk(
    closed: ClosedJaxpr,
    values: list,
    domain: Any,
    plan: Plan = NOTHING,
    outputs: list[bool] | None = None,
) -> tuple[list, dict[int, Any]]:
    """(outputs, {site: what the domain takes there}) of a program; None for outputs that are not
    among the wanted ones, all by default."""
    jaxpr, taken = closed.jaxpr, {}
    outputs = [True] * len(jaxpr.outvars) if outputs is None else outputs
    kept, live = _kept(jaxpr, outputs, domain, plan)
    known = dict(zip(jaxpr.invars, values, strict=True))
    for var, const in zip(jaxpr.constvars, closed.consts, strict=True):
        known[var] = domain.constant(const) if var in live else None
    read = lambda v: domain.constant(v.val) if isinstance(v, Literal) else known.get(v)  # noqa: E731
    for i in kept:
        eqn = jaxpr.eqns[i]
        operands = [read(atom) for atom in eqn.invars]
        inner, body, more = plan.inner.get(i, [NOTHING])[0], body_of(eqn), {}
        if body is not None and eqn.primitive.name not in domain.opaque:
            outs, more = walk(body, operands, domain, inner, [v in live for v in eqn.outvars])
        elif eqn.primitive.name == "scan":
            outs, more = domain.scan(eqn, operands, inner)
        elif eqn.primitive.name == "cond":
            branches = [walk(b, operands[1:], domain)[0] for b in eqn.params["branches"]]
            outs = [domain.choose(operands[0], cases) for cases in zip(*branches, strict=True)]
        else:
            outs = domain.step(eqn, operands)
        known |= dict(zip(eqn.outvars, outs, strict=True))
        taken |= more
        for watched in plan.sites.get(i, ()):
            if domain.wants(watched.site):
                taken[watched.site] = domain.take(watched.site, known[watched.root])
                known[watched.output] = domain.leave(watched.site, known[watched.output])
    return [
        read(v) if wanted else None for v, wanted in zip(jaxpr.outvars, outputs, strict=True)
    ], taken
