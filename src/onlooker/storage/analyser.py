"""Text to search terms: one analyser for notes and questions, whatever the database.

Pure functions; a term holds no blank, quote or control character. A change of the terms a text gives is a new
`ANALYSER_VERSION`: notes store theirs, so that old ones are found and analysed again.
"""

import re
import threading
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache

import Stemmer

ANALYSER_VERSION = 1

LONGEST_TERM = 64
"""Characters; longer words are cut, in notes and questions alike."""

LONGEST_TEXT = 65_536
"""Characters of a text that are looked at."""

MOST_TERMS = 4_096
"""Terms of a note that are kept; Postgres' tsvector counts positions up to 16,383."""

MOST_ASKED = 1_000
"""Distinct terms of a question that are looked up; Postgres counts at most 1,664 things in one statement."""

KNOWN_WORDS = 8_192
"""Words whose terms are remembered, in 6 MB at most: a stem costs ten times a look-up. Of the words of recorded work
92 % are among so many; four times as many would find no more, and keep what is met once."""

STOP_WORDS = frozenset(
    """
    a about after again all also am an and any are arent as at be because been before being between both but by
    can cant could couldnt did didnt do does doesnt doing dont during each for from further had hadnt has hasnt have
    havent having he her here hers herself him himself his how i id if ill im in into is isnt it its itself ive just
    let lets me more most my myself no nor not of off on once only or other our ours ourselves out over own per same
    she should shouldnt so some such than that thats the their theirs them themselves then there these they theyre
    this those through to too under until up us very was wasnt we were werent what when where which while who whom
    whose why will with wont would wouldnt yes you your youre yours yourself yourselves
    """.split()
)

# Marks that belong to the word they stand in; Python's \w leaves them out.
_MARKS = (
    r"\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc"
    r"\u0900-\u0963\u0981-\u0dff"
)
# Scripts written without blanks between words (Thai, Lao, Burmese, Khmer, Han, Kana, Bopomofo, Yi), and Hangul,
# whose words take endings that no stemmer here knows.
_UNSPACED = (
    r"\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u1049\u1050-\u109f\u1780-\u17d3\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u3096"
    r"\u3099-\u309f\u30a1-\u30fa\u30fc-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\uac00-\ud7a3"
    r"\uf900-\ufaff\U00020000-\U0003fffd"
)
_LETTER = rf"[\w{_MARKS}{_UNSPACED}]"
# A word with what holds its parts together: src/a_b.py, foo::bar, v1.2.3, a-b, don't; a leading dot (.NET) and a
# closing ++ or # (C++, C#) belong to it.
_WORD = re.compile(rf"(?:(?<![^\s(\[{{<,;])\.(?=[^\W\d_]))?{_LETTER}+(?:[./\\:@\-'’~+#]{{1,3}}{_LETTER}+)*(?:\+\+|\#)?")
_PLAIN = re.compile(r"[a-z]+|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_SEGMENTS = re.compile(r"[./\\:@~+#]+")
_BETWEEN_WORDS = re.compile(r"[_\-]+")
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_RUN = re.compile(rf"[{_UNSPACED}]+")
_HAS_CYRILLIC = re.compile(r"[\u0400-\u04ff]")
_HAS_LATIN_OR_GREEK = re.compile(r"[a-z\u00df-\u024f\u0370-\u03ff\u1e00-\u1fff]")
_UNDECOMPOSED = str.maketrans(
    {"ø": "o", "æ": "ae", "œ": "oe", "đ": "d", "ð": "d", "ł": "l", "ı": "i", "þ": "th", "ħ": "h"}
)


class _Stemmers(threading.local):
    """Stemmers of one thread: they are not to be shared. Their own caches are off, ours holds what is made of them."""

    def __init__(self) -> None:
        self.english = Stemmer.Stemmer("english", 0)
        self.russian = Stemmer.Stemmer("russian", 0)


_stemmers = _Stemmers()


def analyse(text: str) -> list[str]:
    """The terms of a note, in the order of the text, each as often as it occurs."""
    terms: list[str] = []
    for word in _words(text):
        terms += _terms_of(word)
        if len(terms) >= MOST_TERMS:
            return terms[:MOST_TERMS]
    return terms


def analyse_query(text: str) -> list[str]:
    """The distinct terms of a question, in its order; none where it has no searchable word.

    Of a run of an unspaced script a note has every character and every pair; a question asks for the pairs, and for
    the character only where it stands alone.
    """
    terms: dict[str, None] = {}
    for word in _words(text):
        terms.update(dict.fromkeys(_query_terms_of(word)))
        if len(terms) >= MOST_ASKED:
            break
    return list(terms)[:MOST_ASKED]


def date_terms(at_ms: int) -> list[str]:
    """The terms that find a note by its date (UTC): day, month's name, year, and the date as ISO 8601 writes it."""
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return []
    iso = at.date().isoformat()
    return [str(at.day), *_terms_of(at.strftime("%B")), str(at.year), iso[:7], iso]


def _words(text: str) -> list[str]:
    text = text[:LONGEST_TEXT]
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text)


@lru_cache(KNOWN_WORDS)
def _terms_of(word: str) -> tuple[str, ...]:
    """The terms that one word of a note gives."""
    return _analyse_word(word, singles=True)


def _query_terms_of(word: str) -> tuple[str, ...]:
    if word.isascii() or not _RUN.search(word):
        return _terms_of(word)
    return _analyse_word(word, singles=False)


def _analyse_word(word: str, *, singles: bool) -> tuple[str, ...]:
    """The distinct terms of a word: the whole, its parts, and the pairs of its unspaced runs."""
    if _PLAIN.fullmatch(word):
        folded = word.lower()
        return () if folded in STOP_WORDS else (_stem(folded),)
    word = word.replace("’", "'")
    if word.endswith(("'s", "'S")):
        word = word[:-2]
    word = word.replace("'", "")
    pairs: list[str] = []
    if not word.isascii():
        for run in _RUN.findall(word):
            pairs += _pairs(run, singles=singles)
        word = _RUN.sub(" ", word)
    terms = [term for piece in word.split() for term in _analyse_compound(piece)]
    return (*pairs, *dict.fromkeys(terms))


def _pairs(run: str, *, singles: bool) -> list[str]:
    pairs = [run[n : n + 2] for n in range(len(run) - 1)]
    return [*run, *pairs] if singles or not pairs else pairs


def _analyse_compound(word: str) -> list[str]:
    """`src/getUser.py` as itself, src, getuser, get, user, py: the whole, each segment written as one, each part."""
    terms: list[str] = []
    segments = [segment for segment in _SEGMENTS.split(word) if segment]
    if len(segments) > 1 or word[-1] in "+#" or word[0] == ".":
        terms.append(_fold(word.replace("\\", "/"))[:LONGEST_TERM])
    for segment in segments:
        parts = [part for words in _BETWEEN_WORDS.split(segment) for part in _HUMPS.sub(" ", words).split()]
        folded = [_fold(part) for part in parts]
        if len(folded) > 1:
            terms.append(_stem("".join(folded)))
        terms += [_stem(part) for part in folded if part and part not in STOP_WORDS]
    return terms


def _fold(word: str) -> str:
    """Without case, and without the accents of Latin and Greek letters; in Cyrillic only ё is folded, й is a letter."""
    folded = word.casefold()
    if folded.isascii():
        return folded
    folded = folded.translate(_UNDECOMPOSED)
    if _HAS_LATIN_OR_GREEK.search(folded):
        decomposed = unicodedata.normalize("NFD", folded)
        folded = "".join(mark for mark in decomposed if not "\u0300" <= mark <= "\u036f")
    return folded.replace("ё", "е").replace("\u0301", "")


def _stem(folded: str) -> str:
    word = folded[:LONGEST_TERM]
    stemmer = _stemmers.russian if _HAS_CYRILLIC.search(word) else _stemmers.english
    stem: str = stemmer.stemWord(word)
    return stem
