"""Hooks: an agent's raw payloads, and the two routes that older hook clients still call."""

from typing import Any, Literal
from urllib.parse import unquote

from msgspec import Struct

from onlooker.domain.models import KeyScope, Recorded
from onlooker.domain.places import Place
from onlooker.host import now_ms
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import Name, Text
from onlooker.services.hooks import HookPayload, HookRecorded

# Older hooks mix two spellings in one body, so their fields are renamed one by one.
OLD_NAMES = {
    "content_session_id": "contentSessionId",
    "agent_id": "agentId",
    "agent_type": "agentType",
    "platform_source": "platformSource",
    "other_tool_use_id": "toolUseId",
}


class ToolUseBody(Struct, rename=OLD_NAMES):
    """A tool use as hooks in the field send it."""

    content_session_id: Name
    tool_name: str
    tool_input: Any = None
    tool_response: Any = None
    cwd: str | None = None
    agent_id: Text | None = None
    agent_type: Text | None = None
    platform_source: Text | None = None
    tool_use_id: Text | None = None
    other_tool_use_id: Text | None = None


class SummarizeBody(Struct, rename=OLD_NAMES):
    """The end of a turn as hooks in the field send it."""

    content_session_id: Name
    last_assistant_message: str | None = None
    cwd: str | None = None
    agent_id: Text | None = None
    platform_source: Text | None = None


class LegacyView(Struct, rename="camel", omit_defaults=True):
    """What became of a request of an older hook."""

    status: Literal["queued", "skipped"]
    server_session_id: str | None
    generation_job_id: str | None
    reason: str | None = None


class HookQuery(Struct, frozen=True):
    """`store=false` for a payload that is kept for later, because others wait before it."""

    store: bool = True


class HookView(Struct):
    """What became of a hook's raw payload."""

    recorded: int
    duplicates: int
    skipped: tuple[str, ...]
    wrong: tuple[str, ...]


DEFAULT_PLATFORM = "claude-code"
LONGEST_TIME = 15


LARGEST_BODY = 8 * 1024 * 1024
"""Bytes of one payload: a file that was read, an image. It is cut where it is stored, once secrets are out of it."""
OLDEST_MS = 90 * 24 * 3_600_000
AHEAD_MS = 300_000
"""How far a client's clock is believed: hooks may be kept for weeks, but are not told before they ran."""


async def post_hook(call: Call) -> Reply:
    """Store what an agent's hook said, as the agent gave it."""
    done = await call.services.hooks.receive(call.principal, _told(call))
    duplicates = sum(each.duplicate for each in done.recorded)
    return Reply(HookView(len(done.recorded), duplicates, done.skipped, done.wrong), 200 if not done.recorded else 201)


def _told(call: Call) -> HookPayload:
    """The payload with what the hook client adds: when it ran, and where."""
    name, identity = call.header(b"x-onlooker-project"), call.header(b"x-onlooker-place")
    place = Place(unquote(name), unquote(identity)) if name and identity else None
    return HookPayload(call.path["agent"], call.body, believed_time(call.header(b"x-onlooker-at"), now_ms()), place)


def believed_time(told: str, now: int) -> int:
    """When a hook ran, as its client tells in epoch milliseconds; now, where it tells nothing that can be."""
    at = int(told) if told.isdecimal() and len(told) <= LONGEST_TIME else 0
    return at if now - OLDEST_MS <= at <= now + AHEAD_MS else now


async def post_for_context(call: Call) -> Reply:
    """Store what a hook said, and answer what its agent is to read on the hook's standard output."""
    hook = _told(call)
    if call.query.store:
        await call.services.hooks.receive(call.principal, hook)
    may_read = call.principal.may(KeyScope.READ)
    return Reply(await call.services.injecting.answer(call.principal, hook) if may_read else {})


async def post_tool_use(call: Call) -> Reply:
    """Store a tool use that an older hook sent."""
    body: ToolUseBody = call.body
    payload: dict[str, Any] = {
        "hook_event_name": "PostToolUse",
        "session_id": body.content_session_id,
        "tool_name": body.tool_name,
        "tool_input": body.tool_input,
        "tool_response": body.tool_response,
        "cwd": body.cwd,
        "agent_id": body.agent_id,
        "agent_type": body.agent_type,
        "tool_use_id": body.tool_use_id or body.other_tool_use_id,
    }
    return await _record(call, payload, body.platform_source)


async def post_summarize(call: Call) -> Reply:
    """End a turn, as an older hook says it."""
    body: SummarizeBody = call.body
    if body.agent_id:
        # The turn goes on: only its subagent has ended.
        return Reply(LegacyView("skipped", None, None, "subagent_context"))
    payload: dict[str, Any] = {
        "hook_event_name": "Stop",
        "session_id": body.content_session_id,
        "last_assistant_message": body.last_assistant_message,
        "cwd": body.cwd,
    }
    return await _record(call, payload, body.platform_source)


async def _record(call: Call, payload: dict[str, Any], platform: str | None) -> Reply:
    given = {name: value for name, value in payload.items() if value is not None}
    hook = HookPayload(platform or DEFAULT_PLATFORM, given, now_ms())
    done = await call.services.hooks.receive(call.principal, hook)
    return Reply(_legacy_view(done))


def _legacy_view(done: HookRecorded) -> LegacyView:
    if not done.recorded:
        return LegacyView("skipped", None, None, ", ".join((*done.skipped, *done.wrong)) or "nothing to record")
    first: Recorded = done.recorded[0]
    job_id = None if first.job is None else first.job.id
    return LegacyView("queued", first.event.session_id, job_id)


OPERATIONS = (
    Operation(
        "POST", "/v1/hooks/{agent}", "Store an agent's raw hook payload", post_hook, {200: HookView, 201: HookView},
        KeyScope.WRITE, dict[str, Any], max_body_bytes=LARGEST_BODY,
    ),
    Operation(
        "POST", "/v1/hooks/{agent}/context", "Store a hook's payload and answer what its agent is to read",
        post_for_context, {200: dict[str, Any]}, KeyScope.WRITE, dict[str, Any], HookQuery,
        max_body_bytes=LARGEST_BODY,
    ),
    Operation(
        "POST", "/api/sessions/observations", "Store a tool use (older hooks)", post_tool_use, {200: LegacyView},
        KeyScope.WRITE, ToolUseBody,
    ),
    Operation(
        "POST", "/api/sessions/summarize", "End a turn (older hooks)", post_summarize, {200: LegacyView},
        KeyScope.WRITE, SummarizeBody,
    ),
)  # fmt: skip
