"""Places and their projects: a repository or a folder belongs to one project of a team, for good."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from sqlalchemy import bindparam, select

from onlooker.domain.errors import NotFound
from onlooker.domain.models import Project, Scope
from onlooker.storage import accounts, dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import project_places, server_sessions

_PROJECT_OF_PLACE = select(project_places.c.project_id).where(
    project_places.c.team_id == bindparam("of_team"), project_places.c.place_hash == bindparam("of_place")
)
_PLACE_OF_PROJECT = select(project_places.c.place_hash).where(
    project_places.c.team_id == bindparam("of_team"), project_places.c.project_id == bindparam("of_project")
)
_SCOPE_OF_SESSION = (
    select(server_sessions.c.project_id)
    .where(
        server_sessions.c.content_session_id == bindparam("named"), server_sessions.c.team_id == bindparam("of_team")
    )
    .order_by(server_sessions.c.created_at.desc())
    .limit(1)
)


def find_place(conn: Connection, team_id: str, place_key: str) -> Scope | None:
    """The project that a place belongs to; None for a place that was never seen."""
    found = conn.execute(_PROJECT_OF_PLACE, {"of_team": team_id, "of_place": place_key}).scalar_one_or_none()
    return None if found is None else Scope(team_id, found)


def open_place(conn: Connection, place_key: str, wanted: Project) -> Scope:
    """Give a new place a project: the one of the wanted name if no other place has it, else a new one.

    Names are counted up where they are taken: `website`, `website-2`. A place that was given one meanwhile keeps it.
    """
    dialect.lock_keys(conn, [f"places:{wanted.team_id}"])
    known = find_place(conn, wanted.team_id, place_key)
    if known is not None:
        return known
    for name in _names(wanted.name):
        project, is_new = accounts.open_project(conn, replace(wanted, name=name))
        taken = {"of_team": project.team_id, "of_project": project.id}
        if is_new or conn.execute(_PLACE_OF_PROJECT, taken).first() is None:
            row = (project.team_id, project.id, place_key, wanted.created_at)
            dialect.insert_new(conn, project_places, ("team_id", "project_id", "place_hash", "created_at"), [row])
            return Scope(project.team_id, project.id)
    raise NotFound("unreachable: names do not end")


def scope_of_session(conn: Connection, team_id: str, content_session_id: str) -> Scope | None:
    """The project that has the agent's session, the latest where several have; None where none has."""
    values = {"of_team": team_id, "named": content_session_id}
    found = conn.execute(_SCOPE_OF_SESSION, values).scalar_one_or_none()
    return None if found is None else Scope(team_id, found)


def _names(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield f"{name}-{number}"
