"""Cache on one host: what each call gives, takes and refuses."""

from __future__ import annotations

import gc
import os
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Opener, until

import freshet


def test_what_is_set_is_got(cache: freshet.Cache) -> None:
    assert cache.get("k") is None
    assert cache.get("k", 7) == 7
    assert cache.get("k", default=8) == 8
    change = cache.set("k", b"v")
    assert change.result == "OK" and change.confirmed and change.position > 0
    assert cache.get("k") == b"v" == cache[b"k"] == cache["k"]
    assert "k" in cache and "other" not in cache


def test_the_mapping_calls_raise_and_forget(cache: freshet.Cache) -> None:
    with pytest.raises(KeyError):
        cache["k"]
    cache["k"] = b"v"
    del cache["k"]
    assert "k" not in cache
    cache.set_absent("k")
    with pytest.raises(KeyError):
        cache["k"]
    assert "k" not in cache


@pytest.mark.parametrize("key", ["k", "schlüssel", "\N{SNOWMAN}" * 100, b"\x00\xff", "x" * 65536])
def test_keys_are_text_or_bytes(cache: freshet.Cache, key: str | bytes) -> None:
    cache.set(key, b"v")
    assert cache.get(key) == b"v"
    if isinstance(key, str):
        assert cache.get(key.encode()) == b"v"


@pytest.mark.parametrize("value", [b"", b"x", b"\x00" * 5000, bytes(range(256)) * 2000])
def test_values_of_every_size(cache: freshet.Cache, value: bytes) -> None:
    for given in (value, bytearray(value), memoryview(value)):
        cache.set("k", given)
        assert cache.get("k") == value
        assert cache.lookup("k").value == value


def test_a_lookup_tells_what_is_known(cache: freshet.Cache) -> None:
    miss = cache.lookup("k")
    assert (miss.result, miss.found, miss.absent, miss.value, miss.source, miss.ttl) == (
        "MISS", False, False, None, None, None,
    )  # fmt: skip
    cache.set("k", b"v", ttl=60, source_version=5)
    answer = cache.lookup("k")
    assert (answer.result, answer.found, answer.stale, answer.value, answer.source) == ("OK", True, False, b"v", "tier")
    assert answer.source_version == 5 and answer.version > 0 and answer.position > 0
    assert answer.ttl is not None and 50 < answer.ttl <= 60
    assert answer.age_bound is not None and answer.age_bound >= 0
    assert answer.token() and cache.get("k", token=answer.token()) == b"v"
    cache.set_absent("k")
    absent = cache.lookup("k")
    assert (absent.result, absent.absent, absent.found) == ("ABSENT", True, False)


def test_none_and_absent_are_absences_without_a_serializer(cache: freshet.Cache, opener: Opener) -> None:
    for value in (None, freshet.ABSENT):
        cache.set("k", value)
        assert cache.lookup("k").absent
    typed = opener(serializer=freshet.JSON)
    typed.set("k", None)
    assert typed.lookup("k").found and typed.get("k", 7) is None
    typed.set("k", freshet.ABSENT)
    assert typed.lookup("k").absent and typed.get("k", 7) == 7


@pytest.mark.parametrize("serializer", [freshet.JSON, freshet.MSGPACK, freshet.PICKLE])
def test_serializers_bring_values_back(opener: Opener, serializer: freshet.Serializer) -> None:
    cache = opener(serializer=serializer)
    value = {"a": [1, 2.5, None, True], "ü": "text", "deep": {"er": []}}
    cache.set("k", value)
    assert cache.get("k") == value == cache["k"] == cache.lookup("k").value
    assert cache.get_or_load("loaded", lambda: [1, 2]) == [1, 2]


def test_a_serializer_of_ones_own_may_use_the_cache(opener: Opener) -> None:
    plain = opener()
    plain.set("inner", b"!")

    class Odd:
        def dumps(self, value: Any, /) -> bytes:
            return str(value).encode()

        def loads(self, data: bytes, /) -> Any:
            return data.decode() + plain["inner"].decode() + str(cache.get("nothing"))

    cache = opener(serializer=Odd())
    cache.set("k", 12)
    assert cache.get("k") == "12!None"


def test_a_serializers_exception_comes_out(opener: Opener) -> None:
    cache = opener(serializer=freshet.JSON)
    with pytest.raises(TypeError):
        cache.set("k", object())
    opener().set("k", b"no json")
    for read in (cache.get, cache.lookup, cache.__getitem__):
        with pytest.raises(ValueError, match="Expecting"):
            read("k")
    with pytest.raises(TypeError):
        cache.get_or_load("k2", object)
    assert cache.get("k2") is None


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda c: c.get(5), TypeError, "a key is str or bytes"),
        (lambda c: c.get(), TypeError, "takes a key"),
        (lambda c: c.get("k", foo=1), TypeError, "unexpected keyword argument 'foo'"),
        (lambda c: c.get("k", ttl=1), TypeError, "unexpected keyword argument 'ttl'"),
        (lambda c: c.set("k", b"", level="any"), TypeError, "unexpected keyword argument 'level'"),
        (lambda c: c.get("\ud800"), UnicodeEncodeError, "surrogates"),
        (lambda c: c.set("k", "text"), TypeError, "serializer"),
        (lambda c: c.set("k", b"", tags="users"), TypeError, "sequence of names"),
        (lambda c: c.set("k", b"", tags=[5]), TypeError, "a tag is str"),
        (lambda c: c.get(""), freshet.InvalidArgument, "1 to 65536"),
        (lambda c: c.get("x" * 65537), freshet.TooBig, "65536"),
        (lambda c: c.set("k", b"x" * (17 << 20)), freshet.TooBig, "bytes"),
        (lambda c: c.get("k", bound=-1), freshet.InvalidArgument, "bound"),
        (lambda c: c.get("k", bound=float("nan")), freshet.InvalidArgument, "bound"),
        (lambda c: c.get("k", level="new"), freshet.InvalidArgument, '"latest"'),
        (lambda c: c.set("k", b"", ttl=0), freshet.InvalidArgument, "ttl"),
        (lambda c: c.set("k", b"", ttl=5e6), freshet.InvalidArgument, "ttl"),
        (lambda c: c.set("k", b"", wait="all"), freshet.InvalidArgument, "hosts"),
        (lambda c: c.set("k", b"", source_version=-1), freshet.InvalidArgument, "source_version"),
        (lambda c: c.set("k", b"", source_version=1 << 64), freshet.InvalidArgument, "source_version"),
        (lambda c: c.set("k", b"", tags=["a"] * 17), freshet.InvalidArgument, "at most 16"),
        (lambda c: c.set("k", b"", tags=["a\0b"]), freshet.InvalidArgument, "zero byte"),
        (lambda c: c.invalidate(), TypeError, "one key or more"),
        (lambda c: c.guard().begin(), freshet.InvalidArgument, "1 to 1024 keys"),
        (lambda c: c.guard("k", hold=0.01).begin(), freshet.InvalidArgument, "hold"),
        (lambda c: c.join_tokens("garbled", ""), freshet.InvalidArgument, "token"),
    ],
)
def test_what_cannot_be_is_refused_in_words(cache: freshet.Cache, call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(cache)
    cache.set("after", b"1")
    assert cache.get("after") == b"1"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"name": "a/b"}, freshet.InvalidArgument),
        ({"policy": "open"}, freshet.InvalidArgument),
        ({"max_staleness": 0.001}, freshet.InvalidArgument),
        ({"tier_size": 5}, freshet.InvalidArgument),
        ({"partitions": 17}, freshet.InvalidArgument),
        ({"url": "http://x"}, freshet.InvalidArgument),
        ({"url": "unix:///nowhere", "keyring": "/nowhere/keyring"}, freshet.KeyringError),
    ],
)
def test_a_cache_that_cannot_be_is_not_opened(opener: Opener, options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        opener(**options)


def test_a_directory_that_is_not_fit(shm: Path) -> None:
    (shm / "file").write_text("")
    with pytest.raises(freshet.DirectoryError) as caught:
        freshet.Cache("x", dir=shm / "file")
    assert isinstance(caught.value, OSError) and caught.value.result == -4 and caught.value.name == "FRESHET_EDIR"


def test_a_tier_of_another_size_is_busy(opener: Opener) -> None:
    opener()
    with pytest.raises(freshet.Busy):
        opener(tier_size=8 << 20)


def test_every_failure_has_a_class_of_its_own() -> None:
    from freshet import c
    from freshet.errors import error_of

    for result in c.Result:
        if result < 0:
            error = error_of(result, "words")
            assert type(error) is not freshet.FreshetError, f"no class for {result.name}"
            assert error.result == result and error.name == result.name and str(error) == "words"
    assert error_of(-99, "new").result == -99


def test_after_close_calls_say_so(opener: Opener) -> None:
    cache = opener()
    with cache as same:
        assert same is cache
        cache.set("k", b"v")
        answer = cache.lookup("k")
    assert cache.closed and repr(cache) == "<freshet.Cache 'test' closed>"
    cache.close()
    calls: list[Any] = [
        lambda: cache.get("k"), lambda: cache.lookup("k"), lambda: cache["k"], lambda: "k" in cache,
        lambda: cache.set("k", b""), lambda: cache.get_or_load("k", bytes), lambda: cache.invalidate("k"),
        cache.clear, cache.stats, cache.entries, cache.flush, answer.token, lambda: cache.guard("k").begin(),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(freshet.InvalidArgument, match="closed"):
            call()


def test_closing_waits_for_nobody_and_pulls_nothing_away(opener: Opener) -> None:
    cache = opener()
    inside, go = threading.Event(), threading.Event()
    got: list[Any] = []

    def loader() -> bytes:
        inside.set()
        assert go.wait(20)
        return b"late"

    thread = threading.Thread(target=lambda: got.append(cache.get_or_load("k", loader)))
    thread.start()
    assert inside.wait(20)
    cache.close()
    go.set()
    thread.join()
    assert got == [b"late"]


def test_tags_namespaces_and_clear(cache: freshet.Cache) -> None:
    voids: list[Callable[[], freshet.Change]] = [
        lambda: cache.invalidate_tags("t1"),
        lambda: cache.clear_namespace("n"),
        cache.clear,
        lambda: cache.invalidate("x", "k"),
    ]
    for void in voids:
        cache.set("k", b"v", tags=["t1", "t2"], namespace="n")
        cache.set("free", b"v")
        assert cache.get("k") == b"v"
        assert void().result == "OK"
        assert cache.get("k") is None
    assert cache.get("free") == b"v"
    cache.clear()
    assert cache.get("free") is None


def test_source_versions_refuse_the_older(cache: freshet.Cache) -> None:
    assert cache.set("k", b"new", source_version=7).result == "OK"
    assert cache.set("k", b"old", source_version=6).result == "OUTDATED"
    assert cache.get("k") == b"new"


def test_a_time_to_live_ends(cache: freshet.Cache) -> None:
    cache.set("k", b"v", ttl=0.05)
    until(lambda: cache.get("k") is None, "the end of its time")


def test_many(cache: freshet.Cache) -> None:
    changes = cache.set_many({"a": b"1", b"b": b"2"}, ttl=60)
    assert [change.result for change in changes.values()] == ["OK", "OK"]
    assert cache.get_many(["a", "missing", b"b"]) == {"a": b"1", b"b": b"2"}
    assert cache.get_many(key for key in ("b", "b")) == {"b": b"2"}
    assert cache.get_many([]) == {}
    cache.set_absent("a")
    assert cache.get_many(["a", "b"]) == {"b": b"2"}


def test_many_keys_that_are_none(cache: freshet.Cache) -> None:
    with pytest.raises(TypeError, match="get_many"):
        cache.get_many()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        cache.get_many(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        cache.get_many(["a", 7])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="get_many"):
        cache.get_many(["a"], ttl=1)  # type: ignore[call-arg]
    with pytest.raises(freshet.InvalidArgument):
        cache.get_many(["a", ""])


def test_many_pass_the_serializer(opener: Opener) -> None:
    cache = opener(serializer=freshet.JSON)
    cache.set_many({"a": {"x": 1}, "b": [2]})
    assert cache.get_many(["a", "b", "c"]) == {"a": {"x": 1}, "b": [2]}


def test_statistics_have_every_field_of_the_header(cache: freshet.Cache) -> None:
    header = Path(__file__).parents[3] / "core" / "include" / "freshet.h"
    if not header.exists():
        pytest.skip("not in a checkout: there is no header to compare with")
    body = re.search(r"typedef struct freshet_stats \{(.*?)\} freshet_stats;", header.read_text(), re.DOTALL)
    assert body is not None
    plain = re.sub(r"/\*.*?\*/", "", body.group(1), flags=re.DOTALL)
    declared = {name.strip() for line in plain.split(";") if line.strip() for name in line.split(None, 1)[1].split(",")}
    cache.set("k", b"v")
    cache.get("k")
    stats = cache.stats()
    assert set(stats) == declared - {"struct_size"}
    assert stats.puts == stats["puts"] == 1 and stats.fleet is False and stats.tier_size == 4 << 20
    assert cache.proven
    with pytest.raises(AttributeError):
        _ = stats.nonsense


def test_entries_show_the_records(cache: freshet.Cache) -> None:
    cache.set("k", b"value", tags=["t"], ttl=60)
    cache.set_absent(b"\xff")
    cache.flush()
    entries = {entry.key: entry for entry in cache.entries()}
    assert set(entries) == {b"k", b"\xff"}
    one = entries[b"k"]
    assert (one.value_size, one.absent, one.servable, one.why) == (5, False, True, "")
    assert one.ttl is not None and 50 < one.ttl <= 60
    assert one.tags == (int.from_bytes(freshet.tag_hash("test", "t")[:8], "little"),)
    assert entries[b"\xff"].absent and len(freshet.key_hash("test", "k")) == 16


def test_a_guard_holds_and_ends(cache: freshet.Cache) -> None:
    cache.set("k", b"old")
    with cache.guard("k", hold=5) as guard:
        assert cache.get("k") is None
        assert 0 < guard.left <= 5
        assert cache.set("k", b"new").result == "GUARDED"
        assert cache.get_or_load("k", lambda: b"for me alone") == b"for me alone"
        assert cache.get("k") is None
    assert guard.change is not None and guard.change.result == "OK" and guard.left == 0
    assert cache.set("k", b"new").result == "OK"


def test_a_lost_guard_is_an_exception_unless_one_is_on_its_way(cache: freshet.Cache) -> None:
    with pytest.raises(freshet.GuardLost) as caught, cache.guard("k", hold=0.1, fixed=True) as guard:
        until(lambda: guard.left == 0, "the guard's end")
    assert caught.value.result == 8
    with pytest.raises(RuntimeError, match="mine"), cache.guard("k", hold=0.1, fixed=True) as guard:
        until(lambda: guard.left == 0, "the guard's end")
        raise RuntimeError("mine")


def test_a_guard_is_begun_and_ended_once(cache: freshet.Cache) -> None:
    guard = cache.guard("k")
    assert guard.left == 0
    with pytest.raises(RuntimeError, match="not begun"):
        guard.end()
    assert guard.begin() is guard
    with pytest.raises(RuntimeError, match="begun already"):
        guard.begin()
    assert guard.end().result == "OK"
    with pytest.raises(RuntimeError, match="ended already"):
        guard.end()


def test_a_forgotten_guard_ends_with_its_object(cache: freshet.Cache) -> None:
    guard = cache.guard("k").begin()
    assert cache.set("k", b"v").result == "GUARDED"
    del guard
    assert cache.set("k", b"v").result == "OK"


def test_a_cache_closed_under_a_guard_closes_with_it(opener: Opener) -> None:
    cache = opener()
    with cache.guard("k") as guard:
        cache.close()
        assert guard.left > 0
    assert guard.change is not None and guard.change.result == "OK"


def test_messages_of_the_library_are_heard(opener: Opener, shm: Path) -> None:
    import logging

    heard: list[tuple[int, str]] = []
    freshet.set_log(lambda level, message: heard.append((level, message)), "debug")
    try:
        cache = opener("log", name="log")
        cache.close()
        (shm / "log" / "control").write_bytes(b"x" * 5000)
        opener("log", name="log")
        until(lambda: heard, "a message")
        assert all(level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR) for level, _ in heard)
    finally:
        freshet.set_log(None)
    with pytest.raises(ValueError, match="level"):
        freshet.set_log(print, "loud")


def test_paths_are_any_bytes(shm: Path) -> None:
    """Also those that are no UTF-8, in a sentence of the library too."""
    where = os.fsdecode(os.fsencode(shm) + b"/\xff")
    with freshet.Cache("test", dir=where, tier_size=1 << 20) as cache:
        assert cache.dir == where and cache.set("k", b"v").confirmed
    with pytest.raises(freshet.DirectoryError, match="\N{REPLACEMENT CHARACTER}"):
        freshet.Cache("test", dir=where + "/none/below")


def test_a_cache_that_has_its_guard_is_collected(opener: Opener, shm: Path) -> None:
    cache = freshet.Cache("circle", dir=shm / "circle", tier_size=1 << 20)
    cache.its_guard = cache.guard("k").begin()  # type: ignore[attr-defined]
    gone = weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None
    assert opener("circle", name="circle", tier_size=1 << 20).set("k", b"v").result == "OK"


def test_caches_in_a_pool_share_a_size(shm: Path) -> None:
    size = 16 << 20
    with (
        freshet.Cache("a", dir=shm / "a", pool=shm / "pool", pool_size=size, pool_minimum=4 << 20) as a,
        freshet.Cache("b", dir=shm / "b", pool=shm / "pool") as b,
    ):
        assert a.set("k", b"v").confirmed and b.get("k") is None
        stats = a.stats()
        assert stats.pool_size == b.stats().pool_size == size and stats.pool_minimum == 4 << 20
        assert stats.memory <= stats.pool_share and stats.pool_share + b.stats().pool_share <= size
        with pytest.raises(freshet.Busy, match="pool_minimum"):
            freshet.Cache("c", dir=shm / "c", pool=shm / "pool", pool_minimum=14 << 20)
    with freshet.Cache("a", dir=shm / "a") as a:
        assert a.get("k") == b"v" and a.stats().pool_size == size
    with pytest.raises(freshet.InvalidArgument, match="pool"):
        freshet.Cache("d", dir=shm / "d", pool_size=size)
