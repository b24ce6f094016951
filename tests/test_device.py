"""benchmarks/device.py: the command for whoever has a card, in its quick form on this machine."""

import json
import pathlib
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_device_command_measures_and_keeps_every_row(tmp_path):
    out = tmp_path / "device.json"
    command = [sys.executable, "-m", "benchmarks.device", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())
    assert [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"] == rows
    about = {
        name: [row for row in rows if row["about"] == name] for name in (r["about"] for r in rows)
    }
    assert set(about) == {"machine", "bits", "CPU", "speed", "evaluations", "whole map"}
    assert jax.devices()[0].device_kind in about["machine"][0]["devices"][0]
    for row in about["bits"]:
        assert row["twice_equal"] and len(row["digest"]) == 16
    networks = {row["network"] for row in about["bits"]}
    assert {row["network"] for row in about["speed"] if row["default"]} == networks
    for row in about["speed"]:
        assert row["microseconds_per_step"] * row["run_steps_per_second"] == pytest.approx(
            1e6 * row["lanes"]
        )
    table = out.with_suffix(".md").read_text()
    assert all(f"### {name}\n" in table for name in about)
    assert all(row["digest"] in table for row in about["bits"])
