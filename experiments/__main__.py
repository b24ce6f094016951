"""`python -m experiments NAME [options]`: one experiment, or `all` of them."""

import functools
import importlib
import sys

from experiments import NAMES, find
from experiments import all as everything
from relu_dynamics import cli
from relu_dynamics.experiment import conduct

NOT_YET_RECORDS = {"remedies"}


def command_of(name: str) -> cli.Command:
    """What a NAME runs, with its options."""
    if name == "all":
        return cli.Command(
            everything.run, everything.DEFAULTS, everything.QUICK, everything.__doc__ or ""
        )
    if name in NOT_YET_RECORDS:
        return _script(name)
    experiment = find(name)
    run = functools.partial(conduct, experiment)
    return cli.Command(run, experiment.defaults, experiment.quick, experiment.description)


def _script(name: str) -> cli.Command:
    """A NAME that conducts itself."""
    module = importlib.import_module(f"experiments.{name}")
    return cli.Command(module.run, module.DEFAULTS, module.QUICK, module.__doc__ or "")


def main() -> None:
    """Runs what the command line names."""
    cli.main_by_name(sys.argv[1:], (*NAMES, "all"), command_of, __doc__ or "")


if __name__ == "__main__":
    main()
