"""Zero gradient: the path of parameters that get no gradient, under any optimizer.

The optimizer's own program is run on intervals. Of every leaf the chosen entries are followed one
by one, with a gradient of exactly 0; all other entries are one interval, of which nothing is known.
Whatever couples the entries (the norm of all gradients, a trust ratio, noise) makes what it touches
unknown, so no optimizer needs to be known by name.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.checks import short_repr
from relu_dynamics.inspection.prognosis.bounds import LEAST_OR_MOST, RENAMES, constant, sum_of
from relu_dynamics.inspection.prognosis.intervals import (
    Interval,
    Precision,
    chosen,
    pick,
    precision,
    top,
)
from relu_dynamics.inspection.prognosis.rules import elementwise, has_rule, is_complex
from relu_dynamics.inspection.prognosis.walks import variables_read, walk
from relu_dynamics.inspection.reading.activations import LAYOUT
from relu_dynamics.inspection.reading.watch import leaf_name

UNKNOWN = top()


class Entries(NamedTuple):
    """A value of the optimizer's program: of leaf number `leaf` the chosen entries and, last, all
    others, [chosen + 1]; else one interval for all numbers of the value, []."""

    x: Interval
    leaf: int | None = None


def _whole(value: Entries) -> Interval:
    """One interval for all entries."""
    return value.x if value.leaf is None else Interval(value.x.low.min(), value.x.high.max())


class EntryByEntry:
    """The domain of `Entries` (see `walks`)."""

    opaque = frozenset()

    def __init__(self):
        self.remembered: dict = {}
        self.numbers: dict = {}

    def constant(self, value: Any) -> Entries:
        """A number, or an array as its smallest and largest entry."""
        if isinstance(value, np.generic | float | int):
            key = float(value)
            if key not in self.numbers:
                self.numbers[key] = Entries(constant(value))
            return self.numbers[key]
        x = constant(value)
        return Entries(x if x.low.ndim == 0 else Interval(x.low.min(), x.high.max()))

    def wants(self, number: int) -> bool:
        """An optimizer has no sites."""
        return False

    def choose(self, which: Entries, cases: tuple) -> Entries:
        """What comes out of a branch."""
        return self._together(list(cases), lambda xs: chosen(_whole(which), *xs))

    def scan(self, eqn: Any, operands: list, plan: Any) -> tuple[list, dict]:
        """Loops are not followed."""
        return [Entries(UNKNOWN) for _ in eqn.outvars], {}

    def _together(self, values: list[Entries], rule: Any) -> Entries:
        leaves = {value.leaf for value in values} - {None}
        if len(leaves) <= 1:
            return Entries(rule([value.x for value in values]), leaves.pop() if leaves else None)
        return Entries(rule([_whole(value) for value in values]))

    def step(self, eqn: Any, operands: list[Entries]) -> list[Entries]:
        """The outputs of one operation."""
        name, out = eqn.primitive.name, eqn.outvars[0].aval
        if any(is_complex(var.aval.dtype) for var in (*eqn.invars, *eqn.outvars)):
            return [Entries(UNKNOWN) for _ in eqn.outvars]
        same = bool(operands) and eqn.invars[0].aval.shape == out.shape
        if name in RENAMES or name in LAYOUT and name != "transpose" and same:
            return operands
        if name in LAYOUT or name in LEAST_OR_MOST:
            return [Entries(_whole(operands[0]))]
        if name == "reduce_sum":
            terms = math.prod(eqn.invars[0].aval.shape) // max(math.prod(out.shape), 1)
            return [Entries(_repeated(_whole(operands[0]), terms, precision(out.dtype)))]
        if has_rule(eqn):
            return [self._together(operands, lambda xs: elementwise(eqn, xs))]
        return [Entries(UNKNOWN) for _ in eqn.outvars]


def _repeated(x: Interval, terms: int, p: Precision) -> Interval:
    """The sum of so many numbers of an interval."""
    return sum_of(Interval(x.low * terms, x.high * terms), x.size * terms, terms, p)


# The optimizer's program ----------------------------------------------------------------------


def one_update(tx: optax.GradientTransformation, gradients: Any, memory: Any, params: Any) -> Any:
    """(parameters, updates, state) after one step."""
    updates, memory = tx.update(gradients, memory, params)
    return optax.apply_updates(params, updates), updates, memory


def check_memory(tx: optax.GradientTransformation, params: Any, memory: Any) -> None:
    """Raises a ValueError that names the leaf where `memory` is not `tx`'s state for `params`, or
    what prevents an update."""
    named = lambda tree: {  # noqa: E731
        leaf_name(path): (jnp.shape(x), jnp.result_type(x))
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    wanted, given = named(jax.eval_shape(tx.init, params)), named(memory)
    for name in [*wanted, *given]:
        if wanted.get(name) != given.get(name):
            shape, other = (
                "no such leaf" if x is None else f"shape {x[0]} and type {x[1]}"
                for x in (given.get(name), wanted.get(name))
            )
            raise ValueError(
                f"memory {name!r} has {shape}, and the state that tx.init makes for the trained "
                f"parameters {other}; give the state of this optimizer and these parameters."
            )
    try:
        jax.eval_shape(functools.partial(one_update, tx), params, memory, params)
    except Exception as error:
        raise ValueError(
            f"tx.update cannot be traced with (gradients, state, parameters): "
            f"{short_repr(str(error).splitlines()[0] if str(error) else error)}; give the "
            "optimizer as your training step calls it."
        ) from error


# The path -------------------------------------------------------------------------------------


class Box(NamedTuple):
    """Chosen entries of every leaf, in the order of their flat numbers, float64 NumPy: of one step
    [entries], of several [steps, entries]."""

    low: list[np.ndarray]
    high: list[np.ndarray]

    def joined(self, other: "Box") -> "Box":
        """What may be either."""
        return Box(
            [np.minimum(a, b) for a, b in zip(self.low, other.low, strict=True)],
            [np.maximum(a, b) for a, b in zip(self.high, other.high, strict=True)],
        )

    @property
    def hull(self) -> "Box":
        """Of several steps, what may be any."""
        return Box([low.min(0) for low in self.low], [high.max(0) for high in self.high])


class Path:
    """Chosen entries of the parameters (`masks`: bools like the leaves) on their way without a
    gradient, from now on."""

    def __init__(self, tx: optax.GradientTransformation, params: Any, memory: Any, masks: list):
        paths = jax.tree_util.tree_flatten_with_path(params)[0]
        self.chosen = [np.flatnonzero(mask) for mask in masks]
        self.program = jax.make_jaxpr(functools.partial(one_update, tx))(params, memory, params)
        self.own = [self._entries(np.asarray(leaf), k) for k, (_, leaf) in enumerate(paths)]
        self.gradients = [_none(x) for x in self.own]
        self.kept = []
        for path, leaf in jax.tree_util.tree_flatten_with_path(memory)[0]:
            k = _leaf_of(leaf_name(path), leaf, paths)
            self.kept.append(_uniform(leaf) if k is None else self._entries(np.asarray(leaf), k))
        self.real = [
            jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in jax.tree.leaves(memory)
        ]
        self.domain = EntryByEntry()
        self.needed = self._needed()

    def _needed(self) -> list[bool]:
        """Of the outputs of one update: leaves with a chosen entry, and the state that they depend
        on sooner or later."""
        count, jaxpr = len(self.own), self.program.jaxpr
        wanted = [bool(len(at)) for at in self.chosen] + [False] * (count + len(self.kept))
        while True:
            read = variables_read(jaxpr, wanted, self.domain)
            state = jaxpr.invars[count : count + len(self.kept)]
            more = [a or v in read for a, v in zip(wanted[2 * count :], state, strict=True)]
            now = wanted[: 2 * count] + more
            if now == wanted:
                return wanted
            wanted = now

    def _entries(self, leaf: np.ndarray, number: int) -> Entries:
        own = leaf.reshape(-1)[self.chosen[number]].astype(np.float64)
        return Entries(Interval(np.append(own, -np.inf), np.append(own, np.inf)), number)

    def _after(self, own: list[Entries], kept: list[Entries], needed: list[bool]) -> list:
        """The outputs of one update."""
        with np.errstate(all="ignore"):
            outs, _ = walk(
                self.program, [*self.gradients, *kept, *own], self.domain, outputs=needed
            )
        return outs

    def _next(self, own: list[Entries], kept: list[Entries]) -> tuple[list, list]:
        outs = self._after(own, kept, self.needed)
        count = len(own)
        own = [_shaped(x, like) if x else like for x, like in zip(outs, own, strict=False)]
        pairs = zip(outs[2 * count :], kept, strict=True)
        return own, [_shaped(x, like) if x else like for x, like in pairs]

    @property
    def now(self) -> Box:
        """The entries at this step."""
        ends = [[end[:-1] for end in value.x] for value in self.own]
        return Box([low for low, _ in ends], [high for _, high in ends])

    def advance(self, steps: int) -> Box:
        """The entries now and at each of the next steps, [steps + 1, entries]."""
        boxes = [self.now]
        for _ in range(steps):
            self.own, self.kept = self._next(self.own, self.kept)
            boxes.append(self.now)
        return Box(
            *(list(map(np.stack, zip(*ends, strict=True))) for ends in zip(*boxes, strict=True))
        )

    def held(self) -> Iterator[Box]:
        """What holds entries at every later step: intervals of parameters and state that one more
        update does not leave, by one guess after the other. Entries that no interval of a guess
        holds are unknown in it."""
        for counts, real, parameters in itertools.product(
            (_from_now, _any), (_towards_zero, _as_it_is), (_as_it_is, _towards_zero)
        ):
            kept = [
                (real if is_real else counts)(value)
                for value, is_real in zip(self.kept, self.real, strict=True)
            ]
            own, left = [parameters(value) for value in self.own], True
            while left:
                after = self._next(own, kept)
                own, left_own = _opened(own, after[0])
                kept, left_kept = _opened(kept, after[1])
                left = left_own or left_kept
            ends = [[end[:-1] for end in value.x] for value in own]
            yield Box([low for low, _ in ends], [high for _, high in ends])

    def frozen(self) -> list[bool]:
        """Which leaves no step ever moves, whatever the gradients (`optax.set_to_zero`, a learning
        rate of 0)."""
        count = len(self.own)
        needed = [*([False] * count), *([True] * count), *([False] * len(self.kept))]
        kept = [_any(value) for value in self.kept]
        outs = self._after([_any(value) for value in self.own], kept, needed)
        return [bool(_whole(value).size == 0) for value in outs[count : 2 * count]]


def _none(own: Entries) -> Entries:
    """The gradient: none of the chosen entries, an unknown one of all others."""
    zeros = np.zeros(len(own.x.low) - 1)
    return Entries(Interval(np.append(zeros, -np.inf), np.append(zeros, np.inf)), own.leaf)


def _shaped(value: Entries, like: Entries) -> Entries:
    """A value as it stands in the state."""
    x = value.x if value.leaf == like.leaf else _whole(value)
    if np.shape(x.low) != np.shape(like.x.low):
        x = Interval(*(np.broadcast_to(end, np.shape(like.x.low)) for end in x))
    return Entries(x, like.leaf)


def _opened(values: list[Entries], after: list[Entries]) -> tuple[list[Entries], bool]:
    """(values, of which those that one update leaves are unknown; whether there are any)."""
    opened, left = [], False
    for value, new in zip(values, after, strict=True):
        leaves = (new.x.low < value.x.low) | (new.x.high > value.x.high)
        left = left or bool(np.any(leaves))
        opened.append(value._replace(x=pick(leaves, UNKNOWN, value.x)))
    return opened, left


def _as_it_is(value: Entries) -> Entries:
    return value


def _towards_zero(value: Entries) -> Entries:
    return value._replace(x=Interval(np.minimum(value.x.low, 0), np.maximum(value.x.high, 0)))


def _from_now(value: Entries) -> Entries:
    return value._replace(x=Interval(value.x.low, np.full(np.shape(value.x.low), np.inf)))


def _any(value: Entries) -> Entries:
    return value._replace(x=top(np.shape(value.x.low)))


def _leaf_of(name: str, leaf: Any, paths: list) -> int | None:
    """The leaf of the parameters that an array of the optimizer's state belongs to."""
    ends = [
        (len(leaf_name(path)), k)
        for k, (path, own) in enumerate(paths)
        if jnp.ndim(leaf) and jnp.shape(own) == jnp.shape(leaf)
        if f"/{name}".endswith(f"/{leaf_name(path)}")
    ]
    return max(ends)[1] if ends else None


def _uniform(leaf: Any) -> Entries:
    """An array of the state that belongs to no leaf."""
    return EntryByEntry().constant(leaf) if jnp.size(leaf) else Entries(UNKNOWN)
