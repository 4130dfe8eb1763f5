"""Processes of ours and of Node on one Redis, with rows behind the messages."""

import asyncio
from pathlib import Path

from deployment import deployment
from node import Peer
from onlooker.domain.jobs import KIND_LANES, JobKind
from queue_stores import BullmqStore

KIND = KIND_LANES[JobKind.EVENT_BATCH]


async def test_a_worker_runs_the_job_that_node_adds_by_its_id(tmp_path: Path, peer: Peer, store: BullmqStore) -> None:
    settings = {
        "ONLOOKER_QUEUE_ENGINE": "bullmq",
        "ONLOOKER_REDIS_URL": store.url,
        "ONLOOKER_QUEUE_PREFIX": store.prefix,
    }
    with deployment(tmp_path, **settings) as it:
        await asyncio.to_thread(it.wait_until_begun, it.serve("--no-worker"), it.work())
        await peer.queue(KIND, "pause")
        events = [it.event(0, number) for number in range(3)]
        for event in events:
            del event["contentSessionId"]
        assert it.post(events) == 201
        [job] = await peer.queue(KIND, "getWaiting")
        assert job["name"] == "event-batch"
        # The message is lost, and rung by another than us; the outbox would ring it in half a minute.
        await peer.job(KIND, job["id"], "remove")
        await peer.queue(KIND, "resume")
        await peer.queue(KIND, "add", "event-batch", {}, {"jobId": job["id"]})
        await asyncio.to_thread(it.wait_until_completed, 1)
        marks = [f"MARK-0-{number}" for number in range(3)]
        await asyncio.to_thread(it.assert_observed, {}, loose=marks, loose_jobs=1)
