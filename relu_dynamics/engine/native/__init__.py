"""Native: training steps between two evaluations, and evaluations, as calls of compiled C++.

`coverage` says what it covers, `build` compiles kernel.cc, `glue` and `looks` hand arrays over.
The plain JAX path is the definition, and what everything else takes.
"""

from relu_dynamics.engine.native.build import made_by as made_by
from relu_dynamics.engine.native.glue import by_kernel as by_kernel
from relu_dynamics.engine.native.looks import look as look
from relu_dynamics.engine.native.looks import looks_by_kernel as looks_by_kernel
