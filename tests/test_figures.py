"""Every figure as a reader meets it: n, seeds, steps and the definition in its caption, words and
no identifiers in its texts; and what is drawn of a 0, of a task, and of a closed form."""

import dataclasses
import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axis import Axis
from matplotlib.text import Text

from experiments import find
from experiments.causes.analysis import dead_where_finite
from experiments.channels import sweep
from experiments.channels.closed_forms import BOUNDARIES, boundary_line
from experiments.channels.fork_effects import ratio_interval
from experiments.channels.step_0 import Start
from relu_dynamics import figures, theory
from relu_dynamics.config import Config
from relu_dynamics.engine import tasks
from relu_dynamics.engine.outcomes import NEVER
from relu_dynamics.experiment import conduct
from relu_dynamics.grid import make_grid
from relu_dynamics.sweeps.sweep import sweep_grid

DRAWN = (
    "autoencoder_birth",
    "born_dead",
    "boundary",
    "calibration",
    "causes",
    "channels",
    "collapse",
    "consequences",
    "continual",
    "layers",
    "numerical_example",
    "one_unit",
    "recovery_map",
    "remedies",
    "autoencoders",
    "target_variance",
)
NOT_OF_RUNS = ("remedies_activations",)  # functions, not networks: nothing is dead in it


def texts_of(figure) -> list[str]:
    """All texts of a figure that a reader sees."""
    figure.canvas.draw()  # tick labels are made then
    found = [artist for artist in figure.findobj(Text) if artist.get_visible()]
    return [text for text in (artist.get_text() for artist in found) if text]


def assert_print_holds(figure, stem: str):
    """Texts lie within the figure, none below 6 points, and tick labels of an axis do not touch."""
    figure.set_dpi(300)  # as it is saved
    figure.canvas.draw()
    paper = figure.bbox.expanded(1.002, 1.002)
    axes_of_lines = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [label for axis in axes_of_lines for label in axis.get_ticklabels(which="both")]
    texts = [text for text in figure.findobj(Text) if text not in ticks]
    for axis in axes_of_lines:
        shown = shown_labels(axis)
        texts += shown
        level = [label for label in shown if label.get_rotation() in (0, 90)]
        for one, other in itertools.combinations(level, 2):
            boxes = [label.get_window_extent().padded(-4) for label in (one, other)]  # a point
            assert not boxes[0].overlaps(boxes[1]), (stem, one.get_text(), other.get_text())
    for text in texts:
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent()
            assert text.get_fontsize() >= 6, (stem, text.get_text())
            assert paper.contains(box.x0, box.y0), (stem, text.get_text())
            assert paper.contains(box.x1, box.y1), (stem, text.get_text())


def shown_labels(axis: Axis) -> list[Text]:
    """The tick labels of an axis that are drawn: matplotlib keeps others beyond its ends."""
    if not axis.axes.axison or not axis.get_visible():
        return []
    low, high = sorted(axis.get_transform().transform(axis.get_view_interval()))
    reach = 1e-6 * (high - low)
    found = []
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        place = axis.get_transform().transform(tick.get_loc())
        if low - reach <= place <= high + reach:
            labels = (tick.label1, tick.label2)
            found += [label for label in labels if label.get_visible() and label.get_text()]
    return found


def without_mathematics(text: str) -> str:
    return re.sub(r"\$[^$]*\$", "", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_captions_say_what_was_run_and_texts_hold_no_identifier(name, tmp_path):
    experiment = find(name)
    conduct(experiment, dataclasses.replace(experiment.quick, out=tmp_path))
    stored = experiment.stored(tmp_path)
    for stem, row in experiment.figures.items():
        drawn = row.draw(stored)
        figure = getattr(drawn, "figure", drawn)  # an animation has one
        if figure is not drawn:
            drawn.frame(0)
        caption = figure.get_supxlabel().replace("\n", " ")
        if stem not in NOT_OF_RUNS:
            assert re.search(
                r"[0-9)] (new |held-out )?(seeds|runs|autoencoders|networks)|seed [0-9]", caption
            ), stem
            assert re.search(r"<= 0|dead:|Dead:|exactly 0", caption), stem
        begins = re.findall(r"[a-z0-9)%] ?\. (?!n = |n: |w: |[xz] )([a-z]\S*)", caption)
        assert not begins, (stem, begins)  # a sentence that begins with a small letter
        assert_print_holds(figure, stem)
        for text in texts_of(figure):
            assert "_" not in without_mathematics(text), (stem, text)
            assert "nan" not in text.lower().split(), (stem, text)
        for axes in figure.axes:
            if axes.axison and axes.lines:
                assert axes.get_xlabel() or axes.get_title() or axes.get_ylabel(), stem
        plt.close(figure)


def test_captions_are_no_wider_than_their_figure():
    text = "forty-two units in 7 % of the runs, with max z <= 0 over the training examples; " * 6
    for width in (figures.COLUMN, figures.PAGE):
        with plt.style.context(figures.STYLE):
            figure, _ = plt.subplots(figsize=(width, 2))
            figures.write_caption(figure, text)
            figure.canvas.draw()
            box = figure._supxlabel.get_window_extent()  # pyright: ignore[reportAttributeAccessIssue]
        assert 0.75 * figure.bbox.width < box.width <= figure.bbox.width
        assert " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split()) == (
            text.strip().capitalize()
        )
        plt.close(figure)


def test_a_zero_count_is_drawn_below_what_was_counted_and_hollow():
    rates = np.array([0.01, 0.1, 1.0])
    parts = {"estimate": [0.0, 0.2, 0.0], "low": [0.0, 0.1, 0.0], "high": [0.4, 0.3, 0.2]}
    pooled = xr.Dataset(
        {name: ("learning_rate", values) for name, values in parts.items()},
        {"learning_rate": rates},
    )
    figure, axes = plt.subplots()
    figures.draw_pooled(axes, pooled, "label", "C0")
    line, hollow = axes.lines[-2:]
    np.testing.assert_array_equal(line.get_ydata(), parts["estimate"])
    np.testing.assert_array_equal(hollow.get_xdata(), rates[[0, 2]])
    assert hollow.get_markerfacecolor() == "white"
    pale, firm = (bars for bars in axes.collections)
    assert pale.get_zorder() < line.get_zorder() < firm.get_zorder()
    plt.close(figure)


def test_every_task_has_a_name_in_words():
    labels = [tasks.label_of(name) for name in tasks.SHIPPED]
    assert len(set(labels)) == len(labels) and not any("_" in label for label in labels)
    assert tasks.label_of("not_registered_here") == "not registered here"


def seen_start(seed: int, examples: int = 12, units: int = 3) -> Start:
    """Step 0 of four seeds with inputs of unequal norms."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(4, examples, 6)) * draw.uniform(0.5, 3, (4, examples, 1))
    weights = draw.normal(size=(4, 6, units)) / 2
    return Start(inputs @ weights, np.linalg.norm(inputs, axis=-1))


def noise_grid(rates=(0.03, 0.1, 0.3, 1.0), biases=(-14.0, -10.0, -6.0)):
    channel = next(c for c in sweep.CHANNELS if c.name == "noise")
    grid = sweep.channel_grid(sweep.QUICK, channel)
    return dataclasses.replace(grid, axes=(("learning_rate", rates), ("initial_bias", biases)))


@pytest.mark.parametrize("seed", range(3))
def test_the_two_lines_of_noise_enclose_random_walks(seed):
    """Half of simulated units come back at biases between the lines, at every rate."""
    start, grid = seen_start(seed), noise_grid(biases=(-40.0, -20.0, -2.0))
    single = start._replace(projections=start.projections[:1, :, :1], norms=start.norms[:1])
    least, most = (boundary_line(row, grid, single) for row in BOUNDARIES["noise"])
    config, draw = grid.config, np.random.default_rng(seed + 10)
    # Directions of the inputs with these norms: correlated walks of all examples of one unit.
    directions = draw.normal(size=(len(single.norms[0]), 6))
    directions *= (single.norms[0] / np.linalg.norm(directions, axis=1))[:, None]
    extended = np.concatenate([directions, np.ones((len(directions), 1))], axis=1)
    walks = draw.normal(size=(400, config.steps, 7)).cumsum(1) @ extended.T
    above = dict(zip(most["learning_rate"], most["initial_bias"], strict=True))
    compared = 0
    for rate, upper in zip(least["learning_rate"], least["initial_bias"], strict=True):
        if rate not in above:
            continue
        z = single.projections[0, :, 0] + rate * config.noise_scale * walks.max(1)
        half = -np.median(z.max(1))  # at this bias half of the units were back at some step
        assert above[rate] - 0.05 * abs(half) - 0.1 <= half <= upper + 0.05 * abs(half) + 0.1
        compared += 1
    assert compared >= 5


def test_a_line_is_where_its_probability_passes_one_half():
    grid, start = noise_grid(), seen_start(5)
    for boundary in BOUNDARIES["noise"]:
        line = boundary_line(boundary, grid, start)
        rates, biases = (np.array(line[name]) for name in ("learning_rate", "initial_bias"))
        assert len(rates) > 5 and (np.diff(biases) <= 0.02).all()  # deeper units at larger rates
        for shift, passed in ((-0.02, False), (0.02, True)):
            found = boundary.probability(grid.config, start, rates, biases + shift)
            assert ((found >= 0.5) == passed).all()
    shift = theory.absorbing_shift(grid.config.hidden[0])
    (norm,) = BOUNDARIES["layer_norm"]
    config = dataclasses.replace(grid.config, normalization="layer")
    own = dataclasses.replace(noise_grid(biases=(-6.0, -2.0)), config=config)
    flat = boundary_line(norm, own, start)
    np.testing.assert_allclose(flat["initial_bias"], -shift, atol=0.01)


def test_an_interval_of_a_ratio_covers_it():
    """95 % intervals of a ratio of sums cover the ratio of the expectations in random cases."""
    draw, hit = np.random.default_rng(0), 0
    for _ in range(600):
        wholes = draw.gamma(3, size=20)
        low, high = ratio_interval(wholes * draw.normal(0.4, 0.3, 20), wholes)  # pyright: ignore[reportGeneralTypeIssues]
        hit += low <= 0.4 <= high
    assert 0.92 <= hit / 600 <= 0.98
    wholes = draw.gamma(3, size=5)
    exact = ratio_interval(0.7 * wholes, wholes)
    assert exact is not None
    np.testing.assert_allclose(exact, 0.7, rtol=1e-12)
    assert ratio_interval(wholes[:1], wholes[:1]) is None
    assert ratio_interval(wholes, 0 * wholes) is None


@pytest.mark.slow  # compiles a grid
def test_the_dead_share_without_diverged_runs_is_that_of_the_others():
    """Against the same count without an interval, in a grid where some runs diverge."""
    config = Config(
        task="teacher_student",
        examples=32,
        hidden=(6,),
        biased_layer=1,
        biased_units=2,
        batch_size=None,
        steps=30,
        probe_every=10,
    )
    axes = {"learning_rate": [0.1, 3.0, 1e4], "initial_bias": [-9.0]}
    result = sweep_grid(make_grid(config, axes, 6))
    found = dead_where_finite(result)
    finite = (result.diverged_at == NEVER).values
    assert 0 < finite.sum() < finite.size and not finite[-1].any()
    for place in np.ndindex(found.shape):
        dead = ~result.alive.transpose(*axes, "seed", "unit").values[place][finite[place]]
        assert (found[place]["successes"], found[place]["trials"]) == (dead.sum(), dead.size)
