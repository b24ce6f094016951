"""Disks that are too small, full, read-only or gone: one line, and finished blocks stay."""

import contextlib
import os
import pathlib
import random
import shutil
import subprocess
from collections.abc import Iterator

from relu_dynamics import cli
from tests.verify.drivers import Driver, finish, finished_files, wait_for_blocks, workplace
from tests.verify.grids import digest_of, small_grid


def check(trials: int, chance: random.Random) -> dict:
    """A disk that is too small, that fills up under way, that is read-only, and a folder that is
    deleted under way: exit code 4 in one line, finished blocks kept, then the right result."""
    grid = small_grid()
    failures, total = [], 0
    with workplace(grid) as (place, cache, wanted), _small_disk(place, 16) as (small, kind):
        for trial in range(trials):
            name, case = list(DISK_CASES.items())[trial % len(DISK_CASES)]
            out = small / "sweep"
            wrong = case(out, cache, grid, chance)
            if wrong is None:  # cannot be made here
                continue
            total += 1
            wrong = wrong or finish(out, cache)
            if wrong or digest_of(out, grid) != wanted:
                failures.append(f"{name}: {wrong or 'the digest differs'}")
            shutil.rmtree(out, ignore_errors=True)
    return {
        "passed": total - len(failures),
        "total": total,
        "disk": kind,
        "cases": list(DISK_CASES),
        "failures": failures,
    }


@contextlib.contextmanager
def _small_disk(place: pathlib.Path, mebibytes: int) -> Iterator[tuple[pathlib.Path, str]]:
    small = place / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(small)],
        capture_output=True,
    )
    try:
        yield small, "tmpfs" if mounted.returncode == 0 else "no tmpfs: those cases are left out"
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(small)], check=True)


def _is_small(out: pathlib.Path) -> bool:
    return shutil.disk_usage(out.parent).total < 2**26


def _fill(folder: pathlib.Path, leave: int) -> pathlib.Path:
    """A file that leaves so many bytes of a disk."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while (room := shutil.disk_usage(folder).free - leave) > 0:
            file.write(bytes(min(2**16, room)))
    return path


def _ended_with_4(driver: Driver, words: str) -> str:
    code, said = driver.end()
    right = code == cli.EXIT_DISK and words in said and "Traceback" not in said
    return "" if right else f"ended with {code}: {said[-300:]}"


def _too_small(out, cache, grid, chance) -> str | None:
    if not _is_small(out):
        return None
    filler = _fill(out.parent, 2**16)
    wrong = _ended_with_4(Driver(out, cache), "MiB left")
    filler.unlink()
    return wrong or ("something was written" if out.exists() else "")


def _fills_up(out, cache, grid, chance) -> str | None:
    if not _is_small(out):
        return None
    driver = Driver(out, cache)
    wait_for_blocks(out, chance.randint(1, grid.blocks // 2), [driver])
    filler = _fill(out.parent, 0)
    wrong = _ended_with_4(driver, "the disk is full")
    kept = len(finished_files(out, grid))
    filler.unlink()
    return wrong or ("" if kept else "no block was kept")


def _read_only(out, cache, grid, chance) -> str | None:
    if not _is_small(out):
        return None
    mount = ["mount", "-o"]
    subprocess.run([*mount, "remount,ro", str(out.parent)], check=True)
    wrong = _ended_with_4(Driver(out, cache), "cannot be written")
    subprocess.run([*mount, "remount,rw", str(out.parent)], check=True)
    return wrong


def _size_limit(out, cache, grid, chance) -> str:
    """A limit on the size of any file (RLIMIT_FSIZE) below that of a block."""
    wrong = _ended_with_4(Driver(out, cache, file_limit=4096), "the disk is full")
    return wrong or ("a block was written" if finished_files(out, grid) else "")


def _deleted(out, cache, grid, chance) -> str:
    driver = Driver(out, cache)
    wait_for_blocks(out, chance.randint(1, grid.blocks // 2), [driver])
    os.replace(out, out.with_name("gone"))
    wrong = _ended_with_4(driver, "has gone")
    shutil.rmtree(out.with_name("gone"))
    return wrong


DISK_CASES = {
    "too small at the start": _too_small,
    "full under way": _fills_up,
    "read-only": _read_only,
    "a limit on file sizes": _size_limit,
    "deleted under way": _deleted,
}
