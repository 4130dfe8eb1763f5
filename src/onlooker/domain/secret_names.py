"""Secrets known by their name: `PASSWORD=…`, `"client_secret": "…"`, `--api-key …`, an object's member `token`.

A name alone proves little in source code (`password: str`, `token = next_token()`), so what is assigned must look
written out: not computed, not a type, a name or a gap to fill. Where shells and configurations assign (capitals, a
command's option, a member of an object) nearly every value counts, elsewhere an unquoted one must look like no word.
"""

import re
from collections.abc import Iterator
from typing import Any

from onlooker.domain.secret_patterns import Finder, Span, literal_of

_SUFFIX = r"(?:[_-]?(?:\d{1,3}|base|value|production|prod|staging|dev|test|live|old|new|default|confirmation))?"
_CLOSED = r"\\*[\"'`]?\]?"
_SIGN = (
    rf"(?P<sign>{_CLOSED}\s{{0,4}}(?::\s{{0,3}}(?:&?str|string|optional\[str\]|secretstr)\s{{0,3}}=|"
    rf"[=!]?={{1,3}}>?|:=?|>)\s{{0,4}}|{_CLOSED},?\s{{1,40}}\\*[\"']?value\\*[\"']?\s{{0,3}}[:=]\s{{0,3}}|\s{{1,3}}(?='))"
)
_KEY_OF = ("api", "access", "private", "account", "signing", "encryption", "master", "auth", "shared", "secret")
_KEY = "|".join(f"(?<={word}{joint}key)" for word in _KEY_OF for joint in ("_", "-", ""))

_NAMES = (
    ("password", "pass(?:w(?:or)?d|phrase|(?<=_pass))"),
    ("password", "pwd"),
    ("password", "identified by"),
    ("secret", "secret"),
    ("token", "token"),
    ("api-key", f"key(?:{_KEY})"),
    ("api-key", "_auth"),
)
"""Kind of secret, and how names that mean it end. Each begins with a literal, for speed."""

_OPTION = re.compile(
    r"--(?=[a-z])[a-z0-9-]{0,30}?(?:(?P<password>passw(?:or)?d|passphrase)|(?P<secret>secret)|(?P<token>token)|"
    r"(?:api|access|private|auth|secret)-?key)\\*[\"']?(?:[\s\x00]{1,4}|,\s?)(?=[^\s\x00-])"
)
_MEMBER = re.compile(
    rf"(?:(?P<password>passw(?:or)?d|passphrase|pwd|_pass)|(?P<secret>secret)|(?P<token>token)|key(?:{_KEY})|_auth)"
    rf"{_SUFFIX}\Z"
)
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.$-")
_NAME_LENGTH = 64

_QUOTE = re.compile(r"[fFrRbBuU]{0,2}(\\*[\"'`])")
_BARE = re.compile(r"[^\s\"'`,;&|<>(){}\[\]\x00\\]+")
_SHELL_WORD = re.compile(r"[^\s\"'`,;<>(){}\x00\\]+")
_MAX_LENGTH = 512

_GAP = re.compile(
    r"<.*>|\$[A-Za-z_{(].*|%\w+%|%[sd]|%\(.*|#?\{.*|@\w+@|\[redacted.*|__\w+__|(.)\1*|.*\.\.\.|.*…", re.DOTALL
)
"""A value that is filled in elsewhere, has been taken out already, or is one character over and over."""
_GAP_WORDS = frozenset(
    """password passwd pass pwd secret token key none null nil true false undefined empty unset string str bytes int
    integer number bool boolean any text optional required default changeme change-me change_me changeit example sample
    test testing dummy fake todo tbd placeholder redacted hidden masked inherit auto value username user name
    file env prompt stdin""".split()
)
_GAP_STARTS = ("your", "insert", "replace", "<your", "enter-", "enter_", "put-", "put_", "example-")
_TYPE = re.compile(
    r"(?:u?int|float|str|string|bytes|[iuf]|sha|md|utf|base|b|uuid|varchar|char|oauth|bcrypt|argon|[erhp]s|ed)-?\d+"
)
_REFERENCE = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|->|::|\?\.)[A-Za-z_$][\w$]*)+")
_OWNERS = frozenset("self this process os config settings env secrets var local args options opts request req".split())
_WORDS_IN_NAMES = re.compile(r"pass|pwd|secret|token|key|cred", re.IGNORECASE)
_LABEL = re.compile(r"[A-Za-z]+(?:[-_. :]+[A-Za-z]+)*:?")
_WORDS_AFTER_OPTIONS = frozenset(
    """to is for flag flags option options and or the with from in as argument arguments parameter value values
    required must can cannot if when on not was will should instead via by also be""".split()
)
_PATH = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?/[\w./-]*|\w+://.*")


def name_finders() -> Iterator[Finder]:
    for kind, name in _NAMES:
        hint = re.compile(name + _SUFFIX + rf"{_CLOSED}(?:\s{{0,4}}[:=!>,]|(?:\s|\\+[nrt]){{1,40}}['v\"\\])")
        yield Finder(literal_of(hint), hint.search, _assigned(kind, re.compile(name + _SUFFIX + _SIGN)), in_lower=True)
    yield Finder(literal_of(_OPTION), _OPTION.search, _options, in_lower=True)


def secret_kind_of(name: str) -> str | None:
    """The kind of secret that a member's name announces; None for all other names."""
    if len(name) > _NAME_LENGTH:
        return None
    match = _MEMBER.search(name.lower())
    return (match.lastgroup or "api-key") if match else None


def is_secret_member(name: str, kind: str, value: Any) -> bool:
    """Whether the member of an object that has such a name holds a secret that is written out."""
    return isinstance(value, str) and bool(value) and _is_secret(kind, name, value, quoted=True, strong=True)


def _assigned(kind: str, pattern: re.Pattern[str]) -> Any:
    def find(text: str, lower: str) -> Iterator[Span]:
        for match in pattern.finditer(lower):
            start = _name_start(lower, match.start())
            name = text[start : match.start("sign")]
            if name in {"PWD", "OLDPWD"} or lower.startswith("[redacted:", max(0, start - 10)):
                continue
            strong = _is_strong(text, start, name, match["sign"])
            for span in _value_span(kind, name, text, match.end(), strong=strong):
                if match["sign"] != ">" or text.startswith("<", span[1]):
                    yield span

    return find


def _options(text: str, lower: str) -> Iterator[Span]:
    for match in _OPTION.finditer(lower):
        name = text[match.start() : match.end()].rstrip()
        for start, end, kind in _value_span(match.lastgroup or "api-key", name, text, match.end(), strong=True):
            if lower[start:end].rstrip(".,:)") not in _WORDS_AFTER_OPTIONS:
                yield start, end, kind


def _name_start(lower: str, position: int) -> int:
    """Where the name begins whose last part stands at this position."""
    start = position
    while start > max(0, position - _NAME_LENGTH) and lower[start - 1] in _NAME_CHARACTERS:
        start -= 1
    escaped = 0 < start < position and lower[start - 1] == "\\" and lower[start] in "nrt"
    return start + 1 if escaped else start


def _is_strong(text: str, start: int, name: str, sign: str) -> bool:
    """Whether a shell, an environment file or a command's option assigns here, and hardly a program."""
    if name.startswith("--") or text.startswith("export ", max(0, start - 7), start):
        return True
    return name.isupper() and len(name) >= 4 and (sign == "=" or ("_" in name and sign.strip() == ":"))


def _value_span(kind: str, name: str, text: str, position: int, *, strong: bool) -> Iterator[Span]:
    opening = _QUOTE.match(text, position)
    if opening:
        start, end = opening.end(), _closing(text, opening.end(), opening[1])
        if _is_secret(kind, name, text[start:end], quoted=True, strong=strong):
            yield start, end, kind
        return
    word = (_SHELL_WORD if strong else _BARE).match(text, position, position + _MAX_LENGTH)
    if word and text[word.end() : word.end() + 1] not in {"(", "["}:
        value = word[0].rstrip(".:") if not strong else word[0]
        if _is_secret(kind, name, value, quoted=False, strong=strong):
            yield word.start(), word.start() + len(value), kind


def _closing(text: str, start: int, quote: str) -> int:
    """Where a quoted value ends: at its closing quote, else where its line does, or at the greatest length."""
    limit = min(len(text), start + _MAX_LENGTH)
    line = text.find("\n", start, limit)
    limit = line if line >= 0 else limit
    end = text.find(quote, start, limit)
    while end > start and len(quote) == 1 and text[end - 1] == "\\":
        end = text.find(quote, end + 1, limit)
    return end if end >= 0 else limit


def _is_secret(kind: str, name: str, value: str, *, quoted: bool, strong: bool) -> bool:
    value = value.strip()
    if _is_gap(name, value):
        return False
    if quoted:
        return _is_written(kind, value, strong=strong)
    if strong:
        return len(value) >= 3 and not _is_reference(value, any_owner=False) and not _TYPE.fullmatch(value.lower())
    return _looks_random(kind, value)


def _is_gap(name: str, value: str) -> bool:
    """Whether this stands for a value that is elsewhere."""
    lower = value.lower()
    return (
        not any(c.isalnum() for c in value)
        or lower in _GAP_WORDS
        or lower == name.strip("-\"'`\\ ,=:").lower()
        or lower.startswith(_GAP_STARTS)
        or _GAP.fullmatch(value) is not None
    )


def _is_written(kind: str, value: str, *, strong: bool) -> bool:
    """Whether the text between two quotes is a secret, and not a label, a name or a sentence."""
    if len(value) < (3 if kind == "password" else 6 if not strong else 4):
        return False
    if strong:
        return not (_LABEL.fullmatch(value) and _WORDS_IN_NAMES.search(value) and "_" in value)
    if any(c.isspace() for c in value):
        return kind == "password" and any(c.isdigit() for c in value)
    if _LABEL.fullmatch(value) and _WORDS_IN_NAMES.search(value):
        return kind == "password" and value.isalpha()
    return not _PATH.fullmatch(value)


def _is_reference(value: str, *, any_owner: bool) -> bool:
    """Whether a word is the way to a value (`config.api_key`, `self.token`), not the value."""
    if not _REFERENCE.fullmatch(value):
        return False
    return any_owner or _WORDS_IN_NAMES.search(value) is not None or re.split(r"\W", value)[0] in _OWNERS


def _looks_random(kind: str, value: str) -> bool:
    """Whether an unquoted word is no identifier, type, number, path or name."""
    if len(value) < 5 or _is_reference(value, any_owner=True) or _PATH.fullmatch(value):
        return False
    digits = sum(c.isdigit() for c in value)
    letters = sum(c.isalpha() for c in value)
    if not letters or not (digits or any(c in "!@#$%^*+~?" for c in value)):
        return kind == "password" and digits >= 6
    return not _TYPE.fullmatch(value.lower()) and not _WORDS_IN_NAMES.search(value)
