"""The whole path of your own model on two networks of other libraries, trained on real data until
units die: find, watch with causes, diagnose, forecast, treat, prove.

Prints the numbers of docs/own_model.md, "Tried on real networks"; about a minute a seed:

    python benchmarks/real_networks.py --seeds 5
"""

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

from relu_dynamics import inspection, statistics
from relu_dynamics.certificates import Verdict
from relu_dynamics.inspection.reading.surgery import gradient_norms
from relu_dynamics.inspection.records import causes, monitor

FORKS, AHEAD = 8, 40  # of forecasts and proofs: how many, and how many steps
HORIZON = 1000  # steps that a verdict reaches at least


class State(NamedTuple):
    """What the steps here carry."""

    params: Any
    memory: Any  # the optimizer's
    average: Any  # of the parameters, exponentially weighted


class Network(NamedTuple):
    """A network as a user has it, and the data that it is trained on."""

    loss: Callable  # (params, inputs, targets) -> mean loss
    init: Callable  # key -> parameters
    tx_of: Callable  # learning rate -> optimizer
    rate: float  # the learning rate at which units die
    data: tuple  # (inputs, targets), all training examples
    batch: int
    steps: int
    change: str  # the treatment that is tried

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer."""
        return self.tx_of(self.rate)

    def step(self, state: State, *batch: jax.Array) -> tuple[State, jax.Array]:
        """One step of training."""
        loss, gradients = jax.value_and_grad(self.loss)(state.params, *batch)
        updates, memory = self.tx.update(gradients, state.memory, state.params)
        params = optax.apply_updates(state.params, updates)
        average = optax.incremental_update(params, state.average, 0.01)
        return State(params, memory, average), loss


def equinox_mlp() -> Network:
    """Equinox's MLP on handwritten digits, 1797 of them with 64 brightnesses from 0 to 1 each."""
    inputs, targets = datasets.load_digits(return_X_y=True)
    make = lambda key: eqx.nn.MLP(64, 10, 32, 2, activation=jax.nn.relu, key=key)  # noqa: E731
    static = eqx.filter(make(jax.random.key(0)), eqx.is_array, inverse=True)

    def loss(params, x, y):
        logits = jax.vmap(eqx.combine(params, static))(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return Network(
        loss,
        lambda key: eqx.filter(make(key), eqx.is_array),
        lambda rate: optax.adamw(rate, weight_decay=0.1),
        0.03,
        (jnp.asarray(inputs, jnp.float32) / 16, jnp.asarray(targets)),
        batch=64,
        steps=120,
        change="kick",
    )


def haiku_transformer() -> Network:
    """A transformer in Haiku that predicts the next character of scikit-learn's description of the
    breast cancer data, 4,800 characters; two blocks with ReLU MLPs, clipped gradients and Adam."""
    text = datasets.load_breast_cancer()["DESCR"]  # pyright: ignore[reportArgumentType, reportCallIssue]
    letters = sorted(set(text))
    tokens = np.searchsorted(letters, list(text))
    length, width = 32, 32
    windows = tokens[: (len(tokens) - 1) // length * length + 1]
    inputs, targets = (part.reshape(-1, length) for part in (windows[:-1], windows[1:]))

    def logits(x):
        normed = lambda h: hk.LayerNorm(-1, True, True)(h)  # noqa: E731
        place = hk.get_parameter("place", (length, width), init=hk.initializers.RandomNormal(0.02))
        h = hk.Embed(len(letters), width)(x) + place[None]
        mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
        for _ in range(2):
            a = normed(h)
            scale = hk.initializers.VarianceScaling(0.5)
            h = h + hk.MultiHeadAttention(2, 16, w_init=scale)(a, a, a, mask)
            h = h + hk.nets.MLP([64, width])(normed(h))
        return hk.Linear(len(letters))(normed(h))

    model = hk.without_apply_rng(hk.transform(logits))

    def loss(params, x, y):
        out = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()

    return Network(
        loss,
        lambda key: model.init(key, inputs[:1]),
        lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        0.2,
        (jnp.asarray(inputs), jnp.asarray(targets)),
        batch=8,
        steps=120,
        change="fitted",
    )


NETWORKS = {"equinox_mlp": equinox_mlp, "haiku_transformer": haiku_transformer}


class Trained(NamedTuple):
    """A network that was watched while it was trained."""

    network: Network
    probe: inspection.Probe
    state: State
    record: monitor.Monitor
    losses: list[float]
    born_dead: np.ndarray  # bool [units]


def train(network: Network, seed: int, every: int = 10) -> Trained:
    """Trains, watched; what moved the parameters is accounted for every `every` steps."""
    params = network.init(jax.random.key(seed))
    state = State(params, network.tx.init(params), params)
    draw = inspection.draw_examples(network.data, network.batch)
    probe = inspection.find(network.loss, params, *network.data)
    see = jax.jit(lambda params: inspection.watch(network.loss)(params, *network.data)[1])
    gradient = jax.jit(jax.grad(network.loss))
    step = jax.jit(inspection.watch(network.step))
    add = jax.jit(functools.partial(causes.add, tx=network.tx))
    account = jax.jit(
        functools.partial(causes.account, lambda params: see(params).margin, probe=probe)
    )
    record, moves, losses = monitor.start(see(params)), causes.begin(params), []
    born_dead = ~np.asarray(record.history.alive)
    for i, key in enumerate(jax.random.split(jax.random.key(1000 + seed), network.steps), 1):
        batch = draw(key)
        moves = add(moves, state.params, state.memory, gradient(state.params, *batch))
        (state, loss), seen = step(state, *batch)
        record = monitor.update(record, seen)
        losses.append(float(loss))
        if i % every == 0:
            record = monitor.account(record, account(moves, state.params))
            record = monitor.evaluate(record, see(state.params), since=every)
            moves = causes.begin(state.params)
    return Trained(network, probe, state, record, losses, born_dead)


class Outcome(NamedTuple):
    """What the whole path said of a trained network."""

    ahead: inspection.Forecast
    prognosis: inspection.Prognosis
    diagnosis: inspection.Diagnosis
    gradients: np.ndarray  # norms of each unit's own gradient over all examples, [units]
    treated: inspection.Treated
    census: dict[str, float]  # right after the treatment
    proofs: dict[str, inspection.Proof]  # going on at the rate that killed, and at a tenth of it


def examine(trained: Trained, seed: int) -> Outcome:
    """Diagnoses with all that is known, forecasts, treats the dead units and proves."""
    network, state, probe = trained.network, trained.state, trained.probe
    look = jax.jit(lambda params: inspection.watch(network.loss)(params, *network.data)[1])
    see = lambda state: look(state.params)  # noqa: E731
    draw = inspection.draw_examples(network.data, network.batch)
    ahead = inspection.forecast(
        network.step, state, draw, see, steps=AHEAD, every=10, forks=FORKS,
        key=jax.random.key(2000 + seed),
    )  # fmt: skip
    prognosis = inspection.prognose(
        network.loss, state.params, state.memory, [network.data], tx=network.tx, steps=HORIZON
    )
    diagnosis = inspection.diagnose(
        network.loss, state.params, [network.data], monitor=trained.record, forecast=ahead,
        prognosis=prognosis,
    )  # fmt: skip
    gradient = jax.jit(jax.grad(network.loss))
    treated = inspection.treat(
        network.change, diagnosis.dead, state.params, state.memory, probe=probe, tx=network.tx,
        key=jax.random.key(3000 + seed), init=network.init, see=look, seen=diagnosis.seen,
    )  # fmt: skip
    fresh = lambda average, new, old: jnp.where(new == old, average, new)  # noqa: E731
    average = jax.tree.map(fresh, state.average, treated.params, state.params)
    after = State(treated.params, treated.memory, average)
    proofs = {
        name: inspection.prove(
            network._replace(rate=rate).step, state, after, draw, see, diagnosis.dead, steps=AHEAD,
            forks=FORKS, key=jax.random.key(4000 + seed),
        )
        for name, rate in {"same rate": network.rate, "a tenth": network.rate / 10}.items()
    }  # fmt: skip
    gradients = [gradient(params, *network.data) for params in (state.params, treated.params)]
    census = treated.proof(see(state), see(after), gradients)
    norms = np.asarray(gradient_norms(gradients[0], probe))
    return Outcome(ahead, prognosis, diagnosis, norms, treated, census, proofs)


# The table of the docs ----------------------------------------------------------------------------


def _counted(names: Any) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def _share(x: Any, sign: str = "") -> str:
    ends = (100 * float(end) for end in (x.estimate, x.low, x.high))
    return "{:{s}.0f} % [{:{s}.0f}, {:{s}.0f}]".format(*ends, s=sign)


def report(runs: list[tuple[Trained, Outcome]]) -> str:
    """What came out of the seeds of one network; intervals are over seeds."""
    found = [outcome.diagnosis for _, outcome in runs]
    dead = [len(one.dead) for one in found]
    born = sum(int(run.born_dead[one.diagnosis.dead].sum()) for run, one in runs)
    cause = [name or "none, born dead" for one in found for name in one.columns["cause"][one.dead]]
    verdicts = [
        Verdict(int(outcome.prognosis.verdict[unit])).name
        for _, outcome in runs
        for unit in outcome.diagnosis.dead
    ]
    forks = [outcome.ahead.recovered.sum() for _, outcome in runs]
    ahead = statistics.clustered_interval(forks, FORKS * np.array(dead))
    never = sum(
        int(outcome.ahead.recovered[outcome.prognosis.verdict == Verdict.CERTIFIED_NEVER].sum())
        for _, outcome in runs
    )
    largest = max(outcome.gradients[outcome.diagnosis.dead].max() for _, outcome in runs)
    lines = [
        f"{len(runs)} seeds, {found[0].probe.units} units each, {found[0].facts['examples']} "
        f"examples; {found[0].facts['definition_of_dead']}",
        f"dead at the end, by seed: {dead} of which born dead {born}",
        f"largest gradient of a dead unit: {largest}",
        f"causes: {_counted(cause)}",
        f"verdicts, {HORIZON} steps ahead: {_counted(verdicts)}; NEVER and yet back: {never}",
        f"back within {AHEAD} steps, {FORKS} forks: {_share(ahead)}",
        f"dead right after {runs[0][0].network.change}: "
        f"{[int(outcome.census['dead_after']) for _, outcome in runs]}",
    ]
    for name in runs[0][1].proofs:
        arms = [(o.proofs[name].alive_treated, o.proofs[name].alive_untreated) for _, o in runs]
        trials = [arm.size for arm, _ in arms]
        treated, left = ([int(pair[k].sum()) for pair in arms] for k in (0, 1))
        gain = statistics.paired_difference(treated, trials, left, trials)
        shares = (statistics.clustered_interval(arm, trials) for arm in (treated, left))
        lines.append(
            f"alive {AHEAD} steps later, {name}: treated, left alone "
            + ", ".join(map(_share, shares))
            + f"; difference {_share(gain, '+')}"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the path and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    for name in given.networks:
        network, runs = NETWORKS[name](), []
        for seed in range(given.seeds):
            trained = train(network, seed)
            runs.append((trained, examine(trained, seed)))
        print(f"{name}\n{report(runs)}\n", flush=True)


if __name__ == "__main__":
    main()
