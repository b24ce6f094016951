"""JAX as a textbook has it, with Flax linen and optax: `vmap(scan)`, and one run at a time."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from workloads import Workload, pack


class Unit(nn.Module):
    """One ReLU unit and its output weight; returns the output and the pre-activation."""

    @nn.compact
    def __call__(self, x):
        z = nn.Dense(1, name="unit")(x)
        v = self.param("v", nn.initializers.ones, ())
        return v * nn.relu(z)[:, 0], z


class MLP(nn.Module):
    """The network of W2 or W3; returns the output and the pre-activations of all hidden units."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        z1 = nn.Dense(32, name="layer1")(x)
        z2 = nn.Dense(32, name="layer2")(nn.relu(z1))
        output = nn.Dense(self.outputs, name="layer3")(nn.relu(z2))
        return output, jnp.concatenate([z1, z2], axis=-1)


def _variables(p):
    """The flat parameters of `Workload.initial` as linen variables; leading axes pass through."""
    if len(p) == 3:
        return {"unit": {"kernel": p[0][..., None], "bias": p[1][..., None]}, "v": p[2]}
    return {
        "layer1": {"kernel": p[0], "bias": p[1]},
        "layer2": {"kernel": p[2], "bias": p[3]},
        "layer3": {"kernel": p[4], "bias": p[5]},
    }


def _flat(p):
    """The inverse of `_variables`."""
    if "v" in p:
        return [p["unit"]["kernel"][..., 0], p["unit"]["bias"][..., 0], p["v"]]
    return [
        p["layer1"]["kernel"],
        p["layer1"]["bias"],
        p["layer2"]["kernel"],
        p["layer2"]["bias"],
        p["layer3"]["kernel"],
        p["layer3"]["bias"],
    ]


def _model(work: Workload):
    if work.name == "w1":
        return Unit()
    return MLP(10 if work.name == "w3" else 1)


def _optimizer(work: Workload, rate):
    return optax.sgd(rate, momentum=work.momentum or None)


def _loss(output, y):
    if y.dtype == jnp.int32:
        return optax.softmax_cross_entropy_with_integer_labels(output, y).mean()
    return 0.5 * jnp.mean((output.reshape(y.shape) - y) ** 2)


def _step(model, optimizer, never, carry, batch):
    """One step of one run."""
    parameters, state, streams = carry
    t, x, y = batch

    def loss(p):
        output, z = model.apply({"params": p}, x)
        return _loss(output, y), z

    gradients, z = jax.grad(loss, has_aux=True)(parameters)
    updates, state = optimizer.update(gradients, state, parameters)
    step_peak, first = z.max(axis=0), streams["first_active"]
    streams |= dict(
        first_active=jnp.where((first == never) & (step_peak > 0), t, first),
        sum_mean=streams["sum_mean"] + z.mean(axis=0),
        running_max=jnp.maximum(streams["running_max"], step_peak),
        sum_fraction=streams["sum_fraction"] + (z > 0).mean(axis=0),
    )
    return (optax.apply_updates(parameters, updates), state, streams), None


def _evaluate(model, every: int, carry, probe):
    """The carry with the margins on the examples, for the `every` steps that follow."""
    parameters, state, streams = carry
    margin = model.apply({"params": parameters}, probe)[1].max(axis=0)
    dead = streams["steps_dead"] + every * (margin <= 0)
    return parameters, state, streams | dict(margin=margin, steps_dead=dead)


def _result(carry) -> dict[str, np.ndarray]:
    parameters, _, streams = jax.device_get(carry)
    return dict(parameters=pack(_flat(parameters)), **streams)


def _start(work: Workload, steps: int):
    """Variables and streams before the first step, leaves [seeds, cells, ...]."""
    empty = work.empty()
    empty["first_active"][:] = steps
    initial = list(work.initial)
    if work.name == "w2":
        initial[4:] = initial[4][..., None], initial[5][..., None]
    return _variables(initial), empty


class VmapScan:
    """A `scan` over the steps of one run, `vmap` over cells, `vmap` over seeds, one `jit`."""

    def prepare(self, work: Workload) -> None:
        self.work = work
        model = _model(work)

        def train(variables, streams, rate, x, y, probe):
            optimizer, steps = _optimizer(work, rate), len(x)
            carry = variables, optimizer.init(variables), streams
            batches = jnp.arange(steps, dtype=jnp.int32), x, y
            step = lambda carry, batch: _step(model, optimizer, steps, carry, batch)  # noqa: E731
            if probe is None:
                return jax.lax.scan(step, carry, batches)[0]
            every = work.every(steps)

            def stretch(carry, batches):
                return jax.lax.scan(step, _evaluate(model, every, carry, probe), batches)

            parts = jax.tree.map(lambda a: a.reshape(-1, every, *a.shape[1:]), batches)
            return _evaluate(model, 0, jax.lax.scan(stretch, carry, parts)[0], probe)

        cells = jax.vmap(train, in_axes=(0, 0, 0, None, None, None))
        self.sweep = jax.jit(jax.vmap(cells, in_axes=(0, 0, None, 0, 0, 0)))
        self.run()

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work = self.work
        steps = work.steps if steps is None else steps
        start = _start(work, steps)
        data = work.inputs[:, :steps], work.targets[:, :steps], work.probe
        return _result(self.sweep(*start, work.learning_rate, *data))


class Loop:
    """One run at a time: a jitted step in a python loop over steps and runs."""

    def prepare(self, work: Workload) -> None:
        self.work = work
        model = _model(work)

        @jax.jit
        def step(rate, never, carry, batch):
            return _step(model, _optimizer(work, rate), never, carry, batch)[0]

        self.step = step
        self.evaluate = jax.jit(functools.partial(_evaluate, model))
        self.run(steps=5)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work = self.work
        steps = work.steps if steps is None else steps
        runs = [self._train(s, c, steps) for s in range(work.seeds) for c in range(work.cells)]
        grid = (work.seeds, work.cells)
        join = lambda *leaves: np.stack(leaves).reshape(grid + leaves[0].shape)  # noqa: E731
        return _result(jax.tree.map(join, *jax.device_get(runs)))

    def _train(self, seed: int, cell: int, steps: int):
        pick = lambda a: jnp.asarray(a[seed, cell])  # noqa: E731
        variables, streams = jax.tree.map(pick, _start(self.work, steps))
        rate = self.work.learning_rate[cell]
        carry = variables, _optimizer(self.work, rate).init(variables), streams
        x, y = self.work.inputs[seed], self.work.targets[seed]
        probe, every = None, self.work.every(steps)
        if self.work.probe is not None:
            probe = jnp.asarray(self.work.probe[seed])
        for t in range(steps):
            if probe is not None and t % every == 0:
                carry = self.evaluate(every, carry, probe)
            carry = self.step(rate, steps, carry, (np.int32(t), x[t], y[t]))
        return carry if probe is None else self.evaluate(0, carry, probe)
