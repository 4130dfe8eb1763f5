"""JSON objects out of a growing file of lines, object by object, with the offset up to which it has been read."""

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A line longer than this is set aside unread; the longest one seen in the field has 961 KB."""

MAX_REJECTED = 1_000
"""Rejected parts whose place and reason are kept; the ones after them are only counted."""

NOT_JSON = "not JSON"
LONE_BRACKET = "an opening bracket alone"
"""How a document that is printed over many lines begins."""

_DECODER = json.JSONDecoder(parse_constant=lambda _name: None)
_SOLID = re.compile(r"[^ \t\r\n\x00\ufeff]")
_NEXT_OBJECT = re.compile(r'\{"(?:parentUuid|type|uuid|sessionId|isSidechain|timestamp)"')
_MAX_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class Rejected:
    """A part of a file that is no JSON: where its line begins, in bytes, and why it was set aside."""

    offset: int
    reason: str


class JsonLines:
    """Feed it bytes as they come; it gives the objects in them, each with the offset of its line.

    Two objects on one line are two objects. What is broken is set aside with its reason, and the rest of its line
    and of the file goes on. A last line without its end is not read before `finish`, and not even then if it is
    only half of an object: `offset`, the byte to go on from, stays before it.
    """

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.rejected: list[Rejected] = []
        self.rejected_count = 0
        self._lines: deque[tuple[bytes, int]] = deque()
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """Take the next bytes of the file, and give the objects of the lines that are whole now."""
        *ends, rest = data.split(b"\n")
        for part in ends:
            self._add(part)
            self._lines.append((b"".join(self._parts), self._length))
            self._parts, self._length = [], 0
        self._add(rest)
        return self._read()

    def finish(self) -> Iterator[tuple[int, Any]]:
        """Give the objects of a last line that lacks its end, if it is whole all the same."""
        yield from self._read()
        objects, reason = _objects(b"".join(self._parts))
        if reason is None and self._length <= MAX_LINE_BYTES:
            start = self.offset
            self.offset += self._length
            self._parts, self._length = [], 0
            yield from ((start, value) for value in objects)

    def _add(self, part: bytes) -> None:
        self._length += len(part)
        if self._length > MAX_LINE_BYTES:
            self._parts = []
        elif part:
            self._parts.append(part)

    def _read(self) -> Iterator[tuple[int, Any]]:
        while self._lines:
            line, length = self._lines.popleft()
            start = self.offset
            self.offset += length + 1
            objects, reason = _objects(line) if length <= MAX_LINE_BYTES else ([], f"more than {MAX_LINE_BYTES} bytes")
            if reason is not None:
                self._reject(start, reason)
            yield from ((start, value) for value in objects)

    def _reject(self, offset: int, reason: str) -> None:
        self.rejected_count += 1
        if len(self.rejected) < MAX_REJECTED:
            self.rejected.append(Rejected(offset, reason))


def _objects(line: bytes) -> tuple[list[Any], str | None]:
    """The objects on a line, and why a part of it is none (None: all of it was read)."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return [], f"invalid UTF-8 at byte {error.start}"
    objects: list[Any] = []
    reason: str | None = None
    attempts = 0
    found = _SOLID.search(text)
    while found and attempts < _MAX_ATTEMPTS:
        try:
            value, end = _DECODER.raw_decode(text, found.start())
        except RecursionError:
            return objects, "nested too deeply"
        except ValueError:  # half an object; what was appended after it may be whole
            reason = LONE_BRACKET if text.strip("\ufeff \r") in {"{", "["} else NOT_JSON
            attempts += 1
            found = _NEXT_OBJECT.search(text, found.start() + 1)
        else:
            objects.append(value)
            found = _SOLID.search(text, end)
    return objects, reason
