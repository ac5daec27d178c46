"""What one mapped class stands for in a cache: the keys and tags of its rows, filled in from its attributes.

A template names attributes in braces, `user:{id}`.  An attribute that is part of the primary key is known as long as
the row is; any other (`user-by-email:{email}`) may change, also in somebody else's transaction, so its old value is
read from the row, and the row locked, before it is changed: the value that the session happens to hold may be an old
one, and the key made of it the wrong one.
"""

from __future__ import annotations

import datetime
import decimal
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Callable

from sqlalchemy import Column, Connection, Select, Table, inspect, select
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.sql import ColumnElement, or_
from sqlalchemy.sql.expression import and_

Values = Mapping[str, Any]  # of a row: attribute's name to value
EPOCH = datetime.datetime(1970, 1, 1)


class Template:
    """A key or tag with attributes in braces.

    If it has several, what stands between them is escaped in strings ("a:b" as "a%3Ab"): no two rows have one key.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.fields: tuple[str, ...] = tuple(
            name for _, name, _, _ in string.Formatter().parse(text) if name is not None
        )
        for name in self.fields:
            if not name.isidentifier():
                raise ValueError(f"{text!r}: {{{name}}} is no attribute's name")
        between = [before for before, name, _, _ in string.Formatter().parse(text) if name is not None][1:]
        if not all(between):
            raise ValueError(f"{text!r}: two attributes with nothing between them, so that two rows could have one key")
        self._escapes = {ord(char): f"%{ord(char):02X}" for char in {*"".join(between), "%"}} if between else {}

    def fill(self, values: Values) -> str | None:
        """The key; None where an attribute is not known or NULL, since nothing can be cached under that."""
        if any(values.get(name) is None for name in self.fields):
            return None
        if self._escapes:
            values = {
                name: value.translate(self._escapes) if isinstance(value, str) else value
                for name, value in ((name, values[name]) for name in self.fields)
            }
        return self.text.format_map(values)


def filled(templates: Iterable[Template], values: Values) -> frozenset[str]:
    """What they make of these values, as far as they can."""
    return frozenset(name for name in (template.fill(values) for template in templates) if name is not None)


def python_type(column: ColumnElement[Any]) -> type | None:
    """The type of a column's values, if equal ones are always written alike (Decimals are not)."""
    try:
        found: type = column.type.python_type
    except NotImplementedError:
        return None
    return None if issubclass(found, (decimal.Decimal, float)) else found


def version_number(value: object) -> int:
    """A version column's value as a source version, which must rise: integers and times do.  0: it is neither."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value if 0 < value < 1 << 64 else 0
    if isinstance(value, datetime.datetime):
        plain = value.astimezone(datetime.timezone.utc).replace(tzinfo=None) if value.tzinfo else value
        return max(0, (plain - EPOCH) // datetime.timedelta(microseconds=1))
    return 0


def in_order(identities: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """These primary keys as the database orders them, as far as their types have an order."""
    try:
        return sorted(identities)
    except TypeError:
        return list(identities)


@dataclass(frozen=True)
class Row:
    """The keys and tags of one row as it is, or was."""

    keys: frozenset[str] = frozenset()  # that hold the row, or are made of it and others
    own: frozenset[str] = frozenset()  # of them: those that never hold another row, so that its version is theirs
    tags: frozenset[str] = frozenset()
    version: int = 0

    def plus(self, other: Row) -> Row:
        return Row(
            self.keys | other.keys,
            self.own | other.own,
            self.tags | other.tags,
            max(self.version, other.version),
        )


@dataclass(eq=False)
class Kept:
    """One declared class.  `cache` is a freshet.Cache; the rest is as in Coherence.keeps."""

    cls: type
    cache: Any
    key: Template
    others: tuple[Template, ...]
    also: tuple[Template, ...]
    more: Callable[[Any], Iterable[str]] | None
    tags: tuple[Template, ...]
    carries: tuple[Template, ...]
    table_tag: str
    extra_tables: frozenset[str]
    fixed: frozenset[str]
    versioned: bool
    value: Callable[[Any], Any] | None
    restore: Callable[[Any], Any] | None
    ttl: float | None
    absent_ttl: float | None
    load_options: Sequence[Any] = field(default=())

    @cached_property
    def mapper(self) -> Mapper[Any]:
        mapper: Mapper[Any] = inspect(self.cls)
        for name in (*self.fields, *self.carried_fields):
            if name not in mapper.column_attrs:
                raise ValueError(f"{self.cls.__name__}: {{{name}}} in a key or tag is no column's attribute of it")
        return mapper

    @cached_property
    def fields(self) -> tuple[str, ...]:
        templates = (self.key, *self.others, *self.also, *self.tags)
        return tuple(dict.fromkeys(name for template in templates for name in template.fields))

    @cached_property
    def identity_fields(self) -> tuple[str, ...]:
        return tuple(self.mapper.get_property_by_column(column).key for column in self.mapper.primary_key)

    @cached_property
    def moving(self) -> bool:
        """May a key or tag change while the row stays?"""
        return any(name not in self.identity_fields and name not in self.fixed for name in self.fields)

    @cached_property
    def beyond(self) -> bool:
        """Are keys or tags made of more than the primary key?"""
        return not set(self.fields) <= set(self.identity_fields)

    @cached_property
    def read_options(self) -> dict[str, Any]:
        return {"ttl": self.ttl, "absent_ttl": self.absent_ttl}

    @cached_property
    def plain_key(self) -> tuple[str, str] | None:
        """What stands before and after the primary key, if the key is nothing else."""
        parts = list(string.Formatter().parse(self.key.text))
        if self.key.fields != self.identity_fields or len(self.identity_fields) != 1 or parts[0][2] or parts[0][3]:
            return None
        return parts[0][0], parts[1][0] if len(parts) > 1 else ""

    def key_of(self, ident: Any) -> str:
        """get_or_load's key of this primary key."""
        if type(ident) in (int, str) and self.plain_key is not None:
            before, after = self.plain_key
            return f"{before}{ident}{after}"
        key = self.key.fill(self.ident_values(ident))
        if key is None:
            raise ValueError(f"{self.cls.__name__}: {self.key.text!r} cannot be made of the primary key {ident!r}")
        return key

    @cached_property
    def version_field(self) -> str | None:
        column = self.mapper.version_id_col
        return self.mapper.get_property_by_column(column).key if self.versioned and column is not None else None

    @cached_property
    def tables(self) -> frozenset[str]:
        """The full names of the tables that its rows are in, subclasses' and declared ones included."""
        named = {
            table.fullname
            for mapper in self.mapper.self_and_descendants
            for table in mapper.tables
        }  # fmt: skip
        return frozenset(named) | self.extra_tables

    @cached_property
    def carried_fields(self) -> tuple[str, ...]:
        return tuple(name for template in self.carries for name in template.fields)

    @cached_property
    def selected(self) -> tuple[str, ...]:
        version = (self.version_field,) if self.version_field else ()
        return tuple(dict.fromkeys((*self.identity_fields, *self.fields, *version)))

    def columns(self, table: Table | None = None) -> list[ColumnElement[Any]]:
        """The columns behind `selected`, labelled by attribute; those of `table` alone, if it is given."""
        name_of = None if table is None else table.fullname
        columns: list[ColumnElement[Any]] = []
        for name in self.selected:
            choice: Sequence[ColumnElement[Any]] = self.mapper.column_attrs[name].columns
            for column in choice:
                if table is None or (isinstance(column, Column) and column.table.fullname == name_of):
                    columns.append(column.label(name))
                    break
        return columns

    def row(self, values: Values) -> Row:
        """Keys and tags of a row with these values."""
        holding = (self.key, *self.others)
        identifying = [template for template in holding if set(template.fields) <= set(self.identity_fields)]
        return Row(
            filled((*holding, *self.also), values),
            filled(identifying, values),
            filled(self.tags, values),
            version_number(values.get(self.version_field)) if self.version_field else 0,
        )

    def row_tags(self, values: Values) -> list[str]:
        """The tags that the entry of this row carries; the table's tag is the first."""
        carried = (template.fill(values) for template in self.carries)
        return [self.table_tag, *(tag for tag in carried if tag)]

    def more_of(self, instance: object) -> Row:
        return Row(keys=frozenset(self.more(instance))) if self.more is not None else Row()

    def identity_values(self, state: InstanceState[Any]) -> dict[str, Any]:
        """Of a row that the database has: its primary key there, whatever the object says meanwhile."""
        return dict(zip(self.identity_fields, state.identity or ()))

    def values(self, state: InstanceState[Any]) -> dict[str, Any]:
        """What the object says; what it has not loaded is left out, and nothing is loaded for it."""
        names = (*self.selected, *self.carried_fields)
        return {name: state.dict[name] for name in names if name in state.dict}

    def ident_values(self, ident: Any) -> dict[str, Any]:
        """A primary key as Session.get takes it (a value, a tuple, a mapping), by attribute."""
        if isinstance(ident, Mapping):
            return dict(ident)
        parts = ident if isinstance(ident, (tuple, list)) else (ident,)
        if len(parts) != len(self.identity_fields):
            raise ValueError(f"{self.cls.__name__}: its primary key is {self.identity_fields}, not {ident!r}")
        return dict(zip(self.identity_fields, parts))

    def one_spelling(self, ident: Any) -> bool:
        """Is this the only way to write the primary key, so that a row to come has the very same key?"""
        return all(
            type(part) is python_type(column) for part, column in zip(self.identity(ident), self.mapper.primary_key)
        )

    def identity(self, ident: Any) -> tuple[Any, ...]:
        """The same as the tuple that an identity map knows."""
        values = self.ident_values(ident)
        return tuple(values[name] for name in self.identity_fields)

    def locking(self, identities: Sequence[tuple[Any, ...]]) -> Select[Any]:
        """The statement that reads, and locks, the rows of these primary keys.

        In their order, so that two transactions cannot wait for one another; and no stronger than the UPDATE that
        follows: who inserts rows that refer to these does not wait either (FOR NO KEY UPDATE).
        """
        columns = self.mapper.primary_key
        if len(columns) == 1:
            which: ColumnElement[bool] = columns[0].in_([identity[0] for identity in identities])
        else:
            which = or_(
                *(and_(*(column == part for column, part in zip(columns, identity))) for identity in identities)
            )
        chosen = select(*self.columns()).select_from(self.mapper.selectable).where(which).order_by(*columns)
        return chosen.with_for_update(of=list(self.mapper.tables), key_share=True)

    def stored(self, connection: Connection, identities: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """The values of these rows as the database has them, locked until the transaction's end."""
        return [dict(row) for row in connection.execute(self.locking(identities)).mappings()]
