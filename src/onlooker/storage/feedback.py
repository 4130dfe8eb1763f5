"""What readers say of notes, and the hiding of those that are wrong."""

from sqlalchemy import delete, select, update

from onlooker.domain.models import Observation, Scope
from onlooker.storage import dialect, observations, search_index
from onlooker.storage.database import Connection
from onlooker.storage.tables import observation_feedback
from onlooker.storage.tables import observations as notes
from onlooker.storage.tenancy import belongs
from onlooker.storage.verdicts import Verdict

FEEDBACK = observation_feedback


def put(conn: Connection, scope: Scope, observation_id: str, reader: str, verdict: Verdict, now: int) -> Observation:
    """Note what a reader, a key's id, says; said again it replaces what was said. Raises `NotFound`.

    `wrong` takes the note out of search, timeline and contexts until `clear`. What it replaced holds again, for good.
    """
    note = observations.get_observation(conn, scope, observation_id)
    of_reader = (*belongs(FEEDBACK, scope), FEEDBACK.c.observation_id == observation_id, FEEDBACK.c.reader == reader)
    conn.execute(delete(FEEDBACK).where(*of_reader))
    dialect.insert_new(
        conn,
        FEEDBACK,
        ("team_id", "project_id", "observation_id", "reader", "verdict", "created_at"),
        [(scope.team_id, scope.project_id, observation_id, reader, verdict, now)],
    )
    if verdict is Verdict.WRONG and not note.hidden:
        search_index.remove_observations(conn, scope, [observation_id])
        _hide(conn, scope, observation_id, hidden=True)
        observations.bring_back_superseded(conn, scope, [observation_id], now)
    return observations.get_observation(conn, scope, observation_id)


def clear(conn: Connection, scope: Scope, observation_id: str) -> Observation:
    """Drop all that was said of a note, and show it again where it was hidden. Raises `NotFound`."""
    note = observations.get_observation(conn, scope, observation_id)
    conn.execute(delete(FEEDBACK).where(*belongs(FEEDBACK, scope), FEEDBACK.c.observation_id == observation_id))
    if not note.hidden:
        return note
    _hide(conn, scope, observation_id, hidden=False)
    shown = observations.get_observation(conn, scope, observation_id)
    search_index.index_observations(conn, [shown])
    return shown


def hidden(conn: Connection, scope: Scope, *, limit: int) -> list[Observation]:
    """The notes that are hidden, the latest first."""
    mine = (*belongs(notes, scope), notes.c.hidden.is_(True))
    ids = conn.execute(select(notes.c.id).where(*mine).order_by(notes.c.occurred_at.desc()).limit(limit)).scalars()
    return observations.observations_by_ids(conn, scope, list(ids))


def _hide(conn: Connection, scope: Scope, observation_id: str, *, hidden: bool) -> None:
    conn.execute(update(notes).where(*belongs(notes, scope), notes.c.id == observation_id).values(hidden=hidden))
