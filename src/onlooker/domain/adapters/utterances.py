"""Prompts and turn ends as both of their tellers tell them: an agent's hook at the time, its transcript afterwards."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from onlooker.domain.adapters.shape import SUBAGENT_END, TURN_END, USER_PROMPT
from onlooker.domain.adapters.tool_use import closing_message_of, prompt_of
from onlooker.domain.models import Utterance

HASHED = 2_000
"""Characters of a text that count: some clients cut what they hand to a hook."""

_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    USER_PROMPT: prompt_of,
    TURN_END: closing_message_of,
    SUBAGENT_END: closing_message_of,
}


def utterance_of(origin: Literal["hook", "transcript"], event_type: str, payload: Any) -> Utterance | None:
    """What a stored payload says, to be compared; None for events that have an id of their own."""
    text_of = _TEXTS.get(event_type)
    if text_of is None or not isinstance(payload, Mapping):
        return None
    agent = payload.get("agent_id")
    kind = f"{event_type}:{agent}" if event_type == SUBAGENT_END and isinstance(agent, str) else event_type
    text = " ".join((text_of(payload) or "").split())[:HASHED]
    return Utterance(origin, kind[:200], hashlib.sha256(text.encode(errors="replace")).hexdigest() if text else "")
