"""Find notes: the terms of a question against the terms of every note of a project, ranked the same on both databases.

The database finds and roughly ranks a few hundred candidates; `ranking` scores them exactly, with their neighbours in
their sessions. The two databases differ in how terms are indexed and counted, and in nothing else: `search_index`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, literal_column, or_, select

from onlooker.domain.models import Scope, SearchFilter
from onlooker.storage import dialect, search_index, verdicts
from onlooker.storage.analyser import analyse_query
from onlooker.storage.database import Connection
from onlooker.storage.ranking import (
    MOST_CANDIDATES,
    MOST_NEWEST,
    NEIGHBOURS,
    Candidate,
    Match,
    best_of,
    choose_matches,
    score,
    weigh_terms,
    with_neighbours,
)
from onlooker.storage.search_index import index_observations, merge, remove_observations, remove_project
from onlooker.storage.search_tables import search_entries, search_terms
from onlooker.storage.tables import observations
from onlooker.storage.tenancy import belongs

__all__ = ["index_observations", "merge", "remove_observations", "remove_project", "search"]

ENTRIES = search_entries
OF_TENANT = 2
"""The conditions that every search has."""

_RANK: ColumnElement[float] = literal_column("bm25(search_terms)")


def search(conn: Connection, scope: Scope, query: str, wanted: SearchFilter, *, limit: int) -> list[tuple[str, float]]:
    """The ids of the notes that fit best, each with its score, best first; of equals the newest.

    Nothing when the query has no searchable word, or none that is in any note. Never an error for what it holds.
    """
    project = search_index.find_project(conn, scope)
    terms = analyse_query(query)
    if project is None or not terms:
        return []
    dialect.plan_by_values(conn)
    number, notes = project
    prefixed = [search_index.in_project(number, term) for term in terms]
    frequencies, uncounted = search_index.count_notes_with(conn, scope, prefixed)
    weights = weigh_terms(frequencies, notes + uncounted)
    conditions = _conditions(scope, wanted)
    numbers: dict[int, None] = {}
    for match in choose_matches(weights, frequencies, None):
        numbers.update(dict.fromkeys(_find(conn, match, weights, conditions)))
    candidates = _read(conn, scope, list(numbers), list(weights))
    scores = score(candidates, weights)
    beside = _neighbours(conn, scope, [candidate.number for candidate in best_of(candidates, scores)])
    unknown = {near for numbers_beside in beside.values() for near in numbers_beside} - set(scores)
    near_scores = {**score(_read(conn, scope, sorted(unknown), list(weights)), weights), **scores}
    final = {note.number: with_neighbours(note.number, beside.get(note.number, ()), near_scores) for note in candidates}
    for number, factor in _moved_by_readers(conn, scope, candidates).items():
        final[number] *= factor
    best = sorted(candidates, key=lambda note: (-final[note.number], -note.number))[:limit]
    return [(note.observation_id, round(final[note.number], 6)) for note in best]


def _moved_by_readers(conn: Connection, scope: Scope, candidates: Sequence[Candidate]) -> dict[int, float]:
    numbers = {candidate.observation_id: candidate.number for candidate in candidates}
    return {numbers[note_id]: factor for note_id, factor in verdicts.factors(conn, scope, numbers).items()}


def _conditions(scope: Scope, wanted: SearchFilter) -> list[ColumnElement[bool]]:
    """What a note must be, beside fitting; the tenant first. Hidden and superseded notes have no entry."""
    conditions = [*belongs(ENTRIES, scope)]
    if wanted.since is not None:
        conditions.append(ENTRIES.c.occurred_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(ENTRIES.c.occurred_at <= wanted.until)
    of_note: list[ColumnElement[bool]] = []
    if wanted.kinds:
        of_note.append(observations.c.kind.in_(sorted(wanted.kinds)))
    if wanted.platform_source is not None:
        of_note.append(observations.c.platform_source == wanted.platform_source)
    if wanted.file is not None:
        # Paths are JSON lists; a path matches whole or by its last parts.
        whole, ending = f'"{wanted.file}"', f'/{wanted.file.lstrip("/")}"'
        columns = (observations.c.files_read, observations.c.files_modified)
        of_note.append(or_(*(column.contains(text, autoescape=True) for column in columns for text in (whole, ending))))
    if of_note:
        note = select(literal(1)).where(
            observations.c.project_id == ENTRIES.c.project_id, observations.c.id == ENTRIES.c.observation_id, *of_note
        )
        conditions.append(note.correlate(ENTRIES).exists())
    return conditions


def _find(
    conn: Connection, match: Match, weights: Mapping[str, float], conditions: Sequence[ColumnElement[bool]]
) -> list[int]:
    """The numbers of the notes that fit a match best, roughly ranked by the database."""
    statement = _ranked_by_fts5 if dialect.is_sqlite(conn) else _ranked_by_postgres
    return list(conn.execute(statement(match, weights, conditions)).scalars())


def _ranked_by_fts5(
    match: Match, _weights: Mapping[str, float], conditions: Sequence[ColumnElement[bool]]
) -> Select[Any]:
    """The project's number before each term keeps other tenants out; where nothing else is asked, that is enough."""
    terms = " OR ".join(f'"{term}"' for term in match.terms)
    found = select(search_terms.c.rowid.label("number"), _RANK.label("rank")).where(
        search_terms.c.search_terms.op("MATCH")(terms)
    )
    if len(conditions) > OF_TENANT:
        found = found.join(ENTRIES, ENTRIES.c.number == search_terms.c.rowid).where(*conditions)
    if match.newest:
        newest = found.order_by(search_terms.c.rowid.desc()).limit(MOST_NEWEST).subquery()
        return select(newest.c.number).order_by(newest.c.rank).limit(MOST_CANDIDATES)
    return found.with_only_columns(search_terms.c.rowid).order_by(_RANK).limit(MOST_CANDIDATES)


def _ranked_by_postgres(
    match: Match, weights: Mapping[str, float], conditions: Sequence[ColumnElement[bool]]
) -> Select[Any]:
    found = [ENTRIES.c.terms.op("@@")(search_index.any_of(match.terms)), *conditions]
    if match.newest:
        # Sorted by number alone: with their terms, 2 KB each, the sort is most of the time.
        newest = select(ENTRIES.c.number).where(*found).order_by(ENTRIES.c.number.desc()).limit(MOST_NEWEST)
        found = [ENTRIES.c.number.in_(newest.subquery().select()), *conditions[:OF_TENANT]]
    rank: ColumnElement[Any] = literal(0.0)
    for term in match.terms:
        rank = rank + weights[term] * func.ts_rank(ENTRIES.c.terms, search_index.any_of([term]), 1)
    best = select(ENTRIES.c.number).where(*found).order_by(rank.desc(), ENTRIES.c.number.desc())
    return best.limit(MOST_CANDIDATES)


def _read(conn: Connection, scope: Scope, numbers: Sequence[int], terms: Sequence[str]) -> list[Candidate]:
    """The entries of these numbers as the ranking wants them."""
    if not numbers:
        return []
    counts = search_index.count_terms_in(conn, scope, numbers, terms)
    rows = conn.execute(
        select(ENTRIES.c.number, ENTRIES.c.observation_id, ENTRIES.c.length).where(
            ENTRIES.c.number.in_(numbers),
            *belongs(ENTRIES, scope),
        )
    )
    return [Candidate(row[0], row[1], row[2], counts.get(row[0], {})) for row in rows]


def _neighbours(conn: Connection, scope: Scope, numbers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The numbers of the notes before and after each of these in its session."""
    near = ENTRIES.alias("near")
    beside: list[ColumnElement[Any]] = []
    for steps in range(NEIGHBOURS):
        for after in (False, True):
            side = near.c.number > ENTRIES.c.number if after else near.c.number < ENTRIES.c.number
            one = select(near.c.number).where(near.c.session_id == ENTRIES.c.session_id, side)
            ordered = one.order_by(near.c.number.asc() if after else near.c.number.desc())
            beside.append(ordered.limit(1).offset(steps).correlate(ENTRIES).scalar_subquery())
    rows = conn.execute(
        select(ENTRIES.c.number, *beside).where(
            ENTRIES.c.number.in_(numbers),
            *belongs(ENTRIES, scope),
            ENTRIES.c.session_id.is_not(None),
        )
    )
    return {row[0]: tuple(number for number in row[1:] if number is not None) for row in rows}
