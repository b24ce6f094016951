"""PyTorch as its users write it: eager with hooks, `torch.func`, and a matrix form by hand."""

import os
import shutil

import numpy as np
import torch  # pyright: ignore[reportMissingImports] (the extra `bench`)
from torch import nn  # pyright: ignore[reportMissingImports]
from workloads import EVALUATED, HEAVY_BALL, STATISTICS, Workload, pack

EXAMPLES = 64  # Batches of a seed from which runs with draws of their own choose.


def _threads() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _compiled(step):
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise RuntimeError("torch.compile needs a C++ compiler and there is none")
    return torch.compile(step, dynamic=False, fullgraph=True)


class Eager:
    """One run at a time: `nn.Module`, `torch.optim.SGD`, and a forward hook on each layer."""

    def prepare(self, work: Workload) -> None:
        _threads()
        self.work = work
        self.inputs, self.targets = torch.tensor(work.inputs), _targets(work)
        self.run(steps=5)

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work = self.work
        steps = work.steps if steps is None else steps
        runs = [self._train(s, c, steps) for s in range(work.seeds) for c in range(work.cells)]
        grid = (work.seeds, work.cells, -1)
        return {k: np.stack([r[k] for r in runs]).reshape(grid) for k in runs[0]}

    @torch.no_grad()
    def _margins(self, hidden: list, probe: "torch.Tensor") -> "torch.Tensor":
        """The largest z of every hidden unit over the examples, without the hooks."""
        found = []
        for layer in hidden:
            z = nn.functional.linear(probe, layer.weight, layer.bias)
            found.append(z.amax(0))
            probe = torch.relu(z)
        return torch.cat(found)

    def _train(self, seed: int, cell: int, steps: int) -> dict[str, np.ndarray]:
        model, hidden = _module([p[seed, cell] for p in self.work.initial])
        streams = [_Stream(layer, steps) for layer in hidden]
        rate = float(self.work.learning_rate[cell])
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=self.work.momentum)
        every, dead = self.work.every(steps), 0
        probe = None if self.work.probe is None else torch.tensor(self.work.probe[seed])
        for t in range(steps):
            if probe is not None and t % every == 0:
                dead = dead + every * (self._margins(hidden, probe) <= 0)
            optimizer.zero_grad()
            loss = _loss(model(self.inputs[seed, t]), self.targets[seed, t])
            loss.backward()
            optimizer.step()
        parameters = [p.detach().numpy().T.ravel() for p in model.parameters()]
        fields = {k: np.concatenate([getattr(s, k) for s in streams]) for k in STATISTICS}
        if probe is not None:
            margin = self._margins(hidden, probe).numpy()
            fields |= dict(margin=margin, steps_dead=np.asarray(dead, np.int32))
        return dict(parameters=np.concatenate(parameters), **fields)


class _Stream:
    """The streaming statistics of one layer, fed by a forward hook."""

    def __init__(self, layer: nn.Linear, steps: int):
        units = layer.out_features
        self.t = 0
        self.first_active = torch.full((units,), steps, dtype=torch.int32)
        self.sum_mean, self.sum_fraction = torch.zeros(units), torch.zeros(units)
        self.running_max = torch.full((units,), -torch.inf)
        layer.register_forward_hook(self)

    @torch.no_grad()
    def __call__(self, layer, arguments, z) -> None:
        peak = z.amax(0)
        self.first_active[(peak > 0) & (self.running_max <= 0)] = self.t
        self.sum_mean += z.mean(0)
        self.running_max = torch.maximum(self.running_max, peak)
        self.sum_fraction += (z > 0).float().mean(0)
        self.t += 1


def _module(parameters: list[np.ndarray]) -> tuple[nn.Sequential, list[nn.Linear]]:
    """The network of one run and its hidden layers; W1 is a linear unit, ReLU and a factor v."""
    if len(parameters) == 3:
        sizes, tensors = [(4, 1, True), (1, 1, False)], parameters
    else:
        w1, _, w2, _, _, b3 = tensors = parameters
        sizes = [(*w1.shape, True), (*w2.shape, True), (w2.shape[1], b3.size, True)]
    linear = [nn.Linear(i, o, bias=bias) for i, o, bias in sizes]
    model = nn.Sequential(*[m for layer in linear for m in (layer, nn.ReLU())][:-1])
    with torch.no_grad():
        for p, value in zip(model.parameters(), tensors, strict=True):
            p.copy_(torch.tensor(value.T).reshape(p.shape))
    return model, linear[:-1]


def _targets(work: Workload) -> "torch.Tensor":
    """The targets, class numbers as torch wants them."""
    classes = work.targets.dtype == np.int32
    return torch.tensor(work.targets, dtype=torch.int64 if classes else torch.float32)


def _loss(output, y):
    if not y.is_floating_point():
        return nn.functional.cross_entropy(output, y)
    return 0.5 * ((output.reshape(y.shape) - y) ** 2).mean()


def _unit(p, x):
    """The output of W1's network and z of its unit."""
    z = (x @ p[0] + p[1])[:, None]
    return p[2] * torch.relu(z[:, 0]), z


def _mlp(p, x):
    """The output of W2's or W3's network and z of all hidden units."""
    z1 = x @ p[0] + p[1]
    z2 = torch.relu(z1) @ p[2] + p[3]
    return torch.relu(z2) @ p[4] + p[5], torch.cat([z1, z2], -1)


def _run_step(work: Workload):
    """One step of one run, everything explicit; `vmap` makes it a step of the grid."""
    network = _unit if work.name == "w1" else _mlp
    momentum = work.momentum

    def loss(p, x, y):
        output, z = network(p, x)
        return _loss(output, y), z

    def step(p, m, first, total, peak, active, t, never, rate, x, y):
        gradients, (_, z) = torch.func.grad_and_value(loss, has_aux=True)(p, x, y)
        m = tuple(g + momentum * a if momentum else g for g, a in zip(gradients, m, strict=True))
        p = tuple(a - rate * b for a, b in zip(p, m, strict=True))
        step_peak = z.detach().amax(0)
        first = torch.where((first == never) & (step_peak > 0), t, first)
        total = total + z.detach().mean(0)
        active = active + (z.detach() > 0).float().mean(0)
        return p, m, first, total, torch.maximum(peak, step_peak), active

    return step


class Func:
    """`torch.func`: the gradient inside `vmap` over cells inside `vmap` over seeds; evaluations
    are one more vmapped function."""

    compiled = False

    def _group(self) -> int:
        """The number of seeds trained together, the fastest of those tried."""
        # Compiled, one seed of 64 MLPs fits in cache; one launched operation at a time, more
        # runs a launch is always better, and so it is for the single unit.
        return 1 if self.compiled and self.work.name != "w1" else self.work.seeds

    def prepare(self, work: Workload) -> None:
        _threads()
        self.work = work
        cells = torch.func.vmap(_run_step(work), in_dims=(0,) * 6 + (None, None, 0, None, None))
        step = torch.func.vmap(cells, in_dims=(0,) * 6 + (None, None, None, 0, 0))
        one = lambda p, probe: _mlp(p, probe)[1].amax(0)  # noqa: E731
        margins = torch.func.vmap(torch.func.vmap(one, in_dims=(0, None)))
        self.step = _compiled(step) if self.compiled else step
        self.margins = _compiled(margins) if self.compiled else margins
        self.x = torch.tensor(work.inputs).swapaxes(0, 1).contiguous()
        self.y = _targets(work).swapaxes(0, 1).contiguous()
        self.run(steps=5)

    @torch.no_grad()
    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        work, group = self.work, self._group()
        steps = work.steps if steps is None else steps
        parts = [self._train(slice(s, s + group), steps) for s in range(0, work.seeds, group)]
        parameters = [torch.cat(p).numpy() for p in zip(*[part[0] for part in parts], strict=True)]
        streams = [torch.cat(s).numpy() for s in zip(*[part[2:] for part in parts], strict=True)]
        return dict(parameters=pack(parameters), **dict(zip(work.fields, streams, strict=True)))

    def _train(self, seeds: slice, steps: int):
        empty = self.work.empty()
        empty["first_active"][:] = steps
        p = tuple(torch.tensor(a[seeds]) for a in self.work.initial)
        state = (
            p,
            tuple(torch.zeros_like(a) for a in p),
            *(torch.tensor(empty[k][seeds]) for k in STATISTICS),
        )
        time = torch.arange(steps + 1, dtype=torch.int32)
        rate = torch.tensor(self.work.learning_rate)
        every = self.work.every(steps)
        margin, dead = (torch.tensor(empty[k][seeds]) if k in empty else None for k in EVALUATED)
        probe = None if margin is None else torch.tensor(self.work.probe[seeds])
        for t in range(steps):
            if probe is not None and t % every == 0:
                dead += every * (self.margins(state[0], probe) <= 0)
            state = self.step(*state, time[t], time[steps], rate, *self.examples(t, seeds))
        if probe is None:
            return state
        return *state, self.margins(state[0], probe), dead

    def examples(self, t: int, seeds: slice):
        """Inputs [seeds, batch, features] and targets [seeds, batch] of one step."""
        return self.x[t, seeds], self.y[t, seeds]


class FuncCompiled(Func):
    """The same, its step compiled by `torch.compile`."""

    compiled = True


class FuncCompiledOwn(FuncCompiled):
    """Compiled, and every run draws its own batches from its seed's examples."""

    def prepare(self, work: Workload) -> None:
        _threads()
        self.work = work
        own = torch.func.vmap(_run_step(work), in_dims=(0,) * 6 + (None, None, 0, 0, 0))
        self.step = _compiled(torch.func.vmap(own, in_dims=(0,) * 6 + (None, None, None, 0, 0)))
        self.batch = work.targets.shape[2]
        self.x = torch.tensor(work.inputs[:, :EXAMPLES]).flatten(1, 2)
        self.y = torch.tensor(work.targets[:, :EXAMPLES]).flatten(1, 2)
        torch.manual_seed(0)
        self.run(steps=5)

    def examples(self, t: int, seeds: slice):
        """Inputs [seeds, cells, batch, features] and targets of one step."""
        y = self.y[seeds]
        chosen = torch.randint(y.shape[1], (len(y), self.work.cells, self.batch))
        rows = torch.arange(len(y))[:, None, None]
        return self.x[seeds][rows, chosen], y[rows, chosen]


class Matrix:
    """W1 by hand: two matrix products for the cells of each seed, all seeds at once, compiled."""

    def prepare(self, work: Workload) -> None:
        _threads()
        self.work = work
        ones = np.ones_like(work.inputs[..., :1])
        inputs = torch.tensor(np.concatenate([work.inputs, ones], axis=-1))
        self.x = inputs.swapaxes(0, 1).contiguous()
        self.y = torch.tensor(work.targets)[..., None].swapaxes(0, 1).contiguous()
        self.step = _compiled(_matrix_step)
        self.run(steps=5)

    @torch.no_grad()
    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        steps = self.work.steps if steps is None else steps
        w, b, v = map(torch.tensor, self.work.initial)
        w = torch.cat([w, b[..., None]], -1).mT.contiguous()
        empty = {k: torch.tensor(a[..., 0]) for k, a in self.work.empty().items()}
        empty["first_active"][:] = steps
        state = w, v, torch.zeros_like(w), torch.zeros_like(v), *(empty[k] for k in STATISTICS)
        time = torch.arange(steps + 1, dtype=torch.int32)
        rate = torch.tensor(self.work.learning_rate)
        for t in range(steps):
            state = self.step(*state, time[t], time[steps], rate, self.x[t], self.y[t])
        streams = {k: a[..., None].numpy() for k, a in zip(STATISTICS, state[4:], strict=True)}
        return dict(parameters=pack([state[0].mT.numpy(), state[1].numpy()]), **streams)


def _matrix_step(w, v, mw, mv, first, total, peak, active, t, never, rate, x, y):
    """One step; w is [seeds, 5, cells], bias last; x is [seeds, batch, 5], ones last."""
    z = x @ w
    on = z > 0
    g = x.mT @ torch.where(on, v[:, None] * z - y, 0.0) / x.shape[1]
    mw, mv = g * v[:, None] + HEAVY_BALL * mw, (w * g).sum(1) + HEAVY_BALL * mv
    step_peak = z.amax(1)
    return (
        w - rate * mw,
        v - rate * mv,
        mw,
        mv,
        torch.where((first == never) & (step_peak > 0), t, first),
        total + z.mean(1),
        torch.maximum(peak, step_peak),
        active + on.float().mean(1),
    )
