"""Fields without effect are refused, and by the compiled program itself: a field that is refused
would change nothing in it, and one that is accepted changes it."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics.config import FIELDS, Config
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.validation import CHOICES, validate
from relu_dynamics.grid import make_grid

BASE = Config(
    task="teacher_student", examples=12, batch_size=4, hidden=(4,), biased_layer=1, biased_units=2,
    steps=20, probe_every=5,
)  # fmt: skip
OTHER = {  # a value away from the default, and from BASE, for every field that a config may set
    "learning_rate": 0.3, "initial_bias": -2.0, "momentum": 0.5, "weight_decay": 0.1,
    "noise_scale": 0.1, "upstream_rate": 0.5, "outside_gradient": 0.1, "clip_norm": 1.0,
    "weight_scale": 2.0, "scaling_dose": 2.0, "killed_fraction": 0.5, "target_scale": 2.0,
    "task": "diabetes", "examples": 11, "dimension": 5, "input_scaling": "minmax",
    "change_every": 10, "model": "residual", "hidden": (6,), "activation": "tanh",
    "initializer": "he_uniform", "normalization": "layer", "output_bias": False,
    "optimizer": "adam", "schedule": "cosine", "warmup_steps": 3, "decay_steps": 30,
    "decay_kind": "decoupled", "decay_targets": "weights", "batch_size": None,
    "batch_order": "sequential", "steps": 30, "biased_layer": 2, "biased_units": 1,
    "bias_scale": 0.5, "bias_law": "normal", "hidden_bias": (True, False), "row_order": "given",
    "top_k": 1, "definition": "flat", "decay_to_start": True, "reset": "redo", "reset_every": 10,
    "decoder_bias": "mean", "penalty": "l1", "penalty_scale": 0.1, "revival": "aux_k",
    "revival_scale": 0.5, "silent_after": 2.0, "reset_threshold": 0.5,
    "reset_rate": 0.1, "reset_maturity": 2.0,
    "killed_at": 5, "probe_size": 6, "probe_every": 10, "tolerance": 1e-3, "sustain": 10,
    "implementation": "kernel",
}  # fmt: skip
STARTS = [  # what the other fields may depend on, each as somebody would set it
    {}, {"optimizer": "momentum"}, {"optimizer": "adamw", "weight_decay": 0.2},
    {"weight_decay": 0.2}, {"batch_size": None}, {"task": "digits"}, {"task": "abs"},
    {"task": "random_bits"}, {"input_scaling": "shifted"}, {"killed_fraction": 0.25},
    {"schedule": "warmup", "warmup_steps": 4}, {"schedule": "warmup_cosine", "warmup_steps": 4},
    {"activation": "top_k"}, {"hidden": (4, 4), "biased_layer": 2},
    {"optimizer": "rmsprop", "schedule": "cosine"}, {"reset": "redo", "reset_every": 5},
    {"reset": "continual_backprop", "reset_every": 5}, {"penalty": "l1", "penalty_scale": 0.01},
    {"revival": "ghost_gradients"}, {"task": "sparse_features", "model": "autoencoder"},
]  # fmt: skip


@functools.cache
def program(config: Config) -> tuple[str, bytes]:
    """The traced program of a run as text, its config written into it, and the numbers in it."""
    data = tasks.load_data(config)

    def run(key, data):
        return training.run(config, tasks.make_task(config, purpose_key(key, "task"), data), key)

    made = jax.make_jaxpr(run)(run_key(0, 0), data)
    numbers = [np.asarray(leaf).tobytes() for leaf in (*jax.tree.leaves(data), *made.consts)]
    return re.sub(r"0x[0-9a-f]+", "", str(made)), b"".join(numbers)  # no addresses of functions


def test_every_field_is_tried():
    assert set(OTHER) == set(FIELDS)
    for name, field in FIELDS.items():
        assert OTHER[name] != getattr(BASE, name), name
        for need in field.metadata.get("used_by", ()):
            other, _, attribute = need.partition(".")
            assert other in FIELDS
            assert not attribute or all(hasattr(row, attribute) for row in CHOICES[other].values())


DEPENDENT = [name for name, field in FIELDS.items() if field.metadata.get("used_by")]


@pytest.mark.slow
@settings(max_examples=16, deadline=None, derandomize=True)
@given(st.sampled_from(STARTS), st.sampled_from(DEPENDENT))
def test_a_refused_field_would_change_nothing_and_an_accepted_one_something(start, name):
    """The reason for the refusal may be another one (a value that does not fit): only those that
    say that the field is not used are held to it."""
    base = validate(dataclasses.replace(BASE, **start))
    changed = dataclasses.replace(base, **{name: OTHER[name]})
    try:
        made = validate(changed)
    except ValueError as error:
        assert re.match(rf"{name}=\S+ (is not used by|needs a) ", str(error)), error
        assert program(changed) == program(base)
    else:
        assert program(made) != program(base)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FIELDS if n not in (*DEPENDENT, "model")])
def test_a_field_that_needs_nothing_changes_the_program(name):
    needs = {
        "upstream_rate": {"hidden": (4, 4), "biased_layer": 2},
        "biased_layer": {"hidden": (4, 4)},
        "change_every": {"task": "digits"},
        "bias_scale": {"bias_law": "constant", "bias_scale": 0.1},
        "bias_law": {"bias_law": "constant", "bias_scale": 0.1},
        "hidden_bias": {"hidden": (4, 4)},
        "reset": {"reset": "continual_backprop", "reset_every": 5},
        "penalty": {"penalty": "l0", "penalty_scale": 0.1, "activation": "jump_relu"},
    }.get(name, {})
    base = validate(dataclasses.replace(BASE, **needs))
    made = validate(dataclasses.replace(base, **{name: OTHER[name]}))
    assert program(made) != program(base)


def test_the_residual_network_of_unequal_widths_is_an_mlp_and_refused():
    uneven = dataclasses.replace(BASE, hidden=(6, 5))
    with pytest.raises(ValueError, match=r"model='residual' is the same as an MLP here.*\[16, 6\]"):
        validate(dataclasses.replace(uneven, model="residual"))
    same = program(validate(uneven)), program(dataclasses.replace(uneven, model="residual"))
    assert same[0] == same[1]
    even = dataclasses.replace(BASE, hidden=(5, 5))
    made = validate(dataclasses.replace(even, model="residual"))
    assert program(made) != program(validate(even))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"decay_targets": "weights"}, "decay_targets='weights' needs a weight_decay; give one"),
        ({"optimizer": "adamw", "weight_decay": 0.1, "decay_kind": "decoupled"},
         "decay_kind='decoupled' is not used by optimizer='adamw'; use decay_kind='coupled'"),
        ({"task": "digits", "dimension": 8}, "dimension=8 is not used by task='digits'"),
        ({"batch_size": None, "batch_order": "sequential"}, "needs a batch_size"),
        ({"warmup_steps": 3}, "not used by schedule='constant'; use warmup_steps=None, or"),
        ({"scaling_dose": 2.0}, "or input_scaling='shifted' or 'one_bad_feature'"),
        ({"killed_at": 5}, "killed_at=5 needs a killed_fraction; give one, or killed_at=0"),
        ({"killed_fraction": 0.5, "killed_at": 20}, "killed_at=20 must be below steps=20"),
        ({"task": "digits", "change_every": 20}, "change_every=20 must be below steps=20"),
        ({"momentum": 0.5}, "momentum=0.5 is not used by optimizer='sgd'; use momentum=None, or"),
    ],
)  # fmt: skip
def test_a_field_without_effect_is_refused_with_what_would_use_it(fields, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        validate(dataclasses.replace(BASE, **fields))


@pytest.mark.parametrize("name", ["momentum", "scaling_dose"])
def test_an_axis_without_effect_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0.5 is not used by"):
        make_grid(BASE, {name: [0.5, 0.25]}, 1)
