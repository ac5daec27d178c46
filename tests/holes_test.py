#!/usr/bin/env python3
"""holes_test.py - what HOLES.md says is there: every hole has its tests, every story too, and each named one exists.

A test is looked for in what its program lists, so that one that is no longer built counts as missing; a mutant in
mutants.py, and its text in the source that it changes.

usage: holes_test.py BUILD
"""
import os
import re
import subprocess
import sys

TESTS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(TESTS, "mutants"))
sys.dont_write_bytecode = True
from mutants import MUTANTS  # noqa: E402

HOLES = 18
STORIES = 11


def rows(title):
    """The cells of a table's rows, the table that stands under a title."""
    with open(os.path.join(TESTS, "HOLES.md"), encoding="utf-8") as file:
        part = re.search("^#+ " + re.escape(title) + r"\n(.*?)(?=^## |\Z)", file.read(), re.S | re.M).group(1)
    table = re.findall(r"^\| (.*) \|$", part, re.M)
    return [[cell.strip() for cell in line.split(" | ")] for line in table[1:]]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def listed(build, program):
    out = subprocess.run([os.path.join(build, "tests", program), "--list"], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def named_tests():
    """(hole or story, "PROGRAM FILE.NAME") of each that is named."""
    for row in rows("What once broke, and what would show it again"):
        yield from ((row[0], test) for test in quoted(row[2]))
    for row in rows("Races from the field"):
        yield from ((row[0], test) for test in quoted(row[1]))


def every_hole_has_a_test(build):
    del build
    holes = [row for row in rows("What once broke, and what would show it again")]
    numbers = {int(re.match(r"H(\d+)", row[0]).group(1)) for row in holes}
    yield from (f"H{number} is not there" for number in range(1, HOLES + 1) if number not in numbers)
    yield from (f"{row[0]} names no test" for row in holes if not quoted(row[2]))
    yield from (f"{row[0]} names no mutant" for row in holes if not quoted(row[3]))


def every_story_has_a_test(build):
    del build
    stories = rows("Races from the field")
    if len(stories) < STORIES:
        yield f"{len(stories)} stories, there were {STORIES}"
    yield from (f"{row[0]} names no test" for row in stories if not quoted(row[1]))


def every_test_that_is_named_exists(build):
    known = {}
    for where, test in named_tests():
        program, _, name = test.partition(" ")
        if program not in known:
            known[program] = listed(build, program)
        if name not in known[program]:
            yield f"{where}: {test}"


def every_mutant_that_is_named_exists(build):
    del build
    known = {mutant["name"] for mutant in MUTANTS}
    for row in rows("What once broke, and what would show it again"):
        yield from (f"{row[0]}: {name}" for name in quoted(row[3]) if name not in known)


def every_mutant_fits_its_source(build):
    """Its text stands there exactly once, however the lines break: the list and the sources change together."""
    del build
    for mutant in MUTANTS:
        path = os.path.join(os.path.dirname(TESTS), mutant["file"])
        text = ""
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                text = "".join(file.read().split())
        if text.count("".join(mutant["old"].split())) != 1:
            yield f"{mutant['name']}: not once in {mutant['file']}"


def every_mutant_names_a_test(build):
    known = {}
    for mutant in MUTANTS:
        for program, part in mutant["tests"]:
            if not program.endswith("-test") or not os.path.exists(os.path.join(build, "tests", program)):
                continue
            if program not in known:
                known[program] = listed(build, program)
            if not any(part in name for name in known[program]):
                yield f"{mutant['name']}: {program} {part}"


TESTS_HERE = [
    every_hole_has_a_test,
    every_story_has_a_test,
    every_test_that_is_named_exists,
    every_mutant_that_is_named_exists,
    every_mutant_fits_its_source,
    every_mutant_names_a_test,
]


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    failed = 0
    for test in TESTS_HERE:
        try:
            wrong = list(test(os.path.abspath(sys.argv[1])))
        except (OSError, subprocess.CalledProcessError, IndexError, AttributeError) as error:
            wrong = [f"cannot be told: {error}"]
        print(f"{'FAIL' if wrong else 'ok  '} {test.__name__}")
        for line in wrong:
            print(f"       {line}")
        failed += bool(wrong)
    print(f"{len(TESTS_HERE) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
