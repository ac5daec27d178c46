# ruff: noqa: UP045 - SQLAlchemy reads the annotations at run time, also on Python 3.9
"""A world for the tests of freshet.sqlalchemy: real servers, mapped classes, two hosts' caches and a Coherence.

"Somebody else" is a second cache object on a tier of its own, as another host has it.  Whether a key is guarded is told
by whether a load under it leaves anything behind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import redis
from sqlalchemy import ForeignKey, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

import freshet
from freshet.sqlalchemy import Coherence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from stories.servers import Missing, Servers, postgres_bin, redis_server


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    try:
        postgres_bin(), redis_server()
    except Missing as missing:
        pytest.skip(str(missing))
    with Servers(apply_delay=0.0) as servers:
        yield servers


class World:
    """Mapped classes, an engine, two hosts' caches and a Coherence, all fresh."""

    def __init__(self, servers: Servers, folder: Path, **options: Any) -> None:
        self.servers, self.folder, self.caches = servers, folder, list[freshet.Cache]()
        keyring = folder / "keys"
        freshet.keygen(str(keyring))
        self.keyring = keyring
        self.here, self.there = self.cache("here"), self.cache("there")
        self.engine = create_engine(servers.primary.url("psycopg"))
        assert servers.replica is not None
        self.replica_engine = create_engine(servers.replica.url("psycopg"))
        self.sessions = sessionmaker(self.engine)
        self.coherence = Coherence(
            self.here, primary=sessionmaker(self.engine), replica=sessionmaker(self.replica_engine), **options
        )
        coherence = self.coherence

        class Base(DeclarativeBase):
            pass

        class Team(Base):
            __tablename__ = "team"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]
            members: Mapped[list[User]] = relationship(back_populates="team", cascade="all, delete-orphan")

        @coherence.keeps(
            "user:{id}", keys=["user-by-email:{email}"], also=["team-summary:{team_id}"], tags=["team:{team_id}"],
            carries=["age:{age}"],
        )  # fmt: skip
        class User(Base):
            __tablename__ = "person"
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[str] = mapped_column(unique=True)
            age: Mapped[int] = mapped_column(default=0)
            team_id: Mapped[Optional[int]] = mapped_column(ForeignKey("team.id"))
            team: Mapped[Optional[Team]] = relationship(back_populates="members")
            version: Mapped[int] = mapped_column()
            __mapper_args__ = {"version_id_col": version}  # noqa: RUF012

        @coherence.keeps("note:{id}")
        class Note(Base):
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            text: Mapped[str]
            author_id: Mapped[Optional[int]] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"))

        Base.registry.configure()
        self.Base, self.Team, self.User, self.Note = Base, Team, User, Note
        Base.metadata.drop_all(self.engine)
        Base.metadata.create_all(self.engine)
        coherence.watch(self.sessions)
        with Session(self.engine) as session:  # not watched: as if it had always been so
            session.add_all([Team(id=7, name="seven"), Team(id=8, name="eight")])
            session.flush()
            session.add_all(User(email=f"{n}@x", age=n, team_id=7) for n in (1, 2, 3))
            session.add(Note(id=1, text="one"))
            session.commit()
        self.servers.caught_up()

    def cache(self, name: str, **options: Any) -> freshet.Cache:
        cache = freshet.Cache(
            f"world-{self.folder.name}"[:60], url=self.servers.redis.url, keyring=str(self.keyring),
            dir=str(self.folder / name), serializer=freshet.PICKLE, **options,
        )  # fmt: skip
        self.caches.append(cache)
        return cache

    def close(self) -> None:
        for engine in (self.engine, self.replica_engine):
            engine.dispose()
        for cache in self.caches:
            cache.close()

    def fill(self, *keys: str, cache: Optional[freshet.Cache] = None, **options: Any) -> None:
        """There is an old answer under these keys, on both hosts."""
        for key in keys:
            (cache or self.there).set(key, "old", **options)
            assert self.there.get(key) == "old"
            assert self.here.get(key) == "old"

    def kept(self, key: str) -> bool:
        """Does a load by another host leave its answer behind?"""
        self.there.load(key, lambda request: "loaded")
        return bool(self.there.get(key, level="latest") == "loaded")

    def redis(self, *command: str) -> None:
        with redis.Redis(unix_socket_path=str(self.servers.redis.socket)) as client:
            client.execute_command(*command)

    def statements(self) -> list[str]:
        """The statements that go to the primary from now on."""
        seen: list[str] = []
        event.listen(self.engine, "before_cursor_execute", lambda c, k, statement, *rest: seen.append(statement))
        return seen

    def gone(self, key: str) -> bool:
        """Is an old answer not served any more, here at once and there when Redis is asked?"""
        return self.here.get(key) is None and self.there.get(key, level="latest") is None


@pytest.fixture
def world(servers: Servers, tmp_path: Path) -> Iterator[World]:
    world = World(servers, tmp_path)
    yield world
    world.close()
