"""sim_test.py - runs the simulator: so many seeds without a violation, and a seed twice alike.

usage: sim_test.py FRESHET_SIM SEEDS
"""
import re
import subprocess
import sys


def run(*arguments):
    """What the simulator said, and its exit status."""
    done = subprocess.run([sys.argv[1], *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")
    return done.stdout, done.returncode


def the_promises_hold_in_every_seed():
    said, status = run("--first-seed", "1", "--seeds", sys.argv[2])
    print(said, end="")
    return status == 0 and said.endswith(f"{sys.argv[2]} seeds, 0 violations\n")


def a_seed_is_a_run():
    """Bit by bit: alone or among others, told or not, the trace is the same."""

    def traces(*arguments):
        return re.findall(r"trace ([0-9a-f]{16})", run(*arguments)[0])

    for seed in ("1", "7", "23", "42"):
        told = traces("--first-seed", seed, "--seeds", "1", "--verbose")
        if len(told) != 1 or told != traces("--first-seed", seed, "--seeds", "1"):
            return False
    first = traces("--first-seed", "100", "--seeds", "20")
    return len(first) == 1 and first == traces("--first-seed", "100", "--seeds", "20")


def main():
    tests = [the_promises_hold_in_every_seed, a_seed_is_a_run]
    failed = 0
    for test in tests:
        good = test()
        print(f"{'ok  ' if good else 'FAIL'} {test.__name__}")
        failed += not good
    print(f"{len(tests) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
