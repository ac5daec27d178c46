"""Hear what the library has to say, on a thread that has time to listen.

The library speaks from any thread, at times under its own locks; so its messages go through a queue, and a thread of
this module hands them on.  It starts with the first listener, and anew in a child after fork.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import Callable

from . import _freshet

__all__ = ["set_log"]

Listener = Callable[[int, str], object]

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_WAIT_MS = 250
_lock = threading.Lock()
_listener: Listener | None = None
_thread: threading.Thread | None = None


def set_log(listener: Listener | None, level: int | str = logging.WARNING) -> None:
    """Hear the library's messages, for the whole process, from `level` up; None ends it.

    `listener` is called as ``listener(level, message)`` with a level of the logging module, on a thread of its own:
    ``freshet.set_log(logging.getLogger("freshet").log, logging.INFO)``.  What it raises goes to threading.excepthook.
    Of a flood the messages beyond a thousand are counted only.
    """
    global _listener
    if isinstance(level, str):
        number = logging.getLevelName(level.upper())
        if not isinstance(number, int):
            raise ValueError(f'level is {level!r}: give "debug", "info", "warning", "error" or a number of logging')
        level = number
    least = sum(level > one for one in _LEVELS)
    with _lock:
        _listener = listener
        _freshet._log_hear(-1 if listener is None else min(least, len(_LEVELS) - 1))
        if listener is not None:
            _start()


def _start() -> None:
    global _thread
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_run, name="freshet-log", daemon=True)
        _thread.start()


def _hears() -> Listener | None:
    """The listener; when there is none the thread is done, which nobody takes for one that goes on."""
    global _thread
    with _lock:
        if _listener is None:
            _thread = None
        return _listener


def _run() -> None:
    while (listener := _hears()) is not None:
        heard = _freshet._log_next(_WAIT_MS)
        if heard is None:
            continue
        level, message, dropped = heard
        if message:
            _tell(listener, _LEVELS[level], message)
        if dropped:
            _tell(listener, logging.WARNING, f"{dropped} messages of the library came too fast to be told")


def _tell(listener: Listener, level: int, message: str) -> None:
    try:
        listener(level, message)
    except Exception:
        import sys

        kind, error, trace = sys.exc_info()
        assert kind is not None
        threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))


def _in_child() -> None:
    global _lock, _thread
    _lock = threading.Lock()
    _thread = None
    if _listener is not None:
        _start()


def _at_exit() -> None:
    thread = _thread
    set_log(None)
    if thread is not None and thread is not threading.current_thread():
        thread.join(timeout=2 * _WAIT_MS / 1000)


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
