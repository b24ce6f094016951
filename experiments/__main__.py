"""`python -m experiments NAME [options]`: one experiment, or `all` of them."""

import functools
import os
import signal
import sys


def _stop_early(number, _):
    os.write(2, b"stopped; finished blocks are kept, the same command continues.\n")
    os._exit(128 + number)


if __name__ == "__main__":  # the imports take seconds; then `cli.guard` catches signals
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _stop_early)

from experiments import NAMES, find, run_times  # noqa: E402
from experiments import all as everything  # noqa: E402
from relu_dynamics import cli  # noqa: E402
from relu_dynamics.experiment import by, conduct  # noqa: E402


def command_of(name: str) -> cli.Command:
    """What a NAME runs, with its options."""
    if name == "all":
        return cli.Command(
            everything.run, everything.DEFAULTS, everything.QUICK, everything.__doc__ or ""
        )
    experiment = find(name)
    run = functools.partial(conduct, experiment)
    defaults = by(experiment.implementation, experiment.defaults)
    quick = by(experiment.implementation, experiment.quick)
    text, seconds = experiment.description, run_times.read().get(name)
    if seconds is not None:  # else it is new: `all` has not measured it yet
        takes = run_times.spell(seconds)
        text = f"{text.rstrip()}\n\nTakes {takes} on {run_times.machine()}.\n"
    return cli.Command(run, defaults, quick, text)


def main() -> None:
    """Runs what the command line names."""
    command = "python -m experiments"
    cli.main(sys.argv[1:], (*NAMES, "all"), command_of, __doc__ or "", command)


if __name__ == "__main__":
    main()
