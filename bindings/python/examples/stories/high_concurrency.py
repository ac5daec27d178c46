"""Story 3: database and cache under high concurrency, in both orders, with Redis down in the middle of it.

The textbook's three orders run beside Freshet on the same servers, each on rows of its own.  Deleting first lets a
reader put the old row back before the commit; deleting last lets a late reader put it back after the delete; setting
lets two writers cross.  Then Redis dies for a while.  Writes go on, their cache calls fail and are tried again with
growing pauses; when Redis is back it has the old entries from its disk, and serves them until the retry comes.
Freshet refuses to change what it could not make known: those requests fail, and nobody is told an old price.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from .hosts import insert_rows, settings_for, two_hosts
from .load import Client, Oracle, Tally
from .servers import Servers
from .story import main, must, stale

TITLE = "Database and cache under high concurrency: both orders, a failed delete with retry, reversed writers"
WAYS = (
    ("deleting_first", "textbook: delete, then commit"),
    ("deleting", "textbook: commit, then delete"),
    ("setting", "textbook: commit, then set"),
    ("freshet", "freshet"),
)
ROWS, READERS, WRITERS, BOUND = 12, 3, 2, 0.5
POINTS = {"reader has read": (0.2, 0.06), "writer will commit": (0.2, 0.04), "writer has committed": (0.2, 0.04)}


async def outage(servers: Servers, after: float, seconds: float) -> None:
    """Redis is killed, and comes back with what is on its disk."""
    await asyncio.sleep(after)
    servers.redis.kill()
    await asyncio.sleep(seconds)
    await asyncio.get_running_loop().run_in_executor(None, servers.redis.start)


async def load(servers: Servers, sockets: Sequence[str], seconds: float, down: float) -> list[Tally]:
    tallies, tasks = [], []
    until = time.monotonic() + seconds
    for number, (way, label) in enumerate(WAYS):
        tally, oracle, first = Tally(label, BOUND), Oracle(), number * 100_000
        client = Client(way, sockets, tally, oracle, first)
        for ident in range(ROWS):
            oracle.confirmed(first + ident, 1)
        tasks += [client.keep_reading(range(ROWS), until, 0.05) for _ in range(READERS)]
        tasks += [client.keep_writing(range(ROWS), until, 0.3) for _ in range(WRITERS)]
        tallies.append(tally)
    await asyncio.gather(outage(servers, (seconds - down) / 3, down), *tasks)
    return tallies


def run(seconds: float) -> list[Tally]:
    """`seconds` of load; Redis is down for the middle of it, three quarters of the time but at most 10 s."""
    with Servers(redis_keeps=True) as servers:
        settings = settings_for(servers, bound=BOUND, points=POINTS)
        with two_hosts(servers, settings) as hosts:
            for number in range(len(WAYS)):
                insert_rows(servers, number * 100_000, ROWS)
            sockets = [str(host.socket) for host in hosts]
            tallies = asyncio.run(load(servers, sockets, seconds, min(10.0, 0.75 * seconds)))
            for (way, _), tally in zip(WAYS, tallies):
                tally.reads = servers.reads("product", way)
    return tallies


def claims(tallies: Sequence[Tally]) -> None:
    """Besides: Freshet went on after the outage, and said no during it."""
    must("freshet: no write was refused; Redis was not down", tallies[-1].failed > 0)
    must("freshet: it did not go on after the outage", tallies[-1].writes > 0)
    stale(tallies)


if __name__ == "__main__":
    main(TITLE, run, claims, 13.5)
