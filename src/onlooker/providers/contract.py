"""The provider's contract: events in, drafts of observations out, or a typed error.

A provider holds no state about sessions: what it needs is in the request. It raises `ProviderError` and nothing else
for failures of its own, decided by status, code or stop reason, never by words in an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Draft, Event, Usage


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to observe: `events` in the session's order. For a summary they are the events of the turn or session.

    `idempotency_key` is the job's id; of a batch, of its first job.
    """

    kind: JobKind
    project_name: str
    session_id: str | None
    events: Sequence[Event]
    idempotency_key: str


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class GenerationAnswer:
    """What the provider made of it. No drafts is success too: nothing deserves a note, and `skip_reason` says why."""

    drafts: tuple[Draft, ...]
    usage: Usage = NO_USAGE
    model: str | None = None
    skip_reason: str | None = None


class Provider(Protocol):
    """`name` and `prompt_version` are stored with what it makes; `longest_run` is how many events one call may take."""

    name: str
    prompt_version: str
    longest_run: int

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        """Make observations of the request's events. Raises `ProviderError`; a cancelled call leaves nothing behind."""
        ...

    async def close(self) -> None:
        """Free connections. Again: nothing."""
        ...
