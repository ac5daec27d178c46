"""What calls answer: see Answer for reads, Change for changes, LoadRequest for what a loader is told."""

from __future__ import annotations

from typing import NamedTuple

from ._freshet import Answer, Change, LoadRequest
from ._loaders import ABSENT, Absent

__all__ = ["ABSENT", "Absent", "Answer", "Change", "Entry", "LoadRequest", "Stats"]


class Stats(dict[str, int]):
    """The library's statistics (freshet_stats) by name: ``stats["hits"]`` or ``stats.hits``.

    Counters are of the whole tier, all processes, since it was created.
    """

    def __getattr__(self, name: str) -> int:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"freshet_stats has no {name}") from None


class Entry(NamedTuple):
    """One record of the tier."""

    key: bytes
    value_size: int
    """bytes"""
    absent: bool
    servable: bool
    """it would be served now"""
    why: str
    """if not: "fence", "floor", "clear", "tag", "epoch", "expired", "age", "pending"; else "" """
    age_bound: float | None
    """seconds"""
    ttl: float | None
    """seconds until it expires; None: it does not"""
    version: int
    source_version: int
    position: int
    tags: tuple[int, ...]
    """of its tags and namespace the first 8 bytes of the hash (freshet.tag_hash)"""
