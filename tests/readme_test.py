#!/usr/bin/env python3
"""readme_test.py - README's example is a program that works, and so are the commands that test each promise.

What a stranger copies first must be right: the C block is compiled with warnings as errors against the library just
built, run on one host and, with the ACL rule as README has it, as a host of a fleet.

usage: readme_test.py BUILD
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START_S = 10


class Skip(Exception):
    """The reason why a test cannot be run here."""


def block(language):
    """The first code block of README in a language."""
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as readme:
        return re.search(r"^```" + language + r"\n(.*?)^```", readme.read(), re.S | re.M).group(1)


def sanitizers(build):
    """A library built with sanitizers wants a program built with them."""
    out = subprocess.run(["nm", "-D", os.path.join(build, "libfreshet.so")], capture_output=True, text=True, check=True)
    flags = {"__asan_init": "-fsanitize=address,undefined", "__tsan_init": "-fsanitize=thread"}
    return [flag for word, flag in flags.items() if word in out.stdout]


def compile_example(build, where):
    source, program = os.path.join(where, "orders.c"), os.path.join(where, "orders")
    with open(source, "w", encoding="utf-8") as file:
        file.write(block("c"))
    subprocess.run([*os.environ.get("CC", "cc").split(), "-std=c17", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
                    "-I", os.path.join(TOP, "core/include"), "-I", os.path.join(TOP, "backplane/include"), source,
                    "-o", program, "-L", build, "-lfreshet", "-Wl,-rpath," + build, *sanitizers(build)], check=True)
    return program


def run_example(program, *arguments):
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def the_example_compiles_and_works_on_one_host(build, where):
    out = run_example(compile_example(build, where), os.path.join(where, "tier"))
    assert out == "3 apples, from the loader\n3 apples, from this host's memory\n", out


def start_redis(where):
    """A server of our own on a unix socket; the caller ends it."""
    if not shutil.which("redis-server"):
        raise Skip("redis-server is not installed")
    socket = os.path.join(where, "redis.sock")
    server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", where],
                              stdout=subprocess.DEVNULL)
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        if tell_redis(socket, "PING") == "PONG":
            return server, socket
    server.kill()
    server.wait()
    raise AssertionError("redis-server did not start")


def tell_redis(socket, command):
    """One command with redis-cli, which is of the server's package or of one that it needs."""
    return subprocess.run(["redis-cli", "-s", socket, *command.split()], capture_output=True, text=True,
                          check=False).stdout.strip()


def the_example_works_in_a_fleet_with_the_rights_that_are_named(build, where):
    server, socket = start_redis(where)
    try:
        assert tell_redis(socket, block("acl")) == "OK", "the ACL rule is refused"
        program, keys = compile_example(build, where), os.path.join(where, "keys")
        subprocess.run([os.path.join(build, "tools/freshet"), "keygen", keys], check=True, capture_output=True)
        url = f"unix://orders:secret@{socket}"
        out = run_example(program, os.path.join(where, "one"), url, keys)
        assert out == "3 apples, from the loader\n3 apples, from this host's memory\n", out
        tool = [os.path.join(build, "tools/freshet"), "-n", "orders", "-d", os.path.join(where, "none"), "--bound",
                "200", "--url", url, "--keyring", keys]
        for words in ("put a 1 --tag red", "invalidate --tag blue", "get a", "clear --namespace shop"):
            subprocess.run([*tool, *words.split()], check=True, capture_output=True)
        denied = tell_redis(socket, "ACL LOG")
        assert not denied, f"rights that README's rule lacks:\n{denied}"
    finally:
        server.terminate()
        server.wait()


def promised_commands():
    """(promise, words of a command) of each command in the table of promises."""
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as readme:
        table = re.search(r"^\| P1 .*?\n\n", readme.read(), re.S | re.M).group(0)
    for line in table.strip().splitlines():
        name, _, commands = [cell.strip() for cell in line.strip("|").split(" | ")]
        found = re.findall(r"`([^`]+)`", commands)
        assert found, f"{name} has no command"
        yield from ((name, command.split()) for command in found)


def every_promise_has_commands_that_run(build, where):
    """As printed; test programs only say which tests they would run, and the simulator has a few seeds."""
    del where
    promises = set()
    for name, words in promised_commands():
        promises.add(name)
        words = [re.sub(r"^build(?=/|$)", build, word) for word in words]
        if words[0] == "python3":
            assert os.path.exists(os.path.join(TOP, words[1])), " ".join(words)
        elif words[0].endswith("-sim"):
            if not os.path.exists(words[0]):
                raise Skip("the simulator was not built: Lua 5.1 is not installed")
            out = subprocess.run([*words[:-1], "20"], check=True, capture_output=True, text=True, timeout=120).stdout
            assert out.endswith("20 seeds, 0 violations\n"), out
        else:
            for word in words[1:]:
                out = subprocess.run([words[0], "--list", word], check=True, capture_output=True, text=True).stdout
                assert word in out, f"{name}: {words[0]} has no test {word}"
    assert promises == {f"P{number}" for number in range(1, 9)}, promises


TESTS = [
    the_example_compiles_and_works_on_one_host,
    the_example_works_in_a_fleet_with_the_rights_that_are_named,
    every_promise_has_commands_that_run,
]


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    counts = {"ok  ": 0, "FAIL": 0, "skip": 0}
    for test in TESTS:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        where = tempfile.mkdtemp(prefix="freshet-readme.", dir=base)
        word, why = "ok  ", ""
        try:
            test(os.path.abspath(sys.argv[1]), where)
        except Skip as reason:
            word, why = "skip", f": {reason}"
        except (AssertionError, OSError, AttributeError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or ""
            word, why = "FAIL", f": {error} {said if isinstance(said, str) else said.decode(errors='replace')}"
        finally:
            shutil.rmtree(where, ignore_errors=True)
        counts[word] += 1
        print(f"{word} {test.__name__}{why}", flush=True)
    print(f"{counts['ok  ']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
