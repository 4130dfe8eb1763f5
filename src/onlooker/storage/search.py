"""Find notes: the terms of a question against the terms of every note of a project, ranked the same on both databases.

The database finds and roughly ranks a few hundred candidates; `ranking` scores them exactly, with their neighbours in
their sessions. Where the question has a vector, the notes nearest to it are candidates too, and both scores count. The
two databases differ in how terms are indexed and counted, and in nothing else: `search_index`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, literal_column, or_, select, update

from onlooker.domain.models import Scope, SearchFilter
from onlooker.storage import dialect, search_index, verdicts
from onlooker.storage.database import Connection
from onlooker.storage.question import Question, parse_question, plain_question
from onlooker.storage.ranking import (
    MOST_CANDIDATES,
    MOST_NEWEST,
    NEIGHBOURS,
    Candidate,
    Match,
    best_of,
    choose_matches,
    fuse,
    score,
    weigh_terms,
    with_neighbours,
)
from onlooker.storage.search_index import index_observations, merge, remove_observations, remove_project
from onlooker.storage.search_tables import search_entries, search_terms
from onlooker.storage.tables import observations
from onlooker.storage.tenancy import belongs, is_owned, owner
from onlooker.storage.vector_index import VectorIndex

__all__ = [
    "Meaning",
    "index_observations",
    "merge",
    "remove_observations",
    "remove_project",
    "search",
    "set_superseded",
]

ENTRIES = search_entries
OF_TENANT = 2
"""The conditions that every search has."""

NEAREST = 300
"""Notes that are candidates for being near to the question's vector."""

LEAST_NEAR = 30
"""Fewer of these that a filter leaves are too few to choose from."""

_RANK: ColumnElement[float] = literal_column("bm25(search_terms)")


@dataclass(frozen=True, slots=True)
class Meaning:
    """A question's vector, the model that made it, and where the notes' vectors are compared."""

    model: str
    vector: bytes
    index: VectorIndex


@dataclass(frozen=True, slots=True)
class _Found:
    """Notes that have words of the question; `is_all` says that no other note has any."""

    numbers: tuple[int, ...]
    is_all: bool


def search(
    conn: Connection, scope: Scope, query: str, wanted: SearchFilter, *, limit: int, meaning: Meaning | None = None
) -> list[tuple[str, float]]:
    """The ids of the notes that fit best, each with its score, best first; of equals the newest.

    Where the query has no word to look up, the newest notes, with a score of 0. Never an error for what it holds.
    """
    asked = parse_question(query)
    best = _search(conn, scope, asked, wanted, limit=limit, meaning=meaning)
    if not best and asked.yields:
        return _search(conn, scope, plain_question(query), wanted, limit=limit, meaning=meaning)
    return best


def _search(
    conn: Connection, scope: Scope, asked: Question, wanted: SearchFilter, *, limit: int, meaning: Meaning | None
) -> list[tuple[str, float]]:
    project = search_index.find_project(conn, scope)
    if project is None:
        return []
    dialect.plan_by_values(conn)
    number, notes = project
    conditions = _conditions(conn, scope, wanted, number, asked)
    if not asked.terms and meaning is None:
        return _newest(conn, conditions, wanted, limit=limit)
    prefixed = [search_index.in_project(number, term) for term in asked.terms]
    frequencies, uncounted = search_index.count_notes_with(conn, scope, prefixed) if prefixed else ({}, 0)
    weights = weigh_terms(frequencies, notes + uncounted)
    found = _find(conn, weights, frequencies, conditions)
    if asked.yields and weights and not found.numbers:
        return []
    near = (
        {}
        if meaning is None
        else _nearest(conn, scope, meaning, conditions, least=min(max(LEAST_NEAR, limit), NEAREST))
    )
    candidates = _read(conn, scope, dict.fromkeys((*found.numbers, *near)), list(weights))
    scores = _score_with_neighbours(conn, scope, candidates, weights, found)
    if meaning is not None:
        others = [note.number for note in candidates if note.number not in near]
        far = meaning.index.nearest_of(conn, scope, meaning.model, meaning.vector, others, len(others))
        scores = fuse(scores, {**dict(far), **near})
    for moved, factor in _moved_by_readers(conn, scope, candidates).items():
        scores[moved] *= factor
    shown = [note for note in candidates if wanted.superseded or not note.superseded]
    best = sorted(shown, key=lambda note: (note.superseded, -scores[note.number], -note.number))[:limit]
    return [(note.observation_id, round(scores[note.number], 6)) for note in best]


def _moved_by_readers(conn: Connection, scope: Scope, candidates: Sequence[Candidate]) -> dict[int, float]:
    numbers = {candidate.observation_id: candidate.number for candidate in candidates}
    return {numbers[note_id]: factor for note_id, factor in verdicts.factors(conn, scope, numbers).items()}


def set_superseded(conn: Connection, scope: Scope, observation_ids: Sequence[str], *, superseded: bool = True) -> None:
    """Find these notes last, or like others again; those that are not indexed change nothing."""
    conn.execute(
        update(ENTRIES)
        .where(*belongs(ENTRIES, scope), ENTRIES.c.observation_id.in_(observation_ids))
        .values(superseded=superseded)
    )


def _conditions(
    conn: Connection, scope: Scope, wanted: SearchFilter, number: int, asked: Question
) -> list[ColumnElement[bool]]:
    """What a note must be, beside fitting; the tenant first. Hidden notes have no entry."""
    conditions = [*belongs(ENTRIES, scope)]
    if wanted.since is not None:
        conditions.append(ENTRIES.c.occurred_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(ENTRIES.c.occurred_at <= wanted.until)
    if wanted.session_id is not None:
        conditions.append(ENTRIES.c.session_id == wanted.session_id)
    if of_note := _of_note(wanted):
        note = select(literal(1)).where(
            observations.c.project_id == ENTRIES.c.project_id, observations.c.id == ENTRIES.c.observation_id, *of_note
        )
        conditions.append(note.correlate(ENTRIES).exists())
    for runs, has in ((asked.phrases, True), (asked.excluded, False)):
        for run in runs:
            condition = search_index.has_run(conn, [search_index.in_project(number, term) for term in run])
            conditions.append(condition if has else ~condition)
    return conditions


def _of_note(wanted: SearchFilter) -> list[ColumnElement[bool]]:
    """What the note itself must be, beyond what its entry says."""
    of_note: list[ColumnElement[bool]] = []
    if wanted.kinds:
        of_note.append(observations.c.kind.in_(sorted(wanted.kinds)))
    if wanted.platform_source is not None:
        of_note.append(observations.c.platform_source == wanted.platform_source)
    if wanted.concepts:
        listed = (observations.c.concepts.contains(_quoted(each), autoescape=True) for each in sorted(wanted.concepts))
        of_note.append(or_(*listed))
    if wanted.file is not None:
        # Paths are JSON lists; a path matches whole or by its last parts.
        whole, ending = _quoted(wanted.file), f"/{_quoted(wanted.file.lstrip('/'))[1:]}"
        columns = (observations.c.files_read, observations.c.files_modified)
        of_note.append(or_(*(column.contains(text, autoescape=True) for column in columns for text in (whole, ending))))
    return of_note


def _quoted(text: str) -> str:
    """A text as it stands in a stored list."""
    return json.dumps(text, ensure_ascii=False)


def _newest(
    conn: Connection, conditions: Sequence[ColumnElement[bool]], wanted: SearchFilter, *, limit: int
) -> list[tuple[str, float]]:
    if not wanted.superseded:
        conditions = [*conditions, ENTRIES.c.superseded.is_(False)]
    newest = select(ENTRIES.c.observation_id).where(*conditions).order_by(ENTRIES.c.number.desc()).limit(limit)
    return [(note_id, 0.0) for note_id in conn.execute(newest).scalars()]


def _find(
    conn: Connection,
    weights: Mapping[str, float],
    frequencies: Mapping[str, int],
    conditions: Sequence[ColumnElement[bool]],
) -> _Found:
    """The numbers of the notes that fit by their words, roughly ranked by the database."""
    statement = _ranked_by_fts5 if dialect.is_sqlite(conn) else _ranked_by_postgres
    numbers: dict[int, None] = {}
    is_all = len(weights) == len(frequencies)
    matches = choose_matches(weights, frequencies, None)
    for match in matches:
        of_match = list(conn.execute(statement(match, weights, conditions)).scalars())
        is_all = is_all and len(of_match) < MOST_CANDIDATES and len(match.terms) == len(weights)
        numbers.update(dict.fromkeys(of_match))
    return _Found(tuple(numbers), is_all)


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


def _nearest(
    conn: Connection, scope: Scope, meaning: Meaning, conditions: Sequence[ColumnElement[bool]], *, least: int
) -> dict[int, float]:
    """The notes nearest to the question that meet the conditions, with their cosines.

    Where the conditions leave fewer than `least` of the nearest, all that meet them are compared: an approximate index
    is not asked for more and more of them, it may end before it has them all.
    """
    near = meaning.index.nearest(conn, scope, meaning.model, meaning.vector, NEAREST)
    numbers = [number for number, _ in near]
    given = {**owner(scope), "numbers": numbers}
    if len(conditions) == OF_TENANT:
        there = dialect.fetch(conn, _THERE, given)
    else:
        there = list(conn.execute(_THERE.where(*conditions[OF_TENANT:]), given))
    allowed = {number for (number,) in there}
    if len(allowed) < least:
        numbers = list(conn.execute(select(ENTRIES.c.number).where(*conditions)).scalars())
        near = meaning.index.nearest_of(conn, scope, meaning.model, meaning.vector, numbers, NEAREST)
        allowed = set(numbers)
    return {number: cosine for number, cosine in near if number in allowed}


def _read(conn: Connection, scope: Scope, numbers: Iterable[int], terms: Sequence[str]) -> list[Candidate]:
    """The entries of these numbers as the ranking wants them."""
    wanted = sorted(numbers)
    return search_index.read_candidates(conn, scope, wanted, terms) if wanted else []


def _score_with_neighbours(
    conn: Connection, scope: Scope, candidates: Sequence[Candidate], weights: Mapping[str, float], found: _Found
) -> dict[int, float]:
    """Each candidate's score by its words, with its share of the best score beside it in its session."""
    scores = score(candidates, weights)
    if not weights:
        return scores
    looked_beside = best_of(candidates, scores)
    if found.is_all:
        # All others have none of the words: only candidates of one session can gain from each other.
        of_session = Counter(note.session_id for note in candidates if note.session_id is not None)
        looked_beside = [note for note in looked_beside if of_session[note.session_id or ""] > 1]
    beside = _neighbours(conn, scope, [note.number for note in looked_beside])
    unknown = {near for numbers_beside in beside.values() for near in numbers_beside} - set(scores)
    near_scores = dict(scores)
    if unknown and not found.is_all:
        near_scores |= score(_read(conn, scope, unknown, list(weights)), weights)
    return {note.number: with_neighbours(note.number, beside.get(note.number, ()), near_scores) for note in candidates}


def _beside() -> Select[Any]:
    near = ENTRIES.alias("near")
    beside: list[ColumnElement[Any]] = []
    for steps in range(NEIGHBOURS):
        for after in (False, True):
            side = near.c.number > ENTRIES.c.number if after else near.c.number < ENTRIES.c.number
            one = select(near.c.number).where(near.c.session_id == ENTRIES.c.session_id, side)
            ordered = one.order_by(near.c.number.asc() if after else near.c.number.desc())
            beside.append(ordered.limit(1).offset(steps).correlate(ENTRIES).scalar_subquery())
    return select(ENTRIES.c.number, *beside).where(
        dialect.among_numbers(ENTRIES.c.number, "numbers"), *is_owned(ENTRIES), ENTRIES.c.session_id.is_not(None)
    )


# Made once: making one costs more than running it.
_BESIDE = _beside()
_THERE = select(ENTRIES.c.number).where(dialect.among_numbers(ENTRIES.c.number, "numbers"), *is_owned(ENTRIES))


def _neighbours(conn: Connection, scope: Scope, numbers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The numbers of the notes before and after each of these in its session."""
    if not numbers:
        return {}
    rows = dialect.fetch(conn, _BESIDE, {**owner(scope), "numbers": list(numbers)})
    return {row[0]: tuple(number for number in row[1:] if number is not None) for row in rows}
