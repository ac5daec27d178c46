"""A region backend for dogpile.cache, coherent on all hosts.

    region = make_region().configure("dogpile.cache.freshet", expiration_time=300, arguments={
        "url": "unix:///run/redis.sock", "keyring": "/etc/freshet/keyring", "name": "website", "max_staleness": 0.5})

`arguments` are those of freshet.Cache, and `lock_timeout` (seconds, 30): how long a process that has died in a creator
holds up the others, and the longest that a creator may take.  Give `ttl` well above the region's expiration_time, or
none: dogpile serves an expired value while one creates the next.

The mutex is one for all hosts, so of all who miss a key one creates it.  And while a creator of a missing value runs
this backend holds the key's ticket: what the creator read before somebody else deleted or set the key is given to its
caller and not kept.  (Renewing a value that has expired, for dogpile, and still is there is a plain set: there a
deletion that comes while the creator runs is overwritten, as with every backend of dogpile.)

While Redis is away nothing can be locked or stored; each process then creates for itself, one thread at a time.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend, CacheMutex, KeyType, SerializedReturnType

from .cache import Cache
from .errors import FreshetError
from .exclusive import Lock

__all__ = ["FreshetBackend"]

_LOCK_TIMEOUT = 30.0  # seconds


class _NothingCreated(Exception):
    """The creator raised, or what it made is not to be cached."""


class _Ticket:
    """The right to fill one missing key, held while a creator runs.

    A load whose loader waits: it stands in a thread of its own, since the creator runs in dogpile's.  Against the rest
    of a creator's cost, and one for all hosts, that is little.
    """

    def __init__(self, cache: Cache, key: str, seconds: float) -> None:
        self._cache = cache
        self._key = key
        self._seconds = seconds
        self._value: bytes | None = None
        self._begun = threading.Event()
        self._ended = threading.Event()
        self.held = False
        self._thread = threading.Thread(target=self._run, name="freshet ticket", daemon=True)
        self._thread.start()
        self._begun.wait()

    def _run(self) -> None:
        try:
            self._cache.load(self._key, self._load, ticket=self._seconds)
        except Exception:
            pass  # nothing was created, or the library could not: there is nothing to keep either way
        finally:
            self._begun.set()

    def _load(self) -> bytes:
        self.held = True
        self._begun.set()
        self._ended.wait(self._seconds)
        if self._value is None:
            raise _NothingCreated(self._key)
        return self._value

    def end(self, value: bytes | None) -> None:
        """Fill the key with what was created, unless a change came in between; None: with nothing."""
        self._value = value
        self._ended.set()
        self._thread.join()
        if value is not None and not self._cache.stats().fleet:
            self._cache.flush()  # without Redis it is where a `get` finds it only then


class _Mutex(CacheMutex):
    """One for all hosts; while Redis is away, for this process."""

    def __init__(self, backend: FreshetBackend, key: str) -> None:
        self._backend = backend
        self._key = key
        self._lock = Lock(backend.cache, f"{key}\nlock", hold=backend.lock_timeout)
        self._here: threading.Lock | None = None

    def acquire(self, wait: bool = True) -> bool:
        here = self._backend.lock_here(self._key)
        if not here.acquire(wait):
            return False
        try:
            if not self._lock.acquire(blocking=wait) and self._backend.cache.proven:
                here.release()
                return False
            self._backend.begin(self._key)
        except BaseException:  # nobody would release what was not acquired
            with contextlib.suppress(FreshetError):
                if self._lock.held:
                    self._lock.release()
            here.release()
            raise
        self._here = here
        return True

    def release(self) -> None:
        here, self._here = self._here, None
        if here is None:
            raise RuntimeError("this mutex is not held")
        try:
            self._backend.finish(self._key, None)
            if self._lock.held:
                self._lock.release()
        finally:
            here.release()

    def locked(self) -> bool:
        return self._backend.lock_here(self._key).locked() or self._lock.locked()


class FreshetBackend(BytesBackend):
    """The backend; see the module.  `backend.cache` is the freshet.Cache beneath it, for tags, guards and tokens."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)
        self.lock_timeout = float(self._arguments.pop("lock_timeout", _LOCK_TIMEOUT))
        self._cache: Cache | None = None
        self._guard = threading.Lock()
        self._tickets: dict[tuple[int, str], _Ticket] = {}
        self._locks: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()

    @property
    def cache(self) -> Cache:
        """Opened when it is first needed; TypeError for an argument that freshet.Cache does not take."""
        with self._guard:
            if self._cache is None:
                self._cache = Cache(**{"name": "dogpile", **self._arguments})
            return self._cache

    def has_lock_timeout(self) -> bool:
        return True

    def get_mutex(self, key: KeyType) -> CacheMutex:
        return _Mutex(self, key)

    def lock_here(self, key: str) -> threading.Lock:
        """The lock of this key for the threads of this process: they need not ask Redis who of them is next."""
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def begin(self, key: str) -> None:
        """A creator is about to run in this thread: hold the key's ticket if the key is missing."""
        if self.cache.lookup(key, deadline=None).found:
            return
        ticket = _Ticket(self.cache, key, self.lock_timeout)
        if ticket.held:
            self._tickets[threading.get_ident(), key] = ticket

    def finish(self, key: str, value: bytes | None) -> bool:
        """Use this thread's ticket for the key, if it has one."""
        ticket = self._tickets.pop((threading.get_ident(), key), None)
        if ticket is not None:
            ticket.end(value)
        return ticket is not None

    def get_serialized(self, key: KeyType) -> SerializedReturnType:
        value: SerializedReturnType = self.cache.get(key, NO_VALUE)
        return value

    def get_serialized_multi(self, keys: Iterable[KeyType]) -> Sequence[SerializedReturnType]:
        return [self.get_serialized(key) for key in keys]

    def set_serialized(self, key: KeyType, value: bytes) -> None:
        if not self.finish(key, value):
            self.cache.set(key, value)

    def set_serialized_multi(self, mapping: Mapping[KeyType, bytes]) -> None:
        for key, value in mapping.items():
            self.set_serialized(key, value)

    def delete(self, key: KeyType) -> None:
        self.cache.invalidate(key)

    def delete_multi(self, keys: Iterable[KeyType]) -> None:
        names = list(keys)
        if names:
            self.cache.invalidate(*names)
