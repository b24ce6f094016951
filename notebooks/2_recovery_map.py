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
# # The recovery map, and how to add an axis
#
# P(a dead unit recovers | learning rate, initial bias) for a small network on handwritten digits.
# The first 8 of 16 units of hidden layer 2 start at a negative bias. **Dead**: the largest `z` over
# the probe set (all 256 training examples) is <= 0 at step 0. **Recovered**: alive again at a later
# evaluation, and then at every evaluation for at least 50 steps. Training is plain SGD, so a
# dead unit's own weights stand still: it can come back only because the layer below changes what it
# sees.

# %%
import dataclasses

import matplotlib.pyplot as plt

from relu_dynamics import Config, figures, statistics, sweep
from relu_dynamics.statistics import estimates

plt.style.use(figures.STYLE)

CONFIG = Config(
    task="digits",
    examples=256,
    batch_size=32,
    hidden=(16, 16),
    biased_layer=2,
    biased_units=8,
    steps=200,
    probe_every=10,
    sustain=50,
)
AXES = {
    "learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
    "initial_bias": [-10.0, -8.0, -6.0, -4.0, -2.0],
}
result = sweep(CONFIG, AXES, seeds=12)

# %% [markdown]
# The result is a labelled data set: one entry per cell, seed and unit, with the history of each.
# `estimates.cells` turns it into probabilities. The units of one network rise and fall together, so
# that the interval is clustered by run: 12 runs with 8 units are not 96 coins.

# %%
recovered = estimates.cells(result, "recovered")
print(recovered.attrs["definition"])
for rate in (0.01, 0.3, 3.0):
    cell = recovered.sel(learning_rate=rate, initial_bias=-6.0)
    print(
        f"rate {rate}, bias -6: {int(cell.successes)} of {int(cell.trials)} dead units, "
        f"{float(cell.estimate):.2f} [{float(cell.low):.2f}, {float(cell.high):.2f}]"
    )

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(figures.PAGE, 2.6), gridspec_kw={"width_ratios": [1, 0.9]}
)
mesh = figures.draw_map(left, recovered, "P(dead unit recovers for good)")
figure.colorbar(mesh, ax=left, label="probability")
for measure, label, colour, marker in (
    ("recovered", "dead unit recovers", "#009E73", "o"),
    ("died", "living unit dies", "#D55E00", "s"),
    ("diverged", "run diverges", "#555555", "^"),
):
    pooled = estimates.pooled(result, measure, "learning_rate")
    figures.draw_pooled(right, pooled, label, colour, marker)
right.set(ylabel="probability, all biases pooled")
right.legend(loc="upper left")
figure.supxlabel(figures.caption(result), fontsize=6, color="0.25")
plt.show()

# %% [markdown]
# Both camps are right: up to some rate a larger one brings more dead units back, and beyond it
# kills more of the living. Hatched cells have few units or a wide interval: an estimate without
# support is not hidden, and not trusted. Grey cells had no unit at risk.
#
# ## Another axis
#
# Every field in `config.TRACED` may be an axis. It is one more entry; the program is compiled once,
# whatever the number of cells. Here momentum, at two biases.

# %%
heavy = sweep(
    dataclasses.replace(CONFIG, optimizer="momentum"),
    {
        "learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0],
        "initial_bias": [-8.0, -6.0],
        "momentum": [0.0, 0.5, 0.9],
    },
    seeds=12,
)
cells = estimates.cells(heavy, "recovered")
figure, panels = plt.subplots(1, 3, figsize=(figures.PAGE, 2.0), sharey=True)
for axes, momentum in zip(panels, heavy.momentum.values, strict=True):
    mesh = figures.draw_map(axes, cells.sel(momentum=momentum), f"momentum {momentum:g}")
for axes in panels[1:]:
    axes.set_ylabel("")
figure.colorbar(mesh, ax=list(panels), label="P(recovers)")
figure.supxlabel(figures.caption(heavy), fontsize=6, color="0.25")
plt.show()

# %% [markdown]
# Heavy-ball multiplies the long-run step by 1 / (1 - momentum), so the window moves to smaller
# rates. Is there more to it than that? Compare at equal *effective* rates: 0.3 without momentum and
# 0.03 with 0.9. All cells of a seed share data, initial weights and batches, so they are compared
# seed by seed.

# %%
successes, trials = estimates.counts(heavy, "recovered")
rates, momenta = list(heavy.learning_rate.values), list(heavy.momentum.values)
plain = rates.index(0.3), slice(None), momenta.index(0.0)
with_momentum = rates.index(0.03), slice(None), momenta.index(0.9)
difference = statistics.paired_difference(
    *(part[place].sum(0) for place in (with_momentum, plain) for part in (successes, trials))
)
print(
    f"P(recover) at 0.03 with momentum 0.9 minus at 0.3 without: {difference.estimate:+.2f} "
    f"[{difference.low:+.2f}, {difference.high:+.2f}], {difference.clusters} seeds"
)

# %% [markdown]
# `python -m experiments recovery_map` is this map with more cells and seeds. A traced field that
# does not exist yet is four lines in the engine: see "an axis" in `docs/extending.md`.
