"""The ASGI application: the table of operations as routes, every error as an answer.

It speaks ASGI itself: of a request's time a framework's routing, middleware and response objects took a tenth.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from onlooker.domain.errors import NotFound, OnlookerError
from onlooker.http import (
    context,
    events,
    feedback,
    forget,
    health,
    hooks,
    jobs,
    observations,
    openapi,
    page,
    recall,
    retention,
    sessions,
    usage,
)
from onlooker.http.answer import Answer, Problem, answer_json, answer_problem, send_answer
from onlooker.http.auth import Guard
from onlooker.http.metrics import Metrics, Requests
from onlooker.http.operation import Endpoint, Operation, Services
from onlooker.http.request import Receive, Request, RequestIds, Scope, Send
from onlooker.telemetry import log, place_of, request_of_task

OPERATIONS: tuple[Operation, ...] = (
    *health.OPERATIONS,
    *events.OPERATIONS,
    *sessions.OPERATIONS,
    *observations.OPERATIONS,
    *recall.OPERATIONS,
    *forget.OPERATIONS,
    *retention.OPERATIONS,
    *feedback.OPERATIONS,
    *context.OPERATIONS,
    *jobs.OPERATIONS,
    *usage.OPERATIONS,
    *hooks.OPERATIONS,
)

PAGE_POLICY = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)


METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

Handler = Callable[[Request], Awaitable[Answer | None]]
"""Answers a request, or raises; None when there is nobody left to answer."""


def build_asgi(services: Services) -> "Site":
    """The application over these services; opening and closing them is the caller's."""
    guard = Guard(services.accounts, services.settings)
    description = answer_json(openapi.describe(OPERATIONS))
    shown = Answer(200, page.render(OPERATIONS).encode(), PAGE_POLICY, b"text/html; charset=utf-8")

    async def show_description(_request: Request) -> Answer:
        return description

    async def show_page(_request: Request) -> Answer:
        return shown

    site = Site()
    site.add("GET", "/openapi.json", show_description)
    site.add("GET", "/docs", show_page)
    site.add("GET", "/metrics", Metrics(services, guard, site.answered).answer)
    for operation in OPERATIONS:
        site.add(operation.method, operation.path, Endpoint(operation, services, guard).answer)
    return site


class Site:
    """Routes, and what is answered where none fits or a handler raises."""

    def __init__(self) -> None:
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._request_ids = RequestIds()
        self.answered: Requests = Counter()
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Handler]]] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Route a method of a path; `{name}` stands for one part of it. GET also answers HEAD."""
        if "{" in path:
            pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
            handlers = self._patterns.setdefault(path, (pattern, {}))[1]
        else:
            handlers = self._fixed.setdefault(path, {})
        handlers[method] = handler
        if method == "GET":
            handlers["HEAD"] = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"this application does not speak {scope['type']}")
        request = Request(scope, receive)
        request_id = self._request_ids.of(request)
        # A request has a task, and so a context, of its own: nothing has to be unbound.
        request_of_task.set(request_id.decode())
        try:
            answer = await self._answer(request)
        except OnlookerError as error:
            answer = answer_problem(error)
        except Exception as error:  # noqa: BLE001 - the last resort: the caller gets an answer, the log the place
            log.error("defect", error=type(error).__name__, path=scope["path"], where=place_of(error))
            message = f"something broke here; quote request {request_id.decode()}"
            answer = answer_json(Problem("InternalError", message), 500)
        if answer is not None:
            # Whatever else a client sends as its method is counted as one, so that nobody makes the table grow.
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.answered[method, answer.status] += 1
            await send_answer(send, answer, request_id)

    async def _answer(self, request: Request) -> Answer | None:
        handlers = self._handlers_of(request)
        handler = handlers.get(request.scope["method"])
        if handler is None:
            return _refuse_method(sorted(handlers))
        return await handler(request)

    def _handlers_of(self, request: Request) -> dict[str, Handler]:
        path = request.scope["path"]
        if (handlers := self._fixed.get(path)) is not None:
            return handlers
        for pattern, handlers in self._patterns.values():
            if (match := pattern.fullmatch(path)) is not None:
                request.path = match.groupdict()
                return handlers
        raise NotFound("no such path")


def _refuse_method(allowed: Sequence[str]) -> Answer:
    allow = ", ".join(allowed)
    problem = Problem("MethodNotAllowed", f"this path takes {allow}")
    return answer_json(problem, 405, ((b"allow", allow.encode()),))
