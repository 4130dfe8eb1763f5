"""The queue engine `bullmq`, on Redis 6.2 to 8 and on Valkey."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from onlooker.domain.errors import ClaimLost, QueueUnavailable
from onlooker.domain.jobs import FIRST_DELAY_MS, MAX_ATTEMPTS
from onlooker.host import ProcessIdentity
from onlooker.queue.bullmq.address import Address
from onlooker.queue.bullmq.calls import Calls, Put, put
from onlooker.queue.bullmq.waiters import Waiters
from onlooker.queue.contract import (
    LEASE_MS,
    LOOK_MS,
    NOW,
    RETENTION_MS,
    Claim,
    Lane,
    Message,
    Pending,
    QueueDepth,
    QueueHealth,
)
from onlooker.queue.serving import serve_lane
from onlooker.queue.text import require_storable
from onlooker.telemetry import log

HEALTH_TIMEOUT_S = 1.5
CLOSE_WITHIN_S = 3.0
"""How long the claims are tried to be released at the end."""

PORTION = 100
"""Messages of one call of `enqueue_many`: a script has Redis to itself, a few ms for so many."""


class BullmqQueue:
    """See `queue.contract.QueueEngine`. Used from one event loop; of one process there may be several.

    `kinds` are the shared lanes that are there from the start, on the wire too; `mode` is told in health. A job's
    options say `max_attempts` to workers of other makers. `lease_ms`, `retention_ms` and `look_ms` are for tests that
    cannot wait.
    """

    name = "bullmq"

    def __init__(
        self,
        address: Address,
        *,
        identity: ProcessIdentity,
        prefix: str = "onlooker",
        mode: str = "external",
        kinds: Sequence[str] = (),
        max_attempts: int = MAX_ATTEMPTS,
        lease_ms: int = LEASE_MS,
        retention_ms: int = RETENTION_MS,
        look_ms: int = LOOK_MS,
    ) -> None:
        self._address = address
        self._prefix = prefix
        self._mode = mode
        self._holder = f"{identity}|{secrets.token_hex(4)}"
        self._options = {
            "attempts": max_attempts,
            "backoff": {"type": "exponential", "delay": FIRST_DELAY_MS, "jitter": 0.5},
            "removeOnComplete": {"age": retention_ms // 1000},
            "removeOnFail": {"age": retention_ms // 1000},
        }
        self._plain_options = json.dumps(self._options)
        self._calls = Calls(
            address,
            prefix=prefix,
            holder=self._holder,
            lease_ms=lease_ms,
            retention_ms=retention_ms,
            kinds=kinds,
        )
        self._waiters = Waiters(address, self._calls, kinds=kinds, look_ms=look_ms)

    async def enqueue(
        self, lane: Lane, message: Message, *, delay_ms: int = NOW, replace_finished: bool = False
    ) -> bool:
        """See `QueueEngine.enqueue`."""
        told = await self._calls.enqueue(self._put(lane, message, delay_ms, replace=replace_finished))
        if delay_ms > NOW:
            self._waiters.expect(delay_ms)
        return bool(told)

    async def enqueue_many(self, entries: Sequence[tuple[Lane, Message]], *, replace_finished: bool = False) -> int:
        """See `QueueEngine.enqueue_many`. A portion is one script, the whole is not."""
        puts = [self._put(lane, message, NOW, replace=replace_finished) for lane, message in entries]
        count = 0
        for at in range(0, len(puts), PORTION):
            count += await self._calls.enqueue_many(puts[at : at + PORTION])
        return count

    async def claim(self, *, wait_s: float, lanes: Sequence[Lane] | None = None) -> Claim | None:
        """See `QueueEngine.claim`."""
        claims, _ = await self._waiters.claim(1, lanes, wait_s=wait_s)
        return claims[0] if claims else None

    async def claim_many(self, count: int, *, wait_s: float) -> list[Claim]:
        """See `QueueEngine.claim_many`."""
        claims: list[Claim] = []
        while len(claims) < count:
            more, _ = await self._waiters.claim(count - len(claims), None, wait_s=0 if claims else wait_s)
            if not more:
                break
            claims += more
        return claims

    def messages(
        self, lane: Lane, *, stop: asyncio.Event, idle_timeout_s: float, on_idle: Callable[[], None] | None = None
    ) -> AsyncIterator[Claim]:
        """See `QueueEngine.messages`."""
        return serve_lane(
            self,
            lane,
            is_closed=lambda: self._waiters.closed,
            stop=stop,
            idle_timeout_s=idle_timeout_s,
            on_idle=on_idle,
        )

    async def extend(self, claim: Claim) -> None:
        """See `QueueEngine.extend`."""
        if not await self._calls.extend(claim):
            raise ClaimLost(f"the claim on {claim.message.id} is gone")

    async def confirm(self, claim: Claim) -> bool:
        """See `QueueEngine.confirm`."""
        return await self._calls.finish(claim, None)

    async def confirm_and_claim(self, claim: Claim, *, wait_s: float) -> tuple[bool, Claim | None]:
        """See `QueueEngine.confirm_and_claim`: one script."""
        claims, confirmed = await self._waiters.claim(1, None, wait_s=wait_s, confirming=claim)
        return confirmed, claims[0] if claims else None

    async def fail(self, claim: Claim, reason: str) -> bool:
        """See `QueueEngine.fail`."""
        return await self._calls.finish(claim, reason)

    async def release(self, claim: Claim, *, delay_ms: int = NOW) -> bool:
        """See `QueueEngine.release`."""
        released = await self._calls.release(claim, delay_ms)
        if delay_ms > NOW:
            self._waiters.expect(delay_ms)
        return released

    async def reset(self, lane: Lane) -> int:
        """See `QueueEngine.reset`."""
        return await self._calls.reset(lane)

    async def clear(self, lane: Lane) -> int:
        """See `QueueEngine.clear`. A cleared id may be enqueued again."""
        return await self._calls.clear(lane)

    async def pending(self, lane: Lane) -> int:
        """See `QueueEngine.pending`."""
        return await self._calls.pending(lane)

    async def peek(self, lane: Lane, *, limit: int = 100) -> list[Pending]:
        """See `QueueEngine.peek`."""
        return await self._calls.peek(lane, limit)

    async def depth(self) -> QueueDepth:
        """See `QueueEngine.depth`: one script."""
        return await self._calls.depth()

    async def release_dead(self) -> int:
        """See `QueueEngine.release_dead`."""
        dead = [holder for holder in await self._calls.holders() if _is_known_dead(holder)]
        return await self._calls.release_held(dead) if dead else 0

    async def epoch(self) -> str:
        """See `QueueEngine.epoch`."""
        return await self._calls.epoch()

    async def health(self) -> QueueHealth:
        """See `QueueEngine.health`. It asks for a write: one that is not needed, where all is well."""
        asked = asyncio.create_task(self._calls.touch(), name="onlooker-queue-health")
        done, _ = await asyncio.wait({asked}, timeout=HEALTH_TIMEOUT_S)
        if not done:
            asked.cancel()
            hint = "; does it speak TLS there?" if self._address.secure else ""
            error: str | None = str(self._calls.link.unavailable(f"no answer within {HEALTH_TIMEOUT_S} s{hint}"))
        else:
            failure = asked.exception()
            error = None if failure is None else str(failure)
        details: dict[str, str | int] = {
            "mode": self._mode,
            "host": self._address.host,
            "port": self._address.port,
            "prefix": self._prefix,
        }
        if self._calls.warning is not None:
            details["warning"] = self._calls.warning
        return QueueHealth(ok=error is None, engine=self.name, error=error, details=details)

    async def require_healthy(self) -> None:
        """See `QueueEngine.require_healthy`."""
        health = await self.health()
        if health.error is not None:
            raise QueueUnavailable(health.error)

    async def close(self) -> None:
        """See `QueueEngine.close`."""
        if self._waiters.closed:
            return
        await self._waiters.close()
        try:
            if self._calls.has_claimed:
                async with asyncio.timeout(CLOSE_WITHIN_S):
                    await self._calls.release_held([self._holder])
        except (QueueUnavailable, TimeoutError) as error:
            log.warning("claims are kept until their leases end", reason=str(error) or "no answer")
        finally:
            await self._calls.link.close()

    def _put(self, lane: Lane, message: Message, delay_ms: int, *, replace: bool) -> Put:
        require_storable(lane, message)
        opts = self._plain_options if delay_ms <= NOW else json.dumps({**self._options, "delay": delay_ms})
        return put(lane, message, delay_ms=delay_ms, replace=replace, opts=opts, nonce=self._calls.nonce())


def _is_known_dead(holder: str) -> bool:
    process = ProcessIdentity.parse(holder.rpartition("|")[0])
    return process is not None and process.is_known_dead()
