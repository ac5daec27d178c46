"""From values to bytes and back.  A serializer is any object with ``dumps(value) -> bytes`` and ``loads(bytes)``.

RAW is bytes in, bytes out.  JSON and MSGPACK carry data only.  PICKLE carries nearly everything, and runs code that is
in the bytes: use it only where nobody else holds the fleet's keyring.
"""

from __future__ import annotations

import importlib
import json
import pickle
from typing import Any, Final, Protocol

__all__ = ["JSON", "MSGPACK", "PICKLE", "RAW", "Serializer"]


class Serializer(Protocol):
    """What a cache needs of a serializer."""

    def dumps(self, value: Any, /) -> bytes:
        """The value as bytes."""

    def loads(self, data: bytes, /) -> Any:
        """The value again."""


class _Raw:
    def dumps(self, value: Any, /) -> bytes:
        return bytes(value)

    def loads(self, data: bytes, /) -> Any:
        return data

    def __repr__(self) -> str:
        return "freshet.RAW"


class _Json:
    _encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

    def dumps(self, value: Any, /) -> bytes:
        return self._encode(value).encode()

    def loads(self, data: bytes, /) -> Any:
        return json.loads(data)

    def __repr__(self) -> str:
        return "freshet.JSON"


class _Msgpack:
    """Imports msgpack when it is first used: it is no requirement of this package."""

    def dumps(self, value: Any, /) -> bytes:
        packed: bytes = self._module().packb(value, use_bin_type=True)
        return packed

    def loads(self, data: bytes, /) -> Any:
        return self._module().unpackb(data, raw=False, strict_map_key=False)

    @staticmethod
    def _module() -> Any:
        try:
            return importlib.import_module("msgpack")
        except ImportError as error:
            raise ImportError("freshet.MSGPACK needs msgpack: pip install 'freshet[msgpack]'") from error

    def __repr__(self) -> str:
        return "freshet.MSGPACK"


class _Pickle:
    def dumps(self, value: Any, /) -> bytes:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL if pickle.HIGHEST_PROTOCOL < 5 else 5)

    def loads(self, data: bytes, /) -> Any:
        return pickle.loads(data)

    def __repr__(self) -> str:
        return "freshet.PICKLE"


RAW: Final[Serializer] = _Raw()
JSON: Final[Serializer] = _Json()
MSGPACK: Final[Serializer] = _Msgpack()
PICKLE: Final[Serializer] = _Pickle()
