"""Prompts and turn ends that a hook and a transcript both tell: the second of the two is the first again.

They have no id in common. Each side's row of one event is remembered with its text and time; what the other side tells
of the same session takes the nearest that fits and that nothing of its own side has taken, so that the same words said
twice stay two events; a unique index has either side tell an event once.
"""

from collections.abc import Sequence

from sqlalchemy import BigInteger, and_, bindparam, exists, func, literal, or_, select

from onlooker.domain.models import Event, NewEvent, Scope, Utterance
from onlooker.storage import dialect, events
from onlooker.storage.database import Connection
from onlooker.storage.tables import utterances
from onlooker.storage.tenancy import is_owned, owner

SAME_TEXT_MS = 600_000
"""How far apart the two sides may tell the same words: a prompt may wait in line while the agent works."""
NO_TEXT_MS = 120_000
"""How far, where one side has no words: older clients say that a turn ended and not with what."""

OTHER = {"hook": "transcript", "transcript": "hook"}
"""The other side."""

NAMES = (
    "team_id", "project_id", "event_key", "session_id", "event_id", "origin", "kind", "text_hash", "occurred_at",
)  # fmt: skip

_BY_KEY = select(utterances.c.event_id).where(*is_owned(utterances), utterances.c.event_key == bindparam("of_key"))
_SAID, _TAKEN = utterances.alias("said"), utterances.alias("taken")
_AT = bindparam("at", type_=BigInteger())
_FITS = or_(
    and_(_SAID.c.text_hash == bindparam("of_text"), _SAID.c.text_hash != ""),
    and_(
        or_(_SAID.c.text_hash == "", bindparam("of_text") == literal("")),
        _SAID.c.occurred_at.between(_AT - NO_TEXT_MS, _AT + NO_TEXT_MS),
    ),
)
_IS_TAKEN = exists().where(
    _TAKEN.c.event_id == _SAID.c.event_id,
    _TAKEN.c.project_id == _SAID.c.project_id,
    _TAKEN.c.origin == bindparam("of_origin"),
)
_NEAREST = (
    select(_SAID.c.event_id)
    .where(
        *is_owned(_SAID),
        _SAID.c.session_id == bindparam("of_session"),
        _SAID.c.kind == bindparam("of_kind"),
        _SAID.c.origin == bindparam("of_other"),
        _SAID.c.occurred_at.between(_AT - SAME_TEXT_MS, _AT + SAME_TEXT_MS),
        _FITS,
        ~_IS_TAKEN,
    )
    .order_by(func.abs(_SAID.c.occurred_at - _AT), _SAID.c.event_id)
    .limit(1)
)


def find_twin(conn: Connection, scope: Scope, session_id: str, new: NewEvent) -> Event | None:
    """The event that the other side told already; the new key is remembered as another name of it. None: it is new.

    The session must be locked.
    """
    said = new.utterance
    if said is None:
        return None
    owned = owner(scope)
    known = conn.execute(_BY_KEY, {**owned, "of_key": new.event_key}).scalar_one_or_none()
    if known is None:
        values = {
            "of_session": session_id,
            "of_kind": said.kind,
            "of_origin": said.origin,
            "of_other": OTHER[said.origin],
            "of_text": said.text_hash,
            "at": new.occurred_at,
        }
        known = conn.execute(_NEAREST, {**owned, **values}).scalar_one_or_none()
        if known is None:
            return None
        if not dialect.insert_new(conn, utterances, NAMES, [_row(scope, session_id, known, new, said)]):
            return None
    found = events.events_by_ids(conn, scope, [known])
    return found[0] if found else None


def remember(conn: Connection, scope: Scope, told: Sequence[tuple[NewEvent, Event]]) -> None:
    """Note what was stored, for the other side."""
    rows = [
        _row(scope, event.session_id, event.id, new, new.utterance)
        for new, event in told
        if new.utterance is not None and event.session_id is not None
    ]
    dialect.insert_new(conn, utterances, NAMES, sorted(rows, key=lambda row: str(row[2])))


def _row(scope: Scope, session_id: str, event_id: str, new: NewEvent, said: Utterance) -> tuple[str | int, ...]:
    return (
        scope.team_id, scope.project_id, new.event_key, session_id, event_id, said.origin, said.kind, said.text_hash,
        new.occurred_at,
    )  # fmt: skip
