"""A proxy before a server that loses an answer at the worst moment."""

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

from servers import LOOPBACK

Cut = Literal["before", "after", "silence"]
COMMIT = b"COMMIT"


class CuttingProxy:
    """Passes on what both sides say until it is told to `cut`, then does that at the next commit of any connection.

    A commit is what holds `mark`. `before`: the commit never reaches the server. `after`: it does, and the answer
    reaches nobody. In both cases the connection is lost. `silence`: as `after`, and the connection stays open.
    """

    def __init__(self, host: str, port: int, mark: bytes = COMMIT) -> None:
        self._target = (host, port)
        self._mark = mark
        self._orders: list[Cut] = []
        self._throw: Callable[[], Cut | None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.cuts = 0

    def cut(self, how: Cut) -> None:
        self._orders.append(how)

    def cut_sometimes(self, throw: Callable[[], Cut | None]) -> None:
        """Ask what to do at each commit."""
        self._throw = throw

    def cut_open(self, chance: random.Random, share: float) -> int:
        """Cut this share of the connections, one at least where there is any, whatever they are in the middle of."""
        open_now = list(self._tasks)
        chosen = chance.sample(open_now, k=min(len(open_now), max(1, round(len(open_now) * share))))
        for task in chosen:
            task.cancel()
        self.cuts += len(chosen)
        return len(chosen)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except (OSError, asyncio.CancelledError):  # the server is away, and so is the proxy; or it was cut already
            self._tasks.discard(task)
            writer.transport.abort()
            return
        back = asyncio.create_task(self._pass_back(server_reader, writer))
        try:
            with contextlib.suppress(OSError):  # one side went away in its own manner
                await self._pass_on(reader, server_reader, server_writer, back)
        except asyncio.CancelledError:  # cut: nothing of what is still on its way arrives
            for one in (writer, server_writer):
                one.transport.abort()
        # All are closed before anything is waited for: this may be cancelled while it waits.
        back.cancel()
        for one in (writer, server_writer):
            one.close()
        await asyncio.wait({back})
        for one in (writer, server_writer):
            with contextlib.suppress(OSError):
                await one.wait_closed()
        self._tasks.discard(task)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
        back: "asyncio.Task[None]",
    ) -> None:
        while data := await reader.read(1 << 16):
            how = self._order_for(data)
            if how == "before":
                return
            if how is not None:
                back.cancel()
                await asyncio.wait({back})
            server_writer.write(data)
            await server_writer.drain()
            if how is not None:
                await server_reader.read(1 << 16)
            if how == "after":
                return
            if how == "silence":
                await reader.read()

    def _order_for(self, data: bytes) -> Cut | None:
        if self._mark not in data:
            return None
        how = self._orders.pop(0) if self._orders else self._throw()
        self.cuts += how is not None
        return how

    @staticmethod
    async def _pass_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@asynccontextmanager
async def cutting_proxy(host: str, port: int, mark: bytes = COMMIT) -> AsyncIterator[CuttingProxy]:
    """A proxy on a free port of this machine."""
    proxy = CuttingProxy(host, port, mark)
    server = await asyncio.start_server(proxy.serve, LOOPBACK, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
        server.close()
        await proxy.close()


@contextmanager
def proxy_in_thread(host: str, port: int) -> Iterator[tuple[CuttingProxy, asyncio.AbstractEventLoop]]:
    """A proxy that serves while the caller does something else, and the loop in which it may be told what to do."""
    loop = asyncio.new_event_loop()
    is_up, end = threading.Event(), asyncio.Event()
    opened: list[CuttingProxy] = []

    async def serve() -> None:
        async with cutting_proxy(host, port) as proxy:
            opened.append(proxy)
            is_up.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="cutting-proxy")
    thread.start()
    try:
        assert is_up.wait(timeout=10), "the proxy does not serve"
        yield opened[0], loop
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
