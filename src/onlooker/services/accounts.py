"""Who asks and what they may reach: keys, principals, projects."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from onlooker.domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotFound,
    StorageUnavailable,
    Unauthenticated,
)
from onlooker.domain.ids import may_exist
from onlooker.domain.keys import KEY_PREFIX, hash_key
from onlooker.domain.models import ApiKey, KeyScope, Principal, Project, Scope, Team
from onlooker.domain.payloads import clean
from onlooker.domain.places import NAMED, UNKNOWN, Place
from onlooker.storage import accounts, places
from onlooker.storage.database import Connection, Database

T = TypeVar("T")

KEY_BYTES = 32
KEY_LENGTH = len(KEY_PREFIX) + 43
"""43 base64url characters are 32 bytes."""

REMEMBERED_S = 2.5
"""How long a principal is believed without asking again: a revoked key is refused within 3 s."""

MOST_REMEMBERED = 4096
"""Keys, and projects, that are remembered; the oldest make room."""

NOTE_USE_EVERY_MS = 60_000
NOTE_USE_WITHIN_S = 0.5
"""A database that is busy writing does not hold up a reader for this."""

LONGEST_NAME = 200
LOCAL_TEAM = "local"
DEFAULT_PROJECT = "default"
KEY_FILE = "key"
NOT_REACHED = "this key does not reach that project"
NOT_ACCEPTED = "this key is not accepted"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `key` is shown now and never again: only its hash is stored."""

    key: str
    stored: ApiKey


@dataclass(frozen=True, slots=True)
class Local:
    """What a person on their own machine has without doing anything."""

    principal: Principal
    team: Team
    project: Project
    key: str


class Accounts:
    """Keys and projects. `now_ms` is the wall clock, for dates; what is remembered ages by `steady_s`."""

    def __init__(
        self,
        database: Database,
        *,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
        steady_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._new_id = new_id
        self._now_ms = now_ms
        self._steady_s = steady_s
        self._keys: _Remembered[tuple[ApiKey, Principal, float]] = _Remembered()
        self._projects: _Remembered[Scope] = _Remembered()
        self._places: _Remembered[Scope] = _Remembered()

    async def authenticate(self, key: str | None) -> Principal:
        """Who the key belongs to, believed for `REMEMBERED_S` without asking the database.

        Raises `Unauthenticated` without a key, and `Forbidden` for one that is unknown, expired or revoked.
        """
        if not key:
            raise Unauthenticated("no key was given: send it as `Authorization: Bearer KEY`")
        if not may_exist(key):
            raise Forbidden(NOT_ACCEPTED)
        hashed = hash_key(key)
        known = self._keys.get(hashed)
        if known is None or self._steady_s() >= known[2]:
            known = await self._look_up(hashed)
        stored, principal, _ = known
        if stored.expires_at is not None and stored.expires_at <= self._now_ms():
            raise Forbidden(NOT_ACCEPTED)
        return principal

    async def resolve_project(self, principal: Principal, project_id: str) -> Scope:
        """The scope of a project that a body names. Raises `Forbidden`, the same for another team's and for none."""
        if principal.project_id is not None:
            if project_id != principal.project_id:
                raise Forbidden(NOT_REACHED)
            return Scope(principal.team_id, project_id)
        try:
            return await self._project(principal.team_id, project_id)
        except NotFound:
            raise Forbidden(NOT_REACHED) from None

    async def project_in_path(self, principal: Principal, project_id: str) -> Scope:
        """The scope of a project that a path names. Raises `NotFound` for one that the principal does not reach."""
        if principal.project_id not in {None, project_id}:
            raise NotFound("no such project")
        return await self._project(principal.team_id, project_id)

    async def scope_of(self, principal: Principal, what: str, row_id: str) -> Scope:
        """The scope in which to look for an event, session, observation or job that a path names.

        A key that is bound to a project looks in that one, whatever is there. Raises `NotFound`.
        """
        if principal.project_id is not None:
            return Scope(principal.team_id, principal.project_id)
        if not may_exist(row_id):
            raise NotFound(f"no such {what}")
        team_id = principal.team_id
        project_id = await self._database.read(lambda conn: accounts.project_of(conn, team_id, what, row_id))
        return Scope(team_id, project_id)

    async def project_at(self, principal: Principal, place: Place, content_session_id: str | None = None) -> Scope:
        """The project of an agent: the key's own, else the one that has its session, else its place's, made if new.

        A session stays in the project that it began in, wherever the agent goes.
        """
        if principal.project_id is not None:
            return Scope(principal.team_id, principal.project_id)
        session = None if content_session_id is None else f"{principal.team_id}/session/{content_session_id}"
        known = None if session is None else self._places.get(session)
        if known is None:
            known = await self._find_place(principal.team_id, place, content_session_id)
            if session is not None:
                self._places.put(session, known)
        return known

    async def _find_place(self, team_id: str, place: Place, content_session_id: str | None) -> Scope:
        if content_session_id is not None and may_exist(content_session_id):
            wanted = content_session_id
            found = await self._database.read(lambda conn: places.scope_of_session(conn, team_id, wanted))
            if found is not None:
                return found
        name = f"{team_id}/{place.identity}"
        known = self._places.get(name)
        return known or self._places.put(name, await self._open_place(team_id, place))

    async def project_seen_at(self, principal: Principal, place: Place) -> Scope | None:
        """The project that `project_at` finds for a place, None where it would make one."""
        if principal.project_id is not None:
            return Scope(principal.team_id, principal.project_id)
        return await self._database.read(lambda conn: _find_place(conn, principal.team_id, place))

    async def _open_place(self, team_id: str, place: Place) -> Scope:
        found = await self._database.read(lambda conn: _find_place(conn, team_id, place))
        if found is not None:
            return found
        wanted = Project(self._new_id(), team_id, _name_of(place), self._now_ms())
        if not place.identity.startswith(NAMED):
            return await self._database.tx(lambda conn: places.open_place(conn, place.key, wanted))
        project, _ = await self._database.tx(lambda conn: accounts.open_project(conn, wanted))
        return Scope(project.team_id, project.id)

    async def create_project(self, principal: Principal, name: str) -> tuple[Project, bool]:
        """Make a project in the principal's team, or find the one of that name; True when it is new.

        Raises `Forbidden` for a principal that is no admin of the whole team.
        """
        _require_admin(principal)
        if principal.project_id is not None:
            raise Forbidden("this key is bound to one project")
        name = _checked_name(name)
        wanted = Project(self._new_id(), principal.team_id, name, self._now_ms())

        def work(conn: Connection) -> tuple[Project, bool]:
            project, is_new = accounts.open_project(conn, wanted)
            if is_new:
                accounts.audit(
                    conn, project.team_id, project.id, principal.key_id, "project.created", "project", project.id,
                    wanted.created_at,
                )  # fmt: skip
            return project, is_new

        return await self._database.tx(work)

    async def find_project(self, principal: Principal, name: str) -> Project:
        """A project that the principal reaches, by its name or else its id. Raises `NotFound`."""
        reached = await self.list_projects(principal)
        found = {project.id: project for project in reached} | {project.name: project for project in reached}
        if name not in found:
            raise NotFound(f"there is no project with the name or id {name!r}")
        return found[name]

    async def team_of(self, principal: Principal) -> Team:
        """The principal's team. Raises `NotFound`."""
        team = await self._database.read(lambda conn: accounts.find_team(conn, principal.team_id))
        if team is None:
            raise NotFound("there is no such team")
        return team

    async def list_projects(self, principal: Principal) -> list[Project]:
        """The projects that the principal reaches, by name."""
        found = await self._database.read(lambda conn: accounts.list_projects(conn, principal.team_id))
        return [project for project in found if principal.project_id in {None, project.id}]

    async def create_key(
        self,
        principal: Principal,
        *,
        scopes: frozenset[KeyScope],
        project_id: str | None = None,
        name: str = "",
        expires_at: int | None = None,
    ) -> NewKey:
        """Make a key for the principal's team, or one project of it.

        Raises `Forbidden` for a principal that is no admin, or that is bound to another project; `InvalidInput` for no
        scope at all.
        """
        _require_admin(principal)
        if not scopes:
            raise InvalidInput("a key needs a scope: read, write or admin")
        if principal.project_id is not None and project_id != principal.project_id:
            raise Forbidden(NOT_REACHED)
        if project_id is not None:
            await self.resolve_project(principal, project_id)
        key = new_key()
        stored = ApiKey(
            id=self._new_id(),
            team_id=principal.team_id,
            project_id=project_id,
            name=_checked_name(name) if name else "",
            scopes=scopes,
            created_at=self._now_ms(),
            expires_at=expires_at,
        )

        def work(conn: Connection) -> None:
            accounts.add_key(conn, stored, hash_key(key))
            accounts.audit(
                conn, stored.team_id, project_id, principal.key_id, "key.created", "key", stored.id, stored.created_at
            )

        await self._database.tx(work)
        return NewKey(key, stored)

    async def list_keys(self, principal: Principal) -> list[ApiKey]:
        """The keys that the principal may manage, revoked ones included. Raises `Forbidden` for no admin."""
        _require_admin(principal)
        found = await self._database.read(lambda conn: accounts.list_keys(conn, principal.team_id))
        return [key for key in found if principal.project_id in {None, key.project_id}]

    async def revoke_key(self, principal: Principal, key_id: str) -> ApiKey:
        """Refuse a key from now on, here at once and in other processes within 3 s; again: unchanged.

        Raises `NotFound` for a key that the principal may not manage, `Forbidden` for a principal that is no admin.
        """
        if key_id not in {key.id for key in await self.list_keys(principal)}:
            raise NotFound("no such key")
        now = self._now_ms()

        def work(conn: Connection) -> ApiKey:
            key = accounts.revoke_key(conn, principal.team_id, key_id, now)
            accounts.audit(conn, principal.team_id, key.project_id, principal.key_id, "key.revoked", "key", key_id, now)
            return key

        revoked = await self._database.tx(work)
        self._keys.clear()
        return revoked

    async def ensure_local(self, home: Path) -> Local:
        """The team, project and key of this home, made at first use; the key is in `<home>/key`, mode 0600.

        Safe when two processes start at once: the first to link the file into place decides what the key is, and both
        store its hash. Raises `Misconfigured` when the file cannot be written, or holds no key.
        """
        key = read_or_make_key(home / KEY_FILE)
        now = self._now_ms()
        team_id, project_id, key_id = self._new_id(), self._new_id(), self._new_id()

        def work(conn: Connection) -> Local:
            team, _ = accounts.open_team(conn, Team(team_id, LOCAL_TEAM, now))
            project, _ = accounts.open_project(conn, Project(project_id, team.id, DEFAULT_PROJECT, now))
            wanted = ApiKey(key_id, team.id, None, LOCAL_TEAM, frozenset({KeyScope.ADMIN}), now)
            if accounts.add_key(conn, wanted, hash_key(key)):
                accounts.audit(conn, team.id, None, None, "key.created", "key", wanted.id, now)
            stored = accounts.find_key(conn, hash_key(key))
            if stored is None:
                raise Conflict("the key was removed while it was made")
            return Local(_principal(stored), team, project, key)

        found = await self._database.read(lambda conn: _find_local(conn, key))
        return await self._database.tx(work) if found is None else found

    async def _look_up(self, hashed: str) -> tuple[ApiKey, Principal, float]:
        asked_at = self._steady_s()
        stored = await self._database.read(lambda conn: accounts.find_key(conn, hashed))
        if stored is None or stored.revoked_at is not None:
            self._keys.drop(hashed)
            raise Forbidden(NOT_ACCEPTED)
        found = self._keys.put(hashed, (stored, _principal(stored), asked_at + REMEMBERED_S))
        await self._note_use(stored)
        return found

    async def _note_use(self, key: ApiKey) -> None:
        """Once a minute, and only where the database has time for it."""
        now = self._now_ms()
        if now - (key.last_used_at or 0) < NOTE_USE_EVERY_MS:
            return
        with contextlib.suppress(StorageUnavailable, TimeoutError):
            async with asyncio.timeout(NOTE_USE_WITHIN_S):
                await self._database.tx(lambda conn: accounts.note_use(conn, key.id, now), durable=False)

    async def _project(self, team_id: str, project_id: str) -> Scope:
        known = self._projects.get(f"{team_id}/{project_id}")
        if known is None:
            if not may_exist(project_id):
                raise NotFound("no such project")
            await self._database.read(lambda conn: accounts.get_project(conn, team_id, project_id))
            known = self._projects.put(f"{team_id}/{project_id}", Scope(team_id, project_id))
        return known


class _Remembered(Generic[T]):
    """The last `MOST_REMEMBERED` answers."""

    def __init__(self) -> None:
        self._answers: dict[str, T] = {}

    def get(self, name: str) -> T | None:
        return self._answers.get(name)

    def put(self, name: str, answer: T) -> T:
        self._answers.pop(name, None)
        while len(self._answers) >= MOST_REMEMBERED:
            del self._answers[next(iter(self._answers))]
        self._answers[name] = answer
        return answer

    def drop(self, name: str) -> None:
        self._answers.pop(name, None)

    def clear(self) -> None:
        self._answers.clear()


def new_key() -> str:
    """A new key: the prefix and 32 random bytes in base64url."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def read_or_make_key(path: Path) -> str:
    """The key in the file; where there is none, a new one that is put there, for its owner only.

    The file appears with its whole content or not at all. Raises `Misconfigured`.
    """
    try:
        if not path.exists():
            _make_key_file(path)
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured([f"the key file {path} cannot be used: {error}"]) from error
    if not key.startswith(KEY_PREFIX) or len(key) != KEY_LENGTH:
        raise Misconfigured([f"the file {path} holds no key: remove it to have a new one made"])
    return key


def _make_key_file(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(new_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # Whoever comes second takes the key that is there.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _find_local(conn: Connection, key: str) -> Local | None:
    """What is stored for a local key already; None where something is missing."""
    stored = accounts.find_key(conn, hash_key(key))
    if stored is None:
        return None
    team = accounts.find_team(conn, stored.team_id)
    project = accounts.find_project(conn, stored.team_id, DEFAULT_PROJECT)
    return Local(_principal(stored), team, project, key) if team and project else None


def _name_of(place: Place) -> str:
    return " ".join(clean(place.name).value.split())[:LONGEST_NAME] or UNKNOWN


def _find_place(conn: Connection, team_id: str, place: Place) -> Scope | None:
    if not place.identity.startswith(NAMED):
        return places.find_place(conn, team_id, place.key)
    project = accounts.find_project(conn, team_id, _name_of(place))
    return None if project is None else Scope(team_id, project.id)


def _principal(key: ApiKey) -> Principal:
    return Principal(key.team_id, key.project_id, key.id, key.scopes)


def _require_admin(principal: Principal) -> None:
    if not principal.may(KeyScope.ADMIN):
        raise Forbidden("this needs a key with the scope admin")


def _checked_name(name: str) -> str:
    name = " ".join(clean(name).value.split())
    if not 0 < len(name) <= LONGEST_NAME:
        raise InvalidInput(f"a name has 1 to {LONGEST_NAME} characters")
    return name
