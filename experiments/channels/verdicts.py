"""The claims: of every panel, of panels together, of the forks, of the learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from experiments.channels.closed_forms import decay_steps, noise_bracket, within_an_evaluation
from experiments.channels.counts import pool, pooled
from experiments.channels.panels import Panel
from experiments.channels.step_0 import Start
from experiments.channels.sweep import Channel
from relu_dynamics import statistics, theory
from relu_dynamics.statistics import estimates
from relu_dynamics.statistics.claims import Claim


def make_claim(
    claim: str, row: Mapping, expected: Any, grounds: str, verdict: str, **more: Any
) -> Claim:
    """A claim on the interval of a row; `grounds` is what the verdict rests on."""
    counts = [row.get("successes"), row.get("trials")]
    return Claim(
        claim=claim,
        source="what each channel does",
        verdict=verdict,
        finding=f"{interval_text(row)}; expected {expected}; {grounds}."
        + (f" {more['effect']}." if "effect" in more else ""),
        estimate=row["estimate"],
        interval=tuple(row["interval"]),
        count="{:,} of {:,}".format(*counts) if None not in counts else "",
        definition=estimates.MEASURES["recovered_ever"].definition,
        figure="channels",
        more={"counts": counts, "expected": expected, "grounds": grounds, **more},
    )


def interval_text(row: Mapping) -> str:
    """Estimate, interval and counts as text."""
    if row["estimate"] is None:
        return "nothing at risk"
    low, high = row["interval"]
    counts = f"  {row['successes']:,}/{row['trials']:,}" if "successes" in row else ""
    return f"{row['estimate']:.4f} [{low:.4f}, {high:.4f}]{counts}"


def panel_claims(panel: Panel, row: Mapping) -> list[Claim]:
    """What theory says of one panel, against it; `row` has its numbers."""
    channel = panel.channel
    recovered, certified, best = row["recovered"], row["certificates"], row["best"]
    found = []
    if channel.name == "none":
        says = "without a channel no dead unit recovers at any learning rate"
        found.append(never_claim(channel, recovered, certified, says))
        back = pooled(panel.result, "came_back")
        verdict = "refuted" if back["successes"] else "confirmed"
        says = "... nor does a unit that died during training"
        source = "zero gradient, stateless optimizer; count"
        found.append(make_claim(says, back, 0.0, source, verdict, channel="none"))
    elif channel.never:
        says = f"{channel.words}: no dead unit recovers"
        found.append(never_claim(channel, recovered, certified, says))
    elif channel.measure == "came_back":
        says = f"{channel.words}: units that died in training come back by what the optimizer kept"
        found.append(some_claim(channel, best, says, "no other channel is open"))
        says = f"{channel.words}: units dead at step 0 have no residue and never recover"
        found.append(never_claim(channel, recovered, certified, says))
    else:
        source = "no other channel is open" if channel.name != "all" else "all channels are open"
        says = f"{channel.words}: dead units recover (at the best learning rate)"
        found.append(some_claim(channel, best, says, source))
    extra = {"decay": _decay_claim, "noise": _noise_claim, "layer_norm": _norm_claim}
    if channel.name in extra:
        found.append(extra[channel.name](panel))
    if channel.name == "rare":
        found.append(_rare_claim(certified))
    rates = dict(panel.grid.axes)["learning_rate"]
    ends = {"learning_rates": [rates[0], rates[-1]]}
    return [claim._replace(more={**claim.more, **ends}) for claim in found]


def never_claim(channel: Channel, row: Mapping, certified: Mapping, says: str) -> Claim:
    """P = 0: by certificate of every unit and by count."""
    whole = certified["certified_never"] == certified["units_at_risk"]
    if row["successes"] or certified["contradicted"]:
        verdict = "refuted"
    else:
        verdict = "confirmed" if whole else "undecided"  # a count of 0 proves nothing
    return make_claim(
        says,
        row,
        0.0,
        f"certificate ({', '.join(certified['theorems'])}) and count",
        verdict,
        channel=channel.name,
        certified=[certified["certified_never"], certified["units_at_risk"]],
        certified_seeds=certified["seeds"],
    )


def some_claim(channel: Channel, row: Mapping, says: str, source: str) -> Claim:
    """P > 0: the interval of the best learning rate lies above 0."""
    verdict = "confirmed" if row["interval"][0] > 0 and row["successes"] else "undecided"
    return make_claim(says, row, "> 0", source, verdict, channel=channel.name)


def _decay_claim(panel: Panel) -> Claim:
    config = panel.grid.config
    steps = decay_steps(panel.result, config)
    agrees = within_an_evaluation(steps, config) & steps.counted
    horizon = config.steps
    share = {
        name: float((getattr(steps, name)[steps.counted] <= horizon).mean())
        for name in ("predicted", "looked")
    }
    row = pool(agrees.sum(-1), steps.counted.sum(-1))
    return make_claim(
        f"{panel.channel.words}: every unit first fires at the closed-form step, within one "
        "evaluation",
        row,
        1.0,
        "theory.bias_decay_recovery_step per unit",
        "confirmed" if row["successes"] == row["trials"] else "refuted",
        channel="decay",
        share_back_by_the_horizon=share,
    )


def _noise_claim(panel: Panel) -> Claim:
    result = panel.result
    lower, upper = noise_bracket(result, panel.grid, cast(Start, panel.start))
    cells = estimates.cells(result, "recovered_ever")
    known = cells.trials.values > 0
    low, high = cells.low.values, cells.high.values
    inside = known & (high >= lower) & (low <= upper)
    weights = cells.trials.values[known]
    mean = [float(np.average(part[known], weights=weights).round(4)) for part in (lower, upper)]
    row = pooled(result, "recovered_ever")
    fits = inside.sum() == known.sum() and mean[0] <= row["interval"][1]
    return make_claim(
        f"{panel.channel.words}: P(recover) lies between the first passage of the likeliest "
        "example and the sum over examples, in every cell",
        row,
        mean,
        "theory.first_passage_probability (approximate)",
        "confirmed" if fits and row["interval"][0] <= mean[1] else "undecided",
        channel="noise",
        cells_within=[int(inside.sum()), int(known.sum())],
    )


def _norm_claim(panel: Panel) -> Claim:
    result = panel.result
    threshold = -theory.absorbing_shift(panel.grid.config.hidden[0])
    below = result.sel(initial_bias=result.initial_bias < threshold)
    row = pooled(below, "recovered_ever")
    return make_claim(
        f"{panel.channel.words}: below the absorbing shift {threshold:.4g} no unit recovers",
        row,
        0.0,
        "theory.absorbing_shift; certificate",
        "refuted" if row["successes"] else "confirmed" if row["trials"] else "undecided",
        channel="layer_norm",
        threshold=float(threshold),
    )


def _rare_claim(certified: Mapping) -> Claim:
    row = certified["recovered_who_fired_elsewhere"]
    return make_claim(
        "rare examples: whoever came back fired on other training examples at step 0",
        row,
        1.0,
        "certificates.certify: not dead on the training set; the rest is certified",
        "confirmed" if row["successes"] == row["trials"] else "refuted",
        channel="rare",
    )


def comparison_claims(panels: Mapping[str, Mapping]) -> list[Claim]:
    """Claims on two panels together."""
    found = []
    if {"none", "noise"} <= panels.keys():
        quiet, noisy = panels["none"]["recovered"], panels["noise"]["recovered"]
        certified = panels["none"]["certificates"]
        nobody = certified["certified_never"] == certified["units_at_risk"]  # P = 0, not a count
        apart = nobody and not quiet["successes"] and noisy["interval"][0] > 0
        found.append(
            make_claim(
                "SGD's own noise is not additive noise: it recovers nobody",
                noisy,
                "> 0, with minibatch noise alone 0",
                "panel noise by count, panel none by certificate",
                "confirmed" if apart else "undecided",
                with_minibatch_noise_alone=quiet,
            )
        )
    if {"none", "layer_norm", "batch_norm"} <= panels.keys():
        layer = panels["layer_norm"]["recovered"]
        others = {name: panels[name]["recovered"] for name in ("batch_norm", "none")}
        nobody = not any(row["successes"] for row in others.values())
        found.append(
            make_claim(
                "LayerNorm recovers under plain SGD with one hidden layer, BatchNorm and none not",
                layer,
                "> 0, BatchNorm and none 0",
                "panels layer_norm, batch_norm, none",
                "confirmed" if nobody and layer["interval"][0] > 0 else "refuted",
                others=others,
            )
        )
    powers = {name: panel["certificates"] for name, panel in panels.items()}
    powers = {name: row for name, row in powers.items() if row}
    units = sum(row["certified_in_all_layers"] for row in powers.values())
    wrong = sum(row["contradicted"] for row in powers.values())
    row = statistics.exact_interval(wrong, max(units, 1)).as_json()
    found.append(
        make_claim(
            "a unit certified never to recover never recovered",
            row | {"seeds": None},
            0.0,
            "certificates at step 0, all layers, seeds as in each panel",
            "refuted" if wrong else "confirmed",
        )
    )
    return found


def fork_claims(fork: Mapping) -> list[Claim]:
    """What a fork says, and whether forks, accounts and certificates agree."""
    found = []
    for row in fork["rows"][1:]:
        low, high = row["difference"]["interval"]
        effect = "It lowers it" if high < 0 else "It raises it" if low > 0 else "No effect seen"
        found.append(
            make_claim(
                f"{fork['name']}: switching {row['channel']} off changes P(recover by step "
                f"{fork['horizon']})",
                row["difference"],
                "< 0 if the channel brings units back",
                "channels.fork, paired by seed",
                "undecided" if low <= 0 <= high else "confirmed",
                effect=effect,
                share_of_climb=row["share_of_climb"],
                vanished=row["vanished"],
            )
        )
        nothing = row["without_share"]
        if nothing:
            found.append(
                make_claim(
                    f"{fork['name']}: no share of {row['channel']} in the account, no effect of "
                    "switching it off",
                    nothing,
                    0.0,
                    "channels.spell_account and channels.fork on the same units",
                    "confirmed" if nothing["agrees"] else "refuted",
                    units=nothing["units"],
                )
            )
    for arm, wrong in fork["certified_and_recovered"].items():
        units = fork["certified_never"][arm]
        if units:
            row = statistics.exact_interval(wrong, units).as_json()
            found.append(
                make_claim(
                    f"{fork['name']}, {arm.replace('_', ' ')}: units certified at the fork never "
                    "recovered in it",
                    row,
                    0.0,
                    "certificates.certify at the fork",
                    "refuted" if wrong else "confirmed",
                )
            )
    return found


def agreement_claim(forks: Sequence[Mapping]) -> Claim:
    """Forks against accounts: an effect has the sign of the share, and no share has no effect."""
    agrees, told_apart = [], []
    for fork in forks:
        for row in fork["rows"][1:]:
            name = f"{fork['name']}: {row['arm']}"
            (low, high), share = row["difference"]["interval"], row["share_of_climb"]
            if share is not None and not low <= 0 <= high:
                agrees.append(bool((share > 0) == (high < 0)))
                told_apart.append({"arm": name, "agrees": agrees[-1]})
            nothing = row["without_share"]
            if nothing:
                agrees.append(nothing["agrees"])
                told_apart.append({"arm": name, "units_without_share": True, "agrees": agrees[-1]})
    row = statistics.exact_interval(sum(agrees), len(agrees)).as_json()
    return make_claim(
        "forks and accounts agree: who brought units up (down) is missed (not missed) when off, "
        "and without a share there is no effect",
        row,
        1.0,
        "channels.fork, channels.spell_account",
        "undecided" if not agrees else "confirmed" if all(agrees) else "refuted",
        comparisons=told_apart,
    )


def collapse_claim(found: Mapping) -> Claim:
    """Whether P(recovered by K / rate) is flat in the rate, and where it breaks."""
    apart = [row for row in found["differences"] if row["apart"]]
    breaks = sorted({rate for row in apart for rate in row["learning_rates"][1:]})
    worst = max(
        found["differences"],
        key=lambda row: abs(row["estimate"] or 0.0),
        default={"estimate": None, "interval": [-1.0, 1.0], "learning_rates": None},
    )
    flat = [row for row in found["differences"] if not row["apart"]]
    return make_claim(
        "the learning rate only rescales time: P(recovered by K / rate) is flat in the rate",
        worst,
        0.0,
        "paired differences of neighbouring rates (Bonferroni); the largest is shown",
        "refuted" if apart else "undecided",
        comparisons_apart=[len(apart), len(found["differences"])],
        breaks_at=breaks,
        largest_between=worst["learning_rates"],
        flat_between=[row["learning_rates"] for row in flat],
    )
