"""The oracle: from what was written and read, when, it judges whether a cache served anything it must not have.

It knows nothing of caches.  It is told of writes (the value, when the call began, when it had returned) and of reads
(likewise), all on one clock of this machine (CLOCK_BOOTTIME), and holds them against one sentence:

    a read that began more than `within` seconds after a write had returned gives no value from before that write.

Whatever could still be right is taken as right: writes that overlap in time may have taken effect in either order, a
write that failed may have taken effect or not, and of several writes of one value the newest counts.  So what it calls
stale is stale.  It needs values that tell one write from another; two writes of equal values hide each other.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

NEVER = float("inf")
SHOWN = 12  # events around a stale read that a message shows


def now() -> float:
    """The oracle's clock: CLOCK_BOOTTIME in seconds, the same in all processes of the machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Event:
    """A read or a write.  `ended` is when the call had returned; of a write that failed NEVER: it may count or not."""

    kind: str  # "read" or "write"
    key: Any
    value: Any
    begun: float
    ended: float
    by: str = ""  # who: a host, a thread


@dataclass(frozen=True)
class Stale:
    """A read that must not have been: it gave what `after` had replaced; None: nobody ever wrote what it gave."""

    read: Event
    after: Event | None

    @property
    def seconds(self) -> float:
        """How long before the read began the newer write had returned."""
        return self.read.begun - self.after.ended if self.after else NEVER


@dataclass
class Verdict:
    """What the oracle found: how much it saw, what was stale beyond `within`, and the longest staleness of all (s)."""

    within: float
    reads: int = 0
    writes: int = 0
    failed: int = 0  # of the writes
    bound: int = 0  # of the reads: those that began more than `within` after a write, and so could have been stale
    stale: list[Stale] = field(default_factory=list)
    longest: float = 0.0  # of any read, within the bound too; 0.0: none was behind at all


class Seen:
    """What a block of History.reading has read; None until it says so."""

    value: Any = None


class _Writes:
    """The writes of one key, so that the one a read should have seen is found by two searches."""

    def __init__(self, events: Sequence[Event], initial: Sequence[Any]) -> None:
        self.by_value: list[tuple[Any, list[Event]]] = []
        self.known: dict[Any, list[Event]] = {}
        ordered = sorted((event for event in events if event.ended < NEVER), key=lambda event: event.begun)
        self.begun = [event.begun for event in ordered]
        self.first_done: list[Event] = [*ordered]  # of this and all that began later the one that was done first
        for i in range(len(ordered) - 2, -1, -1):
            if self.first_done[i + 1].ended < ordered[i].ended:
                self.first_done[i] = self.first_done[i + 1]
        for event in events:
            self._list(event.value).append(event)
        for value in initial:
            self._list(value).append(Event("write", None, value, -NEVER, -NEVER, "before the test"))

    def _list(self, value: Any) -> list[Event]:
        try:
            return self.known.setdefault(value, [])
        except TypeError:  # a list or a dict: found by looking at all of them
            for other, events in self.by_value:
                if other == value:
                    return events
            self.by_value.append((value, []))
            return self.by_value[-1][1]

    def of(self, value: Any) -> list[Event]:
        return self._list(value)

    def replaced_by(self, event: Event) -> Event | None:
        """Of the writes that began after this one had returned: the one that returned first."""
        at = bisect.bisect_right(self.begun, event.ended)
        return self.first_done[at] if at < len(self.begun) else None


class History:
    """Reads and writes, told one by one from any thread, and the judgement of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._initial: dict[Any, list[Any]] = {}
        self._lock = threading.Lock()

    def initial(self, key: Any, value: Any) -> None:
        """`key` had this value before the first write.  Untold, the first value that nobody wrote is taken for it."""
        self._initial.setdefault(key, []).append(value)

    def wrote(self, key: Any, value: Any, begun: float, ended: float, by: str = "") -> None:
        """A write, and when its call began and had returned (by `now()`); ended NEVER: its fate is unknown.

        A deletion is a write of what reads give then, mostly None.
        """
        self.add([Event("write", key, value, begun, ended, by)])

    def read(self, key: Any, value: Any, begun: float, ended: float, by: str = "") -> None:
        """A read, what it gave, and when its call began and had returned (by `now()`)."""
        self.add([Event("read", key, value, begun, ended, by)])

    def add(self, events: Sequence[Event]) -> None:
        """Many at once, as `drive` brings them from a host."""
        with self._lock:
            self.events.extend(events)

    @contextlib.contextmanager
    def writing(self, key: Any, value: Any, by: str = "") -> Iterator[None]:
        """The block writes this value; a block that raises has a write whose fate is unknown."""
        begun = now()
        ended = NEVER
        try:
            yield
            ended = now()
        finally:
            self.wrote(key, value, begun, ended, by)

    @contextlib.contextmanager
    def reading(self, key: Any, by: str = "") -> Iterator[Seen]:
        """The block reads, and sets `.value` of what it is given; one that raises has read nothing."""
        seen = Seen()
        begun = now()
        yield seen
        self.read(key, seen.value, begun, now(), by)

    def elapse(self, seconds: float) -> None:
        """Wait until so much time has passed since the last write had returned: what is read then is bound by it."""
        with self._lock:
            ended = [event.ended for event in self.events if event.kind == "write" and event.ended < NEVER]
        while ended and now() <= max(ended) + seconds:
            time.sleep(max(0.0, max(ended) + seconds - now()) + 0.001)

    def judge(self, within: float) -> Verdict:
        """Hold every read against the sentence above, with `within` seconds."""
        with self._lock:
            events = list(self.events)
        verdict = Verdict(within)
        by_key: dict[Any, list[Event]] = {}
        for event in events:
            by_key.setdefault(event.key, []).append(event)
        for key, of_key in by_key.items():
            self._judge_key(key, of_key, verdict)
        verdict.stale.sort(key=lambda stale: stale.read.begun)
        return verdict

    def _judge_key(self, key: Any, events: Sequence[Event], verdict: Verdict) -> None:
        writes = _Writes([event for event in events if event.kind == "write"], self._initial.get(key, ()))
        reads = sorted((event for event in events if event.kind == "read"), key=lambda event: event.begun)
        verdict.reads += len(reads)
        verdict.writes += len(events) - len(reads)
        verdict.failed += sum(event.kind == "write" and event.ended == NEVER for event in events)
        first = min((event.ended for event in events if event.kind == "write"), default=NEVER)
        verdict.bound += sum(read.begun > first + verdict.within for read in reads)
        guessed = key in self._initial
        for read in reads:
            sources = [write for write in writes.of(read.value) if write.begun <= read.ended]
            if not sources and not guessed:
                sources, guessed = writes.of(read.value), True
                sources.append(Event("write", key, read.value, -NEVER, -NEVER, "before the test"))
            if not sources:
                verdict.stale.append(Stale(read, None))
                continue
            replaced = [writes.replaced_by(write) for write in sources]
            if any(write is None or write.ended >= read.begun for write in replaced):
                continue  # it may still have been the newest when the read began
            stale = min((Stale(read, write) for write in replaced), key=lambda each: each.seconds)
            verdict.longest = max(verdict.longest, stale.seconds)
            if stale.seconds > verdict.within:
                verdict.stale.append(stale)

    def story(self, stale: Stale) -> str:
        """The history that shows a stale read: what happened to its key up to it, a line each, times from the first."""
        with self._lock:
            events = [event for event in self.events if event.key == stale.read.key]
        events = sorted((event for event in events if event.begun <= stale.read.begun), key=lambda event: event.begun)
        source = [event for event in events if event.kind == "write" and event.value == stale.read.value]
        chosen = {id(event): event for event in [*source[-1:], *events[-SHOWN:], stale.read]}
        if stale.after:
            chosen[id(stale.after)] = stale.after
        shown = sorted(chosen.values(), key=lambda event: event.begun)
        start = shown[0].begun
        lines = [_line(event, start, stale) for event in shown]
        left_out = len(events) - len(shown)
        return "\n".join(lines + ([f"  ({left_out} more events of this key are not shown)"] if left_out > 0 else []))


def _line(event: Event, start: float, stale: Stale) -> str:
    until = "fate unknown" if event.ended == NEVER else f"{event.ended - start:9.4f}"
    mark = "  <- stale" if event is stale.read else "  <- should have been seen" if event is stale.after else ""
    does = f"writes {event.value!r}" if event.kind == "write" else f"reads  {event.value!r}"
    return f"  {event.begun - start:9.4f} .. {until} s  {event.by or '-':<12} {does}{mark}"


def complaint(history: History, verdict: Verdict) -> str:
    """The message for a verdict with stale reads."""
    first = verdict.stale[0]
    if first.after is None:
        head = f"{first.read.by or 'a reader'} read {first.read.value!r} of {first.read.key!r}, which nobody wrote"
    else:
        head = (
            f"{first.read.by or 'a reader'} read {first.read.value!r} of {first.read.key!r}, {first.seconds:.4f} s "
            f"after the write of {first.after.value!r} had returned ({verdict.within:g} s are allowed)"
        )
    counts = (
        f"{len(verdict.stale)} of {verdict.reads} reads are stale, the longest by {verdict.longest:.4f} s "
        f"({verdict.writes} writes)"
    )
    return f"{head}\n{history.story(first)}\n{counts}"
