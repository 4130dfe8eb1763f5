"""The index that search looks into: which terms a note has, and in how many notes each term is.

Every term stands behind its project's number, so that projects share no list: a small one beside a big one is found as
fast as alone, and no word's weight tells what another tenant writes.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import TextClause, Update, bindparam, cast, delete, func, insert, select, text, update
from sqlalchemy.sql.elements import ColumnElement

from onlooker.domain.models import Observation, Scope
from onlooker.storage import dialect
from onlooker.storage.analyser import analyse, date_terms
from onlooker.storage.database import Connection
from onlooker.storage.ranking import Candidate
from onlooker.storage.search_tables import (
    search_embedding,
    search_entries,
    search_frequencies,
    search_projects,
    search_reindexing,
    search_terms,
    search_uncounted,
    search_vocabulary,
)
from onlooker.storage.tenancy import belongs, is_listed, is_owned, owner

ENTRIES = search_entries
PROJECTS = search_projects
FREQUENCIES = search_frequencies

MOST_UNCOUNTED = 256
"""Postgres: new entries that are counted one by one in each search, before they are added to the frequencies."""

MOST_POSITIONS = 255
"""A tsvector keeps so many positions of a term."""

_RANKS = [rank * 0.6 / math.pi**2 for rank in accumulate(1 / n**2 for n in range(1, MOST_POSITIONS + 1))]
_RANK_STEP = 0.3 * 0.6 / math.pi**2 / MOST_POSITIONS**2

# Made once: making one costs more than running it.
_PROJECT = select(PROJECTS.c.number, PROJECTS.c.notes).where(*is_listed(PROJECTS))
_ADD_NOTES = update(PROJECTS).where(*is_listed(PROJECTS)).values(notes=PROJECTS.c.notes + bindparam("more"))
_INSERT_ENTRIES = insert(ENTRIES).returning(ENTRIES.c.number, sort_by_parameter_order=True)
_INSERT_ENTRY = (
    insert(ENTRIES)
    .values({column.name: bindparam(column.name) for column in ENTRIES.c if column is not ENTRIES.c.number})
    .returning(ENTRIES.c.number)
)
_NOTES_WITH = select(search_vocabulary.c.doc).where(search_vocabulary.c.term == bindparam("of_term"))
_CANDIDATES = select(
    ENTRIES.c.number, ENTRIES.c.observation_id, ENTRIES.c.session_id, ENTRIES.c.length, ENTRIES.c.superseded
).where(dialect.among_numbers(ENTRIES.c.number, "numbers"), *is_owned(ENTRIES))
_WITH_TERMS = _CANDIDATES.add_columns(ENTRIES.c.terms)
_UNCOUNTED = (
    select(search_uncounted.c.number)
    .join(ENTRIES, ENTRIES.c.number == search_uncounted.c.number)
    .where(*is_listed(ENTRIES))
)
_WAITING = select(func.count()).select_from(_UNCOUNTED.limit(MOST_UNCOUNTED).subquery())
_TAKE_WAITING = (
    delete(search_uncounted).where(search_uncounted.c.number.in_(_UNCOUNTED)).returning(search_uncounted.c.number)
)

_INSERT_TERMS = "INSERT INTO search_terms (rowid, terms) VALUES (?, ?)"
_MERGE = "INSERT INTO search_terms (search_terms, rank) VALUES ('merge', ?)"
MERGED_PAGES = 500
LEAST_CHANGES = 2
"""Fewer changed rows mean that a merge found nothing to do."""
_DELETE_TERMS = "INSERT INTO search_terms (search_terms, rowid, terms) VALUES ('delete', ?, ?)"


def in_project(number: int, term: str) -> str:
    """A term as it stands in the index, behind its project's number."""
    return f"{number}:{term}"


def find_project(conn: Connection, scope: Scope) -> tuple[int, int] | None:
    """A project's number and how many notes it has; None where nothing was indexed yet."""
    rows = dialect.fetch(conn, _PROJECT, owner(scope))
    return (rows[0][0], rows[0][1]) if rows else None


def index_observations(conn: Connection, notes: Sequence[Observation]) -> None:
    """Make stored notes findable. The caller has just stored them: none is indexed yet."""
    owned = attrgetter("team_id", "project_id")
    for (team_id, project_id), group in groupby(sorted(notes, key=owned), key=owned):
        _index_project(conn, Scope(team_id, project_id), sorted(group, key=attrgetter("created_at", "id")))


def _index_project(conn: Connection, scope: Scope, notes: Sequence[Observation]) -> None:
    project = find_project(conn, scope)
    if project is None:
        dialect.insert_new(conn, PROJECTS, ("team_id", "project_id"), [(scope.team_id, scope.project_id)])
        project = find_project(conn, scope)
    if project is None:
        raise AssertionError("a project's number was just given")
    analysed = {note.id: _terms_of(project[0], note) for note in notes}
    sqlite = dialect.is_sqlite(conn)
    rows = [
        {
            "team_id": scope.team_id,
            "project_id": scope.project_id,
            "observation_id": note.id,
            "session_id": note.session_id,
            "occurred_at": note.occurred_at,
            "length": len(analysed[note.id]),
            "superseded": note.superseded_by is not None,
            "terms": " ".join(analysed[note.id]) if sqlite else _as_tsvector(analysed[note.id]),
        }
        for note in notes
    ]
    # In the order of the notes, so that a session's neighbours have neighbouring numbers.
    numbers = _insert_entries(conn, rows)
    if sqlite:
        for number, row in zip(numbers, rows, strict=True):
            dialect.run_on_sqlite(conn, _INSERT_TERMS, (number, row["terms"]))
        _add_notes(conn, scope, len(rows))
    else:
        dialect.insert_new(conn, search_uncounted, ("number",), [(number,) for number in numbers])
        _count_new_entries(conn, scope)


def _insert_entries(conn: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
    """The numbers of what was inserted, in its order. Where each statement is a journey many rows share one."""
    if len(rows) > 1 and not dialect.is_sqlite(conn):
        return list(conn.execute(_INSERT_ENTRIES, rows).scalars())
    return [dialect.fetch(conn, _INSERT_ENTRY, row)[0][0] for row in rows]


def _terms_of(number: int, note: Observation) -> list[str]:
    """All that a note is found by: its text, its files and concepts, its date."""
    texts = [note.content, *note.files_read, *note.files_modified, *note.concepts]
    return [in_project(number, term) for term in (*analyse("\n".join(texts)), *date_terms(note.occurred_at))]


def _as_tsvector(terms: Sequence[str]) -> str:
    """Terms with their places, as Postgres reads a tsvector."""
    places: dict[str, list[int]] = {}
    for place, term in enumerate(terms, 1):
        places.setdefault(term, []).append(place)
    return " ".join(f"{_quoted(term)}:{','.join(map(str, at[:MOST_POSITIONS]))}" for term, at in places.items())


def _quoted(term: str) -> str:
    escaped = term.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def any_of(terms: Iterable[str]) -> ColumnElement[str]:
    """Postgres: a query for notes with any of these terms."""
    return cast(" | ".join(map(_quoted, terms)), dialect.SearchQuery)


def _add_notes(conn: Connection, scope: Scope, more: int) -> None:
    dialect.change(conn, _ADD_NOTES, {**owner(scope), "more": more})


def _count_new_entries(conn: Connection, scope: Scope) -> None:
    """Postgres: add entries to the frequencies, many at a time: each term's row is written once for all of them.

    One process counts a project at a time; another that comes meanwhile leaves it to the next.
    """
    waiting = dialect.fetch(conn, _WAITING, owner(scope))[0][0]
    if waiting < MOST_UNCOUNTED or not dialect.try_lock(conn, f"search:{scope.project_id}"):
        return
    numbers = [row[0] for row in dialect.fetch(conn, _TAKE_WAITING, owner(scope))]
    conn.execute(_ADD_FREQUENCIES, {"team": scope.team_id, "project": scope.project_id, "numbers": numbers})
    _add_notes(conn, scope, len(numbers))


_ADD_FREQUENCIES: TextClause = text(
    """
    INSERT INTO search_frequencies (team_id, project_id, term, notes)
    SELECT CAST(:team AS TEXT), CAST(:project AS TEXT), lexeme, count(*)
    FROM search_entries, unnest(terms)
    WHERE number = ANY(CAST(:numbers AS BIGINT[])) GROUP BY lexeme ORDER BY lexeme
    ON CONFLICT (project_id, term) DO UPDATE SET notes = search_frequencies.notes + excluded.notes
    """
)


def count_notes_with(conn: Connection, scope: Scope, terms: Sequence[str]) -> tuple[dict[str, int], int]:
    """In how many notes of the project each of these terms is, those in none left out.

    And how many notes `find_project` does not count yet.
    """
    if dialect.is_sqlite(conn):
        # One look-up a term: a list of them would make FTS5 walk through all terms there are.
        found = {term: dialect.fetch(conn, _NOTES_WITH, {"of_term": term}) for term in terms}
        return {term: rows[0][0] for term, rows in found.items() if rows}, 0
    counts: Counter[str] = Counter()
    rows = conn.execute(
        select(FREQUENCIES.c.term, FREQUENCIES.c.notes).where(
            *belongs(FREQUENCIES, scope),
            FREQUENCIES.c.term.in_(terms),
        )
    )
    for term, notes in rows:
        counts[term] += notes
    having = [func.count().filter(ENTRIES.c.terms.op("@@")(any_of([term]))) for term in terms]
    new = select(func.count(), *having).join(search_uncounted, search_uncounted.c.number == ENTRIES.c.number)
    owned = belongs(ENTRIES, scope)
    uncounted, *of_terms = conn.execute(new.where(*owned)).one()
    counts.update(dict(zip(terms, of_terms, strict=True)))
    return {term: count for term, count in counts.items() if count > 0}, uncounted


def has_run(conn: Connection, terms: Sequence[str]) -> ColumnElement[bool]:
    """Whether an entry has these terms one after the other."""
    if dialect.is_sqlite(conn):
        having = select(search_terms.c.rowid).where(search_terms.c.search_terms.op("MATCH")(f'"{" ".join(terms)}"'))
        return ENTRIES.c.number.in_(having)
    return ENTRIES.c.terms.bool_op("@@")(cast(" <-> ".join(map(_quoted, terms)), dialect.SearchQuery))


def read_candidates(conn: Connection, scope: Scope, numbers: Sequence[int], terms: Sequence[str]) -> list[Candidate]:
    """The entries of these numbers, with how often each of these terms is in each."""
    given = {**owner(scope), "numbers": list(numbers)}
    if dialect.is_sqlite(conn):
        rows = dialect.fetch(conn, _WITH_TERMS if terms else _CANDIDATES, given)
        count = partial(_count_in_text, terms=[f" {term} " for term in terms])
        return [Candidate(row[0], row[1], row[2], row[3], bool(row[4]), count(row[5]) if terms else {}) for row in rows]
    ranks = [func.ts_rank(ENTRIES.c.terms, any_of([term])) for term in terms]
    rows = list(conn.execute(_CANDIDATES.add_columns(*ranks), given))
    return [Candidate(row[0], row[1], row[2], row[3], bool(row[4]), _count_by_ranks(terms, row[5:])) for row in rows]


def _count_by_ranks(terms: Sequence[str], ranks: Sequence[float]) -> dict[str, int]:
    return {term: _occurrences(rank) for term, rank in zip(terms, ranks, strict=True) if rank > 0}


def _occurrences(rank: float) -> int:
    """How often a term is in a note, of Postgres' rank for that term alone.

    The rank is 0.1 * 6 / pi^2 times the sum of 1 / i^2 for the n places of the term, so it rises with n; taking the
    vectors apart to count the places costs ten times as much.
    """
    return bisect_left(_RANKS, rank - _RANK_STEP) + 1


def _count_in_text(stored: str, terms: Sequence[str]) -> dict[str, int]:
    """Occurrences of whole terms in a text of terms, each given with a blank on both sides."""
    padded = f" {stored} "
    there = [term for term in terms if term in padded]
    if there:
        # Two of one term side by side share a blank.
        padded = padded.replace(" ", "  ")
    return {term[1:-1]: padded.count(term) for term in there}


def remove_observations(conn: Connection, scope: Scope, observation_ids: Sequence[str]) -> None:
    """Take these notes out of the index; those that are not in it change nothing."""
    _remove(conn, scope, ENTRIES.c.observation_id.in_(observation_ids))


def remove_project(conn: Connection, scope: Scope) -> None:
    """Take all of a project's notes out of the index."""
    _remove(conn, scope)
    tables = [search_embedding, search_reindexing, PROJECTS]
    for table in tables if dialect.is_sqlite(conn) else [FREQUENCIES, *tables]:
        conn.execute(delete(table).where(*belongs(table, scope)))


def merge(conn: Connection, *, first: bool) -> bool:
    """Merge a part of the index, so that words of removed notes leave it; True when there is no more to merge.

    `first` begins it: call it once so, then without until it is done; each call takes some ten milliseconds. On
    Postgres a removed row has no words left.
    """
    if not dialect.is_sqlite(conn):
        return True
    raw = conn.connection.driver_connection
    if raw is None:
        raise AssertionError("a connection in a transaction has its driver's")
    before = raw.total_changes
    # A negative number of pages puts all segments into one level, which the calls after it merge into one segment.
    conn.exec_driver_sql(_MERGE, (-MERGED_PAGES if first else MERGED_PAGES,))
    return not first and bool(raw.total_changes - before < LEAST_CHANGES)


def _remove(conn: Connection, scope: Scope, *conditions: ColumnElement[bool]) -> None:
    owned = (*belongs(ENTRIES, scope), *conditions)
    if dialect.is_sqlite(conn):
        gone = conn.execute(delete(ENTRIES).where(*owned).returning(ENTRIES.c.number, ENTRIES.c.terms)).all()
        if gone:
            conn.exec_driver_sql(_DELETE_TERMS, [tuple(row) for row in gone])
        _add_notes(conn, scope, -len(gone))
        return
    gone_numbers = list(conn.execute(select(ENTRIES.c.number).where(*owned)).scalars())
    counted = _forget_counts(conn, scope, gone_numbers)
    conn.execute(delete(ENTRIES).where(*owned))
    _add_notes(conn, scope, -counted)


_TAKE_FREQUENCIES = text(
    """
    UPDATE search_frequencies SET notes = search_frequencies.notes - gone.notes
    FROM (SELECT lexeme, count(*) AS notes FROM search_entries, unnest(terms)
          WHERE number = ANY(CAST(:numbers AS BIGINT[])) GROUP BY lexeme) AS gone
    WHERE search_frequencies.team_id = :team AND search_frequencies.project_id = :project
    AND search_frequencies.term = gone.lexeme
    RETURNING search_frequencies.term, search_frequencies.notes
    """
)


class Stored(NamedTuple):
    """An entry as it is stored."""

    number: int
    terms: str


def reindex_observations(conn: Connection, scope: Scope, notes: Sequence[Observation]) -> None:
    """Make the terms of stored notes anew, each in its place: its number, and so its order and its vector, stay.

    A note that has no entry gets one, at the end.
    """
    project = find_project(conn, scope)
    known: dict[str, Stored] = {}
    if project is not None:
        rows = conn.execute(
            select(ENTRIES.c.observation_id, ENTRIES.c.number, ENTRIES.c.terms).where(
                *belongs(ENTRIES, scope), ENTRIES.c.observation_id.in_([note.id for note in notes])
            )
        )
        known = {row[0]: Stored(row[1], row[2]) for row in rows}
    if project is not None and known:
        there = [(known[note.id], _terms_of(project[0], note)) for note in notes if note.id in known]
        (_replace_in_fts5 if dialect.is_sqlite(conn) else _replace_on_postgres)(conn, scope, there)
    index_observations(conn, [note for note in notes if note.id not in known])


def _replace_in_fts5(conn: Connection, scope: Scope, there: Sequence[tuple[Stored, list[str]]]) -> None:
    conn.exec_driver_sql(_DELETE_TERMS, [(row.number, row.terms) for row, _ in there])
    for row, terms in there:
        conn.execute(_set_terms(scope, row.number, " ".join(terms), len(terms)))
    conn.exec_driver_sql(_INSERT_TERMS, [(row.number, " ".join(terms)) for row, terms in there])


def _replace_on_postgres(conn: Connection, scope: Scope, there: Sequence[tuple[Stored, list[str]]]) -> None:
    """What was counted is taken out and counts as new again."""
    numbers = [row.number for row, _ in there]
    counted = _forget_counts(conn, scope, numbers)
    for row, terms in there:
        conn.execute(_set_terms(scope, row.number, _as_tsvector(terms), len(terms)))
    conn.execute(insert(search_uncounted), [{"number": number} for number in numbers])
    _add_notes(conn, scope, -counted)
    _count_new_entries(conn, scope)


def _set_terms(scope: Scope, number: int, terms: str, length: int) -> Update:
    return (
        update(ENTRIES).where(*belongs(ENTRIES, scope), ENTRIES.c.number == number).values(terms=terms, length=length)
    )


def _forget_counts(conn: Connection, scope: Scope, numbers: Sequence[int]) -> int:
    """Postgres: take these entries out of the frequencies; how many of them had been counted."""
    uncounted = set(
        conn.execute(
            delete(search_uncounted).where(search_uncounted.c.number.in_(numbers)).returning(search_uncounted.c.number)
        ).scalars()
    )
    counted = sorted(set(numbers) - uncounted)
    given = {"project": scope.project_id, "team": scope.team_id, "numbers": counted}
    # A word that no note has any more is not kept: it may be what was to be forgotten.
    unused = [term for term, notes in conn.execute(_TAKE_FREQUENCIES, given) if notes <= 0]
    if unused:
        listed = (*belongs(FREQUENCIES, scope), dialect.among(FREQUENCIES.c.term, "of_terms"))
        conn.execute(delete(FREQUENCIES).where(*listed), {"of_terms": unused})
    return len(counted)
