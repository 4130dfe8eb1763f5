"""Vectors of notes and the reindexing of a project: made beside everything else, on both databases."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from meaning import ThemeEmbedder
from observed import new_scope, terms_of
from onlooker.domain.errors import Busy, InvalidInput, Rejected
from onlooker.domain.jobs import JobKind, JobStatus
from onlooker.domain.models import Draft, Job, NewObservation, ObservationKind, Principal, Scope, SearchFilter
from onlooker.host import ProcessIdentity, new_id, now_ms
from onlooker.providers.embedders.contract import unit_vector
from onlooker.providers.rules import RulesProvider
from onlooker.queue.sql import SqlQueue
from onlooker.services.generate import Generate
from onlooker.services.indexing import Indexing
from onlooker.services.outbox import Outbox
from onlooker.services.recall import Around, Recall
from onlooker.storage import dialect, jobs, observations, search, search_index, vectors
from onlooker.storage.database import Connection, Database
from onlooker.storage.reindexing import Progress
from onlooker.storage.search import Meaning
from onlooker.storage.search_tables import search_embedding, search_entries
from onlooker.storage.tables import observation_generation_jobs, projects
from onlooker.storage.vector_index import MOST_LOOKED_AT, VectorIndex
from onlooker.storage.vectors import Unembedded
from onlooker.worker import Worker
from waiting import wait_until

EVERYTHING = SearchFilter()
OPERATOR = Principal("", None, None, frozenset())


@pytest.fixture
def postgres_database_prepared(pgvector_database_prepared: str) -> str:
    """Postgres with pgvector; where it has none, vectors are bytes as on SQLite."""
    return pgvector_database_prepared


@dataclass
class Rig:
    """A worker that embeds and reindexes, and a search that asks for the meaning."""

    database: Database
    scope: Scope
    embedder: ThemeEmbedder
    indexing: Indexing
    recall: Recall
    worker: Worker

    async def note(self, *titles: str, kind: ObservationKind = ObservationKind.CHANGE) -> list[str]:
        new = [
            NewObservation(note_id := new_id(), Draft(kind, title), note_id, now_ms(), now_ms(), title)
            for title in titles
        ]
        await self.database.tx(lambda conn: observations.store_observations(conn, self.scope, new, 1))
        return [note.id for note in new]

    async def work(self, until: Callable[[], Awaitable[bool]]) -> None:
        stop = asyncio.Event()
        running = [asyncio.create_task(self.indexing.run(stop)), asyncio.create_task(self.worker.run(stop))]
        try:
            await wait_until(until, timeout_s=20)
        finally:
            stop.set()
            await asyncio.gather(*running)

    async def find(self, query: str, wanted: SearchFilter = EVERYTHING) -> list[str]:
        return [hit.observation.title for hit in await self.recall.search(self.scope, query, wanted, limit=5)]

    async def embedded(self) -> int:
        model = await self.embedder.model()
        return await self.database.read(lambda conn: vectors.count_vectors(conn, self.scope, model))

    async def work_until_embedded(self, count: int) -> None:
        async def done() -> bool:
            return await self.embedded() >= count

        await self.work(done)

    async def reindex(self) -> Progress:
        await self.indexing.reindex(OPERATOR, [self.scope])

        async def done() -> bool:
            progress = await self.indexing.progress(self.scope)
            return progress is not None and progress.finished_at is not None

        await self.work(done)
        progress = await self.indexing.progress(self.scope)
        assert progress is not None
        return progress


@asynccontextmanager
async def rig(
    database: Database, folder: Path, *, scope: Scope | None = None, embedder: ThemeEmbedder | None = None
) -> AsyncIterator[Rig]:
    embedder = embedder or ThemeEmbedder()
    identity = ProcessIdentity.of_this_process()
    queue = SqlQueue(database, identity=identity)
    outbox = Outbox(database, queue)
    indexing = Indexing(database, outbox, embedder, new_id=new_id, now_ms=now_ms)
    chores = {JobKind.EMBED: indexing.embed, JobKind.REINDEX: indexing.reindex_project}
    generate = Generate(
        database, RulesProvider(), terms=terms_of(worker=str(identity)), new_id=new_id, now_ms=now_ms, chores=chores
    )
    recall = Recall(database, new_id=new_id, now_ms=now_ms, embedder=embedder, vectors=VectorIndex(folder))
    worker = Worker(database, queue, generate, outbox, str(identity), new_id(), concurrency=2, drain_s=5)
    try:
        yield Rig(database, scope or await new_scope(database), embedder, indexing, recall, worker)
    finally:
        await queue.close()


async def sibling(database: Database, scope: Scope) -> Scope:
    """Another project of the same team."""
    other = Scope(scope.team_id, new_id())
    columns = ("id", "team_id", "name", "created_at")
    await database.tx(
        lambda conn: dialect.insert_new(conn, projects, columns, [(other.project_id, other.team_id, "other", 1)])
    )
    return other


async def test_a_note_is_found_by_what_it_means_once_it_has_its_vector(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("repaired the automobile", "cleared the cache", "had lunch")
        assert await it.find("a broken vehicle") == []
        await it.work_until_embedded(3)
        assert (await it.find("a broken vehicle"))[0] == "repaired the automobile"
        assert (await it.find("zwischenspeicher"))[0] == "cleared the cache"


async def test_a_timeline_stands_around_what_a_query_means(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        [car, _] = await it.note("repaired the automobile", "had lunch")
        await it.work_until_embedded(2)
        told = await it.recall.timeline(it.scope, Around(query="a broken vehicle"), before=0, after=0)
        assert told.anchor_id == car


async def test_notes_that_come_together_are_embedded_together(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note(*(f"cache number {n}" for n in range(9)))
        await it.work_until_embedded(9)
        assert it.embedder.batches == [4, 4, 1]
        await it.note("lunch")
        await it.work_until_embedded(10)
        assert len(it.embedder.notes) == 10


async def test_notes_that_have_their_vectors_are_not_looked_through_for_those_after_them(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(database, tmp_path) as it:
        looked_after = []
        new_notes = vectors.new_notes_without_vector

        def look(conn: Connection, scope: Scope, model: str, *, limit: int) -> tuple[list[Unembedded], int]:
            looked_after.append(conn.execute(select(search_embedding.c.embedded_to)).scalar_one())
            return new_notes(conn, scope, model, limit=limit)

        monkeypatch.setattr("onlooker.storage.vectors.new_notes_without_vector", look)
        await it.note("first")
        await it.work_until_embedded(1)
        looked_after.clear()
        await it.note(*(f"number {n}" for n in range(3 * it.embedder.most_at_once)))
        await it.work_until_embedded(1 + 3 * it.embedder.most_at_once)
        first, *_ = looked_after
        assert looked_after[:3] == [first, first + it.embedder.most_at_once, first + 2 * it.embedder.most_at_once]


async def test_words_and_meaning_both_count(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("the car of Ada", "the automobile of Grace", "Grace met Ada")
        await it.work_until_embedded(3)
        assert (await it.find("which vehicle has Grace"))[0] == "the automobile of Grace"


@pytest.mark.parametrize("query", ["what was it", "%%%", "!?"])
async def test_what_has_no_word_means_nothing_either_and_finds_the_newest(
    database: Database, tmp_path: Path, query: str
) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("car park built", "had lunch")
        await it.work_until_embedded(2)
        assert await it.find(query) == ["had lunch", "car park built"]


async def test_filters_hold_for_what_is_near_too(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("the automobile", "the wagen", "dinner")
        await it.work_until_embedded(3)
        assert "the wagen" in await it.find("vehicle -automobile")
        assert "the automobile" not in await it.find("vehicle -automobile")
        assert await it.find("vehicle", SearchFilter(kinds=frozenset({ObservationKind.BUGFIX}))) == []


async def test_what_hardly_fits_is_not_the_best_because_its_project_has_nothing_better(
    database: Database, tmp_path: Path
) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("repaired the automobile", "cleared the cache of the vehicle", "had lunch")
        await it.work_until_embedded(3)
        async with rig(database, tmp_path, scope=await sibling(database, it.scope), embedder=it.embedder) as other:
            await other.note("a broken plate", "had dinner")
            await other.work_until_embedded(2)
            hits = await it.recall.search(
                other.scope, "repaired a broken vehicle", EVERYTHING, limit=2, also=[it.scope]
            )
            titles = [hit.observation.title for hit in hits]
            assert titles == ["repaired the automobile", "cleared the cache of the vehicle"]


async def test_search_goes_by_words_while_the_embedder_is_away(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("cleared the cache")
        it.embedder.error = Busy("overloaded")
        assert await it.find("the cache was cleared") == ["cleared the cache"]


async def test_an_outage_of_the_embedder_holds_the_job_and_costs_no_attempt(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("cleared the cache")
        assert await it.indexing.embed_new_notes() == 1
        it.embedder.error = Busy("overloaded", retry_after_s=0.1)

        async def held() -> bool:
            return bool(await embed_jobs(it, held=True))

        await it.work(held)
        it.embedder.error = None

        async def completed() -> bool:
            return [job.status for job in await embed_jobs(it)] == [JobStatus.COMPLETED]

        await it.work(completed)
        [job] = await embed_jobs(it)
        assert (job.attempts, job.failures) == (1, 0)
        assert await it.embedded() == 1


async def embed_jobs(it: Rig, *, held: bool = False) -> list[Job]:
    table = observation_generation_jobs

    def work(conn: Connection) -> list[Job]:
        rows = conn.execute(table.select().with_only_columns(*jobs.COLUMNS).where(table.c.kind == "embed"))
        return [job for job in map(jobs.read_job, rows) if job.held_reason or not held]

    return await it.database.read(work)


async def test_a_project_has_one_job_at_a_time_for_its_vectors(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("cleared the cache")
        assert [await it.indexing.embed_new_notes() for _ in range(3)] == [1, 0, 0]
        await it.work_until_embedded(1)
        assert len(await embed_jobs(it)) == 1


async def test_another_model_is_never_compared_with_the_old_one_and_a_reindexing_brings_all_over(
    database: Database, tmp_path: Path
) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("the automobile")
        await it.work_until_embedded(1)
        scope = it.scope
    async with rig(database, tmp_path, scope=scope, embedder=ThemeEmbedder("other")) as it:
        assert await it.find("vehicle") == []
        progress = await it.reindex()
        assert (progress.done, progress.total, progress.model) == (1, 1, "other/4")
        assert await it.find("vehicle") == ["the automobile"]


async def test_a_reindexing_makes_the_terms_of_another_analyser_anew(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        stale, fresh = await it.note("cleared the cache", "warmed the cache")
        await it.work_until_embedded(2)
        await make_stale(it, stale)
        assert await it.find('"cleared the cache"') == []
        progress = await it.reindex()
        assert (progress.done, progress.changed, progress.total) == (2, 1, 2)
        assert await it.find('"cleared the cache"') == ["cleared the cache"]
        assert sorted(await it.find("cache")) == ["cleared the cache", "warmed the cache"]
        again = await it.reindex()
        assert (again.done, again.changed) == (2, 0)
        assert fresh != stale


async def make_stale(it: Rig, note_id: str) -> None:
    """As if an older analyser had made other terms of the note."""
    table = observations.OBSERVATIONS

    def work(conn: Connection) -> None:
        note = observations.get_observation(conn, it.scope, note_id)
        conn.execute(update(table).where(table.c.id == note_id).values(content="an older text"))
        older = observations.get_observation(conn, it.scope, note_id)
        search_index.reindex_observations(conn, it.scope, [older])
        conn.execute(update(table).where(table.c.id == note_id).values(content=note.content, analyser_version=0))

    await it.database.tx(work)


async def test_a_reindexing_that_is_stopped_goes_on_where_it_was(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onlooker.services.indexing.NOTES_A_PAGE", 5)
    async with rig(database, tmp_path) as it:
        await it.note(*(f"note {n} of the cache" for n in range(40)))
        await it.indexing.reindex(OPERATOR, [it.scope])

        async def begun() -> bool:
            progress = await it.indexing.progress(it.scope)
            return progress is not None and progress.done > 0

        await it.work(begun)
        stopped = await it.indexing.progress(it.scope)
        assert stopped is not None
        scope = it.scope
    async with rig(database, tmp_path, scope=scope) as it:
        assert await it.indexing.reindex(OPERATOR, [scope]) == (0 if stopped.finished_at is None else 1)
        progress = await it.reindex()
        assert (progress.done, progress.total) == (40, 40)
        assert stopped.finished_at is not None or progress.started_at == stopped.started_at
        assert await it.embedded() == 40


async def test_a_refused_text_is_told_in_the_job(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("cleared the cache")
        await it.indexing.embed_new_notes()
        it.embedder.error = Rejected("the embeddings endpoint answered 400")

        async def failed() -> bool:
            return any(job.status is JobStatus.FAILED for job in await embed_jobs(it))

        await it.work(failed)
        assert "400" in str((await embed_jobs(it))[0].last_error)


async def test_a_deleted_note_takes_its_vector_along(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        gone, _ = await it.note("the automobile", "the wagen")
        await it.work_until_embedded(2)
        assert len(await it.find("vehicle")) == 2
        await it.database.tx(lambda conn: observations.delete_observation(conn, it.scope, gone, 1))
        assert await it.embedded() == 1
        assert await it.find("vehicle") == ["the wagen"]


async def test_nothing_to_reindex_is_said(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        with pytest.raises(InvalidInput):
            await it.indexing.reindex(OPERATOR, [])


async def test_vectors_are_pgvectors_own_where_it_is(database: Database) -> None:
    assert await database.read(vectors.has_pgvector) == (database.name == "postgresql")


async def test_without_pgvector_vectors_are_bytes_and_compared_here(database: Database, tmp_path: Path) -> None:
    def forget_pgvector(conn: Connection) -> None:
        if conn.dialect.name != "sqlite":
            conn.exec_driver_sql("ALTER TABLE search_vectors DROP COLUMN vector")
            conn.exec_driver_sql("ALTER TABLE search_vectors ADD COLUMN vector BYTEA NOT NULL")

    await database.tx(forget_pgvector)
    async with rig(database, tmp_path) as it:
        await it.note("the automobile", "dinner")
        await it.work_until_embedded(2)
        assert not await database.read(vectors.has_pgvector)
        assert (await it.find("vehicle"))[0] == "the automobile"
        await it.note("the wagen")
        await it.work_until_embedded(3)
        assert set((await it.find("vehicle"))[:2]) == {"the automobile", "the wagen"}


async def test_a_worker_without_the_embedder_leaves_its_jobs_to_others(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("the automobile")
        await it.indexing.embed_new_notes()
        await it.indexing.reindex(OPERATOR, [it.scope])
        bare = Indexing(database, it.worker.outbox, None, new_id=new_id, now_ms=now_ms)
        [job] = await embed_jobs(it)
        for chore in (bare.embed, bare.reindex_project):
            with pytest.raises(Busy):
                await chore(job)
        assert await it.embedded() == 0


async def test_a_reindexing_for_another_model_takes_the_place_of_one_that_goes_on(
    database: Database, tmp_path: Path
) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("the automobile")
        assert [await it.indexing.reindex(OPERATOR, [it.scope]) for _ in range(2)] == [1, 0]
        scope = it.scope
    async with rig(database, tmp_path, scope=scope, embedder=ThemeEmbedder("other")) as it:
        assert await it.indexing.reindex(OPERATOR, [scope]) == 1
        assert (await it.reindex()).model == "other/4"
        assert await it.find("vehicle") == ["the automobile"]


async def test_a_large_project_gets_an_index_of_its_own_where_pgvector_is(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onlooker.storage.vectors.EXACT_UP_TO", 3)
    async with rig(database, tmp_path) as it:
        await it.note("the automobile", "the wagen", "dinner", "cleared the cache", "lunch")
        await it.work_until_embedded(5)
        scope = it.scope
        has_pgvector = await database.read(vectors.has_pgvector)
        await it.reindex()
        assert await count_indexes(database) == int(has_pgvector)
        assert set(await it.find("vehicle")) >= {"the automobile", "the wagen"}
    async with rig(database, tmp_path, scope=scope, embedder=ThemeEmbedder("other")) as it:
        await it.reindex()
        assert await count_indexes(database) == int(has_pgvector)
        assert set(await it.find("vehicle")) >= {"the automobile", "the wagen"}


async def test_a_vector_of_another_size_than_its_model_is_not_stored(database: Database, tmp_path: Path) -> None:
    async with rig(database, tmp_path) as it:
        await it.note("the automobile")
        await it.work_until_embedded(1)

        def store(conn: Connection) -> None:
            [number] = conn.execute(select(search_entries.c.number)).scalars()
            vectors.store_vectors(conn, it.scope, "themes/4", {number: unit_vector([1, 2, 3])})

        with pytest.raises(ValueError, match="another size"):
            await database.tx(store)
        assert await it.find("vehicle") == ["the automobile"]


def test_an_index_is_made_in_the_memory_that_it_needs_within_bounds() -> None:
    needed = [vectors.index_memory_mb(count, 384) for count in (1_000, 100_000, 1_000_000, 10_000_000)]
    assert needed == [vectors.LEAST_INDEX_MB, 149, 1495, vectors.MOST_INDEX_MB]


async def test_a_filter_gets_all_that_it_asks_for_however_far_from_the_question(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onlooker.storage.vectors.EXACT_UP_TO", 3)
    async with rig(database, tmp_path) as it:
        model = await it.embedder.model()
        await it.note(*(f"number {n}" for n in range(MOST_LOOKED_AT + 200)))
        kept = await it.note("soup", "bread", "rice", kind=ObservationKind.DECISION)

        def give_vectors(conn: Connection) -> None:
            notes, _ = vectors.new_notes_without_vector(conn, it.scope, model, limit=10_000)
            given = {
                note.number: unit_vector([0.1, 0, 0, 1] if note.observation_id in kept else [0.1, 1, 0.0001 * at, 0])
                for at, note in enumerate(notes)
            }
            vectors.store_vectors(conn, it.scope, model, given)

        await database.tx(lambda conn: vectors.begin_embedding(conn, it.scope, model))
        await database.tx(lambda conn: conn.execute(update(search_embedding).values(embedded_to=0)))
        await database.tx(give_vectors)
        if await database.read(lambda conn: vectors.wants_index(conn, it.scope, model)):
            await database.alone(lambda conn: vectors.make_index(conn, it.scope, model))
        meaning = Meaning(model, await it.embedder.embed_question("vehicle"), VectorIndex(tmp_path))
        wanted = SearchFilter(kinds=frozenset({ObservationKind.DECISION}))

        def find(conn: Connection) -> set[str]:
            if conn.dialect.name != "sqlite":
                # So few rows are sorted sooner than an index is asked.
                conn.exec_driver_sql("SET LOCAL enable_sort = off")
            found = search.search(conn, it.scope, "vehicle", wanted, limit=10, meaning=meaning)
            return {note_id for note_id, _ in found}

        assert await database.read(find) == set(kept)


async def count_indexes(database: Database) -> int:
    """How many indexes of vectors there are, of whatever project."""

    def work(conn: Connection) -> int:
        if conn.dialect.name == "sqlite":
            return 0
        indexes = "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
        return int(
            conn.execute(text(f"{indexes} WHERE indisvalid AND relname LIKE 'ix_search_vectors_near_%'")).scalar_one()
        )

    return await database.read(work)
