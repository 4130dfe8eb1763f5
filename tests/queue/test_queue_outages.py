"""The queue when its store is away, or an answer of it is lost."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import redis

from cutting_proxy import COMMIT, CuttingProxy, cutting_proxy
from databases import prepare_now
from onlooker.domain.errors import QueueUnavailable
from onlooker.queue.bullmq import link
from onlooker.queue.contract import Claim, Lane, Message, QueueEngine
from onlooker.queue.sql import SqlQueue, calls
from onlooker.storage.notices import Notices
from postgres_admin import admin_execute
from queue_stores import BullmqStore, SqlStore, Store
from servers import PostgresServer, RedisServer, postgres_server, redis_families, redis_server
from waiting import wait_until

LANE = Lane.session("one")
FAMILIES = list(redis_families()) or ["redis"]


@dataclass
class Backend:
    """A server of the test's own, and the stores on it. `timeouts` is the module whose times a call takes."""

    server: PostgresServer | RedisServer
    timeouts: ModuleType
    commit: bytes

    def store(self, port: int | None = None) -> Store:
        """The store, by way of another port where one is given."""
        given = urlsplit(self.server.url)
        place = f"127.0.0.1:{port or self.server.port}"
        url = given._replace(netloc=f"{given.username}:{given.password}@{place}").geturl()
        return SqlStore(url) if isinstance(self.server, PostgresServer) else BullmqStore(url, "outage")

    def flush(self) -> None:
        """Bring to the disk what a kill would take: the queue's commits in Postgres wait for its next flush."""
        if isinstance(self.server, PostgresServer):
            admin_execute(self.server.url, "CHECKPOINT")

    def end_connections(self) -> None:
        """End those of everybody else, from the server's side."""
        if isinstance(self.server, PostgresServer):
            admin_execute(
                self.server.url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            return
        with redis.Redis.from_url(self.server.url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.fixture(params=["postgres", *FAMILIES])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A Postgres, migrated, and a Redis of each family that keeps what it is given."""
    if request.param == "postgres":
        with postgres_server() as postgres:
            prepare_now(postgres.url)
            yield Backend(postgres, calls, COMMIT)
    else:
        with redis_server(durable=True, binary=redis_families().get(request.param)) as server:
            yield Backend(server, link, b"EVALSHA")


@pytest_asyncio.fixture
async def proxy(backend: Backend) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy("127.0.0.1", backend.server.port, backend.commit) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def cut_queue(proxy: CuttingProxy, backend: Backend) -> AsyncIterator[QueueEngine]:
    """An engine behind the proxy, which has been connected."""
    async with backend.store(proxy.port).engine() as queue:
        await queue.require_healthy()
        yield queue


def message(name: object) -> Message:
    return Message(str(name), "event")


async def take(queue: QueueEngine) -> Claim:
    claim = await queue.claim(wait_s=5)
    assert claim is not None
    return claim


async def is_healthy(queue: QueueEngine) -> bool:
    return (await queue.health()).ok


@pytest.mark.parametrize("way", ["stop", "kill"])
async def test_a_store_that_is_gone_is_told_at_once_and_used_again_when_it_is_back(backend: Backend, way: str) -> None:
    async with backend.store().engine() as queue:
        await queue.enqueue(LANE, message(1))
        claim = await take(queue)
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.05)
        backend.flush()
        await asyncio.to_thread(backend.server.stop if way == "stop" else backend.server.kill)

        began = time.monotonic()
        health = await queue.health()
        assert not health.ok
        assert health.error
        with pytest.raises(QueueUnavailable, match=f"127.0.0.1:{backend.server.port}"):
            await queue.require_healthy()
        for call in (queue.enqueue(LANE, message(2)), queue.confirm(claim), queue.depth(), queue.claim(wait_s=1)):
            with pytest.raises(QueueUnavailable, match=f"127.0.0.1:{backend.server.port}"):
                await call
        with pytest.raises(QueueUnavailable):
            await waiting
        assert time.monotonic() - began < 8

        await asyncio.to_thread(backend.server.start)
        await wait_until(lambda: is_healthy(queue))
        assert await queue.confirm(claim)
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.05)
        async with backend.store().engine() as other:
            assert await other.enqueue(LANE, message(2))
            again = await asyncio.wait_for(waiting, 5)
        assert again is not None
        assert await queue.confirm(again)


async def test_a_store_that_does_not_answer_is_told_in_time(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.timeouts, "CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(backend.timeouts, "TRY_TIMEOUT_S", 0.5)
    async with backend.store().engine() as queue:
        await queue.enqueue(LANE, message(1))
        claim = await take(queue)
        backend.server.pause()
        try:
            began = time.monotonic()
            assert not await is_healthy(queue)
            assert time.monotonic() - began < 2.2
            for call in (queue.enqueue(LANE, message(2)), queue.confirm(claim)):
                began = time.monotonic()
                with pytest.raises(QueueUnavailable):
                    await call
                assert time.monotonic() - began < 4
        finally:
            backend.server.resume()
        await wait_until(lambda: is_healthy(queue))
        # What was asked in the outage may have been done after it, and is not done twice.
        await queue.confirm(claim)
        await queue.enqueue(LANE, message(2))
        assert (await take(queue)).message.id == "2"
        assert await queue.pending(LANE) == 1


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_claim_whose_answer_was_lost_is_given_all_the_same(
    cut_queue: QueueEngine, proxy: CuttingProxy, how: str
) -> None:
    await cut_queue.enqueue(LANE, message(1))
    proxy.cut("before" if how == "before" else "after")
    claim = await take(cut_queue)
    assert (claim.attempt, proxy.cuts) == (1, 1)
    assert await cut_queue.confirm(claim)


@pytest.mark.parametrize("how", ["before", "after"])
async def test_who_confirms_is_told_the_truth_when_the_answer_was_lost(
    cut_queue: QueueEngine, proxy: CuttingProxy, how: str
) -> None:
    await cut_queue.enqueue(LANE, message(1))
    claim = await take(cut_queue)
    proxy.cut("before" if how == "before" else "after")
    assert await cut_queue.confirm(claim)
    assert proxy.cuts == 1
    assert not await cut_queue.confirm(claim)


@pytest.mark.parametrize("how", ["before", "after"])
async def test_who_enqueues_is_told_the_truth_when_the_answer_was_lost(
    cut_queue: QueueEngine, proxy: CuttingProxy, how: str
) -> None:
    proxy.cut("before" if how == "before" else "after")
    told = await asyncio.gather(*(cut_queue.enqueue(LANE, message(1)) for _ in range(3)))
    assert sum(told) == 1
    assert proxy.cuts == 1
    assert await cut_queue.pending(LANE) == 1


async def test_an_answer_that_never_comes_is_looked_up(
    cut_queue: QueueEngine, proxy: CuttingProxy, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.timeouts, "TRY_TIMEOUT_S", 0.5)
    await cut_queue.enqueue(LANE, message(1))
    proxy.cut("silence")
    claim = await take(cut_queue)
    assert (claim.attempt, proxy.cuts) == (1, 1)
    assert await cut_queue.confirm(claim)


async def test_a_connection_that_is_lost_while_it_is_made_is_made_again(
    cut_queue: QueueEngine, proxy: CuttingProxy, backend: Backend
) -> None:
    await asyncio.to_thread(backend.end_connections)
    await asyncio.sleep(0.05)
    for _ in range(4):
        proxy.cut("before")
    assert await cut_queue.enqueue(LANE, message(1))
    assert (proxy.cuts, await cut_queue.pending(LANE)) == (4, 1)


async def test_many_lost_answers_lose_and_double_nothing(cut_queue: QueueEngine, proxy: CuttingProxy) -> None:
    dice = random.Random(14)  # noqa: S311 - the same cuts in every run
    lanes = [Lane.session(str(number)) for number in range(20)]
    done: dict[str, list[int]] = {lane.name: [] for lane in lanes}
    each = 15

    async def feed(lane: Lane) -> None:
        for number in range(each):
            assert await cut_queue.enqueue(lane, message(number))

    async def work() -> None:
        claim = await cut_queue.claim(wait_s=2)
        while claim is not None:
            assert claim.attempt == 1
            done[claim.lane.name].append(int(claim.message.id))
            confirmed, claim = await cut_queue.confirm_and_claim(claim, wait_s=1)
            assert confirmed

    proxy.cut_sometimes(lambda: dice.choice(("before", "after", None, None)))
    await asyncio.gather(*(feed(lane) for lane in lanes), *(work() for _ in range(8)))
    proxy.cut_sometimes(lambda: None)
    assert proxy.cuts > 10
    assert all(numbers == list(range(each)) for numbers in done.values())


async def test_a_waiting_consumer_hears_again_after_its_connections_were_ended(backend: Backend) -> None:
    store = backend.store()
    async with store.engine(look_ms=60_000) as queue, store.engine() as other:
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(backend.end_connections)
        await other.enqueue(LANE, message(1))
        assert await asyncio.wait_for(waiting, 5) is not None


async def test_a_consumer_hears_whose_connection_is_ended_as_it_begins_to_listen(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(own_postgres, calls, COMMIT)
    require_own, was_ended = Notices._require_own, asyncio.Event()

    async def end_first(self: Notices, lost: asyncio.Event) -> None:
        if not was_ended.is_set():
            await asyncio.to_thread(backend.end_connections)
            was_ended.set()
        await require_own(self, lost)

    monkeypatch.setattr(Notices, "_require_own", end_first)
    async with backend.store().engine(look_ms=60_000) as queue, backend.store().engine() as other:
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await was_ended.wait()
        await other.enqueue(LANE, message(1))
        assert await asyncio.wait_for(waiting, 4) is not None


async def test_an_engine_can_be_closed_while_its_store_is_gone(backend: Backend) -> None:
    async with contextlib.AsyncExitStack() as stack:
        queue = await stack.enter_async_context(backend.store().engine())
        await queue.enqueue(LANE, message(1))
        await take(queue)
        waiting = asyncio.create_task(queue.claim(wait_s=60))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(backend.server.kill)

        began = time.monotonic()
        await queue.close()
        assert time.monotonic() - began < 5

        with pytest.raises(QueueUnavailable):
            await waiting
        await queue.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("onlooker")]


async def test_what_came_for_somebody_who_had_gone_is_served_after_an_outage(backend: Backend) -> None:
    async with backend.store().engine(look_ms=200) as queue:
        await queue.enqueue(LANE, message(1))
        gone = await take(queue)
        await asyncio.to_thread(backend.flush)
        await asyncio.to_thread(backend.server.kill)
        puts_back: Any = queue._calls if isinstance(queue, SqlQueue) else queue._waiters  # type: ignore[attr-defined]  # of the other engine
        puts_back._put_back([gone])
        await asyncio.sleep(1.5)  # it has failed by now
        await asyncio.to_thread(backend.server.start)
        await wait_until(lambda: is_healthy(queue))
        assert (await take(queue)).message.id == "1"


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_a_confirmation_that_a_crash_undid_does_not_hold_up_its_lane(
    own_postgres: PostgresServer, is_busy: bool
) -> None:
    async with SqlStore(own_postgres.url).engine(look_ms=200) as queue:
        own_postgres.flush_late()
        await queue.enqueue(LANE, message(1))
        await queue.enqueue(LANE, message(2))
        kept = Lane.session("kept")
        await queue.enqueue(kept, message(3))
        first, other = await take(queue), await take(queue)
        admin_execute(own_postgres.url, "CHECKPOINT")
        assert await queue.confirm(first)
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)

        async with keep_busy(queue) if is_busy else contextlib.nullcontext():
            served = await queue.claim(wait_s=5, lanes=[LANE])
        assert served is not None, "the lane waits for the end of a lease"
        assert served.message.id in {"1", "2"}
        assert await queue.confirm(served)
        assert (await queue.claim(wait_s=1, lanes=[kept])) is None, "a claim that is held was given to somebody else"
        assert await queue.confirm(other)


@contextlib.asynccontextmanager
async def keep_busy(queue: QueueEngine) -> AsyncIterator[None]:
    """Meanwhile another lane is filled and served without a pause, and asked for more than there is."""
    lane = Lane.session("busy")

    async def fill_and_serve() -> None:
        for number in itertools.count():
            await queue.enqueue(lane, message(f"busy {number}"))
            claim = await queue.claim(wait_s=5, lanes=[lane])
            assert claim is not None
            await queue.confirm_and_claim(claim, wait_s=0)

    busy = asyncio.create_task(fill_and_serve())
    try:
        yield
    finally:
        assert not busy.done(), busy.exception()
        busy.cancel()
        await asyncio.wait({busy})


async def test_a_crash_that_may_have_undone_an_enqueue_changes_the_epoch(own_postgres: PostgresServer) -> None:
    async with SqlStore(own_postgres.url).engine() as queue, SqlStore(own_postgres.url).engine() as other:
        own_postgres.flush_late()
        before = await queue.epoch()
        await asyncio.to_thread(own_postgres.stop)
        with pytest.raises(QueueUnavailable):
            await queue.epoch()
        await asyncio.to_thread(own_postgres.start)
        assert await queue.epoch() == before

        assert await queue.enqueue(LANE, message(1))
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)
        after = await queue.epoch()
        assert after not in {before, ""}
        assert await other.epoch() == after
        assert await queue.enqueue(LANE, message(1)), "the kill undid nothing"


async def test_what_was_held_at_the_end_of_a_process_is_put_back_for_good(own_postgres: PostgresServer) -> None:
    async with SqlStore(own_postgres.url).engine() as queue:
        await queue.enqueue(LANE, message(1))
        await take(queue)
        own_postgres.flush_late()
    await asyncio.to_thread(own_postgres.kill)
    await asyncio.to_thread(own_postgres.start)
    async with SqlStore(own_postgres.url).engine() as queue:
        assert (await take(queue)).message.id == "1"
