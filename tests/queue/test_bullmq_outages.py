"""What can happen to a Redis and to what it answers, and to nobody else's store."""

import asyncio
import contextlib
import gc
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis

from certificates import Authority, new_authority
from cutting_proxy import Cut, cutting_proxy
from onlooker.domain.errors import QueueUnavailable
from onlooker.queue.bullmq import Address, BullmqQueue, calls, link
from onlooker.queue.contract import Claim, Lane, Message, Pending, QueueEngine
from queue_stores import BullmqStore
from servers import RedisServer, redis_families, redis_server
from waiting import wait_until

LANE = Lane.session("one")
OTHER = Lane.session("two")
FAMILIES = list(redis_families()) or ["redis"]


@pytest.fixture(params=FAMILIES)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis of the test's own that keeps what it is given."""
    with redis_server(durable=True, binary=redis_families().get(request.param)) as server:
        yield server


@pytest_asyncio.fixture
async def store(server: RedisServer) -> AsyncIterator[BullmqStore]:
    store = BullmqStore(server.url)
    yield store
    await store.client.aclose()


@pytest_asyncio.fixture
async def queue(store: BullmqStore) -> AsyncIterator[BullmqQueue]:
    async with store.engine() as queue:
        await queue.require_healthy()
        yield queue


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


def message(name: object, body: str = "") -> Message:
    return Message(str(name), "event", body=body)


async def take(queue: QueueEngine, *lanes: Lane) -> Claim:
    claim = await queue.claim(wait_s=5, lanes=lanes or None)
    assert claim is not None
    return claim


async def is_healthy(queue: QueueEngine) -> bool:
    return (await queue.health()).ok


async def extended(queue: BullmqQueue, claim: Claim) -> bool:
    await queue.extend(claim)
    return True


async def claimed_id(queue: BullmqQueue) -> str:
    return (await take(queue)).message.id


async def claimed_ids(queue: BullmqQueue) -> list[str]:
    return [claim.message.id for claim in await queue.claim_many(5, wait_s=0)]


async def confirmed_and_claimed(queue: BullmqQueue, claim: Claim) -> tuple[bool, str | None]:
    confirmed, following = await queue.confirm_and_claim(claim, wait_s=0)
    return confirmed, None if following is None else following.message.id


CALLS: dict[str, tuple[Callable[[BullmqQueue, Claim], Awaitable[Any]], Any]] = {
    "enqueue": (lambda queue, _: queue.enqueue(LANE, message("new")), True),
    "enqueue that rings": (lambda queue, _: queue.enqueue(LANE, message(2), replace_finished=True), False),
    "enqueue again": (lambda queue, _: queue.enqueue(LANE, message("done"), replace_finished=True), True),
    "enqueue_many": (lambda queue, _: queue.enqueue_many([(LANE, message(n)) for n in ("x", 2, "y")]), 2),
    "claim": (lambda queue, _: claimed_id(queue), "other"),
    "claim_many": (lambda queue, _: claimed_ids(queue), ["other", "third"]),
    "confirm": (lambda queue, claim: queue.confirm(claim), True),
    "confirm_and_claim": (confirmed_and_claimed, (True, "2")),
    "fail": (lambda queue, claim: queue.fail(claim, "it is broken"), True),
    "release": (lambda queue, claim: queue.release(claim), True),
    "release for later": (lambda queue, claim: queue.release(claim, delay_ms=60_000), True),
    "extend": (extended, True),
    "reset": (lambda queue, _: queue.reset(LANE), 1),
    "clear": (lambda queue, _: queue.clear(LANE), 2),
    "pending": (lambda queue, _: queue.pending(LANE), 2),
    "peek": (lambda queue, _: queue.peek(OTHER), [Pending("event", None)]),
    "release_dead": (lambda queue, _: queue.release_dead(), 0),
}


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
async def test_whatever_answer_is_lost_the_right_one_is_given(
    redis_of: Callable[[str], str], call: str, how: str
) -> None:
    store = BullmqStore(redis_of(FAMILIES[-1]))
    with redis.Redis.from_url(store.url) as client:
        place = client.connection_pool.connection_kwargs
    async with cutting_proxy(place["host"], place["port"], b"EVALSHA") as proxy:
        through = BullmqStore(store.url.replace(f":{place['port']}", f":{proxy.port}"), store.prefix)
        async with store.engine() as other, through.engine() as queue:
            await other.enqueue_many([(LANE, message(name)) for name in ("done", 1, 2)])
            assert await other.confirm(await take(other))
            claim = await take(queue)
            await other.enqueue(OTHER, message("other"))
            await other.enqueue(Lane.session("three"), message("third"))

            act, expected = CALLS[call]
            proxy.cut("before" if how == "before" else "after")
            assert await act(queue, claim) == expected
            assert proxy.cuts == 1
            if call in {"confirm", "confirm_and_claim", "fail"}:
                assert not await queue.confirm(claim)
        await through.client.aclose()
    await store.close()


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_lost_answer_to_many_who_asked_at_once_is_no_loss_to_any(
    redis_of: Callable[[str], str], how: Cut
) -> None:
    store = BullmqStore(redis_of(FAMILIES[-1]))
    with redis.Redis.from_url(store.url) as client:
        place = client.connection_pool.connection_kwargs
    lanes = [Lane.session(str(number)) for number in range(5)]
    async with cutting_proxy(place["host"], place["port"], b"EVALSHA") as proxy:
        through = BullmqStore(store.url.replace(f":{place['port']}", f":{proxy.port}"), store.prefix)
        async with through.engine() as queue:
            await queue.enqueue(lanes[0], message(1))
            proxy.cut(how)
            assert await asyncio.gather(*(queue.enqueue(lane, message(1)) for lane in lanes)) == [False, *[True] * 4]
            await queue.enqueue_many([(lane, message(2)) for lane in lanes])

            proxy.cut(how)
            first = await asyncio.gather(*(queue.claim(wait_s=0) for _ in lanes))
            claims = [claim for claim in first if claim is not None]
            assert [(claim.lane, claim.message.id, claim.attempt) for claim in claims] == [
                (lane, "1", 1) for lane in lanes
            ]

            proxy.cut(how)
            told = await asyncio.gather(*(queue.confirm_and_claim(claim, wait_s=0) for claim in claims))
            assert all(held for held, _ in told)
            claims = [claim for _, claim in told if claim is not None]
            assert [(claim.lane, claim.message.id, claim.attempt) for claim in claims] == [
                (lane, "2", 1) for lane in lanes
            ]

            proxy.cut(how)
            assert await asyncio.gather(*(queue.confirm(claim) for claim in claims)) == [True] * 5
            assert proxy.cuts == 4
            assert (await queue.depth()).pending == 0
        await through.client.aclose()
    await store.close()


async def test_calls_that_were_given_up_claim_nothing_when_redis_answers_again(
    server: RedisServer, queue: BullmqQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen Redis reads what it was asked before, when it goes on; by then nobody is there for the claims."""
    await queue.enqueue_many([(Lane.session(str(number)), message(number)) for number in range(5)])
    monkeypatch.setattr(link, "CALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr(link, "TRY_TIMEOUT_S", 0.4)
    server.pause()
    try:
        asked = [asyncio.create_task(queue.claim(wait_s=0)) for _ in range(3)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, QueueUnavailable) for each in told)
    finally:
        server.resume()
    await wait_until(lambda: is_healthy(queue))

    served: list[str] = []

    async def are_all_served() -> bool:
        served.extend([claim.message.id for claim in await queue.claim_many(5, wait_s=0)])
        return len(served) == 5

    await wait_until(are_all_served)
    assert sorted(served) == ["0", "1", "2", "3", "4"]


async def test_a_full_redis_takes_nothing_and_gives_what_it_has(admin: redis.Redis, queue: BullmqQueue) -> None:
    for number in range(3):
        assert await queue.enqueue(LANE, message(number, f'"{"x" * 1000}"'))
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)

    with pytest.raises(QueueUnavailable, match="OOM"):
        await queue.enqueue(LANE, message("new"))
    assert not await is_healthy(queue)
    with pytest.raises(QueueUnavailable, match="OOM"):
        await queue.require_healthy()
    first = await take(queue)
    await queue.extend(first)
    assert await queue.release(first)
    first = await take(queue)
    confirmed, second = await queue.confirm_and_claim(first, wait_s=0)
    assert confirmed
    assert second is not None
    assert await queue.fail(second, "it is broken")

    admin.config_set("maxmemory", 0)
    assert await queue.enqueue(LANE, message("new"))
    assert await is_healthy(queue)
    assert [(await take(queue)).message.id, await queue.pending(LANE)] == ["2", 2]


async def test_a_full_redis_can_be_emptied_by_who_connects_then(admin: redis.Redis, store: BullmqStore) -> None:
    async with store.engine() as queue:
        assert await queue.enqueue(LANE, message(1))
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)

    async with store.engine() as queue:
        assert await queue.confirm(await take(queue))


async def test_a_full_redis_tells_what_there_is(admin: redis.Redis, store: BullmqStore, queue: BullmqQueue) -> None:
    assert await queue.enqueue(LANE, message(1))
    assert await queue.enqueue(LANE, message(2))
    # Another's tool has removed one: the next count has something to put right, which is a write.
    admin.lrem(f"{store.prefix}:{LANE.name}:wait", 1, "2")
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", 1)

    assert (await queue.depth()).sessions.waiting == 1
    # One lane is looked at while another is ready, which others are told of.
    assert await queue.claim(wait_s=0, lanes=[Lane.session("idle")]) is None
    assert (await take(queue)).message.id == "1"


async def test_a_replica_that_becomes_the_master_is_used_without_a_restart(admin: redis.Redis) -> None:
    with redis_server(durable=True) as replica, redis.Redis.from_url(replica.url) as standby:
        host, port = admin.connection_pool.connection_kwargs["host"], admin.connection_pool.connection_kwargs["port"]
        password = admin.connection_pool.connection_kwargs["password"]
        store = BullmqStore(replica.url)
        async with store.engine() as queue:
            waiting = asyncio.create_task(queue.claim(wait_s=60))
            await asyncio.sleep(0.1)
            standby.config_set("masterauth", password)
            standby.replicaof(host, port)

            for call in (queue.enqueue(LANE, message(1)), queue.claim(wait_s=1), queue.require_healthy()):
                with pytest.raises(QueueUnavailable, match=r"READONLY|MASTERDOWN|LOADING"):
                    await call
            with pytest.raises(QueueUnavailable):
                await waiting

            standby.replicaof("NO", "ONE")
            await wait_until(lambda: is_healthy(queue))
            waiting = asyncio.create_task(queue.claim(wait_s=60))
            assert await queue.enqueue(LANE, message(1))
            claim = await asyncio.wait_for(waiting, 5)
            assert claim is not None
            assert await queue.confirm(claim)
        await store.client.aclose()


async def test_what_a_failover_undid_holds_up_no_lane(server: RedisServer, queue: BullmqQueue, tmp_path: Path) -> None:
    kept = Lane.session("kept")
    for lane, name in ((LANE, 1), (LANE, 2), (kept, 3), (OTHER, 4)):
        await queue.enqueue(lane, message(name))
    first, held = await take(queue, LANE), await take(queue, kept)
    before = await queue.epoch()
    server.copy_state(tmp_path / "kept")
    confirmed, second = await queue.confirm_and_claim(first, wait_s=0)
    assert confirmed
    assert second is not None
    assert await queue.confirm(await take(queue, OTHER))
    await asyncio.to_thread(server.rewind, tmp_path / "kept")

    assert await queue.epoch() != before, "nobody rings what may be lost"
    served = await take(queue, LANE)
    assert served.message.id == "1"
    assert (await take(queue, OTHER)).message.id == "4"
    assert await queue.confirm(second) is False
    assert await queue.claim(wait_s=0, lanes=[kept]) is None, "a claim that is held was given to somebody else"
    assert await queue.confirm(held)
    assert await queue.confirm(served)


class Load:
    """Feeders and workers that ask again when Redis is away, as the outbox and the worker do."""

    def __init__(self, queue: BullmqQueue, *, lanes: int, each: int) -> None:
        self.queue = queue
        self.each = each
        self.done: dict[str, list[int]] = {Lane.session(str(number)).name: [] for number in range(lanes)}

    async def run(self, trouble: Awaitable[None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in self.done:
                tasks.create_task(self._feed(Lane.session(name.removeprefix("session."))))
            for _ in range(8):
                tasks.create_task(self._work())
            await trouble

    async def _feed(self, lane: Lane) -> None:
        for number in range(self.each):
            # An answer that never came is not known: the message is rung again, and it is one message.
            await self._patiently(partial(self.queue.enqueue, lane, message(number)))
            await asyncio.sleep(0.002)

    async def _work(self) -> None:
        while not self.is_done:
            claim = await self._patiently(partial(self.queue.claim, wait_s=0.2))
            if claim is not None:
                numbers = self.done[claim.lane.name]
                if int(claim.message.id) not in numbers:
                    numbers.append(int(claim.message.id))
                assert await self._patiently(partial(self.queue.confirm, claim))

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            with contextlib.suppress(QueueUnavailable):
                return await call()
            await asyncio.sleep(0.05)

    @property
    def is_done(self) -> bool:
        return all(len(numbers) == self.each for numbers in self.done.values())

    async def assert_complete(self) -> None:
        assert all(numbers == list(range(self.each)) for numbers in self.done.values())
        assert (await self.queue.depth()).pending == 0


async def test_connections_that_are_killed_again_and_again_lose_nothing(admin: redis.Redis, queue: BullmqQueue) -> None:
    load = Load(queue, lanes=10, each=40)

    async def trouble() -> None:
        while not load.is_done:
            admin.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.02)

    await load.run(trouble())
    await load.assert_complete()


async def test_a_redis_that_is_killed_and_started_under_load_loses_and_doubles_nothing(
    server: RedisServer, queue: BullmqQueue
) -> None:
    load = Load(queue, lanes=10, each=60)

    async def trouble() -> None:
        dice = random.Random(6)  # noqa: S311 - the same moments in every run, as far as they are ours
        for _ in range(3):
            await asyncio.sleep(0.1 + dice.random() * 0.2)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(dice.random() * 0.3)
            await asyncio.to_thread(server.start)

    await load.run(trouble())
    await load.assert_complete()


async def test_scripts_that_were_forgotten_are_given_again(admin: redis.Redis, queue: BullmqQueue) -> None:
    assert await queue.enqueue(LANE, message(1))
    admin.script_flush()
    assert await queue.confirm(await take(queue))


@contextlib.asynccontextmanager
async def tls_before(server: RedisServer, authority: Authority, folder: Path) -> AsyncIterator[int]:
    """The port of a TLS server that passes on to Redis: not every build of Redis speaks TLS itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign(folder))

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection(server.host, server.port)
        await asyncio.gather(pass_on(reader, to_redis), pass_on(from_redis, writer))

    listening = await asyncio.start_server(serve, server.host, 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def test_tls_a_user_and_a_database_are_taken_from_the_url(
    server: RedisServer, admin: redis.Redis, tmp_path: Path
) -> None:
    admin.acl_setuser("onlooker", enabled=True, passwords=["+p@ss:word"], commands=["+@all"], keys=["*"])
    authority = new_authority(tmp_path / "authority.crt")
    async with tls_before(server, authority, tmp_path) as port:
        place = f"onlooker:p%40ss%3Aword@127.0.0.1:{port}/3"
        async with BullmqStore(f"rediss://{place}?ssl_ca_certs={authority.file}", "tls").engine() as queue:
            assert await queue.enqueue(LANE, message(1))
            assert await queue.confirm(await take(queue))
        async with BullmqStore(f"rediss://{place}", "tls").engine() as queue:
            with pytest.raises(QueueUnavailable, match="certificate"):
                await queue.require_healthy()
    assert admin.dbsize() == 0
    admin.select(3)
    assert admin.exists("tls:epoch")


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://x", "must begin with redis://"),
        ("x", "must begin with redis://"),
        ("redis://", "must name a host"),
        ("redis://x?nonsense=1", "an option that is not known: nonsense$"),
        ("redis://x/abc", "the number of a database"),
        ("redis://x/-1", "the number of a database"),
        ("redis://x:port/0", "no port that can be read"),
        ("redis://x:99999/0", "no port that can be read"),
        ("redis://onlooker:secret/key@x/0", "%2F"),
        ("redis://onlooker:secret#key@x/0", "%23"),
        ("redis://onlooker:secret?key@x/0", "%3F"),
        ("rediss://x/0?ssl_ca_certs=/not/there", "ssl_ca_certs that is not there: /not/there"),
    ],
)
def test_a_url_that_is_none_of_a_redis_is_refused_and_its_password_not_told(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        Address.parse(url)
    assert "secret" not in str(refused.value)


async def test_a_redis_that_drops_what_waits_is_warned_of_once(
    server: RedisServer, admin: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with BullmqStore(server.url, "evicting").engine() as queue:
            await queue.require_healthy()
            admin.client_kill_filter(_type="normal", skipme=True)
            assert await queue.enqueue(LANE, message(1))
            assert "allkeys-lru" in str((await queue.health()).details["warning"])
            admin.config_set("maxmemory-policy", "noeviction")
            admin.client_kill_filter(_type="normal", skipme=True)
            assert await queue.confirm(await take(queue))
            assert "warning" not in (await queue.health()).details
    finally:
        admin.config_set("maxmemory-policy", "noeviction")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not safe" in line]
    assert "allkeys-lru" in line


async def test_a_redis_that_is_too_old_is_refused(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "OLDEST_REDIS", (99, 1))
    async with BullmqStore(server.url, "old").engine() as queue:
        with pytest.raises(QueueUnavailable, match=r"this is Redis \d+\.[\d.]+, and 99\.1 or newer is needed"):
            await queue.require_healthy()


async def test_a_user_that_may_not_ask_what_redis_it_is_may_use_the_queue(
    server: RedisServer, admin: redis.Redis
) -> None:
    admin.acl_setuser("plain", enabled=True, passwords=["+plain"], commands=["+@all", "-info"], keys=["*"])
    url = f"redis://plain:plain@{server.host}:{server.port}/0"
    async with BullmqStore(url, "plain").engine() as queue:
        assert await queue.enqueue(LANE, message(1))
        assert await queue.confirm(await take(queue))


async def test_a_connection_that_fails_when_nobody_waits_for_it_any_more_is_no_defect() -> None:
    asked = asyncio.Event()

    async def hear_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await asyncio.sleep(0.05)
        writer.close()

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    async with await asyncio.start_server(hear_and_hang_up, "127.0.0.1", 0) as listening:
        address = Address.parse(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0")

        async def prepare(_wire: link.Wire) -> None:
            raise AssertionError("nobody was reached")

        making = link.Link(address, prepare)
        waiting = asyncio.create_task(making.connect())
        await asked.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        await wait_until(lambda: making._connecting is None)
        gc.collect()
    assert told == []
