"""The provider's contract: events in, drafts of observations out, or a typed error.

A provider holds no state about sessions: what it needs is in the request. It raises `ProviderError` and nothing else
for failures of its own, decided by status, code or stop reason, never by words in an answer. Its errors carry what
calls used that were made in vain.

What follows from an error is the caller's to do:

- `Busy`: the provider's failure. Hold the job, its attempt given back, for `retry_after_s`, which the provider knows
  better than any back-off of the job's own; where it is None the job's own back-off counts.
- `Exhausted` (quota, billing) and `BadSettings` (key, model): hold the job likewise. `retry_after_s` is always given:
  when it is worth to look again. `recovered` says that it can go on before.
- `TooLong`: the request or its answer is too long for the model. Split the events in two and go on; a single event
  has already been cut as short as it may be, so its job has failed.
- `Rejected`: the content is refused; no attempt will change that.
- `Unreadable`: the job's own failure, with bounded attempts.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from onlooker.domain.jobs import JobKind
from onlooker.domain.lanes import LaneCondition, LaneState
from onlooker.domain.models import Draft, Event, ModelUse, ObservationKind

__all__ = [
    "DEFAULT_MODE",
    "CallsNobody",
    "GenerationAnswer",
    "GenerationRequest",
    "LaneCondition",
    "LaneState",
    "Provider",
    "RecentNote",
    "SummaryOf",
]

DEFAULT_MODE = "code"


class SummaryOf(StrEnum):
    """What a summary sums up."""

    TURN = "turn"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class RecentNote:
    """An observation that a new one may correct or replace. The model never sees `id`: it is given a short one."""

    id: str
    kind: ObservationKind
    title: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to observe: `events` in the session's order. For a summary they are the events of the turn or session.

    `idempotency_key` is the job's id; of a batch, of its first job. `recent` are the session's latest observations,
    oldest first. `facts` are short lines about project and session for the model to know (`agent` → `claude-code`),
    in this order. `language` is the one to write in, by name (`German`) or tag (`de`); empty: that of the session.
    `max_input_tokens` cuts the events harder than the provider's own budget would.
    """

    kind: JobKind
    project_name: str
    session_id: str | None
    events: Sequence[Event]
    idempotency_key: str
    mode: str = DEFAULT_MODE
    language: str = ""
    recent: Sequence[RecentNote] = ()
    facts: Sequence[tuple[str, str]] = ()
    summary_of: SummaryOf = SummaryOf.TURN
    max_input_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationAnswer:
    """What the provider made of it. No drafts is success too: nothing deserves a note, and `skip_reason` says why.

    `answered` is how many of the request's events, from the first, the drafts are about; fewer than all when the
    answer was cut by the model's limit: its whole blocks are here and the other events are to be asked about again.
    None means all. `uses` are of all calls, of whatever models. `provider` and `prompt_version` say which of a chain
    made it and with what; None: the asked one.
    """

    drafts: tuple[Draft, ...]
    uses: tuple[ModelUse, ...] = ()
    model: str | None = None
    skip_reason: str | None = None
    answered: int | None = None
    provider: str | None = None
    prompt_version: str | None = None


class Provider(Protocol):
    """`name` and `prompt_version` are stored with what it makes, unless an answer names others.

    `longest_run` is how many events one call may take, `input_budget` how many tokens of events, as `weigh` counts
    them.
    """

    name: str
    prompt_version: str
    longest_run: int
    input_budget: int

    def weigh(self, event: Event) -> int:
        """Estimated tokens of an event in a prompt, after the cutting that a long one gets. Never raises."""
        ...

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        """Make observations of the request's events. Raises `ProviderError`; a cancelled call leaves nothing behind.

        Waits for its turn first, since only so many calls run at a time, and that wait has no end of its own; from
        then on calls, the repair round and reading are bounded by the provider's own timeouts.
        """
        ...

    async def ready(self) -> None:
        """Return when a call is worth claiming a job for: at once, or when an outage or a short pause is over.

        While a lane is being tried again after an outage one waiter at a time returns. A pause of more than a minute
        is not waited for: jobs that are claimed then fail at once, without a call, and are parked by their rows.
        """
        ...

    async def recovered(self) -> None:
        """Return when a lane takes calls again that did not: jobs that were held for it can go on."""
        ...

    def lanes(self) -> tuple[LaneState, ...]:
        """How the lanes are, in the order in which they are tried; none for a provider that calls nobody."""
        ...

    async def close(self) -> None:
        """Free connections. Again: nothing."""
        ...


class CallsNobody:
    """What a provider that needs no other server has of the contract: always ready, nothing to free."""

    input_budget = 1_000_000

    def weigh(self, event: Event) -> int:
        """Every event takes the same: only the length of a run bounds it."""
        return 1

    async def ready(self) -> None:
        """At once."""

    async def recovered(self) -> None:
        """Never: there is no outage to come back from."""
        await asyncio.Event().wait()

    def lanes(self) -> tuple[LaneState, ...]:
        """None."""
        return ()

    async def close(self) -> None:
        """Nothing is open."""
