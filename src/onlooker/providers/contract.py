"""The provider's contract: events in, drafts of observations out, or a typed error.

A provider holds no state about sessions: what it needs is in the request. It raises `ProviderError` and nothing else
for failures of its own, decided by status, code or stop reason, never by words in an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Draft, Event


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


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer as the provider counts them, and how many calls it took."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerationAnswer:
    """What the provider made of it. No drafts is success too: nothing deserves a note, and `skip_reason` may say why."""

    drafts: tuple[Draft, ...]
    usage: Usage = Usage()
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
