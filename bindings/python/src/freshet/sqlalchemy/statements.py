"""Which tables a statement changes, as far as it can be told from the statement.

What SQLAlchemy has built says so itself.  Text is searched for a changing word and for the names of declared tables:
a table that is only read in it costs misses, one that is overlooked would cost the truth.  What a function, procedure
or trigger of the database changes cannot be seen from here at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, Callable

from sqlalchemy import DDL, ForeignKey, MetaData, Table
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import TextClause

CHANGES = re.compile(r"\b(insert|update|delete|merge|truncate|copy|replace|drop|alter)\b", re.IGNORECASE)
LOCKS = re.compile(r"\bfor\s+(no\s+key\s+)?update\b", re.IGNORECASE)
ANYTHING = re.compile(r"^\s*(call|do|exec|execute)\b", re.IGNORECASE)
ASSIGNED = re.compile(r"\bset\b(.*?)(?:\bwhere\b|$)", re.IGNORECASE | re.DOTALL)
COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
DEFINES = re.compile(r"^\s*create\b", re.IGNORECASE)
NAMES = re.compile(r"[\w$]+")


class Changed:
    """Full names of tables from a built statement; `words` of a text; `anything`: it runs what we cannot look into."""

    def __init__(self, tables: Iterable[str] = (), words: Iterable[str] = (), anything: bool = False) -> None:
        self.tables, self.words, self.anything = frozenset(tables), frozenset(words), anything

    def touches(self, tables: Iterable[str]) -> bool:
        return any(
            name in self.tables or set(NAMES.findall(name.rpartition(".")[2].lower())) <= self.words for name in tables
        )

    def __bool__(self) -> bool:
        return bool(self.tables or self.words or self.anything)


NOTHING = Changed()


def of_text(text: str) -> Changed:
    """What this SQL may change."""
    words: set[str] = set()
    for part in COMMENTS.sub(" ", text).split(";"):
        if ANYTHING.match(part):
            return Changed(anything=True)
        if not DEFINES.match(part) and CHANGES.search(LOCKS.sub(" ", part)):
            words.update(word.lower() for word in NAMES.findall(part))
    return Changed(words=words) if words else NOTHING


def _tables(dml: Any) -> set[str]:
    return {element.fullname for element in visitors.iterate(dml.table) if isinstance(element, Table)}


def of_execution(statement: str, context: Any | None) -> Changed:
    """What the statement that a cursor is about to run changes; `context` is SQLAlchemy's ExecutionContext."""
    compiled = getattr(context, "compiled", None)
    if compiled is None:
        return of_text(statement)
    built = compiled.statement
    if getattr(context, "isddl", False):
        return of_text(statement) if isinstance(built, DDL) else NOTHING
    if isinstance(built, TextClause):
        return of_text(built.text)
    tables = _tables(built) if getattr(built, "is_dml", False) else set()
    for cte in compiled.ctes or ():
        if getattr(cte.element, "is_dml", False):
            tables |= _tables(cte.element)
        elif isinstance(cte.element, TextClause):
            return Changed(tables, of_text(cte.element.text).words)
    return Changed(tables) if tables else _texts(built, statement)


def _texts(built: Any, statement: str) -> Changed:
    """A textual SELECT (text().columns()) is a statement of SQLAlchemy's too."""
    inner = getattr(built, "element", None)
    return of_text(statement) if isinstance(inner, TextClause) else NOTHING


def dependents(
    metadata: MetaData, changed: str, acting: Callable[[ForeignKey], bool], minded: Collection[Any] = ()
) -> set[str]:
    """The tables whose rows the database itself deletes or changes when rows of this one are deleted or moved.

    The same table may be among them, if its rows refer to one another.  `acting`: does it do so by this key?
    `minded`: columns that refer to the rows, and are the session's business.
    """
    found: set[str] = set()
    ahead = [changed]
    while ahead:
        name = ahead.pop()
        for table in metadata.tables.values():
            if table.fullname not in found and any(
                key.column.table.fullname == name and acting(key) and not (name == changed and key.parent in minded)
                for key in table.foreign_keys
            ):
                found.add(table.fullname)
                ahead.append(table.fullname)
    return found


def deletes(key: ForeignKey) -> bool:
    """Does the database do something to the row that refers, when the one referred to is deleted?"""
    return _acts(key.ondelete)


def always(key: ForeignKey) -> bool:
    """TRUNCATE ... CASCADE follows every foreign key."""
    return True


def moves(columns: Collection[Any]) -> Callable[[ForeignKey], bool]:
    """Does it, when the columns of these names that are referred to get other values?  Goes on from table to table."""
    return lambda key: _acts(key.onupdate) and (key.column.name.lower() in columns or key.column.foreign_keys != set())


def _acts(rule: str | None) -> bool:
    return bool(rule) and str(rule).upper() not in ("NO ACTION", "RESTRICT")


def assigned(statement: str) -> set[str]:
    """The names that stand between SET and WHERE, columns that get values among them."""
    return {word.lower() for part in ASSIGNED.findall(statement) for word in NAMES.findall(part)}


def fallen(metadata: MetaData, changed: Changed, statement: str) -> set[str]:
    """The tables whose rows the database deletes or changes by itself when this statement changes those."""
    words = {word.lower() for word in NAMES.findall(statement)}
    kinds: list[Callable[[ForeignKey], bool]] = []
    if words & {"delete", "truncate", "merge"}:
        kinds.append(always if {"truncate", "cascade"} <= words else deletes)
    if words & {"update", "merge"}:
        kinds.append(moves(assigned(statement)))
    touched = [name for name in metadata.tables if kinds and changed.touches([name])]
    return {table for name in touched for kind in kinds for table in dependents(metadata, name, kind)}
