"""Checkpoints: one long run, saved every so many steps and continued exactly.

A checkpoint is a step of an orbax `CheckpointManager`: everything that came out of the segment of
steps before it (state, history, trace), the run's key and a digest of it all, since orbax itself
does not notice a changed byte. A run continues from the last step up to which all are whole. No
old step is deleted, so a kill never leaves half of one. Each segment is the same compiled
program, so a continued run has the bits of one that was not interrupted; a process that may compute
others (another processor, other flags) first trains the first segment again and compares.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relu_dynamics.checks import check_path
from relu_dynamics.config import Config, to_json
from relu_dynamics.engine import tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.memory import check_memory, trace_bytes
from relu_dynamics.engine.outcomes import DEFINITION_VERSION
from relu_dynamics.engine.training import Run, Trace
from relu_dynamics.engine.validation import validate
from relu_dynamics.grid import SCHEMA_VERSION
from relu_dynamics.rows import row_identity
from relu_dynamics.store.canary import made_with_of, told_differences
from relu_dynamics.store.files import (
    CANARY_FILE,
    IDENTITY_FILE,
    FolderError,
    FolderVersionError,
    OtherGridError,
    differences,
    read_json,
    write_whole,
    writing,
)
from relu_dynamics.store.folder import read_identity


def train(
    config: Config,
    seed: int = 0,
    *,
    folder: str | os.PathLike,
    every: int,
    root_seed: int = 0,
    trace_units: bool = False,
) -> Run:
    """`training.train` with a checkpoint in `folder` after every `every` steps; the same call
    continues after a stop, and with more `config.steps` after the end.

    Raises a ValueError on bad input before anything is written, and a `FolderError` for the
    folder of another run.
    """
    config = validate(config)
    _check_every(config, every)
    check_memory(trace_bytes(config, trace_units), "use trace_units=False or fewer steps")
    key = run_key(root_seed, seed)
    identity = _identity(config, seed, root_seed, every, trace_units)
    path = _open_folder(check_path("folder", folder), identity, made_with_of(config))
    segment = dataclasses.replace(config, steps=every)
    with writing(path), _manager(path) as manager:
        done = list(_whole_segments(manager, segment, key, trace_units, config.steps))
        if done and every * len(done) < config.steps:
            _check_bits(path, segment, key, done[0], trace_units)
        for step in range(every * (len(done) + 1), config.steps + 1, every):
            done.append(_train_segment(segment, key, done[-1] if done else None, trace_units))
            _save(manager, step, done[-1], key)
    return _join(done, trace_units)


def _check_every(config: Config, every: int) -> None:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every={every!r} must be a whole number >= 1.")
    if every % config.probe_every or config.steps % every:
        raise ValueError(
            f"every={every} must be a multiple of probe_every={config.probe_every} "
            f"and divide steps={config.steps}."
        )


def _identity(config: Config, seed: int, root_seed: int, every: int, trace_units: bool) -> dict:
    """Everything that decides a segment's numbers; the number of steps does not."""
    fields = json.loads(to_json(config))
    del fields["steps"]
    return {
        "config": fields,
        "seed": int(seed),
        "root_seed": int(root_seed),
        "checkpoint_every": every,
        "trace_units": trace_units,
        "schema_version": SCHEMA_VERSION,
        "definition_version": DEFINITION_VERSION,
        "jax_version": jax.__version__,
        "platform": jax.default_backend(),
        **row_identity(config),
    }


def _open_folder(folder: pathlib.Path, identity: dict, made: dict[str, str]) -> pathlib.Path:
    """The folder, made if missing with what `made` it; raises a `FolderError` when it is not this
    run's."""
    file = folder / IDENTITY_FILE
    if file.exists():
        differing = differences(read_identity(folder), identity)
        if differing:
            raise OtherGridError(
                f"folder={str(folder)!r} holds another run, which differs in "
                f"{', '.join(differing)}; choose another folder (nothing was changed)."
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OtherGridError(f"folder={str(folder)!r} is not an empty folder; choose another.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(identity, indent=1).encode())
        write_whole(folder / CANARY_FILE, json.dumps({"made_with": made}, indent=1).encode())
    return folder


def _manager(folder: pathlib.Path):
    import orbax.checkpoint as ocp  # slow to import, and needed here alone

    options = ocp.CheckpointManagerOptions(
        enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager((folder / "steps").absolute(), options=options)


@functools.partial(jax.jit, static_argnames="trace_units")
def _segment(config, key, data, state, history, *, trace_units):
    task = tasks.make_task(config, purpose_key(key, "task"), data)
    return training.run(config, task, key, state, history=history, trace_units=trace_units)


def _train_segment(config: Config, key: jax.Array, last: Run | None, trace_units: bool) -> Run:
    state, history = (None, None) if last is None else (last.state, last.history)
    arrays, data = training.as_arrays(config), tasks.load_data(config)
    return _segment(arrays, key, data, state, history, trace_units=trace_units)


def _check_bits(
    path: pathlib.Path, config: Config, key: jax.Array, first: Run, trace: bool
) -> None:
    """Raises a `FolderVersionError` when this process computes other bits than the folder's. Where
    all that may decide them is as it was, they are the same; else the first segment is trained
    again."""
    try:
        there = read_json(path / CANARY_FILE)["made_with"]
    except (FolderError, TypeError, KeyError):
        there = {}
    if there == made_with_of(config):
        return
    own = _train_segment(config, key, None, trace)
    if _digest(0, _leaves(own, key)) != _digest(0, _leaves(first, key)):
        raise FolderVersionError(
            f"folder={str(path)!r} holds a run with other bits than are computed now: "
            f"{told_differences(there)}; continue it as it was begun, or choose another folder."
        )


def _leaves(run: Run, key: jax.Array) -> dict[str, np.ndarray]:
    leaves = [jax.random.key_data(key), *jax.tree.leaves(run)]
    return {f"{i:03d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


def _digest(step: int, leaves: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(str(step).encode())
    for name, leaf in sorted(leaves.items()):
        digest.update(f"{name} {leaf.dtype.str} {leaf.shape}".encode() + leaf.tobytes())
    return digest.hexdigest()


def _save(manager, step: int, run: Run, key: jax.Array) -> None:
    import orbax.checkpoint as ocp

    leaves = _leaves(run, key)
    seal = {"step": step, "digest": _digest(step, leaves)}
    manager.save(
        step,
        args=ocp.args.Composite(run=ocp.args.StandardSave(leaves), seal=ocp.args.JsonSave(seal)),
    )


def _whole_segments(
    manager, config: Config, key: jax.Array, trace_units: bool, steps: int
) -> Iterator[Run]:
    """The stored segments from step 0 on, up to the first that is missing or damaged; what comes
    after it is deleted."""
    shape = jax.eval_shape(lambda: _train_segment(config, key, None, trace_units))
    every = config.steps
    for step in range(every, steps + 1, every):
        run = _restore(manager, step, shape, key)
        if run is None:
            for later in [later for later in manager.all_steps() if later >= step]:
                manager.delete(later)
            return
        yield run


def _restore(manager, step: int, shape: Run, key: jax.Array) -> Run | None:
    """One stored segment; None when it is missing or not as it was written."""
    import orbax.checkpoint as ocp

    if step not in manager.all_steps():
        return None
    leaves, tree = jax.tree.flatten(shape)
    wanted = [np.asarray(jax.random.key_data(key)), *leaves]
    target = {f"{i:03d}": np.zeros(leaf.shape, leaf.dtype) for i, leaf in enumerate(wanted)}
    try:
        found = manager.restore(
            step,
            args=ocp.args.Composite(
                run=ocp.args.StandardRestore(target), seal=ocp.args.JsonRestore()
            ),
        )
        arrays = {name: np.asarray(leaf) for name, leaf in found.run.items()}
        whole = found.seal == {"step": step, "digest": _digest(step, arrays)}
    except Exception:  # whatever orbax raises: all mean damage
        return None
    if not whole or arrays["000"].tobytes() != wanted[0].tobytes():
        return None
    return jax.tree.unflatten(tree, [arrays[f"{i:03d}"] for i in range(1, len(wanted))])


def _join(segments: list[Run], trace_units: bool) -> Run:
    """The whole run: the last segment's state and history, and all their traces. The first
    evaluation of a segment is the last one of the segment before."""
    traces = [segment.trace for segment in segments]

    def joined(name: str, first: int) -> Any:
        parts = [getattr(trace, name) for trace in traces]
        parts = [jax.tree.map(lambda x: x[first:], part) for part in parts[1:]]
        return jax.tree.map(lambda *x: jnp.concatenate(x), getattr(traces[0], name), *parts)

    evaluations = {name: joined(name, 1) for name in ("probe_layers", "probe_units")}
    steps = {name: joined(name, 0) for name in ("loss", "batch_units", "gradient_norm")}
    return segments[-1]._replace(trace=Trace(**evaluations, **steps))
