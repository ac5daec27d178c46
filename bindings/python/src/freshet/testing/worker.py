"""A process of a host: runs what the test's process tells it (hosts.py), until that one says so or is gone."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, Callable

from .hosts import HostInfo, Reference

_NOTHING = object()


class _Worker:
    def __init__(self, line: Connection) -> None:
        self.line = line
        self.lock = threading.Lock()
        self.state: Any = _NOTHING
        self.stack = contextlib.ExitStack()
        self.loop: asyncio.AbstractEventLoop | None = None

    def answer(self, number: int, worked: bool, value: Any) -> None:
        try:
            data = pickle.dumps((number, worked, value))
            if not worked:
                pickle.loads(data)  # many an exception can be pickled and not be read back
        except Exception as error:
            said = value[0] if not worked else error
            trace = value[1] if not worked else "its result cannot be pickled\n"
            data = pickle.dumps((number, False, (RuntimeError(f"{type(said).__name__}: {said}"), trace)))
        with self.lock:
            self.line.send_bytes(data)

    def run(self, number: int, function: Any, *args: Any) -> None:
        try:
            self.answer(number, True, function(*args))
        except BaseException as error:
            trace = traceback.format_exc()
            with contextlib.suppress(OSError):  # the test's process is gone
                self.answer(number, False, (error, trace))

    def set_up(self, paths: list[str], info: HostInfo, setup: Reference | None) -> None:
        sys.path[:] = paths
        if setup is None:
            return
        state = self.wait_for(find(setup)(info))
        if hasattr(type(state), "__aenter__") and not hasattr(type(state), "__enter__"):
            manager = state
            state = self.wait_for(manager.__aenter__())
            self.stack.callback(lambda: self.wait_for(manager.__aexit__(None, None, None)))
        elif hasattr(type(state), "__enter__"):
            state = self.stack.enter_context(state)
        self.state = state

    def callable(self, function: str | Reference) -> Callable[..., Any]:
        """A method of what setup returned, by its name; or a function, with what setup returned as first argument."""
        if isinstance(function, str):
            if self.state is _NOTHING:
                raise ValueError(f"{function!r} is no function: a method's name needs an object, which `setup` returns")
            method: Callable[..., Any] = getattr(self.state, function)
            return method
        found: Callable[..., Any] = find(function)
        if self.state is _NOTHING:
            return found
        state = self.state
        if inspect.iscoroutinefunction(found):

            async def with_state(*args: Any, **kwargs: Any) -> Any:
                return await found(state, *args, **kwargs)

            return with_state
        return functools.partial(found, state)

    def call(self, function: str | Reference, args: tuple[Any, ...], kwargs: Mapping[str, Any], bare: bool) -> Any:
        if bare and not isinstance(function, str):
            return find(function)(self, *args, **kwargs)
        return self.wait_for(self.callable(function)(*args, **kwargs))

    def wait_for(self, result: Any) -> Any:
        """The result itself; of a coroutine what it comes to, on this process's one event loop."""
        if not inspect.iscoroutine(result):
            return result
        with self.lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                threading.Thread(target=self.loop.run_forever, name="event loop", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(result, self.loop).result()


def find(where: Reference) -> Any:
    """The function of that name, its module imported if need be."""
    if where.module not in sys.modules:
        try:
            importlib.import_module(where.module)
        except ImportError:
            if where.file is None:
                raise
            spec = importlib.util.spec_from_file_location(where.module, where.file)
            if spec is None or spec.loader is None:
                raise
            module = importlib.util.module_from_spec(spec)
            sys.modules[where.module] = module
            spec.loader.exec_module(module)
    found: Any = sys.modules[where.module]
    for part in where.path.split("."):
        found = getattr(found, part)
    return found


def main(descriptor: int) -> None:
    """Serve the test's process at this end of a socket pair, and end without waiting for calls that still run."""
    line = Connection(descriptor)
    worker = _Worker(line)
    first = True
    while True:
        try:
            message = line.recv()
        except (EOFError, OSError):
            os._exit(0)  # the test's process is gone
        if message is None:
            break
        number, *rest = message
        if first:
            first = False
            worker.run(number, worker.set_up, *rest)
        else:
            threading.Thread(
                target=worker.run, args=(number, worker.call, *rest), name=f"call {number}", daemon=True
            ).start()
    worker.stack.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
