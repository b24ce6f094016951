"""Config: everything that decides one run, and the checks that refuse what cannot run.

A config has two kinds of fields. *Traced* fields (`TRACED`) are numbers that a grid may sweep:
changing one never recompiles. *Static* fields shape the program: changing one recompiles.
A traced field that is `None` is absent from the program (no noise is drawn, no decay is added),
which is not the same as 0.

A field declares all of this where it is defined, with its range and its label on a figure. The
tables below the class are read from the fields, so a new axis is one field and its use.
"""

import dataclasses
import difflib
import json
import math
import numbers
import os
import pathlib
import stat
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

MOST_UNITS = 2**20  # of a layer
MOST_LAYERS = 1000
MOST_FILE_BYTES = 2**20  # of a config file


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


class Range(NamedTuple):
    """The finite numbers that a field allows; None: no limit on that side."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, number: float) -> bool:
        """Whether a finite number lies in the range."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    @property
    def rule(self) -> str:
        """The range in words, for an error message."""
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            brackets = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}"
        if low is not None:
            return f"must be finite and {'>=' if self.above is None else '>'} {low:g}"
        if high is not None:
            return f"must be finite and {'<=' if self.below is None else '<'} {high:g}"
        return "must be finite"


def _traced(default: float | None, label: str, **limits: float) -> Any:
    """A field that a grid may sweep: its default, its label on a figure, its `Range`."""
    return dataclasses.field(default=default, metadata={"label": label, "range": Range(**limits)})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Config:
    """One run: one small ReLU network, its task, its optimizer and what is watched.

    Layers are counted from 1, as in the text: hidden layer 1 sees the inputs.
    """

    learning_rate: float = _traced(0.1, "learning rate", at_least=0)
    """Step size of the optimizer, >= 0 (traced)."""
    initial_bias: float = _traced(-6.0, "initial bias")
    """What is added at step 0 to the bias of the first `biased_units` units of `biased_layer`; all
    biases start at 0, unless the initializer sets them. With a normalization it is the
    normalization's shift (traced)."""
    momentum: float | None = _traced(None, "momentum", at_least=0, below=1)
    """Heavy-ball or Nesterov momentum, or Adam's b1, in [0, 1). None: the optimizer's own
    default, 0.9 (traced when given)."""
    weight_decay: float | None = _traced(None, "weight decay", at_least=0)
    """Decay coefficient, >= 0; how it enters is `decay_kind` (traced when given)."""
    noise_scale: float | None = _traced(None, "noise scale", at_least=0)
    """Standard deviation s of additive noise: every parameter moves by learning_rate * s * N(0, 1)
    a step, whatever the gradient (traced when given)."""
    upstream_rate: float | None = _traced(None, "upstream rate factor", at_least=0)
    """Factor on the updates of all layers below `biased_layer`; 0 freezes them (traced when
    given)."""
    outside_gradient: float | None = _traced(None, "outside gradient")
    """A constant that joins the loss gradient of the biased units' shift at every step, dead or
    not: a push from outside the loss (traced when given)."""
    clip_norm: float | None = _traced(None, "gradient norm clipped to", above=0)
    """Largest global norm of the loss gradient, > 0; larger gradients are scaled down to it (traced
    when given)."""
    weight_scale: float | None = _traced(None, "factor on the initial weights", above=0)
    """Factor on every initial weight, > 0 (traced when given)."""
    scaling_dose: float | None = _traced(None, "input scaling dose")
    """How bad the input scaling is: the mean in deviations for "shifted" (default 3), the factor on
    the first feature that is not constant for "one_bad_feature" (default 100) (traced when
    given)."""
    killed_fraction: float | None = _traced(None, "killed fraction", at_least=0, at_most=1)
    """Share of every hidden layer's units, in [0, 1], that are killed at step `killed_at`: incoming
    weights 0, bias -1, no memory in the optimizer. Which ones is random, the same for all cells of
    a seed, and a larger share contains a smaller one (traced when given)."""
    target_scale: float | None = _traced(None, "factor on the targets", above=0)
    """Factor on the targets of a regression task, > 0: their variance grows with its square (traced
    when given)."""

    task: str = _static("digits")
    """Name of the task, see `relu_dynamics.tasks.TASKS`."""
    examples: int = _static(1024)
    """Number of training examples; what a real data set has beyond them is held out."""
    dimension: int = _static(16)
    """Input dimension of the Gaussian teacher-student task (other tasks bring their own)."""
    input_scaling: str = _static("standardized")
    """How inputs are scaled: standardized, minmax, raw, shifted or one_bad_feature."""
    change_every: int | None = _static(None)
    """Steps after which the task changes, for ever new tasks (continual learning); a multiple of
    `probe_every`. None: one task."""

    model: str = _static("mlp")
    """Name of the network, see `relu_dynamics.models.MODELS`."""
    hidden: tuple[int, ...] = _static((32, 32))
    """Width of every hidden layer."""
    activation: str = _static("relu")
    """Name of the activation, see `relu_dynamics.models.ACTIVATIONS`."""
    initializer: str = _static("he_normal")
    """Name of the weight initializer, see `relu_dynamics.models.INITIALIZERS`."""
    normalization: str = _static("none")
    """What stands between the affine map and the activation: none, batch, layer, rms or group; or
    weight, which normalizes the incoming weights instead of z."""
    output_bias: bool = _static(True)
    """Whether the output layer has a bias."""

    optimizer: str = _static("sgd")
    """sgd, momentum (heavy-ball), nesterov, adam, adamw or rmsprop."""
    schedule: str = _static("constant")
    """Course of the learning rate: constant, warmup (linear from 0), cosine (to 0) or
    warmup_cosine."""
    warmup_steps: int | None = _static(None)
    """Steps of the warm-up."""
    decay_steps: int | None = _static(None)
    """Steps, from 0 on, after which a cosine schedule has come to 0; None: `steps`."""
    decay_kind: str = _static("coupled")
    """coupled (added to the gradient, L2) or decoupled (subtracted from the parameter, as AdamW
    does). adamw is always decoupled."""
    decay_targets: str = _static("all")
    """What decays: all, weights or biases."""
    batch_size: int | None = _static(64)
    """Examples a step, drawn with replacement; None trains on all examples at every step."""
    batch_order: str = _static("random")
    """random (drawn with replacement, the same for all cells of a seed), independent (likewise, but
    every cell draws its own: slower, see docs/speed.md) or sequential (examples in their order,
    over and over)."""
    steps: int = _static(1000)
    """Number of steps, the horizon T."""

    biased_layer: int = _static(2)
    """Hidden layer (from 1) whose first units get `initial_bias`."""
    biased_units: int = _static(8)
    """How many of its units get it."""
    killed_at: int = _static(0)
    """Step at which `killed_fraction` of the units are killed, a multiple of `probe_every`."""
    probe_size: int | None = _static(None)
    """Number of training examples on which "dead" is judged; None: all of them."""
    probe_every: int = _static(25)
    """Steps between two looks at the probe set; divides `steps`."""
    tolerance: float = dataclasses.field(
        default=1e-6, metadata={"static": True, "range": Range(at_least=0)}
    )
    """A unit is alive again when its margin exceeds this (and the rounding bound)."""
    sustain: int = _static(100)
    """Steps that a recovered unit must stay alive to count as sustained."""

    @property
    def units(self) -> int:
        """Number of hidden units of all layers together."""
        return sum(self.hidden)

    @property
    def probes(self) -> int:
        """Number of looks at the probe set after step 0."""
        return self.steps // self.probe_every


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
TRACED = tuple(name for name, field in FIELDS.items() if not field.metadata.get("static"))
LABELS = {name: FIELDS[name].metadata["label"] for name in TRACED}  # of an axis on a figure
SCALINGS = ("standardized", "minmax", "raw", "shifted", "one_bad_feature")
DOSED_SCALINGS = ("shifted", "one_bad_feature")
NORMALIZATIONS = ("none", "batch", "layer", "rms", "group", "weight")
SCHEDULES = ("constant", "warmup", "cosine", "warmup_cosine")
_CHOICES = {
    "input_scaling": SCALINGS,
    "normalization": NORMALIZATIONS,
    "decay_kind": ("coupled", "decoupled"),
    "decay_targets": ("all", "weights", "biases"),
    "batch_order": ("random", "independent", "sequential"),
    "schedule": SCHEDULES,
}


def check_choice(field: str, value: Any, known: tuple[str, ...] | list[str]) -> None:
    """Raises a ValueError that names the nearest known value unless `value` is in `known`."""
    if not isinstance(value, str):
        raise ValueError(f"{field}={told(value)} must be a name. Known: {', '.join(known)}.")
    if value in known:
        return
    near = [name for name in known if name.startswith(value) and value]
    near = near or difflib.get_close_matches(value[:100], list(known), n=1, cutoff=0.4)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    raise ValueError(f"{field}={told(value)} is not known{hint} Known: {', '.join(known)}.")


def told(value: Any) -> str:
    """A value as one line of at most 100 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a broken __repr__, or an integer of more digits than Python prints
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_number(field: str, value: Any) -> float:
    """Returns `value` as a Python float; raises a ValueError when the field does not allow it."""
    allowed: Range = FIELDS[field].metadata["range"]
    if not _is_real_number(value):
        raise ValueError(f"{field}={told(value)} {allowed.rule}: give one real number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not allowed.holds(number):
        raise ValueError(f"{field}={told(value)} {allowed.rule}.")
    if number != 0 and not (1e-37 < abs(number) < 1e38):
        raise ValueError(
            f"{field}={told(value)} cannot be held in float32; use 1e-37 < |value| < 1e38."
        )
    return number


def check_covered(config: Config, what: str, covered: frozenset[str]) -> None:
    """Raises a ValueError for the first field that is not at its default and that `what` (in words,
    a plural) does not cover; and for weight normalization.

    `covered` are the fields that were proved, so a field that somebody adds is refused until it is
    proved too.
    """
    if config.normalization == "weight":
        raise ValueError(f"normalization='weight': {what} do not cover it; use another.")
    for name, field in FIELDS.items():
        value = getattr(config, name)
        if name in covered or value is None or value == field.default:
            continue
        raise ValueError(f"{name}={told(value)}: {what} do not cover it; use {field.default!r}.")


def check_path(field: str, value: Any) -> pathlib.Path:
    """A path given as text or as a path; raises a ValueError for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"{field}={told(value)} must be a path, such as 'runs/map'.")
    return pathlib.Path(value)


def _is_real_number(value: Any) -> bool:
    """Whether a value is one int or float: of Python, of numpy, or a 0-d array of them."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, numbers.Real)


def _check_count(config: Config, field: str, least: int = 1, most: int = 2**31 - 1) -> int:
    value = getattr(config, field)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{field}={told(value)} must be a whole number.")
    if not least <= value <= most:
        raise ValueError(f"{field}={told(value)} must be between {least} and {most}.")
    return int(value)


def validate(config: Config) -> Config:
    """Returns the config, its numbers as Python's own; raises a ValueError on the first field
    that cannot run, naming the field, its value and the remedy. Nothing is traced or compiled."""
    # The tables of names live where they are used; a row more there is a name more here.
    from relu_dynamics import models, tasks, training

    if not isinstance(config, Config):
        raise ValueError(f"config={told(config)} must be a Config.")
    for field, known in _CHOICES.items():
        check_choice(field, getattr(config, field), known)
    check_choice("task", config.task, tuple(tasks.TASKS))
    check_choice("model", config.model, tuple(models.MODELS))
    check_choice("optimizer", config.optimizer, tuple(training.OPTIMIZERS))
    check_choice("activation", config.activation, tuple(models.ACTIVATIONS))
    check_choice("initializer", config.initializer, tuple(models.INITIALIZERS))
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
        raise ValueError(f"output_bias={told(config.output_bias)} must be True or False.")
    if not isinstance(config.hidden, tuple) or not config.hidden:
        raise ValueError(
            f"hidden={told(config.hidden)} must name at least one layer, such as (32, 32)."
        )
    for width in config.hidden:
        if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
            raise ValueError(
                f"hidden={told(config.hidden)}: every width must be a whole number >= 1."
            )
        if width > MOST_UNITS or len(config.hidden) > MOST_LAYERS:
            raise ValueError(
                f"hidden={told(config.hidden)}: use at most {MOST_LAYERS} layers of at most "
                f"{MOST_UNITS} units."
            )
        if config.normalization == "group" and width % models.GROUP_SIZE:
            raise ValueError(
                f"hidden={told(config.hidden)}: normalization='group' needs widths that are "
                f"multiples of {models.GROUP_SIZE}."
            )
    static["hidden"] = tuple(int(width) for width in config.hidden)
    available = tasks.available_examples(config)
    if config.examples > available:
        raise ValueError(
            f"examples={config.examples} is more than the {available} of task "
            f"{config.task!r}; use examples <= {available}."
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
    if config.upstream_rate is not None and config.biased_layer == 1:
        raise ValueError(
            f"upstream_rate={config.upstream_rate!r} needs a layer below biased_layer=1; "
            "use biased_layer >= 2 or upstream_rate=None."
        )
    if config.decay_kind == "decoupled" and config.weight_decay is None:
        raise ValueError("decay_kind='decoupled' needs a weight_decay; give one (0 is allowed).")
    optimizer = training.OPTIMIZERS[config.optimizer]
    if optimizer.decay_is_decoupled and config.weight_decay is None:
        raise ValueError(
            f"weight_decay=None: {config.optimizer} needs one; optax's own default is 1e-4."
        )
    if config.momentum is not None and not optimizer.uses_momentum:
        users = [repr(name) for name, row in training.OPTIMIZERS.items() if row.uses_momentum]
        raise ValueError(
            f"momentum={config.momentum!r} is not used by optimizer={config.optimizer!r}; "
            f"use one of {', '.join(users)}, or momentum=None."
        )
    static |= _check_schedule(config) | _check_looks(config)
    if config.change_every is not None and tasks.TASKS[config.task].renew is None:
        changing = ", ".join(name for name, kind in tasks.TASKS.items() if kind.renew)
        raise ValueError(
            f"change_every={config.change_every} needs a task that can change, not "
            f"task={config.task!r}; use one of {changing}, or change_every=None."
        )
    if (
        config.change_every is not None
        and config.input_scaling != "standardized"
        and tasks.load_data(config) is None
    ):
        raise ValueError(
            f"input_scaling={config.input_scaling!r}: a changing synthetic task is made at its own "
            "scale; use input_scaling='standardized'."
        )
    if config.scaling_dose is not None and config.input_scaling not in DOSED_SCALINGS:
        raise ValueError(
            f"scaling_dose={config.scaling_dose!r} is not used by "
            f"input_scaling={config.input_scaling!r}; use 'shifted', 'one_bad_feature' or None."
        )
    if config.killed_fraction is not None and config.normalization != "none":
        raise ValueError(
            f"killed_fraction={config.killed_fraction!r} needs normalization='none': a normalized "
            "unit is not dead for ever because its weights are 0."
        )
    if config.target_scale is not None and (
        tasks.TASKS[config.task].classes or config.change_every is not None
    ):
        raise ValueError(
            f"target_scale={config.target_scale!r} needs a regression task that does not change, "
            f"not task={config.task!r}; use another task, or target_scale=None."
        )
    return dataclasses.replace(config, **static, **traced)


def _check_schedule(config: Config) -> dict[str, int | None]:
    """The checked step counts of the schedule; they stay when `steps` is changed later."""
    counts: dict[str, int | None] = {"warmup_steps": None, "decay_steps": None}
    for field, schedules in (
        ("warmup_steps", ("warmup", "warmup_cosine")),
        ("decay_steps", ("cosine", "warmup_cosine")),
    ):
        value = getattr(config, field)
        if config.schedule not in schedules:
            if value is not None:
                raise ValueError(
                    f"{field}={told(value)} is not used by schedule={config.schedule!r}; use "
                    f"schedule={schedules[0]!r}, or {field}=None."
                )
        elif value is not None:
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


def _check_looks(config: Config) -> dict[str, int]:
    """The checked steps at which something happens between two segments of a run."""
    counts = {"killed_at": _check_count(config, "killed_at", 0)}
    if config.change_every is not None:
        counts["change_every"] = _check_count(config, "change_every")
    for field, step in counts.items():
        if step % config.probe_every:
            raise ValueError(
                f"{field}={step} must be a multiple of probe_every={config.probe_every}."
            )
    if config.killed_fraction is None and config.killed_at:
        raise ValueError(
            f"killed_at={config.killed_at} needs a killed_fraction; give one, or killed_at=0."
        )
    return counts


def to_json(config: Config) -> str:
    """The config as one line of canonical JSON (sorted keys), for hashes and attributes."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> Config:
    """The validated config that `to_json` wrote; raises a ValueError on unknown or bad fields."""
    return validate(from_mapping(parse_json(text), Config(), "config field"))


def load_config(path: str | os.PathLike) -> Config:
    """The validated config in a JSON or TOML file; fields that it does not name keep their
    defaults. Raises a ValueError as `read_file` and `from_mapping` do."""
    return validate(from_mapping(read_file(path), Config(), "config field"))


# --- Files: data from others, read strictly ------------------------------------------------------


def read_file(path: str | os.PathLike) -> dict[str, Any]:
    """The table in a JSON (.json) or TOML (.toml) file.

    Raises a one-line ValueError for anything else: another ending, not a regular file, larger
    than MOST_FILE_BYTES, not UTF-8, a byte order mark, a syntax error, a duplicate key, NaN or
    Infinity, nesting too deep, or no table at the top.
    """
    path = check_path("config file", path)
    name = f"config file {told(str(path))}"
    if path.suffix not in (".json", ".toml"):
        raise ValueError(f"{name}: its name must end in .json or .toml.")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a folder, or a pipe that would block
            raise ValueError(f"{name} is not a regular file; give a JSON or TOML file.")
        with open(path, "rb") as file:
            content = file.read(MOST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else _told_error(error)
        text = reason if name in str(reason) else f"{name} cannot be read: {reason}."
        raise ValueError(text) from None
    if len(content) > MOST_FILE_BYTES:
        raise ValueError(f"{name} is larger than {MOST_FILE_BYTES} bytes; is it a config?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    if text.startswith("\ufeff"):
        raise ValueError(f"{name} begins with a byte order mark; save it as UTF-8 without one.")
    try:
        return parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {_told_error(error)}") from None


def parse_json(text: str) -> dict[str, Any]:
    """A JSON object, strictly: a one-line ValueError on duplicate keys, NaN, Infinity, nesting too
    deep, or anything but an object."""
    try:
        values = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(_told_error(error)) from None
    if not isinstance(values, dict):
        raise ValueError(f"{told(values)} must be a JSON object, such as {{}}.")
    return values


def _told_error(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply."
    return " ".join(str(error).split())


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"key {told(twice)} stands twice; keep one.")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON allows; give a finite one.")


Record = TypeVar("Record")


def from_mapping(values: Mapping[str, Any], base: Record, kind: str = "option") -> Record:
    """The dataclass `base` with the fields that `values` names, strictly by their types.

    A field that is a dataclass takes a table, a tuple a list; a float takes a whole number too;
    nothing else is converted. Raises a one-line ValueError on an unknown name (with the nearest)
    or a wrong type. Ranges are `validate`'s.
    """
    hints = typing.get_type_hints(type(base))
    changes = {}
    for name, value in values.items():
        check_choice(kind, name, tuple(hints))
        present = getattr(base, name)
        if dataclasses.is_dataclass(present):
            if not isinstance(value, Mapping):
                raise ValueError(f"{name}={told(value)} must be a table of fields.")
            changes[name] = from_mapping(value, present, f"{name} field")
        else:
            changes[name] = _typed(name, value, hints[name])
    return dataclasses.replace(base, **changes)  # pyright: ignore[reportArgumentType]


_WORDS = {int: "a whole number", float: "a real number", bool: "true or false", str: "text"}


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type that `hint` says; raises a ValueError when it is of another."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        if choice is type(None) and value is None:
            return None
        if typing.get_origin(choice) is tuple and isinstance(value, list | tuple):
            return tuple(_typed(name, item, typing.get_args(choice)[0]) for item in value)
        if choice is float and type(value) in (int, float):
            return check_finite(name, value)
        if choice is pathlib.Path and type(value) is str:
            return pathlib.Path(value)
        if choice in (bool, int, str) and type(value) is choice:
            return value
    wanted = " or ".join(_WORDS.get(choice, _in_words(choice)) for choice in choices)
    raise ValueError(f"{name}={told(value)} must be {wanted}.")


def _in_words(choice: Any) -> str:
    if typing.get_origin(choice) is tuple:
        return f"a list, each of its values {_WORDS.get(typing.get_args(choice)[0], 'a value')}"
    return {type(None): "null", pathlib.Path: "a path"}.get(choice, str(choice))


def check_finite(name: str, value: float) -> float:
    """A finite number as a Python float; raises a ValueError otherwise."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}={told(value)} must be finite.")
    return number
