"""Freshet's way: say what a row stands for, watch the sessions, read with get_or_load.  Writing is as it was."""

from __future__ import annotations

from typing import Any

import freshet
from freshet.sqlalchemy import Coherence

from .shop import Product, Settings, Shop


class Coherent(Shop):
    """One declaration, one `watch`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "freshet")
        self.cache = freshet.Cache(
            "shop", url=settings.redis, keyring=settings.keyring, dir=settings.tier, max_staleness=settings.bound,
            serializer=freshet.JSON,
        )  # fmt: skip
        self.coherence = Coherence(
            self.cache, primary=self.reading_primary, replica=self.reading if settings.replica else None,
            hold=settings.hold,
        )  # fmt: skip
        self.coherence.keeps("product:{id}", ttl=settings.ttl)(Product)
        self.coherence.watch(self.writing)
        self.after_commit(self.writing.kw["sync_session_class"])

    async def get(self, ident: int) -> Any:
        return await self.coherence.aio.get_or_load(Product, ident)

    async def update(self, ident: int, price: int, crash: bool = False) -> dict[str, int]:
        return await self.change(ident, price, crash)

    async def create(self, ident: int, price: int) -> dict[str, int]:
        return await self.insert(ident, price)

    async def close(self) -> None:
        await super().close()
        self.cache.close()
