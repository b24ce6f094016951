"""Channels: through which channel does a dead unit move? Exact accounts and causal forks.

*Accounts.* Of a unit with z = x.W + b, one step moves z(t+1, x) - z(t, x) by

    x.dW + db  (the unit's own parameters)  +  dx.W  (layers below)  +  dx.dW  (both at once)

where x is what enters the unit's layer, and dW, db are sums of the update's *sources*:

* gradient: this step's loss gradient, through the optimizer's formula;
* outside: this step's `config.outside_gradient`, likewise;
* residue: what the optimizer's first moment of earlier steps moves (all that went into it:
  gradients, and under coupled decay earlier decay too);
* coupled_decay: this step's L2 term, through the optimizer's formula;
* decoupled_decay: what is subtracted after the optimizer;
* noise: additive noise.

Adam's and RMSProp's updates are linear in the first moment once the denominators are given; the
denominators are those of the step itself, so the sources add up to the true update.

A normalization makes z = scale * (a - mean) * inverse + shift of the affine a. Its change is
telescoped in this order, which is exact and a convention:

    scale_t inverse_t (da)                                   da as above, statistics held
    + scale_t [(a' - mean') (inverse' - inverse) - inverse (mean' - mean)]    *normalization*
    + dscale (a' - mean') inverse' + dshift                  the sources' own moves of both

(primes are t+1). So the normalization term is what the statistics' motion does to the unit, the
unit's own part in them included.

Everything is seen in two views: `margin`, at the example with the largest z (the first such), and
`mean`, over the probe set. Where the highest example is another one after the step, `margin` is
half at the one and half at the other: at the old one alone every exchange would look like a gain
from nowhere. What then remains of the margin's own change is `handover`, of second order in the
step: (gain of the new over the old after it - of the old over the new before it) / 2.

*Forks* continue one checkpoint under counterfactual arms: see `fork`.

Axes: `steps`; `units` of all hidden layers in order, or those requested; `batch` the
probe set; `arms`, `seeds`.
"""

from relu_dynamics.channels.accounts import Account as Account
from relu_dynamics.channels.accounts import Shares as Shares
from relu_dynamics.channels.accounts import SpellAccount as SpellAccount
from relu_dynamics.channels.accounts import account as account
from relu_dynamics.channels.accounts import layer_units as layer_units
from relu_dynamics.channels.accounts import moved_by_channel as moved_by_channel
from relu_dynamics.channels.accounts import spell_account as spell_account
from relu_dynamics.channels.accounts import spell_shares as spell_shares
from relu_dynamics.channels.accounts import spell_sums as spell_sums
from relu_dynamics.channels.arms import ARMS as ARMS
from relu_dynamics.channels.arms import RATE_ARM as RATE_ARM
from relu_dynamics.channels.arms import Arm as Arm
from relu_dynamics.channels.forks import ForkResult as ForkResult
from relu_dynamics.channels.forks import ForkRow as ForkRow
from relu_dynamics.channels.forks import fork as fork
from relu_dynamics.channels.forks import fork_table as fork_table
from relu_dynamics.channels.terms import COVERED as COVERED
from relu_dynamics.channels.terms import SOURCES as SOURCES
from relu_dynamics.channels.terms import VIEWS as VIEWS
from relu_dynamics.channels.terms import Balance as Balance
from relu_dynamics.channels.terms import Entry as Entry
from relu_dynamics.channels.terms import Parts as Parts
from relu_dynamics.channels.terms import Seen as Seen
from relu_dynamics.channels.terms import Terms as Terms
from relu_dynamics.channels.terms import normalization_statistics as normalization_statistics
from relu_dynamics.channels.terms import present_sources as present_sources
from relu_dynamics.channels.terms import update_terms as update_terms
