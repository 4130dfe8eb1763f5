"""Codex's rollouts: the events that its hooks would have given, out of the file that it writes itself.

Lines are `{timestamp, type, payload}`. Most messages stand there twice, as `event_msg` and as `response_item`, but not
always: of two that say the same in one turn the first counts. A tool use has the id and phase that its hook gives it.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onlooker.domain.adapters import AgentEvent
from onlooker.domain.adapters.shape import (
    PHASE_NAMES,
    TOOL_USE,
    TURN_END,
    USER_PROMPT,
    Phase,
    epoch_ms,
    is_own_text,
    is_own_tool,
    unpacked,
)
from onlooker.domain.json_lines import JsonLines, Rejected
from onlooker.domain.transcripts import MAX_REASONS, PENDING, TranscriptEvent

CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "mcp_tool_call"})
OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "mcp_tool_call_output"})
TURN_ENDS = frozenset({"task_complete", "turn_aborted", "turn_complete"})
TEXTS = frozenset({"input_text", "output_text", "text"})

PAUSE_MS = 1_000
"""What is copied into a branch's file is written within milliseconds; whoever branches takes longer to go on."""

_NO_PROMPTS = ("<user_instructions>", "<environment_context>", "# AGENTS.md instructions", "<turn_aborted>", "<skill>")
"""How the texts begin that Codex writes in the person's place."""


@dataclass(slots=True)
class _Call:
    """A tool use whose output has not come yet."""

    offset: int
    name: str
    input: Any
    time: int | None


@dataclass(slots=True)
class _Copying:
    """What was said before in another session, written into a branch's file at once when that began."""

    offset: int
    at: int


@dataclass(slots=True)
class _Turn:
    """What was said in the turn that is open."""

    prompts: set[str] = field(default_factory=set)
    asked: int | None = None
    """Where the first prompt stands that the agent has not answered; it may come once more."""
    closing: str = ""
    closing_at: int | None = None
    offset: int = 0


class RolloutReader:
    """Feed it a rollout's bytes as they come; like `TranscriptReader`, which it stands beside.

    `first` is the file's first line, where the reading begins behind it: it names the session and its folder.
    `last_at` is the latest time of a line, in epoch milliseconds.
    """

    def __init__(self, offset: int = 0, first: bytes = b"") -> None:
        self.skipped: Counter[str] = Counter()
        self.last_at = 0
        self._lines = JsonLines(offset)
        self._session: str | None = None
        self._cwd: str | None = None
        self._branch: str | None = None
        self._copying: _Copying | None = None
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._turn = _Turn()
        for _, line in JsonLines().feed(first):
            if isinstance(line, Mapping) and isinstance(line.get("payload"), Mapping):
                self._read_meta(line["payload"])

    @property
    def rejected(self) -> list[Rejected]:
        """The parts of the file that are no JSON, the first thousand of them."""
        return self._lines.rejected

    @property
    def rejected_count(self) -> int:
        return self._lines.rejected_count

    @property
    def offset(self) -> int:
        """The byte to go on from, so that nothing that is still open is lost."""
        waiting = [call.offset for call in self._calls.values()]
        if self._turn.closing:
            waiting.append(self._turn.offset)
        if self._turn.asked is not None:
            waiting.append(self._turn.asked)
        if self._copying is not None:
            waiting.append(self._copying.offset)
        return min((*waiting, self._lines.offset))

    def feed(self, data: bytes) -> Iterator[TranscriptEvent]:
        return self._events(self._lines.feed(data))

    def finish(self) -> Iterator[TranscriptEvent]:
        yield from self._events(self._lines.finish())
        yield from self._close(None)

    def _events(self, lines: Iterator[tuple[int, Any]]) -> Iterator[TranscriptEvent]:
        for offset, line in lines:
            payload = line.get("payload") if isinstance(line, Mapping) else None
            if not isinstance(payload, Mapping):
                self._skip("not_an_object")
                continue
            at = epoch_ms(line.get("timestamp"))
            self.last_at = max(self.last_at, at or 0)
            if self._is_copied(offset, at, line.get("type"), payload):
                self._skip("copied")
                continue
            match line.get("type"):
                case "session_meta" | "turn_context":
                    self._read_meta(payload)
                case "response_item":
                    yield from self._read_item(offset, at, payload)
                case "event_msg":
                    yield from self._read_message(offset, at, payload)
                case kind:
                    self._skip(f"type:{kind}")

    def _is_copied(self, offset: int, at: int | None, kind: Any, payload: Mapping[str, Any]) -> bool:
        """Whether a line is of the session that this one branched off: from that one's first line to the first pause.

        The file's own first line names its session; a later one that names another was copied, with what follows it.
        """
        if kind == "session_meta" and self._session is not None and _text(payload, "id") not in (None, self._session):
            self._copying = _Copying(self._copying.offset if self._copying else offset, at or self.last_at)
        elif self._copying is not None and (at or self.last_at) - self._copying.at > PAUSE_MS:
            self._copying = None
        elif self._copying is not None:
            self._copying.at = at or self._copying.at
        return self._copying is not None

    def _read_meta(self, payload: Mapping[str, Any]) -> None:
        self._session = _text(payload, "id") or self._session
        self._cwd = _text(payload, "cwd") or self._cwd
        git = payload.get("git")
        if isinstance(git, Mapping):
            self._branch = _text(git, "branch") or self._branch

    def _read_item(self, offset: int, at: int | None, payload: Mapping[str, Any]) -> Iterator[TranscriptEvent]:
        kind = payload.get("type")
        if kind == "message" and payload.get("role") == "user":
            yield from self._prompt(offset, at, _said(payload.get("content")))
        elif kind == "message" and payload.get("role") == "assistant":
            self._say(offset, at, _said(payload.get("content")))
        elif kind in CALLS:
            self._call(offset, at, payload)
        elif kind in OUTPUTS:
            yield from self._output(offset, at, payload)
        else:
            self._skip(f"item:{kind}")

    def _read_message(self, offset: int, at: int | None, payload: Mapping[str, Any]) -> Iterator[TranscriptEvent]:
        kind = payload.get("type")
        if kind == "user_message":
            yield from self._prompt(offset, at, _text(payload, "message") or "")
        elif kind == "agent_message":
            self._say(offset, at, _text(payload, "message") or "")
        elif kind in TURN_ENDS:
            last = _text(payload, "last_agent_message")
            if last and not self._turn.closing:
                self._say(offset, at, last)
            yield from self._close(at)
        else:
            self._skip(f"event:{kind}")

    def _prompt(self, offset: int, at: int | None, text: str) -> Iterator[TranscriptEvent]:
        head = text.strip()
        if not head or head.startswith(_NO_PROMPTS) or is_own_text(text):
            self._skip("no_prompt")
            return
        if head in self._turn.prompts and not self._turn.closing:
            self._skip("repeated")
            return
        if self._turn.closing:
            yield from self._close(None)
        self._turn.prompts.add(head)
        if self._turn.asked is None:
            self._turn.asked = offset
        yield self._event(USER_PROMPT, offset, at, {"hook_event_name": "UserPromptSubmit", "prompt": text})

    def _say(self, offset: int, at: int | None, text: str) -> None:
        if not text.strip():
            return
        if text == self._turn.closing:
            self._skip("repeated")
            return
        self._turn.closing, self._turn.closing_at, self._turn.offset = text, at, offset
        self._turn.asked = None

    def _close(self, at: int | None) -> Iterator[TranscriptEvent]:
        turn, self._turn = self._turn, _Turn()
        if turn.closing:
            payload = {"hook_event_name": "Stop", "last_assistant_message": turn.closing}
            yield self._event(TURN_END, turn.offset, at or turn.closing_at, payload)

    def _call(self, offset: int, at: int | None, payload: Mapping[str, Any]) -> None:
        self._turn.asked = None
        call_id = _text(payload, "call_id", "id")
        name = _text(payload, "name") or ("shell" if payload.get("type") == "local_shell_call" else None)
        if call_id is None or name is None:
            self._skip("no_tool_name")
        elif is_own_tool(name):
            self._skip("own_tool")
        else:
            given: Any = next(
                (payload[key] for key in ("arguments", "input", "action") if payload.get(key) is not None), {}
            )
            self._calls.setdefault(call_id, _Call(offset, name, unpacked(given), at))
            if len(self._calls) > PENDING:
                self._calls.popitem(last=False)
                self._skip("use_without_result")

    def _output(self, offset: int, at: int | None, payload: Mapping[str, Any]) -> Iterator[TranscriptEvent]:
        call_id = _text(payload, "call_id")
        call = self._calls.pop(call_id, None) if call_id else None
        if call is None:
            self._skip("result_without_use")
            return
        output = payload.get("output")
        inside = unpacked(output)
        failed = isinstance(inside, Mapping) and inside.get("success") is False
        phase: Phase = "failed" if failed else "post"
        told: dict[str, Any] = {
            "hook_event_name": PHASE_NAMES[phase],
            "tool_name": call.name,
            "tool_input": call.input,
            "tool_use_id": call_id,
        }
        if failed:
            told["error"] = _said(inside.get("content")) or json.dumps(inside, ensure_ascii=False)
        else:
            told["tool_response"] = output
        yield self._event(TOOL_USE, offset, at or call.time, told, phase)

    def _skip(self, reason: str) -> None:
        known = reason in self.skipped or len(self.skipped) < MAX_REASONS
        self.skipped[reason if known else "other"] += 1

    def _event(
        self, event_type: str, offset: int, at: int | None, payload: dict[str, Any], phase: Phase | None = None
    ) -> TranscriptEvent:
        payload |= {"session_id": self._session, "cwd": self._cwd, "git_branch": self._branch}
        event = AgentEvent(
            event_type=event_type,
            content_session_id=self._session,
            tool_use_id=payload.get("tool_use_id"),
            phase=phase,
            cwd=self._cwd,
            occurred_at=at,
            payload={name: value for name, value in payload.items() if value not in (None, "")},
        )
        return TranscriptEvent(event, offset, None)


def is_rollout(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a rollout."""
    line = head.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")[0][:400].replace(b" ", b"")
    return line.startswith(b"{") and b'"payload":{' in line and b'"type":"session_meta"' in line


def _text(payload: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        value = payload.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def _said(content: Any) -> str:
    """The text of a message: a string, or the texts of its blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks if isinstance(block, Mapping) and block.get("type") in TEXTS]
    return "\n".join(text for text in texts if isinstance(text, str))
