"""What hooks missed is read from the transcript before a session ends, and sessions that nobody ends do end."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest_asyncio
from sqlalchemy import select, update

from onlooker.app import App, open_app, running
from onlooker.domain.models import KeyScope, Principal
from onlooker.host import now_ms
from onlooker.services.hooks import HookPayload
from onlooker.services.ingest import EventInput
from onlooker.settings import load_settings
from onlooker.storage.tables import agent_events, observation_generation_jobs, server_sessions
from transcripts_made import AT, turn_lines
from waiting import wait_until

HOUR_MS = 3_600_000
MADE_AT = int(datetime.fromisoformat(AT).timestamp() * 1000)
"""When all that is made happened."""


@dataclass
class Agent:
    """An agent whose hooks tell where it writes its sessions down."""

    app: App
    principal: Principal
    folder: Path

    def write(self, name: str, *turns: int, session: str = "session-1") -> Path:
        """Append turns to a transcript."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            for number in turns:
                file.writelines(turn_lines(number, session=session))
        return path

    async def hook(self, name: str, path: Path, *, told_by: Principal | None = None, **given: Any) -> None:
        payload = {
            "session_id": "session-1",
            "cwd": "/home/dev/made",
            "hook_event_name": name,
            "transcript_path": str(path),
            **given,
        }
        await self.app.hooks.receive(told_by or self.principal, HookPayload("claude-code", payload, MADE_AT))

    async def rows(self, *columns: Any) -> list[Any]:
        return list(await self.app.database.read(lambda conn: conn.execute(select(*columns)).all()))

    async def uses(self) -> set[str]:
        """The commands of all tool uses that are stored."""
        found = await self.rows(agent_events.c.payload, agent_events.c.event_type)
        return {json.loads(payload)["tool_input"]["command"] for payload, kind in found if kind == "tool_use"}

    async def has_ended(self) -> bool:
        return all(ended is not None for (ended,) in await self.rows(server_sessions.c.ended_at))

    async def summaries(self) -> int:
        jobs = observation_generation_jobs.c
        found = await self.rows(jobs.source_type)
        return sum(kind == "session" for (kind,) in found)


@pytest_asyncio.fixture
async def agent(database_url: str, tmp_path: Path) -> AsyncIterator[Agent]:
    folder = tmp_path / "projects"
    settings = load_settings(home=tmp_path / "home", database_url=database_url, transcript_folders=str(folder))
    async with open_app(settings) as app:
        local = await app.accounts.ensure_local(settings.home)
        yield Agent(app, local.principal, folder)


async def test_at_its_end_a_session_gets_what_its_hooks_missed_and_is_summed_up_after_that(agent: Agent) -> None:
    path = agent.write("s.jsonl", 0, 1)
    agent.write("s/subagents/agent-7.jsonl", 8)
    async with running(agent.app, with_worker=False):
        await agent.hook("UserPromptSubmit", path, prompt="Test part 0")
        await agent.hook("SessionEnd", path, reason="other")
        await wait_until(agent.has_ended)
    assert len(await agent.uses()) == 3
    prompts = [kind for (kind,) in await agent.rows(agent_events.c.event_type) if kind == "user_prompt"]
    assert len(prompts) == 3
    assert await agent.summaries() == 1
    jobs = observation_generation_jobs.c
    last = max(await agent.rows(jobs.seq, jobs.source_type))
    assert last.source_type == "session"


async def test_what_was_written_while_no_server_ran_is_read_at_its_start(agent: Agent) -> None:
    path = agent.write("s.jsonl", 0)
    await agent.hook("UserPromptSubmit", path, prompt="Test part 0")
    await agent.hook("SessionEnd", path, reason="other")
    assert not await agent.has_ended()
    agent.write("s.jsonl", 1)
    async with running(agent.app, with_worker=False):
        await wait_until(agent.has_ended)
    assert len(await agent.uses()) == 2


async def test_nothing_is_read_from_elsewhere(agent: Agent, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.jsonl"
    outside.write_text("".join(turn_lines(0)))
    link = agent.folder / "link.jsonl"
    agent.folder.mkdir()
    link.symlink_to(outside)
    for path in (outside, link, agent.folder / ".." / "elsewhere.jsonl"):
        await agent.hook("SessionEnd", path)
    assert await agent.has_ended()
    async with running(agent.app, with_worker=False):
        await agent.app.catching_up.end_sessions(over=False)
    assert await agent.uses() == set()


async def test_whoever_has_another_key_cannot_have_a_file_of_this_home_read(agent: Agent) -> None:
    path = agent.write("s.jsonl", 0)
    write = frozenset({KeyScope.READ, KeyScope.WRITE})
    accounts = agent.app.accounts
    key = (await accounts.create_key(agent.principal, scopes=write)).key
    await agent.hook("SessionEnd", path, told_by=await accounts.authenticate(key))
    async with running(agent.app, with_worker=False):
        await wait_until(agent.has_ended)
    assert await agent.uses() == set()

    # It is what `install` made for the hooks of this home.
    (agent.app.settings.home / "hook.key").write_text(key + "\n")
    await agent.hook("UserPromptSubmit", path, told_by=await accounts.authenticate(key), prompt="And now this")
    await agent.hook("SessionEnd", agent.write("t.jsonl", 1), told_by=await accounts.authenticate(key))
    async with running(agent.app, with_worker=False):
        await wait_until(agent.has_ended)
    assert len(await agent.uses()) == 1


async def test_a_session_without_an_end_ends_after_an_idle_time_and_goes_on_when_it_is_taken_up(agent: Agent) -> None:
    path = agent.write("s.jsonl", 0)
    await agent.hook("UserPromptSubmit", path, prompt="Test part 0")
    assert await agent.app.catching_up.end_sessions(over=False) == 0

    old = update(server_sessions).values(updated_at=now_ms() - HOUR_MS - 1)
    await agent.app.database.tx(lambda conn: conn.execute(old))
    assert await agent.app.catching_up.end_sessions(over=False) == 1
    assert (await agent.has_ended(), await agent.summaries()) == (True, 1)

    await agent.hook("UserPromptSubmit", path, prompt="And now this")
    assert not await agent.has_ended()
    await agent.app.database.tx(lambda conn: conn.execute(old))
    await agent.app.catching_up.end_sessions(over=False)
    assert (await agent.has_ended(), await agent.summaries()) == (True, 2)


async def test_a_session_that_was_only_stored_is_not_summed_up(agent: Agent) -> None:
    project = (await agent.app.accounts.list_projects(agent.principal))[0]
    event = EventInput(project.id, "api", "tool_use", 1, {"tool_name": "Bash"}, content_session_id="s")
    await agent.app.ingest.record(agent.principal, event, generate=False)
    await agent.app.database.tx(lambda conn: conn.execute(update(server_sessions).values(updated_at=1)))
    await agent.app.catching_up.end_sessions(over=False)
    assert (await agent.has_ended(), await agent.summaries()) == (True, 0)


async def test_a_session_that_is_taken_up_before_its_end_was_looked_after_does_not_end(agent: Agent) -> None:
    path = agent.write("s.jsonl", 0)
    await agent.hook("UserPromptSubmit", path, prompt="Test part 0")
    await agent.hook("SessionEnd", path)
    await agent.hook("SessionStart", path, source="resume")
    assert await agent.app.catching_up.end_sessions(over=True) == 0
