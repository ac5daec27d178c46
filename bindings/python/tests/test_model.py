"""A state machine against a model: one host's cache is a dictionary with tags, namespaces and guards."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import freshet

KEYS = st.sampled_from(["a", "b", "ü", b"\xff\x00"])
VALUES = st.one_of(st.binary(max_size=40), st.binary(min_size=4000, max_size=9000))
TAGS = st.sampled_from(["t1", "t2", "t3"])
SPACES = st.sampled_from([None, "n1", "n2"])


class CacheModel(RuleBasedStateMachine):
    """The model: key -> (value or None for a known absence, tags, namespace).

    What was stored must be found until it is voided: the tier is large enough for everything here.  What a load stores
    may come late, so each load is flushed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.where = tempfile.mkdtemp(prefix="freshet-model-", dir="/dev/shm")
        self.caches = [freshet.Cache("model", dir=self.where + "/tier", tier_size=4 << 20) for _ in range(2)]
        self.model: dict[bytes, tuple[bytes | None, frozenset[str], str | None]] = {}
        self.guards: dict[bytes, freshet.Guard] = {}

    def teardown(self) -> None:
        for guard in self.guards.values():
            guard.end()
        for cache in self.caches:
            cache.close()
        shutil.rmtree(self.where)

    @staticmethod
    def name(key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def stored(self, change: freshet.Change, key: str | bytes, entry: Any) -> None:
        if self.name(key) in self.guards:
            assert change.result == "GUARDED"
            self.model.pop(self.name(key), None)
        else:
            assert change.result == "OK"
            self.model[self.name(key)] = entry

    @rule(key=KEYS, value=VALUES, tags=st.frozensets(TAGS), space=SPACES, by=st.integers(0, 1))
    def set(self, key: Any, value: bytes, tags: frozenset[str], space: str | None, by: int) -> None:
        change = self.caches[by].set(key, value, tags=sorted(tags), namespace=space)
        self.stored(change, key, (value, tags, space))

    @rule(key=KEYS, tags=st.frozensets(TAGS), by=st.integers(0, 1))
    def set_absent(self, key: Any, tags: frozenset[str], by: int) -> None:
        self.stored(self.caches[by].set_absent(key, tags=sorted(tags)), key, (None, tags, None))

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3), by=st.integers(0, 1))
    def invalidate(self, keys: list[Any], by: int) -> None:
        assert self.caches[by].invalidate(*keys).confirmed
        for key in keys:
            self.model.pop(self.name(key), None)

    @rule(tags=st.lists(TAGS, min_size=1, max_size=2), by=st.integers(0, 1))
    def invalidate_tags(self, tags: list[str], by: int) -> None:
        assert self.caches[by].invalidate_tags(*tags).confirmed
        self.model = {key: entry for key, entry in self.model.items() if not entry[1] & set(tags)}

    @rule(space=st.sampled_from(["n1", "n2"]), by=st.integers(0, 1))
    def clear_namespace(self, space: str, by: int) -> None:
        assert self.caches[by].clear_namespace(space).confirmed
        self.model = {key: entry for key, entry in self.model.items() if entry[2] != space}

    @rule(by=st.integers(0, 1))
    def clear(self, by: int) -> None:
        assert self.caches[by].clear().confirmed
        self.model.clear()

    @rule(key=KEYS, value=st.one_of(st.none(), VALUES), tags=st.frozensets(TAGS), by=st.integers(0, 1))
    def load(self, key: Any, value: bytes | None, tags: frozenset[str], by: int) -> None:
        name = self.name(key)
        known = self.model.get(name)
        asked: list[int] = []

        def loader() -> bytes | None:
            asked.append(1)
            return value

        got = self.caches[by].get_or_load(key, loader, tags=sorted(tags))
        self.caches[by].flush()
        assert got == (known[0] if known else value)
        assert bool(asked) == (known is None)
        if known is None and name not in self.guards:
            self.model[name] = (value, tags, None)

    @rule(key=KEYS, by=st.integers(0, 1))
    def guard(self, key: Any, by: int) -> None:
        name = self.name(key)
        if name not in self.guards:
            self.guards[name] = self.caches[by].guard(key).begin()
        else:
            assert self.guards.pop(name).end().result == "OK"
        self.model.pop(name, None)

    @precondition(lambda self: True)
    @rule(by=st.integers(0, 1))
    def reopen(self, by: int) -> None:
        if not self.guards:
            self.caches[by].close()
            self.caches[by] = freshet.Cache("model", dir=self.where + "/tier", tier_size=4 << 20)

    @invariant()
    def both_show_the_model(self) -> None:
        for cache in self.caches:
            for key in ("a", "b", "ü", b"\xff\x00"):
                answer = cache.lookup(key)
                entry = self.model.get(self.name(key))
                if entry is None:
                    assert answer.result == "MISS", (key, answer)
                elif entry[0] is None:
                    assert answer.absent, (key, answer)
                else:
                    assert answer.value == entry[0], (key, answer)


TestModel = CacheModel.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
