"""See the signed frames of a cache's channels as they come: what changed, where it came from, and what is forged."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Generator
from typing import NamedTuple

from . import _freshet

__all__ = ["Frame", "watch"]


class Frame(NamedTuple):
    """One frame.  Only when `verified` do the fields from `kind` on mean anything."""

    verified: bool
    why: str
    """if not verified: "unknown key", "bad signature", "garbled"; else "" """
    key_id: int
    partition: int
    epoch: int
    position: int
    kind: str
    """ "invalidate", "put", "clear", "tags" """
    version: int
    writer: int
    counter: int
    source_version: int
    hashes: tuple[bytes, ...]
    """of the keys or tags that it names: see key_hash and tag_hash"""


def watch(
    name: str,
    url: str,
    keyring: str | os.PathLike[str],
    *,
    partitions: int = 1,
    duration: float | None = None,
    connect_timeout: float | None = None,
    allow_evicting_redis: bool = False,
) -> Generator[Frame, None, None]:
    """Subscribe to the channels of the cache `name` and yield every frame as it comes.

    duration  seconds; None: until the generator is closed.  The connection's end raises NetworkError.
    A thread stands behind it while the generator lives.
    """
    frames: queue.SimpleQueue[Frame | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def show(frame: tuple[object, ...] | None) -> bool:
        if frame is not None:
            frames.put(Frame(*frame))  # type: ignore[arg-type]
        return not stop.is_set()

    def run() -> None:
        try:
            _freshet._watch(name, partitions, url, os.fspath(keyring), connect_timeout, allow_evicting_redis, show)
        except BaseException as error:
            frames.put(error)
        else:
            frames.put(None)

    until = None if duration is None else time.monotonic() + duration
    thread = threading.Thread(target=run, name="freshet-watch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                left = None if until is None else max(0.0, until - time.monotonic())
                frame = frames.get(timeout=left)
            except queue.Empty:
                return
            if frame is None:
                return
            if isinstance(frame, BaseException):
                raise frame
            yield frame
    finally:
        stop.set()
        thread.join()
