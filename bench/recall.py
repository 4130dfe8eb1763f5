"""How well search finds what it should: labelled retrieval sets through the real storage code, on both databases.

    python bench/recall.py [--sets FOLDER] [--local] [--vectors FILE] [turns obs pytest tokens]

FOLDER holds `retrieval.py` and its data (default: ../shared/bench). Prints recall, nDCG and MRR for each set. With
`--local` the notes and questions have vectors of the local embedder too; making them takes a quarter of an hour, and
`--vectors` keeps them in a file for the next time.
"""

import argparse
import asyncio
import importlib.util
import pickle
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from observed import new_scope
from onlooker.domain.models import Draft, NewObservation, NewSession, ObservationKind, Scope, SearchFilter
from onlooker.host import new_id
from onlooker.providers.embedders.local import LocalEmbedder
from onlooker.storage import observations, schema, search, sessions, vectors
from onlooker.storage.database import Connection, Database, open_database
from onlooker.storage.search import Meaning
from onlooker.storage.vector_index import VectorIndex
from servers import postgres_server

Doc = tuple[str, str, str | None]
LABELS = ("R@5", "R@10", "R@25", "R@50", "nDCG@10", "MRR", "top-1")
SETS = ("turns", "obs", "pytest", "tokens")
FORMATS = ("%I:%M %p on %d %B, %Y", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d")
AT_ONCE = 500


def parse_time(when: str | None) -> int:
    """A set's own way to write a time, in epoch milliseconds; 0 where there is none."""
    for form in FORMATS:
        try:
            return int(datetime.strptime(when or "", form).replace(tzinfo=UTC).timestamp() * 1000)
        except ValueError:
            continue
    return 0


async def store(database: Database, scope: Scope, docs: Sequence[Doc]) -> dict[str, str]:
    """Store the documents as notes; those with one time are one session's. Observation id to document id."""
    sessions_of: dict[str, str] = {}
    for _, _, when in docs:
        if when and when not in sessions_of:
            new = NewSession(new_id(), content_session_id=when, started_at=1)
            session, _ = await database.tx(lambda conn, new=new: sessions.open_session(conn, scope, new, 1))
            sessions_of[when] = session.id
    known: dict[str, str] = {}
    notes = []
    for number, (doc_id, text, when) in enumerate(docs):
        note_id = new_id()
        known[note_id] = doc_id
        draft = Draft(ObservationKind.MANUAL, text)
        session_id = sessions_of.get(when or "")
        notes.append(NewObservation(note_id, draft, note_id, parse_time(when), number, text, session_id=session_id))
    for start in range(0, len(notes), AT_ONCE):
        portion = notes[start : start + AT_ONCE]
        await database.tx(lambda conn, portion=portion: observations.store_observations(conn, scope, portion, 1))
    return known


class Vectors:
    """Vectors of texts by the local embedder, each made once."""

    def __init__(self, runner: asyncio.Runner, file: Path | None) -> None:
        self._runner = runner
        self._file = file
        self._embedder = LocalEmbedder()
        self.model = runner.run(self._embedder.model())
        self._known: dict[tuple[str, str], bytes] = {}
        if file is not None and file.exists():
            self._known = pickle.loads(file.read_bytes())  # noqa: S301 - our own file

    def of_question(self, text: str) -> bytes:
        """The vector of a question."""
        if ("q", text) not in self._known:
            self._known["q", text] = self._runner.run(self._embedder.embed_question(text))
        return self._known["q", text]

    def of_notes(self, texts: Sequence[str]) -> list[bytes]:
        """The vectors of notes."""
        new = [text for text in dict.fromkeys(texts) if ("p", text) not in self._known]
        for text, vector in zip(new, self._runner.run(self._embedder.embed_notes(new)), strict=True):
            self._known["p", text] = vector
        return [self._known["p", text] for text in texts]

    def close(self) -> None:
        """Keep them, and end the embedder."""
        self._runner.run(self._embedder.close())
        if self._file is not None:
            self._file.write_bytes(pickle.dumps(self._known))


async def give_vectors(database: Database, scope: Scope, model: str, by_text: Mapping[str, bytes]) -> None:
    """Give the stored notes their vectors."""

    def work(conn: Connection) -> bool:
        vectors.begin_embedding(conn, scope, model)
        conn.exec_driver_sql("UPDATE search_embedding SET embedded_to = 0")
        notes, _ = vectors.new_notes_without_vector(conn, scope, model, limit=AT_ONCE)
        vectors.store_vectors(conn, scope, model, {note.number: by_text[note.content] for note in notes})
        return bool(notes)

    while await database.tx(work):
        pass


def builder(
    runner: asyncio.Runner, database: Database, made: Vectors | None, index: VectorIndex
) -> Callable[[Sequence[Doc]], Callable[[str, int], list[str]]]:
    """`build(docs) -> search(query, k)` as the scorer wants it, over a database that is open."""

    def build(docs: Sequence[Doc]) -> Callable[[str, int], list[str]]:
        scope = runner.run(new_scope(database))
        known = runner.run(store(database, scope, docs))
        if made is not None:
            texts = [text for _, text, _ in docs]
            by_text = dict(zip(texts, made.of_notes(texts), strict=True))
            runner.run(give_vectors(database, scope, made.model, by_text))

        def find(query: str, k: int) -> list[str]:
            meaning = None if made is None else Meaning(made.model, made.of_question(query), index)

            def work(conn: Connection) -> list[tuple[str, float]]:
                return search.search(conn, scope, query, SearchFilter(), limit=k, meaning=meaning)

            return [known[note_id] for note_id, _ in runner.run(database.read(work))]

        return find

    return build


def measure(scorer: ModuleType, url: str, name: str, sets: Sequence[str], options: argparse.Namespace) -> None:
    """Print each set's scores on the database of this URL."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        opened = open_database(url)
        database = runner.run(opened.__aenter__())
        made = Vectors(runner, options.vectors) if options.local else None
        try:
            runner.run(schema.prepare(database))
            for each in sets:
                build = builder(runner, database, made, VectorIndex(Path(folder)))
                values, count = scorer.score(build, each)
                scores = " ".join(f"{label} {value:.3f}" for label, value in zip(LABELS, values, strict=True))
                print(f"{name:9} {each:7} n={count:4} {scores}", flush=True)
        finally:
            runner.run(opened.__aexit__(None, None, None))
            if made is not None:
                made.close()


def main() -> None:
    """Measure the wanted sets on SQLite and on Postgres."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="*", choices=[*SETS, []], metavar="SET", help=f"which sets: {', '.join(SETS)}")
    parser.add_argument("--sets", type=Path, default=Path(__file__).parents[2] / "shared" / "bench")
    parser.add_argument("--local", action="store_true", help="with vectors of the local embedder")
    parser.add_argument("--vectors", type=Path, metavar="FILE", help="where they are kept")
    options = parser.parse_args()
    source = options.sets / "retrieval.py"
    if not source.exists():
        parser.error(f"{source} is not there: name the folder of the retrieval sets with --sets")
    specification = importlib.util.spec_from_file_location("retrieval", source)
    if specification is None or specification.loader is None:
        parser.error(f"{source} cannot be loaded")
    scorer = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(scorer)
    wanted = options.wanted or SETS
    with tempfile.TemporaryDirectory() as folder:
        measure(scorer, f"sqlite:///{folder}/recall.db", "sqlite", wanted, options)
    with postgres_server() as server:
        measure(scorer, server.url, "postgres", wanted, options)


if __name__ == "__main__":
    main()
