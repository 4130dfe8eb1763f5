"""What a project keeps for a number of days goes afterwards, and nothing else does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import Engine, event, update

from observed import new_event
from onlooker.app import App, open_app
from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import Observation, Scope, SearchFilter, Team
from onlooker.host import now_ms
from onlooker.services import archive, retention
from onlooker.services.recall import Around, NoteInput
from onlooker.services.retention import DAY_MS, Retaining, look_at_clock
from onlooker.settings import load_settings
from onlooker.storage import forgetting, recording
from onlooker.storage.database import Connection
from onlooker.storage.forgetting import Gone, Page, Selection
from onlooker.storage.retention import Believed, Retention
from onlooker.storage.tables import schema_info
from served import Tenant, new_tenant


@dataclass
class Kept:
    """An application with two tenants, of which each has a day of events and notes in every ten days."""

    app: App
    ours: Tenant
    theirs: Tenant

    async def fill(self, tenant: Tenant) -> None:
        scope = Scope(tenant.team_id, tenant.project_id)
        days = range(0, 50, 10)
        at = [now_ms() - day * DAY_MS - 1000 for day in days]
        new = [
            new_event(scope, None)._replace(event_key=f"{scope.project_id}-{n}", occurred_at=t)
            for n, t in enumerate(at)
        ]
        await self.app.database.tx(lambda conn: recording.record_events(conn, new, max_attempts=3))
        for moment in at:
            await self.app.recall.add(tenant.principal, scope, NoteInput(f"at {moment}", occurred_at=moment))

    async def count(self, tenant: Tenant) -> tuple[int, int]:
        """Its notes and its events."""
        scope = Scope(tenant.team_id, tenant.project_id)
        everything = Selection(before=now_ms() + DAY_MS)
        return await self.app.database.read(lambda conn: forgetting.count(conn, scope, everything))


@pytest_asyncio.fixture
async def kept(database_url: str, tmp_path: Path) -> AsyncIterator[Kept]:
    async with open_app(load_settings(home=tmp_path / "home", database_url=database_url)) as app:
        made = Kept(app, await new_tenant(app), await new_tenant(app))
        await made.fill(made.ours)
        await made.fill(made.theirs)
        yield made


async def test_only_what_is_older_goes_and_only_where_it_was_asked_for(kept: Kept) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    assert await kept.app.retaining.apply() == 0

    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15))
    assert await kept.app.retaining.apply() == 3
    assert await kept.count(kept.ours) == (5, 2)
    assert await kept.count(kept.theirs) == (5, 5)

    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15, observations_days=35))
    assert await kept.app.retaining.apply() == 1
    assert await kept.count(kept.ours) == (4, 2)
    assert await kept.app.retaining.apply() == 0


async def test_what_went_does_not_come_back_with_the_same_transcript(kept: Kept) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15))
    await kept.app.retaining.apply()
    again = new_event(scope, None)._replace(event_key=f"{scope.project_id}-4")
    (recorded,) = await kept.app.database.tx(lambda conn: recording.record_events(conn, [again], max_attempts=3))
    assert (recorded.duplicate, recorded.job) == (True, None)
    assert await kept.count(kept.ours) == (5, 2)


async def test_without_a_limit_everything_is_kept(kept: Kept) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=1))
    await kept.app.retaining.put(kept.ours.principal, scope, Retention())
    assert await kept.app.retaining.get(scope) == Retention()
    assert await kept.app.retaining.apply() == 0


@pytest.mark.parametrize("days", [0, -1, 36_501])
async def test_a_limit_is_a_sensible_number_of_days(kept: Kept, days: int) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    with pytest.raises(InvalidInput):
        await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=days))


async def store_old_events(kept: Kept, scope: Scope, count: int) -> None:
    """So many of no session, each with its job, that are a month old."""
    old = now_ms() - 30 * DAY_MS
    new = [
        new_event(scope, None)._replace(event_key=f"{scope.project_id}-old-{n}", occurred_at=old) for n in range(count)
    ]
    await kept.app.database.tx(lambda conn: recording.record_events(conn, new, max_attempts=3))


async def test_where_each_row_takes_long_a_transaction_has_few(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    await store_old_events(kept, scope, 300)
    sizes: list[int] = []
    remove = forgetting.remove

    def slow_remove(conn: Connection, scope: Scope, page: Page, *, now: int) -> Gone:
        sizes.append(len(page.event_ids))
        time.sleep(0.005 * len(page.event_ids))
        return remove(conn, scope, page, now=now)

    monkeypatch.setattr(forgetting, "remove", slow_remove)
    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15))
    assert await kept.app.retaining.apply() == 303
    assert sizes[0] == 200
    assert 1 <= max(sizes[1:]) <= 20
    assert await kept.count(kept.ours) == (5, 2)


async def test_what_is_too_old_goes_wherever_it_stands_among_what_stays(kept: Kept) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    new = [
        new_event(scope, None)._replace(
            event_key=f"{scope.project_id}-{n}-mixed", occurred_at=now_ms() - (30 * DAY_MS if n % 3 else 1)
        )
        for n in range(900)
    ]
    await kept.app.database.tx(lambda conn: recording.record_events(conn, new, max_attempts=3))
    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15))
    assert await kept.app.retaining.apply() == 603
    assert await kept.count(kept.ours) == (5, 302)
    page = await kept.app.database.read(
        lambda conn: forgetting.find(conn, scope, Selection(before=now_ms(), observations=False), limit=100)
    )
    following = await kept.app.database.read(
        lambda conn: forgetting.find(conn, scope, Selection(before=now_ms(), observations=False), limit=500, after=page)
    )
    assert len({*page.event_ids, *following.event_ids}) == 302


async def test_what_went_is_nowhere_to_be_found(kept: Kept) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    recall = kept.app.recall
    await kept.app.retaining.put(kept.ours.principal, scope, Retention(observations_days=25))
    before = await recall.search(scope, "at", SearchFilter(), limit=10)
    gone = {hit.observation.id for hit in before if hit.observation.occurred_at < now_ms() - 25 * DAY_MS}
    assert len(gone) == 2
    assert await kept.app.retaining.apply() == 2
    found = {hit.observation.id for hit in await recall.search(scope, "at", SearchFilter(), limit=10)}
    told = (await recall.timeline(scope, Around(at=0), before=50, after=50)).entries
    assert found == {entry.id for entry in told if isinstance(entry, Observation)}
    assert len(found) == 3
    assert await recall.get_many(scope, sorted(gone)) == []
    team = Team(kept.ours.team_id, "ours", 1)
    exported = [line async for line in archive.lines(kept.app.database, team, [kept.ours.project])]
    assert not any(note in line for note in gone for line in exported)


async def test_jobs_of_what_goes_are_cancelled_together(kept: Kept) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    await store_old_events(kept, scope, 100)
    statements: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15))
    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert await kept.app.retaining.apply() == 103
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert len(statements) < 100


TEN_YEARS_MS = 3_650 * DAY_MS


async def move_look(kept: Kept, *, looked_ms: int, believed_ms: int) -> None:
    """As if the last look had been so much earlier, and the time that it believed."""
    moved = update(schema_info).values(
        retention_at=schema_info.c.retention_at - believed_ms,
        retention_looked_at=schema_info.c.retention_looked_at - looked_ms,
    )
    await kept.app.database.tx(lambda conn: conn.execute(moved))


@pytest.mark.parametrize("years_ms", [TEN_YEARS_MS, -TEN_YEARS_MS])
async def test_a_clock_that_leapt_removes_nothing(kept: Kept, years_ms: int) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=25, observations_days=25))
    assert await kept.app.retaining.apply() == 4
    leapt = Retaining(kept.app.database, kept.app.forget, now_ms=lambda: now_ms() + years_ms)
    for _ in range(3):
        assert await leapt.apply() == 0
    assert await kept.count(kept.ours) == (3, 3)

    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15))
    assert await kept.app.retaining.apply() == 1


async def test_after_a_long_absence_a_clock_is_believed_by_and_by(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    scope = Scope(kept.ours.team_id, kept.ours.project_id)
    await kept.app.retaining.apply()
    await kept.app.retaining.put(kept.ours.principal, scope, Retention(events_days=15))
    await move_look(kept, looked_ms=40 * DAY_MS, believed_ms=40 * DAY_MS)
    capsys.readouterr()
    assert await kept.app.retaining.apply() == 0
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["days_not_believed"]) == ("warning", 40)
    removed = []
    for _ in range(12):
        await move_look(kept, looked_ms=DAY_MS, believed_ms=0)
        removed.append(await kept.app.retaining.apply())
    assert sum(removed) == 3
    assert len([each for each in removed if each]) == 3


@pytest.mark.parametrize(
    "looks, told",
    [
        ([100, 101, 115], 115),  # off for two weeks
        ([100, 3_750], 100),  # leapt
        ([100, 3_750, 3_750.01, 3_750.02], 100.08),  # and started again and again
        ([100, 3_750, 3_751, 3_752], 108),
        ([100, 3_750, 101, 102], 102),  # and was set right
        ([100, 0.1, 101, 102, 103], 103),  # fell back, and was set right
        ([100, 0.1], 0.1),
        ([400, *range(100, 176), 500], 175),  # was wrong at first, set right, and leapt
    ],
)
def test_of_a_clock_so_much_is_believed(looks: list[float], told: float) -> None:
    believed = None
    now = 0
    for day in looks:
        now = int(day * DAY_MS)
        believed = look_at_clock(believed, now)
    assert believed is not None
    assert min(believed.at, now) == pytest.approx(told * DAY_MS)


async def test_the_clock_is_looked_at_by_the_hour_and_what_is_old_goes_by_the_day(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FIRST_AFTER_S", 0.001)
    monkeypatch.setattr(retention, "LOOK_EVERY_S", 0.001)
    stop = asyncio.Event()
    done: list[str] = []

    class Counting(Retaining):
        async def look(self) -> Believed:
            done.append("look")
            return await super().look()

        async def apply(self) -> int:
            done.append("apply")
            if done.count("apply") == 3:
                stop.set()
            return await super().apply()

    await Counting(kept.app.database, kept.app.forget, now_ms=now_ms).run(stop)
    assert done == ["apply", "look", *["look"] * 23, "apply", "look", *["look"] * 23, "apply", "look"]
