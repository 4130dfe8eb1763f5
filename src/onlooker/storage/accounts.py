"""Teams, their projects, members and keys, and the audit log."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, bindparam, select, update

from onlooker.domain.batching import GenerationPolicy
from onlooker.domain.errors import NotFound
from onlooker.domain.models import ApiKey, KeyScope, Project, Scope, Team
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import (
    agent_events,
    api_keys,
    audit_log,
    observation_generation_jobs,
    observations,
    projects,
    server_sessions,
    team_members,
    teams,
)

TEAM_COLUMNS = [teams.c[f.name] for f in fields(Team)]
PROJECT_COLUMNS = [projects.c[f.name] for f in fields(Project)]
KEY_COLUMNS = [api_keys.c[f.name] for f in fields(ApiKey)]

OWNED: dict[str, Table] = {
    "event": agent_events,
    "session": server_sessions,
    "observation": observations,
    "job": observation_generation_jobs,
}
"""What has an id that a client may ask for, by its name."""

_TEAM = select(*TEAM_COLUMNS).where(teams.c.id == bindparam("of_team"))
_TEAM_BY_NAME = select(*TEAM_COLUMNS).where(teams.c.name == bindparam("named"))
_PROJECT_BY_NAME = select(*PROJECT_COLUMNS).where(
    projects.c.team_id == bindparam("of_team"), projects.c.name == bindparam("named")
)
_PROJECT = select(*PROJECT_COLUMNS).where(
    projects.c.team_id == bindparam("of_team"), projects.c.id == bindparam("of_project")
)
_PROJECTS = select(*PROJECT_COLUMNS).where(projects.c.team_id == bindparam("of_team")).order_by(projects.c.name)
_KEY_BY_HASH = select(*KEY_COLUMNS).where(api_keys.c.key_hash == bindparam("hashed"))
_KEYS = (
    select(*KEY_COLUMNS)
    .where(api_keys.c.team_id == bindparam("of_team"))
    .order_by(api_keys.c.created_at, api_keys.c.id)
)
_MEMBERS = (
    select(team_members.c.member, team_members.c.role)
    .where(team_members.c.team_id == bindparam("of_team"))
    .order_by(team_members.c.member)
)
_AUDIT = (
    select(audit_log)
    .where(audit_log.c.team_id == bindparam("of_team"))
    .order_by(audit_log.c.created_at.desc(), audit_log.c.id.desc())
    .limit(bindparam("most"))
)


def open_team(conn: Connection, new: Team) -> tuple[Team, bool]:
    """Make a team, or find the one of that name; True when it is new."""
    made = dialect.insert_new(conn, teams, ("id", "name", "created_at"), [(new.id, new.name, new.created_at)])
    return Team(*conn.execute(_TEAM_BY_NAME, {"named": new.name}).one()), made == 1


def find_team(conn: Connection, team_id: str) -> Team | None:
    """A team by its id."""
    row = conn.execute(_TEAM, {"of_team": team_id}).one_or_none()
    return None if row is None else Team(*row)


def add_member(conn: Connection, team_id: str, member: str, *, role: str, now: int) -> bool:
    """Add somebody to a team; False when they are in it, with whatever role."""
    names = ("team_id", "member", "role", "created_at")
    return dialect.insert_new(conn, team_members, names, [(team_id, member, role, now)]) == 1


def list_members(conn: Connection, team_id: str) -> list[tuple[str, str]]:
    """Who is in a team, and as what."""
    return [(row.member, row.role) for row in conn.execute(_MEMBERS, {"of_team": team_id})]


def open_project(conn: Connection, new: Project) -> tuple[Project, bool]:
    """Make a project, or find the team's one of that name; True when it is new."""
    made = dialect.insert_new(
        conn,
        projects,
        ("id", "team_id", "name", "created_at"),
        [(new.id, new.team_id, new.name, new.created_at)],
    )
    row = conn.execute(_PROJECT_BY_NAME, {"of_team": new.team_id, "named": new.name}).one()
    return Project(*row), made == 1


def find_project(conn: Connection, team_id: str, name: str) -> Project | None:
    """A team's project by its name."""
    row = conn.execute(_PROJECT_BY_NAME, {"of_team": team_id, "named": name}).one_or_none()
    return None if row is None else Project(*row)


def get_project(conn: Connection, team_id: str, project_id: str) -> Project:
    """A team's project. Raises `NotFound`, for another team's too."""
    row = conn.execute(_PROJECT, {"of_team": team_id, "of_project": project_id}).one_or_none()
    if row is None:
        raise NotFound("no such project")
    return Project(*row)


def list_projects(conn: Connection, team_id: str) -> list[Project]:
    """A team's projects, by name."""
    return [Project(*row) for row in conn.execute(_PROJECTS, {"of_team": team_id})]


def project_name(conn: Connection, scope: Scope) -> str:
    """The name of a project. Raises `NotFound`."""
    return get_project(conn, scope.team_id, scope.project_id).name


def policy_of(conn: Connection, scope: Scope) -> GenerationPolicy | None:
    """The policy that a project has of its own; None where the settings decide."""
    policy = conn.execute(select(projects.c.generation_policy).where(*_of(scope))).scalar_one_or_none()
    return None if policy is None else GenerationPolicy(policy)


def set_policy(conn: Connection, scope: Scope, policy: GenerationPolicy | None) -> None:
    """Give a project a policy of its own, or with None that of the settings."""
    conn.execute(update(projects).where(*_of(scope)).values(generation_policy=policy))


def _of(scope: Scope) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return projects.c.id == scope.project_id, projects.c.team_id == scope.team_id


def project_of(conn: Connection, team_id: str, what: str, row_id: str) -> str:
    """The project of a team's event, session, observation or job (`OWNED`). Raises `NotFound`, for another team's too.

    For a key that reaches a whole team: what it asks for by id is in one of the team's projects.
    """
    table = OWNED[what]
    found = conn.execute(select(table.c.project_id).where(table.c.id == row_id, table.c.team_id == team_id)).first()
    if found is None:
        raise NotFound(f"no such {what}")
    return str(found[0])


def add_key(conn: Connection, key: ApiKey, key_hash: str) -> bool:
    """Store a key by its hash; False when that hash is known, and then nothing is changed."""
    row = (
        key.id,
        key.team_id,
        key.project_id,
        key.name,
        key_hash,
        " ".join(sorted(key.scopes)),
        key.created_at,
        key.expires_at,
    )
    names = ("id", "team_id", "project_id", "name", "key_hash", "scopes", "created_at", "expires_at")
    return dialect.insert_new(conn, api_keys, names, [row]) == 1


def find_key(conn: Connection, key_hash: str) -> ApiKey | None:
    """The key with this hash, whatever its state; None where there is none."""
    row = conn.execute(_KEY_BY_HASH, {"hashed": key_hash}).one_or_none()
    return None if row is None else _read_key(row)


def list_keys(conn: Connection, team_id: str) -> list[ApiKey]:
    """A team's keys, the oldest first, revoked ones included."""
    return [_read_key(row) for row in conn.execute(_KEYS, {"of_team": team_id})]


def revoke_key(conn: Connection, team_id: str, key_id: str, now: int) -> ApiKey:
    """Revoke a team's key for good; again: unchanged. Raises `NotFound`, for another team's too."""
    of_key = api_keys.c.id == key_id, api_keys.c.team_id == team_id
    conn.execute(update(api_keys).where(*of_key, api_keys.c.revoked_at.is_(None)).values(revoked_at=now))
    row = conn.execute(select(*KEY_COLUMNS).where(*of_key)).one_or_none()
    if row is None:
        raise NotFound("no such key")
    return _read_key(row)


def note_use(conn: Connection, key_id: str, now: int) -> None:
    """Remember when a key was last used."""
    conn.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=now))


def audit(
    conn: Connection,
    team_id: str,
    project_id: str | None,
    api_key_id: str | None,
    action: str,
    subject_type: str,
    subject_id: str | None,
    now: int,
    *,
    detail: str = "",
) -> None:
    """Write down who did what to which thing; never any content of it."""
    audit_all(conn, [(team_id, project_id, api_key_id, action, subject_type, subject_id, detail, now)])


def audit_all(conn: Connection, entries: Sequence[tuple[str | int | None, ...]]) -> None:
    """Write down many, each as `audit` is given it."""
    dialect.insert_new(
        conn,
        audit_log,
        ("team_id", "project_id", "api_key_id", "action", "subject_type", "subject_id", "detail", "created_at"),
        entries,
    )


def list_audit(conn: Connection, team_id: str, *, limit: int = 100) -> Sequence[Row[Any]]:
    """A team's audit log, the latest first."""
    return conn.execute(_AUDIT, {"of_team": team_id, "most": limit}).all()


def _read_key(row: Row[Any]) -> ApiKey:
    values = row._asdict()
    return ApiKey(**{**values, "scopes": frozenset(map(KeyScope, values["scopes"].split()))})
