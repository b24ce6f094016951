"""Bad input: a ValueError that names the field, the value and the remedy, before any tracing."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics.checks import aliases_of, nearest
from relu_dynamics.config import FIELDS, TRACED, Config, to_json
from relu_dynamics.engine.initializers import BIAS_LAWS, INITIALIZERS
from relu_dynamics.engine.keys import run_key
from relu_dynamics.engine.validation import CHOICES, from_json, validate
from relu_dynamics.grid import VERSION_FIELDS, default_lanes, make_grid

pytestmark = pytest.mark.core

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("learning_rate", -0.1, "must be finite and >= 0"),
        ("learning_rate", NAN, "must be finite"),
        ("learning_rate", INF, "must be finite"),
        ("learning_rate", True, "one real number"),
        ("learning_rate", "0.1", "one real number"),
        ("learning_rate", 1j, "one real number"),
        ("learning_rate", 1e39, "float32"),
        ("learning_rate", None, "give a number"),
        ("initial_bias", NAN, "must be finite"),
        ("momentum", 1.0, r"must be in [0, 1)"),
        ("weight_decay", -1e-3, "must be finite and >= 0"),
        ("noise_scale", -1.0, "must be finite and >= 0"),
        ("tolerance", NAN, "must be finite"),
        ("task", "digit", 'did you mean "digits"?'),
        ("activation", "rellu", 'did you mean "relu"?'),
        ("optimizer", "adan", 'did you mean "adam"?'),
        ("initializer", "he", 'did you mean "he_normal"?'),
        ("initializer", "kaiming_normal", 'did you mean "he_normal"?'),
        ("initializer", "GlorotUniform", 'did you mean "xavier_uniform"?'),
        ("optimizer", "SGD", 'did you mean "sgd"?'),
        ("optimizer", "heavy-ball", 'did you mean "momentum"?'),
        ("activation", "ReLU", 'did you mean "relu"?'),
        ("activation", "LeakyReLU", 'did you mean "leaky_relu"?'),
        ("activation", "swish", 'did you mean "silu"?'),
        ("normalization", "BatchNorm", 'did you mean "batch"?'),
        ("normalization", "dropout", "is not known. Known: none"),
        ("schedule", "CosineAnnealingLR", 'did you mean "cosine"?'),
        ("normalization", "layernorm", 'did you mean "layer"?'),
        ("input_scaling", "standardised", 'did you mean "standardized"?'),
        ("hidden", (), "at least one layer"),
        ("hidden", (32, 0), "whole number >= 1"),
        ("hidden", [], "at least one layer"),
        ("hidden", 32, "must be a tuple of widths, one per layer, such as (32,)"),
        ("hidden", ("32",), "whole number >= 1: 32 without quotes"),
        ("steps", "50", "must be a whole number: 50 without quotes"),
        ("learning_rate", "1e-3", "give one real number: 0.001 without quotes"),
        ("steps", 0, "between 1 and"),
        ("steps", -5, "between 1 and"),
        ("steps", 10.0, "whole number"),
        ("steps", 1010, "use steps=1000 or steps=1025"),
        ("probe_every", 0, "between 1 and"),
        ("sustain", 0, "between 1 and"),
        ("examples", 0, "between 1 and"),
        ("examples", 5000, "use examples <= 1797"),
        ("batch_size", 0, "between 1 and"),
        ("batch_size", 2000, "larger than examples=1024"),
        ("probe_size", 2000, "larger than examples=1024"),
        ("biased_layer", 3, "between 1 and 2"),
        ("biased_units", 33, "between 1 and 32"),
        ("decay_kind", "decoupled", "needs a weight_decay"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_the_remedy(field, value, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        validate(dataclasses.replace(Config(), **{field: value}))
    message = str(caught.value)
    assert field in message and "\n" not in message
    assert repr(value) in message or str(value) in message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "adamw"}, "weight_decay=None: adamw needs one"),
        ({"momentum": 0.5}, "not used by optimizer='sgd'"),
        ({"upstream_rate": 0.0, "biased_layer": 1}, "needs a layer below"),
        ({"normalization": "group", "hidden": (6, 6), "biased_units": 2}, "multiples of 4"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        validate(dataclasses.replace(Config(), **fields))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("beta1", "momentum"),
        ("epochs", "steps"),
        ("batchsize", "batch_size"),
        ("Hidden-Layer-Sizes", "hidden"),
        ("learning_rat", "learning_rate"),
    ],
)
def test_a_field_by_another_name_is_hinted_at_wherever_fields_are_named(name, meant):
    words = f'did you mean "{meant}"'
    with pytest.raises(ValueError, match=words):
        Config(**{name: 1})
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(Config(), **{name: 1})
    with pytest.raises(ValueError, match=words):
        from_json(f'{{"{name}": 1}}')
    if meant in TRACED:
        with pytest.raises(ValueError, match=words):
            make_grid(Config(), {name: [0.1]}, 1)


def test_aliases_lead_to_one_row_each_and_are_no_row_themselves():
    """Or a hint would depend on the order of a table."""
    for known in (FIELDS, INITIALIZERS, BIAS_LAWS, *CHOICES.values()):
        rows = dict(known.items() if isinstance(known, Mapping) else ((n, None) for n in known))
        names = [alias for row in rows.values() for alias in aliases_of(row)] + list(rows)
        folded = [name.casefold().translate({ord(c): None for c in "_- "}) for name in names]
        assert len(set(folded)) == len(folded), sorted(folded)
        for name, row in rows.items():
            for alias in aliases_of(row):
                assert nearest(alias.upper(), known) == name


@pytest.mark.parametrize("hidden", [[4, 9], (np.int64(4), 9), np.array([4, 9]), [np.int32(4), 9]])
def test_widths_may_be_a_list_or_numpy_integers(hidden):
    made = validate(Config(hidden=hidden, biased_units=2))
    assert made.hidden == (4, 9) and all(type(width) is int for width in made.hidden)
    assert hash(made) == hash(validate(Config(hidden=(4, 9), biased_units=2)))


@pytest.mark.parametrize(
    ("axes", "seeds", "options", "words"),
    [
        ({}, 4, {}, "axes is empty"),
        ({"learning_rate": []}, 4, {}, "axis learning_rate is empty"),
        ({"learning_rate": [0.1, 0.1]}, 4, {}, "repeats [0.1]"),
        ({"learning_rate": [0.1, 0.1 + 1e-10]}, 4, {}, "only 1 in float32"),
        ({"learning_rate": 0.1}, 4, {}, "must be a sequence"),
        ({"learning_rate": "0.1"}, 4, {}, "must be a sequence"),
        ({"learning_rate": [0.1, -1]}, 4, {}, "learning_rate=-1"),
        ({"learningrate": [0.1]}, 4, {}, 'did you mean "learning_rate"?'),
        ({"task": ["digits"]}, 4, {}, "Known: learning_rate"),
        ({"learning_rate": [0.1]}, 0, {}, "seeds=0"),
        ({"learning_rate": [0.1]}, True, {}, "seeds=True"),
        ({"learning_rate": [0.1]}, [1, 1], {}, "without repeats"),
        ({"learning_rate": [0.1]}, [-1], {}, "-1 must be a whole number"),
        ({"learning_rate": [0.1]}, [2**64], {}, "< 2^64"),
        ({"learning_rate": [0.1]}, 4, {"root_seed": 2**32}, "root_seed=4294967296"),
        ({"learning_rate": [0.1]}, 4, {"root_seed": 1.0}, "root_seed=1.0"),
        ({"learning_rate": [0.1]}, 4, {"lanes": 0}, "lanes=0"),
    ],
)
def test_a_bad_grid_is_refused(axes, seeds, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make_grid(Config(), axes, seeds, **options)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, "0"])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed="):
        run_key(0, seed)


def test_a_config_survives_json():
    config = validate(Config(learning_rate=0.3, momentum=0.5, optimizer="adam", hidden=(4, 9)))
    assert from_json(to_json(config)) == config
    with pytest.raises(ValueError, match='did you mean "learning_rate"'):
        from_json('{"learning_rat": 1}')


def test_fields_that_came_later_leave_old_identities_as_they_were():
    """A result from before a field continues: the digest is that of the version before them."""
    grid = make_grid(
        Config(), {"learning_rate": [0.1, 0.3], "initial_bias": [-6.0, -2.0]}, 3, lanes=4
    )
    identity = {n: v for n, v in grid.identity.items() if n not in VERSION_FIELDS}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    before = "e191e64f23e930df4db97a1b3adafe5ba80f992016945e4e0d9982dfc4443284"
    assert hashlib.sha256(text.encode()).hexdigest() == before


def test_traced_fields_are_the_pytree_leaves():
    import jax

    full = Config(**{name: 0.5 for name in TRACED})
    assert len(jax.tree.leaves(full)) == len(TRACED)
    assert len(jax.tree.leaves(Config())) == 2  # None is absent from the program


def test_cells_are_numbered_with_the_last_axis_fastest():
    grid = make_grid(Config(), {"learning_rate": [1, 2, 3], "initial_bias": [-2, -1]}, 2, lanes=4)
    values = grid.values(np.arange(grid.cells))
    assert values["learning_rate"].tolist() == [1, 1, 2, 2, 3, 3]
    assert values["initial_bias"].tolist() == [-2, -1] * 3
    assert (grid.cells, grid.runs, grid.chunks, grid.blocks) == (6, 12, 2, 4)
    assert grid.block_cells(3).tolist() == [4, 5, 5, 5] and grid.block_size(3) == 2
    assert [grid.block_seed(block) for block in range(4)] == [0, 0, 1, 1]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 7), st.integers(1, 5), st.integers(1, 9),
)  # fmt: skip
def test_every_run_is_in_exactly_one_block(rates, biases, seeds, lanes):
    axes = {
        "learning_rate": [0.01 * (1 + i) for i in range(rates)],
        "initial_bias": [-1.0 - i for i in range(biases)],
    }
    grid = make_grid(Config(), axes, seeds, lanes=lanes)
    runs = [
        (grid.block_seed(block), cell)
        for block in range(grid.blocks)
        for cell in grid.block_cells(block)[: grid.block_size(block)].tolist()
    ]
    assert sorted(runs) == [(seed, cell) for seed in range(seeds) for cell in range(grid.cells)]


def test_what_changes_numbers_changes_the_hash():
    base = dict(config=Config(), axes={"learning_rate": [0.1, 0.2]}, seeds=2)
    hashes = {
        make_grid(**base).hash,
        make_grid(**{**base, "config": Config(steps=500)}).hash,
        make_grid(**{**base, "axes": {"learning_rate": [0.1, 0.3]}}).hash,
        make_grid(**{**base, "seeds": 3}).hash,
        make_grid(**base, root_seed=1).hash,
        make_grid(**base, lanes=8).hash,
    }
    assert len(hashes) == 6
    # What the axis overrides in the base config does not count.
    same = make_grid(**{**base, "config": Config(learning_rate=7.0)})
    assert same.hash == make_grid(**base).hash


def test_default_lanes_fill_the_cache():
    unit = Config(hidden=(1,), batch_size=32, biased_layer=1, biased_units=1)
    assert default_lanes(Config(), 10**6) == 16
    assert default_lanes(unit, 10**6) == 1024
    assert default_lanes(Config(hidden=(4096,), biased_layer=1), 10**6) == 1
    assert [default_lanes(unit, cells) for cells in (1, 2, 5, 1000)] == [1, 2, 8, 1024]
    assert default_lanes(unit, 10**6, "gpu") == 2**17
    kernel = Config(implementation="kernel")
    assert default_lanes(kernel, 10**6) == 64
    assert default_lanes(dataclasses.replace(kernel, hidden=(4096,)), 10**6) == 1
