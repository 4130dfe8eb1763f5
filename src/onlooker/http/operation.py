"""One HTTP operation: who may call it, what it takes, what it answers; and how a call of it runs.

The table of operations is the whole truth: routes, checks and `/openapi.json` are all made from it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import KeyScope, Principal
from onlooker.domain.payloads import clean, read_json
from onlooker.http.answer import Answer, answer_json
from onlooker.http.auth import Guard
from onlooker.http.request import MAX_BODY_BYTES, Request, checked_id, decode_query
from onlooker.http.shapes import integer_fields, reread
from onlooker.queue.contract import QueueEngine
from onlooker.services.accounts import Accounts
from onlooker.services.forget import Forget
from onlooker.services.hooks import Hooks
from onlooker.services.ingest import Ingest
from onlooker.services.injecting import Injecting
from onlooker.services.jobs import Jobs
from onlooker.services.live import JobWaiters
from onlooker.services.recall import Recall
from onlooker.services.retention import Retaining
from onlooker.services.usage import Spending
from onlooker.settings import Settings
from onlooker.storage.database import Database

REMEMBERED_QUERIES = 256


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
    def hooks(self) -> Hooks: ...
    @property
    def injecting(self) -> Injecting: ...
    @property
    def recall(self) -> Recall: ...
    @property
    def forget(self) -> Forget: ...
    @property
    def retaining(self) -> Retaining: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def spending(self) -> Spending: ...
    @property
    def waiters(self) -> JobWaiters: ...


@dataclass(slots=True)
class Call:
    """One request, checked: `body` and `query` are of the operation's types."""

    services: Services
    principal: Principal
    path: Mapping[str, str]
    body: Any
    query: Any
    headers: Mapping[bytes, bytes] = field(default_factory=dict)

    def header(self, name: bytes) -> str:
        """A header's text, empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")


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
    max_body_bytes: int = MAX_BODY_BYTES

    @property
    def all_problems(self) -> frozenset[int]:
        """Every status that is not a success which a call of this can be answered with."""
        if self.scope is None:
            return self.problems
        found = {401, 403, 503, *self.problems}
        if "{" in self.path:
            found |= {404}
        if self.body is not None:
            found |= {400, 413}
        if self.query is not None:
            found |= {400}
        return frozenset(found)


class Endpoint:
    """Runs an operation: key first, then query and body, then the work."""

    def __init__(self, operation: Operation, services: Services, guard: Guard) -> None:
        self.operation = operation
        self._services = services
        self._guard = guard
        self._decode_body = None if operation.body is None else body_decoder(operation.body)
        self._decode_query = None if operation.query is None else query_decoder(operation.query)

    async def answer(self, request: Request) -> Answer | None:
        """What to answer; None when the client has gone before it sent all. Raises errors of the domain."""
        operation = self.operation
        principal = NOBODY if operation.scope is None else await self._guard.admit(request, operation.scope)
        query = None if self._decode_query is None else self._decode_query(request.query)
        body = None
        if self._decode_body is not None:
            raw = await request.body(operation.max_body_bytes)
            if raw is None:
                return None
            body = self._decode_body(raw)
        for value in request.path.values():
            checked_id(value)
        reply = await operation.run(Call(self._services, principal, request.path, body, query, request.headers))
        return answer_json(reply.value, reply.status)


def query_decoder(shape: type[msgspec.Struct]) -> Callable[[bytes], msgspec.Struct]:
    """A reader of queries that remembers the latest: clients send the same few. The shape must be frozen."""

    @lru_cache(REMEMBERED_QUERIES)
    def decode(query: bytes) -> msgspec.Struct:
        return decode_query(query, shape)

    return decode


def body_decoder(shape: Any) -> Callable[[bytes], Any]:
    """A reader of bodies of a shape. What it returns raises `InvalidInput`, naming the place.

    What is JSON to a lenient reader only (half a surrogate pair, a byte order mark) is read by one: nothing is
    lost for it, since what no database holds is replaced where it is stored.
    """
    strictly = msgspec.json.Decoder(shape).decode
    integers = integer_fields(shape)

    def decode(raw: bytes) -> Any:
        try:
            return strictly(raw)
        except msgspec.ValidationError as error:
            try:
                return reread(raw, shape, integers)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                raise InvalidInput("the body has a wrong shape", [str(error)]) from error
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            value = read_json(raw)
        clean(value)  # refuses what is not JSON anywhere in it, NaN for one
        try:
            return msgspec.convert(value, shape)
        except msgspec.ValidationError as error:
            raise InvalidInput("the body has a wrong shape", [str(error)]) from error

    return decode
