"""What a payload goes through before it is stored: made clean JSON, keyed, scrubbed, and cut where it is too long.

The order matters. The event key is taken from the clean payload before anything is removed, so that a sender that
sends again meets the same row whatever our rules of removal are by then. Cutting comes last, since half a secret or
half a private block would not be recognised any more.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from onlooker.domain.errors import InvalidInput
from onlooker.domain.json_text import LINE_JOINT, map_texts, plain
from onlooker.domain.privacy import has_private, strip_private
from onlooker.domain.secrets import finders_for, redact_member, redacted

MAX_DEPTH = 200
"""Levels of objects and lists within each other; one more is refused."""

MAX_BYTES = 262_144
"""Bytes of a payload's JSON (256 KiB, `wire.md`); what is longer has its longest texts cut."""

REPLACED_CHARACTERS = "replaced_characters"
"""A NUL or half a surrogate pair became U+FFFD: no database holds them in a text."""
BIG_NUMBER = "big_number"
"""An integer of more than 64 bits became a string of its digits."""
CUT = "cut"
"""Texts were cut in their middle."""

_INTEGERS = range(-(2**63), 2**64)
_DIGITS = bytes(ord("0") if chr(byte).isdecimal() and byte < 128 else ord(" ") for byte in range(256))
_BIG = b"0" * 19
"""So many digits in a row has a number that needs more than 63 bits, and hardly anything else."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SHORTEST_CUT = 64

_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


class Cleaned(NamedTuple):
    """A value that is JSON in all strictness, what had to be changed for it, and its canonical JSON."""

    value: Any
    flags: frozenset[str]
    canonical: bytes


class Prepared(NamedTuple):
    """`value` is what to store; `canonical` is what the event key is taken from, before anything was removed."""

    value: Any
    flags: frozenset[str]
    canonical: bytes


def prepare(value: Any) -> Prepared:
    """A payload made ready to be stored: the one function that ingest calls.

    Raises InvalidInput for NaN, infinities, more than `MAX_DEPTH` levels, and what is no JSON.
    """
    cleaned = clean(value)
    stored = _scrubbed(cleaned.value, cleaned.canonical.decode())
    flags = cleaned.flags
    if stored is not cleaned.value or len(cleaned.canonical) > MAX_BYTES:
        stored, was_cut = fit(stored)
        flags |= {CUT} if was_cut else set()
    return Prepared(stored, flags, cleaned.canonical)


def read_json(data: bytes) -> Any:
    """The JSON in bytes as agents send them: with a byte order mark, with half surrogate pairs. Raises InvalidInput."""
    try:
        return json.loads(data.decode("utf-8-sig").lstrip("\ufeff"))
    except RecursionError:
        raise InvalidInput(f"more than {MAX_DEPTH} levels of nesting") from None
    except ValueError:
        raise InvalidInput("not JSON in UTF-8") from None


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted names, no blanks, UTF-8. Raises InvalidInput for what is no JSON."""
    return clean(value).canonical


def clean(value: Any) -> Cleaned:
    """The value with what no database can hold replaced; nothing is lost but characters that are none.

    The value itself is handed back where it is clean already. Raises InvalidInput as `prepare` does.
    """
    text = _json(value)
    data = _utf8(text)
    if data is not None and not _is_suspicious(data):
        return Cleaned(value, frozenset(), data)
    flags: set[str] = set()
    value = _cleaned(value, 1, flags)
    return Cleaned(value, frozenset(flags), _json(value).encode())


def scrub(value: Any) -> Any:
    """A JSON value without private parts, injected context and secrets, keys included; nesting must be bounded.

    The value itself is handed back where there is nothing to remove.
    """
    return _scrubbed(value, _json(value))


def fit(value: Any, max_bytes: int = MAX_BYTES) -> tuple[Any, bool]:
    """The value with its longest texts cut until its JSON fits, and whether anything was cut.

    What is long by its number of members and not by its texts is first turned into texts, so that it always fits.
    """
    size = len(_json(value).encode())
    if size <= max_bytes:
        return value, False
    for shape in (lambda: value, lambda: _flattened(value), lambda: {"payload": _json(value)}):
        cut = _cut_to(shape(), max_bytes)
        if cut is not None:
            return cut, True
    raise InvalidInput(f"a payload of {size} bytes cannot be cut to {max_bytes}")


def _json(value: Any) -> str:
    try:
        return _encode(value)
    except RecursionError:
        raise InvalidInput(f"more than {MAX_DEPTH} levels of nesting") from None
    except ValueError:
        raise InvalidInput("a number is not finite, or too long") from None
    except TypeError:
        raise InvalidInput("not a JSON value") from None


def _utf8(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _is_suspicious(data: bytes) -> bool:
    """Whether a JSON text may hold a NUL, too big a number, or too many levels: a closer look then decides."""
    return b"\\u0000" in data or data.count(b"{") + data.count(b"[") > MAX_DEPTH or _BIG in data.translate(_DIGITS)


def _cleaned(value: Any, depth: int, flags: set[str]) -> Any:
    if isinstance(value, str):
        return _clean_text(value, flags)
    if isinstance(value, Mapping | list):
        if depth > MAX_DEPTH:
            raise InvalidInput(f"more than {MAX_DEPTH} levels of nesting")
        if isinstance(value, list):
            return [_cleaned(item, depth + 1, flags) for item in value]
        return {_clean_text(name, flags): _cleaned(member, depth + 1, flags) for name, member in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INTEGERS:
        flags.add(BIG_NUMBER)
        return str(value)
    return value


def _clean_text(text: str, flags: set[str]) -> str:
    if "\x00" not in text and _utf8(text) is not None:
        return text
    flags.add(REPLACED_CHARACTERS)
    return _UNSTORABLE.sub("\ufffd", text)


def _scrubbed(value: Any, json_text: str) -> Any:
    """One look at the whole JSON tells what can be in it; only then is the value taken apart, and only for that."""
    ascii_text = plain(json_text)
    lower = ascii_text.lower()
    private = has_private(lower)
    finders = finders_for(ascii_text, lower)
    if not private and not finders:
        return value

    def change(text: str) -> str:
        return redacted(strip_private(text) if private else text, finders)

    return map_texts(value, change, redact_member if finders else None)


def _flattened(value: Any) -> Any:
    """The value with each member that holds more than a text or a number turned into its JSON text."""
    if not isinstance(value, Mapping):
        return {"payload": _json(value)}
    return {name: _json(item) if isinstance(item, Mapping | list) else item for name, item in value.items()}


def _cut_to(value: Any, max_bytes: int) -> Any | None:
    """The value with each text cut to the greatest length at which it fits; None where no length will do."""
    length = max_bytes
    while length >= _SHORTEST_CUT:
        cut = map_texts(value, lambda text: _cut(text, length))  # noqa: B023 - called before `length` changes
        size = len(_json(cut).encode())
        if size <= max_bytes:
            return cut
        length = min(length * 9 // 10, length * max_bytes // size)
    return None


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    head, tail = text[: length // 2], text[len(text) - (length - length // 2) :]
    head, tail = head.removesuffix(LINE_JOINT[0]), tail.removeprefix(LINE_JOINT[1])  # no half of a joint is left
    return f"{head}[… {len(text) - len(head) - len(tail)} characters cut …]{tail}"
