"""One connection to Redis that many callers share.

What is asked in one turn of the event loop is sent in one write; answers come in the order of the questions, so each
is given to the caller who has waited longest. A connection whose next answer is late is closed: it could not be told
which question a later answer belongs to. Who had asked on it does not know what was done, and asks again; every
operation gives a repeated question its first answer.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from onlooker.domain.errors import QueueUnavailable
from onlooker.queue.bullmq.address import Address

CALL_TIMEOUT_S = 10.0
"""A call that was not answered by then raises `QueueUnavailable`."""

TRY_TIMEOUT_S = 4.0
"""An answer that takes longer is lost, and its connection closed."""

RETRY_EVERY_S = 0.1
"""Between attempts to ask again what may have been done."""

QUICK_FAILURE_S = 1.0
"""What fails sooner was a dead connection, and is tried once more."""

READ_SIZE = 1 << 16

Command = tuple[bytes | str | int, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that a call is sent: on which connection of its process, counted from 1, and whether it is again."""

    connection: int
    is_retry: bool


Ask = Callable[[Attempt], Command]
"""What is sent, made anew for each attempt."""


class ConnectionLost(Exception):
    """The connection ended before the answer came: what was asked may have been done."""


class NotConnected(Exception):
    """No connection can be had: nothing was done."""


class Refused(Exception):
    """Redis answered with an error. `code` is the protocol's own first word."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.code = told.partition(" ")[0]


class Wire:
    """An open connection and who waits for its answers."""

    def __init__(self, connection: Connection, number: int) -> None:
        # redis-py has resolved the address, spoken TLS and authenticated; from here on we read and write.
        self._connection = connection
        self._reader: Any = connection._reader  # noqa: SLF001 - redis-py has no public way to the streams
        self._writer: Any = connection._writer  # noqa: SLF001 - the same
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._reading = self._loop.create_task(self._read(), name="onlooker-queue-read")
        self.number = number
        self.is_open = True

    def send(self, command: Command, *, timeout_s: float | None = None) -> asyncio.Future[Any]:
        """Ask. The future has the answer, or `Refused`, or `ConnectionLost`."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        if not self.is_open:
            answer.set_exception(ConnectionLost("the connection was closed"))
            return answer
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub means one argument
        deadline = self._loop.time() + (TRY_TIMEOUT_S if timeout_s is None else timeout_s)
        self._waiting.append((answer, deadline))
        if self._alarm is None:
            self._alarm = self._loop.call_at(deadline, self._watch)
        return answer

    def drop(self, why: str) -> None:
        """Close; whoever waits for an answer is told. A second call does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        self._writer.close()
        self._reading.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        while self._waiting:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(ConnectionLost(why))

    async def close(self) -> None:
        """Close, and return when it is closed. A second call does nothing."""
        self.drop("the connection was closed")
        await asyncio.wait({self._reading})
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self.is_open:
            self._writer.write(b"".join(outgoing))

    def _watch(self) -> None:
        """Close the connection if the next answer is late, else look again when it would be."""
        self._alarm = None
        if not self._waiting:
            return
        deadline = self._waiting[0][1]
        if deadline <= self._loop.time():
            self.drop("no answer in time")
        else:
            self._alarm = self._loop.call_at(deadline, self._watch)

    async def _read(self) -> None:
        replies = hiredis.Reader(replyError=Refused)
        why = "the server closed the connection"
        try:
            while data := await self._reader.read(READ_SIZE):
                replies.feed(data)
                while (reply := replies.gets()) is not False:
                    answer, _ = self._waiting.popleft()
                    if answer.done():
                        continue
                    if isinstance(reply, Refused):
                        answer.set_exception(reply)
                    else:
                        answer.set_result(reply)
        except OSError as error:
            why = str(error) or type(error).__name__
        finally:
            self.drop(why)


class Link:
    """Calls to one Redis, over a connection that is made when it is needed and made again when it was lost.

    `prepare` is done on each new connection before anything else.
    """

    def __init__(self, address: Address, prepare: Callable[[Wire], Awaitable[None]]) -> None:
        self._address = address
        self._prepare = prepare
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None
        self._made = 0
        self._failed_at = float("-inf")
        self._failure = ""
        self.closed = False

    async def call(self, ask: Ask) -> Any:
        """Ask until there is an answer. Raises `QueueUnavailable` within `CALL_TIMEOUT_S`."""
        began_at = asyncio.get_running_loop().time()
        wire = self._wire
        if wire is None or not wire.is_open or self.closed:
            return await self._call_patiently(ask, None, began_at)
        try:
            return await wire.send(ask(Attempt(wire.number, is_retry=False)))
        except (ConnectionLost, Refused) as error:
            return await self._call_patiently(ask, error, began_at)

    async def _call_patiently(self, ask: Ask, failure: Exception | None, began_at: float) -> Any:
        """As `call`, which began then, after a first failure if there was one.

        What may have been done is asked again until the call's time is over; what was not done only once, and at once.
        """
        loop = asyncio.get_running_loop()
        may_be_done = was_tried = False
        while True:
            if failure is not None:
                may_be_done |= isinstance(failure, ConnectionLost)
                now = loop.time()
                is_worth_it = self._is_passing(failure) and (
                    may_be_done or (not was_tried and now - began_at < QUICK_FAILURE_S)
                )
                if not is_worth_it or now - began_at + RETRY_EVERY_S >= CALL_TIMEOUT_S or self.closed:
                    raise self.unavailable(str(failure)) from failure
                await asyncio.sleep(RETRY_EVERY_S if was_tried else 0)
                was_tried = True
            try:
                wire = await self.connect()
                return await wire.send(ask(Attempt(wire.number, is_retry=may_be_done)))
            except (ConnectionLost, NotConnected, Refused) as error:
                failure = error

    def _is_passing(self, failure: Exception) -> bool:
        """Whether the same call may succeed in a moment. Where another server may answer, a new connection finds it."""
        if not isinstance(failure, Refused):
            return True
        if failure.code in {"NOSCRIPT", "READONLY", "MASTERDOWN", "LOADING"} and self._wire is not None:
            self._wire.drop(str(failure))
            return True
        return False

    async def connect(self) -> Wire:
        """The open connection, made if there is none. Raises `NotConnected`."""
        if self.closed:
            raise NotConnected("it is closed")
        wire = self._wire
        if wire is not None and wire.is_open:
            return wire
        loop = asyncio.get_running_loop()
        if loop.time() - self._failed_at < RETRY_EVERY_S / 2:
            raise NotConnected(self._failure)
        if self._connecting is None:
            self._connecting = loop.create_task(self._make(), name="onlooker-queue-connect")
            # Where all who waited were cancelled meanwhile nobody asks for the outcome, which then is no defect.
            self._connecting.add_done_callback(lambda made: made.cancelled() or made.exception())
        return await asyncio.shield(self._connecting)

    async def _make(self) -> Wire:
        try:
            if self._wire is not None:
                await self._wire.close()
            connection = self._address.connection()
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's own
            self._made += 1
            wire = Wire(connection, self._made)
            try:
                await self._prepare(wire)
            except BaseException:
                await wire.close()
                raise
        except (RedisError, OSError, ConnectionLost, Refused) as error:
            self._failed_at = asyncio.get_running_loop().time()
            self._failure = str(error) or type(error).__name__
            raise NotConnected(self._failure) from error
        else:
            self._wire = wire
            return wire
        finally:
            self._connecting = None

    async def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self.closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._wire is not None:
            await self._wire.close()

    def unavailable(self, cause: str) -> QueueUnavailable:
        """The error that callers see."""
        return QueueUnavailable(f"the queue in Redis at {self._address} cannot be used: {cause}")
