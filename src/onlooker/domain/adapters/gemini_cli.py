"""Gemini CLI's hook payloads: Claude Code's fields under other event names, and no tool-use ids."""

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
    is_own_tool,
)

EVENTS: Mapping[str, tuple[str, Phase | None]] = {
    "SessionStart": (SESSION_START, None),
    "BeforeAgent": (USER_PROMPT, None),
    "BeforeTool": (TOOL_USE, "pre"),
    "AfterTool": (TOOL_USE, "post"),
    "AfterAgent": (TURN_END, None),
    "PreCompress": (PRE_COMPACT, None),
    "SessionEnd": (SESSION_END, None),
    "Notification": (NOTIFICATION, None),
}

SKIPPED: Mapping[str, str] = {
    "BeforeModel": "model_traffic",
    "AfterModel": "model_traffic",
    "BeforeToolSelection": "model_traffic",
}


def adapt_gemini_cli(payload: Mapping[str, Any]) -> Adapted:
    fields = Fields(payload)
    name = fields.text("hook_event_name")
    if name is None:
        return Adapted(skipped=("no_event_name",), wrong=tuple(fields.wrong))
    if name in SKIPPED:
        return Adapted(skipped=(SKIPPED[name],))
    event_type, phase = EVENTS.get(name, (name, None))
    renamed = dict(payload)
    if event_type == TURN_END:
        renamed["last_assistant_message"] = renamed.pop("prompt_response", None)
    if event_type == TOOL_USE:
        server = fields.mapping("mcp_context").get("server_name")
        if isinstance(server, str) and is_own_tool(server + "_"):
            return Adapted(skipped=("own_tool",))
        error = error_of(payload.get("tool_response"))
        if error is not None:
            phase = "failed"
            renamed["error"] = error
    return build(renamed, event_type, phase, fields.wrong)


def error_of(response: Any) -> str | None:
    """The message of a response's `error`, which is a string or an object with a message."""
    error = response.get("error") if isinstance(response, Mapping) else None
    if isinstance(error, Mapping):
        error = error.get("message")
    return error if isinstance(error, str) and error else None
