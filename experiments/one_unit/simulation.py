"""Everything that the figures show, by the engine, as one labelled result."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.one_unit.lives import Units, choose, units_of
from experiments.one_unit.network import measure_network
from experiments.one_unit.sweep import Options
from relu_dynamics import channels
from relu_dynamics.config import Config
from relu_dynamics.engine import models, tasks, training
from relu_dynamics.engine.keys import purpose_key, run_key
from relu_dynamics.engine.normalizations import normalization_of
from relu_dynamics.engine.step import train_step


def simulate(options: Options) -> xr.Dataset:
    """Everything that the figures show, labelled; raises a ValueError when no unit or no small
    network fits."""
    config = options.config
    train = functools.partial(training.train, config, root_seed=options.root_seed, trace_units=True)
    found = [units_of(config, train(seed)) for seed in range(options.seeds)]
    found = Units(*(np.stack(leaves) for leaves in zip(*found, strict=True)))
    seed, unit = choose(found)
    number = channels.layer_units(config)[unit]
    trace = jax.tree.map(lambda leaf: np.asarray(leaf)[:, number], train(seed).trace.probe_units)
    account = channels.account(config, seed, [number], options.root_seed)
    z = watch(config, seed, options.root_seed)
    frames = np.unique(np.linspace(0, config.steps, options.frames).round().astype(int))
    network_seed, network = measure_network(options)
    moved = moved_by_channel(config, account.entries)
    path = trace.margin[0] + np.cumsum(np.sum(moved, 1, dtype=np.float64))
    data = {
        **{name: ("look", getattr(trace, name)) for name in ("margin", "mean", "deviation")},
        "minimum": ("look", trace.minimum),
        "moved": (("step", "channel"), moved),
        "unit_z": (("look", "example"), z[:, unit]),
        "dead_units": ("look", (z.max(2) <= 0).sum(1)),
        "frame_z": (("frame", "unit", "example"), z[frames]),
        **{name: (("seed", "unit"), leaf) for name, leaf in found._asdict().items()},
    }
    for name, layers in network._asdict().items():
        for layer, values in enumerate(layers):
            dims = tuple(f"net_{layer + axis}_{values.ndim}" for axis in range(values.ndim))
            data[f"network_{name}_{layer}"] = (tuple(f"{name}_{dim}" for dim in dims), values)
    text = np.array(open_channels(config), object)  # zarr: of any length
    coordinates = {
        "look": np.arange(config.steps + 1),
        "step": np.arange(config.steps),
        "frame": frames,
        "channel": text,
        "unit": np.array(channels.layer_units(config)),
        "seed": np.arange(options.seeds),
    }
    attributes = {
        "chosen_seed": seed,
        "chosen_unit": number,
        "death": int(found.death[seed, unit]),
        "recovery": int(found.recovery[seed, unit]),
        "network_seed": network_seed,
        "network_config": json.dumps(dataclasses.asdict(options.network), sort_keys=True),
        "margin_path_error": float(np.abs(path - trace.margin[1:]).max()),
        "watched_error": float(np.abs(z[:, unit].max(1) - trace.margin).max()),
    }
    return xr.Dataset(data, coordinates, attributes)


@jax.jit
def _watch(config, key, data):
    """z of the biased layer over the whole probe set before every step, [steps, batch, units]."""
    task = tasks.make_task(config, purpose_key(key, "task"), data)

    def see(params):
        with jax.default_matmul_precision(models.PRECISION):
            return models.apply(config, params, task.probe).preactivations[config.biased_layer - 1]

    (state, _), z = training.scan_steps(
        train_step,
        lambda _, before, *rest: (None, see(before.params)),
        config,
        task,
        key,
        (training.start(config, key), None),
        config.steps,
    )
    return jnp.concatenate([z, see(state.params)[None]])


def watch(config: Config, seed: int, root_seed: int) -> np.ndarray:
    """z of the biased layer over the whole probe set at every step, [steps + 1, units, batch]."""
    key = run_key(root_seed, seed)
    z = _watch(training.as_arrays(config), key, tasks.load_data(config))
    return np.asarray(z).transpose(0, 2, 1)


def open_channels(config: Config) -> tuple[str, ...]:
    """The channels of `channels.Shares` that the config has, `handover` last."""
    sources = channels.present_sources(config)
    decays = "coupled_decay" in sources or "decoupled_decay" in sources
    has = {
        "outside": "outside" in sources,
        "residue": "residue" in sources,
        "decay": decays,
        "noise": "noise" in sources,
        "upstream": config.biased_layer > 1,
        "normalization": normalization_of(config).present,
    }
    return ("gradient", *(name for name, there in has.items() if there), "handover")


def moved_by_channel(config: Config, entries: channels.Entry) -> np.ndarray:
    """What every channel moved the margin of one unit by, [steps, channels], from its account."""
    moved = channels.moved_by_channel(entries.margin.terms) | {"handover": entries.handover}
    return np.stack([np.asarray(moved[name])[:, 0] for name in open_channels(config)], axis=1)
