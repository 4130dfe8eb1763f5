"""Postgres through asyncpg: two pools, since durability is a connection's setting and the queue can do with less."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from onlooker.domain.errors import StorageUnavailable
from onlooker.storage import dialect

T = TypeVar("T")

STATEMENT_TIMEOUT_MS = 30_000
IDLE_TRANSACTION_TIMEOUT_MS = 15_000
"""A process that is frozen, or cut off, in a transaction lets go of its locks after this: others wait for them."""


class PostgresDatabase:
    """See `Database`. Connections are made when they are first needed."""

    name = dialect.POSTGRES

    def __init__(self, url: URL, *, pool_size: int, timeout_s: float) -> None:
        self.url = url.render_as_string(hide_password=True)
        self.dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        driver_url = url.set(drivername="postgresql+asyncpg")
        self._durable = _engine(driver_url, pool_size, timeout_s, synchronous_commit="on")
        self._relaxed = _engine(driver_url, pool_size, timeout_s, synchronous_commit="off")

    async def tx(self, work: Callable[[Connection], T], *, durable: bool = True, urgent: bool = False) -> T:
        """See `Database.tx`. A deadlock's loser runs once more."""
        engine = self._durable if durable else self._relaxed
        for last_try in (False, True):
            try:
                async with engine.connect() as conn:
                    result = await conn.run_sync(work)
                    await _commit(conn)
                    return result
            except DBAPIError as error:
                if not last_try and dialect.worth_retrying(error):
                    continue
                raise dialect.unavailable(error) or error from error
            except (OSError, PoolTimeout, TimeoutError) as error:
                raise _not_reached(error) from error
        raise AssertionError("unreachable: the last try returns or raises")

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See `Database.read`."""
        try:
            async with self._relaxed.connect() as conn:
                return await conn.run_sync(work)
        except DBAPIError as error:
            raise dialect.unavailable(error) or error from error
        except (OSError, PoolTimeout, TimeoutError) as error:
            raise _not_reached(error) from error

    async def close(self) -> None:
        """Close both pools. A second call does nothing."""
        await self._durable.dispose()
        await self._relaxed.dispose()


def _not_reached(error: Exception) -> StorageUnavailable:
    if isinstance(error, PoolTimeout):
        return StorageUnavailable("every connection to the database is in use")
    return StorageUnavailable(f"the database cannot be reached: {type(error).__name__}")


async def _commit(conn: AsyncConnection) -> None:
    """Commit; where the reply is lost, say that the outcome is unknown."""
    try:
        await conn.commit()
    except DBAPIError as error:
        raise dialect.unavailable(error, outcome_unknown=True) or error from error
    except OSError as error:
        raise StorageUnavailable("the connection was lost at commit", outcome_unknown=True) from error


def _engine(url: URL, pool_size: int, timeout_s: float, *, synchronous_commit: str) -> AsyncEngine:
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_s,
        connect_args={
            "timeout": timeout_s,
            "command_timeout": timeout_s + STATEMENT_TIMEOUT_MS / 1000,
            "server_settings": {
                "application_name": "onlooker",
                "synchronous_commit": synchronous_commit,
                # Every write finds its rows by key. A plan that was made, and kept, while a table was small would read
                # all of it when it is large and nothing has counted its rows yet.
                "enable_seqscan": "off" if synchronous_commit == "on" else "on",
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_TRANSACTION_TIMEOUT_MS),
            },
        },
    )
