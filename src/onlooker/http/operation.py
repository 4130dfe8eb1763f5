"""One HTTP operation: who may call it, what it takes, what it answers; and how a call of it runs.

The table of operations is the whole truth: routes, checks and `/openapi.json` are all made from it.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from onlooker.domain import errors
from onlooker.domain.models import KeyScope, Principal
from onlooker.http.auth import Guard
from onlooker.http.body import read_body
from onlooker.queue.contract import QueueEngine
from onlooker.services.accounts import Accounts
from onlooker.services.ingest import Ingest
from onlooker.services.jobs import Jobs
from onlooker.services.live import JobWaiters
from onlooker.services.recall import Recall
from onlooker.settings import Settings
from onlooker.storage.database import Database
from onlooker.telemetry import place_of

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

LONGEST_REQUEST_ID = 64
PROBLEMS = frozenset({400, 401, 403, 413, 429, 503})

log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode


class Services(Protocol):
    """What the operations work with; `app.App` is one."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def queue(self) -> QueueEngine: ...
    @property
    def accounts(self) -> Accounts: ...
    @property
    def ingest(self) -> Ingest: ...
    @property
    def recall(self) -> Recall: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def waiters(self) -> JobWaiters: ...


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every answer that is not a success. `issues` names each wrong place of a request."""

    error: str
    message: str
    issues: tuple[str, ...] = ()


@dataclass(slots=True)
class Call:
    """One request, checked: `body` and `query` are of the operation's types."""

    services: Services
    principal: Principal
    path: Mapping[str, str]
    body: Any
    query: Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What an operation answers; `value` is encoded as JSON."""

    value: Any
    status: int = 200


NOBODY = Principal("", None, None, frozenset())


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `scope` None means that no key is asked for."""

    method: str
    path: str
    summary: str
    run: Callable[[Call], Awaitable[Reply]]
    answers: Mapping[int, Any]
    scope: KeyScope | None = None
    body: Any = None
    query: type[msgspec.Struct] | None = None
    problems: frozenset[int] = frozenset()
    name: str = field(default="")

    @property
    def all_problems(self) -> frozenset[int]:
        """Every status that is not a success which a call of this can be answered with."""
        if self.scope is None:
            return self.problems
        found = {401, 403, 503, *self.problems}
        if self.body is not None:
            found |= {400, 408, 413}
        if self.query is not None:
            found |= {400}
        return frozenset(found)


class Endpoint:
    """The ASGI side of an operation: key first, then body, then the work; every error becomes an answer."""

    def __init__(self, operation: Operation, services: Services, guard: Guard) -> None:
        self._operation = operation
        self._services = services
        self._guard = guard
        self._decode = None if operation.body is None else msgspec.json.Decoder(operation.body).decode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        request_id = request_id_of(request)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                reply = await self._answer(request)
                response = respond(reply.value, reply.status)
            except ClientDisconnect:
                return
            except errors.OnlookerError as error:
                response = respond_problem(error)
            except Exception as error:  # noqa: BLE001 - the last resort: the caller gets an answer, the log the place
                log.error("defect", error=type(error).__name__, path=self._operation.path, where=place_of(error))  # noqa: TRY400 - a traceback quotes values
                response = respond(Problem("InternalError", f"something broke here; quote request {request_id}"), 500)
        response.headers["x-request-id"] = request_id
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Reply:
        operation = self._operation
        principal = NOBODY if operation.scope is None else await self._guard.admit(request, operation.scope)
        query = None if operation.query is None else decode_query(request, operation.query)
        body = None if self._decode is None else decode_body(await read_body(request), self._decode, operation.body)
        path = {name: checked_id(value) for name, value in request.path_params.items()}
        return await operation.run(Call(self._services, principal, path, body, query))


def request_id_of(request: Request) -> str:
    """The caller's own request id where it is a short plain word, else a new one."""
    given: str = request.headers.get("x-request-id", "")
    sane = 0 < len(given) <= LONGEST_REQUEST_ID and given.isascii() and given.replace("-", "").isalnum()
    return given if sane else secrets.token_hex(8)


def checked_id(value: str) -> str:
    """A path's id as the databases can hold it. Raises `NotFound`: nothing has an id that cannot be stored."""
    if "\x00" in value or not value.isprintable():
        raise errors.NotFound("no such thing")
    return value


def decode_query(request: Request, shape: type[msgspec.Struct]) -> msgspec.Struct:
    """The query parameters as the shape's fields. Raises `InvalidInput` naming the parameter."""
    try:
        return msgspec.convert(dict(request.query_params), shape, strict=False)
    except msgspec.ValidationError as error:
        raise errors.InvalidInput("a query parameter is wrong", [str(error)]) from error


def decode_body(raw: bytes, decode: Callable[[bytes], Any], shape: Any) -> Any:
    """The body as the operation's shape. Raises `InvalidInput` naming the place.

    Text that is JSON to a lenient reader only (half a surrogate pair) is read by one, so that nothing is lost for it:
    the payload's own cleaning replaces what no database holds.
    """
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise errors.InvalidInput("the body has a wrong shape", [str(error)]) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return _decode_leniently(raw, shape, error)


def _decode_leniently(raw: bytes, shape: Any, first: Exception) -> Any:
    try:
        value = json.loads(raw, parse_constant=_refuse_constant)
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise errors.InvalidInput("the body has a wrong shape", [str(error)]) from error
    except RecursionError as error:
        raise errors.InvalidInput("the body is nested too deeply") from error
    except ValueError as error:
        raise errors.InvalidInput("the body is not JSON", [str(first)]) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def respond(value: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(_encode(value), status, dict(headers or {}), "application/json")


def respond_problem(error: errors.OnlookerError) -> Response:
    """The response to an error, by the one table of statuses."""
    status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)
    headers = {}
    if isinstance(error, (errors.Unavailable, errors.RateLimited)):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if status == STATUS_OF[errors.Unauthenticated]:
        headers["www-authenticate"] = "Bearer"
    issues = error.issues if isinstance(error, errors.InvalidInput) else ()
    return respond(Problem(type(error).__name__, str(error), issues), status, headers)
