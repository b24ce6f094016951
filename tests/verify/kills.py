"""SIGKILL at random moments: nothing finished is lost or trained again."""

import pathlib
import random
import shutil
import signal
import time

from relu_dynamics.grid import Grid
from tests.verify.drivers import Driver, finish, finished_files, wait_for_blocks, workplace
from tests.verify.grids import digest_of, small_grid

KILLS_PER_SWEEP = 3


def check(trials: int, chance: random.Random) -> dict:
    """SIGKILL at random moments, one to three drivers at once, then to the end. A trial is one
    kill of all drivers; a sweep is killed three times before it may finish."""
    grid = small_grid()
    sweeps = []
    with workplace(grid) as (place, cache, wanted):
        for first in range(0, trials, KILLS_PER_SWEEP):
            kills = min(KILLS_PER_SWEEP, trials - first)
            sweeps.append(_killed_sweep(place / "sweep", cache, grid, kills, wanted, chance))
    lost, again = (sum(sweep[name] for sweep in sweeps) for name in ("lost", "again"))
    failures = [sweep["failure"] for sweep in sweeps if sweep["failure"]]
    return {
        "passed": 0 if failures or lost or again else trials,
        "total": trials,
        "sweeps": len(sweeps),
        "sweeps_with_the_right_digest": len(sweeps) - len(failures),
        "finished_blocks_lost": lost,
        "finished_blocks_trained_again": again,
        "blocks_there_at_the_kills": sorted(n for sweep in sweeps for n in sweep["moments"]),
        "of_blocks": grid.blocks,
        "failures": failures,
    }


def _killed_sweep(
    out: pathlib.Path,
    cache: pathlib.Path,
    grid: Grid,
    kills: int,
    wanted: str,
    chance: random.Random,
) -> dict:
    """What became of one sweep: blocks lost and trained again, finished blocks at each kill, and
    how it failed or ""."""
    done: dict[int, tuple[int, int]] = {}
    moments, lost, again = [], 0, 0
    for _ in range(kills):
        _kill_all(out, cache, grid, len(done), chance)
        now = finished_files(out, grid)
        moments.append(len(now))
        lost += len(done.keys() - now.keys())
        again += sum(now[block] != file for block, file in done.items() if block in now)
        done = now
    failure = finish(out, cache)
    end = {} if failure else finished_files(out, grid)
    again += sum(end.get(block) != file for block, file in done.items())
    if not failure and digest_of(out, grid) != wanted:
        failure = "the digest differs"
    shutil.rmtree(out)
    return {"moments": moments, "lost": lost, "again": again, "failure": failure}


def _kill_all(out, cache, grid, done, chance) -> None:
    """Starts one to three drivers and kills them at a random moment."""
    drivers = [Driver(out, cache) for _ in range(chance.randint(1, 3))]
    _wait_until_a_random_moment(out, grid, done, drivers, chance)
    for driver in drivers:
        driver.send(signal.SIGKILL)
    for driver in drivers:
        driver.end()


def _wait_until_a_random_moment(out, grid, done, drivers, chance) -> None:
    if chance.random() < 0.2:  # while it starts
        time.sleep(chance.uniform(0, 3))
        return
    wait_for_blocks(out, chance.randint(done, done + grid.blocks // 3), drivers)
    time.sleep(chance.uniform(0, 0.2))
