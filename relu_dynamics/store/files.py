"""Files: written whole or not at all, read with one-line refusals."""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np

from relu_dynamics.grid import VersionError

IDENTITY_FILE = "identity.json"

RESULT_FOLDER = "results.zarr"

SUMMARY_FILE = "summary.json"

OWN_NAMES = (IDENTITY_FILE, RESULT_FOLDER, SUMMARY_FILE, "blocks", "quarantine")

SEAL = "files_sha256"

MOST_IDENTITY_BYTES = 2**28


class FolderError(ValueError):
    """An output folder that cannot be used, or that holds no result."""


class OtherGridError(FolderError):
    """A folder that holds the result of another grid, or something else."""


class FolderVersionError(FolderError, VersionError):
    """A folder whose result asks the same question, made by another version or platform."""


class NotWritableError(FolderError):
    """A folder that cannot be written: no permission, no room, or it has gone."""


class BlockError(ValueError):
    """A stored block that is missing or does not validate."""


class MissingBlockError(BlockError):
    """A block that is not stored."""


class UnfinishedError(Exception):
    """A shard is done and blocks of others are not there yet: no result to return so far."""


def check_room(folder: pathlib.Path, needed: int) -> None:
    """Raises a `NotWritableError` when a disk has less than `needed` bytes left."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise NotWritableError(
            f"out={str(folder)!r} needs {needed / 2**20:,.1f} MiB and its disk has "
            f"{free / 2**20:,.1f} MiB left; free some, choose another folder, or use fewer seeds."
        )


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Raises a `NotWritableError` for what goes wrong with the disk inside."""
    try:
        yield
    except Exception as error:
        explained = _explain_write_error(error, folder)
        if explained is None or isinstance(error, FolderError):
            raise
        raise explained from None


def _explain_write_error(error: Exception, folder: pathlib.Path) -> NotWritableError | None:
    """What a failed write means in one line; None when the exception is not about the disk.

    By errno and text, not by class: libraries raise different ones for a full disk.
    """
    number = getattr(error, "errno", None)
    go_on = "the finished blocks are kept and the same command continues."
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
        return NotWritableError(f"out={str(folder)!r}: the disk is full; free some: {go_on}")
    if not isinstance(error, OSError) or isinstance(error, BrokenPipeError):
        return None  # a pipe is standard output
    if not folder.is_dir():
        return NotWritableError(f"out={str(folder)!r} has gone; the same command starts again.")
    return NotWritableError(
        f"out={str(folder)!r} cannot be written ({error.strerror or error}); {go_on}"
    )


def read_json(path: pathlib.Path) -> Any:
    try:
        if path.stat().st_size > MOST_IDENTITY_BYTES:
            raise ValueError(f"larger than {MOST_IDENTITY_BYTES} bytes")
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise OtherGridError(
            f"{str(path)!r} cannot be read ({' '.join(str(error).split())}); choose another folder."
        ) from None


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Where two JSON values differ, one line for each place."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted(found.keys() | wanted.keys())
        return [
            line
            for name in names
            for line in differences(found.get(name), wanted.get(name), f"{prefix}{name}.")
        ]
    if found == wanted:
        return []
    text = [
        str(part) if len(str(part)) <= 40 else f"{str(part)[:37]}..." for part in (found, wanted)
    ]
    return [f"{prefix[:-1]} ({text[0]} there, {text[1]} asked)"]


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that after a kill or a power cut it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{writer()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def writer() -> str:
    """host.pid.token: no other process, on any machine, writes under this name."""
    return f"{host_name()}.{os.getpid()}.{secrets.token_hex(4)}"


def host_name() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum() or c in "-_")[:40] or "host"


def as_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
