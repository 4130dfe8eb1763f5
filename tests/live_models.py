"""Asks real models for observations of the recorded session: `make live`, never part of the tests.

Each provider whose key is set (`ONLOOKER_ANTHROPIC_API_KEY` and so on), or whose base URL is, is asked twice: for
observations and for a summary. It prints what came, and ends with exit code 1 when something is wrong.
"""

import asyncio
import sys
from dataclasses import replace

import click

from onlooker.domain.errors import OnlookerError
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import ObservationKind
from onlooker.parts import MODEL_APIS, build_provider
from onlooker.providers.contract import GenerationAnswer, GenerationRequest, Provider
from onlooker.settings import FIELDS, Settings, load_settings
from providers.golden_prompts import golden_request


def is_set(name: str, settings: Settings) -> bool:
    default_url = FIELDS[f"{name}_base_url"].default
    return bool(getattr(settings, f"{name}_api_key")) or getattr(settings, f"{name}_base_url") != default_url


async def ask(name: str) -> list[str]:
    """What is wrong with the answers of a provider."""
    provider = build_provider(load_settings(provider=name))
    try:
        request = golden_request()
        observed = await told(provider, request)
        summed_up = await told(provider, replace(request, kind=JobKind.SUMMARY))
    except OnlookerError as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        await provider.close()
    problems = []
    if not observed.drafts:
        problems.append(f"no observation: {observed.skip_reason}")
    if not any(set(draft.sources) < set(range(len(request.events))) for draft in observed.drafts):
        problems.append("no observation names its events")
    if [draft.kind for draft in summed_up.drafts] != [ObservationKind.SUMMARY]:
        problems.append(f"no summary: {summed_up.skip_reason}")
    return problems


async def told(provider: Provider, request: GenerationRequest) -> GenerationAnswer:
    answer = await provider.generate(request)
    click.echo(f"  {answer.model}: {answer.uses}")
    for draft in answer.drafts:
        click.echo(f"  [{draft.kind}] {draft.title}  {list(draft.sources)}")
        for line in (draft.subtitle, draft.narrative, *(f"- {fact}" for fact in draft.facts)):
            click.echo(f"      {line}")
    return answer


async def main() -> int:
    settings = load_settings()
    asked = [name for name in MODEL_APIS if is_set(name, settings)]
    if not asked:
        click.echo("no key is set: ONLOOKER_ANTHROPIC_API_KEY, ONLOOKER_OPENAI_API_KEY or ONLOOKER_GEMINI_API_KEY")
        return 2
    failed = False
    for name in asked:
        click.echo(name)
        for problem in await ask(name):
            click.echo(f"  PROBLEM {problem}")
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
