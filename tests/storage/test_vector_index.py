"""What a question costs that is compared with all vectors of a project."""

import asyncio
import time
from pathlib import Path

import numpy as np
from sqlalchemy import update

from observed import new_scope
from onlooker.domain.models import Draft, NewObservation, ObservationKind
from onlooker.host import new_id
from onlooker.storage import observations, vectors
from onlooker.storage.database import Connection, Database
from onlooker.storage.search_tables import search_embedding
from onlooker.storage.vector_index import VectorIndex

MODEL = "random/384"
COUNT = 5_000
QUESTIONS = 5


async def test_a_question_takes_no_cpu_after_its_answer(database: Database, tmp_path: Path) -> None:
    scope = await new_scope(database)
    given = np.random.default_rng(1).standard_normal((COUNT, 384)).astype("<f4")

    def fill(conn: Connection) -> None:
        drafts = [Draft(ObservationKind.CHANGE, f"note {n}") for n in range(COUNT)]
        notes = [NewObservation(new_id(), draft, draft.title, 1, 1, draft.title) for draft in drafts]
        observations.store_observations(conn, scope, notes, 1)
        vectors.begin_embedding(conn, scope, MODEL)
        conn.execute(update(search_embedding).values(embedded_to=0))
        unembedded, _ = vectors.new_notes_without_vector(conn, scope, MODEL, limit=COUNT)
        rows = zip(unembedded, given, strict=True)
        vectors.store_vectors(conn, scope, MODEL, {note.number: row.tobytes() for note, row in rows})

    await database.tx(fill)
    index = VectorIndex(tmp_path)

    def ask(conn: Connection) -> list[tuple[int, float]]:
        return index.nearest(conn, scope, MODEL, given[-1].tobytes(), 3)

    await database.read(ask)
    began = time.process_time()
    for _ in range(QUESTIONS):
        assert len(await database.read(ask)) == 3
        await asyncio.sleep(0.15)
    assert time.process_time() - began < 0.02 * QUESTIONS
