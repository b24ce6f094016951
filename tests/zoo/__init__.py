"""Programs that JAX can trace, of every kind, with the units of every site to be found in them.

`ZOO` has them all; `NONE` has elementwise functions that must not be taken for rectifiers.
"""

from tests.zoo import frameworks as frameworks
from tests.zoo import kinds as kinds
from tests.zoo import lookalikes as lookalikes
from tests.zoo import plain as plain
from tests.zoo import published as published
from tests.zoo import steps as steps
from tests.zoo.activations import ACTIVATIONS as ACTIVATIONS
from tests.zoo.activations import NONE as NONE
from tests.zoo.base import KEY as KEY
from tests.zoo.base import STEPS as STEPS
from tests.zoo.base import ZOO as ZOO
from tests.zoo.base import X as X
from tests.zoo.base import of_activation as of_activation
from tests.zoo.base import of_dense as of_dense
from tests.zoo.plain import concatenated as concatenated
