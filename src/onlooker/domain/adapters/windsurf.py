"""Windsurf's hook payloads: one envelope whose `tool_info` depends on the action. Commands come without output."""

from collections.abc import Mapping
from typing import Any

from onlooker.domain.adapters.claude_code import build
from onlooker.domain.adapters.shape import TOOL_USE, TURN_END, USER_PROMPT, Adapted, Fields, Phase, unpacked

EVENTS: Mapping[str, tuple[str, Phase | None, str | None]] = {
    "pre_user_prompt": (USER_PROMPT, None, None),
    "pre_run_command": (TOOL_USE, "pre", "Bash"),
    "post_run_command": (TOOL_USE, "post", "Bash"),
    "pre_write_code": (TOOL_USE, "pre", "Edit"),
    "post_write_code": (TOOL_USE, "post", "Edit"),
    "pre_read_code": (TOOL_USE, "pre", "Read"),
    "post_read_code": (TOOL_USE, "post", "Read"),
    "pre_mcp_tool_use": (TOOL_USE, "pre", None),
    "post_mcp_tool_use": (TOOL_USE, "post", None),
    "post_cascade_response": (TURN_END, None, None),
}
"""Action → event type, phase, tool."""

_SAID = {"user_prompt": "prompt", "response": "last_assistant_message"}
_MOVED = {"trajectory_id", "agent_action_name", "tool_info", "user_email"}
_INPUT = {"command_line": "command", "file_path": "file_path", "edits": "edits"}


def adapt_windsurf(payload: Mapping[str, Any]) -> Adapted:
    fields = Fields(payload)
    name = fields.text("agent_action_name", "hook_event_name")
    if name is None:
        return Adapted(skipped=("no_event_name",), wrong=tuple(fields.wrong))
    if name == "post_cascade_response_with_transcript":  # repeats post_cascade_response
        return Adapted(skipped=("double",))
    event_type, phase, tool = EVENTS.get(name, (name, None, None))
    info = fields.mapping("tool_info")
    renamed: dict[str, Any] = {key: value for key, value in payload.items() if key not in _MOVED}
    renamed["hook_event_name"] = name
    renamed["session_id"] = payload.get("trajectory_id")
    if event_type == TOOL_USE:
        renamed.update(_tool_use(tool, info))
    else:
        renamed.update({key: info[old] for old, key in _SAID.items() if old in info})
    return build(renamed, event_type, phase, fields.wrong)


def _tool_use(tool: str | None, info: Mapping[str, Any]) -> dict[str, Any]:
    if tool is None:
        return {
            "tool_name": f"mcp__{info.get('mcp_server_name')}__{info.get('mcp_tool_name')}",
            "tool_input": unpacked(info.get("mcp_tool_arguments")) or {},
            "tool_response": unpacked(info.get("mcp_result")),
        }
    used: dict[str, Any] = {
        "tool_name": tool,
        "tool_input": {key: info[old] for old, key in _INPUT.items() if old in info},
    }
    if isinstance(info.get("cwd"), str) and info["cwd"]:
        used["cwd"] = info["cwd"]
    return used
