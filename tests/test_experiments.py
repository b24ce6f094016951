"""The scripts as a user runs them: --quick, --draw, overrides, and bad input in one line."""

import json
import pathlib
import subprocess
import sys

import pytest
import xarray as xr

from experiments import __main__ as command
from relu_dynamics import store

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--config.task", "teacher_student", "--config.examples", "64", "--config.dimension", "5",
    "--config.hidden", "8", "8", "--config.biased-units", "4", "--config.batch-size", "16",
    "--config.steps", "20", "--config.probe-every", "5", "--config.sustain", "5",
    "--learning-rates", "0.01", "0.1", "--initial-biases", "-4", "-2", "--seeds", "2",
]  # fmt: skip


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments", name, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_the_recovery_map_computes_stores_and_draws(tmp_path):
    out = tmp_path / "map"
    done = script("recovery_map", *TINY, "--out", str(out))
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert sum(summary["units"].values()) == 2 * 2 * 2 * 4
    assert summary["runs"] == 8 and summary["run_steps"] == 160
    for row in summary["recovered_by_learning_rate"] + summary["died_by_learning_rate"]:
        if row["trials"]:
            assert row["interval"][0] <= row["estimate"] <= row["interval"][1]
    result = store.open_result(out)
    assert isinstance(result, xr.Dataset) and result.attrs["command"].startswith(
        "python -m experiments recovery_map"
    )
    for name in ("recovery_map.png", "recovery_map.pdf"):
        assert (out / name).stat().st_size > 10_000
        (out / name).unlink()
    again = script("recovery_map", *TINY, "--out", str(out), "--draw")
    assert again.returncode == 0 and "training" not in again.stderr
    assert summary["provenance"]["grid_hash"].encode() in (out / "recovery_map.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning-rates", "0.1", "0.1"], "axis learning_rate repeats [0.1]"),
        (["--learning-rates", "-1"], "learning_rate=-1.0 must be finite and >= 0"),
        (["--config.task", "digit"], 'did you mean "digits"'),
        (["--seeds", "0"], "seeds=0 must be at least 1"),
        (["--draw", "--out", "nowhere"], "run the experiment first"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(arguments, words, ended):
    done = ended(command.main, "recovery_map", *arguments)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert words in lines[-1] and lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_quick_recovery_map(tmp_path):
    done = script("recovery_map", "--quick", "--explore", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "explorer.html" in done.stdout and (tmp_path / "explorer.html").is_file()
    assert len(json.loads((tmp_path / "summary.json").read_text())["claims"]) == 2
