#!/usr/bin/env python3
"""embed.py - turn the Lua scripts into C, at build time:  embed.py OUT.c SCRIPTS_DIR

Each script goes in with head.lua before it, as an array of bytes (a C compiler need not take string literals above
4,095 characters) beside the SHA-1 that EVALSHA wants.  The order is that of enum script in scripts.h.
"""
import hashlib
import pathlib
import sys

SCRIPTS = ["change", "put", "ticket", "fill", "report", "leave", "guard", "hold", "wait", "latest"]


def c_bytes(data):
    """The bytes as C initialisers, with a NUL behind them, 20 a line."""
    values = [str(byte) for byte in data] + ["0"]
    return ",\n".join("    " + ", ".join(values[i:i + 20]) for i in range(0, len(values), 20))


def main(out, folder):
    folder = pathlib.Path(folder)
    head = (folder / "head.lua").read_bytes()
    parts = ["/* Made by embed.py from scripts/; edit those. */\n#include <scripts.h>\n"]
    table = []
    for name in SCRIPTS:
        text = head + b"\n" + (folder / f"{name}.lua").read_bytes()
        parts.append(f"static const char {name}_text[] = {{\n{c_bytes(text)}}};\n")
        sha1 = hashlib.sha1(text).hexdigest()
        table.append(f'    [SCRIPT_{name.upper()}] = {{"{name}", {name}_text, sizeof {name}_text - 1, "{sha1}"}},')
    parts.append("const struct script_text script_texts[SCRIPT_ALL] = {\n" + "\n".join(table) + "\n};\n")
    pathlib.Path(out).write_text("\n".join(parts))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: embed.py OUT.c SCRIPTS_DIR")
    main(sys.argv[1], sys.argv[2])
