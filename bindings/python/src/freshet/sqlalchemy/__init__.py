"""SQLAlchemy 2 sessions, sync and async, whose commits no cache outlives: declare once, and nothing else changes.

    from freshet.sqlalchemy import Coherence

See Coherence.  Below it: declare.py (what a class stands for), work.py (the guards of a transaction), statements.py
(what a statement changes), changes.py (statements whose rows are known), reading.py (loading), calls.py (the only
place that calls the cache for a session's events).
"""

from .aio import AsyncCoherence
from .changes import Changes
from .coherence import Coherence
from .errors import NotGuarded, UncoveredStatement, UncoveredStatementWarning

__all__ = ["AsyncCoherence", "Changes", "Coherence", "NotGuarded", "UncoveredStatement", "UncoveredStatementWarning"]
