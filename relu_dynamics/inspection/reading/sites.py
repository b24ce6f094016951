"""Sites: where a program rectifies, what its units are and what feeds them."""

from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Literal

from relu_dynamics.inspection.reading.activations import Shape
from relu_dynamics.inspection.reading.values import BACKWARD, Label, Link, Value, Writer

FLAT = {
    "relu",
    "relu_power",
    "clipped",
    "shrink",
    "jump",
}  # kinds with a part where nothing is passed on


class Site(NamedTuple):
    """A rectified value z of a program, and its units."""

    name: str  # the module of its kernel where that has a name
    kind: str  # relu, relu_power, clipped, shrink, leaky, smooth, jump, topk, named
    units: tuple[int, ...]  # their shape; layers of a loop first
    factors: tuple[int, ...]  # the shape of z (inside loops) with merged axes taken apart,
    axes: tuple[int, ...]  # and those of its axes that count units
    threshold: float  # nothing is passed on up to here (where it is no value of the program)
    ceiling: float  # and from here on the output is constant
    links: tuple[Link, ...]  # what feeds its units
    outgoing: tuple[Link, ...]  # kernels that read its units, where they do so directly
    norm: str  # "", "examples" or "units": over what a normalization before z averages
    shared: bool  # z is a sum that others read too, or its weights are not known
    upstream: frozenset[str]  # leaves that move the inputs of its kernels
    nonnegative: bool  # the inputs of its kernels are >= 0 whatever the parameters
    assumed: bool  # no parameter counts its units: the last axis was taken
    hidden: bool  # parameters read what comes out; else it is an output, or part of a loss
    where: str  # name stack and source line
    order: tuple[int, ...]  # of equations, from the outermost in
    side: int = 1  # z passes above its threshold; -1: below it, as in min(z, 0)

    @property
    def count(self) -> int:
        """Number of units."""
        return int(np.prod(self.units, initial=1))


class Watched(NamedTuple):
    """A site in the plan of one jaxpr."""

    site: int
    root: Any  # the variable of z,
    output: Any  # of the activation,
    threshold: Any  # and of the threshold, or None
    equal: bool  # whether z passes where it equals this threshold


class Plan(NamedTuple):
    """What the interpreter does at which equation of a jaxpr; keys are equation numbers."""

    sites: dict[int, list[Watched]]
    inner: dict[int, list["Plan"]]  # of the equation's jaxprs
    stacked: dict[int, bool]  # of a loop's plan: site -> whether the loop counts units
    # Of a shard_map's plan: site -> {axis of the mesh: whether its shards hold other units (else
    # other examples)}; over further axes every shard computes the same.
    sharded: dict[int, dict[str, bool]]

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.sites or self.inner)


class Place(NamedTuple):
    """Where in the program an equation stands."""

    order: tuple[int, ...] = ()
    stack: str = ""  # names of the jitted functions around it
    loop: bool = False

    def at(self, *numbers: int, name: str = "", loop: bool = False) -> "Place":
        """The place inside an equation."""
        stack = "/".join(part for part in (self.stack, name) if part)
        return Place((*self.order, *numbers), stack, self.loop or loop)


def make_site(eqn: Any, value: Value, shape: Shape, place: Place, dynamic: bool) -> Site | None:
    """The site of a rectifying equation whose operand z is `value`; None where z has no axis of
    examples, or is a statistic (the variance of a normalization)."""
    factors = [factor for axis in value.axes for factor in axis]
    writer, assumed = value.writer or Writer(), False
    if not any(label for _, label in factors):
        writer = Writer(shared=bool(writer.feeds), upstream=writer.upstream)
        factors = [(size, ()) for size, _ in factors[:-1]] + [
            (n, (("", 0),)) for n, _ in factors[-1:]
        ]
        assumed = True
    axes = tuple(k for k, (_, label) in enumerate(factors) if label)
    over_examples = len(axes) < len(factors) or (place.loop and writer.has_kernel)
    if not value.depends and not writer.feeds:  # data alone, random numbers
        return None
    if BACKWARD in value.sources:  # a gradient that an optimizer cuts
        return None
    pooled = writer.has_kernel and not writer.shared and not assumed  # no variance of it
    if not over_examples or (value.averaged and not pooled):
        return None
    links = make_links(writer, [factors[k][1] for k in axes])
    kernels = [link.leaf for link in links if link.role == "kernel"]
    late = [link.leaf for link in links if link.role in ("shift", "scale", "bias")]
    named = late if writer.shared else kernels
    stack = str(eqn.source_info.name_stack)
    title = (named[-1].rpartition("/")[0] or named[-1]) if named else ""
    return Site(
        name=title or "/".join(part for part in (place.stack, stack) if part) or shape.kind,
        kind="jump" if dynamic and shape.kind != "shrink" else shape.kind,
        units=tuple(factors[k][0] for k in axes),
        factors=tuple(size for size, _ in factors),
        axes=axes,
        threshold=shape.threshold,
        ceiling=shape.ceiling,
        links=links,
        outgoing=(),
        norm=writer.norm,
        shared=writer.shared or (not kernels and not assumed),
        upstream=writer.upstream,
        nonnegative=writer.nonnegative and bool(kernels),
        assumed=assumed,
        hidden=False,
        where=f"{stack} {line_of(eqn)}".strip(),
        order=place.order,
        side=shape.side,
    )


def make_links(writer: Writer, labels: list[Label]) -> tuple[Link, ...]:
    """Links from a writer's feeds, for unit factors with these labels, in their order."""
    links = []
    for feed in writer.feeds:
        at = dict(feed.pairs)
        axes = tuple(dict.fromkeys(axis for label in labels for axis in at.get(label, ())))
        links.append(Link(feed.leaf, feed.role, axes, *feed.span))
    return tuple(dict.fromkeys(links))


def checked(site: Site, shapes: dict[str, tuple[int, ...]]) -> Site:
    """A site whose links tell its units apart: where an axis of a leaf counts more or fewer entries
    than there are units (a kernel that a reshape made), the link names no axes."""
    links = []
    for link in site.links:
        sizes = [shapes[link.leaf][k] for k in link.axes] if link.leaf in shapes else []
        units = site.count - link.first if link.units is None else link.units
        whole = link.units is None and not link.start
        total = int(np.prod(sizes, initial=1))
        wrong = bool(sizes) and (total != units if whole else link.start + units > total)
        links.append(link._replace(axes=()) if wrong else link)
    lost = not any(link.axes for link in links if link.role == "kernel") and bool(links)
    return site._replace(links=tuple(links), shared=site.shared or lost)


def is_backward(eqn: Any) -> bool:
    """Whether an equation belongs to the backward pass of a gradient."""
    return "transpose(" in str(eqn.source_info.name_stack)


def line_of(eqn: Any) -> str:
    """File and line of an equation's source."""
    from jax._src import source_info_util  # no public name: for reading only

    return source_info_util.summarize(eqn.source_info).rpartition("/")[2]


def uses_of(jaxpr: Any) -> dict:
    """How often each variable is read."""
    uses: dict = {}
    for atom in [v for eqn in jaxpr.eqns for v in eqn.invars] + list(jaxpr.outvars):
        if not isinstance(atom, Literal):
            uses[atom] = uses.get(atom, 0) + 1
    return uses
