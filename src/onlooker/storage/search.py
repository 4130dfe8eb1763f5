"""Find notes: the terms of a question against the terms of every note of a project, ranked the same on both databases.

The database finds and roughly ranks a few hundred candidates; `ranking` scores them exactly, with their neighbours in
their sessions. Where the question has a vector, the notes nearest to it are candidates too, and both scores count. The
two databases differ in how terms are indexed and counted, and in nothing else: `search_index`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, literal, literal_column, select, update

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
from onlooker.storage.search_conditions import OF_TENANT, conditions_of, in_time
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
    "search_projects",
    "set_superseded",
]

ENTRIES, NOTES = search_entries, observations
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
class _Words:
    """Notes that have words of the question; `is_all` says that no other note has any."""

    numbers: tuple[int, ...]
    is_all: bool


class Found(NamedTuple):
    """A note that fits, whose it is, and how well it does."""

    scope: Scope
    observation_id: str
    score: float


@dataclass(frozen=True, slots=True)
class _Project:
    """A project that is searched: its number, how many notes it has, and in how many of them each term is."""

    scope: Scope
    number: int
    notes: int
    frequencies: Mapping[str, int]

    def weights_of(self, weights: Mapping[str, float]) -> dict[str, float]:
        """The weights of the terms that it has, as these stand in its index."""
        return {
            search_index.in_project(self.number, term): weight
            for term, weight in weights.items()
            if term in self.frequencies
        }


@dataclass(frozen=True, slots=True)
class _Gathered:
    """The candidates of one project; by number their scores by words, their cosines, and what moves them."""

    scope: Scope
    candidates: Sequence[Candidate]
    scores: Mapping[int, float]
    cosines: Mapping[int, float]
    factors: Mapping[int, float]


def search(
    conn: Connection, scope: Scope, query: str, wanted: SearchFilter, *, limit: int, meaning: Meaning | None = None
) -> list[tuple[str, float]]:
    """The ids of the notes of one project that fit best, each with its score: see `search_projects`."""
    found = search_projects(conn, [scope], query, wanted, limit=limit, meaning=meaning)
    return [(note.observation_id, note.score) for note in found]


def search_projects(
    conn: Connection,
    scopes: Sequence[Scope],
    query: str,
    wanted: SearchFilter,
    *,
    limit: int,
    meaning: Meaning | None = None,
) -> list[Found]:
    """The notes of these projects that fit best, weighed as if all were of one, best first; of equals the newest.

    Where the query has no word to look up, the newest notes, with a score of 0. Never an error for what it holds.
    """
    asked = parse_question(query)
    best = _search(conn, scopes, asked, wanted, limit=limit, meaning=meaning)
    if not best and asked.yields:
        return _search(conn, scopes, plain_question(query), wanted, limit=limit, meaning=meaning)
    return best


def _search(
    conn: Connection, scopes: Sequence[Scope], asked: Question, wanted: SearchFilter, *, limit: int,
    meaning: Meaning | None,
) -> list[Found]:  # fmt: skip
    projects = [project for scope in scopes if (project := _project(conn, scope, asked)) is not None]
    dialect.plan_by_values(conn)
    asks = [conditions_of(conn, project.scope, project.number, wanted, asked) for project in projects]
    if not asked.terms:
        return _newest(conn, projects, asks, wanted, limit=limit)
    frequencies = sum((Counter(project.frequencies) for project in projects), Counter[str]())
    weights = weigh_terms(frequencies, sum(project.notes for project in projects))
    words = [_find(conn, project, weights, conditions) for project, conditions in zip(projects, asks, strict=True)]
    if asked.yields and weights and not any(found.numbers for found in words):
        return []
    least = min(max(LEAST_NEAR, limit), NEAREST)
    gathered = [
        _gather(conn, *each, weights=weights, meaning=meaning, least=least)
        for each in zip(projects, asks, words, strict=True)
    ]
    return _ranked(gathered, wanted, limit=limit, by_meaning=meaning is not None)


def _project(conn: Connection, scope: Scope, asked: Question) -> _Project | None:
    """What a project has of a question's terms; None where nothing was indexed yet."""
    known = search_index.find_project(conn, scope)
    if known is None:
        return None
    number, notes = known
    terms = {search_index.in_project(number, term): term for term in asked.terms}
    counts, uncounted = search_index.count_notes_with(conn, scope, list(terms)) if terms else ({}, 0)
    return _Project(scope, number, notes + uncounted, {terms[term]: count for term, count in counts.items()})


def _gather(
    conn: Connection, project: _Project, conditions: Sequence[ColumnElement[bool]], words: _Words, *,
    weights: Mapping[str, float], meaning: Meaning | None, least: int,
) -> _Gathered:  # fmt: skip
    """The notes of a project that have words of the question or are near to it."""
    scope = project.scope
    cosines = {} if meaning is None else _nearest(conn, scope, meaning, conditions, least=least)
    of_terms = project.weights_of(weights)
    candidates = _read(conn, scope, dict.fromkeys((*words.numbers, *cosines)), list(of_terms))
    scores = _score_with_neighbours(conn, scope, candidates, of_terms, words)
    if meaning is not None:
        others = [note.number for note in candidates if note.number not in cosines]
        far = meaning.index.nearest_of(conn, scope, meaning.model, meaning.vector, others, len(others))
        cosines = {**dict(far), **cosines}
    return _Gathered(scope, candidates, scores, cosines, _moved_by_readers(conn, scope, candidates))


def _ranked(gathered: Sequence[_Gathered], wanted: SearchFilter, *, limit: int, by_meaning: bool) -> list[Found]:
    """The best of all projects. No two notes have one number, whatever their projects."""
    scores = {number: score for each in gathered for number, score in each.scores.items()}
    if by_meaning:
        scores = fuse(scores, {number: cosine for each in gathered for number, cosine in each.cosines.items()})
    for number, factor in [moved for each in gathered for moved in each.factors.items()]:
        scores[number] *= factor
    shown = [
        (note, each.scope)
        for each in gathered
        for note in each.candidates
        if wanted.superseded or not note.superseded
    ]  # fmt: skip
    shown.sort(key=lambda each: (each[0].superseded, -scores[each[0].number], -each[0].number))
    return [Found(scope, note.observation_id, round(scores[note.number], 6)) for note, scope in shown[:limit]]


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


def _newest(
    conn: Connection,
    projects: Sequence[_Project],
    asks: Sequence[Sequence[ColumnElement[bool]]],
    wanted: SearchFilter,
    *,
    limit: int,
) -> list[Found]:
    """What happened last, what was superseded after all others. The notes have an index in that order."""
    found: list[tuple[Any, Scope]] = []
    for project, conditions in zip(projects, asks, strict=True):
        listed = belongs(NOTES, project.scope)
        newest = (
            select(NOTES.c.id, NOTES.c.occurred_at, ENTRIES.c.number, ENTRIES.c.superseded)
            .join(ENTRIES, (ENTRIES.c.project_id == NOTES.c.project_id) & (ENTRIES.c.observation_id == NOTES.c.id))
            .where(*listed, *in_time(NOTES, wanted), *conditions)
            .order_by(NOTES.c.occurred_at.desc(), ENTRIES.c.number.desc())
            .limit(limit)
        )
        for superseded in (False, True) if wanted.superseded else (False,):
            rows = conn.execute(newest.where(ENTRIES.c.superseded.is_(superseded)))
            found += [(row, project.scope) for row in rows]
    found.sort(key=lambda each: (each[0].superseded, -each[0].occurred_at, -each[0].number))
    return [Found(scope, row.id, 0.0) for row, scope in found[:limit]]


def _find(
    conn: Connection, project: _Project, weights: Mapping[str, float], conditions: Sequence[ColumnElement[bool]]
) -> _Words:
    """The numbers of the notes that fit by their words, roughly ranked by the database."""
    statement = _ranked_by_fts5 if dialect.is_sqlite(conn) else _ranked_by_postgres
    of_terms = project.weights_of(weights)
    frequencies = {search_index.in_project(project.number, term): count for term, count in project.frequencies.items()}
    numbers: dict[int, None] = {}
    is_all = len(of_terms) == len(frequencies)
    for match in choose_matches(of_terms, frequencies, None):
        of_match = list(conn.execute(statement(match, of_terms, conditions)).scalars())
        is_all = is_all and len(of_match) < MOST_CANDIDATES and len(match.terms) == len(of_terms)
        numbers.update(dict.fromkeys(of_match))
    return _Words(tuple(numbers), is_all)


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
    conn: Connection, scope: Scope, candidates: Sequence[Candidate], weights: Mapping[str, float], found: _Words
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
