"""Paths: a unit followed step by step until it crosses 0, with bounds on rounding."""

import math
from typing import NamedTuple

import numpy as np

from relu_dynamics.certificates.case import CHUNK, DUST, HUGE, TINY, Case, Claim, Verdict, rule_of
from relu_dynamics.certificates.movement import decaying, moves_alone, moving_steps
from relu_dynamics.engine.optimizers import ADAM_B2, ADAM_EPSILON, Rule
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.engine.probes import UNIT_ROUNDOFF


def no_claim(case: Case) -> Claim:
    units = case.z.shape[1]
    unknown = np.full(units, np.nan)
    return Claim(np.full(units, Verdict.POSSIBLE), np.full(units, NEVER), unknown, unknown)


class _Path(NamedTuple):
    """z of a layer's units at one or more future steps; [steps, units] each."""

    largest: np.ndarray  # over the rows
    seen: np.ndarray  # over the probe
    error: np.ndarray  # how far float32 may be from either
    threshold: np.ndarray  # margin above which an evaluation calls the unit alive


def crossing(case: Case, holds: np.ndarray, paths) -> Claim:
    """Never, or the step at which z first rises above 0, if both are clear of rounding.

    `paths` yields `_Path` for steps 0, 1, ... to the horizon, in pieces. A unit that at some step
    is neither clearly dead nor clearly recovered gets a gradient of unknown size: nothing is said.
    """
    units = len(holds)
    pending, step = holds.copy(), 0
    verdict, when = np.full(units, Verdict.POSSIBLE), np.full(units, NEVER)
    bound, slack = np.full(units, -np.inf), np.zeros(units)
    for path in paths:
        above = ~(path.largest + path.error <= -DUST)
        crosses = above.any(0)
        at = np.where(crosses, above.argmax(0), len(above) - 1)
        pick = lambda values, at=at: values[at, np.arange(units)]  # noqa: E731
        before = np.arange(len(above))[:, None] < (at + ~crosses)[None]
        highest = np.where(before, path.largest + path.error, -np.inf).max(0)
        widest = np.where(before, path.error, 0).max(0)
        bound = np.where(pending, np.maximum(bound, highest), bound)
        slack = np.where(pending, np.maximum(slack, widest), slack)
        lower = pick(path.seen) - pick(path.error)
        clear = pending & crosses & (lower > pick(path.threshold)) & (step + at > 0)
        verdict = np.where(clear, Verdict.CERTIFIED_AT, verdict)
        when = np.where(clear, case.step + step + at, when)
        bound, slack = np.where(clear, lower, bound), np.where(clear, pick(path.error), slack)
        pending = pending & ~crosses
        step += len(above)
        if not pending.any():
            break
    verdict = np.where(pending, Verdict.CERTIFIED_NEVER, verdict)
    return Claim(verdict, when, bound, slack)


def linear_path(case: Case) -> Claim:
    """Follows z under an update that is linear in (parameter, trace)."""
    stateless_coupled = rule_of(case) is Rule.RMSPROP and case.rules.coupled
    if not moves_alone(case) or (stateless_coupled and decaying(case)):
        return no_claim(case)
    holds = case.upper <= -DUST
    return crossing(case, holds, _follow_linear(case))


def _linear_powers(case: Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(powers, errors): powers[t] is the 2x2 map of (parameter, trace) from step 0 to t, and
    errors[t] bounds the rounding of the parameter at t, per unit of |parameter| and |trace| at 0.

    A rounding made at one step travels on by the same map: errors are convolutions of the map's
    sizes with what each step rounds. A step rounds the parameter (u of it, if it moves at all) and
    a few times the update, which `update` and `trace` count generously.
    """
    rules, steps = case.rules, case.horizon
    heavy = rule_of(case) in (Rule.HEAVY_BALL, Rule.NESTEROV)
    mu = rules.momentum if heavy else 0.0
    decay = rules.decay if rules.decays[name] else 0.0
    coupled = decay if rules.coupled else 0.0
    trace = np.array([coupled, mu])  # of the next trace, or the gradient itself
    update = np.array([coupled, 0.0]) + mu * trace if rule_of(case) is Rule.NESTEROV else trace
    shrink = 0.0 if rules.coupled else case.rate * decay
    step = np.array([[1 - shrink, 0.0], [0.0, 0.0]])
    step = step - case.rate * np.array([update, [0.0, 0.0]]) + np.array([[0.0, 0.0], trace])
    powers = np.empty((steps + 1, 2, 2))
    powers[0] = np.eye(2)
    for t in range(steps):
        powers[t + 1] = step @ powers[t]
    size = np.abs(powers)
    moving = np.ones(steps + 1)
    if decay == 0:
        moving[moving_steps(case) if heavy else 0 :] = 0
    spent = 8 * case.rate * (np.abs(update) + np.abs(trace)) + np.array([8 * shrink, 0.0])
    rounds_parameter = size[:, 0] * moving[:, None] + size.transpose(0, 2, 1) @ spent
    rounds_trace = 4 * (size.transpose(0, 2, 1) @ np.abs(trace))
    errors = np.zeros((steps + 1, 2))
    for start in range(2 if steps else 0):
        for response, rounded in ((0, rounds_parameter), (1, rounds_trace)):
            travels = np.convolve(size[:steps, 0, response], rounded[:steps, start])
            errors[1:, start] += travels[:steps]
    errors = UNIT_ROUNDOFF * (1 + 1e-3) * errors
    errors[:, 1] += 1e-6 * size[:, 0, 1]  # the steps after `moving`, and numbers of the step
    return powers, errors


def _follow_linear(case: Case):
    """Yields `_Path` of the steps 0 ... horizon under the linear recurrence."""
    x, units = case.inputs, case.z.shape[1]
    start = {}  # (parameter, trace) of weights and bias
    for name in ("weights", "bias"):
        value = case.parameters[name]
        start[name] = (value, case.memory[name].get("trace", np.zeros_like(value)))
    weight_powers, weight_errors = _linear_powers(case, "weights")
    bias_powers, bias_errors = _linear_powers(case, "bias")
    projections = np.stack([x @ part for part in start["weights"]])  # [2, rows, units]
    groups = [projections, projections[:, case.probe]]
    if not np.any(start["weights"][1]):  # without a trace the ends of w.x decide
        groups = [np.stack([g.min(1), g.max(1)], axis=1) for g in groups]
    reach = np.stack([(np.abs(x) @ np.abs(part)).max(0) for part in start["weights"]])
    mass = np.stack([np.abs(part).sum(0) for part in start["weights"]])
    norms = np.stack([np.sqrt((part**2).sum(0)) for part in start["weights"]])
    furthest = np.sqrt((x[case.probe] ** 2).sum(1).max()) + case.input_error * math.sqrt(x.shape[1])
    biases = np.stack(start["bias"])
    sums = (x.shape[1] + 2) * UNIT_ROUNDOFF * (1 + 1e-3)
    piece = max(1, CHUNK // max(1, groups[0][0].size))
    for first in range(0, case.horizon + 1, piece):
        now = slice(first, first + piece)
        w, b = weight_powers[now, 0], bias_powers[now, 0]
        bias = b @ biases
        largest, seen = (np.einsum("ts,sru->tru", w, group).max(1) + bias for group in groups)
        moved = weight_errors[now] @ reach + bias_errors[now] @ np.abs(biases)
        size = np.abs(w) @ reach + np.abs(b) @ np.abs(biases) + moved
        error = moved * (1 + sums) + sums * size + case.input_error * (np.abs(w) @ mass)
        magnitude = np.abs(w) @ norms * furthest + np.abs(b) @ np.abs(biases) + moved
        threshold = _alive_threshold(case, magnitude)
        yield _Path(largest, seen, np.broadcast_to(error, (len(w), units)), threshold)


def follow_adam(case: Case, units: np.ndarray):
    """Yields `_Path` of the steps 0 ... horizon under Adam; columns outside `units` are void."""
    x, b1, rate = case.inputs, case.rules.momentum, case.rate
    fan_in, width = case.parameters["weights"].shape
    stack = lambda part: np.concatenate([part["weights"], part["bias"][None]])  # noqa: E731
    p = stack(case.parameters)
    m = stack({name: case.memory[name]["mu"] for name in ("weights", "bias")})
    v = stack({name: case.memory[name]["nu"] for name in ("weights", "bias")})
    mask = np.concatenate(
        [np.full(fan_in, case.rules.decays["weights"]), [case.rules.decays["bias"]]]
    )[:, None]
    decay = np.where(mask, case.rules.decay, 0.0)
    coupled, shrink = (decay, 0.0 * decay) if case.rules.coupled else (0.0 * decay, rate * decay)
    b2, rest2 = np.float64(np.float32(ADAM_B2)), 1 - ADAM_B2
    u, design = UNIT_ROUNDOFF, np.concatenate([x, np.ones((len(x), 1))], axis=1)
    sums = (fan_in + 2) * u * (1 + 1e-3)
    furthest = np.sqrt((x[case.probe] ** 2).sum(1).max()) + case.input_error * math.sqrt(fan_in)
    p_error, m_error, v_error = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    p, m, v = p[:, units], m[:, units], v[:, units]
    p_error, m_error, v_error = (e[:, units] for e in (p_error, m_error, v_error))
    sizes = np.abs(design)

    def correction(b, count):
        power = b**count
        return 1 - power, u * (8 + (count + 4) * power) / (1 - power)

    for step in range(case.horizon + 1):
        z = design @ p
        error = (sizes @ (p_error * (1 + sums) + sums * np.abs(p))).max(0)
        error = error + case.input_error * (np.abs(p[:-1]) + p_error[:-1]).sum(0)
        norm = np.sqrt(((np.abs(p[:-1]) + p_error[:-1]) ** 2).sum(0))
        magnitude = norm * furthest + np.abs(p[-1]) + p_error[-1]
        row = np.full((4, 1, width), np.nan)
        row[:, 0, units] = z.max(0), z[case.probe].max(0), error, _alive_threshold(case, magnitude)
        yield _Path(*row)

        count = case.adam_steps + step + 1
        gradient, g_error = coupled * p, coupled * (p_error + 2 * u * np.abs(p)) + TINY
        g_error = np.where(coupled > 0, g_error, 0.0)
        rest1 = 1 - b1
        m_error = b1 * m_error + rest1 * g_error
        m_error += 8 * u * (b1 * np.abs(m) + rest1 * np.abs(gradient)) + TINY * (m != 0)
        m = b1 * m + rest1 * gradient
        v_error = b2 * v_error + rest2 * (2 * np.abs(gradient) + g_error) * g_error
        v_error += 8 * u * (b2 * v + rest2 * gradient**2) + TINY
        v = b2 * v + rest2 * gradient**2
        (scale1, wrong1), (scale2, wrong2) = correction(b1, count), correction(b2, count)
        mean, mean_error = m / scale1, (m_error + np.abs(m) * (wrong1 + 2 * u)) / scale1
        square, square_error = v / scale2, (v_error + v * (wrong2 + 2 * u)) / scale2
        root = np.sqrt(square) + ADAM_EPSILON
        least = np.sqrt(np.maximum(square - square_error, 0)) * (1 - 4 * u) + ADAM_EPSILON * (
            1 - 1e-6
        )
        update = mean / root
        u_error = mean_error / least + np.abs(mean) * (root - least) / (root * least)
        u_error += 4 * u * np.abs(update)
        moves = rate * (np.abs(update) + u_error) * (1 + 8 * u) + shrink * np.abs(p)
        p_error = np.abs(1 - shrink) * p_error + rate * u_error + 8 * u * moves
        p = p - rate * update - shrink * p
        p_error += np.minimum(u * (np.abs(p) + p_error), moves)  # a move that rounds away is 0


def _alive_threshold(case: Case, size: np.ndarray) -> np.ndarray:
    """Margin above which an evaluation calls a unit alive; size = ||w|| max ||x|| + |b| or more."""
    rounding = (case.inputs.shape[1] + 2) * UNIT_ROUNDOFF * size
    rounding = np.where(size < HUGE, rounding, np.inf)  # the evaluation's own squares overflow
    return np.maximum(rounding, case.config.tolerance) * (1 + 1e-4)
