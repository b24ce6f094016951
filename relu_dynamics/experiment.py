"""Experiments: a question, the grids that answer it, the analysis of what was stored, the figures.

`conduct` is the one way to run an `Experiment`: hash the question, find the folder, train and
analyse (or, with `draw`, neither), write summary.json with provenance and claims, draw. What is in
between stands with each experiment: grids are data, the analysis reads results and knows nothing of
training, figures know what is stored.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from relu_dynamics import figures, store
from relu_dynamics.grid import Grid
from relu_dynamics.statistics import claims
from relu_dynamics.sweeps import studies


class Figure(NamedTuple):
    """One figure of an experiment."""

    sentence: str  # what it shows, as the gallery says it
    draw: Callable[[Any], Any]  # of what `Experiment.stored` returns
    save: Callable[[Any, pathlib.Path, dict[str, str]], list[pathlib.Path]] = figures.save
    """(what `draw` returned, path without suffix, provenance) -> the files that it wrote"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What every experiment can be told; each adds its own."""

    root_seed: int = 0
    """Decides all noise together with the seeds."""
    out: pathlib.Path | None = None
    """Output folder; by default runs/NAME-<hash of the question>."""
    draw: bool = False
    """Only redraw stored results."""


def train_study(options: Any, grids: Mapping[str, Grid], out: pathlib.Path) -> Mapping[str, Any]:
    """Every grid trained and stored below `out`: result by name."""
    return studies.sweep_study(grids, out)


def print_claims(summary: Mapping[str, Any]) -> None:
    """The claims of a summary as text."""
    claims.print_claims(summary["claims"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment. Its functions take the options that the command line gave."""

    name: str
    """Of the module, the folder of results and the command."""
    question: str
    """What is asked, in a sentence."""
    description: str
    """What --help says: the claims under test, what is written, how long it takes."""
    defaults: Any
    """Options (a subclass of `Options`) at the default size."""
    quick: Any
    """Options under half a minute."""
    paper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the size of a paper, by name, where they differ from the defaults."""
    grids: Callable[[Any], Mapping[str, Grid]]
    """Options -> the grids that decide the numbers. Raises a one-line ValueError for bad ones."""
    also_decides: Callable[[Any], tuple] = lambda options: ()
    """Options -> plain values that decide the numbers too, beside the grids."""
    train: Callable[[Any, Mapping[str, Grid], pathlib.Path], Any] = train_study
    """(options, grids, folder) -> results, stored in the folder so that a stop loses little."""
    analyse: Callable[[Any, Any], dict[str, Any]]
    """(options, results) -> the summary, with "claims": a list of `Claim`s, a family already
    controlled."""
    report: Callable[[Mapping[str, Any]], None] = print_claims
    """Prints the headline of a summary."""
    stored: Callable[[pathlib.Path], Any] = studies.read_summary
    """Folder -> what the figures draw."""
    figures: Mapping[str, Figure]
    """File name without suffix -> figure."""
    definitions: tuple[str, ...] = ("dead",)
    """Of `outcomes.DEFINITIONS`, those in whose words its texts and figures speak."""
    finish: Callable[[Any, pathlib.Path], None] = lambda options, out: None
    """Whatever else is made of the folder at the end."""


def conduct(experiment: Experiment, options: Any) -> None:
    """Runs an experiment: train, analyse, store, draw; with `options.draw` only the last.

    Raises a ValueError for options that cannot run and a `FolderError` for a folder that holds
    another question, or nothing to draw; a stopped run resumes by the same call.
    """
    grids = experiment.grids(options)
    _check_definitions(experiment, grids)
    question = studies.question_hash(grids, *experiment.also_decides(options))
    out = options.out or pathlib.Path("runs") / f"{experiment.name}-{question[:12]}"
    if not options.draw:
        _answer(experiment, options, grids, question, out)
    provenance = _summary_of(experiment, out)["provenance"]
    stored = experiment.stored(out)
    for stem, figure in experiment.figures.items():
        drawn = figure.draw(stored)
        with store.writing(out):
            files = figure.save(drawn, out / stem, provenance)
        print("wrote", *files)
    with store.writing(out):
        experiment.finish(options, out)


def _check_definitions(experiment: Experiment, grids: Mapping[str, Grid]) -> None:
    """Raises a ValueError for a grid whose units are not what the experiment's texts say."""
    for grid in grids.values():
        if grid.config.definition not in experiment.definitions:
            raise ValueError(
                f"definition={grid.config.definition!r}: the texts and figures of "
                f"{experiment.name} speak of {' or '.join(experiment.definitions)} units; use "
                f"definition={experiment.definitions[0]!r}, or sweep."
            )


@contextlib.contextmanager
def compiling(fast: bool) -> Iterator[None]:
    """Inside, programs are compiled with fewer optimizations where `fast`: quicker for short runs,
    slower for long ones, and they round otherwise."""
    setting = "jax_disable_most_optimizations"
    before = jax.config.read(setting)
    jax.config.update(setting, fast or before)
    try:
        yield
    finally:
        jax.config.update(setting, before)


def _summary_of(experiment: Experiment, out: pathlib.Path) -> dict[str, Any]:
    """The summary in a folder; raises a `FolderError` when it is that of another experiment."""
    summary = studies.read_summary(out, ("provenance", "question"))
    own = isinstance(summary["provenance"], dict)
    if not own or summary["question"] != experiment.question:
        raise store.FolderError(
            f"{str(out)!r} does not hold {experiment.name}: it asks {summary['question']!r}; use "
            "another --out."
        )
    return summary


def _answer(
    experiment: Experiment,
    options: Any,
    grids: Mapping[str, Grid],
    question: str,
    out: pathlib.Path,
) -> None:
    """Trains and analyses, writes the summary and prints it."""
    _check_question(out, question)
    started = time.monotonic()
    runs = sum(grid.runs for grid in grids.values())
    print(f"{experiment.name}: {runs:,} runs; results in {out}", flush=True)
    results = experiment.train(options, grids, out)
    summary = {"question": experiment.question, **experiment.analyse(options, results)}
    asked = dataclasses.asdict(options)
    summary["options"] = {name: asked[name] for name in asked.keys() - {"out", "draw"}}
    summary["claims"] = [claim.as_json() for claim in summary["claims"]]
    first = next(iter(grids.values()))
    summary["provenance"] = store.provenance(first) | {"grid_hash": question}
    summary["wall_seconds"] = round(time.monotonic() - started, 2)
    with store.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        store.write_summary(out, summary)
    experiment.report(summary)


def _check_question(out: pathlib.Path, question: str) -> None:
    """Raises an `OtherGridError` when a folder holds the summary of another question."""
    if not (out / store.SUMMARY_FILE).is_file():
        return
    provenance = studies.read_summary(out).get("provenance")
    if not isinstance(provenance, dict) or provenance.get("grid_hash") != question:
        raise store.OtherGridError(f"{str(out)!r} holds another question; use another --out.")
