"""experiments.all: its table, its resume and its pages, with scripts that cost nothing."""

import dataclasses
import json
import pathlib

import pytest
from PIL import Image, PngImagePlugin

from experiments import NAMES, find, run_times
from experiments import all as experiment
from experiments.__main__ import command_of
from relu_dynamics import store

ROOT = pathlib.Path(__file__).parents[1]
CLAIM = {
    "claim": "it holds", "source": "dying ReLU", "verdict": "confirmed", "finding": "It does.",
    "estimate": 0.5, "interval": [0.4, 0.6], "count": "3 seeds", "definition": "dead",
    "condition": "", "more_seeds": None, "p_value": None, "figure": "tiny",
}  # fmt: skip
TINY = """
import json, pathlib, sys
from PIL import Image
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
with open(out / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if (out / "fail").exists():
    sys.exit("error: it broke")
Image.new("RGB", (3000, 300)).save(out / "tiny.png")
(out / "summary.json").write_text(json.dumps({"claims": [CLAIM]}))
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()
    (tmp_path / "experiments" / "__main__.py").write_text(f"CLAIM = {CLAIM!r}\n{TINY}")
    monkeypatch.setattr(experiment, "ROOT", tmp_path)
    script = experiment.Script("tiny", {"tiny": "It is so."}, {"seeds": 9})
    monkeypatch.setattr(experiment, "SCRIPTS", (script,))
    return experiment


def test_scripts_run_once_and_pages_are_written(tiny, tmp_path, capsys):
    options = tiny.Options(quick=True, out=tmp_path / "runs")
    tiny.run(options)
    tiny.run(options)
    out = tmp_path / "runs" / "all-quick"
    assert (out / "tiny" / "calls").read_text().count("\n") == 1
    assert "done before" in capsys.readouterr().err
    gallery, claims = (out / "gallery.md").read_text(), (out / "claims.md").read_text()
    assert "## It is so." in gallery and "figures/tiny.png" in gallery
    assert "`python -m experiments tiny --quick`" in gallery and "it holds" in claims
    with Image.open(out / "figures" / "tiny.png") as image:
        assert image.width == tiny.PAGE_PIXELS


def test_again_runs_what_is_done_and_keeps_the_time_of_training(tiny, tmp_path):
    options = tiny.Options(quick=True, out=tmp_path / "runs")
    tiny.run(options)
    marker = tmp_path / "runs" / "all-quick" / "tiny.done.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "seconds": 7200}))
    tiny.run(dataclasses.replace(options, again=True))
    assert (marker.parent / "tiny" / "calls").read_text().count("\n") == 2
    assert "120 min" in (marker.parent / "gallery.md").read_text()


# --- Run times ------------------------------------------------------------------------------------


def test_the_readme_and_help_say_the_measured_times():
    readme, seconds = (ROOT / "README.md").read_text(), run_times.read()
    assert run_times.retimed(readme, seconds) == readme
    assert set(seconds) == {*NAMES, "all"}
    for name in NAMES:
        assert f"Takes {run_times.spell(seconds[name])} on" in command_of(name).description


def test_times_are_kept_by_name_and_written_into_rows(tmp_path):
    table = run_times.write({"causes": 61.24, "layers": 100}, "m", tmp_path / "times.json")
    run_times.write({"layers": 140.0}, "m", table)
    assert run_times.read(table) == {"causes": 61.2, "layers": 140.0, "all": pytest.approx(201.2)}
    page = "| `causes`, `layers` | a | b |\n| `all` | c | d |\n| `other` | e | f |\nx `all` | g |\n"
    assert run_times.retimed(page, run_times.read(table)) == (
        "| `causes`, `layers` | a | 3 min together |\n| `all` | c | 3 min |\n| `other` | e | f |\n"
        "x `all` | g |\n"
    )


def test_a_script_that_fails_says_why_and_is_tried_again(tiny, tmp_path):
    options = tiny.Options(paper=True, out=tmp_path / "runs", pages=False)
    folder = tmp_path / "runs" / "all-paper" / "tiny"
    folder.mkdir(parents=True)
    (folder / "fail").touch()
    with pytest.raises(ValueError, match="tiny ended with 1: error: it broke"):
        tiny.run(options)
    (folder / "fail").unlink()
    tiny.run(options)
    calls = (folder / "calls").read_text().splitlines()
    assert len(calls) == 2 and "--config-file" in calls[1]
    assert json.loads((folder.parent / "tiny-paper.json").read_text()) == {"seeds": 9}


def test_a_folder_that_cannot_be_made_and_a_damaged_mark(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(store.NotWritableError, match="file/all-quick.* cannot be written"):
        tiny.run(tiny.Options(quick=True, out=tmp_path / "file"))
    options = tiny.Options(quick=True, out=tmp_path / "runs", pages=False)
    for content in ("{", "[]", "{}"):
        (tmp_path / "runs" / "all-quick").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "all-quick" / "tiny.done.json").write_text(content)
        tiny.run(options)
    calls = (tmp_path / "runs" / "all-quick" / "tiny" / "calls").read_text()
    assert calls.count("\n") == 3


def test_figures_keep_their_metadata(tmp_path):
    facts = PngImagePlugin.PngInfo()
    facts.add_text("Description", "grid_hash=abc")
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png", pnginfo=facts)
    (tmp_path / "to").mkdir()
    assert experiment.copy_figure(tmp_path, "a", tmp_path / "to") == "a.png"
    with Image.open(tmp_path / "to" / "a.png") as image:
        assert image.info["Description"] == "grid_hash=abc" and image.size == (20, 10)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quick": True, "paper": True}, "choose one of --quick, --default, --paper"),
        ({"only": ("nothing",)}, "only='nothing' is not a script; known: tiny"),
    ],
)
def test_bad_options_are_named(tiny, fields, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        tiny.run(tiny.Options(out=tmp_path / "runs", **fields))
    assert not (tmp_path / "runs").exists()


def test_an_experiment_that_was_never_timed_has_its_help(monkeypatch):
    monkeypatch.setattr(run_times, "read", dict)
    assert command_of("causes").description == find("causes").description
