"""What an agent reads on its hook's standard output, where that is to add to what its model knows."""

from collections.abc import Mapping
from typing import Any, Literal

Moment = Literal["start", "compacted", "prompt"]
"""When context may be added: a session begins, it was compacted, a person asked something."""

MOMENTS: Mapping[str, Moment] = {
    "SessionStart": "start",
    "sessionStart": "start",
    "session.created": "start",
    "session.compacted": "compacted",
    "UserPromptSubmit": "prompt",
    "BeforeAgent": "prompt",
}
"""Each agent's name of the event → the moment. Windsurf has none: its hooks cannot add anything."""


def moment_of(payload: Mapping[str, Any]) -> Moment | None:
    """The moment that a raw payload tells of; None where nothing can be added."""
    name = payload.get("hook_event_name")
    moment = MOMENTS.get(name) if isinstance(name, str) else None
    return "compacted" if moment == "start" and payload.get("source") == "compact" else moment


def answer_with(platform: str, payload: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The object that the agent expects; an empty one says nothing."""
    if not text:
        return {}
    if platform in ("cursor", "opencode"):
        return {"additional_context": text}
    return {"hookSpecificOutput": {"hookEventName": payload.get("hook_event_name"), "additionalContext": text}}
