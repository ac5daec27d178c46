"""What can go wrong between a session and its caches.  Each says what was left undone and what to do about it."""

from __future__ import annotations


class NotGuarded(RuntimeError):
    """A guard would not outlast the commit: nothing was committed.  Roll the session back and do the work again."""


class UncoveredStatement(RuntimeError):
    """A statement changes a declared table past the session's flush; as `raw="error"` asks, it was not run."""


class UncoveredStatementWarning(UserWarning):
    """A statement changes a declared table past the session's flush (`raw="warn"`), or may change anything at all."""
