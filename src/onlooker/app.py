"""The composition root: how the parts are put together; `parts` makes those that the settings choose.

The CLI, the server, the worker and the tests use it. `open_app` is an exit stack of constructor calls: what was
opened last is closed first.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onlooker.domain.errors import (
    Forbidden,
    Misconfigured,
    QueueUnavailable,
    StorageUnavailable,
    Unauthenticated,
    Unavailable,
)
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Principal
from onlooker.domain.places import Place, place_of_folder
from onlooker.hooks import client
from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.parts import build_embedder, build_provider, build_terms, known_prices, open_queue
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
from onlooker.settings import QueueChoice, Settings
from onlooker.storage import schema
from onlooker.storage.database import Database, open_database
from onlooker.storage.vector_index import VectorIndex
from onlooker.telemetry import log
from onlooker.worker import Worker

if TYPE_CHECKING:
    from onlooker.services.claude_mem import ClaudeMemImport
    from onlooker.services.importing import Importing

TRY_AGAIN_S = 0.5
LET_GO_S = 2.0
"""How long a stop waits for the outbox, which may be in the middle of a look at a database that does not answer."""


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
                prices=known_prices(settings),
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
        places = Places(lambda folder: find_place(folder, settings))
        catching_up = CatchingUp(
            database,
            ingest=ingest,
            importer=lambda: build_importing(database, ingest, accounts, places),
            folders=[Path(each.strip()) for each in settings.transcript_folders.split(",") if each.strip()],
            own_keys=lambda: find_own_keys(accounts, settings),
            idle_minutes=settings.session_idle_minutes,
            now_ms=now_ms,
        )
        hooks = Hooks(database, ingest=ingest, accounts=accounts, places=places, now_ms=now_ms, catching_up=catching_up)
        spool = Spool(
            settings.home, hooks, principal=lambda: find_principal(accounts, settings), requests=lambda: ingest.requests
        )
        forget = Forget(database, outbox, spool, now_ms=now_ms)
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
            spool=spool,
            injecting=Injecting(hooks, contexts, recall),
            recall=recall,
            indexing=indexing,
            jobs=Jobs(database, outbox),
            spending=Spending(
                database,
                project_caps=settings.project_caps,
                team_caps=settings.team_caps,
                prices=known_prices(settings),
                now_ms=now_ms,
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


async def find_own_keys(accounts: Accounts, settings: Settings) -> frozenset[str]:
    """The ids of the keys that this home's files hold and the database knows: whoever has one of them is its owner."""
    found = set()
    for name in ("key", "hook.key"):
        with suppress(Unauthenticated, Forbidden):
            found.add((await accounts.authenticate(client.read_line(str(settings.home), name))).key_id)
    return frozenset(each for each in found if each is not None)


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
