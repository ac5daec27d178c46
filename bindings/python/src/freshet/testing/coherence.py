"""`assert_coherent`: a history, load for it, and a failure that shows the stale read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

from .drive import Load, drive, drive_on_host
from .hosts import Call, Function, Host, reference
from .oracle import Event, History, Verdict, complaint


class Coherence(History):
    """Notes writes and reads (see History), drives load, and judges: `coherent(within=0.5)`."""

    def __init__(self) -> None:
        super().__init__()
        self.judged = True  # all that was noted; a test that notes and does not judge has shown nothing

    def add(self, events: Sequence[Event]) -> None:
        super().add(events)
        self.judged = self.judged and not events

    def __call__(self, within: float) -> Verdict:
        """Judge all that was noted: AssertionError, with the history that shows it, if a read was stale.

        within   seconds that a read may give what a newer write has replaced, counted from that write's return; 0: none
        Returns what was seen (Verdict).  Also fails when there is nothing to judge: no read at all, or none that began
        more than `within` after a write of its key had returned, so that no answer could have been wrong.
        """
        verdict = self.judge(within)
        self.judged = True
        if verdict.stale:
            raise AssertionError(complaint(self, verdict))
        if not verdict.reads:
            raise AssertionError("no read was noted, so nothing was shown: tell `reading`, `read` or `drive` of some")
        if not verdict.bound:
            raise AssertionError(
                f"no read began more than {within:g} s after a write of its key had returned ({verdict.writes} writes, "
                f"{verdict.failed} of them failed), so nothing was shown: read for longer, or `elapse`, or see why "
                "writes fail"
            )
        return verdict

    def drive(
        self,
        read: Function | Mapping[str, Callable[..., Any]],
        write: Function | None,
        *,
        hosts: Sequence[Host] | None = None,
        keys: Sequence[Any] = range(4),
        seconds: float = 1.0,
        readers: int = 2,
        writers: int = 1,
        pause: float = 0.001,
        seed: int = 1,
        misses: Sequence[Any] = (),
    ) -> Verdict:
        """Read and write `keys` at once from everywhere, note all of it, and return how that stands (within 0).

        With `hosts`: in each of their processes, as Host.start calls functions: `read(state, key)` returns the value,
        `write(state, key, value)` writes it.  Without: in this process, `read(key)` and `write(key, value)`; `read` may
        then be a mapping of names to functions, one for each place that can be read (two servers, say).

        seconds    how long         readers, writers   so many in each process, threads or tasks
        pause      seconds between one's calls         seed   of the order of keys
        misses     what a read gives that has found nothing, if that is no answer: a bare `cache.get` gives (None,)
        A read that raises ends it and raises here; a write that raises is one of unknown fate.
        """
        load = Load(list(keys), seconds, readers, writers, pause, seed, tuple(misses))
        if hosts is None:
            self._drive_here(load, read, write)
        else:
            self._drive_hosts(load, read, write, hosts)
        return self.judge(0.0)

    def _drive_hosts(self, load: Load, read: Any, write: Any, hosts: Sequence[Host]) -> None:
        named = [each if each is None or isinstance(each, str) else reference(each) for each in (read, write)]
        calls: list[Call] = [
            process.start(drive_on_host, (load, process.where, *named), {}, bare=True)
            for host in hosts
            for process in host.processes
        ]
        for call in calls:
            self.add(call.result(load.seconds + 60.0))

    def _drive_here(self, load: Load, read: Any, write: Any) -> None:
        places = dict(read) if isinstance(read, Mapping) else {"here": read}
        with ThreadPoolExecutor(len(places)) as pool:
            futures = [
                pool.submit(drive, load, name, function, write if number == 0 else None)
                for number, (name, function) in enumerate(places.items())
            ]
            for future in futures:
                self.add(future.result())
