"""Validation: a config that cannot run is refused before anything is traced."""

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from relu_dynamics.checks import check_choice, short_repr, without_quotes
from relu_dynamics.config import FIELDS, TRACED, Config, check_number
from relu_dynamics.config_files import from_mapping, parse_json, read_file
from relu_dynamics.engine import (
    initializers,
    models,
    normalizations,
    optimizers,
    outcomes,
    resets,
    scalings,
    tasks,
    terms,
)
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.engine.initialization import check_initialization
from relu_dynamics.engine.native.coverage import check_implementation
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.rows import declare_tables

MOST_UNITS = 2**20  # of a layer

MOST_LAYERS = 1000

# The names that a field may have: the rows of its table, those added at run time included.
CHOICES: dict[str, Collection[str]] = {
    "task": tasks.TASKS,
    "input_scaling": scalings.SCALINGS,
    "model": models.MODELS,
    "activation": ACTIVATIONS,
    "normalization": normalizations.NORMALIZATIONS,
    "optimizer": optimizers.OPTIMIZERS,
    "schedule": optimizers.SCHEDULES,
    "definition": outcomes.DEFINITIONS,
    "reset": resets.RESETS,
    "decoder_bias": initializers.CENTRES,
    "penalty": terms.PENALTIES,
    "revival": terms.REVIVALS,
    "decay_kind": ("coupled", "decoupled"),
    "decay_targets": optimizers.DECAY_TARGETS,
    "batch_order": ("random", "independent", "sequential"),
    "row_order": ("shuffled", "given"),
    "implementation": ("plain", "kernel", "auto"),
}

declare_tables(
    {name: table for name, table in CHOICES.items() if isinstance(table, Mapping)}
    | {"initializer": initializers.INITIALIZERS, "bias_law": initializers.BIAS_LAWS}
)


def _check_count(config: Config, field: str, least: int = 1, most: int = 2**31 - 1) -> int:
    value = getattr(config, field)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(
            f"{field}={short_repr(value)} must be a whole number{without_quotes(value)}."
        )
    if not least <= value <= most:
        raise ValueError(f"{field}={short_repr(value)} must be between {least} and {most}.")
    return int(value)


def validate(config: Config) -> Config:
    """Returns the config, its numbers as Python's own; raises a ValueError on the first field
    that cannot run, naming the field, its value and the remedy. Nothing is traced or compiled."""
    if not isinstance(config, Config):
        raise ValueError(f"config={short_repr(config)} must be a Config.")
    for field, known in CHOICES.items():
        check_choice(field, getattr(config, field), known)
    traced = {
        name: check_number(name, getattr(config, name))
        for name in TRACED
        if getattr(config, name) is not None
    }
    for name in ("learning_rate", "initial_bias"):
        if name not in traced:
            raise ValueError(f"{name}=None: give a number.")
    static: dict[str, Any] = {"tolerance": check_number("tolerance", config.tolerance)}
    for field in ("examples", "dimension", "steps", "probe_every", "sustain"):
        static[field] = _check_count(config, field)
    if not isinstance(config.output_bias, bool):
        raise ValueError(f"output_bias={short_repr(config.output_bias)} must be True or False.")
    config = dataclasses.replace(config, hidden=_widths(config.hidden))
    for width in config.hidden:
        if width > MOST_UNITS or len(config.hidden) > MOST_LAYERS:
            raise ValueError(
                f"hidden={short_repr(config.hidden)}: use at most {MOST_LAYERS} layers of at most "
                f"{MOST_UNITS} units."
            )
        group = normalization_of(config).group
        if group is not None and width % group:
            raise ValueError(
                f"hidden={short_repr(config.hidden)}: normalization={config.normalization!r} needs "
                f"widths that are multiples of {group}."
            )
    static["hidden"] = config.hidden
    if config.top_k is not None:
        static["top_k"] = _check_count(config, "top_k", 1, min(config.hidden))
    available = tasks.available_examples(config)
    if config.examples > available:
        raise ValueError(
            f"examples={config.examples} is more than the {available} of task "
            f"{config.task!r}; use examples <= {available}."
        )
    if config.row_order != "shuffled" and tasks.load_data(config) is None:
        raise ValueError(
            f"row_order={config.row_order!r} needs a task with data, not task={config.task!r}, "
            "whose rows have no order; use row_order='shuffled'."
        )
    if config.batch_size is not None:
        static["batch_size"] = _check_count(config, "batch_size")
        if config.batch_size > config.examples:
            raise ValueError(
                f"batch_size={config.batch_size} is larger than examples={config.examples}; "
                f"use a smaller batch or None for all examples."
            )
    if config.probe_size is not None:
        static["probe_size"] = _check_count(config, "probe_size")
        if config.probe_size > config.examples:
            raise ValueError(
                f"probe_size={config.probe_size} is larger than examples={config.examples}; "
                f"use None for all examples."
            )
    if config.steps % config.probe_every:
        below = config.steps - config.steps % config.probe_every
        raise ValueError(
            f"probe_every={config.probe_every} must divide steps={config.steps}; "
            f"use steps={below or config.probe_every} or steps={below + config.probe_every}."
        )
    static["biased_layer"] = _check_count(config, "biased_layer", 1, len(config.hidden))
    width = config.hidden[config.biased_layer - 1]
    static["biased_units"] = _check_count(config, "biased_units", 1, int(width))
    _check_autoencoder(config)
    _check_terms(config)
    static |= check_initialization(config)
    if config.upstream_rate is not None and config.biased_layer == 1:
        raise ValueError(
            f"upstream_rate={config.upstream_rate!r} needs a layer below biased_layer=1; "
            "use biased_layer >= 2 or upstream_rate=None."
        )
    optimizer = optimizers.OPTIMIZERS[config.optimizer]
    if optimizer.decay_is_decoupled and config.weight_decay is None:
        raise ValueError(
            f"weight_decay=None: {config.optimizer} needs one; optax's own default is 1e-4."
        )
    static |= _check_schedule(config) | _check_events(config) | _check_reset(config)
    if config.change_every is not None and tasks.TASKS[config.task].renew is None:
        changing = ", ".join(name for name, kind in tasks.TASKS.items() if kind.renew)
        raise ValueError(
            f"change_every={config.change_every} needs a task that can change, not "
            f"task={config.task!r}; use one of {changing}, or change_every=None."
        )
    if (
        config.change_every is not None
        and not scalings.SCALINGS[config.input_scaling].keeps_synthetic
        and tasks.load_data(config) is None
    ):
        raise ValueError(
            f"input_scaling={config.input_scaling!r}: a changing synthetic task is made at its own "
            "scale; use input_scaling='standardized'."
        )
    if config.killed_fraction is not None and normalization_of(config).present:
        raise ValueError(
            f"killed_fraction={config.killed_fraction!r} needs normalization='none': a normalized "
            "unit does not stay dead because its weights are 0."
        )
    if not isinstance(config.decay_to_start, bool):
        raise ValueError(
            f"decay_to_start={short_repr(config.decay_to_start)} must be True or False."
        )
    if config.decay_to_start and config.killed_fraction is not None:
        raise ValueError(
            f"killed_fraction={config.killed_fraction!r} needs decay_to_start=False: the pull to "
            "the start would raise what was killed; leave one of them out."
        )
    if config.target_scale is not None and (
        tasks.TASKS[config.task].classes
        or tasks.TASKS[config.task].outputs is None
        or config.change_every is not None
    ):
        raise ValueError(
            f"target_scale={config.target_scale!r} needs a regression task with targets of its own "
            f"that do not change, not task={config.task!r}; use another task, or target_scale=None."
        )
    checked = dataclasses.replace(config, **static, **traced)
    check_effects(checked)
    check_implementation(checked)
    return checked


def _widths(hidden: Any) -> tuple[int, ...]:
    """The widths of the hidden layers, given as a tuple, list or array; raises a ValueError."""
    sequence = isinstance(hidden, tuple | list) or (isinstance(hidden, np.ndarray) and hidden.ndim)
    if not sequence:
        raise ValueError(
            f"hidden={short_repr(hidden)} must be a tuple of widths, one per layer, such as (32,)."
        )
    if not len(hidden):
        raise ValueError(f"hidden={short_repr(hidden)} must name at least one layer.")
    for width in hidden:
        if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
            raise ValueError(
                f"hidden={short_repr(hidden)}: every width must be a whole number >= 1"
                f"{without_quotes(width)}."
            )
    return tuple(int(width) for width in hidden)


def check_effects(config: Config) -> None:
    """Raises a ValueError for the first field that is set (it is not at its default) and has no
    effect, by what the fields declare (`used_by`), the rows and the network."""
    for name, field in FIELDS.items():
        value = getattr(config, name)
        if value is None or value == field.default:
            continue
        for need in field.metadata.get("used_by", ()):
            other, _, attribute = need.partition(".")
            given, rows = getattr(config, other), CHOICES.get(other)
            if not attribute and given is None:
                raise ValueError(
                    f"{name}={short_repr(value)} needs a {other}; give one, or "
                    f"{name}={field.default!r}."
                )
            if attribute and isinstance(rows, Mapping) and not _declares(rows[given], attribute):
                users = [repr(key) for key, row in rows.items() if _declares(row, attribute)]
                raise ValueError(
                    f"{name}={short_repr(value)} is not used by {other}={given!r}; use "
                    f"{name}={field.default!r}, or {other}={' or '.join(users)}."
                )
    network = models.MODELS[config.model]
    leaving = [width * ACTIVATIONS[config.activation].outputs for width in config.hidden]
    entering = [tasks.input_dimension(config), *leaving[:-1]]
    if not getattr(network, "has_effect", lambda *_: True)(entering, leaving):
        raise ValueError(
            f"model={config.model!r} is the same as an MLP here: what enters the layers has the "
            f"widths {entering}, what leaves them {leaving}; make two agree, or model='mlp'."
        )
    for name in ("killed_at", "change_every", "reset_every"):
        if (getattr(config, name) or 0) >= config.steps:
            raise ValueError(
                f"{name}={getattr(config, name)} must be below steps={config.steps}, or nothing "
                "happens."
            )


def _declares(row: Any, attribute: str) -> bool:
    """Whether a row has an attribute that is neither False nor None."""
    return getattr(row, attribute, None) not in (None, False)


def _check_schedule(config: Config) -> dict[str, int | None]:
    """The checked step counts of the schedule; they stay when `steps` is changed later."""
    counts: dict[str, int | None] = {"warmup_steps": None, "decay_steps": None}
    rows = optimizers.SCHEDULES.items()
    for field, schedules in (
        ("warmup_steps", [name for name, row in rows if row.uses_warmup]),
        ("decay_steps", [name for name, row in rows if row.uses_decay]),
    ):
        value = getattr(config, field)
        if config.schedule not in schedules and value is None:
            continue
        if value is not None:
            counts[field] = _check_count(config, field)
        elif field == "warmup_steps":
            raise ValueError(f"warmup_steps=None: schedule={config.schedule!r} needs a number.")
        else:
            counts[field] = int(config.steps)
    warmup, decay = counts["warmup_steps"], counts["decay_steps"]
    if warmup is not None and decay is not None and warmup >= decay:
        raise ValueError(
            f"warmup_steps={warmup} must be below decay_steps={decay}, at which the rate is 0."
        )
    return counts


def _check_events(config: Config) -> dict[str, int]:
    """The checked steps at which something happens between two segments of a run."""
    counts = {"killed_at": _check_count(config, "killed_at", 0)}
    if config.change_every is not None:
        counts["change_every"] = _check_count(config, "change_every")
    for field, step in counts.items():
        if step % config.probe_every:
            raise ValueError(
                f"{field}={step} must be a multiple of probe_every={config.probe_every}."
            )
    return counts


def _check_autoencoder(config: Config) -> None:
    """Raises a ValueError where the config's network cannot be an autoencoder, but is one."""
    if not getattr(models.MODELS[config.model], "autoencodes", False):
        return
    entering, leaving = tasks.input_dimension(config), tasks.output_dimension(config)
    if tasks.TASKS[config.task].classes or entering != leaving:
        raise ValueError(
            f"model={config.model!r} needs as many targets as inputs, not task={config.task!r} "
            f"({entering} inputs, {leaving} outputs); use task='sparse_features', or data of your "
            "own as inputs and as targets."
        )
    if len(config.hidden) != 1:
        raise ValueError(
            f"hidden={short_repr(config.hidden)}: model={config.model!r} has one hidden layer, its "
            "latents; use hidden=(64,) and biased_layer=1."
        )
    if config.decoder_bias != "zero" and not config.output_bias:
        raise ValueError(
            f"decoder_bias={config.decoder_bias!r} needs output_bias=True, or there is none."
        )


def _check_terms(config: Config) -> None:
    """Raises a ValueError for a term of the loss that cannot be or would change nothing."""
    penalty, revival = terms.PENALTIES[config.penalty], terms.REVIVALS[config.revival]
    if penalty.loss is not None and penalty.scale is None and config.penalty_scale is None:
        raise ValueError(f"penalty_scale=None: penalty={config.penalty!r} needs one, such as 0.01.")
    if penalty.of_threshold and ACTIVATIONS[config.activation].learned_threshold is None:
        raise ValueError(
            f"penalty={config.penalty!r} moves learned thresholds, which "
            f"activation={config.activation!r} has not; use activation='jump_relu', or "
            "penalty='l1'."
        )
    if revival.loss is not None and (
        tasks.TASKS[config.task].classes or ACTIVATIONS[config.activation].outputs > 1
    ):
        raise ValueError(
            f"revival={config.revival!r} needs a regression and one output per unit, not "
            f"task={config.task!r} with activation={config.activation!r}; use revival='none'."
        )
    for field, row in (("penalty", penalty), ("revival", revival)):
        if row.loss is not None and not _owns_outgoing(config):
            raise ValueError(
                f"{field}={getattr(config, field)!r} needs a model whose outgoing weights belong "
                f"to one unit each, not model={config.model!r}; use model='mlp', or "
                f"{field}='none'."
            )


def _owns_outgoing(config: Config) -> bool:
    return getattr(models.MODELS[config.model], "owns_outgoing", lambda: False)()


def _check_reset(config: Config) -> dict[str, int]:
    """The checked steps between two resets, where units are reset."""
    if resets.reset_of(config).chooses is None:
        return {}
    if config.reset_every is None:
        raise ValueError(
            f"reset_every=None: reset={config.reset!r} needs the steps between two resets, such as "
            "100."
        )
    if resets.reset_of(config).autoencodes and not getattr(
        models.MODELS[config.model], "autoencodes", False
    ):
        raise ValueError(
            f"reset={config.reset!r} needs an autoencoder, not model={config.model!r}; use "
            "model='autoencoder', or reset='redo'."
        )
    if not _owns_outgoing(config):
        raise ValueError(
            f"reset={config.reset!r} needs a model whose outgoing weights belong to one unit each, "
            f"not model={config.model!r}; use model='mlp', or reset='none'."
        )
    return {"reset_every": _check_count(config, "reset_every")}


def check_covered(config: Config, what: str, covered: frozenset[str]) -> None:
    """Raises a ValueError for the first field that is not at its default and that `what` (in words,
    a plural) does not cover; and for a normalization whose row is not `covered`.

    `covered` are the fields that were proved, so a field that somebody adds is refused until it is
    proved too. `implementation` says what computes a grid, and changes no mathematics.
    """
    if not normalization_of(config).covered:
        raise ValueError(
            f"normalization={config.normalization!r}: {what} do not cover it; use another."
        )
    if ACTIVATIONS[config.activation].learned_threshold is not None:
        raise ValueError(
            f"activation={config.activation!r}: {what} do not cover a threshold that moves; use "
            "another."
        )
    for name, field in FIELDS.items():
        value = getattr(config, name)
        if name in covered | {"implementation"} or value is None or value == field.default:
            continue
        raise ValueError(
            f"{name}={short_repr(value)}: {what} do not cover it; use {field.default!r}."
        )


def from_json(text: str) -> Config:
    """The validated config that `to_json` wrote; raises a ValueError on unknown or bad fields."""
    return validate(from_mapping(parse_json(text), Config(), "config field"))


def load_config(path: str | os.PathLike) -> Config:
    """The validated config in a JSON or TOML file; fields that it does not name keep their
    defaults. Raises a ValueError as `read_file` and `from_mapping` do."""
    return validate(from_mapping(read_file(path), Config(), "config field"))
