"""Data: a user's own arrays, checked strictly and made into what a task holds.

Whatever cannot be trained on as it stands is refused in one line that names the field, the row, the
column, the value and the remedy. Rows and columns count from 0.
"""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.engine.arrays import (
    FILL,
    as_array,
    check_lengths,
    check_same_features,
    features_of,
    float32_keeps,
    is_missing,
    is_number,
    real_numbers,
)

KINDS = ("classification", "regression")

FEW_CLASSES = 20  # distinct whole numbers that may be class numbers, whatever the number of rows

ROWS_PER_CLASS = 50  # of more classes than that


class Data(NamedTuple):
    """Checked arrays and what they were made from."""

    inputs: np.ndarray  # [rows, features] float32
    targets: np.ndarray  # [rows] int32 class numbers, or [rows, outputs] float32
    held: tuple[np.ndarray, np.ndarray] | None  # the user's own held-out rows, likewise
    outputs: int  # output units of a network
    classes: bool  # whether the targets are class numbers
    facts: dict[str, Any]  # plain values for a reader: labels, target mean and deviation, ...
    notes: tuple[str, ...] = ()  # a line each: what a user should know of the data

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """(inputs, targets), and the held-out ones where the user has a split."""
        return self.inputs, self.targets, *(self.held or ())

    @property
    def digest(self) -> str:
        """Sha256 of the arrays and of what the class numbers stand for, in hexadecimal."""
        found = hashlib.sha256()
        for array in self.arrays:
            whole = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            found.update(f"{whole.dtype.str}{whole.shape}".encode() + whole.tobytes())
        meant = [self.outputs, self.classes, self.facts.get("labels")]
        found.update(json.dumps(meant, default=str).encode())
        return found.hexdigest()


class Keeper:
    """A row's `load` that gives the same checked data every time. Its name is the data's digest, so
    whoever asks what a row is made of need not look inside."""

    def __init__(self, data: Data):
        self.data = data
        self.__name__ = data.digest

    def __call__(self) -> Data:
        return self.data

    def keeps(self, other: Data) -> bool:
        """Whether it keeps the same data, for readers too."""
        return self.__name__ == other.digest and self.data.facts == other.facts


def check_data(
    inputs: Any,
    targets: Any,
    *,
    kind: str | None = None,
    held: tuple[Any, Any] | None = None,
    standardize: bool = True,
) -> Data:
    """A user's arrays as `Data`: `tasks.from_arrays` says what is allowed.

    Raises a one-line ValueError for the first thing that cannot be trained on.
    """
    if kind is not None:
        check_choice("kind", kind, KINDS)
    if not isinstance(standardize, bool):
        raise ValueError(f"standardize={short_repr(standardize)} must be True or False.")
    features, names, notes = features_of("inputs", inputs)
    answers = as_array("targets", targets)
    check_lengths("inputs", features, "targets", answers)
    answers = _plain("targets", answers, kind)
    classes = _is_classification(answers, kind)
    facts: dict[str, Any] = {"rows": len(features), "features": features.shape[1]}
    if names:
        facts["feature_names"] = [str(name) for name in names]
    if classes:
        labels = _labels(answers)
        facts["labels"] = labels
        codes = _codes("targets", answers, labels)
        outputs = len(labels)
    else:
        real = _real_targets("targets", answers)
        centre, spread = (real.mean(0), real.std(0)) if standardize else (0.0, 1.0)
        facts["target_mean"] = np.broadcast_to(centre, real.shape[1:]).tolist()
        facts["target_deviation"] = np.broadcast_to(spread, real.shape[1:]).tolist()
        codes = ((real - centre) / spread).astype(np.float32)
        outputs = real.shape[1]
    part = None
    if held is not None:
        if not isinstance(held, tuple | list) or len(held) != 2:
            raise ValueError(f"held={short_repr(held)} must be a pair (inputs, targets).")
        held_features, held_names, _ = features_of("held inputs", held[0])
        check_same_features(features, names, held_features, held_names)
        held_answers = as_array("held targets", held[1])
        check_lengths("held inputs", held_features, "held targets", held_answers)
        held_answers = _plain("held targets", held_answers, None if classes else "regression")
        if classes:
            held_codes = _codes("held targets", held_answers, facts["labels"])
        else:
            held_real = _real_targets("held targets", held_answers, outputs)
            held_codes = ((held_real - centre) / spread).astype(np.float32)
        part = held_features, held_codes
        facts["held_rows"] = len(held_features)
    found = Data(features, codes, part, outputs, classes, facts, tuple(notes))
    for array in found.arrays:
        array.flags.writeable = False
    return found


def check_loaded(name: str, loaded: Any, held: Any, outputs: int, classes: bool) -> Data:
    """What the functions of a row of `TASKS` returned, as the row declares it: class numbers from 0
    to `outputs` - 1, or real targets, [rows, outputs]. Nothing is scaled or mapped.

    Raises a one-line ValueError that begins with the task's name.
    """
    parts = []
    try:
        for prefix, pair in (("", loaded), ("held ", held)):
            if pair is None:
                continue
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"{prefix}load gave {short_repr(pair)}: (inputs, targets) is due.")
            features, _, _ = features_of(f"{prefix}inputs", pair[0])
            field = f"{prefix}targets"
            answers = as_array(field, pair[1])
            check_lengths(f"{prefix}inputs", features, field, answers)
            answers = _plain(field, answers, None if classes else "regression")
            if classes:
                labels = list(range(outputs))
                parts += [features, _codes(field, answers, labels)]
            else:
                real = _real_targets(field, answers, outputs, varied=False)
                parts += [features, real.astype(np.float32)]
        if held is not None:
            check_same_features(parts[0], None, parts[2], None)
    except ValueError as error:
        raise ValueError(f"task={name!r}: {error}") from None
    inputs, targets, *rest = parts
    facts = {"rows": len(inputs), "features": inputs.shape[1]}
    return Data(inputs, targets, tuple(rest) if rest else None, outputs, classes, facts)


# Targets ------------------------------------------------------------------------------------------


def _plain(field: str, array: np.ndarray, kind: str | None) -> np.ndarray:
    """An array of targets with [rows, 1] as [rows], and objects of one type as that type."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "O" and array.ndim == 1 and kind != "regression":
        _check_one_type(field, array)
        plain = np.asarray(array.tolist())
        return plain if plain.ndim == 1 else array
    return array


def _check_one_type(field: str, array: np.ndarray) -> None:
    kinds = []
    for row, value in enumerate(array):
        if not isinstance(value, str) and is_missing(value):  # text may be any label
            raise ValueError(f"{field}: row {row} is missing ({value!r}); {FILL}.")
        kinds.append("text" if isinstance(value, str) else "numbers" if is_number(value) else "")
    common = max(("text", "numbers"), key=kinds.count)
    odd = next((row for row, kind in enumerate(kinds) if kind != common), None)
    if odd is not None:
        raise ValueError(
            f"{field}: row {odd} is {short_repr(array[odd])} ({type(array[odd]).__name__}) among "
            f"{common}; give numbers, or text, or booleans."
        )


def _is_classification(targets: np.ndarray, kind: str | None) -> bool:
    """What the targets ask for, by their dtype unless `kind` says; refused where it says too
    little."""
    if targets.ndim > 2:
        raise ValueError(f"targets have shape {targets.shape}; give [rows] or [rows, outputs].")
    if targets.dtype.kind in "US":
        if kind == "regression":
            raise ValueError(
                f"targets: row 0 is text ({str(targets.flat[0])!r}); kind='regression' needs "
                "numbers."
            )
        if targets.ndim == 2:
            raise ValueError(f"targets have shape {targets.shape}; give one label per row.")
        return True
    if targets.ndim == 2:
        if kind == "classification" or (kind is None and _is_one_hot(targets)):
            raise ValueError(
                f"targets have shape {targets.shape}; give class numbers, targets.argmax(1), or "
                "say kind='regression'."
            )
        return False
    if kind is not None:
        return kind == "classification"
    if targets.dtype.kind == "b":
        return True
    if targets.dtype.kind not in "iuf":
        raise ValueError(f"targets have dtype {targets.dtype}; give numbers, text or booleans.")
    distinct = len(np.unique(targets))
    rows = len(targets)
    say = f"{distinct} distinct whole numbers in {rows} rows; say kind='regression' or "
    say += "kind='classification'."
    few = distinct <= FEW_CLASSES
    if targets.dtype.kind == "f":
        if np.isfinite(targets).all() and not (targets % 1).any() and few:
            raise ValueError(f"targets are {targets.dtype}, yet {say}")
        return False
    if 2 * distinct > rows or not (few or ROWS_PER_CLASS * distinct <= rows):
        raise ValueError(f"targets are {say}")
    return True


def _is_one_hot(targets: np.ndarray) -> bool:
    if targets.dtype.kind not in "biuf":
        return False
    return bool(np.isin(targets, (0, 1)).all() and (targets.sum(1) == 1).all())


def _labels(targets: np.ndarray) -> list:
    """The distinct labels in sorted order, as plain values: class k is the k-th."""
    _check_labels("targets", targets)
    labels = [value.item() for value in np.unique(targets)]
    labels = [int(value) if isinstance(value, float) else value for value in labels]
    if len(labels) == 1:
        raise ValueError(
            f"targets: all {len(targets)} rows are {labels[0]!r}; a classification needs two "
            "classes or more."
        )
    return labels


def _check_labels(field: str, targets: np.ndarray) -> None:
    if targets.ndim != 1:
        raise ValueError(f"{field} have shape {targets.shape}; give one label per row.")
    if targets.dtype.kind == "f":
        bad = ~np.isfinite(targets) | (targets % 1 != 0)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{field}: row {row} is {targets[row]}; a class is a whole number, text or a "
                "boolean."
            )
    elif targets.dtype.kind not in "biuUS":
        raise ValueError(f"{field} have dtype {targets.dtype}; give numbers, text or booleans.")


def _codes(field: str, targets: np.ndarray, labels: list) -> np.ndarray:
    """The class numbers of targets, [rows] int32; raises for the first that is no label."""
    _check_labels(field, targets)
    known = np.asarray(labels)
    if (known.dtype.kind in "US") != (targets.dtype.kind in "US"):
        found = short_repr(targets[0].item())
        raise ValueError(f"{field}: row 0 is {found}, not one of {short_repr(labels)}.")
    place = np.minimum(np.searchsorted(known, targets), len(known) - 1)
    strange = known[place] != targets
    if strange.any():
        row = int(np.argmax(strange))
        raise ValueError(
            f"{field}: row {row} is {targets[row].item()!r}, not one of the {len(labels)} classes "
            f"{short_repr(labels)}; give one of them, or all labels to tasks.from_arrays."
        )
    return place.astype(np.int32)


def _real_targets(
    field: str, targets: np.ndarray, outputs: int | None = None, varied: bool = True
) -> np.ndarray:
    """Targets of a regression, [rows, outputs] float64; `varied`: no output may be constant."""
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.ndim > 2 or (outputs is not None and targets.shape[1] != outputs):
        wanted = "outputs" if outputs is None else outputs
        raise ValueError(f"{field} have shape {targets.shape}; give [rows, {wanted}].")

    def place(index):
        row, output = map(int, index)
        return f"row {row}" + (f", output {output}" if targets.shape[1] > 1 else "")

    real = real_numbers(field, targets, place, "give numbers").astype(np.float64)
    low, high = real.min(0), real.max(0)
    if varied and outputs is None:
        for output in np.flatnonzero(~float32_keeps(real.astype(np.float32), low, high)):
            which = f"output {output} of {field}" if real.shape[1] > 1 else field
            raise ValueError(
                f"{which}: all {len(real)} rows are {low[output]:.9g} (in float32); a constant "
                "leaves nothing to learn, so give targets that differ."
            )
    return real
