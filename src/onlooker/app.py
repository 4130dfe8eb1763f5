"""The composition root: the only module that names implementations.

The CLI, the server, the worker and the tests use it. `open_app` is an exit stack of constructor calls: what was
opened last is closed first.
"""

import asyncio
import importlib.util
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onlooker.domain.batching import Batching
from onlooker.domain.errors import (
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotFound,
    QueueUnavailable,
    StorageUnavailable,
    Unavailable,
)
from onlooker.domain.jobs import KIND_LANES, JobKind
from onlooker.domain.models import Principal
from onlooker.domain.modes import Mode
from onlooker.domain.places import Place, place_of_folder
from onlooker.domain.spending import PRICES
from onlooker.hooks import client
from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.providers.contract import Provider
from onlooker.providers.embedders.contract import Embedder
from onlooker.queue.contract import QueueEngine
from onlooker.services.accounts import Accounts
from onlooker.services.catching_up import CatchingUp
from onlooker.services.forget import Forget
from onlooker.services.generate import Generate
from onlooker.services.hooks import Hooks, Places
from onlooker.services.indexing import Indexing
from onlooker.services.ingest import Ingest
from onlooker.services.injecting import Injecting
from onlooker.services.jobs import Jobs
from onlooker.services.live import JobWaiters
from onlooker.services.outbox import Outbox
from onlooker.services.recall import Recall
from onlooker.services.retention import Retaining
from onlooker.services.session_context import SessionContexts
from onlooker.services.spool import Spool, make_spool
from onlooker.services.usage import Spending
from onlooker.settings import EmbedderChoice, QueueChoice, Settings
from onlooker.storage import schema
from onlooker.storage.database import Database, open_database
from onlooker.storage.taking import Terms
from onlooker.storage.vector_index import VectorIndex
from onlooker.telemetry import log
from onlooker.worker import Worker

if TYPE_CHECKING:
    from onlooker.providers.modes import ModeFile
    from onlooker.services.claude_mem import ClaudeMemImport
    from onlooker.services.importing import Importing

TRY_AGAIN_S = 0.5
LET_GO_S = 2.0
"""How long a stop waits for the outbox, which may be in the middle of a look at a database that does not answer."""

MODEL_APIS: Mapping[str, str] = {"anthropic": "Anthropic", "openai": "OpenAi", "gemini": "Gemini"}
"""Name of a provider that asks a model, and of its module → the class that speaks its API."""

CONCURRENCY, LOOPBACK_CONCURRENCY = 16, 2
"""Calls at a time, of a service and of a model on this machine."""

CLAIM_PER_JOB_LEASE = 1.5
"""A claim on a message outlives the lease of its job, which is the authority; both are renewed together."""


@dataclass(frozen=True, slots=True)
class App:
    """Every part, open. `worker` and `outbox` do nothing until their `run` is called."""

    settings: Settings
    identity: ProcessIdentity
    database: Database
    queue: QueueEngine
    outbox: Outbox
    accounts: Accounts
    ingest: Ingest
    places: Places
    hooks: Hooks
    catching_up: CatchingUp
    spool: Spool
    session_contexts: SessionContexts
    injecting: Injecting
    recall: Recall
    forget: Forget
    retaining: Retaining
    indexing: Indexing
    jobs: Jobs
    spending: Spending
    waiters: JobWaiters
    worker: Worker


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[App]:
    """Open every part that the settings choose, the schema migrated; close them all on leaving.

    Raises `Misconfigured` when a chosen part is not there within `startup_wait_s`: nothing falls back silently.
    """
    make_home(settings)
    identity = ProcessIdentity.of_this_process()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(
                settings.database,
                pool_size=settings.database_pool_size,
                timeout_s=settings.database_timeout_s,
                statement_timeout_s=settings.database_statement_timeout_s,
                transaction_timeout_s=settings.database_transaction_timeout_s,
                direct_url=settings.database_direct_url,
            )
        )
        deadline = time.monotonic() + settings.startup_wait_s
        problem = f"the database {database.url} cannot be used: "
        await await_part(lambda: schema.prepare(database), problem, StorageUnavailable, deadline)
        queue = open_queue(settings, database, identity)
        stack.push_async_callback(queue.close)
        if settings.queue_engine is not QueueChoice.SQL:
            await await_part(queue.require_healthy, "", QueueUnavailable, deadline)
        provider = build_provider(settings, database)
        stack.push_async_callback(provider.close)
        embedder = build_embedder(settings)
        if embedder is not None:
            stack.push_async_callback(embedder.close)
        outbox = Outbox(database, queue)
        indexing = Indexing(database, outbox, embedder, new_id=new_id, now_ms=now_ms)
        waiters = await stack.enter_async_context(JobWaiters(database))
        accounts = Accounts(database, new_id=new_id, now_ms=now_ms)
        ingest = await stack.enter_async_context(
            Ingest(
                database,
                accounts=accounts,
                publish=outbox.publish,
                join=outbox.join,
                new_id=new_id,
                now_ms=now_ms,
                max_attempts=settings.max_attempts,
                max_waiting=settings.max_waiting_events,
            )
        )
        worker = Worker(
            database=database,
            queue=queue,
            generate=Generate(
                database,
                provider,
                terms=build_terms(settings, provider, identity),
                new_id=new_id,
                now_ms=now_ms,
                prices={**PRICES, **settings.prices},
                mode=settings.mode,
                language=settings.language,
                chores={JobKind.EMBED: indexing.embed, JobKind.REINDEX: indexing.reindex_project},
            ),
            outbox=outbox,
            identity=str(identity),
            worker_id=new_id(),
            concurrency=settings.worker_concurrency,
            on_settled=waiters.notify,
            renewal_s=settings.job_lease_s / 3,
        )
        forget = Forget(database, outbox, now_ms=now_ms)
        places = Places(lambda folder: find_place(folder, settings))
        catching_up = CatchingUp(
            database,
            ingest=ingest,
            importer=lambda: build_importing(database, ingest, accounts, places),
            folders=[Path(each.strip()) for each in settings.transcript_folders.split(",") if each.strip()],
            idle_minutes=settings.session_idle_minutes,
            now_ms=now_ms,
        )
        hooks = Hooks(database, ingest=ingest, accounts=accounts, places=places, now_ms=now_ms, catching_up=catching_up)
        contexts = SessionContexts(database)
        vectors = VectorIndex(settings.home)
        recall = Recall(database, new_id=new_id, now_ms=now_ms, embedder=embedder, vectors=vectors)
        yield App(
            settings=settings,
            identity=identity,
            database=database,
            queue=queue,
            outbox=outbox,
            accounts=accounts,
            ingest=ingest,
            forget=forget,
            retaining=Retaining(database, forget, now_ms=now_ms),
            places=places,
            hooks=hooks,
            catching_up=catching_up,
            spool=Spool(settings.home, hooks, principal=lambda: find_principal(accounts, settings)),
            session_contexts=contexts,
            injecting=Injecting(hooks, contexts, recall),
            recall=recall,
            indexing=indexing,
            jobs=Jobs(database, outbox),
            spending=Spending(
                database, project_caps=settings.project_caps, team_caps=settings.team_caps, now_ms=now_ms
            ),
            waiters=waiters,
            worker=worker,
        )


def make_home(settings: Settings) -> None:
    """Make the home for its owner only. Raises `Misconfigured` when it cannot be written."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_spool(settings.home)
    except OSError as error:
        raise Misconfigured([f"ONLOOKER_HOME {settings.home} cannot be made: {error.strerror}"]) from error
    if not os.access(settings.home, os.W_OK | os.X_OK):
        raise Misconfigured(
            [f"ONLOOKER_HOME {settings.home} cannot be written: give it to the user that runs Onlooker"]
        )


def build_importing(database: Database, ingest: Ingest, accounts: Accounts, places: Places) -> "Importing":
    """What reads transcripts; a plain start does not need it."""
    from onlooker.services.importing import Importing

    return Importing(database, ingest=ingest, accounts=accounts, places=places, now_ms=now_ms)


def build_claude_mem_import(app: App) -> "ClaudeMemImport":
    """What reads claude-mem's database; a plain start does not need it."""
    from onlooker.services.claude_mem import ClaudeMemImport

    return ClaudeMemImport(app.database, ingest=app.ingest, accounts=app.accounts, new_id=new_id, now_ms=now_ms)


def find_place(folder: str, settings: Settings) -> Place | None:
    """The place of a folder, as the hook client finds it; None where it is excluded.

    A path of another system, or of another machine, is all that there is to know of its folder.
    """
    if not Path(folder).is_absolute() or not Path(folder).is_dir():
        return place_of_folder(folder)
    found = client.find_place(folder, str(settings.home))
    return None if found.excluded else Place(found.name, found.identity)


async def find_principal(accounts: Accounts, settings: Settings) -> Principal:
    """As whom this home's hooks are stored: the key that was made for them, else the home's own."""
    key = client.read_line(str(settings.home), "hook.key")
    if key:
        try:
            return await accounts.authenticate(key)
        except Forbidden:
            log.warning("the key in hook.key is not accepted here; what the spool holds is stored with the home's own")
    return (await accounts.ensure_local(settings.home)).principal


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
    default_url = Settings.model_fields[f"{name}_base_url"].default
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
    )


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


async def await_part(
    start: Callable[[], Awaitable[object]], problem: str, away: type[Unavailable], deadline: float
) -> None:
    """Try until it works. Raises `Misconfigured`, with the last error, when it is `away` still at the deadline.

    The deadline is of the monotonic clock, in seconds.
    """
    waited = False
    while True:
        try:
            await start()
        except away as error:
            is_damaged = isinstance(error, StorageUnavailable) and error.is_damaged
            if is_damaged or time.monotonic() >= deadline:
                raise Misconfigured([f"{problem}{error}"]) from error
            if not waited:
                log.warning("waiting for a part that is away", reason=f"{problem}{error}")
            waited = True
            await asyncio.sleep(TRY_AGAIN_S)
        else:
            return


@asynccontextmanager
async def running(app: App, *, with_worker: bool, with_spool: bool = True) -> AsyncIterator[None]:
    """Reconcile, replay the spool, and work where asked, in the background; drained on leaving.

    A part that ends by a defect ends the whole: a server that takes events and never works on them helps nobody.
    """
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        reconciling = tasks.create_task(app.outbox.run(stop))
        retaining = tasks.create_task(app.retaining.run(stop))
        if with_spool:
            tasks.create_task(app.spool.run(stop))
            tasks.create_task(app.catching_up.run(stop))
        if with_worker:
            tasks.create_task(app.indexing.run(stop))
            tasks.create_task(app.worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            _, late = await asyncio.wait({reconciling, retaining}, timeout=LET_GO_S)
            for task in late:
                task.cancel()
