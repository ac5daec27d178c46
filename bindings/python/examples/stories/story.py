"""How a story is run from the command line, and when it has shown what it claims."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from .load import Tally, table


class Claim(Exception):
    """A story did not show what it is told for."""


class Unseen(Claim):
    """The textbook's way did not go wrong this time.  It is a race: run it longer, or again."""


def must(what: str, holds: bool, error: type[Claim] = Claim) -> None:
    """Raise Claim with `what` unless it holds."""
    if not holds:
        raise error(what)


def stale(tallies: Sequence[Tally]) -> None:
    """The textbook's lines must be seen to go stale beyond the bound; Freshet's must not."""
    for tally in tallies:
        if "freshet" in tally.way:
            must(f"{tally.way}: {tally.beyond} answers were stale beyond the bound", tally.beyond == 0)
            must(f"{tally.way}: it answered nothing", len(tally.took) > 0)
    for tally in tallies:
        if "freshet" not in tally.way:
            must(f"{tally.way}: no answer was stale beyond the bound this time", tally.beyond > 0, Unseen)


def main(
    title: str, run: Callable[[float], Sequence[Tally]], claims: Callable[[Sequence[Tally]], None], seconds: float
) -> None:
    """Run it, print the table, exit: 0 when the claims hold, 1 when not."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--seconds", type=float, default=seconds, help="of load (%(default)g)")
    parser.add_argument("--why", action="store_true", help="tell also what the failed requests failed of")
    arguments = parser.parse_args()
    tallies = run(arguments.seconds)
    print(table(title, tallies[0].bound, tallies))
    if arguments.why:
        for tally in tallies:
            for why, count in tally.why.items():
                print(f"{tally.way}: {count} x {why}", file=sys.stderr)
    try:
        claims(tallies)
    except Claim as claim:
        print(f"not shown: {claim}", file=sys.stderr)
        sys.exit(1)
