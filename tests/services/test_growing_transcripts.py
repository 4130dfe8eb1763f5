"""Transcripts that are read while they grow: whatever is read between two lines, the events are those of the whole."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from databases import copy_sqlite
from onlooker.app import App, build_importing, open_app
from onlooker.services.importing import Importing
from onlooker.settings import load_settings
from onlooker.storage.tables import agent_events
from served import Tenant, new_tenant


@dataclass
class Reader:
    """Imports one growing file of one tenant."""

    app: App
    tenant: Tenant
    importing: Importing
    path: Path

    async def read(self) -> None:
        await self.importing.import_transcript(self.tenant.principal, self.path, project=self.tenant.project)

    async def told(self) -> Counter[tuple[str, str | None, str]]:
        """The stored events by type, session and what they say, with how often each is there."""
        columns = (agent_events.c.event_type, agent_events.c.content_session_id, agent_events.c.payload)
        rows = await self.app.database.read(lambda conn: conn.execute(select(*columns)).all())
        return Counter((kind, session, _said(json.loads(payload))) for kind, session, payload in rows)


def _said(payload: dict[str, Any]) -> str:
    names = ("prompt", "last_assistant_message", "tool_use_id")
    return str(next(payload[name] for name in names if name in payload))


@pytest_asyncio.fixture
async def reader(prepared_sqlite: Path, tmp_path: Path) -> AsyncIterator[Reader]:
    home = tmp_path / "home"
    home.mkdir()
    url = copy_sqlite(prepared_sqlite, home / "onlooker.db")
    async with open_app(load_settings(home=home, database_url=url)) as app:
        importing = build_importing(app.database, app.ingest, app.accounts, app.places)
        yield Reader(app, await new_tenant(app), importing, tmp_path / "session.jsonl")


class Clock:
    """Times of lines, each a little after the one before, none in the future."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC) - timedelta(minutes=5)

    def tick(self, seconds: float = 0.01) -> str:
        self.now += timedelta(seconds=seconds)
        return self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Rollout(Clock):
    """What Codex writes of a session."""

    def __init__(self, session: str) -> None:
        super().__init__()
        self.session = session
        self.lines: list[dict[str, Any]] = []
        self.meta(session)

    def add(self, kind: str, seconds: float = 0.01, **payload: Any) -> None:
        self.lines.append({"timestamp": self.tick(seconds), "type": kind, "payload": payload})

    def meta(self, session: str) -> None:
        self.add("session_meta", id=session, cwd="/home/dev/p")

    def item(self, role: str, text: str) -> None:
        content = [{"type": "input_text" if role == "user" else "output_text", "text": text}]
        self.add("response_item", type="message", role=role, content=content)

    def turn(self, number: int, prompt: str) -> None:
        """A turn in which each message stands twice."""
        self.add("event_msg", 2, type="task_started")
        self.item("user", prompt)
        self.add("event_msg", type="user_message", message=prompt)
        self.add("turn_context", cwd="/home/dev/p")
        call = f"call_{self.session}_{number}"
        self.add("response_item", 2, type="function_call", name="shell", arguments="{}", call_id=call)
        self.add("response_item", type="function_call_output", call_id=call, output="ok")
        self.add("event_msg", 2, type="agent_message", message=f"Did {number}.")
        self.item("assistant", f"Did {number}.")
        self.add("event_msg", type="token_count")
        self.add("event_msg", type="task_complete", last_agent_message=f"Did {number}.")


def rollout_lines() -> list[dict[str, Any]]:
    rollout = Rollout("r-1")
    for number, prompt in enumerate(("Do the first", "continue", "continue")):
        rollout.turn(number, prompt)
    return rollout.lines


def transcript_lines() -> list[dict[str, Any]]:
    """Two turns of Claude Code, the messages of the agent split over several lines."""
    clock = Clock()
    lines: list[dict[str, Any]] = []

    def add(kind: str, uuid: str, message: dict[str, Any]) -> None:
        common = {"sessionId": "s-1", "timestamp": clock.tick(1), "cwd": "/home/dev/p"}
        lines.append({**common, "type": kind, "uuid": uuid, "message": message})

    for number in range(2):
        add("user", f"p{number}", {"role": "user", "content": f"Test {number}"})
        said = {"id": f"m{number}", "role": "assistant"}
        add("assistant", f"t{number}", {**said, "content": [{"type": "text", "text": "Let me see."}]})
        use = {"type": "tool_use", "id": f"toolu_{number}", "name": "Bash", "input": {"command": "ls"}}
        add("assistant", f"u{number}", {**said, "content": [use]})
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": "a.py"}
        add("user", f"r{number}", {"role": "user", "content": [result]})
        closing = {"id": f"c{number}", "role": "assistant"}
        add("assistant", f"c{number}", {**closing, "content": [{"type": "text", "text": f"It is {number}."}]})
        add("assistant", f"d{number}", {**closing, "content": [{"type": "text", "text": "And done."}]})
    add("user", "last", {"role": "user", "content": "Thanks"})
    return lines


def as_bytes(lines: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.mark.parametrize("made", [rollout_lines, transcript_lines], ids=["codex", "claude-code"])
async def test_line_by_line_it_is_what_it_is_as_a_whole(
    reader: Reader, made: Callable[[], list[dict[str, Any]]]
) -> None:
    lines = made()
    reader.path.write_bytes(as_bytes(lines))
    await reader.read()
    whole = await reader.told()

    reader.tenant = await new_tenant(reader.app)
    reader.path.write_bytes(b"")
    for line in lines:
        data = as_bytes([line])
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            with reader.path.open("ab") as file:
                file.write(part)
            await reader.read()

    assert await reader.told() == whole + whole
    assert {kind for kind, _, _ in whole} == {"user_prompt", "tool_use", "turn_end"}
    if "payload" in lines[0]:
        assert whole["user_prompt", "r-1", "continue"] == 2
        assert sum(whole.values()) == 9


def said_last(lines: Sequence[dict[str, Any]]) -> int:
    """How many of the lines there are up to what the agent said last in its first turn, which is not closed yet."""
    return next(n for n, line in enumerate(lines) if "And done." in json.dumps(line)) + 1


@pytest.mark.parametrize("left", [0, 1, 3, 5])
async def test_what_an_agent_said_last_is_not_lost_with_the_end_of_its_file(reader: Reader, left: int) -> None:
    lines = transcript_lines()
    open_turn = lines[: said_last(lines)]
    reader.path.write_bytes(as_bytes(open_turn))
    await reader.read()
    assert "turn_end" not in {kind for kind, _, _ in await reader.told()}

    reader.path.write_bytes(as_bytes(open_turn[:left]))
    await reader.read()
    other = {**lines[0], "uuid": "anew", "message": {"role": "user", "content": "Begin anew"}}
    with reader.path.open("ab") as file:
        file.write(as_bytes([other]))
    await reader.read()
    await reader.read()
    told = await reader.told()
    assert told["turn_end", "s-1", "It is 0.\nAnd done."] == 1
    assert told["user_prompt", "s-1", "Begin anew"] == 1


async def test_a_file_that_is_written_anew_and_goes_on_closes_no_turn_in_between(reader: Reader) -> None:
    lines = transcript_lines()
    reader.path.write_bytes(as_bytes(lines[:2]))
    await reader.read()
    reader.path.write_bytes(b"")
    await reader.read()
    reader.path.write_bytes(as_bytes(lines))
    await reader.read()
    told = await reader.told()
    assert Counter({key: count for key, count in told.items() if key[0] == "turn_end"}) == Counter(
        {("turn_end", "s-1", f"It is {number}.\nAnd done."): 1 for number in range(2)}
    )


async def test_what_a_branched_rollout_repeats_of_its_parent_is_the_parents(reader: Reader) -> None:
    """Codex copies what was said before into a branch's file, the parent's first line included."""
    parent = Rollout("parent")
    parent.turn(0, "Do it")
    branch = Rollout("branch")
    for line in parent.lines:
        branch.add(line["type"], 0.001, **line["payload"])
    copied = len(branch.lines)
    branch.turn(1, "Do it otherwise")

    reader.path.write_bytes(as_bytes(branch.lines[: copied // 2]))
    await reader.read()
    reader.path.write_bytes(as_bytes(branch.lines))
    await reader.read()

    assert await reader.told() == Counter(
        {
            ("user_prompt", "branch", "Do it otherwise"): 1,
            ("tool_use", "branch", "call_branch_1"): 1,
            ("turn_end", "branch", "Did 1."): 1,
        }
    )
