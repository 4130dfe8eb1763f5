"""The operations on Redis, typed: what is sent, and what the answer means. Nothing here waits for work."""

import asyncio
import itertools
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from onlooker.domain.errors import QueueUnavailable
from onlooker.queue.bullmq import names
from onlooker.queue.bullmq.address import Address
from onlooker.queue.bullmq.joint import JointCalls
from onlooker.queue.bullmq.link import Argument, Attempt, Command, Link, Refused, Wire
from onlooker.queue.bullmq.scripts import Script, scripts
from onlooker.queue.contract import Claim, KindDepth, Lane, Message, Pending, QueueDepth
from onlooker.telemetry import log

TOKEN = "ol_"  # noqa: S105 - what our claims' tokens begin with, so that scripts know them from other workers' locks
SESSIONS = ""
"""The name of all session lanes together among the depths."""


NO, YES = "0", "1"
"""What is sent with every message is text: hiredis writes a number ten times as slowly."""

OLDEST_REDIS = (6, 2)

CLAIM_FIELDS = 7
"""What is told of a claim: lane, id, name, data, note, attempt, token."""

Put = tuple[Argument, ...]
"""One message to enqueue, as it is written on the wire, its lane first."""


def put(lane: Lane, message: Message, *, delay_ms: int, replace: bool, opts: str, nonce: str) -> Put:
    """A call that is repeated is known by the nonce. Raises `InvalidInput` for a lane that cannot be written."""
    return (
        names.lane_name(lane),
        names.job_id(message.id),
        message.type,
        names.job_data(message),
        opts,
        NO if delay_ms <= 0 else str(int(delay_ms)),
        YES if replace else NO,
        names.job_note(message, nonce),
    )


# What is made for each call is not frozen: that takes five times as long to make.


Ending = tuple[str, str, str, str]
"""A claim that is to be finished: token, lane, id, and a nonce by which the same call is known when it is repeated."""


@dataclass(slots=True, eq=False)
class Taking(ABC):
    """A call for up to `count` claims: of these lanes (their wire names), or of any; before that, what is confirmed.

    `wait_ms` says for how long the caller will wait for these lanes if it finds nothing, `notice` which shared lanes
    others may have added to.
    """

    calls: "Calls"
    count: int
    lanes: tuple[str, ...] | None
    confirming: Sequence[Ending]
    wait_ms: int
    notice: tuple[str, ...]
    look: bool
    token: str = field(default="", init=False)
    was_sent: bool = field(default=False, init=False)

    @abstractmethod
    def take(self, claims: list[Claim], next_ms: int | None, confirmed: Sequence[bool | QueueUnavailable]) -> None:
        """What it brought. `next_ms`: when there may be more; None where nobody looked or nothing is known to come.

        `confirmed` has for each that was to be confirmed whether it was held, or why Redis would not say.
        """

    @abstractmethod
    def give_up(self, error: Exception) -> None:
        """There is no answer."""

    def ask(self, attempt: Attempt) -> Command:
        """What is sent."""
        self.was_sent = True
        return self.calls.claiming(self, attempt)

    def done(self) -> bool:
        """See `Answer`. What it brings is put back where nobody waits for it any more."""
        return False

    def set_result(self, told: list[Any]) -> None:
        """See `Answer`."""
        first, end = len(self.confirming), len(told) - 1
        claims = [_claim(told[at : at + CLAIM_FIELDS]) for at in range(first, end, CLAIM_FIELDS)]
        self.calls.hold(self, claims)
        held = [self._was_held(ending, its) for ending, its in zip(self.confirming, told[:first], strict=True)]
        self.take(claims, None if told[end] < 0 else told[end], held)

    def _was_held(self, ending: Ending, its: Any) -> bool | QueueUnavailable:
        if isinstance(its, Refused):
            return self.calls.link.unavailable(str(its))
        self.calls.let_go(ending[0])
        return bool(its)

    def set_exception(self, error: Exception) -> None:
        """See `Answer`."""
        self.calls.hold(self, ())
        if self.was_sent:
            self.calls.abandon([f"{self.token}."])
        self.give_up(error)


class Calls:
    """Every operation, on one link."""

    def __init__(
        self,
        address: Address,
        *,
        prefix: str,
        holder: str,
        lease_ms: int,
        retention_ms: int,
        kinds: Sequence[str],
    ) -> None:
        self.link = Link(address, self._prepare)
        self.prefix = prefix
        self._key = f"{prefix}:ready"
        self._holder = holder
        self._lease_ms = str(lease_ms)
        self._retention_ms = str(retention_ms)
        self._kinds = kinds
        self._salt = secrets.token_hex(6)
        self._count = itertools.count(1)
        self._abandoned: list[str] = []
        # The tokens of what callers here have claimed and not ended, and what those begin with that are being made.
        self._known: set[str] = set()
        self._run_id = ""
        self._enqueues = JointCalls(self.link, self._command(scripts().enqueue, self._retention_ms))
        self._ends = JointCalls(self.link, self._command(scripts().finish, self._retention_ms))
        self._claim_command = self._command(scripts().claim, self._retention_ms)
        self.has_claimed = False
        self.warning: str | None = None

    async def _prepare(self, wire: Wire) -> None:
        """Give a new connection the scripts that the server lacks, and make the older ones of this process void.

        A server that took over, or was started again from an older state, has lost the last that it answered: of what
        it has in our name, nobody would end what was confirmed.
        """
        await self._look_at_server(wire)
        every = scripts().all()
        known = await wire.ask(("SCRIPT", "EXISTS", *(script.sha for script in every)))
        missing = [script for script, is_there in zip(every, known, strict=True) if not is_there]
        await asyncio.gather(*(wire.ask(("SCRIPT", "LOAD", script.text)) for script in missing))
        kinds: Command = (len(self._kinds), *self._kinds)
        opening = (self._holder, wire.number, secrets.token_hex(8), *kinds, *self._known)
        await wire.ask(self._command(scripts().open, *opening))

    async def _look_at_server(self, wire: Wire) -> None:
        """Refuse a server that is too old, and warn of one that may drop what waits. Raises `Refused`."""
        try:
            told = dict(line.split(":", 1) for line in (await wire.ask(("INFO",))).decode().splitlines() if ":" in line)
        except Refused as error:
            if error.code == "NOPERM":
                return  # Nothing else needs it.
            raise
        self._run_id = told.get("run_id", "")
        version, policy = told.get("redis_version", ""), told.get("maxmemory_policy", "noeviction")
        numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
        if numbers and numbers < OLDEST_REDIS:
            raise Refused(f"this is Redis {version}, and {'.'.join(map(str, OLDEST_REDIS))} or newer is needed")
        warned, self.warning = self.warning, None
        if policy != "noeviction":
            self.warning = f"with maxmemory-policy {policy} Redis drops what waits when it is full: set noeviction"
            if warned is None:
                log.warning("the queue is not safe in this Redis", reason=self.warning)

    def _command(self, script: Script, *arguments: Argument) -> Command:
        return ("EVALSHA", script.sha, "1", self._key, *arguments)

    async def _run(self, script: Script, *arguments: Argument) -> Any:
        command = self._command(script, *arguments)
        return await self.link.call(lambda _attempt: command)

    def nonce(self) -> str:
        """What no other call has."""
        return f"{self._salt}{next(self._count):x}"

    def enqueue(self, put: Put) -> Awaitable[int]:
        """1 when it was put."""
        return self._enqueues.ask(put)

    async def enqueue_many(self, puts: Sequence[Put]) -> int:
        """How many were put: all in one call, in order."""
        return sum(await self._enqueues.ask_many(puts))

    def ending(self, claim: Claim) -> Ending:
        """For `Taking.confirming`. Raises `InvalidInput` for a lane that cannot be written."""
        return *_held(claim), self.nonce()

    def claim(self, taking: Taking) -> None:
        """Up to `count` claims, after what is to be confirmed was, where it was held.

        When the answer never came and the claims may have been made, they are put back before the next are.
        """
        if self._abandoned:
            self._put_back_abandoned()
        taking.token = f"{TOKEN}{self.nonce()}"
        self._known.add(taking.token)
        self.has_claimed |= taking.count > 0
        self.link.send(taking.ask, taking)

    def claiming(self, taking: Taking, attempt: Attempt) -> Command:
        """What is sent for a claim."""
        lanes: Command = ("-1",) if taking.lanes is None else (len(taking.lanes), *taking.lanes)
        return (
            *self._claim_command,
            len(taking.confirming),
            *chain.from_iterable(taking.confirming),
            *(taking.token, self._lease_ms, self._holder, taking.count),
            *(YES if attempt.is_retry else NO, YES if taking.look else NO, attempt.connection, taking.wait_ms or NO),
            *lanes,
            *taking.notice,
        )

    def hold(self, taking: Taking, claims: Sequence[Claim]) -> None:
        """This is what a call brought, and it brings nothing more."""
        self._known.discard(taking.token)
        self._known.update(claim.token for claim in claims)

    def let_go(self, token: str) -> None:
        """This claim is no more, or was none any more."""
        self._known.discard(token)

    def abandon(self, tokens: Sequence[str]) -> None:
        """Claims by tokens that begin so may have been made, and nobody was told."""
        self._abandoned += tokens

    def _put_back_abandoned(self) -> None:
        abandoned, self._abandoned = self._abandoned, []
        command = self._command(scripts().release_held, self.nonce(), *abandoned)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda told: self.abandon(abandoned) if told.exception() else None)
        self.link.send(lambda _attempt: command, answer)

    async def finish(self, claim: Claim, reason: str | None) -> bool:
        """Confirm or, with a reason, dead-letter."""
        told = "" if reason is None else f"-{reason}"
        was_held = bool(await self._ends.ask((*_held(claim), self.nonce(), told)))
        self.let_go(claim.token)
        return was_held

    async def release(self, claim: Claim, delay_ms: int) -> bool:
        """Put back."""
        was_held = bool(await self._run(scripts().release, *_held(claim), self.nonce(), max(0, int(delay_ms))))
        self.let_go(claim.token)
        return was_held

    async def extend(self, claim: Claim) -> bool:
        """Renew."""
        return bool(await self._run(scripts().extend, *_held(claim), self._lease_ms))

    async def reset(self, lane: Lane) -> int:
        """Release all claims of a lane; the count."""
        return int(await self._run(scripts().reset, self.nonce(), names.lane_name(lane)))

    async def clear(self, lane: Lane) -> int:
        """Drop a lane's messages; the count."""
        return int(await self._run(scripts().clear, self.nonce(), names.lane_name(lane)))

    async def release_held(self, holders: Sequence[str]) -> int:
        """Release what these holders hold, or what was claimed by tokens that begin so; the count."""
        return int(await self._run(scripts().release_held, self.nonce(), *holders))

    async def holders(self) -> list[str]:
        """Who holds claims."""
        return [holder.decode() for holder in await self._run(scripts().holders)]

    async def pending(self, lane: Lane) -> int:
        """A lane's unfinished messages."""
        return int(await self._run(scripts().pending, names.lane_name(lane)))

    async def peek(self, lane: Lane, limit: int) -> list[Pending]:
        """Types and tools of a lane's unfinished messages, in order."""
        found = await self._run(scripts().peek, names.lane_name(lane), limit)
        messages = [names.message_of((b"%", name, b"", note)) for name, note in found]
        return [Pending(message.type, message.tool_name) for message in messages]

    async def depth(self) -> QueueDepth:
        """Counts of everything."""
        told, lanes, oldest_ms = await self._run(scripts().depth, self._retention_ms)
        depths = {name.decode(): KindDepth(*map(int, counts)) for name, *counts in told}
        return QueueDepth(
            sessions=depths.pop(SESSIONS),
            kinds={names.lane_of(name).name: depth for name, depth in sorted(depths.items()) if depth != KindDepth()},
            lanes=lanes,
            oldest_ms=None if oldest_ms < 0 else oldest_ms,
        )

    async def epoch(self) -> str:
        """What changes when Redis has lost everything, or is another that may lack the last."""
        key = f"{self.prefix}:epoch"
        told: bytes | None = await self.link.call(lambda _attempt: ("GET", key))
        return f"{told.decode() if told is not None else await self.touch()}.{self._run_id}"

    async def touch(self) -> str:
        """The epoch, by a write that changes nothing where all is well. Where Redis takes no writes this fails."""
        told: bytes = await self._run(scripts().epoch, secrets.token_hex(8))
        return told.decode()


def _held(claim: Claim) -> tuple[str, str, str]:
    return claim.token, names.lane_name(claim.lane), names.job_id(claim.message.id)


def _claim(told: Sequence[Any]) -> Claim:
    return Claim(names.lane_of(told[0].decode()), names.message_of(told[1:5]), told[6].decode(), told[5])
