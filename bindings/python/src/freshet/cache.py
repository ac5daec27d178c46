"""Cache: one named cache, shared by the processes of this host and, through Redis, by the hosts of its fleet.

A tier hit is answered in C with the interpreter's lock held, since it waits for nobody; everything that may wait lets
go of it.  Durations are seconds, sizes bytes, keys str (as UTF-8) or bytes.  A change that is QUEUED is no error: its
keys are not served on this host until Redis has confirmed it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Union

from . import _freshet, errors
from .aio import AsyncCache
from .answers import Change, Entry, Stats
from .cached import Cacheds, KeyMaker, TagsMaker
from .serializers import RAW, Serializer

if TYPE_CHECKING:
    from typing_extensions import Literal, Self, Unpack

    from ._freshet import CachedOptions, ChangeOptions, PutOptions

Key = Union[str, bytes]

__all__ = ["Cache", "Guard", "Key"]


class Guard:
    """A database write in progress on some keys: from begin to end nothing is stored under them.

        with cache.guard("user:42") as guard:
            ... change the rows, commit ...

    The database must have ended the transaction before the guard's deadline, should this process die: set its own time
    limit for transactions below `hold`.  Leaving the block ends the guard, which invalidates the keys once more; a
    guard that was lost meanwhile raises GuardLost then, unless an exception is already on its way.
    """

    def __init__(
        self, cache: Cache, keys: tuple[Key, ...], hold: float, deadline: float | None, fixed: bool, wait: str
    ) -> None:
        self.cache = cache
        self.keys = keys
        self.change: Change | None = None
        """what became of its end"""
        self._options: dict[str, Any] = {"hold": hold, "deadline": deadline, "fixed": fixed, "wait": wait}
        self._guard: _freshet.Guard | None = None

    def begin(self) -> Guard:
        """Guard the keys, all or none, and invalidate them.  A failure: nothing may be touched in the database."""
        if self._guard is not None:
            raise RuntimeError("the guard has begun already")
        self._guard = self.cache._guard_begin(*self.keys, **self._options)
        return self

    @property
    def left(self) -> float:
        """Seconds that it is still in force, even if this process died now; 0: lost, not begun or ended."""
        return self._guard.left() if self._guard is not None else 0.0

    def end(self, **options: Unpack[ChangeOptions]) -> Change:
        """End it: once more an invalidation of the keys.  The Change's result is "OK" when it was held without a break,
        "GUARD_LOST" when it was not, "QUEUED" when Redis does not answer."""
        if self._guard is None:
            raise RuntimeError("the guard has not begun")
        self.change = self._guard.end(**options)
        return self.change

    def __enter__(self) -> Guard:
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guard is None or self._guard.ended:  # in the block
            return
        try:
            change = self.end()
        except errors.FreshetError:
            if error is None:
                raise
            return
        if change.result == "GUARD_LOST" and error is None:
            raise errors.GuardLost(errors.GUARD_LOST_SENTENCE)


class Cache(_freshet.Cache):
    """Open the cache `name`, creating its tier when absent, and join its fleet when a `url` is given.

    name        of the cache, the same on every host
    url         of Redis (redis://host:port/db, unix:///path); None: this host alone
    keyring     path of the keyring file, with a url
    dir         the tier's directory; None: /dev/shm/freshet-UID/NAME
    tier_size   bytes, at most; 0: what an existing tier has, else 64 MiB
    value_max   bytes of the largest value taken; 0: 16 MiB
    max_staleness  seconds: nothing is served that was changed, anywhere, longer ago
    ttl         seconds, for entries that name none; None: they do not expire
    policy      when that cannot be shown: "closed" a miss, "stale" the old value, marked as such
    partitions  0: what an existing tier has, else 1
    deadline    seconds, for calls that name none
    pool        directory of a pool: a size that several caches share; None: the one that an existing tier is in
    pool_size   bytes of all its caches together; 0: what an existing pool has
    pool_minimum  bytes of it that this one keeps whatever the others want
    serializer  RAW (bytes), JSON, MSGPACK, PICKLE, or any object with dumps and loads

    It serves any thread, and a child after fork.  A Redis that is out of reach is no failure: reads are misses until it
    has answered (`proven`).
    """

    def __init__(
        self,
        name: str = "default",
        *,
        url: str | None = None,
        keyring: str | os.PathLike[str] | None = None,
        dir: str | os.PathLike[str] | None = None,
        tier_size: int = 0,
        value_max: int = 0,
        max_staleness: float = 0.5,
        ttl: float | None = None,
        policy: Literal["closed", "stale"] = "closed",
        partitions: int = 0,
        deadline: float = 1.0,
        pool: str | os.PathLike[str] | None = None,
        pool_size: int = 0,
        pool_minimum: int = 0,
        connect_timeout: float = 1.0,
        allow_evicting_redis: bool = False,
        serializer: Serializer = RAW,
    ) -> None:
        raw = serializer is RAW
        self.serializer = serializer
        self._aio: AsyncCache | None = None
        super().__init__(
            name,
            dir=None if dir is None else os.fsencode(dir),
            tier_size=tier_size,
            value_max=value_max,
            max_staleness=max_staleness,
            ttl=ttl,
            policy=policy,
            partitions=partitions,
            deadline=deadline,
            pool=None if pool is None else os.fsencode(pool),
            pool_size=pool_size,
            pool_minimum=pool_minimum,
            loads=None if raw else serializer.loads,
            dumps=None if raw else serializer.dumps,
        )
        if url is not None:
            try:
                self.join(
                    url,
                    None if keyring is None else os.fspath(keyring),
                    connect_timeout,
                    allow_evicting_redis=allow_evicting_redis,
                )
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<freshet.Cache {self.name!r}{' closed' if self.closed else ''}>"

    def __setitem__(self, key: Key, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: Key) -> None:
        self.invalidate(key)

    @property
    def proven(self) -> bool:
        """Joined and proven fresh within the bound; or there is no fleet."""
        stats = self.stats()
        return not stats.fleet or 0 <= stats.proven_age_ms <= stats.max_staleness_ms

    @property
    def aio(self) -> AsyncCache:
        """The same calls as coroutines."""
        if self._aio is None:
            self._aio = AsyncCache(self)
        return self._aio

    def set_many(self, values: Mapping[Key, Any], **options: Unpack[PutOptions]) -> dict[Key, Change]:
        """Store several values, one after the other; the Change of each."""
        return {key: self.set(key, value, **options) for key, value in values.items()}

    def cached(
        self,
        key: KeyMaker,
        *,
        tags: TagsMaker = (),
        pass_request: str | None = None,
        **options: Unpack[CachedOptions],
    ) -> Cacheds:
        """Keep a function's answers: ``@cache.cached(key="user:{id}", ttl=60)``, for coroutine functions too.

        key           a template over the function's parameters, or a callable with its arguments
        tags          templates likewise, or a callable that gives the tags
        pass_request  the name of a parameter that takes the LoadRequest, which callers do not give

        Put it above ``@classmethod``, not below: from Python 3.13 on that gives `invalidate` and the others no class.
        """
        return Cacheds(self, key, tags, pass_request, options)

    def entries(self) -> list[Entry]:
        """Every record of the tier, in no order; what changes meanwhile may or may not show."""
        return [Entry(*fields) for fields in self._entries()]

    def stats(self) -> Stats:
        """The tier's statistics."""
        return Stats(self._stats())

    def guard(
        self,
        *keys: Key,
        hold: float = 10.0,
        deadline: float | None = None,
        fixed: bool = False,
        wait: Literal["none", "hosts"] = "none",
    ) -> Guard:
        """A guard on the keys, for a ``with`` block around a change of database rows.

        hold   seconds that it outlives this process; 0.1 to 600
        fixed  do not prolong it: it ends `hold` after its begin
        wait   "hosts": begin when no host serves the keys any more
        """
        return Guard(self, keys, hold, deadline, fixed, wait)
