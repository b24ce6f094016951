"""JAX settings of the whole suite: on CPU, no silent broadcasting, and cheap compiles.

Most of the suite's time is compilation, so XLA optimizes less here. What depends on optimized
code (bit identity) is tested in fresh processes without this flag: tests/test_bits.py.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _no_stray_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
