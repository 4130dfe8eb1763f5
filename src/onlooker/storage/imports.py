"""How far each file was imported, so that a second import goes on where the first stopped."""

from dataclasses import dataclass

from sqlalchemy import bindparam, select, update

from onlooker.domain.models import Scope
from onlooker.storage import dialect
from onlooker.storage.database import Connection
from onlooker.storage.tables import import_offsets

_OF_FILE = (
    import_offsets.c.team_id == bindparam("of_team"),
    import_offsets.c.project_id == bindparam("of_project"),
    import_offsets.c.path_hash == bindparam("of_path"),
)
_GET = select(import_offsets.c.fingerprint, import_offsets.c.byte_offset).where(*_OF_FILE)
_SET = (
    update(import_offsets)
    .where(*_OF_FILE)
    .values(fingerprint=bindparam("now_print"), byte_offset=bindparam("now_offset"), updated_at=bindparam("now_at"))
)
_NAMES = ("team_id", "project_id", "path_hash", "fingerprint", "byte_offset", "updated_at")


@dataclass(frozen=True, slots=True)
class ImportOffset:
    """The bytes of a file that are imported; `fingerprint` tells whether it still is that file."""

    fingerprint: str
    byte_offset: int


def get_offset(conn: Connection, scope: Scope, path_hash: str) -> ImportOffset | None:
    """How far a file was imported into this project; None where it was not."""
    row = conn.execute(_GET, _owner(scope, path_hash)).one_or_none()
    return None if row is None else ImportOffset(row.fingerprint, row.byte_offset)


def set_offset(conn: Connection, scope: Scope, path_hash: str, offset: ImportOffset, now: int) -> None:
    """Remember how far a file was imported; what was remembered before is replaced."""
    row = (scope.team_id, scope.project_id, path_hash, offset.fingerprint, offset.byte_offset, now)
    if not dialect.insert_new(conn, import_offsets, _NAMES, [row]):
        changed = {"now_print": offset.fingerprint, "now_offset": offset.byte_offset, "now_at": now}
        conn.execute(_SET, {**_owner(scope, path_hash), **changed})


def _owner(scope: Scope, path_hash: str) -> dict[str, str]:
    return {"of_team": scope.team_id, "of_project": scope.project_id, "of_path": path_hash}
