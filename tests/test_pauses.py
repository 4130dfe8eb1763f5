"""Waiting that ends when it is told to."""

import asyncio
import time

import pytest

from onlooker.pauses import pause


async def test_a_pause_ends_with_its_event_or_with_its_time() -> None:
    event = asyncio.Event()
    began = time.monotonic()
    assert not await pause(event, 0.05)
    assert 0.04 < time.monotonic() - began < 5
    event.set()
    assert await pause(event, 60)


@pytest.mark.parametrize("turns", range(5))
async def test_who_is_cancelled_while_a_pause_ends_is_cancelled(turns: int) -> None:
    event = asyncio.Event()

    async def go_on_and_on() -> None:
        await pause(event, 60)
        await asyncio.Event().wait()

    task = asyncio.create_task(go_on_and_on())
    await asyncio.sleep(0.01)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=1)
    assert task.cancelled()
