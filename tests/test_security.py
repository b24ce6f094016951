"""Results and configs from others are data: nothing in them runs, grows or leads elsewhere."""

import ast
import io
import json
import os
import pathlib
import zipfile

import jax
import numpy as np
import pytest

from relu_dynamics import cli, store
from relu_dynamics.config import Config
from relu_dynamics.grid import make_grid
from relu_dynamics.store import blocks as blocks_

ROOT = pathlib.Path(__file__).parent.parent
SMALL = Config(
    task="teacher_student", examples=64, dimension=5, hidden=(8, 8), biased_units=4,
    batch_size=16, steps=40, probe_every=10, sustain=20,
)  # fmt: skip
GRID = make_grid(SMALL, {"learning_rate": [0.1, 0.2]}, 2, lanes=2)
SOURCES = sorted([*(ROOT / "relu_dynamics").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])
FORBIDDEN_IMPORTS = {
    "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "cPickle",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "read_pickle", "unsafe_load", "full_load"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_in_the_package_can_run_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            found = {name.split(".")[0] for name in names} & FORBIDDEN_IMPORTS
            if path.name == "checkpoint_files.py":
                found -= {"pickle"}  # see the next test
            assert not found, f"{path.name}:{node.lineno} imports {found}"
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            assert name not in FORBIDDEN_CALLS, f"{path.name}:{node.lineno} calls {name}"
            for keyword in node.keywords:
                allows = keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                assert not allows, f"{path.name}:{node.lineno} allows pickle"
                shell = keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
                assert not shell, f"{path.name}:{node.lineno} runs a shell"


def test_a_pickle_of_pytorch_reaches_only_what_its_reader_names():
    """The one use of pickle is an Unpickler whose `find_class` never asks Python's own."""
    tree = ast.parse((ROOT / "relu_dynamics" / "checkpoint_files.py").read_text())
    used = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    used = [n.attr for n in used if ast.unparse(n.value) == "pickle"]
    assert set(used) <= {"Unpickler", "UnpicklingError"} and used.count("Unpickler") == 1
    (reader,) = [
        n for n in ast.walk(tree)
        if isinstance(n, ast.ClassDef) and [ast.unparse(b) for b in n.bases] == ["pickle.Unpickler"]
    ]  # fmt: skip
    (find_class,) = [n for n in reader.body if getattr(n, "name", "") == "find_class"]
    assert "super" not in ast.unparse(find_class) and "import" not in ast.unparse(find_class)


def arrays() -> dict[str, np.ndarray]:
    """Zeros in the shape of block 0, and a seal that its digest fits."""
    content = {n: np.zeros(s, np.float32) for n, s in blocks_.expected_shapes(GRID, 0).items()}
    header = blocks_._header(GRID, 0)
    seal = json.dumps(header | {"digest": blocks_._digest(content, header)}).encode()
    return content | {"seal": np.frombuffer(seal, np.uint8)}


def put(folder: pathlib.Path, content: bytes) -> pathlib.Path:
    path = store.block_path(folder, 0)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def saved(content: dict, save=np.savez) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **content)
    return buffer.getvalue()


def test_a_sealed_block_is_read(tmp_path):
    put(tmp_path, saved(arrays()))
    assert store.read_block(tmp_path, GRID, 0)["loss"].shape == (2, 4)


def _with(**changes):
    return saved({**arrays(), **changes})


def _zip(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def _members() -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(saved(arrays()))) as archive:
        return [(m.filename, archive.read(m)) for m in archive.infolist()]


def _lying_header() -> bytes:
    """A header that promises 2^60 bytes: to be refused before they are allocated."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**58,)}
    )
    return _zip([(n, header.getvalue() if n == "loss.npy" else c) for n, c in _members()])


HOSTILE = {
    "an object array": lambda: _with(loss=np.array([[print] * 4] * 2, object)),
    "a larger array": lambda: _with(loss=np.zeros((2, 4000), np.float32)),
    "strings": lambda: _with(loss=np.full((2, 4), "x" * 100)),
    "a huge seal": lambda: _with(seal=np.zeros(10**5, np.uint8)),
    "a zip bomb": lambda: saved(arrays(), np.savez_compressed),
    "a header that lies": _lying_header,
    "one array too many": lambda: _with(more=np.zeros(1)),
    "one too few": lambda: _zip(_members()[1:]),
    "a name twice": lambda: _zip([*_members(), _members()[0]]),
    "a path": lambda: _zip([("../../evil.npy", _members()[0][1]), *_members()[1:]]),
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "nothing": lambda: b"",
    "a seal that is no table": lambda: _with(seal=np.frombuffer(b"[1]", np.uint8)),
    "a seal without a digest": lambda: _with(seal=np.frombuffer(b"{}", np.uint8)),
    "deep JSON": lambda: _with(seal=np.frombuffer(b"[" * 4000, np.uint8)),
    "too many bytes": lambda: saved(arrays()) + bytes(10**6),
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_block_is_damage(tmp_path, name):
    put(tmp_path, HOSTILE[name]())
    with pytest.raises(store.BlockError, match="damaged|is not block"):
        store.read_block(tmp_path, GRID, 0)
    assert store.finished_blocks(tmp_path, GRID) == []
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_a_block_that_is_a_link_is_set_aside_and_its_target_left_alone(tmp_path):
    target = put(tmp_path, saved(arrays()))
    elsewhere = tmp_path / "elsewhere.npz"
    os.rename(target, elsewhere)
    target.symlink_to(elsewhere)
    assert store.finished_blocks(tmp_path, GRID) == []
    assert elsewhere.exists() and not target.exists()


def test_a_pipe_in_the_place_of_a_block_does_not_block(tmp_path):
    (tmp_path / "blocks").mkdir()
    os.mkfifo(store.block_path(tmp_path, 0))
    assert store.finished_blocks(tmp_path, GRID) == []


@pytest.mark.parametrize("name", ["blocks", "results.zarr", "quarantine", "identity.json"])
def test_a_link_inside_an_output_folder_is_refused(tmp_path, name):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    (out / name).symlink_to(other)
    with pytest.raises(store.OtherGridError, match=f"{name} is a symbolic link"):
        store.check_folder(out, GRID)
    assert list(other.iterdir()) == []


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\x00\xff", '{"config": 1}', "[]", "1"])
def test_a_hostile_identity_is_another_grid(tmp_path, content):
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(store.OtherGridError):
        store.check_folder(tmp_path, GRID)


def test_names_of_blocks_come_from_numbers_alone(tmp_path):
    (tmp_path / "blocks").mkdir()
    for name in ("0.npz", "-0000001.npz", "00000000.npz ", "٠٠٠٠٠٠٠٠.npz", "99999999999.npz"):
        (tmp_path / "blocks" / name).write_bytes(b"x")
    assert store.stored_blocks(tmp_path, GRID) == []


# --- The compile cache ----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_compile_cache_is_the_users_own(home):
    folder = cli.use_private_cache()
    assert folder == home / "relu_dynamics" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)


@pytest.mark.parametrize("kind", ["writable by others", "a link", "a file", "writable parent"])
def test_a_compile_cache_that_others_could_have_written_is_not_used(home, kind):
    folder = home / "relu_dynamics" / "compiled"
    folder.parent.mkdir()
    if kind == "a link":
        (home / "elsewhere").mkdir()
        folder.symlink_to(home / "elsewhere")
    elif kind == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        (folder if kind == "writable by others" else folder.parent).chmod(0o777)
    assert cli.use_private_cache() is None
    assert jax.config.jax_compilation_cache_dir is None
