"""A user's own data: what becomes of it, and that nothing wrong is trained on silently."""

import collections.abc
import dataclasses
import json
import pathlib
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import NAMES, find
from experiments import __main__ as command
from relu_dynamics import Config, store, train
from relu_dynamics.config import to_json
from relu_dynamics.engine import scalings, tasks
from relu_dynamics.engine.validation import validate
from relu_dynamics.experiment import DataOptions, use_own_data
from relu_dynamics.grid import grid_from_identity, make_grid
from relu_dynamics.sweeps.replay import replay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
LABELS = np.where(X[:, 0] > 0, "yes", "no")
AMOUNTS = 10 + 9 * X[:, 0] - 2 * X[:, 1]
TINY = Config(
    examples=40, batch_size=8, hidden=(4,), biased_layer=1, biased_units=2, steps=4, probe_every=2
)
RATES = {"learning_rate": [0.1, 0.2]}


@pytest.fixture(autouse=True)
def _own_rows_end_with_a_test():
    before = dict(tasks.TASKS)
    yield
    tasks.TASKS.clear()
    tasks.TASKS.update(before)


def own(inputs, targets, **options):
    """The checked data of a new task, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = tasks.from_arrays(inputs, targets, **options)
    return tasks.TASKS[name].load()


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(ValueError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Right values -------------------------------------------------------------------------------------


def test_rows_in_their_given_order_make_the_fixed_point_of_a_pass():
    """A dead hidden layer, so only the output bias learns: c += rate (t - c) over 0, 1, 1, 0."""
    inputs = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    options = {"kind": "regression", "standardize": False}
    task = tasks.from_arrays(inputs, [0.0, 1.0, 1.0, 0.0], **options)
    config = Config(
        task=task, examples=4, batch_size=1, batch_order="sequential", row_order="given",
        hidden=(4,), biased_layer=1, biased_units=4, initial_bias=-10.0, input_scaling="raw",
        learning_rate=0.2, steps=400, probe_every=100, sustain=4,
    )  # fmt: skip
    for seed in range(3):
        bias = train(config, seed=seed).state.params["output"]["bias"]
        np.testing.assert_allclose(bias, 20 / 41, atol=1e-5)


@pytest.mark.slow
def test_targets_without_a_column_axis_never_broadcast():
    inputs = RNG.normal(size=(100, 2))
    targets = 10 + 9 * inputs[:, 0] - 2 * inputs[:, 1]
    losses = []
    for shaped in (targets, targets[:, None], targets.astype(np.float32)):
        tasks.TASKS["mine"] = tasks.TaskKind(1, False, lambda shaped=shaped: (inputs, shaped), None)
        config = Config(
            task="mine", examples=100, batch_size=None, hidden=(16,), biased_layer=1,
            biased_units=16, initial_bias=0.0, input_scaling="raw", learning_rate=0.01,
        )  # fmt: skip
        losses.append(float(train(config).held_loss))
    assert losses[0] == losses[1] == losses[2] < 0.1  # broadcast: half the variance, 40 and more


@pytest.mark.parametrize("value", [0.1, 7.0, 255 / 3, 1e6 / 3, 1 / 3, 0.0, -1e9])
@pytest.mark.parametrize("rows", [100, 569, 1000, 1437])
def test_a_constant_feature_is_exactly_0_and_a_held_out_row_differs_by_its_difference(value, rows):
    inputs = RNG.normal(size=(rows, 3)).astype(np.float32)
    inputs[:, 1] = value
    held = inputs[:1].copy()
    held[0, 1] += np.float32(max(1, abs(value) / 2**20))
    for name in ("standardized", "minmax"):
        scaled, apart = (
            np.asarray(scalings.SCALINGS[name].scale(jnp.asarray(x), jnp.asarray(inputs), None))
            for x in (inputs, held)
        )
        assert not scaled[:, 1].any() and scaled[:, (0, 2)].std(0).min() > 0.1
        assert apart[0, 1] == held[0, 1] - inputs[0, 1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.floats(-1e6, 1e6, width=32), st.integers(0, 2**32 - 1))
def test_the_bad_feature_is_the_first_that_varies(first, value, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(100, 4)).astype(np.float32)
    inputs[:, :first] = value
    plain, bad = (
        np.asarray(scalings.SCALINGS[name].scale(jnp.asarray(inputs), jnp.asarray(inputs), 100.0))
        for name in ("standardized", "one_bad_feature")
    )
    factors = np.where(np.arange(4) == first, 100.0, 1.0)
    np.testing.assert_allclose(bad, plain * factors, rtol=1e-5)


def test_scaling_a_constant_under_jit_is_exact_too():
    inputs = RNG.normal(size=(1000, 3)).astype(np.float32)
    inputs[:, 1] = 7.0
    inputs[-1, 1] = 8.0
    task = tasks.from_arrays(inputs, inputs[:, 0])
    config = dataclasses.replace(TINY, task=task, examples=999, row_order="given")
    made = jax.jit(lambda data: tasks.make_task(config, jax.random.key(0), data))(
        tasks.load_data(config)
    )
    assert not np.asarray(made.inputs)[:, 1].any() and made.held_inputs[0, 1] == 1


# What data become ---------------------------------------------------------------------------------


class Column(collections.abc.Sequence):
    """A column of a data set, as libraries hand it out."""

    def __init__(self, values):
        self.values = values

    def __getitem__(self, index):
        return self.values[index]

    def __len__(self):
        return len(self.values)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.tolist(),
        lambda x: tuple(map(tuple, x.tolist())) if x.ndim > 1 else tuple(x.tolist()),
        lambda x: pandas.DataFrame(x) if x.ndim > 1 else pandas.Series(x),
        lambda x: x.astype(object),
        lambda x: x if x.dtype.kind == "U" else jnp.asarray(x, jnp.float32),
        lambda x: Column(list(x)),
        lambda x: x[:, None] if x.ndim == 1 else np.asfortranarray(x),
    ],
)
@pytest.mark.parametrize("targets", [LABELS, X[:, 0].astype(np.float32)])
def test_the_container_makes_no_difference(form, targets):
    plain = own(X.astype(np.float32), targets)
    other = own(form(X.astype(np.float32)), form(targets))
    assert other.digest == plain.digest


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.lists(st.integers(-5, 5), min_size=2, max_size=40),
        st.lists(st.sampled_from(["a", "b", "", "Zoé", "None"]), min_size=2, max_size=40),
        st.lists(st.booleans(), min_size=2, max_size=40),
    )
)
def test_class_numbers_are_those_of_the_sorted_labels(labels):
    if len(set(labels)) == 1:
        message = refusal(own, np.arange(len(labels)), labels, kind="classification")
        assert "needs two classes" in message and repr(labels[0]) in message
        return
    data = own(np.arange(len(labels)), labels, kind="classification")
    assert data.facts["labels"] == sorted(set(labels)) and data.outputs == len(set(labels))
    assert [data.facts["labels"][code] for code in data.targets] == labels
    assert data.targets.dtype == np.int32 and data.classes


def test_targets_of_a_regression_are_standardized_and_the_factor_is_kept():
    data = own(X, AMOUNTS)
    assert not data.classes and data.targets.shape == (60, 1)
    mean, deviation = data.facts["target_mean"], data.facts["target_deviation"]
    np.testing.assert_allclose((mean, deviation), ([AMOUNTS.mean()], [AMOUNTS.std()]))
    np.testing.assert_allclose(data.targets * deviation + mean, AMOUNTS[:, None], rtol=1e-5)
    plain = own(X, AMOUNTS, standardize=False)
    np.testing.assert_array_equal(plain.targets[:, 0], AMOUNTS.astype(np.float32))
    many = own(X, X[:, :2], held=(X[:5], X[:5, :2]))
    assert many.outputs == 2 and len(many.facts["target_mean"]) == 2
    np.testing.assert_array_equal(many.held[1], many.targets[:5])  # by the training rows' factor


@pytest.mark.parametrize(
    ("targets", "options", "classes"),
    [
        (np.arange(60) % 3, {}, True),
        (np.arange(60) % 3 == 0, {}, True),
        (np.arange(60) % 3, {"kind": "regression"}, False),
        ((np.arange(60) % 3).astype(float), {"kind": "classification"}, True),
        (np.arange(60) / 7, {}, False),
        (np.arange(60.0), {}, False),  # floats with many values, though whole
        (np.arange(60), {"kind": "regression"}, False),
        (np.eye(3)[np.arange(60) % 3], {"kind": "regression"}, False),
        (np.arange(60) % 3 == 0, {"kind": "regression"}, False),
    ],
)
def test_the_kind_follows_the_dtype_unless_it_is_said(targets, options, classes):
    assert own(X, targets, **options).classes == classes


def test_what_a_user_should_know_is_a_line_each():
    pixels = RNG.integers(0, 256, (40, 6, 6)).astype(np.uint8)
    pixels[:, 0, 0] = 0
    with pytest.warns(UserWarning) as said:
        name = tasks.from_arrays(pixels, np.arange(40) % 4)
    text = "\n".join(str(warning.message) for warning in said)
    assert "shape (6, 6) are flattened" in text and "image bytes" in text
    assert "1 of 36 features are constant, pixel (0, 0) first" in text and len(said) == 3
    np.testing.assert_array_equal(tasks.TASKS[name].load().inputs, pixels.reshape(40, 36))


def test_duplicate_rows_are_no_problem():
    assert len(own(np.repeat(X, 2, 0), np.repeat(LABELS, 2)).inputs) == 120


def test_the_arrays_are_a_copy_that_nobody_writes_to():
    inputs = X.astype(np.float32)
    data = own(inputs, LABELS)
    inputs[0, 0] = 99
    assert data.inputs[0, 0] != 99
    with pytest.raises(ValueError, match="read-only"):
        data.inputs[0, 0] = 1


# What is refused ----------------------------------------------------------------------------------

BAD_CELLS = {
    "nan": np.nan, "-inf": -np.inf, "None": None, "Paris": "Paris", "NA": "NA", "1e+30": 1e30,
    "1j": 1j,
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.integers(4, 12), st.integers(1, 4), st.sampled_from(list(BAD_CELLS)), st.booleans(),
    st.data(),
)  # fmt: skip
def test_one_bad_cell_is_named_with_its_row_column_and_value(rows, columns, text, named, data):
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    inputs = np.random.default_rng(rows).normal(size=(rows, columns)).astype(object)
    inputs[row, column] = BAD_CELLS[text]
    names = [f"c{i}" for i in range(columns)]
    table = pandas.DataFrame(inputs, columns=names) if named else inputs
    message = refusal(own, table, np.arange(rows) / 3)
    where = f"column 'c{column}'" if named else f"column {column}"
    assert message.startswith(f"inputs: row {row}, {where} is ") and text in message
    message = refusal(own, np.arange(rows), inputs[:, column], kind="regression")
    assert f"targets: row {row} is " in message and text in message


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "words"),
    [
        (X, AMOUNTS[:-1], {}, "inputs has 60 rows and targets has 59; give one target per row"),
        (X, AMOUNTS[None], {}, "give targets.T"),
        (3.0, [1], {}, "inputs=3.0 is not an array"),
        ([], [], {}, "inputs is empty (shape (0,))"),
        ([[1, 2], [3]], [0, 1], {}, "row 1 has 1 values and row 0 has 2"),
        ("abc", [1], {}, "inputs='abc' must be an array"),
        (X * 1j, AMOUNTS, {}, "inputs has dtype complex128"),
        (X.astype(str), AMOUNTS, {}, "give inputs.astype(float)"),
        (np.ma.masked_greater(X, 1), AMOUNTS, {}, "inputs has masked cells"),
        (np.array(["2020-01-01"] * 60, "M8[D]"), AMOUNTS, {}, "inputs has dtype datetime64"),
        (1.7e9 + np.arange(60), LABELS, {}, "float32 cannot tell apart or square; subtract"),
        (X * 1e-20, LABELS, {}, "change its unit"),
        (X, np.full(60, 0.5), {}, "all 60 rows are 0.5 (in float32); a constant"),
        (X, ["x"] * 60, {}, "all 60 rows are 'x'; a classification needs two classes"),
        (X, np.arange(60), {}, "60 distinct whole numbers in 60 rows; say kind='regression' or"),
        (X, np.arange(60.0) % 2, {}, "targets are float64, yet 2 distinct whole numbers"),
        (X, LABELS, {"kind": "regression"}, "row 0 is text ('yes'); kind='regression' needs"),
        (X, AMOUNTS, {"kind": "classification"}, "a class is a whole number, text or a boolean"),
        (X, np.eye(3)[np.arange(60) % 3], {}, "give class numbers, targets.argmax(1)"),
        (X, [*["a"] * 59, 7], {}, "targets: row 59 is 7 (int) among text"),
        (X, ["a", *range(59)], {}, "targets: row 0 is 'a' (str) among numbers"),
        (X, [*["a"] * 59, None], {}, "targets: row 59 is missing (None)"),
        (X, AMOUNTS[:, None, None], {}, "targets have shape (60, 1, 1)"),
        (X, LABELS, {"kind": "regresion"}, 'did you mean "regression"?'),
        (X, LABELS, {"name": "digits"}, "name='digits' is a task of this package"),
        (X, LABELS, {"name": ""}, "name='' must be text in one line"),
        (X, LABELS, {"held": 3}, "held=3 must be a pair (inputs, targets)"),
        (X, LABELS, {"held": (X[:, :2], LABELS)}, "held inputs have 2 features and inputs have 3"),
        (X, LABELS, {"held": (X, ["maybe"] * 60)}, "held targets: row 0 is 'maybe', not one of"),
        (X, LABELS, {"held": (X * np.nan, LABELS)}, "held inputs: row 0, column 0 is nan"),
        (X, LABELS, {"standardize": 1}, "standardize=1 must be True or False"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(inputs, targets, options, words):
    assert words in refusal(own, inputs, targets, **options)


def test_held_out_columns_must_be_the_same():
    table = pandas.DataFrame(X, columns=["a", "b", "c"])
    assert "column 1 is 'c' and in inputs 'b'" in refusal(
        own, table, LABELS, held=(table[["a", "c", "b"]], LABELS)
    )


@pytest.mark.parametrize(
    ("outputs", "classes", "targets", "words"),
    [
        (2, True, np.arange(60) % 3, "targets: row 2 is 2, not one of the 2 classes [0, 1]"),
        (2, True, np.arange(60) % 2 + 1, "targets: row 1 is 2, not one of"),
        (2, True, LABELS, "targets: row 0 is 'yes', not one of [0, 1]"),
        (1, False, X[:, :2], "targets have shape (60, 2); give [rows, 1]"),
        (1, False, np.where(np.arange(60) == 5, np.nan, AMOUNTS), "targets: row 5 is nan"),
        (1, False, AMOUNTS[1:], "targets has 59"),
    ],
)
def test_a_row_made_by_hand_goes_through_the_same_checks(outputs, classes, targets, words):
    tasks.TASKS["hand"] = tasks.TaskKind(outputs, classes, lambda: (X, targets), None)
    config = dataclasses.replace(TINY, task="hand")
    for call in (validate, train, tasks.load_data):
        message = refusal(call, config)
        assert message.startswith("task='hand': ") and words in message


def test_classes_made_by_hand_may_be_absent_and_targets_constant():
    tasks.TASKS["hand"] = tasks.TaskKind(3, True, lambda: (X, np.zeros(60)), None)
    assert tasks.load_data(Config(task="hand"))[1].dtype == np.int32
    tasks.TASKS["hand"] = tasks.TaskKind(1, False, lambda: (X, np.zeros(60)), None)
    assert tasks.load_data(Config(task="hand"))[1].shape == (60, 1)


def test_too_few_rows_are_refused_with_how_many_there_are():
    config = Config(task=tasks.from_arrays(X, LABELS))
    assert "use examples <= 60" in refusal(validate, config)
    assert "use a smaller batch" in refusal(validate, dataclasses.replace(config, examples=50))


# Order and split ----------------------------------------------------------------------------------


def rows_of(task, **changes):
    """(training rows, held-out rows) of a made task whose one feature numbers the rows."""
    config = dataclasses.replace(TINY, task=task, input_scaling="raw", **changes)
    made = tasks.make_task(config, jax.random.key(3), tasks.load_data(config))
    return np.asarray(made.inputs)[:, 0].tolist(), np.asarray(made.held_inputs)[:, 0].tolist()


def test_given_rows_stay_in_their_order_and_shuffled_ones_do_not():
    task = tasks.from_arrays(np.arange(60), AMOUNTS)
    assert rows_of(task, row_order="given") == (list(range(40)), list(range(40, 60)))
    trained, held = rows_of(task)
    assert trained != sorted(trained) and sorted(trained + held) == list(range(60))


@pytest.mark.slow
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_split_of_ones_own_is_never_mixed(by_hand):
    held = np.arange(100, 110), AMOUNTS[:10]
    if by_hand:
        tasks.TASKS["split"] = tasks.TaskKind(
            1, False, lambda: (np.arange(60), AMOUNTS), None, held=lambda: held
        )
    else:
        tasks.from_arrays(np.arange(60), AMOUNTS, held=held, name="split")
    for order in ("shuffled", "given"):
        trained, kept = rows_of("split", row_order=order)
        assert kept == list(range(100, 110)) and set(trained) < set(range(60))
    run = train(dataclasses.replace(TINY, task="split"))
    assert np.isfinite(run.held_loss)


def test_an_order_of_rows_that_are_not_there_is_refused():
    assert "row_order='given' needs a task with data" in refusal(
        validate, Config(task="abs", row_order="given")
    )
    assert "row_order='sorted' is not known" in refusal(validate, Config(row_order="sorted"))


# Identity -----------------------------------------------------------------------------------------


def grid_of(task):
    return make_grid(dataclasses.replace(TINY, task=task), RATES, 2)


def test_other_data_under_the_same_name_are_another_question(tmp_path):
    first = grid_of(tasks.from_arrays(X, LABELS, name="mine"))
    store.open_folder(tmp_path / "out", first)
    again = grid_of(tasks.from_arrays(pandas.DataFrame(X), list(LABELS), name="mine"))
    assert again.hash == first.hash
    store.check_folder(tmp_path / "out", again)
    moved = X.copy()
    moved[7, 1] = np.nextafter(np.float32(moved[7, 1]), np.float32(9))
    for inputs, labels in ((moved, LABELS), (X, LABELS[::-1]), (X, np.char.upper(LABELS))):
        other = grid_of(tasks.from_arrays(inputs, labels, name="mine"))
        with pytest.raises(store.OtherGridError, match=r"differs in data"):
            store.check_folder(tmp_path / "out", other)


def test_the_same_data_again_are_the_same_row_and_other_data_are_not():
    rows = []
    for inputs in (X, X.tolist(), X + 1):
        tasks.from_arrays(inputs, LABELS, name="mine")
        rows.append(tasks.TASKS["mine"])
    assert rows[0] is rows[1] and rows[1] is not rows[2]
    assert rows[1].load.__name__ != rows[2].load.__name__


def test_data_that_are_changed_in_place_are_another_question_too():
    inputs = X.copy()
    tasks.TASKS["hand"] = tasks.TaskKind(2, True, lambda: (inputs, np.arange(60) % 2), None)
    before = grid_of("hand").hash
    inputs[0, 0] += 1
    assert grid_of("hand").hash != before


def test_a_shipped_row_that_is_replaced_counts_as_data(monkeypatch):
    assert "data" not in grid_of("wine").identity
    monkeypatch.setitem(tasks.TASKS, "wine", tasks.TASKS["wine"]._replace(shuffled=True))
    assert "data" in grid_of("wine").identity


def test_folders_without_the_new_fields_continue():
    assert "row_order" not in json.loads(to_json(Config()))
    config = dataclasses.replace(Config(), row_order="given")
    assert json.loads(to_json(config))["row_order"] == "given"


def test_a_result_of_data_that_are_not_there_says_what_to_register(tmp_path):
    grid = grid_of(tasks.from_arrays(X, LABELS, name="mine"))
    store.open_folder(tmp_path / "out", grid)
    identity, stored = grid.identity, grid.hash
    doors = lambda: grid_from_identity(identity), lambda: replay(tmp_path / "out", {}, 0)
    assert grid_from_identity(identity).hash == stored
    tasks.from_arrays(X + 1, LABELS, name="mine")
    for door in doors:
        message = refusal(door)
        assert "task='mine' is other data here" in message and "register the same data" in message
    del tasks.TASKS["mine"]
    for door in doors:
        message = refusal(door)
        assert "task='mine' is not registered in this process" in message
        assert "tasks.from_arrays(inputs, targets, name='mine')" in message


def test_what_labels_stand_for_is_stored_with_a_result():
    name = tasks.from_arrays(X, LABELS)
    found = json.loads(store.provenance(grid_of(name))["data"])
    assert found["labels"] == ["no", "yes"] and found["rows"] == 60
    assert "data" not in store.provenance(grid_of("wine"))


# Files --------------------------------------------------------------------------------------------

TABLE = pandas.DataFrame({"age": X[:, 0], "is_old": X[:, 1] > 0, "kind": LABELS})


def written(folder: pathlib.Path, form: str) -> pathlib.Path:
    path = folder / f"people.{form}"
    if form == "csv":
        TABLE.to_csv(path, index=False)
    elif form == "parquet":
        pytest.importorskip("pyarrow")
        TABLE.to_parquet(path)
    else:
        np.savez(path, X=TABLE[["age", "is_old"]].to_numpy(float), y=LABELS.astype(str))
    return path


@pytest.mark.parametrize("form", ["csv", "parquet", "npz"])
def test_a_file_is_the_arrays_that_it_holds(form, tmp_path):
    path = written(tmp_path, form)
    name = tasks.from_file(path, None if form == "npz" else "kind")
    data = tasks.TASKS[name].load()
    assert name == f"people.{form}"
    assert data.digest == own(TABLE[["age", "is_old"]], LABELS).digest
    assert data.facts["source"]["file"] == name and len(data.facts["source"]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(data.facts)


def test_a_second_file_or_arrays_of_an_npz_are_held_out(tmp_path):
    path = written(tmp_path, "csv")
    TABLE[:9].to_csv(tmp_path / "held.csv", index=False)
    name = tasks.from_file(path, "kind", held=tmp_path / "held.csv")
    assert len(tasks.TASKS[name].load().held[0]) == 9
    np.savez(tmp_path / "a.npz", X_train=X, y_train=AMOUNTS, X_test=X[:5], y_test=AMOUNTS[:5])
    name = tasks.from_file(tmp_path / "a.npz")
    assert len(tasks.TASKS[name].load().held[0]) == 5
    message = refusal(tasks.from_file, tmp_path / "a.npz", held=tmp_path / "a.npz")
    assert "the data file has held-out arrays" in message


@pytest.mark.parametrize(
    ("name", "content", "target", "words"),
    [
        ("a.csv", None, "y", "cannot be read: No such file"),
        ("a.csv", b"", "y", "is empty"),
        ("a.txt", b"a", "y", "'.txt' is not known"),
        ("a.csv", b"a,y\n", "y", "has no rows"),
        ("a.csv", b"a,y\n1,2\n", "z", "target='z' is no column. Columns: a, y"),
        ("a.csv", b"a,y\n1,2\n", None, "target is missing; name its column. Columns: a, y"),
        ("a.csv", b"a;y\n1;2\n", "y", "give columns separated by commas"),
        ("a.csv", b"a,a,y\n1,2,3\n", "y", "column 'a' is there twice"),
        ("a.csv", b"1,2\n3,4\n", "2", "name the columns in the first line"),
        ("a.csv", b"a,y\n1,2,3\n", "y", "cannot be read"),
        ("a.csv", b"a,y\n1,2\n1,2,3\n", "y", "line 3"),
        ("a.csv", b"a,y\n1,\xe9\n", "y", "utf-8"),
        ("a.csv", b"a,b,y\n1,,u\n2,3,v\n", "y", "inputs: row 0, column 'b' is nan"),
        ("a.csv", b"a,b,y\n1,4,u\n2,NA,v\n", "y", "inputs: row 1, column 'b' is missing ('NA')"),
        ("a.csv", b"a,b,y\n1,4,u\n2,x,v\n", "y", "inputs: row 1, column 'b' is text ('x')"),
        ("a.csv", b"a,b,y\n1,4,u\n2,5,\n", "y", "targets: row 1 is missing"),
        ("a.csv", b"a,b,y\n1,4,.5\n2,5,\n", "y", "targets: row 1 is nan"),
        ("a.npz", b"no", None, "is not an .npz"),
        ("a.npz", b"no", "y", "target='y' names a column"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(name, content, target, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert words in refusal(tasks.from_file, tmp_path / name, target)


def test_arrays_of_a_file_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.array([{}, {}], object), y=[0, 1])
    assert "allow_pickle=False" in refusal(tasks.from_file, tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", features=X)
    message = refusal(tasks.from_file, tmp_path / "b.npz")
    assert "give arrays inputs and targets or X and y. Arrays: features" in message


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refusal(tasks.from_file, tmp_path / "a.parquet", "y")
    assert "pip install pyarrow" in message


# The command line ---------------------------------------------------------------------------------

WITH_DATA = [name for name in NAMES if isinstance(find(name).defaults, DataOptions)]


def test_the_experiments_that_take_data_are_those_with_a_free_config():
    # The article's own task; tokens whose mean is the question.
    fixed = {"numerical_example", "autoencoders"}
    free = {name for name in NAMES if hasattr(find(name).defaults, "config")} - fixed
    assert set(WITH_DATA) == free


@pytest.mark.parametrize("name", WITH_DATA)
def test_every_experiment_asks_its_question_of_own_data(name, tmp_path, capsys):
    experiment = find(name)
    asked = dict(data=written(tmp_path, "csv"), target="kind")
    options = use_own_data(dataclasses.replace(experiment.quick, **asked))
    assert "people.csv: 48 of 60 rows train, " in capsys.readouterr().out
    used = {grid.config.task for grid in experiment.grids(options).values()}
    others = {getattr(options, n).task for n in ("network", "capacity") if hasattr(options, n)}
    assert used - others == {"people.csv"}
    assert len(tasks.load_data(options.config)[0]) == 60


def test_examples_that_leave_rows_to_hold_out_are_kept(tmp_path, capsys):
    quick = find("recovery_map").quick
    config = dataclasses.replace(quick.config, examples=30, batch_size=10)
    asked = dict(data=written(tmp_path, "csv"), target="kind", config=config)
    options = use_own_data(dataclasses.replace(quick, **asked))
    assert (options.config.examples, options.config.batch_size) == (30, 10)
    TABLE[:9].to_csv(tmp_path / "held.csv", index=False)
    options = use_own_data(dataclasses.replace(quick, **asked | {"held": tmp_path / "held.csv"}))
    assert options.config.examples == 30
    options = use_own_data(
        dataclasses.replace(options, config=quick.config, held=tmp_path / "held.csv")
    )
    assert (options.config.examples, options.config.batch_size) == (60, None)
    assert "60 of 60 rows train, all of them at every step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "kind"], "target='kind' needs --data FILE"),
        (["--data", "nowhere.csv", "--target", "kind"], "cannot be read: No such file"),
        (["--data", "people.csv"], "name its column. Columns: age, is_old, kind"),
        (["--data", "people.csv", "--target", "age", "--kind", "regression"], "is text ('"),
        (["--data", "people.csv", "--target", "kind", "--kind", "x"], "kind='x' is not known"),
    ],
)
def test_bad_data_on_the_command_line_is_one_line(arguments, words, tmp_path, monkeypatch, ended):
    written(tmp_path, "csv")
    monkeypatch.chdir(tmp_path)
    done = ended(command.main, "recovery_map", *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr


@pytest.mark.slow
def test_a_csv_becomes_a_recovery_map_by_one_command(tmp_path, monkeypatch):
    path = written(tmp_path, "csv")
    out = tmp_path / "out"
    arguments = [
        "recovery_map", "--data", str(path), "--target", "kind", "--out", str(out),
        "--config.hidden", "4", "4", "--config.biased-units", "2", "--config.batch-size", "8",
        "--config.steps", "4", "--config.probe-every", "2", "--learning-rates", "0.01", "0.1",
        "--initial-biases", "-4", "-2", "--seeds", "2",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["python -m experiments", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    command.main()
    assert (out / "recovery_map.png").stat().st_size > 10_000
    text = (out / "summary.json").read_text()
    summary = json.loads(text)
    assert summary["options"]["data"] == "people.csv" and summary["runs"] == 8
    facts = json.loads(summary["provenance"]["data"])
    assert facts["source"]["file"] == "people.csv" and facts["labels"] == ["no", "yes"]
    stored = store.open_result(out)
    assert json.loads(stored.attrs["data"]) == facts
    assert not re.search(re.escape(str(tmp_path)), text + json.dumps(stored.attrs, default=str))
