"""Modes: what a model watches, and which observations it makes of it. A mode is a TOML text.

```toml
title = "Coding"
about = "a coding agent at work on a software project"
neutral = "discovery"            # the type that an answer without a known one gets
observe = "…"                    # what deserves an observation
pass_over = "…"                  # what does not

[types.bugfix]                   # at least one; `kind` is what it is stored as, the type's own name by default
says = "something broken was repaired"

[concepts]                       # words that an observation may be filed under
gotcha = "a trap for whoever comes next"
```
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import ObservationKind

LONGEST_TEXT = 6_000
LONGEST_LINE = 300
MOST_WORDS = 40

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_MODEL_KINDS = tuple(kind for kind in ObservationKind if kind not in {ObservationKind.SUMMARY, ObservationKind.MANUAL})
_TEXTS = {"title": LONGEST_LINE, "about": LONGEST_LINE, "observe": LONGEST_TEXT, "pass_over": LONGEST_TEXT}
_MEMBERS = frozenset({*_TEXTS, "neutral", "types", "concepts"})


@dataclass(frozen=True, slots=True)
class ModeType:
    """A type of observation: the word that the model uses, what it is stored as, and when it fits."""

    name: str
    kind: ObservationKind
    says: str


@dataclass(frozen=True, eq=False, slots=True)
class Mode:
    """A mode that can be used, equal to itself alone. `digest` changes with its text."""

    name: str
    title: str
    about: str
    observe: str
    pass_over: str
    types: tuple[ModeType, ...]
    concepts: Mapping[str, str]
    neutral: ModeType
    digest: str

    def type_of(self, word: str) -> ModeType:
        """The type that an answer names, however it spells it; the neutral one for what is no type of this mode."""
        wanted = bare_name(word)
        return next((each for each in self.types if bare_name(each.name) == wanted), self.neutral)


@lru_cache(maxsize=256)
def plain_name(word: str) -> str:
    """A name without what spellings differ in: case, and what stands between its words."""
    return re.sub(r"[\s_-]+", "_", word.strip().lower())


def bare_name(word: str) -> str:
    """A name without all that is no letter and no digit: `🔴 Bug fix` is `bugfix`."""
    return re.sub(r"[\W_]+", "", word.lower())


def read_mode(name: str, text: str) -> Mode:
    """The mode in a TOML text. Raises `InvalidInput` whose `issues` name every wrong place at once."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"mode {name} is no TOML: {error}") from None
    issues: list[str] = []
    if not _NAME.fullmatch(name):
        issues.append(f"{name}: a mode's name is a lower-case word of at most 40 letters, digits, - and _")
    issues += [f"{each}: no such member; there are {', '.join(sorted(_MEMBERS))}" for each in given.keys() - _MEMBERS]
    texts = {member: _text(given, member, longest, issues) for member, longest in _TEXTS.items()}
    types = _types(given.get("types"), issues)
    concepts = _concepts(given.get("concepts", {}), issues)
    neutral = next((each for each in types if each.name == given.get("neutral")), None)
    if neutral is None:
        issues.append("neutral: must be the name of one of the types")
    if issues or neutral is None:
        raise InvalidInput(f"mode {name} cannot be used", issues)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Mode(name=name, types=types, concepts=concepts, neutral=neutral, digest=digest, **texts)


def _text(given: Mapping[str, Any], member: str, longest: int, issues: list[str]) -> str:
    value = given.get(member)
    if not isinstance(value, str) or not value.strip():
        issues.append(f"{member}: a text is needed")
        return ""
    if len(value) > longest:
        issues.append(f"{member}: {len(value)} characters, at most {longest} are allowed")
    return value.strip()


def _types(given: Any, issues: list[str]) -> tuple[ModeType, ...]:
    if not isinstance(given, Mapping) or not given:
        issues.append("types: at least one [types.NAME] is needed")
        return ()
    if len(given) > MOST_WORDS:
        issues.append(f"types: {len(given)} of them, at most {MOST_WORDS} are allowed")
    return tuple(each for name, members in given.items() if (each := _type(name, members, issues)) is not None)


def _type(name: str, members: Any, issues: list[str]) -> ModeType | None:
    place = f"types.{name}"
    if not isinstance(members, Mapping):
        issues.append(f"{place}: must be a table with `says`")
        return None
    before = len(issues)
    if not _NAME.fullmatch(name):
        issues.append(f"{place}: a type's name is a lower-case word")
    issues += [f"{place}.{each}: no such member; there are kind, says" for each in members.keys() - {"kind", "says"}]
    found: list[str] = []
    says = _text(members, "says", LONGEST_LINE, found)
    issues += [f"{place}.{each}" for each in found]
    kind = members.get("kind", name)
    if kind not in _MODEL_KINDS:
        issues.append(f"{place}.kind: must be one of {', '.join(_MODEL_KINDS)}")
    return ModeType(name, ObservationKind(kind), says) if len(issues) == before else None


def _concepts(given: Any, issues: list[str]) -> Mapping[str, str]:
    if not isinstance(given, Mapping):
        issues.append("concepts: must be a table of NAME = what it means")
        return {}
    if len(given) > MOST_WORDS:
        issues.append(f"concepts: {len(given)} of them, at most {MOST_WORDS} are allowed")
    for name, meaning in given.items():
        if not _NAME.fullmatch(name):
            issues.append(f"concepts.{name}: a concept's name is a lower-case word")
        if not isinstance(meaning, str) or not meaning.strip() or len(meaning) > LONGEST_LINE:
            issues.append(f"concepts.{name}: a text of at most {LONGEST_LINE} characters is needed")
    return {name: str(meaning).strip() for name, meaning in given.items()}
