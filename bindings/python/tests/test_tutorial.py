"""The tutorial, run: each block in its order, in a fresh directory, and each output held against what the page shows.

A python block begins with the name of its file and is written there.  Each line of an sh block is run; it must
succeed, or fail if it says so ("# fails").  The lines of a text block must be in the output before it, in their order;
"..." stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("redis")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial.md"


class Block(NamedTuple):
    """A fenced block of the page."""

    kind: str
    line: int
    text: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks, in order."""
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(match[1], page.count("\n", 0, match.start()) + 1, match[2]) for match in found]


def missing(shown: str, output: str) -> str:
    """The first line of a text block that the output does not have behind the one before it; "" if it has all."""
    at = 0
    for line in shown.splitlines():
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("..."))
        match = re.compile(pattern).search(output, at)
        if match is None:
            return line
        at = match.end()
    return ""


def commands(folder: Path) -> dict[str, str]:
    """An environment in which `python` and `pytest` are those of this test."""
    for name, words in (("python", ""), ("pytest", "-m pytest -p no:cacheprovider")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        program.chmod(0o755)
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths, "COLUMNS": "200"}


def test_every_step_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    environment = commands(tmp_path / "bin")
    work = tmp_path / "work"
    work.mkdir()
    output, run = "", 0
    for block in blocks(PAGE.read_text()):
        where = f"tutorial.md:{block.line}"
        if block.kind == "python":
            name = re.match(r"# (\w+\.py)\n", block.text)
            assert name, f"{where}: the block does not say its file's name"
            (work / name[1]).write_text(block.text)
        elif block.kind == "sh":
            output = ""
            for line in block.text.splitlines():
                if line.startswith("pip install"):
                    continue
                done = subprocess.run(
                    ["/bin/sh", "-c", line], cwd=work, env=environment, capture_output=True, text=True, timeout=120
                )
                output += done.stdout + done.stderr
                assert (done.returncode == 1) == line.endswith("# fails"), f"{where}: {line}\n{output}"
                assert done.returncode in (0, 1), f"{where}: {line}\n{output}"
                run += 1
        else:
            lost = missing(block.text, output)
            assert not lost, f"{where}: this was not said: {lost}\n{output}"
    assert run == 6


def test_the_page_is_held_against_what_is_said() -> None:
    said = "E    AssertionError: A read 1 of 2\nE    stale\n1 failed in 2 s\n"
    assert missing("E ... A read ... of 2\n1 failed...\n", said) == ""
    assert missing("1 failed...\nE ... stale\n", said) == "E ... stale"
    assert missing("2 failed\n", said) == "2 failed"
