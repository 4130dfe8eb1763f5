"""Vectors of notes: write them, and find which are missing.

A vector comes here as bytes: 32-bit floats, little-endian, of length 1. It is stored with 16 bits a number, which
changes no ranking that was measured, and with its model: vectors of two models never meet in a search.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, delete, func, literal_column, select, text, update

from onlooker.domain.models import Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.search_tables import search_embedding, search_entries, search_projects, search_vectors
from onlooker.storage.tables import observations
from onlooker.storage.tenancy import belongs

ENTRIES = search_entries
VECTORS = search_vectors
EMBEDDING = search_embedding

LOOKED_BACK = 1_000
"""Entries before the last embedded that are looked at again: two transactions may end in another order than that in
which they got their numbers."""

EXACT_UP_TO = 50_000
"""Vectors of a project that pgvector compares one by one; with more the project gets an index of its own."""

LEAST_INDEX_MB, MOST_INDEX_MB = 64, 2_048
LINKS_BYTES = 800
"""What making an index may take, and what a vector's links in it do: with less than all need, it takes hours."""

_INSERT_BYTES = "INSERT INTO search_vectors (team_id, project_id, number, model, vector) VALUES (?, ?, ?, ?, ?)"

_COLUMN_TYPE = text(
    """
    SELECT format_type(atttypid, -1) FROM pg_attribute
    WHERE attrelid = CAST('search_vectors' AS regclass) AND attname = 'vector'
    """
)


@dataclass(frozen=True, slots=True)
class Unembedded:
    """A note without a vector of the model: the number of its entry, and what the vector is made of."""

    number: int
    observation_id: str
    content: str


def to_half(vector: bytes) -> bytes:
    """A vector as bytes of 16-bit floats."""
    return struct.pack(f"<{len(vector) // 4}e", *_numbers(vector))


def to_text(vector: bytes) -> str:
    """A vector as pgvector reads it, with the digits that 16 bits hold."""
    return f"[{','.join(f'{number:.5g}' for number in _numbers(vector))}]"


def _numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def has_pgvector(conn: Connection) -> bool:
    """Whether this database holds vectors as pgvector's own."""
    if dialect.is_sqlite(conn):
        return False
    if (known := conn.info.get("vector_type")) is None:
        known = conn.info["vector_type"] = conn.execute(_COLUMN_TYPE).scalar_one()
    return bool(known == "halfvec")


def store_vectors(conn: Connection, scope: Scope, model: str, vectors: Mapping[int, bytes]) -> None:
    """Write the vectors of these entries in place of those they have; entries that are gone are left out.

    Two jobs may do so at the same time: either's vector is right. Raises `ValueError` for a vector of another size
    than its model's name says: one such would fail every search.
    """
    if any(len(vector) != 4 * size_of(model) for vector in vectors.values()):
        raise ValueError("a vector has another size than its model")
    there = select(ENTRIES.c.number).where(*belongs(ENTRIES, scope), ENTRIES.c.number.in_(list(vectors)))
    numbers = sorted(conn.execute(there.with_for_update(key_share=True, read=True)).scalars())
    if not numbers:
        return
    conn.execute(delete(VECTORS).where(*belongs(VECTORS, scope), VECTORS.c.number.in_(numbers)))
    if dialect.is_sqlite(conn):
        rows = [(scope.team_id, scope.project_id, number, model, to_half(vectors[number])) for number in numbers]
        conn.exec_driver_sql(_INSERT_BYTES, rows)
        return
    pgvector = has_pgvector(conn)
    values = [to_text(vectors[number]) if pgvector else to_half(vectors[number]) for number in numbers]
    conn.execute(
        _INSERT_HALFVEC if pgvector else _INSERT_BYTEA,
        {"team": scope.team_id, "project": scope.project_id, "model": model, "numbers": numbers, "vectors": values},
    )


_INSERT_BYTEA = text(
    """
    INSERT INTO search_vectors (team_id, project_id, number, model, vector)
    SELECT CAST(:team AS TEXT), CAST(:project AS TEXT), number, CAST(:model AS TEXT), vector
    FROM unnest(CAST(:numbers AS BIGINT[]), CAST(:vectors AS BYTEA[])) AS given(number, vector)
    ON CONFLICT (number) DO NOTHING
    """
)
_INSERT_HALFVEC = text(
    """
    INSERT INTO search_vectors (team_id, project_id, number, model, vector)
    SELECT CAST(:team AS TEXT), CAST(:project AS TEXT), number, CAST(:model AS TEXT), CAST(vector AS halfvec)
    FROM unnest(CAST(:numbers AS BIGINT[]), CAST(:vectors AS TEXT[])) AS given(number, vector)
    ON CONFLICT (number) DO NOTHING
    """
)


def projects_behind(conn: Connection, model: str) -> list[Scope]:
    """The projects that have notes newer than what is embedded with this model."""
    newest = (
        select(func.max(ENTRIES.c.number))
        .where(ENTRIES.c.project_id == search_projects.c.project_id)
        .correlate(search_projects)
        .scalar_subquery()
    )
    known = EMBEDDING.c.project_id == search_projects.c.project_id
    rows = conn.execute(
        select(search_projects.c.team_id, search_projects.c.project_id)
        .join(EMBEDDING, known, isouter=True)
        .where(
            (EMBEDDING.c.model != model) | EMBEDDING.c.model.is_(None) | (newest > EMBEDDING.c.embedded_to),
            newest.is_not(None),
        )
    )
    return [Scope(row.team_id, row.project_id) for row in rows]


def begin_embedding(conn: Connection, scope: Scope, model: str) -> None:
    """Embed this project's notes with this model from now on, where that is new; older ones are for a reindexing.

    The newest `LOOKED_BACK` notes count as new.
    """
    row = conn.execute(select(EMBEDDING.c.model).where(*belongs(EMBEDDING, scope))).one_or_none()
    if row is not None and row.model == model:
        return
    conn.execute(delete(EMBEDDING).where(*belongs(EMBEDDING, scope)))
    newest = conn.execute(select(func.max(ENTRIES.c.number)).where(*belongs(ENTRIES, scope))).scalar_one()
    dialect.insert_new(
        conn,
        EMBEDDING,
        ("team_id", "project_id", "model", "embedded_to"),
        [(scope.team_id, scope.project_id, model, max(0, (newest or 0) - 1))],
    )


def _without_vector(model: str) -> Select[Any]:
    has_vector = VECTORS.c.number == ENTRIES.c.number, VECTORS.c.model == model
    return (
        select(ENTRIES.c.number, ENTRIES.c.observation_id, observations.c.content)
        .join(
            observations,
            (observations.c.project_id == ENTRIES.c.project_id) & (observations.c.id == ENTRIES.c.observation_id),
        )
        .where(~select(literal_column("1")).select_from(VECTORS).where(*has_vector).correlate(ENTRIES).exists())
    )


def new_notes_without_vector(conn: Connection, scope: Scope, model: str, *, limit: int) -> tuple[list[Unembedded], int]:
    """Notes that came since the last were embedded, oldest first; and the number of the newest entry there is."""
    since = conn.execute(
        select(EMBEDDING.c.embedded_to).where(*belongs(EMBEDDING, scope), EMBEDDING.c.model == model)
    ).scalar_one_or_none()
    newest = conn.execute(select(func.max(ENTRIES.c.number)).where(*belongs(ENTRIES, scope))).scalar_one()
    if since is None or newest is None:
        return [], 0
    found = _without_vector(model).where(*belongs(ENTRIES, scope), ENTRIES.c.number > since - LOOKED_BACK)
    rows = conn.execute(found.order_by(ENTRIES.c.number).limit(limit))
    return [Unembedded(*row) for row in rows], newest


def notes_without_vector(
    conn: Connection, scope: Scope, model: str, observation_ids: Sequence[str]
) -> list[Unembedded]:
    """Those of these notes that have no vector of this model and may be found."""
    rows = conn.execute(
        _without_vector(model).where(*belongs(ENTRIES, scope), dialect.among(ENTRIES.c.observation_id, "of_ids")),
        {"of_ids": list(observation_ids)},
    )
    return [Unembedded(*row) for row in rows]


def all_embedded(conn: Connection, scope: Scope, model: str, number: int) -> None:
    """Say that the project's notes up to this entry have their vectors."""
    conn.execute(
        update(EMBEDDING)
        .where(*belongs(EMBEDDING, scope), EMBEDDING.c.model == model, EMBEDDING.c.embedded_to < number)
        .values(embedded_to=number)
    )


def count_vectors(conn: Connection, scope: Scope, model: str) -> int:
    """How many notes of the project have a vector of this model."""
    owned = (*belongs(VECTORS, scope), VECTORS.c.model == model)
    return int(conn.execute(select(func.count()).select_from(VECTORS).where(*owned)).scalar_one())


def wants_index(conn: Connection, scope: Scope, model: str) -> bool:
    """Whether the project has too many vectors for comparing all of them, and pgvector has no index of them yet."""
    if not has_pgvector(conn):
        return False
    number = _project_number(conn, scope)
    if number is None or _valid_indexes(conn, number).get(_index_name(number, model)):
        return False
    owned = (*belongs(VECTORS, scope), VECTORS.c.model == model)
    some = select(literal_column("1")).select_from(VECTORS).where(*owned).limit(EXACT_UP_TO + 1).subquery()
    return int(conn.execute(select(func.count()).select_from(some)).scalar_one()) > EXACT_UP_TO


def make_index(conn: Connection, scope: Scope, model: str) -> None:
    """Index the project's vectors of this model, while others write; indexes of other models, and halves, go.

    It takes minutes, at a million vectors half an hour, and a connection that is in no transaction. Again: nothing.
    """
    conn = conn.execution_options(isolation_level="AUTOCOMMIT")
    number = _project_number(conn, scope)
    if number is None:
        return
    wanted = _index_name(number, model)
    there = _valid_indexes(conn, number)
    for name, is_valid in there.items():
        if name != wanted or not is_valid:
            conn.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    if there.get(wanted):
        return
    size = size_of(model)
    literal = (text.replace("'", "''") for text in (scope.project_id, model))
    project_id, name = literal
    memory = index_memory_mb(count_vectors(conn, scope, model), size)
    conn.exec_driver_sql(f"SET maintenance_work_mem = '{memory}MB'")
    # Several workers would take all of that at once as shared memory, of which a container often has 64 MB; and one
    # leaves the other cores to those who wait for an answer.
    conn.exec_driver_sql("SET max_parallel_maintenance_workers = 0")
    conn.exec_driver_sql(
        f"CREATE INDEX CONCURRENTLY {wanted} ON search_vectors USING hnsw ((vector::halfvec({size})) "
        f"halfvec_cosine_ops) WHERE project_id = '{project_id}' AND model = '{name}'"
    )


def size_of(model: str) -> int:
    """How many numbers a vector of this model has, which its name ends with. Raises `ValueError`."""
    size = model.rpartition("/")[2]
    if not size.isdecimal():
        raise ValueError("the name of a model ends with the size of its vectors")
    return int(size)


def index_memory_mb(count: int, size: int) -> int:
    """The memory that an index of so many vectors of this size is made in."""
    return min(max(LEAST_INDEX_MB, count * (2 * size + LINKS_BYTES) // 2**20), MOST_INDEX_MB)


def _project_number(conn: Connection, scope: Scope) -> int | None:
    number = select(search_projects.c.number).where(*belongs(search_projects, scope))
    return conn.execute(number).scalar_one_or_none()


def _index_name(number: int, model: str) -> str:
    return f"{_INDEX_NAMES}{number}_{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def _valid_indexes(conn: Connection, number: int) -> dict[str, bool]:
    """The indexes of a project's vectors, and whether each is whole."""
    rows = conn.execute(_INDEXES, {"prefix": f"{_INDEX_NAMES}{number}_"})
    return {row.name: row.is_valid for row in rows}


_INDEX_NAMES = "ix_search_vectors_near_"
_INDEXES = text(
    """
    SELECT c.relname AS name, i.indisvalid AS is_valid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = CAST('search_vectors' AS regclass) AND starts_with(c.relname, :prefix)
    """
)
