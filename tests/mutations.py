"""Seeded bugs that the suite must catch: `python tests/mutations.py` prints passed / total as JSON.

Each is one line of the package changed in a copy of the repository, in a way that still runs and
gives wrong science; it is caught when the tests named with it, which pass without it, fail. They
are of the fast suite. About ten minutes on two cores. Not collected by pytest.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent


class Mutation(NamedTuple):
    """A bug: what it does, where, and which tests should see it."""

    bug: str
    file: str  # of the package
    old: str  # occurs exactly once
    new: str
    tests: str  # a file, or one test of it


MUTATIONS = (
    Mutation(
        "a unit at exactly 0 counts as alive",
        "engine/outcomes.py",
        "    dead = margin <= 0\n",
        "    dead = margin < 0\n",
        "test_outcomes.py",
    ),
    Mutation(
        "dust counts as a recovery",
        "engine/outcomes.py",
        "    revived = (margin > tolerance) & (bounds.lower > 0)\n",
        "    revived = margin > 0\n",
        "test_outcomes.py",
    ),
    Mutation(
        "a margin of exactly 0 is ambiguous",
        "engine/probes.py",
        "        upper=jnp.minimum(bounds.upper, halve(jnp.maximum, z + error)),\n",
        "        upper=bounds.upper,\n",
        "test_exact_signs.py",
    ),
    Mutation(
        "a certificate ignores the rounding that an evaluation allows for",
        "certificates/case.py",
        "    lower, upper = z - 2 * error, z + 2 * error\n",
        "    lower, upper = z + 0 * error, z + 0 * error\n",
        "test_exact_signs.py",
    ),
    Mutation(
        "a diverged run keeps its units' other outcomes",
        "engine/outcomes.py",
        "((h.diverged_at != NEVER)[..., None], Outcome.DIVERGED)",
        "((h.diverged_at == -2)[..., None], Outcome.DIVERGED)",
        "test_outcomes.py",
    ),
    Mutation(
        "ReLU has the derivative 1/2 at 0",
        "engine/activations.py",
        "        jax.nn.relu, rectifies=True, homogeneous=True, ",
        "        lambda z: jnp.maximum(z, 0), rectifies=True, homogeneous=True, ",
        "test_training.py::test_relu_has_derivative_zero_at_zero",
    ),
    Mutation(
        "decoupled decay does not scale with the learning rate",
        "engine/optimizers.py",
        "lambda u, p, m: u - rate * decay * p if m else u",
        "lambda u, p, m: u - decay * p if m else u",
        "test_by_hand.py::test_decay_under_plain_sgd_multiplies_what_it_should",
    ),
    Mutation(
        "every step draws the same batch",
        "engine/step.py",
        'jax.random.fold_in(purpose_key(key, "batch"), step)',
        'jax.random.fold_in(purpose_key(key, "batch"), 0)',
        "test_training.py::test_batches_are_independent_draws_with_replacement",
    ),
    Mutation(
        "deviations of z are those of a sample, 1/(n-1)",
        "engine/probes.py",
        "each=lambda z: (z - mean[None, :]) ** 2) / size)",
        "each=lambda z: (z - mean[None, :]) ** 2) / (size - 1))",
        "test_probes.py::test_unit_statistics_agree_with_numpy",
    ),
    Mutation(
        "exact intervals are one-sided",
        "statistics/intervals.py",
        "    tail = (1 - level) / 2\n",
        "    tail = 1 - level\n",
        "test_statistics.py::test_exact_interval_of_the_published_examples",
    ),
    Mutation(
        "blocks of a seed are trained with another seed",
        "grid.py",
        "return self.seeds[block // self.chunks]",
        "return self.seeds[block % len(self.seeds)]",
        "test_by_hand.py::test_the_runs_of_blocks_have_the_values_and_seeds_of_their_cells",
    ),
    Mutation(
        "a damaged block passes",
        "store/blocks.py",
        "    if digest != _digest(arrays, header):\n",
        "    if False:\n",
        "test_reliability.py::test_a_block_with_another_number_under_its_old_seal_is_set_aside",
    ),
    Mutation(
        "the absorbing shift of a normalization is too shallow",
        "theory/activations.py",
        "np.sqrt(size - 1 if centred else size)",
        "np.sqrt(size - 2 if centred else size - 1)",
        "test_theory.py::test_absorbing_shift_values",
    ),
    Mutation(
        "heavy-ball's residue goes unaccounted",
        "channels/terms.py",
        "scaled(-rate * momentum)(memory)",
        "scaled(-rate * momentum**2)(memory)",
        "test_channels.py::test_the_sources_sum_to_the_update_that_optax_makes",
    ),
    Mutation(
        "noise is drawn from the batch's key",
        "engine/keys.py",
        'purpose_key(key, "noise")',
        'purpose_key(key, "batch")',
        "test_by_hand.py::test_what_is_drawn_for_one_purpose_comes_from_no_other_purposes_key",
    ),
    Mutation(
        "killed units are drawn from the noise's key",
        "engine/keys.py",
        '"kill": 4',
        '"kill": 3',
        "test_by_hand.py::test_what_is_drawn_for_one_purpose_comes_from_no_other_purposes_key",
    ),
    Mutation(
        "seeds 2^32 apart are the same",
        "engine/keys.py",
        "jax.random.fold_in(root, np.uint32(high))",
        "jax.random.fold_in(root, np.uint32(0))",
        "test_by_hand.py::test_seeds_far_apart_have_keys_of_their_own",
    ),
    Mutation(
        "pooled numbers are clustered by cell, not by seed",
        "statistics/estimates.py",
        "(part.sum(others) for part in counts(result, measure, layer))",
        "(part.reshape(len(part), -1) for part in counts(result, measure, layer))",
        "test_by_hand.py::test_what_is_pooled_over_cells_has_as_many_runs_as_seeds",
    ),
    Mutation(
        "units of diverged runs are alive at the end",
        "statistics/estimates.py",
        "lambda r: r.alive & _finite(r)",
        "lambda r: r.alive",
        "test_by_hand.py::test_a_measure_counts_unit_by_unit_what_its_definition_says",
    ),
    Mutation(
        "units of diverged runs leave the denominator of recovered",
        "statistics/estimates.py",
        "result.dead_at_start & ~result.near_zero_at_start & result.biased",
        "result.dead_at_start & ~result.near_zero_at_start & result.biased & _finite(result)",
        "test_by_hand.py::test_a_measure_counts_unit_by_unit_what_its_definition_says",
    ),
    Mutation(
        "divergence before recovery is treated as censoring",
        "statistics/estimates.py",
        "((diverged, 2), (recovered, 1))",
        "((diverged, 0), (recovered, 1))",
        "test_by_hand.py::test_a_run_that_diverged_will_not_recover_and_stays_in_the_denominator",
    ),
    Mutation(
        "a frozen arm freezes the biased layer too",
        "channels/forks.py",
        "range(1, config.biased_layer))\n    # Selected",
        "range(1, config.biased_layer + 1))\n    # Selected",
        "test_by_hand.py::test_the_layers_below_are_frozen_and_the_biased_one_is_not",
    ),
    Mutation(
        "held-out inputs are scaled by their own statistics",
        "engine/scalings.py",
        "scaling.scale(held, inputs, dose)",
        "scaling.scale(held, held, dose)",
        "test_by_hand.py::test_held_out_inputs_are_scaled_as_the_training_inputs_are",
    ),
    Mutation(
        "the factor on the targets leaves out held-out ones",
        "engine/tasks.py",
        "(part * config.target_scale for part in (targets, held_targets))",
        "(targets * config.target_scale, held_targets)",
        "test_by_hand.py::test_the_factor_on_the_targets_reaches_training_and_held_out_ones",
    ),
    Mutation(
        "the loss is the mean square, not half of it",
        "engine/tasks.py",
        "return 0.5 * jnp.mean(",
        "return jnp.mean(",
        "test_by_hand.py::test_losses_are_half_the_mean_square_and_the_cross_entropy",
    ),
    Mutation(
        "noise does not scale with the learning rate",
        "engine/step.py",
        "scale = config.learning_rate * config.noise_scale",
        "scale = config.noise_scale",
        "test_by_hand.py::test_noise_is_the_rate_times_its_scale_times_a_standard_normal",
    ),
    Mutation(
        "the upstream rate scales the biased layer too",
        "engine/step.py",
        '[f"_{layer}" for layer in range(1, config.biased_layer)]',
        '[f"_{layer}" for layer in range(1, config.biased_layer + 1)]',
        "test_by_hand.py::test_the_upstream_rate_scales_the_layers_below_the_biased_one_and_no_other",
    ),
    Mutation(
        "the outside gradient pushes every unit of the layer",
        "engine/step.py",
        "shift.at[: config.biased_units].add(config.outside_gradient)",
        "shift.at[:].add(config.outside_gradient)",
        "test_by_hand.py::test_the_outside_gradient_and_the_initial_bias_reach_the_biased_units_alone",
    ),
    Mutation(
        "gradients are clipped at twice the norm",
        "engine/step.py",
        "optax.clip_by_global_norm(config.clip_norm)",
        "optax.clip_by_global_norm(2 * config.clip_norm)",
        "test_by_hand.py::test_a_clipped_gradient_has_the_norm_and_the_direction_that_it_should",
    ),
    Mutation(
        "decay of the weights reaches the biases",
        "engine/optimizers.py",
        '"weights": (2,)',
        '"weights": (1, 2)',
        "test_by_hand.py::test_decay_under_plain_sgd_multiplies_what_it_should",
    ),
    Mutation(
        "a cosine schedule is twice as long",
        "engine/optimizers.py",
        "cosine_decay_schedule(1.0, decay)",
        "cosine_decay_schedule(1.0, 2 * decay)",
        "test_by_hand.py::test_schedules_are_their_formulas",
    ),
    Mutation(
        "the momentum is 0.99 where none is given",
        "engine/optimizers.py",
        "DEFAULT_MOMENTUM = 0.9\n",
        "DEFAULT_MOMENTUM = 0.99\n",
        "test_by_hand.py::test_the_momentum_default_is_that_of_the_papers",
    ),
    Mutation(
        "one unit too many is killed",
        "engine/interventions.py",
        "order < jnp.round(",
        "order <= jnp.round(",
        "test_by_hand.py::test_as_many_units_are_killed_as_the_share_says",
    ),
    Mutation(
        "cells are numbered with the first axis fastest",
        "grid.py",
        "np.unravel_index(cells, self.shape)",
        'np.unravel_index(cells, self.shape, order="F")',
        "test_by_hand.py::test_the_runs_of_blocks_have_the_values_and_seeds_of_their_cells",
    ),
    Mutation(
        "a transient recovery counts as sustained",
        "engine/outcomes.py",
        "(step - spell_start >= sustain)",
        "(step - spell_start >= 0)",
        "test_outcomes.py",
    ),
)


def fail(tests: str, bug: Mutation | None = None) -> bool:
    """Whether a file of tests fails on a copy of the repository, with a bug in it or none."""
    with tempfile.TemporaryDirectory(prefix="relu_dynamics_mutation_") as name:
        copy = pathlib.Path(name) / "copy"
        ignored = shutil.ignore_patterns(".*", "runs", "docs", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=ignored)
        if bug is not None:
            path = copy / "relu_dynamics" / bug.file
            text = path.read_text()
            if text.count(bug.old) != 1:
                raise ValueError(f"{bug.bug}: its line is not in {bug.file} exactly once.")
            path.write_text(text.replace(bug.old, bug.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-n", "0"]
        environment = {**os.environ, "PYTHONPATH": str(copy)}  # also for what the tests start
        done = subprocess.run(
            [*command, f"tests/{tests}"],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode not in (0, 1):  # 2 and more: it did not come to the tests
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return done.returncode == 1


def main() -> None:
    """Tries every mutation, or those whose file is named on the command line. Their tests must
    first pass without one: a test that always fails catches nothing."""
    chosen = [m for m in MUTATIONS if not sys.argv[1:] or m.file in sys.argv[1:]]
    for tests in sorted({mutation.tests for mutation in chosen}):
        if fail(tests):
            raise RuntimeError(f"{tests} fails without any bug.")
    missed = []
    for mutation in chosen:
        caught = fail(mutation.tests, mutation)
        print(f"{'caught' if caught else 'MISSED'}: {mutation.bug}", file=sys.stderr, flush=True)
        missed += [] if caught else [mutation.bug]
    found = {"passed": len(chosen) - len(missed), "total": len(chosen), "missed": missed}
    print(json.dumps(found))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
