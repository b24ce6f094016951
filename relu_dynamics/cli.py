"""The command line that every experiment script shares: options by tyro, errors in one line.

A script defines a dataclass of options with defaults and calls `main`. `--quick` swaps the
defaults for those of `quick`; every option can still be overridden.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from relu_dynamics import grids

Options = TypeVar("Options")

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(run: Callable[[Any], None], defaults: Any, quick: Any, description: str) -> None:
    """Parses the command line, lets JAX use all cores and calls `run(options)`.

    Bad input (a ValueError) ends with one line on standard error and exit code 2; Ctrl-C says
    how to go on and ends with 130.
    """
    arguments = sys.argv[1:]
    chosen = quick if "--quick" in arguments else defaults
    options = tyro.cli(
        type(chosen),
        default=chosen,
        args=[argument for argument in arguments if argument != "--quick"],
        description=f"{description}\n\n--quick: smaller defaults, under half a minute.",
    )
    grids.use_all_cores()
    try:
        run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("stopped; finished blocks are kept, the same command continues.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
