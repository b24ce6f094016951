"""Analysis: reads a program and finds its sites, equation by equation.

    plan, sites, notes = analyse(closed_jaxpr, values)

The program is a jaxpr, so whatever JAX can trace can be read, whole training steps included.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from relu_dynamics.inspection.reading.activations import (
    GRID,
    LAYOUT,
    Shape,
    body_of,
    image_of,
    is_elementwise,
    look_at,
    nearest,
    scan_counts,
)
from relu_dynamics.inspection.reading.arrangement import (
    gathered,
    joined,
    parts_of,
    picked_axes,
    reduced,
    unknown,
)
from relu_dynamics.inspection.reading.operations import (
    depends_on,
    elementwise,
    linear,
    readers,
    sources_of,
)
from relu_dynamics.inspection.reading.shards import GATHERS, mesh_gathered, walk_shards
from relu_dynamics.inspection.reading.sites import (
    FLAT,
    Place,
    Plan,
    Site,
    Watched,
    checked,
    is_backward,
    line_of,
    make_site,
    uses_of,
)
from relu_dynamics.inspection.reading.values import (
    BACKWARD,
    CONSTANT,
    DATA,
    PARAMETER,
    Link,
    Value,
    Writer,
    constant,
    counts_units,
    join,
    label_of,
    meet,
    plain,
    relayout,
    size_of,
)

LONGEST = 24  # values that a chain is remembered from

MOST_PASSES = 4  # through a loop's body, until what is known of its carry no longer changes

REDUCTIONS = {
    *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
    *("argmax", "argmin"),
}
RANDOM = {"random_bits", "random_unwrap", "threefry2x32", "rng_bit_generator"}
TOP_K = {"top_k", "approx_top_k"}

TAG = "relu_dynamics:"  # of values named by hand, see `watch.site`


class Level:
    """One jaxpr on its way: what is known of its variables."""

    def __init__(self, jaxpr, place: Place, record: bool):
        self.jaxpr, self.place, self.record = jaxpr, place, record
        self.known: dict[Any, Value] = {}
        self.uses = uses_of(jaxpr)
        self.backward = [is_backward(eqn) for eqn in jaxpr.eqns]
        self.thresholds: dict = {}
        self.shapes: dict[Any, dict[Any, Shape]] = {}  # output of a chain -> root -> its shape
        self.plan = Plan({}, {}, {}, {})

    def put(self, var: Any, value: Value) -> None:
        if value.kind == DATA:
            looks = {root: look_at(image).shape for root, image in value.images}
            self.shapes[var] = found = {root: shape for root, shape in looks.items() if shape}
            if found:
                token = (self.place.order, list(found)[-1])
                value = value._replace(source=token, sources=value.sources | {token})
            if jnp.issubdtype(var.aval.dtype, jnp.floating):
                value = value._replace(images=(*value.images, (var, GRID))[-LONGEST:])
        self.known[var] = value

    def roots(self, var: Any) -> set:
        """The other variables that a variable is a function of alone."""
        return {root for root, _ in self.known[var].images} - {var}

    def continued(self) -> dict[Any, set]:
        """Of each variable, the roots of which a longer chain is the activation: a rectifier too,
        or, where nothing else reads the variable, a function that is flat nowhere."""
        later: dict[Any, set] = {}
        for eqn in reversed(self.jaxpr.eqns):
            for out in eqn.outvars:
                ends = later.get(out, set()) | set(self.shapes.get(out, ()))
                steep = {r for r, image in self.known[out].images if look_at(image).steep}
                for atom in eqn.invars if ends or steep else ():
                    if not isinstance(atom, Literal):
                        more = ends | steep if self.uses[atom] == 1 else ends
                        later.setdefault(atom, set()).update(more & self.roots(atom))
        return later

    def read(self, atom: Any) -> Value:
        if not isinstance(atom, Literal):
            return self.known[atom]
        number = float(atom.val) if np.ndim(atom.val) == 0 else None
        return Value(CONSTANT, plain(np.shape(atom.val)), number=number)


class Analysis:
    """The walk through a program."""

    def __init__(self):
        self.sites: list[Site] = []
        self.tokens: list[Any] = []  # of the sites, by which later equations name them
        self.notes: list[str] = []
        self.readers: dict[Any, set[Link]] = {}
        self.read: set = set()  # sites whose activation some parameter reads
        self.picked: dict[str, tuple[int, ...]] = {}  # leaves that a loop picks from, and where
        self.whole: set[tuple[str, int]] = set()  # axes of leaves that shards gathered again

    def walk(self, jaxpr, consts, values, record: bool, place: Place) -> tuple[list[Value], Plan]:
        """What is known of a jaxpr's outputs, and its plan."""
        level = Level(jaxpr, place, record)
        for number, (var, const) in enumerate(zip(jaxpr.constvars, consts, strict=True)):
            level.put(var, constant(f"constant_{number}", const))
        for var, value in zip(jaxpr.invars, values, strict=True):
            level.put(var, value._replace(images=()))
        for i, eqn in enumerate(jaxpr.eqns):
            operands = [level.read(atom) for atom in eqn.invars]
            if level.backward[i]:  # nothing there is an activation
                operands = [value._replace(images=()) for value in operands]
            outs = self._step(level, i, eqn, operands)
            if level.backward[i]:
                outs = [value._replace(sources=value.sources | {BACKWARD}) for value in outs]
            else:
                outs = self._declared(level, i, eqn, operands, outs)
                self._note_readers(eqn, operands)
                self._note_parameters(level, eqn, operands, outs)
            for var, value in zip(eqn.outvars, outs, strict=True):
                level.put(var, value)
        if record:
            self._add_rectifiers(level)
        return [level.read(atom) for atom in jaxpr.outvars], level.plan

    # Sites ------------------------------------------------------------------------------------

    def _declared(self, level: Level, i: int, eqn, operands, outs) -> list[Value]:
        """The outputs of an operation whose name or tag declares a site, which is added."""
        name = eqn.primitive.name
        tag = str(eqn.params.get("name", "")) if name == "name" else ""
        if name not in TOP_K and not tag.startswith(TAG) or operands[0].kind != DATA:
            return outs
        # As it was before it was flattened, which is the operand of a rectifier beside it too.
        root = next((var for var, image in operands[0].images if image is GRID), None)
        if root is None:
            return outs  # of whole numbers
        if level.record:
            title = tag.removeprefix(TAG)
            shape = Shape("named" if title else "topk")
            self._add(level, i, eqn, root, eqn.outvars[0], shape, title=title)
        token = (level.place.order, root)
        return [value._replace(source=token if tag else None, sources=value.sources | {token})
                for value in outs]  # fmt: skip

    def _add_rectifiers(self, level: Level) -> None:
        """Adds the sites of one level: outputs of chains that no longer chain supersedes."""
        later = level.continued()
        done = {(watched.root, 1) for found in level.plan.sites.values() for watched in found}
        for i, eqn in enumerate(level.jaxpr.eqns):
            if level.backward[i]:
                continue
            for out in eqn.outvars:
                shapes = level.shapes.get(out)
                if not shapes or later.get(out, set()) & level.roots(out):
                    continue
                root, shape = list(shapes.items())[-1]
                if (root, shape.side) not in done:
                    done.add((root, shape.side))
                    self._add(level, i, eqn, root, out, shape)
        if level.record:
            self._note_floors(level, {root for root, _ in done})

    def _note_floors(self, level: Level, done: set) -> None:
        """Notes what is constant on one side and grows on the other, but is not 0 there."""
        for eqn, back in zip(level.jaxpr.eqns, level.backward, strict=True):
            for out in () if back else eqn.outvars:
                for root, image in level.known[out].images[:-1]:
                    floor, z = look_at(image).floor, level.known[root]
                    made = z.writer is not None and z.writer.has_kernel and counts_units(z.axes)
                    if floor is not None and made and not done & level.roots(out):
                        done.add(root)
                        self.notes.append(
                            f"{eqn.primitive.name} at {line_of(eqn)} stays at {floor:g} on one "
                            "side, which is not 0: taken for no rectifier"
                        )

    def _add(self, level: Level, i, eqn, root, out, shape: Shape, title: str = "") -> None:
        dynamic = None
        if shape.kind in FLAT:
            near = level.thresholds.get(root, ())
            low = [t for t in near if nearest(t.number, shape.threshold)]
            dynamic = next((t for t in low if t.var is not None), None)
            high = [t.number for t in near if nearest(t.number, shape.ceiling)]
            if low and dynamic is None:
                shape = shape._replace(threshold=low[0].below(shape.side))
            if high and np.isfinite(shape.ceiling):
                shape = shape._replace(ceiling=high[0])
        place = level.place.at(i)
        site = make_site(eqn, level.known[root], shape, place, dynamic is not None)
        if site is None:
            return
        self.sites.append(site._replace(name=title or site.name))
        self.tokens.append((level.place.order, root))
        limit, equal = (None, 0) if dynamic is None else (dynamic.var, dynamic.equal)
        entry = Watched(len(self.sites) - 1, root, out, limit, equal == shape.side)
        level.plan.sites.setdefault(i, []).append(entry)

    def _note_parameters(self, level: Level, eqn: Any, operands: list, outs: list) -> None:
        """Notes a rectifier of what is computed from parameters alone: it has no examples."""
        made = [v.kind == PARAMETER and v.writer is not None for v in operands]
        if not level.record or made.count(True) != 1 or not is_elementwise(eqn):
            return
        image = image_of(
            eqn, [GRID if m else v.number for m, v in zip(made, operands, strict=True)]
        )
        shape = look_at(image).shape
        if shape is not None and shape.kind in FLAT:
            self.notes.append(
                f"{eqn.primitive.name} at {line_of(eqn)} rectifies what is computed from "
                "parameters alone, so there are no examples to count"
            )

    def _note_readers(self, eqn: Any, operands: list[Value]) -> None:
        """Notes which activations parameters read, and the kernels that read unit by unit."""
        name = eqn.primitive.name
        product = name in ("dot_general", "conv_general_dilated")
        if not any(v.leaves if v.kind == PARAMETER else product and v.depends for v in operands):
            return
        if product:
            self.read |= sources_of(operands)
            for site, leaf, axes in readers(eqn, operands):
                self.readers.setdefault(site, set()).add(Link(leaf, "outgoing", axes))
        elif name in ("add", "sub", "mul", "div"):
            ndim = len(eqn.outvars[0].aval.shape)
            full = [value for value in operands if len(value.axes) == ndim]
            columns = zip(*(value.axes for value in full), strict=True)
            if any(not label_of(join(list(column))) for column in columns):  # examples remain
                self.read |= sources_of(operands)

    # One equation -----------------------------------------------------------------------------

    def _step(self, level: Level, i: int, eqn: Any, operands: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if name in RANDOM:
            return [Value(DATA, plain(var.aval.shape)) for var in eqn.outvars]
        if name in ("dot_general", "conv_general_dilated"):
            return [linear(eqn, operands)]
        if is_elementwise(eqn) and (body_of(eqn) is None or _of_one(operands)):
            count = range(len(eqn.outvars))
            return [elementwise(eqn, operands, level.uses, level.thresholds, k) for k in count]
        if name in LAYOUT:
            value = operands[0]
            leaves = {leaf: relayout(eqn, own) for leaf, own in value.leaves.items()}
            return [value._replace(axes=relayout(eqn, value.axes), leaves=leaves)]
        if name in REDUCTIONS:
            return reduced(eqn, operands[0])
        if name in ("slice", "split"):
            return parts_of(eqn, operands[0])
        if name == "concatenate" and any(value.kind == DATA for value in operands):
            return [joined(eqn, operands)]
        if name in ("gather", "dynamic_slice") and operands[0].kind == PARAMETER:
            return [self._picked(level, eqn, operands)]
        if name == "gather" and operands[0].kind == DATA:
            return [gathered(eqn, operands)]
        if name in TOP_K:
            selected = frozenset(["units"])
            return [value._replace(averaged=selected) for value in unknown(eqn, operands)]
        if name == "scan":
            return self._scan(level, i, eqn, operands)
        if name == "while":
            return self._while(level, i, eqn, operands)
        if name == "cond":
            return self._branches(level, i, eqn, operands)
        if name == "shard_map":
            return walk_shards(self, level, i, eqn, operands)
        if name in GATHERS and eqn.params["tiled"]:
            return [mesh_gathered(self, eqn, operands[0])]
        inner = body_of(eqn)
        if inner is not None:
            title = eqn.params.get("name", "") if name in ("jit", "pjit") else ""
            place = level.place.at(i, name=title)
            outs, plan = self.walk(inner.jaxpr, inner.consts, operands, level.record, place)
            if plan.busy:
                level.plan.inner[i] = [plan]
            return [value._replace(images=()) for value in outs]
        if level.record and any(_holds_arrays(param) for param in eqn.params.values()):
            self.notes.append(f"{name} at {line_of(eqn)} is not looked into")
        return unknown(eqn, operands)

    def _branches(self, level: Level, i: int, eqn: Any, operands: list[Value]) -> list[Value]:
        results = [
            self.walk(b.jaxpr, b.consts, operands[1:], level.record, level.place.at(i, k))
            for k, b in enumerate(eqn.params["branches"])
        ]
        if any(plan.busy for _, plan in results):
            level.plan.inner[i] = [plan for _, plan in results]
        return [meet(list(values)) for values in zip(*(outs for outs, _ in results), strict=True)]

    def _picked(self, level: Level, eqn: Any, operands: list[Value]) -> Value:
        """A part of a parameter, at a place that is computed."""
        value, index = operands[0], operands[1:]
        shape = eqn.outvars[0].aval.shape
        single = all(math.prod(var.aval.shape) == 1 for var in eqn.invars[1:])
        counter = single and any(v.source == "counter" for v in index)
        gone, to = picked_axes(eqn)
        leaves = {}
        for leaf, own in value.leaves.items():
            axes = list(plain(shape))
            for k, at in to.items():
                if size_of(own[k]) == shape[at]:
                    axes[at] = own[k]
            leaves[leaf] = tuple(axes)
            if counter and gone:
                self.picked[leaf] = tuple(at for k in gone for _, at in label_of(own[k]))
        kind, depends = max(v.kind for v in operands), depends_on(operands)
        if kind < DATA and counter:
            return Value(kind, plain(shape), depends, leaves, number=value.number)
        if kind < DATA:
            return Value(kind, plain(shape), depends)
        axes = next(iter(leaves.values()), plain(shape))  # an embedding, or an expert's kernel
        stacks = [leaf for leaf, own in value.leaves.items() if len(own) > 2]
        if stacks and level.record:
            self.notes.append(
                f"{', '.join(stacks)} at {line_of(eqn)}: picked by an index that the data decide, "
                "so its units are those of all picks together"
            )
        return Value(DATA, axes, depends, writer=Writer(shared=True, upstream=depends))

    # Loops ------------------------------------------------------------------------------------

    def _settled(self, body: ClosedJaxpr, fixed, carry, rest, place) -> list[Value]:
        """What is known of a loop's carry, whichever time the loop runs."""
        carry = [value._replace(images=(), source=None, number=None) for value in carry]
        counters = _counters(body, len(fixed), len(carry))
        carry = [
            value._replace(source="counter") if k in counters else value
            for k, value in enumerate(carry)
        ]
        for _ in range(MOST_PASSES):
            outs, _ = self.walk(body.jaxpr, body.consts, [*fixed, *carry, *rest], False, place)
            new = [
                old if k in counters else meet([old, out])
                for k, (old, out) in enumerate(zip(carry, outs, strict=False))
            ]
            if new == carry:
                break
            carry = new
        return carry

    def _scan(self, level: Level, i: int, eqn: Any, operands: list[Value]) -> list[Value]:
        params = eqn.params
        consts, carries = scan_counts(eqn)
        place = level.place.at(i, loop=True)
        fixed, first = operands[:consts], operands[consts : consts + carries]
        stacked = operands[consts + carries :]
        rows = [
            value._replace(
                axes=value.axes[1:],
                leaves={leaf: own[1:] for leaf, own in value.leaves.items()},
                images=(),
            )
            for value in stacked
        ]
        outer, self.picked = self.picked, {}
        body = params["jaxpr"]
        carry = self._settled(body, fixed, first, rows, place)
        before = len(self.sites)
        outs, plan = self.walk(
            body.jaxpr, body.consts, [*fixed, *carry, *rows], level.record, place
        )
        layers = self.picked | {
            leaf: tuple(at for _, at in label_of(own[0]))
            for value in stacked
            for leaf, own in value.leaves.items()
            if label_of(own[0])
        }
        self.picked = outer
        if plan.busy:
            for number in range(before, len(self.sites)):
                site = self.sites[number]
                counts = any(link.leaf in layers for link in site.links)
                plan.stacked[number] = counts
                if counts:
                    links = tuple(
                        link._replace(axes=(*layers.get(link.leaf, ()), *link.axes))
                        for link in site.links
                    )
                    units = (params["length"], *site.units)
                    self.sites[number] = site._replace(units=units, links=links)
                    token = self.tokens[number]
                    self.readers[token] = {
                        link._replace(axes=(*layers.get(link.leaf, ()), *link.axes))
                        for link in self.readers.get(token, ())
                    }
            level.plan.inner[i] = [plan]
        ends = [meet([a, b]) for a, b in zip(carry, outs[:carries], strict=True)]
        length = ((params["length"], ()),)
        return ends + [
            value._replace(axes=(length, *value.axes), images=(), leaves={}, number=None)
            for value in outs[carries:]
        ]

    def _while(self, level: Level, i: int, eqn: Any, operands: list[Value]) -> list[Value]:
        params = eqn.params
        first, second = params["cond_nconsts"], params["body_nconsts"]
        place = level.place.at(i, loop=True)
        fixed = operands[first : first + second]
        body = params["body_jaxpr"]
        carry = self._settled(body, fixed, operands[first + second :], [], place)
        outs, plan = self.walk(body.jaxpr, body.consts, [*fixed, *carry], level.record, place)
        if plan.busy:
            level.plan.inner[i] = [plan]
        return [meet([a, b]) for a, b in zip(carry, outs, strict=True)]


def _counters(body: ClosedJaxpr, fixed: int, carries: int) -> set[int]:
    """Which places of a loop's carry count its passes."""
    jaxpr = body.jaxpr
    made = {eqn.outvars[0]: eqn for eqn in jaxpr.eqns if eqn.primitive.name == "add"}
    counters = set()
    for k in range(carries):
        out, own = jaxpr.outvars[k], jaxpr.invars[fixed + k]
        eqn = made.get(out) if not isinstance(out, Literal) else None
        if eqn is not None and eqn.invars[0] is own and isinstance(eqn.invars[1], Literal):
            if eqn.invars[1].val == 1:
                counters.add(k)
    return counters


def _of_one(operands: list[Value]) -> bool:
    """Whether a function of these is one of a single value of the data, or of none."""
    known = all(value.images or value.number is not None for value in operands)
    return known or all(value.kind < DATA for value in operands)


def _holds_arrays(param: Any) -> bool:
    """Whether a parameter of an equation holds a jaxpr that computes more than numbers."""
    several = param if isinstance(param, tuple | list) else [param]
    jaxprs = [one for one in several if isinstance(one, ClosedJaxpr | Jaxpr)]
    made: list[Any] = [var.aval for one in jaxprs for eqn in one.eqns for var in eqn.outvars]
    return any(aval.shape for aval in made)


def analyse(closed: ClosedJaxpr, values: list[Value]) -> tuple[Plan, list[Site], list[str]]:
    """(plan, sites, notes) of a closed jaxpr, given what is known of its inputs."""
    analysis = Analysis()
    _, plan = analysis.walk(closed.jaxpr, closed.consts, values, True, Place())
    shapes = {
        leaf: tuple(map(size_of, own)) for value in values for leaf, own in value.leaves.items()
    }
    sites = [
        checked(site, shapes)._replace(
            outgoing=tuple(sorted(analysis.readers.get(token, ()))), hidden=token in analysis.read
        )
        for site, token in zip(analysis.sites, analysis.tokens, strict=True)
    ]
    return plan, sites, list(dict.fromkeys(analysis.notes))
