"""How far the reindexing of a project is: it goes through all notes by id, page by page, and can stop after any."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update

from onlooker.domain.models import Observation, Scope
from onlooker.storage import dialect, search_index
from onlooker.storage.analyser import ANALYSER_VERSION
from onlooker.storage.database import Connection
from onlooker.storage.observations import COLUMNS, OBSERVATIONS, read_observation
from onlooker.storage.search_tables import search_reindexing
from onlooker.storage.tenancy import belongs, is_owned, owner

REINDEXING = search_reindexing

SEARCHABLE = OBSERVATIONS.c.hidden.is_(False)


@dataclass(frozen=True, slots=True)
class Progress:
    """One project's last reindexing. `done` of `total` notes were looked at, and `changed` of them needed something.

    `model` is the embedder's, empty where there is none; `finished_at` is None while it goes on.
    """

    model: str
    done: int
    changed: int
    total: int
    started_at: int
    updated_at: int
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Notes to look at, and those among them whose terms another analyser made."""

    ids: tuple[str, ...]
    stale: tuple[Observation, ...]


def begin(conn: Connection, scope: Scope, model: str, now: int) -> bool:
    """Begin anew with the notes that are there now; False where one with this model goes on already."""
    dialect.lock_keys(conn, [f"reindex:{scope.project_id}"])
    owned = belongs(REINDEXING, scope)
    going_on = select(REINDEXING.c.model).where(*owned, REINDEXING.c.finished_at.is_(None), REINDEXING.c.model == model)
    if conn.execute(going_on).one_or_none() is not None:
        return False
    notes = select(func.count(), func.max(OBSERVATIONS.c.id)).where(*belongs(OBSERVATIONS, scope), SEARCHABLE)
    total, last = conn.execute(notes).one()
    conn.execute(delete(REINDEXING).where(*owned))
    names = ("team_id", "project_id", "model", "after_id", "until_id", "done", "changed", "total", "started_at",
             "updated_at")  # fmt: skip
    row = (scope.team_id, scope.project_id, model, "", last or "", 0, 0, total, now, now)
    dialect.insert_new(conn, REINDEXING, names, [row])
    return True


def progress(conn: Connection, scope: Scope) -> Progress | None:
    """How far the last reindexing of a project is; None where there was none."""
    row = conn.execute(
        select(
            REINDEXING.c.model,
            REINDEXING.c.done,
            REINDEXING.c.changed,
            REINDEXING.c.total,
            REINDEXING.c.started_at,
            REINDEXING.c.updated_at,
            REINDEXING.c.finished_at,
        ).where(*belongs(REINDEXING, scope))
    ).one_or_none()
    return None if row is None else Progress(*row)


def next_page(conn: Connection, scope: Scope, *, limit: int) -> Page | None:
    """The notes that come next; None where all are done, or no reindexing goes on."""
    place = conn.execute(
        select(REINDEXING.c.after_id, REINDEXING.c.until_id).where(
            *belongs(REINDEXING, scope), REINDEXING.c.finished_at.is_(None)
        )
    ).one_or_none()
    if place is None:
        return None
    rows = conn.execute(
        select(*COLUMNS, OBSERVATIONS.c.analyser_version)
        .where(
            *is_owned(OBSERVATIONS),
            SEARCHABLE,
            OBSERVATIONS.c.id > place.after_id,
            OBSERVATIONS.c.id <= place.until_id,
        )
        .order_by(OBSERVATIONS.c.id)
        .limit(limit),
        owner(scope),
    ).all()
    if not rows:
        return None
    stale = [row for row in rows if row.analyser_version != ANALYSER_VERSION]
    return Page(tuple(row.id for row in rows), tuple(read_observation(row[:-1]) for row in stale))


def analyse_again(conn: Connection, scope: Scope, notes: Sequence[Observation]) -> None:
    """Make the terms of these notes as this version's analyser makes them."""
    search_index.reindex_observations(conn, scope, notes)
    conn.execute(
        update(OBSERVATIONS)
        .where(*belongs(OBSERVATIONS, scope), OBSERVATIONS.c.id.in_([note.id for note in notes]))
        .values(analyser_version=ANALYSER_VERSION)
    )


def page_done(conn: Connection, scope: Scope, ids: Sequence[str], *, changed: int, now: int) -> None:
    """Go on behind these notes."""
    conn.execute(
        update(REINDEXING)
        .where(*belongs(REINDEXING, scope), REINDEXING.c.finished_at.is_(None), REINDEXING.c.after_id < ids[-1])
        .values(
            after_id=ids[-1],
            done=REINDEXING.c.done + len(ids),
            changed=REINDEXING.c.changed + changed,
            updated_at=now,
        )
    )


def finish(conn: Connection, scope: Scope, now: int) -> None:
    """All notes are done. Again: nothing."""
    conn.execute(
        update(REINDEXING)
        .where(*belongs(REINDEXING, scope), REINDEXING.c.finished_at.is_(None))
        .values(finished_at=now, updated_at=now)
    )
