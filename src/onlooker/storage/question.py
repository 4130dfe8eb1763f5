"""What somebody asks for: words to rank by, quoted phrases that a note must have, and -words that it must not have."""

import re
from dataclasses import dataclass

from onlooker.storage.analyser import analyse, analyse_query

MOST_DEMANDS = 16
"""Phrases, and words that are not wanted, of one question; further ones are words like others."""

# A phrase begins where a word does, and its quotes are closed. A word that is not wanted has two different letters, so
# that -1, -x and -vv stay what they mostly are in notes on code: numbers and flags.
_DEMAND = re.compile(
    r'(?<!\S)(?P<minus>-)?"(?P<phrase>[^"]{1,400})"(?!\w)|(?<!\S)-(?P<word>(?P<first>[^\W\d_])(?!(?P=first)*(?!\w))[^\W\d_][^\s"]*)'
)

Terms = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """`terms` rank notes; each of `phrases` and `excluded` is a run of terms.

    `yields` says that the operators may be taken for words where no note meets them: there are other words too, and
    what looks like an operator may be a title or a flag.
    """

    terms: Terms
    phrases: tuple[Terms, ...] = ()
    excluded: tuple[Terms, ...] = ()
    yields: bool = False


def parse_question(text: str) -> Question:
    """The question of a text. Never an error: what cannot be an operator is a word."""
    phrases: dict[Terms, None] = {}
    excluded: dict[Terms, None] = {}

    def take(found: re.Match[str]) -> str:
        phrase, word = found["phrase"], found["word"]
        run = tuple(analyse(phrase)) if phrase is not None else tuple(analyse_query(word)[:1])
        if not run or len(phrases) + len(excluded) >= MOST_DEMANDS:
            return found[0]
        if phrase is not None and not found["minus"]:
            phrases[run] = None
            return phrase
        excluded[run] = None
        return " "

    plain = _DEMAND.sub(take, text)
    terms = tuple(analyse_query(plain))
    if not terms:
        # Whoever asks for nothing but `-word` asks for the word.
        return plain_question(text)
    has_more = bool(analyse_query(_DEMAND.sub(" ", text)))
    return Question(terms, tuple(phrases), tuple(excluded), yields=has_more and bool(phrases or excluded))


def plain_question(text: str) -> Question:
    """All of a text as words to rank by."""
    return Question(tuple(analyse_query(text)))
