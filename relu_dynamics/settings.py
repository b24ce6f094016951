"""Settings: what of the process, beside config and versions, decides the bits of a result.

What the program can fix, it fixes here or where it is used (keys name their generator; one core
compiles like two). What it can name, it refuses. The rest (compiler flags, the kind of processor)
is found by training one stored block again, see `store.canary`; `made_with` says what differs.
"""

import functools
import os
import pathlib
import platform
import stat
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import platformdirs

PACKAGES = ("relu-dynamics", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "zarr")

UNFIT_SETTINGS = {  # of JAX: what they must be, and what another value would mean
    "jax_threefry_partitionable": (True, "other draws than any stored result has"),
    "jax_disable_jit": (False, "other bits than any stored result has"),
    "jax_enable_x64": (False, "float64, and every result is float32"),
    "jax_debug_nans": (False, "a traceback where a run diverges, which is a legal outcome"),
    "jax_debug_infs": (False, "a traceback where a run diverges, which is a legal outcome"),
}

DRAW_SETTINGS = ("jax_threefry_partitionable",)  # also refused outside of sweeps


def check_jax(settings: Any = tuple(UNFIT_SETTINGS)) -> None:
    """Raises a ValueError when JAX is set to do what no result was made with."""
    for setting in settings:
        wanted, effect = UNFIT_SETTINGS[setting]
        if bool(getattr(jax.config, setting)) != wanted:
            raise ValueError(f"{setting.upper()}={int(not wanted)} would mean {effect}; unset it.")


def cores() -> int:
    """How many cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return allowed or 1


def compiler_threads(allowed: int, environment: Mapping[str, str]) -> int:
    """The threads that XLA's CPU client makes for so many cores: these variables come first."""
    for name in ("PJRT_NPROC", "NPROC"):
        if environment.get(name, "").strip().isdecimal():
            return int(environment[name])
    return allowed


# For a single thread XLA's CPU compiler makes programs with other last bits. A process that has
# one core is therefore given two threads, and makes the programs of all others, whose bits stored
# results have. This counts until JAX has made its CPU device.
if compiler_threads(cores(), os.environ) < 2:
    os.environ["PJRT_NPROC"] = "2"


def private_cache(name: str) -> pathlib.Path | None:
    """The folder `name` below the user's cache folder (`platformdirs`: ~/.cache/relu_dynamics or
    below $XDG_CACHE_HOME on Linux, ~/Library/Caches/relu_dynamics on a Mac), made if missing.

    For code that is run: None when somebody else could have written there, or it cannot be made."""
    try:
        folder = platformdirs.user_cache_path("relu_dynamics", appauthor=False) / name
    except RuntimeError:  # nobody's home
        return None
    if not folder.is_absolute():
        return None
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        for place in (folder.parent, folder):
            found = os.lstat(place)
            private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if not private or found.st_mode & 0o022:
                return None
    except (OSError, AttributeError):  # not writable; a system without users
        return None
    return folder


_SILENT = ("cache", "log", "profil", "debug", "traceback", "coordinat", "distributed", "explain")


def made_with() -> dict[str, str]:
    """What may decide bits beside the identity, by name: packages, processor, cores, compiler
    flags, JAX's settings. For a message and a reader; never compared to refuse anything."""
    found = {name: version(name) for name in PACKAGES if name != "relu-dynamics"}
    found |= {
        "processor": _processor(),
        "cores": str(cores()),
        "threads": str(compiler_threads(cores(), os.environ)),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    for name, value in jax.config.values.items():
        told = isinstance(value, bool | int | float | str) and value and "/" not in str(value)
        if told and not any(word in name for word in _SILENT):
            found[name] = str(value)
    return {name: value for name, value in found.items() if value}


@functools.cache  # it parses a file: a third of what the labels of a short sweep cost
def version(name: str) -> str:
    """The version of an installed package, or "unknown"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """The processor's model and its vector instructions, as far as the system says."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    told = {name.strip(): value.strip() for name, value in lines.items()}
    vectors = [f for f in told.get("flags", "").split() if f in ("fma", "avx2", "avx512f")]
    return " ".join([told.get("model name", platform.machine()), *vectors])
