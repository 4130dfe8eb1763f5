"""Notes by the million on Postgres: some notes again and again, and vectors near to those of the local embedder.

Only for measuring: it needs a superuser, since checks of references are left out while rows are copied.
"""

import struct
from collections.abc import AsyncIterator

import asyncpg
import numpy as np
from sqlalchemy import text

from onlooker.domain.models import Scope
from onlooker.storage.database import Connection

VECTOR_SIZE = 384
AT_ONCE = 20_000
OTHERS_SHARE = 0.35
"""How far a made vector is away from the mixture of two real ones, as a share of their length."""

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
COPY_END = struct.pack(">h", -1)

_COLUMNS = text("SELECT column_name FROM information_schema.columns WHERE table_name = :of_table")

# Which columns of a copied row tell it from the first one; the others stay as they are.
_RENAMED = {
    "server_sessions": ("id", "content_session_id", "external_session_id"),
    "observations": ("id", "session_id", "generation_key"),
    "search_entries": ("observation_id", "session_id"),
}
_LEFT_OUT = {"search_entries": ("number",)}
_ORDER = {"server_sessions": "id", "observations": "id", "search_entries": "number"}


def multiply(conn: Connection, scope: Scope, times: int) -> None:
    """Copy a project's notes until it has `times` as many, each copy with sessions of its own."""
    conn.exec_driver_sql("SET LOCAL statement_timeout = 0")
    conn.exec_driver_sql("SET LOCAL session_replication_role = replica")
    for table, renamed in _RENAMED.items():
        known = conn.execute(_COLUMNS, {"of_table": table}).scalars()
        columns = [name for name in known if name not in _LEFT_OUT.get(table, ())]
        chosen = [f"{name} || '-' || copy" if name in renamed else name for name in columns]
        conn.exec_driver_sql(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(chosen)} "  # noqa: S608 - names of ours
            f"FROM generate_series(2, {times}) AS copy CROSS JOIN LATERAL "
            f"(SELECT * FROM {table} WHERE project_id = '{scope.project_id}' ORDER BY {_ORDER[table]}) AS first"
        )
    conn.exec_driver_sql(f"UPDATE search_frequencies SET notes = notes * {times}")  # noqa: S608 - a number
    conn.exec_driver_sql(f"UPDATE search_projects SET notes = notes * {times}")  # noqa: S608 - a number


async def copy_vectors(url: str, scope: Scope, model: str, real: list[bytes]) -> int:
    """Give each entry of a project without a vector one between two real ones; how many."""
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
    try:
        await connection.execute("SET session_replication_role = replica")
        rows = await connection.fetch(
            "SELECT number FROM search_entries WHERE project_id = $1 "
            "AND NOT EXISTS (SELECT 1 FROM search_vectors WHERE search_vectors.number = search_entries.number) "
            "ORDER BY number",
            scope.project_id,
            timeout=600,
        )
        numbers = np.array([row[0] for row in rows], dtype=np.int64)
        await connection.copy_to_table(
            "search_vectors",
            source=_portions(numbers, scope, model, real),
            columns=["team_id", "project_id", "number", "model", "vector"],
            format="binary",
            timeout=3600,
        )
        return len(numbers)
    finally:
        await connection.close()


async def _portions(numbers: "np.ndarray", scope: Scope, model: str, real: list[bytes]) -> AsyncIterator[bytes]:
    chance = np.random.default_rng(7)
    known = np.stack([np.frombuffer(vector, dtype="<f4") for vector in real])
    names = [name.encode() for name in (scope.team_id, scope.project_id, model)]
    row = np.dtype(
        [("fields", ">i2")]
        + [part for n, name in enumerate(names[:2]) for part in ((f"size{n}", ">i4"), (f"name{n}", f"S{len(name)}"))]
        + [("number_size", ">i4"), ("number", ">i8"), ("size2", ">i4"), ("name2", f"S{len(names[2])}")]
        + [("vector_size", ">i4"), ("length", ">i2"), ("unused", ">i2"), ("vector", ">f2", (VECTOR_SIZE,))]
    )
    yield COPY_HEADER
    for start in range(0, len(numbers), AT_ONCE):
        portion = numbers[start : start + AT_ONCE]
        made = mixed(chance, known, len(portion))
        rows = np.zeros(len(portion), dtype=row)
        rows["fields"] = 5
        for n, name in enumerate(names):
            rows[f"size{n}"], rows[f"name{n}"] = len(name), name
        rows["number_size"], rows["number"] = 8, portion
        rows["vector_size"], rows["length"], rows["vector"] = 4 + 2 * VECTOR_SIZE, VECTOR_SIZE, made
        yield rows.tobytes()
    yield COPY_END


def mixed(chance: "np.random.Generator", known: "np.ndarray", count: int) -> "np.ndarray":
    """Vectors of length 1, each somewhere between two of the known ones and a little off."""
    share = chance.random((count, 1), dtype=np.float32)
    pairs = chance.integers(len(known), size=(2, count))
    off = chance.standard_normal((count, VECTOR_SIZE), dtype=np.float32)
    off *= OTHERS_SHARE / np.linalg.norm(off, axis=1, keepdims=True)
    made = share * known[pairs[0]] + (1 - share) * known[pairs[1]] + off
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made
