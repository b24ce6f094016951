# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
# On Colab, clone the repository first (`!git clone ADDRESS clone`): this installs the package from
# there. Elsewhere it does nothing.
import sys
from importlib.util import find_spec

if "google.colab" in sys.modules and find_spec("relu_dynamics") is None:
    print("installing ./clone")
    # %pip install -q ./clone

# %% [markdown]
# # Your own network: who is dead, since when, and what brings units back
#
# A convolutional network like that of Flax's first example, on scikit-learn's handwritten digits.
# Nothing in the model or in its training step knows of this package: one line is added to the loop.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from relu_dynamics import figures, inspection
from relu_dynamics.inspection.records import monitor

plt.style.use(figures.STYLE)

digits = load_digits()
images = jnp.asarray(digits.images[..., None] / 16, jnp.float32)
labels = jnp.asarray(digits.target)
TRAIN, TEST = slice(0, 1500), slice(1500, None)
batches = [images[start : start + 250] for start in range(0, 1500, 250)]


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (8, 16):
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


model = CNN()


def loss_of(params, x, y):
    logits = model.apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def make_step(tx):
    def train_step(state, x, y):
        params, memory = state
        loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
        updates, memory = tx.update(gradients, memory, params)
        return (optax.apply_updates(params, updates), memory), loss

    return train_step


def init(key):
    return model.init(key, images[:1])


# %% [markdown]
# ## What is rectified, and what feeds it
#
# `find` reads the program; nothing is run. A unit of a convolution is a channel: it is dead only if
# it is dead at every position of every image.

# %%
probe = inspection.find(model.apply, init(jax.random.key(0)), images)
print(probe)

# %% [markdown]
# ## Training, watched
#
# Adam with a learning rate of 0.02 is too much for this network. `watch` is the one line; `monitor`
# keeps who was born dead, who died and when.

# %%
tx = optax.adam(0.02)
params = init(jax.random.key(0))
state = params, tx.init(params)
step = jax.jit(inspection.watch(make_step(tx)))
record = monitor.start(inspection.look(model.apply, params, batches))
update = jax.jit(monitor.update)
shuffle, history, last = np.random.default_rng(0), [], 0
EVALUATIONS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120)

for i in range(1, 121):
    chosen = shuffle.choice(1500, 50, replace=False)
    (state, loss), seen = step(state, images[chosen], labels[chosen])
    record = update(record, seen)
    if i in EVALUATIONS:
        evaluation = inspection.look(model.apply, state[0], batches)
        record, last = monitor.evaluate(record, evaluation, since=i - last), i
        history.append(monitor.scalars(record, probe))

figure, (left, right) = plt.subplots(1, 2, layout="constrained", figsize=(8, 3))
for name in probe.slices:
    shares = [100 * float(row[f"{name}/dead"]) for row in history]
    left.plot(EVALUATIONS, shares, marker=".", label=name)
left.set(xlabel="training step", ylabel="dead units (%)", xscale="log", ylim=(0, None))
left.legend()
margins = [np.asarray(record.history.margin[part]) for part in probe.slices.values()]
right.hist(margins, bins=np.arange(-5, 12, 0.5), stacked=True)
right.axvline(0, color="black", linewidth=1)
right.set(xlabel="margin: largest z on the training set", ylabel="units")

# %% [markdown]
# ## The diagnosis
#
# Every count comes with the definition it uses, and with the largest share of examples for which a
# unit that was silent on this data may still fire.

# %%
diagnosis = inspection.diagnose(model.apply, state[0], batches)
print(diagnosis)

# %% [markdown]
# ## Treat, and prove that it acted
#
# `redraw` draws the dead units' own parameters as `init` does and sets their outgoing weights to 0
# where a kernel reads them one by one, as it does those of `Dense_0`. The proof compares the same
# data before and after.

# %%
before = inspection.look(model.apply, state[0], batches)
treated = inspection.treat(
    "redraw", diagnosis.dead, *state, probe=probe, tx=tx, key=jax.random.key(1), init=init
)
after = inspection.look(model.apply, treated.params, batches)
print(treated.proof(before, after))
print("parameters changed:", treated.changed)

# %% [markdown]
# ## Did it last?
#
# Two forks see the same minibatches from here on: one as it was, one treated. Each goes on at the
# rate that killed the units and at a tenth of it. A treatment that leaves the cause in place has to
# be repeated; a smaller rate alone revives no unit whose gradient is 0.

# %%
arms = {"untreated": state[0], "treated": treated.params}
for rate in (0.02, 0.002):
    tx = optax.adam(rate)
    step = jax.jit(make_step(tx))
    for name, params in arms.items():
        fork, shuffle = (params, tx.init(params)), np.random.default_rng(1)
        for _ in range(120):
            chosen = shuffle.choice(1500, 50, replace=False)
            fork, loss = step(fork, images[chosen], labels[chosen])
        dead = int((inspection.look(model.apply, fork[0], batches).margin <= 0).sum())
        right = model.apply(fork[0], images[TEST]).argmax(-1) == labels[TEST]
        print(f"rate {rate}, {name:9}: {dead:2} dead, {100 * float(right.mean()):.1f} % right")

# %% [markdown]
# One network and one seed show the way, not a result. `experiments/remedies` compares remedies over
# many seeds, with intervals.
