"""The declarations and the session events that keep caches coherent with what the sessions commit."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, TypeVar

from sqlalchemy import Connection, Engine, ExceptionContext, ForeignKey, Table, event, inspect
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    RelationshipDirection,
    Session,
    SessionTransaction,
    object_session,
    scoped_session,
)

from .aio import AsyncCoherence
from .calls import LOG
from .changes import COVERED, Changes, change_rows
from .declare import Kept, Row, Template, in_order
from .errors import UncoveredStatement, UncoveredStatementWarning
from .reading import Reading
from .statements import NOTHING, Changed, dependents, fallen, of_execution
from .statements import deletes as by_deletion
from .statements import moves as by_move
from .work import Work

C = TypeVar("C", bound=type)
RAW = ("cover", "warn", "error")
AWAY = ("refuse", "invalidate_after")


def commits_by_itself(connection: Connection) -> bool:
    """Is each statement a transaction of its own (AUTOCOMMIT)?"""
    level = connection.get_execution_options().get("isolation_level")
    return (level or getattr(connection.dialect, "_on_connect_isolation_level", None)) == "AUTOCOMMIT"


def has_changed(mapper: Mapper[Any], column: Any, state: InstanceState[Any]) -> bool:
    """Is the row about to get another value in this column?"""
    name = mapper.get_property_by_column(column).key
    return name in state.committed_state and bool(state.attrs[name].history.has_changes())


class Coherence:
    """What the mapped classes of an application stand for in its caches, and the sessions that are kept to it.

        coherence = Coherence(cache, primary=sessions, replica=replica_sessions)

        @coherence.keeps("user:{id}", tags=["team:{team_id}"])
        class User(Base): ...

        coherence.watch(sessions)                       # a sessionmaker, async_sessionmaker, Session class or instance
        user = coherence.get_or_load(User, 42)          # or: await coherence.aio.get_or_load(User, 42)

    From then on a watched session guards the keys of what it flushes before the first statement goes out (the keys of
    rows whose primary key the database draws, after the INSERT), looks before COMMIT that the guards outlast it, and
    ends them when its outermost transaction has ended.  Savepoints keep them until then; a COMMIT of unknown outcome
    (the connection broke, the task was cancelled) does for `hold` seconds more, as the database may yet get to it.

    cache             the freshet.Cache of classes that name no other
    primary, replica  sessionmaker, async_sessionmaker or a callable that gives a new session; what get_or_load reads
                      with.  The replica's is not used while a change may not have reached it.
    hold              seconds that a guard outlives this process; the database must end a transaction whose client died
                      within that time (PostgreSQL: idle_in_transaction_session_timeout, tcp_keepalives_*)
    commit_needs      seconds that every guard must have left when COMMIT is sent, else NotGuarded and no commit: more
                      than the database may take for it
    wait              "hosts": a guard begins when no host serves the old value any more, so that no cached read is
                      older than the commit; "none": they hear of it within the cache's bound
    raw               a statement on a declared table that did not come from a flush or from `execute`: "cover" voids
                      all entries that carry the table's tag, "warn" does it with an UncoveredStatementWarning, "error"
                      raises UncoveredStatement and the statement is not run
    when_redis_is_away  "refuse": the flush raises freshet.NetworkError, nothing was sent to the database;
                      "invalidate_after": the change goes on without guards and the keys are invalidated before and
                      after it; hosts that still reach Redis may serve what was until this one reaches it too

    One Coherence serves any number of sessions, threads and event loops.  Tags are voided after the commit: a process
    that dies between the two leaves entries that are found by a tag only to their ttl (keys do not have this hole, nor
    has a table that is changed by statements, as long as its entries are loaded by get_or_load).
    """

    def __init__(
        self,
        cache: Any = None,
        *,
        primary: Callable[[], Any] | None = None,
        replica: Callable[[], Any] | None = None,
        hold: float = 10.0,
        commit_needs: float = 1.0,
        wait: str = "none",
        raw: str = "cover",
        when_redis_is_away: str = "refuse",
    ) -> None:
        if raw not in RAW:
            raise ValueError(f"raw is one of {RAW}, not {raw!r}")
        if when_redis_is_away not in AWAY:
            raise ValueError(f"when_redis_is_away is one of {AWAY}, not {when_redis_is_away!r}")
        if not 0 <= commit_needs < hold:
            raise ValueError(f"commit_needs ({commit_needs:g} s) must be less than hold ({hold:g} s)")
        self.cache = cache
        self.hold, self.commit_needs, self.wait, self.raw = hold, commit_needs, wait, raw
        self.refuse = when_redis_is_away == "refuse"
        self.kept: list[Kept] = []
        self.aio = AsyncCoherence(self)
        self.reading = Reading(self, primary, replica)
        self._by_mapper: weakref.WeakKeyDictionary[Mapper[Any], tuple[Kept, ...]] = weakref.WeakKeyDictionary()
        self._by_class: weakref.WeakKeyDictionary[type, Kept] = weakref.WeakKeyDictionary()
        self._work: weakref.WeakKeyDictionary[Session, Work] = weakref.WeakKeyDictionary()
        self._owner: weakref.WeakKeyDictionary[Connection, weakref.ref[Session]] = weakref.WeakKeyDictionary()
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()

    # ---- declaring

    def keeps(
        self,
        key: str,
        *,
        keys: Sequence[str] = (),
        also: Sequence[str] = (),
        more: Callable[[Any], Iterable[str]] | None = None,
        tags: Sequence[str] = (),
        carries: Sequence[str] = (),
        table_tag: str | None = None,
        tables: Sequence[str] = (),
        fixed: Sequence[str] = (),
        cache: Any = None,
        versioned: bool = True,
        value: Callable[[Any], Any] | None = None,
        restore: Callable[[Any], Any] | None = None,
        ttl: float | None = None,
        absent_ttl: float | None = None,
        load_options: Sequence[Any] = (),
    ) -> Callable[[C], C]:
        """A class decorator: rows of this mapped class are cached under these keys.

        key, keys   templates of the keys that hold the row; `key` is get_or_load's, and made of the primary key
                    ("user:{id}"; of several strings what stands between them is escaped, ":" as "%3A")
        also, more  templates, or a function of the object, of keys whose values are made of this row and others.
                    The function is not asked for rows that statements change: give such entries `tags_of` the class
        tags        templates of tags that a change of the row voids: of lists, sums and whatever else it is part of
        carries     templates of the tags that get_or_load's entry of the row itself has, to be voided by others
        table_tag   the tag that it has besides, as all entries of this table ("table:NAME" by default)
        tables      full names of further tables whose statements change these rows (an association table, say)
        fixed       attributes that never change once the row is there, so that it need not be read to know the old one
        cache       the freshet.Cache, if another than the Coherence's
        versioned   the mapper's version_id_col, if it is a rising number or time, is the source version of the keys.  A
                    primary key that is used anew by a later row must not begin again at 1 then
        value       object to what is cached (default: a dict of its columns); restore: the way back, for `get`
        ttl, absent_ttl   seconds, of what get_or_load loads;  load_options: of Session.get, for joined loading
        """

        def declare(cls: C) -> C:
            table = getattr(cls, "__tablename__", None)
            tag = table_tag or (f"table:{table}" if table else f"table:{cls.__name__}")
            kept = Kept(
                cls, cache if cache is not None else self.cache, Template(key), tuple(map(Template, keys)),
                tuple(map(Template, also)), more, tuple(map(Template, tags)), tuple(map(Template, carries)), tag,
                frozenset(tables), frozenset(fixed), versioned, value, restore, ttl, absent_ttl, tuple(load_options),
            )  # fmt: skip
            if kept.cache is None:
                raise ValueError(f"{cls.__name__}: no cache; give one here, or to the Coherence")
            for name in ("before_insert", "before_update", "before_delete"):
                event.listen(cls, name, self._flushes(name), propagate=True)
            self.kept.append(kept)
            self._by_mapper.clear()
            self._by_class.clear()
            return cls

        return declare

    def kept_of(self, cls: type) -> Kept:
        """The declaration of this class or the nearest above it; LookupError if there is none."""
        found = self._by_class.get(cls)
        if found is None:
            near = self.of_mapper(inspect(cls))
            if not near:
                raise LookupError(f"{cls.__name__} is not declared: decorate it with Coherence.keeps")
            found = self._by_class[cls] = near[0]
        return found

    def of_mapper(self, mapper: Mapper[Any]) -> tuple[Kept, ...]:
        """All declarations that hold for objects of this mapper, the nearest first."""
        found = self._by_mapper.get(mapper)
        if found is None:
            line = list(mapper.iterate_to_root())
            near = [kept for one in line for kept in self.kept if kept.mapper is one]
            found = self._by_mapper[mapper] = tuple(near)
        return found

    def tags_of(self, cls: type, **values: Any) -> list[str]:
        """The tags of the entry of a row of this class with these attributes: the table's, and what it carries.

        Give them to entries that you load by other ways than get_or_load, so that statements void them too.
        """
        return self.kept_of(cls).row_tags(values)

    # ---- sessions

    def watch(self, target: Any) -> None:
        """Keep these sessions coherent: a Session or AsyncSession, a class or maker of either, or a scoped_session."""
        if isinstance(target, async_scoped_session):
            target = target.session_factory
        if isinstance(target, async_sessionmaker):
            base = target.kw.get("sync_session_class") or target.class_.sync_session_class
            own = base if not isinstance(base, type) else type(f"Coherent{base.__name__}", (base,), {})
            target.configure(sync_session_class=own)
            target = own
        elif isinstance(target, AsyncSession):
            target = target.sync_session
        elif isinstance(target, type) and issubclass(target, AsyncSession):
            target.sync_session_class = type("CoherentSession", (target.sync_session_class,), {})
            target = target.sync_session_class
        elif isinstance(target, scoped_session):
            target = target.session_factory
        for name in (
            "after_begin", "before_flush", "after_flush", "after_soft_rollback", "before_commit", "after_commit",
            "after_transaction_end",
        ):  # fmt: skip
            event.listen(target, name, getattr(self, f"_{name}"))

    def work_of(self, session: Session) -> Work:
        """What this session's outermost transaction changes."""
        work = self._work.get(session)
        if work is None:
            work = self._work[session] = Work(self.hold, self.wait, self.refuse)
        return work

    def running(self, session: Session) -> Work | None:
        return self._work.get(session)

    def _after_begin(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        self._owner[connection] = weakref.ref(session)
        work = self.work_of(session)
        work.connections.append(connection)
        work.commit_begun |= commits_by_itself(connection)
        if connection.engine not in self._engines:
            self._engines.add(connection.engine)
            event.listen(connection.engine, "before_cursor_execute", self._before_cursor_execute)
            for name in ("commit", "prepare_twophase"):
                event.listen(connection.engine, name, self._database_commits)
            for name in ("rollback", "rollback_twophase"):
                event.listen(connection.engine, name, self._database_rolls_back)
            event.listen(connection.engine, "handle_error", self._database_refuses)

    def _before_flush(self, session: Session, context: Any, instances: Any) -> None:
        work = self.work_of(session)
        work.seen.clear()
        work.flushed.clear()
        work.flushing.clear()
        gone = list(session.deleted)
        old = [*gone, *(one for one in session.dirty if session.is_modified(one))]
        if instances:
            chosen = {id(one) for one in instances}
            old = [one for one in old if id(one) in chosen]
        rows: dict[Kept, Row] = {}
        for kept, states in self._sorted(old).items():
            rows[kept] = self._old_rows(kept, states, partial(session.connection, {"mapper": kept.mapper}))
            work.seen.update((state, kept) for state in states)
        for kept, states in self._sorted([*session.new, *old]).items():
            for state in states:
                values = {**kept.identity_values(state), **kept.values(state)}
                new = kept.row(values).plus(kept.more_of(state.obj()))
                rows[kept] = rows.get(kept, Row()).plus(new)
        self._change(work, rows)

    def _sorted(self, instances: Iterable[object]) -> dict[Kept, list[InstanceState[Any]]]:
        states: dict[Kept, list[InstanceState[Any]]] = {}
        for instance in instances:
            state: InstanceState[Any] | None = inspect(instance)
            assert state is not None  # as SQLAlchemy 2.0 has it; the session's own are mapped
            for kept in self.of_mapper(state.mapper):
                states.setdefault(kept, []).append(state)
        return {kept: states[kept] for kept in self.kept if kept in states}  # in one order: their rows get locked

    def _old_rows(
        self, kept: Kept, states: Sequence[InstanceState[Any]], connect: Callable[[], Connection]
    ) -> Row:
        """What these rows stand for as the database has them; read, and locked, where the objects cannot tell."""
        found, asked = Row(), []
        for state in states:
            values = {**kept.values(state), **kept.identity_values(state)}
            if state.identity is not None and (kept.moving or any(name not in values for name in kept.fields)):
                asked.append(tuple(state.identity))
            else:
                found = found.plus(kept.row(values))
        asked = in_order(asked)
        for start in range(0, len(asked), 500):
            for row in kept.stored(connect(), asked[start : start + 500]):
                found = found.plus(kept.row(row))
        return found

    def _change(self, work: Work, rows: dict[Kept, Row]) -> None:
        """Guard all these, in one guard a cache."""
        keys: dict[str, tuple[Any, set[str]]] = {}
        for kept, row in rows.items():
            keys.setdefault(kept.cache.name, (kept.cache, set()))[1].update(row.keys)
            work.tag(kept, row.tags)
        for cache, names in keys.values():
            if names:
                work.guard(cache, names)

    def _flushes(self, name: str) -> Callable[[Mapper[Any], Connection, Any], None]:
        """The mapper event of this name: an object is about to be written."""
        deletes = name == "before_delete"

        def flushes(mapper: Mapper[Any], connection: Connection, target: Any) -> None:
            session = object_session(target)
            work = self._work.get(session) if session is not None else None
            if work is None:
                return  # of a session that is not watched; if its engine is known, its statement is reported
            state: InstanceState[Any] = inspect(target)
            for kept in self.of_mapper(mapper):
                if state not in work.seen and name != "before_insert":  # an orphan, or changed by a relationship alone
                    self._change(work, {kept: self._old_rows(kept, [state], lambda: connection)})
                work.flushed.append((kept, state, deletes))
            work.seen.setdefault(state, self.of_mapper(mapper)[0])
            work.flushing.update(table.fullname for one in mapper.iterate_to_root() for table in one.tables)
            if name != "before_insert":
                self.change_dependents(work, mapper, state, deletes)

        return flushes

    def change_dependents(self, work: Work, mapper: Mapper[Any], state: InstanceState[Any], deleted: bool) -> None:
        """The database deletes or changes rows by itself: those that no relationship of the class has flushed."""
        minded: set[Any] = set()
        acting: Callable[[ForeignKey], bool] = by_deletion
        if deleted:
            for relation in mapper.relationships:
                if relation.direction is RelationshipDirection.ONETOMANY and not relation.viewonly:
                    minded.update(relation.remote_side if not relation.passive_deletes else ())
        else:
            moved = {column.name.lower() for column in mapper.columns if has_changed(mapper, column, state)}
            if not moved:
                return
            acting = by_move(moved)
        for table in mapper.tables:
            fallen = dependents(table.metadata, table.fullname, acting, minded) if isinstance(table, Table) else set()
            for kept in self.kept:
                if kept.tables & fallen:
                    work.change_table(kept)

    def _after_flush(self, session: Session, context: Any) -> None:
        work = self.work_of(session)
        rows: dict[Kept, Row] = {}
        for kept, state, deleted in work.flushed:
            if deleted:
                work.unversioned(kept, kept.row({**kept.values(state), **kept.identity_values(state)}))
                continue
            values = kept.values(state)
            if any(name not in values for name in kept.selected) and not self._known(kept, state, values):
                identity = tuple(state.mapper.primary_key_from_instance(state.obj()))
                stored = kept.stored(session.connection({"mapper": kept.mapper}), [identity])
                values = stored[0] if stored else values
            row = kept.row(values).plus(kept.more_of(state.obj()))
            rows[kept] = rows.get(kept, Row()).plus(row)
            work.versioned(kept, row)
        work.flushed.clear()
        work.flushing.clear()
        work.seen.clear()
        self._change(work, rows)

    @staticmethod
    def _known(kept: Kept, state: InstanceState[Any], values: dict[str, Any]) -> bool:
        """Nothing is missing but what an UPDATE has left as it was (its row has been seen already)."""
        missing = {name for name in kept.selected if name not in values}
        return state.key is not None and not (missing & state.expired_attributes) and kept.version_field not in missing

    def _after_soft_rollback(self, session: Session, previous: SessionTransaction) -> None:
        work = self._work.get(session)
        if work is not None:
            work.flushed.clear()
            work.flushing.clear()
            work.seen.clear()
            work.versions.clear()  # of a savepoint, perhaps: without a version nothing that is stored is refused

    def _before_commit(self, session: Session) -> None:
        if session.in_nested_transaction():
            return
        session.flush()
        work = self._work.get(session)
        if work is not None:
            work.check(self.commit_needs)
            work.commit_begun = True

    def _database_commits(self, connection: Connection, *transaction: str) -> None:
        """COMMIT is about to be sent.  The session has not always said so: not if a savepoint is still open, nor if it
        was the connection that was asked for it."""
        work = self._work_on(connection)
        if work is None:
            return
        if not work.commit_begun:
            work.check(self.commit_needs)
            work.commit_begun = True
        work.rolled_back = False  # whatever was said of statements before

    def _database_rolls_back(self, connection: Connection, *transaction: Any) -> None:
        """ROLLBACK is about to be sent.  If the connection is sound, it takes its turn behind a COMMIT that failed."""
        work = self._work_on(connection)
        if work is not None and not connection.invalidated:
            work.rolled_back = True

    def _database_refuses(self, context: ExceptionContext) -> None:
        """An error that is the database's answer, to COMMIT perhaps; none if the connection broke or nobody waited."""
        connection, answers = context.connection, context.dialect.loaded_dbapi.Error
        if connection is not None and not context.is_disconnect and isinstance(context.original_exception, answers):
            self._database_rolls_back(connection)

    def _work_on(self, connection: Connection) -> Work | None:
        """What the watched session on this connection changes."""
        owner = self._owner.get(connection)
        session = owner() if owner is not None else None
        return self._work.get(session) if session is not None else None

    def _after_commit(self, session: Session) -> None:
        work = self._work.get(session)
        if work is not None and not session.in_nested_transaction():
            work.committed = True

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            work = self._work.pop(session, None)
            if work is None:
                return
            for connection in work.connections:
                self._owner.pop(connection, None)
            if work.held and isinstance(session.bind, Connection) and session.bind.in_transaction():
                LOG.warning(
                    "the session has ended within a transaction of its connection's, which goes on: the guards end "
                    "now, and what is read until that commits may be kept; bind sessions to an engine"
                )
            work.end()

    # ---- statements

    def _before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        options = getattr(context, "execution_options", {})
        changed = of_execution(statement, context)
        if changed is NOTHING:
            return
        owner = self._owner.get(connection)
        session = owner() if owner is not None else None
        work = self._work.get(session) if session is not None else None
        if "compiled_cache" in options and work is not None and changed.tables and changed.tables <= work.flushing:
            return  # the flush's own
        self._changed(session, work, changed, statement, options.get(COVERED))

    def _changed(
        self, session: Session | None, work: Work | None, changed: Changed, statement: str, covered: str | None
    ) -> None:
        text = " ".join(statement.split())[:200]
        if changed.anything:
            self._report(f"nobody can tell which rows this changes; invalidate what it does: {text}")
            return
        for kept in self._touched(changed, statement, covered):
            if work is not None and any(kept in kepts for kepts in work.covering):
                continue
            if session is None:
                self._report(f"{kept.cls.__name__}'s table is changed outside of a watched session: {text}")
                continue
            if self.raw != "cover" and covered is None:
                self._report(f"{kept.cls.__name__}'s table is changed past the flush; use Coherence.execute: {text}")
            self.work_of(session).change_table(kept)

    def _report(self, message: str) -> None:
        if self.raw == "error":
            raise UncoveredStatement(message)
        warnings.warn(message, UncoveredStatementWarning, stacklevel=6)

    def _touched(self, changed: Changed, statement: str, covered: str | None) -> Iterator[Kept]:
        """The declared classes whose rows this changes, also those that a deleted or moved row takes with it; without
        those of the table whose changed rows `execute` knows."""
        metadata = {table.metadata for kept in self.kept for table in kept.mapper.tables if isinstance(table, Table)}
        taken = {table for every in metadata for table in fallen(every, changed, statement)}
        for kept in self.kept:
            if kept.tables & taken or (changed.touches(kept.tables) and covered not in kept.tables):
                yield kept

    @contextmanager
    def changing(self, session: Session, cls: type, *idents: Any) -> Iterator[None]:
        """Guard the rows of these primary keys: what statements of this session do in the block to the class's tables
        is taken to change these rows and no others.  (For an AsyncSession: within its run_sync.)"""
        work = self.work_of(session)
        kepts = [self.kept_of(cls), *self.of_mapper(inspect(cls))[1:]]

        def stored(kept: Kept) -> list[dict[str, Any]]:
            identities = [kept.identity(ident) for ident in idents]
            return kept.stored(session.connection({"mapper": kept.mapper}), identities) if identities else []

        for kept in kepts:
            session.connection({"mapper": kept.mapper})
            change_rows(work, kept, [kept.ident_values(ident) for ident in idents])
            if kept.beyond:
                change_rows(work, kept, stored(kept))
        work.covering.append(kepts)
        try:
            yield
        finally:
            work.covering.remove(kepts)
        for kept in kepts:
            if kept.moving:
                change_rows(work, kept, stored(kept))

    def execute(self, session: Session, statement: Any, parameters: Any = None) -> Changes:
        """Run an insert(), update() or delete() of a declared class's table and guard exactly the rows it changes."""
        return Changes.run(self, session, statement, parameters)

    # ---- reading

    def get_or_load(self, cls: type, ident: Any, **read: Any) -> Any:
        """The cached value of this row (None: there is no such row), loaded by Session.get with a session of its own.

        `read`: level, bound, token, deadline as in freshet.Cache.get_or_load.  The session is new because an older
        one's snapshot, identity map or uncommitted changes must not get into the cache.
        """
        return self.reading.value(self.kept_of(cls), ident, read)

    def get(self, session: Session, cls: type, ident: Any, **read: Any) -> Any:
        """As Session.get, from the cache where it can be: an object of this session, or None.

        What the session has already, or changes itself, comes from the session.  To change a row read it with
        Session.get: this may be as old as the bound (with a version_id_col, the flush then finds out).
        """
        return self.reading.instance(session, self.kept_of(cls), ident, read)
