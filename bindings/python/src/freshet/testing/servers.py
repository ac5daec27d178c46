"""Servers of a test's own: a private Redis, and the faulty network (freshet-chaos) in front of it.

Nothing here is shared with another test, and nothing listens where anybody else would look: a fresh directory, unix
sockets in it, and a TCP port of the loopback only if asked for.  Each server is ended by its own process id.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlparse

from freshet import tools

START = 10.0  # seconds that a server has to answer for the first time, and to end

Reply = Union[None, int, bytes, list["Reply"]]  # type: ignore[misc, unused-ignore]


class ServerError(RuntimeError):
    """A server could not be started, or refused what it was told; the message says what to do."""


def fresh_folder(prefix: str = "freshet-", shared_memory: bool = False) -> str:
    """A new directory of mode 0700, its path short enough for unix sockets; in /dev/shm if asked for and there is one.

    The caller removes it.
    """
    inside = "/dev/shm" if shared_memory and os.access("/dev/shm", os.W_OK) else None
    return tempfile.mkdtemp(prefix=prefix, dir=inside)


# Starts the program, says its process id, and ends it when standard input ends: when `Child.end` says so, or when the
# test's process is gone, however it went.
_KEEPER = """
/bin/sh -c 'echo $$; exec "$@"' sh "$@" </dev/null &
read -r line
kill -CONT $! 2>/dev/null
kill $! 2>/dev/null
wait $!
"""


class Child:
    """A program that lives no longer than this process: `.pid` is the program's, `.stdout` what it says there."""

    def __init__(self, *words: str) -> None:
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "sh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self.stdout = self._keeper.stdout
        self.pid = int(self.stdout.readline())

    def gone(self) -> bool:
        """It has ended."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except FileNotFoundError:
            return True
        return stat.rpartition(")")[2].split()[0] in "ZX"

    def end(self) -> None:
        """SIGTERM, SIGKILL if it is still there after START seconds, and wait."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(START)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
        self._keeper.wait()
        self.stdout.close()


def resp(address: str | tuple[str, int], *words: str | bytes, timeout: float = START) -> Reply:
    """One command to a Redis at a unix socket's path or (host, port); its reply.  ServerError for an error reply."""
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as line:
        line.settimeout(timeout)
        line.connect(address)
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        line.sendall(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded))
        with line.makefile("rb") as replies:
            return _reply(replies)


def _reply(replies: Any) -> Reply:
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("Redis closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise ServerError(rest.decode())
    if kind == b"+":
        return bytes(rest)
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else bytes(replies.read(int(rest) + 2)[:-2])
    return None if rest == b"-1" else [_reply(replies) for _ in range(int(rest))]


class Redis:
    """A Redis of this test alone.

    .url    "unix:///...", or "redis://..." from a container; for freshet.Cache and redis.Redis.from_url
    .path   of its unix socket; None in a container
    .port   on 127.0.0.1; None when it has none
    """

    def __init__(self, url: str, path: str | None, port: int | None) -> None:
        self.url = url
        self.path = path
        self.port = port

    def command(self, *words: str | bytes) -> Reply:
        """One command, its reply (bytes, int, None or a list of them); ServerError for an error reply."""
        if self.path is not None:
            return resp(self.path, *words)
        where = urlparse(self.url)
        return resp((where.hostname or "127.0.0.1", where.port or 6379), *words)

    def close(self) -> None:
        """End it and remove what it has left behind."""
        raise NotImplementedError


class RedisServer(Redis):
    """A redis-server of this machine.  `pause` and `resume` stop and continue its process, `stop` and `start` its life
    (its data goes with it)."""

    def __init__(self, program: str, port: bool = False) -> None:
        self.folder = fresh_folder("freshet-redis-")
        path = os.path.join(self.folder, "redis.sock")
        super().__init__("unix://" + path, path, free_port() if port else None)
        self._program = program
        self._child: Child | None = None
        self.start()

    @property
    def pid(self) -> int:
        """Of the server; ServerError when it has been stopped."""
        if self._child is None:
            raise ServerError("this redis-server has been stopped")
        return self._child.pid

    def start(self) -> None:
        """Start it again after `stop`, empty, at the same place."""
        path = str(self.path)
        self._child = Child(
            self._program,
            "--port",
            str(self.port or 0),
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            path,
            "--unixsocketperm",
            "700",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            "--dir",
            self.folder,
            "--logfile",
            os.path.join(self.folder, "log"),
        )
        deadline = time.monotonic() + START
        while True:
            try:
                if resp(path, "PING", timeout=1.0) == b"PONG":
                    return
            except (OSError, ServerError):
                pass
            if self._child.gone() or time.monotonic() > deadline:
                log = Path(self.folder, "log")
                told = log.read_text(errors="replace")[-2000:] if log.exists() else "it left no log"
                self.close()
                raise ServerError(f"{self._program} does not answer at {path}: {told}")
            time.sleep(0.002)

    def stop(self) -> None:
        """End the process; what it held is gone."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def pause(self) -> None:
        """Stop the process where it is (SIGSTOP): connections stay, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisContainer(Redis):
    """A Redis in a container, by testcontainers: where there is no redis-server."""

    def __init__(self, container: Any) -> None:
        self._container = container
        container.start()
        host, port = container.get_container_host_ip(), int(container.get_exposed_port(6379))
        super().__init__(f"redis://{host}:{port}", None, port)

    def close(self) -> None:
        self._container.stop()


def start_redis(port: bool = False) -> Redis:
    """A private Redis: $FRESHET_REDIS_SERVER, or redis-server or valkey-server on the PATH, else testcontainers.

    ServerError when there is none of them.
    """
    program = os.environ.get("FRESHET_REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    if program:
        return RedisServer(program, port)
    try:
        from testcontainers.redis import RedisContainer as Container  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ServerError(
            "there is no redis-server on the PATH: install it (Debian: apt-get install redis-server), name "
            "one in FRESHET_REDIS_SERVER, or pip install testcontainers[redis]"
        ) from None
    return RedisContainer(Container())


def free_port() -> int:
    """A TCP port of 127.0.0.1 at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def chaos_program() -> str:
    """Where freshet-chaos is: $FRESHET_CHAOS, or the package's own (freshet.tools)."""
    try:
        return os.environ.get("FRESHET_CHAOS") or tools.program("freshet-chaos")
    except FileNotFoundError as error:
        raise ServerError(f"the faulty network is not here: {error}, or name the program in FRESHET_CHAOS") from None


class Chaos:
    """A faulty network towards one server; see freshet-chaos(1) for what it can do.

    .url   the same Redis by way of it;   .to   the address behind it, as freshet-chaos writes it
    Durations are seconds.
    """

    def __init__(self, redis: Redis, *commands: str) -> None:
        """Stand in front of this Redis; carry out the commands ("latency 25 jitter 5") before the first connection."""
        self.folder = fresh_folder("freshet-net-")
        self._control = os.path.join(self.folder, "control")
        if redis.path is not None:
            self.to, listen = "unix:" + redis.path, "unix:" + os.path.join(self.folder, "redis.sock")
        else:
            where = urlparse(redis.url)
            self.to, listen = f"tcp:{where.hostname}:{where.port}", "tcp:0"
        words = [chaos_program(), "--listen", listen, "--to", self.to, "--control", self._control]
        for command in commands:
            words += ["--do", command]
        self._child = Child(*words)
        said = self._child.stdout.readline().decode()
        ready = said.split()
        if len(ready) != 2 or ready[0] != "ready":
            self.close()
            raise ServerError(f"freshet-chaos did not start: {said.strip()}")
        kind, _, rest = ready[1].partition(":")
        self.url = "unix://" + rest if kind == "unix" else "redis://" + rest

    @property
    def pid(self) -> int:
        """Of the proxy."""
        return self._child.pid

    def do(self, command: str) -> str:
        """Carry out a command ("reset 40 down next 3"); what it answers.  ServerError if it is refused."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(START)
            line.connect(self._control)
            line.sendall(command.encode() + b"\n")
            with line.makefile("r") as answers:
                answer = answers.readline().rstrip("\n")
        if not answer.startswith("OK"):
            raise ServerError(f"freshet-chaos: {command}: {answer}")
        return answer[3:]

    def latency(self, seconds: float, jitter: float = 0.0) -> None:
        """Whatever comes from now on arrives so much later, each way, and by up to `jitter` later still."""
        self.do(
            f"latency {round(seconds * 1000)} jitter {round(jitter * 1000)}" if seconds or jitter else "latency off"
        )

    def cut(self) -> None:
        """End every connection and refuse new ones, as when the server is gone, until `clear`."""
        self.do("refuse")
        self.do("reset")

    def half_open(self) -> None:
        """Swallow everything and say nothing, as when the other machine has lost its power, until `clear`."""
        self.do("half-open")

    def clear(self) -> None:
        """No fault any more."""
        self.do("clear")

    def stat(self) -> Any:
        """Totals and faults, as freshet-chaos tells them."""
        return json.loads(self.do("stat"))

    def close(self) -> None:
        """End it; its sockets go with it."""
        self._child.end()
        shutil.rmtree(self.folder, ignore_errors=True)
