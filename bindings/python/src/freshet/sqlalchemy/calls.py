"""The one place where a session's events call a cache: blocking, or awaiting when an AsyncSession stands behind.

Under an AsyncSession the session's events run in a greenlet of the event loop's thread.  There `await_only` hands an
awaitable to the loop and comes back with its result, so nothing blocks the loop; anywhere else the call blocks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

import freshet

T = TypeVar("T")
LOG = logging.getLogger("freshet.sqlalchemy")
LEFT: set[asyncio.Future[Any]] = set()  # what goes on by itself: a loop holds its tasks weakly


def awaiting() -> bool:
    """Does an AsyncSession (its event loop) stand behind this call?"""
    return bool(in_greenlet())


@dataclass(eq=False)
class Held:
    """A guard, how it was begun, and on what."""

    cache: Any
    keys: frozenset[str]
    guard: Any
    blocking: bool

    def end_blocking(self, source_version: int) -> Any:
        """End it on this thread, also one that an event loop has begun, when that is not there to wait with."""
        guard = self.guard if self.blocking else self.guard._guard
        return guard.end(source_version=source_version)

    @property
    def left(self) -> float:
        """For so many seconds it holds, even if this process dies now; 0: lost."""
        return float(self.guard.left)


@dataclass(frozen=True)
class Step:
    """One call of those that end a transaction's work: of a guard, else of keys or of tags."""

    cache: Any
    held: Held | None = None
    keys: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    source_version: int = 0

    def call(self, cache: Any, blocking: bool) -> Any:
        """The call itself; on `cache.aio`, not `blocking`, it gives an awaitable."""
        if self.held is not None:
            if blocking or self.held.blocking:
                return self.held.end_blocking(self.source_version)
            return self.held.guard.end(source_version=self.source_version)
        if self.tags:
            return cache.invalidate_tags(*sorted(self.tags))
        return cache.invalidate(*sorted(self.keys), source_version=self.source_version)

    def told(self, change: Any) -> None:
        """Nothing can be refused any more, so what is worth knowing goes to the log."""
        if change.result == "GUARD_LOST" and self.held is not None:
            LOG.warning(
                "the guard on %s was lost before its end: until now an answer from before the commit may have been "
                "kept; the keys are invalidated",
                ", ".join(sorted(self.held.keys)[:8]),
            )
        elif change.result == "QUEUED":
            LOG.warning("Redis does not answer: the change is written down and will be sent as soon as it does")

    def failed(self, error: Exception) -> None:
        LOG.error("%s: a change could not be made known to the cache: %s", self.cache.name, error)


def begin_guard(cache: Any, keys: frozenset[str], hold: float, wait: str) -> Held:
    """A guard on the keys, begun.  Raises what the cache raises when there is none."""
    if awaiting():
        guard = await_only(cache.aio.guard(*sorted(keys), hold=hold, wait=wait).__aenter__())
        return Held(cache, keys, guard, blocking=False)
    return Held(cache, keys, cache.guard(*sorted(keys), hold=hold, wait=wait).__enter__(), blocking=True)


def run(steps: Iterable[Step]) -> None:
    """Make these calls, one after the other, whatever becomes of each; nothing is raised for them.

    When the task is cancelled meanwhile, the calls go on by themselves, and the cancellation comes out.
    """
    steps = list(steps)
    if awaiting():
        await_only(asyncio.shield(_task(_run_awaiting(steps))))
        return
    _run_blocking(steps)


def leave(steps: Iterable[Step]) -> None:
    """Make these calls without waiting for them: on the running event loop, or on a thread of their own."""
    steps = list(steps)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        threading.Thread(target=_run_blocking, args=(steps,), name="freshet-guards", daemon=True).start()
    else:
        _task(_run_awaiting(steps))


def later(steps: Iterable[Step], seconds: float) -> None:
    """Make these calls in so many seconds, on a thread of their own; a process that has ended by then makes none."""
    timer = threading.Timer(seconds, _run_blocking, args=(list(steps),))
    timer.name, timer.daemon = "freshet-guards", True
    timer.start()


def _task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(work)
    LEFT.add(task)
    task.add_done_callback(LEFT.discard)
    return task


def _run_blocking(steps: list[Step]) -> None:
    for step in steps:
        try:
            step.told(step.call(step.cache, blocking=True))
        except freshet.FreshetError as error:
            step.failed(error)


async def _run_awaiting(steps: list[Step]) -> None:
    for step in steps:
        try:
            change = step.call(step.cache.aio, blocking=False)
            step.told(change if step.held is not None and step.held.blocking else await change)
        except freshet.FreshetError as error:
            step.failed(error)
