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
# # Reading a stored sweep
#
# With `out=FOLDER` a sweep keeps every finished block, and at the end one labelled result. Whoever
# has the folder can read it without training anything. Here a small one is made first, of a small
# network on handwritten digits; `python -m experiments recovery_map` writes such a folder too.

# %%
import json
import pathlib
import tempfile
import time

import matplotlib.pyplot as plt

from relu_dynamics import Config, figures, open_result, sweep
from relu_dynamics.statistics import estimates
from relu_dynamics.sweeps.replay import replay

plt.style.use(figures.STYLE)
folder = pathlib.Path(tempfile.mkdtemp()) / "map"

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
AXES = {"learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0], "initial_bias": [-8.0, -6.0, -4.0]}
started = time.monotonic()
sweep(CONFIG, AXES, seeds=12, out=folder)
trained = time.monotonic() - started
sweep(CONFIG, AXES, seeds=12, out=folder)  # the same question: every block is there and is checked
print(f"{trained:.1f} s, and again: {time.monotonic() - started - trained:.1f} s")

# %% [markdown]
# ## What is in it
#
# An xarray data set: one value per axis of the grid, seed, and unit, layer or evaluation. Outcomes,
# steps of the first death and recovery (-1: never), margins, and the losses. Its attributes say
# where it comes from.

# %%
result = open_result(folder)
print(dict(result.sizes))
print(", ".join(sorted(result.data_vars)))
for name in ("grid_hash", "created", "device", "versions", "definition_of_dead"):
    print(f"{name}: {result.attrs[name]}")
identity = json.loads(result.attrs["identity"])
print({name: values for name, values in identity["axes"]}, identity["config"]["optimizer"])

# %% [markdown]
# ## Numbers with intervals
#
# **Dead**: the largest `z` over the probe set (all 256 training examples) is <= 0. What became of
# the units that got the initial bias, and P(recover) at every learning rate: pooled over biases, so
# clustered by seed, because the cells of a seed share data, initial weights and batches.

# %%
counts = estimates.outcome_counts(result).sum()
print(", ".join(f"{name} {int(counts[name])}" for name in counts if counts[name] > 0))
pooled = estimates.pooled(result, "recovered", "learning_rate")
print(pooled.attrs["definition"])
for i, rate in enumerate(pooled.learning_rate.values):
    row = pooled.isel(learning_rate=i)
    print(
        f"  rate {rate:4g}: {int(row.successes):3d} of {int(row.trials)}, "
        f"{float(row.estimate):.2f} [{float(row.low):.2f}, {float(row.high):.2f}], "
        f"{int(row.runs)} seeds"
    )

# %% [markdown]
# ## When, not only whether
#
# The cumulative incidence of the first recovery (Aalen-Johansen): divergence is a competing event,
# and a unit that is still dead at the last step is censored, not proved dead.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(figures.PAGE, 2.5))
mesh = figures.draw_map(
    left, estimates.cells(result, "recovered"), "P(dead unit recovers for good)"
)
figure.colorbar(mesh, ax=left, label="probability")
cells = [{"learning_rate": rate, "initial_bias": -6.0} for rate in (0.01, 0.1, 0.3, 1.0)]
figures.draw_incidence(right, result, cells, "learning_rate")
right.set_title("Cumulative incidence at initial bias -6")
right.legend(title="learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
figure.supxlabel(figures.caption(result), fontsize=6, color="0.25")
plt.show()

# %% [markdown]
# ## One cell again
#
# `replay` trains a stored cell again from what is stored alone, and checks every number, bit for
# bit. It needs the JAX version and the kind of processor that made the folder, and says so
# otherwise.

# %%
again = replay(folder, {"learning_rate": 0.3, "initial_bias": -6.0}, seed=3)
print(f"block {again.block}, lane {again.lane}: every number is the stored one")
stored = result.sel(learning_rate=0.3, initial_bias=-6.0, seed=3)
print(f"margins now:    {again.result.history.margin[16:19]}")
print(f"margins stored: {stored.margin.values[16:19]}")

# %% [markdown]
# With the extra `explorer`, `relu_dynamics.explore(result, "page.html")` writes the result as one
# interactive page.
