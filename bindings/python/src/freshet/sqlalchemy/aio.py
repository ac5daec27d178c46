"""The same for AsyncSession: the statements run in its greenlet, the loads on its event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from .changes import Changes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from .coherence import Coherence


class AsyncCoherence:
    """`coherence.aio`: get_or_load, get, execute and changing, awaitable."""

    def __init__(self, coherence: Coherence) -> None:
        self._coherence = coherence

    async def get_or_load(self, cls: type, ident: Any, **read: Any) -> Any:
        """As Coherence.get_or_load; `primary` and `replica` are async_sessionmakers then."""
        coherence = self._coherence
        return await coherence.reading.value_awaiting(coherence.kept_of(cls), ident, read)

    async def get(self, session: AsyncSession, cls: type, ident: Any, **read: Any) -> Any:
        """As Coherence.get."""
        coherence = self._coherence
        return await coherence.reading.instance_awaiting(session, coherence.kept_of(cls), ident, read)

    async def execute(self, session: AsyncSession, statement: Any, parameters: Any = None) -> Changes:
        """As Coherence.execute."""
        return await session.run_sync(lambda plain: self._coherence.execute(plain, statement, parameters))

    @asynccontextmanager
    async def changing(self, session: AsyncSession, cls: type, *idents: Any) -> AsyncIterator[None]:
        """As Coherence.changing."""
        block = self._coherence.changing(session.sync_session, cls, *idents)
        await session.run_sync(lambda plain: block.__enter__())
        try:
            yield
        except BaseException as error:
            raised = error  # what it was, not what a broken transaction says of it
            await session.run_sync(lambda plain: block.__exit__(type(raised), raised, raised.__traceback__))
            raise
        await session.run_sync(lambda plain: block.__exit__(None, None, None))
