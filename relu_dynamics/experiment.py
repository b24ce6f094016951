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
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import xarray as xr

from relu_dynamics import figures, store
from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks
from relu_dynamics.grid import Grid
from relu_dynamics.statistics import claims, estimates
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Options of an experiment that can ask its question of a user's own data: its `config`, and
    its `tasks` where it has several, then stand for that data."""

    data: pathlib.Path | None = None
    """Your own data in place of the task: a .csv or .parquet (see --target) or an .npz."""
    target: str | None = None
    """Column of the targets; all other columns are inputs."""
    kind: str | None = None
    """classification or regression, where the targets' type does not say which."""
    held: pathlib.Path | None = None
    """A second file, held out; by default rows of the first are."""


def use_own_data(options: Any) -> Any:
    """The options with the data file that they name as their task, which is registered; the
    options themselves when they name none.

    Where the config's `examples` would leave no row to hold out, four fifths of the rows train;
    with fewer than a batch, every step trains on all of them. Both are printed. Raises a one-line
    ValueError for data that cannot be trained on."""
    if not isinstance(options, DataOptions):
        return options
    if options.data is None:
        for field in ("target", "kind", "held"):
            if getattr(options, field) is not None:
                value = short_repr(getattr(options, field))
                raise ValueError(f"{field}={value} needs --data FILE; give it, or leave it out.")
        return options
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        name = tasks.from_file(options.data, options.target, kind=options.kind, held=options.held)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    config = dataclasses.replace(given["config"], task=name)
    rows, split = tasks.available_examples(config), tasks.has_own_split(config)
    most = rows if split else rows - 1
    if config.examples > most:
        config = dataclasses.replace(config, examples=most if split else max(1, rows * 4 // 5))
    if config.batch_size is not None and config.batch_size > config.examples:
        config = dataclasses.replace(config, batch_size=None)
    batch = "all of them" if config.batch_size is None else f"{config.batch_size} of them"
    print(f"{name}: {config.examples} of {rows} rows train, {batch} at every step")
    for note in notes:
        print(f"note: {note.message}")
    changes = {"config": config} | ({"tasks": (name,)} if "tasks" in given else {})
    return dataclasses.replace(options, **changes)


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
    implementation: str = "auto"
    """What its command has as `implementation` of every config among the options that names none
    (`Config.implementation`); "plain" where every unit is traced, which the kernel does not do."""
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


def by(implementation: str, options: Any) -> Any:
    """The options with every config among them asking for an `implementation`."""
    configs = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return dataclasses.replace(
        options,
        **{
            name: dataclasses.replace(value, implementation=implementation)
            for name, value in configs.items()
            if isinstance(value, Config)
        },
    )


def _as_begun(experiment: Experiment, options: Any) -> tuple[Any, dict[str, Grid], str, Any]:
    """(options, grids, question, folder). Where a config says "auto" and the folder holds what
    plain JAX began, options that ask for that."""
    asked = [options]
    configs = [getattr(options, field.name) for field in dataclasses.fields(options)]
    if any(isinstance(c, Config) and c.implementation == "auto" for c in configs):
        asked.append(by("plain", options))
    found = []
    for each in asked:
        grids = dict(experiment.grids(each))
        question = studies.question_hash(grids, *experiment.also_decides(each))
        out = options.out or pathlib.Path("runs") / f"{experiment.name}-{question[:12]}"
        found.append((each, grids, question, out))
    return max(found, key=lambda one: _begun(*one[1:]))  # the first of equals


def _begun(grids: Mapping[str, Grid], question: str, out: pathlib.Path) -> int:
    """How much in a folder is of these grids and this question."""
    count = 0
    with contextlib.suppress(store.FolderError, KeyError, TypeError):
        count += studies.read_summary(out)["provenance"]["grid_hash"] == question
    places = {out: list(grids.values())} if len(grids) == 1 else {}
    places |= {out / studies.folder_name(name): [grid] for name, grid in grids.items()}
    for folder, own in places.items():
        with contextlib.suppress(store.FolderError, OSError):
            count += store.read_identity(folder) in [grid.identity for grid in own]
    return count


def conduct(experiment: Experiment, options: Any) -> None:
    """Runs an experiment: train, analyse, store, draw; with `options.draw` only the last.

    Raises a ValueError for options that cannot run and a `FolderError` for a folder that holds
    another question, or nothing to draw; a stopped run resumes by the same call.
    """
    options, grids, question, out = _as_begun(experiment, use_own_data(options))
    _check_definitions(experiment, grids)
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
    asked |= {name: asked[name].name for name in ("data", "held") if asked.get(name)}  # no folders
    summary["options"] = {name: asked[name] for name in asked.keys() - {"out", "draw"}}
    summary["claims"] = [claim.as_json() for claim in summary["claims"]]
    first = next(iter(grids.values()))
    summary["provenance"] = store.provenance(first) | {"grid_hash": question}
    summary["wall_seconds"] = round(time.monotonic() - started, 2)
    with store.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        store.write_summary(out, summary)
        swept = _swept(out)
        for folder, result in swept.items():
            rows = estimates.table(result.compute()).to_csv(index=False)
            store.write_whole(folder / "cells.csv", rows.encode())
    experiment.report(summary)
    print(_deletable(out, swept))


def _swept(out: pathlib.Path) -> dict[pathlib.Path, xr.Dataset]:
    """The whole results of sweeps in a folder and below it, by their folder. What an experiment
    made for itself has no seal; what is damaged is none of its own, which were just read."""
    found = {}
    for folder in sorted(out.rglob(store.RESULT_FOLDER)):
        with contextlib.suppress(store.FolderError):
            result = store.open_result(folder)
            if store.SEAL in result.attrs:
                found[folder.parent] = result
    return found


def _deletable(out: pathlib.Path, folders: Iterable[pathlib.Path]) -> str:
    """Which files of a folder may go, in a line with their size; `folders` hold the results."""
    blocks = [path for folder in folders for path in (folder / "blocks").rglob("*")]
    megabytes = sum(path.stat().st_size for path in blocks if path.is_file()) / 1e6
    if not blocks:
        return f"keep all of {out}: it holds no blocks that could be deleted"
    return (
        f"may be deleted once you are done: the folders `blocks` in {out} ({megabytes:.1f} MB). "
        "Results, cells.csv, figures and --draw do without them; the same command would train them "
        "again"
    )


def _check_question(out: pathlib.Path, question: str) -> None:
    """Raises an `OtherGridError` when a folder holds the summary of another question."""
    if not (out / store.SUMMARY_FILE).is_file():
        return
    provenance = studies.read_summary(out).get("provenance")
    if not isinstance(provenance, dict) or provenance.get("grid_hash") != question:
        raise store.OtherGridError(f"{str(out)!r} holds another question; use another --out.")
