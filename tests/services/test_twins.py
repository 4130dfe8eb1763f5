"""What a hook tells and a transcript tells again is stored once; what was said twice is stored twice."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from sqlalchemy import select

from onlooker.app import App, build_importing, open_app
from onlooker.domain.adapters import canonical_event_type
from onlooker.domain.models import Principal, Scope
from onlooker.domain.transcripts import TranscriptReader
from onlooker.services.hooks import HookPayload
from onlooker.services.importing import Importing
from onlooker.services.ingest import EventInput
from onlooker.settings import load_settings
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.forgetting import Selection
from onlooker.storage.tables import agent_events, utterances

RECORDED = Path(__file__).parents[2] / "examples" / "recorded"
AT = 1_790_000_000_000
MINUTE_MS = 60_000
UTTERED = ("user_prompt", "turn_end", "subagent_end")


@dataclass
class Agent:
    """An agent that tells by hooks and writes a transcript."""

    app: App
    principal: Principal
    path: Path

    async def hook(self, name: str, at: int = 0, **given: Any) -> bool:
        """Tell an event by its hook, `at` ms after the first; whether it was known."""
        payload = {"session_id": "s", "cwd": "/home/dev/tally", "hook_event_name": name, **given}
        done = await self.app.hooks.receive(self.principal, HookPayload("claude-code", payload, AT + at))
        return done.recorded[0].duplicate

    async def transcript(self, *lines: dict[str, Any]) -> tuple[int, int]:
        """Write a transcript of these lines and import it; how many were new and how many known."""
        common = {"sessionId": "s", "cwd": "/home/dev/tally"}
        self.path.write_text("".join(json.dumps({**common, **line}) + "\n" for line in lines))
        count = await importing_of(self.app).import_transcript(self.principal, self.path)
        return count.stored, count.known

    async def stored(self) -> list[str]:
        wanted = select(agent_events.c.event_type).order_by(agent_events.c.seq)
        return list(await self.app.database.read(lambda conn: conn.execute(wanted).scalars().all()))


def importing_of(app: App) -> Importing:
    return build_importing(app.database, app.ingest, app.accounts, app.places)


@pytest_asyncio.fixture
async def agent(database_url: str, tmp_path: Path) -> AsyncIterator[Agent]:
    settings = load_settings(home=tmp_path / "home", database_url=database_url)
    async with open_app(settings) as app:
        local = await app.accounts.ensure_local(settings.home)
        yield Agent(app, local.principal, tmp_path / "s.jsonl")


def stamp(at: int) -> str:
    seconds, ms = divmod(AT + at, 1000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms:03}Z"


def asked(text: str, at: int) -> dict[str, Any]:
    return {"type": "user", "uuid": f"u-{at}", "timestamp": stamp(at), "message": {"role": "user", "content": text}}


def said(text: str, at: int) -> dict[str, Any]:
    message = {"id": f"m-{at}", "role": "assistant", "content": [{"type": "text", "text": text}]}
    return {"type": "assistant", "uuid": f"a-{at}", "timestamp": stamp(at), "message": message}


async def test_a_transcript_adds_to_hooks_only_what_they_missed(agent: Agent) -> None:
    await agent.hook("UserPromptSubmit", prompt="add a test")
    await agent.hook("Stop", 9_000, last_assistant_message="Added  one.")
    lines = [asked("add a test", 40), said("Added one.\n", 8_700), asked("now round", 20_000), said("Rounded.", 30_000)]

    assert await agent.transcript(*lines) == (2, 2)
    assert await agent.transcript(*lines, asked("more", 99_000)) == (1, 0)
    assert await agent.stored() == ["user_prompt", "turn_end", "user_prompt", "turn_end", "user_prompt"]


async def test_a_hook_that_comes_after_its_transcript_is_known(agent: Agent) -> None:
    assert await agent.transcript(asked("add a test", 0), said("Added.", 9_000)) == (2, 0)
    assert await agent.hook("UserPromptSubmit", 100, prompt="add a test")
    assert await agent.hook("UserPromptSubmit", 100, prompt="add a test")
    assert await agent.hook("Stop", 9_500, last_assistant_message="Added.")
    assert len(await agent.stored()) == 2


async def test_words_that_were_said_twice_are_two_events_from_either_side(agent: Agent) -> None:
    for at in (0, 60_000):
        assert not await agent.hook("UserPromptSubmit", at, prompt="continue")
    three = [asked("continue", at + 50) for at in (0, 60_000, 120_000)]
    assert await agent.transcript(*three) == (1, 2)
    assert await agent.hook("UserPromptSubmit", 120_000, prompt="continue")
    assert not await agent.hook("UserPromptSubmit", 180_000, prompt="continue")


async def test_the_same_words_much_later_are_another_event(agent: Agent) -> None:
    await agent.hook("UserPromptSubmit", prompt="continue")
    assert await agent.transcript(asked("continue", 30 * MINUTE_MS)) == (1, 0)


async def test_a_turn_end_without_words_is_known_by_its_time(agent: Agent) -> None:
    await agent.hook("Stop", 10_000)
    assert await agent.transcript(asked("go", 0), said("Gone.", 9_000), asked("on", 300_000), said("On.", 400_000)) == (
        3,
        1,
    )


async def test_both_sides_of_a_prompt_at_the_same_moment_are_one_event(agent: Agent) -> None:
    await agent.hook("SessionStart")
    project = await agent.app.accounts.find_project(agent.principal, "tally")
    sides: tuple[Literal["hook", "transcript"], ...] = ("hook", "transcript")
    for number in range(20):
        told = [
            EventInput(
                project_id=project.id,
                source_type="hook",
                event_type="user_prompt",
                occurred_at=AT + number * MINUTE_MS + after,
                payload={"prompt": f"part {number}"},
                content_session_id="s",
                source_event_id=f"{side}-{number}",
                platform_source="claude-code",
                origin=side,
            )
            for after, side in enumerate(sides)
        ]
        stored = await asyncio.gather(*(agent.app.ingest.record(agent.principal, each) for each in told))
        assert [each.duplicate for each in stored] == [False, True]
        assert len({each.event.id for each in stored}) == 1
    assert (await agent.stored()).count("user_prompt") == 20


async def test_no_side_can_be_stored_as_the_teller_of_an_event_twice(agent: Agent) -> None:
    await agent.hook("UserPromptSubmit", prompt="add a test")

    def tell_again(conn: Connection) -> int:
        row = conn.execute(select(utterances)).mappings().one()
        return dialect.insert_new(
            conn, utterances, tuple(map(str, row)), [tuple({**row, "event_key": "another"}.values())]
        )

    assert await agent.app.database.tx(tell_again) == 0


async def test_another_session_has_its_own(agent: Agent) -> None:
    await agent.hook("UserPromptSubmit", session_id="other", prompt="continue")
    assert await agent.transcript(asked("continue", 10)) == (1, 0)


async def test_a_forgotten_prompt_does_not_come_back_by_the_other_side(agent: Agent) -> None:
    lines = [asked("my secret plan", 10)]
    await agent.hook("UserPromptSubmit", prompt="my secret plan")
    assert await agent.transcript(*lines) == (0, 1)
    project = await agent.app.accounts.find_project(agent.principal, "tally")
    scope = Scope(project.team_id, project.id)
    gone = await agent.app.forget.forget(agent.principal, scope, Selection(text="my secret plan"))
    assert gone.events == 1

    agent.path.unlink()
    await agent.transcript(*lines, asked("something else", 20_000))
    assert await agent.stored() == ["user_prompt"]


@pytest.mark.parametrize("first", ["hooks", "transcript"])
async def test_the_recorded_session_is_the_same_from_both_sides(agent: Agent, first: str) -> None:
    path = RECORDED / "transcript.jsonl"
    reader = TranscriptReader()
    told = [*reader.feed(path.read_bytes()), *reader.finish()]
    times = {kind: [e.event.occurred_at or AT for e in told if e.event.event_type == kind] for kind in UTTERED}

    async def tell_hooks() -> None:
        """Hooks have no time of their own: each ran a moment after what the transcript says."""
        for line in (RECORDED / "hooks.jsonl").read_text().splitlines():
            payload = json.loads(line)
            waiting = times.get(canonical_event_type(payload["hook_event_name"]), [])
            at = waiting.pop(0) + 200 if waiting else AT
            await agent.app.hooks.receive(agent.principal, HookPayload("claude-code", payload, at))

    async def read_transcript() -> None:
        await importing_of(agent.app).import_transcript(agent.principal, path)

    steps = (tell_hooks, read_transcript) if first == "hooks" else (read_transcript, tell_hooks)
    await steps[0]()
    before = await agent.stored()
    await steps[1]()
    added = (await agent.stored())[len(before) :]

    assert set(added) <= {"session_start", "session_end", "pre_compact", "notification", "SubagentStart"}
