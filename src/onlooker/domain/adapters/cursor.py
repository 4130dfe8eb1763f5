"""Cursor's hook payloads: names of its own for sessions, commands and edits; JSON inside strings."""

from collections.abc import Mapping
from typing import Any

from onlooker.domain.adapters.claude_code import build
from onlooker.domain.adapters.shape import (
    AGENT_RESPONSE,
    PRE_COMPACT,
    SESSION_END,
    SESSION_START,
    SUBAGENT_END,
    TOOL_USE,
    TURN_END,
    USER_PROMPT,
    Adapted,
    Fields,
    Phase,
    unpacked,
)

EVENTS: Mapping[str, tuple[str, Phase | None]] = {
    "sessionStart": (SESSION_START, None),
    "beforeSubmitPrompt": (USER_PROMPT, None),
    "preToolUse": (TOOL_USE, "pre"),
    "beforeShellExecution": (TOOL_USE, "pre"),
    "beforeMCPExecution": (TOOL_USE, "pre"),
    "beforeReadFile": (TOOL_USE, "pre"),
    "postToolUse": (TOOL_USE, "post"),
    "postToolUseFailure": (TOOL_USE, "failed"),
    "afterShellExecution": (TOOL_USE, "post"),
    "afterMCPExecution": (TOOL_USE, "post"),
    "afterFileEdit": (TOOL_USE, "post"),
    "afterAgentResponse": (AGENT_RESPONSE, None),
    "stop": (TURN_END, None),
    "subagentStop": (SUBAGENT_END, None),
    "preCompact": (PRE_COMPACT, None),
    "sessionEnd": (SESSION_END, None),
}

SKIPPED: Mapping[str, str] = {
    "afterAgentThought": "thought",
    "beforeTabFileRead": "completion",
    "afterTabFileEdit": "completion",
}
"""What is no work of the agent's: its thinking, and the editor's completions while a person types."""

_TOOLS = {
    "beforeShellExecution": "Bash",
    "afterShellExecution": "Bash",
    "beforeReadFile": "Read",
    "afterFileEdit": "Edit",
}

_MOVED = {
    "conversation_id", "workspace_roots", "user_email", "hook_event_name", "cwd", "command", "output",
    "result_json", "file_path", "content", "edits", "tool_input", "tool_output", "error_message", "text",
}  # fmt: skip
"""Fields that are renamed, or dropped: the person's mail address, the text of a file that was only opened."""


def adapt_cursor(payload: Mapping[str, Any]) -> Adapted:
    fields = Fields(payload)
    name = fields.text("hook_event_name")
    if name is None:
        return Adapted(skipped=("no_event_name",), wrong=tuple(fields.wrong))
    if name in SKIPPED:
        return Adapted(skipped=(SKIPPED[name],))
    event_type, phase = EVENTS.get(name, (name, None))
    renamed = {key: value for key, value in payload.items() if key not in _MOVED}
    renamed["hook_event_name"] = name
    renamed.update(_given(session_id=fields.text("conversation_id", "session_id"), cwd=_cwd(fields)))
    if event_type == TOOL_USE:
        renamed.update(_tool_use(name, fields))
    else:
        renamed.update(_given(last_assistant_message=fields.text("text")))
    return build(renamed, event_type, phase, fields.wrong)


def _cwd(fields: Fields) -> str | None:
    roots = fields.payload.get("workspace_roots")
    first = roots[0] if isinstance(roots, list) and roots else None
    return fields.text("cwd") or (first if isinstance(first, str) and first else None)


def _tool_use(name: str, fields: Fields) -> dict[str, Any]:
    given = fields.payload.get
    tool_input = unpacked(given("tool_input"))
    if tool_input is None:
        tool_input = _given(command=given("command"), file_path=given("file_path"), edits=given("edits"))
    response = next((given(key) for key in ("result_json", "tool_output") if given(key) is not None), None)
    if name == "afterShellExecution":
        response = _given(stdout=given("output"))
    return _given(
        tool_name=_TOOLS.get(name) or given("tool_name"),
        tool_input=tool_input,
        tool_response=unpacked(response),
        error=given("error_message"),
    )


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
