"""The parts that the settings choose: queue engine, providers, embedder. Only here are implementations named.

What a choice does not need is not imported: a start pays for what it uses.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onlooker.domain.batching import Batching
from onlooker.domain.errors import InvalidInput, Misconfigured, NotFound
from onlooker.domain.jobs import KIND_LANES
from onlooker.domain.modes import Mode
from onlooker.domain.spending import PRICES, Price, price_of
from onlooker.host import ProcessIdentity
from onlooker.providers.contract import Provider
from onlooker.providers.embedders.contract import Embedder
from onlooker.queue.contract import QueueEngine
from onlooker.settings import FIELDS, EmbedderChoice, QueueChoice, Settings
from onlooker.storage.database import Database
from onlooker.storage.taking import Terms

if TYPE_CHECKING:
    from onlooker.providers.modes import ModeFile

MODEL_APIS: Mapping[str, str] = {"anthropic": "Anthropic", "openai": "OpenAi", "gemini": "Gemini"}
"""Name of a provider that asks a model, and of its module → the class that speaks its API."""

CONCURRENCY, LOOPBACK_CONCURRENCY = 16, 2
"""Calls at a time, of a service and of a model on this machine."""

CLAIM_PER_JOB_LEASE = 1.5
"""A claim on a message outlives the lease of its job, which is the authority; both are renewed together."""


def open_queue(settings: Settings, database: Database, identity: ProcessIdentity) -> QueueEngine:
    """The engine that the settings choose."""
    lease_ms = int(settings.job_lease_s * CLAIM_PER_JOB_LEASE * 1000)
    if settings.queue_engine is QueueChoice.BULLMQ:
        return _open_bullmq(settings, identity, lease_ms)
    from onlooker.queue.sql import SqlQueue

    return SqlQueue(database, identity=identity, lease_ms=lease_ms)


def _open_bullmq(settings: Settings, identity: ProcessIdentity, lease_ms: int) -> QueueEngine:
    """The engine on Redis. It connects when it is first used. Raises `Misconfigured`."""
    try:
        from onlooker.queue.bullmq import Address, BullmqQueue
    except ImportError as error:
        raise Misconfigured(
            [f"ONLOOKER_QUEUE_ENGINE=bullmq needs the package {error.name}: pip install 'onlooker[team]'"]
        ) from error
    try:
        address = Address.parse(settings.redis)
    except ValueError as error:
        raise Misconfigured([f"ONLOOKER_REDIS_URL: {error}"]) from error
    return BullmqQueue(
        address,
        identity=identity,
        prefix=settings.queue_prefix,
        mode=str(settings.redis_mode),
        kinds=tuple(KIND_LANES.values()),
        max_attempts=settings.max_attempts,
        lease_ms=lease_ms,
    )


def build_provider(settings: Settings, database: Database | None = None) -> Provider:
    """The provider that the settings choose, or the chain of them. Raises `Misconfigured` with every problem.

    With the database the processes that share it also share what they know of limits and outages.
    """
    names = settings.provider.split(",")
    problems = [problem for name in dict.fromkeys(names) for problem in _problems_of(name, settings)]
    if len(set(names)) < len(names):
        problems.append(f"ONLOOKER_PROVIDER={settings.provider} names one twice")
    if problems:
        raise Misconfigured(problems)
    models = [name for name in names if name in MODEL_APIS]
    build_model = _model_builder(settings, models, database) if models else None
    providers = [
        build_model(name) if build_model and name in models else _build_plain(name, settings) for name in names
    ]
    if len(providers) == 1:
        return providers[0]
    from onlooker.providers.chain import Chain

    return Chain(providers)


def _build_plain(name: str, settings: Settings) -> Provider:
    """A provider that asks no model."""
    if name == "rules":
        from onlooker.providers.rules import RulesProvider

        return RulesProvider()
    from onlooker.providers.scripted import ScriptedProvider

    return ScriptedProvider(delay_s=settings.scripted_delay_ms / 1000, failure_rate=settings.scripted_failure_rate)


def _model_builder(settings: Settings, names: Sequence[str], database: Database | None) -> Callable[[str], Provider]:
    """What builds the providers of these names, around one HTTP client and one board."""
    from onlooker.providers.board import Board
    from onlooker.providers.http_client import HttpClient
    from onlooker.providers.lane import Lane
    from onlooker.providers.model import ModelProvider
    from onlooker.providers.modes import Modes
    from onlooker.providers.wire import Wire, is_loopback

    def of(name: str, setting: str) -> Any:
        return getattr(settings, f"{name}_{setting}")

    def calls_of(name: str) -> int:
        given: int = of(name, "concurrency")
        return given or (LOOPBACK_CONCURRENCY if is_loopback(of(name, "base_url")) else CONCURRENCY)

    board = Board(database) if database is not None else None
    client = HttpClient(connections=sum(calls_of(name) for name in names), ca_file=settings.ca_file)
    modes = Modes(settings.home)

    def build(name: str) -> Provider:
        make: Callable[..., Wire] = getattr(import_module(f"onlooker.providers.{name}"), MODEL_APIS[name])
        wire = make(base_url=of(name, "base_url"), model=of(name, "model"), key=of(name, "api_key").get_secret_value())
        lane = Lane(name, wire.model, wire.endpoint, concurrency=calls_of(name), board=board)
        budget, timeout_s = settings.prompt_tokens, of(name, "timeout_s")
        return ModelProvider(wire, lane, client, modes, input_budget=budget, timeout_s=timeout_s)

    return build


def _problems_of(name: str, settings: Settings) -> list[str]:
    """What keeps a provider of this name from being built."""
    if name == "rules":
        return []
    if name == "scripted":
        problem = "ONLOOKER_PROVIDER=scripted is for tests and needs ONLOOKER_ALLOW_TEST_PROVIDER=1"
        return [] if settings.allow_test_provider else [problem]
    if name not in MODEL_APIS:
        return [f"ONLOOKER_PROVIDER={name} is not known: use rules, {', '.join(MODEL_APIS)}"]
    from onlooker.providers.modes import Modes

    problems = []
    default_url = FIELDS[f"{name}_base_url"].default
    if getattr(settings, f"{name}_base_url") == default_url and not getattr(settings, f"{name}_api_key"):
        problems.append(f"ONLOOKER_{name.upper()}_API_KEY is not set, and {default_url} needs one")
    try:
        Modes(settings.home).get(settings.mode)
    except NotFound as error:
        problems.append(f"ONLOOKER_MODE={settings.mode}: {error}")
    except InvalidInput as error:
        problems += [f"ONLOOKER_MODE={settings.mode}: {issue}" for issue in error.issues or [str(error)]]
    if settings.ca_file and not os.access(settings.ca_file, os.R_OK):
        problems.append(f"ONLOOKER_CA_FILE={settings.ca_file} cannot be read")
    return problems


def build_terms(settings: Settings, provider: Provider, identity: ProcessIdentity) -> Terms:
    """On what terms this process takes jobs. A provider that calls nobody costs nothing: nothing is waited for."""
    spends = bool(provider.lanes())
    batching = Batching(
        settings.generation_policy,
        longest_run=provider.longest_run,
        input_budget=provider.input_budget,
        debounce_ms=int(settings.generation_debounce_s * 1000) if spends else 0,
    )
    return Terms(
        worker=str(identity),
        lease_ms=int(settings.job_lease_s * 1000),
        batching=batching,
        spends=spends,
        project_caps=settings.project_caps,
        team_caps=settings.team_caps,
        prices=[price for lane in provider.lanes() if (price := price_of(known_prices(settings), lane.model or ""))],
    )


def known_prices(settings: Settings) -> Mapping[str, Price]:
    """Prices by how a model's name begins: the settings' own come before the list."""
    return {**PRICES, **settings.prices}


def unpriced_models(settings: Settings) -> list[str]:
    """The models that are asked and of which no price is known: caps in dollars do not bound what they cost."""
    prices = known_prices(settings)
    asked = [getattr(settings, f"{name}_model") for name in settings.provider.split(",") if name in MODEL_APIS]
    return [model for model in asked if price_of(prices, model) is None]


def build_embedder(settings: Settings) -> Embedder | None:
    """The embedder that the settings choose, None where search is by words alone. Raises `Misconfigured`."""
    if settings.embedder is EmbedderChoice.NONE:
        return None
    if importlib.util.find_spec("numpy") is None:
        extra = "local" if settings.embedder is EmbedderChoice.LOCAL else "vectors"
        raise Misconfigured(
            [f"ONLOOKER_EMBEDDER={settings.embedder} needs more packages: pip install 'onlooker[{extra}]'"]
        )
    if settings.embedder is EmbedderChoice.LOCAL:
        from onlooker.providers.embedders.local import LocalEmbedder

        return LocalEmbedder()
    from onlooker.providers.embedders.endpoint import EndpointEmbedder

    return EndpointEmbedder(
        settings.embedder_url,
        model=settings.embedder_model,
        api_key=settings.embedder_api_key.get_secret_value(),
        timeout_s=settings.embedder_timeout_s,
    )


def mode_files(home: Path) -> "list[ModeFile]":
    """Every mode's file: those that come with Onlooker, and a person's own in the home."""
    from onlooker.providers.modes import mode_files as files

    return files(home)


def read_mode_file(path: Path) -> Mode:
    """The mode in a file. Raises `InvalidInput` with everything that is wrong, `NotFound` for no file."""
    from onlooker.providers.modes import read_mode_file as read

    return read(path)
