"""Story 1: inconsistent results with async SQLAlchemy.  Get, update and create, write-through, all at once.

The textbook: commit, then write the new value into the cache.  Of two writers the one that commits last may be the one
that writes its value first; a reader that missed may write what it read before both; and who asked for a product just
before it was created may write "there is none" after its creator wrote what there is.  Each of them stays until the
entry's time is over.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from .hosts import insert_rows, settings_for, two_hosts
from .load import Client, Oracle, Tally
from .servers import Servers
from .story import main, stale

TITLE = "Inconsistent results with async SQLAlchemy: get, update, create, write-through"
ROWS, READERS, WRITERS, BOUND = 6, 6, 3, 0.5
POINTS = {"reader has read": (0.2, 0.05), "writer has committed": (0.2, 0.05)}


async def create(client: Client, until: float, every: float) -> None:
    """New rows, one after the other, each asked for by others just before it is there, and after."""
    connections = client.connect()
    for ident in range(ROWS, 10_000):
        if time.monotonic() > until:
            break
        early = asyncio.create_task(client.read(connections[0], ident))
        await asyncio.sleep(random.uniform(0, 0.01))
        await client.write(connections[1], ident, "POST")
        await early
        await client.read(random.choice(connections), ident)
        await asyncio.sleep(random.uniform(0, 2 * every))
    for connection in connections:
        connection.close()


async def load(way: str, label: str, sockets: Sequence[str], first: int, seconds: float) -> Tally:
    """The same load for either way."""
    tally, oracle = Tally(label, BOUND), Oracle()
    client = Client(way, sockets, tally, oracle, first)
    for ident in range(ROWS):
        oracle.confirmed(first + ident, 1)
    until = time.monotonic() + seconds
    created = range(ROWS, ROWS + round(seconds / 0.1))
    await asyncio.gather(
        *(client.keep_reading(range(ROWS), until, 0.02) for _ in range(READERS)),
        *(client.keep_writing(range(ROWS), until, 0.1) for _ in range(WRITERS)),
        create(client, until, 0.05),
        client.keep_reading(created, until, 0.05),
    )
    return tally


def run(seconds: float) -> list[Tally]:
    """`seconds` of load, half for either way."""
    with Servers() as servers, two_hosts(servers, settings_for(servers, bound=BOUND, points=POINTS)) as hosts:
        tallies = []
        for way, label, first in (("setting", "textbook: commit, then set", 0), ("freshet", "freshet", 100_000)):
            insert_rows(servers, first, ROWS)
            tally = asyncio.run(load(way, label, [str(host.socket) for host in hosts], first, seconds / 2))
            tally.reads = servers.reads("product", way)
            tallies.append(tally)
        return tallies


if __name__ == "__main__":
    main(TITLE, run, stale, 10.0)
