"""The lane to a provider by a clock of the test's: turns, pauses, outages, and how calls come back after them."""

import asyncio

import pytest

from onlooker.domain.errors import BadSettings, Busy, Exhausted, ProviderError, Rejected
from onlooker.domain.lanes import LaneCondition
from onlooker.providers.board import LOOK_S, Board
from onlooker.providers.lane import HELD_S, Lane
from onlooker.storage import provider_lanes, schema
from onlooker.storage.database import Database, open_database
from servers import PostgresServer


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def lane(clock: Clock, *, concurrency: int = 8, board: Board | None = None) -> Lane:
    return Lane(
        "openai", "m", "host", concurrency=concurrency, board=board, clock=clock,
        wall_ms=lambda: int(clock.now * 1000), jitter=lambda: 0.5,
    )  # fmt: skip


async def fail(it: Lane, error: ProviderError, *, is_limit: bool = False) -> None:
    async with it.turn():
        await it.failed(error, is_limit=is_limit)


async def succeed(it: Lane) -> None:
    async with it.turn():
        await it.succeeded()


async def refused(it: Lane) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        await succeed(it)
    return raised.value


async def bring_down(it: Lane) -> None:
    for _ in range(3):
        await fail(it, Busy("no answer"))


class Calls:
    """Calls that take their turns and end when told to."""

    def __init__(self, it: Lane) -> None:
        self.lane = it
        self.began: list[int] = []
        self.ends: dict[int, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, count: int) -> None:
        for _ in range(count):
            number = len(self.tasks)
            self.ends[number] = asyncio.Event()
            self.tasks.append(asyncio.create_task(self._run(number)))

    async def _run(self, number: int) -> None:
        async with self.lane.turn():
            self.began.append(number)
            await self.ends[number].wait()
            await self.lane.succeeded()

    async def end(self, *numbers: int) -> None:
        for number in numbers:
            self.ends[number].set()
        await settle()

    async def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def settle() -> None:
    """Let every task go on until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_turns_are_given_in_the_order_of_asking() -> None:
    calls = Calls(lane(Clock(), concurrency=2))
    calls.start(5)
    await settle()
    assert calls.began == [0, 1]
    await calls.end(1)
    assert calls.began == [0, 1, 2]
    await calls.end(0, 2)
    assert calls.began == [0, 1, 2, 3, 4]
    await calls.cancel()


async def test_who_stops_waiting_takes_no_turn_away() -> None:
    calls = Calls(lane(Clock(), concurrency=1))
    calls.start(3)
    await settle()
    calls.tasks[1].cancel()
    await calls.end(0)
    assert calls.began == [0, 2]
    await calls.cancel()


async def test_two_failures_are_no_outage_and_three_are() -> None:
    it = lane(Clock())
    await fail(it, Busy("x"))
    await fail(it, Busy("x"))
    await succeed(it)
    await bring_down(it)
    assert it.state.condition is LaneCondition.DOWN
    assert (await refused(it)).retry_after_s == pytest.approx(1.0)


async def test_an_outage_is_tried_by_one_call_at_a_time_and_less_often_the_longer_it_lasts() -> None:
    clock = Clock()
    it = lane(clock)
    await bring_down(it)
    waits = []
    while clock.now < 1_000 + 7_200:
        wait_s = (await refused(it)).retry_after_s or 0
        waits.append(wait_s)
        clock.now += wait_s
        await fail(it, Busy("still"))
    assert waits[:3] == pytest.approx([1.0, 1.0, 1.0])
    assert max(waits) == pytest.approx(30.0)
    after_a_minute = next(wait for n, wait in enumerate(waits) if sum(waits[: n + 1]) >= 60)
    assert after_a_minute <= 1.1


async def test_while_a_call_tries_the_others_are_refused() -> None:
    clock = Clock()
    it = lane(clock)
    await bring_down(it)
    clock.now += 5
    calls = Calls(it)
    calls.start(1)
    await settle()
    assert isinstance(await refused(it), Busy)
    await calls.end(0)
    assert it.state.condition is LaneCondition.OPEN


async def test_a_trial_that_is_cancelled_leaves_room_for_another() -> None:
    clock = Clock()
    it = lane(clock)
    await bring_down(it)
    clock.now += 5
    calls = Calls(it)
    calls.start(1)
    await settle()
    await calls.cancel()
    await succeed(it)
    assert it.state.condition is LaneCondition.OPEN


async def test_after_an_outage_calls_ramp_up() -> None:
    clock = Clock()
    it = lane(clock, concurrency=8)
    await bring_down(it)
    clock.now += 5
    await succeed(it)
    calls = Calls(it)
    calls.start(30)
    await settle()
    at_once, running = [], set(calls.began)
    for _ in range(4):
        at_once.append(len(running))
        await calls.end(*running)
        running = {number for number in calls.began if not calls.ends[number].is_set()}
    assert at_once == [1, 2, 4, 8]
    await calls.cancel()


async def test_who_waits_for_a_turn_when_the_lane_closes_is_refused_at_once() -> None:
    it = lane(Clock(), concurrency=1)
    calls = Calls(it)
    calls.start(3)
    await settle()
    await it.failed(Busy("pause", retry_after_s=20))
    await settle()
    assert [task.done() for task in calls.tasks] == [False, True, True]
    assert isinstance(calls.tasks[1].exception(), Busy)
    assert isinstance(calls.tasks[2].exception(), Busy)
    await calls.cancel()


async def test_a_pause_is_never_shortened_by_a_call_that_came_earlier() -> None:
    clock = Clock()
    it = lane(clock)
    async with it.turn():
        await fail(it, Busy("limit", retry_after_s=40), is_limit=True)
        await it.failed(Busy("limit", retry_after_s=5), is_limit=True)
        await it.succeeded()
    assert (await refused(it)).retry_after_s == pytest.approx(40)


async def test_a_limit_that_names_no_time_doubles_its_pause() -> None:
    clock = Clock()
    it = lane(clock)
    waits = []
    for _ in range(8):
        error = Busy("limit")
        await fail(it, error, is_limit=True)
        waits.append(error.retry_after_s or 0)
        clock.now += 100
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])


@pytest.mark.parametrize(
    "error, condition",
    [
        (Exhausted("quota"), LaneCondition.EXHAUSTED),
        (BadSettings("key"), LaneCondition.BAD_SETTINGS),
    ],
)
async def test_what_somebody_has_to_mend_is_left_alone_for_long(error: Exhausted, condition: LaneCondition) -> None:
    clock = Clock()
    it = lane(clock)
    await fail(it, error)
    assert error.retry_after_s == HELD_S
    assert it.state.condition is condition
    assert type(await refused(it)) is type(error)
    clock.now += HELD_S
    await succeed(it)
    assert it.state.condition is LaneCondition.OPEN


async def test_a_quota_that_names_its_time_is_tried_then() -> None:
    it = lane(Clock())
    error = Exhausted("quota", retry_after_s=86_400)
    await fail(it, error)
    assert error.retry_after_s == 86_400


async def test_refused_content_ends_an_outage() -> None:
    clock = Clock()
    it = lane(clock)
    await bring_down(it)
    clock.now += 5
    await fail(it, Rejected("content"))
    assert it.state.condition is LaneCondition.OPEN


async def test_while_a_lane_is_down_one_waiter_at_a_time_is_let_through() -> None:
    clock = Clock()
    it = lane(clock)
    await bring_down(it)
    clock.now += 5
    waiting = [asyncio.create_task(it.ready()) for _ in range(4)]
    await settle()
    assert sum(task.done() for task in waiting) == 1
    await succeed(it)
    await settle()
    assert all(task.done() for task in waiting)


async def test_a_long_pause_is_not_waited_for() -> None:
    it = lane(Clock())
    await fail(it, Busy("limit", retry_after_s=3_600), is_limit=True)
    await asyncio.wait_for(it.ready(), 1)


async def test_opening_is_told() -> None:
    clock = Clock()
    it = lane(clock)
    await bring_down(it)
    opened = asyncio.create_task(it.opened())
    clock.now += 5
    await settle()
    assert not opened.done()
    await succeed(it)
    await asyncio.wait_for(opened, 1)


class TestBoards:
    """Two processes on one database."""

    async def test_a_pause_holds_for_all_and_so_does_its_end(self, database: Database) -> None:
        clock = Clock()
        one, other = (lane(clock, board=Board(database, clock=clock)) for _ in range(2))
        await succeed(other)
        await fail(one, Busy("limit", retry_after_s=50), is_limit=True)
        clock.now += LOOK_S
        error = await refused(other)
        assert error.retry_after_s == pytest.approx(50, abs=2)
        assert [state.condition for state in await database.read(provider_lanes.posted)] == [LaneCondition.PAUSED]
        clock.now += 60
        await succeed(one)
        assert await database.read(provider_lanes.posted) == []

    async def test_an_outage_is_shown_and_judged_by_each_itself(self, database: Database) -> None:
        clock = Clock()
        one, other = (lane(clock, board=Board(database, clock=clock)) for _ in range(2))
        await bring_down(one)
        (state,) = await database.read(provider_lanes.posted)
        assert (state.provider, state.endpoint, state.condition) == ("openai", "host", LaneCondition.DOWN)
        clock.now += LOOK_S
        await succeed(other)

    async def test_somebody_can_lift_what_holds_a_lane(self, database: Database) -> None:
        clock = Clock()
        it = lane(clock, board=Board(database, clock=clock))
        await fail(it, BadSettings("key"))
        await refused(it)
        await database.tx(provider_lanes.clear)
        clock.now += LOOK_S
        await succeed(it)
        assert it.state.condition is LaneCondition.OPEN

    async def test_without_the_database_each_goes_by_what_it_knows(self, own_postgres: PostgresServer) -> None:
        clock = Clock()
        async with open_database(own_postgres.url, timeout_s=0.5) as database:
            await schema.prepare(database)
            it = lane(clock, board=Board(database, clock=clock))
            await succeed(it)
            own_postgres.kill()
            clock.now += LOOK_S
            await fail(it, Busy("limit", retry_after_s=50), is_limit=True)
            assert it.state.condition is LaneCondition.PAUSED
            clock.now += 51
            await succeed(it)
