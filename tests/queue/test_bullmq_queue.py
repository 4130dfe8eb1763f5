"""What only the engine on Redis has: its keys, its cost, BullMQ's shapes, and others who write in them."""

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import pytest_asyncio
import redis

from onlooker.domain.errors import InvalidInput, QueueUnavailable
from onlooker.domain.jobs import KIND_LANES
from onlooker.queue.bullmq import BullmqQueue
from onlooker.queue.contract import RETENTION_MS, Claim, KindDepth, Lane, Message, QueueEngine
from queue_stores import BullmqStore
from servers import redis_families
from waiting import wait_until

LANE = Lane.session("one")
KIND = Lane.kind("server_beta_reindex")
FAMILIES = list(redis_families()) or ["redis"]
FOR_ALL = {"ready", "busy", "leases", "due", "checks", "dead", "kinds", "wake", "waited", "seq", "ended", "epoch"}
"""The keys of the whole queue, beside those of lanes and those that end by themselves."""


@pytest.fixture(params=FAMILIES)
def redis_store(request: pytest.FixtureRequest) -> BullmqStore:
    return BullmqStore(request.getfixturevalue("redis_of")(request.param))


@pytest_asyncio.fixture
async def store(redis_store: BullmqStore) -> AsyncIterator[BullmqStore]:
    yield redis_store
    await redis_store.close()


@pytest_asyncio.fixture
async def queue(store: BullmqStore) -> AsyncIterator[BullmqQueue]:
    async with store.engine(kinds=list(KIND_LANES.values())) as queue:
        yield queue


class Counted:
    """How many commands the server ran, scripts' own included, while it was looked."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.commands = 0

    def total(self) -> int:
        with redis.Redis.from_url(self._url) as client:
            return sum(told["calls"] for told in client.info("commandstats").values())


@contextmanager
def counted(url: str) -> Iterator[Counted]:
    counting = Counted(url)
    # Looking costs the server some commands of its own, the same each time.
    looks = -counting.total() + counting.total()
    before = counting.total()
    yield counting
    counting.commands = counting.total() - before - looks


async def take(queue: QueueEngine, *lanes: Lane) -> Claim:
    claim = await queue.claim(wait_s=10, lanes=lanes or None)
    assert claim is not None
    return claim


async def pass_through(queue: QueueEngine, count: int, prefix: str = "s") -> None:
    """So many sessions with a message each, which is served."""
    await queue.enqueue_many([(Lane.session(f"{prefix}-{number}"), Message("1", "event")) for number in range(count)])
    while claims := await queue.claim_many(50, wait_s=0):
        assert all(await asyncio.gather(*(queue.confirm(claim) for claim in claims)))


async def add_as_bullmq_does(store: BullmqStore, lane: str, job_id: str, data: str = '{"a": 1}') -> None:
    """What npm bullmq's `add` leaves behind."""
    base = f"{store.prefix}:{lane}:"
    fields = {"name": "reindex", "data": data, "opts": "{}", "timestamp": 1, "delay": 0, "priority": 0}
    await store.client.hset(base + job_id, mapping=fields)
    await store.client.lpush(base + "wait", job_id)
    await store.client.zadd(base + "marker", {"0": 0})


async def test_an_idle_session_leaves_its_tombstones_and_nothing_else(store: BullmqStore, queue: BullmqQueue) -> None:
    await pass_through(queue, 100)
    await queue.enqueue(LANE, Message("bad", "event"))
    assert await queue.fail(await take(queue, LANE), "it is broken")
    await queue.enqueue(LANE, Message("cleared", "event"))
    assert await queue.clear(LANE) == 1

    for key in await store.keys():
        name = key.removeprefix(f"{store.prefix}:")
        left_ms = await store.client.pttl(key)
        if name in FOR_ALL or name.partition(":")[0] in KIND_LANES.values():
            continue
        assert 0 < left_ms <= RETENTION_MS, name
        assert name.startswith(("fence.", "did.")) or name.split(":")[1] in {"1", "bad", "failed"}, name


async def test_idle_workers_cost_five_commands_a_second_with_ten_thousand_sessions_known(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    await pass_through(queue, 10_000)
    waiting = [asyncio.create_task(queue.claim(wait_s=60)) for _ in range(32)]
    await asyncio.sleep(2.5)
    with counted(store.url) as counting:
        await asyncio.sleep(8)
    with redis.Redis.from_url(store.url) as client:
        ours = [told for told in client.client_list() if told["name"] == "onlooker"]
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert counting.commands <= 5 * 8
    assert len(ours) == 2


@pytest.mark.parametrize("lanes, counted_lanes", [(10, 10), (200, 200), (201, 0), (1_000, 0)])
async def test_depth_counts_few_lanes_and_costs_the_same_for_any_number_of_more(
    store: BullmqStore, queue: BullmqQueue, lanes: int, counted_lanes: int
) -> None:
    await queue.enqueue_many([(Lane.session(str(number)), Message("1", "event")) for number in range(lanes)])
    with counted(store.url) as counting:
        depth = await queue.depth()
    assert (depth.lanes, depth.sessions) == (lanes, KindDepth(waiting=lanes))
    assert counting.commands < 60 + 2 * counted_lanes


async def test_depth_of_many_lanes_knows_what_became_of_each_message(queue: BullmqQueue) -> None:
    """Put, put again, claimed, confirmed, failed, released, delayed and cleared; and those of shared lanes apart."""
    entries = [(Lane.session(str(number)), Message(name, "event")) for number in range(250) for name in "ab"]
    assert await queue.enqueue_many(entries) == 500
    assert await queue.enqueue_many([entries[0], (LANE, Message("new", "event")), entries[1]]) == 1
    assert await queue.enqueue_many([(KIND, Message("1", "reindex")), (KIND, Message("2", "reindex"))]) == 2
    await queue.enqueue(LANE, Message("later", "event"), delay_ms=60_000)
    first, second, third, _held = await queue.claim_many(4, wait_s=0)
    assert await queue.confirm(first)
    assert await queue.fail(second, "no")
    assert await queue.release(third)
    assert await queue.clear(entries[-1][0]) == 2

    depth = await queue.depth()

    assert depth.sessions == KindDepth(waiting=501 - 2 - 1 - 2, delayed=1, claimed=1, failed=1)
    assert depth.kinds == {KIND.name: KindDepth(waiting=2)}


async def test_depth_of_many_lanes_forgets_what_others_removed_once_there_are_few(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    many = [(Lane.session(str(number)), Message("1", "event")) for number in range(250)]
    await queue.enqueue(LANE, Message("removed", "event"))
    await store.client.delete(f"{store.prefix}:{LANE.name}:removed", f"{store.prefix}:{LANE.name}:wait")
    depth = await queue.depth()
    assert (depth.lanes, depth.sessions) == (0, KindDepth())
    await queue.enqueue_many(many)
    depth = await queue.depth()
    assert (depth.lanes, depth.sessions) == (250, KindDepth(waiting=250))


async def test_depth_counts_lanes_of_any_length(queue: BullmqQueue) -> None:
    lengths = [*range(1, 13), 3, 3, 12]
    await queue.enqueue_many(
        [
            (Lane.session(str(number)), Message(str(at), "event"))
            for number, length in enumerate(lengths)
            for at in range(length)
        ]
    )
    claims = await queue.claim_many(4, wait_s=0)
    assert await queue.confirm(claims[0])
    depth = await queue.depth()
    assert (depth.lanes, depth.sessions) == (len(lengths) - 1, KindDepth(waiting=sum(lengths) - 4, claimed=3))


def scripts_run(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_what_is_asked_at_once_shares_a_script(store: BullmqStore, queue: BullmqQueue) -> None:
    lanes = [Lane.session(str(number)) for number in range(16)]
    await queue.require_healthy()
    asked = scripts_run(store.url)
    assert all(await asyncio.gather(*(queue.enqueue(lane, Message("1", "event")) for lane in lanes)))
    await queue.enqueue_many([(lane, Message("2", "event")) for lane in lanes])
    claims = await asyncio.gather(*(queue.claim(wait_s=0) for _ in lanes))
    assert [claim.lane for claim in claims if claim is not None] == lanes
    told = await asyncio.gather(*(queue.confirm_and_claim(claim, wait_s=0) for claim in claims if claim is not None))
    assert [(held, claim.lane) for held, claim in told if claim is not None] == [(True, lane) for lane in lanes]
    assert all(await asyncio.gather(*(queue.confirm(claim) for _, claim in told if claim is not None)))
    assert scripts_run(store.url) - asked == 9
    assert (await queue.depth()).pending == 0


async def test_what_is_wrong_with_one_lane_is_told_to_nobody_else(store: BullmqStore, queue: BullmqQueue) -> None:
    names = ("first", "broken", "last")
    await store.client.set(f"{store.prefix}:session.broken:wait", "no list")
    told = await asyncio.gather(
        *(queue.enqueue(Lane.session(name), Message("1", "event")) for name in names), return_exceptions=True
    )
    assert (told[0], told[2]) == (True, True)
    assert isinstance(told[1], QueueUnavailable)
    assert "WRONGTYPE" in str(told[1])

    await store.client.delete(f"{store.prefix}:session.broken:wait", f"{store.prefix}:session.broken:1")
    await queue.enqueue(Lane.session("broken"), Message("1", "event"))
    claims = [await take(queue, Lane.session(name)) for name in names]
    await queue.enqueue_many([(Lane.session(name), Message("2", "event")) for name in ("first", "last")])
    await store.client.delete(f"{store.prefix}:session.broken:active")
    await store.client.set(f"{store.prefix}:session.broken:active", "no list")
    ended = await asyncio.gather(
        *(queue.confirm_and_claim(claim, wait_s=0) for claim in claims), return_exceptions=True
    )
    assert isinstance(ended[1], QueueUnavailable)
    assert [it[0] for it in ended if not isinstance(it, BaseException)] == [True, True]
    following = [it[1] for it in ended if not isinstance(it, BaseException)]
    assert {claim.lane.session_id for claim in following if claim is not None} == {"first", "last"}


async def test_what_others_wrote_that_is_no_text_is_served_and_ends(store: BullmqStore, queue: BullmqQueue) -> None:
    await add_as_bullmq_does(store, KIND.name, "1")
    await store.client.hset(f"{store.prefix}:{KIND.name}:1", mapping={"name": b"caf\xe9", "data": b"\xff"})
    assert [pending.type for pending in await queue.peek(KIND)] == ["caf\ufffd"]
    claim = await asyncio.wait_for(take(queue, KIND), 10)
    assert claim.message == Message("1", "caf\ufffd", None, "\ufffd")
    assert await queue.fail(claim, "it is no text")


async def test_what_cannot_be_sent_is_told_to_nobody_else(queue: BullmqQueue) -> None:
    lanes = [Lane.session(name) for name in ("1", "2", "3")]
    await queue.enqueue_many([(lane, Message(name, "event")) for name in ("a", "b") for lane in lanes])
    claims = await queue.claim_many(3, wait_s=0)
    wrong = claims[1]._replace(token="\ud800")
    told = await asyncio.wait_for(
        asyncio.gather(
            queue.confirm_and_claim(claims[0], wait_s=0),
            queue.confirm_and_claim(wrong, wait_s=0),
            queue.confirm_and_claim(claims[1]._replace(lane=Lane.kind("session.2")), wait_s=0),
            return_exceptions=True,
        ),
        5,
    )
    assert [isinstance(each, error) for each, error in zip(told, (tuple, UnicodeError, InvalidInput), strict=True)] == [
        True
    ] * 3
    ended = await asyncio.wait_for(
        asyncio.gather(
            queue.fail(wrong, "no"), queue.fail(claims[2], "\ud800"), queue.confirm(claims[1]), return_exceptions=True
        ),
        5,
    )
    assert [isinstance(each, UnicodeError) for each in ended] == [True, True, False]
    assert ended[2] is True
    assert await queue.confirm(claims[2])


async def test_who_gives_up_among_those_who_asked_at_once_takes_nothing_with_it(queue: BullmqQueue) -> None:
    for name in ("1", "2", "3"):
        await queue.enqueue(Lane.session(name), Message(name, "event"))
    asked = [asyncio.create_task(queue.claim(wait_s=0)) for _ in range(3)]
    for _ in range(2):
        await asyncio.sleep(0)  # they ask, and the call is sent
    asked[0].cancel()
    again = asyncio.create_task(queue.claim(wait_s=0))
    told = await asyncio.gather(*asked, again, return_exceptions=True)
    assert isinstance(told[0], asyncio.CancelledError)
    assert sorted(each.message.id for each in told if isinstance(each, Claim)) == ["1", "2", "3"]


async def test_nothing_is_kept_in_memory_for_a_session(queue: BullmqQueue) -> None:
    tracemalloc.start()
    try:
        await pass_through(queue, 500, "first")
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await pass_through(queue, 2_500, "then")
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


async def test_a_job_looks_as_bullmq_writes_it(store: BullmqStore, queue: BullmqQueue) -> None:
    await queue.enqueue(KIND, Message("rdx_1", "reindex", "Bash"))
    await queue.enqueue(KIND, Message("rdx_2", "reindex", None, '{"b": 2}'), delay_ms=60_000)
    base = f"{store.prefix}:{KIND.name}:"

    job = {key.decode(): value.decode() for key, value in (await store.client.hgetall(f"{base}rdx_1")).items()}
    later = await store.client.hgetall(f"{base}rdx_2")

    assert (job["name"], job["data"], job["delay"], job["priority"]) == ("reindex", '{"toolName": "Bash"}', "0", "0")
    options = json.loads(job["opts"])
    assert options["attempts"] == 5
    assert options["backoff"] == {"type": "exponential", "delay": 2_000, "jitter": 0.5}
    assert (later[b"data"], json.loads(later[b"opts"])["delay"]) == (b'{"b": 2}', 60_000)
    assert await store.client.lrange(f"{base}wait", 0, -1) == [b"rdx_1"]
    [(name, score)] = await store.client.zrange(f"{base}delayed", 0, -1, withscores=True)
    assert name == b"rdx_2"
    assert abs(score / 4096 - time.time() * 1000 - 60_000) < 10_000
    assert await store.client.zrange(f"{base}marker", 0, -1) == [b"0"]

    claim = await take(queue)
    assert await store.client.lrange(f"{base}active", 0, -1) == [b"rdx_1"]
    assert (await store.client.get(f"{base}rdx_1:lock")).decode() == claim.token
    assert await queue.confirm(claim)
    assert await store.client.zrange(f"{base}completed", 0, -1) == [b"rdx_1"]
    assert await store.client.exists(f"{base}rdx_1:lock") == 0
    told = [fields[b"event"] for _, fields in await store.client.xrange(f"{base}events")]
    assert told == [b"added", b"waiting", b"added", b"delayed", b"active", b"completed"]


async def test_a_session_lane_gives_stock_workers_nothing(store: BullmqStore, queue: BullmqQueue) -> None:
    """BullMQ's workers take nothing while as many jobs are active as the queue's global concurrency says."""
    await queue.enqueue(LANE, Message("1", "event"))
    meta = f"{store.prefix}:{LANE.name}:meta"
    assert await store.client.hget(meta, "concurrency") == b"0"
    assert await queue.confirm(await take(queue))
    assert await store.client.exists(meta) == 0


async def test_the_kind_lanes_are_there_from_the_start(store: BullmqStore, queue: BullmqQueue) -> None:
    await queue.require_healthy()
    for lane in KIND_LANES.values():
        assert await store.client.exists(f"{store.prefix}:{lane}:meta") == 1


@pytest.mark.parametrize("name", ["a:b", "50%", "wait", "meta", "", "Ünï cöde", "a/b c", "1"])
async def test_any_name_can_be_a_session_or_an_id(queue: BullmqQueue, name: str) -> None:
    lane = Lane.session(name)
    assert await queue.enqueue(lane, Message(name, "event", name, ""))
    assert not await queue.enqueue(lane, Message(name, "event"))
    claim = await take(queue, lane)
    assert (claim.lane, claim.message) == (lane, Message(name, "event", name, ""))
    await queue.extend(claim)
    assert await queue.confirm(claim)
    assert await queue.pending(lane) == 0


async def test_a_shared_lane_is_not_named_like_a_sessions(queue: BullmqQueue) -> None:
    with pytest.raises(InvalidInput):
        await queue.enqueue(Lane.kind("session.x"), Message("1", "event"))


async def test_a_hash_tag_as_prefix_puts_every_key_into_one_slot(redis_store: BullmqStore) -> None:
    store = BullmqStore(redis_store.url, "{onlooker}")
    async with store.engine(kinds=[KIND.name]) as queue:
        await pass_through(queue, 3)
        await queue.enqueue(KIND, Message("1", "reindex"))
        assert await queue.release(await take(queue), delay_ms=60_000)
        assert {key.partition(":")[0] for key in await store.keys()} == {"{onlooker}"}
    await store.close()
    await redis_store.close()


async def test_a_lane_is_handed_on_where_no_older_one_is_ready(queue: BullmqQueue) -> None:
    other = Lane.session("other")
    await queue.enqueue_many([(LANE, Message("1", "event")), (other, Message("2", "event"))])
    await queue.enqueue_many([(LANE, Message("3", "event")), (LANE, Message("4", "event"))])
    order, claim = [], await queue.claim(wait_s=0)
    while claim is not None:
        order.append(claim.message.id)
        confirmed, claim = await queue.confirm_and_claim(claim, wait_s=0)
        assert confirmed
    assert order == ["1", "2", "3", "4"]
    assert (await queue.depth()).pending == 0


async def test_a_lane_that_is_paused_is_not_handed_on_and_goes_on_when_it_is_resumed(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    await queue.enqueue_many([(LANE, Message("1", "event")), (LANE, Message("2", "event"))])
    claim = await take(queue)
    meta = f"{store.prefix}:{LANE.name}:meta"
    await store.client.hset(meta, "paused", "1")
    assert await queue.confirm_and_claim(claim, wait_s=0) == (True, None)
    await store.client.hdel(meta, "paused")
    assert (await take(queue)).message.id == "2"


async def test_a_lane_that_is_confirmed_too_late_to_claim_is_left_for_others(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    await queue.enqueue_many([(LANE, Message("1", "event")), (LANE, Message("2", "event"))])
    claim = await take(queue)
    [fence] = [key for key in await store.keys() if ":fence." in key]
    await store.client.set(fence, 10**6)
    assert await queue.confirm_and_claim(claim, wait_s=0) == (True, None)
    async with store.engine(kinds=list(KIND_LANES.values())) as another:
        assert (await take(another)).message.id == "2"


# 15
@pytest.mark.parametrize("lane", [LANE, KIND], ids=["session", "kind"])
@pytest.mark.parametrize("version", [5, 6])
async def test_a_paused_lane_is_counted_and_served_when_it_is_resumed(
    store: BullmqStore, queue: BullmqQueue, lane: Lane, version: int
) -> None:
    base = f"{store.prefix}:{lane.name}:"
    await queue.enqueue(lane, Message("1", "event"))
    await store.client.hset(base + "meta", "paused", "1")
    if version == 5:
        await store.client.rename(base + "wait", base + "paused")
    await queue.enqueue(lane, Message("2", "event"))

    assert await queue.claim(wait_s=0.3) is None
    assert await queue.pending(lane) == 2
    assert (await queue.depth()).pending == 2
    assert [line.type for line in await queue.peek(lane)] == ["event", "event"]

    waiting = asyncio.create_task(take(queue))
    await store.client.hdel(base + "meta", "paused")
    if version == 5:
        await store.client.rename(base + "paused", base + "wait")
    if lane is KIND:
        await store.client.zadd(base + "marker", {"0": 0})
    first = await waiting
    assert first.message.id == "1"
    assert await queue.confirm(first)
    assert (await take(queue)).message.id == "2"


async def test_what_others_add_to_a_kind_lane_wakes_us(store: BullmqStore, queue: BullmqQueue) -> None:
    waiting = asyncio.create_task(take(queue))
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await add_as_bullmq_does(store, KIND.name, "rdx_node")
    claim = await waiting
    assert time.monotonic() - began < 1
    assert (claim.lane, claim.message) == (KIND, Message("rdx_node", "reindex", None, '{"a": 1}'))
    assert await queue.confirm(claim)
    assert not await queue.enqueue(KIND, Message("rdx_node", "reindex"))


async def test_what_others_add_to_a_session_lane_is_served_once_the_lane_is_ready(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    await queue.enqueue(LANE, Message("ours", "event"))
    await add_as_bullmq_does(store, LANE.name, "theirs")
    await add_as_bullmq_does(store, "session.new", "alone")
    await store.client.zadd(f"{store.prefix}:ready", {"session.new": 0})

    served = []
    while claim := await queue.claim(wait_s=0):
        served.append(claim.message.id)
        assert await queue.confirm(claim)

    assert sorted(served) == ["alone", "ours", "theirs"]
    assert served.index("ours") < served.index("theirs")
    assert (await queue.depth()).pending == 0


async def test_what_waits_behind_others_in_a_lane_that_nobody_told_of_is_served_when_it_is_rung_again(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    await add_as_bullmq_does(store, LANE.name, "theirs")
    await queue.enqueue(LANE, Message("ours", "event"))
    assert not await queue.enqueue(LANE, Message("ours", "event"))
    for name in ("theirs", "ours"):
        claim = await take(queue)
        assert claim.message.id == name
        assert await queue.confirm(claim)
    assert ((await queue.depth()).pending, (await queue.depth()).lanes) == (0, 0)


async def test_a_lane_that_only_others_have_filled_gives_stock_workers_nothing_either(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    for name in ("first", "second"):
        await add_as_bullmq_does(store, LANE.name, name)
    await store.client.zadd(f"{store.prefix}:ready", {LANE.name: 0})
    assert await queue.confirm(await take(queue))
    assert await store.client.hget(f"{store.prefix}:{LANE.name}:meta", "concurrency") == b"0"


async def test_what_others_delay_in_a_session_lane_holds_it_until_that_is_due(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    base = f"{store.prefix}:{LANE.name}:"
    await queue.enqueue(LANE, Message("ours", "event"))
    await add_as_bullmq_does(store, LANE.name, "theirs")
    await store.client.lrem(base + "wait", 1, "theirs")
    await store.client.zadd(base + "delayed", {"theirs": (time.time() + 60) * 1000 * 4096})
    assert await queue.confirm(await take(queue))
    await queue.enqueue(LANE, Message("later", "event"))
    assert await queue.claim(wait_s=0) is None

    await store.pass_time(61_000)

    for name in ("theirs", "later"):
        claim = await take(queue)
        assert claim.message.id == name
        assert await queue.confirm(claim)
    assert (await queue.depth()).pending == 0


async def test_what_a_worker_of_others_left_on_a_kind_lane_is_returned(store: BullmqStore, queue: BullmqQueue) -> None:
    base = f"{store.prefix}:{KIND.name}:"
    await add_as_bullmq_does(store, KIND.name, "stalled")
    await add_as_bullmq_does(store, KIND.name, "at work")
    for name in ("stalled", "at work"):
        await store.client.rpoplpush(base + "wait", base + "active")
        await store.client.set(f"{base}{name}:lock", "theirs", px=60_000)
    assert await queue.claim(wait_s=0) is None

    await store.client.delete(f"{base}stalled:lock")
    await store.pass_time(40_000)
    await store.client.set(f"{base}at work:lock", "theirs", px=60_000)

    assert (await take(queue)).message.id == "stalled"
    assert await queue.claim(wait_s=0) is None
    assert await store.client.lrange(base + "active", 0, -1) == [b"stalled", b"at work"]


async def test_a_message_that_fell_out_of_its_lane_is_put_back_when_it_is_rung(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    await queue.enqueue(LANE, Message("1", "event"))
    await store.client.delete(f"{store.prefix}:{LANE.name}:wait", f"{store.prefix}:ready")
    assert await queue.enqueue(LANE, Message("1", "event"), replace_finished=True)
    assert await queue.confirm(await take(queue))
    assert (await queue.depth()).pending == 0


async def test_a_lane_that_lost_its_place_among_the_ready_gets_it_back_when_it_is_rung(
    store: BullmqStore, queue: BullmqQueue
) -> None:
    await queue.enqueue(LANE, Message("1", "event"))
    await store.client.delete(f"{store.prefix}:ready")
    assert await queue.claim(wait_s=0) is None
    assert not await queue.enqueue(LANE, Message("1", "event"), replace_finished=True)
    assert (await take(queue)).message.id == "1"


async def test_what_others_remove_is_counted_no_more(store: BullmqStore, queue: BullmqQueue) -> None:
    """As BullMQ's `obliterate` and `remove` do: the job's hash and its place in the list."""
    base = f"{store.prefix}:{LANE.name}:"
    for name in ("1", "2", "3"):
        await queue.enqueue(LANE, Message(name, "event"))
    await store.client.delete(base + "2")
    await store.client.lrem(base + "wait", 1, "2")
    assert await queue.pending(LANE) == 2
    for name in ("1", "3"):
        claim = await take(queue)
        assert claim.message.id == name
        assert await queue.confirm(claim)
    assert ((await queue.depth()).pending, (await queue.depth()).lanes) == (0, 0)


async def test_the_epoch_changes_when_everything_is_lost(store: BullmqStore, queue: BullmqQueue) -> None:
    before = await queue.epoch()
    assert await queue.epoch() == before
    await store.empty()
    after = await queue.epoch()
    assert after != before
    await queue.enqueue(KIND, Message("1", "reindex"))
    assert await queue.confirm(await take(queue))
    assert await queue.epoch() == after


async def test_a_lane_that_is_emptied_by_others_wakes_nobody_for_ever(store: BullmqStore, queue: BullmqQueue) -> None:
    """A marker without work is taken once."""
    waiting = asyncio.create_task(queue.claim(wait_s=30))
    await asyncio.sleep(0.1)
    await store.client.zadd(f"{store.prefix}:{KIND.name}:marker", {"0": 0})
    await store.client.zadd(f"{store.prefix}:wake", {"0": 0})

    async def are_taken() -> bool:
        return not await store.client.exists(f"{store.prefix}:{KIND.name}:marker", f"{store.prefix}:wake")

    await wait_until(are_taken)
    with counted(store.url) as counting:
        await asyncio.sleep(1)
    waiting.cancel()
    assert counting.commands < 40
