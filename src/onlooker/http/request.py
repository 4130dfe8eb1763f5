"""One HTTP request as ASGI hands it over, and reading its parts."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from onlooker.domain.errors import InvalidInput, NotFound, TooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES = 1_048_576
"""1 MiB (`wire.md`)."""

LONGEST_REQUEST_ID = 64


class Request:
    """Header names are lower case; of a header that is repeated the last counts.

    `path` holds the named parts of the path. A body that comes too slowly is the server's matter (`server.Limits`).
    """

    __slots__ = ("headers", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: dict[str, str] = {}

    def header(self, name: bytes) -> str:
        """A header's text, empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    @property
    def query(self) -> bytes:
        """What stands behind the question mark, as it was sent."""
        query: bytes = self.scope["query_string"]
        return query

    @property
    def peer(self) -> str | None:
        """The address at the other end of the connection."""
        client = self.scope["client"]
        return None if client is None else str(client[0])

    async def body(self, most: int = MAX_BODY_BYTES) -> bytes | None:
        """The whole body; None when the client has gone. Raises `TooLarge` as soon as it is over the limit."""
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > most:
            raise TooLarge(f"a body may have {most} bytes")
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise TooLarge(f"a body may have {most} bytes")
            if not message.get("more_body", False):
                return part if not parts else b"".join([*parts, part])
            parts.append(part)


class RequestIds:
    """Names for requests: a word of this process and a number, which costs less than randomness for each."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(4)
        self._numbers = count(1)

    def of(self, request: Request) -> bytes:
        """The caller's own request id where it is a short plain word, else a new one."""
        given = request.headers.get(b"x-request-id")
        if given and len(given) <= LONGEST_REQUEST_ID and given.replace(b"-", b"").isalnum():
            return given
        return f"{self._process}-{next(self._numbers):x}".encode()


def checked_id(value: str) -> str:
    """A path's id as the databases can hold it. Raises `NotFound`: nothing has an id that cannot be stored."""
    if "\x00" in value or not value.isprintable():
        raise NotFound("no such thing")
    return value


def decode_query(query: bytes, shape: type[msgspec.Struct]) -> msgspec.Struct:
    """The query parameters as the shape's fields. Raises `InvalidInput` naming the parameter."""
    try:
        return msgspec.convert(dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)), shape, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput("a query parameter is wrong", [str(error)]) from error
    except ValueError as error:
        raise InvalidInput("the query cannot be read") from error
