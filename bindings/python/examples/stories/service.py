"""The web service of the stories: `uvicorn stories.service:app`, with its settings in the environment (STORY).

    GET /WAY/product/17             the product, or null       WAY is one of shop.py's
    PUT /WAY/product/17?price=3     change it; &crash=1: and let this worker die as soon as the database has committed
    POST /WAY/product/17?price=3    create it

A write that is refused, or a pool that has no connection left, is a 503.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import freshet

from .coherent import Coherent
from .shop import WAYS, Settings
from .textbook import Textbook

shops: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    settings = Settings.of_environment()
    shops.update((way, Coherent(settings) if way == "freshet" else Textbook(settings, way)) for way in WAYS)
    yield
    for way in shops.values():
        await way.close()


async def product(request: Request) -> JSONResponse:
    way, ident = shops[request.path_params["way"]], request.path_params["ident"]
    try:
        if request.method == "GET":
            return JSONResponse(await way.get(ident))
        price = int(request.query_params["price"])
        if request.method == "POST":
            return JSONResponse(await way.create(ident, price))
        return JSONResponse(await way.update(ident, price, "crash" in request.query_params))
    except (freshet.FreshetError, SQLAlchemyError, TimeoutError) as error:
        return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=503)


ROUTE = Route("/{way}/product/{ident:int}", product, methods=["GET", "PUT", "POST"])
app = Starlette(routes=[ROUTE], lifespan=lifespan)
