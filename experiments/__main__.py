"""`python -m experiments NAME [options]`: one experiment, or `all` of them."""

import functools
import sys

from experiments import NAMES, find
from experiments import all as everything
from relu_dynamics import cli
from relu_dynamics.experiment import conduct


def command_of(name: str) -> cli.Command:
    """What a NAME runs, with its options."""
    if name == "all":
        return cli.Command(
            everything.run, everything.DEFAULTS, everything.QUICK, everything.__doc__ or ""
        )
    experiment = find(name)
    run = functools.partial(conduct, experiment)
    return cli.Command(run, experiment.defaults, experiment.quick, experiment.description)


def main() -> None:
    """Runs what the command line names."""
    command = "python -m experiments"
    cli.main(sys.argv[1:], (*NAMES, "all"), command_of, __doc__ or "", command)


if __name__ == "__main__":
    main()
