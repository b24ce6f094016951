"""The command: who is dead in a model of your own, without code."""

import argparse
import pathlib
from typing import Any, NoReturn

from relu_dynamics import cli, store
from relu_dynamics.checks import short_repr
from relu_dynamics.data_files import read_arrays
from relu_dynamics.diagnose.page import write_page
from relu_dynamics.diagnose.program import batches_of, load, one_line
from relu_dynamics.inspection.report.report import Diagnosis, diagnose

EXAMPLES = """
examples:
  python -m relu_dynamics.diagnose mymodel:build --data x.npy
      def build(): return function, params        # function(params, x)
  python -m relu_dynamics.diagnose mymodel:model --data x.npz --params params.msgpack
      model: a function of (params, x), or a Flax linen module
  python -m relu_dynamics.diagnose mymodel:loss --data xy.npz --arrays x y --params run/1000
"""


OPTIONS: dict[str, dict[str, Any]] = {
    "program": dict(metavar="MODULE:NAME", help="what is diagnosed; importing the module runs it"),
    "--data": dict(required=True, help=".npy, .npz, .csv or .parquet"),
    "--arrays": dict(
        nargs="+",
        default=(),
        metavar="NAME",
        help="arrays of an .npz, in the order of the program's arguments (default: its inputs)",
    ),
    "--target": dict(help="a column of a table that is no input"),
    "--params": dict(help="a folder of orbax, .msgpack, .safetensors, .pt or .npz"),
    "--batch-size": dict(type=int, default=256, help="(default: %(default)s)"),
    "--exclude": dict(nargs="+", default=(), metavar="SITE", help="sites that are left out"),
    "--out": dict(help="also write this HTML page"),
    "--json": dict(help="also write this JSON file"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as all commands end."""
        raise ValueError(f"{message} (--help lists all options)")


def main() -> None:
    """Diagnoses `module:name` on a data file."""
    parser = _Parser(
        prog="python -m relu_dynamics.diagnose",
        description="Says which rectified units of a JAX program are dead on a data file: the "
        "worst layer, cause, prognosis and the cheapest fix come first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    cli.guard(lambda: _run(parser.parse_args()))


def _run(given: argparse.Namespace) -> None:
    if given.batch_size < 1:
        raise ValueError(f"--batch-size {given.batch_size} must be at least 1.")
    arrays = read_arrays(given.data, given.arrays, given.target)
    cli.use_private_cache()
    cli.start_jax()
    function, params = load(given.program, given.params)
    found: Diagnosis = one_line(
        f"program={short_repr(given.program)}",
        lambda: diagnose(
            function, params, batches_of(arrays, given.batch_size), exclude=given.exclude
        ),
    )
    print(found)
    if given.json:
        store.write_whole(pathlib.Path(given.json), found.to_json().encode())
        print(f"wrote {given.json}")
    if given.out:
        print(f"wrote {write_page(found, given.out)}")


if __name__ == "__main__":
    main()
