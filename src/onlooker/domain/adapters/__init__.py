"""Agent payloads → our events, and our events' payloads → what providers read.

One module per agent holds one table: its event's name → ours. All of them make payloads with Claude Code's field
names, so that whoever reads a stored event knows one shape.
"""

from collections.abc import Callable, Mapping
from typing import Any

from onlooker.domain.adapters.claude_code import EVENTS, adapt_claude_code
from onlooker.domain.adapters.cursor import adapt_cursor
from onlooker.domain.adapters.gemini_cli import adapt_gemini_cli
from onlooker.domain.adapters.opencode import adapt_opencode
from onlooker.domain.adapters.shape import TOOL_USE, Adapted, AgentEvent, Phase, tool_use_id_of
from onlooker.domain.adapters.tool_use import ToolUse, closing_message_of, prompt_of, read_tool_use
from onlooker.domain.adapters.windsurf import adapt_windsurf

__all__ = [
    "Adapted",
    "AgentEvent",
    "Phase",
    "ToolUse",
    "adapt",
    "canonical_event_type",
    "closing_message_of",
    "phase_of",
    "prompt_of",
    "read_tool_use",
    "tool_use_id_of",
]

_ADAPTERS: Mapping[str, Callable[[Mapping[str, Any]], Adapted]] = {
    "claude-code": adapt_claude_code,
    "codex": adapt_claude_code,
    "cursor": adapt_cursor,
    "windsurf": adapt_windsurf,
    "gemini-cli": adapt_gemini_cli,
    "opencode": adapt_opencode,
}


def adapt(payload: Any, platform: str) -> Adapted:
    """The events in one raw hook payload. Never raises: what cannot be used is a reason in `skipped`.

    A platform that is not known is read by Claude Code's names, which most agents took over.
    """
    if not isinstance(payload, Mapping):
        return Adapted(skipped=("not_an_object",))
    return _ADAPTERS.get(platform, adapt_claude_code)(payload)


def canonical_event_type(name: str) -> str:
    """Our name of an event type given as ours or as Claude Code's (`PostToolUse`); others stay as they are."""
    return EVENTS[name][0] if name in EVENTS else name


def phase_of(event_type: str, payload: Mapping[str, Any]) -> Phase | None:
    """Where in its tool use a stored or posted event stands; None for an event that is no tool use.

    `hook_event_name` decides, else the event type; a tool use that says neither is failed when it has an
    error and no response, else post.
    """
    for name in (payload.get("hook_event_name"), event_type):
        if isinstance(name, str) and name in EVENTS:
            return EVENTS[name][1]
    if event_type != TOOL_USE:
        return None
    answered = any(payload.get(name) is not None for name in ("tool_response", "tool_output"))
    return "failed" if isinstance(payload.get("error"), str) and not answered else "post"
