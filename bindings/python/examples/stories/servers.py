"""Real servers for the stories: PostgreSQL with a delayed streaming replica, and Redis, each of them private.

Everything stands in a fresh directory and is spoken to over unix sockets, so that nothing on the machine is in the way
and nothing of it is touched.  A server is a child of this process, started without a shell or a daemon in between: its
pid is ours to end, and no other.  PostgreSQL refuses to run as root; then it runs as the user `postgres` (or `nobody`).
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

START_S = 60.0  # a server that does not answer by then never will
END_S = 20.0  # a server that has not ended by then is killed


class Missing(RuntimeError):
    """A program that the servers are made of is not on this machine; says which, and how to get it."""


def wait_until(what: str, ready: Callable[[], bool], deadline: float = START_S, every: float = 0.02) -> None:
    """Ask `ready` every `every` seconds until it says yes; TimeoutError, naming `what`, after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline:g} s")
        time.sleep(every)


def postgres_bin() -> Path:
    """The folder of PostgreSQL's programs, the newest there is: pg_config's, or where Debian keeps its versions."""
    found = [Path(folder) for folder in glob.glob("/usr/lib/postgresql/*/bin")]
    found.sort(key=lambda folder: float(folder.parent.name) if folder.parent.name.replace(".", "").isdigit() else 0.0)
    config = shutil.which("pg_config")
    if config:
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        found.append(Path(said.stdout.strip()))
    for folder in reversed(found):
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_basebackup")):
            return folder
    raise Missing("PostgreSQL's server is not here: apt-get install postgresql")


def redis_server() -> str:
    """The path of redis-server (or valkey-server)."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            return path
    raise Missing("no redis-server here: apt-get install redis-server")


class Child:
    """A server process: started with `start`, ended by its own pid."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Sequence[str], **options: Any) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **options
            )

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ready(self, what: str, answers: Callable[[], bool]) -> None:
        """Wait until `answers`; a process that has ended meanwhile is told of with the end of its log."""

        def look() -> bool:
            if not self.alive():
                raise RuntimeError(f"{what} ended while starting:\n{self.log.read_text(errors='replace')[-2000:]}")
            return answers()

        wait_until(what, look)

    def end(self, how: int = signal.SIGTERM) -> None:
        """Ask it to end, wait, kill it if it does not; nothing if it has ended already."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self.process = None


class Redis(Child):
    """A private Redis on a unix socket.  `keep`: what it was given survives `kill` and `start` (append-only file)."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        folder.mkdir()
        super().__init__(folder / "log")
        self.folder, self.keep = folder, keep
        self.socket = folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        keep = ["--appendonly", "yes", "--appendfsync", "always"] if self.keep else ["--appendonly", "no"]
        command = [redis_server(), "--port", "0", "--unixsocket", str(self.socket), "--save", "", *keep]
        self.spawn([*command, "--dir", str(self.folder)])
        self.ready("Redis", self._answers)

    def _answers(self) -> bool:
        import redis

        try:
            with redis.Redis(unix_socket_path=str(self.socket)) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False

    def kill(self) -> None:
        """As the machine's power cord would."""
        self.end(signal.SIGKILL)


class Postgres(Child):
    """One PostgreSQL server: a primary, or (`of`) a streaming replica of one."""

    def __init__(self, folder: Path, *, of: Postgres | None = None, apply_delay: float = 0.0) -> None:
        folder.mkdir(mode=0o755)
        super().__init__(folder / "log")
        self.folder, self.data, self.sockets = folder, folder / "data", folder
        self.of, self.apply_delay = of, apply_delay
        self.run: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
            self.run = {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []}
            os.chown(folder, pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)

    def _do(self, program: str, *arguments: str) -> None:
        command = [str(postgres_bin() / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env={**os.environ, "LC_ALL": "C"}, **self.run
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr.strip()[-2000:]}")

    def start(self) -> None:
        if self.of is None:
            self._do("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        else:
            self._do(
                "pg_basebackup", "-D", str(self.data), "-h", str(self.of.sockets), "-U", "postgres", "-R", "--no-sync",
                "-c", "fast",
            )  # fmt: skip
        settings = {
            "listen_addresses": "", "unix_socket_directories": str(self.sockets), "shared_buffers": "16MB",
            "max_connections": "100", "wal_level": "replica", "max_wal_senders": "4", "fsync": "off",
            "shared_preload_libraries": "pg_stat_statements", "max_prepared_transactions": "4",
            "idle_in_transaction_session_timeout": "5s",
        }  # fmt: skip
        if self.of is not None:
            settings["recovery_min_apply_delay"] = f"{round(self.apply_delay * 1000)}ms"
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.spawn([str(postgres_bin() / "postgres"), "-D", str(self.data), *options], cwd=self.folder, **self.run)
        self.ready("PostgreSQL", self._answers)

    def _answers(self) -> bool:
        command = [str(postgres_bin() / "pg_isready"), "-q", "-h", str(self.sockets)]
        return subprocess.run(command).returncode == 0

    def end(self, how: int = signal.SIGINT) -> None:
        super().end(how)  # SIGINT: PostgreSQL's fast shutdown

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run it through psql, as an operator would; the answer, unadorned."""
        command = [str(postgres_bin() / "psql"), "-h", str(self.sockets), "-U", "postgres", "-d", database]
        done = subprocess.run(
            [*command, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def url(self, driver: str = "asyncpg", role: str = "postgres") -> str:
        return f"postgresql+{driver}://{role}@/postgres?host={self.sockets}"


class Servers:
    """A primary, a replica that is `apply_delay` seconds behind (None: no replica), and a Redis; a context manager."""

    def __init__(self, *, apply_delay: float | None = None, redis_keeps: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="story-"))
        self.folder.chmod(0o755)
        self.primary = Postgres(self.folder / "primary")
        self.redis = Redis(self.folder / "redis", keep=redis_keeps)
        self.replica: Postgres | None = None
        if apply_delay is not None:
            self.replica = Postgres(self.folder / "replica", of=self.primary, apply_delay=apply_delay)

    def __enter__(self) -> Servers:
        try:
            self.redis.start()
            self.primary.start()
            self.primary.sql("CREATE EXTENSION pg_stat_statements")
            if self.replica is not None:
                self.replica.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self.replica is not None:
            self.replica.end()
        self.primary.end()
        self.redis.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _postgres(self) -> list[Postgres]:
        return [self.primary] if self.replica is None else [self.primary, self.replica]

    def caught_up(self) -> None:
        """Wait until the replica has applied all that the primary has written up to now."""
        if self.replica is None:
            return
        replica, target = self.replica, self.primary.sql("SELECT pg_current_wal_lsn()")
        wait_until(
            "the replica's catching up",
            lambda: replica.sql(f"SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn") == "t",
        )

    def reads(self, table: str, role: str) -> int:
        """How many SELECTs on `table`, locking ones apart, primary and replica have run for `role` so far."""
        asked = (
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements JOIN pg_roles ON userid = pg_roles.oid "
            f"WHERE rolname = '{role}' AND query ~* '^\\s*select.*\\m{table}\\M' AND query !~* 'for (no key )?update'"
        )
        return sum(int(server.sql(asked)) for server in self._postgres())
