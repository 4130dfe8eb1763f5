"""Places where messages are kept. Tests of the queue speak to these, so that they run on every engine.

A store opens any number of engines, each with connections of its own as another process would have; it tells other
processes how to open one (`spec`), and it can let time pass without waiting.
"""

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import delete, func, select, update

from onlooker.host import ProcessIdentity
from onlooker.queue.bullmq import Address, BullmqQueue
from onlooker.queue.contract import LEASE_MS, LOOK_MS, RETENTION_MS, QueueEngine
from onlooker.queue.sql import SqlQueue
from onlooker.storage import schema
from onlooker.storage.database import Connection, Database, open_database
from onlooker.storage.dialect import is_sqlite
from onlooker.storage.tables import messages

OpenEngine = Callable[..., Awaitable[QueueEngine]]
"""Opens one more engine on a test's store."""


class Store(ABC):
    """Where the messages of one test are kept."""

    spec: str
    url: str

    @abstractmethod
    def engine(
        self, *, lease_ms: int = LEASE_MS, retention_ms: int = RETENTION_MS, look_ms: int = LOOK_MS
    ) -> AbstractAsyncContextManager[QueueEngine]:
        """An engine of its own, closed afterwards."""

    @abstractmethod
    async def pass_time(self, ms: int) -> None:
        """Bring every due time, end of a lease and end of a retention nearer by this much."""

    @abstractmethod
    async def empty(self) -> None:
        """Forget every message."""

    @abstractmethod
    async def close(self) -> None: ...


class SqlStore(Store):
    """A migrated database. With `shared`, its engines use one pool of connections, which makes opening one cheap."""

    def __init__(self, url: str, *, shared: bool = False) -> None:
        self.url = url
        self.spec = json.dumps({"engine": "sql", "url": url})
        self._shared = shared
        self._database: Database | None = None
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def engine(
        self, *, lease_ms: int = LEASE_MS, retention_ms: int = RETENTION_MS, look_ms: int = LOOK_MS
    ) -> AsyncIterator[SqlQueue]:
        async with AsyncExitStack() as stack:
            database = await (self.database() if self._shared else self._open(stack))
            queue = SqlQueue(
                database,
                identity=ProcessIdentity.of_this_process(),
                lease_ms=lease_ms,
                retention_ms=retention_ms,
                look_ms=look_ms,
            )
            try:
                yield queue
            finally:
                await queue.close()

    async def database(self) -> Database:
        """A database beside those of the engines."""
        if self._database is None:
            self._database = await self._open(self._stack)
        return self._database

    async def _open(self, stack: AsyncExitStack) -> Database:
        database = await stack.enter_async_context(open_database(self.url))
        await schema.prepare(database)
        return database

    async def pass_time(self, ms: int) -> None:
        def shift(conn: Connection) -> None:
            first = func.max if is_sqlite(conn) else func.greatest
            conn.execute(update(messages).where(messages.c.due > 0).values(due=first(1, messages.c.due - ms)))
            conn.execute(
                update(messages).values(
                    lease_until=messages.c.lease_until - ms, finished_at=messages.c.finished_at - ms
                )
            )

        await (await self.database()).tx(shift)

    async def empty(self) -> None:
        await (await self.database()).tx(lambda conn: conn.execute(delete(messages)).rowcount)

    async def rows(self) -> int:
        """How many messages are kept, finished ones too."""
        database = await self.database()
        return await database.read(
            lambda conn: int(conn.execute(select(func.count()).select_from(messages)).scalar_one())
        )

    async def close(self) -> None:
        await self._stack.aclose()
        self._database = None


SHIFT_TIME = """
local prefix, ms = ARGV[1], tonumber(ARGV[2])
local function earlier(key, by)
  local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do redis.call('ZADD', key, string.format('%.0f', tonumber(all[i + 1]) - by), all[i]) end
end
for _, name in ipairs({'leases', 'due', 'checks', 'dead', 'waited'}) do earlier(prefix .. ':' .. name, ms) end
for _, key in ipairs(redis.call('KEYS', prefix .. ':*')) do
  if string.sub(key, -8) == ':delayed' then earlier(key, ms * 4096) end
  local left = redis.call('PTTL', key)
  if left >= 0 and left <= ms then redis.call('DEL', key) end
  if left > ms then redis.call('PEXPIRE', key, left - ms) end
  if redis.call('TYPE', key).ok == 'hash' then
    local at = redis.call('HGET', key, 'finishedOn')
    if at then redis.call('HSET', key, 'finishedOn', string.format('%.0f', tonumber(at) - ms)) end
  end
end
"""


class BullmqStore(Store):
    """A Redis or Valkey, and one prefix in it."""

    def __init__(self, url: str, prefix: str | None = None) -> None:
        self.url = url
        self.prefix = prefix or f"test-{secrets.token_hex(4)}"
        self.spec = json.dumps({"engine": "bullmq", "url": url, "prefix": self.prefix})
        # What its commands answer depends on options that its types do not know.
        self.client: Any = Redis.from_url(url)

    @asynccontextmanager
    async def engine(
        self,
        *,
        lease_ms: int = LEASE_MS,
        retention_ms: int = RETENTION_MS,
        look_ms: int = LOOK_MS,
        kinds: Sequence[str] = (),
    ) -> AsyncIterator[BullmqQueue]:
        queue = BullmqQueue(
            Address.parse(self.url),
            identity=ProcessIdentity.of_this_process(),
            prefix=self.prefix,
            kinds=kinds,
            lease_ms=lease_ms,
            retention_ms=retention_ms,
            look_ms=look_ms,
        )
        try:
            yield queue
        finally:
            await queue.close()

    async def pass_time(self, ms: int) -> None:
        await self.client.eval(SHIFT_TIME, 0, self.prefix, str(ms))

    async def keys(self) -> list[str]:
        """Every key that is there."""
        return sorted([key.decode() async for key in self.client.scan_iter(f"{self.prefix}:*", count=1000)])

    async def empty(self) -> None:
        if keys := await self.keys():
            await self.client.delete(*keys)

    async def close(self) -> None:
        await self.empty()
        await self.client.aclose()


def open_store(spec: str) -> Store:
    """The store that another process speaks of."""
    told = json.loads(spec)
    if told["engine"] == "sql":
        return SqlStore(told["url"])
    if told["engine"] == "bullmq":
        return BullmqStore(told["url"], told["prefix"])
    raise ValueError(f"no such engine: {told['engine']}")
