"""Databases as claude-mem wrote them, version by version: the columns are facts of the field, the rows are made up."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

NOW = 1_780_000_000_000
OLD_NAMES = {"content_session_id": "claude_session_id", "memory_session_id": "sdk_session_id"}

NOTE = (
    "id memory_session_id project text type title subtitle facts narrative concepts files_read files_modified "
    "prompt_number created_at created_at_epoch"
).split()
SUMMARY = (
    "id memory_session_id project request investigated learned completed next_steps files_read files_edited notes "
    "prompt_number created_at created_at_epoch"
).split()
SESSION = (
    "id content_session_id memory_session_id project user_prompt started_at started_at_epoch completed_at "
    "completed_at_epoch status worker_port prompt_counter"
).split()
PROMPT = "id content_session_id prompt_number prompt_text created_at created_at_epoch".split()
PENDING = (
    "id session_db_id content_session_id message_type tool_name tool_input tool_response status retry_count "
    "started_processing_at_epoch completed_at_epoch"
).split()
SYNCED = "origin_device_id origin_local_id sync_rev".split()
MADE_FROM = ("observations", "session_summaries", "user_prompts")

VERSIONS: dict[str, dict[str, Sequence[str]]] = {
    "4.0.2": {"observations": NOTE, "session_summaries": SUMMARY, "sdk_sessions": SESSION},
    "4.2.1": {"user_prompts": PROMPT},
    "6.0.3": {"observations": ["discovery_tokens"], "session_summaries": ["discovery_tokens"]},
    "7.3.1": {"pending_messages": PENDING},
    "8.2.6": {},
    "8.5.5": {"pending_messages": ["failed_at_epoch"]},
    "10.4.0": {"observations": ["content_hash"], "sdk_sessions": ["custom_title"]},
    "12.0.0": {"observations": ["generated_by_model", "relevance_count"], "sdk_sessions": ["platform_source"]},
    "12.2.0": {"observations": ["merged_into_project"], "session_summaries": ["merged_into_project"]},
    "12.2.2": {"observations": ["agent_type", "agent_id"], "pending_messages": ["agent_type", "agent_id"]},
    "12.4.0": {"pending_messages": ["-started_processing_at_epoch"]},
    "12.4.5": {"pending_messages": ["tool_use_id", "worker_pid"]},
    "12.4.7": {"observations": ["metadata"]},
    "12.5.0": {"pending_messages": ["-retry_count", "-completed_at_epoch", "-worker_pid"]},
    "13.9.1": {"user_prompts": ["session_db_id"]},
    "13.10.3-community-edge.0": {
        "observation_feedback": ["id", "observation_id", "signal_type", "session_db_id"],
        "observations": ["content_session_id"],
        "session_summaries": ["content_session_id"],
    },
    "13.10.3": {"observations": ["-content_session_id"], "session_summaries": ["-content_session_id"]},
    "13.11.0": {table: ["synced_at"] for table in MADE_FROM},
    "13.12.0": {
        **dict.fromkeys(MADE_FROM, SYNCED),
        "sync_outbox": ["id", "op_uuid", "rev", "body"],
        "sync_state": ["k", "v"],
    },
}
"""What each version added, or took away (`-`); the names of the session columns changed with 8.2.6."""

RENAMED_AT = "8.2.6"
OLDEST = "3.9.9"
EVERY = (OLDEST, *VERSIONS)


def columns_of(version: str) -> dict[str, list[str]]:
    """The tables of a version that hold what is imported."""
    found: dict[str, list[str]] = {}
    is_renamed = False
    for each, added in VERSIONS.items():
        is_renamed |= each == RENAMED_AT
        for table, columns in added.items():
            gone = {column[1:] for column in columns if column.startswith("-")}
            kept = [*found.get(table, []), *(column for column in columns if not column.startswith("-"))]
            found[table] = [column for column in kept if column not in gone]
        if each == version:
            break
    if is_renamed:
        return found
    return {table: [OLD_NAMES.get(column, column) for column in columns] for table, columns in found.items()}


def make_database(path: Path, version: str, *, notes: int = 3) -> None:
    """A database of a version with two sessions of two projects, prompts, notes and a summary."""
    with closing(sqlite3.connect(path)) as connection:
        if version == OLDEST:
            _make_oldest(connection, notes)
        else:
            for table, columns in columns_of(version).items():
                connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
                for row in _rows(table, notes):
                    add(connection, table, {_named(name, columns): value for name, value in row.items()})
        connection.commit()


def add(connection: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    """A row with these columns."""
    places = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))  # noqa: S608 - names of this file


def _named(column: str, columns: Sequence[str]) -> str:
    """A column's name, where it may still have its old one. One that a version lacks has no rows here that need it."""
    return column if column in columns else OLD_NAMES[column]


def _rows(table: str, notes: int) -> list[dict[str, object]]:
    if table == "sdk_sessions":
        return [
            {
                "id": n,
                "content_session_id": f"content-{n}",
                "memory_session_id": f"memory-{n}",
                "project": f"project-{n % 2}",
                "started_at_epoch": NOW + n,
            }
            for n in range(2)
        ]
    if table == "user_prompts":
        return [
            {
                "id": n,
                "content_session_id": f"content-{n % 2}",
                "prompt_number": n,
                "prompt_text": f"Please do step {n}",
                "created_at_epoch": NOW + n,
            }
            for n in range(4)
        ]
    if table == "observations":
        return [note(n) for n in range(notes)]
    if table == "session_summaries":
        return [
            {
                "id": 1,
                "memory_session_id": "memory-0",
                "project": "project-0",
                "request": "Make the parser keep comments",
                "completed": "Comments are kept",
                "next_steps": "Keep blank lines too",
                "files_edited": json.dumps(["src/parser.py"]),
                "created_at_epoch": NOW + 50,
            }
        ]
    if table == "pending_messages":
        return [{"id": 1, "session_db_id": 1, "message_type": "observation"}]
    assert table in {"observation_feedback", "sync_outbox", "sync_state"}
    return []


def note(n: int) -> dict[str, object]:
    return {
        "id": n,
        "memory_session_id": f"memory-{n % 2}",
        "project": f"project-{n % 2}",
        "type": ("bugfix", "decision", "how-to")[n % 3],
        "title": f"Parser fix {n}",
        "subtitle": "in the lexer",
        "facts": json.dumps([f"fact {n}", "comments are tokens"]),
        "narrative": f"Narrative {n} about the lexer",
        "concepts": json.dumps(["gotcha"]),
        "files_read": json.dumps(["src/lexer.py"]),
        "files_modified": json.dumps([f"src/parser_{n}.py"]),
        "created_at": "2026-05-28T20:26:40.000Z",
        "created_at_epoch": NOW + n,
    }


def _make_oldest(connection: sqlite3.Connection, notes: int) -> None:
    connection.execute("CREATE TABLE sessions (id, session_id, project, created_at, created_at_epoch, source)")
    connection.execute("INSERT INTO sessions VALUES (1, 'content-0', 'project-0', '', ?, 'hook')", (NOW,))
    connection.execute(
        "CREATE TABLE memories (id, session_id, text, document_id, keywords, created_at, created_at_epoch, project, "
        "title, subtitle, facts, concepts, files_touched)"
    )
    for n in range(notes):
        row = note(n)
        connection.execute(
            "INSERT INTO memories VALUES (?, 'content-0', ?, '', '', '', ?, 'project-0', ?, '', ?, ?, ?)",
            (
                n,
                row["narrative"],
                row["created_at_epoch"],
                row["title"],
                row["facts"],
                row["concepts"],
                row["files_read"],
            ),
        )
    connection.execute("CREATE TABLE overviews (id, session_id, content, created_at, created_at_epoch, project)")
    connection.execute("INSERT INTO overviews VALUES (1, 'content-0', 'An overview', '', ?, 'project-0')", (NOW + 9,))
    connection.execute("CREATE TABLE transcript_events (id, session_id, raw_json)")
    connection.execute("INSERT INTO transcript_events VALUES (1, 'content-0', '{}')")
