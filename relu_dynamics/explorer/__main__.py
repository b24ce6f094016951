"""The command: writes the page of stored results."""

import argparse
import pathlib
from collections.abc import Sequence

import xarray as xr

from relu_dynamics import cli, store
from relu_dynamics.explorer.explore import explore


def _open(folders: Sequence[str]) -> dict[str, xr.Dataset]:
    """Results by the last name of their folder, or by all that was given where two are alike."""
    names = [pathlib.Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(folders)
    return {name: store.open_result(f) for name, f in zip(names, folders, strict=True)}


def main() -> None:
    """Writes the page of stored results."""
    parser = argparse.ArgumentParser(
        prog="python -m relu_dynamics.explorer",
        description="Writes one self-contained HTML page to explore stored results.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="a sweep's output folder; several: channels"
    )
    parser.add_argument("--out", default="explorer.html", help="the page (default: %(default)s)")

    def write():
        given = parser.parse_args()
        path = explore(_open(given.folders), given.out)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")

    cli.guard(write)


if __name__ == "__main__":
    main()
