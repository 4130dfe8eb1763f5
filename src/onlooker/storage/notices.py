"""LISTEN on a connection of its own, for as long as it takes; where only a pooler can be reached, ask each second."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from sqlalchemy import func, literal, select

from onlooker.domain.errors import StorageUnavailable
from onlooker.pauses import pause
from onlooker.storage.database import Database
from onlooker.storage.hosts import Hosts
from onlooker.storage.postgres import NOT_CONNECTED, PostgresDatabase, not_connected
from onlooker.telemetry import log

CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
FIRST_RECONNECT_S = 0.1
LONGEST_RECONNECT_S = 5.0
ASK_EVERY_S = 1.0
"""Behind a pooler nothing can be listened to: whoever waits looks for itself this often."""

_GONE = (*NOT_CONNECTED, StorageUnavailable)


class Notices:
    """Tells when a process has notified a channel of a Postgres database. See `changes.Changes`.

    After every connect a change is told: what was notified before is not known.
    """

    def __init__(self, database: Database, channel: str, *, own: str, on_change: Callable[[], None]) -> None:
        if not isinstance(database, PostgresDatabase):
            raise TypeError(f"only Postgres has notices, not {database.name}")
        self._database = database
        self._channel = channel
        self._own = own
        self._on_change = on_change
        self._listening: asyncio.Task[None] | None = None
        self._is_awaited = False
        self._heard_own = asyncio.Event()
        self._has_warned = False

    def start(self) -> None:
        """Listen from now until `close`, connecting again whenever the connection is lost."""
        self._is_awaited = True
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen(), name="onlooker-notices")

    def stop(self) -> None:
        """Go on listening, which costs nothing where to connect again would; behind a pooler ask no more."""
        self._is_awaited = False

    def was_fruitful(self) -> None:
        """Nothing: notices come at once."""

    async def close(self) -> None:
        """See `Changes.close`."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
            self._listening = None

    async def _listen(self) -> None:
        delay_s = FIRST_RECONNECT_S
        while True:
            hosts = None
            try:
                hosts = await self._database.listening_hosts()
                if hosts is None:
                    return await self._ask_again_and_again()
                connection = await hosts.connect(
                    timeout_s=CONNECT_TIMEOUT_S, server_settings={"application_name": "onlooker-notices"}
                )
                try:
                    await self._until_lost(connection)
                    delay_s = FIRST_RECONNECT_S
                finally:
                    with contextlib.suppress(*_GONE):
                        await connection.close(timeout=CLOSE_TIMEOUT_S)
            except _GONE as error:
                await self._warn(hosts, error)
            await asyncio.sleep(delay_s * random.uniform(0.5, 1))  # noqa: S311 - spreads reconnects, keeps no secret
            delay_s = min(2 * delay_s, LONGEST_RECONNECT_S)

    async def _ask_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            if self._is_awaited:
                self._on_change()

    async def _until_lost(self, connection: Any) -> None:
        lost = asyncio.Event()

        def lose(_connection: Any) -> None:
            lost.set()
            self._heard_own.set()  # It never will be.

        connection.add_termination_listener(lose)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await connection.add_listener(self._channel, self._hear)
        self._on_change()
        await self._require_own(lost)
        self._has_warned = False
        await lost.wait()

    async def _require_own(self, lost: asyncio.Event) -> None:
        """Notify ourselves, and hear it, unless the connection is lost.

        Raises `StorageUnavailable` where the two are not of one database.
        """
        self._heard_own.clear()
        notify = select(func.pg_notify(self._channel, self._own))
        await self._database.tx(lambda conn: conn.execute(notify), durable=False)
        if not lost.is_set() and not await pause(self._heard_own, CONNECT_TIMEOUT_S):
            raise StorageUnavailable("what is notified is not heard: it leads to another database or to a pooler")

    async def _warn(self, hosts: Hosts | None, error: Exception) -> None:
        """Say once that nothing is heard. Where the database itself is away, the calls that need it say so."""
        if self._has_warned or hosts is None:
            return
        with contextlib.suppress(StorageUnavailable):
            await self._database.read(lambda conn: conn.execute(select(literal(1))))
            self._has_warned = True
            reason = error if isinstance(error, StorageUnavailable) else not_connected(error) or type(error).__name__
            log.warning(
                "cannot listen for work: it is found by looking, a second or two later",
                reason=f"{hosts.variable}: {reason}",
            )

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload == self._own:
            self._heard_own.set()
        else:
            self._on_change()
