"""Claude Code's hook payloads, and Codex's, which have the same names: our payload shape is theirs."""

from collections.abc import Mapping
from typing import Any

from onlooker.domain.adapters.shape import (
    NOTIFICATION,
    PHASE_NAMES,
    PRE_COMPACT,
    SESSION_END,
    SESSION_START,
    SUBAGENT_END,
    TOOL_USE,
    TURN_END,
    USER_PROMPT,
    Adapted,
    AgentEvent,
    Fields,
    Phase,
    is_own_text,
    is_own_tool,
    tool_use_id_of,
)

EVENTS: Mapping[str, tuple[str, Phase | None]] = {
    "SessionStart": (SESSION_START, None),
    "UserPromptSubmit": (USER_PROMPT, None),
    "PreToolUse": (TOOL_USE, "pre"),
    "PostToolUse": (TOOL_USE, "post"),
    "PostToolUseFailure": (TOOL_USE, "failed"),
    "PostToolBatch": (TOOL_USE, "post"),
    "Stop": (TURN_END, None),
    "SubagentStop": (SUBAGENT_END, None),
    "PreCompact": (PRE_COMPACT, None),
    "SessionEnd": (SESSION_END, None),
    "Notification": (NOTIFICATION, None),
}

_RENAMED = {"tool_output": "tool_response", "toolUseId": "tool_use_id", "user_prompt": "prompt"}


def adapt_claude_code(payload: Mapping[str, Any]) -> Adapted:
    fields = Fields(payload)
    name = fields.text("hook_event_name")
    if name is None and fields.text("type") == "agent-turn-complete":
        return _codex_notification(payload)
    if name is None:
        name = _guessed(payload)
    if name is None:
        return Adapted(skipped=("no_event_name",), wrong=tuple(fields.wrong))
    if name == "PostToolBatch":
        return _batch(payload)
    event_type, phase = EVENTS.get(name, (name, None))
    return build(payload, event_type, phase, fields.wrong)


def build(payload: Mapping[str, Any], event_type: str, phase: Phase | None, wrong: list[str] | None = None) -> Adapted:
    """One event out of a payload that has Claude Code's field names already, or the reason why it is none."""
    fields = Fields(payload, list(wrong or ()))
    reason = _own(fields, event_type)
    if reason:
        return Adapted(skipped=(reason,), wrong=tuple(fields.wrong))
    kept = {_RENAMED.get(key, key): value for key, value in payload.items() if _RENAMED.get(key) not in payload}
    if phase is not None:
        kept["hook_event_name"] = PHASE_NAMES[phase]
    event = AgentEvent(
        event_type=event_type,
        content_session_id=fields.text("session_id"),
        tool_use_id=tool_use_id_of(payload) if event_type == TOOL_USE else None,
        phase=phase,
        agent_id=fields.text("agent_id"),
        agent_type=fields.text("agent_type"),
        cwd=fields.text("cwd"),
        occurred_at=fields.time("timestamp"),
        payload=kept,
    )
    return Adapted(events=(event,), wrong=tuple(fields.wrong))


def _own(fields: Fields, event_type: str) -> str | None:
    if event_type == TOOL_USE:
        tool = fields.text("tool_name")
        if tool is None:
            return "no_tool_name"
        return "own_tool" if is_own_tool(tool) else None
    if event_type == USER_PROMPT:
        prompt = fields.text("prompt", "user_prompt")
        return "own_prompt" if prompt and is_own_text(prompt) else None
    return None


def _guessed(payload: Mapping[str, Any]) -> str | None:
    """The event a payload without a name can only be; None where it could be several."""
    if isinstance(payload.get("tool_name"), str):
        return "PostToolUseFailure" if "error" in payload and "tool_response" not in payload else "PostToolUse"
    return "UserPromptSubmit" if isinstance(payload.get("prompt"), str) else None


def _batch(payload: Mapping[str, Any]) -> Adapted:
    """Each call of a batch as the event that PostToolUse gave for it already: same id, same phase, hence same key."""
    calls = payload.get("tool_calls")
    if not isinstance(calls, list):
        return Adapted(skipped=("empty_batch",), wrong=("tool_calls",) if calls is not None else ())
    common = {key: value for key, value in payload.items() if key != "tool_calls"}
    parts = [
        build({**common, **call}, TOOL_USE, "failed" if call.get("is_error") is True else "post")
        if isinstance(call, Mapping)
        else Adapted(skipped=("not_an_object",))
        for call in calls
    ]
    return Adapted(
        events=tuple(event for part in parts for event in part.events),
        skipped=tuple(reason for part in parts for reason in part.skipped) or (() if parts else ("empty_batch",)),
        wrong=tuple(name for part in parts for name in part.wrong),
    )


def _codex_notification(payload: Mapping[str, Any]) -> Adapted:
    """Codex's `notify` program gets the turn's end under names of its own."""
    renamed = {
        "session_id": payload.get("thread-id"),
        "turn_id": payload.get("turn-id"),
        "last_assistant_message": payload.get("last-assistant-message"),
        "cwd": payload.get("cwd"),
    }
    kept = {key: value for key, value in renamed.items() if value is not None}
    return build({**kept, "hook_event_name": "Stop"}, TURN_END, None)
