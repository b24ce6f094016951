"""Programs that are none: what Python must know, what is not pure, what is closed over. Each is one
line that says what to do."""

import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relu_dynamics import inspection
from relu_dynamics.inspection import find, watch

P = {"k": jnp.ones((3, 3)), "o": jnp.ones((3, 1))}
X = jnp.ones((8, 3))


def relu(p, x):
    return jnp.maximum(x @ p["k"], 0) @ p["o"]


def by_name(p, x, mode):
    return relu(p, x) if mode == "train" else x


def deep(p, x, layers):
    for _ in range(layers):
        x = jnp.maximum(x @ p["k"], 0)
    return relu(p, x)


def reshaped(p, rows, x):
    return relu(p, x).reshape(rows, -1)


def branching(p, x, train):
    return relu(p, x) if train else x


def masked(p, x, mask):
    return relu(p, x[mask])


def named_and_deep(p, x, mode, layers):
    return deep(p, x, layers) if mode == "a" else x


def of_a_state(state, x):
    return deep(state["p"], x, state["layers"])


@pytest.mark.parametrize(
    ("function", "args", "which"),
    [
        (by_name, (P, X, "train"), r"mode = 'train'.*lambda p, x: by_name\(p, x, 'train'\)"),
        (deep, (P, X, 2), r"layers = 2 at test_odd.*lambda p, x: deep\(p, x, 2\)"),
        (reshaped, (P, 4, X), r"rows = 4 at .*lambda p, x: reshaped\(p, 4, x\)"),
        (branching, (P, X, True), "train = True at "),
        (branching, (P, X, jnp.array(True)), r"train = Array\(True"),
        (masked, (P, X, jnp.ones(8, bool)), r"mask at .*lambda p, x: masked\(p, x, mask\)"),
        (named_and_deep, (P, X, "a", 2), "mode = 'a' and layers = 2"),
        (of_a_state, ({"p": P, "layers": 2}, X), r"state\['layers'\] = 2.*take it out of the arr"),
        (jax.jit(deep, static_argnums=2), (P, X, 2), r"lambda p, x: deep\(p, x, 2\)"),
        (lambda p, x, f: relu(p, f(x)), (P, X, jnp.tanh), "f = <PjitFunction"),
    ],
)
def test_the_argument_that_python_must_know_is_named(function, args, which):
    with pytest.raises(ValueError, match=f"Python needs to know .*{which}") as caught:
        find(function, *args)
    assert "\n" not in str(caught.value)


def test_the_remedy_that_is_named_works():
    assert find(lambda p, x: deep(p, x, 2), P, X).units == 3
    assert find(functools.partial(deep, layers=2), P, X).units == 3
    assert find(lambda p, x: masked(p, x, np.ones(8, bool)), P, X).units == 3
    static = jax.jit(watch(deep), static_argnums=2)
    with pytest.raises(ValueError, match=r"layers = 2 at test_odd_programs.py:\d+"):
        static(P, X, 2)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda p, x: relu(p, x) if x.sum() > 0 else x, "boolean conversion"),
        (lambda p, x: np.tanh(relu(p, x)), "numpy.ndarray conversion"),
        (lambda p, x: relu(p, x)[: int(x.sum())], "Abstract tracer value"),
    ],
)
def test_a_value_that_is_computed_cannot_be_made_static(function, what):
    with pytest.raises(ValueError, match=f"a value at test_odd_programs.*({what}).*jax.lax.cond"):
        find(function, P, X)


def test_what_a_function_raises_by_itself_stays_what_it_is():
    with pytest.raises(KeyError, match="absent"):
        find(lambda p, x: x @ p["absent"], P, X)
    with pytest.raises(TypeError, match="contracting dimensions"):
        find(lambda p, x: x @ x, P, X)


# Not pure --------------------------------------------------------------------------------------

COUNT, KEPT, GROWN, NOISE = [0], [], [], np.random.default_rng(0)


def counting(p, x):
    COUNT[0] += 1
    return relu(p, x) * COUNT[0]


def noisy(p, x):
    return relu(p, x + jnp.asarray(NOISE.normal(size=(8, 3)), jnp.float32))


def noisy_number(p, x):
    return relu(p, x) + NOISE.normal()


def timed(p, x):
    return relu(p, x) * (time.perf_counter() % 1)


def growing(p, x):
    GROWN.append(1)
    h = relu(p, x)
    for _ in GROWN:
        h = h * 2
    return h


def keeping(p, x):
    KEPT.append(relu(p, x))
    return KEPT[-1]


class Model:
    def __call__(self, p, x):
        self.last = relu(p, x)
        return self.last

    def step(self, p, x):
        return self(p, x)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (counting, r"with \d.0 and \d.0 at test_odd_programs.py:\d+"),
        (noisy, "two programs, with other constants.*jax.random key"),
        (noisy_number, r"with -?[0-9.]+ and -?[0-9.]+ at"),
        (timed, r"with 0.\d+ and 0.\d+ at"),
        (growing, r"of \d+ and of \d+ operations"),
        (keeping, "keeps a value that it computed in 'KEPT'"),
        (Model().step, "keeps a value that it computed in 'self'"),
        (jax.jit(counting), "counting is not pure"),
        (jax.jit(noisy), "noisy is not pure"),
    ],
)
def test_a_function_that_is_not_pure_is_said_to_be(function, what):
    with pytest.raises(ValueError, match=what) as caught:
        find(function, P, X)
    assert "not pure" in str(caught.value) and "\n" not in str(caught.value)


def test_random_numbers_from_a_key_are_pure():
    def step(p, x, key):
        keep = jax.random.bernoulli(key, 0.5, x.shape)
        return relu(p, jnp.where(keep, x, 0))

    assert find(step, P, X, jax.random.key(0)).units == 3
    assert find(jax.jit(step), P, X, jax.random.PRNGKey(0)).units == 3


# Closed over -----------------------------------------------------------------------------------


def test_weights_that_are_closed_over_are_noted():
    probe = find(lambda p, x: relu(P, x) * p, jnp.ones(()), X)
    assert "closes over; give it in the parameters" in " ".join(probe.notes)
    assert not find(relu, P, X).notes


def test_the_report_notes_it_too():
    found = inspection.diagnose(lambda p, x: relu(P, x) * p, jnp.ones(()), [X])
    assert (
        "closes over" in str(found) and "closes over" in json.loads(found.to_json())["not_read"][0]
    )
