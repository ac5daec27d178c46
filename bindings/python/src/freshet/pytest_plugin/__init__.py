"""pytest fixtures that put a cache to the test: a private Redis, hosts, a faulty network, a step controller, an oracle.

Installed with the package (entry point pytest11).  Every fixture is of one test, starts only when it is asked for, and
takes away with it what it has started; none needs Docker, a fixed port or a network.  What a test does with them is in
freshet.testing; nothing is asked of the service under test but functions to call.

    def test_a_late_refill_leaves_nothing_stale(freshet_hosts, freshet_steps, assert_coherent):
        a, b = freshet_hosts(2, setup=open_service)
        with freshet_steps.freeze("after_db_read") as reader:
            read = a.start("read", 17)                       # has the old row in its hand, and stops
            reader.reached()
            with assert_coherent.writing(17, "new"):
                b.call("write", 17, "new")
        read.result()                                        # goes on, and refills the cache
        assert_coherent.elapse(0.5)
        with assert_coherent.reading(17) as seen:
            seen.value = a.call("read", 17)
        assert_coherent(within=0.5)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from ..testing import points, servers
from ..testing.coherence import Coherence
from ..testing.hosts import Hosts, keyring
from ..testing.steps import Steps


@pytest.fixture
def freshet_redis() -> Iterator[servers.Redis]:
    """A Redis of this test alone, empty, on a unix socket: `.url`, `.path`, `.command("GET", "k")`.

    A redis-server of this machine (which can also `pause`, `resume`, `stop` and `start`), else a container if
    testcontainers is installed.
    """
    redis = servers.start_redis()
    yield redis
    redis.close()


@pytest.fixture
def freshet_keyring() -> Iterator[str]:
    """The path of a new keyring, for a freshet.Cache in the test's own process."""
    folder = servers.fresh_folder("freshet-keys-")
    os.mkdir(os.path.join(folder, "host"))
    yield keyring(folder, "host")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def freshet_dir() -> Iterator[str]:
    """A new directory for a tier, in shared memory if there is any: `freshet.Cache("users", dir=freshet_dir)`."""
    folder = servers.fresh_folder("freshet-tier-", shared_memory=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def freshet_chaos(freshet_redis: servers.Redis) -> Iterator[Callable[..., servers.Chaos]]:
    """Puts a faulty network in front of the test's Redis: `net = freshet_chaos("latency 25")`, then use `net.url`.

    May be called several times.  See freshet.testing.Chaos; needs the program freshet-chaos.
    """
    started: list[servers.Chaos] = []

    def start(*commands: str) -> servers.Chaos:
        started.append(servers.Chaos(freshet_redis, *commands))
        return started[-1]

    yield start
    for chaos in started:
        chaos.close()


@pytest.fixture
def freshet_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """The step controller: `.freeze("after_db_read")`, `.wrap({"shop:read_row": "read_row"})`; freshet.testing.Steps.

    Points of this process, of `freshet_hosts` and of every command that inherits this process's environment come here.
    """
    folder = servers.fresh_folder("freshet-steps-")
    steps = Steps(folder)
    monkeypatch.setenv(points.ADDRESS, steps.address)
    points.arm(steps.address)
    yield steps
    points.arm(None)
    steps.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def freshet_hosts(freshet_redis: servers.Redis, freshet_steps: Steps) -> Iterator[Hosts]:
    """Starts hosts, processes of their own that share Redis and no directory: `a, b = freshet_hosts(2, setup=...)`.

    See freshet.testing.Hosts.
    """
    hosts = Hosts(freshet_redis, freshet_steps)
    yield hosts
    freshet_steps.release_all()
    hosts.close()


@pytest.fixture
def assert_coherent() -> Iterator[Coherence]:
    """The oracle: tell it writes and reads, or let it `drive` them, then `assert_coherent(within=0.5)`.

    A test that has told it something and not asked fails: it would have shown nothing.
    """
    coherence = Coherence()
    yield coherence
    if not coherence.judged:
        pytest.fail(
            f"{len(coherence.events)} reads and writes were noted and never judged: call assert_coherent(within=...)",
            pytrace=False,
        )
