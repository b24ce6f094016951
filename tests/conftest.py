"""JAX settings of the whole suite: on CPU, no silent broadcasting, and cheap compiles.

Most of the suite's time is compilation, so XLA optimizes less here, and what one worker or an
earlier run has compiled is kept: .pytest_cache/compiled. What depends on optimized code (bit
identity) is tested in fresh processes without any of this: tests/test_bits.py.
"""

import os
import pathlib

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
compiled = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"
jax.config.update("jax_compilation_cache_dir", str(compiled))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def _no_stray_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
