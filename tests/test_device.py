"""benchmarks/device.py: the command for whoever has a card, in its quick form on this machine."""

import json
import pathlib
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_device_command_measures_and_keeps_every_section(tmp_path):
    command = [sys.executable, "-m", "benchmarks.device", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "device.json").read_text())
    assert not [row for row in rows if "left_out" in row]
    assert [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"] == rows
    assert rows[0]["kind"] == jax.devices()[0].device_kind
    sections = {"card", "bits", "speed", "large", "lanes", "steps"}
    assert {row["section"] for row in rows} - {"cpu"} == sections
    for row in rows:
        if row["section"] == "bits":
            assert row["again"] == row["compiled_anew"] == row["runs"]
            assert len(row["digest"]) == 64
        if "samples_s" in row:
            middle = sorted(row["samples_s"])[len(row["samples_s"]) // 2]
            if len(row["samples_s"]) % 2:
                assert row["run_steps_per_s"] * middle == pytest.approx(row["runs"] * row["steps"])
    table = (tmp_path / "device.md").read_text()
    assert all(row["what"] in table for row in rows)
