"""Hosts of a test: processes that share nothing with one another but what a host's processes share.

Each host has a directory of its own (for its tier), a keyring of its own, and its own way to Redis, through a faulty
network if asked for.  Its processes are new Pythons, not forks of the test's: nothing of the test's memory, threads or
connections comes along.  Functions travel by name, as with multiprocessing's spawn; what goes in and out is pickled.
A process runs any number of calls at once, each in a thread of its own, and coroutine functions all on one event
loop, so a call that a test has frozen holds up no other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any, Callable, Union

from . import servers
from .steps import Steps

Function = Union[str, Callable[..., Any]]


@dataclass(frozen=True)
class HostInfo:
    """What a host's processes are told; `setup` gets it.

    name      "A", "B", ...                   dir      a directory of the host's own, for its tier
    shared    a directory that all hosts of the test see, for a database in a file, say
    redis     url of Redis (by way of its faulty network if it has one); None: a test without Redis
    keyring   path of the host's keyring; None without Redis
    process   number of the process on its host, from 0
    """

    name: str
    dir: str
    shared: str
    redis: str | None
    keyring: str | None
    process: int = 0


class HostError(RuntimeError):
    """A host's process ended, or could not run its setup; the message has what it left behind."""


class RemoteTrace(Exception):
    """Stands behind an exception that a host's process raised (its __cause__): where it was raised, as text."""


@dataclass(frozen=True)
class Reference:
    """A function by name: of an importable module, or of a file that is loaded under the module's name."""

    module: str
    path: str
    file: str | None


def reference(function: Callable[..., Any]) -> Reference:
    """How another process finds this function.  ValueError for one without a name there (a lambda)."""
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "<unnamed>")
    if not module or "<" in path:
        raise ValueError(f"{path} cannot be named in another process: define the function at the top of a module")
    return Reference(module, path, getattr(sys.modules.get(module), "__file__", None))


class Call:
    """A call that runs on a host."""

    def __init__(self, where: str) -> None:
        self._future: Future[Any] = Future()
        self._where = where

    def result(self, timeout: float = 30.0) -> Any:
        """What it returned, or raises what it raised.  TimeoutError after so many seconds."""
        try:
            return self._future.result(timeout)
        except TimeoutError:
            raise
        except Exception as error:
            if type(error).__name__ == "TimeoutError" and not self._future.done():  # before Python 3.11 it is another
                raise TimeoutError(f"a call on {self._where} has not returned within {timeout:g} s") from None
            raise

    def done(self) -> bool:
        """It has returned, or raised."""
        return self._future.done()


class Process:
    """One process of a host."""

    def __init__(self, info: HostInfo, steps: Steps | None, setup: Callable[..., Any] | None) -> None:
        self.info = info
        self.where = f"{info.name}.{info.process}"
        ours, theirs = socketpair()
        environment = steps.environment(info.name) if steps else dict(os.environ)
        self._log = os.path.join(info.dir, f"process-{info.process}.log")
        with theirs, open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"from freshet.testing.worker import main; main({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._line = Connection(ours.detach())
        self._watch: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._count = 0
        threading.Thread(target=self._listen, name=f"host {self.where}", daemon=True).start()
        first = reference(setup) if setup else None
        self.ready = self._send(sys.path, info, first)

    def start(self, function: Function, args: Sequence[Any], kwargs: Mapping[str, Any], bare: bool = False) -> Call:
        named: str | Reference = function if isinstance(function, str) else reference(function)
        return self._send(named, tuple(args), dict(kwargs), bare)

    def _send(self, *message: Any) -> Call:
        call = Call(self.where)
        with self._lock:
            self._count += 1
            number = self._count
            self._calls[number] = call
            try:
                self._line.send((number, *message))
            except (OSError, ValueError):
                self._calls.pop(number)
                call._future.set_exception(HostError(self._ended()))
        return call

    def _listen(self) -> None:
        while True:
            try:
                number, worked, value = self._line.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                call = self._calls.pop(number)
            if worked:
                call._future.set_result(value)
            else:
                error, trace = value
                error.__cause__ = RemoteTrace(f"on host {self.where}:\n{trace}")
                call._future.set_exception(error)
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call._future.set_exception(HostError(self._ended()))

    def _ended(self) -> str:
        told = Path(self._log).read_text(errors="replace")[-2000:].strip() if os.path.exists(self._log) else ""
        return f"process {self.where} (pid {self.process.pid}) has ended" + (f"; it said:\n{told}" if told else "")

    def pause(self) -> None:
        """Stop it where it is.  It would not notice the end of the test's process, so somebody else does."""
        if self._watch is None:
            self._watch = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r line || kill -KILL "$1"', "sh", str(self.process.pid)], stdin=subprocess.PIPE
            )
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)
        if self._watch is not None:
            self._watch.communicate(b"\n")
            self._watch = None

    def close(self) -> None:
        """Let it close what its setup opened, and end it."""
        with self._lock, contextlib.suppress(OSError, ValueError):  # ended before
            self._line.send(None)
        self.resume()  # one that stands still would not hear of it
        try:
            self.process.wait(servers.START)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait()
        with self._lock:
            self._line.close()


class Host:
    """One host: `.name`, `.info`, `.processes`, and `.chaos`, its faulty network if it was given one."""

    def __init__(self, info: HostInfo, processes: list[Process], chaos: servers.Chaos | None) -> None:
        self.name = info.name
        self.info = info
        self.processes = processes
        self.chaos = chaos

    def start(self, function: Function, *args: Any, process: int = 0, **kwargs: Any) -> Call:
        """Begin a call in the process of that number.

        `function` is a function or coroutine function at the top of a module (or a class's, `Service.read`), and is
        called with what `setup` returned, if there is one, before `args`; or it is the name of a method of that object.
        """
        return self.processes[process].start(function, args, kwargs)

    def call(self, function: Function, *args: Any, process: int = 0, **kwargs: Any) -> Any:
        """`start` and wait at most 30 seconds: what it returned, or raises what it raised."""
        return self.start(function, *args, process=process, **kwargs).result()

    def kill(self, process: int = 0) -> None:
        """kill -9 one of its processes; calls in it raise HostError."""
        self.processes[process].process.kill()
        self.processes[process].process.wait()

    def pause(self, process: int = 0) -> None:
        """Stop one of its processes where it is (SIGSTOP)."""
        self.processes[process].pause()

    def resume(self, process: int = 0) -> None:
        """Let it go on."""
        self.processes[process].resume()


class Hosts:
    """Makes hosts for one test, and ends them."""

    def __init__(self, redis: servers.Redis | None, steps: Steps | None = None) -> None:
        self.redis = redis
        self.steps = steps
        self.all: list[Host] = []
        self._folder: str | None = None
        self._count = 0

    def __call__(
        self,
        count: int = 2,
        *,
        setup: Callable[..., Any] | None = None,
        processes: int = 1,
        latency: float | None = None,
    ) -> list[Host]:
        """Start `count` hosts of so many processes each, and wait until their setup has returned.

        setup     called in each process with a HostInfo; what it returns is the first argument of every function that
                  is called there.  A context manager is entered, and left when the process ends.
        latency   seconds that Redis is away, each way: puts a faulty network in front of it for each host, `.chaos`.
        """
        infos = [self._info(latency) for _ in range(count)]
        hosts = []
        for info, chaos in infos:
            of_host: list[Process] = []
            host = Host(info, of_host, chaos)
            self.all.append(host)
            hosts.append(host)
            for number in range(processes):
                of_host.append(Process(replace(info, process=number), self.steps, setup))
        for host in hosts:
            for process in host.processes:
                process.ready.result()
        return hosts

    def _info(self, latency: float | None) -> tuple[HostInfo, servers.Chaos | None]:
        if self._folder is None:
            self._folder = servers.fresh_folder("freshet-hosts-", shared_memory=True)
            os.mkdir(os.path.join(self._folder, "shared"))
        shared = os.path.join(self._folder, "shared")
        name = chr(ord("A") + self._count)
        self._count += 1
        folder = os.path.join(self._folder, name)
        os.mkdir(folder, 0o700)
        if self.redis is None:
            return HostInfo(name, folder, shared, None, None), None
        chaos = None
        if latency is not None:
            chaos = servers.Chaos(self.redis)
            chaos.latency(latency)
        url = chaos.url if chaos else self.redis.url
        return HostInfo(name, folder, shared, url, keyring(self._folder, name)), chaos

    def close(self) -> None:
        """End every process, then the networks, and remove the directories."""
        for host in self.all:
            for process in host.processes:
                process.close()
        for host in self.all:
            if host.chaos is not None:
                host.chaos.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.all = []


def keyring(folder: str, name: str) -> str:
    """Write a keyring for one more host to folder/name/keyring, and let all keyrings in `folder` trust one another."""
    import freshet

    path = Path(folder, name, "keyring")
    others = [other for other in sorted(Path(folder).glob("*/keyring")) if other != path]
    freshet.keygen(str(path), like=str(others[0]) if others else None)
    trusted: dict[str, None] = {}
    for each in [*others, path]:
        for line in each.read_text().splitlines():
            if line.startswith("trust"):
                trusted.setdefault(line)
    for each in [*others, path]:
        text = each.read_text()
        missing = [line for line in trusted if line not in text.splitlines()]
        if missing:
            each.write_text(text + ("" if text.endswith("\n") else "\n") + "\n".join(missing) + "\n")
    return str(path)
