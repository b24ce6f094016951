"""Every figure from the stored result, with its caption: what it shows, n and the definition."""

import json

import xarray as xr
from matplotlib.figure import Figure

from experiments.one_unit.account_figure import draw_account
from experiments.one_unit.analysis import gradient_while_dead, life_of, network_of, phases_of
from experiments.one_unit.layer_figure import Animation, animate_layer
from experiments.one_unit.life_figure import draw_life, draw_ridges, ridge_steps
from experiments.one_unit.network_figure import draw_network
from relu_dynamics.engine import optimizers, tasks


def captions(result: xr.Dataset) -> dict[str, str]:
    """What every figure shows, with n and the definition."""
    config = json.loads(result.attrs["identity"])["config"]
    small = json.loads(result.attrs["network_config"])
    seeds, examples = result.sizes["seed"], result.sizes["example"]
    chosen = (
        f"Unit {result.attrs['chosen_unit']} of seed {result.attrs['chosen_seed']}: of "
        f"{seeds * result.sizes['unit']} units (hidden layer {config['biased_layer']}, {seeds} "
        "seeds) the one with the largest climb that recovered for good."
    )
    widths = "-".join(map(str, config["hidden"]))
    words = {"weight_decay": "decay", "noise_scale": "noise", "batch_size": "batch"}
    texts = [f"{word} {config[name]:g}" for name, word in words.items() if config[name]]
    momentum = "" if config["momentum"] is None else f" {config['momentum']:g}"
    ran = (
        f"Run: {tasks.label_of(config['task'])}, hidden {widths}, "
        f"{optimizers.label_of(config['optimizer'])}{momentum}, "
        f"rate {config['learning_rate']:g}, {', '.join(texts)}."
    )
    most = gradient_while_dead(result)
    silent = "0 at every step" if most == 0 else f"at most {most:.0e} per step"
    dead = f"Dead: largest z <= 0 over the probe set of {examples} examples."
    asinh = "The axis is linear within 1 of 0, logarithmic beyond."
    residual = max(abs(phase.residual) for phase in phases_of(result))
    layers = "-".join(map(str, (small["dimension"], *small["hidden"], 1)))
    return {
        "life": f"{chosen} {ran} {dead} {asinh} The band of one deviation is cut at the smallest "
        "and largest z.",
        "ridges": f"{chosen} {dead} Densities of n = {examples} z, each scaled to its own peak, "
        "that end at the smallest and largest z; blue: above 0, alive; tick: margin; orange "
        f"step: dead. {asinh}",
        "account": f"{chosen} {ran} {dead} Bars: what each channel moved the margin by, summed "
        "over the steps. Exact: bars sum to the change, largest residual "
        f"{residual:.0e} (float32 rounding). While dead, gradient moves it by {silent}. "
        "Residue: what the optimizer remembers; upstream: the layer below moved; handover: "
        "another example took over the margin."
        + (" No normalization here." if config["normalization"] == "none" else ""),
        "network": f"Measured over n = {small['examples']} training examples after "
        f"{small['steps']} steps ({tasks.label_of(small['task'])}, {layers}, rate "
        f"{small['learning_rate']:g}), seed {result.attrs['network_seed']}: the first that ends "
        "with exactly one dead unit, in its last hidden layer and alive at step 0. Forward: mean "
        "|weight x activation| on an edge, mean |activation| in a unit. Backward: |loss gradient| "
        "of the weight on its edge, of the bias in its unit. Dead: z <= 0 for all examples. "
        "Crosses: exactly 0.",
        "layer": f"z over {examples} probe examples, all units of hidden layer "
        f"{config['biased_layer']} (numbered over all layers), seed {result.attrs['chosen_seed']}; "
        f"boxed: the unit of the other figures. {ran} Dead (orange): largest z (bar) <= 0. Blue: "
        f"the part above 0. Widths scaled to each unit's own peak. {asinh}",
    }


def draw_the_life(result: xr.Dataset) -> Figure:
    """The ribbon of the chosen unit's z."""
    return draw_life(life_of(result), captions(result)["life"])


def draw_its_ridges(result: xr.Dataset) -> Figure:
    """The distribution of its z as it dies and comes back."""
    life = life_of(result)
    steps = ridge_steps(life.death, life.recovery, int(life.step[-1]))
    return draw_ridges(steps, result.unit_z.values[steps], captions(result)["ridges"])


def draw_its_account(result: xr.Dataset) -> Figure:
    """What moved it."""
    return draw_account(phases_of(result), captions(result)["account"])


def draw_the_network(result: xr.Dataset) -> Figure:
    """Where gradient flows in the small network."""
    return draw_network(network_of(result), captions(result)["network"])


def draw_the_layer(result: xr.Dataset) -> Animation:
    """Its whole layer in motion."""
    return animate_layer(
        result.frame.values,
        result.frame_z.values,
        result["look"].values,
        result.dead_units.values,
        result.unit.values.tolist(),
        result.attrs["chosen_unit"],
        captions(result)["layer"],
    )
