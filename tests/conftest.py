"""JAX settings of the whole suite: on CPU, no silent broadcasting, and cheap compiles.

Most of the suite's time is compilation, so XLA optimizes less here, and what one worker or an
earlier run has compiled is kept: .pytest_cache/compiled. What depends on optimized code (bit
identity) is tested in fresh processes without any of this: tests/test_bits.py.

The many programs that JAX keeps are live objects to the garbage collector, which would walk them
again and again: it runs less often here.
"""

import gc
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable

from tests.xla_flags import NO_FUSION_EMITTERS

FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if NO_FUSION_EMITTERS:
    FLAGS.append(NO_FUSION_EMITTERS)
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
gc.set_threshold(50_000, 20, 50)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
compiled = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"
jax.config.update("jax_compilation_cache_dir", str(compiled))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file share programs and sweeps, so one worker runs them all."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True)
def _no_stray_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def ended(monkeypatch, capsys):
    """Calls what `python -m` calls, with arguments, until it ends this process; how it ended.

    For what a command says of bad input: a process of its own starts for two seconds and more.
    """

    def run(main: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        monkeypatch.setattr(os, "_exit", sys.exit)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A headless browser; skips where there is none."""
    from tests import browser

    driver = browser.start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
