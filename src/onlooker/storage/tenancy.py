"""The predicate that every statement on tenant data carries, and its parameters."""

from sqlalchemy import ColumnElement, Table, bindparam

from onlooker.domain.models import Scope


def is_owned(table: Table) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Whether a row belongs to the scope that `owner` gives as parameters."""
    return table.c.team_id == bindparam("of_team"), table.c.project_id == bindparam("of_project")


def owner(scope: Scope) -> dict[str, str]:
    """The parameters of `is_owned`."""
    return {"of_team": scope.team_id, "of_project": scope.project_id}
