"""What loaders answer and how they are called.  The extension leans on this; it leans on nothing."""

from __future__ import annotations

import enum
import inspect
from typing import Any, Callable, Final


class Absent(enum.Enum):
    """The type of ABSENT, so that a type checker can tell it from values."""

    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return "freshet.ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = Absent.ABSENT
"""What a loader returns, and what is stored, when the source has no such thing."""

_VARARGS = 0x04  # CO_VARARGS


def wants_request(loader: Callable[..., Any]) -> bool:
    """Is `loader` to be called with the request?  So if it has a positional parameter that must be given.

    A parameter with a default (``lambda id=id: fetch(id)``) is the loader's own.
    """
    code = getattr(loader, "__code__", None)
    if code is not None and type(loader).__name__ == "function":
        must = code.co_argcount - len(getattr(loader, "__defaults__", None) or ())
        return must > 0 or (code.co_argcount == 0 and bool(code.co_flags & _VARARGS))
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = next((p for p in parameters if p.kind in positional or p.kind is inspect.Parameter.VAR_POSITIONAL), None)
    return first is not None and first.default is inspect.Parameter.empty
