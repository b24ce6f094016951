"""Starting points: parameters, or a state, that a user gives for runs to begin with."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.checks import short_repr
from relu_dynamics.config import Config
from relu_dynamics.engine.initialization import initialize
from relu_dynamics.engine.models import Params
from relu_dynamics.engine.optimizers import make_optimizer
from relu_dynamics.engine.step import State
from relu_dynamics.engine.tasks import input_dimension

Given = tuple[Params, optax.OptState | None]


@dataclasses.dataclass(frozen=True, eq=False)
class StartingPoint:
    """A checked starting point; make it with `starting_point`. Host arrays."""

    params: Params
    optimizer: optax.OptState | None  # None: the optimizer's memory begins empty

    @property
    def arrays(self) -> Given:
        """What `training.start` takes."""
        return self.params, self.optimizer

    @functools.cached_property
    def digest(self) -> str:
        """Sha256 of the names, types, shapes and bytes of all arrays, in hexadecimal."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree.leaves_with_path(self.arrays):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype.str} {leaf.shape}\n".encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def starting_point(
    config: Config, state: State | Params | StartingPoint | None
) -> StartingPoint | None:
    """What a user gave as `state`, checked against a validated config: a `State`, of which the
    optimizer's memory is kept and the step is not, or parameters alone. None stays None.

    Raises a ValueError that names the first array that is missing, unknown, of another shape or
    type than the config's, or not finite.
    """
    if state is None or isinstance(state, StartingPoint):
        return state
    if not isinstance(state, State | Mapping):
        raise ValueError(
            f"state={short_repr(state)} must be a State, such as a run's, or its parameters."
        )
    inputs = jnp.zeros((2, input_dimension(config)))
    wanted = jax.eval_shape(lambda key: initialize(config, key, inputs), jax.random.key(0))
    given = state.params if isinstance(state, State) else state
    params = _checked("state.params" if isinstance(state, State) else "state", given, wanted)
    memory = None
    if isinstance(state, State):
        kept = jax.eval_shape(make_optimizer(config).init, wanted)
        memory = _checked("state.optimizer", state.optimizer, kept)
    return StartingPoint(params, memory)


def _checked(name: str, given: Any, wanted: Any) -> Any:
    """The given tree with the wanted one's structure and host arrays as leaves."""
    found = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree.leaves_with_path(given)}
    leaves, structure = jax.tree.flatten_with_path(wanted)
    expected = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for place in expected:
        if place not in found:
            raise ValueError(
                f"{name}{place} is missing; the config needs it: give the state of a run of the "
                "same network and optimizer, or only its parameters."
            )
    for place in found:
        if place not in expected:
            raise ValueError(
                f"{name}{place} is not a parameter of the config's network or optimizer; leave it "
                f"out. Known: {short_repr(', '.join(expected))}."
            )
    arrays = [_checked_leaf(f"{name}{place}", found[place], expected[place]) for place in expected]
    return jax.tree.unflatten(structure, arrays)


def _checked_leaf(place: str, value: Any, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception:  # a tracer, or an object that is no array
        raise ValueError(f"{place}={short_repr(value)} must be an array.") from None
    if array.shape != wanted.shape or array.dtype != wanted.dtype:
        raise ValueError(
            f"{place} has shape {array.shape} of {array.dtype}; the config needs {wanted.shape} of "
            f"{wanted.dtype}."
        )
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise ValueError(f"{place} holds {array[index]} at {list(index)}; give finite numbers.")
    return array
