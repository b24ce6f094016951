"""Config: everything that decides one run, and the checks that refuse what cannot run.

A config has two kinds of fields. *Traced* fields (`TRACED`) are numbers that a grid may sweep:
changing one never recompiles. *Static* fields shape the program: changing one recompiles.
A traced field that is `None` is absent from the program (no noise is drawn, no decay is added),
which is not the same as 0.

A field declares its kind, range and label on a figure where it is defined, and

* `aliases`: what else the field is called elsewhere, for the hint at an unknown name;
* `used_by`: what must hold for the field to have an effect, each "FIELD" (which is then given) or
  "FIELD.ATTRIBUTE" (of the row that the field names). Set without effect, a field is refused.
* `since`: the version in which it came, if it came later, see `to_json`.

The tables below the class are read from the fields, so a new axis is one field and its use.
"""

import dataclasses
import json
import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from relu_dynamics.checks import check_choice, is_real_number, short_repr, without_quotes
from relu_dynamics.rows import row_keys


def _static(default: Any, since: str | None = None, **declared: Any) -> Any:
    """A field that shapes the program. `since`: see `to_json`."""
    return dataclasses.field(default=default, metadata={"static": True, "since": since, **declared})


class Range(NamedTuple):
    """The finite numbers that a field allows; None: no limit on that side."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def holds(self, number: float) -> bool:
        """Whether a finite number lies in the range."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    @property
    def rule(self) -> str:
        """The range in words, for an error message."""
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            brackets = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}"
        if low is not None:
            return f"must be finite and {'>=' if self.above is None else '>'} {low:g}"
        if high is not None:
            return f"must be finite and {'<=' if self.below is None else '<'} {high:g}"
        return "must be finite"


def _traced(
    default: float | None,
    label: str,
    since: str | None = None,
    *,
    aliases: tuple[str, ...] = (),
    used_by: tuple[str, ...] = (),
    **limits: float,
) -> Any:
    """A field that a grid may sweep: its default, its label on a figure, its `Range`. `since`: see
    `to_json`."""
    declared = {"label": label, "range": Range(**limits), "since": since}
    declared |= {"aliases": aliases, "used_by": used_by}
    return dataclasses.field(default=default, metadata=declared)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: one small ReLU network, its task, its optimizer and what is recorded.

    Layers are counted from 1, as in the text: hidden layer 1 sees the inputs. An unknown field is
    refused by a ValueError that names the nearest.
    """

    def __new__(cls, *_, **fields):
        for name in fields:
            check_choice("config field", name, FIELDS)
        return super().__new__(cls)

    learning_rate: float = _traced(
        0.1, "learning rate", aliases=("lr", "eta", "step size", "learning rate init"), at_least=0
    )
    """Step size of the optimizer, >= 0 (traced)."""
    initial_bias: float = _traced(-6.0, "initial bias", aliases=("bias", "bias init"))
    """Added at step 0 to the bias of the first `biased_units` units of `biased_layer`; 0 leaves
    all biases as `bias_law` and the initializer make them. With a normalization it is the
    normalization's shift (traced)."""
    bias_scale: float | None = _traced(
        None, "scale of the initial biases", since="0.2.0", aliases=("bias std",)
    )
    """The scale of `bias_law`: the constant, the standard deviation or half the width (traced when
    given)."""
    momentum: float | None = _traced(
        None,
        "momentum",
        aliases=("beta1", "b1", "beta", "mu"),
        used_by=("optimizer.uses_momentum",),
        at_least=0,
        below=1,
    )
    """Heavy-ball or Nesterov momentum, or Adam's b1, in [0, 1). None: the optimizer's own
    default, 0.9; 0.9 itself is another program, in which Adam's 1 - b1 is a float32, so results
    agree with None to rounding only (traced when given)."""
    weight_decay: float | None = _traced(
        None, "weight decay", aliases=("wd", "l2", "decay", "l2 reg", "lambda"), at_least=0
    )
    """Decay coefficient, >= 0; how it enters is `decay_kind` (traced when given)."""
    noise_scale: float | None = _traced(
        None, "noise scale", aliases=("noise", "noise std", "sigma"), at_least=0
    )
    """Standard deviation s of additive noise: every parameter moves by learning_rate * s * N(0, 1)
    per step, whatever the gradient (traced when given)."""
    upstream_rate: float | None = _traced(None, "upstream rate factor", at_least=0)
    """Factor on the updates of all layers below `biased_layer`; 0 freezes them (traced when
    given)."""
    outside_gradient: float | None = _traced(None, "outside gradient")
    """A constant that joins the loss gradient of the biased units' shift at every step, dead or
    not: a push from outside the loss (traced when given)."""
    clip_norm: float | None = _traced(
        None,
        "gradient norm clipped to",
        aliases=("grad clip", "max grad norm", "gradient clip norm", "clip grad norm", "clip"),
        above=0,
    )
    """Largest global norm of the loss gradient, > 0; larger gradients are scaled down to it (traced
    when given)."""
    weight_scale: float | None = _traced(
        None, "factor on the initial weights", aliases=("gain", "init scale"), above=0
    )
    """Factor on every initial weight, > 0 (traced when given)."""
    scaling_dose: float | None = _traced(
        None, "input scaling dose", used_by=("input_scaling.dose",)
    )
    """How bad the input scaling is: the mean in standard deviations for "shifted" (default 3), the
    factor on the first feature that is not constant for "one_bad_feature" (default 100) (traced
    when given)."""
    killed_fraction: float | None = _traced(None, "killed fraction", at_least=0, at_most=1)
    """Share of every hidden layer's units, in [0, 1], that are killed at step `killed_at`: incoming
    weights 0, bias -1, no memory in the optimizer. Which ones is random, the same for all cells of
    a seed, and a larger share contains a smaller one (traced when given)."""
    target_scale: float | None = _traced(None, "factor on the targets", above=0)
    """Factor on the targets of a regression task, > 0: their variance grows with its square (traced
    when given)."""
    penalty_scale: float | None = _traced(
        None,
        "penalty",
        since="0.2.0",
        aliases=("l1 coefficient", "sparsity coefficient", "l1"),
        used_by=("penalty.loss",),
        at_least=0,
    )
    """Factor on the `penalty`, >= 0 (traced when given)."""
    revival_scale: float | None = _traced(
        None,
        "factor on the revival's loss",
        since="0.2.0",
        aliases=("aux k coefficient", "alpha"),
        used_by=("revival.loss",),
        at_least=0,
    )
    """Factor on the loss of the `revival`, >= 0; default 1/32 for aux_k, 1 for ghost_gradients
    (traced when given)."""
    silent_after: float | None = _traced(
        None,
        "steps until silent",
        since="0.2.0",
        aliases=("dead feature window",),
        used_by=("revival.of_silent",),
        at_least=1,
    )
    """Steps without any output on a minibatch after which a unit is silent to the `revival`;
    default 100 (traced when given)."""
    reset_rate: float | None = _traced(
        None,
        "replacement rate",
        since="0.2.0",
        aliases=("replacement rate",),
        used_by=("reset.rate",),
        at_least=0,
        at_most=1,
    )
    """Under reset="continual_backprop": share of a layer's mature units that is replaced per step,
    in [0, 1]; default 1e-4 (traced when given)."""
    reset_maturity: float | None = _traced(
        None,
        "maturity",
        since="0.2.0",
        aliases=("maturity threshold",),
        used_by=("reset.maturity",),
        at_least=0,
    )
    """Steps that a unit must be older than to be replaced by continual backpropagation; default
    100 (traced when given)."""
    reset_threshold: float | None = _traced(
        None,
        "dormancy threshold",
        since="0.2.0",
        aliases=("tau", "redo tau"),
        used_by=("reset.threshold",),
        at_least=0,
    )
    """Under reset="redo": units whose E|h| over the probe set is at most so many times the mean of
    their layer are reset; default 0.1 (traced when given)."""

    task: str = _static("digits", aliases=("dataset", "data", "loss", "problem"))
    """Name of the task, see `relu_dynamics.engine.tasks.TASKS`."""
    examples: int = _static(1024, aliases=("samples", "n samples", "n train", "train size"))
    """Number of training examples; a real data set's other examples are held out."""
    dimension: int = _static(
        16,
        aliases=("input dim", "n features", "features", "input size"),
        used_by=("task.uses_dimension",),
    )
    """Input dimension of the Gaussian teacher-student task (other tasks have their own)."""
    input_scaling: str = _static("standardized", aliases=("scaler", "scaling", "preprocessing"))
    """How inputs are scaled: standardized, minmax, raw, shifted or one_bad_feature."""
    row_order: str = _static("shuffled", since="0.2.0", used_by=("task.load",))
    """Order of a data set's rows before the first `examples` of them train: shuffled by the seed,
    or given: as they are, so that with batch_order="sequential" they are trained on in their own
    order."""
    change_every: int | None = _static(None)
    """Steps after which the task is replaced by a new one, again and again (continual learning); a
    multiple of `probe_every`. None: one task."""

    model: str = _static("mlp", aliases=("network", "architecture", "arch", "net"))
    """Name of the network, see `relu_dynamics.engine.models.MODELS`."""
    hidden: tuple[int, ...] = _static(
        (32, 32),
        aliases=("layers", "width", "widths", "hidden sizes", "hidden layer sizes", "hidden dims"),
    )
    """Width of every hidden layer; a list becomes a tuple."""
    activation: str = _static("relu", aliases=("nonlinearity", "act", "activation function"))
    """Name of the activation, see `relu_dynamics.engine.activations.ACTIVATIONS`."""
    top_k: int | None = _static(
        None, since="0.2.0", aliases=("k",), used_by=("activation.selects",)
    )
    """Units of a layer that the activation "top_k" lets through, for each example; None: half of
    them."""
    initializer: str | tuple[str, ...] = _static(
        "he_normal", aliases=("init", "kernel init", "weight init", "initialization")
    )
    """Name of the weight initializer, see `relu_dynamics.engine.initializers.INITIALIZERS`; or one
    name per hidden layer and one for the output."""
    bias_law: str | tuple[str, ...] = _static(
        "initializer", aliases=("bias initializer",), since="0.2.0"
    )
    """Law of the hidden layers' biases at step 0, one name or one per hidden layer: initializer (as
    it sets them, mostly 0), constant, normal or uniform, times `bias_scale`. With a normalization
    it is the law of its shift."""
    hidden_bias: bool | tuple[bool, ...] = _static(True, since="0.2.0")
    """Whether the hidden layers have a bias: all of them, or one answer per hidden layer."""
    normalization: str = _static("none", aliases=("norm", "norm layer"))
    """What comes between the affine map and the activation: none, batch, layer, rms or group; or
    weight, which normalizes the incoming weights instead of z."""
    output_bias: bool = _static(True, aliases=("use bias",))
    """Whether the output layer has a bias."""

    decoder_bias: str = _static(
        "zero", since="0.2.0", aliases=("pre bias",), used_by=("model.autoencodes",)
    )
    """Where the output bias of an autoencoder, which is subtracted from its inputs too, starts:
    zero, mean or geometric_median, of the training inputs."""
    penalty: str = _static("none", since="0.2.0", aliases=("sparsity penalty",))
    """What joins the loss to make units silent on most examples: none, l1 (of outputs times the
    length of outgoing weights) or l0 (of what learned thresholds let through). The reported loss
    is the task's own. See `relu_dynamics.engine.terms.PENALTIES`."""
    revival: str = _static("none", since="0.2.0", aliases=("auxiliary loss",))
    """What joins the loss to bring silent units of the last hidden layer back: none, aux_k or
    ghost_gradients, see `relu_dynamics.engine.terms.REVIVALS`."""

    optimizer: str = _static("sgd", aliases=("optim", "opt", "solver"))
    """sgd, momentum (heavy-ball), nesterov, adam, adamw or rmsprop."""
    schedule: str = _static("constant", aliases=("scheduler", "lr schedule", "lr scheduler"))
    """Course of the learning rate: constant, warmup (linear from 0), cosine (to 0) or
    warmup_cosine."""
    warmup_steps: int | None = _static(None, aliases=("warmup",), used_by=("schedule.uses_warmup",))
    """Steps of the warm-up."""
    decay_steps: int | None = _static(None, used_by=("schedule.uses_decay",))
    """Step at which a cosine schedule reaches 0; None: `steps`."""
    decay_kind: str = _static("coupled", used_by=("weight_decay", "optimizer.uses_decay_kind"))
    """coupled (added to the gradient, L2) or decoupled (subtracted from the parameter, as AdamW
    does). adamw is always decoupled."""
    decay_targets: str = _static("all", used_by=("weight_decay",))
    """What decays: all, weights or biases."""
    decay_to_start: bool = _static(
        False, since="0.2.0", aliases=("regenerative", "l2 init"), used_by=("weight_decay",)
    )
    """Whether parameters decay to their values at step 0 rather than to 0 (regenerative L2, Kumar
    et al. 2023, arXiv 2308.11958): a pull that dead units feel too. What is reset starts anew."""
    batch_size: int | None = _static(64, aliases=("batch", "minibatch", "minibatch size", "bs"))
    """Examples per step, drawn with replacement; None trains on all examples at every step."""
    batch_order: str = _static("random", aliases=("shuffle", "order"), used_by=("batch_size",))
    """random (drawn with replacement, the same for all cells of a seed), independent (likewise, but
    every cell draws its own: slower, see docs/speed.md) or sequential (examples in their order,
    over and over)."""
    steps: int = _static(
        1000,
        aliases=("epochs", "iterations", "n steps", "num steps", "max steps", "max iter", "n iter"),
    )
    """Number of steps, the horizon T."""

    biased_layer: int = _static(2)
    """Hidden layer (from 1) whose first units get `initial_bias`."""
    biased_units: int = _static(8)
    """Number of its units that get it."""
    killed_at: int = _static(0, used_by=("killed_fraction",))
    """Step at which `killed_fraction` of the units are killed, a multiple of `probe_every`."""
    reset: str = _static("none", since="0.2.0", aliases=("recycling", "reinitialization"))
    """Which units are made new while training goes on, see `relu_dynamics.engine.resets.RESETS`:
    none, redo, continual_backprop, or resample for autoencoders. Incoming weights and bias are
    drawn again by the initializer (without `initial_bias`), outgoing weights are 0, the optimizer's
    memory of both is empty; resample takes directions of badly reconstructed examples instead."""
    reset_every: int | None = _static(
        None, since="0.2.0", aliases=("redo period", "reset interval"), used_by=("reset.chooses",)
    )
    """Steps between two resets."""
    probe_size: int | None = _static(None)
    """Number of training examples on which "dead" is judged; None: all of them."""
    probe_every: int = _static(25, aliases=("eval every", "log every"))
    """Steps between two evaluations on the probe set; divides `steps`."""
    definition: str = _static("dead", since="0.2.0")
    """What the history, outcomes and estimates speak of: dead (z <= 0 on all probe examples) or
    flat (the activation's derivative is exactly 0 on all of them, at whatever z)."""
    tolerance: float = dataclasses.field(
        default=1e-6,
        metadata={"static": True, "range": Range(at_least=0), "aliases": ("tol", "atol")},
    )
    """A unit is alive again when its margin exceeds this (and the rounding bound): its largest z,
    or under definition="flat" its largest derivative."""
    sustain: int = _static(100)
    """Steps that a recovered unit must stay alive to count as sustained."""
    implementation: str = _static("plain", since="0.2.0", aliases=("backend", "engine", "path"))
    """What computes the training steps: plain (JAX), kernel (compiled C++, on CPU; refused where it
    cannot be had) or auto (of a grid: the kernel where it can be had). It changes the last bits, so
    it is part of a result's identity; see docs/speed.md."""

    @property
    def units(self) -> int:
        """Number of hidden units of all layers together."""
        return sum(self.hidden)

    @property
    def probes(self) -> int:
        """Number of evaluations on the probe set after step 0."""
        return self.steps // self.probe_every


FIELDS = {field.name: field for field in dataclasses.fields(Config)}

TRACED = tuple(name for name, field in FIELDS.items() if not field.metadata.get("static"))

_STATIC = tuple(name for name in FIELDS if name not in TRACED)

_traced_of, _static_of = operator.attrgetter(*TRACED), operator.attrgetter(*_STATIC)


def _flatten(config: Config) -> tuple[tuple, tuple]:
    """(traced fields, what decides the program: static fields, and the rows that they name)."""
    return _traced_of(config), (_static_of(config), row_keys(config))


def _flatten_with_keys(config: Config) -> tuple[tuple, tuple]:
    leaves, static = _flatten(config)
    keys = map(jax.tree_util.GetAttrKey, TRACED)
    return tuple(zip(keys, leaves, strict=True)), static


def _unflatten(static: tuple, leaves: Iterable[Any]) -> Config:
    named = zip((*TRACED, *_STATIC), (*leaves, *static[0]), strict=True)
    return Config(**dict(named))


jax.tree_util.register_pytree_with_keys(Config, _flatten_with_keys, _unflatten, _flatten)

LABELS = {name: FIELDS[name].metadata["label"] for name in TRACED}  # of an axis on a figure


def check_number(field: str, value: Any) -> float:
    """Returns `value` as a Python float; raises a ValueError when the field does not allow it."""
    allowed: Range = FIELDS[field].metadata["range"]
    if not is_real_number(value):
        remedy = f"give one real number{without_quotes(value)}."
        raise ValueError(f"{field}={short_repr(value)} {allowed.rule}: {remedy}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not allowed.holds(number):
        raise ValueError(f"{field}={short_repr(value)} {allowed.rule}.")
    if number != 0 and not (1e-37 < abs(number) < 1e38):
        raise ValueError(
            f"{field}={short_repr(value)} cannot be held in float32; use 1e-37 < |value| < 1e38."
        )
    return number


def to_json(config: Config) -> str:
    """The config as one line of canonical JSON (sorted keys), for hashes and attributes.

    A field that came later says the version in which it came (`since`), and is left out at its
    default: a result made before it keeps its identity, and its folder continues.
    """
    fields = dataclasses.asdict(config)
    for name, field in FIELDS.items():
        if field.metadata.get("since") and fields[name] == field.default:
            del fields[name]
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def differs(config: Config, name: str) -> bool:
    """Whether a field of the config is not at its default."""
    return getattr(config, name) != FIELDS[name].default


def with_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_json` wrote, as plain values, with the fields that it left out."""
    return {name: field.default for name, field in FIELDS.items()} | dict(fields)
