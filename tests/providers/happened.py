"""Events as they are stored, made from what an agent did, and what a provider makes of them."""

import asyncio
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from onlooker.domain.adapters import adapt
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Draft, Event
from onlooker.providers.contract import GenerationAnswer, GenerationRequest, Provider
from onlooker.providers.rules import RulesProvider

CWD = "/home/dev/app"
RECORDED = Path(__file__).resolve().parents[2] / "examples" / "recorded" / "hooks.jsonl"

_numbers = count(1)


def stored(event_type: str, payload: Any, *, key: str | None = None) -> Event:
    """An event with this payload; a text is stored as it is."""
    number = next(_numbers)
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return Event(
        id=f"event-{number}", team_id="team", project_id="project", session_id="session", seq=number,
        event_key=key or f"key-{number}", api_key_id=None, source_type="hook", source_adapter="claude-code",
        source_event_id=None, event_type=event_type, content_session_id="agent-session", memory_session_id=None,
        payload_json=text, metadata_json="{}", occurred_at=1_000 + number, received_at=2_000, created_at=2_000,
    )  # fmt: skip


def used(tool: str, tool_input: dict[str, Any], response: Any = None, *, error: str | None = None) -> Event:
    """A finished tool use; with `error` a failed one."""
    payload: dict[str, Any] = {"tool_name": tool, "tool_input": tool_input, "cwd": CWD}
    if error is None:
        return stored("tool_use", {**payload, "hook_event_name": "PostToolUse", "tool_response": response})
    return stored("tool_use", {**payload, "hook_event_name": "PostToolUseFailure", "error": error})


def ran(command: str, stdout: str = "", *, said: str = "", error: str | None = None) -> Event:
    given = {"command": command, "description": said} if said else {"command": command}
    return used("Bash", given, {"stdout": stdout, "stderr": "", "interrupted": False}, error=error)


def edited(path: str, old: str, new: str) -> Event:
    """An edit of a client that sends no patch with it."""
    given = {"file_path": f"{CWD}/{path}", "old_string": old, "new_string": new}
    return used("Edit", given, {"filePath": f"{CWD}/{path}", "oldString": old, "newString": new})


def wrote(path: str, content: str) -> Event:
    given = {"file_path": f"{CWD}/{path}", "content": content}
    response = {"type": "create", "filePath": f"{CWD}/{path}", "content": content, "structuredPatch": []}
    return used("Write", given, response)


def read(path: str, content: str = "x = 1\n") -> Event:
    return used("Read", {"file_path": f"{CWD}/{path}"}, {"type": "text", "file": {"content": content}})


def asked(prompt: str) -> Event:
    return stored("user_prompt", {"hook_event_name": "UserPromptSubmit", "prompt": prompt, "cwd": CWD})


def closed(message: str) -> Event:
    return stored("turn_end", {"hook_event_name": "Stop", "last_assistant_message": message, "cwd": CWD})


def request_of(events: Sequence[Event], kind: JobKind = JobKind.EVENT) -> GenerationRequest:
    return GenerationRequest(kind, "app", "session", events, "job")


def answer_of(provider: Provider, events: Sequence[Event], kind: JobKind = JobKind.EVENT) -> GenerationAnswer:
    return asyncio.run(provider.generate(request_of(events, kind)))


def notes_of(*events: Event) -> list[Draft]:
    return list(answer_of(RulesProvider(), events).drafts)


def note_of(*events: Event) -> Draft:
    """The one observation of a run that has to give exactly one."""
    (note,) = notes_of(*events)
    return note


def summary_of(*events: Event) -> Draft:
    (note,) = answer_of(RulesProvider(), events, JobKind.SUMMARY).drafts
    return note


def recorded_events() -> list[Event]:
    """The recorded session as the hook client and the server would store it, doubles included."""
    hooks = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    return [
        stored(event.event_type, event.payload, key=f"{event.tool_use_id}:{event.phase}" if event.tool_use_id else None)
        for hook in hooks
        for event in adapt(hook, "claude-code").events
    ]
