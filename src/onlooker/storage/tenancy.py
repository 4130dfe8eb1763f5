"""The predicate that every statement on tenant data carries: in two shapes with parameters, or with the values."""

from sqlalchemy import ColumnElement, FromClause, TableClause, bindparam, literal_column

from onlooker.domain.models import Scope

_NOTHING: ColumnElement[str] = literal_column("''")


def is_listed(table: TableClause) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Whether a row belongs to the scope that `owner` gives, where the statement looks through a tenant's rows."""
    return table.c.team_id == bindparam("of_team"), table.c.project_id == bindparam("of_project")


def is_owned(table: FromClause) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The same, where an id or a key has found the row already.

    Written so that no index answers it: without statistics both databases would read all of a project's rows by an
    index that leads with its team, to find the few that the key would have given.
    """
    return (
        table.c.team_id.concat(_NOTHING) == bindparam("of_team"),
        table.c.project_id.concat(_NOTHING) == bindparam("of_project"),
    )


def owner(scope: Scope) -> dict[str, str]:
    """The parameters of both."""
    return {"of_team": scope.team_id, "of_project": scope.project_id}


def belongs(table: TableClause, scope: Scope) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """`is_listed` for a statement that is made for one scope, and carries it."""
    return table.c.team_id == scope.team_id, table.c.project_id == scope.project_id
