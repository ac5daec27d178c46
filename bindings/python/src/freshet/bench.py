"""python -m freshet.bench: what a hit costs from Python, beside the C call and beside other caches; and what it weighs.

Each figure stands beside its floor, measured in the same process and the same run, the two sides taking turns in
slices; a machine that slows down for a second slows both.

    case    what is compared      ours    Freshet's median
    floor   the other's median    ratio   ours / floor
    spread  the floor's own: its upper quartile over its lower; above 1.3 the figure proves nothing

--json prints what `freshet bench --json` prints.  Caches that are not installed are named and left out: pip install
'freshet[bench]'.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib
import json
import multiprocessing
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from . import Cache

VALUE = 64
"""bytes of every value, but where it is said"""
WORKERS = 8
RECORDS, RECORD = 20_000, 1024
"""of the memory comparison: how many, of how many bytes"""
MOVED = 1.3

Get = Callable[[str], Any]
Side = Callable[[], float]


class Row(NamedTuple):
    """One comparison; `promise` is what the ratio may be at most, or None."""

    case: str
    ours: float
    floor: float
    unit: str
    spread: float
    promise: float | None

    @property
    def ratio(self) -> float:
        return self.ours / self.floor


class Bench:
    """One run: the keys, the caches it opened, the rows it found."""

    def __init__(self, where: Path, quick: bool) -> None:
        self.where = where
        self.slices = 7 if quick else 31
        self.calls = 4_000 if quick else 20_000
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        chance = random.Random(1)
        self.keys = [f"bench:user:{i}" for i in range(1000)]
        self.order = chance.choices(self.keys, k=self.calls)
        self.hot = chance.choices(self.keys[:16], k=self.calls)
        self.value = bytes(VALUE)
        self.cache = Cache("bench", dir=where / "tier", tier_size=64 << 20)
        _fill(self.cache, self.keys, self.value)

    def compare(self, case: str, ours: Side, floor: Side, promise: float | None) -> None:
        """Both sides in turn, so many slices each, after one that does not count."""
        ours(), floor()
        a, b = [], []
        for _ in range(self.slices):
            a.append(ours())
            b.append(floor())
        low, _, high = statistics.quantiles(b, n=4)
        self.rows.append(Row(case, statistics.median(a), statistics.median(b), "ns", high / low, promise))

    def calling(self, get: Get, order: list[str]) -> Side:
        """Nanoseconds of a call of `get`, the loop around it left out."""

        def side() -> float:
            begin = time.perf_counter_ns()
            for key in order:
                get(key)
            middle = time.perf_counter_ns()
            for _ in order:
                pass
            return ((middle - begin) - (time.perf_counter_ns() - middle)) / len(order)

        if any(get(key) != self.value for key in order):
            raise RuntimeError(f"{get!r} does not give what was stored")
        return side

    def awaiting(self, loop: asyncio.AbstractEventLoop, get: Callable[[str], Coroutine[Any, Any, Any]]) -> Side:
        async def run() -> float:
            begin = time.perf_counter_ns()
            for key in self.order:
                await get(key)
            return (time.perf_counter_ns() - begin) / len(self.order)

        return lambda: loop.run_until_complete(run())

    def in_c(self, order: list[str]) -> Side:
        keys: list[str | bytes] = list(order)
        return lambda: self.cache._time_gets(keys, 1) / len(keys)

    def rival(
        self, module: str, make: Callable[[Any], Side], promise: float | None, ours: Side, case: str = ""
    ) -> None:
        """Compare with another cache, if it is installed."""
        try:
            imported = importlib.import_module(module)
        except ImportError:
            self.left_out.append(f"{module} is not installed")
            return
        self.compare(case or module, ours, make(imported), promise)


def _records() -> list[str]:
    return [f"record:{i}" for i in range(RECORDS)]


def _fill(cache: Cache, keys: list[str], value: bytes) -> None:
    """Load the keys, and see that they are there.  A put would be a change, which voids those of its slot too."""
    for i, key in enumerate(keys):
        cache.get_or_load(key, lambda: value)
        if i % 100 == 0:
            cache.flush()  # a queue that is full drops what comes
    cache.flush()
    missing = sum(cache.get(key) != value for key in keys)
    if missing:
        raise RuntimeError(f"{missing} of {len(keys)} records are not in the tier")


def hits(bench: Bench) -> None:
    """A hit beside the C call and beside caches in this process, on disk, in Redis."""
    get = bench.cache.get
    ours = bench.calling(get, bench.order)
    bench.compare("hit / C call", ours, bench.in_c(bench.order), None)
    bench.compare("hot hit / C call", bench.calling(get, bench.hot), bench.in_c(bench.hot), None)
    kept = functools.lru_cache(maxsize=4096)(lambda key: bench.value)
    bench.compare("hot hit / lru_cache", bench.calling(get, bench.hot), bench.calling(kept, bench.hot), 3.0)

    def cachetools(module: Any) -> Side:
        cache = module.LRUCache(maxsize=4096)
        cache.update({key: bench.value for key in bench.keys})
        return bench.calling(cache.get, bench.order)

    def diskcache(module: Any) -> Side:
        cache = module.Cache(str(bench.where / "diskcache"))
        for key in bench.keys:
            cache.set(key, bench.value)
        return bench.calling(cache.get, bench.order)

    def dogpile(module: Any) -> Side:
        region = module.make_region().configure("dogpile.cache.memory")
        for key in bench.keys:
            region.set(key, bench.value)
        return bench.calling(region.get, bench.order)

    bench.rival("cachetools", cachetools, None, ours)
    bench.rival("diskcache", diskcache, 1 / 8, ours)
    bench.rival("dogpile.cache", dogpile, None, ours, "dogpile.cache (memory)")


def redis_hits(bench: Bench) -> None:
    """A hit beside a GET over a unix socket, from a private server."""
    if shutil.which("redis-server") is None:
        bench.left_out.append("there is no redis-server")
        return
    socket = bench.where / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
    server = subprocess.Popen(command, cwd=bench.where, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while not socket.exists():
            if time.monotonic() > until:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.01)

        def client(module: Any) -> Side:
            redis = module.Redis(unix_socket_path=str(socket))
            for key in bench.keys:
                redis.set(key, bench.value)
            return bench.calling(redis.get, bench.order[: bench.calls // 4])

        bench.rival("redis", client, 1 / 40, bench.calling(bench.cache.get, bench.order), "redis-py GET, unix socket")
    finally:
        server.kill()
        server.wait()


def awaited_hits(bench: Bench) -> None:
    """An awaited hit beside those of caches for asyncio."""
    loop = asyncio.new_event_loop()
    ours = bench.awaiting(loop, bench.cache.aio.get)

    def aiocache(module: Any) -> Side:
        cache = module.SimpleMemoryCache()

        async def fill() -> None:
            for key in bench.keys:
                await cache.set(key, bench.value)

        loop.run_until_complete(fill())
        return bench.awaiting(loop, cache.get)

    def cashews(module: Any) -> Side:
        cache = module.Cache()
        cache.setup("mem://?size=10000")

        async def fill() -> None:
            for key in bench.keys:
                await cache.set(key, bench.value)

        loop.run_until_complete(fill())
        return bench.awaiting(loop, cache.get)

    try:
        bench.compare("awaited hit / C call", ours, bench.in_c(bench.order), None)
        bench.rival("aiocache", aiocache, None, ours, "awaited: aiocache (memory)")
        bench.rival("cashews", cashews, None, ours, "awaited: cashews (memory)")
    finally:
        loop.close()


def _weigh(directory: str | None, ready: Any, go: Any, answers: Any) -> None:
    """In a worker: hold the records, in the shared tier or in an lru_cache of one's own; tell the proportional size."""
    keys = _records()
    held: Any = None
    if directory is not None:
        held = Cache("weigh", dir=directory)
        for key in keys:
            if len(held.get(key)) != RECORD:
                raise RuntimeError("a record is missing")
    else:
        held = functools.lru_cache(maxsize=None)(lambda key: bytes(bytearray(RECORD)))
        for key in keys:
            held(key)
    ready.wait()
    with open("/proc/self/smaps_rollup") as rollup:
        pss = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    answers.put(pss * 1024)
    go.wait()


def _weigh_all(directory: str | None) -> float:
    """MiB of all workers together."""
    context = multiprocessing.get_context("spawn")
    ready, go, answers = context.Barrier(WORKERS), context.Barrier(WORKERS + 1), context.Queue()
    workers = [context.Process(target=_weigh, args=(directory, ready, go, answers)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    total: int = sum(answers.get(timeout=60) for _ in workers)
    go.wait()
    for worker in workers:
        worker.join()
    return total / (1 << 20)


def memory(bench: Bench) -> None:
    """Eight workers with one copy between them, beside eight with a copy each: proportional set sizes."""
    where = bench.where / "weigh"
    with Cache("weigh", dir=where, tier_size=8 * RECORDS * RECORD) as cache:
        _fill(cache, _records(), bytes(RECORD))
        ours, floor = _weigh_all(str(where)), _weigh_all(None)
    case = f"memory of {WORKERS} workers / lru_cache"
    bench.rows.append(Row(case, ours, floor, "MiB", 1.0, None))


def show(bench: Bench) -> None:
    print(f"{'case':<36} {'ours':>9} {'floor':>9} {'unit':>4} {'ratio':>8} {'spread':>7}  promise")
    for row in bench.rows:
        promise = "" if row.promise is None else f"<= {row.promise:.3g}: "
        if row.promise is not None:
            promise += "moved" if row.spread > MOVED else "kept" if row.ratio <= row.promise else "NOT KEPT"
        print(
            f"{row.case:<36} {row.ours:>9.1f} {row.floor:>9.1f} {row.unit:>4} {row.ratio:>8.3f} {row.spread:>7.2f}"
            f"  {promise}"
        )
    for reason in bench.left_out:
        print(f"left out: {reason}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m freshet.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one line of JSON, as of freshet bench --json")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter slices")
    arguments = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="freshet-bench-", dir="/dev/shm"))
    try:
        bench = Bench(where, arguments.quick)
        hits(bench)
        redis_hits(bench)
        awaited_hits(bench)
        memory(bench)
        bench.cache.close()
    finally:
        shutil.rmtree(where, ignore_errors=True)
    if not arguments.json:
        show(bench)
        return
    rows = [
        {
            "case": row.case,
            "ours": round(row.ours, 1),
            "floor": round(row.floor, 1),
            "ratio": round(row.ratio, 3),
            "unit": row.unit,
            "spread": round(row.spread, 3),
        }
        for row in bench.rows
    ]
    print(json.dumps({"bench": "python", "rows": rows}))


if __name__ == "__main__":
    main()
