"""Faults at any moment: one line on standard error, the right exit code, nothing lost, and the same
command then gives the same numbers."""

import builtins
import errno
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relu_dynamics import cli, figures, store
from relu_dynamics.config import Config
from relu_dynamics.engine import memory
from relu_dynamics.experiment import Experiment, Figure, Options, conduct
from relu_dynamics.grid import make_grid
from relu_dynamics.statistics import estimates
from relu_dynamics.statistics.claims import Claim
from relu_dynamics.store import blocks as blocks_of_store
from relu_dynamics.store import files
from relu_dynamics.sweeps import blocks, plan, studies
from relu_dynamics.sweeps.blocks import OutOfMemoryError

ROOT = pathlib.Path(__file__).parent.parent
SMALL = Config(
    task="teacher_student", examples=16, dimension=3, hidden=(4,), biased_layer=1, biased_units=2,
    batch_size=4, steps=4, probe_every=2, sustain=2,
)  # fmt: skip
GRID = make_grid(SMALL, {"learning_rate": [0.01, 0.1], "initial_bias": [-4.0]}, 2, lanes=2)


def analyse(options, results):
    counted = estimates.counts(results["one"], "born_dead")
    claim = Claim("it holds", "us", "confirmed", "Yes.", 0.5, (0.4, 0.6), "2 seeds", "dead")
    return {"dead": counted[0].tolist(), "claims": [claim]}


def save_plainly(drawn, path, provenance):
    plt.close(drawn)
    store.write_whole(path.with_suffix(".png"), b"drawn")
    return [path.with_suffix(".png")]


EXPERIMENT = Experiment(
    name="fault",
    question="what remains?",
    description="A test.",
    defaults=Options(),
    quick=Options(),
    grids=lambda options: {"one": GRID},
    analyse=analyse,
    figures={"nothing": Figure("Nothing.", lambda summary: plt.figure(), save_plainly)},
)


def numbers(folder: pathlib.Path) -> str:
    """Digest of all numbers that are stored: the result's and the summary's."""
    digest = hashlib.sha256()
    result = store.open_result(folder / "one").load()
    for name in sorted(map(str, result.variables)):
        digest.update(name.encode() + np.ascontiguousarray(result[name].values).tobytes())
    for block in range(GRID.blocks):
        for name, array in sorted(store.read_block(folder / "one", GRID, block).items()):
            digest.update(name.encode() + array.tobytes())
    digest.update(json.dumps(studies.read_summary(folder)["dead"]).encode())
    return digest.hexdigest()


class Faults:
    """Makes the k-th call and all later ones (or only that) that write below a folder fail."""

    def __init__(self, folder, number, at, forever):
        self.folder, self.number, self.at, self.forever = str(folder), number, at, forever
        self.calls = 0
        self.hit = False

    def check(self, path):
        if not str(path).startswith(self.folder):
            return
        self.calls += 1
        if self.calls == self.at or (self.forever and self.calls > self.at):
            self.hit = True
            raise OSError(self.number, os.strerror(self.number), str(path))

    def patch(self, patching):
        def opening(original):
            def opened(file, mode="r", *more, **named):
                if isinstance(mode, str) and set(mode) & set("wax+"):
                    self.check(file)
                return original(file, mode, *more, **named)

            return opened

        def first(original):
            def called(path, *more, **named):
                self.check(path)
                return original(path, *more, **named)

            return called

        for module in (builtins, io):
            patching.setattr(module, "open", opening(module.open))
        for name in ("replace", "mkdir", "rename"):
            patching.setattr(os, name, first(getattr(os, name)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    conduct(EXPERIMENT, Options(out=folder))
    return numbers(folder)


def ended(call, monkeypatch):
    """(exit code, lines on standard error) of a call under `guard`."""
    with monkeypatch.context() as patching:
        patching.setattr(os, "_exit", sys.exit)
        patching.setattr(signal, "signal", lambda *_: None)
        errors = io.StringIO()
        patching.setattr(sys, "stderr", errors)
        try:
            cli.guard(call)
            return 0, errors.getvalue()
        except SystemExit as stop:
            return stop.code, errors.getvalue()


@pytest.mark.slow
@settings(
    max_examples=10, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    st.sampled_from([errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT]),
    st.integers(1, 45),
    st.booleans(),
)
def test_a_disk_that_fails_at_any_write_ends_in_one_line_and_loses_nothing(
    undisturbed, tmp_path, monkeypatch, number, at, forever
):
    folder = tmp_path / f"{number}-{at}-{forever}" / "out"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir()
    faults = Faults(folder, number, at, forever)
    with monkeypatch.context() as patching:
        faults.patch(patching)
        code, said = ended(lambda: conduct(EXPERIMENT, Options(out=folder)), monkeypatch)
    kept = [b for b in range(GRID.blocks) if store.is_done(folder / "one", GRID, b)]
    if code:
        assert faults.hit and code == cli.EXIT_DISK, said
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in said, said
    else:  # the fault was never reached, or what failed was not needed
        assert numbers(folder) == undisturbed
    trained = []
    with monkeypatch.context() as patching:
        original = store.write_block
        patching.setattr(store, "write_block", lambda *a: (trained.append(a[2]), original(*a))[1])
        conduct(EXPERIMENT, Options(out=folder))
    assert numbers(folder) == undisturbed
    assert not set(trained) & set(kept)  # what was finished is not trained again
    assert (folder / "nothing.png").is_file() and not list(folder.rglob("*.tmp"))


def test_a_result_that_this_process_gave_up_is_removed_and_one_under_way_is_not(tmp_path):
    folder = tmp_path / "one"
    given_up = folder / f"{store.RESULT_FOLDER}.{files.writer()}.tmp"
    under_way = folder / f"{store.RESULT_FOLDER}.{files.writer()}.tmp"
    for path in (given_up, under_way):
        path.mkdir(parents=True)
    blocks_of_store.being_built.add(under_way.name)
    try:
        store.finished_blocks(folder, GRID)
        assert not given_up.exists() and under_way.exists()
    finally:
        blocks_of_store.being_built.discard(under_way.name)


class Broken(io.TextIOWrapper):
    """Standard output that cannot be written."""

    def __init__(self, number):
        class Raw(io.RawIOBase):
            def writable(self):
                return True

            def write(self, content):
                raise OSError(number, os.strerror(number))

        super().__init__(io.BufferedWriter(Raw()), encoding="ascii", write_through=False)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EPIPE, cli.EXIT_PIPE, "nobody reads standard output any more"),
        (errno.ENOSPC, cli.EXIT_DISK, "standard output or a file cannot be written (No space left"),
        (
            errno.EIO,
            cli.EXIT_DISK,
            "standard output or a file cannot be written (Input/output error)",
        ),
    ],
)
@pytest.mark.parametrize("when", ["at the end", "under way", "help"])
def test_standard_output_that_fails_ends_in_one_line(monkeypatch, number, code, words, when):
    def call():
        print("a line — with more than ASCII", flush=when == "under way")
        if when == "help":
            raise SystemExit(0)

    monkeypatch.setattr(sys, "stdout", Broken(number))
    found, said = ended(call, monkeypatch)
    monkeypatch.undo()
    assert found == code and said.startswith(f"error: {words}") and len(said.splitlines()) == 1


def test_standard_output_that_is_closed_or_of_few_characters_is_no_trouble(monkeypatch):
    with monkeypatch.context() as patching:
        patching.setattr(sys, "stdout", None)
        assert ended(lambda: print("nowhere", sys.stdout.encoding), monkeypatch) == (0, "")
    few = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patching:
        patching.setattr(sys, "stdout", few)
        assert ended(lambda: print("—"), monkeypatch) == (0, "")
    assert few.buffer.getvalue() == b"\\u2014\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "runs/a"), 4, "'runs/a' cannot be read or writ"),
        (OSError(28, "No space left on device"), 4, "a file cannot be written (No space"),
        (RuntimeError("INTERNAL: LLVM: Cannot allocate memory"), 6, "jax.clear_caches()"),
        (RuntimeError("RESOURCE_EXHAUSTED: of memory"), 6, "fewer lanes"),
    ],
)
def test_what_a_library_raises_is_said_in_one_line(error, code, words, monkeypatch):
    def call():
        raise error

    found, said = ended(call, monkeypatch)
    assert found == code and words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError("a fault"), KeyError("a"), AssertionError()])
def test_a_fault_of_the_program_keeps_its_traceback(error, monkeypatch):
    def call():
        raise error

    with pytest.raises(type(error)):
        ended(call, monkeypatch)


def test_without_a_home_there_is_no_compile_cache(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody's home is known
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    before = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009 (set at run time)
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert cli.use_private_cache() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_figure_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    faults = Faults(tmp_path, errno.ENOSPC, 1, True)
    with monkeypatch.context() as patching:
        faults.patch(patching)
        with pytest.raises(OSError):
            figures.save(plt.figure(figsize=(1, 1)), tmp_path / "figure", {})
    assert faults.hit and not list(tmp_path.iterdir())
    assert all(p.stat().st_size for p in figures.save(plt.figure(), tmp_path / "figure", {}))


# --- Memory maps of compiled programs ------------------------------------------------------------


def test_programs_are_forgotten_before_the_maps_run_out(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    monkeypatch.setattr(memory, "memory_maps", lambda: (100, 1000))
    memory.free_programs()
    assert not cleared
    monkeypatch.setattr(memory, "memory_maps", lambda: (501, 1000))
    for call in (memory.free_programs, lambda: plan.plan_sweep(GRID)):
        call()
    assert len(cleared) == 2
    monkeypatch.setattr(memory, "memory_maps", lambda: (0, 0))  # no /proc
    memory.free_programs()
    assert len(cleared) == 2


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_the_maps_of_programs_are_counted_and_given_back():
    first, allowed = memory.memory_maps()
    assert 0 < first < allowed
    programs = [jax.jit(lambda x, n=n: x * n + n).lower(1.0).compile() for n in range(3)]
    taken, _ = memory.memory_maps()
    assert taken > first
    del programs


def test_a_compiler_without_memory_is_answered_with_what_to_do():
    def exhausted(*arguments):
        raise RuntimeError("INTERNAL: Unable to map: Cannot allocate memory")

    with pytest.raises(OutOfMemoryError, match="memory maps are in use.*max_map_count"):
        blocks.run_block(GRID, 0, program=exhausted)


# --- What lies in a folder ------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["config", "axes", "seeds", "lanes", "provenance", "question"]),
            inner, max_size=4,
        ),
    ),
).map(lambda value: json.dumps(value).encode())  # fmt: skip


@settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.one_of(JSON, st.binary(max_size=9)))
def test_any_identity_and_summary_is_read_or_refused_in_one_line(tmp_path, content):
    folder = tmp_path / hashlib.sha256(content).hexdigest()[:8]
    folder.mkdir(exist_ok=True)
    (folder / "identity.json").write_bytes(content)
    (folder / "summary.json").write_bytes(content)
    result = type("Result", (), {"attrs": {"identity": content.decode("latin-1")}})()
    for call in (
        lambda: store.check_folder(folder, GRID),
        lambda: studies.read_summary(folder, ("nothing",)),
        lambda: conduct(EXPERIMENT, Options(out=folder, draw=True)),
        lambda: conduct(EXPERIMENT, Options(out=folder)),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            call()
    try:
        assert estimates.axis_names(result) == ()
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["identity.json", "summary.json", "results.zarr", "blocks"])
def test_a_file_where_a_folder_belongs_and_the_other_way_round_is_refused(name, tmp_path):
    """In one line, whichever of the two is there; nothing of it is touched."""
    (tmp_path / "one").mkdir()
    for folder in (tmp_path, tmp_path / "one"):
        if "json" in name:
            (folder / name).mkdir()
        else:
            (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        conduct(EXPERIMENT, Options(out=tmp_path))
    assert (tmp_path / "one" / name).exists()


# --- In a process of its own -------------------------------------------------------------------


def experiments(command: str, **options) -> subprocess.CompletedProcess:
    """A shell command in which PYTHON stands for the interpreter."""
    command = command.replace("PYTHON ", f"{sys.executable} -m experiments ")
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=ROOT,
        **options,
    )  # fmt: skip


def test_sigterm_while_the_program_starts_has_its_line_and_code():
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "experiments", "recovery_map", "--quick"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stderr is not None
    seen = iter(process.stderr.readline, "")
    assert any("jax" in line for line in seen)  # in the middle of the imports
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped; finished blocks are kept" in said and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("PYTHON recovery_map --quick --out OUT | head -1 >/dev/null", 141, "nobody reads"),
        ("PYTHON recovery_map --help | true", 141, "nobody reads"),
        ("PYTHON recovery_map --quick --out OUT >/dev/full", 4, "standard output or a file"),
        ("PYTHON --help >/dev/full", 4, "standard output or a file"),
        ("PYTHON recovery_map --quick --out OUT <&- >&-", 0, ""),
        ("PYTHON recovery_map --quick --out OUT >/dev/null 2>&-", 0, ""),
        ("env -u HOME PYTHONIOENCODING=ascii PYTHON recovery_map --help-all", 0, ""),
        ("mkdir -p OUT; touch OUT/a; PYTHON recovery_map --quick --out OUT/a", 4, "cannot be"),
    ],
)
def test_what_a_shell_does_to_a_script_ends_in_one_line(command, code, words, tmp_path):
    done = experiments(command.replace("OUT", str(tmp_path / "out")))
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert len(lines) == (1 if words else 0) and all(words in line for line in lines)
