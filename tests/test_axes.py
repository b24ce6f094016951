"""Every traced field and every row of a table, whatever it is: swept, stored, opened, estimated,
drawn, explored, replayed."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import pytest

from relu_dynamics import Config, certificates, channels, explore, figures, open_result, sweep
from relu_dynamics.config import FIELDS, LABELS, TRACED, Range
from relu_dynamics.engine import (
    initializers,
    models,
    normalizations,
    optimizers,
    scalings,
    tasks,
    training,
)
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.validation import check_covered
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.replay import replay

TINY = Config(
    examples=32,
    batch_size=8,
    hidden=(4, 4),
    biased_units=2,
    initial_bias=-2.0,
    steps=4,
    probe_every=2,
    sustain=2,
)
_CONTINUAL = {"reset": "continual_backprop", "reset_every": 1}
NEEDS = {  # what a field needs beside it; a new field without a need has no line here
    "reset_threshold": {"reset": "redo", "reset_every": 2},
    "reset_rate": _CONTINUAL,
    "reset_maturity": _CONTINUAL,
    "penalty_scale": {"penalty": "l1"},
    "revival_scale": {"task": "teacher_student", "revival": "ghost_gradients"},
    "silent_after": {"task": "teacher_student", "revival": "aux_k"},
    "momentum": {"optimizer": "momentum"},
    "bias_scale": {"bias_law": "normal"},
    "scaling_dose": {"input_scaling": "shifted"},
    "target_scale": {"task": "teacher_student", "dimension": 4},
}


def _values(name: str) -> list[float]:
    if name == "initial_bias":  # some unit must be dead at step 0
        return [-3.0, -2.0, -1.0]
    allowed = FIELDS[name].metadata["range"]
    return [v for v in (0.125, 0.25, 0.5, 2.0, 3.0, 4.0) if allowed.holds(v)][:3]


def _sweep_store_estimate_draw_explore_and_replay(base, axes, folder) -> None:
    """All that can be done with a sweep over two axes."""
    result = sweep(base, axes, seeds=2, out=folder / "stored")
    stored = open_result(folder / "stored")
    assert stored.identical(result)
    cells = estimates.cells(stored, "born_dead")
    assert (cells.trials == 2 * sum(base.hidden)).all()
    figure, panels = plt.subplots(2, 2)
    page = explore(stored, folder / "page.html").read_text()
    for name, (left, right) in zip(axes, panels, strict=True):
        np.testing.assert_array_equal(cells[name], axes[name])
        figures.draw_map(left, cells.transpose(name, ...), "map")
        figures.draw_pooled(right, estimates.pooled(stored, "born_dead", name), "born dead", "C0")
        assert left.get_xlabel() == right.get_xlabel() == LABELS[name]
        assert LABELS[name] in page
    figure.canvas.draw()
    cell = {axis: values[0] for axis, values in axes.items()}
    replayed = replay(folder / "stored", cell, 1)  # raises where a bit is another one
    assert all(getattr(replayed.config, field) == np.float32(cell[field]) for field in cell)


def _first_is_fast(cases):
    """The first case with every change, all of them in CI."""
    return [*cases[:1], *(pytest.param(case, marks=pytest.mark.slow) for case in cases[1:])]


PAIRS = [(*TRACED[i : i + 2], "learning_rate")[:2] for i in range(0, len(TRACED), 2)]


@pytest.mark.slow
@pytest.mark.parametrize("names", _first_is_fast(PAIRS), ids=" and ".join)
def test_every_axis_is_swept_stored_estimated_drawn_explored_and_replayed(names, tmp_path):
    """Two at a time: half as many programs to compile."""
    needs = [NEEDS.get(name, {}) for name in names]
    base = dataclasses.replace(TINY, **{k: v for need in needs for k, v in need.items()})
    axes = {name: _values(name) for name in names}
    assert all(len(values) == 3 for values in axes.values())
    _sweep_store_estimate_draw_explore_and_replay(base, axes, tmp_path)


TABLES = {
    "activation": ACTIVATIONS,
    "initializer": initializers.INITIALIZERS,
    "task": tasks.TASKS,
    "normalization": normalizations.NORMALIZATIONS,
    "optimizer": optimizers.OPTIMIZERS,
    "input_scaling": scalings.SCALINGS,
    "schedule": optimizers.SCHEDULES,
    "model": models.MODELS,
}
ROW_NEEDS = {  # what a row needs beside it
    "adamw": {"weight_decay": 0.1},
    "zeros": {"normalization": "none"},
    "autoencoder": {"task": "sparse_features", "hidden": (4,), "biased_layer": 1},
    "tied_autoencoder": {"task": "sparse_features", "hidden": (4,), "biased_layer": 1},
}
# One network has a row of every table: as many networks as the longest table has rows, and each
# row in another company. What fails there alone has a test of its own in test_models.py.
NETWORKS = [
    {field: list(table)[i % len(table)] for field, table in TABLES.items()}
    for i in range(max(map(len, TABLES.values())))
]


@pytest.mark.slow
@pytest.mark.parametrize("rows", _first_is_fast(NETWORKS), ids=lambda rows: "-".join(rows.values()))
def test_every_row_is_swept_stored_estimated_drawn_explored_and_replayed(rows, tmp_path):
    needs = {}
    for name in rows.values():
        needs |= ROW_NEEDS.get(name, {})
    if optimizers.SCHEDULES[rows["schedule"]].uses_warmup:
        needs["warmup_steps"] = 2
    base = dataclasses.replace(TINY, **{**rows, **needs})
    # Far enough for some unit to be dead at step 0 whatever the scale of the inputs.
    axes = {"learning_rate": [0.001, 0.002], "initial_bias": [-4000.0, -3000.0]}
    _sweep_store_estimate_draw_explore_and_replay(base, axes, tmp_path)


def test_a_field_that_nobody_has_proved_is_refused():
    """Stands for a field that somebody adds: whatever is not in COVERED is refused by name."""
    state = training.start(TINY, run_key(0, 0))
    task = tasks.make_task(TINY, purpose_key(run_key(0, 0), "task"), tasks.load_data(TINY))
    changed = {  # every field, away from its default
        name: _values(name)[0] for name in TRACED
    } | {"schedule": "warmup", "model": "residual", "change_every": 2, "killed_at": 2}
    changed |= {"hidden_bias": False, "definition": "flat", "top_k": 2}
    for covered, ask in (
        (certificates.COVERED, lambda c: certificates.certify(c, task, state, horizon=1)),
        (channels.COVERED, lambda c: check_covered(c, "accounts", channels.COVERED)),
    ):
        assert covered < set(FIELDS)  # no name that is none, and never all
        refused = [name for name in changed if name not in covered]
        assert refused
        for name in refused:
            with pytest.raises(ValueError, match=f"{name}=.* do not cover it"):
                ask(dataclasses.replace(TINY, **{name: changed[name]}))


def test_ranges_say_what_they_hold():
    for limits, inside, outside, rule in (
        ({}, (-1e30, 0, 1e30), (), "must be finite"),
        ({"at_least": 0}, (0, 1), (-1e-9,), "must be finite and >= 0"),
        ({"above": 0}, (1e-9,), (0, -1), "must be finite and > 0"),
        ({"at_least": 0, "below": 1}, (0, 0.99), (1, -1), "must be in [0, 1)"),
        ({"at_least": 0, "at_most": 1}, (0, 1), (1.01, -1), "must be in [0, 1]"),
        ({"at_most": 2}, (2, -9), (2.1,), "must be finite and <= 2"),
        ({"below": 2}, (1.9,), (2,), "must be finite and < 2"),
    ):
        allowed = Range(**limits)
        assert all(allowed.holds(v) for v in inside) and not any(map(allowed.holds, outside))
        assert allowed.rule == rule


def test_every_optimizer_declares_a_memory_that_its_state_holds():
    params = {"hidden_1": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    for name, row in optimizers.OPTIMIZERS.items():
        state = row.make(0.1, 0.5).init(params)
        held = [memory for memory in ("trace", "mu") if optax.tree.get(state, memory)]
        assert held == ([row.memory] if row.memory else []), name
        # Whether the momentum matters: the update of a second step, after another gradient.
        updates = []
        for momentum in (0.1, 0.7):
            optimizer = row.make(0.1, momentum)
            _, now = optimizer.update(params, optimizer.init(params), params)
            zeros = jax.tree.map(jnp.zeros_like, params)
            step, _ = optimizer.update(zeros, now, params)
            updates.append(np.asarray(step["hidden_1"]["bias"]))
        assert (not np.allclose(*updates)) == row.uses_momentum, name


def test_an_axis_of_a_field_that_is_not_traced_is_refused():
    with pytest.raises(ValueError, match="axis='steps' is not known"):
        make_grid(TINY, {"steps": [1.0]}, 1)
