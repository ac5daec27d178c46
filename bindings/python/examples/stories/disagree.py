"""Story 4: cache and database disagree.  Four ways to get there, one after the other, readers on a replica that lags.

    replica lag           the writer deletes the key, the next reader fetches the old row from the replica, to cache it
    failed invalidation   the worker dies between the database's commit and the delete
    write-write race      two writers commit in one order and write into the cache in the other
    manual UPDATE         an operator changes rows with psql and deletes the keys, as the runbook says; then replica lag

In each the textbook and Freshet are under the same load at the same time, on rows of their own.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import redis

from freshet.tools import program

from .hosts import insert_rows, settings_for, two_hosts
from .load import Client, Oracle, Tally
from .servers import Servers
from .shop import Settings
from .story import main, stale

TITLE = "Cache and database disagree: replica lag, failed invalidation, write-write race, manual UPDATE"
ROWS, READERS, WRITERS, BOUND, LAG_S, HOLD_S = 4, 4, 2, 0.5, 0.7, 1.5
RACE_EVERY_S = 0.9
POINTS = {"writer has committed": (0.5, 0.08)}

Trouble = Callable[["Part"], Coroutine[Any, Any, None]]


class Part:
    """One way to disagree, for one way of caching."""

    def __init__(self, servers: Servers, settings: Settings, client: Client, until: float) -> None:
        self.servers, self.settings, self.client, self.until = servers, settings, client, until

    @property
    def rows(self) -> range:
        return range(self.client.first, self.client.first + ROWS)

    def look(self) -> None:
        """Tell the oracle what the primary says: for commits that nobody was told of."""
        said = self.servers.primary.sql(
            f"SELECT id, version FROM product WHERE id BETWEEN {self.rows[0]} AND {self.rows[-1]}"
        )
        for line in said.splitlines():
            ident, version = line.split("|")
            self.client.oracle.confirmed(int(ident), int(version))

    async def aside(self, call: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(None, call)


async def write(part: Part) -> None:
    """Writers that know of nothing."""
    await asyncio.gather(*(part.client.keep_writing(range(ROWS), part.until, 0.3) for _ in range(WRITERS)))


async def race(part: Part) -> None:
    """Now and then two of them want the same row at once, each on a host of his own."""
    pairs = [part.client.connect() for _ in range(ROWS)]
    while time.monotonic() + RACE_EVERY_S < part.until:
        writes = [part.client.write(one, ident) for ident, pair in enumerate(pairs) for one in pair]
        await asyncio.gather(asyncio.sleep(RACE_EVERY_S), *writes)


async def crash(part: Part) -> None:
    """A worker dies right after the commit.  Each way has a host to harm, whose other worker goes on."""
    await asyncio.sleep(0.5)
    connection = part.client.connect()[part.client.way == "freshet"]
    await part.client.write(connection, 0, crash=True)
    await part.aside(part.look)


async def operate(part: Part) -> None:
    """By hand: the rows, then the keys.  Only with both is it done, and nobody may see what was before."""
    await asyncio.sleep(0.5)
    changed = "UPDATE product SET price = 42, version = version + 1"
    which = f"id BETWEEN {part.rows[0]} AND {part.rows[-1]}"
    await part.aside(lambda: part.servers.primary.sql(f"{changed} WHERE {which}"))
    keys = [f"product:{ident}" for ident in part.rows]
    forget = invalidate if part.client.way == "freshet" else delete
    await part.aside(lambda: forget(part.settings, keys))
    part.look()


def delete(settings: Settings, keys: Sequence[str]) -> None:
    """redis-cli DEL product:1 ..."""
    with redis.Redis.from_url(settings.redis) as client:
        client.delete(*keys)


def invalidate(settings: Settings, keys: Sequence[str]) -> None:
    """freshet -n shop --url URL --keyring FILE invalidate product:1 ..."""
    folder = str(Path(settings.keyring).parent / "operator")
    command = [program("freshet"), "-n", "shop", "-d", folder, "--url", settings.redis, "--keyring", settings.keyring]
    subprocess.run([*command, "invalidate", *keys], check=True, capture_output=True)


PARTS: tuple[tuple[str, str, Trouble, float], ...] = (  # the last: its share of the time
    ("replica lag", "deleting", write, 0.2),
    ("failed invalidation", "deleting", crash, 0.25),
    ("write-write race", "setting", race, 0.35),
    ("manual UPDATE", "deleting", operate, 0.2),
)


async def load(
    servers: Servers, settings: Settings, sockets: Sequence[str], number: int, seconds: float
) -> list[Tally]:
    """One part: the textbook and Freshet at the same time."""
    name, way, trouble, share = PARTS[number]
    until, tasks, tallies = time.monotonic() + share * seconds, [], []
    for place, (one, label) in enumerate(((way, "textbook"), ("freshet", "freshet"))):
        tally, oracle, first = Tally(f"{name}: {label}", BOUND), Oracle(), (2 * number + place + 1) * 1000
        client = Client(one, sockets, tally, oracle, first)
        for ident in range(ROWS):
            oracle.confirmed(first + ident, 1)
        tasks += [client.keep_reading(range(ROWS), until, 0.04) for _ in range(READERS)]
        tasks.append(trouble(Part(servers, settings, client, until)))
        tallies.append(tally)
    before = {one: servers.reads("product", one) for one in (way, "freshet")}
    await asyncio.gather(*tasks)
    for one, tally in zip((way, "freshet"), tallies):
        tally.reads = servers.reads("product", one) - before[one]
    return tallies


def run(seconds: float) -> list[Tally]:
    """`seconds` of load, the parts one after the other."""
    with Servers(apply_delay=LAG_S) as servers:
        settings = settings_for(servers, bound=BOUND, points=POINTS, hold=HOLD_S)
        with two_hosts(servers, settings) as hosts:
            insert_rows(servers, 1000, len(PARTS) * 2000)
            sockets = [str(host.socket) for host in hosts]
            tallies = []
            for number in range(len(PARTS)):
                tallies += asyncio.run(load(servers, settings, sockets, number, seconds))
    return tallies


if __name__ == "__main__":
    main(TITLE, run, stale, 10.0)
