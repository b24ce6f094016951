"""By which channel does a dead ReLU unit come back? P(recover | learning rate, initial bias), with
one channel open at a time.

Claim under test: a dead unit has no gradient, so the learning rate acts only through a
channel, and without one P(recover) is exactly 0 at every rate. One panel has all channels closed,
one has all open, the others have one each, on digits. Three answers stand side by side: causal
forks (one cohort, a channel switched off), exact accounts (which terms moved z up), and
certificates (which units could not move at all). They must agree. At last: does the learning rate
do more than rescale time?

A closed channel has the coefficient 0 (momentum 0 is plain SGD), so panels share a
compiled program. Decay is decoupled: coupled decay would pass through the momentum, and its later
part would be counted as residue.

Writes one result per channel, summary.json, channels.png/.pdf and channels_forks.png/.pdf to --out;
`--draw` draws again from what is stored. `--quick` has fewer channels and
a smaller network.
"""

import pathlib

from experiments.channels.analysis import print_summary, summarize
from experiments.channels.figure import Stored, draw_channel_forks, draw_channels
from experiments.channels.panels import train
from experiments.channels.sweep import DEFAULTS, QUICK, make_grids
from relu_dynamics import store
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.sweeps import studies


def stored(out: pathlib.Path) -> Stored:
    """The panels' results and the summary."""
    summary = studies.read_summary(out, ("panels", "forks", "collapse"))
    names = [panel["name"] for panel in summary["panels"]]
    return Stored({name: store.open_result(out / name).load() for name in names}, summary)


EXPERIMENT = Experiment(
    name="channels",
    question="P(a dead ReLU unit recovers | learning rate, initial bias, channel)",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    paper={"rates": 32, "biases": 24, "seeds": 64, "fork_seeds": 256},
    grids=make_grids,
    also_decides=lambda o: (o.fork_rate, o.fork_bias, o.fork_step, o.fork_seeds, o.fast_compile),
    train=train,
    analyse=summarize,
    report=print_summary,
    stored=stored,
    figures={
        "channels": Figure(
            "P(recover) over learning rate and initial bias, with one channel open at a time.",
            draw_channels,
        ),
        "channels_forks": Figure(
            "The same dead cohort with one channel switched off: what the channel brought.",
            draw_channel_forks,
        ),
    },
)
