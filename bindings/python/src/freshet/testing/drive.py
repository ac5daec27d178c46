"""Load for the oracle: reads and writes of a few keys by many at once, each noted with when it began and returned.

Few keys and no pauses make the races; what is written is new each time, so that every read tells which write it saw.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from .hosts import Reference
from .oracle import NEVER, Event, now


@dataclass(frozen=True)
class Load:
    """What to drive: `seconds` long, so many `readers` and `writers` each with a `pause` (s) between its calls.

    A read that gives one of `misses` has read nothing, and is not noted.
    """

    keys: Sequence[Any]
    seconds: float
    readers: int
    writers: int
    pause: float
    seed: int
    misses: Sequence[Any] = ()


class _Noted:
    """One reader or writer: what it does next, and what it has noted."""

    def __init__(self, load: Load, kind: str, by: str, number: int, call: Callable[..., Any]) -> None:
        self.load = load
        self.kind = kind
        self.by = by
        self.number = number
        self.call = call
        self.random = random.Random(f"{load.seed} {kind} {by} {number}")
        self.events: list[Event] = []
        self.error: BaseException | None = None

    def next(self) -> tuple[Any, ...]:
        key = self.random.choice(self.load.keys)
        return (key,) if self.kind == "read" else (key, f"{key} by {self.by}.{self.number}, {len(self.events)}")

    def note(self, args: tuple[Any, ...], result: Any, begun: float, ended: float) -> None:
        if self.kind == "read" and result in self.load.misses:
            return
        self.events.append(Event(self.kind, args[0], result if self.kind == "read" else args[1], begun, ended, self.by))

    def failed(self, args: tuple[Any, ...], begun: float, error: BaseException) -> None:
        """A write that fails is one of unknown fate; a read that fails shows nothing, and the test hears of it."""
        if self.kind == "write":
            self.note(args, None, begun, NEVER)
        else:
            self.error = error

    def run(self, until: float) -> None:
        stop = threading.Event()  # never set: its wait is the pause
        while now() < until and self.error is None:
            args, begun = self.next(), now()
            try:
                self.note(args, self.call(*args), begun, now())
            except Exception as error:
                self.failed(args, begun, error)
            if self.load.pause:
                stop.wait(self.load.pause)

    async def arun(self, until: float) -> None:
        while now() < until and self.error is None:
            args, begun = self.next(), now()
            try:
                self.note(args, await self.call(*args), begun, now())
            except Exception as error:
                self.failed(args, begun, error)
            await asyncio.sleep(self.load.pause)


def drive(
    load: Load,
    by: str,
    read: Callable[..., Any],
    write: Callable[..., Any] | None,
    wait_for: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run,
) -> list[Event]:
    """Drive these two in this process, functions in threads, coroutine functions by `wait_for`; what was noted.

    Raises what a read has raised.
    """
    all_noted = [_Noted(load, "read", by, number, read) for number in range(load.readers)]
    if write is not None:
        all_noted += [_Noted(load, "write", by, number, write) for number in range(load.writers)]
    until = now() + load.seconds
    waiting = [noted for noted in all_noted if inspect.iscoroutinefunction(noted.call)]
    threads = [
        threading.Thread(target=noted.run, args=(until,), daemon=True) for noted in all_noted if noted not in waiting
    ]
    for thread in threads:
        thread.start()
    if waiting:

        async def all_of_them() -> None:
            await asyncio.gather(*(noted.arun(until) for noted in waiting))

        wait_for(all_of_them())
    for thread in threads:
        thread.join()
    for noted in all_noted:
        if noted.error is not None:
            raise noted.error
    return [event for noted in all_noted for event in noted.events]


def drive_on_host(
    worker: Any, load: Load, by: str, read: str | Reference, write: str | Reference | None
) -> list[Event]:
    """`drive` in a host's process (worker.py), with what its setup returned."""
    return drive(load, by, worker.callable(read), None if write is None else worker.callable(write), worker.wait_for)
