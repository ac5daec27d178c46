"""What test_django.py and test_exclusive.py run in the processes of hosts."""

from __future__ import annotations

import os
import threading
from typing import Any

import freshet
from freshet.exclusive import Lock, add
from freshet.testing import HostInfo, point


def backend(host: HostInfo) -> Any:
    """A FreshetCache as Django makes it, without Django's settings."""
    from freshet.django import FreshetCache

    options = {"keyring": host.keyring, "dir": os.path.join(host.dir, "tier"), "deadline": 5.0}
    return FreshetCache(str(host.redis), {"OPTIONS": options, "TIMEOUT": 60})


def cache(host: HostInfo) -> freshet.Cache:
    """A cache in the fleet."""
    return freshet.Cache("one", url=host.redis, keyring=host.keyring, dir=os.path.join(host.dir, "tier"), deadline=5.0)


def cache_alone(host: HostInfo) -> freshet.Cache:
    """A cache without a fleet, which the "hosts" share as processes of one."""
    return freshet.Cache("one", dir=os.path.join(host.shared, "tier"), deadline=5.0)


def adds(cache: Any, rounds: int, me: str) -> list[bool]:
    """Add the same keys as everybody else does."""
    if isinstance(cache, freshet.Cache):
        return [add(cache, f"add:{number}", me.encode(), ttl=60.0) for number in range(rounds)]
    return [cache.add(f"add:{number}", me) for number in range(rounds)]


def incrs(cache: Any, rounds: int) -> list[int]:
    """Count."""
    return [cache.incr("count") for _ in range(rounds)]


def alone(cache: freshet.Cache, rounds: int, path: str) -> int:
    """How often somebody else was found in what a lock keeps for one: a file that must not be there."""
    met = 0
    for _ in range(rounds):
        with Lock(cache, "lock:file"):
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                met += 1
            threading.Event().wait(0.001)
            os.unlink(path)
    return met


def hold(cache: freshet.Cache, seconds: float) -> bool:
    """Take a lock, and say so at a point."""
    lock = Lock(cache, "lock:held", hold=seconds)
    taken = lock.acquire(blocking=False)
    point("taken", taken=taken)
    return taken


def made_slowly(cache: Any, me: str) -> Any:
    """get_or_set of a value that takes until the test lets it go."""

    def make() -> str:
        point("making", me=me)
        return me

    return cache.get_or_set("slow", make)
