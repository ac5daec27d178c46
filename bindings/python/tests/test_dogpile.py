"""The backend for dogpile.cache: dogpile's own suites of backends, and what they cannot ask."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from freshet.testing import Hosts, Redis, RedisServer, Steps, point, servers, start_redis
from freshet.testing.hosts import keyring

pytest.importorskip("dogpile.cache")
fixtures: Any = pytest.importorskip("dogpile.testing.fixtures")

from dogpile.cache import CacheRegion, make_region  # noqa: E402
from dogpile.cache.api import NO_VALUE  # noqa: E402

ARGUMENTS: dict[str, Any] = {}
ALONE: dict[str, Any] = {}


@pytest.fixture(scope="session", autouse=True)
def settings() -> Iterator[None]:
    """What dogpile's suites take from their class before any test of theirs begins."""
    redis, folder = start_redis(), servers.fresh_folder(shared_memory=True)
    os.mkdir(os.path.join(folder, "keys"))
    ARGUMENTS.update(url=redis.url, keyring=keyring(folder, "keys"), dir=os.path.join(folder, "tier"), lock_timeout=5.0)
    ALONE.update(dir=os.path.join(folder, "alone"), lock_timeout=5.0)
    yield
    redis.close()
    shutil.rmtree(folder)


class _Fleet:
    backend = "dogpile.cache.freshet"
    config_args: dict[str, Any] = {"arguments": ARGUMENTS}  # noqa: RUF012


class _Alone:
    backend = "dogpile.cache.freshet"
    config_args: dict[str, Any] = {"arguments": ALONE}  # noqa: RUF012


class TestFleet(_Fleet, fixtures._GenericBackendTestSuite):  # type: ignore[misc]
    pass


class TestFleetMutex(_Fleet, fixtures._GenericMutexTestSuite):  # type: ignore[misc]
    pass


class TestFleetSerializer(
    _Fleet,
    fixtures._GenericSerializerTestSuite,  # type: ignore[misc]
    fixtures._GenericBackendTestSuite,  # type: ignore[misc]
):
    pass


class TestAlone(_Alone, fixtures._GenericBackendTestSuite):  # type: ignore[misc]
    pass


class TestAloneMutex(_Alone, fixtures._GenericMutexTestSuite):  # type: ignore[misc]
    pass


class Catalog:
    """A service on dogpile, on one host."""

    def __init__(self, host: Any) -> None:
        tier = os.path.join(host.dir, "tier")
        arguments = {"url": host.redis, "keyring": host.keyring, "dir": tier, "deadline": 5.0, "lock_timeout": 2.0}
        self.region: CacheRegion = make_region().configure(
            "dogpile.cache.freshet", expiration_time=300, arguments=arguments
        )

    def read(self, value: str) -> Any:
        def create() -> str:
            point("creating", value=value)
            return value

        return self.region.get_or_create("item", create)

    def expire(self) -> None:
        """What is there now is too old from now on, and may still be served while one renews it."""
        self.region.invalidate(hard=False)  # type: ignore[no-untyped-call]

    def change(self) -> None:
        self.region.delete("item")

    def fail(self) -> Any:
        def create() -> str:
            raise ZeroDivisionError

        return self.region.get_or_create("item", create)


def test_of_all_hosts_one_creates(freshet_hosts: Hosts, freshet_steps: Steps) -> None:
    a, b = freshet_hosts(2, setup=Catalog)
    with freshet_steps.freeze("creating") as frozen:
        first = a.start("read", "A's")
        frozen.reached()
        second = b.start("read", "B's")
        third = a.start("read", "A's other")
        assert not second.done()
    assert first.result() == second.result() == third.result() == "A's"
    assert freshet_steps.passed("creating") == 1


def test_what_a_deletion_has_overtaken_is_not_kept(freshet_hosts: Hosts, freshet_steps: Steps) -> None:
    a, b = freshet_hosts(2, setup=Catalog)
    with freshet_steps.freeze("creating") as frozen:
        first = a.start("read", "old")
        frozen.reached()
        b.call("change")
    assert first.result() == "old"
    assert a.call("read", "new") == b.call("read", "newer") == "new"


def test_while_one_renews_an_expired_value_the_others_have_the_old(freshet_hosts: Hosts, freshet_steps: Steps) -> None:
    a, b = freshet_hosts(2, setup=Catalog)
    assert a.call("read", "old") == "old"
    b.call("expire")
    a.call("expire")
    with freshet_steps.freeze("creating") as frozen:
        first = a.start("read", "new")
        frozen.reached()
        assert b.call("read", "b's") == "old"
    assert first.result() == "new"
    assert freshet_steps.passed("creating") == 2


def test_a_creator_that_fails_leaves_nothing_and_holds_nobody(freshet_hosts: Hosts) -> None:
    a, b = freshet_hosts(2, setup=Catalog)
    with pytest.raises(ZeroDivisionError):
        a.call("fail")
    assert b.call("read", "b") == "b"
    assert a.call("read", "a") == "b"


def test_a_creator_whose_process_dies_is_replaced(freshet_hosts: Hosts, freshet_steps: Steps) -> None:
    a, b = freshet_hosts(2, setup=Catalog)
    with freshet_steps.freeze("creating", host="A") as frozen:
        a.start("read", "A's")
        frozen.reached()
        a.kill()
    assert b.start("read", "B's").result(60.0) == "B's"


def test_a_redis_that_is_away_only_costs_creations(
    freshet_redis: Redis, freshet_keyring: str, freshet_dir: str
) -> None:
    if not isinstance(freshet_redis, RedisServer):
        pytest.skip("a container's Redis cannot be stopped and found again at its place")
    region = make_region().configure(
        "dogpile.cache.freshet",
        arguments={
            "url": freshet_redis.url,
            "keyring": freshet_keyring,
            "dir": os.path.join(freshet_dir, "tier"),
            "deadline": 0.2,
        },
    )
    assert region.get_or_create("k", lambda: 1) == 1
    freshet_redis.stop()
    region.delete("k")
    assert region.get("k") is NO_VALUE
    assert region.get_or_create("k", lambda: 2) == 2
    region.backend.cache.close()


def test_an_argument_that_nobody_takes_is_named() -> None:
    region = make_region().configure("dogpile.cache.freshet", arguments={"max_stalenes": 1})
    with pytest.raises(TypeError, match="max_stalenes"):
        region.get("k")


def test_a_mutex_that_cannot_be_had_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    region = make_region().configure("dogpile.cache.freshet", arguments=ARGUMENTS)
    backend: Any = region.backend
    here = backend.lock_here("unlucky")

    def begin(key: str) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "begin", begin)
        with pytest.raises(RuntimeError, match="new thread"):
            region.get_or_create("unlucky", lambda: 1)
    assert not here.locked()
    assert not region.backend.get_mutex("unlucky").locked()
    assert region.get_or_create("unlucky", lambda: 2) == 2
