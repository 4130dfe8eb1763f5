"""The composition root: the only module that names implementations.

The CLI, the server, the worker and the tests use it. `open_app` is an exit stack of constructor calls: what was
opened last is closed first.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from onlooker.domain.errors import Misconfigured, StorageUnavailable
from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.providers.contract import Provider
from onlooker.queue.contract import QueueEngine
from onlooker.services.accounts import Accounts
from onlooker.services.generate import Generate
from onlooker.services.ingest import Ingest
from onlooker.services.jobs import Jobs
from onlooker.services.live import JobWaiters
from onlooker.services.outbox import Outbox
from onlooker.services.recall import Recall
from onlooker.settings import QueueChoice, Settings
from onlooker.storage import schema
from onlooker.storage.database import Database, open_database
from onlooker.telemetry import log
from onlooker.worker import Worker

TRY_AGAIN_S = 0.5
LET_GO_S = 2.0
"""How long a stop waits for the outbox, which may be in the middle of a look at a database that does not answer."""

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
    recall: Recall
    jobs: Jobs
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
        await _prepare(database, settings)
        queue = open_queue(settings, database, identity)
        stack.push_async_callback(queue.close)
        provider = build_provider(settings)
        stack.push_async_callback(provider.close)
        outbox = Outbox(database, queue)
        waiters = await stack.enter_async_context(JobWaiters(database))
        accounts = Accounts(database, new_id=new_id, now_ms=now_ms)
        ingest = await stack.enter_async_context(
            Ingest(
                database,
                accounts=accounts,
                publish=outbox.publish,
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
                worker=str(identity),
                new_id=new_id,
                now_ms=now_ms,
                lease_ms=int(settings.job_lease_s * 1000),
            ),
            outbox=outbox,
            identity=str(identity),
            worker_id=new_id(),
            concurrency=settings.worker_concurrency,
            on_settled=waiters.notify,
            renewal_s=settings.job_lease_s / 3,
        )
        yield App(
            settings=settings,
            identity=identity,
            database=database,
            queue=queue,
            outbox=outbox,
            accounts=accounts,
            ingest=ingest,
            recall=Recall(database, new_id=new_id, now_ms=now_ms),
            jobs=Jobs(database, outbox),
            waiters=waiters,
            worker=worker,
        )


def make_home(settings: Settings) -> None:
    """Make the home for its owner only. Raises `Misconfigured` when it cannot be written."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured([f"ONLOOKER_HOME {settings.home} cannot be made: {error.strerror}"]) from error
    if not os.access(settings.home, os.W_OK | os.X_OK):
        raise Misconfigured(
            [f"ONLOOKER_HOME {settings.home} cannot be written: give it to the user that runs Onlooker"]
        )


def open_queue(settings: Settings, database: Database, identity: ProcessIdentity) -> QueueEngine:
    """The engine that the settings choose."""
    if settings.queue_engine is QueueChoice.BULLMQ:
        raise Misconfigured(["ONLOOKER_QUEUE_ENGINE=bullmq is not available in this version: use sql"])
    from onlooker.queue.sql import SqlQueue

    return SqlQueue(database, identity=identity, lease_ms=int(settings.job_lease_s * CLAIM_PER_JOB_LEASE * 1000))


def build_provider(settings: Settings) -> Provider:
    """The provider that the settings choose. Raises `Misconfigured` for an unknown one."""
    if settings.provider == "rules":
        from onlooker.providers.rules import RulesProvider

        return RulesProvider()
    if settings.provider == "scripted" and settings.allow_test_provider:
        from onlooker.providers.scripted import ScriptedProvider

        return ScriptedProvider(delay_s=settings.scripted_delay_ms / 1000, failure_rate=settings.scripted_failure_rate)
    if settings.provider == "scripted":
        raise Misconfigured(["ONLOOKER_PROVIDER=scripted is for tests and needs ONLOOKER_ALLOW_TEST_PROVIDER=1"])
    raise Misconfigured([f"ONLOOKER_PROVIDER={settings.provider} is not known: use rules"])


async def _prepare(database: Database, settings: Settings) -> None:
    """Migrate, waiting for a database that is still starting."""
    deadline = time.monotonic() + settings.startup_wait_s
    waited = False
    while True:
        try:
            await schema.prepare(database)
        except StorageUnavailable as error:
            if error.is_damaged or time.monotonic() >= deadline:
                raise Misconfigured([f"the database {database.url} cannot be used: {error}"]) from error
            if not waited:
                log.warning("waiting for the database", url=database.url, reason=str(error))
            waited = True
            await asyncio.sleep(TRY_AGAIN_S)
        else:
            return


@asynccontextmanager
async def running(app: App, *, with_worker: bool) -> AsyncIterator[None]:
    """Reconcile, and work where asked, in the background; drained on leaving.

    A part that ends by a defect ends the whole: a server that takes events and never works on them helps nobody.
    """
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        reconciling = tasks.create_task(app.outbox.run(stop))
        if with_worker:
            tasks.create_task(app.worker.run(stop))
        try:
            yield
        finally:
            stop.set()
            _, late = await asyncio.wait({reconciling}, timeout=LET_GO_S)
            for task in late:
                task.cancel()
