"""Arrays that do not fit their config are refused at the doors, before anything is compiled."""

import jax
import jax.numpy as jnp
import pytest

from relu_dynamics import Config, certificates, channels
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import train_step

CONFIG = Config(
    task="teacher_student", dimension=3, hidden=(4, 2), examples=8, batch_size=4, biased_units=1,
    steps=4, probe_every=2,
)  # fmt: skip
KEY = run_key(0, 0)
TASK = tasks.make_task(CONFIG, purpose_key(KEY, "task"), None)
STATE = training.start(CONFIG, KEY)
BROKEN_TASKS = {
    r"task.inputs has shape \(7, 3\) .* needs \(8, 3\) of float": TASK._replace(
        inputs=TASK.inputs[:7]
    ),
    r"task.targets has shape \(8,\) .* needs \(8, 1\)": TASK._replace(targets=TASK.targets[:, 0]),
    r"task.targets .* of int32; .* of float: make the task": TASK._replace(
        targets=TASK.targets.astype(jnp.int32)
    ),
    r"task.probe has shape \(8, 2\) .* needs \(any, 3\)": TASK._replace(probe=TASK.probe[:, :2]),
}


def _with_params(**groups):
    return STATE._replace(params={**STATE.params, **groups})


BROKEN_STATES = {
    r"state.step has shape \(2,\) .* needs \(\) of int": STATE._replace(
        step=jnp.zeros(2, jnp.int32)
    ),
    r"\['hidden_2'\]\['bias'\] has shape \(1,\)": _with_params(
        hidden_2={**STATE.params["hidden_2"], "bias": jnp.zeros(1)}
    ),
    r"\['hidden_1'\]\['kernel'\] .* of int32": _with_params(
        hidden_1=jax.tree.map(lambda leaf: leaf.astype(jnp.int32), STATE.params["hidden_1"])
    ),
    r"\['hidden_2'\] is missing; the config has 2 layers": STATE._replace(
        params={name: STATE.params[name] for name in ("hidden_1", "output")}
    ),
}
DOORS = {
    "train_step": lambda task, state: train_step(CONFIG, task, KEY, state),
    "run": lambda task, state: training.run(CONFIG, task, KEY, state),
    "spell_account": lambda task, state: channels.spell_account(CONFIG, task, KEY, state),
    "certify": lambda task, state: certificates.certify(CONFIG, task, state, horizon=1),
    "account": lambda task, state: channels.account(CONFIG, state=state),
}


@pytest.mark.parametrize("message", BROKEN_TASKS)
@pytest.mark.parametrize("door", ["train_step", "run", "spell_account"])
def test_a_task_of_another_shape_or_type_is_refused(door, message):
    with pytest.raises(ValueError, match=message):
        DOORS[door](BROKEN_TASKS[message], STATE)


@pytest.mark.parametrize("message", BROKEN_STATES)
@pytest.mark.parametrize("door", DOORS)
def test_a_state_of_another_shape_or_type_is_refused(door, message):
    with pytest.raises(ValueError, match=message):
        DOORS[door](TASK, BROKEN_STATES[message])


def test_the_doors_read_shapes_and_types_alone():
    """Values never matter, so the doors work under tracing, where there are none."""
    seen = jax.eval_shape(lambda task, state: train_step(CONFIG, task, KEY, state)[1], TASK, STATE)
    assert seen.gradient_norm.shape == (CONFIG.units,)
