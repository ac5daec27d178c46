"""One read of a row at a time in this process, also while the library lets everybody read for himself.

Under a guard no running load may be joined: it may have read the row before the commit.  With a hot row that would be
one database connection a request for as long as a change takes, and the pool would be gone.  So who comes while a read
is running waits for the next one, which begins when that has ended and is for all who wait by then: it began after
each of them had asked, so it is as good as his own.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Hashable
from concurrent.futures import Future
from typing import Any, Callable


class Threads:
    """For loaders that block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, Future[Any]] = {}
        self._next: dict[Hashable, Future[Any]] = {}

    def read(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """What `read` returns, called by this thread or by another for it; raises what that raised."""
        with self._lock:
            joined = self._next.get(key)
            if joined is None:
                mine: Future[Any] = Future()
                before = self._running.get(key)
                (self._running if before is None else self._next)[key] = mine
        if joined is not None:
            return joined.result()
        if before is not None:
            before.exception()
            with self._lock:
                self._running[key] = self._next.pop(key)
        try:
            mine.set_result(read())
        except BaseException as error:
            mine.set_exception(error)
        with self._lock:
            if self._running.get(key) is mine:
                del self._running[key]
        return mine.result()


class Tasks:
    """For loaders that await; each event loop has its own."""

    def __init__(self) -> None:
        self._loops: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[dict[Hashable, asyncio.Task[Any]], dict[Hashable, asyncio.Task[Any]]]
        ] = weakref.WeakKeyDictionary()

    async def read(self, key: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        """What `read` returns; a caller that is cancelled leaves it to the others."""
        loop = asyncio.get_running_loop()
        running, following = self._loops.setdefault(loop, ({}, {}))
        task = following.get(key)
        if task is None:
            before = running.get(key)

            async def turn() -> Any:
                if before is not None:
                    await asyncio.wait([before])
                    running[key] = following.pop(key)
                try:
                    return await read()
                finally:
                    if running.get(key) is asyncio.current_task():
                        del running[key]

            task = loop.create_task(turn())
            (running if before is None else following)[key] = task
        return await asyncio.shield(task)
