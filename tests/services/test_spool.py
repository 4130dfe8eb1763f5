"""What hooks kept is stored later: in order, once, and nothing of it lost but what is counted."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from onlooker.app import App, open_app, running
from onlooker.domain.errors import StorageUnavailable
from onlooker.domain.models import Recorded, Scope
from onlooker.hooks import client
from onlooker.services import spool
from onlooker.services.ingest import EventInput, Ready
from onlooker.services.spool import count_dropped
from onlooker.settings import load_settings
from onlooker.storage import sessions
from onlooker.storage.forgetting import Selection
from onlooker.storage.tables import agent_events
from served import new_tenant
from waiting import wait_until

AT = 1_790_000_000_000
OLD_S = 1_000_000_000


@dataclass
class Home:
    """A home whose spool hooks write into, and the parts that read it."""

    path: Path
    app: App

    def keep(self, at: int, payload: Any, *, session: str = "s") -> None:
        """What a hook keeps that ran at this time."""
        told = payload if isinstance(payload, bytes) else json.dumps({"session_id": session, **payload}).encode()
        head = f"x-onlooker-at: {at}\r\nx-onlooker-project: tally\r\nx-onlooker-place: git:example.org/tally\r\n"
        client.keep(str(self.path), at * 1_000_000, "claude-code", head, told)

    def prompt(self, number: int, *, session: str = "s") -> None:
        self.keep(AT + number, {"hook_event_name": "UserPromptSubmit", "prompt": f"part {number}"}, session=session)

    def waiting(self) -> int:
        return sum(1 for _ in client.waiting(str(self.path)))

    def rejected(self) -> dict[str, str]:
        """The reasons of what was set aside, by file."""
        lines = (self.path / "spool" / "rejected" / "reasons.jsonl").read_text().splitlines()
        return {told["file"]: told["reason"] for told in map(json.loads, lines)}

    async def stored(self) -> list[tuple[int, int, str]]:
        """Sequence, time and prompt of each event that is stored."""
        wanted = select(agent_events.c.seq, agent_events.c.occurred_at, agent_events.c.payload).order_by("seq")
        rows = await self.app.database.read(lambda conn: conn.execute(wanted).all())
        return [(seq, at, json.loads(payload).get("prompt", "")) for seq, at, payload in rows]


@pytest_asyncio.fixture
async def home(database_url: str, tmp_path: Path) -> AsyncIterator[Home]:
    settings = load_settings(home=tmp_path / "home", database_url=database_url)
    async with open_app(settings) as app:
        yield Home(settings.home, app)


async def test_what_waits_is_stored_in_its_order_with_its_times_and_in_its_project(home: Home) -> None:
    for number in (3, 1, 2):
        home.prompt(number)

    done = await home.app.spool.replay()

    assert (done.stored, done.known, done.rejected) == (3, 0, 0)
    assert await home.stored() == [(n, AT + n, f"part {n}") for n in (1, 2, 3)]
    assert home.waiting() == 0
    local = await home.app.accounts.ensure_local(home.path)
    assert "tally" in {project.name for project in await home.app.accounts.list_projects(local.principal)}


@pytest.mark.parametrize("by", ["text", "session"])
async def test_what_is_forgotten_is_not_left_in_the_spool_either(home: Home, by: str) -> None:
    home.prompt(0, session="acme-session")
    await home.app.spool.replay()
    local = (await home.app.accounts.ensure_local(home.path)).principal
    project = await home.app.accounts.find_project(local, "tally")
    scope = Scope(project.team_id, project.id)
    secret = {"hook_event_name": "UserPromptSubmit", "prompt": 'the plan of "Größe"'}
    home.keep(AT + 1, secret, session="acme-session")
    home.keep(AT + 2, b'{"session_id": "acme-session", "prompt": "the plan of \\"Gr\\u00f6\\u00dfe\\"" cut off')
    home.keep(AT + 3, b'{"prompt": "of another" cut off')
    session = await home.app.database.read(lambda conn: sessions.find_by_content(conn, scope, "acme-session"))
    assert session is not None
    chosen = {"text": Selection(text='Plan of "größe"'), "session": Selection(session_id=session.id)}[by]

    stranger = await new_tenant(home.app)
    await home.app.forget.forget(
        stranger.principal, Scope(stranger.team_id, stranger.project_id), Selection(text="plan of")
    )
    assert home.waiting() == 3
    assert (await home.app.forget.preview(scope, chosen)).events >= 1
    gone = await home.app.forget.forget(local, scope, chosen)

    assert gone.events == (2 if by == "session" else 1)
    assert home.waiting() == 0
    assert "part 0" in str(await home.stored()) or by == "session"
    assert len(list((home.path / "spool" / "rejected").glob("*-*"))) == 1
    left = b"".join(path.read_bytes() for path in (home.path / "spool").rglob("*") if path.is_file())
    assert b"the plan of" not in left
    assert b"of another" in left


async def test_what_is_replayed_twice_is_stored_once(home: Home) -> None:
    done = []
    for _ in range(2):
        for number in range(3):
            home.prompt(number)
        done.append(await home.app.spool.replay())
    assert [(each.stored, each.known) for each in done] == [(3, 0), (3, 3)]
    assert len(await home.stored()) == 3


async def test_more_than_a_batch_is_stored(home: Home) -> None:
    for number in range(1_100):
        home.prompt(number, session=f"s{number % 7}")
    assert (await home.app.spool.replay()).stored == 1_100
    assert len(await home.stored()) == 1_100


async def test_what_cannot_be_stored_is_set_aside_with_its_reason_and_the_rest_goes_on(home: Home) -> None:
    home.prompt(1)
    home.keep(AT + 2, b'{"session_id": "s", "hook_')
    home.keep(AT + 3, {"hook_event_name": "UserPromptSubmit", "prompt": "x", "agent_id": "a" * 600})
    home.keep(AT + 4, b"[1, 2]")
    events = home.path / "spool" / "events"
    (events / "5").write_bytes(b"no head at all")
    (events / "6").write_bytes(b"x-onlooker-at: 5\r\ncontent-length: 10\r\n\r\n{}")
    home.prompt(7)

    done = await home.app.spool.replay()

    assert [prompt for _, _, prompt in await home.stored()] == ["part 1", "part 7"]
    assert done.rejected == 4
    reasons = home.rejected()
    assert (reasons["5"], reasons["6"]) == ("not what a hook writes", "half written: 2 of 10 bytes")
    assert {path.name for path in (home.path / "spool" / "rejected").iterdir()} == {*reasons, "reasons.jsonl"}
    assert home.waiting() == 0


async def test_a_draft_of_a_hook_that_was_killed_is_set_aside_once_it_is_old(home: Home) -> None:
    draft = home.path / "spool" / ".00001-1"
    draft.write_bytes(b"x-onlooker")
    await home.app.spool.replay()
    assert draft.exists()
    os.utime(draft, (OLD_S, OLD_S))
    await home.app.spool.replay()
    assert not draft.exists()
    assert list(home.rejected()) == [draft.name]


async def test_while_the_database_is_away_all_stays_where_it_is(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.prompt(1)

    async def away(*_arguments: Any, **_options: Any) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(home.app.ingest, "store", away)
    with pytest.raises(StorageUnavailable):
        await home.app.spool.replay()
    assert home.waiting() == 1
    monkeypatch.undo()
    await home.app.spool.replay()
    assert len(await home.stored()) == 1


async def test_after_a_batch_that_cannot_be_stored_none_is_until_it_can(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "BATCH", 2)
    for number in range(7):
        home.prompt(number)
    store, asked = home.app.ingest.store, 0

    async def store_but_once(ready: Ready) -> list[Recorded]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise StorageUnavailable("away")
        return await store(ready)

    monkeypatch.setattr(home.app.ingest, "store", store_but_once)
    with pytest.raises(StorageUnavailable):
        await home.app.spool.replay()
    assert (len(await home.stored()), home.waiting()) == (2, 5)
    await home.app.spool.replay()
    assert [prompt for _, _, prompt in await home.stored()] == [f"part {number}" for number in range(7)]
    assert home.waiting() == 0


async def test_a_file_goes_only_when_its_event_is_stored(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BATCH", 2)
    for number in range(7):
        home.prompt(number)
    store, left = home.app.ingest.store, []

    async def look_and_store(ready: Ready) -> list[Recorded]:
        stored = await store(ready)
        left.append(home.waiting() + len(await home.stored()))
        return stored

    monkeypatch.setattr(home.app.ingest, "store", look_and_store)
    await home.app.spool.replay()
    assert len(left) == 4
    assert min(left) >= 7


@pytest.mark.parametrize("others", [True, False])
async def test_while_others_have_something_stored_batches_are_small(
    home: Home, monkeypatch: pytest.MonkeyPatch, *, others: bool
) -> None:
    monkeypatch.setattr(spool, "BATCH", 6)
    monkeypatch.setattr(spool, "SHARED_BATCH", 2)
    for number in range(20):
        home.prompt(number)
    local = await home.app.accounts.ensure_local(home.path)
    sent = EventInput(project_id=local.project.id, source_type="api", event_type="tool_use", occurred_at=AT, payload={})
    foreign = await home.app.ingest.make_ready(local.principal, [sent])
    store, sizes = home.app.ingest.store, list[int]()

    async def store_beside(ready: Ready) -> list[Recorded]:
        sizes.append(len(ready.new))
        other = asyncio.create_task(store(foreign)) if others and len(sizes) == 1 else None
        stored = await store(ready)
        if other is not None:
            await other
        return stored

    monkeypatch.setattr(home.app.ingest, "store", store_beside)
    await home.app.spool.replay()
    # The second was made ready while the first was stored.
    assert sizes == ([6, 6, 2, 2, 2, 2] if others else [6, 6, 6, 2])


async def test_of_a_batch_with_one_that_is_refused_the_rest_follows_the_batch_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "BATCH", 3)
    for number in range(5):
        home.prompt(number)
    home.keep(AT + 5, {"hook_event_name": "UserPromptSubmit", "prompt": "x", "agent_id": "a" * 600})
    home.prompt(6)
    done = await home.app.spool.replay()
    assert (done.stored, done.rejected) == (6, 1)
    assert [prompt for _, _, prompt in await home.stored()] == [f"part {number}" for number in (0, 1, 2, 3, 4, 6)]


async def test_what_comes_while_the_server_runs_is_stored_too_and_room_is_made(home: Home) -> None:
    async with running(home.app, with_worker=False):
        home.prompt(1)
        await wait_until(lambda: home.waiting() == 0)
        home.prompt(2)
        await wait_until(lambda: home.waiting() == 0)
        await wait_until(lambda: (home.path / "spool" / "blocks").stat().st_size == 0)
    assert len(await home.stored()) == 2


async def test_what_was_dropped_is_counted_for_good(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST_SPOOL", client.BLOCK)
    for number in range(4):
        home.prompt(number)
    await home.app.spool.replay()
    monkeypatch.setattr(client, "LARGEST_SPOOL", 0)
    home.prompt(9)

    assert len(await home.stored()) == 1
    assert count_dropped(home.path) == 4
    await home.app.spool.replay()
    assert count_dropped(home.path) == 4


async def test_a_replay_that_is_stopped_leaves_the_rest_for_later(home: Home) -> None:
    for number in range(3):
        home.prompt(number)
    stop = asyncio.Event()
    stop.set()
    await home.app.spool.replay(stop)
    assert home.waiting() == 3


async def test_a_session_ends_and_goes_on_in_the_order_of_its_hooks(home: Home) -> None:
    names = ("SessionStart", "UserPromptSubmit", "SessionEnd", "SessionStart", "UserPromptSubmit")
    for number, name in enumerate(names):
        home.keep(AT + number, {"hook_event_name": name, "prompt": f"part {number}"})
    await home.app.spool.replay()
    assert [prompt for _, _, prompt in await home.stored()] == [f"part {number}" for number in range(5)]
