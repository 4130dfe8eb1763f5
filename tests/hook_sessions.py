"""Agents whose hooks run as processes, one after the other in each session, while the server comes and goes."""

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from deployment import Deployment
from onlooker.hooks import client
from onlooker.storage.database import Connection
from onlooker.storage.tables import agent_events


def payload(session: int, number: int, size: int = 600) -> bytes:
    """The n-th tool use of a session."""
    told: dict[str, Any] = {
        "session_id": f"session-{session}",
        "cwd": "/home/dev/tally",
        "hook_event_name": "PostToolUse",
        "tool_name": "Bash",
        "tool_use_id": f"use-{session}-{number}",
        "tool_input": {"command": f"echo {number}"},
        "tool_response": {"stdout": "ok src/money.py:42 checked; " * (size // 28)},
    }
    return json.dumps(told).encode()


@dataclass
class Hooks:
    """Runs hooks of several sessions at a time; `failed` has what any of them did that an agent would notice."""

    home: Path
    failed: list[str] = field(default_factory=list)
    done: list[tuple[int, int]] = field(default_factory=list)

    def run(self, session: int, number: int) -> None:
        ran = subprocess.run(
            [sys.executable, "-I", "-S", client.__file__, "claude-code"],
            input=payload(session, number),
            env={"PATH": os.environ["PATH"], "ONLOOKER_HOME": str(self.home)},
            capture_output=True,
            check=False,
        )
        if ran.returncode or ran.stdout or ran.stderr:
            self.failed.append(f"{session}-{number}: {ran}")
        self.done.append((session, number))

    def run_sessions(self, sessions: int, each: Iterable[int], meanwhile: Callable[[], object]) -> None:
        """Every session's hooks in order, all sessions at a time; and something else beside them."""
        numbers = list(each)

        def run_session(session: int) -> None:
            for number in numbers:
                self.run(session, number)

        threads = [threading.Thread(target=run_session, args=(session,)) for session in range(sessions)]
        for thread in threads:
            thread.start()
        meanwhile()
        for thread in threads:
            thread.join()

    def waiting(self) -> int:
        return sum(1 for _ in client.waiting(str(self.home)))


def stored_uses(server: Deployment) -> dict[int, list[int]]:
    """By session, the numbers of its tool uses in the order in which they are stored."""
    wanted = select(agent_events.c.payload).where(agent_events.c.event_type == "tool_use").order_by(agent_events.c.seq)

    def work(conn: Connection) -> list[str]:
        return list(conn.execute(wanted).scalars())

    found: dict[int, list[int]] = defaultdict(list)
    for text in server.read(work):
        _, session, number = json.loads(text)["tool_use_id"].split("-")
        found[int(session)].append(int(number))
    return dict(found)
