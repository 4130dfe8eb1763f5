"""Serving one lane until it is idle: the same for every engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from onlooker.domain.errors import QueueUnavailable
from onlooker.queue.contract import Claim, Lane, QueueEngine


async def serve_lane(
    queue: QueueEngine,
    lane: Lane,
    *,
    is_closed: Callable[[], bool],
    stop: asyncio.Event,
    idle_timeout_s: float,
    on_idle: Callable[[], None] | None,
) -> AsyncIterator[Claim]:
    """See `QueueEngine.messages`."""
    stopped = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            claiming = asyncio.create_task(_next_of(queue, lane, idle_timeout_s, is_closed))
            try:
                await asyncio.wait({claiming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                # A claim that came at the same moment as the stop is put back by this.
                if not claiming.done():
                    claiming.cancel()
                    await asyncio.wait({claiming})
            if claiming.cancelled():
                return
            claim = claiming.result()
            if is_closed():
                return
            if claim is None:
                if on_idle is not None:
                    on_idle()
                return
            if stop.is_set():
                await queue.release(claim)
                return
            yield claim
    finally:
        stopped.cancel()
        with suppress(asyncio.CancelledError):
            await stopped


async def _next_of(queue: QueueEngine, lane: Lane, wait_s: float, is_closed: Callable[[], bool]) -> Claim | None:
    """The next claim of a lane; None too when the engine is closed meanwhile."""
    try:
        return await queue.claim(wait_s=wait_s, lanes=[lane])
    except QueueUnavailable:
        if is_closed():
            return None
        raise
