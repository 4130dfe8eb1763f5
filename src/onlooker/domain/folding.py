"""Which events need no model: looking around, and reading again what was read already.

Only what is known to be trivial is folded. A tool that is not known, a command with anything in it beside a listing, a
read that failed or that found something new all go to the model.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onlooker.domain.adapters import ToolUse, phase_of, read_tool_use, tool_use_id_of
from onlooker.domain.adapters.shape import NOTIFICATION, PRE_COMPACT, SESSION_END, SESSION_START
from onlooker.domain.models import Event

SAYS_NOTHING = frozenset({SESSION_START, SESSION_END, NOTIFICATION, PRE_COMPACT})
"""Types of events that only tell that something began or ended."""

LISTING_TOOLS = frozenset({"LS", "Glob"})
READING_TOOLS = frozenset({"Read", "Grep", "NotebookRead"})
LISTING_COMMANDS = frozenset({"ls", "ll", "dir", "tree", "pwd", "cd", "which", "whoami", "date", "git status"})

_BETWEEN = re.compile(r"\s*(?:&&|;|\n)\s*")
_NOT_PLAIN = re.compile(r"[|<>`$(){}\\]")
"""What makes a command more than programs with their arguments: pipes, redirections, substitutions."""


@dataclass(frozen=True, slots=True)
class Folded:
    """`told` are the places of the events that a model is given, in order; the others are folded.

    `repeats` has for each folded read the place of the first one, whose notes are about it too.
    """

    told: tuple[int, ...]
    repeats: Mapping[int, int]


def fold(events: Sequence[Event]) -> Folded:
    """Divide a run's events. Never raises, whatever the payloads hold."""
    payloads = [_object(event.payload_json) for event in events]
    phases = [phase_of(event.event_type, payload) for event, payload in zip(events, payloads, strict=True)]
    ended = {
        tool_use_id_of(payload) for phase, payload in zip(phases, payloads, strict=True) if phase in {"post", "failed"}
    }
    told: list[int] = []
    repeats: dict[int, int] = {}
    read: dict[bytes, int] = {}
    for place, (event, payload, phase) in enumerate(zip(events, payloads, phases, strict=True)):
        if event.event_type in SAYS_NOTHING:
            continue
        if phase == "pre" and (known := tool_use_id_of(payload)) is not None and known in ended:
            continue
        use = read_tool_use(payload) if phase == "post" else None
        if use is None or use.failed:
            told.append(place)
        elif use.tool in READING_TOOLS:
            first = read.setdefault(_mark_of(use), place)
            if first == place:
                told.append(place)
            else:
                repeats[place] = first
        elif not _is_listing(use):
            told.append(place)
    return Folded(tuple(told), repeats)


def _is_listing(use: ToolUse) -> bool:
    if use.tool in LISTING_TOOLS:
        return True
    command = use.command
    if use.tool != "Bash" or command is None or _NOT_PLAIN.search(command):
        return False
    parts = [part for part in _BETWEEN.split(command.strip()) if part]
    return bool(parts) and all(_program(part) in LISTING_COMMANDS for part in parts)


def _program(part: str) -> str:
    words = part.split()
    return " ".join(words[:2]) if words[0] == "git" else words[0]


def _mark_of(use: ToolUse) -> bytes:
    """The same for two reads that asked for the same and got the same."""
    asked = json.dumps([use.tool, use.input, use.output], sort_keys=True, default=str)
    return hashlib.sha256(asked.encode("utf-8", "replace")).digest()


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}
