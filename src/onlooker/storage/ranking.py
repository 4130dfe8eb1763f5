"""How well a note fits a question, the same on every database.

BM25 over the question's terms, then a share of the best neighbour's score: what stands beside a good note in its
session is likely to belong to it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

TERM_SATURATION = 0.9
LENGTH_WEIGHT = 0.4
"""BM25's k1 and b; short notes want less of both than the usual 1.2 and 0.75."""

NEIGHBOUR_SHARE = 0.3
NEIGHBOURS = 2
"""How much of its best neighbour's score a note gains, and how many on each side are its neighbours."""

WORDS_SHARE = 0.5
"""How much of a note's score its words make, where there are vectors too."""

MOST_RANKED = 10_000
"""Notes that a database ranks for one question by its rarer terms."""

MOST_NEWEST = 1_000
"""Of the notes that have only common terms the newest are ranked: such a term tells less than its date."""

MOST_CANDIDATES = 300
"""Of these, the notes that are scored exactly."""

MOST_LOOKED_BESIDE = 80
"""Of these, the best by their own score, whose neighbours are looked up too."""

MOST_TERMS = 32
"""Of a long question the rarest terms are asked for."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which notes a database looks up: those with any of the terms; with `newest` the last `MOST_NEWEST` of them."""

    terms: tuple[str, ...]
    newest: bool = False


class Candidate(NamedTuple):
    """A note to be scored: how often each of the question's terms is in it, and how long it is.

    A tuple, since hundreds are made for a question.
    """

    number: int
    observation_id: str
    session_id: str | None
    length: int
    superseded: bool
    counts: Mapping[str, int]


def weigh_terms(frequencies: Mapping[str, int], notes: int) -> dict[str, float]:
    """The weight (IDF) of each term that is in any note, the `MOST_TERMS` rarest, rarest first."""
    known = sorted((count, term) for term, count in frequencies.items() if count > 0)[:MOST_TERMS]
    return {term: math.log(1 + (max(notes, count) - count + 0.5) / (count + 0.5)) for count, term in known}


def choose_matches(terms: Iterable[str], frequencies: Mapping[str, int], most: int | None) -> list[Match]:
    """What to look up, given the terms rarest first and how many notes the filter leaves at most (None: unknown).

    Notes with any term, as long as these are not more than the database may rank: a common term costs the most and
    tells the least, so the commonest are left out while others remain. They still count in the scores. Where what is
    left finds too little, the newest notes with the others are added.
    """
    rare: list[str] = []
    common: list[str] = []
    ranked = 0
    for term in terms:
        cost = frequencies[term] if most is None else min(frequencies[term], most)
        if not common and ranked + cost <= MOST_RANKED:
            rare.append(term)
            ranked += cost
        else:
            common.append(term)
    matches = [Match(tuple(rare))] if rare else []
    if common and ranked < MOST_CANDIDATES:
        matches.append(Match(tuple(common), newest=True))
    return matches


def score(candidates: Sequence[Candidate], weights: Mapping[str, float]) -> dict[int, float]:
    """Each candidate's own score, by its number.

    The average length is the candidates' own: it needs no statistics and measured the same as the project's.
    """
    average = max(sum(candidate.length for candidate in candidates) / max(len(candidates), 1), 1)
    return {note.number: _bm25(note, weights, average) if note.counts else 0.0 for note in candidates}


def best_of(candidates: Sequence[Candidate], scores: Mapping[int, float]) -> list[Candidate]:
    """Those whose neighbours are worth a look, best first; of equals the newest."""
    return sorted(candidates, key=lambda note: (-scores[note.number], -note.number))[:MOST_LOOKED_BESIDE]


def with_neighbours(number: int, beside: Iterable[int], scores: Mapping[int, float]) -> float:
    """A note's score with its share of the best score beside it."""
    return scores[number] + NEIGHBOUR_SHARE * max((scores.get(near, 0.0) for near in beside), default=0.0)


def fuse(scores: Mapping[int, float], cosines: Mapping[int, float]) -> dict[int, float]:
    """Each note's score by words and by meaning, 1 at most.

    By words it is a share of the best one's. Cosines of one model all lie in a small part of their range, so they are
    stretched: the nearest counts 1 and the farthest of the candidates nothing. A note without a vector has none.
    """
    best = max(scores.values(), default=0.0) or 1.0
    farthest, nearest = min(cosines.values(), default=0.0), max(cosines.values(), default=0.0)
    spread = (nearest - farthest) or 1.0
    return {
        number: WORDS_SHARE * words / best + (1 - WORDS_SHARE) * (cosines.get(number, farthest) - farthest) / spread
        for number, words in scores.items()
    }


def _bm25(note: Candidate, weights: Mapping[str, float], average_length: float) -> float:
    room = TERM_SATURATION * (1 - LENGTH_WEIGHT + LENGTH_WEIGHT * note.length / average_length)
    return sum(weights[term] * count * (TERM_SATURATION + 1) / (count + room) for term, count in note.counts.items())
