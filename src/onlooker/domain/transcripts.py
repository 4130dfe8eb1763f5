"""Claude Code's transcripts: the events that its hooks would have given, out of the file that it writes itself.

A tool use gets the id and phase that its hook gives it, hence the same event key, so a transcript only fills in what
hooks missed. What a line means besides that is in `formats.md`; this module has one function a kind of line.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onlooker.domain.adapters import AgentEvent
from onlooker.domain.adapters.shape import (
    PHASE_NAMES,
    SUBAGENT_END,
    TOOL_USE,
    TURN_END,
    USER_PROMPT,
    Phase,
    blocks_text,
    epoch_ms,
    is_own_tool,
)
from onlooker.domain.errors import InvalidInput
from onlooker.domain.json_lines import LONE_BRACKET, JsonLines, Rejected
from onlooker.domain.transcript_lines import (
    blocks_of,
    foreign_format,
    prompt_in,
    prompt_of_line,
    queued_prompt,
    stream_of,
    text_of,
)

REMEMBERED = 20_000
"""Ids of tool uses, messages and prompts that are kept to know a replay; the database's keys know the older ones."""

PENDING = 1_000
"""Tool uses that may await their result at a time; beyond it the oldest is given up."""

TURNS_KEPT = 2
"""So many prompts later, a tool use without a result was interrupted or denied, and a prompt that waited was taken up
without a line of its own."""

MAX_REASONS = 200
"""Reasons that are counted apart; a file with more kinds of lines than that is no transcript."""


_COMPACTING_AGENT = "acompact"
"""How the id of the subagent begins that the client uses to compact a session: no work of anybody's."""

_TURN_ENDS = ("turn_duration", "stop_hook_summary")
"""System lines that the client writes when a turn is over."""


@dataclass(frozen=True, slots=True)
class TranscriptEvent:
    """One event of a transcript, the offset of the line that completed it, and that line's uuid, where it has one."""

    event: AgentEvent
    offset: int
    line_id: str | None


@dataclass(slots=True)
class _Use:
    """A tool use whose result has not come yet."""

    offset: int
    name: str
    input: Any
    cwd: str | None
    turn: int


@dataclass(slots=True)
class _Queued:
    """A prompt that waits for the agent; mostly it comes again on a line of its own."""

    offset: int
    line: Mapping[str, Any]
    turn: int


@dataclass(slots=True)
class _Closing:
    """The last thing an agent said; it closes the turn unless the agent goes on working."""

    offset: int
    message_id: str | None
    line: Mapping[str, Any]
    texts: list[str] = field(default_factory=list)


class TranscriptReader:
    """Feed it a transcript's bytes as they come; it gives the events in them, in the order of the file.

    `offset` is where to go on after a pause: no event before it is still open. Reading again from there may repeat
    events, whose keys are the same. `finish` says that the file will not grow: the turn that is open is closed then.
    A file that is no Claude Code transcript raises InvalidInput, which says what it is, from the first bytes that
    show it. `skipped` counts what is no event by its reason; `last_at` is the latest time of a line, in epoch
    milliseconds.
    """

    def __init__(self, offset: int = 0) -> None:
        self.skipped: Counter[str] = Counter()
        self.last_at = 0
        self._lines = JsonLines(offset)
        self._started = offset > 0
        self._session: str | None = None
        self._turn = 0
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._closings: dict[tuple[str | None, str], _Closing] = {}
        self._queued: dict[str, _Queued] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._readers: Mapping[str, Callable[[int, Mapping[str, Any]], Iterable[TranscriptEvent]]] = {
            "user": self._read_user,
            "assistant": self._read_assistant,
            "system": self._read_system,
            "queue-operation": self._read_queued,
            "attachment": self._read_attachment,
        }

    @property
    def rejected(self) -> list[Rejected]:
        """The parts of the file that are no JSON, the first thousand of them."""
        return self._lines.rejected

    @property
    def rejected_count(self) -> int:
        return self._lines.rejected_count

    @property
    def offset(self) -> int:
        """The byte to go on from, so that nothing that is still open is lost; to be asked when `feed` is used up."""
        waiting = [use.offset for use in self._uses.values()]
        waiting += [closing.offset for closing in self._closings.values()]
        waiting += [queued.offset for queued in self._queued.values()]
        return min((*waiting, self._lines.offset))

    def feed(self, data: bytes) -> Iterator[TranscriptEvent]:
        return self._events(self._lines.feed(data))

    def finish(self) -> Iterator[TranscriptEvent]:
        yield from self._events(self._lines.finish())
        yield from self._take_up(0)
        yield from self._close_all()

    def _events(self, lines: Iterator[tuple[int, Any]]) -> Iterator[TranscriptEvent]:
        for offset, line in lines:
            self._check_format(line)
            if not isinstance(line, Mapping):
                self._skip("not_an_object")
                continue
            self.last_at = max(self.last_at, epoch_ms(line.get("timestamp")) or 0)
            kind = line.get("type")
            read = self._readers.get(kind) if isinstance(kind, str) else None
            if read is None:
                self._skip(f"type:{kind}" if isinstance(kind, str) else "no_type")
            elif stream_of(line).startswith(_COMPACTING_AGENT):
                self._skip("compaction")
            else:
                self._session = text_of(line, "sessionId") or self._session
                yield from read(offset, line)
        self._check_format(None)

    def _check_format(self, line: Any) -> None:
        if self._started:
            return
        rejected = self._lines.rejected
        foreign = foreign_format(line)
        if rejected and rejected[0].offset == 0 and rejected[0].reason == LONE_BRACKET:
            foreign = "one JSON document (Gemini CLI writes such)"
        if foreign:
            raise InvalidInput(f"not a Claude Code transcript, but {foreign}")
        self._started = line is not None

    def _read_user(self, offset: int, line: Mapping[str, Any]) -> Iterator[TranscriptEvent]:
        blocks = blocks_of(line)
        results = [block for block in blocks if block.get("type") == "tool_result"]
        for block in results:
            yield from self._result(offset, line, block, alone=len(results) == 1)
        if results:
            return
        if stream_of(line):
            self._skip("subagent_prompt")  # it stands in the input of the tool use that started the subagent
            return
        prompt, reason = prompt_of_line(line)
        if reason:
            self._skip(reason)
            return
        self._turn += 1
        yield from self._close_all()
        self._give_up(lambda use: self._turn - use.turn >= TURNS_KEPT)
        yield from self._prompt(offset, line, prompt)
        yield from self._take_up(TURNS_KEPT)

    def _read_assistant(self, offset: int, line: Mapping[str, Any]) -> Iterable[TranscriptEvent]:
        message = line.get("message")
        message = message if isinstance(message, Mapping) else {}
        if message.get("model") == "<synthetic>" or line.get("isApiErrorMessage") is True:
            self._skip("synthetic")
            return ()
        stream = (self._session, stream_of(line))
        for block in blocks_of(line):
            if block.get("type") == "tool_use":
                self._closings.pop(stream, None)
                self._use(offset, line, block)
            elif block.get("type") == "text":
                self._say(offset, line, text_of(message, "id"), text_of(block, "text"))
        return ()

    def _read_system(self, _offset: int, line: Mapping[str, Any]) -> Iterable[TranscriptEvent]:
        if line.get("subtype") in _TURN_ENDS and not stream_of(line):
            return self._close((self._session, ""))
        self._skip("type:system")
        return ()

    def _read_queued(self, offset: int, line: Mapping[str, Any]) -> Iterable[TranscriptEvent]:
        if line.get("operation") == "popAll":  # back in the person's input, to be changed and sent again
            self._queued.clear()
        prompt, reason = prompt_in(queued_prompt(line) or "")
        if reason:
            self._skip("type:queue-operation" if reason == "empty" else reason)
        elif len(self._queued) < PENDING:
            self._queued.setdefault(prompt, _Queued(offset, line, self._turn))
        return ()

    def _read_attachment(self, offset: int, line: Mapping[str, Any]) -> Iterable[TranscriptEvent]:
        prompt, reason = prompt_in(queued_prompt(line) or "")
        if not reason:
            return self._prompt(offset, line, prompt)
        self._skip("type:attachment" if reason == "empty" else reason)
        return ()

    def _prompt(self, offset: int, line: Mapping[str, Any], prompt: str) -> Iterator[TranscriptEvent]:
        self._queued.pop(prompt, None)
        if self._seen_before("prompt", text_of(line, "uuid")):
            self._skip("replayed")
            return
        payload = {"hook_event_name": "UserPromptSubmit", "prompt": prompt, "prompt_id": text_of(line, "promptId")}
        yield self._event(USER_PROMPT, offset, line, payload)

    def _take_up(self, turns: int) -> Iterator[TranscriptEvent]:
        """The prompts that have waited so long that no line of their own will come."""
        for prompt, queued in list(self._queued.items()):
            if self._turn - queued.turn >= turns:
                yield from self._prompt(queued.offset, queued.line, prompt)

    def _say(self, offset: int, line: Mapping[str, Any], message_id: str | None, text: str | None) -> None:
        stream = (self._session, stream_of(line))
        closing = self._closings.get(stream)
        if text is None:
            return
        if closing is None or message_id is None or closing.message_id != message_id:
            closing = self._closings[stream] = _Closing(offset, message_id, line)
        if text not in closing.texts:
            closing.texts.append(text)

    def _close_all(self) -> Iterator[TranscriptEvent]:
        for stream in list(self._closings):
            yield from self._close(stream)

    def _close(self, stream: tuple[str | None, str]) -> Iterator[TranscriptEvent]:
        closing = self._closings.pop(stream, None)
        if closing is None:
            return
        if self._seen_before("message", closing.message_id):
            self._skip("replayed")
            return
        subagent = bool(stream[1])
        payload = {
            "hook_event_name": "SubagentStop" if subagent else "Stop",
            "last_assistant_message": "\n".join(closing.texts),
            "session_id": stream[0],
        }
        yield self._event(SUBAGENT_END if subagent else TURN_END, closing.offset, closing.line, payload)

    def _use(self, offset: int, line: Mapping[str, Any], block: Mapping[str, Any]) -> None:
        use_id, name = text_of(block, "id"), text_of(block, "name")
        if use_id is None or name is None:
            self._skip("no_tool_name")
        elif is_own_tool(name):
            self._skip("own_tool")
        elif f"tool:{use_id}" in self._seen:
            self._skip("replayed")
        else:
            use = _Use(offset, name, block.get("input"), text_of(line, "cwd"), self._turn)
            self._uses.setdefault(use_id, use)
            if len(self._uses) > PENDING:
                oldest = next(iter(self._uses))
                self._give_up(lambda given: given is self._uses[oldest])

    def _result(
        self, offset: int, line: Mapping[str, Any], block: Mapping[str, Any], *, alone: bool
    ) -> Iterator[TranscriptEvent]:
        use_id = text_of(block, "tool_use_id")
        use = self._uses.pop(use_id, None) if use_id else None
        if use is None or use_id is None:
            self._skip("result_without_use")
            return
        self._seen_before("tool", use_id)
        phase: Phase = "failed" if block.get("is_error") is True else "post"
        payload: dict[str, Any] = {
            "hook_event_name": PHASE_NAMES[phase],
            "tool_name": use.name,
            "tool_input": use.input,
            "tool_use_id": use_id,
        }
        if phase == "failed":
            payload["error"] = blocks_text(block.get("content"))
        else:
            whole = line.get("toolUseResult") if alone else None
            payload["tool_response"] = block.get("content") if whole is None else whole
        yield self._event(TOOL_USE, offset, line, payload, phase, use.cwd)

    def _give_up(self, condition: Callable[[_Use], bool]) -> None:
        for use_id in [use_id for use_id, use in self._uses.items() if condition(use)]:
            del self._uses[use_id]
            self._skip("use_without_result")

    def _skip(self, reason: str) -> None:
        known = reason in self.skipped or len(self.skipped) < MAX_REASONS
        self.skipped[reason if known else "other"] += 1

    def _seen_before(self, kind: str, name: str | None) -> bool:
        """Whether this was seen in the file before; from now on it has been."""
        if name is None:
            return False
        key = f"{kind}:{name}"
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _event(
        self,
        event_type: str,
        offset: int,
        line: Mapping[str, Any],
        payload: dict[str, Any],
        phase: Phase | None = None,
        cwd: str | None = None,
    ) -> TranscriptEvent:
        session = payload.get("session_id") or self._session
        agent = stream_of(line)
        cwd = text_of(line, "cwd") or cwd
        payload |= {"session_id": session, "cwd": cwd, "git_branch": text_of(line, "gitBranch"), "agent_id": agent}
        event = AgentEvent(
            event_type=event_type,
            content_session_id=session,
            tool_use_id=payload.get("tool_use_id"),
            phase=phase,
            agent_id=agent or None,
            cwd=cwd,
            occurred_at=epoch_ms(line.get("timestamp")),
            payload={name: value for name, value in payload.items() if value not in (None, "")},
        )
        return TranscriptEvent(event, offset, text_of(line, "uuid"))
