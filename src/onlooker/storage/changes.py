"""Learn that another process changed the database, without asking for each thing that may have changed.

On SQLite a counter of the file is read again and again, on Postgres a connection listens. Both only say that
something may have happened: whoever is told looks for itself.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Protocol

from sqlalchemy import make_url

from onlooker.storage.database import Database
from onlooker.storage.dialect import POSTGRES

QUIET_S = 0.02
"""How often the counter is read while nothing happens: 50 reads a second of some 10 us each."""

BUSY_S = 0.004
"""And in the moments after something was found: a stream of work is met within milliseconds."""

BUSY_FOR_S = 1.0


class Changes(Protocol):
    """A watch over what other processes do. It calls back in the event loop, now and then for nothing."""

    def start(self) -> None:
        """Watch. What changed since the last watch is told too. Again: nothing."""
        ...

    def stop(self) -> None:
        """Nobody waits: spend nothing until the next `start`."""
        ...

    def was_fruitful(self) -> None:
        """What was told led to something, so more may follow at once."""
        ...

    async def close(self) -> None:
        """Stop for good. Again: nothing."""
        ...


def watch_changes(database: Database, channel: str, *, own: str, on_change: Callable[[], None]) -> Changes:
    """The watch that this kind of database has, not yet started.

    On Postgres `channel` is what the processes notify, and `own` the payload by which this one knows itself.
    """
    if database.name == POSTGRES:
        from onlooker.storage.notices import Notices

        return Notices(database, channel, own=own, on_change=on_change)
    return FileChanges(database, on_change)


class FileChanges:
    """Tells when any process, this one included, has committed to a SQLite file."""

    def __init__(self, database: Database, on_change: Callable[[], None]) -> None:
        self._path = make_url(database.url).database or ""
        self._on_change = on_change
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._busy_until = 0.0
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """See `Changes.start`."""
        if self._next is None:
            self._look()

    def stop(self) -> None:
        """See `Changes.stop`."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def was_fruitful(self) -> None:
        """See `Changes.was_fruitful`."""
        self._busy_until = asyncio.get_running_loop().time() + BUSY_FOR_S

    async def close(self) -> None:
        """See `Changes.close`."""
        self.stop()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = loop.call_later(BUSY_S if loop.time() < self._busy_until else QUIET_S, self._look)
        version = self._read()
        if version is None or version != self._version:
            self._version = version
            self._on_change()

    def _read(self) -> int | None:
        """The counter, which lies in memory that all processes share; None where it cannot be read right now."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            # Whoever is told finds out what is wrong with the file, and says so.
            return None
