"""The four stories, run short: what they claim of Freshet must hold each time, what of the textbook in one of a few.

The textbook goes stale by a race, which may for once not happen in a few seconds; Freshet may never.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

for needed in ("sqlalchemy", "asyncpg", "redis", "starlette", "uvicorn"):
    pytest.importorskip(needed)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from stories.load import Oracle, Tally, table  # noqa: E402
from stories.servers import Missing, postgres_bin, redis_server  # noqa: E402
from stories.story import Claim, Unseen, stale  # noqa: E402

ATTEMPTS = 4
STORIES = {"async_sqlalchemy": 6.0, "pool_died": 8.0, "high_concurrency": 7.0, "disagree": 8.0}


@pytest.mark.parametrize("name", STORIES)
def test_the_textbook_goes_stale_and_freshet_does_not(name: str) -> None:
    try:
        postgres_bin(), redis_server()
    except Missing as missing:
        pytest.skip(str(missing))
    story = importlib.import_module(f"stories.{name}")
    for attempt in range(ATTEMPTS):
        tallies = story.run(STORIES[name])
        print(table(story.TITLE, tallies[0].bound, tallies))
        try:
            getattr(story, "claims", stale)(tallies)
            return
        except Unseen:
            if attempt == ATTEMPTS - 1:
                raise


def test_the_oracle_calls_stale_what_was_superseded_before_the_read_began() -> None:
    oracle = Oracle()
    oracle.confirmed(1, 1, at=0.0)
    oracle.confirmed(1, 2, at=10.0)
    oracle.confirmed(1, 4, at=20.0)
    oracle.confirmed(1, 3, at=21.0)
    assert oracle.staleness(1, 1, began=10.0) == 0.0
    assert oracle.staleness(1, 1, began=10.5) == 0.5
    assert oracle.staleness(1, 1, began=25.0) == 15.0
    assert oracle.staleness(1, 2, began=19.0) == 0.0
    assert oracle.staleness(1, 3, began=25.0) == 5.0
    assert oracle.staleness(1, 4, began=25.0) == 0.0
    assert oracle.staleness(1, 5, began=25.0) == 0.0
    assert oracle.staleness(2, 0, began=25.0) == 0.0


def test_a_story_in_which_freshet_is_stale_or_the_textbook_is_not_fails() -> None:
    textbook, ours = Tally("textbook", 0.5), Tally("freshet", 0.5)
    ours.read(0.5, 0.001)
    with pytest.raises(Unseen):
        stale([textbook, ours])
    textbook.read(0.6, 0.001)
    stale([textbook, ours])
    ours.read(0.6, 0.001)
    with pytest.raises(Claim, match="1 answers were stale"):
        stale([textbook, ours])
