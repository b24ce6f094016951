"""Treatment: what is done to chosen units of a model, and the proof that it acted.

    treated = treat("redraw", dead, params, memory, probe=probe, tx=tx, key=key, init=init)

A published method is a definition that chooses (`definitions.DEFINITIONS`) and a change here: ReDo
is dormant x redraw, ReGraMa gradient_dormant x redraw, self-normalized resets unusually_silent x
redraw, continual backpropagation lowest_utility x redraw.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relu_dynamics.checks import check_choice
from relu_dynamics.inspection.reading.seen import Seen
from relu_dynamics.inspection.reading.surgery import (
    INCOMING,
    check_units,
    fresh_memory,
    gradient_norms,
    links,
    masks,
    owned,
)
from relu_dynamics.inspection.reading.watch import Probe, leaf_name
from relu_dynamics.inspection.treatment.changes import CHANGES, NEEDED, Chosen

THROUGH = {"own": INCOMING, "outgoing": ("outgoing",)}  # where a gradient may reach a unit


class Treated(NamedTuple):
    """What a treatment did."""

    params: Any
    memory: Any  # the optimizer's state
    units: np.ndarray  # bool [units], chosen
    changed: dict[str, int]  # entries of each leaf that changed
    reset: dict[str, int]  # entries of each leaf of the optimizer's state that changed
    counts: dict[str, int]  # steps that the optimizer counts for all and goes on from
    unreached: tuple[str, ...]  # sites with a chosen unit of which no own parameter changed
    uncut: tuple[str, ...]  # and those whose outgoing weights should be 0 and are not known
    probe: Probe

    def proof(
        self, before: Seen, after: Seen, gradients: Sequence[Any] | None = None
    ) -> dict[str, float]:
        """Did it act? Of the chosen units, from what was seen of the same data before and after:
        how many, how many were dead (largest z seen at or below the threshold), the median margin
        and the mean share of examples above the threshold. `gradients` are those of the loss at
        the parameters before and after, trees like the parameters: then also the median norm of
        what reaches a unit, how many units get any (`reached_`), and how many through their own
        parameters and through their outgoing weights (`reached_own_`, `reached_outgoing_`). A
        census of these units of this network, so without intervals; `prove` says whether it lasts.
        """
        out: dict[str, float] = {"units": int(self.units.sum())}
        if not out["units"]:
            return out
        for k, (when, seen) in enumerate({"before": before, "after": after}.items()):
            margin, active, examples = (
                np.asarray(leaf)[self.units] for leaf in (seen.margin, seen.active, seen.examples)
            )
            out[f"dead_{when}"] = int((margin <= 0).sum())
            out[f"margin_{when}"] = float(np.median(margin))
            out[f"rate_{when}"] = float((active / np.maximum(examples, 1)).mean())
            if gradients is not None:
                norms = [
                    np.asarray(gradient_norms(gradients[k], self.probe, roles))[self.units]
                    for roles in THROUGH.values()
                ]
                out[f"gradient_{when}"] = float(np.median(np.hypot(*norms)))
                out[f"reached_{when}"] = int((np.hypot(*norms) > 0).sum())
                for name, norm in zip(THROUGH, norms, strict=True):
                    out[f"reached_{name}_{when}"] = int((norm > 0).sum())
        return out


def treat(
    change: str,
    units: Any,
    params: Any,
    memory: Any,
    *,
    probe: Probe,
    tx: optax.GradientTransformation,
    key: jax.Array,
    init: Callable[[jax.Array], Any] | None = None,
    seen: Seen | None = None,
    see: Callable[[Any], Seen] | None = None,
    **options: float,
) -> Treated:
    """Changes the parameters of chosen units, and makes the optimizer's memory of what changed
    fresh. Eager code: call it between jitted steps.

    Args:
      change: a name in `CHANGES`.
      units: bool [units], or numbers of units.
      params, memory: the trained parameters and `tx`'s state. The memory is None for none.
      probe: of the same parameters, by `find`.
      init: key -> parameters, as they were drawn; redraw, fitted and shrink need it.
      seen: what was seen of these parameters; kick needs it.
      see: params -> Seen, as `lambda params: look(model, params, batches)`; fitted needs it.
      options: of the change: `by` of kick, `keep` of shrink, `rate` of fitted.

    Raises a ValueError that names what is missing or what cannot be done, before anything is.
    """
    check_choice("change", change, CHANGES)
    row, given = CHANGES[change], {"init": init, "seen": seen, "see": see}
    for name in row.needs:
        if given[name] is None:
            raise ValueError(f"{name}=None: give {NEEDED[name]}; {change} needs it.")
    known = list(inspect.signature(row.make).parameters)[1:]
    for option in options.keys() - set(known):
        raise ValueError(
            f"{option}={options[option]} is no option of {change!r}, which has "
            f"{', '.join(known) or 'none'}."
        )
    chosen = Chosen(key, params, probe, check_units(probe, units), **given)  # type: ignore
    new = row.make(chosen, **options)
    written = masks(params, probe, chosen.units, row.writes)
    mask = jax.tree.map(lambda a, b, own: own | _differ(a, b), new, params, written)
    for name, count in _counted(lambda new, own: own & ~jnp.isfinite(new), new, mask).items():
        raise ValueError(
            f"{change} would set {count} entries of {name!r} to what is not finite; check `init`, "
            "or leave out units whose parameters are NaN."
        )
    new_memory = memory if memory is None else fresh_memory(tx, new, memory, mask)
    changed, path_of = _differing(params, new), owned(params, probe)
    parts = [
        (one, part)
        for one, part in zip(probe.sites, probe.slices.values(), strict=True)
        if bool(chosen.units[part].any())
    ]

    def unchanged(one):
        return not any(path_of.get(link.leaf) in changed for link in links(*roles)(one))

    def kept(part):
        alone = jnp.zeros(probe.units, bool).at[part].set(chosen.units[part])
        cut = masks(params, probe, alone, ("outgoing",))
        return not any(bool(mask.any()) for mask in jax.tree.leaves(cut))

    roles = row.writes or INCOMING

    return Treated(
        new,
        new_memory,
        np.asarray(chosen.units),
        changed,
        _differing(memory, new_memory),
        _counts(new_memory),
        tuple(one.name for one, _ in parts if unchanged(one)),
        tuple(one.name for one, part in parts if "outgoing" in row.writes and kept(part)),
        probe,
    )


def _counts(memory: Any) -> dict[str, int]:
    return {
        leaf_name(path): int(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(memory)[0]
        if jnp.ndim(leaf) == 0 and jnp.issubdtype(jnp.result_type(leaf), jnp.integer) and leaf > 0
    }


def _differ(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a != b) & ((a == a) | (b == b))  # NaN stays NaN


def _differing(old: Any, new: Any) -> dict[str, int]:
    """Entries that differ, by leaf."""
    return _counted(_differ, old, new)


def _counted(test: Callable, first: Any, second: Any) -> dict[str, int]:
    """{leaf: number of its entries for which the test of both trees holds}, where there are any."""
    leaves = jax.tree_util.tree_flatten_with_path(first)[0]
    counts = {
        leaf_name(path): int(jnp.sum(test(a, b)))
        for (path, a), b in zip(leaves, jax.tree.leaves(second), strict=True)
    }
    return {name: count for name, count in counts.items() if count}
