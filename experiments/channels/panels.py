"""Trains the panels and the forks, and certifies the units of the panels at step 0."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr

from experiments.channels.closed_forms import BOUNDARIES
from experiments.channels.forks import Fork, make_fork
from experiments.channels.step_0 import Certified, Start, certify_panel, start_of
from experiments.channels.sweep import CHANNELS, Channel, Options, chosen_forks
from relu_dynamics.engine.activations import activation_of
from relu_dynamics.experiment import compiling
from relu_dynamics.grid import Grid
from relu_dynamics.sweeps import studies


class Panel(NamedTuple):
    """One channel's runs and what is known of them at step 0."""

    channel: Channel
    grid: Grid
    result: xr.Dataset
    start: Start | None  # of channels with a boundary
    certified: Certified | None  # of ReLU networks


class Results(NamedTuple):
    """Everything that is analysed."""

    panels: Mapping[str, Panel]  # by channel
    forks: list[Fork]


def train(options: Options, grids: Mapping[str, Grid], out: pathlib.Path) -> Results:
    """Panels, stored in a folder each, and forks, which are made anew by every call."""
    with compiling(options.fast_compile):
        results = studies.sweep_study(grids, out)
        panels = {
            channel.name: make_panel(options, channel, grids[channel.name], results[channel.name])
            for channel in CHANNELS
            if channel.name in grids
        }
        forks = [make_fork(options, name, change) for name, change in chosen_forks(options).items()]
    return Results(panels, forks)


def make_panel(options: Options, channel: Channel, grid: Grid, result: xr.Dataset) -> Panel:
    """A panel from its result, with its step 0."""
    start = certified = None
    if channel.name in BOUNDARIES:
        start = start_of(grid.config, grid.seeds, grid.root_seed)
    if activation_of(grid.config).rectifies:
        seeds = len(grid.seeds) if channel.name == "none" else options.certified_seeds
        certified = certify_panel(result, grid, seeds)
    return Panel(channel, grid, result, start, certified)
