"""What every agent's hook payloads are turned into, and how their fields are read without trusting their types."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

Phase = Literal["pre", "post", "failed"]
"""Where in a tool use an event stands. It is part of the event's key, so a batch double of a post is a post."""

SESSION_START = "session_start"
USER_PROMPT = "user_prompt"
TOOL_USE = "tool_use"
TURN_END = "turn_end"
SUBAGENT_END = "subagent_end"
PRE_COMPACT = "pre_compact"
SESSION_END = "session_end"
NOTIFICATION = "notification"
AGENT_RESPONSE = "agent_response"
"""A message of the agent in mid-turn, from agents whose turn end carries no text."""

PHASE_NAMES: Mapping[Phase, str] = {"pre": "PreToolUse", "post": "PostToolUse", "failed": "PostToolUseFailure"}
"""The `hook_event_name` a tool use is stored under, whatever its agent calls it."""

SECONDS_BELOW = 100_000_000_000
"""A time number below this is in seconds (until the year 5138), above it in milliseconds (from 1973)."""


class AgentEvent(NamedTuple):
    """One thing an agent did; `payload` has Claude Code's field names, whatever agent it came from.

    `occurred_at` is None where the agent sends no time: the caller's own then counts.
    """

    event_type: str
    content_session_id: str | None
    payload: dict[str, Any]
    tool_use_id: str | None = None
    phase: Phase | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    cwd: str | None = None
    occurred_at: int | None = None


class Adapted(NamedTuple):
    """What one payload gave. `skipped` and `wrong` are short codes to count by, never content.

    `skipped` says why a payload or a part of it is no event; `wrong` names fields of a wrong type, which are
    left out of what is derived from them and kept in the payload.
    """

    events: tuple[AgentEvent, ...] = ()
    skipped: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(slots=True)
class Fields:
    """Reads fields of a payload; a value of a wrong type reads as missing, and its name is noted."""

    payload: Mapping[str, Any]
    wrong: list[str] = field(default_factory=list)

    def text(self, *names: str) -> str | None:
        """The first of these fields that is a string with something in it."""
        for name in names:
            value = self.payload.get(name)
            if isinstance(value, str):
                if value:
                    return value
            elif value is not None:
                self.wrong.append(name)
        return None

    def mapping(self, *names: str) -> Mapping[str, Any]:
        """The first of these fields that is an object, or a string that holds one; empty where none is."""
        for name in names:
            value = unpacked(self.payload.get(name))
            if isinstance(value, Mapping):
                return value
            if value is not None:
                self.wrong.append(name)
        return {}

    def time(self, *names: str) -> int | None:
        """The first of these fields that is a time, as epoch milliseconds."""
        for name in names:
            value = self.payload.get(name)
            if value is not None:
                at = epoch_ms(value)
                if at is not None:
                    return at
                self.wrong.append(name)
        return None


def epoch_ms(value: Any) -> int | None:
    """An ISO 8601 text, or a number of seconds or milliseconds, as epoch milliseconds; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        if not 0 < value < SECONDS_BELOW * 1000:
            return None
        return int(value * 1000) if value < SECONDS_BELOW else int(value)
    if isinstance(value, str):
        with suppress(ValueError):
            at = datetime.fromisoformat(value)
            return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    return None


def unpacked(value: Any) -> Any:
    """The JSON that a string holds (a byte order mark before it is no matter), or the value as it is."""
    if not isinstance(value, str):
        return value
    text = value.lstrip("\ufeff \t\r\n")
    if text[:1] not in {"{", "["}:
        return value
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return value


def blocks_text(value: Any) -> str:
    """The text of a message's content: a string, or a list of strings and text blocks; other blocks are left out."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    return "\n".join(_texts(value))


def _texts(blocks: list[Any]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Mapping) and block.get("type", "text") == "text":
            block = block.get("text")  # noqa: PLW2901 - a text block stands for its text
        if isinstance(block, str) and block:
            yield block


def tool_use_id_of(payload: Mapping[str, Any]) -> str | None:
    """The agent's own id of a tool use, under any of the names in the field."""
    for name in ("tool_use_id", "toolUseId", "callID"):
        value = payload.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def is_own_tool(name: str) -> bool:
    """Whether a tool is one of Onlooker's own, by any agent's way of naming MCP tools."""
    name = name.lower()
    for prefix in ("mcp__", "mcp_", "mcp:"):
        name = name.removeprefix(prefix)
    return name.startswith(("onlooker_", "onlooker:", "onlooker/")) or (
        name.startswith("plugin_") and "_onlooker__" in name
    )


def is_own_text(text: str) -> bool:
    """Whether a prompt is one of Onlooker's own, or holds nothing but context that it put in."""
    head = text.lstrip()
    if not head.startswith("<onlooker-"):
        return False
    closing = "</onlooker-context>"
    end = head.rfind(closing)
    return not head.startswith("<onlooker-context") or end < 0 or not head[end + len(closing) :].strip()
