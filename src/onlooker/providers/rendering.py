"""A stored event as the text that a model reads: what was done, with what, and what came of it."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onlooker.domain.adapters import ToolUse, closing_message_of, phase_of, prompt_of, read_tool_use
from onlooker.domain.models import Event
from onlooker.domain.tokens import estimate_tokens
from onlooker.providers.cutting import CHARACTERS_A_TOKEN, cut_middle, cut_to_tokens
from onlooker.providers.quoting import quoted, quoted_name

EVENT_TOKENS = 900
"""The longest share of one event. Of 100 events of recorded sessions about 90 are shorter."""

READING_TOKENS = 250
"""The share of what was only read: the code is there to be read again, and a note on it needs its gist."""

FRAME_TOKENS = 24
"""What the tags around an event take."""

SMALLEST_TOKENS = 64
"""Below this, tags included, a cut text says nothing any more."""

MOST_CHARACTERS_A_TOKEN = 8
"""A text with more of them than that is not counted before it is cut."""

REMEMBERED = 1_024

_READING = frozenset({"Read", "Glob", "Grep", "LS", "WebFetch", "WebSearch", "NotebookRead"})
_ENVELOPE = frozenset(
    {
        "session_id", "transcript_path", "cwd", "hook_event_name", "permission_mode", "tool_use_id", "prompt_id",
        "scratchpad_dir", "agent_id", "agent_type", "turn_id", "model", "stop_hook_active", "duration_ms", "effort",
    }
)  # fmt: skip
"""Members of a payload that say nothing about the work."""

_MOST_MEMBERS = 30


@dataclass(frozen=True, slots=True)
class Rendered:
    """An event's text, ready to stand in a prompt, and the attributes of its tag."""

    attributes: str
    body: str
    tokens: int
    is_reading: bool

    def cut(self, tokens: int) -> "Rendered":
        """The same in fewer tokens."""
        if self.tokens <= tokens:
            return self
        body = cut_to_tokens(self.body, max(tokens, SMALLEST_TOKENS) - FRAME_TOKENS)
        return Rendered(self.attributes, quoted(body), estimate_tokens(body) + FRAME_TOKENS, self.is_reading)

    def tag(self, index: int) -> str:
        """The event between its tags, under its index in the request."""
        return f'<event index="{index}"{self.attributes}>\n{self.body}\n</event>'


class Renderer:
    """Renders events and remembers the last ones: what was weighed for a batch is rendered for its prompt again."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Rendered] = OrderedDict()

    def render(self, event: Event) -> Rendered:
        """Never raises, whatever the payload holds."""
        known = self._known.get(event.id)
        if known is None:
            known = self._known[event.id] = render_event(event)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known


def render_event(event: Event) -> Rendered:
    """One event, cut to its longest share."""
    try:
        payload = json.loads(event.payload_json)
    except (ValueError, RecursionError):
        payload = event.payload_json
    if not isinstance(payload, Mapping):
        return _rendered(event.event_type, "", str(payload), EVENT_TOKENS)
    use = read_tool_use(payload) if phase_of(event.event_type, payload) is not None else None
    if use is not None:
        limit = READING_TOKENS if use.tool in _READING and not use.failed else EVENT_TOKENS
        failed = ' failed="true"' if use.failed else ""
        tool = f' tool="{quoted_name(use.tool)}"{failed}'
        return _rendered(event.event_type, tool, _text_of_use(use, limit), limit, is_reading=limit == READING_TOKENS)
    text = prompt_of(payload) if event.event_type == "user_prompt" else closing_message_of(payload)
    return _rendered(event.event_type, "", text or _compact(_without_envelope(payload)), EVENT_TOKENS)


def _rendered(event_type: str, more: str, text: str, tokens: int, *, is_reading: bool = False) -> Rendered:
    """The text cut to so many tokens where it has more; counted once where it has not, since counting is what costs."""
    text = text.strip("\n")
    limit = tokens - FRAME_TOKENS
    may_fit = len(text) <= limit * MOST_CHARACTERS_A_TOKEN
    body = quoted(text if may_fit else cut_to_tokens(text, limit))
    counted = estimate_tokens(body)
    if may_fit and counted > limit:
        body = quoted(cut_to_tokens(text, limit))
        counted = estimate_tokens(body)
    attributes = f' type="{quoted_name(event_type)}"{more}'
    return Rendered(attributes, body, counted + FRAME_TOKENS, is_reading)


def _text_of_use(use: ToolUse, tokens: int) -> str:
    """What the tool was given and what it gave back, each cut to a share of the whole, so that neither is lost."""
    length = tokens * CHARACTERS_A_TOKEN
    given = _given(use)
    output = use.error or use.output or _response(use)
    if len(given) + len(output) > length:
        given = cut_middle(given, max(length // 2, length - len(output)))
        output = cut_middle(output, max(length // 2, length - len(given)))
    return "\n".join(part for part in (given, "-- output" if output else "", output) if part)


def _given(use: ToolUse) -> str:
    if use.command is not None:
        return f"$ {use.command}"
    return "\n".join(
        f"{name}: {value}" if isinstance(value, str) else f"{name}: {_compact(value)}"
        for name, value in list(use.input.items())[:_MOST_MEMBERS]
        if value not in (None, False, "")
    )


def _response(use: ToolUse) -> str:
    """What came back where it is no text; an edit's response only repeats what was given."""
    if use.tool in {"Edit", "Write", "MultiEdit", "NotebookEdit", "TodoWrite"} or not use.response:
        return ""
    return use.response if isinstance(use.response, str) else _compact(use.response)


def _without_envelope(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in payload.items() if name not in _ENVELOPE}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
