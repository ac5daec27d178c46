"""What both ways have in common: one table, the sessions, and the named points at which a story may make one wait.

Both read with `session.get` and write with `SELECT ... FOR UPDATE`, change, commit.  All that differs is the caching.
The points are where threads and networks pause in production; a story names those it wants, with a chance and a time,
and they hold for both ways:

    reader has read        the reader has the row and has not put it into the cache yet
    writer will commit     the row is changed, and COMMIT not sent yet
    writer has committed   the database has confirmed, and the cache has not heard of it yet
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.util import await_only


@dataclass
class Settings:
    """A story's, handed to its workers as JSON in the environment.  Times in seconds."""

    primary: str  # the folder of its socket
    redis: str
    keyring: str
    tier: str  # the host's folder in memory
    replica: str | None = None
    bound: float = 0.5
    ttl: float = 30.0
    points: dict[str, tuple[float, float]] = field(default_factory=dict)  # name: chance, time at most
    slow_read: float = 0.0  # what the database takes for a read
    pool_size: int = 5
    pool_timeout: float = 5.0
    hold: float = 10.0

    @classmethod
    def of_environment(cls) -> Settings:
        return cls(**json.loads(os.environ["STORY"]))

    def environment(self) -> dict[str, str]:
        return {"STORY": json.dumps(asdict(self))}


class Base(DeclarativeBase):
    pass


class Product(Base):
    """A row; its version counts its commits, which is also how a reader knows what it got."""

    __tablename__ = "product"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    price: Mapped[int] = mapped_column()
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy's own way


WAYS = ("setting", "deleting", "deleting_first", "freshet")  # see textbook.py, coherent.py
TABLE = "CREATE TABLE product (id int PRIMARY KEY, price int NOT NULL, version int NOT NULL)"


def as_dict(product: Product) -> dict[str, int]:
    return {"id": product.id, "price": product.price, "version": product.version}


class Points:
    """`await points("reader has read")`: go on, or wait a while."""

    def __init__(self, points: dict[str, tuple[float, float]]) -> None:
        self.points = points

    async def __call__(self, name: str) -> None:
        chance, longest = self.points.get(name, (0.0, 0.0))
        if random.random() < chance:
            await asyncio.sleep(random.uniform(longest / 2, longest))


class Shop:
    """Engines and sessions of one worker; the class below it keeps a cache."""

    def __init__(self, settings: Settings, way: str) -> None:
        """`way` is also the role as which it is known to PostgreSQL, so that its reads can be told apart."""
        self.settings, self.points, self.way = settings, Points(settings.points), way
        self.engine = self._engine(settings.primary)
        self.replica_engine = self._engine(settings.replica) if settings.replica else self.engine
        self.writing = async_sessionmaker(self.engine, expire_on_commit=False)
        self.reading = self._reading(self.replica_engine)
        self.reading_primary = self._reading(self.engine)

    def _engine(self, server: str) -> AsyncEngine:
        url = f"postgresql+asyncpg://{self.way}@/postgres?host={server}"
        size, timeout = self.settings.pool_size, self.settings.pool_timeout
        return create_async_engine(url, pool_size=size, max_overflow=0, pool_timeout=timeout)

    def _reading(self, engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
        slow, points = self.settings.slow_read, self.points

        class Reading(AsyncSession):
            async def get(self, *arguments: Any, **options: Any) -> Any:
                found = await super().get(*arguments, **options)
                if slow:
                    await self.execute(text("SELECT pg_sleep(:slow)"), {"slow": slow})
                return found

            async def __aexit__(self, *error: Any) -> None:
                await super().__aexit__(*error)  # the pool has its connection back
                await points("reader has read")

        return async_sessionmaker(engine, class_=Reading, expire_on_commit=False)

    def after_commit(self, sessions: Callable[[], AsyncSession] | Any) -> None:
        """Let the point "writer has committed" be there for these sessions, and the crash that a request asks for."""

        def committed(session: Session) -> None:
            if session.info.get("crash"):
                os.kill(os.getpid(), signal.SIGKILL)
            await_only(self.points("writer has committed"))

        event.listen(sessions, "after_commit", committed)

    async def change(self, ident: int, price: int, crash: bool = False) -> dict[str, int]:
        """Change the row, as anybody would."""
        async with self.writing() as session:
            session.info["crash"] = crash
            product = await session.get(Product, ident, with_for_update=True)
            if product is None:
                raise KeyError(ident)
            product.price = price
            await session.flush()
            await self.points("writer will commit")
            await session.commit()
            return as_dict(product)

    async def insert(self, ident: int, price: int) -> dict[str, int]:
        async with self.writing() as session:
            product = Product(id=ident, price=price)
            session.add(product)
            await session.flush()
            await self.points("writer will commit")
            await session.commit()
            return as_dict(product)

    async def close(self) -> None:
        await self.engine.dispose()
        if self.replica_engine is not self.engine:
            await self.replica_engine.dispose()
