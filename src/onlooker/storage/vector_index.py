"""The nearest vectors of a project: exactly in numpy over a mapped file, or by pgvector where the database has it."""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, select, text

from onlooker.domain.models import Scope
from onlooker.storage import dialect, vectors
from onlooker.storage.database import Connection
from onlooker.storage.search_tables import search_vectors
from onlooker.storage.tenancy import is_listed, owner

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

READ_AT_ONCE = 1_000
_SINCE = (
    select(VECTORS.c.serial, VECTORS.c.number, VECTORS.c.vector)
    .where(*is_listed(VECTORS), VECTORS.c.model == bindparam("of_model"), VECTORS.c.serial > bindparam("since"))
    .order_by(VECTORS.c.serial)
    .limit(bindparam("most"))
)

_LOOKS_AT = text("SELECT set_config('hnsw.ef_search', :count, true)")
MOST_LOOKED_AT = 1_000
"""An index that is asked for so many of the nearest finds no more, and finds few of them if it looks at few."""

_NEAREST = """
    SELECT number, 1 - (vector::halfvec({size}) <=> CAST(CAST(:question AS TEXT) AS halfvec({size}))) AS nearness
    FROM search_vectors WHERE team_id = :team AND project_id = :project AND model = :model
    ORDER BY vector::halfvec({size}) <=> CAST(CAST(:question AS TEXT) AS halfvec({size})) LIMIT :count
"""
_NEAREST_OF = text(
    """
    SELECT number, 1 - distance AS nearness FROM (
        SELECT number, vector <=> CAST(CAST(:question AS TEXT) AS halfvec) AS distance
        FROM search_vectors WHERE team_id = :team AND project_id = :project AND model = :model
        AND number = ANY(CAST(:numbers AS BIGINT[])) OFFSET 0
    ) AS compared ORDER BY distance LIMIT :count
    """
)
"""Compared first and sorted then (OFFSET 0), so that no index that knows others too is asked."""


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

    def nearest_of(
        self, conn: Connection, scope: Scope, model: str, question: bytes, numbers: Sequence[int], count: int
    ) -> list[tuple[int, float]]:
        """The same among these entries, each of them compared; those without a vector of this model are left out."""
        if vectors.has_pgvector(conn):
            given = _given(scope, model, question) | {"numbers": list(numbers), "count": count}
            return [(row.number, row.nearness) for row in conn.execute(_NEAREST_OF, given)]
        return self._read(conn, scope, model, question).nearest_of(question, numbers, count)

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
        with self._lock:
            # SQLite has one writer at a time: what is numbered later is written later.
            since = self._last_serial - (0 if dialect.is_sqlite(conn) else LOOKED_BACK)
            while True:
                given = {**owner(scope), "of_model": model, "since": since, "most": READ_AT_ONCE}
                portion = dialect.fetch(conn, _SINCE, given)
                if portion:
                    since = portion[-1][0]
                    self._take([row for row in portion if row[0] not in self._recent and len(row[2]) == 2 * self._size])
                if len(portion) < READ_AT_ONCE:
                    return

    def _take(self, new: Sequence[tuple[int, int, bytes]]) -> None:
        import numpy as np

        if not new:
            return
        until = self._count + len(new)
        self._make_room(until)
        half = np.frombuffer(b"".join(vector for _, _, vector in new), dtype="<f2")
        self._rows[self._count : until] = half.reshape(len(new), self._size)
        self._numbers[self._count : until] = [number for _, number, _ in new]
        self._places.update((number, self._count + place) for place, (_, number, _) in enumerate(new))
        self._count = until
        self._last_serial = max(self._last_serial, new[-1][0])
        self._recent.update(serial for serial, _, _ in new)
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
        cosines = _cosines(rows[:filled], question)
        best = np.argpartition(-cosines, min(count, filled) - 1)[:count]
        best = best[np.argsort(-cosines[best])]
        told = zip(numbers[best].tolist(), cosines[best].tolist(), strict=True)
        found: dict[int, float] = {}
        for number, cosine in told:
            found.setdefault(number, cosine)
        return list(found.items())

    def nearest_of(self, question: bytes, numbers: Sequence[int], count: int) -> list[tuple[int, float]]:
        """See `VectorIndex.nearest_of`."""
        import numpy as np

        _, rows, _ = self._snapshot()
        known = [number for number in numbers if number in self._places]
        if not known:
            return []
        cosines = _cosines(rows[[self._places[number] for number in known]], question)
        best = np.argsort(-cosines)[:count]
        return [(known[place], cosine) for place, cosine in zip(best.tolist(), cosines[best].tolist(), strict=True)]


def _cosines(rows: "Floats", question: bytes) -> "Floats":
    import numpy as np

    # Not by `@`: it gains nothing here, and the threads of its library spin 70 ms of CPU away after each question.
    told: Floats = np.einsum("ij,j->i", rows, np.frombuffer(question, dtype="<f4"))
    return told
