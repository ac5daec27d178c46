"""The programs ``freshet`` and ``freshet-chaos``, which the package carries beside this file.

``pip install`` gives commands of the same names; a program that wants one by its path asks ``program``.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys

__all__ = ["program"]


def program(name: str) -> str:
    """The path of a tool, "freshet" or "freshet-chaos": the package's own, the PATH's, or a checkout's build.

    FileNotFoundError says what to do when there is none.
    """
    here = pathlib.Path(__file__).resolve()
    carried = here.with_name(name)
    if os.access(carried, os.X_OK) and carried.is_file():
        return str(carried)
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which(name, path=folder)
        if found and not _script(found):  # the commands that pip makes lead back here
            return found
    for above in here.parents:
        if os.access(above / "build" / "tools" / name, os.X_OK):
            return str(above / "build" / "tools" / name)
    raise FileNotFoundError(f"there is no program {name}: install the package whole, or build the repository")


def _script(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def _run(name: str) -> None:
    path = program(name)
    os.execv(path, [name, *sys.argv[1:]])


def _freshet() -> None:
    _run("freshet")


def _chaos() -> None:
    _run("freshet-chaos")
