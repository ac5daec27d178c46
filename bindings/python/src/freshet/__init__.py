"""Freshet: a cache that one host's processes share in memory, and never serve stale beyond a bound.

    import freshet
    cache = freshet.Cache("users", url="unix:///run/redis.sock", keyring="/etc/freshet/keyring")
    row = cache.get_or_load("user:42", lambda: fetch(42))

See Cache, and the tutorial.
"""

from __future__ import annotations

from ._freshet import key_hash, keygen, tag_hash, version
from .aio import AsyncCache, AsyncGuard
from .answers import ABSENT, Absent, Answer, Change, Entry, LoadRequest, Stats
from .cache import Cache, Guard
from .cached import AsyncCachedFunction, CachedFunction
from .errors import (
    Busy,
    DeadlinePassed,
    DirectoryError,
    FreshetError,
    GuardLost,
    InvalidArgument,
    KeyringError,
    LoadFailed,
    NetworkError,
    NoSpace,
    NotJoined,
    OutOfMemory,
    RedisRefused,
    TierError,
    TooBig,
)
from .log import set_log
from .serializers import JSON, MSGPACK, PICKLE, RAW, Serializer
from .watching import Frame, watch

__version__ = version

__all__ = [
    "ABSENT",
    "JSON",
    "MSGPACK",
    "PICKLE",
    "RAW",
    "Absent",
    "Answer",
    "AsyncCache",
    "AsyncCachedFunction",
    "AsyncGuard",
    "Busy",
    "Cache",
    "CachedFunction",
    "Change",
    "DeadlinePassed",
    "DirectoryError",
    "Entry",
    "Frame",
    "FreshetError",
    "Guard",
    "GuardLost",
    "InvalidArgument",
    "KeyringError",
    "LoadFailed",
    "LoadRequest",
    "NetworkError",
    "NoSpace",
    "NotJoined",
    "OutOfMemory",
    "RedisRefused",
    "Serializer",
    "Stats",
    "TierError",
    "TooBig",
    "key_hash",
    "keygen",
    "set_log",
    "tag_hash",
    "version",
    "watch",
]
