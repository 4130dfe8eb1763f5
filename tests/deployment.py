"""Servers and workers as processes of their own, on one database, to be killed and frozen; and what they stored."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
from sqlalchemy import func, select

from cli_runner import EXECUTABLE, Cli
from onlooker.domain.errors import StorageUnavailable
from onlooker.domain.jobs import JobStatus
from onlooker.host import ProcessIdentity
from onlooker.queue.bullmq import Address, BullmqQueue
from onlooker.storage.database import Connection, open_database
from onlooker.storage.tables import (
    agent_events,
    messages,
    observation_generation_job_events,
    observation_generation_jobs,
    observation_sources,
    observations,
    workers,
)
from postgres_admin import admin_fetch

T = TypeVar("T")

HEALTHY_WITHIN_S = 30
SETTLED_WITHIN_S = 60
ENDS_WITHIN_S = 30
ANSWERED_WITHIN_S = 15
POLL_S = 0.05
WRAPPED = "import sys, time; {patch}; sys.argv[0] = 'onlooker'; from onlooker.cli.main import main; main()"

_CREATED = 201
_UNAVAILABLE = 503


class Entry(NamedTuple):
    """A line of the jobs' history, in the order in which they were committed within a session."""

    session: str | None
    seq: int | None
    event: str


@dataclass
class Deployment:
    """One home and one database. `spawn` starts processes; all of them are gone when `deployment` is left."""

    cli: Cli
    project: str = ""
    key: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    poll_s: float = POLL_S
    """How often a condition is looked at; each look at the database opens it anew."""

    def spawn(
        self, *arguments: str, patch: str = "", env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `onlooker` with these arguments; `patch` is Python that runs in it first, `env` is set beside the rest.

        What it says goes to the end of `log`, by default that of all processes.
        """
        command = [str(EXECUTABLE)] if not patch else [sys.executable, "-c", WRAPPED.format(patch=patch)]
        with (log or self._log_path).open("ab") as said:
            process = subprocess.Popen(
                [*command, *arguments],
                env={**self.cli.env, **(env or {})},
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
            )
        self.processes.append(process)
        return process

    def serve(self, *arguments: str, patch: str = "") -> subprocess.Popen[bytes]:
        """A server that answers."""
        process = self.spawn("serve", *arguments, patch=patch)
        self.wait_until(lambda: self._answers(process), HEALTHY_WITHIN_S)
        return process

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log()
        with suppress(OSError, httpx.HTTPError, ValueError, KeyError):
            told = json.loads((self.cli.home / ".server.runtime.json").read_text())
            return told["pid"] == process.pid and httpx.get(f"{self.url}/healthz", timeout=2).is_success
        return False

    def work(self, patch: str = "") -> subprocess.Popen[bytes]:
        """A worker, which may not have begun yet."""
        return self.spawn("worker", "run", patch=patch)

    def wait_until_begun(self, server: subprocess.Popen[bytes], worker: subprocess.Popen[bytes]) -> None:
        """Until the server answers and the worker has told the database of itself."""
        self.wait_until(lambda: self._answers(server), HEALTHY_WITHIN_S)
        told = select(func.count()).select_from(workers).where(workers.c.identity.contains(f"|{worker.pid}|"))
        self.wait_until(lambda: self.read(lambda conn: conn.execute(told).scalar_one()), HEALTHY_WITHIN_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{int((self.cli.home / '.server.port').read_text())}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def client(self, timeout_s: float = 30) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=timeout_s, trust_env=False)

    def event(self, session: int, number: int) -> dict[str, Any]:
        """A session's n-th event, of about 1 kB; sent again it is the same event."""
        mark = f"MARK-{session}-{number}"
        return {
            "projectId": self.project, "sourceType": "hook", "eventType": "tool_use",
            "contentSessionId": f"session-{session}", "sourceEventId": mark,
            "occurredAtEpoch": 1_790_000_000_000 + number,
            "payload": {
                "tool_name": "Bash",
                "tool_input": {"command": f"echo {mark}"},
                "tool_response": {"stdout": " ".join(f"word{session + number + n}" for n in range(100))},
            },
        }  # fmt: skip

    def request(self, event: dict[str, Any]) -> bytes:
        """The request that posts an event, for clients that must be cheap or rude."""
        body = json.dumps(event).encode()
        head = f"POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def post(self, events: Sequence[dict[str, Any]]) -> int:
        """Post a batch; the status."""
        with self.client() as client:
            return client.post("/v1/events/batch", json=list(events)).status_code

    def post_sessions(self, sessions: int, each: int) -> None:
        """Every session's events, in batches across the sessions."""
        events = [self.event(session, number) for number in range(each) for session in range(sessions)]
        for start in range(0, len(events), 250):
            assert self.post(events[start : start + 250]) == _CREATED

    def post_until_acknowledged(self, events: Sequence[dict[str, Any]], within_s: float = 60) -> None:
        """What was not acknowledged is sent again, as a client would."""

        def is_acknowledged() -> bool:
            with suppress(httpx.HTTPError, OSError, ValueError):
                return self.post(events) == _CREATED
            return False

        self.wait_until(is_acknowledged, within_s)

    def post_and_post_again(self, session: int, enough: threading.Event) -> tuple[int, int]:
        """Post one event after the other, each until it is acknowledged; how many, and how often 503 was said."""
        number = refused = 0
        with self.client(ANSWERED_WITHIN_S) as client:
            while not enough.is_set():
                answer = client.post("/v1/events", json=self.event(session, number))
                if answer.status_code == _CREATED:
                    number += 1
                else:
                    assert answer.status_code == _UNAVAILABLE, answer.text
                    assert int(answer.headers["retry-after"]) >= 1
                    refused += 1
                    time.sleep(0.1)  # sooner than it was told: whoever asks too soon is refused, and counted
        return number, refused

    def sessions_worked_on(self, *, since: int) -> int:
        """In how many sessions a job was completed after a time; none while the database is away."""
        done = observation_generation_jobs.c
        counted = select(func.count(done.session_id.distinct())).where(done.completed_at > since)
        try:
            return self.read(lambda conn: conn.execute(counted).scalar_one())
        except StorageUnavailable:
            return 0

    def read(self, work: Callable[[Connection], T]) -> T:
        """What a function of a connection finds in the database."""

        async def run() -> T:
            async with open_database(self.database_url) as database:
                return await database.read(work)

        return asyncio.run(run())

    @property
    def database_url(self) -> str:
        return self.cli.extra.get("ONLOOKER_DATABASE_URL") or f"sqlite:///{self.path}"

    @property
    def path(self) -> Path:
        """The file, where the database is SQLite's."""
        return self.cli.home / "onlooker.db"

    def statuses(self) -> dict[str, int]:
        """How many jobs have each status."""
        counted = select(observation_generation_jobs.c.status, func.count()).group_by("status")
        return {row[0]: row[1] for row in self.read(lambda conn: conn.execute(counted).all())}

    def completed(self) -> int:
        return self.statuses().get(JobStatus.COMPLETED, 0)

    def first_completed_after(self, at: int) -> int | None:
        """When the first job was completed after a time, epoch milliseconds."""
        done = observation_generation_jobs.c.completed_at
        first = select(func.min(done)).where(done > at)
        return self.read(lambda conn: conn.execute(first).scalar_one_or_none())

    def stored_events(self) -> list[str]:
        """The marks of all stored events."""
        return list(self.read(lambda conn: conn.execute(select(agent_events.c.source_event_id)).scalars().all()))

    def unfinished_messages(self) -> int:
        if self.cli.extra.get("ONLOOKER_QUEUE_ENGINE") == "bullmq":
            return asyncio.run(self._unfinished_in_redis())
        waiting = select(func.count()).select_from(messages).where(messages.c.state < 2)
        return self.read(lambda conn: conn.execute(waiting).scalar_one())

    async def _unfinished_in_redis(self) -> int:
        address = Address.parse(self.cli.extra["ONLOOKER_REDIS_URL"])
        queue = BullmqQueue(address, identity=ProcessIdentity.of_this_process())
        try:
            return (await queue.depth()).pending
        finally:
            await queue.close()

    def history(self) -> list[Entry]:
        """What happened to all jobs of sessions."""
        jobs, noted = observation_generation_jobs, observation_generation_job_events
        told = (
            select(jobs.c.session_id, jobs.c.seq, noted.c.event)
            .join(jobs, jobs.c.id == noted.c.job_id)
            .order_by(noted.c.id)
        )
        return self.read(lambda conn: [Entry(*row) for row in conn.execute(told)])

    def happened(self, event: str) -> int:
        """How often something happened to a job."""
        return sum(entry.event == event for entry in self.history())

    def wait_until(self, condition: Callable[[], object], timeout_s: float) -> None:
        """Fails with the end of the log."""
        give_up_at = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_at, self.log()
            time.sleep(self.poll_s)

    def wait_until_completed(self, at_least: int) -> None:
        self.wait_until(lambda: self.completed() >= at_least, SETTLED_WITHIN_S)

    def freeze(
        self, process: subprocess.Popen[bytes], *, in_transaction: bool = False, holds_jobs: bool = True
    ) -> None:
        """Stop the only worker while it holds jobs, or while it need not; in a transaction, or outside of any."""

        def is_frozen_so() -> bool:
            process.send_signal(signal.SIGSTOP)
            if self._is_in_transaction() is in_transaction and (
                not holds_jobs or self.statuses().get(JobStatus.PROCESSING)
            ):
                return True
            process.send_signal(signal.SIGCONT)
            return False

        self.wait_until(is_frozen_so, SETTLED_WITHIN_S)

    def _is_in_transaction(self) -> bool | None:
        """Whether a process is; None while Postgres waits for the rest of a statement, which no timeout of it ends."""
        if self.path.exists():
            return not is_writable(self.path)
        time.sleep(POLL_S)  # what was under way when the process was stopped comes to its end
        waiting = """
            SELECT count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS idle,
                   count(*) FILTER (WHERE state = 'active' AND wait_event = 'ClientRead') AS torn
            FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'onlooker'
        """
        found = admin_fetch(self.database_url, waiting)[0]
        return None if found["torn"] else bool(found["idle"])

    def wait_until_settled(self, timeout_s: float = SETTLED_WITHIN_S) -> None:
        """Until no job is queued or processing."""
        self.wait_until(lambda: self.statuses().keys().isdisjoint(("queued", "processing")), timeout_s)

    def wait_for_no_messages(self, timeout_s: float = 20) -> None:
        """Until the queue is empty too."""
        self.wait_until(lambda: not self.unfinished_messages(), timeout_s)

    def assert_each_observed_once_in_order(self, sessions: int, each: int, *, in_runs: bool = False) -> None:
        """Every event is stored once, every event has one observation, made in its session's order, one at a time.

        `in_runs`: several of a session may be taken together.
        """
        self.assert_observed(dict.fromkeys(range(sessions), each), in_runs=in_runs)

    def assert_observed(
        self, expected: Mapping[int, int], *, loose: Sequence[str] = (), loose_jobs: int = 0, in_runs: bool = False
    ) -> None:
        """See `assert_each_observed_once_in_order`; `expected` has each session's number of events.

        `loose` are the marks of events that belong to no session and were sent in so many batches: each is observed
        once, in no order.
        """
        of_sessions = [f"MARK-{session}-{number}" for session, count in expected.items() for number in range(count)]
        assert _differences(self.stored_events(), [*of_sessions, *loose]) == {}
        assert self.statuses() == {JobStatus.COMPLETED: len(of_sessions) + loose_jobs}
        made = self.read(_observed_events)
        assert [title for title, mark in made if title != mark] == [], "an observation names another event"
        titles, without_session = [title for title, _ in made], set(loose)
        assert _differences(titles, [*of_sessions, *loose]) == {}
        in_order: dict[int, list[int]] = defaultdict(list)
        for title in titles:
            if title not in without_session:
                session, number = _parts(title)
                in_order[session].append(number)
        assert [session for session, numbers in in_order.items() if numbers != sorted(numbers)] == []
        self.assert_one_at_a_time(in_runs=in_runs)

    def assert_one_at_a_time(self, *, in_runs: bool = False) -> None:
        """No job was taken (`in_runs`: completed) before all that came before it in its session were completed."""
        steps = {"completed"} if in_runs else {"taken", "completed"}
        done: dict[str, int] = defaultdict(int)
        for entry in self.history():
            if entry.session is None or entry.seq is None or entry.event not in steps:
                continue
            assert entry.seq == done[entry.session] + 1, entry
            if entry.event == "completed":
                done[entry.session] = entry.seq

    @property
    def _log_path(self) -> Path:
        return self.cli.home.parent / "processes.log"

    def told(self) -> Counter[str]:
        """How often the log tells of what."""
        lines = self._log_path.read_text(errors="replace").splitlines()
        return Counter(json.loads(line)["event"] for line in lines if line.startswith("{"))

    def log(self) -> str:
        """The end of what the processes said."""
        return self._log_path.read_text(errors="replace")[-4000:] if self._log_path.exists() else ""


def _observed_events(conn: Connection) -> list[tuple[str, str]]:
    """Each observation's title and its source's mark, in the order in which their jobs were completed."""
    noted = observation_generation_job_events
    made = (
        select(observations.c.title, agent_events.c.source_event_id)
        .join(noted, noted.c.job_id == observations.c.created_by_job_id)
        .where(noted.c.event == "completed")
        .outerjoin(observation_sources, observation_sources.c.observation_id == observations.c.id)
        .outerjoin(agent_events, agent_events.c.id == observation_sources.c.event_id)
        .order_by(noted.c.id, observations.c.id)
    )
    return [(row.title, row.source_event_id) for row in conn.execute(made)]


def _differences(found: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """By how many there are too many of each, or too few."""
    counted = Counter(found)
    counted.subtract(Counter(wanted))
    return {mark: count for mark, count in counted.items() if count}


def _parts(mark: str) -> tuple[int, int]:
    session, number = mark.removeprefix("MARK-").split("-")
    return int(session), int(number)


@contextmanager
def deployment(folder: Path, database_url: str | None = None, **settings: str) -> Iterator[Deployment]:
    """A home with a project and a key, whose observations are the events' marks."""
    extra = {"ONLOOKER_PROVIDER": "scripted", "ONLOOKER_ALLOW_TEST_PROVIDER": "1", **settings}
    if database_url is not None:
        extra["ONLOOKER_DATABASE_URL"] = database_url
    made = Deployment(Cli(folder / "home", extra))
    made.project = made.cli.run("projects", "create", "faults", "--json").json()["id"]
    made.key = (made.cli.home / "key").read_text().strip()
    try:
        yield made
    finally:
        for process in made.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait(ENDS_WITHIN_S)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it as the kernel would that is short of memory."""
    process.kill()
    process.wait(ENDS_WITHIN_S)


def is_writable(path: Path) -> bool:
    """Whether nobody is in the middle of a write to this SQLite file."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.2)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
    return True
