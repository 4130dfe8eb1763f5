"""Keeping search data up to date beside everything else: vectors of new notes, and the reindexing of old ones.

Both are jobs of a kind of their own, at most one of each a project at a time. What a job has done stays done, so it
can be stopped after any page and go on elsewhere. Between two pages it rests for as long as the page took: serving
goes first.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from onlooker.domain.errors import Busy, InvalidInput, ProviderError, StorageUnavailable
from onlooker.domain.jobs import MAX_ATTEMPTS, JobKind
from onlooker.domain.models import Job, Principal, Scope
from onlooker.pauses import pause
from onlooker.providers.embedders.contract import Embedder
from onlooker.services.outbox import Outbox
from onlooker.storage import accounts, new_jobs, reindexing, vectors
from onlooker.storage.database import Connection, Database
from onlooker.storage.reindexing import Page, Progress
from onlooker.storage.vectors import Unembedded
from onlooker.telemetry import log

LOOK_EVERY_S = 2.0
"""How soon new notes get their vectors; those that come meanwhile are embedded together."""

NOTES_A_PAGE = 25
"""Few enough that no transaction of a reindexing is in the way of a client's."""

LONGEST_REST_S = 1.0
ANOTHER_WORKER_S = 30.0
"""How long a job is left to others that this worker's settings do not fit."""


class Indexing:
    """Makes the jobs, and does what they are about. `embedder` is None where search is by words alone."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        embedder: Embedder | None,
        *,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._embedder = embedder
        self._new_id = new_id
        self._now_ms = now_ms
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Look for notes without vectors until `stop`; then the jobs in hand end after their page."""
        self._stop.clear()
        looking = asyncio.create_task(self._look()) if self._embedder is not None else None
        try:
            await stop.wait()
        finally:
            self._stop.set()
            if looking is not None:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            try:
                await self.embed_new_notes()
            except (StorageUnavailable, ProviderError) as error:
                log.warning("cannot look for notes without vectors yet", reason=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def embed_new_notes(self) -> int:
        """Make a job for each project that has notes newer than its vectors and no such job; how many."""
        if self._embedder is None:
            return 0
        model = await self._embedder.model()
        behind = await self._database.read(lambda conn: vectors.projects_behind(conn, model))

        def work(conn: Connection) -> list[Job]:
            for scope in behind:
                vectors.begin_embedding(conn, scope, model)
            return self._new_jobs(conn, behind, JobKind.EMBED)

        made = await self._database.tx(work) if behind else []
        await self._outbox.publish(made)
        return len(made)

    async def reindex(self, principal: Principal, scopes: Sequence[Scope]) -> int:
        """Begin to make the search data of these projects anew; how many were begun by this call.

        Where it goes on already it is left alone. Raises `InvalidInput` without a project.
        """
        if not scopes:
            raise InvalidInput("there is no project to reindex")
        model = await self._model()
        now = self._now_ms()

        def work(conn: Connection) -> tuple[int, list[Job]]:
            begun = [scope for scope in scopes if reindexing.begin(conn, scope, model, now)]
            for scope in begun:
                accounts.audit(
                    conn, scope.team_id, scope.project_id, principal.key_id,
                    "project.reindexing", "project", scope.project_id, now,
                )  # fmt: skip
            return len(begun), self._new_jobs(conn, scopes, JobKind.REINDEX)

        count, made = await self._database.tx(work)
        await self._outbox.publish(made)
        return count

    async def progress(self, scope: Scope) -> Progress | None:
        """How far the last reindexing of a project is; None where there was none."""
        return await self._database.read(lambda conn: reindexing.progress(conn, scope))

    async def _model(self) -> str:
        return "" if self._embedder is None else await self._embedder.model()

    def _new_jobs(self, conn: Connection, scopes: Sequence[Scope], kind: JobKind) -> list[Job]:
        """A queued job for each of these projects that has none of the kind."""
        made = []
        for scope in scopes:
            if new_jobs.is_live(conn, scope, kind):
                continue
            source = new_jobs.Source(kind, "observation", self._new_id())
            made.append(
                new_jobs.new_job(
                    source, scope, session_id=None, seq=None, max_attempts=MAX_ATTEMPTS, now=self._now_ms()
                )
            )
        new_jobs.insert_jobs(conn, made)
        return made

    async def embed(self, job: Job) -> bool:
        """Give the project's new notes their vectors; see `Chore`."""
        if self._embedder is None:
            raise Busy("this worker has no embedder", retry_after_s=ANOTHER_WORKER_S)
        scope = Scope(job.team_id, job.project_id)
        model = await self._embedder.model()
        while not self._stop.is_set():
            page, newest = await self._database.read(
                partial(vectors.new_notes_without_vector, scope=scope, model=model, limit=self._embedder.most_at_once)
            )
            if not page:
                done = partial(vectors.all_embedded, scope=scope, model=model, number=newest)
                await self._database.tx(done, durable=False)
                await self._index_when_large(scope, model)
                return True
            began = time.monotonic()
            await self._embed_page(scope, model, page)
            # The next page is looked for after this one, not among all that came before it.
            done = partial(vectors.all_embedded, scope=scope, model=model, number=page[-1].number)
            await self._database.tx(done, durable=False)
            await self._rest(began)
        return False

    async def reindex_project(self, job: Job) -> bool:
        """Make the terms, and where they are missing the vectors, of the project's notes anew; see `Chore`."""
        scope = Scope(job.team_id, job.project_id)
        progress = await self.progress(scope)
        if progress is not None and progress.model != await self._model():
            raise Busy("this worker has another embedder", retry_after_s=ANOTHER_WORKER_S)
        while not self._stop.is_set():
            page = await self._database.read(partial(reindexing.next_page, scope=scope, limit=NOTES_A_PAGE))
            if page is None:
                await self._database.tx(lambda conn: reindexing.finish(conn, scope, self._now_ms()))
                if self._embedder is not None:
                    await self._index_when_large(scope, await self._embedder.model())
                return True
            began = time.monotonic()
            await self._reindex_page(scope, page)
            await self._rest(began)
        return False

    async def _reindex_page(self, scope: Scope, page: Page) -> None:
        changed = {note.id for note in page.stale}
        if page.stale:
            await self._database.tx(partial(reindexing.analyse_again, scope=scope, notes=page.stale))
        if self._embedder is not None:
            model = await self._embedder.model()
            bare = await self._database.read(
                partial(vectors.notes_without_vector, scope=scope, model=model, observation_ids=page.ids)
            )
            for start in range(0, len(bare), self._embedder.most_at_once):
                await self._embed_page(scope, model, bare[start : start + self._embedder.most_at_once])
            changed |= {note.observation_id for note in bare}

        def work(conn: Connection) -> None:
            reindexing.page_done(conn, scope, page.ids, changed=len(changed), now=self._now_ms())

        await self._database.tx(work, durable=False)

    async def _embed_page(self, scope: Scope, model: str, page: Sequence[Unembedded]) -> None:
        if self._embedder is None:
            raise AssertionError("only called where there is one")
        made = await self._embedder.embed_notes([note.content for note in page])
        by_number = {note.number: vector for note, vector in zip(page, made, strict=True)}
        await self._database.tx(
            partial(vectors.store_vectors, scope=scope, model=model, vectors=by_number), durable=False
        )

    async def _index_when_large(self, scope: Scope, model: str) -> None:
        if await self._database.read(partial(vectors.wants_index, scope=scope, model=model)):
            log.info("indexing the vectors of a project", project=scope.project_id)
            await self._database.alone(partial(vectors.make_index, scope=scope, model=model))

    async def _rest(self, began: float) -> None:
        """Rest for as long as the page took, or until stop."""
        rest_s = min(time.monotonic() - began, LONGEST_REST_S)
        await pause(self._stop, rest_s)
