"""No statement of the hot paths reads a table from one end to the other."""

import sqlite3
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Executable
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.elements import ClauseElement

from onlooker.storage import accounts, events, new_jobs, observations, sessions, turns
from onlooker.storage.tables import metadata

MODULES = (accounts, events, new_jobs, observations, sessions, turns)


def statements(module: ModuleType) -> dict[str, ClauseElement]:
    """The statements that a module makes once, by name."""
    found = vars(module).items()
    return {name: each for name, each in found if isinstance(each, Executable) and isinstance(each, ClauseElement)}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_statement_finds_its_rows_by_an_index(module: ModuleType, prepared_sqlite: Path) -> None:
    made = statements(module)
    connection = sqlite3.connect(prepared_sqlite)
    try:
        for name, statement in made.items():
            compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
            values = dict.fromkeys(compiled.params, "1")
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {compiled}", values)]
            scanned = [step for step in plan for table in metadata.tables if step.startswith(f"SCAN {table}")]
            assert scanned == [], name
            assert any(step.startswith("SEARCH") for step in plan), name
    finally:
        connection.close()
    assert made
