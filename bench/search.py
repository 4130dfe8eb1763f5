"""How fast search is at many notes, by how common the word is.

    python bench/search.py [--notes 100000] [--postgres] [--database URL] [--meaning]

With `--meaning` they get vectors (made at random, always the same) and the questions those of the local embedder, whose
time counts; on Postgres it is the wheel's then, which has pgvector. With `--database` that database is filled where it
is empty, else used as it is, and kept. On Postgres more than 100,000 notes are `BASE` notes again and again.

The notes are made here: about 90 words each of a skewed vocabulary, one word in a quarter of them, one in 3 % and one
in 0.02 %. They go in through the real storage code. Prints the time to index a note and each search's p50 and p95.
"""

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from copies import VECTOR_SIZE, copy_vectors, multiply
from server import cpu_s_of

from observed import new_scope
from onlooker.domain.models import Draft, NewObservation, NewSession, ObservationKind, Scope, SearchFilter
from onlooker.host import new_id
from onlooker.providers.embedders.local import LocalEmbedder
from onlooker.storage import observations, schema, search, search_index, sessions, vectors
from onlooker.storage.database import Connection, Database, open_database
from onlooker.storage.search import Meaning
from onlooker.storage.vector_index import VectorIndex
from servers import postgres_server, wheel_postgres

MARKED = (("common", 0.25, "25 %"), ("scarce", 0.028, "2.8 %"), ("seldom", 0.0002, "0.02 %"))
SYLLABLES = (
    "ba",
    "co",
    "di",
    "fu",
    "ge",
    "hi",
    "jo",
    "ka",
    "lu",
    "me",
    "ni",
    "po",
    "qua",
    "re",
    "si",
    "tu",
    "ve",
    "xo",
)
WORDS = 30_000
WORDS_A_NOTE = 90
NOTES_A_SESSION = 50
AT_ONCE = 500
BASE = 25_000
MOST_OF_THEIR_OWN = 100_000
REAL_VECTORS = 60
ROUNDS = 30


def texts(count: int) -> Iterator[str]:
    """Notes of a skewed vocabulary: the n-th word is as frequent as 1/n, as words are."""
    chance = random.Random(7)  # noqa: S311 - the same notes in every run
    words = ["".join(chance.choices(SYLLABLES, k=3)) + str(n % 97) for n in range(WORDS)]
    weights = [1 / (n + 20) for n in range(WORDS)]
    pool = chance.choices(words, weights, k=2_000_000)
    for _ in range(count):
        start = chance.randrange(len(pool) - WORDS_A_NOTE)
        marks = [word for word, share, _ in MARKED if chance.random() < share]
        yield " ".join([*pool[start : start + WORDS_A_NOTE], *marks])


def plain_draft(_number: int, text: str) -> Draft:
    """A note of nothing but its text."""
    return Draft(ObservationKind.CHANGE, text[:60], narrative=text)


async def fill(
    database: Database, scope: Scope, count: int, draft_of: Callable[[int, str], Draft] = plain_draft
) -> float:
    """Store the notes; seconds it took."""
    started = time.perf_counter()
    session_id, portion = "", list[NewObservation]()
    for number, text in enumerate(texts(count)):
        if number % NOTES_A_SESSION == 0:
            new = NewSession(new_id(), content_session_id=f"s{number}", started_at=1)
            session_id = (await database.tx(lambda conn, new=new: sessions.open_session(conn, scope, new, 1)))[0].id
        note_id, draft = new_id(), draft_of(number, text)
        portion.append(NewObservation(note_id, draft, note_id, 1_790_000_000_000 + number, number, text, session_id))
        if len(portion) == AT_ONCE or number == count - 1:
            done, portion = portion, []
            await database.tx(lambda conn, done=done: observations.store_observations(conn, scope, done, 1))
    return time.perf_counter() - started


async def fill_and_tell(database: Database, scope: Scope, count: int) -> None:
    """Store the notes and print what it took. On Postgres the index is made when all are there: a tenth of the time."""
    times = count // BASE if database.name == "postgresql" and count > MOST_OF_THEIR_OWN else 1
    count //= times
    if database.name == "postgresql":
        await database.tx(lambda conn: conn.exec_driver_sql("DROP INDEX ix_search_entries_terms"))
    began = time.process_time()
    seconds = await fill(database, scope, count)
    print(
        f"{database.name}: {count} notes stored and indexed in {seconds:.0f} s, {seconds / count * 1e6:.0f} us a note, "
        f"{(time.process_time() - began) / count * 1e6:.0f} of them in this process"
    )
    if times > 1:
        await database.alone(lambda conn: multiply(conn, scope, times))
        print(f"  {times} copies of each")
    if database.name == "postgresql":
        began = time.perf_counter()
        await database.alone(make_index)
        print(f"  its index made in {time.perf_counter() - began:.0f} s")


def make_index(conn: Connection) -> None:
    """The index as the migration makes it, in one go, and what the planner wants to know."""
    for statement in (
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL maintenance_work_mem = '1GB'",
        "CREATE INDEX ix_search_entries_terms ON search_entries USING gin (terms) WITH (fastupdate = off)",
        "ANALYZE",
    ):
        conn.exec_driver_sql(statement)


def filled_scope(conn: Connection) -> Scope | None:
    """Whose notes are there already."""
    row = conn.exec_driver_sql("SELECT team_id, project_id FROM search_projects ORDER BY notes DESC").first()
    return None if row is None else Scope(*row)


async def time_searches(database: Database, scope: Scope, query: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each round, the notes read as a caller gets them: by the clock, and of the thread's CPU."""

    def work(conn: Connection) -> float:
        began = time.thread_time()
        found = search.search(conn, scope, query, SearchFilter(), limit=20)
        observations.observations_by_ids(conn, scope, [note_id for note_id, _ in found])
        return (time.thread_time() - began) * 1000

    took, busy = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        busy.append(await database.read(work))
        took.append((time.perf_counter() - started) * 1000)
    return sorted(took), sorted(busy)


async def measure(url: str, count: int, *, meaning: bool, folder: str) -> None:
    """Fill one database and time the searches on it."""
    async with open_database(url) as database:
        await schema.prepare(database)
        scope = await database.read(filled_scope)
        if scope is None:
            scope = await new_scope(database)
            await fill_and_tell(database, scope, count)
        both = " ".join(word for word, _, _ in MARKED)
        for query, label in (*((word, label) for word, _, label in MARKED), (both, "all three")):
            took, busy = await time_searches(database, scope, query)
            print(
                f"  in {label:10} p50 {statistics.median(took):7.1f} ms   p95 {took[int(ROUNDS * 0.95)]:7.1f} ms   "
                f"CPU of this process {statistics.median(busy):5.1f} ms",
                flush=True,
            )
        if meaning:
            embedder = LocalEmbedder()
            try:
                await measure_meaning(database, scope, embedder, url, folder)
            finally:
                await embedder.close()


async def give_vectors(database: Database, scope: Scope, model: str) -> float:
    """Give every note without one a vector of its own; seconds it took."""
    chance = np.random.default_rng(7)
    began = time.perf_counter()

    def page(conn: Connection) -> int:
        vectors.begin_embedding(conn, scope, model)
        notes, _ = vectors.new_notes_without_vector(conn, scope, model, limit=AT_ONCE)
        made = chance.standard_normal((len(notes), VECTOR_SIZE), dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        by_number = {note.number: vector.tobytes() for note, vector in zip(notes, made, strict=True)}
        vectors.store_vectors(conn, scope, model, by_number)
        if notes:
            vectors.all_embedded(conn, scope, model, notes[-1].number)
        return len(notes)

    await database.tx(lambda conn: vectors.begin_embedding(conn, scope, model))
    await database.tx(lambda conn: conn.exec_driver_sql("UPDATE search_embedding SET embedded_to = 0"))
    while await database.tx(page):
        pass
    return time.perf_counter() - began


async def measure_meaning(database: Database, scope: Scope, embedder: LocalEmbedder, url: str, folder: str) -> None:
    """Time searches by words and meaning, the question's vector included."""
    model = await embedder.model()
    notes = (await database.read(lambda conn: search_index.find_project(conn, scope))) or (0, 0)
    if await database.read(lambda conn: vectors.count_vectors(conn, scope, model)) >= notes[1]:
        print("  all have vectors")
    elif database.name == "postgresql":
        real = await embedder.embed_notes(list(itertools.islice(texts(REAL_VECTORS), REAL_VECTORS)))
        began = time.perf_counter()
        await copy_vectors(url, scope, model, real)
        print(f"  all have vectors after {time.perf_counter() - began:.0f} s")
    else:
        print(f"  all have vectors after {await give_vectors(database, scope, model):.0f} s")
    if await database.read(lambda conn: vectors.wants_index(conn, scope, model)):
        began = time.perf_counter()
        await database.alone(lambda conn: vectors.make_index(conn, scope, model))
        print(f"  their index made in {time.perf_counter() - began:.0f} s")
    index = VectorIndex(Path(folder))
    words = [word for word, _, _ in MARKED]
    for query in (*words, " ".join(words)):
        took, embedding, busy, behind = [], [], [], []
        for _ in range(ROUNDS):
            began, cpu = time.perf_counter(), time.process_time()
            vector = await embedder.embed_question(query)
            embedding.append((time.perf_counter() - began) * 1000)
            meaning = Meaning(model, vector, index)

            def work(conn: Connection, query: str = query, meaning: Meaning = meaning) -> float:
                before = backend_cpu_s(conn)
                found = search.search(conn, scope, query, SearchFilter(), limit=20, meaning=meaning)
                observations.observations_by_ids(conn, scope, [note_id for note_id, _ in found])
                return backend_cpu_s(conn) - before

            behind.append(await database.read(work) * 1000)
            took.append((time.perf_counter() - began) * 1000)
            busy.append((time.process_time() - cpu) * 1000)
        print(
            f"  by words and meaning, {query:24} p50 {statistics.median(took):7.1f} ms, of it the question's vector "
            f"{statistics.median(embedding):.1f} ms; CPU of this process {statistics.median(busy):.1f} ms, "
            f"of the database's {statistics.mean(behind):.0f} ms",
            flush=True,
        )


def backend_cpu_s(conn: Connection) -> float:
    """What the process behind a connection to a Postgres of this machine has used; 0 on SQLite."""
    if conn.dialect.name == "sqlite":
        return 0.0
    return cpu_s_of(conn.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def main() -> None:
    """Measure on SQLite, or on a Postgres started for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=100_000)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--database", metavar="URL")
    parser.add_argument("--meaning", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if options.database:
            url = options.database
        elif options.postgres:
            binaries = wheel_postgres() if options.meaning else None
            url = stack.enter_context(postgres_server(durable=True, binaries=binaries)).url
        else:
            url = f"sqlite:///{folder}/search.db"
        asyncio.run(measure(url, options.notes, meaning=options.meaning, folder=folder))


if __name__ == "__main__":
    main()
