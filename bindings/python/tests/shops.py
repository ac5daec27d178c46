"""Three shops on one SQLite table, for the tests of the plugin: they run in the processes of hosts.

PlainShop is cache-aside as the textbooks have it, and most services in the field: read the cache, else the database,
and refill; after a commit delete from the cache.  BareShop is the same without any named point in it.
FreshetShop does the same with Freshet.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from freshet.testing import HostInfo, point


class Table:
    """The database: one table, WAL, a connection a call (so that any thread may call)."""

    def __init__(self, host: HostInfo) -> None:
        self.path = os.path.join(host.shared, "shop.db")
        with self.open() as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
            database.executemany("INSERT OR IGNORE INTO item VALUES (?, 'old')", [(number,) for number in range(100)])
        database.close()

    def open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=20.0)

    def read(self, key: int) -> str:
        database = self.open()
        try:
            return str(database.execute("SELECT name FROM item WHERE id = ?", (key,)).fetchone()[0])
        finally:
            database.close()

    def write(self, key: int, name: str) -> None:
        database = self.open()
        try:
            with database:
                database.execute("UPDATE item SET name = ? WHERE id = ?", (name, key))
        finally:
            database.close()


class PlainShop:
    """Cache-aside with redis-py."""

    def __init__(self, host: HostInfo) -> None:
        import redis

        self.table = Table(host)
        self.redis: Any = redis.Redis.from_url(str(host.redis))

    def read(self, key: int) -> str:
        cached: bytes | None = self.redis.get(f"item:{key}")
        if cached is not None:
            return cached.decode()
        name = self.table.read(key)
        point("after_db_read", key=key)
        self.redis.set(f"item:{key}", name, ex=60)
        return name

    def write(self, key: int, name: str) -> None:
        self.table.write(key, name)
        point("after_commit", key=key)
        self.redis.delete(f"item:{key}")


def read_row(table: Table, key: int) -> str:
    return table.read(key)


class BareShop(PlainShop):
    """The same, with nothing in it that knows of tests."""

    def read(self, key: int) -> str:
        cached: bytes | None = self.redis.get(f"item:{key}")
        if cached is not None:
            return cached.decode()
        name = read_row(self.table, key)
        self.redis.set(f"item:{key}", name, ex=60)
        return name


class FreshetShop:
    """The same with Freshet: the refill has a ticket, and the change a guard."""

    def __init__(self, host: HostInfo) -> None:
        import freshet

        self.table = Table(host)
        self.cache = freshet.Cache(
            "shop", url=host.redis, keyring=host.keyring, dir=os.path.join(host.dir, "tier"), max_staleness=0.5
        )

    def __enter__(self) -> FreshetShop:
        return self

    def __exit__(self, *_: object) -> None:
        self.cache.close()

    def read(self, key: int) -> str:
        def load() -> bytes:
            name = self.table.read(key)
            point("after_db_read", key=key)
            return name.encode()

        value: bytes = self.cache.get_or_load(f"item:{key}", load)
        return value.decode()

    def write(self, key: int, name: str) -> None:
        with self.cache.guard(f"item:{key}"):
            self.table.write(key, name)
            point("after_commit", key=key)


async def aread(shop: PlainShop, key: int) -> str:
    """A coroutine that stops at a point: the loop must go on meanwhile."""
    from freshet.testing import apoint

    await apoint("in_coroutine", key=key)
    return shop.table.read(key)


async def atick(shop: PlainShop) -> int:
    return os.getpid()


def pid(shop: object) -> int:
    return os.getpid()


def broken(host: HostInfo) -> None:
    raise RuntimeError(f"no shop on {host.name}")


class Unpicklable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def raise_unpicklable(shop: object) -> None:
    raise Unpicklable(1, 2)


def read_badly(shop: object, key: int) -> str:
    raise KeyError(key)
