"""fork, spawn, many threads: who inherits what, and that nobody waits for a ghost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server

import freshet

Hosts = tuple[freshet.Cache, freshet.Cache]


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a forked child; it must come back true."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 2
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_goes_on_with_what_it_inherited(cache: freshet.Cache) -> None:
    cache.set("k", b"1")

    def work() -> bool:
        assert cache.get("k") == b"1"
        assert cache.set("k", b"2").confirmed
        assert cache.get_or_load("l", lambda: b"3") == b"3"
        with cache.guard("g"):
            assert cache.set("g", b"").result == "GUARDED"
        cache.close()
        return cache.closed

    in_child(work)
    assert cache.get("k") == b"2"


def test_a_child_of_a_fleets_host(hosts: Hosts) -> None:
    a, b = hosts
    a.set("k", b"1")

    def work() -> bool:
        token = a.set("k", b"2", deadline=10).token
        return bool(a.get("k", token=token) == b"2")

    in_child(work)
    assert b.get("k", level="latest") == b"2"


def test_a_fork_while_other_threads_are_in_calls(hosts: Hosts) -> None:
    """The threads' calls are not the child's: it can still close."""
    a, _ = hosts
    where = a.dir
    inside, go = threading.Event(), threading.Event()

    def mapped() -> int:
        """How often the tier is mapped: what the parent had mapped stays in the child, unused."""
        return Path("/proc/self/maps").read_text().count(where)

    def loader() -> bytes:
        inside.set()
        go.wait(20)
        return b"v"

    thread = threading.Thread(target=lambda: a.get_or_load("k", loader))
    thread.start()
    assert inside.wait(20)
    stop = threading.Event()
    reader = threading.Thread(target=lambda: [a.get("other") for _ in iter(stop.is_set, True)])
    reader.start()

    def work() -> bool:
        assert a.set("c", b"1", deadline=10).result == "OK"
        before = mapped()
        a.close()
        with pytest.raises(freshet.InvalidArgument):
            a.get("c")
        return mapped() < before

    try:
        for _ in range(5):
            in_child(work)
    finally:
        stop.set()
        go.set()
        thread.join()
        reader.join()
    assert a.get("c") == b"1"


def test_a_guard_is_not_inherited(cache: freshet.Cache) -> None:
    with cache.guard("k") as guard:

        def work() -> bool:
            assert guard.left == 0
            assert guard.end().result in ("OK", "GUARD_LOST")
            return True

        in_child(work)
        assert guard.left > 0 and cache.set("k", b"").result == "GUARDED"
    assert guard.change is not None and guard.change.result == "OK"


def test_a_fork_from_a_loader(cache: freshet.Cache) -> None:
    def loader() -> bytes:
        in_child(lambda: cache.set("from the child", b"1").confirmed)
        return b"v"

    assert cache.get_or_load("k", loader) == b"v"
    assert cache.get("from the child") == b"1"


def test_a_childs_loop_begins_its_own_calls(hosts: Hosts) -> None:
    a, b = hosts

    async def change(key: str) -> bool:
        return (await a.aio.set(key, b"1", deadline=10)).confirmed

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(change("parent"))

    def work() -> bool:
        asyncio.set_event_loop(None)
        return asyncio.run(change("child"))

    in_child(work)
    assert loop.run_until_complete(change("again"))
    loop.close()
    assert b.get_many(["parent", "child", "again"], level="latest").keys() == {"parent", "child", "again"}


def _worker(directory: str, url: str, keyring: str, number: int) -> bytes:
    with freshet.Cache("test", dir=directory, url=url, keyring=keyring, tier_size=4 << 20, deadline=10) as cache:
        cache.set(f"w{number}", b"%d" % number)
        value: bytes = cache.get_or_load("shared", lambda: b"s", deadline=10)
        return value


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_every_start_method(hosts: Hosts, shm: Path, server: Server, method: str) -> None:
    context = multiprocessing.get_context(method)
    jobs = [(str(shm / "ab"[i % 2]), server.url, str(server.keyring), i) for i in range(4)]
    with context.Pool(2) as pool:
        assert pool.starmap(_worker, jobs) == [b"s"] * 4
    assert hosts[0].get_many([f"w{i}" for i in range(4)]) == {f"w{i}": b"%d" % i for i in range(4)}


@pytest.mark.parametrize("ending", ["pass", "import sys; sys.exit(0)", "del cache", "import threading; "
    "threading.Thread(target=lambda: [cache.get('k') for _ in range(10**5)], daemon=True).start()"])  # fmt: skip
def test_an_interpreter_ends_quietly_with_open_caches(shm: Path, server: Server, ending: str) -> None:
    program = textwrap.dedent(f"""
        import asyncio, freshet, logging
        freshet.set_log(lambda level, message: None, "debug")
        cache = freshet.Cache("test", dir={str(shm / "end")!r}, url={server.url!r}, keyring={str(server.keyring)!r})
        cache.set("k", b"v")
        guard = cache.guard("g").begin()
        asyncio.run(cache.aio.invalidate("k"))
        frames = freshet.watch("test", {server.url!r}, {str(server.keyring)!r})
        {ending}
        """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_storm_of_threads(hosts: Hosts) -> None:
    """Everything at once; each value is its key's, and no read goes back behind its own thread's write."""
    failures: list[BaseException] = []

    def storm(number: int) -> None:
        cache = hosts[number % 2]
        mine = f"mine:{number}"
        try:
            for i in range(150):
                token = cache.set(mine, b"%d" % i).token
                assert cache.get(mine, token=token) == b"%d" % i
                key = f"k{i % 7}"
                assert cache.get_or_load(key, lambda key=key: key.encode(), deadline=10) == key.encode()
                if i % 11 == 0:
                    cache.invalidate(key, f"k{(i + 1) % 7}")
                if i % 29 == 0:
                    with cache.guard(key):
                        assert cache.get(mine) in (b"%d" % i, None)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_interpreters_lock_is_free_while_a_call_waits(hosts: Hosts, server: Server) -> None:
    server.pause()
    try:
        thread = threading.Thread(target=lambda: hosts[0].invalidate("k", deadline=1.0))
        thread.start()
        turns = 0
        while thread.is_alive():
            turns += 1
            thread.join(0.001)
        assert turns > 20, "a waiting call kept the interpreter's lock"
    finally:
        server.resume()
