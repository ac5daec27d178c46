"""Tools that show whether a cache is coherent: anybody's, this package's or a few lines around redis-py.

    points     `point("after_db_read")`: where a test may stop the program; or `wrap`, which leaves the program as it is
    steps      the controller: who has come to which point, and when he goes on
    servers    a private Redis, and freshet-chaos, the faulty network in front of it
    hosts      processes that share no cache directory: hosts, on one machine
    oracle     reads and writes with their times, and the judgement which reads were stale

freshet.pytest_plugin makes fixtures of them; they need no pytest themselves.
"""

from .coherence import Coherence
from .hosts import Call, Host, HostError, HostInfo, Hosts
from .oracle import Event, History, Stale, Verdict
from .points import apoint, point, wrap
from .servers import Chaos, Redis, RedisServer, ServerError, start_redis
from .steps import Arrival, Freeze, StepError, Steps

__all__ = [
    "Arrival",
    "Call",
    "Chaos",
    "Coherence",
    "Event",
    "Freeze",
    "History",
    "Host",
    "HostError",
    "HostInfo",
    "Hosts",
    "Redis",
    "RedisServer",
    "ServerError",
    "Stale",
    "StepError",
    "Steps",
    "Verdict",
    "apoint",
    "point",
    "start_redis",
    "wrap",
]
