"""Ctrl-C and SIGTERM at random moments: a clean end, and the same command continues."""

import random
import shutil
import signal
import time

from tests.verify.drivers import Driver, finish, wait_for_blocks, wait_for_start, workplace
from tests.verify.grids import digest_of, small_grid


def check(trials: int, chance: random.Random) -> dict:
    """Ctrl-C and SIGTERM in turn, at a random moment after the start: the right exit code, the
    message how to go on, no traceback, and the right result when the command is repeated."""
    grid = small_grid()
    failures, seconds = [], []
    with workplace(grid) as (place, cache, wanted):
        for trial in range(trials):
            out = place / f"sweep{trial}"
            number = (signal.SIGINT, signal.SIGTERM)[trial % 2]
            driver = Driver(out, cache)
            wait_for_start(driver)
            wait_for_blocks(out, chance.randint(0, grid.blocks // 2), [driver])
            time.sleep(chance.uniform(0, 0.05))
            began = time.monotonic()
            driver.send(number)
            code, said = driver.end()
            seconds.append(time.monotonic() - began)
            right = code == 128 + number and "the same command continues" in said
            if not right or "Traceback" in said:
                failures.append(f"ended with {code}: {said[-300:]}")
            elif (wrong := finish(out, cache)) or digest_of(out, grid) != wanted:
                failures.append(wrong or "the digest differs")
            shutil.rmtree(out, ignore_errors=True)
    return {
        "passed": trials - len(failures),
        "total": trials,
        "most_seconds_to_end": round(max(seconds, default=0), 2),
        "failures": failures,
    }
