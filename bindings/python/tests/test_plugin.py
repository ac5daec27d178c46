"""The plugin: it shows the race of plain cache-aside each time, and none in the same steps with Freshet."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
import shops

from freshet.testing import (
    Chaos,
    Coherence,
    History,
    Host,
    HostError,
    Hosts,
    Redis,
    RedisServer,
    ServerError,
    StepError,
    Steps,
    point,
    servers,
    start_redis,
)
from freshet.testing.oracle import NEVER
from freshet.testing.steps import until

pytest_plugins = ["pytester"]


def late_refill(a: Host, b: Host, steps: Steps, coherence: Coherence, at: str = "after_db_read") -> Any:
    """The reader on A has the old row in its hand while the writer on B commits; what A reads when all is over."""
    with steps.freeze(at, host="A") as frozen:
        read = a.start("read", 17)
        frozen.reached()
        with coherence.writing(17, "new", by="B"):
            b.call("write", 17, "new")
    assert read.result() == "old"  # it began before the write, and may say so
    coherence.elapse(0.5)
    with coherence.reading(17, by="A") as seen:
        seen.value = a.call("read", 17)
    return seen.value


def test_plain_cache_aside_is_caught_with_the_history_of_its_late_refill(
    freshet_hosts: Hosts, freshet_steps: Steps, assert_coherent: Coherence
) -> None:
    pytest.importorskip("redis")
    a, b = freshet_hosts(2, setup=shops.PlainShop)
    assert late_refill(a, b, freshet_steps, assert_coherent) == "old"
    with pytest.raises(AssertionError) as caught:
        assert_coherent(within=0.5)
    message = str(caught.value)
    assert "A read 'old' of 17" in message
    assert "writes 'new'  <- should have been seen" in message
    assert "reads  'old'  <- stale" in message
    assert "1 of 1 reads are stale" in message


def test_the_same_steps_pass_with_freshet(
    freshet_hosts: Hosts, freshet_steps: Steps, assert_coherent: Coherence
) -> None:
    pytest.importorskip("freshet._freshet")
    a, b = freshet_hosts(2, setup=shops.FreshetShop)
    assert late_refill(a, b, freshet_steps, assert_coherent) == "new"
    assert_coherent(within=0.5)


def test_a_service_that_knows_of_no_test_is_frozen_by_wrapping(
    freshet_hosts: Hosts, freshet_steps: Steps, assert_coherent: Coherence
) -> None:
    pytest.importorskip("redis")
    freshet_steps.wrap({"shops:read_row": "row", "shops:Table.write": "commit"})
    a, b = freshet_hosts(2, setup=shops.BareShop)
    assert late_refill(a, b, freshet_steps, assert_coherent, at="row:after") == "old"
    with pytest.raises(AssertionError, match="1 of 1 reads are stale"):
        assert_coherent(within=0.5)
    assert freshet_steps.passed("commit:before") == freshet_steps.passed("commit:after") == 1


def test_load_finds_the_race_of_plain_cache_aside_by_itself(freshet_hosts: Hosts, assert_coherent: Coherence) -> None:
    pytest.importorskip("redis")
    hosts = freshet_hosts(2, setup=shops.PlainShop)
    seen = assert_coherent.drive("read", "write", hosts=hosts, keys=range(2), seconds=1.0)
    assert seen.reads > 50
    assert seen.writes > 10
    assert {event.by for event in assert_coherent.events} == {"A.0", "B.0"}
    assert_coherent.judged = True  # under load the race is likely and not certain: only what was noted is claimed


def test_load_on_freshet_is_coherent(freshet_hosts: Hosts, assert_coherent: Coherence) -> None:
    pytest.importorskip("freshet._freshet")
    hosts = freshet_hosts(2, setup=shops.FreshetShop, processes=2)
    seen = assert_coherent.drive("read", "write", hosts=hosts, keys=range(2), seconds=2.0)
    assert seen.reads > 50
    assert seen.writes > 10
    assert {event.by for event in assert_coherent.events} == {"A.0", "A.1", "B.0", "B.1"}
    assert_coherent(within=0.5)


# ---- points and steps


def test_a_point_outside_of_a_test_is_passed() -> None:
    point("nowhere", key=1)


def test_a_freeze_takes_so_many_on_its_host_and_lets_go(freshet_steps: Steps) -> None:
    passed: list[str] = []

    def walk(name: str) -> None:
        point("here", who=name)
        passed.append(name)

    threads = [threading.Thread(target=walk, args=(name,)) for name in "ab"]
    freeze = freshet_steps.freeze("here", times=1)
    elsewhere = freshet_steps.freeze("here", host="Z", times=None)
    threads[0].start()
    first = freeze.reached()
    assert first.details == {"who": "a"}
    assert first.pid == os.getpid()
    assert first.host == ""
    threads[1].start()  # the freeze was for one
    threads[1].join(10)
    assert passed == ["b"]
    with pytest.raises(StepError, match=r"nobody came to 'here' on host Z within 0.05 s; passed so far: here \(2\)"):
        elsewhere.reached(0.05)
    freeze.release()
    threads[0].join(10)
    assert passed == ["b", "a"]
    assert freshet_steps.passed("here") == 2
    freshet_steps.wait("here", 2)
    with pytest.raises(StepError, match="'there' was not passed 1 times"):
        freshet_steps.wait("there", timeout=0.05)


def test_who_is_killed_at_a_point_is_gone_and_holds_nobody(freshet_hosts: Hosts, freshet_steps: Steps) -> None:
    pytest.importorskip("redis")
    a, b = freshet_hosts(2, setup=shops.PlainShop)
    freeze = freshet_steps.freeze("after_db_read", host="A")
    read = a.start("read", 3)
    assert freeze.reached().pid == a.processes[0].process.pid
    a.kill()
    with pytest.raises(HostError, match=r"process A.0 .* has ended"):
        read.result()
    assert b.call("read", 3) == "old"
    with pytest.raises(HostError):
        a.call("read", 3)


def test_a_frozen_coroutine_leaves_its_loop_to_the_others(freshet_hosts: Hosts, freshet_steps: Steps) -> None:
    pytest.importorskip("redis")
    (a,) = freshet_hosts(1, setup=shops.PlainShop)
    with freshet_steps.freeze("in_coroutine") as freeze:
        read = a.start(shops.aread, 5)
        assert freeze.reached().details == {"key": 5}
        assert a.call(shops.atick) == a.processes[0].process.pid
        assert not read.done()
    assert read.result() == "old"


def test_points_of_any_command_come_to_the_controller(freshet_steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "walker.py").write_text(
        "class Walker:\n"
        "    @staticmethod\n    def step(n): return n + 1\n"
        "    @classmethod\n    def stride(cls, n): return cls.step(n) + 1\n"
        "async def glide(n): return n + 3\n"
    )
    program = (
        "import asyncio, walker, freshet.testing\n"
        "print(walker.Walker.stride(1), asyncio.run(walker.glide(1)))\n"
        "freshet.testing.point('by hand')"
    )
    freshet_steps.wrap({"walker:Walker.step": "step", "walker:Walker.stride": "stride", "walker:glide": "glide"})
    environment = freshet_steps.environment(
        "K", {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "4"]
    assert [arrival.point for arrival in freshet_steps.trace] == [
        "stride:before",
        "step:before",
        "step:after",
        "stride:after",
        "glide:before",
        "glide:after",
        "by hand",
    ]
    assert {arrival.host for arrival in freshet_steps.trace} == {"K"}


def test_what_cannot_be_wrapped_is_refused() -> None:
    from freshet.testing import wrap

    with pytest.raises(ValueError, match="'shops' names no function"):
        wrap({"shops": "x"})
    with pytest.raises(AttributeError):
        wrap({"shops:nothing": "x"})
    with pytest.raises(TypeError, match="no function that could be wrapped"):
        wrap({"shops:__doc__": "x"})


# ---- hosts


def test_hosts_are_processes_of_their_own_and_share_no_directory(freshet_hosts: Hosts) -> None:
    pytest.importorskip("redis")
    a, b = freshet_hosts(2, setup=shops.PlainShop, processes=2)
    pids = [host.call(shops.pid, process=number) for host in (a, b) for number in (0, 1)]
    assert len({*pids, os.getpid()}) == 5
    assert a.info.dir != b.info.dir
    assert a.info.shared == b.info.shared
    assert os.stat(a.info.dir).st_mode & 0o777 == 0o700
    freshet_hosts.close()
    assert not os.path.exists(a.info.shared)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_a_host_raises_comes_out_with_its_trace(freshet_hosts: Hosts) -> None:
    pytest.importorskip("redis")
    (a,) = freshet_hosts(1, setup=shops.PlainShop)
    with pytest.raises(RuntimeError, match="Unpicklable: 1 and 2") as caught:
        a.call(shops.raise_unpicklable)
    assert "raise Unpicklable(1, 2)" in str(caught.value.__cause__)
    with pytest.raises(AttributeError, match="no_such_method"):
        a.call("no_such_method")
    with pytest.raises(ValueError, match="cannot be named in another process"):
        a.call(lambda shop: None)
    with pytest.raises(RuntimeError, match="no shop on B"):
        freshet_hosts(1, setup=shops.broken)


def test_a_call_that_does_not_return_is_a_timeout(freshet_hosts: Hosts) -> None:
    pytest.importorskip("redis")
    (a,) = freshet_hosts(1, setup=shops.PlainShop)
    a.pause()
    call = a.start(shops.pid)
    with pytest.raises(TimeoutError):
        call.result(0.1)
    a.resume()
    assert call.result() == a.processes[0].process.pid


# ---- servers


def test_a_private_redis_answers_and_goes_away(freshet_redis: Redis) -> None:
    assert freshet_redis.command("SET", "k", b"v") == b"OK"
    assert freshet_redis.command("MGET", "k", "none") == [b"v", None]
    assert freshet_redis.command("INCR", "n") == 1
    with pytest.raises(ServerError, match="WRONGTYPE"):
        freshet_redis.command("LPUSH", "k", "x")
    other = start_redis(port=True)
    assert isinstance(other, RedisServer)
    assert other.command("GET", "k") is None
    assert servers.resp(("127.0.0.1", other.port or 0), "PING") == b"PONG"
    pid, folder = other.pid, other.folder
    other.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ServerError, match="has been stopped"):
        other.pause()
    other.start()
    assert other.command("DBSIZE") == 0
    other.close()
    assert not os.path.exists(folder)


def test_a_redis_server_that_does_not_start_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_REDIS_SERVER", "/bin/false")
    with pytest.raises(ServerError, match="/bin/false does not answer"):
        start_redis()


def test_without_redis_server_or_testcontainers_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "testcontainers.redis", None)
    with pytest.raises(ServerError, match=r"install it .* or pip install testcontainers"):
        start_redis()


def test_without_redis_server_testcontainers_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Docker here: the container is a stand-in around a true server, with testcontainers' four methods."""
    server = start_redis(port=True)

    class RedisContainer:
        def start(self) -> None:
            pass

        def stop(self) -> None:
            server.close()

        def get_container_host_ip(self) -> str:
            return "127.0.0.1"

        def get_exposed_port(self, port: int) -> str:
            assert port == 6379
            return str(server.port)

    module = type(sys)("testcontainers.redis")
    module.RedisContainer = RedisContainer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "testcontainers", type(sys)("testcontainers"))
    monkeypatch.setitem(sys.modules, "testcontainers.redis", module)
    monkeypatch.delenv("FRESHET_REDIS_SERVER", raising=False)
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "/nonexistent")
    redis = start_redis()
    assert redis.url == f"redis://127.0.0.1:{server.port}"
    assert redis.command("PING") == b"PONG"
    monkeypatch.setenv("PATH", path)
    chaos = Chaos(redis)
    assert chaos.url.startswith("redis://127.0.0.1:")
    chaos.close()
    redis.close()
    assert isinstance(server, RedisServer)
    assert not os.path.exists(server.folder)


def test_the_faulty_network_delays_cuts_and_heals(freshet_redis: Redis, freshet_chaos: Callable[..., Chaos]) -> None:
    net = freshet_chaos("latency 20")
    path = net.url[len("unix://") :]
    begun = time.monotonic()
    assert servers.resp(path, "PING") == b"PONG"
    assert time.monotonic() - begun >= 0.04
    net.cut()
    with pytest.raises(ConnectionError):
        servers.resp(path, "PING")
    net.clear()
    net.latency(0)
    assert servers.resp(path, "PING") == b"PONG"
    net.half_open()
    with pytest.raises(TimeoutError if sys.version_info >= (3, 10) else OSError):
        servers.resp(path, "PING", timeout=0.05)
    assert net.stat()["up"]["lost"] > 0
    with pytest.raises(ServerError, match="nonsense"):
        net.do("nonsense")


def test_each_host_has_its_own_way_to_redis(freshet_hosts: Hosts) -> None:
    pytest.importorskip("redis")
    a, b = freshet_hosts(2, setup=shops.PlainShop, latency=0.005)
    assert a.chaos is not None
    assert b.chaos is not None
    assert a.info.redis != b.info.redis
    assert a.call("read", 1) == b.call("read", 1) == "old"
    a.chaos.cut()
    with pytest.raises(Exception, match="onnect"):
        a.call("read", 1)
    assert b.call("read", 1) == "old"


# ---- the oracle


@pytest.mark.parametrize(("begun", "within", "stale"), [(1.6, 0.5, 1), (1.4, 0.5, 0), (1.1, 0.0, 1), (1.0, 0.0, 0)])
def test_a_read_is_stale_beyond_the_bound_and_not_within(begun: float, within: float, stale: int) -> None:
    history = History()
    history.wrote("k", 1, 0.0, 0.1)
    history.wrote("k", 2, 0.9, 1.0)
    history.read("k", 1, begun, begun + 0.1)
    assert len(history.judge(within).stale) == stale
    assert history.judge(within).longest == pytest.approx(max(0.0, begun - 1.0))


def test_writes_that_overlap_or_failed_may_be_read_in_either_order() -> None:
    history = History()
    history.wrote("k", 1, 0.0, 1.0)
    history.wrote("k", 2, 0.5, 1.5)
    history.wrote("k", 3, 2.0, NEVER)
    for value in (1, 2, 3):
        history.read("k", value, 9.0, 9.1)
    assert history.judge(0.0).stale == []
    history.wrote("k", 4, 10.0, 10.1)
    for value in (1, 2, 3, 4):
        history.read("k", value, 11.0, 11.1)
    assert [stale.read.value for stale in history.judge(0.5).stale] == [1, 2]


def test_of_later_writes_the_one_that_returned_first_counts() -> None:
    """The next write to begin takes long; one that began behind it has returned already."""
    history = History()
    history.wrote("k", 1, 0.0, 0.1)
    history.wrote("k", 2, 0.2, 9.0)
    history.wrote("k", 3, 0.3, 0.4)
    history.read("k", 1, 5.0, 5.1)
    assert [stale.seconds for stale in history.judge(0.5).stale] == [pytest.approx(4.6)]


def test_what_nobody_wrote_and_what_is_not_written_yet_is_told() -> None:
    history = History()
    history.read("k", "first", 0.0, 0.1)  # taken for what was there before
    history.read("k", "first", 0.2, 0.3)
    history.read("k", "other", 0.4, 0.5)
    history.read("k", "late", 0.6, 0.7)
    history.wrote("k", "late", 0.8, 0.9)
    assert [stale.read.value for stale in history.judge(1.0).stale] == ["other", "late"]
    told = History()
    told.initial("k", None)
    told.read("k", "first", 0.0, 0.1)
    assert [stale.after for stale in told.judge(1.0).stale] == [None]


def test_values_that_cannot_be_hashed_are_compared() -> None:
    history = History()
    history.wrote("k", {"n": 1}, 0.0, 0.1)
    history.wrote("k", {"n": 2}, 0.2, 0.3)
    history.read("k", {"n": 2}, 5.0, 5.1)
    assert history.judge(0.0).stale == []
    history.read("k", {"n": 1}, 6.0, 6.1)
    assert [round(stale.seconds, 6) for stale in history.judge(0.5).stale] == [5.7]


def test_load_in_this_process_on_two_places_and_in_coroutines(assert_coherent: Coherence) -> None:
    truth = {"x": "old"}
    lagging = {"x": "old"}

    def write(key: str, value: str) -> None:
        truth[key] = value

    async def aread(key: str) -> str:
        return truth[key]

    verdict = assert_coherent.drive(
        {"primary": truth.__getitem__, "replica": lagging.__getitem__}, write, keys=["x"], seconds=0.3
    )
    assert {stale.read.by for stale in verdict.stale} == {"replica"}
    assert verdict.longest > 0.1
    with pytest.raises(AssertionError, match="replica read 'old' of 'x'"):
        assert_coherent(within=0.1)
    again = Coherence()
    again.initial("x", truth["x"])
    again.drive(aread, write, keys=["x"], seconds=0.1)
    assert again(within=0.0).reads > 0


def test_a_read_that_raises_ends_the_load(freshet_hosts: Hosts, assert_coherent: Coherence) -> None:
    pytest.importorskip("redis")
    hosts: list[Host] = freshet_hosts(1, setup=shops.PlainShop)
    with pytest.raises(KeyError):
        assert_coherent.drive(shops.read_badly, None, hosts=hosts, seconds=0.1)


def test_what_could_not_have_been_stale_shows_nothing() -> None:
    truth = {"x": "old"}

    def write(key: str) -> None:  # no value: each call of it fails
        raise NotImplementedError

    nothing: list[tuple[Any, float, str]] = [
        (write, 0.0, r"\d+ of them failed"),
        (None, 0.0, "0 writes"),
        (truth.__setitem__, 5.0, "more than 5 s"),
    ]
    for writes, within, why in nothing:
        coherence = Coherence()
        coherence.drive(truth.__getitem__, writes, keys=["x"], seconds=0.1)
        with pytest.raises(AssertionError, match=why):
            coherence(within=within)


def test_a_test_that_judges_nothing_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        def test_noted_and_not_judged(assert_coherent):
            with assert_coherent.writing("k", 1):
                pass

        def test_nothing_read(assert_coherent):
            with assert_coherent.writing("k", 1):
                pass
            with pytest.raises(AssertionError, match="no read was noted"):
                assert_coherent(within=0.5)

        def test_failed_write_is_noted(assert_coherent):
            with assert_coherent.writing("k", 0):
                pass
            with pytest.raises(ZeroDivisionError):
                with assert_coherent.writing("k", 1):
                    1 / 0
            with assert_coherent.reading("k") as seen:
                seen.value = 1
            assert_coherent(within=0.0)
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*1 reads and writes were noted and never judged*"])


@pytest.mark.parametrize("paused", [False, True])
def test_a_host_outlives_no_test_process(paused: bool) -> None:
    """A test's process that is killed leaves no host behind, also none that stands still."""
    program = (
        "import os, signal, sys, shops\n"
        "from freshet.testing import Hosts, start_redis\n"
        "redis = start_redis()\n"
        "(host,) = Hosts(redis)(1)\n"
        f"if {paused}: host.pause(); host.resume(); host.pause(); redis.pause()\n"
        "print(host.processes[0].process.pid, redis.pid, redis.folder, host.info.shared, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    host, redis, folder, shared = done.stdout.split()

    def gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    try:
        until(lambda: gone(int(host)), 10.0, "the host's process ends")
        until(lambda: gone(int(redis)), 10.0, "the redis-server ends")
    finally:
        if not gone(int(redis)):
            os.kill(int(redis), signal.SIGTERM)
        for left in (folder, os.path.dirname(shared)):
            shutil.rmtree(left, ignore_errors=True)
