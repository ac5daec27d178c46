"""add and Lock: one of all, on whatever host, and in whichever of a host's processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import django_hosts
import pytest

import freshet
from freshet.exclusive import Lock, add
from freshet.testing import Hosts, Redis, RedisServer, Steps

SETUPS = [pytest.param(django_hosts.cache, id="fleet"), pytest.param(django_hosts.cache_alone, id="one host")]


@pytest.mark.parametrize("setup", SETUPS)
def test_of_all_who_add_one_is_told_so(freshet_hosts: Hosts, setup: Callable[..., freshet.Cache]) -> None:
    hosts = freshet_hosts(2, setup=setup, processes=2)
    calls = [
        host.start(django_hosts.adds, 400, f"{host.name}{process}{thread}", process=process)
        for host in hosts
        for process in (0, 1)
        for thread in (0, 1)
    ]
    told = [call.result() for call in calls]
    assert [sum(winners) for winners in zip(*told)] == [1] * 400


@pytest.mark.parametrize("setup", SETUPS)
def test_a_lock_keeps_the_others_out(freshet_hosts: Hosts, setup: Callable[..., freshet.Cache], tmp_path: Path) -> None:
    hosts = freshet_hosts(2, setup=setup, processes=2)
    calls = [
        host.start(django_hosts.alone, 20, str(tmp_path / "file"), process=process)
        for host in hosts
        for process in (0, 1)
    ]
    assert [call.result() for call in calls] == [0, 0, 0, 0]


@pytest.mark.parametrize("setup", SETUPS)
def test_a_lock_whose_holder_died_ends_by_itself(
    freshet_hosts: Hosts, freshet_steps: Steps, setup: Callable[..., freshet.Cache]
) -> None:
    a, b = freshet_hosts(2, setup=setup)
    with freshet_steps.freeze("taken", host="A") as frozen:
        a.start(django_hosts.hold, 1.0)
        assert frozen.reached().details == {"taken": True}
        assert b.call(django_hosts.hold, 1.0) is False
        a.kill()
    while not b.call(django_hosts.hold, 1.0):
        pass  # ends within the call's own time limit, or the test does
    assert freshet_steps.trace[-1].details == {"taken": True}


@pytest.mark.parametrize("serializer", [freshet.RAW, freshet.JSON, freshet.PICKLE])
def test_add_and_lock_with_each_serializer(freshet_dir: str, serializer: freshet.Serializer) -> None:
    with freshet.Cache("one", dir=os.path.join(freshet_dir, "tier"), serializer=serializer) as cache:
        value = b"1" if serializer is freshet.RAW else "1"
        assert add(cache, "k", value) is True
        assert add(cache, "k", value) is False
        assert cache.get("k") == value
        cache.invalidate("k")
        assert add(cache, "k", value) is True
        lock = Lock(cache, "lock")
        assert not lock.locked()
        assert lock.acquire()
        assert lock.locked()
        assert not Lock(cache, "lock").acquire(timeout=0.02)
        lock.release()
        assert not lock.locked()
        with pytest.raises(RuntimeError, match="not held"):
            lock.release()


def test_a_lock_that_has_ended_is_not_taken_from_the_next(freshet_dir: str) -> None:
    with freshet.Cache("one", dir=os.path.join(freshet_dir, "tier")) as cache:
        first, second = Lock(cache, "lock", hold=0.05), Lock(cache, "lock")
        assert first.acquire()
        assert second.acquire(timeout=10.0)
        first.release()
        assert second.locked()


def test_without_redis_nobody_adds(freshet_redis: Redis, freshet_keyring: str, freshet_dir: str) -> None:
    if not isinstance(freshet_redis, RedisServer):
        pytest.skip("a container's Redis cannot be stopped and found again at its place")
    tier = os.path.join(freshet_dir, "tier")
    with freshet.Cache("one", url=freshet_redis.url, keyring=freshet_keyring, dir=tier, deadline=0.2) as cache:
        freshet_redis.stop()
        assert add(cache, "k", b"v") is False
        assert Lock(cache, "lock").acquire(timeout=0.3) is False
