"""Rows that a statement is given."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Subquery, Text, bindparam, cast, func, literal_column, select, type_coerce
from sqlalchemy.types import TypeEngine

from onlooker.storage.dialect import POSTGRES, SQLITE


class Given:
    """Rows that a statement is given as one table: one statement for any number of them, prepared once.

    On Postgres an array a column, on SQLite one JSON text.
    """

    def __init__(self, backend: str, **columns: TypeEngine[Any]) -> None:
        self._names = tuple(columns)
        self._backend = backend
        self.table = self._arrays(columns) if backend == POSTGRES else self._json(columns)
        self.c = self.table.c

    def __call__(self, rows: Sequence[tuple[Any, ...]], /, **more: Any) -> dict[str, Any]:
        """The parameters for these rows, of which there may be none, and more."""
        if self._backend == SQLITE:
            return {"given": json.dumps(rows), **more}
        columns = zip(*rows, strict=True) if rows else [()] * len(self._names)
        return {f"given_{name}": list(values) for name, values in zip(self._names, columns, strict=True)} | more

    @staticmethod
    def _arrays(columns: Mapping[str, TypeEngine[Any]]) -> Subquery:
        arrays = [cast(bindparam(f"given_{name}"), ARRAY(kind)) for name, kind in columns.items()]
        rows = func.unnest(*arrays).table_valued(*columns, name="rows").render_derived()
        return select(*(type_coerce(rows.c[name], kind).label(name) for name, kind in columns.items())).subquery(
            "given"
        )

    @staticmethod
    def _json(columns: Mapping[str, TypeEngine[Any]]) -> Subquery:
        rows = func.json_each(bindparam("given", type_=Text())).table_valued("value", name="rows")
        taken = (
            type_coerce(func.json_extract(rows.c.value, literal_column(f"'$[{place}]'")), kind).label(name)
            for place, (name, kind) in enumerate(columns.items())
        )
        return select(*taken).select_from(rows).subquery("given")
