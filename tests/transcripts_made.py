"""Claude Code transcripts of any size, made line by line."""

import json
from pathlib import Path
from typing import Any

AT = "2026-03-01T10:00:00.000Z"


def turn_lines(
    number: int, *, session: str = "session-1", cwd: str = "/home/dev/made", padding: int = 0, uses: int = 1
) -> list[str]:
    """A turn of 2 + 2 × uses lines: a prompt, commands each with its output, and the agent's closing words."""
    name = f"{session}-{number}"
    lines: list[dict[str, Any]] = [
        {"type": "user", "uuid": f"p-{name}", "message": {"role": "user", "content": f"Test part {number}"}}
    ]
    for use in range(uses):
        command = {
            "type": "tool_use",
            "id": f"toolu_{name}_{use}",
            "name": "Bash",
            "input": {"command": f"python3 -m pytest tests/test_part{number}_{use}.py"},
        }
        output = f"{number + 1} passed in 0.01s\n" + "x" * padding
        result = {"type": "tool_result", "tool_use_id": command["id"], "content": output}
        lines += [_said(f"a-{name}-{use}", [command]), {**_said(f"r-{name}-{use}", [result]), "type": "user"}]
    lines.append(_said(f"c-{name}", [{"type": "text", "text": f"Part {number} passes."}]))
    common = {"sessionId": session, "timestamp": AT, "cwd": cwd}
    return [json.dumps({**common, **line}) + "\n" for line in lines]


def _said(uuid: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "assistant", "uuid": uuid, "message": {"id": f"m-{uuid}", "role": "assistant", "content": blocks}}


def write_transcript(path: Path, turns: int, **given: Any) -> Path:
    """A transcript of so many turns, of 2 + uses events each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number in range(turns):
            file.writelines(turn_lines(number, **given))
    return path
