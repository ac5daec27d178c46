"""A million calls leave nothing behind: no memory, no objects, no descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable
from typing import Any

from conftest import Opener

import freshet

CALLS = 1_000_000
ROUNDS = 4
MEMORY_SLACK = 2 << 20
"""bytes that the allocators may come to hold more after they have warmed up"""


def resident() -> int:
    """Private memory of this process in bytes: the tier's shared pages are no leak."""
    with open("/proc/self/smaps_rollup") as rollup:
        fields = dict(line.split(":", 1) for line in rollup if ":" in line and "-" not in line.split(":")[0])
    return sum(int(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean")) * 1024


def bad(call: Callable[[], Any]) -> None:
    try:
        call()
    except (freshet.FreshetError, TypeError, KeyError, ZeroDivisionError):
        return
    raise AssertionError("it should have failed")


def calls_of(cache: freshet.Cache, typed: freshet.Cache) -> list[tuple[int, Callable[[], Any]]]:
    """Each call with how often it comes in a thousand."""

    def guarded() -> None:
        with cache.guard("g"):
            pass

    return [
        (300, lambda: cache.get("k")),
        (100, lambda: cache.get("k", level="any", bound=0.4, default=5)),
        (100, lambda: cache["k"]),
        (100, lambda: cache.lookup("k").token()),
        (100, lambda: cache.get("missing")),
        (60, lambda: typed.get("j")),
        (40, lambda: "k" in cache),
        (40, lambda: bad(lambda: cache.get(""))),
        (40, lambda: bad(lambda: cache.get("k", nonsense=1))),  # type: ignore[call-arg]
        (20, lambda: bad(lambda: cache["missing"])),
        (30, lambda: cache.get_or_load("k", lambda: b"v", tags=["a"])),
        (20, lambda: cache.set("s", b"x" * 300, tags=("a", "b"), ttl=60)),
        (15, lambda: cache.invalidate("s", "t")),
        (10, lambda: cache.load("s", lambda request: request.tag("c") or b"v", tags=["a"])),
        (10, lambda: bad(lambda: cache.get_or_load("never", lambda: 1 // 0))),
        (5, guarded),
        (5, lambda: cache.stats()),
        (5, lambda: cache.entries()),
    ]


def test_a_million_calls(opener: Opener) -> None:
    cache, typed = opener(), opener(serializer=freshet.JSON)
    cache.set("k", b"value" * 10)
    typed.set("j", {"a": [1, 2, 3]})
    plan = calls_of(cache, typed)
    assert sum(share for share, _ in plan) == 1000
    seen: list[tuple[int, int, int]] = []
    for _ in range(ROUNDS):
        for _ in range(CALLS // 1000 // ROUNDS):
            for share, call in plan:
                for _ in range(share):
                    call()
        gc.collect()
        seen.append((resident(), sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))))
    first, last = seen[0], seen[-1]
    assert last[0] - first[0] < MEMORY_SLACK, f"private memory grows: {seen}"
    assert last[1] - first[1] < 500, f"objects stay: {seen}"
    assert last[2] <= first[2], f"descriptors stay: {seen}"


def test_event_loops_calls(hosts: tuple[freshet.Cache, freshet.Cache]) -> None:
    a, b = hosts
    seen: list[tuple[int, int]] = []

    async def one(i: int) -> None:
        task = asyncio.ensure_future(a.aio.get_or_load(f"k{i}", lambda: b"v" * 100))
        if i % 3 == 0:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await b.aio.get(f"k{i}")
        await a.aio.invalidate(f"k{i}")

    async def main() -> None:
        for _ in range(ROUNDS):
            for start in range(0, 500, 50):
                await asyncio.gather(*(one(i) for i in range(start, start + 50)))
            gc.collect()
            seen.append((sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))))

    asyncio.run(main())
    assert seen[-1][0] - seen[1][0] < 500, f"objects stay: {seen}"
    assert seen[-1][1] < seen[1][1] + 40, f"descriptors stay, beyond a few connections more: {seen}"
