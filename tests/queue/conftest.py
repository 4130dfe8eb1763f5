"""Stores and engines. A new engine joins the suite by another store here."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest_asyncio

from onlooker.queue.contract import QueueEngine
from queue_stores import OpenEngine, SqlStore, Store


@pytest_asyncio.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    store = SqlStore(database_url)
    yield store
    await store.close()


@pytest_asyncio.fixture
async def open_engine(store: Store) -> AsyncIterator[OpenEngine]:
    """Opens engines on the store, each with connections of its own; they are closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_one(**options: int) -> QueueEngine:
            return await stack.enter_async_context(store.engine(**options))

        yield open_one


@pytest_asyncio.fixture
async def queue(open_engine: OpenEngine) -> QueueEngine:
    """One engine."""
    return await open_engine()
