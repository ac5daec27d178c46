"""Only one may: store if there is nothing, and locks, for all processes of all hosts.

Freshet has no compare-and-set, but it gives one caller in the fleet the right to fill what is missing (a ticket), and
refuses the fill if anything changed in between.  "Store it if it is not there" is just that, with a loader that has
its value ready.  Locks are made of it: an entry that one of all could add.

Leans on the public interface of Cache only.  What frameworks expect beyond get and set stands on this: Django's `add`
and `incr`, dogpile's mutex.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from types import TracebackType
from typing import Any

from .answers import Answer
from .cache import Cache, Key
from .serializers import RAW

__all__ = ["Lock", "add"]

_TRIES = 8  # of an add that a change overtakes each time, before it is said that it did not get in


def add(cache: Cache, key: Key, value: Any, *, ttl: float | None = None, deadline: float | None = None) -> bool:
    """Store `value` if nobody has stored anything under `key` (an absence counts as something): was it this one?

    Of all who ask at once, on whatever host, one is told True.  False too when Redis does not answer within `deadline`
    seconds, as then nothing is stored.  ttl: seconds; None: the cache's.  Costs two round trips to Redis when it is
    stored, one when not.
    """
    for _ in range(_TRIES):
        mine = False

        def load() -> Any:
            nonlocal mine
            mine = True
            return value

        answer = cache.load(key, load, ttl=ttl, level="latest", deadline=deadline)
        if not mine:
            return False
        if answer.token() if cache.stats().fleet else _in_tier(cache, key, answer):
            return True
        # It was overtaken by a change of the key, or Redis is away; if there is an entry now, it is another's.
        if not cache.proven:
            return False
    return False


def _in_tier(cache: Cache, key: Key, answer: Answer) -> bool:
    """Without a fleet what was loaded is nowhere but in the tier, once the library has written it there.

    Nobody else's loader is called meanwhile: a load goes on, for all who wait for it, until its result is in place.
    """
    cache.flush()
    now = cache.lookup(key, tier_only=True)
    return bool(now.found) and now.version == answer.version


class Lock:
    """A lock that all hosts share, named by a key of the cache; it ends by itself `hold` seconds after it was taken.

        with Lock(cache, "lock:report", hold=30.0):
            ...

    Who holds it longer than that no longer holds it alone, and is not told: it saves work and keeps counters straight,
    it is no promise that rows may rest on (use a guard, or the database's own).  One object is for one holder at a
    time; waiting is asking again, after 2 to 50 milliseconds.
    """

    def __init__(self, cache: Cache, key: Key, hold: float = 30.0) -> None:
        self.cache = cache
        self.key = key
        self.hold = hold
        self._mine: Any = None

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take it; False: another has it, and `blocking` is False or `timeout` seconds (None: no end) have passed.

        False too when Redis is away, as then nobody can be shown to have it alone.
        """
        secret = secrets.token_hex(16)
        mine: Any = secret.encode() if self.cache.serializer is RAW else secret
        until = None if timeout is None else time.monotonic() + timeout
        pause = 0.002
        while not add(self.cache, self.key, mine, ttl=self.hold):
            late = until is not None and time.monotonic() + pause > until
            if not blocking or late or not self.cache.proven:
                return False
            threading.Event().wait(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 0.05)
        self._mine = mine
        return True

    def release(self) -> None:
        """Let it go; nothing happens if it has ended by itself.  RuntimeError when it was not taken."""
        if self._mine is None:
            raise RuntimeError("this lock is not held")
        mine, self._mine = self._mine, None
        if self.cache.get(self.key, level="latest") == mine:
            self.cache.invalidate(self.key)

    @property
    def held(self) -> bool:
        """Taken by this object, and not let go (it may have ended by itself)."""
        return self._mine is not None

    def locked(self) -> bool:
        """Somebody has it."""
        return bool(self.cache.lookup(self.key, level="latest").found)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
