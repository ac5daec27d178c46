"""The same calls for asyncio: ``await cache.aio.get(key)``.

A hit in the tier answers at once and suspends nothing.  Whatever has to wait is set aside by the library and goes on on
the loop's own thread when its one descriptor says so: no thread stands behind a call.  There is one such machinery for
each event loop and process; it begins with the loop's first call that waits, and ends with the loop or with close_loop.

Cancelling a task that waits forgets the call: a load that waits for this task's loader fails, so that others may load;
a guard that comes to be begun is ended; a change goes on to its confirmation all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
import weakref
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, cast

from . import _freshet, errors
from ._loaders import wants_request
from .answers import Answer, Change

if TYPE_CHECKING:
    from typing_extensions import Literal, Unpack

    from ._freshet import ChangeOptions, LoadOptions, PutOptions, ReadOptions
    from .cache import Cache, Key

__all__ = ["AsyncCache", "AsyncGuard", "close_loop"]

_DONE, _LOAD = 1, 2
_PENDING, _MISSING = object(), object()
_GATHER = 64  # reads of a get_many and writes of a set_many that are under way at once


class _Loop:
    """The machinery of one event loop.  It has no reference to the loop, whose end it is to see."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.calls = _freshet.Async()
        self._fd = self.calls.fileno()
        loop.add_reader(self._fd, self.step)

    def step(self) -> None:
        """Go on with what can go on, and wake the tasks whose calls have moved."""
        _wake(self.calls.step())

    def close(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """End it; the tasks of a `loop` that goes on learn that their calls have failed."""
        if loop is None:
            self.calls.close()
        else:
            loop.remove_reader(self._fd)
            _wake(self.calls.close())

    async def end(self, call: _freshet.Call, loader: Callable[..., Any] | None = None, fallback: object = None) -> Any:
        """Wait for the call's end and give what has come of it; call the loader whenever it is asked for."""
        try:
            while call.at != _DONE:
                if call.at == _LOAD:
                    assert loader is not None
                    await self._load(call, loader)
                else:
                    call.waiter = asyncio.get_running_loop().create_future()
                    try:
                        await call.waiter
                    finally:
                        call.waiter = None
        except BaseException:
            self.calls.forget(call)
            raise
        return call.take(fallback)

    async def _load(self, call: _freshet.Call, loader: Callable[..., Any]) -> None:
        value = loader(call.request) if wants_request(loader) else loader()
        if inspect.isawaitable(value):
            value = await value
        self.calls.answer(call, value, False)


def _wake(calls: list[_freshet.Call]) -> None:
    for call in calls:
        waiter = call.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _loop() -> _Loop:
    """The machinery of the running loop, begun when there is none."""
    loop = asyncio.get_running_loop()
    found = _loops.get(loop)
    if found is not None:
        return found
    made = _Loop(loop)
    with _lock:
        gone = [(one, its) for one, its in list(_loops.items()) if one.is_closed()]
        for one, _ in gone:
            del _loops[one]
        _loops[loop] = made
    for _, its in gone:
        its.close(None)
    return made


def close_loop() -> None:
    """End the running loop's machinery: calls under way fail.  A loop's own end does it too.

    This waits for what talks to Redis, until its deadline at most.
    """
    loop = asyncio.get_running_loop()
    with _lock:
        found = _loops.pop(loop, None)
    if found is not None:
        found.close(loop)


def _in_child() -> None:
    """The parent's calls are the parent's; a loop of the child begins its own."""
    global _loops, _lock
    _lock = threading.Lock()
    _loops = weakref.WeakKeyDictionary()


os.register_at_fork(after_in_child=_in_child)


class AsyncGuard:
    """As freshet.Guard, for ``async with``."""

    def __init__(self, cache: Cache, keys: tuple[Key, ...], options: dict[str, Any]) -> None:
        self.cache = cache
        self.keys = keys
        self.change: Change | None = None
        """what became of its end"""
        self._options = options
        self._guard: _freshet.Guard | None = None

    async def begin(self) -> AsyncGuard:
        """Guard the keys, all or none, and invalidate them.  A failure: nothing may be touched in the database."""
        if self._guard is not None:
            raise RuntimeError("the guard has begun already")
        loop = _loop()
        call = loop.calls.guard_begin(self.cache, *self.keys, **self._options)
        try:
            self._guard = await loop.end(call)
        except asyncio.CancelledError:
            if call.at == _DONE:  # in the loop's very turn
                self._let_go(loop, call)
            raise
        return self

    def _let_go(self, loop: _Loop, call: _freshet.Call) -> None:
        """End a guard that nobody has, without waiting."""
        with contextlib.suppress(errors.FreshetError):  # it has not begun
            loop.calls.forget(loop.calls.guard_end(self.cache, call.take(None)))

    @property
    def left(self) -> float:
        """Seconds that it is still in force, even if this process died now; 0: lost, not begun or ended."""
        return self._guard.left() if self._guard is not None else 0.0

    async def end(self, **options: Unpack[ChangeOptions]) -> Change:
        """End it: once more an invalidation of the keys.  See freshet.Guard.end."""
        if self._guard is None:
            raise RuntimeError("the guard has not begun")
        loop = _loop()
        self.change = cast(Change, await loop.end(loop.calls.guard_end(self.cache, self._guard, **options)))
        return self.change

    async def __aenter__(self) -> AsyncGuard:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guard is None or self._guard.ended:  # in the block; or that was cancelled, and goes on by itself
            return
        try:
            change = await self.end()
        except errors.FreshetError:
            if error is None:
                raise
            return
        if change.result == "GUARD_LOST" and error is None:
            raise errors.GuardLost(errors.GUARD_LOST_SENTENCE)


class AsyncCache:
    """A cache's calls as coroutines; the names, options and answers are Cache's."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __repr__(self) -> str:
        return f"<freshet.AsyncCache {self._cache.name!r}>"

    async def get(self, key: Key, default: Any = None, **options: Unpack[ReadOptions]) -> Any:
        """The value, or `default`."""
        value = self._cache._try_get(key, default, _PENDING, **options)
        if value is not _PENDING:
            return value
        loop = _loop()
        return await loop.end(loop.calls.get(self._cache, key, False, **options), fallback=default)

    async def lookup(self, key: Key, **options: Unpack[ReadOptions]) -> Answer:
        """The value with what is known of it."""
        answer = self._cache._try_lookup(key, _PENDING, **options)
        if answer is _PENDING:
            loop = _loop()
            answer = await loop.end(loop.calls.get(self._cache, key, True, **options))
        return cast(Answer, answer)

    async def get_many(self, keys: Iterable[Key], **options: Unpack[ReadOptions]) -> dict[Key, Any]:
        """Those of the keys that are found.  What the tier lacks is asked for side by side."""
        found: dict[Key, Any] = {}
        pending = []
        keys = list(keys)
        for key in keys:
            value = self._cache._try_get(key, _MISSING, _PENDING, **options)
            if value is _PENDING:
                pending.append(key)
            elif value is not _MISSING:
                found[key] = value

        async def one(key: Key) -> None:
            value = await self.get(key, _MISSING, **options)
            if value is not _MISSING:
                found[key] = value

        await _side_by_side(one, pending)
        return {key: found[key] for key in keys if key in found}

    async def set_many(self, values: Mapping[Key, Any], **options: Unpack[PutOptions]) -> dict[Key, Change]:
        """Store several values, side by side; the Change of each."""
        changes: dict[Key, Change] = {}

        async def one(key: Key) -> None:
            changes[key] = await self.set(key, values[key], **options)

        await _side_by_side(one, list(values))
        return {key: changes[key] for key in values}

    async def get_or_load(self, key: Key, loader: Callable[..., Any], **options: Unpack[LoadOptions]) -> Any:
        """The value, loaded by one caller for all if it is missing; None when the source has no such thing.

        The loader, a coroutine function or a plain one, runs in this task.
        """
        value = self._cache._try_load(key, _PENDING, False, **options)
        if value is not _PENDING:
            return value
        loop = _loop()
        return await loop.end(loop.calls.load(self._cache, key, False, **options), loader)

    async def load(self, key: Key, loader: Callable[..., Any], **options: Unpack[LoadOptions]) -> Answer:
        """As get_or_load, with what is known of the answer."""
        answer = self._cache._try_load(key, _PENDING, True, **options)
        if answer is _PENDING:
            loop = _loop()
            answer = await loop.end(loop.calls.load(self._cache, key, True, **options), loader)
        return cast(Answer, answer)

    async def set(self, key: Key, value: Any, **options: Unpack[PutOptions]) -> Change:
        """Store a value for everybody."""
        loop = _loop()
        return cast(Change, await loop.end(loop.calls.put(self._cache, key, value, **options)))

    async def set_absent(self, key: Key, **options: Unpack[PutOptions]) -> Change:
        """Store that the source has no such thing."""
        return await self.set(key, _freshet.ABSENT, **options)

    async def invalidate(self, *keys: Key, **options: Unpack[ChangeOptions]) -> Change:
        """Make everybody forget the keys: call it after the database's commit."""
        loop = _loop()
        return cast(Change, await loop.end(loop.calls.invalidate(self._cache, *keys, **options)))

    async def invalidate_tags(self, *tags: str, **options: Unpack[ChangeOptions]) -> Change:
        """Make everybody forget what has one of the tags."""
        loop = _loop()
        return cast(Change, await loop.end(loop.calls.invalidate_tags(self._cache, *tags, **options)))

    async def clear_namespace(self, namespace: str, **options: Unpack[ChangeOptions]) -> Change:
        """Make everybody forget one namespace."""
        loop = _loop()
        return cast(Change, await loop.end(loop.calls.clear(self._cache, namespace, **options)))

    async def clear(self, **options: Unpack[ChangeOptions]) -> Change:
        """Make everybody forget everything in this cache."""
        loop = _loop()
        return cast(Change, await loop.end(loop.calls.clear(self._cache, None, **options)))

    def guard(
        self,
        *keys: Key,
        hold: float = 10.0,
        deadline: float | None = None,
        fixed: bool = False,
        wait: Literal["none", "hosts"] = "none",
    ) -> AsyncGuard:
        """A guard on the keys, for an ``async with`` block; see Cache.guard."""
        return AsyncGuard(self._cache, keys, {"hold": hold, "deadline": deadline, "fixed": fixed, "wait": wait})


async def _side_by_side(one: Callable[[Key], Awaitable[None]], keys: list[Key]) -> None:
    """Run `one` for each key, so many at a time; the first failure ends the others."""
    if not keys:
        return
    left = iter(keys)

    async def run() -> None:
        for key in left:
            await one(key)

    tasks = [asyncio.ensure_future(run()) for _ in range(min(_GATHER, len(keys)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
