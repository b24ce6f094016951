"""Memory: what a run would hold, refused before it starts when it would not fit; and the memory
maps of compiled programs, of which a process may have so many."""

import os
import pathlib
import re

import jax

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


def memory_maps() -> tuple[int, int]:
    """(in use, allowed) memory maps of this process; zeros where there is no /proc. A compiled
    program takes some hundred of the 65,530 that Linux allows by default."""
    try:
        used = pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
        return used, int(pathlib.Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 0, 0


def free_programs() -> None:
    """Forgets all compiled programs once they take half of what this process may map: what is
    needed again is compiled again. No number depends on it."""
    used, allowed = memory_maps()
    if used > allowed // 2:
        jax.clear_caches()


def ran_out(error: BaseException) -> bool:
    """Whether memory for numbers ran out, by what JAX or Python raised."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def explain_exhausted(error: BaseException) -> str | None:
    """What to do when memory ran out, by what JAX, its compiler or Python raised, in one line; None
    for another error."""
    if ran_out(error):
        return "out of memory; use fewer lanes, fewer seeds or a smaller network."
    if isinstance(error, RuntimeError) and "Cannot allocate memory" in str(error):
        used, allowed = memory_maps()
        return (
            f"the compiler got no memory for another program ({used:,} of {allowed:,} memory maps "
            "are in use); call jax.clear_caches() between programs, or raise vm.max_map_count."
        )
    return None
