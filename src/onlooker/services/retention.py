"""What a project keeps for a number of days only goes when these are over, once a day, in small transactions."""

import asyncio
import contextlib
from collections.abc import Callable

from onlooker.domain.errors import InvalidInput, StorageUnavailable
from onlooker.domain.models import Principal, Scope
from onlooker.services.forget import Forget
from onlooker.storage import accounts, retention
from onlooker.storage.database import Connection, Database
from onlooker.storage.forgetting import Selection
from onlooker.storage.retention import Retention
from onlooker.telemetry import log

DAY_MS = 86_400_000
FIRST_AFTER_S = 60.0
EVERY_S = 86_400.0
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

    async def apply(self) -> int:
        """Remove what is too old, in every project; how much it was. Raises `StorageUnavailable`; again: goes on."""
        removed = 0
        now = self._now_ms()
        for scope, kept in await self._database.read(retention.limited):
            for wanted in selections(kept, now):
                removed += await self._forget.remove(scope, wanted, pause_s=PAUSE_S)
        return removed

    async def run(self, stop: asyncio.Event) -> None:
        """Apply a minute after the start and then once a day, until `stop`."""
        wait_s = FIRST_AFTER_S
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait_s)
            if stop.is_set():
                return
            wait_s = EVERY_S
            try:
                if removed := await self.apply():
                    log.info("removed what was kept long enough", rows=removed)
            except StorageUnavailable as error:
                log.warning("cannot remove what was kept long enough yet", reason=str(error))
                wait_s = FIRST_AFTER_S


def selections(kept: Retention, now: int) -> list[Selection]:
    """What is too old at a time, in epoch milliseconds."""
    found = []
    if kept.events_days is not None:
        found.append(Selection(before=now - kept.events_days * DAY_MS, observations=False))
    if kept.observations_days is not None:
        found.append(Selection(before=now - kept.observations_days * DAY_MS, events=False))
    return found
