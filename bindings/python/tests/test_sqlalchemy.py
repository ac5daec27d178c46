"""freshet.sqlalchemy with plain sessions, against a real PostgreSQL and a real Redis; see sqlalchemy_world.py."""

from __future__ import annotations

import gc
import itertools
import threading
import warnings
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")
pytest.importorskip("redis")

from sqlalchemy import delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import sessionmaker
from sqlalchemy_world import World, servers, world
from stories.servers import Servers, wait_until

import freshet
from freshet.sqlalchemy import Coherence, NotGuarded, UncoveredStatement, UncoveredStatementWarning

__all__ = ["servers", "world"]  # fixtures


def versioned(version: int) -> Callable[[Any], str]:
    """A loader that finds the row at this version."""

    def load(request: Any) -> str:
        request.source_version = version
        return "loaded"

    return load


def test_a_flush_guards_before_its_first_statement(world: World) -> None:
    seen: list[bool] = []

    def look(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("UPDATE person"):
            seen.append(world.kept("user:1"))

    event.listen(world.engine, "before_cursor_execute", look)
    with world.sessions.begin() as session:
        session.get_one(world.User, 1).age = 50
    assert seen == [False]
    assert world.kept("user:1")


def test_nothing_is_kept_between_flush_and_commit_and_all_is_after_it(world: World) -> None:
    with world.sessions() as session:
        session.get_one(world.User, 1).age = 50
        assert world.kept("user:1")
        session.flush()
        assert not world.kept("user:1")
        session.commit()
        assert world.kept("user:1")


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_the_guard_ends_with_the_transaction_however_it_ends(world: World, end: str) -> None:
    session = world.sessions()
    session.get_one(world.User, 1).age = 50
    session.flush()
    assert not world.kept("user:1")
    getattr(session, end)()
    assert world.kept("user:1")
    session.close()


def test_a_session_thrown_away_lets_its_guards_go(world: World) -> None:
    session = world.sessions()
    session.get_one(world.User, 1).age = 50
    session.flush()
    assert not world.kept("user:1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del session
        gc.collect()
        gc.collect()  # the database's connection goes back a round later
    wait_until("the guard's end", lambda: world.kept("user:1"), 5)


def test_a_savepoint_that_is_rolled_back_keeps_its_guard_to_the_outer_end(world: World) -> None:
    with world.sessions() as session:
        user = session.get_one(world.User, 1)
        with session.begin_nested():
            session.get_one(world.User, 2).age = 60
        nested = session.begin_nested()
        user.age = 50
        session.flush()
        nested.rollback()
        assert not world.kept("user:1")
        assert not world.kept("user:2")
        session.commit()
    assert world.kept("user:1")
    assert world.kept("user:2")


def test_all_keys_of_a_row_old_and_new_are_guarded(world: World) -> None:
    keys = ["user-by-email:1@x", "user-by-email:new@x", "team-summary:7", "team-summary:8", "user:1"]
    with world.sessions() as session:
        user = session.get_one(world.User, 1)
        user.email, user.team_id = "new@x", 8
        session.flush()
        assert not any([world.kept(key) for key in keys])
        session.commit()
    assert all(world.kept(key) for key in keys)


def test_the_old_key_is_the_rows_not_the_sessions(world: World) -> None:
    """Another transaction has moved the row since this session read it."""
    with world.sessions() as session:
        user = session.get_one(world.User, 1)
        world.servers.primary.sql("UPDATE person SET email = 'between@x' WHERE id = 1")
        user.email = "new@x"
        session.flush()
        assert not world.kept("user-by-email:between@x")


def test_expired_attributes_are_looked_up(world: World) -> None:
    with world.sessions() as session:
        user = session.get_one(world.User, 1)
        session.expire(user)
        user.email = "new@x"
        session.flush()
        assert not world.kept("user-by-email:1@x")
        assert not world.kept("team-summary:7")


def test_tags_of_the_old_row_and_the_new_are_voided_by_the_commit(world: World) -> None:
    world.fill("list:7", tags=["team:7"])
    world.fill("list:8", tags=["team:8"])
    with world.sessions() as session:
        session.get_one(world.User, 1).team_id = 8
        session.commit()
    assert world.gone("list:7")
    assert world.gone("list:8")


def test_a_rollback_leaves_tags_alone(world: World) -> None:
    world.fill("list:7", tags=["team:7"])
    with world.sessions() as session:
        session.get_one(world.User, 1).team_id = 8
        session.flush()
        session.rollback()
    assert world.there.get("list:7") == "old"


def test_an_inserted_row_voids_its_known_absence(world: World) -> None:
    world.there.set_absent("user:4")
    world.there.set_absent("user-by-email:4@x")
    with world.sessions() as session:
        user = world.User(email="4@x")
        session.add(user)
        session.flush()  # PostgreSQL draws the id
        key = f"user:{user.id}"
        assert not world.kept(key)
        assert not world.kept("user-by-email:4@x")
        session.commit()
    assert world.kept(key)


def test_a_deleted_row_is_guarded_and_so_are_those_it_cascades_to(world: World) -> None:
    with world.sessions() as session:
        session.delete(session.get_one(world.Team, 7))
        session.flush()
        assert not any([world.kept(f"user:{n}") for n in (1, 2, 3)])
        session.commit()
    assert world.kept("user:1")


def test_an_orphan_that_only_the_flush_finds_is_guarded(world: World) -> None:
    with world.sessions() as session:
        team = session.get_one(world.Team, 7)
        team.members.pop()
        session.flush()
        assert [world.kept(f"user:{n}") for n in (1, 2, 3)].count(False) >= 1
        session.commit()


def test_a_changed_primary_key_guards_both(world: World) -> None:
    with world.sessions() as session:
        session.get_one(world.Note, 1).id = 11
        session.flush()
        assert not world.kept("note:1")
        assert not world.kept("note:11")
        session.commit()


def test_rows_that_the_database_deletes_by_itself_void_their_table(world: World) -> None:
    with world.sessions.begin() as session:
        session.add(world.Note(id=2, text="two", author_id=3))
    world.coherence.get_or_load(world.Note, 2)
    assert world.there.get("note:2", level="latest") is not None
    with world.sessions.begin() as session:
        session.delete(session.get_one(world.User, 3))
    assert world.gone("note:2")


def test_a_version_column_is_the_source_version(world: World) -> None:
    with world.sessions.begin() as session:
        for n in (1, 2):
            session.get_one(world.User, n).age = 50
    with world.sessions.begin() as session:
        session.get_one(world.User, 1).age = 60

    assert world.there.load("user:1", versioned(2)).outdated
    assert not world.there.load("user:2", versioned(2)).outdated
    assert not world.there.load("team-summary:7", versioned(2)).outdated


def test_a_version_that_was_rolled_back_is_no_version(world: World) -> None:
    with world.sessions() as session:
        session.get_one(world.User, 1).age = 50
        session.flush()
        session.rollback()

    assert not world.there.load("user:1", versioned(1)).outdated


def test_a_version_of_a_savepoint_that_was_rolled_back_is_no_version(world: World) -> None:
    with world.sessions() as session:
        user = session.get_one(world.User, 1)
        nested = session.begin_nested()
        user.age = 50
        session.flush()
        nested.rollback()
        session.get_one(world.User, 2).age = 50
        session.commit()
    assert not world.there.load("user:1", versioned(1)).outdated


def test_keys_that_may_come_to_hold_another_row_have_no_version(world: World) -> None:
    with world.sessions.begin() as session:
        for age in (50, 60):
            session.get_one(world.User, 1).age = age
            session.flush()
        session.get_one(world.User, 1).email = "moved@x"
        session.flush()
        session.get_one(world.User, 2).email = "1@x"
    assert not world.there.load("user-by-email:1@x", versioned(2)).outdated


def test_a_deleted_row_has_no_version(world: World) -> None:
    with world.sessions.begin() as session:
        user = session.get_one(world.User, 1)
        user.age = 50
        session.flush()
        session.delete(user)
    assert not world.there.load("user:1", versioned(1)).outdated


def test_a_commit_whose_outcome_is_unknown_keeps_the_guard_for_its_hold(servers: Servers, tmp_path: Path) -> None:
    world = World(servers, tmp_path, hold=2.0)
    try:
        session = world.sessions()
        session.get_one(world.User, 1).age = 50
        session.flush()
        backend = session.scalar(text("SELECT pg_backend_pid()"))
        world.servers.primary.sql(f"SELECT pg_terminate_backend({backend})")
        with pytest.raises(DBAPIError):
            session.commit()
        session.rollback()
        assert not world.there.load("user:1", versioned(1)).outdated  # perhaps it was not committed
        assert not world.kept("user:1")  # perhaps it will be
        wait_until("the guard's end", lambda: world.kept("user:1"), 10)
        session.close()
    finally:
        world.close()


def test_a_commit_that_the_database_refuses_ends_the_guard(world: World) -> None:
    """It has said so, on a connection that goes on."""
    world.servers.primary.sql("ALTER TABLE person ADD UNIQUE (age) DEFERRABLE INITIALLY DEFERRED")
    with world.sessions() as session:
        session.get_one(world.User, 1).age = 2
        session.flush()
        with pytest.raises(IntegrityError):
            session.commit()
    assert world.kept("user:1")


def test_a_flush_that_fails_in_the_database_ends_the_guard(world: World) -> None:
    with world.sessions() as session:
        session.get_one(world.User, 1).email = "2@x"
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
        assert world.kept("user:1")
        assert world.kept("user-by-email:2@x")


def test_two_phase_commit(world: World) -> None:
    sessions = sessionmaker(world.engine, twophase=True)
    world.coherence.watch(sessions)
    with sessions() as session:
        session.get_one(world.User, 1).age = 50
        session.prepare()
        assert not world.kept("user:1")
        session.commit()
    assert world.kept("user:1")
    assert world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "50"


def test_two_sessions_that_guard_the_same_keys_do_not_wait_for_one_another(world: World) -> None:
    first, second = world.sessions(), world.sessions()
    first.get_one(world.Note, 1)
    first.add(world.Note(id=5, text="five"))
    first.flush()
    second.add(world.Note(id=6, text="six"))
    second.flush()
    first.coherent = second  # type: ignore[attr-defined]  # both keep the table's keys guarded
    first.commit()
    assert not world.kept("note:6")
    second.commit()
    assert world.kept("note:6")
    first.close()
    second.close()


def test_several_caches_in_one_session(world: World) -> None:
    other = world.cache("elsewhere")
    coherence = Coherence(other)
    coherence.keeps("member:{id}")(world.User)
    coherence.watch(world.sessions)
    with world.sessions() as session:
        session.get_one(world.User, 1).age = 50
        session.flush()
        assert not world.kept("user:1")
        assert not world.kept("member:1")
        session.commit()
    assert world.kept("member:1")


def test_more_rows_than_one_guard_takes(world: World) -> None:
    with world.sessions() as session:
        session.add_all(world.Note(id=n, text="") for n in range(100, 1300))
        session.flush()
        assert not world.kept("note:100")
        assert not world.kept("note:1299")
        session.commit()
    assert world.kept("note:100")
    assert world.kept("note:1299")


def test_a_guard_that_would_not_outlast_the_commit_stops_it(servers: Servers, tmp_path: Path) -> None:
    world = World(servers, tmp_path, hold=1.0, commit_needs=0.9995)
    try:
        with world.sessions() as session:
            session.get_one(world.User, 1).age = 50
            with pytest.raises(NotGuarded, match="nothing was committed"):
                session.commit()
            session.rollback()
        assert world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "1"
        assert world.kept("user:1")
    finally:
        world.close()


def test_a_guard_that_was_lost_stops_the_commit(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with world.sessions() as session:
        session.get_one(world.User, 1).age = 50
        session.flush()
        world.redis("FLUSHALL")
        world.there.invalidate("anything")  # somebody meets the new history, and tells the others of it
        work = world.coherence.running(session)
        assert work is not None
        wait_until("the guard to be known as lost", lambda: work.held[0].left == 0, 10)
        with pytest.raises(NotGuarded, match="was lost"):
            session.commit()
        session.rollback()
    assert world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "1"
    assert "was lost before its end" in caplog.text


def test_a_guard_lost_after_the_last_look_is_told_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    event.listen(world.sessions, "after_commit", lambda session: world.redis("FLUSHALL"))
    with world.sessions.begin() as session:
        session.get_one(world.User, 1).age = 50
    assert "was lost before its end" in caplog.text
    wait_until("a load is kept again, in the new epoch", lambda: world.kept("user:1"))


def test_a_commit_goes_on_when_redis_dies_after_the_flush(servers: Servers, tmp_path: Path) -> None:
    world = World(servers, tmp_path)
    try:
        with world.sessions() as session:
            session.get_one(world.User, 1).age = 50
            session.flush()
            servers.redis.kill()
            session.commit()
        assert servers.primary.sql("SELECT age FROM person WHERE id = 1") == "50"
        assert world.here.get("user:1") is None
    finally:
        servers.redis.start()
        world.close()


def test_with_wait_hosts_nobody_serves_the_old_row_when_it_is_written(servers: Servers, tmp_path: Path) -> None:
    world = World(servers, tmp_path, wait="hosts")
    try:
        world.fill("user:1")
        with world.sessions() as session:
            session.get_one(world.User, 1).age = 50
            session.flush()
            assert world.there.get("user:1", tier_only=True) is None
            session.commit()
    finally:
        world.close()


def test_a_session_within_its_connections_transaction_is_told_of(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.engine.connect() as connection, connection.begin() as outer:
        with world.sessions(bind=connection) as session:
            session.get_one(world.User, 1).age = 50
            session.commit()
        assert "within a transaction of its connection" in caplog.text
        outer.rollback()


# ---- statements


STATEMENTS = {
    "text": text("UPDATE person SET age = 50 WHERE id = 1"),
    "text of a cte": text("WITH c AS (UPDATE person SET age = 50 WHERE id = 1 RETURNING id) SELECT * FROM c"),
    "truncate": text("TRUNCATE team CASCADE;"),
}


@pytest.mark.parametrize("which", [*STATEMENTS, "core", "orm", "driver", "bulk"])
def test_a_statement_past_the_flush_voids_the_table(world: World, which: str) -> None:
    world.coherence.get_or_load(world.User, 1)
    world.servers.caught_up()
    assert world.there.get("user:1", level="latest") is not None
    with world.sessions() as session:
        if which == "core":
            session.execute(update(world.User.__table__).values(age=50))  # type: ignore[arg-type, unused-ignore]
        elif which == "orm":
            session.execute(update(world.User).values(age=50))
        elif which == "driver":
            session.connection().exec_driver_sql("DELETE FROM note")
            session.connection().exec_driver_sql("UPDATE person SET age = 50")
        elif which == "bulk":
            session.bulk_update_mappings(world.User, [{"id": 1, "age": 50, "version": 1}])
        else:
            session.execute(STATEMENTS[which])
        assert world.gone("user:1")
        if which != "truncate":  # which lets nobody read meanwhile
            assert world.coherence.get_or_load(world.User, 1)["age"] == 1
            wait_until("the answer to be gone", lambda: world.gone("user:1"), 0.5, every=0.001)
        session.commit()
    after = world.coherence.get_or_load(world.User, 1)
    assert after is None if which == "truncate" else after["age"] == 50


def test_a_select_is_no_change(world: World) -> None:
    world.coherence.get_or_load(world.User, 1)
    with world.sessions() as session:
        session.execute(text("SELECT * FROM person WHERE id = 1 FOR UPDATE"))
        session.execute(select(world.User).with_for_update())
        session.execute(text("UPDATE team SET name = 'x'"))
        session.commit()
    assert world.there.get("user:1", level="latest") is not None


def test_a_flush_does_not_void_the_table(world: World) -> None:
    world.coherence.get_or_load(world.User, 2)
    with world.sessions.begin() as session:
        session.get_one(world.User, 1).age = 50
        session.add(world.User(email="4@x"))
        session.delete(session.get_one(world.User, 3))
    assert world.there.get("user:2", level="latest") is not None


@pytest.mark.parametrize("raw", ["warn", "error"])
def test_a_statement_past_the_flush_is_reported(servers: Servers, tmp_path: Path, raw: str) -> None:
    world = World(servers, tmp_path, raw=raw)
    try:
        with world.sessions() as session:
            if raw == "warn":
                with pytest.warns(UncoveredStatementWarning, match="past the flush"):
                    session.execute(STATEMENTS["text"])
                session.commit()
            else:
                with pytest.raises(UncoveredStatement, match="User's table"):
                    session.execute(STATEMENTS["text"])
                session.rollback()
        age = world.servers.primary.sql("SELECT age FROM person WHERE id = 1")
        assert age == ("50" if raw == "warn" else "1")
    finally:
        world.close()


def test_what_nobody_can_look_into_is_reported(world: World) -> None:
    with world.sessions() as session, pytest.warns(UncoveredStatementWarning, match="nobody can tell"):
        session.execute(text("DO $$ BEGIN NULL; END $$"))


def test_a_statement_outside_of_a_watched_session_is_reported(world: World) -> None:
    with world.sessions() as session:
        session.get_one(world.User, 1)
    with world.engine.begin() as connection, pytest.warns(UncoveredStatementWarning, match="outside"):
        connection.execute(STATEMENTS["text"])


# ---- the explicit helper


def test_execute_guards_exactly_the_changed_rows(world: World) -> None:
    world.fill("user:3")
    with world.sessions() as session:
        changes = world.coherence.execute(session, update(world.User).where(world.User.age < 3).values(age=50))
        assert changes.exact
        assert sorted(row["id"] for row in changes.rows) == [1, 2]
        assert not world.kept("user:1")
        assert not world.kept("user:2")
        assert world.there.get("user:3", level="latest") == "old"
        session.commit()
    assert world.kept("user:1")


def test_execute_guards_the_keys_that_rows_leave(world: World) -> None:
    with world.sessions() as session:
        world.coherence.execute(session, update(world.User).where(world.User.id == 1).values(email="new@x"))
        assert not world.kept("user-by-email:1@x")
        assert not world.kept("user-by-email:new@x")
        session.commit()


def test_execute_deletes_and_inserts(world: World) -> None:
    with world.sessions() as session:
        world.coherence.execute(session, delete(world.User).where(world.User.id == 2))
        rows = [{"email": f"{n}@x", "version": 1, "age": 0} for n in (5, 6)]
        changes = world.coherence.execute(session, insert(world.User), rows)
        assert changes.exact
        assert changes.count == 2
        assert not world.kept("user:2")
        assert not world.kept("user-by-email:6@x")
        session.commit()
    assert world.kept("user:2")


def test_changing_names_the_rows_of_statements(world: World) -> None:
    world.fill("user:3", tags=["table:person"])
    with world.sessions() as session:
        with world.coherence.changing(session, world.User, 1):
            session.execute(STATEMENTS["text"])
            assert not world.kept("user:1")
        session.commit()
    assert world.there.get("user:3", level="latest") == "old"
    assert world.kept("user:1")


# ---- Redis away


def test_without_redis_a_flush_is_refused_before_the_database_is_touched(servers: Servers, tmp_path: Path) -> None:
    world = World(servers, tmp_path)
    try:
        with world.sessions() as session:
            user = session.get_one(world.User, 1)
            session.commit()
            session.refresh(user)
            user.age = 50
            statements = world.statements()
            servers.redis.kill()
            with pytest.raises((freshet.NetworkError, freshet.DeadlinePassed)):
                session.commit()
            assert not [statement for statement in statements if statement.startswith("UPDATE")]
            session.rollback()
        assert servers.primary.sql("SELECT age FROM person WHERE id = 1") == "1"
    finally:
        if not servers.redis.alive():
            servers.redis.start()
        world.close()


def test_without_redis_the_change_may_go_on_and_is_sent_later(servers: Servers, tmp_path: Path) -> None:
    world = World(servers, tmp_path, when_redis_is_away="invalidate_after")
    try:
        servers.redis.kill()
        with world.sessions() as session:
            session.get_one(world.User, 1).age = 50
            session.commit()
        assert servers.primary.sql("SELECT age FROM person WHERE id = 1") == "50"
        assert world.here.stats().outbox > 0
        servers.redis.start()
        wait_until("the outbox to be sent", lambda: world.here.stats().outbox == 0, 20)
    finally:
        if not servers.redis.alive():
            servers.redis.start()
        world.close()


# ---- reading


def test_get_or_load_reads_the_row_once_and_carries_its_tags_and_version(world: World) -> None:
    value = world.coherence.get_or_load(world.User, 1)
    assert value == {"id": 1, "email": "1@x", "age": 1, "team_id": 7, "version": 1}
    answer = world.there.lookup("user:1")
    assert answer.value == value
    assert answer.source_version == 1
    world.there.invalidate_tags("age:1")
    assert world.there.get("user:1") is None
    assert world.coherence.get_or_load(world.User, 99) is None
    assert world.there.lookup("user:99", level="latest").absent


def test_a_loader_does_not_see_what_its_session_has_not_committed(world: World) -> None:
    with world.sessions() as session:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        session.execute(text("SELECT 1 FROM person"))
        world.servers.primary.sql("UPDATE person SET age = 70 WHERE id = 1")
        world.there.invalidate("user:1")
        assert world.coherence.get_or_load(world.User, 1)["age"] == 70


def test_get_gives_an_object_of_the_session_without_asking_the_database(world: World) -> None:
    world.coherence.get_or_load(world.User, 1)
    statements = world.statements()
    with world.sessions() as session:
        user = world.coherence.get(session, world.User, 1)
        assert (user.age, user.email) == (1, "1@x")
        assert user in session
        assert statements == []
        assert world.coherence.get(session, world.User, 1) is user
        user.age = 50
        session.commit()
        assert user.version == 2
    assert world.coherence.get_or_load(world.User, 1)["age"] == 50


def test_get_sees_what_its_own_session_changes(world: World) -> None:
    world.coherence.get_or_load(world.Note, 1)
    with world.sessions() as session:
        session.execute(text("UPDATE note SET text = 'mine'"))
        assert world.coherence.get(session, world.Note, 1).text == "mine"


def test_the_replica_is_read_unless_something_has_changed_lately(world: World) -> None:
    """A replica that never gets anything: what it gives is old from the first change on."""
    assert world.servers.replica is not None
    world.servers.replica.sql("SELECT pg_wal_replay_pause()")
    try:
        with world.sessions.begin() as session:
            session.get_one(world.User, 1).age = 50
        assert world.coherence.get_or_load(world.User, 1)["age"] == 50
        idents = itertools.count(1000)
        wait_until("the replica to be read", lambda: replica_is_read(world, next(idents)), 30, every=0.5)
        with world.sessions.begin() as session:
            session.execute(text("UPDATE person SET age = 70"))
        for n in (1, 2, 3):
            assert world.coherence.get_or_load(world.User, n)["age"] == 70
    finally:
        world.servers.replica.sql("SELECT pg_wal_replay_resume()")


def replica_is_read(world: World, ident: int) -> bool:
    asked: list[int] = []

    def look(connection: Any, *rest: Any) -> None:
        asked.append(ident)

    event.listen(world.replica_engine, "before_cursor_execute", look)
    assert world.coherence.get_or_load(world.User, ident) is None
    event.remove(world.replica_engine, "before_cursor_execute", look)
    return bool(asked)


def test_threads_do_not_share_a_transactions_guards(world: World) -> None:
    first = world.sessions()
    first.get_one(world.User, 1).age = 50
    first.flush()

    def other() -> None:
        with world.sessions.begin() as session:
            session.get_one(world.User, 2).age = 60

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert not world.kept("user:1")
    assert world.kept("user:2")
    first.close()
