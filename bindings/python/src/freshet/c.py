"""The thin layer: the library's calls under their own names, with its results instead of exceptions.

    from freshet import c
    result, cache = c.freshet_open(name="users")
    result, value, answer = c.freshet_get(cache, b"user:42")
    if result < 0:
        print(c.freshet_error())

A call answers its Result first, then what it puts out in C: bytes, an Answer, a Change, a guard.  What there is not is
None.  Options are keyword arguments by Cache's names, in seconds.  Wrong types are TypeErrors: C has a compiler for
that.  freshet.h and freshet_fleet.h are the manual; buffers Python has of its own.  Not here are freshet_get_many
(it is Cache.get_many) and freshet_view (what it lends must not outlive the call, which Python cannot see to).
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import _freshet
from ._freshet import key_hash as freshet_key_hash  # noqa: F401
from ._freshet import tag_hash as freshet_tag_hash  # noqa: F401
from ._loaders import ABSENT
from .answers import Answer, Change, Entry, LoadRequest, Stats
from .errors import FreshetError
from .log import set_log
from .watching import Frame

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._freshet import ChangeOptions, GuardOptions, Key, LoadOptions, PutOptions, ReadOptions

if TYPE_CHECKING:

    class _Names(enum.EnumMeta):
        def __getattr__(cls, name: str) -> Result: ...

    class Result(enum.IntEnum, metaclass=_Names):
        """freshet_result, with its names as the library gives them: Result.FRESHET_OK."""

else:
    Result = enum.IntEnum("Result", _freshet._results())

_OK = Result["FRESHET_OK"]
_UNPROVEN = Result["FRESHET_UNPROVEN"]

_said = threading.local()


def _fails(error: FreshetError) -> int:
    """The result of a call that failed; its sentence is this thread's from now on."""
    _said.error = str(error)
    return Result(error.result)


def freshet_error() -> str:
    """What went wrong in this thread's last failing call, and what to do about it; "" when nothing has failed yet."""
    return getattr(_said, "error", "")


def freshet_version() -> str:
    """The library's own version."""
    return _freshet.version


def freshet_result_name(result: int) -> str:
    """ "FRESHET_MISS" and the like."""
    return Result(result).name


def freshet_result_text(result: int) -> str:
    """A result's meaning in a sentence."""
    return _freshet._result_text(result)


def freshet_open(name: str = "default", **options: Any) -> tuple[int, _freshet.Cache | None]:
    """Open the tier: (result, cache).  Options: dir, tier_size, value_max, max_staleness, ttl, policy, partitions,
    deadline, pool, pool_size, pool_minimum."""
    try:
        return _OK, _freshet.Cache(name, **options)
    except FreshetError as error:
        return _fails(error), None


def freshet_close(cache: _freshet.Cache | None) -> None:
    """Leave the fleet if joined, close; None is welcome."""
    if cache is not None:
        cache.close()


def freshet_dir(cache: _freshet.Cache) -> str:
    """The tier's directory."""
    return cache.dir


def freshet_join(cache: _freshet.Cache, url: str, keyring: str, **options: Any) -> int:
    """Join the fleet: FRESHET_OK or FRESHET_UNPROVEN, or a failure.  Options: connect_timeout, allow_evicting_redis."""
    try:
        return _OK if cache.join(url, keyring, **options) else _UNPROVEN
    except FreshetError as error:
        return _fails(error)


def freshet_leave(cache: _freshet.Cache) -> int:
    """Leave the fleet; FRESHET_EBUSY while other calls or guards use the cache."""
    return _done(cache.leave)


def _done(call: Callable[[], object]) -> int:
    try:
        call()
    except FreshetError as error:
        return _fails(error)
    return _OK


def _answered(answer: Answer) -> tuple[int, Any, Answer]:
    return Result["FRESHET_" + answer.result], answer.value, answer


def freshet_get(cache: _freshet.Cache, key: Key, **options: Unpack[ReadOptions]) -> tuple[int, Any, Answer | None]:
    """(result, value, answer)"""
    try:
        return _answered(cache.lookup(key, **options))
    except FreshetError as error:
        return _fails(error), None, None


def freshet_load(
    cache: _freshet.Cache, key: Key, loader: Callable[[LoadRequest], Any], **options: Unpack[LoadOptions]
) -> tuple[int, Any, Answer | None]:
    """(result, value, answer).  The loader's own exception comes out as it was raised."""
    try:
        return _answered(cache.load(key, loader, **options))
    except FreshetError as error:
        return _fails(error), None, None


def freshet_load_tag(request: LoadRequest, tag: str) -> int:
    """In a loader: the answer has this tag too."""
    return _done(lambda: request.tag(tag))


def _changed(call: Callable[[], Change]) -> tuple[int, Change | None]:
    try:
        change = call()
    except FreshetError as error:
        return _fails(error), None
    return Result["FRESHET_" + change.result], change


def freshet_put(
    cache: _freshet.Cache, key: Key, value: Any, **options: Unpack[PutOptions]
) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: cache.set(key, value, **options))


def freshet_put_absent(cache: _freshet.Cache, key: Key, **options: Unpack[PutOptions]) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: cache.set(key, ABSENT, **options))


def freshet_invalidate(cache: _freshet.Cache, key: Key, **options: Unpack[ChangeOptions]) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: cache.invalidate(key, **options))


def freshet_invalidate_many(
    cache: _freshet.Cache, keys: Sequence[Key], **options: Unpack[ChangeOptions]
) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: cache.invalidate(*keys, **options))


def freshet_invalidate_tags(
    cache: _freshet.Cache, tags: Sequence[str], **options: Unpack[ChangeOptions]
) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: cache.invalidate_tags(*tags, **options))


def freshet_clear_namespace(
    cache: _freshet.Cache, name_space: str, **options: Unpack[ChangeOptions]
) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: cache.clear_namespace(name_space, **options))


def freshet_clear(cache: _freshet.Cache, **options: Unpack[ChangeOptions]) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: cache.clear(**options))


def freshet_guard_begin(
    cache: _freshet.Cache, keys: Sequence[Key], **options: Unpack[GuardOptions]
) -> tuple[int, _freshet.Guard | None]:
    """(result, guard)"""
    try:
        return _OK, cache._guard_begin(*keys, **options)
    except FreshetError as error:
        return _fails(error), None


def freshet_guard_left(guard: _freshet.Guard | None) -> float:
    """Seconds that the guard is still in force, even if this process died now; 0: lost."""
    return 0.0 if guard is None else guard.left()


def freshet_guard_end(guard: _freshet.Guard, **options: Unpack[ChangeOptions]) -> tuple[int, Change | None]:
    """(result, change)"""
    return _changed(lambda: guard.end(**options))


def freshet_flush(cache: _freshet.Cache, deadline: float | None = None) -> int:
    """Wait until what this process has handed to the tier is in it."""
    return _done(lambda: cache.flush(deadline))


def freshet_token_of(answer: Answer) -> tuple[int, str]:
    """(FRESHET_OK, token), or (FRESHET_UNPROVEN, "") for an answer that nothing keeps."""
    try:
        token = answer.token()
    except FreshetError as error:
        return _fails(error), ""
    return _OK if token else _UNPROVEN, token


def freshet_token_join(cache: _freshet.Cache, a: str | None, b: str | None) -> tuple[int, str]:
    """(result, token): the later of two in each partition."""
    try:
        return _OK, cache.join_tokens(a, b)
    except FreshetError as error:
        return _fails(error), ""


def freshet_stat(cache: _freshet.Cache) -> tuple[int, Stats | None]:
    """(result, stats)"""
    try:
        return _OK, Stats(cache._stats())
    except FreshetError as error:
        return _fails(error), None


def freshet_each(cache: _freshet.Cache, show: Callable[[Entry], object]) -> int:
    """Show every record of the tier, in no order; false ends it."""
    try:
        records = cache._entries()
    except FreshetError as error:
        return _fails(error)
    for record in records:
        if not show(Entry(*record)):
            break
    return _OK


def freshet_watch(
    name: str,
    partitions: int,
    url: str,
    keyring: str,
    show: Callable[[Frame | None], object],
    *,
    connect_timeout: float | None = None,
    allow_evicting_redis: bool = False,
) -> int:
    """Show every frame of the channels as it comes, and a few times a second None; false ends it."""

    def called(frame: tuple[Any, ...] | None) -> bool:
        return bool(show(None if frame is None else Frame(*frame)))

    return _done(lambda: _freshet._watch(name, partitions, url, keyring, connect_timeout, allow_evicting_redis, called))


def freshet_log(hear: Callable[[int, str], object] | None, least: int = logging.WARNING) -> None:
    """Hear the library's messages as freshet.set_log has it, with the levels of logging; None ends it."""
    set_log(hear, least)


def freshet_keygen(path: str, like: str | None = None) -> int:
    """Write a new keyring to `path`, which must not exist."""
    return _done(lambda: _freshet.keygen(path, like))


__all__ = [name for name in dir() if name.startswith("freshet_")] + ["Result"]
