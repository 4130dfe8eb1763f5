from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from node import Peer, open_peer
from onlooker.domain.jobs import KIND_LANES
from onlooker.queue.bullmq import BullmqQueue
from queue_stores import BullmqStore
from servers import ServerMissing, redis_families


@pytest_asyncio.fixture(params=redis_families() or ["redis"])
async def store(request: pytest.FixtureRequest, redis_of: Callable[[str], str]) -> AsyncIterator[BullmqStore]:
    """A Redis and a Valkey, of which the engine and the peer use one prefix."""
    store = BullmqStore(redis_of(request.param))
    yield store
    await store.close()


@pytest_asyncio.fixture
async def queue(store: BullmqStore) -> AsyncIterator[BullmqQueue]:
    """Our engine, with the kind lanes of a deployment."""
    async with store.engine(kinds=tuple(KIND_LANES.values())) as queue:
        yield queue


@pytest_asyncio.fixture
async def peer(store: BullmqStore) -> AsyncIterator[Peer]:
    """BullMQ's own users, in Node."""
    try:
        async with open_peer(store.url, store.prefix) as peer:
            yield peer
    except ServerMissing as error:
        pytest.fail(str(error), pytrace=False)
