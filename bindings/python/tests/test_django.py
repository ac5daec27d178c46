"""FreshetCache: Django's own tests of backends, and what those cannot ask: several hosts, a Redis that is away."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django_hosts
import pytest

from freshet.testing import Coherence, Hosts, Redis, RedisServer, Steps
from freshet.testing.steps import until

django = pytest.importorskip("django")

from django.core.exceptions import ImproperlyConfigured  # noqa: E402

from freshet.django import FreshetCache  # noqa: E402


@pytest.fixture(scope="session")
def django_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Django's own tests, of the installed version: in FRESHET_DJANGO_TESTS, or out of its source package."""
    named = os.environ.get("FRESHET_DJANGO_TESTS")
    if named:
        return Path(named)
    folder = tmp_path_factory.mktemp("django")
    words = ["download", "--quiet", "--no-binary", ":all:", "--no-deps", f"django=={django.__version__}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], cwd=folder, capture_output=True, text=True, timeout=300
    )
    packages = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or not packages:
        pytest.skip(f"Django's source package, which has its tests, cannot be had: {done.stderr.strip()[-300:]}")
    with tarfile.open(packages[0]) as package, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, which wants a filter that 3.9 has not
        package.extractall(folder)
    return next(folder.glob("[dD]jango-*/tests"))


@pytest.mark.parametrize("fleet", [True, False], ids=["fleet", "one host"])
def test_djangos_own_tests_pass(
    fleet: bool, django_tests: Path, freshet_redis: Redis, freshet_keyring: str, freshet_dir: str
) -> None:
    program = str(Path(__file__).with_name("django_suite.py"))
    words = [str(django_tests), freshet_redis.url if fleet else "", freshet_keyring, os.path.join(freshet_dir, "tier")]
    done = subprocess.run([sys.executable, program, *words], capture_output=True, text=True, timeout=300)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "test_get_or_set_racing" in done.stdout  # it was truly the suite


@pytest.fixture
def backend(freshet_redis: Redis, freshet_keyring: str, freshet_dir: str) -> Iterator[FreshetCache]:
    options = {"keyring": freshet_keyring, "dir": os.path.join(freshet_dir, "tier"), "deadline": 0.3}
    made = FreshetCache(freshet_redis.url, {"OPTIONS": options})
    yield made
    made.freshet.close()


def test_of_all_who_add_one_is_told_so_and_no_increment_is_lost(freshet_hosts: Hosts) -> None:
    hosts = freshet_hosts(2, setup=django_hosts.backend)
    calls = [host.start(django_hosts.adds, 20, f"{host.name}{thread}") for host in hosts for thread in (0, 1)]
    assert [sum(winners) for winners in zip(*[call.result() for call in calls])] == [1] * 20
    hosts[0].call("set", "count", 0)
    calls = [host.start(django_hosts.incrs, 10) for host in hosts for _ in (0, 1)]
    assert sorted(number for call in calls for number in call.result()) == list(range(1, 41))
    until(lambda: hosts[1].call("get", "count") == 40, 5.0, "the other host sees the last increment")


def test_what_one_host_sets_and_deletes_all_others_see_within_the_bound(
    freshet_hosts: Hosts, assert_coherent: Coherence
) -> None:
    hosts = freshet_hosts(2, setup=django_hosts.backend)
    assert_coherent.drive("get", "set", hosts=hosts, seconds=1.5, misses=[None])
    assert assert_coherent(within=0.5).reads > 50


def test_get_or_set_makes_once_and_keeps_nothing_that_was_overtaken(freshet_hosts: Hosts, freshet_steps: Steps) -> None:
    a, b = freshet_hosts(2, setup=django_hosts.backend)
    with freshet_steps.freeze("making") as frozen:
        first = a.start(django_hosts.made_slowly, "old")
        frozen.reached()
        b.call("set", "slow", "new")
    assert first.result() == "old"
    assert a.call("get", "slow") == b.call("get", "slow") == "new"
    b.call("delete", "slow")
    until(lambda: not a.call("has_key", "slow"), 5.0, "host A hears of the deletion")
    with freshet_steps.freeze("making") as frozen:
        first = a.start(django_hosts.made_slowly, "A's")
        frozen.reached()
        second = b.start(django_hosts.made_slowly, "B's")
        assert not second.done()
    assert first.result() == second.result() == "A's"


def test_redis_holds_no_pickle_that_could_be_read_or_replaced(backend: FreshetCache, freshet_redis: Redis) -> None:
    backend.set("secret", "a value that is told to nobody")
    stored = [freshet_redis.command("GET", key) for key in _keys(freshet_redis) if b"record" in key]
    assert stored
    assert not any(b"told to nobody" in value for value in stored if isinstance(value, bytes))


def _keys(redis: Redis) -> list[bytes]:
    found = redis.command("KEYS", "*")
    assert isinstance(found, list)
    return [key for key in found if isinstance(key, bytes) and redis.command("TYPE", key) == b"string"]


def test_timeouts(backend: FreshetCache) -> None:
    def left(key: str) -> Any:
        return backend.freshet.lookup(backend.make_key(key)).ttl

    backend.set("default", 1)
    assert 290 < left("default") <= 300
    backend.set("forever", 1, timeout=None)
    assert left("forever") is None
    backend.set("century", 1, timeout=100 * 365 * 86400)
    assert 48 * 86400 < left("century") <= 49 * 86400
    backend.set("default", 1, timeout=-1)
    assert not backend.has_key("default")
    assert backend.add("never", 1, timeout=0) is True
    assert not backend.has_key("never")
    assert backend.get_or_set("never", lambda: 7, timeout=0) == 7
    assert not backend.has_key("never")
    assert backend.touch("forever", 50) is True
    assert 40 < left("forever") <= 50
    backend.incr("forever")
    assert 40 < left("forever") <= 50


def test_a_redis_that_is_away(backend: FreshetCache, freshet_redis: Redis) -> None:
    if not isinstance(freshet_redis, RedisServer):
        pytest.skip("a container's Redis cannot be stopped and found again at its place")
    backend.set("k", 1)
    freshet_redis.stop()
    backend.set("k", 2)  # is a deletion, to be sent later
    assert backend.get("k", "missing") == "missing"
    assert backend.add("other", 1) is False
    assert backend.set_many({"k": 3}) == ["k"]
    with pytest.raises(ConnectionError, match="cannot be changed alone"):
        backend.incr("k")
    assert backend.get_or_set("k", lambda: "made") == "made"


def test_settings_that_cannot_be_are_named(freshet_dir: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"url \(set LOCATION\), ttl \(set TIMEOUT\)"):
        _ = FreshetCache("", {"OPTIONS": {"url": "unix:///x", "ttl": 3}}).freshet
    options = {"dir": os.path.join(freshet_dir, "tier"), "serializer": "freshet.JSON", "MAX_ENTRIES": 3}
    backend = FreshetCache("", {"OPTIONS": options})
    backend.set("k", {"a": [1, None]})
    assert backend.get("k") == {"a": [1, None]}
    assert FreshetCache("", {"OPTIONS": dict(options)}).freshet is backend.freshet
    backend.freshet.close()
