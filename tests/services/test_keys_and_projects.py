"""Who asks, and what they reach."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onlooker.domain.errors import Forbidden, InvalidInput, Misconfigured, NotFound, Unauthenticated
from onlooker.domain.keys import hash_key
from onlooker.domain.models import KeyScope, Principal, Project, Scope, Team
from onlooker.domain.places import place_of_folder
from onlooker.host import new_id, now_ms
from onlooker.services.accounts import MOST_REMEMBERED, REMEMBERED_S, Accounts, read_or_make_key
from onlooker.storage import accounts as rows
from onlooker.storage.database import Database

READ = frozenset({KeyScope.READ})


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(database: Database, clock: Clock) -> Accounts:
    return Accounts(database, new_id=new_id, now_ms=now_ms, steady_s=clock)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


async def admin(accounts: Accounts, home: Path) -> Principal:
    return (await accounts.ensure_local(home)).principal


async def refused(accounts: Accounts, key: str) -> bool:
    try:
        await accounts.authenticate(key)
    except Forbidden:
        return True
    return False


async def test_a_key_is_shown_once_and_stored_as_its_hash(accounts: Accounts, database: Database, home: Path) -> None:
    made = await accounts.create_key(await admin(accounts, home), scopes=READ, name="ci")

    assert made.key.startswith("onl_")
    assert len(made.key) == 47
    stored = await database.read(lambda conn: rows.find_key(conn, hash_key(made.key)))
    assert stored == made.stored
    principal = await accounts.authenticate(made.key)
    assert principal == Principal(made.stored.team_id, None, made.stored.id, READ)
    assert not principal.may(KeyScope.WRITE)


async def test_no_key_and_an_unknown_key_are_told_apart(accounts: Accounts) -> None:
    for missing in (None, ""):
        with pytest.raises(Unauthenticated):
            await accounts.authenticate(missing)
    for unknown in ("onl_" + "x" * 43, "nonsense", "\x00\ud800"):
        with pytest.raises(Forbidden):
            await accounts.authenticate(unknown)


async def test_a_revoked_key_is_refused_at_once_here_and_soon_elsewhere(
    accounts: Accounts, database: Database, home: Path, clock: Clock
) -> None:
    elsewhere = Accounts(database, new_id=new_id, now_ms=now_ms, steady_s=clock)
    owner = await admin(accounts, home)
    made = await accounts.create_key(owner, scopes=READ)
    await accounts.authenticate(made.key)
    await elsewhere.authenticate(made.key)

    revoked = await accounts.revoke_key(owner, made.stored.id)

    assert revoked.revoked_at is not None
    assert await refused(accounts, made.key)
    assert not await refused(elsewhere, made.key)
    assert REMEMBERED_S < 3
    clock.now += REMEMBERED_S
    assert await refused(elsewhere, made.key)
    assert (await accounts.revoke_key(owner, made.stored.id)) == revoked


async def test_a_key_that_expires_is_refused_from_then_on_though_it_is_remembered(
    database: Database, home: Path, clock: Clock
) -> None:
    wall = [1_790_000_000_000]
    accounts = Accounts(database, new_id=new_id, now_ms=lambda: wall[0], steady_s=clock)
    made = await accounts.create_key(await admin(accounts, home), scopes=READ, expires_at=wall[0] + 10)
    assert not await refused(accounts, made.key)

    wall[0] += 10

    assert await refused(accounts, made.key)


async def test_the_last_use_of_a_key_is_noted_once_a_minute(database: Database, home: Path, clock: Clock) -> None:
    wall = [1_790_000_000_000]
    accounts = Accounts(database, new_id=new_id, now_ms=lambda: wall[0], steady_s=clock)
    owner = await admin(accounts, home)
    made = await accounts.create_key(owner, scopes=READ)

    async def used_at() -> int | None:
        return next(key.last_used_at for key in await accounts.list_keys(owner) if key.id == made.stored.id)

    seen = []
    for step_ms in (0, 30_000, 30_000):
        wall[0] += step_ms
        clock.now += step_ms / 1000 + REMEMBERED_S
        await accounts.authenticate(made.key)
        seen.append(await used_at())

    assert seen == [1_790_000_000_000, 1_790_000_000_000, 1_790_000_060_000]


async def test_what_is_remembered_is_bounded(accounts: Accounts, home: Path) -> None:
    local = await accounts.ensure_local(home)
    for number in range(MOST_REMEMBERED + 10):
        accounts._places.put(f"{local.team.id}/{number}", Scope(local.team.id, str(number)))

    assert len(accounts._places._answers) == MOST_REMEMBERED


async def test_a_key_of_a_project_reaches_that_project_only(accounts: Accounts, home: Path) -> None:
    owner = await admin(accounts, home)
    mine, _ = await accounts.create_project(owner, "mine")
    other, _ = await accounts.create_project(owner, "other")
    made = await accounts.create_key(owner, scopes=frozenset({KeyScope.ADMIN}), project_id=mine.id)
    bound = await accounts.authenticate(made.key)

    assert await accounts.resolve_project(bound, mine.id) == Scope(mine.team_id, mine.id)
    assert await accounts.project_in_path(bound, mine.id) == Scope(mine.team_id, mine.id)
    assert await accounts.project_at(bound, place_of_folder("/home/dev/other")) == Scope(mine.team_id, mine.id)
    assert await accounts.list_projects(bound) == [mine]
    with pytest.raises(Forbidden):
        await accounts.resolve_project(bound, other.id)
    with pytest.raises(NotFound):
        await accounts.project_in_path(bound, other.id)
    with pytest.raises(Forbidden):
        await accounts.create_project(bound, "third")
    with pytest.raises(Forbidden):
        await accounts.create_key(bound, scopes=READ)
    with pytest.raises(NotFound):
        await accounts.revoke_key(bound, owner.key_id or "")
    assert [key.id for key in await accounts.list_keys(bound)] == [made.stored.id]


async def test_a_foreign_project_and_none_are_refused_in_the_same_words(
    accounts: Accounts, database: Database, home: Path
) -> None:
    owner = await admin(accounts, home)
    team = Team(new_id(), "red", 1)
    await database.tx(lambda conn: rows.open_team(conn, team))
    foreign = Project(new_id(), team.id, "theirs", 1)
    await database.tx(lambda conn: rows.open_project(conn, foreign))

    messages = set()
    for project_id in (foreign.id, new_id(), "", "\x00", "\ud800", "x" * 10_000):
        with pytest.raises(Forbidden) as refusal:
            await accounts.resolve_project(owner, project_id)
        messages.add(str(refusal.value))
        with pytest.raises(NotFound):
            await accounts.project_in_path(owner, project_id)
    assert len(messages) == 1


async def test_an_id_that_cannot_exist_is_not_looked_for(accounts: Accounts, home: Path) -> None:
    owner = await admin(accounts, home)

    for row_id in ("", "\x00", "\ud800", "é", "x" * 10_000):
        with pytest.raises(NotFound):
            await accounts.scope_of(owner, "event", row_id)


@pytest.mark.parametrize(
    "cwd, name",
    [
        ("/home/ada/tally", "tally"),
        ("/home/ada/tally/", "tally"),
        ("C:\\Users\\ada\\tally", "tally"),
        ("/", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        ("/x/" + "n" * 300, "n" * 200),
        ("/x/a\x00b", "a\ufffdb"),
    ],
)
async def test_the_project_of_a_folder_is_named_by_its_last_part(
    accounts: Accounts, home: Path, cwd: str | None, name: str
) -> None:
    owner = await admin(accounts, home)

    first = await accounts.project_at(owner, place_of_folder(cwd))
    second = await accounts.project_at(owner, place_of_folder(cwd))

    assert first == second
    assert (await accounts.find_project(owner, name)).id == first.project_id


async def test_of_many_agents_in_a_new_folder_all_get_the_same_project(accounts: Accounts, home: Path) -> None:
    owner = await admin(accounts, home)

    scopes = await asyncio.gather(*(accounts.project_at(owner, place_of_folder("/home/dev/tally")) for _ in range(16)))

    assert len(set(scopes)) == 1


async def test_a_project_is_made_once(accounts: Accounts, home: Path) -> None:
    owner = await admin(accounts, home)

    first, is_new = await accounts.create_project(owner, " tally ")
    second, is_new_again = await accounts.create_project(owner, "tally")

    assert (is_new, is_new_again) == (True, False)
    assert first == second
    for name in ("", "  ", "n" * 201):
        with pytest.raises(InvalidInput):
            await accounts.create_project(owner, name)
    with pytest.raises(NotFound):
        await accounts.find_project(owner, "no such")


async def test_only_an_admin_manages_keys_and_projects(accounts: Accounts, home: Path) -> None:
    owner = await admin(accounts, home)
    made = await accounts.create_key(owner, scopes=frozenset({KeyScope.READ, KeyScope.WRITE}))
    worker = await accounts.authenticate(made.key)
    attempts: list[Callable[[], object]] = [
        lambda: accounts.create_key(worker, scopes=READ),
        lambda: accounts.list_keys(worker),
        lambda: accounts.revoke_key(worker, made.stored.id),
        lambda: accounts.create_project(worker, "p"),
    ]

    for attempt in attempts:
        with pytest.raises(Forbidden):
            await attempt()  # type: ignore[misc]  # each makes an awaitable
    with pytest.raises(InvalidInput):
        await accounts.create_key(owner, scopes=frozenset())


async def test_first_use_makes_a_team_a_project_and_an_admins_key(accounts: Accounts, home: Path) -> None:
    first = await accounts.ensure_local(home)
    again = await accounts.ensure_local(home)

    assert again == first
    assert (first.team.name, first.project.name) == ("local", "default")
    assert (home / "key").read_text() == first.key + "\n"
    assert (home / "key").stat().st_mode & 0o777 == 0o600
    assert await accounts.authenticate(first.key) == first.principal
    assert first.principal.may(KeyScope.ADMIN)


async def test_a_key_that_is_in_the_home_only_is_stored(accounts: Accounts, home: Path) -> None:
    key = read_or_make_key(home / "key")

    local = await accounts.ensure_local(home)

    assert local.key == key
    assert await accounts.authenticate(key) == local.principal


async def test_many_first_uses_at_once_agree_on_one_key(accounts: Accounts, database: Database, home: Path) -> None:
    locals_made = await asyncio.gather(*(accounts.ensure_local(home) for _ in range(16)))

    assert len(set(locals_made)) == 1
    team_id = locals_made[0].team.id
    assert len(await database.read(lambda conn: rows.list_keys(conn, team_id))) == 1


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from onlooker.services.accounts import read_or_make_key; "
        "sys.stdin.read(1); print(read_or_make_key(pathlib.Path(sys.argv[1])))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "key")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    told = [process.communicate(input="x", timeout=60)[0].strip() for process in started]

    assert set(told) == {(tmp_path / "key").read_text().strip()}
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_key_file_that_holds_no_key_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("not a key")

    with pytest.raises(Misconfigured) as refusal:
        read_or_make_key(tmp_path / "key")

    assert str(tmp_path / "key") in str(refusal.value)
    with pytest.raises(Misconfigured):
        read_or_make_key(tmp_path / "missing" / "key")
