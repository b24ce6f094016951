"""Memory: what a run would hold, refused before it starts when it would not fit."""

import os
import pathlib
import re

from relu_dynamics.config import Config
from relu_dynamics.engine.probes import LayerSummary, UnitStatistics


def trace_bytes(config: Config, trace_units: bool) -> int:
    """Bytes of one run's trace: what it returns, twice (the scan stacks, then reshapes)."""
    summaries = (config.probes + 1) * len(config.hidden) * len(LayerSummary._fields)
    per_unit = 0
    if trace_units:
        fields = len(UnitStatistics._fields)
        per_unit = config.units * (config.steps * (fields + 1) + (config.probes + 1) * fields)
    return 4 * 2 * (summaries + per_unit + config.steps)


def available_bytes() -> int:
    """Memory that this machine can give now (all of it where the system does not say)."""
    told_by_linux = pathlib.Path("/proc/meminfo")
    text = told_by_linux.read_text() if told_by_linux.exists() else ""
    # Free pages alone would not count what the page cache gives back.
    if found := re.search(r"MemAvailable:\s*([0-9]+) kB", text):
        return 1024 * int(found[1])
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def check_memory(needed: int, remedy: str) -> None:
    """Raises a ValueError when `needed` bytes are more than the machine can give."""
    available = available_bytes()
    if needed > available:
        raise ValueError(
            f"this request needs {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free; "
            f"{remedy}."
        )
