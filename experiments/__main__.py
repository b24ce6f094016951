"""`python -m experiments NAME [options]`: one experiment, or `all` of them."""

import importlib
import sys

from experiments import reproductions
from relu_dynamics import cli

REPRODUCTIONS = tuple(name.replace("-", "_") for name in reproductions.COMMANDS)
NAMES = (
    "recovery_map",
    "numerical_example",
    "channels",
    "causes",
    "consequences",
    "remedies",
    *REPRODUCTIONS,
    "one_unit",
    "all",
)


def command_of(name: str) -> cli.Command:
    """What a NAME runs, with its options."""
    if name in REPRODUCTIONS:
        return reproductions.COMMANDS[name.replace("_", "-")]
    module = importlib.import_module(f"experiments.{name}")
    return cli.Command(module.run, module.DEFAULTS, module.QUICK, module.__doc__ or "")


def main() -> None:
    """Runs the experiment that the command line names."""
    cli.main_by_name(sys.argv[1:], NAMES, command_of, __doc__ or "")


if __name__ == "__main__":
    main()
