"""Read claude-mem's SQLite database, whatever its version, without changing it."""

import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from onlooker.domain.errors import InvalidInput

NOTES = ("observations", "memories")
SUMMARIES = ("session_summaries", "overviews")
SESSIONS = ("sdk_sessions", "sessions")
PROMPTS = ("user_prompts",)
READ = (*SESSIONS, *PROMPTS, *NOTES, *SUMMARIES)
ITS_OWN = re.compile(r"sqlite_|schema_versions$|sync_|\w+_fts(_|$)")
"""Tables that a database keeps for itself: its schema, its search, and what its copies on other devices have."""

PAGE = 500


class ClaudeMemDatabase:
    """One database, open for reading. Raises `InvalidInput` for a file that is none; used in one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.Lock()
        """Held while a page is read: an import that is stopped closes the database when that is done, not before."""

    def __enter__(self) -> Self:
        # A live database has a log beside it that must be read too; without one nobody writes, and the folder may be
        # one in which nothing can be created.
        has_log = self._path.with_name(f"{self._path.name}-wal").exists()
        options = "mode=ro" if has_log else "mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(self._path))}?{options}", uri=True, check_same_thread=False
            )
            self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            self._connection.row_factory = sqlite3.Row
            tables = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except sqlite3.Error as error:
            raise InvalidInput(f"{self._path} cannot be read as a SQLite database: {error}") from error
        self._tables = tables
        if not tables & {*NOTES, *SUMMARIES}:
            self._connection.close()
            raise InvalidInput(f"{self._path} is no database of claude-mem: it has neither observations nor memories")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._reading:
            self._connection.close()

    def unread(self) -> dict[str, int]:
        """How many rows the tables have that are not imported: raw events, verdicts, and what later versions add."""
        names = sorted(name for name in self._tables - {*READ} if not ITS_OWN.match(name))
        return {name: self.count(name) for name in names}

    def count(self, table: str) -> int:
        """How many rows a table has; 0 for one that is not there."""
        if table not in self._tables:
            return 0
        name = table.replace('"', '""')
        return int(self._connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])  # noqa: S608 - one of its own

    def pages(self, table: str) -> Iterator[list[dict[str, Any]]]:
        """A table's rows in the order in which they were written, some at a time; none for one that is not there."""
        if table not in self._tables:
            return
        try:
            rows = self._connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid')  # noqa: S608 - one of ours
            while page := self._page(rows):
                yield page
        except sqlite3.Error as error:
            raise InvalidInput(f"{self._path} cannot be read any further: {error}") from error

    def _page(self, rows: sqlite3.Cursor) -> list[dict[str, Any]]:
        with self._reading:
            return [dict(row) for row in rows.fetchmany(PAGE)]
