"""OpenCode's in-process hooks, as a plugin posts them: `{hook_event_name, input, output, directory}`."""

from collections.abc import Mapping
from typing import Any

from onlooker.domain.adapters.claude_code import build
from onlooker.domain.adapters.shape import (
    NOTIFICATION,
    PRE_COMPACT,
    SESSION_END,
    SESSION_START,
    TOOL_USE,
    TURN_END,
    USER_PROMPT,
    Adapted,
    Fields,
    Phase,
    blocks_text,
)

EVENTS: Mapping[str, tuple[str, Phase | None]] = {
    "session.created": (SESSION_START, None),
    "chat.message": (USER_PROMPT, None),
    "tool.execute.before": (TOOL_USE, "pre"),
    "tool.execute.after": (TOOL_USE, "post"),
    "session.idle": (TURN_END, None),
    "session.compacted": (PRE_COMPACT, None),
    "experimental.session.compacting": (PRE_COMPACT, None),
    "session.deleted": (SESSION_END, None),
    "session.error": (NOTIFICATION, None),
}

_SESSION_NAMES = ("sessionID", "sessionId", "session_id")


def adapt_opencode(payload: Mapping[str, Any]) -> Adapted:
    fields = Fields(payload)
    name = fields.text("hook_event_name", "type")
    if name is None:
        return Adapted(skipped=("no_event_name",), wrong=tuple(fields.wrong))
    event_type, phase = EVENTS.get(name, (name, None))
    given = fields.mapping("input", "properties")
    info = Fields(given).mapping("info")
    made = fields.mapping("output")
    renamed: dict[str, Any] = {
        "hook_event_name": name,
        "session_id": _session(payload, given, made) or info.get("id"),
        "cwd": fields.text("cwd", "directory"),
        **{key: payload[key] for key in ("timestamp", "model", "last_assistant_message") if key in payload},
    }
    if event_type == TOOL_USE:
        renamed["tool_name"] = given.get("tool")
        renamed["tool_input"] = made.get("args") or given.get("args") or {}
        renamed["tool_use_id"] = given.get("callID")
        if phase == "post":
            renamed["tool_response"] = {key: made[key] for key in ("title", "output", "metadata") if key in made}
    if event_type == USER_PROMPT:
        renamed["prompt"] = blocks_text(made.get("parts")) or fields.text("prompt") or ""
    return build({key: value for key, value in renamed.items() if value is not None}, event_type, phase, fields.wrong)


def _session(*places: Mapping[str, Any]) -> str | None:
    for place in places:
        session = Fields(place).text(*_SESSION_NAMES)
        if session:
            return session
    return None
