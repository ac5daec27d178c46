"""The step controller: the test's end of the named points (points.py).

One listening unix socket; whoever comes to a point connects and says its name, and goes on when it is answered.  Points
that nobody freezes are answered at once.  So the controller need not know the processes, how many there are, nor who
started them, and one that is killed while it stands somewhere is simply gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable

from . import points

HOLD_MAX = 60.0  # seconds that anybody is held, at most: a test that has died must not hold a service for ever


class StepError(AssertionError):
    """Nobody came to a point in time; the message has what was passed instead."""


class Arrival:
    """Somebody who has come to a point: `.point`, `.host`, `.pid`, `.thread`, `.details`, `.at` (CLOCK_BOOTTIME, s)."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.point: str = told["point"]
        self.host: str = told["host"]
        self.pid: int = told["pid"]
        self.thread: str = told["thread"]
        self.details: dict[str, Any] = told["details"]
        self.at = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._go = threading.Event()

    def release(self) -> None:
        """Let this one go on."""
        self._go.set()

    def __repr__(self) -> str:
        return f"<{self.point} in {self.host or 'a process'} (pid {self.pid}, {self.thread})>"


class Freeze:
    """A point at which whoever comes is held.  As a context manager it lets everybody go at the end of the block."""

    def __init__(self, steps: Steps, name: str, host: str | None, times: int | None) -> None:
        self._steps = steps
        self.name = name
        self.host = host
        self._left = times
        self._held: list[Arrival] = []
        self._told = 0  # how many of _held reached() has handed out
        self._open = False

    def reached(self, timeout: float = 10.0) -> Arrival:
        """Wait until somebody stands here whom this has not told of yet, and tell who; StepError after `timeout` s."""
        with self._steps._changed:
            if not self._steps._changed.wait_for(lambda: len(self._held) > self._told, timeout):
                raise StepError(f"nobody came to {self._where()} within {timeout:g} s; {self._steps.passed_text()}")
            self._told += 1
            return self._held[self._told - 1]

    def release(self) -> None:
        """Let go all who stand here, and hold nobody from now on."""
        with self._steps._changed:
            self._open = True
            held = list(self._held)
        for arrival in held:
            arrival.release()

    def _where(self) -> str:
        return repr(self.name) + (f" on host {self.host}" if self.host else "")

    def _takes(self, arrival: Arrival) -> bool:
        if self._open or arrival.point != self.name or (self.host is not None and arrival.host != self.host):
            return False
        if self._left is not None:
            if self._left == 0:
                return False
            self._left -= 1
        self._held.append(arrival)
        return True

    def __enter__(self) -> Freeze:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Steps:
    """The controller.  `.address` is its socket; `close()` lets everybody go.  Any thread may use it."""

    def __init__(self, folder: str) -> None:
        """Listen in `folder`, which must exist and whose path must be shorter than some 90 bytes (a unix socket)."""
        self.address = os.path.join(folder, "steps")
        self.trace: list[Arrival] = []  # everybody who came anywhere, in the order in which they came
        self._wraps: dict[str, str] = {}
        self._freezes: list[Freeze] = []
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.address)
        self._listener.listen(128)
        threading.Thread(target=self._accept, name="steps", daemon=True).start()

    def freeze(self, name: str, *, host: str | None = None, times: int | None = 1) -> Freeze:
        """Hold the next `times` (None: all) who come to the point, on the host of that name or anywhere."""
        freeze = Freeze(self, name, host, times)
        with self._changed:
            self._freezes.append(freeze)
        return freeze

    def passed(self, name: str) -> int:
        """How many have come to the point so far, held ones included."""
        with self._changed:
            return sum(1 for arrival in self.trace if arrival.point == name)

    def wait(self, name: str, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until the point has been come to so many times in all; StepError after `timeout` seconds."""

        def enough() -> bool:
            return sum(1 for arrival in self.trace if arrival.point == name) >= count

        with self._changed:
            if not self._changed.wait_for(enough, timeout):
                raise StepError(f"{name!r} was not passed {count} times within {timeout:g} s; {self.passed_text()}")

    def wrap(self, targets: Mapping[str, str]) -> None:
        """Put points around functions, as `points.wrap` does, in hosts and commands that are started from now on."""
        self._wraps.update(targets)

    def environment(self, host: str = "", base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a command whose points are to be this test's: a server and all its workers.

        `base` (os.environ) with the controller's address, the host's name, and what `wrap` was told.
        """
        environment = dict(os.environ if base is None else base)
        environment.update({points.ADDRESS: self.address, points.HOST: host})
        if self._wraps:
            site = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
            others = environment.get("PYTHONPATH")
            environment[points.WRAP] = json.dumps(self._wraps)
            environment["PYTHONPATH"] = site + (os.pathsep + others if others else "")
        return environment

    def release_all(self) -> None:
        """Let everybody go, everywhere, and freeze nothing any more."""
        with self._changed:
            freezes, self._freezes = self._freezes, []
        for freeze in freezes:
            freeze.release()

    def close(self) -> None:
        """Let everybody go and listen no more: whoever comes later passes at once."""
        self.release_all()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address)

    def passed_text(self) -> str:
        """What was passed so far, for messages."""
        with self._changed:
            names = [arrival.point for arrival in self.trace]
        counts = ", ".join(f"{name} ({names.count(name)})" for name in dict.fromkeys(names))
        return (
            f"passed so far: {counts}"
            if counts
            else ("no point was passed at all: does the process that you wait for run with this test's environment?")
        )

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(line,), name="steps", daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, line.makefile("rb") as lines:
            try:
                told = lines.readline()
                if not told:
                    return
                arrival = Arrival(json.loads(told))
                with self._changed:
                    self.trace.append(arrival)
                    held = any(freeze._takes(arrival) for freeze in self._freezes)
                    self._changed.notify_all()
                if held:
                    arrival._go.wait(HOLD_MAX)
                line.sendall(b"\n")
            except OSError:
                return  # killed where it stood


def until(true: Callable[[], object], timeout: float, what: str) -> None:
    """Wait until `true()` is; AssertionError that names `what` after `timeout` seconds.  Looks 200 times a second."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s")
        time.sleep(0.005)
