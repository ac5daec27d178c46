"""What one session's outermost transaction changes, and the guards it holds for that.

A guard must be in force when the database commits; begun before, it says in time when Redis is away.  Savepoints do
not matter to it: what is rolled back to one keeps its guard until the outer end, which costs a load and nothing else.
Guards lock nobody out (a key may have many), so two transactions cannot wait for one another here.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

import freshet

from .calls import LOG, Held, Step, begin_guard, later, leave, run
from .declare import Kept, Row
from .errors import NotGuarded

KEYS_MAX = 1024  # of a guard, and tags of an invalidation (freshet.h)
AWAY = (freshet.NetworkError, freshet.DeadlinePassed)


def parts(names: frozenset[str]) -> Iterable[frozenset[str]]:
    """In portions that one call takes."""
    ordered = sorted(names)
    for start in range(0, len(ordered), KEYS_MAX):
        yield frozenset(ordered[start : start + KEYS_MAX])


def changed_key(table_tag: str) -> str:
    """The key that stands for "some rows of this table, nobody knows which"; guarded while they change."""
    return f"freshet.sqlalchemy:changed:{table_tag}"


class Work:
    """One outermost transaction."""

    def __init__(self, hold: float, wait: str, refuse: bool) -> None:
        self.hold, self.wait, self.refuse = hold, wait, refuse
        self.caches: dict[str, Any] = {}  # by name
        self.guarded: dict[str, set[str]] = {}  # keys, under a guard or noted as without one
        self.bare: dict[str, set[str]] = {}  # of them: without a guard, to be invalidated
        self.tags: dict[str, set[str]] = {}  # to be invalidated once it is committed
        self.versions: dict[str, dict[str, int]] = {}
        self.tables: set[str] = set()  # table tags already covered
        self.covering: list[list[Kept]] = []  # those whose rows somebody has guarded by name
        self.held: list[Held] = []
        self.commit_begun = False  # from here on it may be committed, whatever the database says or does not
        self.committed = False
        self.rolled_back = False  # the database has said so, or will before anything else is asked of it
        self.broken = ""  # why it must not be committed
        self.seen: dict[Any, Kept] = {}  # states of the running flush whose old row is accounted for
        self.flushed: list[tuple[Kept, Any, bool]] = []  # and those it has written; whether it deleted them
        self.connections: list[Connection] = []
        self.flushing: set[str] = set()  # the tables of all these
        self._end = weakref.finalize(self, _abandoned, self.held)
        self._end.atexit = False

    def guard(self, cache: Any, keys: Iterable[str]) -> None:
        """Guard what is not guarded yet.  Redis away: an error, or noted, as the policy says."""
        fresh = frozenset(keys) - self.guarded.get(cache.name, set())
        self.caches[cache.name] = cache
        for some in parts(fresh):
            try:
                self.held.append(begin_guard(cache, some, self.hold, self.wait))
            except AWAY as error:
                if self.refuse:
                    raise
                LOG.warning("%s: no guard (%s); %d keys are invalidated instead", cache.name, error, len(some))
                self.without(cache, some)
            self.guarded.setdefault(cache.name, set()).update(some)

    def without(self, cache: Any, keys: frozenset[str]) -> None:
        """These have no guard: invalidate them now, so that it is written down even if we die, and at the end."""
        self.bare.setdefault(cache.name, set()).update(keys)
        run([Step(cache, keys=keys)])

    def change(self, kept: Kept, row: Row) -> None:
        """A row of these keys and tags changes."""
        self.guard(kept.cache, row.keys)
        self.tag(kept, row.tags)

    def tag(self, kept: Kept, tags: Iterable[str]) -> None:
        self.caches[kept.cache.name] = kept.cache
        self.tags.setdefault(kept.cache.name, set()).update(tags)

    def versioned(self, kept: Kept, row: Row) -> None:
        """This is the row's version once it is committed."""
        if row.version:
            versions = self.versions.setdefault(kept.cache.name, {})
            for key in row.own:
                versions[key] = max(versions.get(key, 0), row.version)

    def unversioned(self, kept: Kept, row: Row) -> None:
        """The row is gone; what comes under its key one day may begin at 1."""
        for key in row.own:
            self.versions.get(kept.cache.name, {}).pop(key, None)

    def change_table(self, kept: Kept) -> None:
        """Nobody knows which rows change: guard the key that stands for that, then void all entries of the table.

        In this order: who loads from now on sees that guard and keeps nothing; who began to load before is refused by
        the tag.  So nothing old is kept even if we die between the commit and the end.
        """
        if kept.table_tag in self.tables:
            return
        key = changed_key(kept.table_tag)
        try:
            self.guard(kept.cache, [key])
        except freshet.Busy:  # very many transactions at once change this table by statements
            self.without(kept.cache, frozenset([key]))
        run([Step(kept.cache, tags=frozenset([kept.table_tag]))])
        self.tag(kept, [kept.table_tag])
        self.tables.add(kept.table_tag)

    def holds(self, kept: Kept, keys: Iterable[str]) -> bool:
        """Is one of these changed by this transaction?"""
        guarded = self.guarded.get(kept.cache.name, set())
        return any(key in guarded for key in keys) or kept.table_tag in self.tables

    def check(self, enough: float) -> None:
        """NotGuarded unless every guard outlasts the next `enough` seconds."""
        if self.broken:
            raise NotGuarded(f"{self.broken}; nothing was committed: roll back and do it again")
        for held in self.held:
            left = held.left
            if left <= enough:
                what = "was lost" if left <= 0 else f"holds for {left:.3g} s more, and a commit is given {enough:g} s"
                raise NotGuarded(
                    f"{held.cache.name}: the guard on {', '.join(sorted(held.keys)[:8])} {what}; nothing was "
                    "committed: roll back and do it again (a longer `hold`, or Redis nearer, helps if it recurs)"
                )

    def steps(self) -> list[Step]:
        """All that is to be made known now that the transaction has ended, or may have."""
        steps: list[Step] = []
        if self.commit_begun:
            for name, tags in self.tags.items():
                steps += [Step(self.caches[name], tags=some) for some in parts(frozenset(tags))]
        for name, keys in self.bare.items():
            steps += [Step(self.caches[name], keys=some) for some in parts(frozenset(keys))]
        for held in self.held:
            versions = self.versions.get(held.cache.name, {}) if self.committed else {}
            by_version: dict[int, set[str]] = {}
            for key in held.keys:
                by_version.setdefault(versions.get(key, 0), set()).add(key)
            if len(by_version) == 1:
                steps.append(Step(held.cache, held, source_version=next(iter(by_version))))
                continue
            for version, keys in by_version.items():
                if version:
                    steps.append(Step(held.cache, keys=frozenset(keys), source_version=version))
            steps.append(Step(held.cache, held))
        return steps

    @property
    def in_doubt(self) -> bool:
        """COMMIT was sent, and nobody knows what becomes of it: the database may yet get to it."""
        return self.commit_begun and not self.committed and not self.rolled_back

    def end(self) -> None:
        """The transaction is over, one way or the other: end the guards, void the tags.

        In doubt the guards stay for `hold`, as when the process dies: by then the database has ended it.
        """
        self._end.detach()
        steps = self.steps()
        if not steps:
            return
        if self.in_doubt:
            keys = sorted(key for held in self.held for key in held.keys)
            LOG.warning(
                "a COMMIT has no known outcome: nothing is kept of %s for %g s", ", ".join(keys[:8]) or "it", self.hold
            )
            later(steps, self.hold)
            steps = [step for step in steps if step.held is None]
        run(steps)


def _abandoned(held: list[Held]) -> None:
    """The session was thrown away without a close.  A guard that is collected ends itself, and waits for Redis in the
    garbage collector; here nobody waits."""
    if held:
        leave([Step(one.cache, one) for one in held])
