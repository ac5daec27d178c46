"""Statements whose changed rows are known, because the database is asked which they are.

RETURNING names the rows in the very statement that changes them: no row can slip in between a question and the change.
Their keys are guarded after it and before the commit, which is when a guard must be there; should the guard fail, the
transaction can no longer be committed.  Where a key may move (an attribute that is not the primary key), the rows are
read and locked first, for the keys they are leaving.  What cannot be known exactly voids the whole table's tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import visitors

from .declare import Kept, Row, Values
from .work import Work

if TYPE_CHECKING:
    from .coherence import Coherence

COVERED = "freshet_covered"  # execution option: the table whose changed rows are known or void already


def change_rows(work: Work, kept: Kept, rows: Iterable[Values], versions: bool = False) -> None:
    """These rows change: guard their keys, all in one guard; `versions`: these are what the rows will be."""
    found = Row()
    for values in rows:
        row = kept.row(values)
        found = found.plus(row)
        if versions:
            work.versioned(kept, row)
    work.change(kept, found)


@dataclass(frozen=True)
class Changes:
    """What a statement changed.

    rows    of each changed row the attributes that keys, tags and versions are made of, by name; empty when `exact`
            is False
    count   how many rows, or -1 if the driver does not say
    exact   False: which rows is not known, and all entries with the table's tag are void
    """

    rows: list[dict[str, Any]]
    count: int
    exact: bool

    @classmethod
    def run(cls, coherence: Coherence, session: Session, statement: Any, parameters: Any) -> Changes:
        """As Coherence.execute."""
        if not getattr(statement, "is_dml", False):
            raise TypeError(f"execute takes an insert(), update() or delete(), not {type(statement).__name__}")
        table = next(part for part in visitors.iterate(statement.table) if isinstance(part, Table))
        kepts = [kept for kept in coherence.kept if table.fullname in kept.tables]
        if not kepts:
            raise LookupError(f"no declared class has the table {table.fullname}: run it with the session's execute")
        session.flush()
        if not exactly(session, statement, parameters, table, kepts):
            work = coherence.work_of(session)
            for kept in kepts:
                work.change_table(kept)
            with_options = statement.execution_options(**{COVERED: table.fullname})
            done = session.execute(with_options, *((parameters,) if parameters is not None else ()))
            return cls([], getattr(done, "rowcount", -1), False)
        return cls._exact(coherence, session, statement, parameters, table, kepts[0])

    @classmethod
    def _exact(
        cls, coherence: Coherence, session: Session, statement: Any, parameters: Any, table: Table, kept: Kept
    ) -> Changes:
        work = coherence.work_of(session)
        old: list[dict[str, Any]] = []
        moves = kept.moving and statement.is_update
        if moves:
            asked = select(*kept.columns(table)).order_by(*table.primary_key).with_for_update(key_share=True)
            if statement.whereclause is not None:
                asked = asked.where(statement.whereclause)
            found = session.execute(asked, parameters or {})
            old = [dict(row) for row in found.mappings()]
            change_rows(work, kept, old)
        returning = statement.returning(*kept.columns(table)).execution_options(**{COVERED: table.fullname})
        done = session.execute(returning, *((parameters,) if parameters is not None else ()))
        rows = [dict(row) for row in done.mappings()]
        try:
            change_rows(work, kept, rows, versions=not statement.is_delete)
            if moves and not _identities(kept, rows) <= _identities(kept, old):
                work.change_table(kept)  # a row came in between: what it was under is not known
        except BaseException as error:
            work.broken = f"a statement's rows could not be guarded ({error})"
            raise
        return cls(rows, len(rows), True)


def _identities(kept: Kept, rows: Sequence[Values]) -> set[tuple[Any, ...]]:
    return {tuple(row[name] for name in kept.identity_fields) for row in rows}


def exactly(session: Session, statement: Any, parameters: Any, table: Table, kepts: Sequence[Kept]) -> bool:
    """Can RETURNING tell all that the keys are made of?"""
    kept, many = kepts[0], isinstance(parameters, (list, tuple))
    if len(kepts) > 1 or kept.more is not None or len(kept.columns(table)) < len(kept.selected):
        return False
    if statement.returning_column_descriptions or (many and not statement.is_insert):
        return False
    dialect = session.get_bind(kept.mapper).dialect
    if statement.is_insert:
        if kept.moving and statement._post_values_clause is not None:  # ON CONFLICT DO UPDATE: what was there?
            return False
        return bool(dialect.insert_executemany_returning if many else dialect.insert_returning)
    return bool(dialect.update_returning if statement.is_update else dialect.delete_returning)
