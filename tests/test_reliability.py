"""Bad input and stops: one line, the right exit code, nothing written, nothing lost."""

import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from relu_dynamics import cli, store
from relu_dynamics.config import TRACED, Config, to_json
from relu_dynamics.engine import initializers, memory, normalizations, optimizers
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.validation import from_json, load_config, validate
from relu_dynamics.grid import VersionError, grid_from_identity, make_grid
from relu_dynamics.settings import UNFIT_SETTINGS
from relu_dynamics.statistics import estimates
from relu_dynamics.store import checkpoints, files
from relu_dynamics.sweeps import plan, studies
from relu_dynamics.sweeps.blocks import (
    OutOfMemoryError,
    compile_program,
    program_bytes,
    run_block,
)
from relu_dynamics.sweeps.plan import CLASSIFYING_BYTES, check_shard, sweep_bytes
from relu_dynamics.sweeps.replay import replay
from relu_dynamics.sweeps.sweep import sweep

ROOT = pathlib.Path(__file__).parent.parent
SMALL = Config(
    task="teacher_student", examples=64, dimension=5, hidden=(8, 8), biased_units=4,
    batch_size=16, steps=40, probe_every=10, sustain=20,
)  # fmt: skip
AXES = {"learning_rate": [0.01, 0.1, 1.0], "initial_bias": [-3.0, -1.0]}


# --- Generated configs: accepted or refused in one line, never anything else ---------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**300, 10**310),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
    st.tuples(st.integers(-1, 9), st.floats()),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from(
        [
            np.float32(0.5), np.int64(3), np.bool_(True), np.array([1.0, 2.0]), np.array(0.1),
            np.complex64(1), np.float64("nan"), np.datetime64("2020-01-01"), object(), int,
            float("inf"), -0.0, 5e-324, 2**31, 2**63, 2**64, [[1], [2, 3]], {1, 2}, range(3),
        ]
    ),
)  # fmt: skip
GOOD = {
    "learning_rate": st.floats(1e-6, 1e3),
    "initial_bias": st.floats(-100, 100),
    "momentum": st.one_of(st.none(), st.floats(0, 0.99)),
    "weight_decay": st.one_of(st.none(), st.floats(0.01, 1)),
    "optimizer": st.sampled_from(list(optimizers.OPTIMIZERS)),
    "normalization": st.sampled_from(list(normalizations.NORMALIZATIONS)),
    "task": st.sampled_from(["digits", "teacher_student", "abs", "unit_interval"]),
    "hidden": st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
    "biased_layer": st.integers(1, 3),
    "biased_units": st.integers(1, 8),
    "examples": st.integers(1, 2000),
    "batch_size": st.one_of(st.none(), st.integers(1, 128)),
    "steps": st.integers(1, 1000),
    "probe_every": st.sampled_from([1, 2, 5, 10]),
    "activation": st.sampled_from(list(ACTIVATIONS)),
    "initializer": st.one_of(
        st.sampled_from(list(initializers.INITIALIZERS)),
        st.lists(st.sampled_from(list(initializers.INITIALIZERS)), max_size=4),
    ),
    "bias_law": st.sampled_from(list(initializers.BIAS_LAWS)),
    "bias_scale": st.one_of(st.none(), st.floats(-1, 1)),
    "hidden_bias": st.one_of(st.booleans(), st.lists(st.booleans(), max_size=3)),
    "top_k": st.one_of(st.none(), st.integers(1, 9)),
    "definition": st.sampled_from(["dead", "flat"]),
    "schedule": st.sampled_from(list(optimizers.SCHEDULES)),
    "warmup_steps": st.one_of(st.none(), st.integers(1, 50)),
    "clip_norm": st.one_of(st.none(), st.floats(0.01, 10)),
    "killed_fraction": st.one_of(st.none(), st.floats(0.01, 1)),
    "killed_at": st.integers(0, 20),
    "change_every": st.one_of(st.none(), st.integers(1, 50)),
}
FIELDS = [field.name for field in dataclasses.fields(Config)]


def accepted_or_one_line(call):
    try:
        return call()
    except ValueError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 1000, text
        return None


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=GOOD),
    st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=2),
)
def test_any_config_is_accepted_or_refused_in_one_line(good, odd):
    made = accepted_or_one_line(lambda: validate(Config(**{**good, **odd})))
    if made is not None:
        assert from_json(to_json(made)) == made
        assert validate(made) == made
        assert make_grid(made, {"learning_rate": [0.5]}, 1).hash


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        ODD,
        st.dictionaries(
            st.one_of(st.sampled_from(TRACED), ODD.filter(lambda v: v.__hash__)),
            st.one_of(ODD, st.lists(st.one_of(st.floats(0.01, 1), ODD), max_size=3)),
            max_size=2,
        ),
    ),
    st.one_of(st.integers(-1, 5), ODD),
    st.one_of(st.just(0), ODD),
    st.one_of(st.none(), st.integers(1, 9), ODD),
)
def test_any_grid_is_accepted_or_refused_in_one_line(axes, seeds, root_seed, lanes):
    make = lambda: make_grid(SMALL, axes, seeds, root_seed=root_seed, lanes=lanes)  # noqa: E731
    grid = accepted_or_one_line(make)
    if grid is not None:
        assert grid.blocks >= 1 and math.isfinite(grid.runs)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=60), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text(max_size=4)), inner, max_size=3),
    ),
).map(json.dumps)))  # fmt: skip
def test_any_text_is_a_config_or_refused_in_one_line(text):
    accepted_or_one_line(lambda: from_json(text))


@settings(max_examples=200, deadline=None)
@given(st.one_of(ODD, ODD.map(lambda value: (value, 4)), st.tuples(ODD, ODD)))
def test_any_shard_is_accepted_or_refused_in_one_line(shard):
    accepted_or_one_line(lambda: check_shard(shard))


# --- Config files ---------------------------------------------------------------------------------


def test_a_config_file_is_read_by_types(tmp_path):
    (tmp_path / "a.toml").write_text('steps = 50\nhidden = [4, 9]\nlearning_rate = 1\ntask = "abs"')
    (tmp_path / "a.json").write_text(
        '{"steps": 50, "hidden": [4, 9], "learning_rate": 1, "task": "abs", "momentum": null}'
    )
    wanted = validate(Config(steps=50, hidden=(4, 9), learning_rate=1.0, task="abs"))
    assert load_config(tmp_path / "a.toml") == wanted
    assert load_config(tmp_path / "a.json") == wanted


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'{"steps": 50, "steps": 100}', "key 'steps' appears twice"),
        ("a.toml", b"steps = 50\nsteps = 100", "Cannot overwrite a value"),
        ("a.json", b'{"stepz": 50}', 'did you mean "steps"?'),
        ("a.json", b'{"steps": "50"}', "steps='50' must be a whole number"),
        ("a.json", b'{"steps": 50.0}', "steps=50.0 must be a whole number"),
        ("a.json", b'{"steps": true}', "steps=True must be a whole number"),
        ("a.json", b'{"learning_rate": NaN}', "NaN is not a number that JSON allows"),
        ("a.toml", b"learning_rate = nan", "learning_rate=nan must be finite"),
        ("a.json", b'{"learning_rate": 1e999}', "must be finite"),
        ("a.json", b'{"learning_rate": "1e-3"}', "must be a real number"),
        ("a.json", b'{"output_bias": 1}', "output_bias=1 must be true or false"),
        ("a.json", b'{"hidden": 32}', "hidden=32 must be a list"),
        ("a.json", b'{"hidden": [32, "32"]}', "hidden='32' must be a whole number"),
        ("a.json", b'{"task": 1}', "task=1 must be text"),
        ("a.json", b'{"steps": 1010}', "must divide steps=1010"),
        ("a.json", b"[1]", "must be a JSON object"),
        ("a.json", b"", "Expecting value"),
        ("a.json", b"[" * 200_000, "nested too deeply"),
        ("a.toml", b"a = " + b"[" * 200_000, ""),
        ("a.json", b"\xef\xbb\xbf{}", "byte order mark"),
        ("a.json", b"\xff\xfe{\x00", "not UTF-8"),
        ("a.json", b" " * (2**20 + 1), "larger than"),
        ("a.yaml", b"steps: 50", "must end in .json or .toml"),
    ],
)
def test_a_bad_config_file_is_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_config(tmp_path / name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_a_file_is_refused(tmp_path):
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("folder.json", "pipe.json"):
        with pytest.raises(ValueError, match="not a regular file"):
            load_config(tmp_path / name)
    for path in (tmp_path / "none.json", "a\0.json", "x" * 300 + ".json", "/dev/zero"):
        with pytest.raises(ValueError):
            load_config(path)


# --- The command line -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    config: Config = SMALL
    """The config."""
    seeds: int = 3
    """Seeds."""
    rates: tuple[float, ...] = (0.1,)
    """Rates."""
    out: pathlib.Path | None = None
    """Folder."""


def parse(*arguments):
    return cli.parse(list(arguments), Options(), Options(seeds=1), "A test.", "script")


def test_help_fits_a_screen_and_help_all_lists_the_fields_of_the_config(capsys):
    pages = []
    for argument in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parse(argument)
        pages.append(capsys.readouterr().out)
    short, whole = pages
    assert len(short.splitlines()) < 30 and "--config.FIELD" in short and "--seeds" in short
    assert all(f"--config.{f.name.replace('_', '-')}" in whole for f in dataclasses.fields(Config))
    assert "--config.steps" not in short


def test_a_file_then_the_command_line(tmp_path):
    file = tmp_path / "options.toml"
    file.write_text('seeds = 7\nrates = [0.5, 1]\nout = "there"\n[config]\nsteps = 80\n')
    found = parse("--config-file", str(file), "--config.steps", "120")
    config_ = dataclasses.replace(SMALL, steps=120)
    assert found == Options(config_, 7, (0.5, 1.0), pathlib.Path("there"))
    assert parse(f"--config-file={file}").config.steps == 80
    assert parse("--quick").seeds == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "x"], "--seeds: invalid literal"),
        (["--sedes", "3"], "Unrecognized options: --sedes, 3 did you mean --seeds?"),
        (["--config.lr", "0.1"], "did you mean --config.learning-rate?"),
        (["--seeds"], "Missing value for argument '--seeds'"),
        (["more"], "Unrecognized options: more"),
        (["--config-file"], "give one file"),
        (["--config-file", "a.json", "--config-file", "b.json"], "give one file, once"),
    ],
)
def test_a_command_line_that_is_not_understood_gets_one_line(arguments, words, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError) as caught:
        parse(*arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("steps=0 must be\n positive"), 2),
        (store.FolderError("nothing there"), 2),
        (store.OtherGridError("another grid"), 3),
        (store.NotWritableError("full"), 4),
        (store.FolderVersionError("schema"), 5),
        (VersionError("schema"), 5),
        (OutOfMemoryError("lanes"), 6),
        (MemoryError(), 6),
        (KeyboardInterrupt(), 130),
        (store.UnfinishedError("shard 0/2 is done"), None),
    ],
)
def test_every_end_has_its_exit_code_and_one_line(error, code, monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(cli, "_leave", codes.append)
    monkeypatch.setattr(cli, "_catch_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["script"])

    def run(options):
        raise error

    make = lambda name: cli.Command(run, Options(), Options(), "A test.")  # noqa: E731
    cli.main(["fail"], ("fail",), make, "Tests.", "script")
    assert codes == ([] if code is None else [code])
    said = capsys.readouterr()
    assert len((said.err or said.out).strip().splitlines()) == 1


def recovery_map(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "experiments", "recovery_map", *arguments],
        capture_output=True, text=True, cwd=ROOT, **options,
    )  # fmt: skip


@pytest.mark.parametrize("setting", UNFIT_SETTINGS)
def test_a_setting_of_jax_that_changes_results_is_refused(setting, tmp_path):
    before, wanted = getattr(jax.config, setting), UNFIT_SETTINGS[setting][0]
    jax.config.update(setting, not wanted)
    try:
        with pytest.raises(ValueError, match=f"{setting.upper()}={int(not wanted)} would mean"):
            sweep(SMALL, AXES, 1, out=tmp_path / "out")
        with pytest.raises(ValueError, match=setting.upper()):
            cli.start_jax()
    finally:
        jax.config.update(setting, before)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_there_is_refused_in_one_line(platform):
    done = recovery_map("--quick", env={**os.environ, "JAX_PLATFORMS": platform})
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"error: JAX_PLATFORMS='{platform}' cannot be used here" in done.stderr


@pytest.mark.slow
def test_a_script_that_cannot_write_ends_with_4():
    began = time.monotonic()
    done = recovery_map("--out", "/proc/no/such")
    assert time.monotonic() - began < 30  # 2 s on an idle machine
    assert done.returncode == 4 and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_its_code_and_says_how_to_go_on(number, tmp_path):
    out = tmp_path / "map"
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", "recovery_map", "--out", str(out)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(out.glob("blocks/*.npz")):
        time.sleep(0.2)
    process.send_signal(number)
    began = time.monotonic()
    said = process.communicate(timeout=60)[1]
    assert time.monotonic() - began < 10
    assert process.returncode == 128 + number
    assert "the same command continues" in said and "Traceback" not in said


# --- Folders ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    out = tmp_path_factory.mktemp("stored") / "out"
    return out, sweep(SMALL, AXES, 2, lanes=4, out=out).load()


GRID = make_grid(SMALL, AXES, 2, lanes=4)


def edited_identity(tmp_path, **changes):
    identity = {**GRID.identity, **changes}
    (tmp_path / "identity.json").write_text(json.dumps(identity))
    return tmp_path


@pytest.mark.parametrize("field", ["schema_version", "definition_version", "jax_version"])
def test_the_same_grid_of_another_version_is_told_apart(tmp_path, field):
    with pytest.raises(store.FolderVersionError, match=field):
        store.check_folder(edited_identity(tmp_path, **{field: "0"}), GRID)
    with pytest.raises(store.OtherGridError, match=f"lanes.*{field}|{field}.*lanes"):
        store.check_folder(edited_identity(tmp_path, lanes=3, **{field: "0"}), GRID)


def test_a_driver_killed_at_its_start_leaves_a_usable_folder(tmp_path):
    (tmp_path / "blocks").mkdir()
    (tmp_path / f"identity.json.{files.writer()}.tmp").write_text("{")
    assert store.check_folder(tmp_path, GRID) == tmp_path


@pytest.mark.slow
def test_a_lost_or_damaged_identity_is_written_again(stored, tmp_path):
    for content in (None, b"", b"{"):
        out = tmp_path / f"copy{content}"
        shutil.copytree(stored[0], out)
        (out / "identity.json").unlink()
        if content is not None:
            (out / "identity.json").write_bytes(content)
        again = sweep(SMALL, AXES, 2, lanes=4, out=out)
        xr.testing.assert_equal(again.load(), stored[1])
        assert store.read_identity(out) == json.loads(json.dumps(GRID.identity))


@pytest.mark.parametrize("damage", ["flip", "delete", "truncate", "attributes"])
def test_a_damaged_labelled_result_is_found_and_made_again(stored, tmp_path, damage):
    out = tmp_path / "copy"
    shutil.copytree(stored[0], out)
    chunk = next(p for p in (out / "results.zarr" / "margin" / "c").rglob("*") if p.is_file())
    content = bytearray(chunk.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        chunk.write_bytes(content)
    elif damage == "truncate":
        chunk.write_bytes(content[:-1])
    elif damage == "delete":
        chunk.unlink()
    else:
        root = out / "results.zarr" / "zarr.json"
        root.write_text(root.read_text().replace(GRID.hash, "0" * 64))
    with pytest.raises(store.FolderError, match="damaged; the same command makes it again"):
        store.open_result(out)
    xr.testing.assert_equal(sweep(SMALL, AXES, 2, lanes=4, out=out).load(), stored[1])


def test_a_block_with_another_number_under_its_old_seal_is_set_aside(stored, tmp_path):
    """Written whole, with a right CRC: only the digest tells."""
    out = tmp_path / "copy"
    shutil.copytree(stored[0], out)
    path = store.block_path(out, 1)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["loss"] = arrays["loss"] + np.float32(1)
    np.savez(path, **arrays)
    with pytest.raises(store.BlockError, match="damaged .its digest differs"):
        store.read_block(out, GRID, 1)
    assert store.finished_blocks(out, GRID) == [0, 2, 3]
    xr.testing.assert_equal(sweep(SMALL, AXES, 2, lanes=4, out=out).load(), stored[1])
    assert len(list((out / "quarantine").iterdir())) == 1


def test_too_little_disk_is_said_at_the_start_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("U", (), {"free": 1000}))
    with pytest.raises(store.NotWritableError, match=r"needs .* MiB and its disk has 0.0 MiB"):
        sweep(SMALL, AXES, 2, lanes=4, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("RESOURCE: No space left")]
)
def test_a_full_disk_keeps_the_finished_blocks(stored, tmp_path, monkeypatch, error):
    original = store.write_block
    written = []

    def full_after_two(folder, grid, block, result):
        if len(written) == 2:
            raise error
        written.append(block)
        original(folder, grid, block, result)

    monkeypatch.setattr(store, "write_block", full_after_two)
    with pytest.raises(store.NotWritableError, match="disk is full.*same command continues"):
        sweep(SMALL, AXES, 2, lanes=4, out=tmp_path)
    monkeypatch.setattr(store, "write_block", original)
    assert sorted(store.finished_blocks(tmp_path, GRID)) == sorted(written)
    xr.testing.assert_equal(sweep(SMALL, AXES, 2, lanes=4, out=tmp_path).load(), stored[1])


def test_a_folder_deleted_under_way_is_said(tmp_path, monkeypatch):
    original = store.write_block

    def delete_then_write(folder, *rest):
        shutil.rmtree(folder)
        original(folder, *rest)

    monkeypatch.setattr(store, "write_block", delete_then_write)
    with pytest.raises(store.NotWritableError, match="has gone; the same command starts again"):
        sweep(SMALL, AXES, 2, lanes=4, out=tmp_path / "out")


@pytest.mark.slow
def test_out_of_memory_is_answered_with_the_lanes_that_fit(monkeypatch):
    def exhausted(*arguments):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    one, two = (program_bytes(GRID, lanes) for lanes in (1, 2))
    assert one < two
    room = one + 2 * (two - one) + 1  # for three lanes
    monkeypatch.setattr(memory, "available_bytes", lambda: room)
    with pytest.raises(OutOfMemoryError, match="lanes=4 do not fit.*use lanes=2 or fewer"):
        run_block(GRID, 0, program=exhausted)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10)
    with pytest.raises(OutOfMemoryError, match="nor does one lane"):
        run_block(GRID, 0, program=exhausted)


@pytest.mark.slow
def test_memory_grows_with_runs_in_memory_and_not_when_they_stream():
    """Against the arrays that are really there: those of a joined result of so many seeds."""

    def needed(seeds, streams, program=0, devices=1):
        grid = make_grid(SMALL, AXES, seeds, lanes=4)
        return sweep_bytes(grid, program, devices, streams=streams)

    result = sweep(SMALL, AXES, 64, lanes=4)
    held = sum(v.nbytes for v in result.data_vars.values()) - result.outcome.nbytes
    conditions = CLASSIFYING_BYTES * result.outcome.size
    # Two lanes of six are padding: the estimate takes them off again.
    assert needed(64, streams=False) == held + conditions
    assert needed(2**20, streams=False) == 2**14 * needed(64, streams=False)
    at_once = store.seeds_at_once(make_grid(SMALL, AXES, 2**20, lanes=4))
    assert needed(at_once, streams=True) == needed(2**20, streams=True) <= store.PART_BYTES * 1.2
    one, two = (needed(1, True, program=2**30, devices=devices) for devices in (1, 2))
    assert 2**30 < one < 2**30 + 2**20 and two - one > 2**30


def test_a_sweep_says_at_its_start_what_it_will_take(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(plan, "process_bytes", lambda: (300 * 2**20, 700 * 2**20))
    sweep(SMALL, AXES, 2, lanes=4, progress=True, out=tmp_path)
    line = capfd.readouterr().err.splitlines()[0]
    what = "training 4 blocks of 4 runs by plain JAX"
    assert line == f"{what}; memory about 700 MiB, disk at most 1 MiB"
    monkeypatch.setattr(plan, "process_bytes", lambda: (700 * 2**20, 700 * 2**20))
    monkeypatch.setattr(plan, "compile_program", lambda grid, devices: 300 * 2**20 // len(devices))
    sweep(SMALL, AXES, 2, lanes=4, progress=True)
    assert f"{what}; memory about 1,000 MiB\n" in capfd.readouterr().err
    sweep(SMALL, AXES, 2, lanes=4)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_blocks_find_the_program_that_was_compiled_to_estimate():
    compiled = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    grid = make_grid(dataclasses.replace(SMALL, hidden=(8, 9)), AXES, 2, lanes=4)  # nobody else's
    devices = jax.local_devices()
    for device in devices:  # whatever else JAX compiles on its way
        run_block(GRID, 0, device)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        compile_program(grid, devices)
        assert len(compiled) == len(devices)
        for device in devices:
            run_block(grid, 0, device)
        assert len(compiled) == len(devices)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


EXHAUSTED = """
import pathlib, resource, sys
import jax
jax.config.update("jax_platforms", "cpu")
from relu_dynamics import Config, cli, make_grid
from relu_dynamics.sweeps import blocks
config = Config(task="teacher_student", examples=64, dimension=5, hidden=(1024, 1024),
                biased_units=4, batch_size=16, steps=10, probe_every=10)
rates = [0.001 * i for i in range(1, 513)]
grid = make_grid(config, {"learning_rate": rates}, 1, lanes=512)

def run():
    jax.numpy.zeros(3).block_until_ready()
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
    blocks.run_block(grid, 0)

cli.guard(run)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_that_really_runs_out_ends_with_6():
    done = subprocess.run([sys.executable, "-c", EXHAUSTED], capture_output=True, text=True)
    assert done.returncode == 6 and "Traceback" not in done.stderr, done.stderr
    assert re.search(r"lanes=512 do not fit into 0\..* GiB; use lanes=\d+ or fewer", done.stderr)


def test_another_runtime_error_is_not_taken_for_memory():
    def broken(*arguments):
        raise RuntimeError("INTERNAL: something else")

    with pytest.raises(RuntimeError, match="INTERNAL"):
        run_block(GRID, 0, program=broken)


# --- Replay ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stored_cell_is_replayed_bit_for_bit(stored):
    cell = {"learning_rate": 0.1, "initial_bias": -1.0}
    for source in stored:
        again = replay(source, cell, 1)
        at = stored[1].sel(cell).sel(seed=1)
        np.testing.assert_array_equal(again.result.history.margin, at.margin)
        assert again.config.initial_bias == -1.0 and again.run is None
        assert (again.block, again.lane) == (2, 3)
    full = replay(stored[0], cell, 1, trace_units=True)
    assert full.run.trace.batch_units.margin.shape == (SMALL.steps, SMALL.units)
    np.testing.assert_allclose(full.run.history.margin, at.margin, rtol=2e-3, atol=2e-4)


def test_a_replay_that_differs_is_said(stored):
    changed = stored[1].copy(deep=True)
    changed["loss"].values[...] += 1
    with pytest.raises(ValueError, match="loss differ from the stored ones"):
        replay(changed, {"learning_rate": 0.1, "initial_bias": -1.0}, 1)


@pytest.mark.parametrize(
    ("cell", "seed", "words"),
    [
        ({"learning_rate": 0.1}, 1, "must give a value of each axis"),
        ({"learning_rate": 0.2, "initial_bias": -1.0}, 1, "learning_rate=0.2 is not stored"),
        ({"learning_rate": 0.1, "initial_bias": -1.0}, 9, "seed=9 is not stored"),
        (None, 1, "must give a value of each axis"),
    ],
)
def test_what_is_not_stored_cannot_be_replayed(stored, cell, seed, words):
    with pytest.raises(ValueError, match=words):
        replay(stored[1], cell, seed)


def test_a_result_of_another_version_cannot_be_replayed(stored):
    identity = json.dumps({**GRID.identity, "jax_version": "0.0.1"})
    with pytest.raises(VersionError, match="jax_version '0.0.1'"):
        replay(stored[1].assign_attrs(identity=identity), {}, 0)


def test_the_replayed_program_is_the_stored_one(stored):
    """The grid of an identity has that identity: same config, axes, seeds, lanes."""
    assert grid_from_identity(store.read_identity(stored[0])).hash == GRID.hash
    assert jax.__version__ == GRID.identity["jax_version"]


# --- The library: what is no path, no block, no executor, no result ------------------------------


@pytest.mark.parametrize("path", [5, None, b"runs", ["runs"], 1.5])
def test_what_is_no_path_is_refused_by_name(path):
    for field, call in {
        "out": lambda: store.check_folder(path, GRID),
        "result": lambda: store.open_result(path),
        "source": lambda: replay(path, {}, 0),
        "config file": lambda: load_config(path),
    }.items():
        with pytest.raises(ValueError, match=f"^{field}=.* must be a path"):
            call()
    with pytest.raises(ValueError, match="^folder=.* must be a path"):
        checkpoints.train(SMALL, folder=path, every=20)
    with pytest.raises(ValueError, match="^out=.* must be a path"):
        studies.sweep_study({"a": GRID}, path)


@pytest.mark.parametrize("block", [-1, 4])
def test_a_block_that_is_not_there_is_not_trained(block):
    with pytest.raises(ValueError, match=f"block={block} must be one of the grid's 4"):
        run_block(GRID, block)


@pytest.mark.parametrize("executor", [5, "pool", []])
def test_what_is_no_executor_is_refused(executor):
    with pytest.raises(ValueError, match="executor=.* must be a concurrent.futures.Executor"):
        sweep(SMALL, AXES, 2, lanes=4, executor=executor)


def test_a_part_of_a_result_replays_what_it_holds(stored, tmp_path):
    cell = {"learning_rate": 0.1, "initial_bias": -1.0}
    replay(stored[1].isel(seed=[1]), cell, 1)
    with pytest.raises(ValueError, match="'seed': 0} is not in this part of the result"):
        replay(stored[1].isel(seed=[1]), cell, 0)
    shutil.copytree(stored[0], tmp_path / "lost")
    store.block_path(tmp_path / "lost", 0).unlink()
    with pytest.raises(store.BlockError, match="00000000.npz is not there"):
        replay(tmp_path / "lost", {"learning_rate": 0.01, "initial_bias": -3.0}, 0)


@pytest.mark.parametrize("identity", [None, 5, "{"])
def test_a_result_without_its_identity_is_refused(stored, identity):
    result = stored[1].copy()
    del result.attrs["identity"]
    result.attrs |= {} if identity is None else {"identity": identity}
    for call in (lambda: estimates.cells(result, "recovered"), lambda: replay(result, {}, 0)):
        with pytest.raises(ValueError):
            call()


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"panels": 1}'])
def test_a_summary_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(store.FolderError, match="summary.json"):
        studies.read_summary(tmp_path, ("panels", "forks"))


# --- Broken on purpose ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "trials"),
    [("kills", 3), ("signals", 2), ("damage", 10), ("disk", 5), ("bits", 1), ("memory", 2)],
)
def test_what_is_broken_on_purpose_comes_right(check, trials):
    """A few trials of every check; docs/reliability.md has the full numbers."""
    command = [sys.executable, "-m", "tests.verify", check, "--trials", str(trials)]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] == found["total"] > 0
