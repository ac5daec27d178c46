# ruff: noqa: UP045 - SQLAlchemy reads the annotations at run time, also on Python 3.9
"""What sessions do besides: savepoints left open, deletions that cascade, locks, keys by another spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("psycopg")
pytest.importorskip("redis")

from sqlalchemy import DDL, ForeignKey, NullPool, create_engine, delete, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy_world import World, servers, world
from stories.servers import Servers

from freshet.sqlalchemy import NotGuarded

__all__ = ["servers", "world"]  # fixtures


def test_a_savepoint_left_open_is_committed_with_its_tags(world: World) -> None:
    world.fill("list:7", tags=["team:7"])
    with world.sessions.begin() as session:
        session.begin_nested()
        session.get_one(world.User, 1).age = 50
    assert world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "50"
    assert world.gone("list:7")


def test_a_savepoint_left_open_does_not_hide_a_lost_guard(servers: Servers, tmp_path: Path) -> None:
    world = World(servers, tmp_path, hold=1.0, commit_needs=0.9995)
    try:
        with pytest.raises(NotGuarded), world.sessions.begin() as session:
            session.begin_nested()
            session.get_one(world.User, 1).age = 50
        assert world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "1"
    finally:
        world.close()


def test_a_commit_by_the_connection_voids_the_tags(world: World) -> None:
    world.fill("list:7", tags=["team:7"])
    with world.sessions() as session:
        session.get_one(world.User, 1).age = 50
        session.flush()
        session.connection().commit()
        session.close()
    assert world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "50"
    assert world.gone("list:7")


@pytest.mark.parametrize("whose", ["connection", "engine", "new engine"])
def test_without_a_transaction_tags_are_voided_also_by_a_rollback(world: World, whose: str) -> None:
    world.fill("list:7", tags=["team:7"])
    engine = world.engine
    if whose == "engine":
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    elif whose == "new engine":
        engine = create_engine(engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with world.sessions(bind=engine) as session:
        if whose == "connection":
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        session.get_one(world.User, 1).age = 50
        session.flush()
        session.rollback()
    assert world.servers.primary.sql("SELECT age FROM person WHERE id = 1") == "50"
    assert world.gone("list:7")


def test_a_changed_parent_does_not_wait_for_who_adds_children(world: World) -> None:
    """As without a cache: to change a row that is referred to takes no lock against those who refer to it."""
    world.coherence.keeps("team:{id}", keys=["team-named:{name}"])(world.Team)
    first, second = world.sessions(), world.sessions()
    for session, email in ((first, "first@x"), (second, "second@x")):
        session.add(world.User(email=email, team_id=7))
        session.flush()
    first.connection().execute(text("SET LOCAL lock_timeout = '5s'"))
    first.get_one(world.Team, 7).name = "renamed"
    first.flush()
    first.commit()
    second.commit()
    first.close()
    second.close()


def test_two_flushes_lock_rows_in_one_order(world: World) -> None:
    seen = world.statements()
    world.coherence.keeps("team:{id}", keys=["team-named:{name}"])(world.Team)
    for order in ((1, 2, 3), (3, 2, 1)):
        with world.sessions() as session:
            users = {n: session.get_one(world.User, n) for n in order}
            team = session.get_one(world.Team, 7)
            team.name += "x"
            for n in order:
                users[n].age += 1
            session.flush()
    locks = [one for one in seen if "UPDATE OF" in one]
    assert len(locks) == 4
    assert all("ORDER BY" in one for one in locks)
    assert locks[:2] == locks[2:]


@pytest.mark.parametrize("ident", ["042", " 42", "42"])
def test_a_row_asked_for_by_another_spelling_does_not_go_stale(world: World, ident: str) -> None:
    with world.sessions.begin() as session:
        session.add(world.Note(id=42, text="old"))
    value = world.coherence.get_or_load(world.Note, ident)
    assert value["text"] == "old"
    with world.sessions.begin() as session:
        session.get_one(world.Note, 42).text = "new"
    assert world.coherence.get_or_load(world.Note, ident, level="latest")["text"] == "new"


@pytest.mark.parametrize("ident", ["043", "43"])
def test_an_absence_asked_for_by_another_spelling_does_not_go_stale(world: World, ident: str) -> None:
    assert world.coherence.get_or_load(world.Note, ident) is None
    with world.sessions.begin() as session:
        session.add(world.Note(id=43, text="new"))
    assert world.coherence.get_or_load(world.Note, ident, level="latest")["text"] == "new"


def other_classes(world: World) -> Any:
    """A parent whose children fall with it in the database, which a relationship knows, and one that does not."""
    Base = world.Base

    class Shelf(Base):  # type: ignore[misc, valid-type]
        __tablename__ = "shelf"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(default="")
        books: Mapped[list[Book]] = relationship(foreign_keys="Book.shelf_id")
        sole: Mapped[Optional[Book]] = relationship(foreign_keys="Shelf.sole_id", post_update=True)
        sole_id: Mapped[Optional[int]] = mapped_column(
            ForeignKey("book.id", ondelete="SET NULL", use_alter=True, name="sole")
        )

    class Book(Base):  # type: ignore[misc, valid-type]
        __tablename__ = "book"
        id: Mapped[int] = mapped_column(primary_key=True)
        shelf_id: Mapped[Optional[int]] = mapped_column(ForeignKey("shelf.id", ondelete="CASCADE", onupdate="CASCADE"))
        lent_to: Mapped[Optional[int]] = mapped_column(ForeignKey("shelf.id", ondelete="CASCADE"))
        title: Mapped[str] = mapped_column(default="")

    world.coherence.keeps("shelf:{id}")(Shelf)
    world.coherence.keeps("book:{id}", fixed=["title"], tags=["titled:{title}"], keys=["book-titled:{title}"])(Book)
    Base.registry.configure()
    Base.metadata.drop_all(world.engine)
    Base.metadata.create_all(world.engine)
    with world.sessions.begin() as session:
        session.add_all([Shelf(id=1), Shelf(id=2), Shelf(id=3)])
        session.flush()
        session.add_all(Book(id=n, shelf_id=1, title=f"t{n}") for n in (1, 2, 3))
        session.add(Book(id=4, lent_to=1, title="t4"))
        session.flush()
        session.get_one(Shelf, 3).sole_id = 4
    return Shelf, Book


def test_a_row_moved_by_a_relationship_alone_is_guarded(world: World) -> None:
    """Nothing of Book's has been touched when the flush begins, and no attribute of it leads back."""
    Shelf, _ = other_classes(world)
    world.fill("titled", tags=["titled:t2"])
    with world.sessions() as session:
        one, other = session.get_one(Shelf, 1), session.get_one(Shelf, 2)
        book = next(book for book in one.books if book.id == 2)
        one.books.remove(book)
        other.books.append(book)
        session.flush()
        assert not world.kept("book:2")
        assert not world.kept("book-titled:t2")
        assert world.kept("book:1")
        session.commit()
    assert world.kept("book:2")
    assert world.gone("titled")


def test_an_expired_fixed_attribute_is_looked_up(world: World) -> None:
    _, Book = other_classes(world)
    with world.sessions() as session:
        book = session.get_one(Book, 2)
        session.expire(book)
        book.shelf_id = 2
        session.flush()
        assert not world.kept("book-titled:t2")
        session.commit()
    with world.sessions() as session:
        book = session.get_one(Book, 2)
        session.expire(book)
        session.delete(book)
        session.flush()
        assert not world.kept("book-titled:t2")


def of_each(world: World, cls: Any, *idents: int) -> list[Any]:
    return [world.coherence.get_or_load(cls, ident) for ident in idents]


def test_a_deletion_voids_what_falls_by_another_foreign_key_than_the_relationships(world: World) -> None:
    Shelf, Book = other_classes(world)
    of_each(world, Book, 4)
    with world.sessions.begin() as session:
        session.delete(session.get_one(Shelf, 1))
    assert world.coherence.get_or_load(Book, 4, level="latest") is None


def test_a_deletion_voids_what_refers_to_it_though_it_refers_there_itself(world: World) -> None:
    Shelf, Book = other_classes(world)
    assert of_each(world, Shelf, 3)[0]["sole_id"] == 4
    with world.sessions.begin() as session:
        session.delete(session.get_one(Book, 4))
    assert world.coherence.get_or_load(Shelf, 3, level="latest")["sole_id"] is None


@pytest.mark.parametrize("exact", [True, False])
def test_execute_voids_what_falls_with_the_rows_whatever_the_relationships(world: World, exact: bool) -> None:
    Shelf, Book = other_classes(world)
    of_each(world, Book, 1, 4)
    statement = delete(Shelf).where(Shelf.id == 1)
    with world.sessions.begin() as session:
        done = world.coherence.execute(session, statement if exact else statement.returning(Shelf.name))
        assert done.exact == exact
    assert world.coherence.get_or_load(Book, 1, level="latest") is None
    assert world.coherence.get_or_load(Book, 4, level="latest") is None


def test_a_statement_in_another_is_not_overlooked_by_execute(world: World) -> None:
    of_each(world, world.User, 1)
    inner = update(world.User).values(age=50).returning(world.User.id).cte("inner")
    with world.sessions.begin() as session:
        world.coherence.execute(session, update(world.Note).values(text="new").add_cte(inner))
    assert world.coherence.get_or_load(world.User, 1, level="latest")["age"] == 50


def test_a_primary_key_that_moves_voids_what_moves_with_it(world: World) -> None:
    Shelf, Book = other_classes(world)
    assert of_each(world, Book, 1)[0]["shelf_id"] == 1
    with world.sessions.begin() as session:
        session.execute(text("DELETE FROM book WHERE id = 4"))
    of_each(world, Book, 1)
    with world.sessions.begin() as session:
        session.get_one(Shelf, 1).id = 10
    assert world.coherence.get_or_load(Book, 1, level="latest")["shelf_id"] == 10


TEXTS: dict[str, Any] = {
    "ddl": DDL("TRUNCATE note"),  # type: ignore[no-untyped-call, unused-ignore]
    "two statements": text("CREATE TEMPORARY TABLE mine (id int) ON COMMIT DROP; UPDATE note SET text = 'new'"),
    "commented": text("-- CREATE\nUPDATE note SET text = 'new'"),
}


@pytest.mark.parametrize("which", TEXTS)
def test_a_statement_is_not_overlooked_for_what_stands_before_it(world: World, which: str) -> None:
    assert of_each(world, world.Note, 1)[0]["text"] == "one"
    with world.sessions.begin() as session:
        session.execute(TEXTS[which])
    value = world.coherence.get_or_load(world.Note, 1, level="latest")
    assert value is None or value["text"] == "new"


def test_a_table_whose_name_is_no_word_is_not_overlooked(world: World) -> None:
    class Odd(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "odd names-here"
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(default="old")

    world.coherence.keeps("odd:{id}")(Odd)
    world.Base.metadata.create_all(world.engine)
    try:
        with world.sessions.begin() as session:
            session.add(Odd(id=1))
        of_each(world, Odd, 1)
        with world.sessions.begin() as session:
            session.execute(text("UPDATE \"odd names-here\" SET text = 'new'"))
        assert world.coherence.get_or_load(Odd, 1, level="latest")["text"] == "new"
    finally:
        Odd.__table__.drop(world.engine)


def test_what_falls_in_its_own_table_is_not_overlooked(world: World) -> None:
    """A tree that the database prunes: RETURNING names the root alone."""

    class Branch(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "branch"
        id: Mapped[int] = mapped_column(primary_key=True)
        of_id: Mapped[Optional[int]] = mapped_column(ForeignKey("branch.id", ondelete="CASCADE"))

    world.coherence.keeps("branch:{id}")(Branch)
    world.Base.metadata.create_all(world.engine)
    for way in ("execute", "flush"):
        with world.sessions.begin() as session:
            session.add(Branch(id=1))
            session.flush()
            session.add(Branch(id=2, of_id=1))
        assert of_each(world, Branch, 2) != [None]
        with world.sessions.begin() as session:
            if way == "execute":
                assert world.coherence.execute(session, delete(Branch).where(Branch.id == 1)).exact
            else:
                session.delete(session.get_one(Branch, 1))
        assert world.coherence.get_or_load(Branch, 2, level="latest") is None


def test_the_old_row_of_a_subclass_is_locked_in_all_its_tables(world: World) -> None:
    """A key may be made of what stands in the table above."""

    class Animal(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "animal"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        kind: Mapped[str]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012

    class Dog(Animal):
        __tablename__ = "dog"
        id: Mapped[int] = mapped_column(ForeignKey("animal.id"), primary_key=True)
        trick: Mapped[str]
        __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012

    world.coherence.keeps("dog:{id}", keys=["dog-named:{name}"])(Dog)
    world.Base.metadata.create_all(world.engine)
    with world.sessions.begin() as session:
        session.add(Dog(id=1, name="Rex", trick="none"))
    with world.sessions() as session:
        session.get_one(Dog, 1).trick = "sit"
        session.flush()
        with world.engine.connect() as other, pytest.raises(DBAPIError, match="could not obtain lock"):
            other.execute(text("SELECT 1 FROM animal WHERE id = 1 FOR UPDATE NOWAIT"))
        assert not world.kept("dog-named:Rex")
        session.commit()
    world.coherence.get_or_load(Dog, 1)
    with world.sessions.begin() as session:  # by the class above
        session.execute(update(Animal).values(name="Max"))
    assert world.coherence.get_or_load(Dog, 1, level="latest")["name"] == "Max"


def test_changing_guards_all_that_a_class_is_declared_for(world: World) -> None:
    class Child(world.User):  # type: ignore[misc, name-defined]
        pass

    world.coherence.keeps("child:{id}", keys=["child-of:{team_id}"])(Child)
    assert [kept.key.text for kept in world.coherence.of_mapper(Child.__mapper__)] == ["child:{id}", "user:{id}"]
    world.coherence.get_or_load(world.User, 1)
    with world.sessions() as session:
        with world.coherence.changing(session, Child, 1):
            session.execute(text("UPDATE person SET age = 50 WHERE id = 1"))
        assert not world.kept("child:1")
        assert not world.kept("child-of:7")
        session.commit()
    assert world.coherence.get_or_load(world.User, 1, level="latest")["age"] == 50


def test_two_primary_keys_never_have_one_key(world: World) -> None:
    class Place(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "place"
        shop: Mapped[str] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int]

    world.coherence.keeps("place:{shop}:{name}")(Place)
    world.Base.metadata.create_all(world.engine)
    idents = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c")]
    with world.sessions.begin() as session:
        session.add_all(Place(shop=shop, name=name, number=n) for n, (shop, name) in enumerate(idents))
    assert [world.coherence.get_or_load(Place, ident)["number"] for ident in idents] == [0, 1, 2]
    with world.sessions.begin() as session:
        for ident in idents:
            session.get_one(Place, ident).number += 10
    assert [world.coherence.get_or_load(Place, ident, level="latest")["number"] for ident in idents] == [10, 11, 12]
    with pytest.raises(ValueError, match="nothing between"):
        world.coherence.keeps("place:{shop}{name}")(Place)
