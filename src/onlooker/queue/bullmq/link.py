"""One connection to Redis that many callers share.

Answers come in the order of the questions, so each is given to who has waited longest. A connection whose next answer
is late is closed: it could not be told which question a later answer belongs to. Who had asked on it does not know what
was done, and asks again; every operation gives a repeated question its first answer.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

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

Argument = bytes | str | int
Command = tuple[Argument, ...]


@dataclass(slots=True, eq=False)
class Attempt:
    """One time that a call is sent: on which connection of its process, counted from 1, and whether it is again."""

    connection: int
    is_retry: bool


Ask = Callable[[Attempt], Command]
"""What is sent, made anew for each attempt."""


class Answer(Protocol):
    """Who waits for an answer: a future, or what shares the answer out."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Give it."""
        ...

    def set_exception(self, exception: Exception, /) -> None:
        """Say that there is none."""
        ...


class ConnectionLost(Exception):
    """The connection ended before the answer came: what was asked may have been done."""


class NotConnected(Exception):
    """No connection can be had: nothing was done. `is_there`: a server spoke to us, and the connection was lost."""

    def __init__(self, why: str, *, is_there: bool = False) -> None:
        super().__init__(why)
        self.is_there = is_there


class Refused(Exception):
    """Redis answered with an error. `code` is the protocol's own first word."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.code = told.partition(" ")[0]


def is_of_call(error: Exception) -> bool:
    """Whether what was asked is to blame: it could not be sent, or a Redis that is there refuses it."""
    return not isinstance(error, QueueUnavailable) or isinstance(error.__cause__, Refused)


Persist = Callable[[Ask, Answer, Exception, float], None]
"""Asks again for who waits, after a failure of what began then."""

Waiting = tuple[Answer, float, Ask | None]
"""Who waits for an answer and until when; what is asked again in its place if it fails."""


class Wire(asyncio.Protocol):
    """An open connection and who waits for its answers."""

    def __init__(self, connection: Connection, number: int, persist: Persist) -> None:
        # redis-py has resolved the address, spoken TLS and authenticated; from here on we read and write.
        self._connection = connection
        writer: Any = connection._writer  # noqa: SLF001 - redis-py has no public way to the streams
        self._transport: asyncio.Transport = writer.transport
        self._streams = self._transport.get_protocol()
        self._replies = hiredis.Reader(replyError=Refused)
        self._waiting: deque[Waiting] = deque()
        self._persist = persist
        self._alarm: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()
        self.first_attempt = Attempt(number, is_retry=False)
        self.number = number
        self.is_open = True
        # Answers go from here to those who wait for them, without a stream and a task that reads it between. What is
        # sent is not held back until the turn of the event loop is over: Redis may begin while the others ask.
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(high=0)

    def send(self, command: Command, answer: Answer, ask: Ask | None = None, timeout_s: float | None = None) -> None:
        """Ask. The answer is what Redis tells, or `Refused`, or `ConnectionLost`. Raises for what cannot be sent.

        With `ask` a failure is not told: it is asked again.
        """
        deadline = self.loop.time() + (TRY_TIMEOUT_S if timeout_s is None else timeout_s)
        if not self.is_open:
            self._fail((answer, deadline, ask), ConnectionLost("the connection was closed"))
            return
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub means one argument
        self._waiting.append((answer, deadline, ask))
        if self._alarm is None:
            self._alarm = self.loop.call_at(deadline, self._watch)
        self._transport.write(packed)

    def ask(self, command: Command, *, timeout_s: float | None = None) -> asyncio.Future[Any]:
        """`send`; a future has the answer."""
        answer: asyncio.Future[Any] = self.loop.create_future()
        self.send(command, answer, timeout_s=timeout_s)
        return answer

    def _fail(self, waiting: Waiting, failure: Exception) -> None:
        answer, deadline, ask = waiting
        if answer.done():
            return
        if ask is None:
            answer.set_exception(failure)
        else:
            self._persist(ask, answer, failure, deadline - TRY_TIMEOUT_S)

    def drop(self, why: str) -> None:
        """Close; whoever waits for an answer is told. A second call does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        self._transport.close()
        if self._alarm is not None:
            self._alarm.cancel()
        while self._waiting:
            self._fail(self._waiting.popleft(), ConnectionLost(why))

    async def close(self) -> None:
        """Close, and return when it is closed. A second call does nothing."""
        self.drop("the connection was closed")
        with contextlib.suppress(RedisError, OSError):
            await self._connection.disconnect()

    def _watch(self) -> None:
        """Close the connection if the next answer is late, else look again when it would be."""
        self._alarm = None
        if not self._waiting:
            return
        deadline = self._waiting[0][1]
        if deadline <= self.loop.time():
            self.drop("no answer in time")
        else:
            self._alarm = self.loop.call_at(deadline, self._watch)

    def data_received(self, data: bytes) -> None:
        """Give answers to those who wait for them."""
        replies = self._replies
        try:
            replies.feed(data)
            while self.is_open and (reply := replies.gets()) is not False:
                waiting = self._waiting.popleft()
                if isinstance(reply, Refused):
                    self._fail(waiting, reply)
                elif not waiting[0].done():
                    waiting[0].set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.drop("the server did not speak as Redis does")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits for answers, and redis-py, which waits for this when it disconnects."""
        self.drop("the server closed the connection" if exc is None else str(exc) or type(exc).__name__)
        self._streams.connection_lost(exc)


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
        self._was_there = False
        self._persisting: set[asyncio.Task[None]] = set()
        self.closed = False

    async def call(self, ask: Ask) -> Any:
        """Ask until there is an answer. Raises `QueueUnavailable` within `CALL_TIMEOUT_S`."""
        answer = asyncio.get_running_loop().create_future()
        self.send(ask, answer)
        return await answer

    def send(self, ask: Ask, answer: Answer) -> None:
        """`call` for who does not await it: a result or an exception is set."""
        wire = self._wire
        if wire is None or not wire.is_open or self.closed:
            self.persist(ask, answer, None, asyncio.get_running_loop().time())
            return
        try:
            wire.send(ask(wire.first_attempt), answer, ask)
        except Exception as error:  # noqa: BLE001 - it is for who waits for the answer, as in `_persist`
            answer.set_exception(error)

    def persist(self, ask: Ask, answer: Answer, failure: Exception | None, began_at: float) -> None:
        """Go on with a call that began then, after its first failure if there was one."""
        task = asyncio.get_running_loop().create_task(
            self._persist(ask, answer, failure, began_at), name="onlooker-queue-persist"
        )
        self._persisting.add(task)
        task.add_done_callback(self._persisting.discard)

    async def _persist(self, ask: Ask, answer: Answer, failure: Exception | None, began_at: float) -> None:
        try:
            told = await self._call_patiently(ask, answer, failure, began_at)
        except Exception as error:  # noqa: BLE001 - it is for who waits for the answer
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(told)

    async def _call_patiently(self, ask: Ask, answer: Answer, failure: Exception | None, began_at: float) -> Any:
        """What may have been done is asked again until the call's time is over, and so is a server that is there.

        What was not done, with no server to be reached, is tried only once more, and at once.
        """
        loop = asyncio.get_running_loop()
        may_be_done = was_tried = False
        while not answer.done():
            if failure is not None:
                may_be_done |= isinstance(failure, ConnectionLost)
                now = loop.time()
                is_worth_it = self._is_passing(failure) and (
                    may_be_done
                    or (isinstance(failure, NotConnected) and failure.is_there)
                    or (not was_tried and now - began_at < QUICK_FAILURE_S)
                )
                if not is_worth_it or now - began_at + RETRY_EVERY_S >= CALL_TIMEOUT_S or self.closed:
                    raise self.unavailable(str(failure)) from failure
                await asyncio.sleep(RETRY_EVERY_S if was_tried else 0)
                was_tried = True
            try:
                wire = await self.connect()
                return await wire.ask(ask(Attempt(wire.number, is_retry=may_be_done)))
            except (ConnectionLost, NotConnected, Refused) as error:
                failure = error
        return None

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
            raise self._not_connected()
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
            wire = Wire(connection, self._made, self.persist)
            try:
                await self._prepare(wire)
            except BaseException:
                await wire.close()
                raise
        except (RedisError, OSError, ConnectionLost, Refused) as error:
            self._failed_at = asyncio.get_running_loop().time()
            self._failure = str(error) or type(error).__name__
            self._was_there = isinstance(error, ConnectionLost)
            raise self._not_connected() from error
        else:
            self._wire = wire
            return wire
        finally:
            self._connecting = None

    def _not_connected(self) -> NotConnected:
        return NotConnected(self._failure, is_there=self._was_there)

    async def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self.closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        if self._wire is not None:
            await self._wire.close()
        if self._persisting:
            await asyncio.wait(self._persisting)

    def unavailable(self, cause: str) -> QueueUnavailable:
        """The error that callers see."""
        return QueueUnavailable(f"the queue in Redis at {self._address} cannot be used: {cause}")
