"""Where processes tell each other why the lane to a provider is closed: a row a provider, in the database.

A rate limit belongs to the key and so to all workers; and a server without a worker shows in its health what they know.
"""

import asyncio
import time
from collections.abc import Callable

from onlooker.domain.errors import StorageUnavailable
from onlooker.domain.lanes import LaneState
from onlooker.storage import provider_lanes
from onlooker.storage.database import Connection, Database
from onlooker.telemetry import log

LOOK_S = 1.0
"""How old what is known may be: so long may another process still call after a pause was posted."""


class Board:
    """What is posted now. Without the database everybody goes by what they know themselves."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[tuple[str, str], LaneState] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def look(self, provider: str, endpoint: str) -> LaneState | None:
        """What is posted of a lane, at most `LOOK_S` old."""
        if self._clock() - self._looked_at >= LOOK_S:
            async with self._looking:
                if self._clock() - self._looked_at >= LOOK_S:
                    await self._read()
        return self._known.get((provider, endpoint))

    async def post(self, posted: LaneState) -> None:
        """Tell all processes why a lane is closed, and until when."""
        log.warning(
            "provider is not called", provider=posted.provider, condition=str(posted.condition), reason=posted.reason
        )
        async with self._looking:  # a look that began before would forget it
            self._known[posted.provider, posted.endpoint] = posted
            await self._write(lambda conn: provider_lanes.post(conn, posted))

    async def clear(self, provider: str, endpoint: str) -> None:
        """Tell all processes that a lane is open."""
        log.info("provider is called again", provider=provider)
        async with self._looking:
            self._known.pop((provider, endpoint), None)
            await self._write(lambda conn: provider_lanes.clear(conn, provider, endpoint))

    async def _write(self, work: Callable[[Connection], object]) -> None:
        try:
            await self._database.tx(work)
        except StorageUnavailable as error:
            log.warning("other processes do not know of it", reason=str(error))

    async def _read(self) -> None:
        try:
            found = await self._database.read(provider_lanes.posted)
        except StorageUnavailable:
            found = list(self._known.values())
        self._known = {(each.provider, each.endpoint): each for each in found}
        self._looked_at = self._clock()
