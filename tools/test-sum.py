#!/usr/bin/env python3
"""test-sum.py - add up what the test programs counted; the last line is "N passed, N failed, N skipped".

Meson counts programs; people count tests.  Each program of ours ends with such a line of its own, and names each test
that it skipped with the reason.  A program that says nothing counts as one test, by its exit status; one that fails
although its line says that nothing did (a crash at the end, a leak, a time-out) counts as one failure more.

usage: test-sum.py TESTLOG.json    (meson's log: one JSON object a line, one a program)
"""
import json
import re
import sys

LINE = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")


def last_count(text):
    """The program's own line, as three numbers, or None."""
    for line in reversed(text.splitlines()):
        found = LINE.match(line.strip())
        if found:
            return [int(number) for number in found.groups()]
    return None


def count(entry):
    """What one program adds."""
    own = last_count(entry.get("stdout", ""))
    result = entry.get("result", "ERROR")
    if result == "SKIP":
        return own or [0, 0, 1]
    if result in ("OK", "EXPECTEDFAIL"):
        return own or [1, 0, 0]
    if own is None:
        return [0, 1, 0]
    if own[1] == 0:
        own[1] = 1
    return own


def main():
    total = [0, 0, 0]
    try:
        with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
            entries = [json.loads(line) for line in log if line.strip()]
    except (IndexError, OSError, ValueError) as error:
        print(f"test-sum.py: no log to read: {error}", file=sys.stderr)
        entries = []
    for entry in entries:
        own = count(entry)
        total = [a + b for a, b in zip(total, own)]
        for line in entry.get("stdout", "").splitlines():
            if line.startswith("skip "):
                print(f"skipped: {line[5:].strip()}")
        if own[1]:
            print(f"failed: {entry.get('name')}: {entry.get('result')}, {own[1]} of {sum(own)}")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 0 if total[0] > 0 and total[1] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
