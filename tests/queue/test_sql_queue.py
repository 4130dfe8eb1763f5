"""What only the SQL engine has: its indexes, its statements, its housekeeping, its interleavings."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, cast

import pytest
import pytest_asyncio
from sqlalchemy import Connection, Engine, event, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from onlooker.host import ProcessIdentity
from onlooker.queue.contract import RETENTION_MS, Lane, Message, QueueEngine
from onlooker.queue.sql import SqlQueue, census, statements
from onlooker.queue.sql.calls import LARGEST_UNIT
from onlooker.queue.sql.unit import Finish, Held, Put, Unit, Want, perform
from onlooker.storage import dialect
from onlooker.storage.database import Database
from onlooker.storage.dialect import POSTGRES, is_sqlite
from onlooker.storage.tables import messages
from postgres_admin import admin_fetch
from queue_stores import OpenEngine, SqlStore, Store
from waiting import wait_until

LANE = Lane.session("one")


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An empty store in each kind of database."""
    store = SqlStore(database_url)
    yield store
    await store.close()


@contextmanager
def executed() -> Iterator[list[tuple[str, Any]]]:
    """The statements that are run meanwhile, with their parameters, past SQLAlchemy too."""
    seen: list[tuple[str, Any]] = []
    run_on_sqlite = dialect._run_on_sqlite

    def see(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        seen.append((statement, parameters))

    def see_and_run(conn: Connection, statement: str, given: Sequence[Any]) -> Any:
        seen.append((statement, tuple(given)))
        return run_on_sqlite(conn, statement, given)

    event.listen(Engine, "before_cursor_execute", see)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dialect, "_run_on_sqlite", see_and_run)
            yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", see)


async def fill(database: Database, *, lanes: int, each: int) -> None:
    """Many messages, so that no planner takes a table for small."""
    queue = SqlQueue(database, identity=ProcessIdentity.of_this_process())
    entries = [
        (Lane.session(f"{number:05}"), Message(str(place), "event")) for place in range(each) for number in range(lanes)
    ]
    await queue.enqueue_many(entries)
    await queue.close()


def plan(conn: Connection, statement: str, parameters: Any) -> str:
    """How the database would run a statement."""
    prefix = "EXPLAIN QUERY PLAN " if is_sqlite(conn) else "EXPLAIN "
    rows = conn.exec_driver_sql(prefix + statement, parameters)
    return "\n".join(str(row[-1]) for row in rows)


async def test_every_statement_of_a_worker_finds_its_rows_by_an_index(database: Database) -> None:
    await fill(database, lanes=500, each=10)
    queue = SqlQueue(database, identity=ProcessIdentity.of_this_process(), look_ms=0)
    claims = await queue.claim_many(20, wait_s=0)
    with executed() as seen:
        await queue.enqueue(LANE, Message("1", "event"))
        await queue.enqueue(LANE, Message("1", "event"))
        await queue.enqueue(LANE, Message("2", "event"), delay_ms=1)
        await queue.enqueue(LANE, Message("2", "event"))
        first, following = await queue.confirm_and_claim(claims[0], wait_s=0)
        assert first
        assert following is not None
        await queue.extend(claims[1])
        await queue.release(claims[1], delay_ms=1)
        await queue.claim(wait_s=0, lanes=[LANE, Lane.kind("shared")])
        await queue.fail(claims[2], "no")
        await queue.pending(LANE)
        await queue.peek(LANE)
        await queue.reset(LANE)
        await queue.clear(LANE)
    await queue.close()

    ours = [(statement, parameters) for statement, parameters in seen if "messages" in statement]
    assert len(ours) > 15

    def explain(conn: Connection) -> list[str]:
        return [plan(conn, statement, parameters) for statement, parameters in ours]

    for (statement, _), told in zip(ours, await database.tx(explain), strict=True):
        if database.name == POSTGRES:
            assert "Seq Scan on messages" not in told, statement
        else:
            scans = [line for line in told.splitlines() if line.startswith("SCAN messages")]
            assert all("USING" in line and "INDEX ix_messages" in line for line in scans), f"{statement}\n{told}"


async def test_a_claim_reads_the_index_of_what_is_ready_in_its_order(database: Database) -> None:
    await fill(database, lanes=500, each=10)
    queue = SqlQueue(database, identity=ProcessIdentity.of_this_process())
    with executed() as seen:
        await queue.claim(wait_s=0)
    await queue.close()
    [(statement, parameters)] = [one for one in seen if one[0].startswith("WITH picked")]
    told = await database.tx(lambda conn: plan(conn, statement, parameters))
    assert "ix_messages_ready" in told
    assert "TEMP B-TREE" not in told
    assert "Sort" not in told


async def test_delayed_messages_are_not_in_a_claims_way(database: Database) -> None:
    """A thousand sessions in back-off before the first that may be served: a claim does not pass over them."""
    queue = SqlQueue(database, identity=ProcessIdentity.of_this_process())
    lanes = [Lane.session(str(number)) for number in range(1_000)]
    await asyncio.gather(*(queue.enqueue(lane, Message("1", "event"), delay_ms=3_600_000) for lane in lanes))
    ready = statements.READY

    def seen_by_a_claim(conn: Connection) -> int:
        return int(conn.execute(select(func.count()).select_from(messages).where(ready)).scalar_one())

    assert await database.read(seen_by_a_claim) == 0
    await queue.enqueue(LANE, Message("1", "event"))
    assert await database.read(seen_by_a_claim) == 1
    await queue.close()


@pytest.mark.parametrize("lanes", [10, 1_000])
async def test_depth_takes_the_same_number_of_round_trips_for_any_number_of_lanes(
    database: Database, lanes: int
) -> None:
    await fill(database, lanes=lanes, each=2)
    with executed() as seen:
        depth = await database.read(census.take)
    assert depth.lanes == lanes
    assert len([statement for statement, _ in seen if "messages" in statement]) == 6


async def test_waiting_consumers_cost_the_same_for_any_number_of_sessions(
    queue: QueueEngine, open_engine: OpenEngine
) -> None:
    other = await open_engine()
    for portion in range(10):
        lanes = [Lane.session(f"{portion}-{number}") for number in range(100)]
        await other.enqueue_many([(lane, Message("1", "event")) for lane in lanes])
        for claim in await other.claim_many(100, wait_s=0):
            assert await other.confirm(claim)
    waiting = [asyncio.create_task(queue.claim(wait_s=30)) for _ in range(16)]
    await asyncio.sleep(0.3)

    with executed() as seen:
        await asyncio.sleep(1.5)

    assert len(seen) <= 15
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_more_callers_than_a_unit_takes_cost_nothing_while_they_wait(queue: QueueEngine) -> None:
    count = LARGEST_UNIT + 20
    waiting = [asyncio.create_task(queue.claim(wait_s=60)) for _ in range(count)]
    await asyncio.sleep(1)
    with executed() as seen:
        await asyncio.sleep(0.5)
    assert len(seen) < 100
    await queue.enqueue_many([(Lane.session(str(number)), Message("1", "event")) for number in range(count)])
    claims = await asyncio.wait_for(asyncio.gather(*waiting), 30)
    assert {claim.lane.name for claim in claims if claim is not None} == {
        Lane.session(str(number)).name for number in range(count)
    }


async def test_nothing_is_kept_in_memory_for_a_session(open_engine: OpenEngine) -> None:
    queue = await open_engine()

    async def pass_through(prefix: str, count: int) -> None:
        lanes = [Lane.session(f"{prefix}-{number}") for number in range(count)]
        await queue.enqueue_many([(lane, Message("1", "event")) for lane in lanes])
        while claims := await queue.claim_many(100, wait_s=0):
            assert all(await asyncio.gather(*(queue.confirm(claim) for claim in claims)))

    tracemalloc.start()
    try:
        await pass_through("first", 500)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await pass_through("then", 2_500)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The smallest thing that could be kept, a name in a set, would be 300,000 bytes.
    assert after - before < 100_000


async def test_finished_messages_are_forgotten_after_the_retention(store: Store, open_engine: OpenEngine) -> None:
    assert isinstance(store, SqlStore)
    queue = await open_engine()
    await queue.enqueue_many([(Lane.session(str(number)), Message("1", "event")) for number in range(1_200)])
    claims = enumerate(await queue.claim_many(1_200, wait_s=0))
    ends = [queue.confirm(claim) if number % 3 else queue.fail(claim, "no") for number, claim in claims]
    assert all(await asyncio.gather(*ends))
    await store.pass_time(RETENTION_MS)
    assert await store.rows() == 1_200

    purging = await open_engine()
    waiting = asyncio.create_task(purging.claim(wait_s=30, lanes=[LANE]))

    async def are_gone() -> bool:
        return await store.rows() == 0

    await wait_until(are_gone)
    waiting.cancel()


async def test_the_engine_uses_few_connections(postgres_database_prepared: str) -> None:
    store = SqlStore(postgres_database_prepared)
    async with store.engine() as queue:
        await queue.enqueue_many([(Lane.session(str(number)), Message("1", "event")) for number in range(500)])

        async def work() -> None:
            claim = await queue.claim(wait_s=0.2)
            while claim is not None:
                _, claim = await queue.confirm_and_claim(claim, wait_s=0.2)

        await asyncio.gather(*(work() for _ in range(32)))
        told = admin_fetch(
            postgres_database_prepared,
            "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'onlooker')"
            " AND datname = current_database()",
        )
    assert told[0]["count"] <= 8


class Player:
    """A unit that is run one statement at a time on a connection of its own, as a scheduler says."""

    def __init__(self, engine: AsyncEngine, unit: Unit) -> None:
        self._engine = engine
        self._unit = unit
        self._go = asyncio.Semaphore(0)
        self._waits = asyncio.Event()
        self.done = asyncio.create_task(self._play())

    async def _play(self) -> Any:
        async with self._engine.connect() as conn:
            await conn.run_sync(lambda sync: event.listen(sync, "before_cursor_execute", self._before_each))
            outcome = await conn.run_sync(perform, self._unit)
            await self._turn()
            await conn.commit()
            return outcome

    def _before_each(self, *_given: Any) -> None:
        await_only(self._turn())

    async def _turn(self) -> None:
        self._waits.set()
        await self._go.acquire()

    async def step(self) -> None:
        """Let it run up to its next statement, or for a moment where the database makes it wait for the other."""
        if self.done.done():
            return
        self._waits.clear()
        self._go.release()
        arrived = asyncio.create_task(self._waits.wait())
        await asyncio.wait({arrived, self.done}, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()

    async def finish(self) -> Any:
        while not self.done.done():
            await self.step()
        return self.done.result()


def a_unit(**asked: Any) -> Unit:
    return Unit(token=f"u{id(asked)}", holder="h", lease_ms=60_000, retention_ms=RETENTION_MS, **asked)


async def test_each_interleaving_of_confirm_and_enqueue_leaves_work_that_can_be_served(
    postgres_database_prepared: str,
) -> None:
    """Four statements of a confirm and three of an enqueue to the same lane, in every order that there is."""
    engine = create_async_engine(postgres_database_prepared.replace("postgresql:", "postgresql+asyncpg:"))
    orders = list(combinations(range(7), 4))
    for number, confirms_at in enumerate(orders):
        lane = Lane.session(str(number))

        async with engine.begin() as conn:
            await conn.run_sync(perform, a_unit(puts=[Put(lane, Message("first", "event"), 0, replace=False)]))
        async with engine.begin() as conn:
            claimed = await conn.run_sync(perform, a_unit(wants=[Want(1, [lane])]))
        [claim] = claimed.claims[0]

        confirming = Player(engine, a_unit(finishes=[Finish(Held.by(claim), lane)]))
        putting = Player(engine, a_unit(puts=[Put(lane, Message("second", "event"), 0, replace=False)]))
        for place in range(7):
            await (confirming if place in confirms_at else putting).step()
        finishing = asyncio.gather(confirming.finish(), putting.finish())
        confirmed, put = await asyncio.wait_for(finishing, 10)
        assert confirmed.finished == [True]
        assert put.puts == [True]

        async with engine.begin() as conn:
            served = await conn.run_sync(perform, a_unit(wants=[Want(1, None)]))
        assert [found.message.id for found in served.claims[0]] == ["second"], confirms_at
    await engine.dispose()


async def test_a_call_that_cannot_be_done_fails_alone(queue: QueueEngine) -> None:
    """A delay that is no number cannot be told to a database; what others ask in the same moment is done."""
    good = [queue.enqueue(LANE, Message(str(number), "event")) for number in range(3)]
    bad = queue.enqueue(LANE, Message("bad", "event"), delay_ms=cast("int", object()))
    *told, failed = await asyncio.gather(*good, bad, return_exceptions=True)
    assert told == [True, True, True]
    assert isinstance(failed, Exception)
    assert await queue.pending(LANE) == 3


async def test_the_table_refuses_two_claims_of_one_session(database: Database) -> None:
    await fill(database, lanes=1, each=2)
    with pytest.raises(Exception, match="head") as refused:
        await database.tx(lambda conn: conn.execute(text("UPDATE messages SET state = 1")).rowcount)
    assert "IntegrityError" in type(refused.value).__name__
