"""The grid: labelled, resumable, the same as its runs, and right where theory decides."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
import xarray as xr

from relu_dynamics import store
from relu_dynamics.config import Config
from relu_dynamics.engine import memory, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.outcomes import NEVER, Outcome
from relu_dynamics.engine.step import draw_batch
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.blocks import block_configs, block_program, run_block
from relu_dynamics.sweeps.plan import block_bytes
from relu_dynamics.sweeps.sweep import sweep

pytestmark = pytest.mark.core

SMALL = Config(
    task="teacher_student", examples=64, dimension=5, hidden=(8, 8), biased_units=4,
    batch_size=16, steps=40, probe_every=10, sustain=20,
)  # fmt: skip
AXES = {"learning_rate": [0.01, 0.1, 1.0], "initial_bias": [-3.0, -1.0]}


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return sweep(SMALL, AXES, 3, lanes=4)


@pytest.mark.slow
def test_every_unit_has_one_outcome_and_they_add_up(result):
    counts = estimates.outcome_counts(result)
    total = sum(counts[name] for name in counts)
    assert (total == 3 * SMALL.biased_units).all()


def test_labels_carry_float64_and_the_float32_used(result):
    assert result.learning_rate.values.tolist() == AXES["learning_rate"]
    assert result.learning_rate_float32.dtype == np.float32
    assert result.sizes["seed"] == 3 and result.sizes["unit"] == 16
    assert result.unit_layer.values.tolist() == [1] * 8 + [2] * 8
    assert result.biased.values.sum() == 4


def test_a_cell_is_the_run_that_train_makes(result):
    """Batched and single products round differently, so to rounding; events exactly, on a short
    run where nothing is near its threshold."""
    config = dataclasses.replace(SMALL, learning_rate=0.1, initial_bias=-3.0)
    for seed in range(3):
        run = training.train(config, seed)
        cell = result.sel(learning_rate=0.1, initial_bias=-3.0, seed=seed)
        np.testing.assert_allclose(cell.margin, run.history.margin, rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(cell.loss, run.trace.loss, rtol=1e-3)
        np.testing.assert_array_equal(cell.dead_at_start, run.history.dead_at_start)
        np.testing.assert_array_equal(cell.first_recovery, run.history.first_recovery)


@pytest.mark.slow
def test_one_trace_a_sweep():
    chex.clear_trace_counter()
    counted = jax.jit(chex.assert_max_traces(block_program.__wrapped__, n=1))
    grid = make_grid(
        dataclasses.replace(SMALL, momentum=0.9, optimizer="momentum"),
        {**AXES, "momentum": [0.5, 0.9]},
        2,
        lanes=4,
    )
    other = make_grid(grid.config, {"learning_rate": [7, 8.5], "momentum": [0, 0.99]}, 1, lanes=4)
    data = tasks.load_data(grid.config)
    for each in (grid, other):
        for block in range(each.blocks):
            configs = block_configs(each, each.block_cells(block))
            counted(configs, run_key(0, each.block_seed(block)), data)


@pytest.mark.slow
def test_a_single_layer_under_sgd_never_recovers_at_any_rate():
    """The theorem: dead on the training set, first layer, plain SGD => P(recover) = 0."""
    config = Config(
        hidden=(16,),
        biased_layer=1,
        biased_units=8,
        steps=60,
        probe_every=20,
        sustain=20,
        examples=256,
        batch_size=32,
    )
    rates = np.geomspace(1e-6, 1e3, 10).tolist()
    result = sweep(config, {"learning_rate": rates, "initial_bias": [-60.0, -20.0]}, 2)
    assert int(result.dead_at_start.sum()) > 100
    at_risk = result.dead_at_start
    assert (result.first_recovery.where(at_risk, NEVER) == NEVER).all()
    # Nothing moved: what differs is the rounding of a product of another shape at step 0, where
    # all lanes still share their weights.
    still = abs(result.margin - result.margin_at_start) <= 1e-5 * abs(result.margin_at_start)
    assert still.where(at_risk & (result.diverged_at == NEVER), True).all()
    codes = set(np.unique(result.outcome.where(at_risk).values).tolist()) - {np.nan}
    codes = {Outcome(int(code)) for code in codes if not np.isnan(code)}
    assert Outcome.STILL_DEAD in codes
    assert codes <= {Outcome.STILL_DEAD, Outcome.DIVERGED}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_the_first_active_step_of_a_dead_unit_needs_no_training(optimizer):
    """A unit of the first layer that no minibatch has activated has not moved, whatever the rate:
    its first active step is that of its weights at step 0 on the same minibatches."""
    config = Config(
        task="teacher_student", examples=512, dimension=4, hidden=(1,), biased_layer=1,
        biased_units=1, output_bias=False, batch_size=2, optimizer=optimizer, steps=60,
        probe_every=20, probe_size=16, sustain=20,
    )  # fmt: skip
    biases = np.linspace(-5, 0, 41).tolist()
    result = sweep(config, {"learning_rate": [1e-3, 1e-1], "initial_bias": biases}, 3)
    found = result.batch_first_active.isel(unit=0).transpose("seed", "learning_rate", ...).values
    expected = np.full((3, len(biases)), NEVER)
    for seed in range(3):
        key = run_key(0, seed)
        task = tasks.make_task(config, purpose_key(key, "task"), None)
        weights = training.start(dataclasses.replace(config, initial_bias=0.0), key).params
        drawn = jax.vmap(lambda step, key=key: draw_batch(config, key, step))(np.arange(60))
        inputs = np.asarray(task.inputs, float)[drawn]
        largest = (inputs @ np.asarray(weights["hidden_1"]["kernel"], float))[..., 0].max(1)
        assert np.abs(largest[:, None] + biases).min() > 1e-6  # no z so near 0 that rounding counts
        active = largest[:, None] + biases > 0
        expected[seed] = np.where(active.any(0), active.argmax(0), NEVER)
    assert len(np.unique(expected[expected > 2])) >= 5 and {0, NEVER} <= set(expected.ravel())
    np.testing.assert_array_equal(found, np.stack([expected, expected], 1))


@pytest.mark.slow
def test_diverged_runs_are_counted_as_diverged():
    config = dataclasses.replace(SMALL, activation="leaky_relu")
    result = sweep(config, {"learning_rate": [1e-3, 1e4]}, 2, lanes=2)
    diverged = result.diverged_at.values != NEVER
    assert not diverged[0].any() and diverged[1].all()
    wild = result.isel(learning_rate=1)
    assert (wild.outcome.where(wild.dead_at_start, Outcome.DIVERGED) == Outcome.DIVERGED).all()
    assert float(estimates.cells(result, "diverged").estimate[1]) == 1.0


def test_a_grid_without_any_dead_unit_is_refused_before_training(tmp_path):
    config = dataclasses.replace(SMALL, initial_bias=5.0)
    with pytest.raises(ValueError, match="no unit is dead at step 0.*more negative initial_bias"):
        sweep(config, {"learning_rate": [0.1]}, 2, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_grid_that_does_not_fit_into_memory_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(ValueError, match="GiB are free; give out=FOLDER"):
        sweep(SMALL, AXES, 3)


@pytest.mark.slow
def test_block_bytes_is_what_a_block_holds():
    grid = make_grid(SMALL, AXES, 1, lanes=6)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(run_block(grid, 0)))
    assert held == block_bytes(grid)


def test_the_stored_result_is_the_one_in_memory(result, tmp_path):
    stored = sweep(SMALL, AXES, 3, lanes=4, out=tmp_path / "out")
    xr.testing.assert_equal(stored.load(), result)
    assert json.loads(stored.attrs["identity"])["config"]["task"] == "teacher_student"
    for name in ("versions", "git_commit", "command", "device", "grid_hash"):
        assert stored.attrs[name]


def test_an_interrupted_sweep_keeps_its_blocks_and_continues(result, tmp_path, monkeypatch):
    written = []
    original = store.write_block

    def stop_after_two(folder, grid, block, block_result):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(block)
        original(folder, grid, block, block_result)

    monkeypatch.setattr(store, "write_block", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        sweep(SMALL, AXES, 3, lanes=4, out=tmp_path)
    monkeypatch.setattr(store, "write_block", original)
    grid = make_grid(SMALL, AXES, 3, lanes=4)
    assert sorted(store.finished_blocks(tmp_path, grid)) == sorted(written)
    trained = []
    monkeypatch.setattr(
        store, "write_block", lambda *a: (trained.append(a[2]), original(*a)) and None
    )
    continued = sweep(SMALL, AXES, 3, lanes=4, out=tmp_path)
    assert sorted(trained + written) == list(range(grid.blocks))
    xr.testing.assert_equal(continued.load(), result)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "swap", "delete"])
def test_a_damaged_block_is_set_aside_and_trained_again(result, tmp_path, damage):
    sweep(SMALL, AXES, 3, lanes=4, out=tmp_path)
    grid = make_grid(SMALL, AXES, 3, lanes=4)
    path, other = (store.block_path(tmp_path, block) for block in (1, 2))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        path.unlink()
    reports = []
    done = store.finished_blocks(tmp_path, grid, reports.append)
    missing = {1, 2} if damage == "swap" else {1}
    assert set(range(grid.blocks)) - set(done) == missing
    assert len(reports) == (0 if damage == "delete" else len(missing))
    xr.testing.assert_equal(sweep(SMALL, AXES, 3, lanes=4, out=tmp_path).load(), result)


def test_a_folder_of_another_grid_is_refused_and_left_alone(tmp_path):
    sweep(SMALL, AXES, 1, lanes=4, out=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(
        store.FolderError, match=r"differs in .*config.steps \(40 there, 80 asked\)"
    ):
        sweep(dataclasses.replace(SMALL, steps=80), AXES, 1, lanes=4, out=tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_folder_with_other_files_or_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(store.FolderError, match="not empty"):
        sweep(SMALL, AXES, 1, lanes=4, out=tmp_path)
    with pytest.raises(store.FolderError, match="cannot be written"):
        sweep(SMALL, AXES, 1, lanes=4, out=tmp_path / "notes.txt")


def test_estimates_are_the_counts_by_hand(result):
    cells = estimates.cells(result, "recovered")
    for rate in AXES["learning_rate"]:
        for bias in AXES["initial_bias"]:
            at = result.sel(learning_rate=rate, initial_bias=bias)
            at_risk = at.dead_at_start & ~at.near_zero_at_start & at.biased
            found = cells.sel(learning_rate=rate, initial_bias=bias)
            assert int(found.trials) == int(at_risk.sum())
            success = (at.outcome == Outcome.RECOVERED_SUSTAINED) & at_risk
            assert int(found.successes) == int(success.sum())
    pooled = estimates.pooled(result, "recovered", "learning_rate")
    np.testing.assert_array_equal(pooled.trials, cells.trials.sum("initial_bias"))
    with pytest.raises(ValueError, match='did you mean "recovered"'):
        estimates.cells(result, "recoverd")


def test_cumulative_incidence_ends_at_the_fraction_that_ever_recovered(result):
    cell = {"learning_rate": 0.1, "initial_bias": -3.0}
    curve = estimates.incidence(result, cell)
    ever = estimates.cells(result, "recovered_ever").sel(cell)
    last = curve.incidence[0, -1] if len(curve.times) else 0.0
    np.testing.assert_allclose(last, float(ever.estimate), atol=1e-12)
