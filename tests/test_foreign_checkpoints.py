"""Checkpoints of other programs: read as they were saved, and an MLP's dead units get a map."""

import dataclasses
import io
import pathlib
import pickle
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import serialization
from flax.training import train_state
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import recovery_map
from relu_dynamics import inspection, tasks
from relu_dynamics.checkpoint_files import read_checkpoint
from relu_dynamics.config import Config
from relu_dynamics.engine.imported import from_checkpoint, widths
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.sweep import sweep

RNG = np.random.default_rng(0)
TREE = {
    "Dense_0": {"kernel": RNG.normal(size=(5, 7)), "bias": RNG.normal(size=7)},
    "Dense_1": {"kernel": RNG.normal(size=(7, 4)), "bias": RNG.normal(size=4)},
    "Dense_2": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)},
}
TREE = jax.tree.map(np.float32, TREE)
STATE_DICT = {  # as PyTorch names and turns them
    f"net.{2 * k}.{name}": np.ascontiguousarray(value.T)
    for k, layer in enumerate(TREE.values())
    for name, value in (("weight", layer["kernel"]), ("bias", layer["bias"]))
}
FLAT = {f"params/{k}/{n}": v for k, layer in TREE.items() for n, v in layer.items()}


def as_orbax(path, tree):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def as_managed_orbax(path, tree):
    with orbax.checkpoint.CheckpointManager(path.parent / "runs") as manager:
        manager.save(7, args=orbax.checkpoint.args.StandardSave(tree))
    (path.parent / "runs" / "7").rename(path)


def as_msgpack(path, tree):
    path.write_bytes(serialization.to_bytes({"params": tree}))


def as_safetensors(path, tree):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from safetensors.numpy import save_file

    save_file(STATE_DICT, path)


TORCH_FILE = pathlib.Path(__file__).parent / "checkpoints" / "torch.pt"
"""Of torch.save(OrderedDict): `a` float32 [2, 3] transposed, `b` a slice of the storage of `a`,
`half` bfloat16, `count` an int64 scalar, `empty` [0, 4], `parameter` an nn.Parameter, `yes` bools.
"""


def as_torch(path, tree):
    """By hand what torch.save writes of STATE_DICT."""
    write_torch(path, STATE_DICT)


class Tensor:
    """Pickles as a tensor of PyTorch does."""

    def __init__(self, key, array, shape=None, strides=None, start=0):
        self.key, self.array = key, array
        strides = [s // array.itemsize for s in array.strides] if strides is None else strides
        self.given = start, tuple(array.shape if shape is None else shape), tuple(strides)


class Global:
    def __init__(self, module, name):
        self.module, self.name = module, name


class TorchPickler(pickle._Pickler):
    """A pickler that names PyTorch's functions without having them."""

    def persistent_id(self, obj):
        if isinstance(obj, tuple) and obj and obj[0] == "storage":
            return obj

    def save_global_name(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_tensor(self, obj):
        self.save_global_name(Global("torch._utils", "_rebuild_tensor_v2"))
        kind = Global("torch", "FloatStorage")
        storage = ("storage", kind, obj.key, "cpu", obj.array.size)
        self.save((storage, *obj.given, False, {}))
        self.write(pickle.REDUCE)

    dispatch = {**pickle._Pickler.dispatch, Tensor: save_tensor, Global: save_global_name}


def write_torch(path, state, *, around=lambda tensors: tensors, **changed):
    """A file of torch.save, made by hand; `changed` tensors are of other shapes or strides, and
    `around` puts them into what is saved."""
    tensors = {name: Tensor(str(k), v) for k, (name, v) in enumerate(state.items())}
    text = io.BytesIO()
    TorchPickler(text, 2).dump(around(tensors | changed))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", text.getvalue())
        for tensor in tensors.values():
            archive.writestr(f"archive/data/{tensor.key}", np.float32(tensor.array).tobytes())


SAVERS = {
    "orbax": as_orbax,
    "managed": as_managed_orbax,
    "flax.msgpack": as_msgpack,
    "torch.safetensors": as_safetensors,
    "torch.pt": as_torch,
    "flat.npz": lambda path, tree: np.savez(path, **FLAT),
}


@pytest.mark.parametrize("name", SAVERS)
def test_every_format_gives_the_same_mlp(name, tmp_path):
    SAVERS[name](tmp_path / name, TREE)
    params = from_checkpoint(tmp_path / name)
    assert list(params) == ["hidden_1", "hidden_2", "output"] and widths(params) == (7, 4)
    for own, layer in zip(TREE.values(), params.values(), strict=True):
        for leaf in ("kernel", "bias"):
            np.testing.assert_array_equal(layer[leaf], own[leaf])
            assert layer[leaf].dtype == np.float32


def test_a_tree_is_as_it_was_saved(tmp_path):
    as_msgpack(tmp_path / "a.msgpack", TREE)
    np.savez(tmp_path / "b.npz", **FLAT)
    np.savez(tmp_path / "c.npz", **STATE_DICT)
    for name in ("a.msgpack", "b.npz"):
        read = read_checkpoint(tmp_path / name)
        assert jax.tree.structure(read) == jax.tree.structure(TREE)
        assert all(map(np.array_equal, jax.tree.leaves(read), jax.tree.leaves(TREE)))
    assert set(read_checkpoint(tmp_path / "c.npz")) == set(STATE_DICT)


def test_a_state_dict_enters_find_and_diagnose(tmp_path):
    """Under PyTorch's own names and orientation."""
    state = {**STATE_DICT, "net.0.bias": STATE_DICT["net.0.bias"] - 99 * (np.arange(7) == 2)}
    np.savez(tmp_path / "state.npz", **state)

    def model(p, x):
        for k in (0, 2, 4):
            x = x @ p[f"net.{k}.weight"].T + p[f"net.{k}.bias"][None]
            x = jax.nn.relu(x) if k < 4 else x
        return x

    read = read_checkpoint(tmp_path / "state.npz")
    found = inspection.diagnose(model, read, [np.float32(RNG.normal(size=(64, 5)))])
    assert 2 in found.dead and found.probe.names == ["net.0.weight", "net.2.weight"]


# Order and refusals ----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(2, 9), min_size=3, max_size=6, unique=True), st.randoms())
def test_layers_are_put_in_the_only_order_that_fits(sizes, random):
    """Whatever they are called: names at random, widths that differ."""
    import pathlib
    import tempfile

    names = [f"{chr(97 + k)}layer" for k in range(len(sizes) - 1)]
    random.shuffle(names)
    pairs = list(zip(names, zip(sizes, sizes[1:], strict=False), strict=True))
    random.shuffle(shuffled := list(pairs))
    flat = {f"{name}/kernel": np.ones(shape, np.float32) for name, shape in shuffled}
    flat |= {f"{name}/bias": np.zeros(shape[1], np.float32) for name, shape in shuffled}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "p.npz"
        np.savez(path, **flat)
        params = from_checkpoint(path)
    assert [layer["kernel"].shape for layer in params.values()] == [shape for _, shape in pairs]


def test_of_equal_widths_numbers_decide_or_the_user_does(tmp_path):
    def save(*names):
        np.savez(tmp_path / "p.npz", **{f"{n}/w": np.full((3, 3), k) for k, n in enumerate(names)})
        return tmp_path / "p.npz"

    path = save("fc2", "fc10", "out", "fc1")
    assert [v["kernel"][0, 0] for v in from_checkpoint(path).values()] == [3, 0, 1, 2]
    path = save("mid", "top", "low")
    with pytest.raises(ValueError, match=r"several orders of the layers .* give layers="):
        from_checkpoint(path)
    params = from_checkpoint(path, layers=["low", "mid", "top"])
    assert [v["kernel"][0, 0] for v in params.values()] == [2, 0, 1]
    with pytest.raises(ValueError, match=r"layers=\['low'\] must order"):
        from_checkpoint(path, layers=["low"])


W, B = np.ones((4, 3)), np.ones(3)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"conv.weight": np.ones((8, 1, 3, 3))}, r"conv/weight of shape .8, 1, 3, 3. is no"),
        ({"bn.weight": np.ones(8)}, r"bn/weight of shape .8,. is no part of an MLP"),
        ({"a/kernel": W, "a/scale": B}, r"a/scale of shape .3,. is no part"),
        ({"a/kernel": W, "a/bias": np.ones(4)}, r"a/bias of shape .4,. does not fit a/kernel"),
        ({"a/kernel": W, "b/kernel": W}, r"do not follow each other.*'a': .4, 3., 'b': .4, 3."),
        ({"a/kernel": W, "a/bias": B}, "one layer, 'a'; an MLP has at least two"),
        ({"a/bias": B}, "a has .*bias.*; a layer has one matrix"),
        ({"a/kernel": np.array(["x"])}, "a/kernel is of <U1; give numbers"),
    ],
)  # fmt: skip
def test_what_is_no_mlp_is_refused_by_its_leaf_and_shape(arrays, words, tmp_path):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(ValueError, match=words) as caught:
        from_checkpoint(tmp_path / "p.npz")
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        import os

        return os.system, ("touch exploded",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pkl", "b.npz", "c.msgpack", "d.safetensors", "e.pt", "f.joblib", "g.bin"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(ValueError) as caught:
            read_checkpoint(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    np.savez(tmp_path / "h.npz", a=np.array([Bomb()], object))
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "h.npz")
    assert not (tmp_path / "exploded").exists()


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"0")
    monkeypatch.setitem(sys.modules, "safetensors.flax", None)
    with pytest.raises(ValueError, match="needs safetensors; install it: pip install safetensors"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_file_that_pytorch_wrote_is_read_without_pytorch(monkeypatch):
    """Views, shared storages, bfloat16, scalars, empty tensors and parameters, as they were."""
    monkeypatch.setitem(sys.modules, "torch", None)
    read = read_checkpoint(TORCH_FILE)
    a = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(read["a"], a)
    np.testing.assert_array_equal(read["b"], np.float32([2, 3, 4]))
    assert read["half"].dtype == jnp.bfloat16 and read["half"].tolist() == [0.5, -1.5]
    assert read["count"].dtype == np.int64 and read["count"].shape == () and read["count"] == 7
    assert read["empty"].shape == (0, 4) and read["yes"].tolist() == [True, False]
    np.testing.assert_array_equal(read["parameter"], np.full((2, 2), 3, np.float32))


def test_numbers_of_a_machine_of_the_other_byte_order_are_turned(tmp_path):
    """Every storage of the file reversed by hand, number for number, and marked as such."""
    sizes = {"0": 4, "1": 2, "2": 8, "3": 4, "4": 4, "5": 1}
    with zipfile.ZipFile(TORCH_FILE) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for name in old.namelist():
            folder, _, key = name.rpartition("/")
            content = old.read(name)
            if folder.endswith("/data"):
                size = sizes[key]
                content = np.frombuffer(content, np.uint8).reshape(-1, size)[:, ::-1].tobytes()
            new.writestr(name, b"big" if key == "byteorder" else content)
    read, expected = read_checkpoint(tmp_path / "big.pt"), read_checkpoint(TORCH_FILE)
    for name, array in expected.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize(
    "given",
    [dict(shape=(9,), strides=(1,)), dict(shape=(2, 2), strides=(1, 10)), dict(start=9),
     dict(shape=(3,), strides=(-1,), start=2), dict(shape=(100, 100), strides=(0, 0)),
     dict(shape=(-1,), strides=(1,)), dict(start=-1)],
)  # fmt: skip
def test_a_tensor_outside_its_storage_is_refused(tmp_path, given):
    array = np.arange(8, dtype=np.float32)
    write_torch(tmp_path / "a.pt", {"a": array}, a=Tensor("0", array, **given))
    with pytest.raises(ValueError, match="does not lie in its storage of 8 numbers"):
        read_checkpoint(tmp_path / "a.pt")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_view_of_a_storage_is_the_view_that_numpy_takes(tmp_path_factory, data):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    order = data.draw(st.permutations(range(3)))
    steps = [data.draw(st.integers(1, 3)) for _ in range(3)]
    starts = [data.draw(st.integers(0, size - 1)) for size in array.shape]
    view = array[tuple(slice(a, None, b) for a, b in zip(starts, steps, strict=True))]
    view = view.transpose(order)
    start = int(np.ravel_multi_index(starts, array.shape))
    strides = [by // array.itemsize for by in view.strides]
    path = tmp_path_factory.mktemp("torch") / "a.pt"
    write_torch(path, {"a": array}, a=Tensor("0", array, view.shape, strides, start))
    np.testing.assert_array_equal(read_checkpoint(path)["a"], view)


def test_a_torch_file_with_more_than_tensors_names_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def packed(name, content, method=zipfile.ZIP_STORED, inner="archive/data.pkl"):
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            archive.writestr(inner, content)
        return tmp_path / name

    bomb = packed("bomb.pt", pickle.dumps({"a": Bomb()}, 2))
    with pytest.raises(ValueError, match=r"holds a (posix|nt)\.system; save model.state_dict\(\)"):
        read_checkpoint(bomb)
    assert not pathlib.Path("exploded").exists()
    whole = packed("whole.pt", b"\x80\x02c__main__\nNet\n.")
    with pytest.raises(ValueError, match=r"holds a __main__\.Net; save model.state_dict\(\)"):
        read_checkpoint(whole)
    with pytest.raises(ValueError, match="holds a int; save model"):
        read_checkpoint(packed("one.pt", pickle.dumps(1, 2)))
    with pytest.raises(ValueError, match="is compressed"):
        read_checkpoint(packed("deflated.pt", pickle.dumps({}), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="holds no data.pkl"):
        read_checkpoint(packed("other.pt", b"", inner="archive/version"))


ADAM = lambda t: {"state": {0: {"step": 3, "exp_avg": t["net.0.bias"]}},  # noqa: E731
                  "param_groups": [{"lr": 0.1, "params": [0]}]}  # fmt: skip
WRAPPERS = {
    "script": lambda t: {"epoch": 3, "model": t, "optimizer": ADAM(t), "scheduler": None},
    "tutorial": lambda t: {"model_state_dict": t, "optimizer_state_dict": ADAM(t), "loss": 0.5},
    "lightning": lambda t: {
        "epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.4.0", "state_dict": t,
        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"EarlyStopping": {"wait": 0}},
        "optimizer_states": [ADAM(t)], "lr_schedulers": [], "hyper_parameters": {"lr": 0.1},
    },
    "alone": lambda t: {"state_dict": t},
    "a tensor of one number beside it": lambda t: {
        "net": t, "best": Tensor("0", STATE_DICT["net.0.weight"], (), ())},
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_state_dict_beside_other_things_is_taken(tmp_path, name):
    write_torch(tmp_path / "a.pt", STATE_DICT, around=WRAPPERS[name])
    read = read_checkpoint(tmp_path / "a.pt")
    assert list(read) == list(STATE_DICT)
    assert all(np.array_equal(read[name], STATE_DICT[name]) for name in read)


def test_several_state_dicts_are_a_tree_or_named_beside_other_things(tmp_path):
    two = {"encoder": lambda t: dict(list(t.items())[:2]), "decoder": lambda t: t}
    both = lambda t: {name: part(t) for name, part in two.items()}  # noqa: E731
    write_torch(tmp_path / "a.pt", STATE_DICT, around=both)
    read = read_checkpoint(tmp_path / "a.pt")
    assert {k: list(v) for k, v in read.items()} == {
        "encoder": list(STATE_DICT)[:2], "decoder": list(STATE_DICT)}  # fmt: skip
    for around, words in (
        (lambda t: both(t) | {"epoch": 3}, r"\['encoder', 'decoder'\] are dicts of tensors in it"),
        (lambda t: {"opt": ADAM(t), "epoch": 3}, r"\['opt', 'epoch'\], none of them a dict of"),
        (lambda t: {"model": {}, "epoch": 3}, r"\['model', 'epoch'\], none of them a dict of"),
    ):
        write_torch(tmp_path / "a.pt", STATE_DICT, around=around)
        with pytest.raises(ValueError, match=words) as caught:
            read_checkpoint(tmp_path / "a.pt")
        assert "\n" not in str(caught.value)


def test_of_a_train_state_of_flax_the_parameters_are_taken(tmp_path):
    tree = jax.tree.map(jnp.asarray, TREE)
    state = train_state.TrainState.create(apply_fn=lambda _: None, params=tree, tx=optax.adam(1e-3))
    (tmp_path / "a.msgpack").write_bytes(serialization.to_bytes(state))
    read = read_checkpoint(tmp_path / "a.msgpack")
    assert jax.tree.structure(read) == jax.tree.structure(TREE)
    assert all(map(np.array_equal, jax.tree.leaves(read), jax.tree.leaves(TREE)))


def test_what_is_missing_empty_or_cut_off_is_said(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.npz")
    (tmp_path / "empty.npz").touch()
    with pytest.raises(ValueError, match="has 0 bytes"):
        read_checkpoint(tmp_path / "empty.npz")
    as_msgpack(tmp_path / "whole.msgpack", TREE)
    whole = (tmp_path / "whole.msgpack").read_bytes()
    (tmp_path / "cut.msgpack").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.msgpack' cannot be read"):
        read_checkpoint(tmp_path / "cut.msgpack")
    as_orbax(tmp_path / "runs" / "3", TREE)
    with pytest.raises(ValueError, match=r"give the folder of one step. Folders: \['3'\]"):
        read_checkpoint(tmp_path / "runs")


# Into the grid ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_dead_units_of_somebodys_network_get_a_recovery_map(tmp_path):
    """Trained elsewhere with some units dead, saved as a state dict, read, and swept from there:
    the grid begins with exactly the units dead that `diagnose` finds."""
    inputs = np.float32(RNG.normal(size=(96, 5)))
    targets = np.float32(np.sin(inputs.sum(1, keepdims=True)))
    layers = [(RNG.normal(size=s) / np.sqrt(s[0]), np.zeros(s[1])) for s in ((5, 12), (12, 1))]
    layers[0][1][:4] = -9.0
    params = jax.tree.map(jnp.float32, layers)

    def model(params, x):
        return (
            jax.nn.relu(x @ params[0][0] + params[0][1][None]) @ params[1][0] + params[1][1][None]
        )

    tx = optax.sgd(0.05)
    memory = tx.init(params)
    gradient = jax.jit(jax.grad(lambda p: jnp.mean((model(p, inputs) - targets) ** 2)))
    for _ in range(30):
        updates, memory = tx.update(gradient(params), memory, params)
        params = optax.apply_updates(params, updates)
    np.savez(
        tmp_path / "state.npz",
        **{f"net.{2 * k}.weight": np.asarray(w).T for k, (w, _) in enumerate(params)},
        **{f"net.{2 * k}.bias": np.asarray(b) for k, (_, b) in enumerate(params)},
    )
    state = from_checkpoint(tmp_path / "state.npz")
    dead = inspection.diagnose(model, params, [inputs]).dead
    assert 0 < len(dead) < 12
    config = Config(
        task=tasks.from_arrays(inputs, targets, held=(inputs, targets)),
        input_scaling="raw",
        hidden=widths(state), biased_layer=1, biased_units=12, initial_bias=0.0,
        examples=96, batch_size=None, steps=20, probe_every=5, sustain=5,
    )  # fmt: skip
    axes = {"learning_rate": [0.01, 0.1], "weight_decay": [0.0, 1.0]}
    result = sweep(config, axes, 2, state=state)
    began = result.dead_at_start.values
    assert (np.flatnonzero(began[0, 0, 0]) == dead).all() and (began == began[:1, :1, :1]).all()
    assert (estimates.cells(result, "recovered").trials.values == 2 * len(dead)).all()


def test_the_recovery_map_begins_with_the_checkpoint_that_it_is_given(tmp_path):
    as_msgpack(tmp_path / "p.msgpack", TREE)
    names = tasks.from_arrays(RNG.normal(size=(40, 5)), np.arange(40) % 3, kind="classification")
    config = Config(task=names, examples=30, batch_size=None, biased_layer=1, biased_units=7)
    options = dataclasses.replace(
        recovery_map.QUICK, config=config, state=tmp_path / "p.msgpack", initial_biases=(0.0, 0.5)
    )
    grid = recovery_map.make_grids(options)["map"]
    assert grid.config.hidden == (7, 4) and grid.start is not None
    np.testing.assert_array_equal(grid.start.params["hidden_2"]["bias"], TREE["Dense_1"]["bias"])
    wide = dataclasses.replace(options, config=dataclasses.replace(config, task="digits"))
    with pytest.raises(ValueError, match=r"hidden_1.*kernel.* has shape .5, 7.*needs .64, 7."):
        recovery_map.make_grids(wide)
