"""Two hosts of one fleet over a real Redis: what is changed on one is not served on the other."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Opener, Server, until

import freshet

Hosts = tuple[freshet.Cache, freshet.Cache]


def test_a_change_on_one_host_voids_the_others_copy(hosts: Hosts) -> None:
    a, b = hosts
    a.set("k", b"1")
    assert b.get("k") == b"1"
    until(lambda: b.lookup("k").source == "tier", "the copy in b's tier")
    change = a.set("k", b"2", wait="hosts")
    assert change.hosts_applied + change.hosts_waited_out == 2
    assert b.get("k") == b"2"
    assert b.get("k", token=a.invalidate("k").token) is None


def test_read_levels_and_tokens(hosts: Hosts) -> None:
    a, b = hosts
    token = a.set("k", b"1").token
    answer = b.lookup("k", token=token)
    assert answer.value == b"1" and answer.position > 0 and answer.epoch > 0
    assert b.lookup("k", level="latest").source == "redis"
    assert b.lookup("k", level="any", tier_only=True).result in ("OK", "MISS")
    later = a.set("l", b"2").token
    assert a.join_tokens(token, later) == a.join_tokens(later, token) == later
    assert b.get("k", bound=0.02) == b"1"
    with pytest.raises(freshet.InvalidArgument):
        b.get("k", level="latest", tier_only=True)


def test_tier_only_does_not_ask(hosts: Hosts) -> None:
    a, b = hosts
    a.set("k", b"1")
    before = b.stats().redis_hits
    assert b.get("k", tier_only=True) is None
    assert b.stats().redis_hits == before
    assert b.get("k") == b"1"


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("how", ["get", "load", "tier_only", "many of a loop"])
def test_a_miss_is_counted_once(opener: Opener, server: Server, joined: bool, how: str) -> None:
    """Though a look into the tier comes before the call in earnest."""
    options: dict[str, Any] = {"url": server.url, "keyring": server.keyring} if joined else {}
    calls: dict[str, Callable[[freshet.Cache, str], object]] = {
        "get": lambda cache, key: cache.get(key),
        "load": lambda cache, key: cache.get_or_load(key, lambda: b"v"),
        "tier_only": lambda cache, key: cache.get(key, tier_only=True),
        "many of a loop": lambda cache, key: asyncio.run(cache.aio.get_many([key])),
    }
    with opener(**options) as cache:
        for i in range(100):
            calls[how](cache, f"k{i}")
    assert opener().stats().misses == 100  # what closes tells its counts


def test_one_load_for_the_fleet(hosts: Hosts) -> None:
    calls: list[int] = []
    got: list[bytes] = []
    pause = threading.Event()

    def loader() -> bytes:
        calls.append(1)
        pause.wait(0.2)
        return b"v"

    threads = [
        threading.Thread(target=lambda i=i: got.append(hosts[i % 2].get_or_load("k", loader, deadline=10)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [b"v"] * 8 and len(calls) == 1


def test_a_loader_is_told_to_ask_the_primary_after_a_change(hosts: Hosts) -> None:
    told: list[bool] = []

    def loader(request: freshet.LoadRequest) -> bytes:
        told.append(request.prefer_primary)
        return b"v"

    hosts[0].invalidate("k")
    hosts[1].get_or_load("k", loader)
    assert told == [True]


def test_a_guard_keeps_what_was_read_before_the_commit_away(hosts: Hosts) -> None:
    a, b = hosts
    with a.guard("k"):
        assert b.get_or_load("k", lambda: b"before the commit") == b"before the commit"
        assert b.get("k") is None
    assert b.get_or_load("k", lambda: b"after") == b"after"
    assert a.get("k", level="latest") == b"after"


def test_redis_away_and_back(hosts: Hosts, server: Server) -> None:
    a, b = hosts
    a.set("k", b"1")
    assert b.get("k") == b"1"
    server.stop()
    change = a.invalidate("k", deadline=0.1)
    assert (change.result, change.confirmed, change.token) == ("QUEUED", False, "")
    assert a.get("k", deadline=0.1) is None
    with pytest.raises(freshet.NetworkError), a.guard("k", deadline=0.1):
        raise AssertionError("there is no guard")
    until(lambda: not b.proven, "the end of the proof")
    assert b.get("k", deadline=0.1) is None
    server.start()
    until(lambda: a.proven and b.proven, "proof again")
    assert until(lambda: b.set("k", b"2", deadline=1).confirmed, "a confirmed change")
    assert a.get("k", level="latest") == b"2"


def test_the_stale_policy_serves_and_marks(opener: Opener, server: Server) -> None:
    cache = opener("s", url=server.url, keyring=server.keyring, policy="stale", max_staleness=0.1)
    cache.set("k", b"1")
    server.stop()
    until(lambda: cache.lookup("k", deadline=0.05).stale, "a stale answer")
    answer = cache.lookup("k", deadline=0.05)
    assert answer.found and answer.value == b"1" and answer.result == "STALE"
    assert cache.get("k", deadline=0.05) == b"1"


def test_unreachable_redis_opens_unproven(opener: Opener, server: Server) -> None:
    server.stop()
    cache = opener("u", url=server.url, keyring=server.keyring, deadline=0.1)
    assert cache.joined and not cache.proven and cache.get("k") is None
    server.start()
    until(lambda: cache.proven, "proof")


def test_leaving_ends_changes_but_for_the_last_call(hosts: Hosts) -> None:
    a, _ = hosts
    with a.guard("k"), pytest.raises(freshet.Busy, match="guards"):
        a.leave()
    a.leave()
    assert not a.joined
    with pytest.raises(freshet.NotJoined):
        a.set("k", b"1")


def test_watching_sees_verified_frames(hosts: Hosts, server: Server) -> None:
    frames = freshet.watch("test", server.url, server.keyring, duration=20)
    stop = threading.Event()

    def keep_changing() -> None:
        while not stop.wait(0.01):
            hosts[0].invalidate("seen")

    thread = threading.Thread(target=keep_changing)
    thread.start()
    try:
        frame = next(frames)
    finally:
        stop.set()
        thread.join()
        frames.close()
    assert frame.verified and frame.kind == "invalidate" and frame.hashes == (freshet.key_hash("test", "seen"),)
    assert list(freshet.watch("other", server.url, server.keyring, duration=0.05)) == []


def test_two_keyrings_of_one_fleet(opener: Opener, server: Server) -> None:
    second = server.keyring.with_name("second")
    freshet.keygen(second, like=server.keyring)
    a = opener("a", url=server.url, keyring=server.keyring)
    b = opener("b", url=server.url, keyring=second)
    a.set("k", b"1")
    assert b.get("k") == b"1"
    with pytest.raises(freshet.FreshetError):
        freshet.keygen(second)


def test_the_thin_layer_has_the_calls_under_their_names(hosts: Hosts, server: Server) -> None:
    from freshet import c

    a, b = hosts
    assert c.freshet_put(a, "k", b"1", tags=["t"])[0] == c.Result.FRESHET_OK
    result, value, answer = c.freshet_get(b, "k")
    assert (result, value) == (c.Result.FRESHET_OK, b"1") and answer is not None
    assert c.freshet_token_of(answer)[0] == c.Result.FRESHET_OK
    result, guard = c.freshet_guard_begin(a, ["k"])
    assert result == 0 and guard is not None and c.freshet_guard_left(guard) > 0
    assert c.freshet_put(b, "k", b"2")[0] == c.Result.FRESHET_GUARDED
    assert c.freshet_guard_end(guard)[0] == c.Result.FRESHET_OK
    assert c.freshet_get(b, "")[0] == c.Result.FRESHET_EINVAL and "empty" in c.freshet_error()
    assert c.freshet_load(b, "k", lambda request: b"3")[:2] == (c.Result.FRESHET_OK, b"3")
    assert c.freshet_result_name(1) == "FRESHET_MISS" and "no entry" in c.freshet_result_text(1)
    a.flush()
    seen: list[bytes] = []
    assert c.freshet_each(a, lambda entry: seen.append(entry.key)) == c.Result.FRESHET_OK and seen == [b"k"]
    frames: list[freshet.Frame] = []

    def show(frame: freshet.Frame | None) -> bool:
        if frame is not None:
            frames.append(frame)
        else:
            a.invalidate("k")
        return not frames

    assert c.freshet_watch("test", 1, server.url, str(server.keyring), show) == c.Result.FRESHET_OK
    assert frames[0].verified and frames[0].kind == "invalidate"
    assert c.freshet_watch("test", 1, "nonsense", str(server.keyring), show) == c.Result.FRESHET_EINVAL


def test_the_thin_layer_lacks_no_call_of_the_headers() -> None:
    from freshet import c

    root = Path(__file__).parents[3]
    headers = [root / "core" / "include" / "freshet.h", root / "backplane" / "include" / "freshet_fleet.h"]
    if not headers[0].exists():
        pytest.skip("not in a checkout: there is no header to compare with")
    calls = re.compile(r"^FRESHET_API .*?(freshet_\w+)\(", re.MULTILINE)
    declared = {name for header in headers for name in calls.findall(header.read_text())}
    # buffers are Python's own business; many at once are Cache.get_many, values in place C's own (c.py)
    missing = {"freshet_buf_set", "freshet_buf_free", "freshet_get_many", "freshet_view"}
    assert declared - set(c.__all__) == missing


def test_a_buffer_that_changes_meanwhile_is_one_value_everywhere(hosts: Hosts) -> None:
    a, b = hosts
    buffer, stop = bytearray(256 << 10), threading.Event()

    def write() -> None:
        while not stop.is_set():
            buffer[:] = bytes([(buffer[0] + 1) % 256]) * len(buffer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            token = a.set("k", buffer).token
            value = a.get("k", token=token)
            assert value is not None and value == b.get("k", token=token) and len(set(value)) == 1
    finally:
        stop.set()
        thread.join()
