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
# # A Flax model of your own in the same grid
#
# A network is a Flax module that returns `Forward(output, preactivations, inputs)`: what it sees is
# a return value, so nothing has to be tapped. The shortest way is a subclass of `models.MLP`,
# which says how a layer's output joins what goes up. `models.ResidualMLP` adds it to what came from
# below; here is one that keeps both side by side, as DenseNets do.

# %%
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from relu_dynamics import Config, figures, sweep
from relu_dynamics.engine import initializers, models
from relu_dynamics.engine.activations import ACTIVATIONS
from relu_dynamics.statistics import claims, estimates

plt.style.use(figures.STYLE)


class DenselyConnected(models.MLP):
    def connect(self, below, active):
        return jnp.concatenate([below, active], axis=-1)


models.MODELS["densely_connected"] = DenselyConnected

# %% [markdown]
# A network with another forward pass is a module with the fields of `models.MLP` whose hidden
# layers are called `models.layer_name(1)`, `models.layer_name(2)`, ... and have a `kernel` and a
# `bias`: there the initial bias is set and the gradient of a unit is read. This one multiplies what
# every layer passes on by a gate that sees the inputs. It does not support the other fields
# (normalization), and says so.


# %%
class Gated(nn.Module):
    hidden: tuple[int, ...]
    outputs: int
    activation: str
    initializer: str
    normalization: str
    output_bias: bool

    @nn.compact
    def __call__(self, x):
        if self.normalization != "none":
            raise ValueError(f"normalization={self.normalization!r}: the gated model has none.")
        start = initializers.INITIALIZERS[self.initializer].weights
        first, preactivations, inputs = x, [], []
        for layer, width in enumerate(self.hidden, start=1):
            inputs.append(x)
            z = nn.Dense(width, kernel_init=start, name=models.layer_name(layer))(x)
            preactivations.append(z)
            gate = nn.Dense(width, kernel_init=start, name=f"gate_{layer}")(first)
            x = ACTIVATIONS[self.activation](z) * 2 * jax.nn.sigmoid(gate)
        output = nn.Dense(self.outputs, use_bias=self.output_bias, name="output")(x)
        return models.Forward(output, tuple(preactivations), tuple(inputs))


models.MODELS["gated"] = Gated

# %% [markdown]
# Now all of them in one grid: the same examples and batches, and the same initial weights wherever
# the shapes agree. **Dead**: the largest `z` over the 256 training examples is <= 0. **Recovered**:
# alive again for at least 50 steps. The upper layer's first 8 units start at bias -6; plain SGD.

# %%
BASE = Config(
    task="digits",
    examples=256,
    batch_size=32,
    hidden=(16, 16),
    biased_layer=2,
    biased_units=8,
    initial_bias=-6.0,
    steps=200,
    probe_every=10,
    sustain=50,
)
RATES = [0.01, 0.03, 0.1, 0.3, 1.0]
results = {
    name: sweep(dataclasses.replace(BASE, model=name), {"learning_rate": RATES}, seeds=16)
    for name in ("mlp", "densely_connected", "gated")
}

# %%
figure, axes = plt.subplots(figsize=(figures.PAGE * 0.7, 2.5))
for i, (name, result) in enumerate(results.items()):
    cells = estimates.cells(result, "recovered")
    reach = [cells.estimate - cells.low, cells.high - cells.estimate]
    rates = cells.learning_rate * 1.06 ** (i - 1)  # side by side, not on top of each other
    units = int(cells.trials[0])
    label = f"{name.replace('_', ' ')}, n = {units}"
    axes.errorbar(rates, cells.estimate, reach, marker="os^"[i], capsize=2, label=label)
axes.set(xscale="log", xlabel="learning rate", ylim=(-0.03, 1.03))
axes.set_ylabel("P(dead unit recovers for good)")
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
figure.supxlabel(
    "n: units dead at step 0 (max z <= 0 over 256 examples), 16 seeds\n"
    "95 % intervals clustered by run",
    fontsize=6.5,
    color="0.25",
)
plt.show()

# %% [markdown]
# Do the models differ, seed by seed, learning rates pooled? A seed without a dead unit in either
# model says nothing and is left out.


# %%
def shares(result):
    """P(recover) of every seed, learning rates pooled; nan where no unit is dead; [seeds]."""
    successes, trials = (part.sum(0) for part in estimates.counts(result, "recovered"))
    return np.where(trials > 0, successes / np.maximum(trials, 1), np.nan)


family = []
for name in ("densely_connected", "gated"):
    first, second = shares(results[name]), shares(results["mlp"])
    both = np.isfinite(first) & np.isfinite(second)
    claim = claims.difference_claim(
        f"{name} brings more dead units back than the MLP",
        "this notebook",
        first[both],
        second[both],
        finding="P(recover) {first:.2f} against {second:.2f}: "
        "{estimate:+.2f} [{low:+.2f}, {high:+.2f}]",
        definition=estimates.MEASURES["recovered"].definition,
        bounds=(-1, 1),
    )
    family.append(claim)
for claim in claims.controlled(family):
    print(f"{claim.claim}: {claim.verdict.upper()}\n  {claim.finding}, {claim.count}")

# %% [markdown]
# A pooled verdict speaks of the rates that were pooled: the figure shows where it would be another.
#
# The units at risk differ between the models (another fan-in is another spread of `z` under the
# same bias), and that is part of the difference. Certificates and accounts cover the MLP only and
# refuse other models. To keep a model, put the class into `relu_dynamics/engine/models.py`:
# `docs/extending.md`.
