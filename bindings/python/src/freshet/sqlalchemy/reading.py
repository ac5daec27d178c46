"""Reading rows through the cache: what a loader may read with, and when its result may be kept.

A loader has a session of its own, so that no older snapshot, no identity map and no uncommitted change gets into the
cache.  It reads from the replica unless the library prefers the primary, as it does for a while after a change of the
key, and of any tag.

While a statement whose rows nobody named is being committed, the table's own key is guarded: then nothing is kept.
Redis's master is asked for it in each load, after the load began: so a guard begun before is seen, and one begun later
voids what is loaded, by the table's tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from sqlalchemy import inspect
from sqlalchemy.orm import Session, attributes, make_transient_to_detached

import freshet

from .declare import Kept
from .sharing import Tasks, Threads
from .work import changed_key

if TYPE_CHECKING:
    from .coherence import Coherence

SETTLED_S = 3600.0  # for so long an unguarded table's key has an answer, which any change of it voids
UNKEPT_S = 0.001  # the shortest that the library knows


class Found(NamedTuple):
    """What was read, to be told to each load that waits for it."""

    value: Any
    tags: tuple[str, ...]
    version: int
    keep: bool

    def told(self, request: Any) -> Any:
        """The loader's answer."""
        for tag in self.tags:
            request.tag(tag)
        if self.version:
            request.source_version = self.version
        if not self.keep:
            request.ttl = UNKEPT_S
        return self.value


def mark(request: Any) -> Any:
    """The loader of a table's key: there is never a value, only that an answer could be kept."""
    request.ttl = SETTLED_S
    return freshet.ABSENT


def confirmed(answer: Any) -> bool:
    """Has Redis the answer of a table's key?"""
    return bool(answer.absent and not answer.stale)


class Reading:
    """get_or_load and get of a Coherence."""

    def __init__(
        self, coherence: Coherence, primary: Callable[[], Any] | None, replica: Callable[[], Any] | None
    ) -> None:
        self.coherence, self.primary, self.replica = coherence, primary, replica
        self.threads, self.tasks = Threads(), Tasks()

    def factory(self, kept: Kept, primary: bool) -> Callable[[], Any]:
        """Whom to ask."""
        if self.primary is None:
            raise ValueError(f"{kept.cls.__name__}: nothing to load with; give the Coherence `primary`, a sessionmaker")
        if self.replica is None or primary:
            return self.primary
        return self.replica

    def found(self, kept: Kept, ident: Any, settled: bool, instance: Any) -> Found:
        """What Session.get has found, as what is to be cached.

        Under the key that a change of the row voids, and no other: "042" finds row 42, but nobody will void "user:042".
        """
        if instance is None:
            return Found(freshet.ABSENT, tuple(kept.row_tags({})), 0, settled and kept.one_spelling(ident))
        values = kept.values(inspect(instance))
        value = kept.value(instance) if kept.value is not None else columns_of(instance)
        its_own = kept.key.fill(values) == kept.key_of(ident)
        return Found(value, tuple(kept.row_tags(values)), kept.row(values).version, settled and its_own)

    def settled(self, kept: Kept) -> bool:
        """Is no statement on the table under way?  The first time the answer is made, and must be found to be kept."""
        key = changed_key(kept.table_tag)
        if not confirmed(kept.cache.lookup(key, level="latest")):
            kept.cache.load(key, mark)
            return confirmed(kept.cache.lookup(key, level="latest"))
        return True

    async def settled_awaiting(self, kept: Kept) -> bool:
        key = changed_key(kept.table_tag)
        if not confirmed(await kept.cache.aio.lookup(key, level="latest")):
            await kept.cache.aio.load(key, mark)
            return confirmed(await kept.cache.aio.lookup(key, level="latest"))
        return True

    def value(self, kept: Kept, ident: Any, read: dict[str, Any]) -> Any:
        options = {**kept.read_options, **read} if read else kept.read_options
        return kept.cache.get_or_load(kept.key_of(ident), lambda request: self.load(kept, ident, request), **options)

    def load(self, kept: Kept, ident: Any, request: Any) -> Any:
        """The loader."""
        primary = bool(request.prefer_primary)
        place = (kept.cache.name, kept.key_of(ident), primary)
        found: Found = self.threads.read(place, lambda: self.read_row(kept, ident, primary))
        return found.told(request)

    def read_row(self, kept: Kept, ident: Any, primary: bool) -> Found:
        settled = self.settled(kept)
        with self.factory(kept, primary)() as session:
            return self.found(kept, ident, settled, session.get(kept.cls, ident, options=kept.load_options))

    async def value_awaiting(self, kept: Kept, ident: Any, read: dict[str, Any]) -> Any:
        options = {**kept.read_options, **read} if read else kept.read_options
        return await kept.cache.aio.get_or_load(
            kept.key_of(ident), lambda request: self.load_awaiting(kept, ident, request), **options
        )

    async def load_awaiting(self, kept: Kept, ident: Any, request: Any) -> Any:
        """The loader."""
        primary = bool(request.prefer_primary)
        place = (kept.cache.name, kept.key_of(ident), primary)
        found: Found = await self.tasks.read(place, lambda: self.read_row_awaiting(kept, ident, primary))
        return found.told(request)

    async def read_row_awaiting(self, kept: Kept, ident: Any, primary: bool) -> Found:
        settled = await self.settled_awaiting(kept)
        async with self.factory(kept, primary)() as session:
            return self.found(kept, ident, settled, await session.get(kept.cls, ident, options=kept.load_options))

    def own(self, session: Session, kept: Kept, ident: Any) -> bool:
        """Must the session answer itself: it has the object, or is changing it?"""
        if kept.mapper.identity_key_from_primary_key(kept.identity(ident)) in session.identity_map:
            return True
        work = self.coherence.running(session)
        return work is not None and work.holds(kept, [kept.key_of(ident)])

    def instance(self, session: Session, kept: Kept, ident: Any, read: dict[str, Any]) -> Any:
        if self.own(session, kept, ident):
            return session.get(kept.cls, ident)
        return attach(session, kept, self.value(kept, ident, read))

    async def instance_awaiting(self, session: Any, kept: Kept, ident: Any, read: dict[str, Any]) -> Any:
        if self.own(session.sync_session, kept, ident):
            return await session.get(kept.cls, ident)
        return attach(session.sync_session, kept, await self.value_awaiting(kept, ident, read))


def columns_of(instance: Any) -> dict[str, Any]:
    """The columns' attributes that are loaded, by name."""
    state = inspect(instance)
    return {one.key: state.dict[one.key] for one in state.mapper.column_attrs if one.key in state.dict}


def attach(session: Session, kept: Kept, value: Any) -> Any:
    """An object of the session, made of a cached value; nothing is read for it."""
    if value is None:
        return None
    if kept.restore is not None:
        instance = kept.restore(value)
    else:
        mapper = kept.mapper
        discriminator = mapper.polymorphic_on
        if discriminator is not None:
            mapper = mapper.polymorphic_map[value[mapper.get_property_by_column(discriminator).key]]
        instance = mapper.class_manager.new_instance()
        for name, part in value.items():
            attributes.set_committed_value(instance, name, part)
    make_transient_to_detached(instance)
    with session.no_autoflush:
        return session.merge(instance, load=False)
