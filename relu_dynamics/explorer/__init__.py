"""Explorer: one self-contained HTML page of a result: click a cell of the map and see why.

    relu_dynamics.explore(result)                       # writes explorer.html
    python -m relu_dynamics.explorer FOLDER [FOLDER ...] [--out explorer.html]

The page needs no server and no network, and its Content-Security-Policy forbids both. All numbers
are those of `statistics.estimates`, computed before the page is written and rounded to 4
significant digits; BokehJS draws them, and explorer.js only hands them to what draws. The z ribbon
of each cell (one run's) is not in a stored result: one seed is trained again, and a ribbon is shown
only where that run's history (every unit's events and margins) is the stored one, bit for bit.

Axes: `cells` are the points of a map, its second axis fastest; `evaluations` are those shown.
"""

from relu_dynamics.explorer.checks import CONFIG_FIELDS as CONFIG_FIELDS
from relu_dynamics.explorer.checks import DIMENSIONS as DIMENSIONS
from relu_dynamics.explorer.checks import MOST_CELLS as MOST_CELLS
from relu_dynamics.explorer.checks import MissingBokehError as MissingBokehError
from relu_dynamics.explorer.checks import check_bokeh as check_bokeh
from relu_dynamics.explorer.explore import explore as explore
from relu_dynamics.explorer.numbers import LEVEL as LEVEL
from relu_dynamics.explorer.numbers import MOST_EVALUATIONS as MOST_EVALUATIONS
from relu_dynamics.explorer.numbers import OUTCOMES as OUTCOMES
from relu_dynamics.explorer.numbers import PROVENANCE as PROVENANCE
from relu_dynamics.explorer.page import BLUE as BLUE
from relu_dynamics.explorer.page import FONT as FONT
from relu_dynamics.explorer.page import GREEN as GREEN
from relu_dynamics.explorer.page import GREY as GREY
from relu_dynamics.explorer.page import RED as RED
from relu_dynamics.explorer.ribbons import RIBBON_RULE as RIBBON_RULE
