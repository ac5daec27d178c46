"""The load, the oracle that judges every answer, and the table.

One process asks, so one clock tells all: a read is stale if a newer version of its row had been confirmed to its writer
before the read began.  How long before is how stale it was; nothing is taken from what the service says of itself.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class Connection:
    """HTTP/1.1 over a unix socket, one request at a time; what the service sends always has a length."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Status and decoded body; OSError when the service is not there, or goes away in between."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_unix_connection(self.socket)
        assert self.reader is not None
        try:
            self.writer.write(f"{method} {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n".encode())
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            size = int(head.partition("content-length:")[2].partition("\r\n")[0])
            body = await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            self.close()
            raise ConnectionError(f"{method} {path}: the connection ended") from error
        except BaseException:
            self.close()
            raise
        return int(head.split(" ", 2)[1]), json.loads(body)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class Oracle:
    """What was confirmed when: for each row the versions, each with the time when its writer heard of it."""

    def __init__(self) -> None:
        self.versions: dict[int, list[int]] = {}
        self.times: dict[int, list[float]] = {}

    def confirmed(self, ident: int, version: int, at: float | None = None) -> None:
        versions, times = self.versions.setdefault(ident, []), self.times.setdefault(ident, [])
        if not versions or version > versions[-1]:  # of two that cross on their way back the later counts
            versions.append(version)
            times.append(time.monotonic() if at is None else at)

    def newest(self, ident: int) -> int:
        return self.versions.get(ident, [0])[-1]

    def staleness(self, ident: int, version: int, began: float) -> float:
        """For how long, when the read began, it had been known that there is a newer version; 0: it was not."""
        versions = self.versions.get(ident, [])
        first = bisect.bisect_right(versions, version)
        return max(0.0, began - self.times[ident][first]) if first < len(versions) else 0.0


@dataclass
class Tally:
    """One line of the table."""

    way: str
    bound: float
    requests: int = 0
    failed: int = 0
    stale: int = 0
    beyond: int = 0
    longest: float = 0.0
    reads: int = 0  # of the database
    took: list[float] = field(default_factory=list)
    writes: int = 0
    why: dict[str, int] = field(default_factory=dict)  # failures by their first words

    def read(self, staleness: float, took: float) -> None:
        self.took.append(took)
        self.stale += staleness > 0
        self.beyond += staleness > self.bound
        self.longest = max(self.longest, staleness)

    def fail(self, body: Any) -> None:
        self.failed += 1
        why = str(body.get("error", body) if isinstance(body, dict) else body)[:160]
        self.why[why] = self.why.get(why, 0) + 1

    def quantile(self, share: float) -> float:
        return sorted(self.took)[min(len(self.took) - 1, int(share * len(self.took)))] if self.took else 0.0


class Client:
    """Who reads and writes rows of one way on some hosts; `first`: its rows are numbered from there on."""

    def __init__(self, way: str, sockets: Sequence[str], tally: Tally, oracle: Oracle, first: int) -> None:
        self.way, self.sockets, self.tally, self.oracle, self.first = way, sockets, tally, oracle, first

    def path(self, ident: int) -> str:
        return f"/{self.way}/product/{self.first + ident}"

    def connect(self) -> list[Connection]:
        return [Connection(socket) for socket in self.sockets]

    async def read(self, connection: Connection, ident: int) -> int | None:
        """One read, judged: the version it got (0: there is no such row), or None if it failed."""
        began = time.monotonic()
        self.tally.requests += 1
        try:
            status, body = await connection.ask("GET", self.path(ident))
        except OSError as error:
            status, body = 0, str(error)
        if status != 200:
            self.tally.fail(body)
            return None
        version = 0 if body is None else int(body["version"])
        self.tally.read(self.oracle.staleness(self.first + ident, version, began), time.monotonic() - began)
        return version

    async def write(self, connection: Connection, ident: int, method: str = "PUT", crash: bool = False) -> bool:
        self.tally.requests += 1
        path = f"{self.path(ident)}?price={random.randrange(1000)}{'&crash=1' if crash else ''}"
        try:
            status, body = await connection.ask(method, path)
        except OSError as error:
            status, body = 0, str(error)
        if status != 200:
            self.tally.fail(body)
            return False
        self.tally.writes += 1
        self.oracle.confirmed(self.first + ident, int(body["version"]))
        return True

    async def keep_reading(self, idents: Sequence[int], until: float, every: float) -> None:
        """Read rows at random on hosts at random, until the clock says so."""
        connections = self.connect()
        while time.monotonic() < until:
            await self.read(random.choice(connections), random.choice(idents))
            await asyncio.sleep(random.uniform(0, 2 * every))
        for connection in connections:
            connection.close()

    async def keep_writing(self, idents: Sequence[int], until: float, every: float) -> None:
        connections = self.connect()
        while time.monotonic() < until:
            await self.write(random.choice(connections), random.choice(idents))
            await asyncio.sleep(random.uniform(0, 2 * every))
        for connection in connections:
            connection.close()


HEAD = ("way", "requests", "failed", "stale", "beyond", "longest", "db reads", "p50", "p99")


def table(title: str, bound: float, tallies: Sequence[Tally]) -> str:
    """What happened, a line a way."""
    lines = [HEAD]
    for tally in tallies:
        lines.append(
            (
                tally.way, str(tally.requests), str(tally.failed), str(tally.stale), str(tally.beyond),
                f"{tally.longest:.3f} s", str(tally.reads), f"{tally.quantile(0.5) * 1000:.1f} ms",
                f"{tally.quantile(0.99) * 1000:.1f} ms",
            )
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = [
        title,
        f"stale: older than what was confirmed before the read began; beyond: by more than {bound:g} s",
        "db reads: queries that the database has run for readers; p50, p99: of reads, from the client's side",
        "",
    ]
    for line in lines:
        cells = zip(line, widths)
        text.append("  ".join(cell.rjust(width) if n else cell.ljust(width) for n, (cell, width) in enumerate(cells)))
    return "\n".join(text)
