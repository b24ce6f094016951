"""Build: kernel.cc compiled on the spot, once per machine, into a folder of this user alone.

Compiled where it runs rather than at install: the install needs no compiler, a wheel is one for all
platforms, and the code fits the processor's own vectors. JAX ships the header that it includes.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile

import jax

from relu_dynamics.settings import private_cache

SOURCE = pathlib.Path(__file__).with_name("kernel.cc")

FLAGS = (
    "-std=c++17 -O3 -shared -fPIC -fno-math-errno -fno-trapping-math -ffp-contract=fast -w".split()
)

# What makes code for this very processor; the first that the compiler knows is used. Without the
# first flag GCC 12 keeps operands of the innermost loop in memory, at two thirds of the speed.
TARGETS = (
    ["-fira-region=all", "-march=native", "-mprefer-vector-width=512"],
    ["-march=native", "-mprefer-vector-width=512"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
)

MOST_SECONDS = 300  # of one compilation


class BuildError(ValueError):
    """The kernel cannot be had on this machine; the message says why, in one line."""


def digest() -> str:
    """Sha256 of the kernel's source, in hexadecimal."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def made_by() -> dict[str, str]:
    """What a kernel's bits may depend on beside what plain JAX's do, by name: its source and the
    compiler's version line. Raises a `BuildError` where there is no compiler."""
    return {"kernel": digest()[:16], "kernel's compiler": _version(_compiler())}


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernel. Raises a `BuildError` where there is no compiler, or it fails."""
    compiler = _compiler()
    told = [digest(), jax.__version__, _version(compiler), _processor(), platform.machine()]
    told += [*FLAGS, *map(str, TARGETS)]
    name = f"kernel-{hashlib.sha256(repr(told).encode()).hexdigest()[:32]}.so"
    folder = private_cache("kernel")
    if folder is None:  # others could have written what is about to be run
        with tempfile.TemporaryDirectory(prefix="relu_dynamics_") as own:
            return _load(_compiled(compiler, pathlib.Path(own, name)))
    path = folder / name
    if not path.exists():
        _compiled(compiler, path)
    try:
        return _load(path)
    except BuildError:  # damaged since
        return _load(_compiled(compiler, path))


def _load(path: pathlib.Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the compiled kernel cannot be loaded ({error})") from None


def _compiler() -> tuple[str, ...]:
    for asked in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        words = shlex.split(asked or "")
        if words and shutil.which(words[0]):
            return tuple(words)
    raise BuildError("there is no C++ compiler (c++, g++ or clang++, or name one in CXX)")


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    return _run([*compiler, "--version"]).stdout.split("\n")[0]


def _processor() -> str:
    """What the system says of the processor: code for one may not run on another."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU")
    return "\n".join(line for line in lines if line.startswith(told))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run ({type(error).__name__})") from None


def _compiled(compiler: tuple[str, ...], path: pathlib.Path) -> pathlib.Path:
    """Compiles to `path`, which is there whole or not at all; several processes may do so."""
    handle, part = tempfile.mkstemp(suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        for target in TARGETS:
            include = ["-I", jax.ffi.include_dir()]
            done = _run([*compiler, *FLAGS, *target, *include, str(SOURCE), "-o", part])
            if done.returncode == 0:
                os.chmod(part, 0o700)
                os.replace(part, path)
                return path
        lines = done.stderr.strip().split("\n")
        reason = next((line for line in lines if "error" in line), lines[-1])
        raise BuildError(f"{compiler[0]} cannot compile the kernel: {reason[:200]}")
    finally:
        pathlib.Path(part).unlink(missing_ok=True)
