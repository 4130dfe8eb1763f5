"""A few statements on a Postgres, for code that is synchronous or must not use our own database layer."""

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
POLL_S = 0.01


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def admin_execute(url: str, statement: str) -> None:
    """Run one statement outside any transaction."""

    async def execute() -> None:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    _run(execute())


def admin_fetch(url: str, query: str, *parameters: object) -> list[dict[str, Any]]:
    async def fetch() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            return [dict(row) for row in await connection.fetch(query, *parameters)]
        finally:
            await connection.close()

    return _run(fetch())


def client_connections(url: str, database: str, *, closed_within_s: float) -> list[dict[str, Any]]:
    """The connections that clients still have to a database after some time to close; returns early when there is none.

    The server notices a closed connection a moment after the client, hence the time.
    """
    query = """
        SELECT pid, application_name, state, query FROM pg_stat_activity
        WHERE datname = $1 AND backend_type = 'client backend'
    """

    async def watch() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        give_up_at = time.monotonic() + closed_within_s
        try:
            while True:
                open_now = [dict(row) for row in await connection.fetch(query, database)]
                if not open_now or time.monotonic() >= give_up_at:
                    return open_now
                await asyncio.sleep(POLL_S)
        finally:
            await connection.close()

    return _run(watch())


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run in a thread of its own, whose event loop cannot meet that of the test."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="postgres-admin")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
