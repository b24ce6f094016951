"""Sparse autoencoders in the engine's grid and experiments.autoencoders: against NumPy, published
formulas and the law at birth."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.autoencoders import analysis, sweep, verdicts
from relu_dynamics import certificates, channels, theory
from relu_dynamics.config import Config
from relu_dynamics.engine import interventions, models, resets, revivals, tasks, training
from relu_dynamics.engine import step as step_
from relu_dynamics.engine.activations import ACTIVATIONS, JUMP_WINDOW
from relu_dynamics.engine.evaluation import probe_statistics
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.step import train_step
from relu_dynamics.engine.validation import check_covered, validate
from relu_dynamics.statistics import claims, exact_interval
from relu_dynamics.sweeps.sweep import sweep as run_sweep

ROOT = pathlib.Path(__file__).parents[1]
SMALL = Config(
    task="sparse_features",
    model="autoencoder",
    dimension=6,
    examples=40,
    input_scaling="shifted",
    scaling_dose=1.0,
    hidden=(10,),
    biased_layer=1,
    biased_units=10,
    initial_bias=0.0,
    optimizer="adam",
    learning_rate=0.01,
    batch_size=20,
    steps=40,
    probe_every=10,
    sustain=10,
    definition="flat",
)
KEY = run_key(0, 0)


def change(**fields) -> Config:
    return dataclasses.replace(SMALL, **fields)


_gradients = jax.jit(step_.batch_gradients)


@jax.jit
def _setup(config):
    return tasks.make_task(config, purpose_key(KEY, "task"), None), training.start(config, KEY)


def setup(config):
    config = training.as_arrays(validate(config))
    return config, *_setup(config)


def moved(params, scale=0.3):
    """The parameters away from the zeros that biases start with."""
    leaves, tree = jax.tree.flatten(params)
    draws = [
        leaf + scale * jax.random.normal(jax.random.fold_in(KEY, i), leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, draws)


def numpy_of(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


# Task and network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 16.0])
def test_the_dose_is_the_size_of_the_mean_and_the_targets_are_the_inputs(gamma):
    config = change(dimension=16, examples=500, scaling_dose=gamma)
    task = tasks.make_task(config, KEY, None)
    tokens = np.asarray(task.inputs, np.float64)
    spread = tokens - tokens.mean(0)
    found = np.linalg.norm(tokens.mean(0)) / np.sqrt((spread**2).sum(1).mean())
    assert found == pytest.approx(gamma, abs=1e-5)
    np.testing.assert_array_equal(task.targets, task.inputs)
    np.testing.assert_array_equal(task.held_targets, task.held_inputs)
    assert len(task.inputs) == 500 and len(task.held_inputs) > 100
    twice = (np.asarray(task.held_inputs)[:, None] == tokens[None]).all(-1).any(1)
    assert twice.mean() < 0.1  # those without any feature: exp(-4) of all


def test_tokens_are_sums_of_a_few_features_of_the_expected_length():
    config = change(dimension=16, examples=4000, input_scaling="standardized", scaling_dose=None)
    tokens = np.asarray(tasks.make_task(config, KEY, None).inputs)
    assert (tokens**2).sum(1).mean() == pytest.approx(16, rel=0.1)
    assert np.abs(tokens.mean(0)).max() < 5 * 4 / 4000**0.5
    # Tokens of few features lie in few directions: their fourth moment is not a Gaussian's.
    z = tokens @ np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    assert ((z**4).mean(0) / (z**2).mean(0) ** 2).mean() > 3.2


@pytest.mark.parametrize("fields", [{}, {"output_bias": False}, {"hidden_bias": False}])
def test_a_forward_pass_is_that_of_numpy(fields):
    config, task, state = setup(change(**fields))
    params = moved(state.params)
    forward = models.apply(config, params, task.inputs)
    own = numpy_of(params)
    centre = own["output"].get("bias", np.zeros(6))
    z = (np.asarray(task.inputs) - centre) @ own["hidden_1"]["kernel"]
    z = z + own["hidden_1"].get("bias", 0)
    np.testing.assert_allclose(forward.preactivations[0], z, rtol=1e-4, atol=1e-4)
    wanted = np.maximum(z, 0) @ own["output"]["kernel"] + centre
    np.testing.assert_allclose(forward.output, wanted, rtol=1e-4, atol=1e-4)
    seen = np.asarray(task.inputs) - centre
    np.testing.assert_allclose(forward.inputs[0], seen, rtol=1e-5, atol=1e-5)


def test_a_tied_start_is_the_encoder_s_transpose_of_length_1():
    _, _, state = setup(change(model="tied_autoencoder", weight_scale=2.0))
    encoder, decoder = (np.asarray(state.params[n]["kernel"]) for n in ("hidden_1", "output"))
    np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), 1, rtol=1e-5)
    lengths = np.linalg.norm(encoder, axis=0)
    np.testing.assert_allclose(decoder * lengths[:, None], encoder.T, rtol=1e-5, atol=1e-6)


def test_the_decoder_bias_starts_at_the_centre_of_the_training_inputs():
    _, task, state = setup(change(decoder_bias="mean"))
    np.testing.assert_allclose(state.params["output"]["bias"], task.inputs.mean(0), rtol=1e-5)
    _, task, state = setup(change(decoder_bias="geometric_median"))
    point = np.asarray(state.params["output"]["bias"])
    away = np.asarray(task.inputs) - point[None]
    pull = (away / np.linalg.norm(away, axis=1, keepdims=True)).sum(0)  # 0 at the optimum
    assert np.linalg.norm(pull) < 1e-2
    _, _, zero = setup(SMALL)
    assert not np.asarray(zero.params["output"]["bias"]).any()


@pytest.mark.slow
def test_latents_are_dead_at_birth_as_the_law_says():
    """On Gaussian tokens, of which the law speaks: 4,096 latents, 40 tokens, gamma 2."""
    config = Config(
        task="teacher_student", dimension=16, examples=40, input_scaling="shifted",
        scaling_dose=2.0, hidden=(4096,), biased_layer=1, initial_bias=0.0, steps=1, probe_every=1,
    )  # fmt: skip
    task = tasks.make_task(config, KEY, None)
    params = training.start(config, KEY).params
    margin = np.asarray(models.apply(config, params, task.inputs).preactivations[0]).max(0)
    law = theory.autoencoder_dead_at_birth_finite(2.0, 40, 16)
    found = exact_interval((margin <= 0).sum(), 4096, 0.999)
    # One draw of the tokens, standardized by themselves: as the law's to a few percent.
    assert found.low * 0.95 <= law <= found.high * 1.05


# Activations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "batch"), [(1, 1), (2, 6), (5, 3)])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_batch_top_k_keeps_the_largest_of_the_batch(seed, k, batch):
    z = np.random.default_rng(seed).normal(size=(batch, 5)).astype(np.float32)
    kept = np.asarray(ACTIVATIONS["batch_top_k"](jnp.asarray(z), k=k))
    order = np.argsort(z.ravel())[::-1]
    wanted = np.zeros(z.size, np.float32)
    wanted[order[: k * batch]] = z.ravel()[order[: k * batch]]
    np.testing.assert_array_equal(kept.ravel(), wanted)


def test_a_threshold_learns_by_the_published_estimate():
    """Of reconstruction and L0, arXiv 2407.14435 eq. 11-12, times the threshold for its
    logarithm; all other gradients are the exact ones."""
    config, task, state = setup(
        change(activation="jump_relu", penalty="l0", penalty_scale=0.3, batch_size=None)
    )
    params = moved(state.params, 0.2)
    params["log_threshold_1"] = jnp.log(jnp.linspace(0.05, 0.6, 10))
    batch = jnp.arange(40)
    loss, _, gradients = _gradients(config, task, batch, params)
    own, x = numpy_of(params), np.asarray(task.inputs, np.float64)
    centre, threshold = own["output"]["bias"], np.exp(own["log_threshold_1"])
    pre = (x - centre) @ own["hidden_1"]["kernel"] + own["hidden_1"]["bias"]
    h = pre * (pre > threshold)
    error = h @ own["output"]["kernel"] + centre - x
    window = (np.abs(pre - threshold) < JUMP_WINDOW / 2) / JUMP_WINDOW
    upstream = error @ own["output"]["kernel"].T / error.size
    assert window.any()
    wanted = (upstream * -threshold * window).sum(0) - 0.3 * window.mean(0) / 6
    np.testing.assert_allclose(
        gradients["log_threshold_1"], wanted * threshold, rtol=1e-3, atol=1e-5
    )
    through = upstream * (pre > threshold)
    np.testing.assert_allclose(gradients["hidden_1"]["bias"], through.sum(0), rtol=1e-3, atol=1e-5)
    bias = error.mean(0) / 6 - through.sum(0) @ own["hidden_1"]["kernel"].T
    np.testing.assert_allclose(gradients["output"]["bias"], bias, rtol=1e-3, atol=1e-5)
    assert float(loss) == pytest.approx(0.5 * (error**2).mean(), rel=1e-4)  # without the penalty


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "jump_relu", "top_k", "batch_top_k"])
def test_flat_is_never_let_through(activation):
    """Under definition="flat": dead for ReLU and JumpReLU, never selected for the others."""
    config, task, state = setup(
        change(activation=activation, top_k=2 if "top" in activation else None, scaling_dose=8.0)
    )
    statistics, _, slopes = probe_statistics(config, state.params, task.probe, models.apply)
    z = models.apply(config, state.params, task.probe).preactivations[0]
    silent = np.asarray(models.activate(config, state.params, 1, z) == 0).all(0)
    np.testing.assert_array_equal(slopes.flat, silent)
    if not ACTIVATIONS[activation].selects:
        np.testing.assert_array_equal(slopes.flat, statistics.margin <= 0)
    assert 0 < silent.sum() < 10


# Terms of the loss --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_l1_penalty_is_that_of_outputs_times_decoder_lengths():
    config, task, state = setup(change(penalty="l1", penalty_scale=0.2, batch_size=None))
    params, plain = moved(state.params), training.as_arrays(change(batch_size=None))

    def whole(params):
        forward = models.apply(plain, params, task.inputs)
        h = jax.nn.relu(forward.preactivations[0])
        lengths = jnp.sqrt((params["output"]["kernel"] ** 2).sum(1))
        penalty = (h * lengths[None, :]).sum(1).mean() / 6
        return tasks.loss(plain, forward.output, task.targets) + 0.2 * penalty

    loss, _, gradients = _gradients(config, task, jnp.arange(40), params)
    wanted = jax.grad(whole)(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradients, wanted
    )
    without, _, _ = _gradients(plain, task, jnp.arange(40), params)
    assert loss == without  # what is reported is the task's own


def drawn(seed, batch=5, units=7, outputs=4):
    chance = np.random.default_rng(seed)
    numbers = lambda *shape: jnp.asarray(chance.normal(size=shape), jnp.float32)  # noqa: E731
    silent = jnp.asarray(chance.random(units) < 0.5)
    return numbers(batch, units), silent, numbers(units, outputs), numbers(batch, outputs)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_aux_k_is_that_of_a_loop(seed, k):
    z, silent, decoder, residual = drawn(seed)
    rebuilt = np.zeros(residual.shape)
    for i, row in enumerate(np.asarray(z)):
        for j in sorted(np.flatnonzero(silent), key=lambda j: -row[j])[:k]:
            rebuilt[i] += row[j] * np.asarray(decoder)[j]
    wanted = 0.5 * ((np.asarray(residual) - rebuilt) ** 2).mean() if silent.any() else 0.0
    assert float(revivals.aux_k(z, silent, decoder, residual, k)) == pytest.approx(wanted, rel=1e-4)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(["aux_k", "ghost_gradients"]))
def test_revivals_move_silent_latents_alone_and_the_main_loss_not_at_all(seed, name):
    z, silent, decoder, residual = drawn(seed)
    own = getattr(revivals, name)
    more = (3,) if name == "aux_k" else ()
    gradients = jax.grad(lambda *a: own(a[0], silent, a[1], a[2], *more), (0, 1, 2))(
        z, decoder, residual
    )
    of_z, of_decoder, of_residual = map(np.asarray, gradients)
    assert not of_residual.any()
    assert not of_z[:, ~silent].any() and not of_decoder[~silent].any()
    assert bool(np.abs(of_z).sum() > 0) == bool(silent.any())
    assert np.isfinite(of_z).all() and np.isfinite(of_decoder).all()


def test_ghosts_are_as_strong_as_the_main_loss_and_survive_large_z():
    z, silent, decoder, residual = drawn(3)
    assert silent.any()
    loss = revivals.ghost_gradients(z, silent, decoder, residual)
    assert float(loss) == pytest.approx(0.5 * float((residual**2).mean()), rel=1e-4)
    huge = jnp.where(silent[None, :], z, 200.0)  # exp would overflow for the others
    gradient = jax.grad(lambda z: revivals.ghost_gradients(z, silent, decoder, residual))(huge)
    assert np.isfinite(gradient).all()


def test_resampled_latents_point_at_bad_examples():
    chance = np.random.default_rng(0)
    inputs = jnp.asarray(chance.normal(size=(4, 6)), jnp.float32)
    encoder = jnp.asarray(chance.normal(size=(6, 4000)), jnp.float32)
    silent = jnp.arange(4000) < 3000
    losses = jnp.array([1.0, 2.0, 0.0, 3.0])
    columns, rows = revivals.resampled(KEY, inputs, losses, encoder, silent)
    directions = inputs / jnp.linalg.norm(inputs, axis=1, keepdims=True)
    which = np.asarray(rows @ directions.T > 0.9999)
    np.testing.assert_allclose(which.mean(0), np.array([1, 4, 0, 9]) / 14, atol=0.03)
    mean = np.linalg.norm(np.asarray(encoder)[:, 3000:], axis=0).mean()
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 0.2 * mean, rtol=1e-4)
    np.testing.assert_allclose(rows, columns.T / (0.2 * mean), rtol=1e-3, atol=1e-6)


def test_resampling_renews_silent_latents_and_their_memory_alone():
    """The state before a reset that is due, half of whose latents were told to be silent."""
    config, task, state = setup(change(reset="resample", reset_every=10, initial_bias=-0.1))
    state, _ = jax.jit(train_step)(config, task, KEY, state)
    memory = resets.remembered(config, state.optimizer)
    silent = jnp.arange(10) < 4
    memory = memory._replace(silent=jnp.where(silent, 5, 4))
    state = state._replace(optimizer=resets.with_memory(state.optimizer, memory))
    after = jax.jit(interventions.reset_units)(config, task, KEY, state)
    own, before = numpy_of(after.params), numpy_of(state.params)
    np.testing.assert_allclose(np.linalg.norm(own["output"]["kernel"][:4], axis=1), 1, rtol=1e-5)
    assert not own["hidden_1"]["bias"][:4].any()
    seen = np.asarray(task.probe - state.params["output"]["bias"][None, :])
    cosines = own["output"]["kernel"][:4] @ (seen / np.linalg.norm(seen, axis=1)[:, None]).T
    np.testing.assert_allclose(cosines.max(1), 1, rtol=1e-5)
    for name, axis in (("hidden_1", 1), ("output", 0)):
        kept = [np.take(tree[name]["kernel"], range(4, 10), axis) for tree in (own, before)]
        np.testing.assert_array_equal(*kept)
        moments = np.take(after.optimizer[0][0].mu[name]["kernel"], range(4), axis)
        assert not moments.any()
    np.testing.assert_array_equal(own["output"]["bias"], before["output"]["bias"])


@pytest.mark.slow
@pytest.mark.parametrize("revival", ["aux_k", "ghost_gradients"])
def test_lanes_of_a_grid_are_the_runs_by_themselves_and_revivals_move_the_dead(revival):
    base = change(activation="top_k", top_k=2, revival=revival, silent_after=5.0, scaling_dose=8.0)
    result = run_sweep(base, {"revival_scale": [0.0, 1.0], "scaling_dose": [0.5, 8.0]}, seeds=1)
    cell = {"revival_scale": 1.0, "scaling_dose": 8.0, "seed": 0}
    run = training.train(dataclasses.replace(base, revival_scale=1.0))
    found = result.sel(cell, method="nearest")
    np.testing.assert_allclose(found.held_error, run.held_error, rtol=1e-2)
    silent = resets.remembered(base, run.state.optimizer).silent
    assert silent.max() > 5 or run.history.recoveries.sum() > 0
    off, on = (result.sel(revival_scale=v, scaling_dose=8.0).held_error.values for v in (0.0, 1.0))
    assert off != on
    plain = training.train(dataclasses.replace(base, revival="none", silent_after=None))
    np.testing.assert_allclose(off[0], plain.held_error, rtol=1e-2)


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "teacher_student"}, "as many targets as inputs, not task='teacher_student'"),
        ({"task": "digits", "dimension": 16}, "as many targets as inputs, not task='digits'"),
        ({"hidden": (4, 4), "biased_units": 4}, r"hidden=\(4, 4\): model='autoencoder' has one"),
        ({"decoder_bias": "mean", "output_bias": False}, "needs output_bias=True"),
        ({"decoder_bias": "median"}, "decoder_bias='median' is not known"),
        ({"model": "mlp", "decoder_bias": "mean"}, "is not used by model='mlp'"),
        ({"penalty": "l1"}, "penalty_scale=None: penalty='l1' needs one"),
        ({"penalty_scale": 0.1}, "penalty_scale=0.1 is not used by penalty='none'"),
        ({"penalty": "l1", "penalty_scale": -1.0}, "penalty_scale=-1.0 must be finite and >= 0"),
        ({"penalty": "l0", "penalty_scale": 0.1}, "which activation='relu' has not"),
        ({"revival": "auxk"}, 'did you mean "aux_k"'),
        ({"silent_after": 5.0}, "silent_after=5.0 is not used by revival='none'"),
        ({"revival": "aux_k", "silent_after": 0.0}, "silent_after=0.0 must be finite and >= 1"),
        ({"revival": "aux_k", "activation": "crelu"}, "one output per unit"),
        ({"model": "mlp", "reset": "resample", "reset_every": 10}, "needs an autoencoder"),
        ({"target_scale": 2.0}, "needs a regression task with targets of its own"),
        ({"top_k": 2}, "top_k=2 is not used by activation='relu'; use top_k=None, or"),
    ],
)  # fmt: skip
def test_bad_fields_get_one_line_with_the_remedy(fields, words):
    with pytest.raises(ValueError, match=words) as raised:
        validate(change(**fields))
    assert "\n" not in str(raised.value)


def test_accounts_and_certificates_refuse_what_they_do_not_know():
    for fields, words in (
        ({"definition": "dead"}, "model='autoencoder': .* do not cover it"),
        ({"model": "mlp", "penalty": "l1", "penalty_scale": 0.1}, "penalty_scale=0.1: .* do not"),
        ({"model": "mlp", "revival": "aux_k"}, "revival='aux_k': .* do not cover it"),
        ({"model": "mlp", "activation": "jump_relu"}, "do not cover a threshold that moves"),
    ):
        config = validate(change(**({"definition": "dead"} | fields)))
        for covered in (certificates.COVERED, channels.COVERED):
            with pytest.raises(ValueError, match=words):
                check_covered(config, "accounts", covered)


# The experiment -----------------------------------------------------------------------------------


def test_every_arm_is_a_config_that_can_run_on_the_same_seeds():
    grids = sweep.make_grids(sweep.DEFAULTS)
    assert len({(g.root_seed, g.seeds) for g in grids.values()}) == 1
    assert set(grids) == {f"{a} {r}" for a, r in sweep.arms(sweep.DEFAULTS).values()}
    assert set(sweep.REVIVALS) - {sweep.PLAIN} == set(verdicts.SOURCES)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"activations": ("rely",)}, "activations='rely' is not known"),
        ({"revivals": ("aux",)}, "revivals='aux' is not known"),
        ({"gammas": ()}, r"gammas=\(\) must name at least one"),
        ({"gammas": (-1.0,)}, "must all be >= 0"),
        ({"seeds": 1}, "seeds=1 must be at least 2"),
        ({"timing_rounds": 1}, "timing_rounds=1 must be at least 2"),
    ],
)
def test_bad_options_get_one_line(fields, words):
    with pytest.raises(ValueError, match=words) as raised:
        sweep.make_grids(dataclasses.replace(sweep.DEFAULTS, **fields))
    assert "\n" not in str(raised.value)


def test_claims_from_numbers_made_by_hand():
    """AuxK halves the dead latents in every seed, ghost gradients change nothing."""
    options = dataclasses.replace(
        sweep.DEFAULTS, activations=("relu",), revivals=("aux_k", "ghost_gradients"),
        gammas=(1.0, 4.0), rates=(0.01,), biases=(0.0,), seeds=12,
    )  # fmt: skip
    noise = 0.005 * np.sin(np.arange(12.0) ** 2)
    measured = {}
    for gamma, dead in ((1.0, 0.2), (4.0, 0.6)):
        for revival, factor in (("plain", 1.0), ("aux_k", 0.5), ("ghost_gradients", 1.0)):
            measured["relu", revival, gamma, 0.01, 0.0] = {
                "dead": dead * factor + noise * (1 if revival == "plain" else 2),
                "fvu": np.log(np.full(12, 0.1)) + noise,
                "l0": np.full(12, 8.0) + noise,
            }
    made, rows = verdicts.revival_claims(options, measured)
    found = {claim.claim.split(" leaves")[0]: claim.verdict for claim in made}
    assert found == {"AuxK": "confirmed", "Ghost gradients": "refuted"}
    change_of = rows[0]["dead"]["estimate"]
    assert rows[0]["revival"] == "aux_k" and change_of == pytest.approx(-0.2 + noise.mean())
    assert [r["gamma"] for r in rows[0]["by_gamma"]] == [1.0, 4.0]
    (mean,) = verdicts.mean_claims(options, measured)
    assert mean.verdict == "confirmed" and mean.estimate == pytest.approx(
        0.4
    )  # the noise of a seed is the same in both
    births = [{"estimate": 0.5, "interval": [0.4, 0.6], "law": 0.45, "gamma": 1, "trials": 9}]
    assert verdicts.birth_claim(options, births)[0].verdict == "confirmed"
    assert verdicts.birth_claim(options, []) == []


@pytest.mark.slow
def test_quick_autoencoders(tmp_path):
    command = [sys.executable, "-m", "experiments", "autoencoders", "--quick", "--out"]
    run = lambda *more: subprocess.run(  # noqa: E731
        [*command, str(tmp_path), *more], capture_output=True, text=True, cwd=ROOT
    )
    done = run()
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {row["verdict"] for row in summary["claims"]} <= set(claims.VERDICTS)
    assert all(0 <= row["dead"]["estimate"] <= 1 for row in summary["cells"])
    assert {row["l0"] for row in summary["cells"] if row["activation"] == "top_k"} == {4.0}
    born = {row["gamma"]: row for row in summary["births"]}
    assert born[8.0]["interval"][0] <= born[8.0]["law"] <= born[8.0]["interval"][1]
    assert set(summary["definitions"]) == set(analysis.DEFINITIONS)
    for name in ("autoencoders_dead", "autoencoders_revivals"):
        (tmp_path / f"{name}.png").unlink()
    assert run("--draw").returncode == 0
    assert (tmp_path / "autoencoders_revivals.png").stat().st_size > 10_000
