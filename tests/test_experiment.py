"""One way to conduct an experiment, with one that costs nothing."""

import dataclasses
import json

import matplotlib.pyplot as plt
import pytest

from experiments import NAMES, find
from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.experiment import Experiment, Figure, Options, conduct
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics.claims import Claim

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
