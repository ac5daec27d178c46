"""Which tables a statement changes, as far as it can be told from the statement.

What SQLAlchemy has built says so itself.  Text is searched for a changing word and for the names of declared tables:
a table that is only read in it costs misses, one that is overlooked would cost the truth.  What a function, procedure
or trigger of the database changes cannot be seen from here at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ForeignKey, MetaData, Table
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import TextClause

CHANGES = re.compile(r"\b(insert|update|delete|merge|truncate|copy|replace|drop|alter)\b", re.IGNORECASE)
LOCKS = re.compile(r"\bfor\s+(no\s+key\s+)?update\b", re.IGNORECASE)
ANYTHING = re.compile(r"^\s*(call|do|exec|execute)\b", re.IGNORECASE)
DEFINES = re.compile(r"^\s*create\b", re.IGNORECASE)
NAMES = re.compile(r"[\w$]+")


class Changed:
    """Full names of tables from a built statement; `words` of a text; `anything`: it runs what we cannot look into."""

    def __init__(self, tables: Iterable[str] = (), words: Iterable[str] = (), anything: bool = False) -> None:
        self.tables, self.words, self.anything = frozenset(tables), frozenset(words), anything

    def touches(self, tables: Iterable[str]) -> bool:
        return any(name in self.tables or name.rpartition(".")[2].lower() in self.words for name in tables)

    def __bool__(self) -> bool:
        return bool(self.tables or self.words or self.anything)


NOTHING = Changed()


def of_text(text: str) -> Changed:
    """What this SQL may change."""
    if ANYTHING.match(text):
        return Changed(anything=True)
    if DEFINES.match(text) or not CHANGES.search(LOCKS.sub(" ", text)):
        return NOTHING
    return Changed(words=(word.lower() for word in NAMES.findall(text)))


def _tables(dml: Any) -> set[str]:
    return {element.fullname for element in visitors.iterate(dml.table) if isinstance(element, Table)}


def of_execution(statement: str, context: Any | None) -> Changed:
    """What the statement that a cursor is about to run changes; `context` is SQLAlchemy's ExecutionContext."""
    compiled = getattr(context, "compiled", None)
    if compiled is None:
        return of_text(statement)
    if getattr(context, "isddl", False):
        return NOTHING
    built = compiled.statement
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


def dependents(metadata: MetaData, changed: str, all_keys: bool = False) -> set[str]:
    """The tables whose rows the database itself deletes or changes when rows of this one are deleted.

    `all_keys`: by TRUNCATE ... CASCADE, which follows every foreign key.
    """
    found: set[str] = set()
    ahead = [changed]
    while ahead:
        name = ahead.pop()
        for table in metadata.tables.values():
            if table.fullname in found or table.fullname == changed:
                continue
            if any(key.column.table.fullname == name and (all_keys or acts(key)) for key in table.foreign_keys):
                found.add(table.fullname)
                ahead.append(table.fullname)
    return found


def acts(key: ForeignKey) -> bool:
    """Does the database do something to the row that refers, when the one referred to is deleted?"""
    return bool(key.ondelete) and str(key.ondelete).upper() not in ("NO ACTION", "RESTRICT")
