"""What a project keeps for a number of days only goes when these are over, once a day, in small transactions."""

import asyncio
from collections.abc import Callable

from onlooker.domain.errors import InvalidInput, StorageUnavailable
from onlooker.domain.models import Principal, Scope
from onlooker.pauses import pause
from onlooker.services.forget import Forget
from onlooker.storage import accounts, retention
from onlooker.storage.database import Connection, Database
from onlooker.storage.forgetting import Selection
from onlooker.storage.retention import Believed, Retention
from onlooker.telemetry import log

DAY_MS = 86_400_000
FIRST_AFTER_S = 60.0
LOOK_EVERY_S = 3_600.0
LOOKS_A_DAY = 24
LONGEST_AWAY_MS = 14 * DAY_MS
CATCH_UP = 4
"""After a leap of more than `LONGEST_AWAY_MS`, so many days of age are believed for each day that goes by."""
PAUSE_S = 0.05
"""Between two transactions, so that whoever else writes is never kept waiting for long."""

MOST_DAYS = 36_500


class Retaining:
    """Applies what holds for each project."""

    def __init__(self, database: Database, forget: Forget, *, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._forget = forget
        self._now_ms = now_ms

    async def get(self, scope: Scope) -> Retention:
        """What holds for a project."""
        return await self._database.read(lambda conn: retention.get(conn, scope))

    async def put(self, principal: Principal, scope: Scope, wanted: Retention) -> None:
        """Let this hold for a project; what is too old by it goes within a day. Raises `InvalidInput`."""
        for days in (wanted.events_days, wanted.observations_days):
            if days is not None and not 1 <= days <= MOST_DAYS:
                raise InvalidInput(f"days are a number from 1 to {MOST_DAYS}")

        def work(conn: Connection) -> None:
            retention.put(conn, scope, wanted)
            accounts.audit(
                conn, scope.team_id, scope.project_id, principal.key_id, "retention.set", "project", scope.project_id,
                self._now_ms(), detail=f"events {wanted.events_days}, observations {wanted.observations_days}",
            )  # fmt: skip

        await self._database.tx(work)

    async def look(self) -> Believed:
        """Look at the clock, and keep what is believed of it: see `look_at_clock`. Raises `StorageUnavailable`."""

        def work(conn: Connection) -> Believed:
            now = retention.wall_clock(conn, self._now_ms())
            believed = look_at_clock(retention.get_believed(conn), now)
            retention.put_believed(conn, believed)
            return believed

        return await self._database.tx(work)

    async def apply(self) -> int:
        """Remove what is too old, in every project; how much it was. Raises `StorageUnavailable`; again: goes on."""
        removed = 0
        believed = await self.look()
        days = (believed.looked_at - believed.at) // DAY_MS
        if days > 0:
            log.warning("the clock leapt ahead; what is too old goes by an earlier time", days_not_believed=days)
        now = min(believed.at, believed.looked_at)
        for scope, kept in await self._database.read(retention.limited):
            for wanted in selections(kept, now):
                removed += await self._forget.remove(scope, wanted, pause_s=PAUSE_S)
        return removed

    async def run(self, stop: asyncio.Event) -> None:
        """Apply a minute after the start and then once a day, until `stop`; look at the clock once an hour."""
        wait_s, looks = FIRST_AFTER_S, 0
        while True:
            if await pause(stop, wait_s):
                return
            try:
                if looks % LOOKS_A_DAY:
                    await self.look()
                elif removed := await self.apply():
                    log.info("removed what was kept long enough", rows=removed)
                wait_s, looks = LOOK_EVERY_S, looks + 1
            except StorageUnavailable as error:
                log.warning("cannot remove what was kept long enough yet", reason=str(error))
                wait_s = FIRST_AFTER_S


def look_at_clock(before: Believed | None, now: int) -> Believed:
    """What is believed of a clock that says `now`, in epoch milliseconds, after what was believed at the last look.

    A clock that leapt ahead by years would make everything too old. Whether it leapt or the machine was off for long
    cannot be told, and nothing is lost by waiting: such a look changes nothing, and from then on what is believed moves
    towards the clock, at most `CATCH_UP` times as fast as time. That leaves somebody days to set the clock right. Nor
    is one that falls back believed at once: else it would have leapt when it is set right.
    """
    if before is None:
        return Believed(now, now)
    since = now - before.looked_at
    if not 0 <= since <= LONGEST_AWAY_MS:
        return Believed(before.at, now)
    step = CATCH_UP * since
    return Believed(max(before.at - step, min(now, before.at + step)), now)


def selections(kept: Retention, now: int) -> list[Selection]:
    """What is too old at a time, in epoch milliseconds."""
    found = []
    if kept.events_days is not None:
        found.append(Selection(before=now - kept.events_days * DAY_MS, observations=False))
    if kept.observations_days is not None:
        found.append(Selection(before=now - kept.observations_days * DAY_MS, events=False))
    return found
