"""The parts, open in this process as whoever owns the home: for commands that manage data."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from onlooker.app import App, find_place, open_app
from onlooker.domain.errors import NotFound
from onlooker.domain.models import Principal, Project, Scope
from onlooker.hooks import client
from onlooker.settings import LogLevel, load_settings
from onlooker.telemetry import set_up_logging

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LocalApp:
    """The parts, and the principal of the home's own key, an admin of its team."""

    app: App
    principal: Principal

    async def projects(self, name: str | None) -> list[Project]:
        """The project of that name or id, else all of the team. Raises `NotFound`."""
        if name is not None:
            return [await self.app.accounts.find_project(self.principal, name)]
        return await self.app.accounts.list_projects(self.principal)

    async def project_here(self) -> Scope | None:
        """The project of the folder that this process was started in, as hooks know it; None where it has none yet."""
        place = find_place(client.find_folder(), self.app.settings)
        return None if place is None else await self.app.accounts.project_seen_at(self.principal, place)

    async def session_id(self, places: Sequence[Project], given: str) -> str:
        """The id of a session of these projects, by that or by the agent's own for it. Raises `NotFound`."""
        for place in places:
            if session := await self.app.recall.find_session(scope_of(place), given):
                return session.id
        raise NotFound("no such session")


def scope_of(project: Project) -> Scope:
    """The scope of a project."""
    return Scope(project.team_id, project.id)


@asynccontextmanager
async def open_local() -> AsyncIterator[LocalApp]:
    """Open the parts without a worker; team, project and key are made at first use."""
    # What goes wrong ends as the command's one line.
    set_up_logging(LogLevel.ERROR)
    settings = load_settings()
    async with open_app(settings) as app:
        local = await app.accounts.ensure_local(settings.home)
        yield LocalApp(app, local.principal)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command to its end."""
    return asyncio.run(main)
