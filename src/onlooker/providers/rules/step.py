"""The events of a run as the rules read them: parsed once, paths short, what nobody needs a note on left out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onlooker.domain.adapters import ToolUse, phase_of, read_tool_use
from onlooker.domain.models import Event
from onlooker.providers.rules.text import printable

_LONGEST_PATH = 500


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a run. `index` is its place in the request; `use` is None where it is no finished tool use."""

    index: int
    event_type: str
    payload: Mapping[str, Any]
    use: ToolUse | None
    cwd: str

    def path(self, path: str) -> str:
        """A path as a person of the project says it: below the working folder relative to that, with `/`."""
        path = printable(path[:_LONGEST_PATH]).replace("\\", "/")
        root = self.cwd.replace("\\", "/").rstrip("/") + "/"
        if self.cwd and path.startswith(root):
            return path[len(root) :] or path
        return path.removeprefix("./")

    def shortened(self, line: str) -> str:
        """A line of output without the working folder before its paths."""
        return line.replace(self.cwd.rstrip("/") + "/", "") if len(self.cwd) > 1 else line

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that the tool use names."""
        return tuple(self.path(path) for path in self.use.paths) if self.use else ()

    def text(self, name: str) -> str:
        """A text that the tool was given; empty where there is none of that name."""
        value = self.use.input.get(name) if self.use else None
        return value if isinstance(value, str) else ""


def read_step(index: int, event: Event) -> Step:
    """Never raises: a payload that is no JSON object reads as an empty one."""
    try:
        payload = json.loads(event.payload_json)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, Mapping):
        payload = {}
    cwd = payload.get("cwd")
    finished = phase_of(event.event_type, payload) not in {None, "pre"}
    return Step(
        index,
        event.event_type,
        payload,
        read_tool_use(payload) if finished else None,
        cwd if isinstance(cwd, str) else "",
    )


def indexes(steps: Sequence[Step]) -> tuple[int, ...]:
    """What a draft says about its sources, for a draft made from these steps."""
    return tuple(step.index for step in steps)
