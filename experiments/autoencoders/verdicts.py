"""The claims: the law at birth, what a larger mean does, and what each revival does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.autoencoders.sweep import ACTIVATIONS, PLAIN, REVIVALS, Options, arms
from relu_dynamics.statistics import claims, paired_mean
from relu_dynamics.statistics.claims import Claim

SIMON = "setting of Simon, Adams & Zou, arXiv 2605.31518"
SOURCES = {
    "resample": "Bricken et al. 2023",
    "mean_resample": "Bricken et al. 2023",
    "geometric_median": "Bricken et al. 2023",
    "mean": SIMON,
    "aux_k": "Gao et al., arXiv 2406.04093",
    "tied": "Gao et al., arXiv 2406.04093",
    "ghost_gradients": "Jermyn & Templeton 2024",
}
LEAST = 0.01  # of all latents: a smaller difference does not matter
DEAD = "derivative by z exactly 0 on all training tokens; in a diverged run all latents are dead"
Measured = Mapping[tuple, Mapping[str, np.ndarray]]  # (activation, revival, *cell) -> per seed


def birth_claim(options: Options, births: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Whether the law's share lies in the interval, for every gamma."""
    if not births:
        return []
    meets = [row["interval"][0] <= row["law"] <= row["interval"][1] for row in births]
    says = "; ".join(
        f"gamma {row['gamma']:g}: {row['estimate']:.3f} [{row['interval'][0]:.3f}, "
        f"{row['interval'][1]:.3f}] against {row['law']:.3f}"
        for row in births
    )
    misses = len(meets) - sum(meets)
    return [
        Claim(
            claim="Latents are dead at birth as E Phi(-gamma a)^n says, also where tokens are "
            "sparse sums of features.",
            source=SIMON,
            verdict="confirmed" if misses <= _by_chance(len(meets)) else "refuted",
            finding=f"Share dead at step 0, and the law in {options.config.dimension} dimensions: "
            f"{says}.",
            estimate=float(np.mean(meets)),
            interval=None,
            count=f"{len(births)} sizes of the mean, {births[0]['trials']:,} latents each",
            definition="z <= 0 on all training tokens at step 0, biases 0",
            figure="autoencoders_dead",
        )
    ]


def _by_chance(count: int) -> int:
    """Misses of so many 95 % intervals that chance explains."""
    return int(np.ceil(0.05 * count + 2 * np.sqrt(0.05 * 0.95 * count)))


def _pooled(measured: Measured, options: Options, arm: tuple[str, str], name: str, gammas) -> Any:
    """A measure's mean over rates and these gammas at the first bias, [seed]."""
    bias = options.biases[0]
    return np.mean(
        [measured[*arm, gamma, rate, bias][name] for gamma in gammas for rate in options.rates],
        axis=0,
    )


def mean_claims(options: Options, measured: Measured) -> list[Claim]:
    """ "A larger mean leaves more latents dead at the end", for every activation."""
    low, high = min(options.gammas), max(options.gammas)
    if low == high:
        return []
    parts = {}
    for activation in dict.fromkeys(activation for activation, _ in arms(options).values()):
        first, second = (
            _pooled(measured, options, (activation, PLAIN), "dead", [gamma])
            for gamma in (high, low)
        )
        parts[ACTIVATIONS[activation][0]] = claims.difference_claim(
            f"A mean of gamma {high:g} rather than {low:g} leaves more latents dead at the end.",
            SIMON,
            first,
            second,
            finding="{first:.3f} against {second:.3f}, {estimate:+.3f} [{low:+.3f}, {high:+.3f}]",
            definition=DEAD,
            figure="autoencoders_dead",
            least=LEAST,
            bounds=(-1, 1),
        )
    return [_combined(claims.controlled_by_key(parts))]


def _combined(parts: Mapping[str, Claim]) -> Claim:
    """One claim over its parts: the mean of what was found, and where it holds."""
    first = next(iter(parts.values()))
    says = "; ".join(f"{name}: {part.finding}" for name, part in parts.items())
    found: Any = [part.estimate for part in parts.values()]
    overall = first._replace(
        finding=f"Dead at the end, mean over the cells: {says}.",
        estimate=float(np.mean(found)),
        interval=None,
    )
    return claims.combined(overall, dict(parts))


def revival_claims(options: Options, measured: Measured) -> tuple[list[Claim], list[dict]]:
    """ "X leaves fewer latents dead", over the activations with which it was tried; and what it
    changes, paired with the plain arm on the same seeds: mean over rates and gammas, and over the
    rates for every gamma."""
    parts: dict[tuple[str, str], Claim] = {}
    rows = []
    for activation, revival in arms(options).values():
        if revival == PLAIN:
            continue
        row: dict[str, Any] = {"activation": activation, "revival": revival, "by_gamma": []}
        for name in ("dead", "fvu", "l0"):
            row[name] = _difference(options, measured, (activation, revival), name, options.gammas)
        if "top_k" in ACTIVATIONS[activation][1]:
            row["l0"] = None  # is k, whatever the arm
        for gamma in options.gammas:
            found = _difference(options, measured, (activation, revival), "dead", [gamma])
            row["by_gamma"].append({"gamma": gamma, **found})
        plain, own = (
            _pooled(measured, options, (activation, arm), "dead", options.gammas)
            for arm in (PLAIN, revival)
        )
        parts[revival, ACTIVATIONS[activation][0]] = claims.difference_claim(
            f"{REVIVALS[revival][0]} leaves fewer latents dead.",
            SOURCES[revival],
            plain,
            own,
            finding="{second:.3f} against {first:.3f} plain; plain minus this: {estimate:+.3f} "
            "[{low:+.3f}, {high:+.3f}]; " + _price(row),
            definition=DEAD,
            figure="autoencoders_revivals",
            least=LEAST,
            bounds=(-1, 1),
        )
        rows.append(row)
    settled = claims.controlled_by_key(parts)
    for row in rows:
        row["verdict"] = settled[row["revival"], ACTIVATIONS[row["activation"]][0]].verdict
    made = [
        _combined({where: part for (own, where), part in settled.items() if own == revival})
        for revival in dict.fromkeys(revival for revival, _ in settled)
    ]
    return made, sorted(rows, key=lambda row: (row["activation"], row["dead"]["estimate"]))


def _difference(options, measured, arm: tuple[str, str], name: str, gammas) -> dict[str, Any]:
    """A measure of an arm minus the plain one's, paired by seed."""
    own = _pooled(measured, options, arm, name, gammas)
    plain = _pooled(measured, options, (arm[0], PLAIN), name, gammas)
    kept = np.isfinite(own) & np.isfinite(plain)
    found = paired_mean(own[kept], plain[kept], bounds=(-1, 1) if name == "dead" else None)
    return {
        "estimate": float(found.estimate),
        "interval": [float(found.low), float(found.high)],
        "seeds": int(kept.sum()),
        "plain": float(plain[kept].mean()),
        "own": float(own[kept].mean()),
    }


def _price(row: Mapping[str, Any]) -> str:
    fvu, l0 = row["fvu"], row["l0"]
    low, high = fvu["interval"]
    text = f"log FVU {fvu['estimate']:+.2f} [{low:+.2f}, {high:+.2f}]"
    return text if l0 is None else f"{text}, L0 {l0['estimate']:+.1f}"
