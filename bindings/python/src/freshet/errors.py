"""The exceptions: one for each failure of the library, each also the built-in that it is most like.

``str(error)`` is the library's sentence, which says what is wrong and what to do about it.  ``error.result`` is its
number and ``error.name`` its name in freshet.h.
"""

from __future__ import annotations

__all__ = [
    "Busy",
    "DeadlinePassed",
    "DirectoryError",
    "FreshetError",
    "GuardLost",
    "InvalidArgument",
    "KeyringError",
    "LoadFailed",
    "NetworkError",
    "NoSpace",
    "NotJoined",
    "OutOfMemory",
    "RedisRefused",
    "TierError",
    "TooBig",
]


GUARD_LOST_SENTENCE = (
    "the guard was not held until its end: a load may have kept, until now, what it read before the commit; give a "
    "longer hold, or a shorter transaction"
)


class FreshetError(Exception):
    """Any failure of the library."""

    result: int = 0
    name: str = ""


class InvalidArgument(FreshetError, ValueError):
    """An argument or option is out of its range."""

    result, name = -1, "FRESHET_EINVAL"


class OutOfMemory(FreshetError, MemoryError):
    """No memory in this process."""

    result, name = -2, "FRESHET_ENOMEM"


class TierError(FreshetError, OSError):
    """The map or the system beneath it failed."""

    result, name = -3, "FRESHET_EIO"


class DirectoryError(FreshetError, OSError):
    """The directory is not fit: owner, mode, symlink, not a directory, another namespace."""

    result, name = -4, "FRESHET_EDIR"


class Busy(FreshetError):
    """In use in another shape, held by another process past the deadline, or too many guards on a key."""

    result, name = -5, "FRESHET_EBUSY"


class NoSpace(FreshetError, OSError):
    """The file system has no room for the tier's control page."""

    result, name = -6, "FRESHET_ENOSPC"


class TooBig(FreshetError, ValueError):
    """A key or value above its limit."""

    result, name = -7, "FRESHET_ETOOBIG"


class DeadlinePassed(FreshetError, TimeoutError):
    """The deadline passed first."""

    result, name = -8, "FRESHET_ETIMEOUT"


class LoadFailed(FreshetError):
    """Another caller's loader failed, for which this one waited.  One's own loader's exception comes out as it is."""

    result, name = -9, "FRESHET_ELOAD"


class NotJoined(FreshetError):
    """The tier belongs to a fleet: join it first, then change things."""

    result, name = -10, "FRESHET_EFLEET"


class NetworkError(FreshetError, ConnectionError):
    """Redis cannot be reached."""

    result, name = -11, "FRESHET_ENET"


class RedisRefused(FreshetError):
    """Redis answers, but refuses: password, ACL, eviction policy, read-only, version."""

    result, name = -12, "FRESHET_EREDIS"


class KeyringError(FreshetError):
    """The keyring file is missing, readable by others, garbled, or lacks a key."""

    result, name = -13, "FRESHET_EKEYRING"


class GuardLost(FreshetError):
    """The guard was not held until its end; the keys are invalidated all the same."""

    result, name = 8, "FRESHET_GUARD_LOST"


_kinds: dict[int, type[FreshetError]] = {kind.result: kind for kind in FreshetError.__subclasses__()}


def error_of(result: int, sentence: str) -> FreshetError:
    """The exception for one of the library's results; a result of a newer library is a plain FreshetError."""
    kind = _kinds.get(result, FreshetError)
    error = kind(sentence or (kind.__doc__ or "").splitlines()[0])
    if kind is FreshetError:
        error.result = result
    return error
