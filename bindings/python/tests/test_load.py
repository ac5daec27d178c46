"""Get or load, and the decorator on functions."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
from conftest import Opener

import freshet


def test_a_load_is_kept_with_what_its_loader_says(cache: freshet.Cache) -> None:
    def loader(request: freshet.LoadRequest) -> bytes:
        assert request.key == "k" and request.prefer_primary is False and request.ttl == 30
        request.ttl = 60
        request.source_version = 9
        request.tag("late")
        return b"row"

    answer = cache.load("k", loader, ttl=30, tags=["early"])
    assert (answer.result, answer.value, answer.source, answer.source_version) == ("OK", b"row", "loader", 9)
    cache.flush()
    kept = cache.lookup("k")
    assert kept.value == b"row" and kept.source_version == 9 and kept.ttl is not None and kept.ttl > 50
    cache.invalidate_tags("late")
    assert cache.get("k") is None


def test_the_second_caller_gets_the_firsts_load(cache: freshet.Cache) -> None:
    calls: list[int] = []

    def loader() -> bytes:
        calls.append(1)
        return b"v"

    assert cache.get_or_load("k", loader) == b"v"
    cache.flush()
    assert cache.get_or_load("k", loader) == b"v"
    assert len(calls) == 1


def test_an_absence_is_kept(cache: freshet.Cache) -> None:
    assert cache.get_or_load("k", lambda: freshet.ABSENT, absent_ttl=60) is None
    cache.flush()
    assert cache.lookup("k").absent
    assert cache.load("k", lambda: b"never called").absent


class Own(Exception):
    pass


def test_a_loaders_exception_comes_out_as_it_was_raised(cache: freshet.Cache) -> None:
    raised = Own("mine")

    def loader() -> bytes:
        raise raised

    with pytest.raises(Own) as caught:
        cache.get_or_load("k", loader)
    assert caught.value is raised
    assert "loader" in str(caught.traceback[-1])
    assert cache.get_or_load("k", lambda: b"next") == b"next"

    def interrupted() -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load("other", interrupted)


def test_a_request_ends_with_its_loader(cache: freshet.Cache) -> None:
    kept: list[freshet.LoadRequest] = []

    def loader(request: freshet.LoadRequest) -> bytes:
        kept.append(request)
        return b"v"

    cache.get_or_load("k", loader)
    for use in (lambda: kept[0].ttl, lambda: kept[0].tag("t"), lambda: kept[0].prefer_primary):
        with pytest.raises(RuntimeError, match="over"):
            use()
    assert kept[0].key == "k"


def test_a_loader_takes_the_request_if_it_must_be_given_something(cache: freshet.Cache) -> None:
    class Callable:
        def __call__(self, request: freshet.LoadRequest) -> bytes:
            return b"object " + str(request.key).encode()

        def method(self) -> bytes:
            return b"method"

        def told(self, request: freshet.LoadRequest) -> bytes:
            return b"told " + str(request.key).encode()

    one: Any = Callable()
    loaders: list[tuple[Any, bytes]] = [
        (lambda: b"none", b"none"),
        (lambda r: str(r.key).encode(), b"1"),
        (lambda i=b"own": i, b"own"),
        (lambda *a: b"%d" % len(a), b"1"),
        (one, b"object 4"),
        (one.method, b"method"),
        (one.told, b"told 6"),
        (functools.partial(lambda a, r: a + str(r.key).encode(), b"partial "), b"partial 7"),
        (functools.partial(lambda a: a, b"whole"), b"whole"),
        (bytes, b""),
    ]
    for i, (loader, expected) in enumerate(loaders):
        assert cache.get_or_load(str(i), loader) == expected


def test_a_load_that_a_change_overtakes_leaves_nothing(cache: freshet.Cache) -> None:
    def loader() -> bytes:
        cache.invalidate("k")
        return b"old"

    assert cache.get_or_load("k", loader) == b"old"
    cache.flush()
    assert cache.get("k") is None


def test_many_threads_one_load(cache: freshet.Cache) -> None:
    calls: list[int] = []
    gate = threading.Barrier(8)
    got: list[Any] = []
    begun = threading.Event()

    def loader() -> bytes:
        calls.append(1)
        begun.wait(0.2)
        return b"v"

    def run() -> None:
        gate.wait()
        got.append(cache.get_or_load("k", loader, deadline=10))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [b"v"] * 8 and len(calls) == 1


def test_a_functions_answers_are_kept(opener: Opener) -> None:
    cache = opener(serializer=freshet.JSON)
    calls: list[tuple[int, str]] = []

    @cache.cached(key="user:{id}:{lang}", ttl=60, tags=("users", "user:{id}"))
    def user(id: int, lang: str = "en") -> dict[str, Any]:
        """A user."""
        calls.append((id, lang))
        return {"id": id, "lang": lang}

    assert user.__doc__ == "A user." and user.key(4) == "user:4:en" and user.key(4, lang="de") == "user:4:de"
    assert user.tags(4) == ("users", "user:4")
    for _ in range(2):
        assert user(4) == user(id=4) == user(4, "en") == {"id": 4, "lang": "en"}
        cache.flush()
    assert calls == [(4, "en")]
    assert user.lookup(4).found
    user.invalidate(4)
    assert not user.lookup(4).found and user(4)["id"] == 4 and len(calls) == 2
    user.set({"id": 0, "lang": "xx"}, 4)
    assert user(4) == {"id": 0, "lang": "xx"} and user.uncached(4) == {"id": 4, "lang": "en"}
    cache.invalidate_tags("user:4")
    assert not user.lookup(4).found
    with pytest.raises(TypeError):
        user()  # type: ignore[call-arg]


def test_keys_and_tags_by_callables_and_the_request(cache: freshet.Cache) -> None:
    @cache.cached(key=lambda a, b: f"{a}-{b}", tags=lambda a, b: [a], pass_request="request")
    def row(a: str, b: str, request: Any = None) -> bytes:
        request.source_version = 3
        return f"{a}{b}".encode()

    assert row("x", "y") == b"xy" and row.key("x", "y") == "x-y" and list(row.tags("x", "y")) == ["x"]
    cache.flush()
    assert cache.lookup("x-y").source_version == 3


def test_methods_are_cached_too(cache: freshet.Cache) -> None:
    class Repository:
        prefix = "p"

        @cache.cached(key="{self.prefix}:{id}")
        def row(self, id: int) -> bytes:
            return b"%d" % id

    repository = Repository()
    assert repository.row(5) == b"5" and repository.row.key(5) == "p:5"
    cache.flush()
    assert cache.get("p:5") == b"5"
    repository.row.set(b"new", 5)
    assert repository.row(5) == b"new"
    repository.row.invalidate(5)
    assert cache.get("p:5") is None


def test_a_template_that_names_nothing_is_refused(cache: freshet.Cache) -> None:
    with pytest.raises(TypeError, match="names 'uid'"):

        @cache.cached(key="{uid}")
        def user(id: int) -> bytes:
            return b""

    with pytest.raises(TypeError, match="sequence of names"):

        @cache.cached(key="{id}", tags="users")
        def other(id: int) -> bytes:
            return b""


def test_the_request_may_stand_anywhere_among_the_parameters(cache: freshet.Cache) -> None:
    class Repository:
        @cache.cached(key="{id}:{lang}", pass_request="request")
        def row(self, request: Any, id: int, lang: str = "en") -> bytes:
            return f"{request.key}".encode()

    @cache.cached(key="only:{id}", pass_request="request")
    def only(id: int, *, request: Any) -> bytes:
        return f"{request.key}".encode()

    row: Any = Repository().row  # its type has the request too
    assert row(5) == b"5:en" and row(6, lang="de") == b"6:de" and row(id=7) == b"7:en"
    assert only(8) == b"only:8" and only(id=9) == b"only:9"  # type: ignore[call-arg]


def test_the_order_of_keywords_makes_no_other_key(cache: freshet.Cache) -> None:
    @cache.cached(key="{kind}:{rest}")
    def find(kind: str, **rest: int) -> bytes:
        return b""

    assert find.key("k", a=1, b=2) == find.key(b=2, kind="k", a=1)


def test_generators_are_refused(cache: freshet.Cache) -> None:
    def rows(id: int) -> Any:
        yield id

    async def more_rows(id: int) -> Any:
        yield id

    for function in (rows, more_rows):
        with pytest.raises(TypeError, match="generator"):
            cache.cached(key="{id}")(function)


def test_class_and_static_methods(cache: freshet.Cache) -> None:
    class Repository:
        prefix = "p"

        @cache.cached(key="{cls.prefix}:{id}")
        @classmethod
        def row(cls, id: int = 0) -> bytes:
            return b"%d" % id

        @staticmethod
        @cache.cached(key="static:{id}")
        def other(id: int = 0) -> bytes:
            return b"%d" % id

    class Special(Repository):
        prefix = "s"

    for row in (Repository.row, Repository().row):
        assert row(5) == b"5" and row.key(5) == "p:5"
    assert Special.row(5) == b"5" and Repository.other(5) == Repository().other(5) == b"5"
    cache.flush()
    assert {entry.key for entry in cache.entries()} == {b"p:5", b"s:5", b"static:5"}
    Special.row.invalidate(5)
    Repository.other.invalidate(5)
    assert cache.get("p:5") == b"5" and cache.get("s:5") is None and cache.get("static:5") is None
