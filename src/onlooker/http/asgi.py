"""The ASGI application: the table of operations as routes, and what answers where none fits."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from onlooker.http import events, health, hooks, jobs, observations, openapi, sessions
from onlooker.http.auth import Guard
from onlooker.http.operation import Endpoint, Operation, Problem, Services, respond

OPERATIONS: tuple[Operation, ...] = (
    *health.OPERATIONS,
    *events.OPERATIONS,
    *sessions.OPERATIONS,
    *observations.OPERATIONS,
    *jobs.OPERATIONS,
    *hooks.OPERATIONS,
)

NAMES = {404: "NotFound", 405: "MethodNotAllowed"}


def build_asgi(services: Services) -> Starlette:
    """The application over these services; opening and closing them is the caller's."""
    guard = Guard(services.accounts, services.settings)
    description = openapi.describe(OPERATIONS)
    page = openapi.render(OPERATIONS)

    async def show_description(_request: Request) -> Response:
        return respond(description, 200)

    async def show_page(_request: Request) -> Response:
        return HTMLResponse(page, headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"})

    routes: list[BaseRoute] = [
        Route("/openapi.json", show_description, methods=["GET"]),
        Route("/docs", show_page, methods=["GET"]),
    ]
    for path in dict.fromkeys(operation.path for operation in OPERATIONS):
        by_method = {
            operation.method: Endpoint(operation, services, guard) for operation in OPERATIONS if operation.path == path
        }
        routes.append(Route(path, ByMethod(by_method)))
    return Starlette(routes=routes, exception_handlers={HTTPException: _answer_exception})


class ByMethod:
    """One path's operations."""

    def __init__(self, operations: dict[str, Endpoint]) -> None:
        self._operations = operations
        self._allow = ", ".join(sorted(operations))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to its method's operation, or say which methods there are."""
        endpoint = self._operations.get(scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        problem = Problem(NAMES[405], f"this path takes {self._allow}")
        await respond(problem, 405, {"allow": self._allow})(scope, receive, send)


async def _answer_exception(_request: Request, error: Exception) -> Response:
    """What Starlette itself refuses, in our shape."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return respond(
        Problem(NAMES.get(status, "Error"), "no such path" if status == 404 else "not allowed"), status, headers
    )
