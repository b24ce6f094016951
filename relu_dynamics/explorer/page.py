"""The page: plots and data in one self-contained HTML file."""

from typing import Any

from relu_dynamics import figures
from relu_dynamics.engine.outcomes import DEFINITIONS
from relu_dynamics.explorer.numbers import OUTCOMES
from relu_dynamics.pages import self_contained, text_in
from relu_dynamics.statistics import estimates

GREEN, GREY, BLUE, RED = "#00704F", "#555555", "#0072B2", "#B3400A"  # at least 4.5:1 on white

FONT = "system-ui, sans-serif"


def render(maps: list[dict]) -> str:
    from bokeh.resources import Resources

    definitions = {each["definition"] for each in maps}
    # A page of several results says "dead" for what each of them defines as such.
    say = DEFINITIONS[definitions.pop() if len(definitions) == 1 else "dead"].say
    data = {
        "maps": maps,
        "measures": {
            name: {
                "label": say(measure.label or name.replace("_", " ")),
                "definition": say(measure.definition),
                "of_runs": measure.among is None,
            }
            for name, measure in estimates.MEASURES.items()
        },
        "few_trials": figures.FEW_TRIALS,
        "wide_interval": figures.WIDE_INTERVAL,
    }
    package = "relu_dynamics.explorer"
    scripts = [
        *Resources(mode="inline", components=["bokeh"]).js_raw,
        text_in(package, "explorer.js"),
    ]
    shown = {"data": data, "plots": _plots()}
    return self_contained(package, "explorer.html", _title(maps), scripts, shown)


def _title(maps: list[dict]) -> str:
    names = list(dict.fromkeys(" over ".join(a["label"] for a in each["axes"]) for each in maps))
    return "ReLU units that die and recover: " + "; ".join(names)


def _plots() -> dict[str, Any]:
    """The four empty plots by the id of the element that shows them; explorer.js fills their
    sources, which it finds by name."""
    from bokeh.embed import json_item

    made = {
        "map": _map_plot(),
        "incidence": _incidence_plot(),
        "outcomes": _outcome_plot(),
        "ribbon": _ribbon_plot(),
    }
    return {name: json_item(plot) for name, plot in made.items()}


def _source(name: str, *columns: str, rows: int = 0):
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({column: [0] * rows for column in columns}, name=name)


def _plot(**settings: Any):
    """An empty plot that fills the width of its element, without tools that would take the
    page's own gestures."""
    from bokeh.plotting import figure

    plot = figure(
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        min_border_right=12,
        **settings,
    )
    plot.outline_line_color = None
    for axis in plot.axis:
        axis.update(
            axis_label_text_font=FONT,
            axis_label_text_font_style="normal",
            axis_label_text_font_size="13px",
            axis_label_text_color="#222222",
            major_label_text_font=FONT,
            major_label_text_font_size="12px",
            major_label_text_color="#222222",
            minor_tick_line_color=None,
        )
    plot.grid.grid_line_color = "#e4e4e4"
    return plot


def _hover(renderer, *lines: str, along: bool = False):
    """A tooltip of these lines, in the page's own type: Bokeh's default is too pale to read.
    `along`: anywhere above or below a point of a line."""
    from bokeh.models import HoverTool

    text = "<br>".join(lines)
    return HoverTool(
        renderers=[renderer],
        mode="vline" if along else "mouse",
        line_policy="prev",
        tooltips=f'<div style="font: 13px {FONT}; color: #1a1a1a">{text}</div>',
    )


def _map_plot():
    from bokeh.models import (
        ColorBar,
        FactorRange,
        FixedTicker,
        LinearColorMapper,
        TapTool,
    )
    from bokeh.palettes import Viridis256

    plot = _plot(
        x_range=FactorRange(name="x"), y_range=FactorRange(name="y"), height=430, name="map_plot"
    )
    cells = _source("cells", "x", "y", "value", "where", "estimate", "counts")
    colours = LinearColorMapper(palette=Viridis256, low=0, high=1, nan_color="#dcdcdc")
    size = {"x": "x", "y": "y", "width": 1, "height": 1}
    squares = plot.rect(
        **size,
        source=cells,
        fill_color={"field": "value", "transform": colours},
        line_color="white",
        line_width=0.5,
    )
    squares.nonselection_glyph = squares.selection_glyph = None
    plot.rect(
        **size,
        source=_source("doubtful", "x", "y"),
        fill_alpha=0,
        line_alpha=0,
        hatch_pattern="right_diagonal_line",
        hatch_color="white",
        hatch_alpha=0.6,
        hatch_scale=8,
        hatch_weight=1,
    )
    chosen = _source("chosen", "x", "y")
    for colour, width in (("white", 6), ("black", 2.5)):
        plot.rect(**size, source=chosen, fill_alpha=0, line_color=colour, line_width=width)
    plot.grid.grid_line_color = None
    plot.xaxis.major_label_orientation = "vertical"
    plot.xaxis.name, plot.yaxis.name = "x_axis", "y_axis"
    bar = ColorBar(
        color_mapper=colours,
        width=12,
        padding=6,
        ticker=FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 1]),
        major_label_text_font=FONT,
        major_label_text_font_size="12px",
        major_label_text_color="#222222",
    )
    plot.add_layout(bar, "right")
    plot.add_tools(
        TapTool(renderers=[squares]),
        _hover(squares, "<b>@where</b>", "@estimate", "@counts"),
    )
    return plot


def _incidence_plot():
    from bokeh.models import Range1d

    plot = _plot(
        x_range=Range1d(start=0, end=1, name="steps"),
        y_range=Range1d(start=0, end=1),
        height=250,
    )
    curves = _source(
        "curves", "step", "observed",
        *(f"{cause}{end}" for cause in ("recovered", "diverged") for end in ("", "_low", "_high")),
        rows=2,  # an empty VAreaStep never returns from drawing (bokeh 3.9.2)
    )  # fmt: skip
    for cause, colour, dash in (("recovered", GREEN, "solid"), ("diverged", GREY, "dashed")):
        plot.varea_step(
            "step", f"{cause}_low", f"{cause}_high", source=curves, step_mode="after",
            fill_color=colour, fill_alpha=0.18,
        )  # fmt: skip
        plot.step(
            "step", cause, source=curves, mode="after", line_color=colour, line_dash=dash,
            line_width=2,
        )  # fmt: skip
    line = plot.line("step", "recovered", source=curves, line_alpha=0)  # steps feel no hovering
    interval = "{0}: @{0}{{0.000}} [@{0}_low{{0.000}}, @{0}_high{{0.000}}]"
    lines = [interval.format(cause) for cause in ("recovered", "diverged")]
    plot.add_tools(
        _hover(line, "<b>step @step</b>", *lines, "@observed units still observed", along=True)
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = "training step", "P(event by step)"
    return plot


def _outcome_plot():
    from bokeh.core.properties import value
    from bokeh.models import FactorRange, Range1d

    names = list(OUTCOMES.values())
    plot = _plot(
        x_range=Range1d(start=0, end=1.32), y_range=FactorRange(factors=names[::-1]), height=250
    )
    bars = _source("bars", "outcome", "share", "low", "high", "label", "numbers")
    drawn = plot.hbar(
        y="outcome", right="share", height=0.62, source=bars, fill_color="#56A0D3", line_color=None
    )
    plot.segment("low", "outcome", "high", "outcome", source=bars, line_color="black", line_width=2)
    plot.text(
        "high", "outcome", "label", source=bars, x_offset=8, text_baseline="middle",
        text_font=value(FONT), text_font_size="12px", text_color="#222222",
    )  # fmt: skip
    plot.xaxis.axis_label = "share of these units"
    plot.xaxis.ticker = [0, 0.25, 0.5, 0.75, 1]
    plot.ygrid.grid_line_color = None
    plot.add_tools(_hover(drawn, "<b>@outcome</b>", "@numbers"))
    return plot


def _ribbon_plot():
    from bokeh.models import Range1d, Span

    plot = _plot(x_range=Range1d(start=0, end=1, name="steps"), height=270)
    # Rows, so that the vertical range has something to begin with.
    evaluations = _source(
        "evaluations", "step", "margin", "mean", "minimum", "above", "below", "active", rows=2
    )
    plot.varea("step", "minimum", "margin", source=evaluations, fill_color=BLUE, fill_alpha=0.16)
    plot.varea("step", "below", "above", source=evaluations, fill_color=BLUE, fill_alpha=0.35)
    plot.line("step", "mean", source=evaluations, line_color=BLUE, line_width=2)
    margin = plot.line("step", "margin", source=evaluations, line_color=RED, line_width=2)
    plot.scatter("step", "margin", source=evaluations, size=4, color=RED)
    plot.add_layout(Span(location=0, dimension="width", line_color="black", line_dash="dashed"))
    plot.add_tools(
        _hover(
            margin,
            "<b>step @step</b>",
            "largest z @margin{0.000 a}",
            "mean @mean{0.000 a}",
            "smallest z @minimum{0.000 a}",
            "active on @active{0.0 %} of the examples",
            along=True,
        )
    )
    plot.xaxis.axis_label, plot.yaxis.axis_label = "training step", "z over the probe set"
    return plot
