"""Run by every Python that a test starts with `Steps.environment()`: puts the test's points around functions.

A server's workers are started by the server, mostly as new processes; the environment is what reaches all of them.
points.py is loaded by its path, so that a process which never uses the package does not import it either.  Another
sitecustomize, if there is one, is run as if this one were not here.
"""

import importlib.util
import os
import sys
from types import ModuleType

_HERE = os.path.dirname(os.path.abspath(__file__))


def _load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded as {name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _run_the_other() -> None:
    for folder in sys.path:
        path = os.path.join(folder, "sitecustomize.py")
        if os.path.abspath(folder) != _HERE and os.path.isfile(path):
            _load("sitecustomize", path)
            return


_run_the_other()
if os.environ.get("FRESHET_STEPS_WRAP"):
    _load("freshet.testing.points", os.path.join(os.path.dirname(_HERE), "points.py")).wrap_as_told()
