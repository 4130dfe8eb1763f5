"""Stores and engines. A new engine joins the suite by another store here."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from databases import copy_sqlite
from onlooker.queue.contract import QueueEngine
from queue_stores import BullmqStore, OpenEngine, SqlStore, Store
from servers import redis_families


@pytest.fixture(params=["sqlite", "postgres", *(redis_families() or ["redis"])])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind, empty; not closed afterwards."""
    if request.param == "sqlite":
        return SqlStore(copy_sqlite(request.getfixturevalue("prepared_sqlite"), tmp_path / "onlooker.db"))
    if request.param == "postgres":
        return SqlStore(request.getfixturevalue("postgres_database_prepared"))
    return BullmqStore(request.getfixturevalue("redis_of")(request.param))


@pytest_asyncio.fixture
async def store(new_store: Store) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    yield new_store
    await new_store.close()


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
