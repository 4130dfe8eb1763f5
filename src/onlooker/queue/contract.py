"""The queue's contract: every engine keeps it, and one suite of tests runs on all of them.

A **lane** is a named queue. An exclusive lane (a session's) serves first in, first out, one claim at a time over all
processes; a shared lane (a kind's) serves in parallel. A **claim** is a lease on one message: it lasts `LEASE_MS`
unless extended, and whoever presents its token may confirm, fail or release it, in whichever process.

Order is that of the first enqueue, always: a message that was released, or whose holder died, goes back to its place.
Messages stand for work that is recorded elsewhere: the queue may lose them all, and the outbox rings again.

What every message is made of is a named tuple: to make a frozen dataclass of four fields takes seven times as long.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from onlooker.storage.database import Connection

LEASE_MS = 90_000
"""How long a claim lives without being extended."""

RETENTION_MS = 24 * 3_600_000
"""How long a finished id is refused when it is enqueued again."""

LOOK_MS = 2_500
"""How often a process with waiting consumers looks for itself, whatever it was or was not told."""

NOW = 0
"""No delay."""


class Lane(NamedTuple):
    """A named queue; two lanes of the same name are the same lane."""

    name: str
    exclusive: bool

    @classmethod
    def session(cls, session_id: str) -> "Lane":
        """The lane of a session: first in, first out, one in flight."""
        return cls(f"session.{session_id}", exclusive=True)

    @classmethod
    def kind(cls, name: str) -> "Lane":
        """The shared lane of a job kind, under its name on the wire."""
        return cls(name, exclusive=False)

    @property
    def session_id(self) -> str | None:
        """The session whose lane this is; None for a shared lane."""
        return self.name.removeprefix("session.") if self.exclusive else None


class Message(NamedTuple):
    """What waits in a lane. `id` is the caller's, unique in its lane; `body` is JSON text and may be empty.

    `type` and `tool_name` are what `peek` shows; for a job they are its kind and its tool.
    """

    id: str
    type: str
    tool_name: str | None = None
    body: str = ""


class Claim(NamedTuple):
    """A message in hand. It carries all that is needed to finish it, so another process can do so by it.

    `attempt` counts from 1 and is given by the engine; a release does not take it back.
    """

    lane: Lane
    message: Message
    token: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Pending:
    """One line of `peek`."""

    type: str
    tool_name: str | None


@dataclass(frozen=True, slots=True)
class KindDepth:
    """Messages of one shared lane, or of all session lanes together, by state."""

    waiting: int = 0
    delayed: int = 0
    claimed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How much there is to do. `kinds` is by shared lane name, `sessions` all exclusive lanes together.

    `lanes` counts lanes with unfinished messages; `oldest_ms` is the age of the oldest unfinished message, where known.
    """

    kinds: Mapping[str, KindDepth] = field(default_factory=dict)
    sessions: KindDepth = KindDepth()
    lanes: int = 0
    oldest_ms: int | None = None

    @property
    def pending(self) -> int:
        """Waiting, delayed and claimed, over all lanes."""
        every = (*self.kinds.values(), self.sessions)
        return sum(depth.waiting + depth.delayed + depth.claimed for depth in every)


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """Whether the engine can work right now, and if not why. Found within 2 s."""

    ok: bool
    engine: str
    error: str | None = None
    details: Mapping[str, str | int] = field(default_factory=dict)


class QueueEngine(Protocol):
    """A queue. Every method raises `QueueUnavailable` within its timeout when the store is away, unless it says other.

    After `close` every method but `close` raises `QueueUnavailable`.
    """

    name: str

    async def enqueue(
        self, lane: Lane, message: Message, *, delay_ms: int = NOW, replace_finished: bool = False
    ) -> bool:
        """Put a message at the end of its lane; True when it was put there, by exactly one of concurrent callers.

        False when its id is already waiting or claimed or, within the retention, finished. With `replace_finished` a
        finished one is run again: the outbox asks for it, since its row and not the tombstone decides. Enqueueing an
        id that waits, with a shorter delay, pulls its due time forward, and that of its lane's delayed head (R8); a
        claimed one is left alone.
        """
        ...

    async def enqueue_many(self, entries: Sequence[tuple[Lane, Message]], *, replace_finished: bool = False) -> int:
        """`enqueue` of several without delay, in order, in few round trips; the count of those that were put."""
        ...

    async def claim(self, *, wait_s: float, lanes: Sequence[Lane] | None = None) -> Claim | None:
        """The next message of any lane that may serve one, or of the given lanes; None after `wait_s` without one.

        Waits without polling the store for each lane. Among lanes the oldest message is served first.
        """
        ...

    async def claim_many(self, count: int, *, wait_s: float) -> list[Claim]:
        """Up to `count` claims of different exclusive lanes or of shared ones; at least one, or none after `wait_s`."""
        ...

    def messages(
        self, lane: Lane, *, stop: asyncio.Event, idle_timeout_s: float, on_idle: Callable[[], None] | None = None
    ) -> AsyncIterator[Claim]:
        """One lane's messages, until `stop` is set, the engine is closed, or nothing came for `idle_timeout_s`.

        In the last case `on_idle` is called, once. Each claim must be finished before the next of an exclusive lane.
        """
        ...

    async def extend(self, claim: Claim) -> None:
        """Renew the lease from now. Raises `ClaimLost` when it is gone: stop the work, write nothing."""
        ...

    async def confirm(self, claim: Claim) -> bool:
        """Finish the message; its id stays refused for the retention. False when the claim is no longer held.

        A second confirm of a confirmed claim is False, never an error.
        """
        ...

    async def confirm_and_claim(self, claim: Claim, *, wait_s: float) -> tuple[bool, Claim | None]:
        """`confirm`, then `claim`, in one round trip where there is something to claim: a worker's loop."""
        ...

    async def fail(self, claim: Claim, reason: str) -> bool:
        """Dead-letter the message, kept with its reason for the retention. False when the claim is no longer held."""
        ...

    async def release(self, claim: Claim, *, delay_ms: int = NOW) -> bool:
        """Put the message back to its place at the head, to be served after the delay; its lane waits for it.

        False when the claim is no longer held.
        """
        ...

    async def reset(self, lane: Lane) -> int:
        """Release every claim of a lane, whoever holds it; the count."""
        ...

    async def clear(self, lane: Lane) -> int:
        """Drop what waits and what is claimed; the count. A late confirm of a dropped claim is False."""
        ...

    async def pending(self, lane: Lane) -> int:
        """How many messages of the lane are waiting, delayed or claimed."""
        ...

    async def peek(self, lane: Lane, *, limit: int = 100) -> list[Pending]:
        """The lane's unfinished messages in order, without claiming them."""
        ...

    async def depth(self) -> QueueDepth:
        """Totals by state and kind, in a fixed number of round trips whatever the number of lanes."""
        ...

    async def release_dead(self) -> int:
        """Release the claims of this machine's processes that are gone; the count."""
        ...

    async def epoch(self) -> str:
        """A mark that changes when the store may have lost messages: then the outbox rings every head again."""
        ...

    async def health(self) -> QueueHealth:
        """Whether the engine can work. Never raises; answers within 2 s."""
        ...

    async def require_healthy(self) -> None:
        """Raises `QueueUnavailable`, naming host, port and cause, when the engine cannot work."""
        ...

    async def close(self) -> None:
        """Release this engine's claims in order and free everything. Again: nothing.

        Never raises, and takes seconds at most: claims that cannot be released are served again when their leases end.
        """
        ...


class Join(Protocol):
    """Enqueueing as a part of somebody's transaction on the database in which the messages lie too."""

    def enqueue_many(self, conn: Connection, entries: Sequence[tuple[Lane, Message]]) -> None:
        """`QueueEngine.enqueue_many` with `replace_finished`; nothing is put unless the transaction is committed.

        It fails as any statement of the transaction does. May be called again where the transaction is run again.
        """
        ...

    def committed(self) -> None:
        """Tell those of this process who wait; in the event loop, after the commit."""
        ...


@runtime_checkable
class JoinsTransactions(Protocol):
    """What an engine may offer beside `QueueEngine`."""

    def join(self) -> Join | None:
        """For one transaction; None where this engine would rather be asked by itself."""
        ...
