"""Named points in a program, at which a test can stop it.

A race is two programs that meet in an unlucky order.  A test that sleeps and hopes meets it now and then; a test that
stops each of them at a named point meets it every time.  The points are reached in processes that the test did not
write, so this module is all that they need of it: a path in the environment, a unix socket there, one line each way.

    from freshet.testing import point
    row = read_row(17)
    point("after_db_read")          # outside of tests: one comparison

or, with the service left as it is, by wrapping: `wrap({"shop:read_row": "row"})` makes the points "row:before" and
"row:after" around `shop.read_row`, in whichever order module and wrapping come.

Nothing here imports the rest of the package, so that a service's process loads no more than it did.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.abc
import importlib.machinery
import inspect
import json
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Callable

ADDRESS = "FRESHET_STEPS"  # environment: the controller's unix socket
HOST = "FRESHET_STEPS_HOST"  # environment: the name of this process's host, as the test calls it
WRAP = "FRESHET_STEPS_WRAP"  # environment: JSON of what `wrap` takes

_address: str | None = os.environ.get(ADDRESS) or None
_host: str = os.environ.get(HOST, "")


def arm(address: str | None, host: str = "") -> None:
    """Ask the controller at this unix socket at every point from now on; None: every point is passed at once."""
    global _address, _host
    _address, _host = address, host


def point(name: str, **details: object) -> None:
    """Say that the program is here, and go on when the test says so; without a test, at once.

    `details` (anything that JSON or str() can write) are shown to the test.  Blocks this thread alone; a controller
    that is gone holds nobody.  In a coroutine use `apoint`, or the whole event loop stands still.
    """
    if _address is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(_address)
            line.sendall(_message(name, details))
            line.recv(1)
        except OSError:
            return


async def apoint(name: str, **details: object) -> None:
    """`point` for coroutines: the event loop goes on with its other tasks meanwhile."""
    if _address is None:
        return
    try:
        reader, writer = await asyncio.open_unix_connection(_address)
    except OSError:
        return
    try:
        writer.write(_message(name, details))
        await reader.read(1)
    except OSError:
        return
    finally:
        writer.close()


def _message(name: str, details: Mapping[str, object]) -> bytes:
    told = {
        "point": name,
        "host": _host,
        "pid": os.getpid(),
        "thread": threading.current_thread().name,
        "details": details,
    }
    return json.dumps(told, default=str).encode() + b"\n"


def wrap(targets: Mapping[str, str]) -> None:
    """Put points around functions that know nothing of it: {"module:function" or "module:Class.method": "name"}.

    A call passes "name:before", and "name:after" when it has returned (not when it has raised).  Coroutine functions
    are wrapped as such.  A module that is not imported yet is wrapped as soon as it is.  Who has taken the function
    out of its module before (`from shop import read_row`) goes on calling it bare: name it where it is called from.
    Raises ValueError for a target that cannot be, AttributeError or TypeError for one that is no function.
    """
    waiting: dict[str, dict[str, str]] = {}
    for target, name in targets.items():
        module_name, colon, path = target.partition(":")
        if not colon or not module_name or not path:
            raise ValueError(f"{target!r} names no function: write 'module:function' or 'module:Class.method'")
        waiting.setdefault(module_name, {})[path] = name
    for module_name in [name for name in waiting if name in sys.modules]:
        _wrap_module(sys.modules[module_name], waiting.pop(module_name))
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting))


def _wrap_module(module: ModuleType, paths: Mapping[str, str]) -> None:
    for path, name in paths.items():
        owner: Any = module
        *outer, last = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        found = inspect.getattr_static(owner, last)
        kind = type(found) if isinstance(found, (staticmethod, classmethod)) else None
        function = found.__func__ if kind else found
        if not callable(function):
            raise TypeError(f"{module.__name__}:{path} is {found!r}, and no function that could be wrapped")
        wrapped: Any = _wrapped(function, name)
        setattr(owner, last, kind(wrapped) if kind else wrapped)


def _wrapped(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def with_points(*args: Any, **kwargs: Any) -> Any:
            await apoint(name + ":before")
            result = await function(*args, **kwargs)
            await apoint(name + ":after")
            return result
    else:

        @functools.wraps(function)
        def with_points(*args: Any, **kwargs: Any) -> Any:
            point(name + ":before")
            result = function(*args, **kwargs)
            point(name + ":after")
            return result

    return with_points


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the others find the modules that it waits for, and wraps them once they have run."""

    def __init__(self, waiting: dict[str, dict[str, str]]) -> None:
        self.waiting = waiting

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        paths = self.waiting.pop(fullname, None)
        if paths is None:
            return None
        for finder in [other for other in sys.meta_path if other is not self]:
            find = getattr(finder, "find_spec", None)
            spec: importlib.machinery.ModuleSpec | None = find(fullname, path, target) if find else None
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, paths)
                return spec
        self.waiting[fullname] = paths
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, paths: Mapping[str, str]) -> None:
        self.loader = loader
        self.paths = paths

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _wrap_module(module, self.paths)

    def __getattr__(self, name: str) -> Any:  # get_data, get_source, is_package: the true loader's
        return getattr(self.loader, name)


def wrap_as_told() -> list[str]:
    """Wrap what the environment says (a process of a service, started by a test); the targets."""
    targets: dict[str, str] = json.loads(os.environ.get(WRAP) or "{}")
    wrap(targets)
    return list(targets)
