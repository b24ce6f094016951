"""Coverage: which configs the kernel can train, declared once."""

import jax

from relu_dynamics.checks import short_repr
from relu_dynamics.config import FIELDS, Config
from relu_dynamics.engine import columns, models, tasks
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.engine.native.build import BuildError, library
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.optimizers import Rule, optimizer_of
from relu_dynamics.rows import row_keys

# The fields that the kernel computes, or that have no part in a training step. What somebody adds
# takes the plain path until it stands here.
COVERED = frozenset(
    """
    learning_rate initial_bias bias_scale momentum weight_decay weight_scale
    task examples dimension input_scaling scaling_dose row_order killed_fraction
    model hidden activation initializer bias_law hidden_bias normalization output_bias
    optimizer schedule warmup_steps decay_steps decay_kind decay_targets
    batch_size batch_order steps biased_layer biased_units
    probe_size probe_every definition tolerance sustain implementation
    """.split()
)

RULES = (Rule.SGD, Rule.HEAVY_BALL, Rule.NESTEROV, Rule.ADAM)  # numbered as in kernel.cc

# Tables whose rows the kernel computes itself: a user's own row is not what it knows.
KNOWN_TABLES = ("model", "activation", "normalization", "optimizer", "decay_targets")

MOST_INPUTS = 16  # of a network of one unit

# Networks of one unit are evaluated by plain JAX, between two calls of the kernel. With evaluations
# every 1 or 25 steps plain JAX is two to four times as fast as a whole, every 200 the kernel is
# (benchmarks/growth.py).
FEW_STEPS = 100


def uncovered(config: Config) -> str | None:
    """The first field of a valid config that the kernel does not cover, as "name=value"; None when
    it covers all."""
    for name, field in FIELDS.items():
        value = getattr(config, name)
        if name not in COVERED and value is not None and value != field.default:
            return f"{name}={short_repr(value)}"
    computed = {
        "model": models.MODELS[config.model] is models.MLP,
        "activation": activation_of(config).slope_below is not None,
        "normalization": not normalization_of(config).present,
        "optimizer": optimizer_of(config).rule in RULES,
        "batch_order": config.batch_order != "independent",
        "killed_at": config.killed_fraction is None or config.killed_at == 0,  # before the steps
        "dimension": not columns.is_one_unit(config)
        or tasks.input_dimension(config) <= MOST_INPUTS,
    }
    own = {field for field, *_ in row_keys(config)}
    computed |= {name: computed.get(name, True) and name not in own for name in KNOWN_TABLES}
    for name, known in computed.items():
        if not known:
            return f"{name}={short_repr(getattr(config, name))}"
    return None


def missing() -> str | None:
    """Why this process cannot run the kernel, in words; None when it can. Compiles it if need
    be."""
    if jax.default_backend() != "cpu":
        return f"it runs on CPU, not on {jax.default_backend()}"
    try:
        library()
    except BuildError as error:
        return str(error)
    return None


def check_implementation(config: Config) -> None:
    """Raises a ValueError for a config that asks for the kernel and cannot have it."""
    if config.implementation != "kernel":
        return
    field = uncovered(config)
    if field is not None:
        raise ValueError(
            f"implementation='kernel': the kernel does not cover {field}; use implementation="
            "'plain', or 'auto' for the kernel where it can be had."
        )
    reason = missing()
    if reason is not None:
        raise ValueError(
            f"implementation='kernel': the kernel cannot be had here: {reason}; a new result may "
            "use implementation='plain', a stored one continues where the kernel can be had."
        )


def decided(config: Config) -> str:
    """The implementation that a config's "auto" stands for in this process: the faster one."""
    if config.implementation != "auto":
        return config.implementation
    if columns.is_one_unit(config) and config.probe_every < FEW_STEPS:
        return "plain"
    return "plain" if uncovered(config) is not None or missing() is not None else "kernel"
