"""Export and import of everything that a project has, as JSON lines: a copy to keep, or to move by."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any

from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import Project, Scope, Team
from onlooker.storage import archive
from onlooker.storage.archive import BY_NAME, KEYS, Row
from onlooker.storage.database import Database

FORMAT = "onlooker-archive"
VERSION = 1
PAGE = 300
OWNERS = ("team_id", "project_id", "reach")
"""Columns that hold the id of a team or a project."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Restored:
    """How many rows an import brought, and how many were there before; whether ids of the team or a project differ."""

    new: int = 0
    known: int = 0
    moved: bool = False


async def lines(database: Database, team: Team, projects: Sequence[Project]) -> AsyncIterator[str]:
    """The archive of these projects, line by line: a head, then a row a line, parents before their children.

    The same rows give the same lines. What is stored meanwhile may be in it or not.
    """
    yield _encode(
        {
            "format": FORMAT,
            "version": VERSION,
            "team": {"id": team.id, "name": team.name, "created_at": team.created_at},
            "projects": [{"id": each.id, "name": each.name, "created_at": each.created_at} for each in projects],
        }
    )
    for project in projects:
        scope = Scope(project.team_id, project.id)
        for table in KEYS:
            after: Row | None = None
            while rows := await database.read(partial(archive.page, scope=scope, table=table, after=after, limit=PAGE)):
                for row in rows:
                    yield _encode({"table": table.name, "row": archive.told(table, row)})
                after = rows[-1]


class Restoring:
    """One import of an archive. The head is taken first, so that an empty database gets the team that it names."""

    def __init__(self, database: Database, source: Iterable[str]) -> None:
        self._database = database
        self._lines = enumerate(source, 1)
        self._ids: dict[str, str] = {}

    async def begin(self) -> None:
        """Read the head and make, or find, the team and the projects. Raises `InvalidInput` for what is no archive."""
        _, line = next(self._lines, (0, ""))
        head = _decoded(line, 1)
        if head.get("format") != FORMAT:
            raise InvalidInput("this is no archive of Onlooker: its first line says nothing of one")
        if head.get("version") != VERSION:
            raise InvalidInput(f"the archive is of version {head.get('version')!r}; this Onlooker reads {VERSION}")
        try:
            told = head["team"]
            team = Team(str(told["id"]), str(told["name"]), int(told["created_at"]))
            projects = [
                Project(str(each["id"]), team.id, str(each["name"]), int(each["created_at"]))
                for each in head["projects"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput("the archive's first line is damaged") from error
        self._ids = await self._database.tx(lambda conn: archive.adopt(conn, team, projects))

    async def run(self) -> AsyncIterator[Restored]:
        """Store the rows, page by page, and tell how far it is. Again, or after it was cut off: only what is new.

        Raises `InvalidInput` for a line that is none of an archive; what came before it is stored.
        """
        done = Restored(moved=any(told != ours for told, ours in self._ids.items()))
        for name, rows in _pages(self._rows()):
            new = await self._database.tx(partial(archive.insert, table=BY_NAME[name], rows=rows))
            done = Restored(done.new + new, done.known + len(rows) - new, done.moved)
            yield done

    def _rows(self) -> Iterator[tuple[str, Row]]:
        for number, line in self._lines:
            if not line.strip():
                continue
            told = _decoded(line, number)
            table, row = told.get("table"), told.get("row")
            if table not in BY_NAME or not isinstance(row, dict):
                raise InvalidInput(f"line {number} is no row of a known table")
            unknown = set(row) - set(BY_NAME[table].c.keys())
            if unknown:
                raise InvalidInput(f"line {number} has columns that this Onlooker does not know: update it")
            yield table, {name: self._ours(number, name, value) for name, value in row.items()}

    def _ours(self, number: int, name: str, value: Any) -> Any:
        if name not in OWNERS:
            return value
        if value not in self._ids:
            raise InvalidInput(f"line {number} belongs to a project that the first line does not name")
        return self._ids[value]


def _pages(rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, list[Row]]]:
    """Rows that go into one transaction: of one table and of the same columns."""
    for (table, _), group in groupby(rows, key=lambda each: (each[0], frozenset(each[1]))):
        while page := [row for _, row in islice(group, PAGE)]:
            yield table, page


def _decoded(line: str, number: int) -> Mapping[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"line {number} is not JSON: the archive may be cut short") from error
    if not isinstance(told, dict):
        raise InvalidInput(f"line {number} is no object")
    return told
