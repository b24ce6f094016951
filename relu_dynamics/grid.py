"""Grid: which runs a sweep makes, in which blocks, and how they are labelled.

A grid is the product of its axes (values of traced config fields) times its seeds. Cells are
numbered in the order of the axes, the last axis fastest. A *block* is the fixed number of lanes
that one compiled call trains: consecutive cells of one seed, the last block of a seed padded
with copies of its last cell. The number of lanes is part of a result's identity, because the
shape of a batch changes float bits; it follows from the config alone unless it is given.
"""

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from relu_dynamics.checks import check_choice, short_repr
from relu_dynamics.config import FIELDS, TRACED, Config, check_number, to_json
from relu_dynamics.config_files import from_mapping
from relu_dynamics.engine.columns import is_one_unit
from relu_dynamics.engine.initialization import check_initialization
from relu_dynamics.engine.models import Params
from relu_dynamics.engine.native.coverage import decided
from relu_dynamics.engine.outcomes import DEFINITION_VERSION
from relu_dynamics.engine.starting import StartingPoint, starting_point
from relu_dynamics.engine.step import State
from relu_dynamics.engine.tasks import check_same_data, data_identity
from relu_dynamics.engine.validation import validate
from relu_dynamics.rows import row_identity

SCHEMA_VERSION = 2  # of stored blocks and labelled results

# Activations of a layer of a whole block, by platform, and the most lanes. On CPU they stay in a
# core's L2 cache. On an accelerator a block should fill it: on an H200 2^25 bytes reach four fifths
# of the best rate of small networks; twice as many gain a seventh and can take minutes to compile.
LANE_BYTES = {"cpu": 2**17, "accelerator": 2**25}

MOST_LANES = {"cpu": 2**10, "accelerator": 2**17}

# The kernel's lanes share no activations: what stays in the cache are all lanes' weights and the
# optimizer's memory, and more lanes share only the draws of a seed. (Networks of one unit are
# evaluated by plain JAX, in its blocks.)
KERNEL_BYTES, MOST_KERNEL_LANES = 2**20, 2**6

MOST_VALUES = 2**22  # of an axis, and seeds: the identity lists them all

MOST_RUNS = 2**53

VERSION_FIELDS = ("schema_version", "definition_version", "jax_version", "platform")

_ARGUMENTS = ("config", "axes", "seeds", "root_seed", "lanes")  # of an identity; else: what made it


class VersionError(ValueError):
    """A result that another version or platform made, so its numbers cannot be continued."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The runs of a sweep. Make it with `make_grid`, which checks and normalizes."""

    config: Config  # the base: fields that are not swept
    axes: tuple[tuple[str, tuple[float, ...]], ...]  # (traced field, float64 values) in order
    seeds: tuple[int, ...]
    root_seed: int
    lanes: int
    start: StartingPoint | None = None  # of every run; None: as the config initializes

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values on every axis."""
        return tuple(len(values) for _, values in self.axes)

    @property
    def cells(self) -> int:
        """Number of cells: points of the product of the axes."""
        return math.prod(self.shape)

    @property
    def runs(self) -> int:
        """Number of runs: cells times seeds."""
        return self.cells * len(self.seeds)

    @property
    def chunks(self) -> int:
        """Number of blocks that one seed's cells fill."""
        return -(-self.cells // self.lanes)

    @property
    def blocks(self) -> int:
        """Number of blocks; block b holds chunk b % chunks of seed number b // chunks."""
        return self.chunks * len(self.seeds)

    def block_cells(self, block: int) -> np.ndarray:
        """The cell number of every lane of a block, int64 [lanes]; padding repeats the last."""
        first = (block % self.chunks) * self.lanes
        return np.minimum(np.arange(first, first + self.lanes), self.cells - 1)

    def block_size(self, block: int) -> int:
        """How many lanes of a block are not padding."""
        return min(self.lanes, self.cells - (block % self.chunks) * self.lanes)

    def block_seed(self, block: int) -> int:
        """The seed of a block."""
        return self.seeds[block // self.chunks]

    def values(self, cells: np.ndarray) -> dict[str, np.ndarray]:
        """The float32 value of every swept field at the given cell numbers."""
        indices = np.unravel_index(cells, self.shape)
        return {
            name: np.asarray(values, np.float64).astype(np.float32)[index]
            for (name, values), index in zip(self.axes, indices, strict=True)
        }

    @property
    def identity(self) -> dict:
        """Everything that decides the numbers of this grid, as plain JSON values. Rows of the
        user's own are read anew, for they may be edited between two sweeps of one grid."""
        rows = row_identity(self.config)
        known = self.__dict__.get("_identity")
        if known is None or known[0] != rows:
            known = rows, self._fields_identity() | rows
            self.__dict__["_identity"] = known
        return known[1]

    def _fields_identity(self) -> dict:
        return {
            "config": json.loads(to_json(self.config)),
            "axes": [[name, list(values)] for name, values in self.axes],  # their order counts
            "seeds": list(self.seeds),
            "root_seed": self.root_seed,
            "lanes": self.lanes,
            "schema_version": SCHEMA_VERSION,
            "definition_version": DEFINITION_VERSION,
            "jax_version": jax.__version__,
            "platform": jax.default_backend(),
            **({"state": self.start.digest} if self.start else {}),
            **data_identity(self.config),
        }

    @property
    def hash(self) -> str:
        """Sha256 of the identity, in hexadecimal."""
        identity = self.identity
        known = self.__dict__.get("_hash")
        if known is None or known[0] is not identity:
            text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
            known = identity, hashlib.sha256(text.encode()).hexdigest()
            self.__dict__["_hash"] = known
        return known[1]


def default_lanes(config: Config, cells: int, platform: str = "cpu") -> int:
    """Lanes of a block: the power of two that fills LANE_BYTES with a layer's activations, and no
    more than `cells` need: a block holds cells of one seed, so more lanes would be padding."""
    kind = "cpu" if platform == "cpu" else "accelerator"
    batch = config.examples if config.batch_size is None else config.batch_size
    room, most = LANE_BYTES[kind] // (4 * batch * max(config.hidden)), MOST_LANES[kind]
    if config.implementation == "kernel" and not is_one_unit(config):
        room, most = KERNEL_BYTES // (8 * sum(n * n for n in config.hidden)), MOST_KERNEL_LANES
    fits = min(most, 2 ** int(math.log2(room))) if room > 1 else 1
    return min(fits, 2 ** math.ceil(math.log2(cells)))


def check_axis(name: str, values: Sequence[float]) -> tuple[float, ...]:
    """The values of one axis as Python floats; raises a ValueError that names what is wrong."""
    check_name(name)
    flat = isinstance(values, np.ndarray) and values.ndim == 1
    if isinstance(values, str | bytes) or not (flat or isinstance(values, Sequence)):
        raise ValueError(f"axis {name}={short_repr(values)} must be a sequence of numbers.")
    if len(values) > MOST_VALUES:
        raise ValueError(f"axis {name} has {len(values)} values; use at most {MOST_VALUES}.")
    numbers = tuple(check_number(name, value) for value in values)
    if not numbers:
        raise ValueError(f"axis {name} is empty; give at least one value.")
    if len(set(numbers)) < len(numbers):
        twice = sorted(v for v, count in collections.Counter(numbers).items() if count > 1)
        raise ValueError(f"axis {name} repeats {short_repr(twice)}; use every value once.")
    distinct = len(set(np.asarray(numbers, np.float32).tolist()))
    if distinct < len(numbers):
        raise ValueError(
            f"axis {name}: {len(numbers)} values are only {distinct} in float32; spread them out."
        )
    return numbers


def make_grid(
    config: Config,
    axes: Mapping[str, Sequence[float]],
    seeds: int | Sequence[int],
    *,
    root_seed: int = 0,
    lanes: int | None = None,
    state: State | Params | StartingPoint | None = None,
) -> Grid:
    """A checked grid over `axes` (traced field -> values). `seeds` is their number or a list, and
    `state` what every run begins with instead of what the config initializes, see
    `starting_point`.

    Raises a ValueError that names the field, the value and the remedy; nothing is traced.
    """
    if not isinstance(axes, Mapping):
        raise ValueError(f"axes={short_repr(axes)} must map fields to values.")
    if not axes:
        raise ValueError("axes is empty; give at least one, such as learning_rate=[0.1].")
    checked = tuple((name, check_axis(name, values)) for name, values in axes.items())
    # Swept fields are part of the program, even where the base config leaves them at None.
    if not isinstance(config, Config):
        raise ValueError(f"config={short_repr(config)} must be a Config.")
    config = validate(dataclasses.replace(config, **{n: values[0] for n, values in checked}))
    for name, values in checked:
        for value in values if name == "initial_bias" else ():  # 0 leaves a layer without bias
            check_initialization(dataclasses.replace(config, initial_bias=value))
    config = dataclasses.replace(config, implementation=decided(config))
    numbers = _check_seeds(seeds)
    if isinstance(root_seed, bool) or not isinstance(root_seed, int) or not 0 <= root_seed < 2**32:
        raise ValueError(
            f"root_seed={short_repr(root_seed)} must be a whole number, >= 0 and < 2^32."
        )
    if lanes is None:
        cells = math.prod(len(values) for _, values in checked)
        lanes = default_lanes(config, cells, jax.default_backend())
    if isinstance(lanes, bool) or not isinstance(lanes, int) or not 1 <= lanes <= 2**20:
        raise ValueError(f"lanes={short_repr(lanes)} must be a whole number >= 1 and <= 2^20.")
    grid = Grid(config, checked, numbers, root_seed, lanes, _check_start(config, checked, state))
    if grid.runs > MOST_RUNS:
        raise ValueError(
            f"the axes {' x '.join(map(str, grid.shape))} and {len(numbers)} seeds make "
            f"{grid.runs} runs; use at most {MOST_RUNS}: fewer values or fewer seeds."
        )
    return grid


def _check_start(config: Config, axes: Any, state: Any) -> StartingPoint | None:
    """The starting point that a user gave; raises a ValueError when it does not fit the config, or
    when an axis has no effect with it."""
    start = starting_point(config, state)
    for name, _ in axes if start else ():
        if name in ("weight_scale", "bias_scale"):
            raise ValueError(
                f"axis {name} changes what the config initializes, and the runs begin with a given "
                "state; leave one of them out."
            )
    return start


def _check_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds as a tuple; raises a ValueError that names what is wrong."""
    if isinstance(seeds, bool) or (isinstance(seeds, int) and seeds < 1):
        raise ValueError(f"seeds={short_repr(seeds)} must be at least 1.")
    if not isinstance(seeds, int) and (
        isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence)
    ):
        raise ValueError(f"seeds={short_repr(seeds)} must be a whole number or a list of them.")
    if (seeds if isinstance(seeds, int) else len(seeds)) > MOST_VALUES:
        raise ValueError(f"seeds={short_repr(seeds)}: use at most {MOST_VALUES}.")
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    for seed in numbers:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ValueError(f"seeds: {short_repr(seed)} must be a whole number, >= 0 and < 2^64.")
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds={short_repr(numbers)} must be a non-empty list without repeats.")
    return numbers


def grid_from_identity(identity: Any, state: State | Params | StartingPoint | None = None) -> Grid:
    """The grid whose `identity` this is, as read from a stored result, and whose runs began with
    `state`, of which an identity holds only a digest.

    Raises a ValueError when it is not one or its runs began with another state, and a
    `VersionError` when another schema, definition, JAX or platform made it, so this process cannot
    give the same numbers.
    """
    if not isinstance(identity, Mapping) or not isinstance(identity.get("axes"), list):
        raise ValueError(f"identity={short_repr(identity)} is not a grid's.")
    pairs = [pair for pair in identity["axes"] if isinstance(pair, list) and len(pair) == 2]
    if len(pairs) < len(identity["axes"]):
        raise ValueError(
            f"axes={short_repr(identity['axes'])} must be pairs of a field and values."
        )
    if not isinstance(identity.get("config"), Mapping):
        raise ValueError(f"config={short_repr(identity.get('config'))} must be a table of fields.")
    check_same_data(identity["config"].get("task"), identity.get("data"))
    grid = make_grid(
        from_mapping(identity["config"], Config(), "config field"),
        {check_name(name): values for name, values in pairs},
        identity.get("seeds", 0),
        root_seed=identity.get("root_seed", -1),
        lanes=identity.get("lanes", 0),
        state=state,
    )
    began, given = identity.get("state"), grid.identity.get("state")
    if began != given:
        raise ValueError(
            f"state: the result's runs began with {_state_in_words(began)}, not with "
            f"{_state_in_words(given)}; give state=... as when it was made."
        )
    here = grid.identity
    made = sorted({*here, *identity} - {*_ARGUMENTS})
    other = [name for name in made if here.get(name) != identity.get(name)]
    if other:
        raise VersionError(
            "the result was made with "
            + ", ".join(
                f"{n} {short_repr(identity.get(n))} (here {short_repr(here.get(n))})" for n in other
            )
            + (
                "; install what made it to get the same numbers."
                if set(other) <= set(VERSION_FIELDS)
                else "; the same numbers need the rows and data of then."
            )
        )
    return grid


def _state_in_words(digest: Any) -> str:
    return f"a given state (sha256 {short_repr(digest)[1:13]})" if digest else "the config's own"


def check_name(name: Any) -> str:
    """The name of an axis; raises a ValueError when there is no such axis."""
    check_choice("axis", name, {field: FIELDS[field] for field in TRACED})
    return name
