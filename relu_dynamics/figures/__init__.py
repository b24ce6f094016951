"""Figures: stored results -> axes. Never trains, so a figure is redrawn wherever its result is.

Widths are those of a paper: COLUMN for one column, PAGE for the text width, in inches.
"""

from relu_dynamics.figures.maps import draw_incidence as draw_incidence
from relu_dynamics.figures.maps import draw_map as draw_map
from relu_dynamics.figures.maps import draw_pooled as draw_pooled
from relu_dynamics.figures.maps import draw_recovery_map as draw_recovery_map
from relu_dynamics.figures.maps import draw_unit as draw_unit
from relu_dynamics.figures.maps import informative_bias as informative_bias
from relu_dynamics.figures.style import COLUMN as COLUMN
from relu_dynamics.figures.style import DASHES as DASHES
from relu_dynamics.figures.style import FEW_TRIALS as FEW_TRIALS
from relu_dynamics.figures.style import MARKERS as MARKERS
from relu_dynamics.figures.style import PAGE as PAGE
from relu_dynamics.figures.style import STYLE as STYLE
from relu_dynamics.figures.style import WIDE_INTERVAL as WIDE_INTERVAL
from relu_dynamics.figures.style import caption as caption
from relu_dynamics.figures.style import label_factors as label_factors
from relu_dynamics.figures.style import ordered_colours as ordered_colours
from relu_dynamics.figures.style import provenance_note as provenance_note
from relu_dynamics.figures.style import save as save
from relu_dynamics.figures.style import what_ran as what_ran
from relu_dynamics.figures.style import write_caption as write_caption
