"""A real server on a port of its own, with two teams, and clients that carry their keys."""

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from onlooker.app import App, open_app, running
from onlooker.domain.models import KeyScope, Principal, Project, Team
from onlooker.host import new_id
from onlooker.http.server import Limits, server_config
from onlooker.mcp_server.endpoint import build_site
from onlooker.settings import Settings
from onlooker.storage import accounts
from onlooker.storage.database import Connection
from waiting import wait_until

SECOND = 1_000
NOW = 1_790_000_000_000


@dataclass(frozen=True)
class Tenant:
    """A team with a project, and an admin's key for both."""

    principal: Principal
    project: Project
    key: str

    @property
    def team_id(self) -> str:
        return self.principal.team_id

    @property
    def project_id(self) -> str:
        return self.project.id


@dataclass
class Site:
    """A server that runs in this process, and what stands behind it."""

    app: App
    url: str
    server: uvicorn.Server
    ours: Tenant
    theirs: Tenant

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def client(self, key: str | None = None, **given: Any) -> httpx.AsyncClient:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False, **given)

    async def key(self, *scopes: KeyScope, project_id: str | None = None, expires_at: int | None = None) -> str:
        made = await self.app.accounts.create_key(
            self.ours.principal, scopes=frozenset(scopes), project_id=project_id, expires_at=expires_at
        )
        return made.key

    def event(self, number: int = 0, **given: Any) -> dict[str, Any]:
        """A tool use of our project; another number is another event."""
        return {
            "projectId": self.ours.project_id,
            "sourceType": "hook",
            "eventType": "tool_use",
            "occurredAtEpoch": NOW + number * SECOND,
            "platformSource": "claude-code",
            "contentSessionId": "agent-session",
            "payload": {
                "tool_name": "Bash",
                "tool_input": {"command": f"pytest tests/test_tally_{number}.py"},
                "tool_response": {"stdout": f"{number + 1} passed in 0.1s", "exit_code": 0},
            },
            **given,
        }


class _Server(uvicorn.Server):
    """Uvicorn inside a test, which keeps its own signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def site_with(
    settings: Settings, *, with_worker: bool = False, limits: Limits | None = None
) -> AsyncIterator[Site]:
    async with open_app(settings) as app, running(app, with_worker=with_worker):
        ours, theirs = await new_tenant(app), await new_tenant(app)
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
            # As `onlooker serve` has it: an answer of two writes would wait for an acknowledgement.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            server = _Server(server_config(build_site(app), limits))
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            await wait_until(lambda: server.started)
            try:
                yield Site(app, url, server, ours, theirs)
            finally:
                server.should_exit = True
                await serving


async def new_tenant(app: App) -> Tenant:
    """A team of its own; the service makes its project and key, as it does for everybody."""
    team = Team(new_id(), f"team {new_id()}", NOW)
    await app.database.tx(lambda conn: _open_team(conn, team))
    admin = Principal(team.id, None, None, frozenset({KeyScope.ADMIN}))
    project, _ = await app.accounts.create_project(admin, "tally")
    made = await app.accounts.create_key(admin, scopes=frozenset({KeyScope.ADMIN}))
    return Tenant(dataclasses.replace(admin, key_id=made.stored.id), project, made.key)


def _open_team(conn: Connection, team: Team) -> None:
    accounts.open_team(conn, team)
