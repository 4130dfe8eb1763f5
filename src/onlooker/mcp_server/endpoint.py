"""Where the protocol is served over HTTP: `POST /v1/mcp`, with the keys and the limits of every other route."""

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, cast

from onlooker.domain.models import KeyScope
from onlooker.http.answer import Answer
from onlooker.http.asgi import Site, build_asgi
from onlooker.http.auth import Guard
from onlooker.http.operation import Services
from onlooker.http.request import Request

if TYPE_CHECKING:
    from onlooker.mcp_server.server import McpServer

PATH = "/v1/mcp"


class McpEndpoint:
    """Asks for the key, then hands the request on. The SDK is imported by the first one, beside the event loop."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._guard = Guard(services.accounts, services.settings)
        self._server: McpServer | None = None

    async def answer(self, request: Request) -> Answer:
        """Answer one request. Raises `Unauthenticated` and `Forbidden`."""
        principal = await self._guard.admit(request, KeyScope.READ)
        if self._server is None:
            module = await asyncio.to_thread(import_module, "onlooker.mcp_server.server")
            self._server = cast("McpServer", module.McpServer(self._services))
        return await self._server.answer(request, principal)


def build_site(services: Services) -> Site:
    """The whole application: every HTTP operation, and the protocol."""
    site = build_asgi(services)
    site.add("POST", PATH, McpEndpoint(services).answer)
    return site
