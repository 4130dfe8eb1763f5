"""The words that readers have for notes, and how far these move a note in what a search finds."""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import func, select

from onlooker.domain.models import Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import observation_feedback
from onlooker.storage.tenancy import is_owned, owner

FEEDBACK = observation_feedback


class Verdict(StrEnum):
    """What a reader may say of a note."""

    USEFUL = "useful"
    WRONG = "wrong"
    OUTDATED = "outdated"


MOVED_BY = {Verdict.USEFUL: 0.05, Verdict.OUTDATED: -0.15}
MOST_MOVED = 0.3
"""A note's score changes by this part of it at most, whatever its readers say: what fits decides."""


_SAID = (
    select(FEEDBACK.c.observation_id, FEEDBACK.c.verdict, func.count())
    .where(*is_owned(FEEDBACK), dialect.among(FEEDBACK.c.observation_id, "of_ids"))
    .group_by(FEEDBACK.c.observation_id, FEEDBACK.c.verdict)
)


def factors(conn: Connection, scope: Scope, observation_ids: Iterable[str]) -> dict[str, float]:
    """By what the score of each of these notes is multiplied, where readers said something."""
    moved: dict[str, float] = {}
    for note_id, verdict, count in dialect.fetch(conn, _SAID, {**owner(scope), "of_ids": list(observation_ids)}):
        moved[note_id] = moved.get(note_id, 0.0) + MOVED_BY.get(Verdict(verdict), 0.0) * count
    return {note_id: 1 + max(-MOST_MOVED, min(MOST_MOVED, by)) for note_id, by in moved.items()}
