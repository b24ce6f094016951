"""NumPy over the grid: all cells of a seed at once, hand-written gradients.

In float64 the same code is the reference with which every contender is compared.
"""

import numpy as np
from workloads import MOMENTUM, Workload, pack

BLOCK = {"w1": 1024, "w2": 16}  # Cells trained together, so that activations stay in cache.


class Grid:
    """Trains the cells of each seed in blocks; `dtype` is the precision of everything."""

    def __init__(self, dtype: type[np.floating] = np.float32):
        self.dtype = dtype

    def prepare(self, work: Workload) -> None:
        self.work = work
        self.step = _step_w1 if work.name == "w1" else _step_w2
        self.run(steps=2)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work = self.work
        steps = work.steps if steps is None else steps
        stats = {
            k: a if k == "first_active" else a.astype(self.dtype) for k, a in work.empty().items()
        }
        stats["first_active"][:] = steps
        rates = work.learning_rate.astype(self.dtype)
        parameters = [p.astype(self.dtype) for p in work.initial]
        block = BLOCK[work.name]
        for seed in range(work.seeds):
            x, y = work.inputs[seed].astype(self.dtype), work.targets[seed].astype(self.dtype)
            for start in range(0, work.cells, block):
                part = (seed, slice(start, start + block))
                rate = rates[part[1]]
                train = [p[part] for p in parameters]
                moments = [np.zeros_like(p) for p in train]
                streams = {k: a[part] for k, a in stats.items()}
                for t in range(steps):
                    _accumulate(streams, t, steps, *self.step(train, moments, rate, x[t], y[t]))
        return dict(parameters=pack(parameters), **stats)


def _accumulate(streams, t, steps, mean, peak, fraction):
    """Adds one step's statistics, each [cells, units], to the streams in place."""
    first = streams["first_active"]
    first[(first == steps) & (peak > 0)] = t
    streams["sum_mean"] += mean
    np.maximum(streams["running_max"], peak, out=streams["running_max"])
    streams["sum_fraction"] += fraction


def _descend(parameters, moments, gradients, rate):
    """One heavy-ball step in place; all arrays have the cells first."""
    for p, m, g in zip(parameters, moments, gradients, strict=True):
        m *= MOMENTUM
        m += g
        p -= rate.reshape(-1, *[1] * (p.ndim - 1)) * m


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
    w1, b1, w2, b2, w3, b3 = parameters
    z1 = x @ w1 + b1[:, None]  # [cells, batch, units]
    h1 = np.maximum(z1, 0)
    z2 = h1 @ w2 + b2[:, None]
    h2 = np.maximum(z2, 0)
    error = ((h2 @ w3[..., None])[..., 0] + b3[:, None] - y) / len(x)  # [cells, batch]
    d2 = error[..., None] * w3[:, None] * (z2 > 0)
    d1 = d2 @ w2.swapaxes(1, 2) * (z1 > 0)
    gradients = [
        x.T @ d1,
        d1.sum(1),
        h1.swapaxes(1, 2) @ d2,
        d2.sum(1),
        (error[:, None] @ h2)[:, 0],
        error.sum(1),
    ]
    _descend(parameters, moments, gradients, rate)
    z = np.concatenate([z1, z2], axis=-1)
    return z.mean(1), z.max(1), (z > 0).mean(1, dtype=z.dtype)
