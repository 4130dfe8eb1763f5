"""What every engine keeps, one or several of them on one store."""

import asyncio
import random
import time
from collections.abc import Sequence

import pytest

from onlooker.domain.errors import ClaimLost, InvalidInput, QueueUnavailable
from onlooker.queue.contract import LEASE_MS, RETENTION_MS, Claim, KindDepth, Lane, Message, Pending, QueueEngine
from queue_stores import OpenEngine, Store
from waiting import wait_until

LANE = Lane.session("one")
OTHER = Lane.session("two")
SHARED = Lane.kind("server_beta_reindex")


def message(name: object) -> Message:
    return Message(str(name), "event", "Edit", "{}")


async def put(queue: QueueEngine, lane: Lane, *names: object) -> None:
    for name in names:
        assert await queue.enqueue(lane, message(name))


async def take(queue: QueueEngine, *lanes: Lane) -> Claim:
    claim = await queue.claim(wait_s=5, lanes=lanes or None)
    assert claim is not None
    return claim


async def nothing(queue: QueueEngine, *lanes: Lane) -> bool:
    return await queue.claim(wait_s=0, lanes=lanes or None) is None


async def served(queue: QueueEngine) -> list[str]:
    """Serve all there is, one after the other; the ids in that order."""
    names = []
    claim = await queue.claim(wait_s=0)
    while claim is not None:
        names.append(claim.message.id)
        confirmed, claim = await queue.confirm_and_claim(claim, wait_s=0)
        assert confirmed
    return names


async def test_a_message_comes_back_as_it_was_given(queue: QueueEngine) -> None:
    given = Message("t-1", "event", "Bash", '{"text": "Ünï \\u0000 \U0001f600"}')
    assert await queue.enqueue(LANE, given)
    assert await queue.enqueue(SHARED, Message("bare", "summary"))

    first, second = await take(queue), await take(queue)

    assert (first.lane, first.message, first.attempt) == (LANE, given, 1)
    assert (second.lane, second.message) == (SHARED, Message("bare", "summary"))


async def test_an_exclusive_lane_serves_in_order_and_one_at_a_time(queue: QueueEngine) -> None:
    await put(queue, LANE, 1, 2, 3)

    first = await take(queue)
    assert await nothing(queue)
    assert await queue.confirm(first)

    assert first.message.id == "1"
    assert await served(queue) == ["2", "3"]


async def test_a_shared_lane_serves_in_parallel(queue: QueueEngine) -> None:
    await put(queue, SHARED, 1, 2, 3)
    assert [(await take(queue)).message.id for _ in range(3)] == ["1", "2", "3"]
    assert await nothing(queue)


async def test_among_lanes_the_oldest_message_is_served_first(queue: QueueEngine) -> None:
    await put(queue, OTHER, "a")
    await put(queue, SHARED, "b")
    await put(queue, LANE, "c")
    await put(queue, OTHER, "d")
    assert await served(queue) == ["a", "b", "c", "d"]


async def test_only_the_lanes_that_are_asked_for_are_served(queue: QueueEngine) -> None:
    await put(queue, OTHER, "a")
    await put(queue, SHARED, "b", "c")
    await put(queue, LANE, "d")

    assert (await take(queue, LANE)).message.id == "d"
    assert await nothing(queue, LANE)
    assert (await take(queue, SHARED, LANE)).message.id == "b"
    assert (await take(queue, SHARED, OTHER)).message.id == "a"
    assert (await take(queue)).message.id == "c"


async def test_many_claims_come_at_once_from_different_sessions(queue: QueueEngine) -> None:
    for session in range(5):
        await put(queue, Lane.session(str(session)), f"{session}.1", f"{session}.2")
    await put(queue, SHARED, "s1", "s2")

    claims = await queue.claim_many(10, wait_s=0)

    assert [claim.message.id for claim in claims] == ["0.1", "1.1", "2.1", "3.1", "4.1", "s1", "s2"]
    assert await queue.claim_many(10, wait_s=0) == []


async def test_waiting_callers_are_served_in_the_order_they_came(queue: QueueEngine) -> None:
    waiting = [asyncio.create_task(queue.claim(wait_s=10)) for _ in range(3)]
    await asyncio.sleep(0)
    await put(queue, SHARED, 1, 2, 3)
    assert [claim.message.id for claim in await asyncio.gather(*waiting) if claim] == ["1", "2", "3"]


async def test_a_claim_ends_with_nothing_when_its_time_is_over(queue: QueueEngine) -> None:
    began = time.monotonic()
    assert await queue.claim(wait_s=0.2) is None
    assert 0.15 < time.monotonic() - began < 5


async def test_a_caller_that_gives_up_waiting_takes_nothing_with_it(queue: QueueEngine) -> None:
    for number in range(30):
        waiting = asyncio.create_task(queue.claim(wait_s=10))
        for _ in range(number % 10):
            await asyncio.sleep(0)
        enqueued = asyncio.create_task(queue.enqueue(LANE, message(number)))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert await enqueued
        claim = await take(queue) if waiting.cancelled() else waiting.result()
        assert claim is not None
        assert claim.message.id == str(number)
        assert await queue.confirm(claim)


# 1
async def test_of_concurrent_enqueues_of_one_id_exactly_one_is_told_so(open_engine: OpenEngine) -> None:
    engines = [await open_engine() for _ in range(3)]
    for number in range(20):
        told = await asyncio.gather(*(engine.enqueue(LANE, message(number)) for engine in engines for _ in range(3)))
        assert sum(told) == 1
    assert await engines[0].pending(LANE) == 20


async def test_one_id_in_two_lanes_is_two_messages(queue: QueueEngine) -> None:
    await put(queue, LANE, 1)
    await put(queue, OTHER, 1)
    assert await served(queue) == ["1", "1"]


async def test_many_are_enqueued_in_order_and_the_known_ones_left(queue: QueueEngine) -> None:
    await put(queue, LANE, 2)
    many = [(LANE, message(number)) for number in (1, 2, 3, 3)] + [(SHARED, message("s"))]
    assert await queue.enqueue_many(many) == 3
    assert await served(queue) == ["2", "1", "3", "s"]
    assert await queue.enqueue_many(many) == 0
    assert await queue.enqueue_many([(LANE, message(number)) for number in (4, 1, 2, 5)], replace_finished=True) == 4
    assert await served(queue) == ["4", "1", "2", "5"]


async def test_more_than_a_unit_is_enqueued_in_order(queue: QueueEngine) -> None:
    assert await queue.enqueue_many([(LANE, message(number)) for number in range(1_203)]) == 1_203
    assert await queue.pending(LANE) == 1_203
    assert (await take(queue)).message.id == "0"


# 2
@pytest.mark.parametrize("ending", ["confirm", "fail"])
async def test_a_finished_id_is_refused_within_the_retention(queue: QueueEngine, store: Store, ending: str) -> None:
    await put(queue, LANE, 1)
    claim = await take(queue)
    assert await (queue.confirm(claim) if ending == "confirm" else queue.fail(claim, "it is broken"))

    assert not await queue.enqueue(LANE, message(1))
    await store.pass_time(RETENTION_MS - 60_000)
    assert not await queue.enqueue(LANE, message(1))
    await store.pass_time(120_000)
    assert await queue.enqueue(LANE, message(1))
    assert (await take(queue)).attempt == 1


@pytest.mark.parametrize("ending", ["confirm", "fail"])
async def test_a_finished_id_runs_again_at_the_end_of_its_lane_when_asked(queue: QueueEngine, ending: str) -> None:
    await put(queue, LANE, 1, 2)
    claim = await take(queue)
    assert await (queue.confirm(claim) if ending == "confirm" else queue.fail(claim, "it is broken"))

    told = await asyncio.gather(*(queue.enqueue(LANE, message(1), replace_finished=True) for _ in range(3)))

    assert sorted(told) == [False, False, True]
    assert await served(queue) == ["2", "1"]


async def test_what_waits_or_is_claimed_is_never_replaced(queue: QueueEngine) -> None:
    await put(queue, LANE, 1, 2)
    claim = await take(queue)
    assert not await queue.enqueue(LANE, message(1), replace_finished=True)
    assert not await queue.enqueue(LANE, message(2), replace_finished=True)
    assert await queue.pending(LANE) == 2
    assert await queue.confirm(claim)
    assert await served(queue) == ["2"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
async def test_what_no_store_can_keep_is_refused(queue: QueueEngine, name: str) -> None:
    for refused in (
        Message(name, "event"),
        Message("1", name),
        Message("1", "event", name),
        Message("1", "event", None, name),
    ):
        with pytest.raises(InvalidInput):
            await queue.enqueue(LANE, refused)
        with pytest.raises(InvalidInput):
            await queue.enqueue_many([(LANE, message(1)), (LANE, refused)])
    assert await queue.pending(LANE) == 0


# 3
async def test_of_many_messages_at_once_none_is_lost(open_engine: OpenEngine) -> None:
    engines = [await open_engine() for _ in range(2)]
    names = [f"sum_{number}" for number in range(200)]
    told = await asyncio.gather(
        *(engines[number % 2].enqueue(LANE, message(name)) for number, name in enumerate(names))
    )
    assert all(told)
    assert sorted(await served(engines[0])) == sorted(names)


# 4
async def test_no_interleaving_of_confirm_and_enqueue_leaves_a_lane_asleep(open_engine: OpenEngine) -> None:
    confirming, enqueueing = await open_engine(), await open_engine()
    rounds, lanes = 100, [Lane.session(str(number)) for number in range(100)]
    dice = random.Random(4)  # noqa: S311 - the same interleavings in every run, as far as they are ours

    async def later(steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)

    async def play(lane: Lane, number: int) -> None:
        """The lane's only message is confirmed while the next arrives, by another engine, a little sooner or later."""
        claim = await take(confirming, lane)

        async def confirm() -> None:
            await later(dice.randrange(6))
            assert await confirming.confirm(claim)

        async def enqueue() -> None:
            await later(dice.randrange(6))
            assert await enqueueing.enqueue(lane, message(number + 1))

        await asyncio.gather(confirm(), enqueue())

    await confirming.enqueue_many([(lane, message(0)) for lane in lanes])
    for number in range(rounds):
        await asyncio.gather(*(play(lane, number) for lane in lanes))
    last = [await take(enqueueing, lane) for lane in lanes]
    assert {claim.message.id for claim in last} == {str(rounds)}


# 5
@pytest.mark.parametrize("way", ["reset", "close", "release"])
@pytest.mark.parametrize("lane", [SHARED, LANE], ids=["shared", "exclusive"])
async def test_what_goes_back_keeps_its_place(open_engine: OpenEngine, way: str, lane: Lane) -> None:
    queue, other = await open_engine(), await open_engine()
    await put(queue, lane, 1, 2, 3, 4)
    claims = [await take(queue) for _ in range(1 if lane.exclusive else 3)]

    if way == "reset":
        assert await other.reset(lane) == len(claims)
    elif way == "close":
        await queue.close()
    else:
        assert [await queue.release(claim) for claim in reversed(claims)] == [True] * len(claims)

    assert await served(other) == ["1", "2", "3", "4"]
    assert not any([await other.confirm(claim) for claim in claims])


# 6
async def test_the_message_of_a_dead_holder_is_served_again_before_younger_ones(
    open_engine: OpenEngine, store: Store
) -> None:
    queue, holder = await open_engine(), await open_engine()
    await put(queue, LANE, 1, 2)
    lost = await take(holder)

    assert await nothing(queue)
    assert not await queue.enqueue(LANE, message(1), replace_finished=True)
    await store.pass_time(LEASE_MS + 1)

    again = await take(queue)
    assert (again.message, again.attempt) == (lost.message, 2)
    assert not await holder.confirm(lost)
    assert await queue.confirm(again)
    assert await served(queue) == ["2"]


async def test_a_lease_that_ends_wakes_a_caller_who_waits(open_engine: OpenEngine) -> None:
    queue, holder = await open_engine(), await open_engine(lease_ms=400)
    await put(queue, LANE, 1)
    began = time.monotonic()
    await take(holder)
    assert (await take(queue)).attempt == 2
    assert 0.39 < time.monotonic() - began < 5


async def test_an_extended_lease_lives_on(queue: QueueEngine, store: Store) -> None:
    await put(queue, LANE, 1)
    claim = await take(queue)
    for _ in range(3):
        await store.pass_time(LEASE_MS - 10_000)
        await queue.extend(claim)
    assert await nothing(queue)
    assert await queue.confirm(claim)


# 7
async def test_an_iterator_ends_at_once_when_its_engine_is_closed(queue: QueueEngine) -> None:
    await put(queue, LANE, 1)
    idle: list[str] = []
    names = []
    iterator = queue.messages(LANE, stop=asyncio.Event(), idle_timeout_s=60, on_idle=lambda: idle.append("idle"))

    async def serve() -> None:
        async for claim in iterator:
            names.append(claim.message.id)
            await queue.confirm(claim)

    serving = asyncio.create_task(serve())
    await wait_until(lambda: names == ["1"])
    await queue.close()
    await asyncio.wait_for(serving, 1)
    assert not idle


async def test_a_caller_who_waits_is_told_when_the_engine_is_closed(queue: QueueEngine) -> None:
    waiting = asyncio.create_task(queue.claim(wait_s=60))
    await asyncio.sleep(0.01)
    await queue.close()
    with pytest.raises(QueueUnavailable):
        await asyncio.wait_for(waiting, 1)


async def test_nothing_works_after_close(queue: QueueEngine) -> None:
    await put(queue, LANE, 1)
    claim = await take(queue)
    await queue.close()
    await queue.close()

    for call in (
        lambda: queue.enqueue(LANE, message(2)),
        lambda: queue.enqueue_many([(LANE, message(2))]),
        lambda: queue.claim(wait_s=0),
        lambda: queue.claim_many(2, wait_s=0),
        lambda: queue.extend(claim),
        lambda: queue.confirm(claim),
        lambda: queue.confirm_and_claim(claim, wait_s=0),
        lambda: queue.fail(claim, "no"),
        lambda: queue.release(claim),
        lambda: queue.reset(LANE),
        lambda: queue.clear(LANE),
        lambda: queue.pending(LANE),
        lambda: queue.peek(LANE),
        queue.depth,
        queue.release_dead,
        queue.epoch,
        queue.require_healthy,
    ):
        with pytest.raises(QueueUnavailable):
            await call()
    assert not (await queue.health()).ok
    assert [claim async for claim in queue.messages(LANE, stop=asyncio.Event(), idle_timeout_s=5)] == []


async def test_an_iterator_ends_when_it_is_stopped(queue: QueueEngine) -> None:
    stop, idle = asyncio.Event(), []
    iterator = queue.messages(LANE, stop=stop, idle_timeout_s=60, on_idle=lambda: idle.append("idle"))
    waiting = asyncio.ensure_future(anext(iterator, None))
    await asyncio.sleep(0.01)
    stop.set()
    assert await asyncio.wait_for(waiting, 1) is None
    await put(queue, LANE, 1)
    assert [claim async for claim in queue.messages(LANE, stop=stop, idle_timeout_s=60)] == []
    assert not idle
    assert await served(queue) == ["1"]


async def test_an_iterator_ends_when_nothing_comes_and_says_so_once(queue: QueueEngine) -> None:
    await put(queue, LANE, 1, 2)
    await put(queue, OTHER, "other")
    idle: list[str] = []
    names = []
    async for claim in queue.messages(
        LANE, stop=asyncio.Event(), idle_timeout_s=0.2, on_idle=lambda: idle.append("idle")
    ):
        names.append(claim.message.id)
        assert await queue.confirm(claim)
    assert (names, idle) == (["1", "2"], ["idle"])


# 8
async def test_who_holds_a_message_that_is_cleared_is_told(open_engine: OpenEngine) -> None:
    queue, holder = await open_engine(), await open_engine()
    await put(queue, LANE, 1, 2, 3)
    await put(queue, OTHER, "stays")
    claim = await take(holder)

    assert await queue.clear(LANE) == 3

    with pytest.raises(ClaimLost):
        await holder.extend(claim)
    assert not await holder.confirm(claim)
    assert not await holder.release(claim)
    assert not await holder.fail(claim, "late")
    assert await queue.enqueue(LANE, message(1))
    assert not await holder.confirm(claim)
    assert await served(queue) == ["stays", "1"]


# 9
async def test_of_one_session_one_message_is_in_flight_over_all_engines(open_engine: OpenEngine) -> None:
    engines = [await open_engine() for _ in range(3)]
    lanes = [Lane.session(str(number)) for number in range(4)]
    await engines[0].enqueue_many([(lane, message(number)) for number in range(30) for lane in lanes])
    held: set[str] = set()
    seen: dict[str, list[int]] = {lane.name: [] for lane in lanes}

    async def work(engine: QueueEngine) -> None:
        claim = await engine.claim(wait_s=0)
        while claim is not None:
            assert claim.lane.name not in held
            held.add(claim.lane.name)
            seen[claim.lane.name].append(int(claim.message.id))
            await asyncio.sleep(0)
            held.remove(claim.lane.name)
            _, claim = await engine.confirm_and_claim(claim, wait_s=0.3)

    await asyncio.gather(*(work(engine) for engine in engines for _ in range(2)))
    assert all(numbers == list(range(30)) for numbers in seen.values())


# 10
async def test_a_claim_can_be_finished_by_another_engine_once(open_engine: OpenEngine) -> None:
    queue, other = await open_engine(), await open_engine()
    await put(queue, LANE, 1, 2)
    claim = await take(queue)
    await other.extend(claim)
    assert await other.confirm(claim)
    assert not await queue.confirm(claim)
    assert not await other.confirm(claim)


async def test_of_concurrent_confirms_of_one_claim_exactly_one_is_told_so(open_engine: OpenEngine) -> None:
    engines = [await open_engine() for _ in range(2)]
    await put(engines[0], LANE, 1)
    claim = await take(engines[0])
    told = await asyncio.gather(*(engine.confirm(claim) for engine in engines for _ in range(3)))
    assert sum(told) == 1


@pytest.mark.parametrize("token", ["", "1", "1.nonsense", "x.y", "-1.a", "9" * 40 + ".a"])
async def test_a_token_that_nobody_gave_is_no_claim(queue: QueueEngine, token: str) -> None:
    await put(queue, LANE, 1)
    claim = await take(queue)
    forged = Claim(claim.lane, claim.message, token, claim.attempt)
    assert not await queue.confirm(forged)
    assert not await queue.release(forged)
    with pytest.raises(ClaimLost):
        await queue.extend(forged)
    assert await queue.confirm(claim)


# 11, 15
async def test_depth_counts_everything_by_state_and_kind(queue: QueueEngine) -> None:
    assert (await queue.depth()).pending == 0
    await put(queue, LANE, 1, 2, 3)
    await put(queue, OTHER, 1)
    await put(queue, SHARED, "a", "b", "c", "d")
    assert await queue.enqueue(OTHER, message("later"), delay_ms=60_000)
    await take(queue, LANE)
    assert await queue.release(await take(queue, SHARED), delay_ms=60_000)
    await take(queue, SHARED)
    assert await queue.fail(await take(queue, SHARED), "bad")
    assert await queue.confirm(await take(queue, SHARED))
    await asyncio.sleep(0.01)

    depth = await queue.depth()

    assert depth.sessions == KindDepth(waiting=3, delayed=1, claimed=1)
    assert depth.kinds == {SHARED.name: KindDepth(delayed=1, claimed=1, failed=1)}
    assert (depth.pending, depth.lanes) == (7, 3)
    assert depth.oldest_ms is not None
    assert 5 < depth.oldest_ms < 60_000
    assert [await queue.pending(lane) for lane in (LANE, OTHER, SHARED)] == [3, 2, 2]


async def test_peek_tells_types_and_tools_in_order(queue: QueueEngine) -> None:
    await queue.enqueue(LANE, Message("1", "event", "Edit"))
    await queue.enqueue(LANE, Message("2", "event", "Bash"), delay_ms=60_000)
    await queue.enqueue(LANE, Message("3", "summary"))
    await take(queue)
    assert await queue.peek(LANE) == [Pending("event", "Edit"), Pending("event", "Bash"), Pending("summary", None)]
    assert await queue.peek(LANE, limit=1) == [Pending("event", "Edit")]
    assert await queue.peek(OTHER) == []


# 16
async def test_a_renewal_that_comes_too_late_says_so(open_engine: OpenEngine, store: Store) -> None:
    queue, holder = await open_engine(), await open_engine()
    await put(queue, LANE, 1)
    claim = await take(holder)
    await store.pass_time(LEASE_MS + 1)
    await take(queue)
    with pytest.raises(ClaimLost):
        await holder.extend(claim)
    assert not await holder.release(claim)


# 17
async def test_attempts_are_counted_and_a_dead_letter_ends_them(queue: QueueEngine) -> None:
    await put(queue, LANE, "poison", "good")
    for attempt in range(1, 5):
        claim = await take(queue)
        assert (claim.message.id, claim.attempt) == ("poison", attempt)
        assert await queue.release(claim)
    claim = await take(queue)
    assert claim.attempt == 5
    assert await queue.fail(claim, "five attempts, each out of memory")

    assert (await queue.depth()).sessions == KindDepth(waiting=1, failed=1)
    assert not await queue.fail(claim, "again")
    assert await served(queue) == ["good"]


async def test_a_delayed_message_waits_and_so_does_its_lane(queue: QueueEngine) -> None:
    began = time.monotonic()
    assert await queue.enqueue(LANE, message(1), delay_ms=500)
    await put(queue, LANE, 2)
    await put(queue, OTHER, 3)
    assert [(await take(queue)).message.id, await nothing(queue)] == ["3", True]
    assert (await take(queue)).message.id == "1"
    assert 0.49 < time.monotonic() - began < 5


async def test_a_released_message_is_served_after_its_delay(open_engine: OpenEngine) -> None:
    queue, other = await open_engine(), await open_engine()
    await put(queue, LANE, 1, 2)
    claim = await take(queue)
    waiting = asyncio.create_task(take(other, LANE))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    assert await queue.release(claim, delay_ms=300)
    again = await waiting
    assert 0.29 < time.monotonic() - began < 5
    assert (again.message.id, again.attempt) == ("1", 2)


@pytest.mark.parametrize("how", ["enqueue", "release"])
async def test_enqueueing_a_delayed_id_pulls_it_forward(queue: QueueEngine, how: str) -> None:
    if how == "enqueue":
        assert await queue.enqueue(LANE, message(1), delay_ms=60_000)
    else:
        await put(queue, LANE, 1)
        assert await queue.release(await take(queue), delay_ms=60_000)
    assert not await queue.enqueue(LANE, message(1), delay_ms=70_000)
    assert await nothing(queue)
    assert not await queue.enqueue(LANE, message(1), delay_ms=200, replace_finished=True)
    assert await nothing(queue)
    assert (await take(queue)).message.id == "1"


async def test_enqueueing_an_id_that_waits_pulls_the_head_of_its_lane_forward(queue: QueueEngine) -> None:
    await put(queue, LANE, 1, 2)
    assert await queue.release(await take(queue), delay_ms=60_000)
    assert await queue.enqueue(LANE, message(3))
    assert await nothing(queue)
    assert not await queue.enqueue(LANE, message(2))
    assert await served(queue) == ["1", "2", "3"]


async def test_ringing_a_finished_id_pulls_the_head_of_its_lane_forward(queue: QueueEngine) -> None:
    await put(queue, LANE, 1, 2)
    assert await queue.confirm(await take(queue))
    assert await queue.release(await take(queue), delay_ms=60_000)
    assert await queue.enqueue(LANE, message(1), replace_finished=True)
    assert await served(queue) == ["2", "1"]


async def test_enqueueing_a_claimed_id_leaves_it_alone(queue: QueueEngine) -> None:
    await put(queue, LANE, 1)
    claim = await take(queue)
    assert not await queue.enqueue(LANE, message(1), replace_finished=True)
    assert await queue.confirm(claim)
    assert await served(queue) == []


async def test_confirm_and_claim_serves_on_whether_or_not_the_claim_was_held(queue: QueueEngine) -> None:
    await put(queue, LANE, 1, 2)
    first = await take(queue)
    confirmed, second = await queue.confirm_and_claim(first, wait_s=0)
    assert second is not None
    assert (confirmed, second.message.id) == (True, "2")
    assert await queue.confirm_and_claim(first, wait_s=0) == (False, None)
    assert await queue.confirm_and_claim(second, wait_s=0) == (True, None)


async def test_the_epoch_is_the_same_for_every_engine(open_engine: OpenEngine) -> None:
    assert await (await open_engine()).epoch() == await (await open_engine()).epoch()


async def test_a_healthy_engine_says_so(queue: QueueEngine) -> None:
    health = await queue.health()
    assert (health.ok, health.engine, health.error) == (True, queue.name, None)
    await queue.require_healthy()


async def test_what_another_engine_enqueues_wakes_a_caller_who_waits(open_engine: OpenEngine) -> None:
    queue, other = await open_engine(look_ms=60_000), await open_engine(look_ms=60_000)
    for number in range(20):
        lanes: Sequence[Lane] | None = [LANE] if number % 2 else None
        waiting = asyncio.create_task(queue.claim(wait_s=10, lanes=lanes))
        await asyncio.sleep(0.02 if number % 3 else 0)
        began = time.monotonic()
        await put(other, LANE, number)
        claim = await waiting
        assert claim is not None
        assert time.monotonic() - began < 5
        assert await other.confirm(claim)
