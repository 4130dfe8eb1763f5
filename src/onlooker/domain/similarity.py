"""Whether an observation says what another one said already."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from onlooker.domain.models import Draft, ObservationKind

NEARLY = 0.8
"""The share of words that two texts have in common, from which on they may say the same."""

_WORD = re.compile(r"[^\W_]+(?:[._/\\:-]+[^\W_]+)*")
_TELLING = re.compile(r"[\d./\\:_-]|[a-z][A-Z]|[A-Z]{2}|[^\x00-\x7f]")
"""What makes a word a name or a number, of which there is no other that means the same."""

_STOP = frozenset(
    "a an and are as at be by for from has have in is it its of on or that the this to was were with".split()
)


@dataclass(frozen=True, slots=True)
class Said:
    """Of a stored observation what decides whether a new one repeats it."""

    id: str
    kind: ObservationKind
    title: str
    facts: tuple[str, ...]


def repeats(draft: Draft, said: Sequence[Said]) -> Said | None:
    """The latest of these that is of the draft's type and says the same in nearly the same words; None for none.

    A name, a path or a number that only one of the two has makes them differ, and so does a fact that is new.
    """
    return next((known for known in reversed(said) if known.kind is draft.kind and _same(draft, known)), None)


def _same(draft: Draft, known: Said) -> bool:
    if not draft.title or not _nearly_equal(draft.title, known.title):
        return False
    return all(any(_nearly_equal(fact, other) for other in known.facts) for fact in draft.facts)


def _nearly_equal(one: str, other: str) -> bool:
    if one == other:
        return True
    ours, theirs = _words(one), _words(other)
    if ours.telling != theirs.telling:
        return False
    mine, yours = ours.plain, theirs.plain
    return bool(mine) and len(mine & yours) >= NEARLY * len(mine | yours)


@dataclass(frozen=True, slots=True)
class _Words:
    telling: frozenset[str]
    plain: frozenset[str]


@lru_cache(maxsize=1024)
def _words(text: str) -> _Words:
    """Remembered, since each of a session's notes is compared with the same latest ones."""
    words = _WORD.findall(text)
    return _Words(
        frozenset(word for word in words if _TELLING.search(word)), frozenset(word.lower() for word in words) - _STOP
    )
