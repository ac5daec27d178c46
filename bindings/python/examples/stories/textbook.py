"""The textbook's ways: cache-aside on Redis with a time to live, and what to do on a write in three orders.

    setting          commit, then write the new value into the cache (write-through)
    deleting         commit, then delete the key
    deleting_first   delete the key, then commit

A cache call that fails is tried again in the background with growing pauses, as the books say; a read without Redis
goes to the database.  Each of them is in use in thousands of services, and each goes stale by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis
from sqlalchemy.orm import Session

from .shop import Product, Settings, Shop, as_dict

RETRY_FIRST_S, RETRY_LONGEST_S = 0.1, 5.0


class Textbook(Shop):
    """One of the three orders."""

    def __init__(self, settings: Settings, way: str) -> None:
        super().__init__(settings, way)
        self.redis = redis.Redis.from_url(settings.redis, socket_timeout=0.5, socket_connect_timeout=0.5)
        self.retries: set[asyncio.Task[None]] = set()
        own = type("TextbookSession", (Session,), {})
        self.writing.configure(sync_session_class=own)
        self.after_commit(own)

    async def get(self, ident: int) -> dict[str, int] | None:
        key = f"product:{ident}"
        try:
            cached = await self.redis.get(key)
        except redis.RedisError:
            cached = None
        if cached is not None:
            return json.loads(cached)  # type: ignore[no-any-return]
        async with self.reading() as session:
            product = await session.get(Product, ident)
        value = None if product is None else as_dict(product)
        with contextlib.suppress(redis.RedisError):  # the next reader will
            await self._store(key, value)
        return value

    async def update(self, ident: int, price: int, crash: bool = False) -> dict[str, int]:
        key = f"product:{ident}"
        if self.way == "deleting_first":
            await self._surely(lambda: self.redis.delete(key))
        value = await self.change(ident, price, crash)
        if self.way == "setting":
            await self._surely(lambda: self._store(key, value))
        elif self.way == "deleting":
            await self._surely(lambda: self.redis.delete(key))
        return value

    async def create(self, ident: int, price: int) -> dict[str, int]:
        key = f"product:{ident}"
        value = await self.insert(ident, price)
        await self._surely(lambda: self._store(key, value))
        return value

    async def _store(self, key: str, value: dict[str, int] | None) -> None:
        await self.redis.set(key, json.dumps(value), px=round(self.settings.ttl * 1000))

    async def _surely(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Now, or else again and again behind the caller's back."""
        try:
            await call()
        except redis.RedisError:
            task = asyncio.create_task(self._again(call))
            self.retries.add(task)
            task.add_done_callback(self.retries.discard)

    async def _again(self, call: Callable[[], Awaitable[Any]]) -> None:
        pause = RETRY_FIRST_S
        while True:
            await asyncio.sleep(pause)
            try:
                await call()
                return
            except redis.RedisError:
                pause = min(2 * pause, RETRY_LONGEST_S)

    async def close(self) -> None:
        for task in list(self.retries):
            task.cancel()
        await self.redis.aclose()
        await super().close()
