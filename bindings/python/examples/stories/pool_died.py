"""Story 2: when the pool died.  A hot key expires under load, and the database's answer takes a while.

The textbook: every request that misses asks the database.  A tenth of a second later they have all the pool's
connections, and whoever comes then waits for one until the pool gives up.  A reader that had to wait so long has an old
row in its hands when it gets to store it, and a writer's delete that came in between did not help.
Freshet asks the database once, for the threads, the workers and the hosts together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from .hosts import WORKERS, insert_rows, settings_for, two_hosts
from .load import Client, Oracle, Tally
from .servers import Servers
from .story import Unseen, main, must, stale

WAYS = (("deleting", "textbook: commit, then delete", 0), ("freshet", "freshet", 100_000))
TITLE = "When the pool died: a hot key expires under load"
READERS, BOUND, TTL, SLOW_S, WRITE_EVERY_S = 32, 0.3, 2.0, 0.15, 1.0
POOL_SIZE, POOL_TIMEOUT_S = 2, 0.25
POINTS = {"reader has read": (0.12, 0.6)}


async def write_now_and_then(client: Client, until: float) -> None:
    """Change the price, and correct it at once: the readers of the first are still at it."""
    connections = client.connect()
    while time.monotonic() + WRITE_EVERY_S < until:
        await asyncio.sleep(WRITE_EVERY_S - SLOW_S / 2)
        await client.write(connections[0], 0)
        await asyncio.sleep(SLOW_S / 2)
        await client.write(connections[1], 0)
    for connection in connections:
        connection.close()


async def load(way: str, label: str, sockets: Sequence[str], first: int, seconds: float) -> Tally:
    """Everybody wants row 0."""
    tally, oracle = Tally(label, BOUND), Oracle()
    client = Client(way, sockets, tally, oracle, first)
    oracle.confirmed(first, 1)
    until = time.monotonic() + seconds
    await asyncio.gather(
        *(client.keep_reading([0], until, 0.1) for _ in range(READERS)),
        write_now_and_then(client, until),
    )
    return tally


def run(seconds: float) -> list[Tally]:
    """`seconds` of load, half for either way."""
    with Servers() as servers:
        settings = settings_for(
            servers, bound=BOUND, ttl=TTL, slow_read=SLOW_S, points=POINTS, pool_size=POOL_SIZE,
            pool_timeout=POOL_TIMEOUT_S,
        )  # fmt: skip
        with two_hosts(servers, settings) as hosts:
            tallies = []
            for way, label, first in WAYS:
                insert_rows(servers, first, 1)
                tally = asyncio.run(load(way, label, [str(host.socket) for host in hosts], first, seconds / 2))
                tally.reads = servers.reads("product", way)
                tallies.append(tally)
    return tallies


def claims(tallies: Sequence[Tally]) -> None:
    """The pool: the textbook's was exhausted, Freshet's never; and one read of the database a miss."""
    textbook, ours = tallies
    must(f"freshet: {ours.failed} requests failed", ours.failed == 0)
    elapsed = WRITE_EVERY_S * (ours.writes / 2 + 2)
    misses = 1 + elapsed / TTL + ours.writes  # the first, each expiry at most, each change
    unshared = WORKERS * 2 * ours.writes  # who asks while a change is being committed is not joined
    must(f"freshet: {ours.reads} database reads for some {misses:.0f} misses", ours.reads <= misses + unshared)
    stale(tallies)
    must("the textbook's pool was not exhausted this time", textbook.failed > 0, Unseen)


if __name__ == "__main__":
    main(TITLE, run, claims, 12.0)
