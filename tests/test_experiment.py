"""One way to conduct an experiment, with one that costs nothing."""

import dataclasses
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import zarr

from experiments import NAMES, find
from experiments import __main__ as command
from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.engine.native import coverage
from relu_dynamics.experiment import Experiment, Figure, Options, by, conduct, train_study
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.sweeps import studies
from relu_dynamics.sweeps.sweep import sweep_grid

CLAIM = Claim("it holds", "us", "confirmed", "It does.", 0.5, (0.4, 0.6), "3 seeds", "dead")


@dataclasses.dataclass(frozen=True)
class Count(Options):
    """What to count."""

    seeds: int = 3
    """Seeds."""


def make_experiment(calls):
    def grids(options):
        return {"one": make_grid(Config(), {"learning_rate": [0.1]}, options.seeds)}

    def train(options, grids, out):
        calls.append("train")
        return grids["one"].runs

    def analyse(options, runs):
        calls.append("analyse")
        return {"runs": runs, "claims": [CLAIM._replace(more={"at": 1})]}

    def draw(summary):
        calls.append(f"draw {summary['runs']}")
        return plt.figure()

    return Experiment(
        name="count",
        question="how many?",
        description="Counts.",
        defaults=Count(),
        quick=Count(seeds=1),
        grids=grids,
        train=train,
        analyse=analyse,
        figures={"count": Figure("There are three.", draw)},
        finish=lambda options, out: calls.append(out.name),
    )


def test_an_experiment_is_trained_analysed_stored_and_drawn(tmp_path, capsys):
    calls = []
    experiment = make_experiment(calls)
    conduct(experiment, Count(out=tmp_path / "out"))
    assert calls == ["train", "analyse", "draw 3", "out"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["question"] == "how many?" and summary["runs"] == 3
    assert summary["claims"][0]["claim"] == "it holds" and summary["claims"][0]["at"] == 1
    grid = experiment.grids(Count())["one"]
    assert summary["provenance"]["grid_hash"] == grid.hash  # one grid alone is the question
    assert grid.hash.encode() in (tmp_path / "out" / "count.png").read_bytes()
    assert "CONFIRMED" in capsys.readouterr().out


def test_cells_are_written_beside_every_result_and_say_what_may_be_deleted(tmp_path, capsys):
    config = Config(
        examples=64,
        batch_size=16,
        hidden=(4,),
        biased_layer=1,
        biased_units=2,
        steps=20,
        probe_every=10,
        sustain=10,
    )

    @dataclasses.dataclass(frozen=True)
    class Plain(Options):
        """No options."""

    results = {}

    def analyse(options, found):
        results.update(found)
        return {"claims": []}

    experiment = dataclasses.replace(
        make_experiment([]),
        defaults=Plain(),
        grids=lambda o: {"one": make_grid(config, {"initial_bias": [-3.0, 0.0]}, 3)},
        train=train_study,
        analyse=analyse,
        figures={},
    )
    more = make_grid(config, {"initial_bias": [-3.0]}, 2)

    def train_more(options, grids, out):  # an arm that follows from the results of the others
        return train_study(options, grids, out) | studies.sweep_study({"more": more}, out)

    experiment = dataclasses.replace(experiment, train=train_more)
    strange = tmp_path / "strange"  # somebody else's, and damaged
    (strange / store.RESULT_FOLDER).mkdir(parents=True)
    (strange / store.RESULT_FOLDER / "zarr.json").write_text("{")
    array = tmp_path / "array" / store.RESULT_FOLDER  # a zarr that is no result at all
    zarr.save_array(array, np.ones(3), zarr_format=3)
    conduct(experiment, Plain(out=tmp_path))
    written = [path.parent.name for path in sorted(tmp_path.rglob("cells.csv"))]
    assert written == ["more", "one"]
    rows = pd.read_csv(tmp_path / "one" / "cells.csv")
    assert len(rows) == 2 * len(estimates.MEASURES)
    for measure, part in rows.groupby("measure"):
        wanted = estimates.cells(results["one"], measure)
        for name in ("initial_bias", "estimate", "low", "high", "successes", "trials", "runs"):
            np.testing.assert_allclose(part[name], wanted[name], rtol=1e-12)
        assert set(part.definition) == {wanted.attrs["definition"]}
    out = capsys.readouterr().out
    folders = [tmp_path / name / "blocks" for name in ("one", "more")]
    size = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    assert f"the folders `blocks` in {tmp_path} ({size / 1e6:.1f} MB)" in out
    conduct(experiment, Plain(out=tmp_path, draw=True))


def test_drawing_again_trains_nothing(tmp_path):
    calls = []
    experiment = make_experiment(calls)
    with pytest.raises(store.FolderError, match="run the experiment first"):
        conduct(experiment, Count(out=tmp_path, draw=True))
    conduct(experiment, Count(out=tmp_path))
    calls.clear()
    conduct(experiment, Count(out=tmp_path, draw=True))
    assert calls == ["draw 3", tmp_path.name]
    other = dataclasses.replace(experiment, name="weigh", question="how heavy?")
    with pytest.raises(store.FolderError, match="does not hold weigh: it asks 'how many"):
        conduct(other, Count(out=tmp_path, draw=True))


def test_another_question_is_refused_and_has_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = make_experiment([])
    conduct(experiment, Count(out=tmp_path / "out"))
    with pytest.raises(store.OtherGridError, match="another question; use another --out"):
        conduct(experiment, Count(seeds=4, out=tmp_path / "out"))
    conduct(experiment, Count())
    conduct(dataclasses.replace(experiment, also_decides=lambda options: (1,)), Count())
    assert len(list((tmp_path / "runs").glob("count-*"))) == 2


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_what_its_name_says_and_asks_two_questions(name):
    experiment = find(name)
    assert experiment.name == name and experiment.question and experiment.figures
    fields = {field.name for field in dataclasses.fields(experiment.defaults)}
    assert set(experiment.paper) <= fields
    sizes = [experiment.grids(options) for options in (experiment.defaults, experiment.quick)]
    whole, quick = (sum(g.runs * g.config.steps for g in size.values()) for size in sizes)
    assert quick < whole


@dataclasses.dataclass(frozen=True)
class Trained(Options):
    """A network to train."""

    config: Config = Config(
        task="teacher_student", examples=64, dimension=4, hidden=(8,), biased_layer=1,
        biased_units=4, batch_size=16, steps=20, probe_every=10, sustain=10,
    )  # fmt: skip
    """Its config."""


def trained(trains):
    experiment = make_experiment([])
    axes = {"learning_rate": [0.1], "initial_bias": [-3.0]}
    grids = lambda options: {"one": make_grid(options.config, axes, 2)}  # noqa: E731

    def train(options, grids, out):
        trains.append(grids["one"].config.implementation)
        sweep_grid(grids["one"], out=out)
        return grids["one"].runs

    size = Trained()
    return dataclasses.replace(experiment, defaults=size, quick=size, grids=grids, train=train)


def test_a_folder_continues_by_what_began_it_and_auto_is_the_kernel_elsewhere(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    trains = []
    experiment, auto = trained(trains), by("auto", Trained())
    fast = make_grid(auto.config, {"learning_rate": [0.1]}, 1).config.implementation
    conduct(experiment, dataclasses.replace(auto, out=tmp_path / "new"))
    conduct(experiment, dataclasses.replace(by("plain", auto), out=tmp_path / "plain"))
    (tmp_path / "plain" / store.SUMMARY_FILE).unlink()  # stopped before its end
    conduct(experiment, dataclasses.replace(auto, out=tmp_path / "plain"))
    conduct(experiment, Trained())
    conduct(experiment, auto)  # the default folder, too
    assert trains == [fast, "plain", "plain", "plain", "plain"]
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_a_command_trains_takes_the_fastest_path_unless_told(name):
    _, defaults, quick, _ = command.command_of(name)
    for size in (defaults, quick):
        configs = [getattr(size, field.name) for field in dataclasses.fields(size)]
        asked = {c.implementation for c in configs if isinstance(c, Config)}
        assert asked <= {find(name).implementation}
        find(name).grids(by("plain", size)), find(name).grids(size)


# Their runs are no sweeps: they only initialize, scan steps of their own, or trace every unit.
NO_SWEEP = {
    "numerical_example", "born_dead", "collapse", "target_variance", "continual",
    "autoencoder_birth", "boundary", "calibration", "one_unit",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_SWEEP))
def test_what_the_kernel_covers_is_trained_by_it(name):
    experiment = find(name)
    for grid in experiment.grids(by(experiment.implementation, experiment.quick)).values():
        asked = dataclasses.replace(grid.config, implementation="auto")
        assert grid.config.implementation == coverage.decided(asked)
