"""Several providers, tried in order: the next one when one is out of quota, down, paused or wrongly set."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace

from onlooker.domain.errors import Busy, Exhausted, ProviderError
from onlooker.domain.lanes import LaneState
from onlooker.domain.models import Event, ModelUse
from onlooker.providers.contract import GenerationAnswer, GenerationRequest, Provider


class Chain:
    """What one refuses for its content, cannot read or finds too long is not shown to the next."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._providers = tuple(providers)
        first = self._providers[0]
        self.name = first.name
        self.prompt_version = first.prompt_version
        self.longest_run = min(provider.longest_run for provider in providers)
        self.input_budget = min(provider.input_budget for provider in providers)

    def weigh(self, event: Event) -> int:
        """See `Provider`: as the heaviest of them counts."""
        return max(provider.weigh(event) for provider in self._providers)

    async def generate(self, request: GenerationRequest) -> GenerationAnswer:
        """See `Provider`. When none can, the error is the outage that ends first, with what all calls used."""
        errors: list[ProviderError] = []
        uses: tuple[ModelUse, ...] = ()
        for provider in self._providers:
            try:
                answer = await provider.generate(request)
            except (Busy, Exhausted) as error:
                errors.append(error)
                uses += error.uses
            except ProviderError as error:
                error.uses = uses + error.uses
                raise
            else:
                return replace(
                    answer,
                    uses=uses + answer.uses,
                    provider=answer.provider or provider.name,
                    prompt_version=answer.prompt_version or provider.prompt_version,
                )
        soonest = min(errors, key=_held_for_s)
        soonest.uses = uses
        raise soonest

    async def ready(self) -> None:
        """See `Provider`: when one of them is."""
        await _first([provider.ready() for provider in self._providers])

    async def recovered(self) -> None:
        """See `Provider`: when one of them has."""
        await _first([provider.recovered() for provider in self._providers])

    def lanes(self) -> tuple[LaneState, ...]:
        """See `Provider`."""
        return tuple(lane for provider in self._providers for lane in provider.lanes())

    async def close(self) -> None:
        """See `Provider`."""
        for provider in self._providers:
            await provider.close()


def _held_for_s(error: ProviderError) -> float:
    return 0.0 if error.retry_after_s is None else error.retry_after_s


async def _first(waits: Sequence[Awaitable[None]]) -> None:
    """Return when the first of them does; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
