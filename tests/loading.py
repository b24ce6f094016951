"""Scripts as modules: experiments/ is no package, and its tests want their functions."""

import importlib.util
import pathlib
import sys
from types import ModuleType


def load(path: pathlib.Path) -> ModuleType:
    """The script at `path` as a module; `main` is not run."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_experiment", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
