"""JAX as a textbook has it, with Flax linen and optax: `vmap(scan)`, and one run at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from workloads import MOMENTUM, STATISTICS, Workload, pack


class Unit(nn.Module):
    """One ReLU unit and its output weight; returns the output and the pre-activation."""

    @nn.compact
    def __call__(self, x):
        z = nn.Dense(1, name="unit")(x)
        v = self.param("v", nn.initializers.ones, ())
        return v * nn.relu(z)[:, 0], z


class MLP(nn.Module):
    """The network 16-32-32-1; returns the output and the pre-activations of all hidden units."""

    @nn.compact
    def __call__(self, x):
        z1 = nn.Dense(32, name="layer1")(x)
        z2 = nn.Dense(32, name="layer2")(nn.relu(z1))
        output = nn.Dense(1, name="layer3")(nn.relu(z2))
        return output[:, 0], jnp.concatenate([z1, z2], axis=-1)


def _variables(p):
    """The flat parameters of `Workload.initial` as linen variables; leading axes pass through."""
    if len(p) == 3:
        return {"unit": {"kernel": p[0][..., None], "bias": p[1][..., None]}, "v": p[2]}
    return {
        "layer1": {"kernel": p[0], "bias": p[1]},
        "layer2": {"kernel": p[2], "bias": p[3]},
        "layer3": {"kernel": p[4][..., None], "bias": p[5][..., None]},
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
        p["layer3"]["kernel"][..., 0],
        p["layer3"]["bias"][..., 0],
    ]


def _optimizer(rate):
    return optax.sgd(rate, momentum=MOMENTUM)


def _step(model, rate, never, carry, batch):
    """One step of one run."""
    parameters, state, (first, total, peak, active) = carry
    t, x, y = batch

    def loss(p):
        output, z = model.apply({"params": p}, x)
        return 0.5 * jnp.mean((output - y) ** 2), z

    gradients, z = jax.grad(loss, has_aux=True)(parameters)
    updates, state = _optimizer(rate).update(gradients, state, parameters)
    step_peak = z.max(axis=0)
    streams = (
        jnp.where((first == never) & (step_peak > 0), t, first),
        total + z.mean(axis=0),
        jnp.maximum(peak, step_peak),
        active + (z > 0).mean(axis=0),
    )
    return (optax.apply_updates(parameters, updates), state, streams), None


def _result(carry) -> dict[str, np.ndarray]:
    parameters, _, streams = jax.device_get(carry)
    return dict(parameters=pack(_flat(parameters)), **dict(zip(STATISTICS, streams, strict=True)))


def _start(work: Workload, steps: int):
    empty = work.empty()
    empty["first_active"][:] = steps
    return _variables(work.initial), tuple(empty[k] for k in STATISTICS)


class VmapScan:
    """A `scan` over the steps of one run, `vmap` over cells, `vmap` over seeds, one `jit`."""

    def prepare(self, work: Workload) -> None:
        self.work = work
        model = Unit() if work.name == "w1" else MLP()

        def train(variables, streams, rate, x, y):
            carry = variables, _optimizer(rate).init(variables), streams
            batches = jnp.arange(len(x), dtype=jnp.int32), x, y
            step = lambda carry, batch: _step(model, rate, len(x), carry, batch)  # noqa: E731
            return jax.lax.scan(step, carry, batches)[0]

        cells = jax.vmap(train, in_axes=(0, 0, 0, None, None))
        self.sweep = jax.jit(jax.vmap(cells, in_axes=(0, 0, None, 0, 0)))
        self.run()

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work = self.work
        steps = work.steps if steps is None else steps
        start = _start(work, steps)
        data = work.inputs[:, :steps], work.targets[:, :steps]
        return _result(self.sweep(*start, work.learning_rate, *data))


class Loop:
    """One run at a time: a jitted step in a python loop over steps and runs."""

    def prepare(self, work: Workload) -> None:
        self.work = work
        model = Unit() if work.name == "w1" else MLP()
        step = lambda *arguments: _step(model, *arguments)[0]  # noqa: E731
        self.step = jax.jit(step)
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
        carry = variables, _optimizer(rate).init(variables), streams
        x, y = self.work.inputs[seed], self.work.targets[seed]
        for t in range(steps):
            carry = self.step(rate, steps, carry, (np.int32(t), x[t], y[t]))
        return carry
