"""A cache backend for Django: django.core.cache, coherent on all hosts.

    CACHES = {"default": {
        "BACKEND": "freshet.django.FreshetCache",
        "LOCATION": "unix:///run/redis.sock",               # or redis://...; "": this host alone
        "TIMEOUT": 300,
        "OPTIONS": {"keyring": "/etc/freshet/keyring", "name": "website", "max_staleness": 0.5},
    }}

OPTIONS are the arguments of freshet.Cache but for `url` and `ttl`; `serializer` may be a dotted path too.  MAX_ENTRIES
and CULL_FREQUENCY mean nothing here: the tier is bounded in bytes (`tier_size`).

Values are pickled unless OPTIONS say otherwise, as with Django's own backends.  In Redis they are sealed with the
fleet's key, so that who can write to Redis cannot bring a pickle of his own; who has the keyring can.

What is the same as everywhere, and what is better:
    get, set, delete    a hit is a look into this host's memory.  After set or delete no process of this host gets the
                        older value, and no other host 500 ms later (max_staleness), mostly a millisecond or two.
    get_or_set          one caller on all hosts makes the value, the others wait for it; what was made from something
                        that a delete or set has overtaken is not kept.
    add                 atomic: of all who add at once one is told True.
    incr, decr, touch   hold a lock (freshet.exclusive) against one another, so that no increment is lost, and keep the
                        timeout (touch: the value).  They cost six round trips to Redis.  A plain `set` does not
                        ask for that lock: one that falls between their reading and writing is overwritten.
    delete              tells whether there was something, as far as this host knew.
    timeouts            None: for good.  0 and negative: as delete.  Above 49 days: 49 days.
    a Redis that is away   gets are misses, sets and deletes are remembered as deletions and sent later, add is False,
                        incr and touch raise ConnectionError.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .cache import Cache
from .errors import NetworkError
from .exclusive import Lock, add

__all__ = ["FreshetCache", "Pickle"]

_TTL_MAX = 49 * 24 * 3600.0  # seconds: the library counts milliseconds in 32 bits
_LOCK_HOLD = 5.0  # seconds that a process which died in incr or touch holds up the others
_NOT_OURS = {"url": "LOCATION", "ttl": "TIMEOUT"}
_IGNORED = {"MAX_ENTRIES", "CULL_FREQUENCY"}

_open_caches: dict[str, Cache] = {}
_open_lock = threading.Lock()


class Pickle:
    """Pickles, with a fixed protocol, so that hosts with different Pythons can read one another."""

    def __init__(self, protocol: int = 5) -> None:
        self.protocol = protocol

    def dumps(self, value: Any, /) -> bytes:
        """The value as bytes; pickle.PicklingError when it cannot be."""
        return pickle.dumps(value, self.protocol)

    def loads(self, data: bytes, /) -> Any:
        """The value again."""
        return pickle.loads(data)


def _open(location: str, options: Mapping[str, Any]) -> Cache:
    """The process's one Cache of these settings: Django makes a backend per thread, a tier needs no more than one."""
    wrong = [f"{name} (set {_NOT_OURS[name]})" for name in options if name in _NOT_OURS]
    if wrong:
        raise ImproperlyConfigured(f"OPTIONS of a FreshetCache must not have {', '.join(wrong)}")
    arguments = {name: value for name, value in options.items() if name not in _IGNORED}
    serializer = arguments.pop("serializer", None) or Pickle()
    if isinstance(serializer, str):
        serializer = import_string(serializer)
    if isinstance(serializer, type):
        serializer = serializer()
    arguments.setdefault("name", "django")
    named = f"{location} {sorted(options.items(), key=lambda option: option[0])!r}"
    with _open_lock:
        if named not in _open_caches:
            _open_caches[named] = Cache(url=location or None, serializer=serializer, **arguments)
        return _open_caches[named]


class FreshetCache(BaseCache):
    """The backend; see the module.  `self.freshet` is the freshet.Cache beneath it, for tags, guards and tokens."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._location = location or ""
        self._options: dict[str, Any] = dict(params.get("OPTIONS") or {})
        self._opened: Cache | None = None

    @property
    def freshet(self) -> Cache:
        """Opened when it is first needed, so that a command that does not use the cache needs no Redis."""
        if self._opened is None:
            self._opened = _open(self._location, self._options)
        return self._opened

    def _ttl(self, timeout: Any) -> float | None:
        """Seconds; None: it does not expire; 0 or less: it is over."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return None if timeout is None else min(float(timeout), _TTL_MAX)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return self.freshet.get(self.make_and_validate_key(key, version=version), default)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._set(self.make_and_validate_key(key, version=version), value, self._ttl(timeout))

    def _set(self, made: str, value: Any, ttl: float | None) -> bool:
        """Was it stored?  A key that is guarded, or of a Redis that is away, is deleted instead."""
        if ttl is not None and ttl <= 0:
            self.freshet.invalidate(made)
            return True
        stored: bool = self.freshet.set(made, value, ttl=ttl).result == "OK"
        return stored

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        made, ttl = self.make_and_validate_key(key, version=version), self._ttl(timeout)
        if ttl is not None and ttl <= 0:
            return not self.freshet.lookup(made).found
        return add(self.freshet, made, value, ttl=ttl)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        made, ttl = self.make_and_validate_key(key, version=version), self._ttl(timeout)
        with self._alone(made):
            now = self.freshet.lookup(made, level="latest")
            if not now.found:
                return False
            self._stored(made, now.value, ttl)
            return True

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        made = self.make_and_validate_key(key, version=version)
        with self._alone(made):
            now = self.freshet.lookup(made, level="latest")
            if not now.found:
                raise ValueError(f"Key '{key}' not found")
            value: int = now.value + delta
            self._stored(made, value, now.ttl)
            return value

    @contextlib.contextmanager
    def _alone(self, made: str) -> Iterator[None]:
        lock = Lock(self.freshet, f"{made}\nlock", hold=_LOCK_HOLD)
        if not lock.acquire(timeout=2 * _LOCK_HOLD if self.freshet.proven else 0.0):
            raise NetworkError(
                f"{made!r} cannot be changed alone: Redis does not answer, or others hold it for too long"
            )
        try:
            yield
        finally:
            lock.release()

    def _stored(self, made: str, value: Any, ttl: float | None) -> None:
        if not self._set(made, value, ttl):
            raise NetworkError(f"{made!r} was not stored but deleted: Redis does not answer, or the key is guarded")

    def delete(self, key: Any, version: int | None = None) -> bool:
        made = self.make_and_validate_key(key, version=version)
        there = bool(self.freshet.lookup(made).found)
        self.freshet.invalidate(made)
        return there

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return bool(self.freshet.lookup(self.make_and_validate_key(key, version=version)).found)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        made = {key: self.make_and_validate_key(key, version=version) for key in keys}
        found = {key: self.freshet.get(name, self._missing_key) for key, name in made.items()}
        return {key: value for key, value in found.items() if value is not self._missing_key}

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """The keys that were deleted rather than stored (guarded, or Redis is away)."""
        made = {key: self.make_and_validate_key(key, version=version) for key in data}
        ttl = self._ttl(timeout)
        return [key for key, value in data.items() if not self._set(made[key], value, ttl)]

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        made = [self.make_and_validate_key(key, version=version) for key in keys]
        if made:
            self.freshet.invalidate(*made)

    def get_or_set(self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> Any:
        """As Django's; and one caller on all hosts makes the value, and keeps none that a change has overtaken."""
        made, ttl = self.make_and_validate_key(key, version=version), self._ttl(timeout)
        make: Callable[[], Any] = (lambda: default()) if callable(default) else (lambda: default)
        if ttl is not None and ttl <= 0:
            value = self.freshet.get(made, self._missing_key)
            return make() if value is self._missing_key else value
        answer = self.freshet.load(made, make, ttl=ttl)
        if answer.source == "loader" and not self._location:
            self.freshet.flush()  # without Redis it is where a `get` finds it only then
        return answer.value

    def clear(self) -> None:
        """Forget everything in this cache, whatever the prefix and version, on all hosts."""
        self.freshet.clear()

    # ---- asynchronous: on the event loop (freshet.aio); what holds a lock runs in a thread, as Django's own does

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return await self.freshet.aio.get(self.make_and_validate_key(key, version=version), default)

    async def aadd(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return await sync_to_async(self.add, thread_sensitive=False)(key, value, timeout, version)

    async def aset(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        await self._aset(self.make_and_validate_key(key, version=version), value, self._ttl(timeout))

    async def _aset(self, made: str, value: Any, ttl: float | None) -> bool:
        if ttl is not None and ttl <= 0:
            await self.freshet.aio.invalidate(made)
            return True
        return (await self.freshet.aio.set(made, value, ttl=ttl)).result == "OK"

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return await sync_to_async(self.touch, thread_sensitive=False)(key, timeout, version)

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        made = self.make_and_validate_key(key, version=version)
        there = (await self.freshet.aio.lookup(made)).found
        await self.freshet.aio.invalidate(made)
        return there

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        return (await self.freshet.aio.lookup(self.make_and_validate_key(key, version=version))).found

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        return await sync_to_async(self.incr, thread_sensitive=False)(key, delta, version)

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        made = {key: self.make_and_validate_key(key, version=version) for key in keys}
        found = await self.freshet.aio.get_many(made.values())
        return {key: found[name] for key, name in made.items() if name in found}

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        made = {key: self.make_and_validate_key(key, version=version) for key in data}
        ttl = self._ttl(timeout)
        return [key for key, value in data.items() if not await self._aset(made[key], value, ttl)]

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        made = [self.make_and_validate_key(key, version=version) for key in keys]
        if made:
            await self.freshet.aio.invalidate(*made)

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> Any:
        return await sync_to_async(self.get_or_set, thread_sensitive=False)(key, default, timeout, version)

    async def aclear(self) -> None:
        await self.freshet.aio.clear()
