"""The page of a diagnosis: one self-contained HTML file, to sort, click and send around."""

import os
import pathlib
from typing import Any

import numpy as np

from relu_dynamics import store
from relu_dynamics.checks import check_path, short_repr
from relu_dynamics.inspection.records.definitions import DEFINITIONS
from relu_dynamics.inspection.report.report import LEVEL, Diagnosis
from relu_dynamics.pages import self_contained, text_in

MOST_UNITS = 200_000  # of a page: about 40 MB

BINS = 40

STATISTICS = {
    "margin": "the largest z minus threshold on what was seen",
    "minimum": "the smallest z minus threshold",
    "mean, squares": "of z: its mean, and the sum of squared deviations from it",
    "size": "the mean of |activation|",
    "examples": "places where the unit was computed; of a convolution every position is one",
    "active, sloped, invalid": "of these: above the threshold, with a slope that is not 0, NaN",
}

STATES = {  # of a unit, the first that fits
    "invalid": "z was NaN",
    "dead": "dead: never above its threshold",
    "flat": "flat: no slope on any example",
    "dormant": "dormant: at most a tenth of its layer's mean activation",
    "alive": "alive",
}


def write_page(found: Diagnosis, path: str | os.PathLike = "diagnosis.html") -> pathlib.Path:
    """Writes a diagnosis as one HTML page and returns its path; an existing file is replaced.

    The page needs no network, and its Content-Security-Policy forbids it. Numbers are rounded to 4
    significant digits. Raises a ValueError for more than `MOST_UNITS` units, and a
    `store.NotWritableError` for a path that cannot be written.
    """
    path = check_path("path", path)
    if found.probe.units > MOST_UNITS:
        raise ValueError(
            f"there are {found.probe.units} units; a page holds at most {MOST_UNITS}: leave sites "
            "out with exclude=[...], or use to_json()."
        )
    package = "relu_dynamics.diagnose"
    title = f"{len(found.dead)} of {found.probe.units} units dead"
    scripts = [text_in(package, "page.js")]
    page = self_contained(package, "page.html", title, scripts, {"data": numbers(found)})
    try:
        store.write_whole(path, page.encode())
    except OSError as error:
        raise store.NotWritableError(
            f"path={short_repr(str(path))} cannot be written ({error.strerror}); choose another."
        ) from None
    return path


def numbers(found: Diagnosis) -> dict[str, Any]:
    """What the page shows, as plain values."""
    rows, slices = found.rows, found.probe.slices
    margin = np.asarray(found.seen.margin, float)
    dead = found.defined["dead"]
    sites = []
    for row in rows:
        part = slices[row["site"]]
        shown = {k: rounded(v) for k, v in row.items() if k != "hidden"}
        kind = row["kind"] if row["hidden"] else f"{row['kind']}, not hidden"
        histogram = histogram_of(margin[part], dead[part])
        sites.append(shown | {"kind": kind, "first": part.start, "histogram": histogram})
    return {
        "headline": found.headline,
        "columns": [name for name in rows[0] if name != "hidden"],
        "sites": sites,
        "units": {name: rounded(values.tolist()) for name, values in found.columns.items()},
        "states": states(found),
        "key": STATES,
        "bound": "rate below: no dead unit of the layer fires for a larger share of examples, at "
        f"{LEVEL:.0%} confidence each, were they independent (positions of an image are not).",
        "fixes": [
            {"text": str(fix), "call": fix.call, "unmeasured": fix.unmeasured}
            for fix in found.fixes
        ],
        "words": [*([name, " ".join((DEFINITIONS[name].__doc__ or "").split())]
                    for name in found.defined), *map(list, STATISTICS.items())],
        "not_read": list(found.probe.notes),
    }  # fmt: skip


def states(found: Diagnosis) -> list[str]:
    """What each unit is, a name in `STATES`; [units]."""
    invalid = np.asarray(found.seen.invalid) > 0
    fits = [invalid, *(found.defined[name] for name in ("dead", "flat", "dormant"))]
    return np.select(fits, list(STATES)[:-1], "alive").tolist()


def histogram_of(margin: np.ndarray, dead: np.ndarray) -> dict[str, Any]:
    """Counts of a layer's margins, of dead units and of all others, in `BINS` bins that end at 0
    where there are margins of both signs."""
    known = np.isfinite(margin)
    note = "" if known.all() else f"{int((~known).sum())} units without a finite margin. "
    if not known.any():
        return {"edges": [], "dead": [], "others": [], "note": note}
    low, high = float(min(margin[known].min(), 0)), float(max(margin[known].max(), 0))
    width = (high - low or 1.0) / BINS
    below, over = int(np.ceil(-low / width)), int(np.ceil(high / width))
    below += not below and bool(dead.any())  # a margin of 0 is dead: it belongs below
    edges = np.arange(-below, over + 1) * width
    counts = [
        np.histogram(np.clip(margin[known & chosen], *ends), edges)[0]
        for chosen, ends in ((dead, (edges[0], -1e-9 * width)), (~dead, (None, edges[-1])))
    ]
    lists = {"dead": counts[0].tolist(), "others": counts[1].tolist()}
    return lists | {"edges": rounded(edges.tolist()), "note": f"{note}{int(known.sum())} units."}


def rounded(value: Any) -> Any:
    """Plain values with numbers of 4 significant digits, None where one is not finite."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.4g}") if np.isfinite(value) else None
