"""What all reproductions share: sources, the table of published numbers beside ours, verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relu_dynamics.checks import check_choice
from relu_dynamics.engine import initializers
from relu_dynamics.statistics import claims, exact_interval

LU = "Lu et al., arXiv 1903.06733"
ARNEKVIST = "Arnekvist et al., arXiv 2005.06195"
UVA = "UvA deep learning tutorial 3 (JAX)"
DOHARE = "Dohare et al., doi 10.1038/s41586-024-07711-7"
SIMON = "setting of Simon, Adams & Zou, arXiv 2605.31518"
SOHL = "Sohl-Dickstein, arXiv 2402.06184"
INITS = {"he": "he_normal", "rai": "randomized_asymmetric"}
FULL: dict[str, Any] = {
    "batch_size": None,
    "initial_bias": 0.0,
    "biased_layer": 1,
    "biased_units": 1,
}


def entry(source: str, quantity: str, published: str, row: Mapping[str, Any], verdict: str) -> dict:
    """A line of the table: source, published number, ours with its interval, verdict."""
    return {
        "source": source,
        "quantity": quantity,
        "published": published,
        "ours": row["estimate"],
        "interval": row["interval"],
        "count": f"{row.get('trials', row['seeds']):,}",
        "verdict": verdict,
    }


def against(row: Mapping[str, Any], low: float = -np.inf, high: float = np.inf) -> str:
    """The verdict on "the number lies between low and high" from its interval."""
    if low <= row["interval"][0] and row["interval"][1] <= high:
        return "confirmed"
    if row["interval"][1] < low or row["interval"][0] > high:
        return "refuted"
    return "undecided"


def against_exact(row: Mapping[str, Any], exact: float) -> str:
    """Whether the interval holds the exact value."""
    low, high = row["interval"]
    return "confirmed" if low <= exact <= high else "refuted"


def against_counts(row: Mapping[str, Any], successes: int, trials: int) -> str:
    """Whether ours is the share that published counts show: their interval (Clopper-Pearson) and
    ours meet."""
    theirs = exact_interval(successes, trials)
    low, high = row["interval"]
    return "refuted" if low > theirs.high or high < theirs.low else "confirmed"


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table of published numbers as text."""
    for row in rows:
        low, high = row["interval"]
        print(
            f"{row['source']}: {row['quantity']}\n    published {row['published']}; here "
            f"{row['ours']:.4g} [{low:.4g}, {high:.4g}] of {row['count']}: {row['verdict']}"
        )


def check_counts(**counts: int) -> None:
    """Raises a one-line ValueError for a number that is not at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")


def report(summary: Mapping[str, Any]) -> None:
    """The table and the claims of a summary as text."""
    print_table(summary["table"])
    claims.print_claims(summary["claims"])


def initializer(name: str) -> str:
    """The initializer of a short name; raises a ValueError with the nearest known one."""
    check_choice("init", name, (*INITS, *initializers.INITIALIZERS))
    if name == "data_dependent":
        raise ValueError("init='data_dependent' is no draw of a network alone; use another.")
    return INITS.get(name, name)
