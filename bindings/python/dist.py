#!/usr/bin/env python3
"""Put the C library's sources into a source package, where the checkout has links to them.

Meson runs this in the tree that it is about to pack (MESON_DIST_ROOT), which git has filled below bindings/python
only: links out of it would lead nowhere on another machine.
"""

import os
import pathlib
import shutil

here = pathlib.Path(os.environ["MESON_SOURCE_ROOT"]) / "subprojects" / "freshet"
there = pathlib.Path(os.environ["MESON_DIST_ROOT"]) / "subprojects" / "freshet"
if there.exists():
    shutil.rmtree(there)
shutil.copytree(here, there, symlinks=False, ignore=shutil.ignore_patterns("__pycache__"))
