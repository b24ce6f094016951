"""NumPy over the grid: all cells of a seed at once, hand-written gradients.

In float64 the same code is the reference with which every contender is compared.
"""

import numpy as np
from workloads import HEAVY_BALL, Workload, pack

BLOCK = {
    "w1": 1024,
    "w2": 16,
    "w3": 16,
}  # Cells trained together, so that activations stay in cache.


class Grid:
    """Trains the cells of each seed in blocks; `dtype` is the precision of everything."""

    def __init__(self, dtype: type[np.floating] = np.float32):
        self.dtype = dtype

    def prepare(self, work: Workload) -> None:
        self.work = work
        self.step = dict(w1=_step_w1, w2=_step_w2, w3=_step_w3)[work.name]
        self.run(steps=2)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work = self.work
        steps = work.steps if steps is None else steps
        every = work.every(steps)
        stats = {
            k: a if a.dtype == np.int32 else a.astype(self.dtype) for k, a in work.empty().items()
        }
        stats["first_active"][:] = steps
        rates = work.learning_rate.astype(self.dtype)
        parameters = [p.astype(self.dtype) for p in work.initial]
        with np.errstate(over="ignore", invalid="ignore"):  # Runs may diverge.
            self._train(stats, parameters, rates, steps, every)
        return dict(parameters=pack(parameters), **stats)

    def _train(self, stats, parameters, rates, steps: int, every: int) -> None:
        """Trains all parameters, and fills the statistics, in place."""
        work, block = self.work, BLOCK[self.work.name]
        for seed in range(work.seeds):
            x, y = work.inputs[seed].astype(self.dtype), work.targets[seed]
            y = y if y.dtype == np.int32 else y.astype(self.dtype)
            probe = None if work.probe is None else work.probe[seed].astype(self.dtype)
            for start in range(0, work.cells, block):
                part = (seed, slice(start, start + block))
                rate = rates[part[1]]
                train = [p[part] for p in parameters]
                moments = [np.zeros_like(p) for p in train] if work.momentum else None
                streams = {k: a[part] for k, a in stats.items()}
                for t in range(steps):
                    if probe is not None and t % every == 0:
                        streams["steps_dead"] += every * (_margins(train, probe) <= 0)
                    _accumulate(streams, t, steps, *self.step(train, moments, rate, x[t], y[t]))
                if probe is not None:
                    streams["margin"][:] = _margins(train, probe)


def _accumulate(streams, t, steps, mean, peak, fraction):
    """Adds one step's statistics, each [cells, units], to the streams in place."""
    first = streams["first_active"]
    first[(first == steps) & (peak > 0)] = t
    streams["sum_mean"] += mean
    np.maximum(streams["running_max"], peak, out=streams["running_max"])
    streams["sum_fraction"] += fraction


def _descend(parameters, moments, gradients, rate):
    """One step in place, heavy-ball where there are moments; all arrays have the cells first."""
    if moments is not None:
        for m, g in zip(moments, gradients, strict=True):
            m *= HEAVY_BALL
            m += g
    for p, g in zip(parameters, moments or gradients, strict=True):
        p -= rate.reshape(-1, *[1] * (p.ndim - 1)) * g


def _hidden(parameters, x):
    """z and what follows it of both hidden layers, [cells, rows, units]."""
    w1, b1, w2, b2 = parameters[:4]
    z1 = x @ w1 + b1[:, None]
    h1 = np.maximum(z1, 0)
    z2 = h1 @ w2 + b2[:, None]
    return z1, h1, z2, np.maximum(z2, 0)


def _margins(parameters, probe):
    """The largest z of every hidden unit, [cells, units]."""
    z1, _, z2, _ = _hidden(parameters, probe)
    return np.concatenate([z1.max(1), z2.max(1)], axis=-1)


def _step_w1(parameters, moments, rate, x, y):
    """One step of all cells: two matrix products, with the bias as a fifth weight."""
    w, b, v = parameters
    batch = len(x)
    ones = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    z = ones @ np.concatenate([w, b[:, None]], axis=1).T  # [batch, cells]
    active = z > 0
    error = np.where(active, v * z - y[:, None], 0) / batch
    g = ones.T @ error  # [5, cells]
    # sum_i error_i z_i = (w, b) . g, so the gradient of v needs no further pass over the batch.
    gradients = [(g[:4] * v).T, g[4] * v, (w.T * g[:4]).sum(0) + b * g[4]]
    _descend(parameters, moments, gradients, rate)
    mean, peak, fraction = z.mean(0), z.max(0), active.mean(0, dtype=z.dtype)
    return mean[:, None], peak[:, None], fraction[:, None]


def _step_w2(parameters, moments, rate, x, y):
    """One step of all cells by batched matrix products."""
    w3, b3 = parameters[4:]
    z1, h1, z2, h2 = _hidden(parameters, x)
    error = ((h2 @ w3[..., None])[..., 0] + b3[:, None] - y) / len(x)  # [cells, batch]
    d2 = error[..., None] * w3[:, None] * (z2 > 0)
    last = [(error[:, None] @ h2)[:, 0], error.sum(1)]
    return _finish_mlp(parameters, moments, rate, x, z1, h1, z2, d2, last)


def _step_w3(parameters, moments, rate, x, y):
    """The same with classes: the error is softmax less one-hot."""
    w3, b3 = parameters[4:]
    z1, h1, z2, h2 = _hidden(parameters, x)
    logits = h2 @ w3 + b3[:, None]  # [cells, batch, classes]
    error = np.exp(logits - logits.max(-1, keepdims=True))
    error /= error.sum(-1, keepdims=True)
    error[:, np.arange(len(x)), y] -= 1
    error /= len(x)
    d2 = error @ w3.swapaxes(1, 2) * (z2 > 0)
    last = [h2.swapaxes(1, 2) @ error, error.sum(1)]
    return _finish_mlp(parameters, moments, rate, x, z1, h1, z2, d2, last)


def _finish_mlp(parameters, moments, rate, x, z1, h1, z2, d2, last):
    """The rest of a step, from the loss gradient by z2 and the output layer's gradients on."""
    d1 = d2 @ parameters[2].swapaxes(1, 2) * (z1 > 0)
    gradients = [x.T @ d1, d1.sum(1), h1.swapaxes(1, 2) @ d2, d2.sum(1), *last]
    _descend(parameters, moments, gradients, rate)
    z = np.concatenate([z1, z2], axis=-1)
    return z.mean(1), z.max(1), (z > 0).mean(1, dtype=z.dtype)
