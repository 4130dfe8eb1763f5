"""The queue between processes: what they share is the store alone."""

import asyncio
import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from onlooker.queue.contract import LEASE_MS, Lane, Message, QueueEngine
from queue_process import claim_as_json, claim_from_json, started
from queue_stores import OpenEngine, Store
from waiting import wait_until

LANE = Lane.session("one")
CONSUMERS, FEEDERS, LANES, EACH = 8, 2, 20, 10


async def test_many_processes_serve_each_message_once_and_every_session_in_order(store: Store) -> None:
    with ExitStack() as stack:
        consumers = [stack.enter_context(started(store, "consume", 3)) for _ in range(CONSUMERS)]
        feeders = [stack.enter_context(started(store, "feed", f"f{n}", LANES, EACH)) for n in range(FEEDERS)]
        fed = sum([(await asyncio.to_thread(feeder.rest))[-1]["put"] for feeder in feeders])
        told = [line for consumer in consumers for line in await asyncio.to_thread(consumer.rest) if "lane" in line]

    assert fed == FEEDERS * LANES * EACH
    assert len(told) == len({(line["lane"], line["id"]) for line in told}) == fed
    by_lane: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in sorted(told, key=lambda line: line["began"]):
        by_lane[line["lane"]].append(line)
    assert len(by_lane) == LANES
    for lines in by_lane.values():
        assert all(before["ended"] < after["began"] for before, after in pairwise(lines)), "two of a lane at once"
        for feeder in range(FEEDERS):
            numbers = [int(line["id"].split("-")[1]) for line in lines if line["id"].startswith(f"f{feeder}-")]
            assert numbers == list(range(EACH)), "out of order"


async def test_of_two_processes_that_enqueue_the_same_ids_each_id_counts_once(store: Store, queue: QueueEngine) -> None:
    with started(store, "feed", "same", 20, 10) as one, started(store, "feed", "same", 20, 10) as two:
        told = [*await asyncio.to_thread(one.rest), *await asyncio.to_thread(two.rest)]
    assert sum(line["put"] for line in told) == 200
    assert (await queue.depth()).pending == 200


async def test_the_message_of_a_killed_process_is_served_again_before_younger_ones(
    store: Store, queue: QueueEngine
) -> None:
    for number in (1, 2):
        assert await queue.enqueue(LANE, Message(str(number), "event"))
    with started(store, "hold") as holder:
        lost = claim_from_json((await asyncio.to_thread(holder.tell))["claim"])
        holder.kill()

    assert not await queue.enqueue(LANE, Message("1", "event"))
    assert await queue.claim(wait_s=0) is None
    await store.pass_time(LEASE_MS + 1)
    again = await queue.claim(wait_s=5)

    assert again is not None
    assert (again.message.id, again.attempt) == ("1", 2)
    assert not await queue.confirm(lost)


async def test_a_starting_process_releases_what_dead_ones_of_its_machine_held(store: Store, queue: QueueEngine) -> None:
    for number in range(3):
        assert await queue.enqueue(Lane.session(str(number)), Message("1", "event"))
    with started(store, "hold") as dead, started(store, "hold") as alive:
        lost = claim_from_json((await asyncio.to_thread(dead.tell))["claim"])
        await asyncio.to_thread(alive.tell)
        mine = await queue.claim(wait_s=5)
        dead.kill()

        assert await queue.release_dead() == 1
        assert await queue.release_dead() == 0
        again = await queue.claim(wait_s=0)

        assert again is not None
        assert again.message == lost.message
        assert again.lane == lost.lane
        assert await queue.claim(wait_s=0) is None
        assert mine is not None
        assert await queue.confirm(mine)


async def test_reset_releases_what_a_killed_process_held(store: Store, queue: QueueEngine) -> None:
    assert await queue.enqueue(LANE, Message("1", "event"))
    with started(store, "hold") as holder:
        await asyncio.to_thread(holder.tell)
        holder.kill()
    assert await queue.reset(LANE) == 1
    assert await queue.claim(wait_s=0) is not None


async def test_a_process_that_ends_well_leaves_no_claim_behind(store: Store, queue: QueueEngine) -> None:
    assert await queue.enqueue(LANE, Message("1", "event"))
    with started(store, "hold") as holder:
        await asyncio.to_thread(holder.tell)
        waiting = asyncio.create_task(queue.claim(wait_s=20))
        holder.stop()
        assert await waiting is not None


async def test_another_process_confirms_by_the_claim_alone(store: Store, queue: QueueEngine) -> None:
    assert await queue.enqueue(LANE, Message("1", "event"))
    claim = await queue.claim(wait_s=5)
    assert claim is not None
    with started(store, "confirm", claim_as_json(claim)) as other:
        assert await asyncio.to_thread(other.rest) == [{"confirmed": True}]
    assert not await queue.confirm(claim)


async def test_work_reaches_a_waiting_process_within_milliseconds(store: Store, queue: QueueEngine) -> None:
    """5 ms at the median on an idle machine (bench/queue.py measures it); here others may be at work."""
    count = 60
    sent: dict[str, int] = {}
    with started(store, "time_claims", count) as consumer:
        await asyncio.to_thread(consumer.tell)
        for number in range(count):
            sent[str(number)] = time.monotonic_ns()
            await queue.enqueue(Lane.session(str(number)), Message(str(number), "event"))
            await asyncio.sleep(0.01)
        told = await asyncio.to_thread(consumer.rest)
    late_ms = sorted((line["at"] - sent[line["id"]]) / 1e6 for line in told)
    assert len(late_ms) == count
    assert statistics.median(late_ms) < 50
    assert late_ms[-2] < 1_000


async def test_killed_consumers_lose_nothing_and_double_nothing_that_was_confirmed(
    store: Store, open_engine: OpenEngine
) -> None:
    queue = await open_engine()
    lanes = [Lane.session(str(number)) for number in range(10)]
    numbers_of = [range(20 * turn, 20 * turn + 20) for turn in range(4)]

    async def fill(numbers: range) -> int:
        """Enqueue these in each lane; how many wait then."""
        await queue.enqueue_many([(lane, Message(str(number), "event")) for number in numbers for lane in lanes])
        return (await queue.depth()).pending

    for numbers in numbers_of[:-1]:
        before = await fill(numbers)
        with started(store, "consume", 4) as victim:

            async def has_worked(before: int = before) -> bool:
                return (await queue.depth()).pending < before

            await wait_until(has_worked)
            victim.kill()
        await queue.release_dead()

    left = await fill(numbers_of[-1])
    with started(store, "consume", 4) as survivor:
        told = [line for line in await asyncio.to_thread(survivor.rest) if "lane" in line]

    assert len(told) == len({(line["lane"], line["id"]) for line in told}) == left
    for lane in lanes:
        served = [int(line["id"]) for line in told if line["lane"] == lane.name]
        assert served == list(range(80 - len(served), 80))
    assert (await queue.depth()).pending == 0
