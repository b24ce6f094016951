"""What cannot be explored is refused in one line."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import TRACED
from relu_dynamics.engine.outcomes import History
from relu_dynamics.statistics import estimates

MOST_CELLS = 4096  # of all maps of a page: about 18 MB

CONFIG_FIELDS = (
    "task", "hidden", "optimizer", "batch_size", "steps", "probe_size", "examples", "sustain",
)  # fmt: skip

UNIT_FIELDS = tuple(name for name in History._fields if name != "diverged_at")

DIMENSIONS = {
    **{name: ("seed", "unit") for name in (*UNIT_FIELDS, "outcome")},
    "diverged_at": ("seed",),
    **{name: ("unit",) for name in ("biased", "unit_layer", "unit_in_layer")},
    "probe_step": ("probe_step",),
    "seed": ("seed",),
}  # of what is read of a result, after the axes


class MissingBokehError(ImportError, ValueError):
    """The extra `explorer` is not installed. A ValueError too, so that scripts end in one line."""


def check_bokeh() -> None:
    """Raises a `MissingBokehError` when bokeh is not installed."""
    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise MissingBokehError(
            "the explorer needs bokeh; install it: pip install bokeh."
        ) from None


def check_results(result: Any) -> dict[str, xr.Dataset]:
    """Results by name; raises a ValueError that names what is wrong."""
    if isinstance(result, xr.Dataset):
        named = {"result": result}
    elif isinstance(result, Mapping) and result:
        named = {str(name): one for name, one in result.items()}
    else:
        raise ValueError(
            f"result={short_repr(result)} must be a result of sweep or open_result, or a mapping "
            "of names to them."
        )
    cells = 0
    for name, one in named.items():
        _check_result(name, one)
        cells += int(np.prod([one.sizes[axis] for axis in estimates.axis_names(one)]))
    if cells > MOST_CELLS:
        raise ValueError(
            f"result has {cells} cells; a page holds at most {MOST_CELLS}: explore a part, such "
            "as result.isel(learning_rate=slice(0, 32))."
        )
    return named


def _check_result(name: str, result: Any) -> None:
    if not isinstance(result, xr.Dataset) or "identity" not in result.attrs:
        raise ValueError(
            f"{short_repr(name)} has no attribute `identity`; give what sweep or open_result "
            "returned."
        )
    try:
        identity = json.loads(result.attrs["identity"])
        axes = [axis for axis, _ in identity["axes"]]
        missing = [field for field in CONFIG_FIELDS if field not in identity["config"]]
    except (TypeError, ValueError, KeyError, RecursionError):
        raise ValueError(
            f"{short_repr(name)}: its attribute `identity` is not a grid's; give what sweep or "
            "open_result returned."
        ) from None
    if missing or not axes:
        raise ValueError(f"{short_repr(name)}: its identity lacks {', '.join(missing) or 'axes'}.")
    for axis in axes:
        check_choice("axis", axis, TRACED)
        if axis not in result.dims:
            raise ValueError(
                f"{short_repr(name)}: its axis {axis} is no dimension; keep it, as in "
                f"result.isel({axis}=[0])."
            )
    for variable, dimensions in DIMENSIONS.items():
        wanted = {*dimensions, *(axes if "seed" in dimensions and variable != "seed" else ())}
        if variable not in result.variables or set(result[variable].dims) != wanted:
            raise ValueError(
                f"{short_repr(name)} lacks {variable} over {', '.join(sorted(wanted))}; give what "
                "sweep or open_result returned."
            )
    if not all(result.sizes[dimension] for dimension in (*axes, "seed", "unit")):
        raise ValueError(f"{short_repr(name)} holds no run; select at least one cell and one seed.")
