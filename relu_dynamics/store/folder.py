"""The folder of a sweep: its identity, and what may be in it."""

import json
import os
import pathlib
from typing import Any

from relu_dynamics.checks import check_path, short_repr
from relu_dynamics.grid import VERSION_FIELDS, Grid
from relu_dynamics.store.blocks import is_done, is_leftover, stored_blocks
from relu_dynamics.store.files import (
    IDENTITY_FILE,
    OWN_NAMES,
    FolderError,
    FolderVersionError,
    NotWritableError,
    OtherGridError,
    differences,
    read_json,
    write_whole,
)


def check_folder(path: str | os.PathLike, grid: Grid) -> pathlib.Path:
    """The path of an output folder that this grid may use; writes nothing.

    Raises a `FolderError` when it holds the result of another grid or version (naming the fields
    that differ), something else, a symbolic link, or cannot be written.
    """
    folder = check_path("out", path)
    try:
        parent = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise NotWritableError(
            f"out={short_repr(str(folder))} cannot be written ({error}); choose another folder."
        ) from None
    if not _is_writable(parent):
        raise NotWritableError(f"out={str(folder)!r} cannot be written; choose another folder.")
    for name in OWN_NAMES:
        if (folder / name).is_symlink():
            raise OtherGridError(
                f"out={str(folder)!r}: {name} is a symbolic link, which is never followed; "
                "choose another folder."
            )
    identity_file = folder / IDENTITY_FILE
    if identity_file.exists():
        _check_identity(folder, grid)
    elif folder.exists() and not _is_empty(folder) and not _has_block(folder, grid):
        raise OtherGridError(
            f"out={str(folder)!r} is not empty and holds no {IDENTITY_FILE}; choose another folder."
        )
    return folder


def _is_writable(folder: pathlib.Path) -> bool:
    """Whether files can be made in a folder: by its rights, and by what its disk says (rights do
    not stop root)."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return False
    disk = os.statvfs(folder)
    return not disk.f_flag & os.ST_RDONLY and disk.f_blocks > 0


def _check_identity(folder: pathlib.Path, grid: Grid) -> None:
    """Raises a `FolderError` unless the folder's identity is the grid's."""
    try:
        found = read_json(folder / IDENTITY_FILE)
    except FolderError:
        if _has_block(folder, grid):  # a damaged identity; `open_folder` writes it again
            return
        raise
    differing = differences(found, grid.identity)
    if not differing:
        return
    text = f"{', '.join(differing)}; choose another folder (nothing was changed)."
    if isinstance(found, dict) and not differences(_question(found), _question(grid.identity)):
        raise FolderVersionError(
            f"out={str(folder)!r} holds the same grid, computed by another version or "
            f"platform: it differs in {text}"
        )
    raise OtherGridError(
        f"out={str(folder)!r} holds the result of another grid, which differs in {text}"
    )


def _question(identity: dict) -> dict:
    return {name: value for name, value in identity.items() if name not in VERSION_FIELDS}


def _has_block(folder: pathlib.Path, grid: Grid) -> bool:
    """Whether the folder holds at least one valid block of the grid: then it is the grid's."""
    return any(is_done(folder, grid, block) for block in stored_blocks(folder, grid))


def _is_empty(folder: pathlib.Path) -> bool:
    """Whether a folder holds nothing but what a driver killed at its start leaves behind."""
    found = [path for path in folder.iterdir() if not is_leftover(path)]
    inside = (folder / "blocks").iterdir() if (folder / "blocks").is_dir() else ()
    return found in ([], [folder / "blocks"]) and all(is_leftover(path) for path in inside)


def open_folder(path: str | os.PathLike, grid: Grid) -> pathlib.Path:
    """The output folder of a grid, made if it is missing; nothing is ever overwritten.

    Raises a `FolderError` as `check_folder` does.
    """
    folder = check_folder(path, grid)
    try:
        (folder / "blocks").mkdir(parents=True, exist_ok=True)
        if not _identity_is(folder, grid):
            write_whole(folder / IDENTITY_FILE, json.dumps(grid.identity, indent=1).encode())
    except OSError as error:
        raise NotWritableError(
            f"out={str(folder)!r} cannot be written ({error.strerror}); choose another folder."
        ) from None
    return folder


def _identity_is(folder: pathlib.Path, grid: Grid) -> bool:
    try:
        return read_json(folder / IDENTITY_FILE) == grid.identity
    except FolderError:
        return False


def read_identity(path: str | os.PathLike) -> Any:
    """The identity in an output folder, as plain JSON values; raises a `FolderError`."""
    return read_json(pathlib.Path(path) / IDENTITY_FILE)
