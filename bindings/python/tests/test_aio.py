"""asyncio, on its own loop and on uvloop: what suspends, what does not, what cancelling does, how a loop ends."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import PATIENCE, Opener, Server

import freshet
from freshet import aio

try:
    import uvloop
except ImportError:  # it is no requirement
    uvloop = None  # type: ignore[assignment]

TICKET = 5.0
"""seconds: after so long another may load even if nobody has said that the first does not"""

Hosts = tuple[freshet.Cache, freshet.Cache]
Run = Callable[[Callable[[], Awaitable[Any]]], Any]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    if uvloop is None:
        pytest.skip("uvloop is not installed")
    return uvloop.new_event_loop()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    """Run a coroutine function on a loop of its own."""

    def run_it(main: Callable[[], Awaitable[Any]]) -> Any:
        loop = new_loop(request.param)
        try:
            return loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
        finally:
            loop.close()

    return run_it


def test_a_hit_suspends_nothing(cache: freshet.Cache) -> None:
    """It does not even need a loop."""
    cache.set("k", b"v")
    for call in (
        cache.aio.get("k"), cache.aio.lookup("k"), cache.aio.get_or_load("k", bytes), cache.aio.load("k", bytes),
        cache.aio.get_many(["k"]),
    ):  # fmt: skip
        with pytest.raises(StopIteration) as done:
            call.send(None)
        value = done.value.value
        assert b"v" in (value, getattr(value, "value", None), value.get("k") if isinstance(value, dict) else None)
    assert cache.aio is cache.aio


def test_every_call_has_its_answer(hosts: Hosts, run: Run) -> None:
    a, b = hosts

    async def main() -> None:
        assert await a.aio.get("k") is None and await a.aio.get("k", 7) == 7
        change = await a.aio.set("k", b"1", ttl=60, tags=["t"], namespace="n")
        assert change.result == "OK" and change.token
        assert await b.aio.get("k", token=change.token) == b"1"
        assert (await b.aio.lookup("k", level="latest")).source in ("redis", "tier")  # the same is not moved again
        voids: list[Callable[[], Awaitable[freshet.Change]]] = [
            lambda: a.aio.invalidate("k", "l"),
            lambda: a.aio.invalidate_tags("t"),
            lambda: a.aio.clear_namespace("n"),
            a.aio.clear,
        ]
        for void in voids:
            await a.aio.set("k", b"1", tags=["t"], namespace="n")
            token = (await void()).token
            assert not (await b.aio.lookup("k", token=token)).found
        assert (await a.aio.set_absent("k")).confirmed and (await b.aio.lookup("k", level="latest")).absent
        changes = await a.aio.set_many({f"m{i}": b"%d" % i for i in range(200)})
        assert len(changes) == 200 and all(change.confirmed for change in changes.values())
        found = await b.aio.get_many([f"m{i}" for i in range(300)])
        assert found == {f"m{i}": b"%d" % i for i in range(200)}

    run(main)


def test_a_coroutine_loads_once_for_all(hosts: Hosts, run: Run) -> None:
    a, b = hosts
    calls: list[int] = []

    async def loader(request: freshet.LoadRequest) -> bytes:
        calls.append(1)
        request.source_version = 4
        await asyncio.sleep(0.05)
        return b"v"

    async def main() -> None:
        both = [(a, b)[i % 2].aio.load("k", loader, deadline=10) for i in range(100)]
        answers = await asyncio.gather(*both)
        assert {answer.value for answer in answers} == {b"v"} and {answer.source_version for answer in answers} == {4}

    run(main)
    assert len(calls) == 1


def test_plain_loaders_and_absences(cache: freshet.Cache, run: Run) -> None:
    async def main() -> None:
        assert await cache.aio.get_or_load("k", lambda: b"plain") == b"plain"
        assert await cache.aio.get_or_load("gone", lambda: freshet.ABSENT) is None

    run(main)


class Own(Exception):
    pass


def test_a_loaders_exception_comes_out_and_the_next_may_load(hosts: Hosts, run: Run) -> None:
    async def bad() -> bytes:
        await asyncio.sleep(0)
        raise Own("mine")

    async def main() -> None:
        with pytest.raises(Own, match="mine"):
            await hosts[0].aio.get_or_load("k", bad)
        assert await hosts[1].aio.get_or_load("k", lambda: b"good") == b"good"

    run(main)


def test_refusals_are_exceptions(cache: freshet.Cache, run: Run) -> None:
    async def main() -> None:
        with pytest.raises(freshet.InvalidArgument):
            await cache.aio.get("")
        with pytest.raises(TypeError):
            await cache.aio.set("k", "text")
        with pytest.raises(TypeError, match="unexpected keyword"):
            await cache.aio.set("k", b"", level="any")  # type: ignore[call-arg]
        with pytest.raises(freshet.TooBig):
            await cache.aio.set("k", b"x" * (17 << 20))
        cache.close()
        for call in (cache.aio.get("k"), cache.aio.set("k", b""), cache.aio.get_or_load("k", bytes)):
            with pytest.raises(freshet.InvalidArgument, match="closed"):
                await call

    run(main)


def test_a_guard_around_a_change(hosts: Hosts, run: Run) -> None:
    a, b = hosts

    async def main() -> None:
        async with a.aio.guard("k", hold=5) as guard:
            assert 0 < guard.left <= 5
            assert (await b.aio.set("k", b"x")).result == "GUARDED"
        assert guard.change is not None and guard.change.result == "OK" and guard.left == 0
        assert (await b.aio.set("k", b"x")).result == "OK"
        with pytest.raises(freshet.GuardLost):
            async with a.aio.guard("k", hold=0.1, fixed=True) as guard:
                while guard.left > 0:
                    await asyncio.sleep(0.01)

    run(main)


def test_cancelling_the_loading_task_lets_another_load(hosts: Hosts, run: Run) -> None:
    a, b = hosts

    async def main() -> None:
        begun = asyncio.Event()

        async def for_ever() -> bytes:
            begun.set()
            await asyncio.sleep(3600)
            return b""

        first = asyncio.ensure_future(a.aio.get_or_load("k", for_ever))
        await begun.wait()
        second = asyncio.ensure_future(b.aio.get_or_load("k", lambda: b"second", deadline=10))
        third = asyncio.ensure_future(a.aio.get_or_load("k", lambda: b"third", deadline=10))
        await asyncio.sleep(0.02)
        assert not second.done() and not third.done()
        first.cancel()
        both = await asyncio.wait_for(asyncio.gather(second, third), TICKET / 2)
        assert set(both) <= {b"second", b"third"}
        with pytest.raises(asyncio.CancelledError):
            await first

    run(main)


def test_many_tasks_that_wait_are_cancelled_and_the_next_call_is_made(hosts: Hosts, server: Server, run: Run) -> None:
    async def main() -> None:
        server.pause()
        try:
            waiting = [asyncio.ensure_future(hosts[0].aio.set(f"k{i}", b"v", deadline=60)) for i in range(50)]
            await asyncio.sleep(0)  # each of them goes as far as it can
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError)
        finally:
            server.resume()
        assert (await hosts[0].aio.set("k", b"v", deadline=10)).confirmed

    run(main)


def test_a_guard_that_is_cancelled_while_it_begins_is_not_held(hosts: Hosts, run: Run) -> None:
    a, b = hosts

    async def main() -> None:
        task = asyncio.ensure_future(a.aio.guard("k", hold=600, wait="hosts").begin())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while (await b.aio.set("k", b"v")).result == "GUARDED":
            await asyncio.sleep(0.01)

    run(main)


def test_redis_away_is_no_exception_of_reads(hosts: Hosts, server: Server, run: Run) -> None:
    async def main() -> None:
        server.stop()
        try:
            assert await hosts[0].aio.get("nothing", 3, deadline=0.1) == 3
            change = await hosts[0].aio.invalidate("k", deadline=0.1)
            assert change.result == "QUEUED" and not change.confirmed and change.token == ""
            with pytest.raises(freshet.NetworkError):
                async with hosts[0].aio.guard("k", deadline=0.1):
                    raise AssertionError("there is no guard")
        finally:
            server.start()

    run(main)


def test_the_decorator_on_a_coroutine_function(cache: freshet.Cache, run: Run) -> None:
    calls: list[int] = []

    @cache.cached(key="user:{id}", ttl=60, tags=["users"])
    async def user(id: int) -> bytes:
        calls.append(id)
        await asyncio.sleep(0)
        return b"%d" % id

    async def main() -> None:
        assert await user(1) == await user(1) == b"1"
        cache.flush()
        assert await user(1) == b"1" and calls == [1]
        await user.invalidate(1)
        assert not (await user.lookup(1)).found
        await user.set(b"set", 1)
        assert await user(1) == b"set" and await user.uncached(1) == b"1"

    run(main)


def test_one_machinery_a_loop_and_none_when_it_is_gone(cache: freshet.Cache, run: Run) -> None:
    async def main() -> int:
        await cache.aio.invalidate("k")
        await asyncio.gather(*(cache.aio.get_or_load(str(i), lambda: b"v") for i in range(20)))
        mine = [one for loop, one in aio._loops.items() if loop is asyncio.get_running_loop()]
        assert len(mine) == 1
        return mine[0].calls.fileno()

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run(main)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 8, "the descriptors of loops that are gone stay open"


def test_close_loop_ends_it_at_once(cache: freshet.Cache, run: Run) -> None:
    async def main() -> None:
        await cache.aio.invalidate("k")
        aio.close_loop()
        aio.close_loop()
        assert asyncio.get_running_loop() not in aio._loops
        assert (await cache.aio.invalidate("k")).confirmed

    run(main)


def test_loops_in_several_threads(hosts: Hosts) -> None:
    failures: list[BaseException] = []

    def run_loop(number: int) -> None:
        async def main() -> None:
            cache = hosts[number % 2]
            for i in range(30):
                key = f"{number}:{i}"
                change = await cache.aio.set(key, key.encode())
                assert await hosts[(number + 1) % 2].aio.get(key, token=change.token) == key.encode()
                assert await cache.aio.get_or_load("shared", lambda: b"s") == b"s"

        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run_loop, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_decorator_on_what_is_awaited(opener: Opener, run: Run) -> None:
    """On another cache's function, and on an object with a coroutine function for its __call__."""
    outer, inner = opener("outer"), opener("inner")

    @outer.cached(key="user:{id}")
    @inner.cached(key="user:{id}")
    async def user(id: int) -> bytes:
        return b"%d" % id

    class Loader:
        async def __call__(self, id: int) -> bytes:
            return b"%d" % id

    loader = outer.cached(key="loader:{id}")(Loader())

    async def main() -> None:
        assert await user(1) == b"1" and await loader(2) == b"2"
        outer.flush()
        inner.flush()
        assert outer.get("user:1") == inner.get("user:1") == b"1" and outer.get("loader:2") == b"2"

    run(main)


def test_close_loop_fails_what_is_under_way(hosts: Hosts, server: Server, run: Run) -> None:
    """The tasks learn of it; so does a thread that has a loader's request at hand."""
    a, _ = hosts
    told: list[freshet.LoadRequest] = []

    async def loader(request: freshet.LoadRequest) -> bytes:
        told.append(request)
        await asyncio.sleep(0.05)
        return b"v"

    async def main() -> None:
        loads = [asyncio.ensure_future(a.aio.load("k", loader)) for _ in range(2)]
        while not told:
            await asyncio.sleep(0.001)
        server.pause()
        change = asyncio.ensure_future(a.aio.invalidate("other", deadline=0.2))
        await asyncio.sleep(0)
        aio.close_loop()
        server.resume()
        with pytest.raises(RuntimeError, match="over"):
            _ = told[0].prefer_primary
        first, second, third = await asyncio.gather(*loads, change, return_exceptions=True)
        assert isinstance(first, RuntimeError)
        assert isinstance(second, freshet.LoadFailed) and isinstance(third, freshet.LoadFailed)
        assert await a.aio.get_or_load("k", lambda: b"w", deadline=10) == b"w"

    run(main)


def test_a_serializer_that_closes_the_loops_calls(opener: Opener, run: Run) -> None:
    class Closes:
        def dumps(self, value: bytes) -> bytes:
            aio.close_loop()
            return value

        def loads(self, data: bytes) -> bytes:
            return data

    cache = opener(serializer=Closes())

    async def main() -> None:
        for call in (cache.aio.set("k", b"v"), cache.aio.get_or_load("k", lambda: b"v")):
            with pytest.raises(RuntimeError, match="closed"):
                await call

    run(main)


def test_a_guard_whose_end_is_cancelled_ends_by_itself(hosts: Hosts, server: Server, run: Run) -> None:
    a, b = hosts

    async def change(ending: asyncio.Event) -> None:
        async with a.aio.guard("k", hold=600) as guard:
            server.pause()
            ending.set()  # who waits for it goes on when the end has been begun
            await guard.end(deadline=10)

    async def main() -> None:
        ending = asyncio.Event()
        task = asyncio.ensure_future(change(ending))
        await ending.wait()
        task.cancel()
        try:
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            server.resume()
        while (await b.aio.set("k", b"v")).result == "GUARDED":
            await asyncio.sleep(0.01)

    run(main)


def test_a_guard_that_nobody_takes_stops_no_loop(hosts: Hosts, server: Server) -> None:
    """Cancelled in the very turn of the loop that told of it."""
    a, b = hosts

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await a.aio.get("warm", level="latest")
        task = asyncio.ensure_future(a.aio.guard("k", hold=600).begin())
        machinery = aio._loop()
        step, moved = machinery.calls.step, asyncio.Event()

        def watched() -> None:
            calls = step()
            aio._wake(calls)
            if any(call.at == aio._DONE for call in calls):
                server.pause()
                task.cancel()
                moved.set()

        loop.add_reader(machinery._fd, watched)
        await moved.wait()
        loop.add_reader(machinery._fd, machinery.step)
        began = loop.time()
        with pytest.raises(asyncio.CancelledError):
            await task
        took = loop.time() - began
        server.resume()
        while (await b.aio.set("k", b"v")).result == "GUARDED":
            await asyncio.sleep(0.01)
        assert took < 1, f"the loop stood still for {took:.3f} s"

    asyncio.run(main())


def test_forgotten_calls_take_no_memory(hosts: Hosts, server: Server, run: Run) -> None:
    """However many there are in a row while Redis is away: the cache is closed all the same when they are over."""
    a, _ = hosts

    async def main() -> None:
        server.pause()
        before = sys.getrefcount(a)
        for _ in range(200):
            task = asyncio.ensure_future(a.aio.get("k", level="latest", deadline=0.2))
            await asyncio.sleep(0)
            task.cancel()
        machinery = aio._loop()
        under_way, held = machinery.calls.count(), sys.getrefcount(a) - before
        a.close()
        server.resume()
        assert under_way > 100 and held < 10
        while machinery.calls.count():
            await asyncio.sleep(0.01)

    run(main)
    assert a.closed
