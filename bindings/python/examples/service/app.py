"""A small web service on FastAPI, Freshet and a database: what to do where.

    SHOP_REDIS=unix:///run/redis.sock SHOP_KEYRING=/etc/freshet/keyring SHOP_DATABASE=shop.db \\
        uvicorn app:app --workers 4             or      gunicorn --preload -k uvicorn.workers.UvicornWorker -w 4 app:app

All workers of a host share one copy of what they cache, in SHOP_TIER (by default in /dev/shm).  The lifespan opens the
cache in each worker: that is cheap, and whoever comes second finds it warm.  It would also do no harm to open it before
the fork of --preload (`create_app(cache)`), since the library opens itself anew in a child.

Three things make it coherent, and each is one line below:
    a load has a ticket     GET /items/1 goes through `get_or_load`, so a read that a change overtakes is not kept
    a change has a guard    PUT /items/1 stands in `async with cache.aio.guard(key)`
    a session has a token   what a client has changed it sees from then on, whichever host answers: the token travels in
                            a cookie, and in the header Freshet-Token for clients that have no cookies
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing
from typing import Annotated, Any, Optional

from fastapi import Cookie, FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel

import freshet

COOKIE = "freshet"
COOKIE_AGE = 60  # seconds: far longer than any host lags behind, and then the bound alone is enough


class Item(BaseModel):
    """What a client may change."""

    name: str
    price: int


class Database:
    """The table.  SQLite stands for your database; its calls block, so they run in threads."""

    def __init__(self, path: str) -> None:
        self.path = path
        with closing(self._open()) as rows, rows:
            rows.execute("PRAGMA journal_mode = WAL")
            rows.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT, price INTEGER)")

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=20.0)

    def read(self, number: int) -> Optional[Item]:  # noqa: UP045 (FastAPI looks at types as they are)
        """The row, or None."""
        with closing(self._open()) as rows:
            row = rows.execute("SELECT name, price FROM item WHERE id = ?", (number,)).fetchone()
        return Item(name=row[0], price=row[1]) if row else None

    def write(self, number: int, item: Item) -> None:
        """Insert or update the row, and commit."""
        with closing(self._open()) as rows, rows:
            rows.execute("INSERT OR REPLACE INTO item VALUES (?, ?, ?)", (number, item.name, item.price))


def open_cache() -> freshet.Cache:
    """The cache, by the environment.  Without SHOP_REDIS it is this host's alone."""
    return freshet.Cache(
        "shop",
        url=os.environ.get("SHOP_REDIS"),
        keyring=os.environ.get("SHOP_KEYRING"),
        dir=os.environ.get("SHOP_TIER"),
        max_staleness=0.5,
        serializer=freshet.JSON,
    )


def create_app(opened: Optional[freshet.Cache] = None) -> FastAPI:  # noqa: UP045
    """The service, on a cache that is open already or on one that each worker opens."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.database = Database(os.environ.get("SHOP_DATABASE", "shop.db"))
        app.state.cache = opened or open_cache()
        yield
        if opened is None:
            app.state.cache.close()

    app = FastAPI(lifespan=lifespan)
    app.get("/items/{number}")(read_item)
    app.put("/items/{number}")(write_item)
    app.get("/health")(health)
    return app


def session_token(cache: freshet.Cache, *tokens: Optional[str]) -> str:  # noqa: UP045
    """What the client has seen, by its cookie and header.  One that is garbled says nothing: clients send anything."""
    joined = ""
    for token in tokens:
        try:
            joined = cache.join_tokens(joined, token or "")
        except freshet.InvalidArgument:
            continue
    return joined


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for it, also when this task is cancelled (a client that has gone, a timeout): a thread goes on all the same,
    and the guard must not end before its commit."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def read_item(
    number: int,
    request: Request,
    response: Response,
    freshet_cookie: Annotated[Optional[str], Cookie(alias=COOKIE)] = None,  # noqa: UP045
    freshet_token: Annotated[Optional[str], Header()] = None,  # noqa: UP045
) -> Item:
    """From this host's memory, else Redis, else the database, which one caller asks for all."""
    cache: freshet.Cache = request.app.state.cache
    database: Database = request.app.state.database

    async def load() -> object:
        row = await asyncio.to_thread(database.read, number)
        return row.model_dump() if row else freshet.ABSENT

    token = session_token(cache, freshet_cookie, freshet_token)
    answer = await cache.aio.load(f"item:{number}", load, ttl=300.0, absent_ttl=10.0, token=token)
    response.headers["Freshet-Source"] = str(answer.source)
    response.headers["Worker"] = str(os.getpid())
    if answer.absent:
        raise HTTPException(404, f"there is no item {number}")
    return Item(**answer.value)


async def write_item(
    number: int,
    item: Item,
    request: Request,
    response: Response,
    freshet_cookie: Annotated[Optional[str], Cookie(alias=COOKIE)] = None,  # noqa: UP045
    freshet_token: Annotated[Optional[str], Header()] = None,  # noqa: UP045
) -> Item:
    """Change the row under a guard, and give the client the token of the change."""
    cache: freshet.Cache = request.app.state.cache
    database: Database = request.app.state.database
    async with cache.aio.guard(f"item:{number}") as guard:
        await to_the_end(asyncio.to_thread(database.write, number, item))
    changed = guard.change.token if guard.change else ""
    token = session_token(cache, freshet_cookie, freshet_token, changed)
    response.headers["Freshet-Token"] = token
    response.set_cookie(COOKIE, token, max_age=COOKIE_AGE, httponly=True, samesite="lax")
    response.headers["Worker"] = str(os.getpid())
    return item


async def health(request: Request) -> dict[str, object]:
    """Is this host's copy proven to be within the bound?  It serves either way, only slower if not."""
    cache: freshet.Cache = request.app.state.cache
    return {"proven": cache.proven, "worker": os.getpid()}


app = create_app()
