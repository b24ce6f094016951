"""A long run that is stopped goes on exactly: the bits of one that was not."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from relu_dynamics import store
from relu_dynamics.config import Config, to_json
from relu_dynamics.engine import training
from relu_dynamics.engine.validation import validate
from relu_dynamics.store import checkpoints

pytestmark = pytest.mark.slow  # every run here is compiled in segments
SMALL = Config(
    task="teacher_student", examples=64, dimension=5, hidden=(8, 8), biased_units=4,
    batch_size=16, steps=80, probe_every=10, sustain=20, optimizer="adam",
)  # fmt: skip


def same(one: training.Run, other: training.Run) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "whole"


@pytest.fixture(scope="module")
def whole(folder) -> training.Run:
    return checkpoints.train(SMALL, 3, folder=folder, every=20)


def test_a_run_with_checkpoints_is_the_run(whole):
    run = training.train(SMALL, 3)
    assert jax.tree.structure(run) == jax.tree.structure(whole)
    for one, other in zip(jax.tree.leaves(run), jax.tree.leaves(whole), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(run.history.first_recovery, whole.history.first_recovery)


def test_a_stopped_run_goes_on_with_the_same_bits(whole, tmp_path, monkeypatch):
    original = checkpoints._save
    saved = []

    def stop_after_two(manager, step, *rest):
        if len(saved) == 2:
            raise KeyboardInterrupt
        original(manager, step, *rest)
        saved.append(step)

    monkeypatch.setattr(checkpoints, "_save", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.train(SMALL, 3, folder=tmp_path / "run", every=20)
    monkeypatch.setattr(checkpoints, "_save", lambda *a: (saved.append(a[1]), original(*a)))
    assert same(checkpoints.train(SMALL, 3, folder=tmp_path / "run", every=20), whole)
    assert saved == [20, 40, 60, 80]


def test_a_longer_horizon_goes_on_after_the_end(whole, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    longer = dataclasses.replace(SMALL, steps=120)
    run = checkpoints.train(longer, 3, folder=tmp_path / "run", every=20)
    assert int(run.state.step) == 120 and run.trace.loss.shape == (12,)
    assert run.trace.loss[:8].tobytes() == np.asarray(whole.trace.loss).tobytes()
    fresh = checkpoints.train(longer, 3, folder=tmp_path / "fresh", every=20)
    assert same(run, fresh)


def test_a_process_that_may_compute_other_bits_tries_the_first_segment(
    whole, folder, tmp_path, monkeypatch
):
    """Made elsewhere: the same bits go on, others are refused with what differs."""
    original = checkpoints._train_segment

    def otherwise(*arguments):
        run = original(*arguments)
        return run._replace(held_loss=run.held_loss + 1)

    longer = dataclasses.replace(SMALL, steps=100)
    for out in (tmp_path / "other", tmp_path / "same"):
        shutil.copytree(folder, out)
        (out / "canary.json").write_text('{"made_with": {"cores": "many"}}')
    monkeypatch.setattr(checkpoints, "_train_segment", otherwise)
    with pytest.raises(store.FolderVersionError, match="other bits.* cores 'many' there"):
        checkpoints.train(longer, 3, folder=tmp_path / "other", every=20)
    monkeypatch.setattr(checkpoints, "_train_segment", original)
    run = checkpoints.train(longer, 3, folder=tmp_path / "same", every=20)
    assert run.trace.loss[:8].tobytes() == np.asarray(whole.trace.loss).tobytes()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_a_damaged_checkpoint_is_found_and_trained_again(whole, folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path / "run")
    files = [p for p in (tmp_path / "run/steps/40").rglob("d/*") if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    if damage == "delete":
        shutil.rmtree(tmp_path / "run/steps/40")
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2 if damage == "truncate" else 0])
    assert same(checkpoints.train(SMALL, 3, folder=tmp_path / "run", every=20), whole)


@pytest.mark.slow
def test_every_unit_can_be_traced(tmp_path):
    run = checkpoints.train(SMALL, 3, folder=tmp_path / "run", every=40, trace_units=True)
    again = checkpoints.train(SMALL, 3, folder=tmp_path / "run", every=40, trace_units=True)
    assert run.trace.batch_units.margin.shape == (80, 16)
    assert run.trace.probe_units.margin.shape == (9, 16)
    assert same(run, again)


@pytest.mark.parametrize("every", [0, -20, 15, 30, True, 20.0])
def test_a_bad_interval_is_refused(every, tmp_path):
    with pytest.raises(ValueError, match="every="):
        checkpoints.train(SMALL, 3, folder=tmp_path / "run", every=every)
    assert not (tmp_path / "run").exists()


def test_the_folder_of_another_run_is_refused(whole, folder, tmp_path):
    with pytest.raises(store.OtherGridError, match=r"seed \(3 there, 4 asked\)"):
        checkpoints.train(SMALL, 4, folder=folder, every=20)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(store.OtherGridError, match="not an empty folder"):
        checkpoints.train(SMALL, 4, folder=tmp_path, every=20)


KILLED = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
from relu_dynamics.engine.validation import from_json
from relu_dynamics.store import checkpoints
checkpoints.train(from_json(sys.argv[1]), 3, folder=sys.argv[2], every=20)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    config = validate(dataclasses.replace(SMALL, steps=400))
    whole = checkpoints.train(config, 3, folder=tmp_path / "whole", every=20)
    for trial in range(4):
        out = tmp_path / f"run{trial}"
        process = subprocess.Popen([sys.executable, "-c", KILLED, to_json(config), str(out)])
        while len(list(out.glob("steps/*"))) < 2 + 4 * trial and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert same(checkpoints.train(config, 3, folder=out, every=20), whole)
