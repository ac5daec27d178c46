"""What the tests share: tiers in fresh directories, and real Redis servers of their own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import freshet

PATIENCE = 20.0
"""seconds until a condition that must come is given up"""


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait for a condition with a deadline; its first true value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} has not come within {PATIENCE} s"
        time.sleep(0.002)
    return value


class Server:
    """A private Redis on a unix socket."""

    def __init__(self, where: Path) -> None:
        self.socket = where / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.keyring = where / "keyring"
        self._where = where
        self._process: subprocess.Popen[bytes] | None = None
        freshet.keygen(self.keyring)
        self.start()

    def start(self) -> None:
        command = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--save",
            "",
            "--loglevel",
            "warning",
        ]
        self._process = subprocess.Popen(command, cwd=self._where, stdout=subprocess.DEVNULL)
        until(self.socket.exists, "redis-server's socket")

    def pause(self) -> None:
        """It goes on listening, and answers nothing until resume."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)


@pytest.fixture
def shm() -> Iterator[Path]:
    """A fresh directory in memory."""
    where = Path(tempfile.mkdtemp(prefix="freshet-test-", dir="/dev/shm"))
    yield where
    shutil.rmtree(where, ignore_errors=True)


@pytest.fixture
def server(shm: Path) -> Iterator[Server]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server")
    made = Server(shm)
    yield made
    made.stop()


Opener = Callable[..., freshet.Cache]


@pytest.fixture
def opener(shm: Path) -> Iterator[Opener]:
    """Open a cache in a directory named for its "host"; all are closed at the end."""
    opened: list[freshet.Cache] = []

    def open_cache(host: str = "a", name: str = "test", **options: Any) -> freshet.Cache:
        cache = freshet.Cache(name, dir=shm / host, **{"tier_size": 4 << 20, **options})
        opened.append(cache)
        return cache

    yield open_cache
    for cache in opened:
        cache.close()


@pytest.fixture
def cache(opener: Opener) -> freshet.Cache:
    """One host, no fleet."""
    return opener()


@pytest.fixture
def hosts(opener: Opener, server: Server) -> tuple[freshet.Cache, freshet.Cache]:
    """Two hosts of one fleet."""
    both = tuple(opener(host, url=server.url, keyring=server.keyring, deadline=5.0) for host in "ab")
    assert all(one.proven for one in both)
    return both[0], both[1]
