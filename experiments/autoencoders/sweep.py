"""What is trained: a sparse autoencoder of four activations, the revivals that change it, and a
grid for every arm."""

import dataclasses
from typing import Any

from relu_dynamics.checks import check_choice
from relu_dynamics.config import Config
from relu_dynamics.engine.validation import validate
from relu_dynamics.experiment import Options as CommonOptions
from relu_dynamics.grid import Grid, make_grid

BASE = Config(
    task="sparse_features",
    model="autoencoder",
    dimension=32,
    examples=1024,
    input_scaling="shifted",
    hidden=(64,),
    biased_layer=1,
    biased_units=64,
    initial_bias=0.0,
    optimizer="adam",
    batch_size=64,
    steps=600,
    probe_every=50,
    sustain=50,
    definition="flat",
)
PENALTY = 0.05
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {  # name: (label, what it changes of the base)
    "relu": ("ReLU, L1", {"penalty": "l1", "penalty_scale": PENALTY}),
    "top_k": ("top-k", {"activation": "top_k", "top_k": 4}),
    "batch_top_k": ("batch top-k", {"activation": "batch_top_k", "top_k": 4}),
    "jump_relu": (
        "JumpReLU, L0",
        {"activation": "jump_relu", "penalty": "l0", "penalty_scale": PENALTY},
    ),
}
PLAIN = "plain"  # the arm that all others are compared with
REVIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("plain", {}),
    "resample": ("Resampling", {"reset": "resample", "reset_every": 150}),
    "aux_k": ("AuxK", {"revival": "aux_k", "silent_after": 50.0}),
    "ghost_gradients": ("Ghost gradients", {"revival": "ghost_gradients", "silent_after": 50.0}),
    "mean": ("Decoder bias at the mean", {"decoder_bias": "mean"}),
    "geometric_median": (
        "Decoder bias at the median",
        {"decoder_bias": "geometric_median"},
    ),
    "tied": ("Tied start", {"model": "tied_autoencoder"}),
    "mean_resample": (
        "Bias at the mean + resampling",
        {"decoder_bias": "mean", "reset": "resample", "reset_every": 150},
    ),
}
REVIVED = ("relu", "top_k")  # the activations with which revivals are tried


@dataclasses.dataclass(frozen=True)
class Options(CommonOptions):
    """Latents of sparse autoencoders that die, and what brings them back."""

    config: Config = BASE
    """Base of every arm's config."""
    gammas: tuple[float, ...] = (0.0, 1.0, 4.0, 16.0)
    """||mean|| / ||deviations|| of the tokens."""
    rates: tuple[float, ...] = (0.003, 0.01)
    """Learning rates."""
    biases: tuple[float, ...] = (0.0, -1.5)
    """Initial biases of all latents; revivals are tried at the first."""
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    """Activations, by name."""
    revivals: tuple[str, ...] = ("resample", "aux_k", "ghost_gradients", "geometric_median", "tied")
    """Revivals, by name; the plain arm is always there. There are also mean and mean_resample."""
    seeds: int = 8
    """Seeds per cell."""
    timing_rounds: int = 5
    """How often every arm's step is timed, in turns."""


DEFAULTS = Options()
QUICK = Options(
    config=dataclasses.replace(BASE, dimension=16, hidden=(32,), biased_units=32, steps=300),
    gammas=(1.0, 8.0),
    rates=(0.003,),
    biases=(0.0,),
    activations=("relu", "top_k"),
    revivals=("aux_k",),
    seeds=4,
    timing_rounds=2,
)


def arms(options: Options) -> dict[str, tuple[str, str]]:
    """{"activation revival": (activation, revival)} of everything that is trained."""
    return {
        f"{activation} {revival}": (activation, revival)
        for activation in ACTIVATIONS
        if activation in options.activations
        for revival in REVIVALS
        if revival == PLAIN or (revival in options.revivals and activation in REVIVED)
    }


def arm_config(options: Options, activation: str, revival: str) -> Config:
    """The config of one arm, at a gamma of its own."""
    changes = ACTIVATIONS[activation][1] | REVIVALS[revival][1]
    return validate(dataclasses.replace(options.config, scaling_dose=options.gammas[0], **changes))


def label_of(activation: str, revival: str) -> str:
    """What an arm is called."""
    name = REVIVALS[revival][0]
    within = name[0].lower() + name[1:] if name[1:].islower() else name  # AuxK keeps its letters
    return f"{ACTIVATIONS[activation][0]}: {within}"


def make_grids(options: Options) -> dict[str, Grid]:
    """The grid of every arm; raises a one-line ValueError for options that cannot run."""
    for field, known in (("activations", ACTIVATIONS), ("revivals", REVIVALS)):
        for name in getattr(options, field):
            check_choice(field, name, tuple(known))
    for field in ("gammas", "rates", "biases", "activations"):
        if not getattr(options, field):
            raise ValueError(f"{field}=() must name at least one.")
    if min(options.gammas) < 0:
        raise ValueError(f"gammas={options.gammas} must all be >= 0.")
    if options.seeds < 2:
        raise ValueError(f"seeds={options.seeds} must be at least 2, or there is no interval.")
    if options.timing_rounds < 2:
        raise ValueError(f"timing_rounds={options.timing_rounds} must be at least 2.")

    def grid(activation, revival):
        axes = {"scaling_dose": options.gammas, "learning_rate": options.rates}
        biases = options.biases if revival == PLAIN else options.biases[:1]
        axes |= {"initial_bias": biases}
        cells = len(options.gammas) * len(options.rates) * len(biases)
        config = arm_config(options, activation, revival)
        return make_grid(
            config, axes, options.seeds, root_seed=options.root_seed, lanes=min(cells, 16)
        )

    return {name: grid(*arm) for name, arm in arms(options).items()}
