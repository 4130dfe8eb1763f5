"""Waiting for something that may not come."""

import asyncio


async def pause(until: asyncio.Event, longest_s: float) -> bool:
    """Wait until the event is set, so long at most; whether it is set.

    `asyncio.wait_for`, in Python 3.11, loses a cancellation that comes while it ends: the task then goes on, and
    whoever waits for its end does so for ever.
    """
    try:
        async with asyncio.timeout(longest_s):
            return await until.wait()
    except TimeoutError:
        return until.is_set()
