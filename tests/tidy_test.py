#!/usr/bin/env python3
"""tidy_test.py - holds the house rules that no compiler holds.

Who may include whom is what keeps the floors apart (core knows no network, the backplane no map, tools nothing but
the public headers), and "exported = promised = declared" is what lets somebody change the inside without asking
around.  The rest are habits that a reader relies on.  A rule that is broken names file and line.

usage: tidy_test.py BUILD      (the build directory, for the libraries' symbols)
"""
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDERS = ["core", "backplane", "tools", "tests", "bindings"]
SOURCES = (".c", ".h", ".py", ".sh", ".lua", ".sym", ".build")
PUBLIC = {"freshet.h", "freshet_async.h", "freshet_fleet.h"}
LINE_MOST = 120
FUNCTION_MOST = 70

# One foreign library, one file (two where one would be a muddle); a bench and the demo measure against the raw thing.
FOREIGN = {
    "lmdb.h": ["core/map.h", "tools/bench_lmdb.c"],
    "hiredis/": ["backplane/resp.c", "tools/bench_redis.c", "tools/demo_redis.c"],
    "uv.h": ["tools/chaos.c", "tools/chaos_control.c", "tools/chaos_proxy.c", "tools/chaos_wire.c",
             "tools/chaos_wire.h"],
    "sodium.h": ["backplane/seal.c", "backplane/keyring.c", "tools/bench_sign.c"],
    "sqlite3.h": ["tools/demo_history.c"],
}
# A guest in somebody's program prints nothing, ends nothing and asks nobody's environment.
RUDE = (r"\b(printf|fprintf|dprintf|vprintf|vfprintf|puts|fputs|putchar|perror|exit|_exit|abort|assert|getenv|system"
        r"|raise)\s*\(")
PAUSES = r"\b(sleep|usleep|nanosleep|time\.sleep)\s*\("
PAUSES_ALLOWED = ["tests/main.c", "tests/protocol_test.py"]  # the beat of a wait that has a deadline
UNFINISHED = r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"


def files(*suffixes, under=None):
    """Our files, as paths from the top."""
    for folder in under or FOLDERS:
        for where, folders, names in os.walk(os.path.join(TOP, folder)):
            folders[:] = [name for name in folders if not name.startswith((".", "__", "build"))]
            for name in sorted(names):
                if name.endswith(suffixes):
                    yield os.path.relpath(os.path.join(where, name), TOP)


def text_of(path):
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return file.read()


def code_of(path):
    """C without comments and strings; lines stay where they are."""

    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))

    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, text_of(path), flags=re.S)


def includes(path):
    """(line, header) of each #include."""
    for number, line in enumerate(text_of(path).splitlines(), 1):
        found = re.match(r"\s*#\s*include\s*[<\"]([^>\"]+)[>\"]", line)
        if found:
            yield number, found.group(1)


def ours():
    """Every header of ours: name -> the folders that have one of this name."""
    known = {}
    for path in files(".h"):
        known.setdefault(os.path.basename(path), set()).add(os.path.dirname(path))
    return known


def grep(pattern, paths, strip=True, allowed=()):
    """file:line: of each match."""
    for path in paths:
        if path in allowed:
            continue
        text = code_of(path) if strip else text_of(path)
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(pattern, line):
                yield f"{path}:{number}: {line.strip()[:80]}"


# ---- who includes whom ----


def only_own(folder, also, inner=()):
    """Headers of ours that a folder's files may not include."""
    known = ours()
    for path in files(".c", ".h", under=[folder]):
        for number, header in includes(path):
            name = os.path.basename(header)
            homes = known.get(name, set())
            own = {folder, folder + "/include", os.path.dirname(path), *inner}
            if homes and not homes & own and name not in also:
                yield f"{path}:{number}: {header}"


def core_includes_nothing_above_it():
    return only_own("core", set())


def backplane_sees_core_through_its_face_only():
    return only_own("backplane", {"remote.h", "freshet.h"})


def tools_know_the_public_headers_only():
    return only_own("tools", PUBLIC)


def flow_tests_know_the_public_headers_only():
    return only_own("tests/flow", PUBLIC, inner=["tests"])


def public_headers_include_nothing_of_ours_but_each_other():
    known = ours()
    for path in ["core/include/freshet.h", "core/include/freshet_async.h", "backplane/include/freshet_fleet.h"]:
        for number, header in includes(path):
            if header in known and header not in PUBLIC:
                yield f"{path}:{number}: {header}"


def a_foreign_library_has_one_file():
    for path in files(".c", ".h", under=["core", "backplane", "tools"]):
        for number, header in includes(path):
            for prefix, homes in FOREIGN.items():
                if header.startswith(prefix) and path not in homes:
                    yield f"{path}:{number}: {header} belongs in {', '.join(homes)}"


# ---- exported = promised = declared ----


def declared():
    names = set()
    for path in ["core/include/freshet.h", "core/include/freshet_async.h", "backplane/include/freshet_fleet.h"]:
        code = re.sub(r"^\s*#.*$", "", code_of(path), flags=re.M)
        names |= set(re.findall(r"\bFRESHET_API\s+[^;{]*?\b(\w+)\s*\(", code))
    return names


def promised():
    part = code_of("core/freshet.sym").split("global:")[1].split("local:")[0]
    return set(re.findall(r"(\w+)\s*;", part))


def symbols(*arguments):
    out = subprocess.run(["nm", *arguments], check=True, capture_output=True, text=True).stdout
    found = set()
    for line in out.splitlines():
        words = line.split()
        if len(words) >= 3 and words[-2] in "TtWwVvBbDdRrGgSsui" and not words[-1].startswith(("__asan", "__odr_asan")):
            found.add(words[-1].split("@")[0])
    return found


def differ(a_name, a, b_name, b):
    for name in sorted(a - b):
        yield f"{name}: {a_name}, but not {b_name}"
    for name in sorted(b - a):
        yield f"{name}: {b_name}, but not {a_name}"


def what_is_declared_is_promised():
    return differ("declared in a public header", declared(), "promised in freshet.sym", promised())


def what_is_promised_is_exported():
    library = os.path.join(sys.argv[1], "libfreshet.so")
    return differ("promised in freshet.sym", promised(), "exported", symbols("-D", "--defined-only", library))


def the_static_library_shows_the_same():
    library = os.path.join(sys.argv[1], "libfreshet.a")
    return differ("promised in freshet.sym", promised(), "global", symbols("-g", "--defined-only", library))


# ---- habits ----


def a_file_begins_with_what_it_is_for():
    openings = {".c": r"/\*", ".h": r"/\*", ".sym": r"/\*", ".lua": r"--", ".build": r"#", ".sh": r"#!.*\n#",
                ".py": r"(#!.*\n)?(\"\"\"|#)"}
    for path in files(*SOURCES):
        text, suffix = text_of(path), os.path.splitext(path)[1]
        if not re.match(openings[suffix], text):
            yield f"{path}:1: no comment"
        elif suffix in (".c", ".h") and not re.match(r"/\*\s*(\* )?" + re.escape(os.path.basename(path)) + " - ", text):
            yield f"{path}:1: should begin with \"{os.path.basename(path)} - what it is for\""


def the_library_is_a_good_guest():
    return grep(RUDE, files(".c", ".h", under=["core", "backplane"]))


def tests_wait_for_conditions():
    return grep(PAUSES, files(".c", ".h", ".py", under=["tests"]), allowed=[*PAUSES_ALLOWED, "tests/tidy_test.py"])


def nothing_is_left_for_later():
    return grep(UNFINISHED, files(*SOURCES), strip=False)


def lines_fit():
    for path in files(*SOURCES):
        if path == "tests/mutants/mutants.py":  # a table that quotes other files
            continue
        for number, line in enumerate(text_of(path).split("\n"), 1):
            if len(line) > LINE_MOST:
                yield f"{path}:{number}: {len(line)} columns"
            elif line != line.rstrip():
                yield f"{path}:{number}: space at the end"
            elif "\t" in line:
                yield f"{path}:{number}: a tab"


def functions_are_short():
    for path in files(".c"):
        begin = 0
        for number, line in enumerate(code_of(path).splitlines(), 1):
            if line.rstrip() == "{":
                begin = number
            elif line.rstrip() == "}" and begin:
                if number - begin - 1 > FUNCTION_MOST:
                    yield f"{path}:{begin}: {number - begin - 1} lines"
                begin = 0


def every_source_is_built():
    """Tests may be taken by the folder."""
    plans = {"core": ["core/meson.build"], "backplane": ["backplane/meson.build"], "tools": ["tools/meson.build"],
             "tests": ["tests/meson.build"]}
    for folder, builds in plans.items():
        plan = "".join(text_of(path) for path in builds)
        for path in files(".c", ".lua", under=[folder]):
            if "/*_" + path.rsplit("_", 1)[-1] in plan:
                continue
            if os.path.relpath(path, folder) not in plan and os.path.basename(path) not in plan:
                yield f"{path}: not in {builds[0]}"


RULES = [
    core_includes_nothing_above_it,
    backplane_sees_core_through_its_face_only,
    tools_know_the_public_headers_only,
    flow_tests_know_the_public_headers_only,
    public_headers_include_nothing_of_ours_but_each_other,
    a_foreign_library_has_one_file,
    what_is_declared_is_promised,
    what_is_promised_is_exported,
    the_static_library_shows_the_same,
    a_file_begins_with_what_it_is_for,
    the_library_is_a_good_guest,
    tests_wait_for_conditions,
    nothing_is_left_for_later,
    lines_fit,
    functions_are_short,
    every_source_is_built,
]


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    failed = 0
    for rule in RULES:
        try:
            broken = list(rule())
        except (OSError, subprocess.CalledProcessError, IndexError, UnicodeDecodeError) as error:
            broken = [f"cannot be told: {error}"]
        print(f"{'FAIL' if broken else 'ok  '} {rule.__name__}")
        for line in broken:
            print(f"       {line}")
        failed += bool(broken)
    print(f"{len(RULES) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
