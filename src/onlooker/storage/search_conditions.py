"""What notes must be to be found, beside fitting: filters, quoted phrases, and words that are not wanted."""

import json

from sqlalchemy import ColumnElement, Table, func, literal, or_, select

from onlooker.domain.models import Scope, SearchFilter
from onlooker.storage import search_index
from onlooker.storage.database import Connection
from onlooker.storage.question import Question
from onlooker.storage.search_tables import search_entries
from onlooker.storage.tables import observations
from onlooker.storage.tenancy import belongs

ENTRIES, NOTES = search_entries, observations
OF_TENANT = 2
"""The conditions that every search has."""

MOST_PARTS = 16
"""Of a long path the last parts are looked for by themselves."""


def conditions_of(
    conn: Connection, scope: Scope, number: int, wanted: SearchFilter, asked: Question
) -> list[ColumnElement[bool]]:
    """What the entry of a note must be, beside fitting; `OF_TENANT` first. Hidden notes have no entry."""
    conditions = [*belongs(ENTRIES, scope), *in_time(ENTRIES, wanted)]
    if wanted.session_id is not None:
        conditions.append(ENTRIES.c.session_id == wanted.session_id)
    if of_note := _of_note(wanted):
        note = select(literal(1)).where(
            NOTES.c.project_id == ENTRIES.c.project_id, NOTES.c.id == ENTRIES.c.observation_id, *of_note
        )
        conditions.append(note.correlate(ENTRIES).exists())
    for runs, has in ((asked.phrases, True), (asked.excluded, False)):
        for run in runs:
            condition = search_index.has_run(conn, [search_index.in_project(number, term) for term in run])
            conditions.append(condition if has else ~condition)
    return conditions


def in_time(table: Table, wanted: SearchFilter) -> list[ColumnElement[bool]]:
    """Whether a row of entries or notes is of the time that is asked for."""
    at = table.c.occurred_at
    return [
        *([] if wanted.since is None else [at >= wanted.since]),
        *([] if wanted.until is None else [at <= wanted.until]),
    ]


def _of_note(wanted: SearchFilter) -> list[ColumnElement[bool]]:
    """What the note itself must be, beyond what its entry says."""
    of_note: list[ColumnElement[bool]] = []
    if wanted.kinds:
        of_note.append(NOTES.c.kind.in_(sorted(wanted.kinds)))
    if wanted.platform_source is not None:
        of_note.append(NOTES.c.platform_source == wanted.platform_source)
    if wanted.concepts:
        # Lists are JSON.
        of_note.append(or_(*(_holds(NOTES.c.concepts, _quoted(each)) for each in sorted(wanted.concepts))))
    if wanted.file is not None:
        # Whichever slashes either is written with.
        written = _paths(wanted.file.replace("\\", "/"))
        columns = (func.replace(files, r"\\", "/") for files in (NOTES.c.files_read, NOTES.c.files_modified))
        of_note.append(or_(*(_holds(column, text) for column in columns for text in written)))
    return of_note


def _paths(path: str) -> list[str]:
    """What a list of files has of one that is this file: the path itself, or one that ends with it.

    Or, where it is whole, the last parts of it: notes have many a path as seen from the project's folder.
    """
    parts = path.removeprefix("./").lstrip("/").split("/")
    given = "/".join(parts)
    written = [_quoted(given), f"/{_quoted(given)[1:]}"]
    if path.startswith("/") or path[1:2] == ":":
        written += [_quoted("/".join(parts[start:])) for start in range(1, len(parts))[-MOST_PARTS:]]
    return written


def _holds(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Without regard to case, which SQLite's own LIKE has not either."""
    return column.icontains(text, autoescape=True)


def _quoted(text: str) -> str:
    """A text as it stands in a stored list."""
    return json.dumps(text, ensure_ascii=False)
