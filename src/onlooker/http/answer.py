"""What goes back: JSON, or a problem by the one table from classes of errors to statuses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from onlooker.domain import errors
from onlooker.http.request import Send

STATUS_OF: Mapping[type[errors.OnlookerError], int] = {
    errors.InvalidInput: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
}
"""The status of each class of error, its subclasses included."""

JSON = b"application/json"
_encode = msgspec.json.Encoder().encode

Headers = tuple[tuple[bytes, bytes], ...]


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every answer that is not a success. `issues` names each wrong place of a request."""

    error: str
    message: str
    issues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, ready to be sent; `headers` are those beside its type, its length and its request id."""

    status: int
    body: bytes
    headers: Headers = ()
    content_type: bytes = JSON


def answer_json(value: Any, status: int = 200, headers: Headers = ()) -> Answer:
    """A value as JSON."""
    return Answer(status, _encode(value), headers)


def answer_problem(error: errors.OnlookerError) -> Answer:
    """What a client is told of an error."""
    status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)
    headers: Headers = ()
    if isinstance(error, errors.Unavailable | errors.RateLimited):
        headers = ((b"retry-after", b"%d" % max(1, round(error.retry_after_s))),)
    elif isinstance(error, errors.Unauthenticated):
        headers = ((b"www-authenticate", b"Bearer"),)
    issues = error.issues if isinstance(error, errors.InvalidInput) else ()
    return answer_json(Problem(type(error).__name__, str(error), issues), status, headers)


async def send_answer(send: Send, answer: Answer, request_id: bytes) -> None:
    """Send the whole answer."""
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        (b"x-request-id", request_id),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
