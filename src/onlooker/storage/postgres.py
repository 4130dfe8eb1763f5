"""Postgres through asyncpg: two pools, since durability is a connection's setting and the queue can do with less.

Behind a pooler that gives a server connection for a transaction only (PgBouncer's transaction mode) nothing may be
kept on a connection: there the settings are made in each transaction, and statements are prepared without a name.
"""

import asyncio
import os
import socket
import ssl
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, Pool

from onlooker.domain.errors import Misconfigured, StorageUnavailable
from onlooker.storage import dialect
from onlooker.storage.hosts import Hosts
from onlooker.storage.urls import each_host, hide_passwords, parse_url
from onlooker.telemetry import Outage

T = TypeVar("T")

IDLE_TRANSACTION_TIMEOUT_S = 15.0
"""A process that is frozen, or cut off, in a transaction lets go of its locks after this: others wait for them."""

CLOSE_WITHIN_S = 2.0

ANSWER_AFTER_S = 2.0
"""How much longer than Postgres may work on a statement its answer is waited for."""

TRANSACTION_TIMEOUT_SINCE = 17
"""The version of Postgres that can end whole transactions: also one whose client stopped in the middle of a
statement, which counts as neither idle nor working."""

OLDEST_VERSION = 15
"""The first that keeps its statistics over a restart and begins them anew after a crash; see `recovered_at`."""

URL_OPTIONS = frozenset(
    "host port user password dbname database passfile service sslmode sslcert sslkey sslpassword sslrootcert sslcrl "
    "sslnegotiation ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib "
    "application_name options".split()
)
"""What may follow the `?` of a URL. The driver would hand anything else to the server, whose refusal says little."""

URL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")

APPLICATION = "onlooker"

NOT_CONNECTED = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What the driver raises where it gets no connection, or loses it."""

NO_STATEMENT_CACHE = {"statement_cache_size": 0}
"""A statement with a name would be looked for on a connection that never saw it, or found made by somebody else."""


@dataclass(frozen=True, slots=True)
class PostgresLimits:
    """How many connections, and how long anything may take.

    `timeout_s` is for getting a connection, `statement_timeout_s` for one statement, `transaction_timeout_s` for a
    whole transaction (Postgres 17 and newer).
    """

    pool_size: int = 10
    timeout_s: float = 10.0
    statement_timeout_s: float = 30.0
    transaction_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Server:
    """What stands behind the URL."""

    is_pooled: bool
    version: int


@dataclass(frozen=True, slots=True)
class _Engines:
    """The two pools. The queue's, and that of reads, may lose its last commits in a power cut."""

    durable: AsyncEngine
    relaxed: AsyncEngine


class PostgresDatabase:
    """See `Database`. Connections are made when they are first needed.

    `direct_url` reaches the same database past a pooler; a listener and a migration need that.
    """

    name = dialect.POSTGRES

    def __init__(self, url: URL, *, limits: PostgresLimits, direct_url: str = "") -> None:
        self.url = hide_passwords(url.render_as_string(hide_password=False))
        self._hosts = _hosts(url, "ONLOOKER_DATABASE_URL")
        direct = "ONLOOKER_DATABASE_DIRECT_URL"
        self._direct = _hosts(parse_url(direct_url, direct), direct) if direct_url else None
        self._limits = limits
        self._server: _Server | None = None
        self._engines: _Engines | None = None
        self._opening = asyncio.Lock()
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._writing = Outage("the database takes no writes", "the database takes writes again")
        self._reading = Outage("the database cannot be read", "the database can be read again")

    async def tx(self, work: Callable[[Connection], T], *, durable: bool = True, urgent: bool = False) -> T:
        """See `Database.tx`. A deadlock's loser, and one that met a connection that was gone, runs once more."""
        engines = await self._open()
        return await self._transact(engines.durable if durable else engines.relaxed, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See `Database.read`."""
        engines = await self._open()
        return await self._transact(engines.relaxed, work, is_written=False)

    async def alone(self, work: Callable[[Connection], T]) -> T:
        """See `Database.alone`."""
        server = await self._look()
        hosts = self._direct or self._hosts
        is_pooled = server.is_pooled and self._direct is None
        engine = self._engine(hosts, _Server(is_pooled, server.version), synchronous_commit="on", is_unbounded=True)
        try:
            return await self._transact(engine, work)
        except StorageUnavailable as error:
            if self._direct is None:
                raise
            raise StorageUnavailable(f"{hosts.variable}: {error}", outcome_unknown=error.outcome_unknown) from error
        finally:
            await engine.dispose()

    async def scrub(self) -> None:
        """See `Database.scrub`: nothing is ours to do."""

    async def listening_hosts(self) -> Hosts | None:
        """Where a connection stays the same for as long as it takes; None where only a pooler can be reached.

        Raises `StorageUnavailable`.
        """
        if self._direct is not None:
            return self._direct
        return None if (await self._look()).is_pooled else self._hosts

    async def close(self) -> None:
        """Close both pools; connections that do not end in time are cut. A second call does nothing."""
        if self._engines is None:
            return
        disposing = [asyncio.create_task(engine.dispose()) for engine in (self._engines.durable, self._engines.relaxed)]
        await asyncio.wait(disposing, timeout=CLOSE_WITHIN_S)
        for connection in list(self._connections):
            connection.terminate()
        await asyncio.wait(disposing)

    async def _open(self) -> _Engines:
        if self._engines is None:
            server = await self._look()
            if self._engines is None:
                durable = self._engine(self._hosts, server, synchronous_commit="on")
                self._engines = _Engines(durable, self._engine(self._hosts, server, synchronous_commit="off"))
        return self._engines

    async def _look(self) -> _Server:
        """What stands behind the URL, found out once. Raises `StorageUnavailable`, and `Misconfigured` for the URL."""
        if self._server is None:
            async with self._opening:
                if self._server is None:
                    self._server = await self._ask_server()
        return self._server

    async def _ask_server(self) -> _Server:
        timeout_s = self._limits.timeout_s
        try:
            connection = await self._hosts.connect(
                timeout_s=timeout_s, server_settings={"application_name": APPLICATION}, **NO_STATEMENT_CACHE
            )
            try:
                # A pooler gives a key of its own as that of the process, and the same process for one transaction only.
                async with connection.transaction():
                    pid = await connection.fetchval("SELECT pg_backend_pid()", timeout=timeout_s)
                is_pooled = pid != connection.get_server_pid()
                return _Server(is_pooled, _version(connection))
            finally:
                await connection.close(timeout=timeout_s)
        except asyncpg.ClientConfigurationError as error:
            raise Misconfigured([f"ONLOOKER_DATABASE_URL: {error}"]) from error
        except NOT_CONNECTED as error:
            raise not_connected(error) or error from error

    async def _transact(self, engine: AsyncEngine, work: Callable[[Connection], T], *, is_written: bool = True) -> T:
        outage = self._writing if is_written else self._reading
        try:
            result = await self._try_twice(engine, work, is_written=is_written)
        except StorageUnavailable as error:
            if not error.is_brief:
                outage.failed(reason=str(error))
            raise
        outage.worked()
        return result

    async def _try_twice(self, engine: AsyncEngine, work: Callable[[Connection], T], *, is_written: bool) -> T:
        for last_try in (False, True):
            try:
                async with engine.connect() as conn:
                    if self._server is not None and self._server.is_pooled:
                        # A pooler connects everybody and lets them wait here for a connection of the server.
                        async with asyncio.timeout(self._limits.timeout_s):
                            await conn.begin()
                    result = await conn.run_sync(work)
                    if is_written:
                        await _commit(conn)
                    return result
            except DBAPIError as error:
                if not last_try and dialect.worth_retrying(error):
                    continue
                raise dialect.unavailable(error) or error from error
            except (OSError, PoolTimeout, TimeoutError, asyncpg.InterfaceError) as error:
                # The driver's own error is that of a connection which was lost before SQLAlchemy had made it its own.
                raise _not_reached(error) from error
        raise AssertionError("unreachable: the last try returns or raises")

    def _engine(
        self, hosts: Hosts, server: _Server, *, synchronous_commit: str, is_unbounded: bool = False
    ) -> AsyncEngine:
        """A pool of connections to a server; an unbounded one has no pool and no limit of time."""
        limits = self._limits
        session = _session_settings(server, limits, synchronous_commit, is_unbounded=is_unbounded)

        async def connect(**_parts: object) -> Any:
            connection = await hosts.connect(
                timeout_s=limits.timeout_s,
                command_timeout=None if is_unbounded else limits.statement_timeout_s + ANSWER_AFTER_S,
                server_settings={"application_name": APPLICATION, **({} if server.is_pooled else session)},
                **(NO_STATEMENT_CACHE if server.is_pooled else {}),
            )
            self._connections.add(connection)
            return connection

        arguments: dict[str, Any] = {"async_creator_fn": connect}
        if server.is_pooled:
            arguments |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
        pool: type[Pool] = NullPool if is_unbounded else AsyncAdaptedQueuePool
        sized = {} if is_unbounded else {"pool_size": limits.pool_size, "max_overflow": 0}
        waited = {} if is_unbounded else {"pool_timeout": limits.timeout_s}
        engine = create_async_engine(
            "postgresql+asyncpg://", poolclass=pool, hide_parameters=True, connect_args=arguments, **sized, **waited
        )
        if server.is_pooled:
            settings = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in session.items())

            @event.listens_for(engine.sync_engine, "begin")
            def set_up(conn: Connection) -> None:
                conn.exec_driver_sql(f"SELECT {settings}")

        return engine


def _session_settings(
    server: _Server, limits: PostgresLimits, synchronous_commit: str, *, is_unbounded: bool
) -> dict[str, str]:
    """What Postgres is told of a connection, or of a transaction."""
    settings = {
        "synchronous_commit": synchronous_commit,
        # Every write finds its rows by key. A plan that was made, and kept, while a table was small would read
        # all of it when it is large and nothing has counted its rows yet.
        "enable_seqscan": "off" if synchronous_commit == "on" and not is_unbounded else "on",
        "statement_timeout": _milliseconds(0 if is_unbounded else limits.statement_timeout_s),
        "idle_in_transaction_session_timeout": _milliseconds(IDLE_TRANSACTION_TIMEOUT_S),
    }
    if server.version >= TRANSACTION_TIMEOUT_SINCE:
        settings["transaction_timeout"] = _milliseconds(0 if is_unbounded else limits.transaction_timeout_s)
    return settings


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _hosts(url: URL, variable: str) -> Hosts:
    """A URL's hosts. Raises `Misconfigured` for an unknown option, and a file that is not there."""
    problems = [
        f"{variable} has the option {name}, which is not known; for TLS there are sslmode, sslrootcert, sslcert, sslkey"
        for name in sorted(set(url.query) - URL_OPTIONS)
    ]
    named = ((name, str(url.query[name])) for name in URL_FILES if name in url.query)
    problems += [
        f"{variable} names {path} as {name}, which cannot be read"
        for name, path in named
        if not os.access(path, os.R_OK)
    ]
    if problems:
        raise Misconfigured(problems)
    named_hosts = each_host(url.set(drivername="postgresql"))
    return Hosts([each.render_as_string(hide_password=False) for each in named_hosts], variable)


def _version(connection: Any) -> int:
    """The major version of a server that can do what is asked of it. Raises `Misconfigured` for any other."""
    version: int = connection.get_server_version().major
    encoding = connection.get_settings().server_encoding
    problems = []
    if version < OLDEST_VERSION:
        problems.append(f"ONLOOKER_DATABASE_URL: this is Postgres {version}, and {OLDEST_VERSION} or newer is needed")
    if encoding != "UTF8":
        problems.append(
            f"ONLOOKER_DATABASE_URL: the encoding of the database is {encoding}, and UTF8 is needed: "
            "createdb --encoding=UTF8 --template=template0"
        )
    if problems:
        raise Misconfigured(problems)
    return version


def not_connected(error: Exception) -> StorageUnavailable | None:
    """What one of `NOT_CONNECTED` means; None for a refusal of another kind."""
    if isinstance(error, asyncpg.PostgresError):
        return dialect.unavailable_state(error.sqlstate or "")
    return _not_reached(error)


def _not_reached(error: Exception) -> StorageUnavailable:
    if isinstance(error, PoolTimeout):
        return StorageUnavailable("every connection to the database is in use", is_brief=True)
    cause = type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = f"its certificate is not accepted: {error.verify_message}"
    elif isinstance(error, TimeoutError):
        cause = "no answer in time"
    elif isinstance(error, socket.gaierror):
        cause = "the name of its host is not known"
    elif isinstance(error, OSError) and error.filename:
        cause = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        cause = os.strerror(error.errno)
    elif isinstance(error, OSError):
        # The driver's own words: that the server does not do TLS, or went away.
        cause = str(error) or cause
    return StorageUnavailable(f"the database cannot be reached: {cause}")


async def _commit(conn: AsyncConnection) -> None:
    """Commit; where the reply is lost, say that the outcome is unknown."""
    try:
        await conn.commit()
    except DBAPIError as error:
        raise dialect.unavailable(error, outcome_unknown=True) or error from error
    except OSError as error:
        raise StorageUnavailable("the connection was lost at commit", outcome_unknown=True) from error
