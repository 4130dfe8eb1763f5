"""The outbox: what dead processes hold is given back, and what a crash takes from the queue is rung again soon."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.queue.contract import Lane, Message
from onlooker.queue.sql import SqlQueue
from onlooker.services.accounts import Accounts
from onlooker.services.ingest import EventInput, Ingest
from onlooker.services.outbox import LOOK_EVERY_S, Outbox
from onlooker.storage import schema
from onlooker.storage.database import Database, open_database
from servers import PostgresServer

RUNG_WITHIN_S = 4 * LOOK_EVERY_S


async def test_what_a_dead_process_holds_is_served_without_a_start(database: Database) -> None:
    lane = Lane.session("one")
    us = ProcessIdentity.of_this_process()
    dead, alive = (SqlQueue(database, identity=identity) for identity in (replace(us, started="long ago"), us))
    outbox = Outbox(database, alive)
    await outbox.reconcile()
    assert await alive.enqueue(lane, Message("1", "event"))
    assert await dead.claim(wait_s=0) is not None
    await outbox.reconcile()
    claim = await alive.claim(wait_s=0)
    assert claim is not None
    assert await alive.confirm(claim)
    for queue in (dead, alive):
        await queue.close()


async def test_a_ring_that_a_crash_undid_is_made_again_within_seconds(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    async with open_database(own_postgres.url) as database:
        await schema.prepare(database)
        queue = SqlQueue(database, identity=ProcessIdentity.of_this_process())
        outbox = Outbox(database, queue)
        accounts = Accounts(database, new_id=new_id, now_ms=now_ms)
        local = await accounts.ensure_local(tmp_path)
        await outbox.reconcile()
        stop = asyncio.Event()
        running = asyncio.create_task(outbox.run(stop))
        own_postgres.flush_late()

        async with Ingest(
            database, accounts=accounts, publish=outbox.publish, new_id=new_id, now_ms=now_ms,
            max_attempts=5, max_waiting=100,
        ) as ingest:  # fmt: skip
            sent = EventInput(
                project_id=local.project.id, source_type="hook", event_type="tool_use", occurred_at=1,
                payload={"tool_name": "Bash"}, content_session_id="agent-1",
            )  # fmt: skip
            recorded = await ingest.record(local.principal, sent)
        assert (await queue.depth()).pending == 1
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)

        began = time.monotonic()
        claim = await queue.claim(wait_s=60)
        assert time.monotonic() - began < RUNG_WITHIN_S
        assert claim is not None
        assert recorded.job is not None
        assert claim.message.id == recorded.job.id
        assert await queue.confirm(claim)
        stop.set()
        await running
        await queue.close()
