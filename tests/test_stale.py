"""Nothing stale: a row that is edited under its name is a new program and another question."""

import ast
import dataclasses
import importlib.util
import itertools
import pathlib
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from relu_dynamics import rows, store
from relu_dynamics.channels import fork
from relu_dynamics.config import Config
from relu_dynamics.engine import models, tasks
from relu_dynamics.engine.activations import ACTIVATIONS, Activation
from relu_dynamics.engine.initializers import Initializer
from relu_dynamics.engine.normalizations import NORMALIZATIONS, layer_statistics
from relu_dynamics.engine.optimizers import Optimizer, Schedule
from relu_dynamics.engine.outcomes import DEFINITIONS
from relu_dynamics.engine.resets import RESETS
from relu_dynamics.engine.scalings import Scaling
from relu_dynamics.engine.terms import Term
from relu_dynamics.engine.training import train
from relu_dynamics.grid import VersionError, grid_from_identity, make_grid
from relu_dynamics.store import checkpoints
from relu_dynamics.sweeps.sweep import sweep

PACKAGE = pathlib.Path(rows.__file__).parent
X = np.random.default_rng(0).normal(size=(128, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
BASE = Config(
    examples=128, batch_size=None, hidden=(8,), biased_layer=1, biased_units=8, initial_bias=0.0,
    learning_rate=0.1, steps=50, probe_every=25,
)  # fmt: skip


@pytest.fixture(autouse=True)
def tables():
    """The tables as they were, after every test."""
    before = {field: dict(table) for field, table in rows.TABLES.items()}
    tasks.TASKS["mine"] = tasks.TaskKind(2, True, lambda: (X, Y), None)
    yield
    for field, table in rows.TABLES.items():
        table.clear()
        table.update(before[field])


def _network(factor):
    class Mine(models.MLP):
        def connect(self, below, active):
            return factor * active

    return Mine


# For every table a row made from a number, which matters for what is trained.
EDITS = {
    "task": lambda n: tasks.TaskKind(2, True, lambda: (X * (1 + n), Y), None),
    "input_scaling": lambda n: Scaling(lambda x, train, _: x * (1 + n)),
    "model": lambda n: _network(1 + n),
    "activation": lambda n: Activation(lambda z: jnp.where(z > 0, z, n * z)),
    "initializer": lambda n: Initializer(jax.nn.initializers.normal(0.1 + n)),
    "normalization": lambda n: NORMALIZATIONS["layer"]._replace(
        statistics=lambda z: (layer_statistics(z)[0], 1 + n)
    ),
    "optimizer": lambda n: Optimizer(lambda rate, _: optax.sgd((1 + n) * rate)),
    "schedule": lambda n: Schedule(lambda step, warmup, decay: 1 + n),
    "decay_targets": lambda n: (1, 2) if n else (),
    "bias_law": lambda n: lambda key, shape: jnp.full(shape, 0.1 + n),
    "decoder_bias": lambda n: lambda inputs: inputs.mean(0) + n,
    "penalty": lambda n: Term(lambda config, params, seen: n * jnp.mean(seen.forward.output**2)),
    "revival": lambda n: Term(lambda config, params, seen: n * jnp.mean(seen.forward.output), 1.0),
    "reset": lambda n: RESETS["redo"]._replace(threshold=20 * n),
    "definition": lambda n: DEFINITIONS["dead"]._replace(of_slopes=n > 0),
}


def configured(field: str, name: str) -> Config:
    more = {"task": "mine", "input_scaling": "raw", "weight_decay": 0.1}
    more |= {"bias_scale": 0.5} if field == "bias_law" else {}
    more |= {"reset_every": 10} if field == "reset" else {}
    more |= {"penalty_scale": 1.0} if field == "penalty" else {}
    if field in ("decoder_bias", "revival"):
        more |= {"task": "sparse_features", "input_scaling": "standardized"}
        more |= {"model": "autoencoder"} if field == "decoder_bias" else {}
    return dataclasses.replace(BASE, **(more | {field: name}))


def test_every_table_is_tried():
    assert set(EDITS) == set(rows.TABLES)


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_row_is_another_program_and_another_identity(field):
    config, table = configured(field, "mine"), rows.TABLES[field]
    seen = {}
    for number in (0.0, 0.5):
        table["mine"] = EDITS[field](number)
        grid = make_grid(config, {"learning_rate": [0.1]}, 1)
        seen[number] = jax.tree.structure(config), grid.hash, grid.identity["rows"]
        assert seen[number] == (jax.tree.structure(config), grid.hash, grid.identity["rows"])
        assert f"{field} mine" in grid.identity["rows"]
    for one, other in zip(seen[0.0], seen[0.5], strict=True):
        assert one != other
    table["mine"] = EDITS[field](0.0)  # the same again is the same question
    again = make_grid(config, {"learning_rate": [0.1]}, 1)
    assert again.hash == seen[0.0][1]


@pytest.mark.parametrize("field", EDITS)
def test_a_shipped_row_adds_nothing_until_it_is_edited(field):
    plain = Config()
    assert rows.row_keys(plain) == () and rows.row_identity(plain) == {}
    table, name = rows.TABLES[field], getattr(plain, field)
    shipped, table[name] = table[name], EDITS[field](0.5)
    assert rows.row_keys(plain) and list(rows.row_identity(plain)["rows"]) == [f"{field} {name}"]
    table[name] = shipped
    assert rows.row_keys(plain) == () and rows.row_identity(plain) == {}


def test_a_grid_that_was_made_before_an_edit_asks_the_new_question():
    ACTIVATIONS["mine"] = EDITS["activation"](0.0)
    grid = make_grid(configured("activation", "mine"), {"learning_rate": [0.1]}, 1)
    before = grid.hash
    ACTIVATIONS["mine"] = EDITS["activation"](0.5)
    assert grid.hash != before


def last_loss(config):
    return float(train(config).trace.loss[-1])


@pytest.mark.slow
def test_the_activation_of_now_is_trained():
    """The right losses are those of fresh processes."""
    config = dataclasses.replace(BASE, task="mine", activation="mine")
    found = []
    for slope in (0.0, 0.9):
        ACTIVATIONS["mine"] = EDITS["activation"](slope)
        found.append(last_loss(config))
    assert found == pytest.approx([0.27233, 0.13107], abs=2e-5)


@pytest.mark.slow
def test_the_optimizer_and_the_initializer_of_now_are_used():
    config = dataclasses.replace(BASE, task="mine", optimizer="mine")
    rows.TABLES["optimizer"]["mine"] = Optimizer(lambda rate, _: optax.sgd(rate))
    assert last_loss(config) == pytest.approx(0.27233, abs=2e-5)
    rows.TABLES["optimizer"]["mine"] = Optimizer(lambda rate, _: optax.sgd(0.0 * rate))
    assert last_loss(config) == pytest.approx(0.80906, abs=2e-5)
    config = dataclasses.replace(BASE, task="mine", initializer="mine", learning_rate=0.0)
    for make, right in ((jax.nn.initializers.zeros, 0.0), (jax.nn.initializers.ones, 32.0)):
        rows.TABLES["initializer"]["mine"] = Initializer(make)
        kernel = train(config).state.params["hidden_1"]["kernel"]
        assert float(jnp.abs(kernel).sum()) == right


def leaves(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow
@pytest.mark.parametrize("field", EDITS)
def test_an_edited_row_is_trained_and_swept_as_under_a_fresh_name(field):
    """A name that was never used finds no program: what a fresh process computes."""
    table, axes = rows.TABLES[field], {"learning_rate": [0.1]}
    table["mine"] = EDITS[field](0.0)
    first = train(configured(field, "mine")), sweep(configured(field, "mine"), axes, 1)
    table["mine"] = table["fresh"] = EDITS[field](0.5)
    second = train(configured(field, "mine")), sweep(configured(field, "mine"), axes, 1)
    fresh = train(configured(field, "fresh")), sweep(configured(field, "fresh"), axes, 1)
    assert leaves(second[0]) == leaves(fresh[0]) != leaves(first[0])
    assert second[1].identical(fresh[1].assign_attrs(second[1].attrs))
    assert not np.array_equal(second[1].margin, first[1].margin)


@pytest.mark.slow
def test_forks_and_checkpoints_use_the_row_of_now(tmp_path):
    config = dataclasses.replace(BASE, task="mine", schedule="mine", initial_bias=-6.0)
    found = {}
    for name, number in (("mine", 0.0), ("mine", 9.0), ("fresh", 9.0)):
        rows.TABLES["schedule"][name] = EDITS["schedule"](number)
        one = dataclasses.replace(config, schedule=name)
        folder = tmp_path / f"{name}{number}"
        run = checkpoints.train(one, folder=folder, every=25)
        found[name, number] = leaves(fork(one, 0, ["as_is"], 2).history), leaves(run)
        if number == 0.0:
            rows.TABLES["schedule"][name] = EDITS["schedule"](9.0)
            with pytest.raises(store.OtherGridError, match="rows.schedule mine"):
                checkpoints.train(one, folder=folder, every=25)
    for before, after, fresh in zip(*found.values(), strict=True):
        assert after == fresh != before


def test_the_folder_of_another_row_is_another_question(tmp_path):
    ACTIVATIONS["mine"] = EDITS["activation"](0.0)
    grid = make_grid(configured("activation", "mine"), {"learning_rate": [0.1]}, 1)
    folder, identity = store.open_folder(tmp_path, grid), grid.identity
    ACTIVATIONS["mine"] = EDITS["activation"](0.5)
    with pytest.raises(store.OtherGridError, match="rows.activation mine"):
        store.check_folder(folder, grid)
    with pytest.raises(VersionError, match="made with rows"):
        grid_from_identity(identity)
    ACTIVATIONS["mine"] = EDITS["activation"](0.0)
    assert store.check_folder(folder, grid) == folder
    assert grid_from_identity(identity).hash == grid.hash


# --- What a row is made of ------------------------------------------------------------------------

PARTS = {  # what each stands for, and another value for it
    "BODY": ("jnp.where(z > 0, z, slope * z)", "jnp.where(z > 1, z, slope * z)"),
    "CLOSED": ("0.1", "0.2"),
    "DEFAULT": ("0.3", "0.4"),
    "GLOBAL": ("0.5", "0.6"),
    "HELPED": ("1 + x", "2 + x"),
    "KEYWORD": ("0.7", "0.8"),
    "ARRAY": ("[1.0, 2.0]", "[1.0, 3.0]"),
    "CONSTANT": ("5", "6"),
    "OBJECT": ("1.0", "2.0"),
}
MODULE = """
    import functools
    import jax
    import jax.numpy as jnp
    import numpy as np
    from relu_dynamics.engine.activations import Activation

    slope = GLOBAL
    array = np.array(ARRAY, np.float32)

    class Holder:
        def __init__(self, value):
            self.value = value

        def __call__(self, z):
            return z * self.value

    def helper(x):
        return HELPED

    def make(closed):
        @jax.jit
        def inner(z, default=DEFAULT, *, more):
            z = z * closed + default + more + array.sum()
            return helper(BODY) + sum(w * CONSTANT for w in (z,))

        return functools.partial(inner, more=KEYWORD)

    held = Holder(OBJECT)
    inner = make(CLOSED)
    ROW = Activation(lambda z: held(inner(z)))
"""


def loaded(folder: pathlib.Path, name: str, text: str):
    """The row of a module with this text."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("a_notebook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ROW


def filled(**changes) -> str:
    text = textwrap.dedent(MODULE)
    for part, (value, other) in PARTS.items():
        text = text.replace(part, other if changes.get(part) else value)
    return text


def both(row) -> tuple:
    ACTIVATIONS["mine"] = row
    config = configured("activation", "mine")
    return rows.row_keys(config), rows.row_identity(config)["rows"]["activation mine"]


def test_all_that_a_function_is_made_of_counts_and_where_it_stands_does_not(tmp_path):
    numbers = itertools.count()
    load = lambda text: loaded(tmp_path, f"file{next(numbers)}", text)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = load(filled())
        key, digest = both(kept)
        assert both(kept) == (key, digest)
        assert both(load("# moved down\n\nunused = 3\n" + filled()))[1] == digest
        for part in PARTS:
            other_key, other_digest = both(load(filled(**{part: True})))
            assert other_key != key and other_digest != digest, part
        assert both(load(filled()))[1] == digest


def test_a_global_or_an_object_that_changes_under_a_row_is_seen(tmp_path):
    row = loaded(tmp_path, "one", filled())
    seen = [both(row)]
    scope = row.function.__globals__
    for name, value in (("slope", 0.9), ("helper", lambda x: x), ("array", np.ones(2))):
        scope[name] = value
        seen.append(both(row))
    scope["held"].value = 3.0
    seen.append(both(row))
    keys, digests = zip(*seen, strict=True)
    assert len(set(keys)) == len(set(digests)) == len(seen)


def test_code_without_source_counts_by_its_code():
    made = [eval(f"lambda z: z * {n}") for n in (1.5, 2.5, 1.5)]  # noqa: S307
    digests = [both(Activation(function))[1] for function in made]
    assert digests[0] == digests[2] != digests[1]


def test_what_cannot_be_looked_into_is_known_by_its_name_with_one_warning():
    opaque = iter([1.0])
    row = Activation(lambda z, held=opaque: z)
    with pytest.warns(
        UserWarning, match="activation 'mine' is made of list_iterator.* by its name"
    ):
        first = both(row)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert both(row) == first


def test_a_cache_that_is_keyed_by_a_config_is_keyed_by_its_rows_too():
    """A cached function finds what it made for a row that has been edited since: every one in the
    package and the experiments with a config among its arguments has `rows` beside it."""
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "experiments").rglob("*.py")]
    cached = [
        (path.name, node.name, [argument.arg for argument in node.args.args])
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any("cache" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    cached.remove(("starting.py", "digest", ["self"]))  # of arrays, which no row makes
    with_config = [each for each in cached if {"config", "grid", "self"} & set(each[2])]
    assert with_config and all("rows" in each[2] for each in with_config), with_config


def test_a_config_is_the_tree_that_it_was():
    """Leaves are the traced fields in their order, with their names."""
    paths, _ = jax.tree_util.tree_flatten_with_path(Config(momentum=0.5))
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in paths]
    assert named == [(".learning_rate", 0.1), (".initial_bias", -6.0), (".momentum", 0.5)]
    assert jax.tree.map(lambda x: x, Config(momentum=0.5)) == Config(momentum=0.5)
