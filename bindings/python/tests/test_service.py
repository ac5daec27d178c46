"""The example service: two hosts of two true workers each, under load; what a client has written it reads, anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

import freshet
from freshet.testing import Chaos, Coherence, HostInfo, Hosts, servers
from freshet.testing.steps import until

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "service"


class Reply(NamedTuple):
    """What a request was answered."""

    status: int
    body: Any
    headers: Any


class Service:
    """One host's server, as a client sees it."""

    def __init__(self, host: HostInfo, chaos: Chaos | None, words: list[str]) -> None:
        self.chaos = chaos
        self.port = servers.free_port()
        environment = {
            **os.environ,
            "SHOP_REDIS": str(host.redis),
            "SHOP_KEYRING": str(host.keyring),
            "SHOP_TIER": os.path.join(host.dir, "tier"),
            "SHOP_DATABASE": os.path.join(host.shared, "shop.db"),
            "PYTHONPATH": os.pathsep.join([str(EXAMPLE), str(HERE), *sys.path]),
        }
        words = [word.format(port=self.port) for word in words]
        self.log = os.path.join(host.dir, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words], env=environment, stdout=log, stderr=log, cwd=host.dir
            )

    def ask(self, path: str, put: Any = None, headers: Any = None) -> Reply:
        """One request, on a connection of its own, so that any worker may take it."""
        data = None if put is None else json.dumps(put).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data,
            {"Content-Type": "application/json", **(headers or {})},
            method="GET" if put is None else "PUT",
        )
        try:
            with urllib.request.urlopen(request, timeout=20.0) as reply:
                return Reply(reply.status, json.load(reply), reply.headers)
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, json.load(error), error.headers)

    def answers(self) -> bool:
        """It does; AssertionError with its log when it has ended instead."""
        assert self.process.poll() is None, Path(self.log).read_text()[-3000:]
        with suppress(OSError):
            return bool(self.ask("/health").body["proven"])
        return False

    def workers(self) -> set[int]:
        """Who has answered, of many requests."""
        return {self.ask("/health").body["worker"] for _ in range(20)}

    def read(self, number: int) -> Any:
        reply = self.ask(f"/items/{number}")
        return reply.body["name"] if reply.status == 200 else None

    def write(self, number: int, name: str) -> None:
        assert self.ask(f"/items/{number}", {"name": name, "price": 1}).status == 200

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(servers.START)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


UVICORN = ["uvicorn", "app:app", "--workers", "2", "--port", "{port}", "--log-level", "warning"]
GUNICORN = ["gunicorn", "-k", "uvicorn.workers.UvicornWorker", "-w", "2", "-b", "127.0.0.1:{port}", "--preload"]
SERVERS = [
    pytest.param(UVICORN, id="uvicorn --workers 2"),
    pytest.param([*GUNICORN, "app:app"], id="gunicorn --preload"),
    pytest.param([*GUNICORN, "service_preloaded:app"], id="gunicorn --preload, cache opened before the fork"),
]


@pytest.fixture
def services(freshet_hosts: Hosts) -> Iterator[Callable[..., list[Service]]]:
    """Two hosts, each with a server of two workers."""
    started: list[Service] = []

    def start(words: list[str], latency: float | None = None) -> list[Service]:
        pytest.importorskip(words[0])
        for host in freshet_hosts(2, latency=latency):
            started.append(Service(host.info, host.chaos, words))
        for service in started:
            until(service.answers, 30.0, "the service answers")
        return started

    yield start
    for service in started:
        service.close()


@pytest.mark.parametrize("words", SERVERS)
def test_two_hosts_of_two_workers_are_coherent_under_load(
    services: Callable[..., list[Service]], words: list[str], assert_coherent: Coherence
) -> None:
    a, b = services(words)
    until(lambda: len(a.workers()) == 2, 20.0, "both workers answer")
    for number in range(1, 4):
        with assert_coherent.writing(number, "first"):
            a.write(number, "first")
    places = {"A": a.read, "B": b.read}
    assert_coherent.drive(places, a.write, keys=range(1, 4), seconds=2.0, pause=0.002)
    assert assert_coherent(within=0.5).reads > 50
    assert a.process.poll() is None
    assert not re.search("Traceback|Segmentation|ERROR", Path(a.log).read_text())


def test_what_a_client_has_written_it_reads_on_the_other_host(services: Callable[..., list[Service]]) -> None:
    """The other host hears nothing for a while: within its bound it serves what it has, but not to who has a token."""
    a, b = services(UVICORN, latency=0.0)
    assert b.chaos is not None
    a.write(7, "first")
    behind = 0
    for number in range(6):
        until(lambda: b.ask("/items/7").headers["Freshet-Source"] == "tier", 20.0, "host B has it in memory")
        b.chaos.do("pause")
        reply = a.ask("/items/7", {"name": f"number {number}", "price": number})
        behind += b.ask("/items/7").body["name"] != f"number {number}"
        if number % 2:
            headers = {"Cookie": reply.headers["Set-Cookie"].partition(";")[0]}
        else:
            headers = {"Freshet-Token": reply.headers["Freshet-Token"]}
        assert b.ask("/items/7", headers=headers).body["name"] == f"number {number}"
        b.chaos.do("resume")
    assert behind > 0  # or the token was not put to the test


def test_what_is_not_there_and_what_clients_make_up(services: Callable[..., list[Service]]) -> None:
    a, b = services(UVICORN)
    assert a.ask("/items/99").status == 404
    again = a.ask("/items/99")
    assert again.status == 404
    b.write(99, "there now")
    until(lambda: a.read(99) == "there now", 5.0, "the other host sees that it is there now")
    assert a.ask("/items/99", headers={"Cookie": "freshet=%00garbage", "Freshet-Token": "nonsense"}).status == 200
    until(lambda: a.ask("/items/99").headers["Freshet-Source"] == "tier", 5.0, "it is answered from memory")


def test_a_change_whose_client_has_gone_is_guarded_to_its_end(
    freshet_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is cancelled while a thread is about to commit, which it does all the same."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.db"))
    import app
    from starlette.requests import Request
    from starlette.responses import Response

    about, go_on = threading.Event(), threading.Event()
    kept: list[bool] = []

    class Slow(app.Database):
        def write(self, number: int, item: app.Item) -> None:
            about.set()
            assert go_on.wait(10)
            cache.load(f"item:{number}", lambda: "old")
            cache.flush()
            kept.append(cache.get(f"item:{number}") == "old")
            super().write(number, item)

    async def cancelled() -> None:
        service = app.create_app(cache)
        service.state.cache, service.state.database = cache, Slow(str(tmp_path / "shop.db"))
        request = Request({"type": "http", "app": service, "headers": []})
        task = asyncio.create_task(app.write_item(1, app.Item(name="new", price=1), request, Response()))
        assert await asyncio.to_thread(about.wait, 10)
        task.cancel()
        await asyncio.sleep(0.1)
        go_on.set()
        with suppress(asyncio.CancelledError):
            await task

    with freshet.Cache("shop", dir=freshet_dir, serializer=freshet.JSON) as cache:
        asyncio.run(cancelled())
    assert kept == [False]
