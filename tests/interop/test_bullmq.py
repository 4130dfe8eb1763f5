"""Our lanes and npm's BullMQ: each sees, runs and changes what the other put there."""

import asyncio

import pytest

from node import Peer
from onlooker.domain.jobs import KIND_LANES, JobKind
from onlooker.queue.bullmq import BullmqQueue
from onlooker.queue.contract import Claim, KindDepth, Lane, Message
from queue_stores import BullmqStore
from waiting import wait_until

KIND = KIND_LANES[JobKind.EVENT_BATCH]
LANES = tuple(KIND_LANES.values())
LANE = Lane.kind(KIND)
SESSION = Lane.session("0197-a")
COUNTED = ("waiting", "delayed", "active", "failed", "completed")


def message(name: str) -> Message:
    return Message(name, "event-batch", "Edit")


async def counts(peer: Peer, lane: str = KIND) -> dict[str, int]:
    """BullMQ's counts, without the zeros."""
    told = await peer.queue(lane, "getJobCounts")
    return {state: told[state] for state in COUNTED if told[state]}


async def depth(queue: BullmqQueue) -> KindDepth:
    return (await queue.depth()).kinds.get(KIND, KindDepth())


async def claim(queue: BullmqQueue, lane: Lane | None = None) -> Claim:
    claimed = await queue.claim(wait_s=5, lanes=None if lane is None else [lane])
    assert claimed is not None
    return claimed


async def test_a_job_that_node_adds_wakes_us_and_is_run(peer: Peer, store: BullmqStore) -> None:
    async with store.engine(kinds=LANES, look_ms=60_000) as queue:
        waiting = asyncio.create_task(queue.claim(wait_s=10))
        await asyncio.sleep(0.2)  # it has found nothing and waits, and would not look by itself
        await peer.queue(KIND, "add", "event-batch", {"text": "ä"}, {"jobId": "evtb_1"})
        claimed = await waiting
        assert claimed is not None
        assert (claimed.lane, claimed.message.id, claimed.message.type) == (LANE, "evtb_1", "event-batch")
        assert claimed.message.body == '{"text":"ä"}'
        assert await counts(peer) == {"active": 1}
        assert await queue.confirm(claimed)
    assert await counts(peer) == {"completed": 1}
    assert await peer.job(KIND, "evtb_1", "getState") == "completed"


async def test_a_worker_of_node_runs_what_we_enqueue(queue: BullmqQueue, peer: Peer) -> None:
    assert await queue.enqueue(LANE, message("evtb_1"))
    await peer.work(KIND)
    [given] = await wait_until(peer.worked)
    assert (given["id"], given["name"], given["data"]) == ("evtb_1", "event-batch", {"toolName": "Edit"})
    assert given["opts"]["attempts"] == 5
    assert given["opts"]["backoff"]["type"] == "exponential"
    assert await wait_until(lambda: counts(peer)) == {"completed": 1}
    assert await queue.pending(LANE) == 0
    assert await queue.claim(wait_s=0) is None
    assert not await queue.enqueue(LANE, message("evtb_1")), "its id is refused within the retention"


async def test_workers_of_both_share_a_lane_and_run_each_job_once(queue: BullmqQueue, peer: Peer) -> None:
    await queue.enqueue_many([(LANE, message(f"evtb_{number}")) for number in range(300)])
    await peer.work(KIND, concurrency=4)
    ours = []
    claimed = await queue.claim(wait_s=0)
    while claimed is not None:
        ours.append(claimed.message.id)
        confirmed, claimed = await queue.confirm_and_claim(claimed, wait_s=1)
        assert confirmed
    assert await wait_until(lambda: counts(peer)) == {"completed": 300}
    theirs = [given["id"] for given in await peer.worked()]
    assert sorted(ours + theirs) == sorted(f"evtb_{number}" for number in range(300))
    assert ours
    assert theirs


async def test_both_count_the_same_in_every_state(queue: BullmqQueue, peer: Peer) -> None:
    for name in ("evtb_failed", "evtb_done", "evtb_active", "evtb_waiting"):
        await queue.enqueue(LANE, message(name))
    await queue.enqueue(LANE, message("evtb_delayed"), delay_ms=60_000)
    await peer.queue(KIND, "add", "event-batch", {}, {"jobId": "evtb_theirs"})
    await peer.queue(KIND, "add", "event-batch", {}, {"jobId": "evtb_later", "delay": 60_000})
    assert await queue.fail(await claim(queue), "the model refused")
    assert await queue.confirm(await claim(queue))
    await claim(queue)
    assert await counts(peer) == {"waiting": 2, "delayed": 2, "active": 1, "failed": 1, "completed": 1}
    assert await depth(queue) == KindDepth(waiting=2, delayed=2, claimed=1, failed=1)
    assert await queue.pending(LANE) == 5
    assert await peer.job(KIND, "evtb_failed", "getState") == "failed"
    [failed] = await peer.queue(KIND, "getFailed")
    assert failed["failedReason"] == "the model refused"
    assert {job["id"] for job in await peer.queue(KIND, "getDelayed")} == {"evtb_delayed", "evtb_later"}


async def test_the_kind_lanes_are_on_the_wire_before_anything_is_in_them(
    queue: BullmqQueue, peer: Peer, store: BullmqStore
) -> None:
    await queue.require_healthy()
    for lane in LANES:
        assert await store.client.exists(f"{store.prefix}:{lane}:meta")
        assert await counts(peer, lane) == {}


@pytest.mark.parametrize("lane", [LANE, SESSION], ids=["kind", "session"])
async def test_a_lane_that_node_pauses_stands_still_until_it_is_resumed(
    queue: BullmqQueue, peer: Peer, lane: Lane
) -> None:
    await queue.enqueue(lane, message("evtb_1"))
    await peer.queue(lane.name, "pause")
    await queue.enqueue(lane, message("evtb_2"))
    assert await queue.claim(wait_s=0.1) is None
    assert await queue.pending(lane) == 2, "a paused lane's messages count"
    assert await peer.queue(lane.name, "isPaused")
    await peer.queue(lane.name, "resume")
    for name in ("evtb_1", "evtb_2"):
        claimed = await claim(queue)
        assert claimed.message.id == name
        assert await queue.confirm(claimed)


async def test_an_id_that_is_there_is_refused_to_either(queue: BullmqQueue, peer: Peer) -> None:
    await peer.queue(KIND, "add", "event-batch", {"from": "node"}, {"jobId": "evtb_theirs"})
    assert not await queue.enqueue(LANE, message("evtb_theirs"))
    assert await queue.enqueue(LANE, message("evtb_ours"))
    await peer.queue(KIND, "add", "event-batch", {"from": "node"}, {"jobId": "evtb_ours"})
    assert await queue.pending(LANE) == 2
    claimed = await claim(queue, LANE)
    assert claimed.message.body == '{"from":"node"}'
    assert await queue.confirm(claimed)
    claimed = await claim(queue, LANE)
    assert claimed.message == message("evtb_ours")


@pytest.mark.parametrize("lane", [LANE, SESSION], ids=["kind", "session"])
async def test_what_we_gave_up_is_retried_by_node(
    queue: BullmqQueue, peer: Peer, store: BullmqStore, lane: Lane
) -> None:
    await queue.enqueue(lane, message("evtb_1"))
    assert await queue.fail(await claim(queue), "the model refused")
    await peer.job(lane.name, "evtb_1", "retry")
    if lane is SESSION:
        await peer.redis("ZADD", f"{store.prefix}:ready", 0, lane.name)
    again = await claim(queue)
    assert (again.message, again.attempt) == (message("evtb_1"), 2)
    assert await queue.confirm(again)
    assert await queue.pending(lane) == 0


async def test_a_job_that_a_worker_of_node_fails_is_ours_when_its_back_off_is_over(
    queue: BullmqQueue, peer: Peer, store: BullmqStore
) -> None:
    await queue.enqueue(LANE, message("evtb_1"))
    await peer.work(KIND, outcome="fail")
    await wait_until(lambda: counts(peer))
    await wait_until(lambda: is_delayed(peer))
    await peer.stop_working()
    assert await queue.claim(wait_s=0) is None
    await store.pass_time(60_000)
    assert (await claim(queue)).message == message("evtb_1")


async def is_delayed(peer: Peer) -> bool:
    return await counts(peer) == {"delayed": 1}


async def test_node_promotes_a_delayed_job(queue: BullmqQueue, peer: Peer) -> None:
    await queue.enqueue(LANE, message("evtb_1"), delay_ms=60_000)
    waiting = asyncio.create_task(queue.claim(wait_s=20))
    await peer.job(KIND, "evtb_1", "promote")
    claimed = await waiting
    assert claimed is not None
    assert await queue.confirm(claimed)
    assert await depth(queue) == KindDepth()


async def test_a_job_of_higher_priority_is_served_too(queue: BullmqQueue, peer: Peer) -> None:
    await peer.queue(KIND, "add", "event-batch", {}, {"jobId": "evtb_1", "priority": 3})
    claimed = await claim(queue)
    assert claimed.message.id == "evtb_1"
    assert await queue.confirm(claimed)
    assert await queue.pending(LANE) == 0


@pytest.mark.parametrize("lane", [LANE, SESSION], ids=["kind", "session"])
async def test_node_removes_what_waits(queue: BullmqQueue, peer: Peer, lane: Lane) -> None:
    await queue.enqueue_many([(lane, message(name)) for name in ("evtb_1", "evtb_2")])
    await peer.job(lane.name, "evtb_1", "remove")
    claimed = await claim(queue)
    assert claimed.message.id == "evtb_2"
    assert await queue.confirm(claimed)
    assert await queue.claim(wait_s=0) is None
    assert await queue.pending(lane) == 0


async def test_node_cleans_what_is_finished(queue: BullmqQueue, peer: Peer) -> None:
    await queue.enqueue_many([(LANE, message(name)) for name in ("evtb_done", "evtb_failed")])
    assert await queue.confirm(await claim(queue))
    assert await queue.fail(await claim(queue), "no use")
    assert await peer.queue(KIND, "clean", 0, 100, "completed") == ["evtb_done"]
    assert await peer.queue(KIND, "clean", 0, 100, "failed") == ["evtb_failed"]
    assert await counts(peer) == {}
    assert await depth(queue) == KindDepth()
    assert await queue.enqueue(LANE, message("evtb_done")), "what was cleaned is forgotten"


@pytest.mark.parametrize("lane", [LANE, SESSION], ids=["kind", "session"])
async def test_a_lane_that_node_obliterates_works_on(queue: BullmqQueue, peer: Peer, lane: Lane) -> None:
    await queue.enqueue_many([(lane, message(f"evtb_{number}")) for number in range(5)])
    held = await claim(queue)
    await peer.queue(lane.name, "obliterate", {"force": True})
    assert not await queue.confirm(held)
    assert await queue.claim(wait_s=0) is None
    assert await queue.pending(lane) == 0
    assert await queue.enqueue(lane, message("evtb_1"))
    claimed = await claim(queue)
    assert claimed.message.id == "evtb_1"
    assert await queue.confirm(claimed)


async def test_a_stock_worker_gets_nothing_from_a_sessions_lane(queue: BullmqQueue, peer: Peer) -> None:
    await queue.enqueue_many([(SESSION, message(f"evt_{number}")) for number in range(3)])
    await peer.work(SESSION.name)
    await peer.work(KIND)
    await queue.enqueue(LANE, message("evtb_1"))
    assert [given["id"] for given in await wait_until(peer.worked)] == ["evtb_1"]
    claimed: Claim | None = await claim(queue, SESSION)
    served = []
    while claimed is not None:
        served.append(claimed.message.id)
        await queue.enqueue(SESSION, message(f"evt_{len(served) + 2}")) if len(served) < 3 else None
        _, claimed = await queue.confirm_and_claim(claimed, wait_s=0)
    assert served == [f"evt_{number}" for number in range(5)]
    assert [given["id"] for given in await peer.worked()] == ["evtb_1"]


async def test_an_add_to_a_sessions_lane_needs_a_second_call_of_node(
    queue: BullmqQueue, peer: Peer, store: BullmqStore
) -> None:
    await peer.queue(SESSION.name, "add", "event", {"number": 1}, {"jobId": "evt_1"})
    waiting = asyncio.create_task(queue.claim(wait_s=20))
    await peer.redis("ZADD", f"{store.prefix}:ready", 0, SESSION.name)
    await peer.redis("ZADD", f"{store.prefix}:wake", 0, "0")
    claimed = await waiting
    assert claimed is not None
    assert (claimed.lane, claimed.message.id) == (SESSION, "evt_1")
    assert await queue.enqueue(SESSION, message("evt_2"))
    assert await queue.claim(wait_s=0) is None, "one of a session is in flight"
    assert await queue.confirm(claimed)
    second = await claim(queue)
    assert second.message.id == "evt_2"
    assert await queue.confirm(second)
    assert await queue.pending(SESSION) == 0


async def test_what_a_worker_of_node_held_when_it_died_is_served_again(
    queue: BullmqQueue, peer: Peer, store: BullmqStore
) -> None:
    await queue.enqueue(LANE, message("evtb_1"))
    await peer.work(KIND, outcome="hang")
    await wait_until(peer.worked)
    assert await depth(queue) == KindDepth(claimed=1)
    await peer.kill()
    assert await queue.claim(wait_s=0) is None
    await store.pass_time(60_000)
    claimed = await claim(queue)
    assert claimed.message == message("evtb_1")
    assert await queue.confirm(claimed)


async def test_bull_board_lists_our_lanes_and_jobs(queue: BullmqQueue, peer: Peer) -> None:
    await queue.enqueue_many([(LANE, message(name)) for name in ("evtb_failed", "evtb_done", "evtb_held")])
    await queue.enqueue(LANE, message("evtb_later"), delay_ms=60_000)
    await queue.enqueue_many([(SESSION, Message(f"evt_{number}", "event", "Bash")) for number in range(2)])
    assert await queue.fail(await claim(queue, LANE), "the model refused")
    assert await queue.confirm(await claim(queue, LANE))
    await claim(queue, LANE)
    await claim(queue, SESSION)

    shown = await peer.board(*LANES, SESSION.name, show=KIND)
    assert set(shown) == {*LANES, SESSION.name}
    of_kind = shown[KIND]
    assert {state: count for state, count in of_kind["counts"].items() if count} == {
        "active": 1, "delayed": 1, "failed": 1, "completed": 1
    }  # fmt: skip
    assert {job["id"] for job in of_kind["jobs"]} == {"evtb_failed", "evtb_done", "evtb_held", "evtb_later"}
    failed = next(job for job in of_kind["jobs"] if job["id"] == "evtb_failed")
    assert (failed["name"], failed["failedReason"], failed["attempts"]) == ("event-batch", "the model refused", 1)
    assert failed["data"] == {"toolName": "Edit"}

    of_session = (await peer.board(SESSION.name, show=SESSION.name))[SESSION.name]
    assert {state: count for state, count in of_session["counts"].items() if count} == {"active": 1, "waiting": 1}
    assert [job["id"] for job in of_session["jobs"]] == ["evt_0", "evt_1"]
