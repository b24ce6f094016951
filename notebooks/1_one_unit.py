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
# # One unit dies and recovers
#
# A unit computes `z = w.x + b` and hands up `max(z, 0)`. Its **margin** is the largest `z` over the
# *probe set*: a fixed set of examples, here all 442 training examples of the diabetes data. It is
# **dead** when the margin is <= 0. Then the loss gradient of `w` and `b` is exactly 0, and no
# learning rate changes that: 0 times any rate is 0. What moves a dead unit must be something else,
# a *channel*. This network has one unit and two channels: what heavy-ball momentum remembers, and
# the decay of the biases.

# %%
import dataclasses

import matplotlib.pyplot as plt

from relu_dynamics import Config, certificates, figures, sweep, train
from relu_dynamics.engine import tasks
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.statistics import estimates

plt.style.use(figures.STYLE)

CONFIG = Config(
    task="diabetes",
    examples=442,
    batch_size=None,  # every step sees all examples
    hidden=(1,),
    biased_layer=1,
    biased_units=1,
    optimizer="momentum",
    momentum=0.9,
    learning_rate=0.03,
    initial_bias=-2.0,
    weight_decay=0.02,
    decay_targets="biases",
    steps=200,
    probe_every=1,
    sustain=20,
)

# %% [markdown]
# `train` returns every unit's statistics at every evaluation. The sliders change traced fields of
# the config, so nothing is compiled again.


# %%
def show(learning_rate=0.03, initial_bias=-2.0, weight_decay=0.02, momentum=0.9, seed=0):
    """Trains one network and draws its unit."""
    config = dataclasses.replace(
        CONFIG,
        learning_rate=learning_rate,
        initial_bias=initial_bias,
        weight_decay=weight_decay,
        momentum=momentum,
    )
    run = train(config, seed, trace_units=True)
    figure, axes = plt.subplots(figsize=(figures.PAGE, 2.2))
    figures.draw_unit(axes, run.trace.probe_units, unit=0)
    axes.set_title(describe(run.history))
    plt.show()


def describe(history):
    """What became of the unit, in words; an event that did not happen has step -1."""
    if history.diverged_at >= 0:
        return f"diverged at step {history.diverged_at}"
    died, back = int(history.first_death[0]), int(history.first_recovery[0])
    death = f"first dead at step {died}" if died >= 0 else "dead from the start"
    if history.dead_at_start[0] == (died >= 0):  # neither of the two
        return "never dead"
    return death + (f", alive again at step {back}" if back >= 0 else ", dead to the end")


show()

# %% [markdown]
# The inputs have mean 0, so the mean of `z` is the bias: it hardly moves. What falls is the
# spread. The first gradients shrink the weights until no example exceeds 0, and momentum carries on
# for a while when there is no gradient any more. Then only the decay of the bias is left, which
# takes `z` slowly back up.
#
# Try: `weight_decay` 0 (it never comes back), `momentum` 0 (it does not die here), a learning rate
# of 0.3 (dead sooner, and back sooner: both the fall and the decay scale with the rate), 1
# (diverges: neither dead nor alive).

# %%
try:
    import ipywidgets
except ImportError:
    print("no sliders without ipywidgets; call show(learning_rate=0.1)")
else:
    later = {"continuous_update": False}
    ipywidgets.interact(
        show,
        learning_rate=ipywidgets.FloatLogSlider(0.03, min=-3, max=0, step=0.05, **later),
        initial_bias=ipywidgets.FloatSlider(-2, min=-5, max=1, step=0.1, **later),
        weight_decay=ipywidgets.FloatSlider(0.02, min=0, max=0.1, step=0.005, **later),
        momentum=ipywidgets.FloatSlider(0.9, min=0, max=0.95, step=0.05, **later),
        seed=ipywidgets.IntSlider(0, min=0, max=20, **later),
    )

# %% [markdown]
# ## "Never" is a theorem, not a count
#
# Without decay, momentum is all that moves the dead unit, and what it remembers shrinks by the same
# factor every step. Added up, that is too little to reach 0. `certify` checks this with rounding
# included and names the theorem that decided.

# %%
early = dataclasses.replace(CONFIG, steps=30, weight_decay=0.0)
key = run_key(root_seed=0, seed=0)
task = tasks.make_task(early, purpose_key(key, "task"), tasks.load_data(early))
state = train(early, seed=0).state  # after 30 steps
found = certificates.certify(early, task, state, horizon=100_000)
verdict = certificates.Verdict(found.verdict[0]).name
print(f"margin {found.margin[0]:.3f}: {verdict} within 100,000 steps, by: {found.names[0]}")

# %% [markdown]
# ## One run is an anecdote
#
# The same for 64 seeds (other initial weights; the same data), with and without decay. P(come back)
# is among the units that died; a unit a seed, so the interval is Clopper-Pearson. It is not 0
# without decay: momentum may also point upwards when the unit dies, and then it brings it back.

# %%
result = sweep(CONFIG, {"weight_decay": [0.0, 0.02]}, seeds=64)
for measure in ("died", "came_back"):
    cells = estimates.cells(result, measure)
    print(f"{measure}: {cells.attrs['definition']}")
    for decay in (0.0, 0.02):
        row = cells.sel(weight_decay=decay)
        print(
            f"  decay {decay:4.2f}: {int(row.successes):2d} of {int(row.trials):2d}, "
            f"{float(row.estimate):.2f} [{float(row.low):.2f}, {float(row.high):.2f}]"
        )
