"""A provider for load and fault tests: it takes its time, fails at a given rate, and marks what it makes."""

import asyncio
import random
import re
from collections.abc import Sequence

from onlooker.domain.errors import Busy
from onlooker.domain.models import Draft, Event, ModelUse, ObservationKind, Usage
from onlooker.providers.contract import CallsNobody, GenerationAnswer, GenerationRequest

_MARK = re.compile(r"MARK-[A-Za-z0-9-]+")


class ScriptedProvider(CallsNobody):
    """One observation an event, its title the event's mark: the first `MARK-…` in its payload, else the event's id.

    Of many calls a share of `failure_rate` (0 to 1) raises `Busy` after the delay; which ones, the seed alone decides.
    """

    name = "scripted"
    prompt_version = "scripted-1"

    def __init__(self, delay_s: float = 0.0, failure_rate: float = 0.0, longest_run: int = 1, *, seed: int = 0) -> None:
        self.longest_run = longest_run
        self._delay_s = delay_s
        self._failure_rate = failure_rate
        self._random = random.Random(seed)  # noqa: S311 - failures that can be repeated, not secrets

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        """Raises `Busy` at the failure rate and nothing else."""
        fails = self._random.random() < self._failure_rate
        if self._delay_s > 0:
            await asyncio.sleep(self._delay_s)
        if fails:
            raise Busy("scripted failure")
        uses = (ModelUse(self.name, self.name, Usage(calls=1)),)
        return GenerationAnswer(marked_drafts(request.events), uses, model=self.name)


def marked_drafts(events: Sequence[Event]) -> tuple[Draft, ...]:
    """A draft an event, in their order, each with its one source."""
    return tuple(
        Draft(ObservationKind.DISCOVERY, _mark_of(event), sources=(index,)) for index, event in enumerate(events)
    )


def _mark_of(event: Event) -> str:
    found = _MARK.search(event.payload_json)
    return found[0] if found else event.id
