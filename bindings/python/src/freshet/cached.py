"""The decorator: a function's answers kept in a cache, for functions and for coroutine functions.

    @cache.cached(key="user:{id}", ttl=60, tags=("users", "team:{team}"))
    def user(id, team): ...

Keys and tags are templates over the function's parameters, or callables with its arguments.  Two calls with the same
key are the same call: put into the key whatever the answer depends on, and see that no two calls are written alike:
``"{a}:{b}"`` is the same for ("x:y", "z") and ("x", "y:z"), and "{id}" for 1 and "1"; with ``!r`` behind each name they
differ.
"""

from __future__ import annotations

import functools
import inspect
import string
import sys
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar, Union, cast, overload

from .answers import Answer, Change

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    from ._freshet import CachedOptions
    from .cache import Cache, Key

    P = ParamSpec("P")
elif sys.version_info >= (3, 10):
    from typing import ParamSpec

    P = ParamSpec("P")
else:
    P = TypeVar("P")  # Generic wants a name there; only a type checker looks at what it is

R = TypeVar("R")

KeyMaker = Union[str, "Callable[..., Key]"]
TagsMaker = Union["Sequence[str]", "Callable[..., Sequence[str]]"]

__all__ = ["AsyncCachedFunction", "CachedFunction", "Cacheds"]


class _Shape:
    """How a call's arguments become a key and tags."""

    def __init__(self, function: Callable[..., Any], key: KeyMaker, tags: TagsMaker, request: str | None) -> None:
        self.signature = inspect.signature(function)
        self.before = 0
        """how many arguments by position come before the load request"""
        if request is not None:
            if request not in self.signature.parameters:
                raise TypeError(f"{function!r} has no parameter {request!r} to take the load request")
            left = [p for p in self.signature.parameters.values() if p.name != request]
            self.before = list(self.signature.parameters).index(request)
            self.signature = self.signature.replace(parameters=left)
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = list(self.signature.parameters.values())
        self.names = tuple(p.name for p in parameters)
        self.plain = all(p.kind in positional for p in parameters)
        self.rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        self._key = self._template(key) if isinstance(key, str) else key
        self._tags: Callable[..., Sequence[str]] | None = None
        if callable(tags):
            self._tags = tags
        elif isinstance(tags, (str, bytes)):
            raise TypeError(f"tags is one name, {tags!r}: give a sequence of names")
        elif tags:
            makers = tuple(self._template(tag) for tag in tags)
            self._tags = lambda *args, **kwargs: tuple(make(*args, **kwargs) for make in makers)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        return self._key(*args, **kwargs)

    def tags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[str]:
        return self._tags(*args, **kwargs) if self._tags is not None else ()

    def _template(self, template: str) -> Callable[..., str]:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        for field in fields:
            name = field.split(".")[0].split("[")[0]
            if name not in self.names:
                raise TypeError(f"{template!r} names {name!r}: give one of the parameters {', '.join(self.names)}")
        if not fields:
            text = template.format()
            return lambda *args, **kwargs: text
        return functools.partial(self._fill, template.format_map)

    def _fill(self, fill: Callable[[dict[str, Any]], str], /, *args: Any, **kwargs: Any) -> str:
        if self.plain and not kwargs and len(args) == len(self.names):
            return fill(dict(zip(self.names, args)))
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if self.rest is not None:  # in whatever order they were given
            bound.arguments[self.rest] = dict(sorted(bound.arguments[self.rest].items()))
        return fill(bound.arguments)


class _Base(Generic[P, R]):
    """What both kinds have in common."""

    def __init__(
        self,
        cache: Cache,
        function: Callable[..., Any],
        key: KeyMaker,
        tags: TagsMaker,
        request: str | None,
        options: CachedOptions,
        of_class: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)  # type: ignore[arg-type]
        self.cache = cache
        self.uncached = function
        """the function itself"""
        self._shape = _Shape(function, key, tags, request)
        self._request = request
        self._of_class = of_class
        self._options = options
        self._put_options: dict[str, Any] = {
            name: value for name, value in options.items() if name in ("ttl", "namespace")
        }

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of a call with these arguments."""
        return self._shape.key(args, kwargs)

    def tags(self, *args: P.args, **kwargs: P.kwargs) -> Sequence[str]:
        """The tags of its answer."""
        return self._shape.tags(args, kwargs)

    def _loader(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
        function, name = self.uncached, self._request
        if name is None:
            return lambda: function(*args, **kwargs)
        told: str = name
        before = self._shape.before
        if len(args) > before:
            return lambda request: function(*args[:before], request, *args[before:], **kwargs)
        return lambda request: function(*args, **{**kwargs, told: request})

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As a method: the instance, or the class of a class method, is the first argument."""
        if self._of_class:
            return _Method(self, type(instance) if owner is None else owner)
        return self if instance is None else _Method(self, instance)

    def __repr__(self) -> str:
        return f"<cached {self.uncached!r}>"


class _Method:
    """A cached function bound to an instance or a class."""

    def __init__(self, cached: _Base[Any, Any], instance: object) -> None:
        self._cached = cached
        self._instance = instance
        self.__wrapped__ = cached.uncached

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._cached(self._instance, *args, **kwargs)  # type: ignore[operator]

    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        return cast(Any, self._cached).set(value, self._instance, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return functools.partial(getattr(self._cached, name), self._instance)


class CachedFunction(_Base[P, R]):
    """A function whose answers are cached; call it as before.

    It has key, tags, lookup, invalidate and uncached with the function's arguments, and set with the value before them.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        shape = self._shape
        return cast(
            R,
            self.cache.get_or_load(
                shape.key(args, kwargs),
                self._loader(args, kwargs),
                tags=shape.tags(args, kwargs),
                **self._options,
            ),
        )

    def lookup(self, *args: P.args, **kwargs: P.kwargs) -> Answer:
        """The Answer of the cache, loading nothing."""
        return self.cache.lookup(self.key(*args, **kwargs))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Change:
        """Make everybody forget the answer to these arguments."""
        return self.cache.invalidate(self.key(*args, **kwargs))

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> Change:
        """Store `value` as the answer to these arguments."""
        tags = self._shape.tags(args, kwargs)
        return self.cache.set(self._shape.key(args, kwargs), value, tags=tags, **self._put_options)


class AsyncCachedFunction(_Base[P, R]):
    """A coroutine function whose answers are cached; as CachedFunction, to be awaited."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        shape = self._shape
        return cast(
            R,
            await self.cache.aio.get_or_load(
                shape.key(args, kwargs),
                self._loader(args, kwargs),
                tags=shape.tags(args, kwargs),
                **self._options,
            ),
        )

    async def lookup(self, *args: P.args, **kwargs: P.kwargs) -> Answer:
        """The Answer of the cache, loading nothing."""
        return await self.cache.aio.lookup(self.key(*args, **kwargs))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Change:
        """Make everybody forget the answer to these arguments."""
        return await self.cache.aio.invalidate(self.key(*args, **kwargs))

    async def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> Change:
        """Store `value` as the answer to these arguments."""
        tags = self._shape.tags(args, kwargs)
        return await self.cache.aio.set(self._shape.key(args, kwargs), value, tags=tags, **self._put_options)


class Cacheds:
    """What cache.cached(...) gives: to be put before a function."""

    def __init__(
        self, cache: Cache, key: KeyMaker, tags: TagsMaker, request: str | None, options: CachedOptions
    ) -> None:
        self._given = (cache, key, tags, request, options)

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Awaitable[R]]
    ) -> AsyncCachedFunction[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> CachedFunction[P, R]: ...

    @overload
    def __call__(self, function: classmethod[Any, Any, Any]) -> Any: ...

    def __call__(self, function: Any) -> Any:
        cache, key, tags, request, options = self._given
        of_class = isinstance(function, classmethod)
        if of_class:
            function = function.__func__
        if any(test(function) for test in (inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
            raise TypeError(f"{function!r} is a generator, which gives its values once: cache a function's answer")
        kind: type[_Base[Any, Any]] = AsyncCachedFunction if _is_coroutine_function(function) else CachedFunction
        return kind(cache, function, key, tags, request, options, of_class)


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """So is an object with a coroutine function for its __call__, as an AsyncCachedFunction is."""
    return any(inspect.iscoroutinefunction(one) for one in (function, type(function).__call__))
