"""How long the experiments take: one measured table, which README, gallery and --help read.

`run_times.json` holds the seconds that `python -m experiments all` measured at the default sizes,
and on which machine.
"""

import json
import pathlib
import re
from collections.abc import Mapping

from experiments import NAMES

FILE = pathlib.Path(__file__).parent / "run_times.json"


def read(path: pathlib.Path = FILE) -> dict[str, float]:
    """Seconds of every experiment at its default size, and of `all` of them together."""
    seconds = json.loads(path.read_text())["seconds"]
    return {**seconds, "all": sum(seconds.values())}


def machine(path: pathlib.Path = FILE) -> str:
    """What they were measured on, in words."""
    return json.loads(path.read_text())["machine"]


def write(seconds: Mapping[str, float], machine: str, path: pathlib.Path = FILE) -> pathlib.Path:
    """Stores newly measured seconds beside those of the experiments that were not run."""
    before = json.loads(path.read_text())["seconds"] if path.is_file() else {}
    found = {**before, **seconds}
    kept = {name: round(found[name], 1) for name in NAMES if name in found}
    path.write_text(json.dumps({"machine": machine, "seconds": kept}, indent=1) + "\n")
    return path


def spell(seconds: float) -> str:
    """Seconds as a reader wants them: "28 s", "7 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def retimed(page: str, seconds: Mapping[str, float]) -> str:
    """A page with the last cell of every table row that begins with `NAME`s, or with `all`, set to
    the seconds of those experiments together."""

    def row(match: re.Match) -> str:
        names = re.findall(r"`(\w+)`", match[1])
        if not all(name in seconds for name in names):
            return match[0]
        together = " together" if len(names) > 1 else ""
        return f"{match[1]}{match[2]}| {spell(sum(seconds[n] for n in names))}{together} |"

    return re.sub(r"^(\|(?: ?`\w+`,?)+ )(\|.*)\|[^|\n]*\|$", row, page, flags=re.MULTILINE)
