"""Hooks: an agent's raw payloads, and the two routes that older hook clients still call."""

from typing import Any

from onlooker.domain.models import KeyScope, Recorded
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import HookView, LegacyView, SummarizeBody, ToolUseBody
from onlooker.services.ingest import HookRecorded

DEFAULT_PLATFORM = "claude-code"


async def post_hook(call: Call) -> Reply:
    """Store what an agent's hook said, as the agent gave it."""
    done = await call.services.ingest.record_hook(call.principal, call.path["agent"], call.body)
    duplicates = sum(each.duplicate for each in done.recorded)
    return Reply(HookView(len(done.recorded), duplicates, done.skipped, done.wrong), 200 if not done.recorded else 201)


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
    payload: dict[str, Any] = {
        "hook_event_name": "Stop",
        "session_id": body.content_session_id,
        "last_assistant_message": body.last_assistant_message,
        "cwd": body.cwd,
        "agent_id": body.agent_id,
    }
    return await _record(call, payload, body.platform_source)


async def _record(call: Call, payload: dict[str, Any], platform: str | None) -> Reply:
    given = {name: value for name, value in payload.items() if value is not None}
    done = await call.services.ingest.record_hook(call.principal, platform or DEFAULT_PLATFORM, given)
    return Reply(_legacy_view(done))


def _legacy_view(done: HookRecorded) -> LegacyView:
    if not done.recorded:
        return LegacyView("skipped", reason=", ".join((*done.skipped, *done.wrong)) or "nothing to record")
    first: Recorded = done.recorded[0]
    job_id = None if first.job is None else first.job.id
    return LegacyView("queued", server_session_id=first.event.session_id, generation_job_id=job_id)


OPERATIONS = (
    Operation(
        "POST", "/v1/hooks/{agent}", "Store an agent's raw hook payload", post_hook, {200: HookView, 201: HookView},
        KeyScope.WRITE, dict[str, Any],
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
