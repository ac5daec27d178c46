"""freshet.sqlalchemy with AsyncSession: the event loop is not blocked, a cancelled task leaves no guard behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")
pytest.importorskip("asyncpg")
pytest.importorskip("redis")

from sqlalchemy import event, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy_world import World, servers, world
from stories.servers import Servers, wait_until

from freshet.sqlalchemy import Coherence
from freshet.sqlalchemy.sharing import Tasks, Threads

__all__ = ["servers", "world"]  # fixtures


class Sessions:
    """What a test has: watched sessions, the world, and a Coherence of its classes that awaits."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engine = create_async_engine(world.servers.primary.url("asyncpg"))
        self.make = async_sessionmaker(self.engine, expire_on_commit=False)
        self.coherence = Coherence(world.here, primary=async_sessionmaker(self.engine))
        self.coherence.keeps("user:{id}")(world.User)
        self.coherence.watch(self.make)

    async def kept(self, key: str) -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, self.world.kept, key)

    def reads(self) -> list[str]:
        seen: list[str] = []
        event.listen(
            self.engine.sync_engine, "before_cursor_execute",
            lambda c, k, statement, *rest: seen.append(statement) if statement.startswith("SELECT person") else None,
        )  # fmt: skip
        return seen


def asynchronous(test: Callable[[Sessions], Awaitable[None]]) -> Callable[[World], None]:
    """A test that is a coroutine, on a loop of its own."""

    @wraps(test)
    def run(world: World) -> None:
        async def whole() -> None:
            sessions = Sessions(world)
            try:
                await test(sessions)
            finally:
                await sessions.engine.dispose()

        asyncio.run(whole())

    del run.__wrapped__
    return run


async def until(what: str, ready: Callable[[], Awaitable[bool]], deadline: float = 10.0) -> None:
    end = time.monotonic() + deadline
    while not await ready():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


@asynccontextmanager
async def redis_stopped(servers: Servers) -> AsyncIterator[None]:
    process = servers.redis.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@asynchronous
async def test_a_commit_is_guarded(sessions: Sessions) -> None:
    async with sessions.make() as session:
        (await session.get_one(sessions.world.User, 1)).age = 50
        await session.flush()
        assert not await sessions.kept("user:1")
        await session.commit()
        assert await sessions.kept("user:1")


@asynchronous
async def test_an_exception_rolls_back_and_ends_the_guard(sessions: Sessions) -> None:
    async def fail() -> None:
        async with sessions.make.begin() as session:
            (await session.get_one(sessions.world.User, 1)).age = 50
            await session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await sessions.kept("user:1")


@asynchronous
async def test_the_event_loop_goes_on_while_redis_is_asked(sessions: Sessions) -> None:
    async with sessions.make() as session:
        (await session.get_one(sessions.world.User, 1)).age = 50
        async with redis_stopped(sessions.world.servers):
            commit = asyncio.create_task(session.commit())
            gaps: list[float] = []
            last = time.monotonic()
            while len(gaps) < 40:
                await asyncio.sleep(0.005)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            assert not commit.done()
        await commit
        assert max(gaps) < 0.15
        assert await sessions.kept("user:1")


@asynchronous
async def test_a_task_that_is_cancelled_while_a_guard_ends_leaves_none(sessions: Sessions) -> None:
    session = sessions.make()
    (await session.get_one(sessions.world.User, 1)).age = 50
    await session.flush()
    async with redis_stopped(sessions.world.servers):
        commit = asyncio.create_task(session.commit())
        done = await asyncio.wait([commit], timeout=0.2)
        assert commit in done[1]
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    await session.close()
    await until("the guard's end", lambda: sessions.kept("user:1"))


@asynchronous
async def test_a_task_that_is_cancelled_while_a_guard_begins_leaves_none(sessions: Sessions) -> None:
    session = sessions.make()
    (await session.get_one(sessions.world.User, 1)).age = 50
    async with redis_stopped(sessions.world.servers):
        flush = asyncio.create_task(session.flush())
        await asyncio.sleep(0.1)
        assert not flush.done()
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
    await session.close()
    await until("the guard's end", lambda: sessions.kept("user:1"))


@asynchronous
async def test_a_session_thrown_away_lets_its_guards_go(sessions: Sessions) -> None:
    session = sessions.make()
    (await session.get_one(sessions.world.User, 1)).age = 50
    await session.flush()
    assert not await sessions.kept("user:1")
    async with redis_stopped(sessions.world.servers):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.monotonic()
            del session
            gc.collect()
            assert time.monotonic() - began < 0.5  # the collector does not wait for Redis
    gc.collect()
    await until("the guard's end", lambda: sessions.kept("user:1"))


def test_a_session_that_outlives_its_event_loop_lets_its_guards_go(world: World) -> None:
    left: list[Any] = []

    async def flush() -> None:
        sessions = Sessions(world)
        left.append(sessions.make())
        (await left[0].get_one(world.User, 1)).age = 50
        await left[0].flush()

    asyncio.run(flush())
    assert not world.kept("user:1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left.clear()
        gc.collect()
        gc.collect()
    wait_until("the guard's end", lambda: world.kept("user:1"), 5)


@asynchronous
async def test_the_awaitable_helpers(sessions: Sessions) -> None:
    world, coherence = sessions.world, sessions.coherence
    assert (await coherence.aio.get_or_load(world.User, 1))["age"] == 1
    async with sessions.make() as session:
        user = await coherence.aio.get(session, world.User, 1)
        assert user.age == 1
        assert user in session
        changes = await coherence.aio.execute(session, update(world.User).where(world.User.id == 2).values(age=60))
        assert changes.exact
        assert not await sessions.kept("user:2")
        async with coherence.aio.changing(session, world.User, 3):
            await session.execute(text("UPDATE person SET age = 70 WHERE id = 3"))
        assert not await sessions.kept("user:3")
        assert world.there.get("user:1", level="latest") is not None
        await session.commit()
    assert (await coherence.aio.get_or_load(world.User, 2))["age"] == 60
    assert (await coherence.aio.get_or_load(world.User, 3))["age"] == 70
    assert await coherence.aio.get_or_load(world.User, 99) is None


@asynchronous
async def test_an_exception_in_changing_comes_out_as_it_was(sessions: Sessions) -> None:
    """Also where the database would refuse what is asked of it afterwards."""
    world, coherence = sessions.world, Coherence(sessions.world.here)
    coherence.keeps("user:{id}", keys=["user-by-email:{email}"])(world.User)
    coherence.watch(sessions.make)
    with pytest.raises(IntegrityError):
        async with sessions.make() as session, coherence.aio.changing(session, world.User, 1):
            await session.execute(text("UPDATE person SET email = '2@x' WHERE id = 1"))


@asynchronous
async def test_a_commit_that_nobody_waits_for_any_more_stays_guarded(sessions: Sessions) -> None:
    """COMMIT is on its way when the task is cancelled; the database gets to it later."""
    world = sessions.world
    coherence = Coherence(world.here, primary=sessionmaker(world.engine), hold=3.0)
    coherence.keeps("user:{id}", tags=["team:{team_id}"])(world.User)
    make = async_sessionmaker(sessions.engine)
    coherence.watch(make)
    backend = 0
    try:
        async with make() as session:
            backend = await session.scalar(text("SELECT pg_backend_pid()")) or 0
            (await session.get_one(world.User, 1)).age = 50
            await session.flush()
            os.kill(backend, signal.SIGSTOP)
            commit = asyncio.create_task(session.commit())
            await asyncio.sleep(0.3)
            commit.cancel()
            with pytest.raises(asyncio.CancelledError):
                await commit
        assert (await asyncio.to_thread(coherence.get_or_load, world.User, 1))["age"] == 1
        world.fill("list:7", tags=["team:7"])
    finally:
        if backend:
            os.kill(backend, signal.SIGCONT)

    async def changed() -> bool:
        return world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "50"

    await until("the commit", changed)
    assert (await asyncio.to_thread(coherence.get_or_load, world.User, 1, level="latest"))["age"] == 50
    await until("the guard's end", lambda: sessions.kept("user:1"), 10)
    assert world.gone("list:7")


@asynchronous
async def test_a_raw_statement_voids_the_table(sessions: Sessions) -> None:
    world = sessions.world
    await sessions.coherence.aio.get_or_load(world.User, 1)
    assert world.there.get("user:1", level="latest") is not None
    async with sessions.make() as session:
        await session.execute(text("UPDATE person SET age = 70"))
        assert world.there.get("user:1", level="latest") is None
        await session.commit()
    assert (await sessions.coherence.aio.get_or_load(world.User, 1))["age"] == 70


@asynchronous
async def test_readers_of_a_guarded_row_share_reads(sessions: Sessions) -> None:
    world, reads = sessions.world, sessions.reads()
    async with sessions.make() as session:
        (await session.get_one(world.User, 1)).age = 50
        await session.flush()
        reads.clear()
        values = await asyncio.gather(*(sessions.coherence.aio.get_or_load(world.User, 1) for _ in range(50)))
        assert {value["age"] for value in values} == {1}
        assert 1 <= len(reads) <= 5  # they arrive in a few turns of the loop; alone they would be 50
        await session.rollback()


def test_tasks_share_only_reads_that_began_after_they_asked() -> None:
    async def whole() -> None:
        tasks, began = Tasks(), list[int]()
        go = asyncio.Event()

        async def read() -> int:
            began.append(len(began))
            mine = began[-1]
            await go.wait()
            return mine

        first = asyncio.create_task(tasks.read("k", read))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert began == [0]
        others = [asyncio.create_task(tasks.read("k", read)) for _ in range(5)]
        await asyncio.sleep(0.01)
        others[0].cancel()
        assert began == [0]
        go.set()
        assert await first == 0
        assert await asyncio.gather(*others[1:]) == [1] * 4
        assert await tasks.read("k", read) == 2

    asyncio.run(whole())


def test_threads_share_only_reads_that_began_after_they_asked() -> None:
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    threads, go, began = Threads(), Event(), list[int]()

    def read() -> int:
        began.append(len(began))
        mine = began[-1]
        assert go.wait(10)
        return mine

    def fail() -> Any:
        raise ZeroDivisionError

    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(threads.read, "k", read)
        while began != [0]:
            time.sleep(0.001)
        others = [pool.submit(threads.read, "k", read) for _ in range(4)]
        while "k" not in threads._next:
            time.sleep(0.001)
        go.set()
        assert first.result() == 0
        assert all(other.result() >= 1 for other in others)
    with pytest.raises(ZeroDivisionError):
        threads.read("k", fail)
    assert threads.read("k", lambda: 5) == 5


def test_watching_sessions_of_every_kind(world: World) -> None:
    coherence = Coherence(world.here)
    coherence.keeps("other:{id}")(world.User)
    engine = create_async_engine(world.servers.primary.url("asyncpg"))

    class Own(AsyncSession):
        pass

    for target in (async_sessionmaker(engine), AsyncSession(engine), Own):
        coherence.watch(target)
    plain = AsyncSession(engine)
    assert plain.sync_session_class is not Own.sync_session_class
