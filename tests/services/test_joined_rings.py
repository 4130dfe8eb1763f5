"""A job is rung in the transaction that stores it, where its queue lies in the same database."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import insert

from databases import copy_sqlite
from onlooker.domain.models import Job, Principal
from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.queue.contract import Lane
from onlooker.queue.sql import SqlQueue
from onlooker.services.accounts import Accounts
from onlooker.services.group import Join
from onlooker.services.ingest import EventInput, Ingest
from onlooker.services.outbox import Outbox
from onlooker.storage.database import Connection, Database, open_database
from onlooker.storage.tables import messages


@dataclass
class Place:
    """A project on SQLite, its queue, and what was published after a commit."""

    database: Database
    queue: SqlQueue
    accounts: Accounts
    principal: Principal
    project_id: str
    published: list[Job] = field(default_factory=list)

    async def publish(self, jobs: Sequence[Job]) -> bool:
        self.published += jobs
        return True

    def ingest(self, join: Join) -> Ingest:
        return Ingest(
            self.database,
            accounts=self.accounts,
            publish=self.publish,
            join=join,
            new_id=new_id,
            now_ms=now_ms,
            max_attempts=5,
            max_waiting=100,
        )

    def event(self, number: int) -> EventInput:
        return EventInput(
            project_id=self.project_id,
            source_type="hook",
            event_type="tool_use",
            occurred_at=number,
            payload={"tool_name": "Bash", "tool_input": {"command": f"echo {number}"}},
            content_session_id="agent-1",
        )


class BrokenRings:
    """Rings that a constraint of the table refuses."""

    def ring(self, conn: Connection, jobs: Sequence[Job]) -> None:
        conn.execute(insert(messages).values(lane=None))

    def committed(self) -> None:
        raise AssertionError("nothing was committed with these rings")


@pytest_asyncio.fixture
async def place(prepared_sqlite: Path, tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        url = copy_sqlite(prepared_sqlite, tmp_path / "onlooker.db")
        database = await stack.enter_async_context(open_database(url))
        queue = SqlQueue(database, identity=ProcessIdentity.of_this_process())
        stack.push_async_callback(queue.close)
        accounts = Accounts(database, new_id=new_id, now_ms=now_ms)
        local = await accounts.ensure_local(tmp_path)
        yield Place(database, queue, accounts, local.principal, local.project.id)


async def test_a_stored_job_is_in_its_lane_without_being_published(place: Place) -> None:
    async with place.ingest(Outbox(place.database, place.queue).join) as ingest:
        first, second = await ingest.record_many(place.principal, [place.event(1), place.event(2)])
    claim = await place.queue.claim(wait_s=0)
    assert claim is not None
    assert first.job is not None
    assert (claim.message.id, claim.lane) == (first.job.id, Lane.session(first.event.session_id or ""))
    assert await place.queue.pending(claim.lane) == 2
    assert (place.published, first.deferred, second.deferred) == ([], False, False)


async def test_who_waits_for_a_claim_is_woken_by_a_job_that_is_stored(place: Place) -> None:
    async with place.ingest(Outbox(place.database, place.queue).join) as ingest:
        claiming = asyncio.create_task(place.queue.claim(wait_s=10))
        recorded = await ingest.record(place.principal, place.event(1))
        claim = await claiming
    assert claim is not None
    assert recorded.job is not None
    assert claim.message.id == recorded.job.id


@pytest.mark.parametrize("count", [1, 3])
async def test_what_cannot_be_rung_with_its_event_is_stored_and_published(place: Place, count: int) -> None:
    async with place.ingest(BrokenRings) as ingest:
        sent = [place.event(number) for number in range(count)]
        recorded = await ingest.record_many(place.principal, sent)
    assert [each.job for each in recorded] == place.published
    assert [each.event.seq for each in recorded] == list(range(1, count + 1))


async def test_a_closed_queue_joins_nothing(place: Place) -> None:
    await place.queue.close()
    assert Outbox(place.database, place.queue).join() is None
