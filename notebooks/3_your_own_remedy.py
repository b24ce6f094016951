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
# # Your own channel or remedy
#
# Two things of your own in the recovery map's grid, compared with plain ReLU and SGD on the same
# seeds. An activation is a row in `ACTIVATIONS`. What the optimizer adds to a step (a
# channel, for a dead unit) is a row in `OPTIMIZERS`: any optax transformation of (learning
# rate, momentum).
#
# * **fading leak**: 0.1 tanh(z) below 0. Near 0 it leaks as leaky ReLU does, far below it is flat.
# * **pull**: SGD that also lifts every negative bias by 0.1 x learning rate per step, dead or not.

# %%
import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from relu_dynamics import Config, figures, sweep, theory
from relu_dynamics.engine import optimizers
from relu_dynamics.engine.activations import ACTIVATIONS, Activation
from relu_dynamics.statistics import claims, estimates

plt.style.use(figures.STYLE)

PULL = 0.1


def fading_leak(z):
    return jnp.where(z > 0, z, 0.1 * jnp.tanh(z))


def sgd_with_pull(rate, momentum):
    def update(updates, state, params):
        lift = lambda u, p: u + rate * PULL * (p < 0) if p.ndim == 1 else u
        return jax.tree.map(lift, updates, params), state

    pull = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(optax.sgd(rate), pull)


ACTIVATIONS["fading_leak"] = Activation(fading_leak)
optimizers.OPTIMIZERS["sgd_with_pull"] = optimizers.Optimizer(sgd_with_pull)

# %% [markdown]
# Those were the twenty lines. Both names are now values of the config. A grid for each arm: the
# same seeds are the same data, initial weights and batches. `upstream_rate` 0 freezes the layer
# below, so nothing but the unit's own channel is left.

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
RATES = [0.03, 0.1, 0.3]
AXES = {"upstream_rate": [0.0, 1.0], "learning_rate": RATES}
VARIANTS = {
    "ReLU, SGD": BASE,
    "fading leak": dataclasses.replace(BASE, activation="fading_leak"),
    "pull": dataclasses.replace(BASE, optimizer="sgd_with_pull"),
}
results = {name: sweep(config, AXES, seeds=16) for name, config in VARIANTS.items()}

# %%
figure, panels = plt.subplots(1, 2, figsize=(figures.PAGE, 2.4), sharey=True)
for axes, upstream in zip(panels, (0.0, 1.0), strict=True):
    for i, (name, result) in enumerate(results.items()):
        cells = estimates.cells(result, "recovered").sel(upstream_rate=upstream)
        rates = cells.learning_rate * 1.06 ** (i - 1)  # side by side, not on top of each other
        reach = [cells.estimate - cells.low, cells.high - cells.estimate]
        axes.errorbar(rates, cells.estimate, reach, marker="os^"[i], capsize=2, label=name)
    axes.set(xscale="log", xlabel="learning rate", ylim=(-0.03, 1.03))
    axes.set_xticks(RATES, RATES)
    axes.minorticks_off()
    axes.set_title("layer below frozen" if upstream == 0 else "layer below learns")
panels[0].set_ylabel("P(dead unit recovers for good)")
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
at_risk = int(estimates.counts(results["ReLU, SGD"], "recovered")[1][0, 0].sum())
figure.supxlabel(
    f"{at_risk} units dead at step 0 (max z <= 0 over 256 examples), 16 seeds, in every cell; "
    "95 % intervals clustered by run",
    fontsize=6.5,
    color="0.25",
)
plt.show()

# %% [markdown]
# ## The verdict
#
# Is P(recover) larger than with plain ReLU and SGD? Paired by seed, learning rates pooled, the
# layer below learning. Two comparisons make a family: `controlled` keeps the expected share of
# false discoveries at 5 %.


# %%
def shares(result):
    """P(recover) of every seed: upstream_rate 1, learning rates pooled; [seeds]."""
    successes, trials = estimates.counts(result, "recovered")
    return successes[1].sum(0) / trials[1].sum(0)


family = [
    claims.difference_claim(
        f"{name} brings more dead units back than ReLU with SGD",
        "this notebook",
        shares(results[name]),
        shares(results["ReLU, SGD"]),
        finding="P(recover) {first:.2f} against {second:.2f}: "
        "{estimate:+.2f} [{low:+.2f}, {high:+.2f}]",
        definition=estimates.MEASURES["recovered"].definition,
        bounds=(-1, 1),
    )
    for name in ("fading leak", "pull")
]
for claim in claims.controlled(family):
    print(f"{claim.claim}: {claim.verdict.upper()}\n  {claim.finding}, {claim.count}")

# %% [markdown]
# ## Does the channel do what it was meant to?
#
# With the layer below frozen, a dead unit's margin rises by learning rate x 0.1 per step and by
# nothing else. So the step at which it crosses 0 is known in advance, and the first evaluation
# (every 10 steps) at or after it should see the unit alive. It may be seen later: once over 0 it
# gets a gradient, which may push it down again before the evaluation. It can never be seen earlier,
# and with `probe_every=1` not later either.

# %%
frozen = results["pull"].sel(upstream_rate=0.0, learning_rate=0.3)
dead = frozen.dead_at_start & frozen.biased
margin = -frozen.margin_at_start.where(dead)
crossing = theory.drift_crossing_step(margin.fillna(0).values, 0.3 * PULL)
expected = np.ceil(crossing / BASE.probe_every) * BASE.probe_every
expected = np.where(expected <= BASE.steps, expected, -1)  # -1: not within the horizon
seen = frozen.first_recovery.transpose(*margin.dims).values
seen, expected = seen[dead.values], expected[dead.values]
never = 10**6  # later than any step
seen, expected = np.where(seen < 0, never, seen), np.where(expected < 0, never, expected)
print(
    f"of {len(seen)} dead units {(seen == expected).sum()} were seen alive at the evaluation that "
    f"theory gives, {(seen > expected).sum()} later, {(seen < expected).sum()} earlier"
)

# %% [markdown]
# An optimizer's row is not known to the theorems in `certificates`, which refuse it rather than
# guess. A stored result holds the name of a row, not its code: after changing a function, change
# its name. To keep yours, see `docs/extending.md`: the same row in the table, a test, and a line in
# the change log.
