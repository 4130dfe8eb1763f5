"""Teams, projects, members, keys and the audit log, on both databases."""

import asyncio

import pytest

from observed import new_event, new_scope, store
from onlooker.domain.errors import NotFound
from onlooker.domain.models import ApiKey, KeyScope, Project, Team
from onlooker.host import new_id
from onlooker.storage import accounts
from onlooker.storage.database import Connection, Database

CONCURRENT = 32
NOW = 1_790_000_000_000


async def new_team(database: Database, name: str) -> Team:
    team, _ = await database.tx(lambda conn: accounts.open_team(conn, Team(new_id(), name, NOW)))
    return team


async def open_project(database: Database, team: Team, name: str) -> tuple[Project, bool]:
    wanted = Project(new_id(), team.id, name, NOW)
    return await database.tx(lambda conn: accounts.open_project(conn, wanted))


async def add_key(database: Database, team: Team, key_hash: str, project: Project | None = None) -> ApiKey:
    scopes = frozenset({KeyScope.READ, KeyScope.WRITE})
    key = ApiKey(new_id(), team.id, project.id if project else None, "ci", scopes, NOW, expires_at=NOW + 1)
    assert await database.tx(lambda conn: accounts.add_key(conn, key, key_hash))
    return key


async def test_of_many_that_make_the_same_team_and_project_at_once_one_does(database: Database) -> None:
    teams = await asyncio.gather(*(new_team(database, "blue") for _ in range(CONCURRENT)))
    opened = await asyncio.gather(*(open_project(database, team, "tally") for team in teams))

    assert len({team.id for team in teams}) == 1
    assert len({project.id for project, _ in opened}) == 1
    assert sum(is_new for _, is_new in opened) == 1


async def test_projects_are_found_in_their_own_team_only(database: Database) -> None:
    blue, red = await new_team(database, "blue"), await new_team(database, "red")
    (of_blue, _), (of_red, is_new) = await open_project(database, blue, "p"), await open_project(database, red, "p")

    assert is_new
    assert of_blue.id != of_red.id

    def look(conn: Connection) -> tuple[object, ...]:
        return (
            accounts.get_project(conn, blue.id, of_blue.id),
            accounts.find_project(conn, red.id, "p"),
            accounts.list_projects(conn, blue.id),
        )

    assert await database.read(look) == (of_blue, of_red, [of_blue])
    with pytest.raises(NotFound):
        await database.read(lambda conn: accounts.get_project(conn, red.id, of_blue.id))


async def test_somebody_is_a_member_of_a_team_once(database: Database) -> None:
    team, other = await new_team(database, "blue"), await new_team(database, "red")

    def work(conn: Connection) -> list[bool]:
        return [accounts.add_member(conn, team.id, "ada", role=role, now=NOW) for role in ("owner", "member")]

    assert await database.tx(work) == [True, False]
    assert await database.read(lambda conn: accounts.list_members(conn, team.id)) == [("ada", "owner")]
    assert await database.read(lambda conn: accounts.list_members(conn, other.id)) == []


async def test_a_key_is_found_by_its_hash_with_all_that_it_may_do(database: Database) -> None:
    team = await new_team(database, "blue")
    project, _ = await open_project(database, team, "p")
    key = await add_key(database, team, "hash-1", project)

    assert await database.read(lambda conn: accounts.find_key(conn, "hash-1")) == key
    assert await database.read(lambda conn: accounts.find_key(conn, "hash-2")) is None
    assert not await database.tx(lambda conn: accounts.add_key(conn, key, "hash-1"))


async def test_a_key_is_revoked_once_and_by_its_own_team_only(database: Database) -> None:
    blue, red = await new_team(database, "blue"), await new_team(database, "red")
    key = await add_key(database, blue, "hash-1")

    with pytest.raises(NotFound):
        await database.tx(lambda conn: accounts.revoke_key(conn, red.id, key.id, NOW))
    assert await database.read(lambda conn: accounts.list_keys(conn, red.id)) == []
    first = await database.tx(lambda conn: accounts.revoke_key(conn, blue.id, key.id, NOW + 1))
    second = await database.tx(lambda conn: accounts.revoke_key(conn, blue.id, key.id, NOW + 2))

    assert first.revoked_at == NOW + 1
    assert second == first
    assert await database.read(lambda conn: accounts.list_keys(conn, blue.id)) == [first]


async def test_an_id_leads_to_its_project_for_its_own_team_only(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)
    (job,) = await store(database, new_event(scope, "c"))
    ids = {"event": job.source_id, "session": job.session_id or "", "job": job.id}

    for what, row_id in ids.items():

        def look(conn: Connection, team_id: str = scope.team_id, what: str = what, row_id: str = row_id) -> str:
            return accounts.project_of(conn, team_id, what, row_id)

        assert await database.read(look) == scope.project_id
        with pytest.raises(NotFound):
            await database.read(lambda conn, look=look: look(conn, foreign.team_id))  # type: ignore[misc]  # bound now


async def test_the_audit_log_is_each_teams_own_and_the_latest_comes_first(database: Database) -> None:
    scope, foreign = await new_scope(database), await new_scope(database)

    def work(conn: Connection) -> None:
        for number in range(3):
            accounts.audit(conn, scope.team_id, scope.project_id, "k", "thing.done", "thing", str(number), NOW + number)

    await database.tx(work)

    rows = await database.read(lambda conn: accounts.list_audit(conn, scope.team_id, limit=2))
    assert [(row.action, row.subject_id, row.api_key_id) for row in rows] == [
        ("thing.done", "2", "k"),
        ("thing.done", "1", "k"),
    ]
    assert await database.read(lambda conn: accounts.list_audit(conn, foreign.team_id)) == []
