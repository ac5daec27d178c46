"""Freshet: a cache that one host's processes share in memory, and never serve stale beyond a bound.

    import freshet
    cache = freshet.Cache("users", url="unix:///run/redis.sock", keyring="/etc/freshet/keyring")
    row = cache.get_or_load("user:42", lambda: fetch(42))

See Cache, and the tutorial.
"""

from __future__ import annotations

from ._freshet import keygen, version
from .answers import ABSENT, Absent, Answer, Change, Entry, LoadRequest, Stats
from .cache import Cache, Guard
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
from .serializers import JSON, MSGPACK, PICKLE, RAW, Serializer

__version__ = version

__all__ = [
    "ABSENT",
    "JSON",
    "MSGPACK",
    "PICKLE",
    "RAW",
    "Absent",
    "Answer",
    "Busy",
    "Cache",
    "Change",
    "DeadlinePassed",
    "DirectoryError",
    "Entry",
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
    "keygen",
    "version",
]
