"""What is kept of a session: the payloads that its hooks would get and the lines of its transcript."""

import hashlib
import json
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from recorder.shell import PROJECT

CLIENT_VERSION = "2.1.42"
MODEL = "claude-sonnet-4-5-20250929"
LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Tape:
    """Both recordings of one session, in memory.

    Ids, times and token counts come from counters and hashes of them, so that the same calls in the same
    order give the same bytes.
    """

    def __init__(self, *, started_at: datetime) -> None:
        self.now = started_at.astimezone(UTC)
        self._counters: Counter[str] = Counter()
        self.session_id = self.new_uuid("session")
        self.transcript_path = f"/home/dev/.claude/projects/-home-dev-tally/{self.session_id}.jsonl"
        self.branch = ""
        self.hooks: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self._parents: dict[str, str | None] = {}

    def number(self, kind: str, low: int, high: int) -> int:
        """The kind's next number, low ≤ number < high."""
        return low + int.from_bytes(self._digest(kind)[:6]) % (high - low)

    def new_uuid(self, kind: str) -> str:
        return str(uuid.UUID(bytes=self._digest(kind)[:16], version=4))

    def new_id(self, prefix: str) -> str:
        """An id in the manner of the API's: `toolu_01`, `msg_01` or `req_011` and 22 letters."""
        rest, letters = int.from_bytes(self._digest(prefix)), []
        for _ in range(22):
            rest, place = divmod(rest, len(LETTERS))
            letters.append(LETTERS[place])
        return prefix + "".join(letters)

    def new_agent_id(self) -> str:
        return self._digest("agent").hex()[:7]

    def wait(self, duration_ms: int) -> None:
        self.now += timedelta(milliseconds=duration_ms)

    def hook(self, event: str, **fields: Any) -> None:
        """Keep one hook payload; the fields that every payload has are added."""
        common = {
            "session_id": self.session_id,
            "transcript_path": self.transcript_path,
            "cwd": PROJECT,
            "permission_mode": "acceptEdits",
            "hook_event_name": event,
        }
        if event in {"SessionStart", "SessionEnd", "SubagentStart"}:
            del common["permission_mode"]
        self.hooks.append(common | fields)

    def line(self, kind: str, *, agent_id: str | None = None, **fields: Any) -> str:
        """Keep one transcript line that has an id and a parent, and return its uuid.

        A subagent's lines form a chain of their own.
        """
        line_id = self.new_uuid("line")
        chain = agent_id or ""
        self.lines.append(
            {
                "parentUuid": self._parents.get(chain),
                "isSidechain": agent_id is not None,
                "userType": "external",
                "cwd": PROJECT,
                "sessionId": self.session_id,
                "version": CLIENT_VERSION,
                "gitBranch": self.branch,
                **({"agentId": agent_id} if agent_id else {}),
                "type": kind,
                **fields,
                "uuid": line_id,
                "timestamp": self.timestamp(),
            }
        )
        self._parents[chain] = line_id
        return line_id

    def bare_line(self, kind: str, **fields: Any) -> None:
        """Keep one transcript line of a type that has neither id nor time."""
        self.lines.append({"type": kind, **fields})

    def timestamp(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{self.now.microsecond // 1000:03d}Z"

    def usage(self) -> dict[str, Any]:
        """Token counts of one message, in the API's shape."""
        written = self.number("cache-write", 180, 2400)
        return {
            "input_tokens": self.number("input", 3, 12),
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": self.number("cache-read", 14000, 46000),
            "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
            "output_tokens": self.number("output", 24, 720),
            "service_tier": "standard",
        }

    def write(self, folder: Path) -> None:
        """Write `hooks.jsonl` and `transcript.jsonl` into the folder, over older ones."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, entries in (("hooks.jsonl", self.hooks), ("transcript.jsonl", self.lines)):
            text = "".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n" for entry in entries)
            (folder / name).write_bytes(text.encode())

    def _digest(self, kind: str) -> bytes:
        self._counters[kind] += 1
        return hashlib.sha256(f"tally/{kind}/{self._counters[kind]}".encode()).digest()
