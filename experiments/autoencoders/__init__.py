"""Which latents of a sparse autoencoder are dead, from birth to the end of training, and which
revival acts at what price?

Tokens are sums of a few of twice as many feature directions as dimensions, with a mean of a chosen
size gamma = ||mean|| / ||deviations||, the outlier of language models' activations. Four
activations: ReLU with an L1 penalty, top-k, batch top-k, and JumpReLU with an L0 penalty. Claims
under test: that latents are dead at birth as the law E Phi(-gamma a)^n says (the setting of Simon,
Adams & Zou, arXiv 2605.31518), that a larger mean leaves more of them dead at the end, and that
resampling (Bricken et al. 2023), AuxK (Gao et al., arXiv 2406.04093), ghost gradients (Jermyn &
Templeton 2024), a decoder bias that starts at the tokens' centre and a tied start each leave fewer
dead.

Dead: the derivative of the latent by its z is exactly 0 on all training tokens, which is z <= 0 for
ReLU, never selected for top-k and batch top-k (k or k times the batch of all tokens together),
never above its threshold for JumpReLU. The price: FVU, the held-out squared error in units of the
tokens' variance; L0, latents active per token; time of a step.

Writes one result per arm, summary.json, and autoencoders_dead and autoencoders_revivals as
.png/.pdf to --out.
"""

import pathlib
from collections.abc import Mapping

from experiments.autoencoders import figure
from experiments.autoencoders.analysis import Trained, print_summary, summarize
from experiments.autoencoders.sweep import (
    DEFAULTS,
    PLAIN,
    QUICK,
    Options,
    arm_config,
    arms,
    make_grids,
)
from experiments.timing import timings
from relu_dynamics.experiment import Experiment, Figure
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps import studies


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> Trained:
    """Results by arm, and the time that a step of every arm takes, against its plain one's."""
    results = studies.sweep_study(grids, out)
    rates = min(options.rates), max(options.rates)
    timed = {}
    for activation in dict.fromkeys(activation for activation, _ in arms(options).values()):
        own = {
            name: arm_config(options, *arm)
            for name, arm in arms(options).items()
            if arm[0] == activation
        }
        plain = f"{activation} {PLAIN}"
        timed |= timings(own, plain, options.timing_rounds, rates, options.root_seed)
    return Trained(results, timed)


EXPERIMENT = Experiment(
    name="autoencoders",
    question="which latents of a sparse autoencoder are dead, and which revival acts, at what "
    "price?",
    description=__doc__ or "",
    defaults=DEFAULTS,
    quick=QUICK,
    paper={"seeds": 100},
    grids=make_grids,
    train=train,
    analyse=summarize,
    report=print_summary,
    definitions=("flat",),
    figures={
        "autoencoders_dead": Figure(
            "Dead latents of sparse autoencoders at birth and after training, by the size of the "
            "tokens' mean.",
            figure.draw_dead,
        ),
        "autoencoders_revivals": Figure(
            "Which revival of dead latents acts, and what it costs.", figure.draw_revivals
        ),
    },
)
