"""Open a database and run transactions on it; `tx` and `read` are the only ways in.

A transaction is a plain function of a connection. On SQLite all of a process' writes run in one thread, and
transactions that wait at the same time share one commit, each in a savepoint of its own: the disk is asked once.
On Postgres each runs on a pooled connection. The function may run twice (after a deadlock), so it must not have
effects outside the database.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from onlooker.domain.errors import Misconfigured, StorageUnavailable
from onlooker.host import boot_id, now_ms, steady_ms
from onlooker.storage import dialect
from onlooker.storage.urls import parse_url

__all__ = ["Connection", "Database", "open_database"]

T = TypeVar("T")

READERS = 4
BUSY_TIMEOUT_MS = 10_000
LOCKED_AGAIN_S = 0.01
CHECKPOINT_PAGES = 8_000
"""Pages (32 MB) of log before they are written into the database. A replay's batch changes 2,000 and more, many of them
changed by the next one again: 4,000 made its transactions a twentieth slower, SQLite's own 1,000 a tenth more."""

SCRUB_WITHIN_S = 60
SCRUB_AGAIN_S = 0.05

SYNCHRONOUS = "synchronous"
"""In a writing connection's `info`: whether its next commit waits for the disk (FULL) or not (NORMAL)."""

TEMP_STORE = "temp_store"
"""There too: where pages are put aside that a statement of many rows changes, to undo it alone. In a FILE that is a
tenth of the work of a batch; what a migration puts aside may be more than MEMORY holds."""

LARGEST_GROUP = 256
"""Urgent transactions that may share one commit. More only makes the first of them wait longer."""

LONGEST_GROUP_S = 0.005
"""How long others may keep a group from its commit: a worker's backlog must not keep clients waiting."""


class Database(Protocol):
    """A database that is open. `name` is `sqlite` or `postgresql`; `url` is free of the password."""

    name: str
    url: str

    async def tx(self, work: Callable[[Connection], T], *, durable: bool = True, urgent: bool = False) -> T:
        """Run `work` in a transaction and return its result after the commit.

        An exception of `work` rolls back its own writes and no other's. With `durable=False` a power cut may take
        the commit, never a crash of the process: for the queue, which the outbox refills. An `urgent` one, which a
        client waits for, goes before others that wait in this process.

        Raises `StorageUnavailable`; with `outcome_unknown` where the reply to a commit was lost.
        """
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, which only reads, beside the writers. Raises `StorageUnavailable`."""
        ...

    async def alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that may take as long as it needs, as a migration may. See `tx`."""
        ...

    async def scrub(self) -> None:
        """Leave nothing of deleted rows in the file or its log. Raises `StorageUnavailable`.

        On SQLite the file is written anew, at some 200 MB a second, while writers wait. On Postgres it does nothing:
        what that takes needs a superuser, and keeps readers waiting too (`docs/forget.md`).
        """
        ...


@asynccontextmanager
async def open_database(
    url: str,
    *,
    pool_size: int = 10,
    timeout_s: float = 10,
    statement_timeout_s: float = 30,
    transaction_timeout_s: float = 60,
    direct_url: str = "",
) -> AsyncIterator[Database]:
    """Open the database of a `sqlite:///` or `postgresql://` URL; it is closed, its work done, on leaving.

    A SQLite file is created with mode 0600; the rest is for Postgres, see `PostgresLimits`. Raises `Misconfigured`
    for any other URL. The schema is not touched: see `storage.schema`.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == dialect.SQLITE:
        sqlite = SqliteDatabase(parsed)
        try:
            yield sqlite
        finally:
            await sqlite.close()
    elif parsed.get_backend_name() in {dialect.POSTGRES, "postgres"}:
        from onlooker.storage.postgres import PostgresDatabase, PostgresLimits

        limits = PostgresLimits(pool_size, timeout_s, statement_timeout_s, transaction_timeout_s)
        postgres = PostgresDatabase(parsed, limits=limits, direct_url=direct_url)
        try:
            yield postgres
        finally:
            await postgres.close()
    else:
        raise Misconfigured([f"ONLOOKER_DATABASE_URL must begin with sqlite:/// or postgresql://, not {url[:12]!r}"])


@dataclass(slots=True, eq=False)
class _Work:
    """One transaction on its way through the writer thread."""

    run: Callable[[Connection], Any]
    durable: bool
    urgent: bool
    large: bool
    answer: asyncio.Future[Any]
    abandoned: bool = False
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Clock:
    """What `database_now()` answers on SQLite: the steady clock plus an offset that all processes of a boot share."""

    offset_ms: int = field(default_factory=lambda: now_ms() - steady_ms())

    def __call__(self) -> int:
        return steady_ms() + self.offset_ms


class SqliteDatabase:
    """SQLite: one writer thread with group commit, a few reader threads with connections of their own."""

    name = dialect.SQLITE

    def __init__(self, url: URL) -> None:
        self.url = url.render_as_string(hide_password=True)
        self._path = url.database or ""
        if not self._path or self._path == ":memory:":
            raise Misconfigured(["ONLOOKER_DATABASE_URL must name a file: an in-memory database forgets everything"])
        self._clock = _Clock()
        _create_private(Path(self._path))
        self._writing = self._engine()
        self._reading = self._engine(writes=False)
        self._reader_connections = threading.local()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="onlooker-read")
        self._arriving: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="onlooker-write", daemon=True)
        self._writer.start()

    async def tx(self, work: Callable[[Connection], T], *, durable: bool = True, urgent: bool = False) -> T:
        """See `Database.tx`."""
        return await self._ask(work, durable=durable, urgent=urgent)

    async def _ask(self, work: Callable[[Connection], T], *, durable: bool, urgent: bool, large: bool = False) -> T:
        if self._closed:
            raise StorageUnavailable("the database is closed")
        asked = _Work(work, durable, urgent, large, asyncio.get_running_loop().create_future())
        self._arriving.put(asked)
        try:
            answer: T = await asked.answer
        except asyncio.CancelledError:
            asked.abandoned = True
            raise
        return answer

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See `Database.read`."""
        if self._closed:
            raise StorageUnavailable("the database is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def alone(self, work: Callable[[Connection], T]) -> T:
        """See `Database.alone`: nothing here ends a transaction that takes long."""
        return await self._ask(work, durable=True, urgent=False, large=True)

    async def scrub(self) -> None:
        """See `Database.scrub`."""
        if self._closed:
            raise StorageUnavailable("the database is closed")
        await asyncio.get_running_loop().run_in_executor(None, self._write_anew)

    def _write_anew(self) -> None:
        """Copy what is there to a new file, and empty the log; pages that were freed are in neither."""
        give_up_at = time.monotonic() + SCRUB_WITHIN_S
        try:
            with contextlib.closing(self._writing.raw_connection()) as connection:
                connection.cursor().execute("VACUUM")
                # A reader that is in the middle of something keeps the log.
                while connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    if time.monotonic() >= give_up_at:
                        raise StorageUnavailable("a reader kept the database's log from being emptied: do it again")
                    time.sleep(SCRUB_AGAIN_S)
        except sqlite3.Error as error:
            raise StorageUnavailable(f"the database answered {error.sqlite_errorname}: {error}") from error

    async def close(self) -> None:
        """Finish what was asked, then close every connection. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._arriving.put(None)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._writer.join)
        await loop.run_in_executor(None, self._readers.shutdown)
        for engine in (self._writing, self._reading):
            engine.dispose()

    def share_clock(self, conn: Connection) -> bool:
        """Take the clock that this boot's first process left in the schema row, or leave ours; whether it is new."""
        row = conn.exec_driver_sql("SELECT boot, clock_offset_ms FROM schema_info WHERE id = 1").one_or_none()
        if row is not None and row[0] == boot_id() and row[1] is not None:
            self._clock.offset_ms = int(row[1])
            return False
        conn.exec_driver_sql(
            "UPDATE schema_info SET boot = ?, clock_offset_ms = ? WHERE id = 1", (boot_id(), self._clock.offset_ms)
        )
        return True

    def _engine(self, *, writes: bool = True) -> Engine:
        """An engine whose every connection is set up as SQLite needs it.

        All writes go over one connection, durable or not: what another one commits would empty its cache of pages.
        """
        engine = create_engine(
            f"sqlite:///{self._path}",
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000, "cached_statements": 256},
        )

        @event.listens_for(engine, "connect")
        def set_up(connection: sqlite3.Connection, _record: object) -> None:
            # The driver's own BEGIN comes late, at the first write, where a reader that upgrades fails at once.
            connection.isolation_level = None
            connection.create_function("database_now", 0, self._clock)
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            if writes:
                _keep_log(connection)
                connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA cache_size = -16000")
            if not writes:
                connection.execute("PRAGMA query_only = ON")

        @event.listens_for(engine, "begin")
        def begin(conn: Connection) -> None:
            for name in (SYNCHRONOUS, TEMP_STORE) if writes else ():
                in_force = f"{name} in force"
                if conn.info[name] != conn.info.get(in_force):
                    dialect.run_on_sqlite(conn, f"PRAGMA {name} = {conn.info[name]}")
                    conn.info[in_force] = conn.info[name]
            dialect.run_on_sqlite(conn, "BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _read(self, work: Callable[[Connection], T]) -> T:
        """In a reader thread: one snapshot for all of `work`."""
        try:
            conn = _connection_of(self._reader_connections, self._reading)
            with _fresh_after_failure(self._reader_connections, conn), conn.begin():
                return work(conn)
        except DBAPIError as error:
            raise dialect.unavailable(error) or error from error

    def _write(self) -> None:
        """The writer thread: take what waits, run some of it, commit once, answer."""
        connections = threading.local()
        waiting = _Waiting()
        while waiting.collect(self._arriving):
            group: list[_Work] = []
            self._run_group(connections, waiting, group)
            _answer(group)
        for conn in vars(connections).values():
            conn.close()

    def _run_group(self, connections: threading.local, waiting: "_Waiting", group: list[_Work]) -> None:
        """Run a group's transactions in one; each fails alone, save that the commit is everybody's."""
        try:
            conn = _connection_of(connections, self._writing)
            conn.info[SYNCHRONOUS] = "FULL" if waiting.needs_durability else "NORMAL"
            conn.info[TEMP_STORE] = "FILE" if waiting.is_large else "MEMORY"
            alone = len(waiting) == 1
            with _fresh_after_failure(connections, conn), conn.begin():
                for work in waiting.pick():
                    group.append(work)
                    if alone:
                        work.result = work.run(conn)
                    else:
                        _run_in_savepoint(conn, work)
        except DBAPIError as error:
            _fail_all(group or list(waiting.pick()), dialect.unavailable(error) or error, group)
        except BaseException as error:  # noqa: BLE001 - it is handed to every caller of the group
            _fail_all(group or list(waiting.pick()), error, group)


class _Waiting:
    """Transactions that wait for the writer thread; what answers a client goes first."""

    def __init__(self) -> None:
        self._urgent: deque[_Work] = deque()
        self._others: deque[_Work] = deque()
        self._ending = False

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    @property
    def needs_durability(self) -> bool:
        """Whether any of them must survive a power cut."""
        return any(work.durable for work in (*self._urgent, *self._others))

    @property
    def is_large(self) -> bool:
        """Whether any of them may write more than fits into memory."""
        return any(work.large for work in self._others)

    def collect(self, arriving: "queue.SimpleQueue[_Work | None]") -> bool:
        """Take what has arrived, waiting where there is nothing to do; False when all is done and no more will come."""
        with contextlib.suppress(queue.Empty):
            while not self._ending:
                work = arriving.get(block=not self)
                if work is None:
                    self._ending = True
                elif not work.abandoned:
                    (self._urgent if work.urgent else self._others).append(work)
        return bool(self)

    def pick(self) -> Iterator[_Work]:
        """The next group: what is urgent, then the others for as long as a group may take."""
        until = time.monotonic() + LONGEST_GROUP_S
        for _ in range(min(len(self._urgent), LARGEST_GROUP)):
            yield self._urgent.popleft()
        while self._others:
            yield self._others.popleft()
            if time.monotonic() >= until:
                break


def _run_in_savepoint(conn: Connection, work: _Work) -> None:
    """Run one transaction of a group; its failure undoes its own writes only.

    A failure that ended the whole transaction (disk full, I/O error) is everybody's, and raised.
    """
    dialect.run_on_sqlite(conn, "SAVEPOINT work")
    try:
        work.result = work.run(conn)
    except BaseException as error:
        raw = conn.connection.driver_connection
        if raw is None or not raw.in_transaction:
            raise
        dialect.run_on_sqlite(conn, "ROLLBACK TO work")
        translated = dialect.unavailable(error) if isinstance(error, DBAPIError) else None
        work.error = translated or error
    dialect.run_on_sqlite(conn, "RELEASE work")


def _fail_all(failed: list[_Work], error: BaseException, group: list[_Work]) -> None:
    """Hand an error to all of a group; one that could not even begin is made of what waited."""
    for work in failed:
        work.error = work.error or error
    group[:] = failed


def _answer(group: list[_Work]) -> None:
    """Wake each caller in its own event loop, one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Work]] = {}
    for work in group:
        by_loop.setdefault(work.answer.get_loop(), []).append(work)
    for loop, works in by_loop.items():
        # A loop that was closed meanwhile has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, works)


def _resolve(works: list[_Work]) -> None:
    for work in works:
        if work.answer.done():
            continue
        if work.error is not None:
            work.answer.set_exception(work.error)
        else:
            work.answer.set_result(work.result)


def _keep_log(connection: sqlite3.Connection) -> None:
    """Write ahead to a log, which the file remembers.

    Who finds another process doing so is refused at once, whatever it may wait for a lock, and tries again for so long.
    """
    until = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(LOCKED_AGAIN_S)
        else:
            return


def _connection_of(connections: threading.local, engine: Engine) -> Connection:
    """This thread's connection, opened at its first use."""
    conn: Connection | None = getattr(connections, "conn", None)
    if conn is None:
        conn = connections.conn = engine.connect()
    return conn


@contextmanager
def _fresh_after_failure(connections: threading.local, conn: Connection) -> Iterator[None]:
    """Drop a connection whose database failed, so that the next transaction opens the file anew."""
    try:
        yield
    except DBAPIError as error:
        if dialect.unavailable(error) is not None:
            with contextlib.suppress(DBAPIError):
                conn.close()
            vars(connections).pop("conn", None)
        raise


def _create_private(path: Path) -> None:
    """Make sure that the file exists and that only its owner can read it; SQLite's own files take its mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise Misconfigured([f"the database {path} cannot be opened: {error.strerror}"]) from error
