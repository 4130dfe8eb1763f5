"""Servers and workers as processes of their own, on one database, to be killed and frozen; and what they stored."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from cli_runner import EXECUTABLE, Cli
from onlooker.domain.jobs import JobStatus
from onlooker.storage.database import Connection, open_database
from onlooker.storage.tables import agent_events, messages, observation_generation_jobs, observations

HEALTHY_WITHIN_S = 20
SETTLED_WITHIN_S = 60
WRAPPED = "import sys, time; {patch}; sys.argv[0] = 'onlooker'; from onlooker.cli.main import main; main()"


@dataclass
class Deployment:
    """One home and one database. `spawn` starts processes; all of them are gone when `deployment` is left."""

    cli: Cli
    project: str = ""
    key: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def spawn(self, *arguments: str, patch: str = "", env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `onlooker` with these arguments; `patch` is Python that runs in it first."""
        command = [str(EXECUTABLE)] if not patch else [sys.executable, "-c", WRAPPED.format(patch=patch)]
        log = (self.cli.home.parent / "processes.log").open("ab")
        with log:
            process = subprocess.Popen(
                [*command, *arguments],
                env={**self.cli.env, **(env or {})},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.processes.append(process)
        return process

    def serve(self, *arguments: str, patch: str = "", env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A server that answers."""
        process = self.spawn("serve", *arguments, patch=patch, env=env)
        give_up_at = time.monotonic() + HEALTHY_WITHIN_S
        while time.monotonic() < give_up_at:
            assert process.poll() is None, self.log()
            try:
                if self.runtime_pid() == process.pid:
                    httpx.get(f"{self.url}/healthz", timeout=2).raise_for_status()
                    return process
            except (OSError, httpx.HTTPError, ValueError, KeyError):
                pass
            time.sleep(0.02)
        raise AssertionError(f"the server did not answer: {self.log()}")

    def runtime_pid(self) -> int:
        return int(json.loads((self.cli.home / ".server.runtime.json").read_text())["pid"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{int((self.cli.home / '.server.port').read_text())}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=30)

    def event(self, session: int, number: int) -> dict[str, Any]:
        """A session's n-th event; sent again it is the same event."""
        mark = f"MARK-{session}-{number}"
        return {
            "projectId": self.project, "sourceType": "hook", "eventType": "tool_use",
            "contentSessionId": f"session-{session}", "sourceEventId": mark,
            "occurredAtEpoch": 1_790_000_000_000 + number,
            "payload": {"tool_name": "Bash", "tool_input": {"command": f"echo {mark}"}},
        }  # fmt: skip

    def post(self, events: Sequence[dict[str, Any]]) -> int:
        """Post a batch; the status."""
        with self.client() as client:
            return client.post("/v1/events/batch", json=list(events)).status_code

    def read(self, work: Any) -> Any:
        """What a function of a connection finds in the database."""

        async def run() -> Any:
            async with open_database(self.database_url) as database:
                return await database.read(work)

        return asyncio.run(run())

    @property
    def database_url(self) -> str:
        return self.cli.extra.get("ONLOOKER_DATABASE_URL") or f"sqlite:///{self.cli.home / 'onlooker.db'}"

    def unsettled(self) -> int:
        """How many jobs are not at an end."""
        live = observation_generation_jobs.c.status.in_([JobStatus.QUEUED, JobStatus.PROCESSING])

        def count(conn: Connection) -> int:
            return int(
                conn.execute(select(func.count()).select_from(observation_generation_jobs).where(live)).scalar_one()
            )

        return int(self.read(count))

    def wait_until_settled(self, timeout_s: float = SETTLED_WITHIN_S) -> None:
        give_up_at = time.monotonic() + timeout_s
        while (left := self.unsettled()) and time.monotonic() < give_up_at:
            time.sleep(0.1)
        assert not left, f"{left} jobs not at an end: {self.log()}"

    def assert_each_observed_once_in_order(self, sessions: int, each: int) -> None:
        """Every event has one observation, and each session's were stored in the order of its events."""

        def stored(conn: Connection) -> list[tuple[str, int]]:
            rows = conn.execute(
                select(
                    observations.c.title, observation_generation_jobs.c.completed_at, observation_generation_jobs.c.seq
                )
                .join(
                    observation_generation_jobs,
                    observation_generation_jobs.c.id == observations.c.created_by_job_id,
                )
                .order_by(observation_generation_jobs.c.completed_at, observation_generation_jobs.c.seq)
            )
            return [(row.title, row.seq) for row in rows]

        found: dict[int, list[int]] = defaultdict(list)
        for title, _ in self.read(stored):
            session, number = (int(part) for part in title.removeprefix("MARK-").split("-"))
            found[session].append(number)
        assert dict(found) == {session: list(range(each)) for session in range(sessions)}

    def statuses(self) -> dict[str, int]:
        def count(conn: Connection) -> dict[str, int]:
            table = observation_generation_jobs
            return {
                row[0]: row[1] for row in conn.execute(select(table.c.status, func.count()).group_by(table.c.status))
            }

        return dict(self.read(count))

    def stored_events(self) -> int:
        return int(self.read(lambda conn: conn.execute(select(func.count()).select_from(agent_events)).scalar_one()))

    def unfinished_messages(self) -> int:
        waiting = select(func.count()).select_from(messages).where(messages.c.state < 2)
        return int(self.read(lambda conn: conn.execute(waiting).scalar_one()))

    def log(self) -> str:
        """The end of what the processes said."""
        path = self.cli.home.parent / "processes.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""


@contextmanager
def deployment(folder: Path, database_url: str | None = None, **settings: str) -> Iterator[Deployment]:
    """A home with a project and a key, whose observations are the events' marks."""
    extra = {"ONLOOKER_PROVIDER": "scripted", "ONLOOKER_ALLOW_TEST_PROVIDER": "1", **settings}
    if database_url is not None:
        extra["ONLOOKER_DATABASE_URL"] = database_url
    made = Deployment(Cli(folder / "home", extra))
    made.project = made.cli.run("projects", "create", "faults", "--json").json()["id"]
    made.key = made.cli.run("keys", "create", "--scope", "read,write,admin", "--json").json()["key"]
    try:
        yield made
    finally:
        for process in made.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait(30)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it as a power cut would."""
    process.kill()
    process.wait(30)
