"""Activations by what they compute: which chains of elementwise operations are rectifiers.

A chain of operations on one value is evaluated in NumPy on `GRID`. What comes out is its *image*.
An image that is 0 on the left and grows from some point on is a rectifier, whatever it is called in
the program and however it is written: `relu`, `maximum`, `where`, `clip`, `z * (z > 0)`.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jax.extend.core import ClosedJaxpr, Literal

_HALF = np.union1d(np.geomspace(1e-3, 1e3, 49), np.arange(0.1, 6.6, 0.1).round(1))

GRID = np.concatenate([-_HALF[::-1], [0.0], _HALF])

STAND_IN = 0.31  # for the number of a parameter in a chain, a threshold or a slope; not on GRID

ELEMENTWISE: dict[str, Any] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "and": np.logical_and,
    "ceil": np.ceil,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "cos": np.cos,
    "div": np.divide,
    "eq": np.equal,
    "erf": scipy.special.erf,
    "erfc": scipy.special.erfc,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "integer_pow": lambda x, y: x**y,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "logistic": scipy.special.expit,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.logical_not,
    "or": np.logical_or,
    "pow": np.power,
    "round": np.round,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "select_n": lambda which, *cases: np.where(which, cases[-1], cases[0]),
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "tanh": np.tanh,
}

# The same numbers come out: in the same axes, and in others.
SAME = {
    *("convert_element_type", "copy", "copy_p", "device_put", "mesh_cast", "name"),
    *("optimization_barrier", "pvary", "reduce_precision", "sharding_constraint", "stop_gradient"),
}
LAYOUT = {"broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose"}

# The parameter that holds the one jaxpr that an equation calls.
_BODY = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
}

_LONGEST_CHAIN = 40  # equations of an inner jaxpr that may be one activation

_GUARD = 1e-2  # a maximum with a smaller number keeps a division or a logarithm defined

_SMOOTH_BELOW = -5  # gelu is exactly 0 below -7 in float64: a rectifier's edge lies above this


class Shape(NamedTuple):
    """What an activation looks like."""

    kind: str  # relu, relu_power, clipped, shrink, leaky, smooth; jump, topk are found otherwise
    threshold: float = 0.0  # 0 up to here, where there is such a part
    ceiling: float = np.inf  # constant from here on
    side: int = 1  # where it passes something on: 1 above its threshold, -1 below, as min(z, 0)


def body_of(eqn: Any) -> ClosedJaxpr | None:
    """The one jaxpr that an equation calls, closed, or None."""
    inner = eqn.params.get(_BODY.get(eqn.primitive.name, ""))
    if inner is None or isinstance(inner, ClosedJaxpr):
        return inner
    return ClosedJaxpr(inner, ())


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many after them are carried."""
    if "ft_in" in eqn.params:  # JAX 0.12
        consts, carry, _ = eqn.params["ft_in"].unpack()
        return len(consts), len(carry)
    return eqn.params["num_consts"], eqn.params["num_carry"]


def is_elementwise(eqn: Any) -> bool:
    """Whether an equation computes number by number: an operation, or a function of only such."""
    name = eqn.primitive.name
    if name in ELEMENTWISE or name in SAME:
        return True
    inner = body_of(eqn)
    if inner is None or len(inner.jaxpr.eqns) > _LONGEST_CHAIN:
        return False
    return all(e.primitive.name in LAYOUT or is_elementwise(e) for e in inner.jaxpr.eqns)


def image_of(eqn: Any, operands: list, output: int = 0) -> Any:
    """An elementwise equation's output for operands that are numbers or images; None where one of
    them is not known, or the equation is none."""
    name = eqn.primitive.name
    if any(operand is None for operand in operands):
        return None
    if name in SAME or name in LAYOUT:
        return operands[0]
    with np.errstate(all="ignore"):
        if name in ELEMENTWISE:
            extra = {"y": eqn.params["y"]} if name == "integer_pow" else {}
            return ELEMENTWISE[name](*(np.asarray(o, float) for o in operands), **extra) * 1.0
    inner = body_of(eqn)
    if inner is None:
        return None
    known = dict(zip(inner.jaxpr.invars, operands, strict=True))
    known |= {
        var: const if np.ndim(const) == 0 else None
        for var, const in zip(inner.jaxpr.constvars, inner.consts, strict=True)
    }
    read = lambda v: float(v.val) if isinstance(v, Literal) else known.get(v)  # noqa: E731
    for step in inner.jaxpr.eqns:
        inputs = [read(v) for v in step.invars]
        known |= {var: image_of(step, inputs, k) for k, var in enumerate(step.outvars)}
    return read(inner.jaxpr.outvars[output])


class Look(NamedTuple):
    """What is known of an image."""

    shape: Shape | None = None  # None where it is no rectifier's
    affine: bool = False  # a straight line
    steep: bool = False  # it has a slope everywhere but at single points
    floor: float | None = None  # where it stays on one side, growing on the other, if not at 0


def look_at(image: Any) -> Look:
    """What an image of `GRID` looks like."""
    if np.shape(image) != GRID.shape:
        return Look()
    return _look_at(np.asarray(image, float).tobytes())


@functools.lru_cache(maxsize=10_000)  # the layers of a network repeat their images
def _look_at(data: bytes) -> Look:
    image = np.frombuffer(data)
    if not np.isfinite(image).all():
        return Look()
    slope = np.diff(image) / np.diff(GRID)
    affine = bool(np.ptp(slope) <= 1e-9 * np.abs(slope).max())
    return Look(_shape_of(image), affine, bool(slope.all()), _floor_of(image))


def _shape_of(image: np.ndarray) -> Shape | None:
    if not np.any(image):
        return None
    shape = _rising(image) or _shrinking(image)
    if shape is None:
        mirrored = _rising(image[::-1])  # of -z
        if mirrored is not None and mirrored.kind in ("relu", "relu_power"):
            return mirrored._replace(threshold=-mirrored.threshold, ceiling=-np.inf, side=-1)
    return shape


def _rising(image: np.ndarray) -> Shape | None:
    slope = np.diff(image) / np.diff(GRID)
    left, right, steepest = slope[0], slope[-1], np.abs(slope).max()
    edge = _edge(image)
    if edge and GRID[edge] > _SMOOTH_BELOW:
        if image[0] != 0:
            return None  # a guard, such as max(x, 1e-6)
        threshold = float(GRID[edge - 1])
        if right == 0:
            ramp = slope[edge] > 0 and abs(slope[edge] - steepest) < 0.5 * steepest
            top = len(GRID) - int(np.argmin(image[::-1] == image[-1]))
            return Shape("clipped", threshold, float(GRID[top])) if ramp else None
        straight = image[-9] != 0 and abs(_ratio(image, -1, -9) - 1) < 1e-2
        return Shape("relu" if straight else "relu_power", threshold)
    straight = right != 0 and abs(slope[-9] / right - 1) < 1e-2
    if straight and 0 <= left / right <= 0.5:
        close = 1e-9 * abs(right)
        one_slope = left > close and np.ptp(slope[GRID[1:] <= -1]) <= close
        return Shape("leaky" if one_slope else "smooth")
    return None


def _shrinking(image: np.ndarray) -> Shape | None:
    """0 around 0 and straight outside, alike on both sides: soft and hard shrinkage."""
    middle = len(GRID) // 2
    nonzero = np.flatnonzero(image[middle:])
    first = middle + int(nonzero[0]) if nonzero.size else 0
    if first < middle + 2 or not np.allclose(image, -image[::-1], rtol=1e-12):
        return None
    slope = np.diff(image[first:]) / np.diff(GRID[first:])
    straight = len(slope) > 1 and slope[0] > 0 and np.ptp(slope) <= 1e-6 * slope[0]
    return Shape("shrink", float(GRID[first - 1])) if straight else None


def _floor_of(image: np.ndarray) -> float | None:
    edge = _edge(image)
    grows = edge and GRID[edge] > _SMOOTH_BELOW and image[-1] > image[-2]
    return float(image[0]) if grows and abs(image[0]) > _GUARD else None


def _edge(image: np.ndarray) -> int:
    """The first point of `GRID` that differs from the leftmost."""
    return int(np.argmin(image == image[0]))


def _ratio(image: np.ndarray, one: int, other: int) -> float:
    return image[one] / GRID[one] / (image[other] / GRID[other])


def nearest(number: float, edge: float) -> bool:
    """Whether a number lies in the cell of `GRID` that begins or ends at an edge seen on it."""
    at = int(np.argmin(np.abs(GRID - edge)))
    return bool(GRID[max(at - 1, 0)] <= number <= GRID[min(at + 1, len(GRID) - 1)])
