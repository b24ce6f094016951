"""The command line that every experiment script shares: options by tyro, errors in one line.

A command has a dataclass of options with defaults, and `main` runs it. `--quick` swaps the
defaults for those of `quick`; `--config-file FILE` (JSON or TOML) replaces those that it names;
every option can still be overridden. `EXIT_CODES` lists the exit codes.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import tyro

from relu_dynamics import checks, config_files, store
from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine.memory import explain_exhausted
from relu_dynamics.grid import VersionError
from relu_dynamics.settings import check_jax, private_cache
from relu_dynamics.sweeps.blocks import OutOfMemoryError, block_devices

Options = TypeVar("Options")

EXIT_BAD_INPUT = 2
EXIT_OTHER_GRID = 3
EXIT_DISK = 4
EXIT_VERSION = 5
EXIT_MEMORY = 6
EXIT_PIPE = 128 + getattr(signal, "SIGPIPE", 13)
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_CODES = (  # the first that fits; every other ValueError is bad input
    (store.OtherGridError, EXIT_OTHER_GRID),
    (store.NotWritableError, EXIT_DISK),
    (BrokenPipeError, EXIT_PIPE),
    (OSError, EXIT_DISK),
    (VersionError, EXIT_VERSION),
    (OutOfMemoryError, EXIT_MEMORY),
    (MemoryError, EXIT_MEMORY),
    (ValueError, EXIT_BAD_INPUT),
    (RuntimeError, EXIT_MEMORY),  # of JAX's compiler; only those that say so
)


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM; `code` is the exit code."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def start_jax() -> None:
    """Raises a one-line ValueError when JAX's platform cannot be used, or when it is set to give
    other numbers."""
    check_jax()
    asked = os.environ.get("JAX_PLATFORMS")
    try:
        block_devices()
    except (RuntimeError, AssertionError) as error:  # JAX raises either, by what is missing
        raise ValueError(
            f"JAX_PLATFORMS={checks.short_repr(asked)} cannot be used here "
            f"({error or 'no such device'}); unset it, or install what it needs."
        ) from None


def use_private_cache() -> pathlib.Path | None:
    """Lets JAX keep compiled programs between processes, in a folder that only this user can
    write (`settings.private_cache`), and returns it.

    A compile cache holds code that is run, so a folder that others could have written is not used:
    None is returned, and everything is recompiled. JAX's own settings come first
    (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE). No number depends on the cache.
    """
    chosen = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009 (set by JAX at run time)
    if chosen or not hasattr(os, "getuid"):
        return pathlib.Path(chosen) if chosen else None
    folder = private_cache("compiled")
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


class Command(NamedTuple):
    """One of several commands of a script."""

    run: Callable[[Any], None]
    defaults: Any
    quick: Any
    description: str


def main(
    arguments: list[str],
    names: tuple[str, ...],
    command_of: Callable[[str], Command],
    description: str,
    command: str,
) -> None:
    """Runs the command whose NAME begins the command line, and ends as `guard` does; `command` is
    what stands before the NAME.

    Only the command that is named is made. Ends as `guard` does.
    """

    def parse_and_run():
        name, others = choose(arguments, names, description)
        run, defaults, quick, text = command_of(name)
        options = parse(others, defaults, quick, text, f"{command} {name}")
        use_private_cache()
        start_jax()
        run(options)

    guard(parse_and_run)


def choose(arguments: list[str], names: tuple[str, ...], description: str) -> tuple[str, list[str]]:
    """(NAME, the other arguments) of a command line that begins with one of `names`, in which "-"
    may stand for "_".

    Raises a one-line ValueError without one; --help in its place prints the names and ends."""
    listed = ", ".join(names)
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"{description}\nNAME: one of {listed}. NAME --help lists its options.")
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"NAME is missing: give one of {listed} first.")
    name = arguments[0].replace("-", "_")
    check_choice("NAME", name, names)
    return name, arguments[1:]


def guard(call: Callable[[], None]) -> None:
    """Runs `call` and ends the process as a script should.

    Bad input, a folder, disk or standard output that cannot be used and a lack of memory end with
    one line on standard error and their own exit code (`EXIT_CODES`); Ctrl-C and SIGTERM say how to
    resume and end at once with 130 and 143; a finished shard that has to wait for others ends
    with 0. What is finished is kept in every case.
    """
    try:
        _catch_signals()
        _open_streams()
        try:
            call()
        except store.UnfinishedError as unfinished:
            print(unfinished)
        except SystemExit:  # --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        _say("stopped; finished blocks are kept, the same command continues.")
        _leave(getattr(stop, "code", EXIT_INTERRUPTED))
    except (ValueError, MemoryError, OSError, RuntimeError) as error:
        line = _in_one_line(error)
        if line is None:  # a fault of the program: with its traceback
            raise
        _say(f"error: {line}")
        _leave(next(code for kind, code in EXIT_CODES if isinstance(error, kind)))


def _in_one_line(error: Exception) -> str | None:
    """What went wrong and what to do, in one line; None for a fault of the program."""
    go_on = "finished blocks are kept, the same command continues."
    exhausted = explain_exhausted(error)
    if exhausted or isinstance(error, ValueError):
        return " ".join(str(error).split()) if isinstance(error, ValueError) else exhausted
    if not isinstance(error, OSError):
        return None
    if isinstance(error, BrokenPipeError):
        return f"nobody reads standard output any more; {go_on}"
    reason = " ".join(str(error.strerror or error).split())
    if not error.filename:  # of something that is open: a disk's errors are mostly explained before
        return f"standard output or a file cannot be written ({reason}); {go_on}"
    place = checks.short_repr(error.filename)
    return f"{place} cannot be read or written ({reason}); {go_on}"


def _open_streams() -> None:
    """Gives output that was closed at the start a place to go, and lets no character fail that
    the output's encoding does not have."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _say(line: str) -> None:
    """Prints a line on standard error, if anything can be printed there."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _catch_signals() -> None:
    """The first SIGINT or SIGTERM raises `Stopped`, the second ends the process."""

    def stop(number, frame):
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _leave(code: int) -> NoReturn:
    """Ends the process without waiting for blocks under way: nothing of them is on disk."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def parse(
    arguments: list[str],
    defaults: Options,
    quick: Options,
    description: str,
    command: str,
) -> Options:
    """The options of a command line; raises a one-line ValueError when it is not understood.

    --help leaves out the fields of configs, which --help-all lists too. `command` is what the user
    typed before the options."""
    chosen = quick if "--quick" in arguments else defaults
    left, files = _take_files([argument for argument in arguments if argument != "--quick"])
    for file in files:
        chosen = config_files.from_mapping(config_files.read_file(pathlib.Path(file)), chosen)
    everything = "--help-all" in left
    left = ["--help" if argument == "--help-all" else argument for argument in left]
    messages = io.StringIO()
    encoding = sys.stdout.encoding or "utf-8"
    page = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    try:
        with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(page):
            return tyro.cli(
                type(chosen),
                default=chosen,
                args=left,
                prog=command,
                description=f"{description}\n\n--quick: smaller defaults, under half a minute."
                "\n--config-file FILE: options from a JSON or TOML file; those given here win.",
            )
    except SystemExit as ended:
        if not ended.code:
            page.seek(0)
            text = page.read()
            print(text if everything else _without_configs(text, chosen), end="")
            raise
        hint = _meant_option(left, chosen)
        raise ValueError(_first_sentence(messages.getvalue(), hint)) from None


def _without_configs(page: str, options: Any) -> str:
    """A page of help with one line for all fields of every `Config` among the options."""
    configs = [f.name for f in dataclasses.fields(options) if f.type in (Config, "Config")]
    prefixes = [f"--{name.replace('_', '-')}." for name in configs]
    kept: list[str] = []
    inside = None  # the config whose fields are left out
    for line in page.splitlines():
        content = line.strip(" │")
        found = next((prefix for prefix in prefixes if content.startswith(prefix)), None)
        if found and found != inside:
            text = f"{found}FIELD VALUE: any field of this config; --help-all lists them."
            start = line.index(content)
            kept.append(line[:start] + text + line[start + len(text) :])
        if found or not content or content[0] in "-╰─":
            inside = found
        if inside is None:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _take_files(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(what is left, the file given with --config-file)."""
    left: list[str] = []
    files: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in ("--config-file", "--config_file"):
            left.append(argument)
            continue
        value = value if equals else next(rest, "")
        if not value or files:
            raise ValueError(f"--config-file {value or 'without a value'}: give one file, once.")
        files.append(value)
    return left, files


def _meant_option(arguments: list[str], options: Any) -> str | None:
    """A hint for the first option that is not there but means one that is; None without one."""
    for argument in arguments:
        prefix, dot, name = argument.removeprefix("--").partition("=")[0].rpartition(".")
        record = getattr(options, prefix.replace("-", "_"), None) if prefix else options
        if not argument.startswith("--") or not dataclasses.is_dataclass(record):
            continue
        known = {field.name: field for field in dataclasses.fields(record)}
        near = checks.nearest(name, known)
        if near and name.replace("-", "_") not in known:
            return f"did you mean --{prefix}{dot}{near.replace('_', '-')}?"
    return None


def _first_sentence(box: str, hint: str | None = None) -> str:
    """The error in tyro's box, without its help, as one line; a `hint` stands in for tyro's."""
    lines = [line.strip(" │") for line in box.splitlines() if line.strip().startswith("│")]
    parts = " ".join(lines).split("─" * 8)
    hints = [part.strip(" ─") for part in parts[1:] if "Perhaps you meant" in part]
    hints = [hint] if hint else hints
    return " ".join([parts[0].strip(" ─"), *hints, "(--help lists all options)"])
