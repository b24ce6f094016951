"""This project's own engine as a contender, used as its users use it: a config, then a sweep."""

import numpy as np
from workloads import Workload


class Engine:
    """The engine on all cores, with or without the statistics of every unit at every step.

    `prepare` compiles and warms up. `run` trains the first `steps` steps (all when None) of every
    run of the workload and returns numpy arrays, so that nothing is still being computed:
    `parameters` [seeds, cells, parameters] in the order of `workloads.pack`, and, when
    `statistics` is true, the four fields of `workloads.STATISTICS`, each [seeds, cells, units].
    Until it is written its methods raise NotImplementedError and the row is left out.
    """

    def __init__(self, statistics: bool):
        self.statistics = statistics

    def prepare(self, work: Workload) -> None:
        raise NotImplementedError("the engine does not exist yet")

    def run(self, steps: int | None = None) -> dict[str, np.ndarray]:
        raise NotImplementedError("the engine does not exist yet")
