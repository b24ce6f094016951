"""The verdict on each of the example's six sentences, from the stored result."""

import numpy as np
import xarray as xr

from experiments.numerical_example.sources import (
    SOURCES,
    STEPS_BEFORE_DEATH,
    make_cases,
    residue,
)
from experiments.numerical_example.sweep import FAST_ROW, SLOW_ROW, WEIGHT, Options
from relu_dynamics import theory
from relu_dynamics.config import Config
from relu_dynamics.statistics.claims import Claim


def verdicts(result: xr.Dataset, config: Config) -> list[Claim]:
    """The verdict on each of the six sentences, with its numbers; `config` is that of the unit."""
    makers = (_zero_gradient, _slow_row, _fast_row, _crossing, _rates, _memory)
    return [make(result, config) for make in makers]


def pick(result: xr.Dataset, source: str, rate: float) -> xr.Dataset:
    """One case."""
    return result.isel(case=int(np.flatnonzero(_of(result, source, rate))[0]))


def _of(result, source, rate=None):
    found = result.source.values == source
    return found if rate is None else found & (result.case_rate.values == rate)


def step_text(step: float) -> str:
    """A step, or "never"."""
    return f"{step:,.0f}" if np.isfinite(step) else "never"


def certified(result: xr.Dataset, cases: np.ndarray) -> str:
    """How many of the given dead cases are proved to stay so, or to come back at their step."""
    chosen = result.isel(case=cases)
    counts = {
        name: int((chosen.certificate == name).sum())
        for name in ("CERTIFIED_NEVER", "CERTIFIED_AT", "POSSIBLE")
    }
    total = sum(counts.values())
    proved = [name for name, count in counts.items() if count and name != "POSSIBLE"]
    named = {
        name: sorted(set(chosen.theorem.values[chosen.certificate.values == name].tolist()))
        for name in proved
    }
    said = [f"{n} for {counts[n]} of {total} ({', '.join(named[n])})" for n in proved]
    return "; ".join(said) if said else f"none of {total} certified"


def _implied_gradients(row):
    """The gradient that would make each quoted step: minus the step over the learning rate."""
    rate, biases = row
    return [float(g) for g in np.round(-np.diff(biases) / rate, 6)]


def _claim(sentence, says, verdict, finding, grounds, **numbers):
    return Claim(
        claim=f"({sentence}) {says}",
        source="learning rate",
        verdict=verdict,
        finding=finding,
        estimate=None,
        interval=None,
        count=f"against {grounds}",
        definition="dead: max z <= 0 over the inputs",
        figure="numerical_example",
        more={"sentence": sentence, "numbers": numbers},
    )


def _zero_gradient(result, config):
    plain = result.isel(case=_of(result, "plain SGD: dead unit"))
    control = result.isel(case=_of(result, "plain SGD: control: alive"))
    moved, rates = int((~plain.unmoved).sum()), plain.sizes["case"]
    others = result.isel(
        case=(result.gradient_while_dead.values == 0)
        & ~result.unmoved.values
        & (result.panel.values != "plain SGD")
    )
    panels = list(dict.fromkeys(others.panel.values.tolist()))
    if moved:
        verdict = "confirmed"
    else:
        verdict = "conditional" if panels else "refuted"
    return _claim(
        1,
        "a dead unit's weight and bias keep moving although its gradient is 0",
        verdict,
        f"Not under plain SGD: moved at {moved} of {rates} rates, "
        f"{plain.case_rate.values.min():g} to {plain.case_rate.values.max():g}, gradient exactly "
        f"{float(plain.gradient_while_dead.max()):g}; certificate: "
        f"{certified(result, _of(result, 'plain SGD: dead unit'))}. It moves by optimizer memory, "
        "decay, noise or a push from outside the loss.",
        "derived: z <= 0 on every input makes dL/dz, hence dL/dw and dL/db, exactly 0",
        simulated_rates_that_moved=moved,
        expected_rates_that_move=0,
        rates=rates,
        rates_whose_output_bias_diverged=int(plain.diverged.sum()),
        largest_gradient_while_dead=float(plain.gradient_while_dead.max()),
        living_control_moved=int((~control.unmoved).sum()),
        moved_while_the_gradient_was_zero=panels,
    )


def _slow_row(result, config):
    rate, row = SLOW_ROW
    small = float(result.learning_rate[0])
    push = pick(result, "outside push: gradient -1", small)
    free = pick(result, "outside push: output weight 0", small)
    expected = config.initial_bias - small * config.outside_gradient * config.steps
    crosses = float(push.simulated_step)
    return _claim(
        2,
        "at 1e-4 (bias -0.5000, -0.4999, -0.4998) 10,000 steps change next to nothing",
        "refuted" if np.isfinite(crosses) else "confirmed",
        f"Slip: 1e-4 per step is a gradient of -1. {config.steps:,} such steps at {small:g} end at "
        f"{float(free.final_bias):+.4f} (arithmetic {expected:+.4f}) and pass {-WEIGHT:g} at step "
        f"{step_text(crosses)} (closed form {step_text(float(push.closed_step))}). Under plain "
        f"SGD the bias stays at {config.initial_bias:g}.",
        "theory.drift_crossing_step; arithmetic",
        quoted_biases=list(row),
        implied_gradients=_implied_gradients(SLOW_ROW),
        simulated_final_bias=float(free.final_bias),
        expected_final_bias=expected,
        simulated_crossing=crosses if np.isfinite(crosses) else None,
        expected_crossing=float(push.closed_step) if np.isfinite(push.closed_step) else None,
        expected_range=[float(push.closed_low), float(push.closed_high)],
    )


def _fast_row(result, config):
    rate, row = FAST_ROW
    large = float(result.learning_rate[1])
    push = pick(result, "outside push: gradient -1", large)
    gradients = _implied_gradients(FAST_ROW)
    same = np.allclose(gradients, _implied_gradients(SLOW_ROW)[0])
    crosses = float(push.simulated_step)
    sizes = ", ".join(f"{g:g}" for g in gradients)
    return _claim(
        3,
        "at 1e-2 a gradient of the same size takes the bias over -0.5, -0.3, -0.1, 0.05",
        "confirmed" if same else "refuted",
        f"Slip: these moves need gradients {sizes}, not the -1 of the other row. With -1 at "
        f"{large:g} the bias gains {-large * config.outside_gradient:g} per step and the unit is "
        f"back at step {step_text(crosses)} (closed form {step_text(float(push.closed_step))}), "
        "not at step 3.",
        "theory.drift_crossing_step; arithmetic",
        quoted_biases=list(row),
        implied_gradients=gradients,
        simulated_crossing=crosses if np.isfinite(crosses) else None,
        expected_crossing=float(push.closed_step) if np.isfinite(push.closed_step) else None,
        expected_range=[float(push.closed_low), float(push.closed_high)],
    )


def _crossing(result, config):
    active = result.active_fraction.values
    rare = theory.active_probability(config.initial_bias, WEIGHT)
    seen = theory.first_firing_probability(config.initial_bias, WEIGHT, 320_000)
    holds = (active[:3] == 0).all() and active[3] > 0
    return _claim(
        4,
        "past a bias of -0.1 some inputs fire the unit",
        "conditional" if holds else "refuted",
        f"z > 0 iff x > -bias / {WEIGHT:g}: x > {-config.initial_bias / WEIGHT:g} at the start, "
        "x > 1 at -0.1. So for x in [0, 1] only strictly above -0.1. For x ~ N(0, 1) the unit is "
        f"alive from the start, P(z > 0) = {rare:.3g} (in 320,000 draws: {seen:.3g}): dead in the "
        "sample only.",
        "theory.active_probability = Phi(bias / weight), theory.first_firing_probability",
        biases=result.bias.values.tolist(),
        simulated_active_fraction=active.tolist(),
        expected_active=[False, False, False, True],
        population_active_probability=rare,
        population_active_probability_at_crossing=theory.active_probability(-WEIGHT, WEIGHT),
        fires_within_320000_draws=seen,
    )


def _rates(result, config):
    small, large = (float(rate) for rate in result.learning_rate[:2])
    pairs = {"large only": [], "both": [], "neither": [], "small only": []}
    for source in dict.fromkeys(result.source.values.tolist()):
        if "control" in source or "threshold" in source or source.endswith("output weight 0"):
            continue
        slow, fast = (
            bool(np.isfinite(float(pick(result, source, rate).simulated_step)))
            for rate in (small, large)
        )
        back = "both" if slow and fast else "small only" if slow else "large only"
        pairs[back if slow or fast else "neither"].append(source)
    noise = result.sel(noise_kind="weight and bias").isel(learning_rate=[0, 1])
    estimates = [
        {
            "learning_rate": float(noise.learning_rate[i]),
            "recovered": int(noise.noise_recovered[i]),
            "runs": result.sizes["seed"],
            "estimate": float(noise.noise_estimate[i]),
            "interval": [float(noise.noise_low[i]), float(noise.noise_high[i])],
            "expected": float(noise.noise_closed[i, -1]),
        }
        for i in range(2)
    ]
    slow = pick(result, "weight decay: bias, decoupled", small)
    recovered = [
        f"{e['estimate']:.2f} [{e['interval'][0]:.2f}, {e['interval'][1]:.2f}]" for e in estimates
    ]
    apart = bool(pairs["large only"]) or estimates[0]["interval"][1] < estimates[1]["interval"][0]
    everywhere = apart and not pairs["both"] and not pairs["neither"]
    return _claim(
        5,
        "the larger rate brings the unit back, the small one never does",
        "confirmed" if everywhere else "conditional" if apart else "refuted",
        "True of what optimizers remember, a finite push in proportion to the rate, and of noise "
        f"within {config.steps:,} steps: P = {recovered[0]} at {small:g}, {recovered[1]} at "
        f"{large:g}. False of plain SGD (no rate does) and of a lasting push or bias decay, where "
        "the small rate is only slower (decay: "
        f"step {step_text(float(slow.uncensored_step))}). Certificates: decay, "
        f"{certified(result, np.flatnonzero(result.panel.values == 'weight decay'))}.",
        "closed forms of theory.py by source; noise: first exit from a wedge",
        rates=[small, large],
        revived_by=pairs,
        noise=estimates,
        bias_decay_step_at_the_small_rate=float(slow.uncensored_step)
        if np.isfinite(slow.uncensored_step)
        else None,
    )


def _memory(result, config):
    small = float(result.learning_rate[0])
    rows = []
    for source in (s for s in SOURCES if s.panel in ("momentum left", "Adam left")):
        case = next(
            c
            for c in make_cases(Options(config, (small,)))
            if c.source.name == source.name and c.config.learning_rate == small
        )
        moved = float(pick(result, source.name, small).final_bias) - config.initial_bias
        expected = residue(case.config, source.memory(case.config))
        rows.append(
            {
                "source": source.name,
                "moved_in_rates": moved / small,
                "expected_in_rates": float(expected[-1]) / small,
                "steps_to_99_percent": int(np.argmax(expected >= 0.99 * expected[-1])) + 1,
            }
        )
    total = {row["source"]: row for row in rows}
    ball, adam = total["momentum left: heavy ball"], total["Adam left: 1000 steps of -1"]
    most = theory.adam_residue_bound(1.0)
    needed = -(WEIGHT + config.initial_bias) / (2 * most)  # z at x = 1 is weight + bias
    remembered = np.flatnonzero(np.isin(result.panel.values, ("momentum left", "Adam left")))
    return _claim(
        6,
        "gradients from before death keep moving the bias",
        "conditional",
        "Only in an optimizer with memory, and only so far: "
        f"{ball['moved_in_rates']:.2f} rates after {STEPS_BEFORE_DEATH} steps of -1 under momentum "
        f"{config.momentum:g} (closed form {ball['expected_in_rates']:.2f}; 99 % within "
        f"{ball['steps_to_99_percent']} steps), {adam['moved_in_rates']:.2f} under Adam after "
        f"1,000. Adam's most is {most:.2f} for each parameter, so below rate {needed:.2g} it "
        f"never revives this unit. SGD: 0. Certificates: {certified(result, remembered)}.",
        "theory.heavy_ball_residue, nesterov_residue, adam_residue, adam_residue_bound",
        moved=rows,
        adam_bound_in_rates=most,
        adam_smallest_rate_that_can_revive=needed,
    )
