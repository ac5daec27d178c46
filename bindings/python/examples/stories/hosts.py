"""Two "hosts": each a uvicorn with several workers, and a tier of its own that no process of the other opens."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import freshet

from .load import Connection
from .servers import Child, Servers
from .shop import TABLE, WAYS, Settings

WORKERS = 2
EXAMPLES = Path(__file__).resolve().parent.parent


class Host(Child):
    """uvicorn on a unix socket."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        folder.mkdir()
        super().__init__(folder / "log")
        self.socket = folder / "http.sock"
        self.settings = replace(settings, tier=str(folder / "tier"))

    def start(self) -> None:
        path = os.pathsep.join([str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "uvicorn", "stories.service:app", "--uds", str(self.socket)]
        self.spawn(
            [*command, "--workers", str(WORKERS), "--no-access-log", "--log-level", "warning"],
            env={**os.environ, **self.settings.environment(), "PYTHONPATH": path},
        )

    def wait(self) -> None:
        self.ready("the web service", lambda: asyncio.run(self._answers()))

    async def _answers(self) -> bool:
        """Is there a worker?  The others are there soon, and nobody is asked by name."""
        connection = Connection(str(self.socket))
        try:
            status, _ = await connection.ask("GET", "/freshet/product/0")
            return status == 200
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def two_hosts(servers: Servers, settings: Settings) -> Iterator[list[Host]]:
    """Start them, end them."""
    servers.primary.sql(";".join([TABLE, *(f"CREATE ROLE {way} SUPERUSER LOGIN" for way in WAYS)]))
    hosts = [Host(servers.folder / name, settings) for name in ("host-1", "host-2")]
    try:
        for host in hosts:
            host.start()
        for host in hosts:
            host.wait()
        yield hosts
    finally:
        for host in hosts:
            host.end()


def settings_for(servers: Servers, **options: object) -> Settings:
    """The settings of a story with these servers; makes the fleet's keyring."""
    keyring = servers.folder / "keys"
    freshet.keygen(str(keyring))
    replica = str(servers.replica.sockets) if servers.replica is not None else None
    return Settings(
        primary=str(servers.primary.sockets), redis=servers.redis.url, keyring=str(keyring), tier="", replica=replica,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def insert_rows(servers: Servers, first: int, count: int) -> None:
    """Rows `first` and so on, each of version 1, also on the replica."""
    servers.primary.sql(f"INSERT INTO product SELECT n, 1, 1 FROM generate_series({first}, {first + count - 1}) AS n")
    servers.caught_up()
