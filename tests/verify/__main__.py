"""The command of the package's docstring."""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable

import tests.verify
from tests.verify import bits, blocks, cost, damage, disk, identity, kernel, kills, memory, signals

Check = Callable[[int, random.Random], dict]

CHECKS: dict[str, tuple[Check, int]] = {  # and the trials of the full check
    "kills": (kills.check, 200),
    "signals": (signals.check, 40),
    "damage": (damage.check, 80),
    "disk": (disk.check, 20),
    "bits": (bits.check, len(bits.VARIATIONS)),
    "identity": (identity.check, len(identity.VARIATIONS)),
    "blocks": (blocks.check, 32),
    "kernel": (kernel.check, 32),
    "memory": (memory.check, len(memory.CASES)),
    "cost": (cost.check, 50),
}


def main() -> None:
    """Runs one check and prints its JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.verify",
        description=tests.verify.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--trials", type=int, help="how many; the default is the full check")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and places")
    given = parser.parse_args()
    check, full = CHECKS[given.check]
    trials = full if given.trials is None else given.trials
    if trials < 1:
        parser.error(f"--trials {trials} must be at least 1")
    began = time.monotonic()
    found = check(trials, random.Random(given.seed))
    seconds = round(time.monotonic() - began, 1)
    report = {"check": given.check, "seed": given.seed, **found, "seconds": seconds}
    print(json.dumps(report, indent=1))
    sys.exit(found["passed"] != found["total"])


if __name__ == "__main__":
    main()
