"""The nearest vectors of a project: exactly in numpy over a mapped file, or by pgvector where the database has it."""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from onlooker.domain.models import Scope
from onlooker.storage import dialect, vectors
from onlooker.storage.database import Connection
from onlooker.storage.search_tables import search_vectors
from onlooker.storage.tenancy import belongs

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[Any, np.dtype[np.float32]]
    Numbers = np.ndarray[Any, np.dtype[np.int64]]

VECTORS = search_vectors

FIRST_ROOM = 1_024
MOST_PROJECTS = 64
"""Projects whose vectors are kept mapped, the last used; another is read again when it is asked for."""

LOOKED_BACK = 256
"""Vectors before the last that was read which are looked for again: transactions end in any order on Postgres."""

_LOOKS_AT = text("SELECT set_config('hnsw.ef_search', :count, true)")
MOST_LOOKED_AT = 1_000
"""An index that is asked for so many of the nearest finds no more, and finds few of them if it looks at few."""

_NEAREST = """
    SELECT number, 1 - (vector::halfvec({size}) <=> CAST(CAST(:question AS TEXT) AS halfvec({size}))) AS nearness
    FROM search_vectors WHERE team_id = :team AND project_id = :project AND model = :model
    ORDER BY vector::halfvec({size}) <=> CAST(CAST(:question AS TEXT) AS halfvec({size})) LIMIT :count
"""
_OF_THESE = """
    SELECT number, 1 - (vector <=> CAST(CAST(:question AS TEXT) AS halfvec)) AS nearness
    FROM search_vectors WHERE team_id = :team AND project_id = :project AND model = :model
    AND number = ANY(CAST(:numbers AS BIGINT[]))
"""


class VectorIndex:
    """Cosines of a question with the notes of a project. One object serves all threads of a process.

    `folder` is where the mapped files are made; they have no name, and are gone with the process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: OrderedDict[tuple[str, str], _Mapped] = OrderedDict()
        self._lock = threading.Lock()

    def nearest(
        self, conn: Connection, scope: Scope, model: str, question: bytes, count: int
    ) -> list[tuple[int, float]]:
        """The entries whose vectors of this model are nearest to the question's, with their cosines, nearest first."""
        if vectors.has_pgvector(conn):
            return _nearest_by_pgvector(conn, scope, model, question, count)
        return self._read(conn, scope, model, question).nearest(question, count)

    def cosines(
        self, conn: Connection, scope: Scope, model: str, question: bytes, numbers: Sequence[int]
    ) -> dict[int, float]:
        """The cosines of these entries; those without a vector of this model are left out."""
        if vectors.has_pgvector(conn):
            given = _given(scope, model, question) | {"numbers": list(numbers)}
            return {row.number: row.nearness for row in conn.execute(text(_OF_THESE), given)}
        return self._read(conn, scope, model, question).cosines(question, numbers)

    def _read(self, conn: Connection, scope: Scope, model: str, question: bytes) -> "_Mapped":
        key = scope.project_id, model
        with self._lock:
            mapped = self._mapped.pop(key, None) or _Mapped(self._folder, len(question) // 4)
            self._mapped[key] = mapped
            while len(self._mapped) > MOST_PROJECTS:
                self._mapped.popitem(last=False)
        mapped.update(conn, scope, model)
        return mapped


def _given(scope: Scope, model: str, question: bytes) -> dict[str, Any]:
    return {
        "team": scope.team_id,
        "project": scope.project_id,
        "model": model,
        "question": vectors.to_text(question),
    }


def _nearest_by_pgvector(
    conn: Connection, scope: Scope, model: str, question: bytes, count: int
) -> list[tuple[int, float]]:
    """By the project's index where it has one (see `vectors.make_index`), else by comparing all of its vectors."""
    nearest = text(_NEAREST.format(size=len(question) // 4))
    conn.execute(_LOOKS_AT, {"count": str(min(count, MOST_LOOKED_AT))})
    rows = conn.execute(nearest, _given(scope, model, question) | {"count": count})
    return [(row.number, row.nearness) for row in rows]


class _Mapped:
    """All vectors of one project and model, in a file that the system may drop from memory and read again."""

    def __init__(self, folder: Path, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._folder = folder
        self._count = 0
        self._last_serial = 0
        self._recent: set[int] = set()
        self._places: dict[int, int] = {}
        self._numbers, self._rows = self._map(FIRST_ROOM)

    def _map(self, room: int) -> "tuple[Numbers, Floats]":
        import numpy as np

        # What is mapped lives on without the file's name and handle.
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.truncate(room * self._size * 4)
            rows = np.memmap(file, dtype=np.float32, mode="r+", shape=(room, self._size))
        return np.zeros(room, dtype=np.int64), rows

    def update(self, conn: Connection, scope: Scope, model: str) -> None:
        """Read what was written since the last time."""
        import numpy as np

        with self._lock:
            # SQLite has one writer at a time: what is numbered later is written later.
            since = self._last_serial - (0 if dialect.is_sqlite(conn) else LOOKED_BACK)
            found = conn.execute(
                select(VECTORS.c.serial, VECTORS.c.number, VECTORS.c.vector)
                .where(
                    *belongs(VECTORS, scope),
                    VECTORS.c.model == model,
                    VECTORS.c.serial > since,
                )
                .order_by(VECTORS.c.serial)
                .execution_options(yield_per=1_000)
            )
            for portion in found.partitions():
                new = [row for row in portion if row.serial not in self._recent and len(row.vector) == 2 * self._size]
                if not new:
                    continue
                self._make_room(self._count + len(new))
                half = np.frombuffer(b"".join(row.vector for row in new), dtype="<f2")
                until = self._count + len(new)
                self._rows[self._count : until] = half.reshape(len(new), self._size)
                self._numbers[self._count : until] = [row.number for row in new]
                self._places.update((row.number, self._count + place) for place, row in enumerate(new))
                self._count = until
                self._last_serial = max(self._last_serial, new[-1].serial)
                self._recent.update(row.serial for row in new)
                self._recent = {serial for serial in self._recent if serial > self._last_serial - LOOKED_BACK}

    def _make_room(self, count: int) -> None:
        room = len(self._numbers)
        if count <= room:
            return
        while room < count:
            room *= 2
        numbers, rows = self._map(room)
        numbers[: self._count] = self._numbers[: self._count]
        rows[: self._count] = self._rows[: self._count]
        self._numbers, self._rows = numbers, rows

    def _snapshot(self) -> "tuple[Numbers, Floats, int]":
        with self._lock:
            return self._numbers, self._rows, self._count

    def nearest(self, question: bytes, count: int) -> list[tuple[int, float]]:
        """See `VectorIndex.nearest`. An entry that was embedded again is there twice, and is told once."""
        import numpy as np

        numbers, rows, filled = self._snapshot()
        if not filled:
            return []
        cosines = rows[:filled] @ np.frombuffer(question, dtype="<f4")
        best = np.argpartition(-cosines, min(count, filled) - 1)[:count]
        best = best[np.argsort(-cosines[best])]
        told = zip(numbers[best].tolist(), cosines[best].tolist(), strict=True)
        found: dict[int, float] = {}
        for number, cosine in told:
            found.setdefault(number, cosine)
        return list(found.items())

    def cosines(self, question: bytes, numbers: Sequence[int]) -> dict[int, float]:
        """See `VectorIndex.cosines`."""
        import numpy as np

        _, rows, _ = self._snapshot()
        known = [number for number in numbers if number in self._places]
        if not known:
            return {}
        places = [self._places[number] for number in known]
        found = rows[places] @ np.frombuffer(question, dtype="<f4")
        return dict(zip(known, found.tolist(), strict=True))
