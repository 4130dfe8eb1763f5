"""What a project keeps for a number of days goes afterwards, and nothing else does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from observed import new_event
from onlooker.app import App, open_app
from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import Scope
from onlooker.host import now_ms
from onlooker.services.recall import NoteInput
from onlooker.services.retention import DAY_MS
from onlooker.settings import load_settings
from onlooker.storage import forgetting, recording
from onlooker.storage.forgetting import Selection
from onlooker.storage.retention import Retention
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
        for time in at:
            await self.app.recall.add(tenant.principal, scope, NoteInput(f"at {time}", occurred_at=time))

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
